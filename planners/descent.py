r"""Descent on many functions at once, each within its own box: what the methods share, and Adam.

.. math:: \min_{\underline z \le z \le \overline z} J(z), \qquad
    \bar g_i = \begin{cases} 0 & z_i = \underline z_i, \; g_i > 0 \;\text{ or }\; z_i = \overline z_i, \; g_i < 0 \\
    g_i & \text{otherwise} \end{cases}

with g the gradient of J and :math:`\bar g` the projected gradient, which vanishes at a stationary point. Every element of a batch
is minimized as if it were alone: it has its own steps, its own end, and stays as it is after that. Of the points that an element
visits it keeps the cheapest; among costs that differ by no more than rounding, the one with the smallest projected gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from planners.solution import Status

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Point:
    """Where the elements of a batch stand.

    Attributes:
        z: variables ``(*batch, K, m)``.
        cost: J, ``(*batch,)``; infinite where it is not finite.
        gradient: g, ``(*batch, K, m)``; zero where it is not finite.
        finite: whether cost and gradient are, ``(*batch,)``.
    """

    z: Tensor
    cost: Tensor
    gradient: Tensor
    finite: Tensor

    @staticmethod
    def of(z: Tensor, cost: Tensor, gradient: Tensor) -> "Point":
        """A point from what was computed there, whether finite or not."""
        known = gradient.isfinite().all(-1).all(-1)
        return Point(
            z,
            cost.masked_fill(~cost.isfinite(), torch.inf),
            gradient.masked_fill(~known[..., None, None], 0.0),
            known & cost.isfinite(),
        )


Objective = Callable[[Tensor, Tensor], Point]
"""From variables ``(*batch, K, m)`` and which elements still count ``(*batch,)`` to the point there."""


@dataclass(frozen=True, eq=False)
class Box:
    """Limits of the variables, each ``(*batch, K, m)``, infinite where there are none."""

    lower: Tensor
    upper: Tensor

    def project(self, z: Tensor) -> Tensor:
        """The nearest variables within the limits."""
        return z.clamp(self.lower, self.upper)

    def inside(self, z: Tensor) -> Tensor:
        """Which variables are within their limits, ``(*batch, K, m)``."""
        return (z >= self.lower) & (z <= self.upper)

    def projected(self, point: Point) -> Tensor:
        """The projected gradient, ``(*batch, K, m)``."""
        g = point.gradient
        held = ((point.z <= self.lower) & (g > 0)) | ((point.z >= self.upper) & (g < 0))
        return g.masked_fill(held, 0.0)

    def residual(self, point: Point) -> Tensor:
        """The largest component of the projected gradient, ``(*batch,)``."""
        return self.projected(point).detach().abs().flatten(-2).amax(-1)


@dataclass(frozen=True, eq=False)
class Rules:
    """When to end.

    Attributes:
        max_iterations: steps of an element at most.
        tolerance: of the projected gradient, in units of ``max(1, |J|)``, with J the lower of the present and the first cost in
            absolute value: a cost without lower bound does not converge by growing.
        epsilon: relative rounding of cost and gradient.
        out_of_time: asked after each evaluation.
    """

    max_iterations: int
    tolerance: float
    epsilon: float
    out_of_time: Callable[[], bool] = lambda: False


class Progress:
    """What an element has found, whether it goes on, and how it ended; kept while a descent runs.

    Attributes:
        best: the best points so far.
        residual: largest component of the projected gradient there, ``(*batch,)``.
        active: which elements go on, ``(*batch,)``.
        status: codes of :class:`~planners.Status` for those that have ended, ``(*batch,)``.
        iterations: steps made, ``(*batch,)``.
    """

    def __init__(self, start: Point, box: Box, rules: Rules):
        self._box, self._rules, self._first = box, rules, start.cost.detach()
        self.best, self.residual = start, box.residual(start)
        self.iterations = torch.zeros_like(start.cost, dtype=torch.long)
        self.status = torch.full_like(self.iterations, int(Status.ITERATION_LIMIT))
        self.active = torch.ones_like(start.finite)
        self.end(~start.finite, Status.STALLED)
        self._check()

    @property
    def slack(self) -> Tensor:
        """Differences in cost that are rounding, ``(*batch,)``."""
        best = self.best.cost.detach()
        return 10.0 * self._rules.epsilon * torch.maximum(best.abs(), self._first.abs())

    def stepped(self, point: Point, where: Tensor) -> None:
        """Take note that the elements ``where`` have moved to a point."""
        where = where & self.active
        residual, slack = self._box.residual(point), self.slack
        lower = point.cost < self.best.cost - slack
        similar = (point.cost <= self.best.cost + slack) & (residual < self.residual)
        better = where & point.finite & (lower | similar)
        self.best = select(better, point, self.best)
        self.residual = torch.where(better, residual, self.residual)
        self.iterations = self.iterations + where.long()
        self._check()

    def end(self, where: Tensor, status: Status) -> None:
        """End those of the elements ``where`` that still go on."""
        where = where & self.active
        self.status = self.status.masked_fill(where, int(status))
        self.active = self.active & ~where

    def is_over(self) -> bool:
        """Whether no element goes on; ends all if there is no time left."""
        if bool(self.active.any()) and self._rules.out_of_time():
            self.end(self.active, Status.TIME_LIMIT)
        return not bool(self.active.any())

    def _check(self) -> None:
        rules, cost = self._rules, self.best.cost.detach()
        scale = torch.minimum(cost.abs(), self._first.abs()).clamp_min(1.0)
        self.end(self.residual <= rules.tolerance * scale, Status.CONVERGED)
        bottom = self._first - self._first.abs().clamp_min(1.0) / rules.epsilon**2
        self.end(cost < bottom, Status.NOT_CONVEX)
        self.end(self.iterations >= rules.max_iterations, Status.ITERATION_LIMIT)


def adam(objective: Objective, start: Point, box: Box, rules: Rules, *, learning_rate: float) -> Progress:
    r"""Adam (Kingma and Ba 2015, algorithm 1) on the projected gradient, each step projected onto the box.

    Differences from the paper: :math:`\hat m / \sqrt{\hat v + \epsilon^2}`, which is differentiable where v = 0, instead of
    :math:`\hat m / (\sqrt{\hat v} + \epsilon)`; an element whose step leads to a cost or gradient that is not finite goes back to
    its best point, forgets its moments and halves its learning rate.

    Args:
        objective: what to minimize.
        start: the first point.
        box: limits.
        rules: when to end.
        learning_rate: size of a step, in the unit of the variables.
    """
    decay, square_decay, epsilon = 0.9, 0.999, 1e-8
    progress, point = Progress(start, box, rules), start
    m, v = torch.zeros_like(start.z), torch.zeros_like(start.z)
    rate = torch.full_like(start.cost, learning_rate)
    age = torch.zeros_like(rate)
    while bool(progress.active.any()):
        g, age = box.projected(point), age + 1.0
        m, v = torch.lerp(g, m, decay), torch.lerp(g.square(), v, square_decay)
        unbiased_m = m / (1.0 - decay**age)[..., None, None]
        unbiased_v = v / (1.0 - square_decay**age)[..., None, None]
        step = rate[..., None, None] * unbiased_m / (unbiased_v + epsilon**2).sqrt()
        trial = objective(box.project(point.z - wide(progress.active) * step), progress.active)
        point = select(progress.active & trial.finite, trial, point)
        progress.stepped(trial, progress.active)
        lost = progress.active & ~trial.finite
        point = select(lost, progress.best, point)
        rate = torch.where(lost, 0.5 * rate, rate)
        age = age.masked_fill(lost, 0.0)
        m, v = m.masked_fill(wide(lost), 0.0), v.masked_fill(wide(lost), 0.0)
        if progress.is_over():
            break
    return progress


def select(mask: Tensor, new: T, old: T) -> T:
    """``torch.where`` by element ``(*batch,)`` for all tensors of a dataclass, whatever axes follow those of batch."""
    if isinstance(new, Tensor):
        return torch.where(mask if new.ndim == mask.ndim else wide(mask), new, old)  # type: ignore[arg-type]
    parts = {f.name: select(mask, getattr(new, f.name), getattr(old, f.name)) for f in fields(new)}  # type: ignore[arg-type]
    return type(new)(**parts)


def wide(values: Tensor) -> Tensor:
    """One number for each element ``(*batch,)``, for variables ``(*batch, K, m)``."""
    return values[..., None, None]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over ``(K, m)``, ``(*batch,)``."""
    return (a * b).sum((-2, -1))
