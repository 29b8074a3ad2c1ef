r"""A linear-quadratic control problem with affine constraints as one sparse quadratic program.

The unknowns are :math:`z = (x_0, \dots, x_T, u_0, \dots, u_{T-1}, s)`; the dynamics are rows of equalities, and a soft row
:math:`c^\top z \le d` with the price :math:`v s + \tfrac{w}{2} s^2` becomes :math:`c^\top z - s \le d, \; s \ge 0`, a soft
equality :math:`\pm (c^\top z - d) \le s`.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from planners.constraints import Slack
from planners.control_set import ControlSet
from planners.convex.quadratic_program import ProgramSolution, QuadraticProgram, SparseMatrix
from planners.expansion import Expansion


@dataclass(frozen=True, eq=False)
class AffineRows:
    r"""Rows :math:`C_t x_t + D_t u_t \le d_t`, or ``=``, at successive steps, for B problems.

    Attributes:
        C: ``(B, steps, k, n)``.
        D: ``(B, steps, k, m)``; None at the last state, which has no control.
        d: ``(B, steps, k)``; infinite where an inequality has no bound.
        first: the first of the steps.
        equality: whether the rows are equalities.
        soft: their price; None makes them hard.
    """

    C: Tensor
    D: Tensor | None
    d: Tensor
    first: int
    equality: bool = False
    soft: Slack | None = None

    def steps(self) -> Tensor:
        """The steps they are at, counted from the start of the plan."""
        return torch.arange(self.first, self.first + self.C.shape[1], device=self.C.device)

    def chosen(self, problems: Tensor) -> "AffineRows":
        """The rows of some of the problems."""
        D = None if self.D is None else self.D[problems]
        return replace(self, C=self.C[problems], D=D, d=self.d[problems])


@dataclass(frozen=True)
class RowSpan:
    """Where rows went.

    Attributes:
        start: the first of them among the equalities or the inequalities of the program.
        steps: number of steps.
        k: rows of a step.
        hard_equality: whether they are among the equalities.
        both_signs: whether their negatives follow, because they are a soft equality.
    """

    start: int
    steps: int
    k: int
    hard_equality: bool = False
    both_signs: bool = False


@dataclass
class ProgramBuilder:
    """Collects the cost and the rows of B programs over T steps with n states and m controls."""

    batch: int
    n: int
    m: int
    T: int
    _cost: list[tuple[np.ndarray, np.ndarray, Tensor]] = field(default_factory=list)
    _linear: list[tuple[np.ndarray, Tensor]] = field(default_factory=list)
    _equalities: "_RowList" = field(default_factory=lambda: _RowList())
    _inequalities: "_RowList" = field(default_factory=lambda: _RowList())
    _slacks: int = 0

    @staticmethod
    def of(expansion: Expansion) -> "ProgramBuilder":
        """An empty program of the sizes of an expansion with one batch axis."""
        batch, T, n, k = expansion.F.shape
        return ProgramBuilder(batch=batch, n=n, m=k - n, T=T)

    def states(self, first: int, count: int) -> np.ndarray:
        """Indices of states in z, ``(count, n)``."""
        return (first + np.arange(count))[:, None] * self.n + np.arange(self.n)

    def controls(self, first: int, count: int) -> np.ndarray:
        """Indices of controls in z, ``(count, m)``."""
        return (self.T + 1) * self.n + (first + np.arange(count))[:, None] * self.m + np.arange(self.m)

    def add_cost(self, expansion: Expansion) -> None:
        """The discounted cost of an expansion whose fields are ``(B, T, ...)``."""
        index = np.concatenate([self.states(0, self.T), self.controls(0, self.T)], axis=1)
        self._add_quadratic(index, expansion.H)
        self._linear.append((index.ravel(), expansion.g.flatten(1)))
        last = self.states(self.T, 1)
        self._add_quadratic(last, expansion.P_T.unsqueeze(1))
        self._linear.append((last.ravel(), expansion.p_T))

    def add_start(self, x0: Tensor) -> None:
        """The first state is x0 ``(B, n)``."""
        ones = torch.ones(self.batch, self.n, 1, dtype=x0.dtype)
        self._equalities.add(self.states(0, 1).reshape(-1, 1), ones, x0)

    def add_dynamics(
        self, expansion: Expansion, *, soft: Slack | None = None, weights: Tensor | None = None
    ) -> RowSpan:
        """The next state is F (x, u) + gap; with a price, times weights ``(B, T)``, this may be violated."""
        eye = torch.eye(self.n, dtype=expansion.F.dtype).expand(self.batch, self.T, self.n, self.n)
        index = np.concatenate([self.states(1, self.T), self.states(0, self.T), self.controls(0, self.T)], axis=1)
        values = torch.cat([eye, -expansion.F], dim=-1)
        return self._add(index, values, expansion.gap, equality=True, soft=soft, weights=weights)

    def add_rows(self, rows: AffineRows, weights: Tensor) -> RowSpan:
        """Affine constraints; their price, if they have one, is multiplied by weights ``(steps,)`` or ``(B, steps)``."""
        count = rows.C.shape[1]
        index, values = self.states(rows.first, count), rows.C
        if rows.D is not None:
            index = np.concatenate([index, self.controls(rows.first, count)], axis=1)
            values = torch.cat([values, rows.D], dim=-1)
        return self._add(index, values, rows.d, equality=rows.equality, soft=rows.soft, weights=weights)

    def add_bounds(self, index: np.ndarray, lower: Tensor, upper: Tensor) -> None:
        """Limits ``(B, ...)`` of the unknowns of an index of the same shape; infinite where there are none."""
        flat = index.reshape(-1, 1)
        for sign, bound in ((1.0, upper), (-1.0, -lower)):
            bound = bound.flatten(1)
            chosen = torch.arange(bound.shape[1])[bound.detach().isfinite().any(0)]
            self._inequalities.add(
                flat[chosen.numpy()],
                torch.full((self.batch, len(chosen), 1), sign, dtype=bound.dtype),
                bound[:, chosen],
            )

    def add_control_limits(self, controls: ControlSet, about: Tensor | None = None) -> None:
        """Limits and rate limits, of batch axes in one; controls count from ``about`` ``(B, T, m)``."""
        about = torch.zeros_like(controls.lower) if about is None else about
        index = self.controls(0, self.T)
        self.add_bounds(index, controls.lower - about, controls.upper - about)
        if controls.rise is None or controls.fall is None:
            return
        if controls.previous is not None:
            moved = controls.previous - about[:, 0]
            self.add_bounds(index[:1], moved + controls.fall[:, 0], moved + controls.rise[:, 0])
        pairs = np.stack([index[1:], index[:-1]], axis=-1).reshape(-1, 2)
        change = about.diff(dim=1)
        for sign, bound in ((1.0, controls.rise[:, 1:] - change), (-1.0, change - controls.fall[:, 1:])):
            values = torch.tensor([sign, -sign], dtype=bound.dtype).expand(self.batch, len(pairs), 2)
            self._inequalities.add(pairs, values, bound.flatten(1))

    def build(self) -> QuadraticProgram:
        """The program."""
        N = (self.T + 1) * self.n + self.T * self.m + self._slacks
        like = self._linear[0][1]
        rows, columns, values = zip(*self._cost, strict=True)
        q = torch.zeros(self.batch, N, dtype=like.dtype)
        for index, linear in self._linear:
            q = q.index_add(1, torch.as_tensor(index), linear)
        E, e = self._equalities.stacked(N, q)
        G, g = self._inequalities.stacked(N, q)
        P = SparseMatrix((N, N), np.concatenate(rows), np.concatenate(columns), torch.cat(values, dim=1))
        return QuadraticProgram(P=P, q=q, E=E, e=e, G=G, g=g)

    def read(self, solution: ProgramSolution) -> tuple[Tensor, Tensor]:
        """States ``(B, T+1, n)`` and controls ``(B, T, m)`` of a solution."""
        split = (self.T + 1) * self.n
        xs = solution.z[:, :split].unflatten(1, (self.T + 1, self.n))
        return xs, solution.z[:, split : split + self.T * self.m].unflatten(1, (self.T, self.m))

    def multipliers(self, span: "RowSpan", solution: ProgramSolution) -> Tensor:
        """The multipliers of rows, ``(B, steps, k)``: the cost's derivative by what is added to their left side."""
        found = solution.y if span.hard_equality else solution.multipliers
        count = span.steps * span.k
        values = found[:, span.start : span.start + count]
        if span.both_signs:
            values = values - found[:, span.start + count : span.start + 2 * count]
        return values.unflatten(1, (span.steps, span.k))

    def _add_quadratic(self, index: np.ndarray, blocks: Tensor) -> None:
        """Dense blocks ``(B, count, k, k)`` on the unknowns ``(count, k)``."""
        k = index.shape[1]
        rows, columns = np.repeat(index, k, axis=1).ravel(), np.tile(index, (1, k)).ravel()
        self._cost.append((rows, columns, blocks.flatten(1)))

    def _add(
        self,
        index: np.ndarray,
        values: Tensor,
        bound: Tensor,
        *,
        equality: bool,
        soft: Slack | None,
        weights: Tensor | None,
    ) -> RowSpan:
        """Rows ``values (B, steps, k, w) @ z[index (steps, w)]`` below or at ``bound (B, steps, k)``."""
        steps, k = bound.shape[1], bound.shape[2]
        index = np.repeat(index, k, axis=0)
        values, bound = values.flatten(1, 2), bound.flatten(1)
        kind = self._equalities if equality and soft is None else self._inequalities
        span = RowSpan(kind.count, steps, k, equality and soft is None, equality and soft is not None)
        if soft is None:
            kind.add(index, values, bound)
            return span
        weights = values.new_ones(steps) if weights is None else weights
        slack = self._new_slacks(weights.repeat_interleave(k, dim=-1), soft)
        index = np.concatenate([index, slack[:, None]], axis=1)
        minus = torch.full_like(values[..., :1], -1.0)
        self._inequalities.add(index, torch.cat([values, minus], dim=-1), bound)
        if equality:
            self._inequalities.add(index, torch.cat([-values, minus], dim=-1), -bound)
        elif soft.linear > 0:  # with a quadratic price alone the slack is never negative
            self._inequalities.add(slack[:, None], minus, torch.zeros_like(bound))
        return span

    def _new_slacks(self, weights: Tensor, soft: Slack) -> np.ndarray:
        """Indices of as many new unknowns as there are weights ``(*, rows)``, at their price."""
        first = (self.T + 1) * self.n + self.T * self.m + self._slacks
        slack = first + np.arange(weights.shape[-1])
        self._slacks += weights.shape[-1]
        prices = weights.expand(self.batch, -1)
        self._linear.append((slack, soft.linear * prices))
        if soft.quadratic > 0:
            self._cost.append((slack, slack, soft.quadratic * prices))
        return slack


@dataclass
class _RowList:
    """Rows of one kind."""

    parts: list[tuple[np.ndarray, np.ndarray, Tensor]] = field(default_factory=list)
    bounds: list[Tensor] = field(default_factory=list)
    count: int = 0

    def add(self, index: np.ndarray, values: Tensor, bound: Tensor) -> None:
        """Rows ``values (B, rows, w) @ z[index (rows, w)]`` and their bounds ``(B, rows)``."""
        rows, width = index.shape
        self.parts.append((np.repeat(self.count + np.arange(rows), width), index.ravel(), values.flatten(1)))
        self.bounds.append(bound)
        self.count += rows

    def stacked(self, N: int, like: Tensor) -> tuple[SparseMatrix, Tensor]:
        """All rows as one matrix of N columns, and their bounds."""
        if not self.parts:
            none = np.zeros(0, dtype=int)
            return SparseMatrix((0, N), none, none, like.new_zeros(len(like), 0)), like.new_zeros(len(like), 0)
        rows, columns, values = zip(*self.parts, strict=True)
        matrix = SparseMatrix((self.count, N), np.concatenate(rows), np.concatenate(columns), torch.cat(values, dim=1))
        return matrix, torch.cat(self.bounds, dim=1)
