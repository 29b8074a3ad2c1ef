"""The quadratic cost of linear-quadratic control."""

from collections.abc import Sequence

import torch
from torch import Tensor

from planners.costs.base import StageExpansion, TerminalExpansion
from planners.costs.reference import ReferenceCost, finite_tensor, fitted, held
from planners.riccati import mv


class QuadraticCost(ReferenceCost):
    r"""The quadratic cost of the error :math:`e = x - g` and the control.

    .. math::
        \ell = \tfrac12 e^\top Q e + e^\top N u + \tfrac12 u^\top R u + q^\top e + r^\top u, \qquad
        \ell_T = \tfrac12 e^\top Q_T e .

    Args:
        Q: ``(n, n)``, symmetric.
        R: ``(m, m)``, symmetric.
        N: ``(n, m)``; zero by default.
        q: ``(n,)``; zero by default.
        r: ``(m,)``; zero by default.
        Q_terminal: ``(n, n)``, symmetric; zero by default.
        goal: ``(n,)``, ``(L, n)`` by step or ``(*batch, L, n)``; zero by default.

    Q, R, N, q and r may have one more, leading axis: one value for each step, the last one held. Values given as
    ``nn.Parameter`` are parameters of the cost.

    Raises:
        ValueError: shapes do not fit, a value is not finite, or a matrix is not symmetric.
    """

    is_quadratic = True
    Q: Tensor
    R: Tensor
    N: Tensor
    q: Tensor
    r: Tensor
    Q_terminal: Tensor

    def __init__(
        self,
        Q: Tensor,
        R: Tensor,
        N: Tensor | None = None,
        q: Tensor | None = None,
        r: Tensor | None = None,
        Q_terminal: Tensor | None = None,
        goal: Tensor | Sequence[float] | None = None,
    ):
        Q, R = finite_tensor("Q", Q), finite_tensor("R", R)
        n, m = (matrix.shape[-1] if matrix.ndim else 1 for matrix in (Q, R))
        super().__init__(Q.new_zeros(n) if goal is None else goal)
        values = {
            "Q": (Q, (n, n)),
            "R": (R, (m, m)),
            "N": (Q.new_zeros(n, m) if N is None else finite_tensor("N", N), (n, m)),
            "q": (Q.new_zeros(n) if q is None else finite_tensor("q", q), (n,)),
            "r": (R.new_zeros(m) if r is None else finite_tensor("r", r), (m,)),
        }
        for name, (value, shape) in values.items():
            if value.shape[-len(shape) :] != shape or value.ndim > len(shape) + 1 or value.shape[: -len(shape)] == (0,):
                raise ValueError(f"{name} must have shape {shape}, or one such per step, got {tuple(value.shape)}")
            self._register(name, value)
        self._register(
            "Q_terminal", Q.new_zeros(n, n) if Q_terminal is None else finite_tensor("Q_terminal", Q_terminal)
        )
        if self.Q_terminal.shape != (n, n):
            raise ValueError(f"Q_terminal must have shape {(n, n)}, got {tuple(self.Q_terminal.shape)}")
        if self.goal.shape[-1:] != (n,):
            raise ValueError(f"goal must have shape {(n,)}, or one such per step, got {tuple(self.goal.shape)}")
        for name in ("Q", "R", "Q_terminal"):
            value = getattr(self, name)
            if not torch.allclose(value, value.mT):
                raise ValueError(f"{name} must be symmetric; use 0.5 * ({name} + {name}.mT)")

    @property
    def time_varying(self) -> bool:  # type: ignore[override]
        """Whether the goal or a coefficient has more than one row."""
        steps = [len(v) for v, ndim in self._values() if v.ndim > ndim]
        return super().time_varying or any(n > 1 for n in steps)

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """The quadratic form at step t."""
        Q, R, N, q, r = self._coefficients(x, u, t)
        e = self.error(x, t)
        state = (e * (0.5 * mv(Q, e) + mv(N, u) + q)).sum(-1)
        return state + (u * (0.5 * mv(R, u) + r)).sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        """The quadratic form of the last state."""
        e = self.terminal_error(x)
        return 0.5 * (e * mv(self.Q_terminal.to(x), e)).sum(-1)

    def expand(self, x: Tensor, u: Tensor, t: int | Tensor) -> StageExpansion:
        """The exact expansion, in closed form."""
        Q, R, N, q, r = self._coefficients(x, u, t)
        e = self.error(x, t)
        n, m, batch = x.shape[-1], u.shape[-1], x.shape[:-1]
        return StageExpansion(
            value=self.stage(x, u, t),
            x=mv(Q, e) + mv(N, u) + q,
            u=mv(N.mT, e) + mv(R, u) + r,
            xx=Q.expand(*batch, n, n),
            xu=N.expand(*batch, n, m),
            uu=R.expand(*batch, m, m),
        )

    def expand_terminal(self, x: Tensor) -> TerminalExpansion:
        """The exact expansion, in closed form."""
        Q = self.Q_terminal.to(x)
        gradient = mv(Q, self.terminal_error(x))
        return TerminalExpansion(value=self.terminal(x), x=gradient, xx=Q.expand(*x.shape, x.shape[-1]))

    def _values(self) -> list[tuple[Tensor, int]]:
        """Q, R, N, q and r, each with its number of axes when it is the same at all steps."""
        return [(self.Q, 2), (self.R, 2), (self.N, 2), (self.q, 1), (self.r, 1)]

    def _coefficients(self, x: Tensor, u: Tensor, t: int | Tensor) -> list[Tensor]:
        fitted("Q", self.Q, x)
        fitted("R", self.R, u)
        rows = [
            value if value.ndim == ndim else value[held(torch.as_tensor(t, device=value.device), len(value))]
            for value, ndim in self._values()
        ]
        return [row.to(x) for row in rows]
