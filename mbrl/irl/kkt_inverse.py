r"""Inverse optimal control by the residual of the optimality conditions (Keshavarz, Wang and Boyd 2011; Englert et al. 2017).

Of a plan that is optimal for :math:`J_0 + \sum_k w_k J_k` within limits, the gradient by the controls vanishes but for
multipliers of the limits that it touches. The gradients of the terms at the demonstrations are numbers, so that the conditions
are linear in weights and multipliers,

.. math:: \min_{w \ge 0, \; \mu \ge 0} \; \sum_{i, t} \Bigl\| S \Bigl( \nabla_{u_t} J_0 + \sum_k w_k \nabla_{u_t} J_k
    + \mu^{\text{upper}}_t - \mu^{\text{lower}}_t \Bigr) \Bigr\|^2 ,

a problem of non-negative least squares, with S the sizes of the controls. The gradients are those of one backward recursion of
the costates of all terms. Where nothing is known of the cost the sum of the weights is fixed, that they do not all vanish; then
the direction of the minimum is that of the least squares with one more row for the sum, whatever the weight of that row.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dynamics import Trajectory
from dynamics.derivatives import jacobian
from mbrl.irl.cost_learner import CostLearner, Demonstrated, IdentifiableWeights, LearnedCost, of_weights, weighted
from mbrl.tasks import Task
from mbrl.training.checking import check_numbers
from planners import Cost, Problem, WeightedCost
from planners.expansion import control_gradient, costates, expand_problem

ACCEPTED = frozenset({"control_limits", "discount", "terminal_value"})
"""Features of problems that are taken account of."""


@dataclass(frozen=True, eq=False)
class KKTReport:
    """What the optimality conditions say beside the weights.

    Attributes:
        residual: norm of what is left of the gradient, beside the norm of the terms that cancel in it.
        identifiable: which directions of the weights show in the gradients by controls that are not at a limit. Without a known
            part of the cost the weights themselves are one that does not: their factor.
        at_limits: number of controls at a limit.
        prediction_error: largest error of the dynamics for one step of the demonstrations, beside the largest state.
    """

    residual: float
    identifiable: IdentifiableWeights
    at_limits: int
    prediction_error: float

    def __str__(self) -> str:
        k = len(self.identifiable.visibility)
        return (
            f"relative residual {self.residual:.2g}, {k - self.identifiable.invisible} of {k} directions of the weights show, "
            f"{self.at_limits} controls are at a limit"
        )


@dataclass(frozen=True)
class KKTInverse(CostLearner):
    """Weights of a :class:`planners.WeightedCost` under which the gradients at the demonstrations vanish best.

    Nothing is planned and nothing iterates, so this is the fastest learner; of noisy demonstrations it makes the gradient small
    and not their probability large, which favors costs that are flat. Weights may be zero.

    Attributes:
        limit_tolerance: distance to a limit, beside the size of the control, below which it counts as touched.
        rank_tolerance: visibility of a direction, beside the largest, below which the report counts it as invisible.

    Raises:
        ValueError: a field is out of range.
    """

    shows: ClassVar[str] = "what is left of the gradient by the controls"

    _: KW_ONLY
    limit_tolerance: float = 1e-6
    rank_tolerance: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, rates=("rank_tolerance",), weights=("limit_tolerance",))

    def learn(self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory]) -> LearnedCost:
        """Learn; see :meth:`CostLearner.learn`.

        Without a known part of the cost, the weights sum to what they summed to in the cost that was handed in. The ``report`` is
        a :class:`KKTReport`.

        Raises:
            TypeError: also where the cost is not linear in weights.
            ValueError: also where its weights sum to nothing.
        """
        start = weighted(cost, "KKTInverse")
        given = Demonstrated.of(
            problem,
            cost,
            demonstrations,
            accepted=ACCEPTED,
            learner="KKTInverse",
            other="MPCInverse plans with constraints",
            pieces=(self.horizon, self.stride),
        )
        total = float(start.weights.detach().sum())
        if start.known is None and not total > 0:
            raise ValueError(f"the weights of the cost must have a positive sum, which sets their factor, got {total}")
        with torch.no_grad():
            G, g = control_gradients(given.problem, start, given.xs, given.us)
        size = given.us.square().mean((0, 1)).sqrt()
        size = torch.where(size > 0, size, torch.ones_like(size))
        G, g = size.unsqueeze(-1) * G, size * g
        lower, upper = (limit.expand(given.us.shape) for limit in given.problem.limits_like(given.us))
        room = self.limit_tolerance * size
        at_lower, at_upper = given.us <= lower + room, given.us >= upper - room
        known = start.known is not None or given.problem.terminal_value is not None
        G, g, at_lower, at_upper = G.flatten(0, 2), g.flatten(), at_lower.flatten(), at_upper.flatten()
        w, left = nonnegative_weights(G, g, at_lower, at_upper, None if known else total)
        terms = torch.cat([(G * w).square().sum(0), g.square().sum().unsqueeze(0)]).sum().sqrt()
        report = KKTReport(
            left / max(float(terms), 1e-300),
            IdentifiableWeights.of(G[~(at_lower | at_upper)] / len(G) ** 0.5, self.rank_tolerance),
            int((at_lower | at_upper).sum()),
            given.prediction_error,
        )
        return LearnedCost(of_weights(start, w), True, {"residual": [report.residual]}, report)


def feature_gradients(problem: Problem, cost: WeightedCost, xs: Tensor, us: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of each term of the total cost, discounted, as if states and controls were free.

    Args:
        problem: dynamics and discount.
        cost: its terms.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.

    Returns:
        By the state and control of each step ``(*batch, T, k, d+m)``, and by the last state ``(*batch, k, d)``.
    """
    dynamics, d, k = problem.dynamics, problem.dynamics.tangent_dim, cost.weights.shape[-1]
    x, last = xs[..., :-1, :], xs[..., -1, :]
    rows = torch.arange(us.shape[-2]).unsqueeze(-1)

    def stage(z: Tensor) -> Tensor:
        return cost.features(dynamics.retract(x.unsqueeze(-2), z[..., :d]), us.unsqueeze(-2) + z[..., d:], rows)

    def terminal(dx: Tensor) -> Tensor:
        return cost.terminal_features(dynamics.retract(last.unsqueeze(-2), dx))

    weight = problem.discounts(us)
    of_stage = jacobian(stage, us.new_zeros(*us.shape[:-1], d + us.shape[-1]), k) * weight[:-1, None, None]
    return of_stage, jacobian(terminal, last.new_zeros(*last.shape[:-1], d), k) * weight[-1]


