r"""Maximum margin planning on maps (Ratliff, Bagnell and Zinkevich 2006): weights of terrain by quadratic programs.

With :math:`c = c_0 + w^\top \phi`, :math:`w \ge 0`, the objective of :mod:`mbrl.irl.path_margin` and a penalty,

.. math:: \min_{w \ge 0} \; \frac\lambda2 \|w\|^2 + J(w) ,

is strongly convex, and each round of plans is a cut below J: :math:`J(v) \ge a_j^\top v + b_j`. The program over all cuts so
far is solved exactly; its minimum is a lower bound, and the plans at its solution are the next cut. Learning ends where the two
meet. The paper takes projected sub-gradient steps instead, which find the same minimum and do not know when they have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl.irl.path_margin import Demonstrations, LearnedTerrain, PathMargin, TerrainLearner
from mbrl.training.checking import check_numbers
from planners import FeatureGrid, LinearTerrain, TerrainCost


@dataclass(frozen=True)
class MaxMarginPlanning(TerrainLearner):
    """Maximum margin planning: weights of :class:`planners.LinearTerrain`, exactly.

    Attributes:
        l2: lambda, weight of half the squared weights.
        max_iterations: rounds of planning, with one plan for each demonstration.
        tolerance: distance of the objective from its lower bound at which learning ends, relative to the objective and the floor.

    Raises:
        ValueError: a field is out of range.
    """

    l2: float = 1e-3
    max_iterations: int = 100
    tolerance: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, counts=("max_iterations",), rates=("l2", "tolerance", "margin_width"), shares=("margin",))

    def learn(
        self, terrain: TerrainCost, grids: Sequence[FeatureGrid], demonstrations: Demonstrations
    ) -> LearnedTerrain:
        """Learn; see :meth:`TerrainLearner.learn`.

        ``history`` has the lowest ``objective`` and the highest ``bound`` after each round; ``converged`` is whether they met.
        """
        margin = PathMargin(self, terrain, grids, demonstrations)
        if not isinstance(margin.terrain, LinearTerrain):
            raise TypeError(
                f"MaxMarginPlanning needs LinearTerrain, got {type(terrain).__name__}; LEARCH learns others"
            )
        floor, free = margin.terrain.floor, margin.terrain.free
        w = best = margin.terrain.weights.detach()
        slopes, offsets = [], []
        history: dict[str, list[float]] = {"objective": [], "bound": []}
        lowest, highest, converged = float("inf"), -float("inf"), False
        for _ in range(self.max_iterations):
            with torch.no_grad():
                free.copy_(w.log())
            value, gradients, losses = margin.value_and_gradients(margin.costs())
            objective = value + 0.5 * self.l2 * float(w @ w)
            if objective < lowest:
                lowest, best = objective, w
            slopes.append(margin.slope(gradients))
            offsets.append(losses + floor * float(torch.stack([g.sum() for g in gradients]).sum()))
            w, bound = _minimized(torch.stack(slopes).numpy(), np.array(offsets), self.l2)
            highest = max(highest, bound)
            history["objective"].append(lowest)
            history["bound"].append(highest)
            if lowest - highest <= self.tolerance * max(lowest, floor):
                converged = True
                break
        with torch.no_grad():
            free.copy_(best.log())
        return LearnedTerrain(margin.learned(), converged, history)


def _minimized(slopes: np.ndarray, offsets: np.ndarray, l2: float) -> tuple[Tensor, float]:
    """The weights that are best for all cuts, and their objective."""
    import cvxpy as cp

    w, worst = cp.Variable(slopes.shape[1], nonneg=True), cp.Variable()
    cuts: list[Any] = [slopes @ w + offsets <= worst]
    program = cp.Problem(cp.Minimize(0.5 * l2 * cp.sum_squares(w) + worst), cuts)
    program.solve(solver=cp.CLARABEL)
    return torch.as_tensor(w.value).clamp_min(0.0), float(program.value)  # type: ignore[arg-type]
