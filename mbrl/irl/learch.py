r"""Learning to search: LEARCH (Ratliff, Silver and Bagnell 2009), costs of terrain that are exponentials, learned by planning.

With :math:`c = c_0 + e^{s(\phi)}` the objective J of :mod:`mbrl.irl.path_margin` is made small in s, linear in features or a
network: cells where the planner goes and the demonstrator does not should cost more, those of the demonstrator less,

.. math:: \theta \leftarrow \theta - \eta_t \sum \frac{\partial s}{\partial \theta} \, \frac{\partial c}{\partial s} \,
    \frac{\partial J}{\partial c} ,

scaled by Adam. The paper descends in the space of functions: at each step it fits a new regressor to the exponentiated
functional sub-gradient, :math:`\partial J / \partial c` without the factor :math:`\partial c / \partial s`, and adds it to s.
Here s keeps its form, and steps are in the tangent space of the functions that there are. ``exponentiated=True`` leaves the
factor out as the paper does; cells then count alike whatever they cost, and where demonstrations are optimal for no cost of the
form, costs can grow without end. In either case the parameters of the lowest objective are the result.

For :class:`planners.LinearTerrain` weights are multiplied by exponentials of the sub-gradient (Kivinen and Warmuth 1997), and the
problem is convex.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl.irl.path_margin import Demonstrations, LearnedTerrain, PathMargin, TerrainLearner
from mbrl.training.checking import check_numbers
from planners import ExponentialTerrain, FeatureGrid, LinearTerrain, TerrainCost


@dataclass(frozen=True)
class LEARCH(TerrainLearner):
    """Learning to search: costs of terrain, linear or a network, such that demonstrated paths are cheapest by a margin.

    What is returned are the parameters of the lowest objective seen.

    Attributes:
        learning_rate: of the first step, in logarithms of costs or weights; it has halved after thirty steps.
        l2: weight of half the squared parameters, or weights of a linear terrain.
        max_iterations: rounds of planning, with one plan for each demonstration.
        tolerance: relative fall of the lowest objective over the last ``patience`` rounds below which learning ends.
        patience: rounds.
        exponentiated: whether steps of s are along the sub-gradient by the cost, as in the paper.

    Raises:
        ValueError: a field is out of range.
    """

    learning_rate: float = 0.1
    l2: float = 1e-4
    max_iterations: int = 80
    tolerance: float = 1e-3
    patience: int = 20
    exponentiated: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_numbers(
            self,
            counts=("max_iterations", "patience"),
            rates=("learning_rate",),
            weights=("l2", "tolerance"),
        )

    def learn(
        self, terrain: TerrainCost, grids: Sequence[FeatureGrid], demonstrations: Demonstrations
    ) -> LearnedTerrain:
        """Learn; see :meth:`TerrainLearner.learn`.

        ``history`` has the ``objective`` of each round, and ``converged`` is whether it stopped falling.

        Raises:
            ValueError: also where a weight of a linear terrain is zero, which would stay so, or nothing is to be learned.
            TypeError: also where the terrain is of another kind.
        """
        margin = PathMargin(self, terrain, grids, demonstrations)
        if not isinstance(margin.terrain, LinearTerrain | ExponentialTerrain):
            raise TypeError(f"LEARCH needs LinearTerrain or ExponentialTerrain, got {type(terrain).__name__}")
        parameters = [p for p in margin.terrain.parameters() if p.requires_grad]
        if not parameters or not all(bool(p.isfinite().all()) for p in parameters):
            raise ValueError(
                "LEARCH needs finite parameters to learn; a weight of zero stays zero, so begin with positive ones"
            )
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
        best, lowest, history, converged = [p.detach().clone() for p in parameters], float("inf"), [], False
        for iteration in range(self.max_iterations):
            value, directions = objective_and_directions(margin, margin.terrain, self.l2, self.exponentiated)
            history.append(value)
            if value < lowest:
                best, lowest = [p.detach().clone() for p in parameters], value
            before = min(history[: -self.patience], default=float("inf"))
            if before - lowest <= self.tolerance * lowest:
                converged = True
                break
            rate = self.learning_rate / (1.0 + iteration / 10.0) ** 0.5
            if isinstance(margin.terrain, LinearTerrain):
                with torch.no_grad():
                    margin.terrain.free.sub_(rate * directions[0] / directions[0].abs().amax().clamp_min(1e-30))
                continue
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.grad = direction
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        with torch.no_grad():
            for parameter, value in zip(parameters, best, strict=True):
                parameter.copy_(value)
        return LearnedTerrain(margin.learned(), converged, {"objective": history})


def objective_and_directions(
    margin: PathMargin, terrain: LinearTerrain | ExponentialTerrain, l2: float, exponentiated: bool
) -> tuple[float, list[Tensor]]:
    """The objective with its penalty, and what each parameter goes against.

    For a linear terrain that is the sub-gradient by the weights, whose logarithms take the step. For others it is the one by the
    parameters, or, exponentiated, that in which costs take the place of their logarithms above the floor.
    """
    costs = margin.costs()
    value, by_costs, _ = margin.value_and_gradients(costs)
    if isinstance(terrain, LinearTerrain):
        w = terrain.weights.detach()
        return value + 0.5 * l2 * float(w @ w), [margin.slope(by_costs) + l2 * w]
    parameters = [p for p in terrain.parameters() if p.requires_grad]
    penalty = 0.5 * l2 * torch.stack([p.square().sum() for p in parameters]).sum()
    outputs = costs
    if exponentiated:
        outputs = [terrain.log_excess(features.unsqueeze(0)).squeeze(0) for features in margin.features]
    total = torch.stack([(out * g).sum() for out, g in zip(outputs, by_costs, strict=True)]).sum() + penalty
    return value + float(penalty.detach()), list(torch.autograd.grad(total, parameters))