def control_gradients(problem: Problem, cost: WeightedCost, xs: Tensor, us: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of each term of the total cost by the controls, through the dynamics.

    Args:
        problem: dynamics, discount and terminal value.
        cost: its terms.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.

    Returns:
        Of the features ``(*batch, T, m, k)``, and of what is known ``(*batch, T, m)``.
    """
    d = problem.dynamics.tangent_dim
    known = cost.with_weights(torch.zeros_like(cost.weights.detach()))
    e = expand_problem(replace(problem, cost=known), xs, us)
    of_stage, costate = feature_gradients(problem, cost, xs, us)
    found = []
    for F, gradient in zip(reversed(e.F.unbind(-3)), reversed(of_stage.unbind(-3)), strict=True):
        total = gradient + costate @ F
        costate = total[..., :d]
        found.append(total[..., d:].mT)
    return torch.stack(found[::-1], dim=-3), control_gradient(e, costates(e))


def nonnegative_weights(
    G: Tensor, g: Tensor, at_lower: Tensor, at_upper: Tensor, total: float | None
) -> tuple[Tensor, float]:
    """Weights under which gradients vanish best.

    Args:
        G: gradients of the features ``(rows, k)``.
        g: of what is known ``(rows,)``.
        at_lower: which rows are of controls at their lower limits, ``(rows,)`` of bool.
        at_upper: which are of controls at their upper ones.
        total: the sum of the weights; None leaves it free.

    Returns:
        Weights ``(k,)``, and the norm of what is left of the gradient.
    """
    from scipy.optimize import nnls

    k = G.shape[1]
    eye = torch.eye(len(G), dtype=G.dtype)
    A = torch.cat([G, eye[:, at_upper], -eye[:, at_lower]], dim=1)
    scale = A.norm(dim=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scaled, right = A / scale, -g
    if total is not None:
        row = torch.zeros_like(scale)
        row[:k] = 1.0 / scale[:k]
        weight = 1.0 / row.norm()
        scaled = torch.cat([scaled, weight * row.unsqueeze(0)])
        right = torch.cat([right, weight.unsqueeze(0)])
    found = torch.as_tensor(nnls(scaled.numpy(), right.numpy(), maxiter=30 * A.shape[1])[0]) / scale
    if total is not None:
        found = found * (total / found[:k].sum())
    return found[:k], float(np.linalg.norm((A @ found + g).numpy()))
