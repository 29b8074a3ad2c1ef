r"""Costs that are linear in their weights, which inverse optimal control finds.

.. math:: \ell(x, u, t) = \ell_0(x, u, t) + \sum_k w_k \, \phi_k(x, u, t), \qquad
    \ell_T(x) = \ell_{0, T}(x) + \sum_k w_k \, \psi_k(x)
"""

import abc
import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from planners.costs.base import Cost, StageExpansion, TerminalExpansion
from planners.costs.reference import finite_tensor, fitted


class WeightedCost(Cost):
    """A cost that is linear in weights; these are a parameter, as logarithms where they have to be positive.

    Args:
        weights: w ``(k,)``, where a search for them begins.
        known: a cost that is added and not learned; its own parameters stay parameters of this cost unless they need no gradient.
        positive: whether weights are positive. Their logarithms are the parameter then.

    Raises:
        ValueError: weights are no vector, not finite, or not positive where they have to be.
        TypeError: the known part is no cost.
    """

    known: Cost | None

    def __init__(self, weights: Tensor | Sequence[float], known: Cost | None, positive: bool):
        super().__init__()
        w = finite_tensor("weights", weights).detach()
        if w.ndim != 1 or not len(w):
            raise ValueError(f"weights must have shape (k,), got {tuple(w.shape)}")
        if positive and not bool((w > 0).all()):
            raise ValueError(
                f"weights must be positive, got {w.tolist()}; where some may be negative choose positive=False"
            )
        if known is not None and not isinstance(known, Cost):
            raise TypeError(f"known must be a Cost, got {type(known).__name__}; wrap a function in FunctionCost")
        self.positive = positive
        self.free = nn.Parameter(w.log() if positive else w.clone())
        self.register_module("known", known)
        self._given: Tensor | None = None
        if known is not None:
            self.needs_next_state, self.has_reference = known.needs_next_state, known.has_reference

    @abc.abstractmethod
    def features(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """The features of one step, ``(*batch, k)``."""

    @abc.abstractmethod
    def terminal_features(self, x: Tensor) -> Tensor:
        """Those of the last state, ``(*batch, k)``."""

    @property
    def weights(self) -> Tensor:
        """The weights ``(k,)``, with a graph to the parameter."""
        if self._given is not None:
            return self._given
        return self.free.exp() if self.positive else self.free

    @property
    def time_varying(self) -> bool:  # type: ignore[override]
        """Whether the known part differs between steps."""
        return self.known is not None and self.known.time_varying

    def with_weights(self, weights: Tensor) -> Self:
        """This cost with other weights, which are no parameter; gradients reach the tensor.

        Args:
            weights: ``(k,)``, zeros among them, or ``(*batch, k)`` with weights for each of the first batch axes of the states.

        Raises:
            ValueError: there are more or fewer.
        """
        k = self.weights.shape[-1]
        if weights.shape[-1:] != (k,):
            raise ValueError(f"weights must have shape ({k},) or (*batch, {k}), got {tuple(weights.shape)}")
        new = self._copied()
        new._parameters = {}
        new._given = weights
        return new

    def without_known(self) -> Self:
        """This cost without its known part."""
        new = self._copied(known=None)
        new.needs_next_state = new.has_reference = False
        return new

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """The weighted features, and the known part."""
        value = self._weighted(self.features(x, u, t), x.ndim - 1)
        return value if self.known is None else value + self.known.stage(x, u, t)

    def transition(self, x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        """The same, where the known part depends on the next state."""
        value = self._weighted(self.features(x, u, t), x.ndim - 1)
        return value if self.known is None else value + self.known.transition(x, u, x_next, t)

    def terminal(self, x: Tensor) -> Tensor:
        """The weighted features of the last state, and the known part."""
        value = self._weighted(self.terminal_features(x), x.ndim - 1)
        return value if self.known is None else value + self.known.terminal(x)

    def with_reference(self, reference: Tensor, *, start: int = 0) -> Self:
        """Replaces the reference of the known part."""
        if self.known is None:
            return super().with_reference(reference, start=start)
        return self._copied(known=self.known.with_reference(reference, start=start))

    def window(self, t0: int, horizon: int) -> Self:
        """The same features, and the window of the known part."""
        known = None if self.known is None else self.known.window(t0, horizon)
        return self if known is self.known else self._copied(known=known)

    def extra_repr(self) -> str:
        """The weights."""
        return f"weights={self.weights.tolist()}"

    def _copied(self, **modules: Any) -> Self:
        """A copy that shares tensors, with other modules."""
        new = copy.copy(self)
        new._parameters, new._modules = dict(self._parameters), {**self._modules, **modules}
        return new

    def _weighted(self, features: Tensor, batch_ndim: int) -> Tensor:
        w = self.weights
        if features.shape[-1] != w.shape[-1]:
            raise ValueError(
                f"there are {w.shape[-1]} weights, features must be (*batch, {w.shape[-1]}), got "
                f"{tuple(features.shape)}"
            )
        return (features * self._aligned(features, batch_ndim)).sum(-1)

    def _aligned(self, like: Tensor, batch_ndim: int) -> Tensor:
        """The weights, cast, with axes that align their own batch with the first axes of states."""
        w = self.weights.to(like)
        return w if w.ndim == 1 else w.reshape(*w.shape[:-1], *[1] * (batch_ndim - w.ndim + 1), w.shape[-1])


class LinearFeatureCost(WeightedCost):
    """A weighted sum of features, which are functions or modules.

    Args:
        features: ``fn(x, u, t) -> (*batch, k)``, written for any batch.
        weights: w ``(k,)``, where a search for them begins.
        terminal: ``fn(x) -> (*batch, k)``, features of the last state with the same weights, zero in columns that have none; zero
            by default.
        known: a cost that is added and not learned.
        positive: whether weights are positive; their logarithms are the parameter then.

    Raises:
        ValueError: weights are no vector, not finite, or not positive where they have to be.

    Example:
        >>> import torch
        >>> from planners import LinearFeatureCost
        >>> cost = LinearFeatureCost(lambda x, u, t: torch.stack([1.0 - x[..., 0].cos(), u[..., 0] ** 2], -1), [1.0, 0.1])
        >>> cost.stage(torch.tensor([0.0]), torch.tensor([2.0]), 0).item()
        0.4...
    """

    def __init__(
        self,
        features: Callable[[Tensor, Tensor, int | Tensor], Tensor],
        weights: Tensor | Sequence[float],
        terminal: Callable[[Tensor], Tensor] | None = None,
        *,
        known: Cost | None = None,
        positive: bool = True,
    ):
        super().__init__(weights, known, positive)
        self.feature_function, self.terminal_function = features, terminal

    def features(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """The feature function's values."""
        return self.feature_function(x, u, t)

    def terminal_features(self, x: Tensor) -> Tensor:
        """The terminal function's values."""
        if self.terminal_function is None:
            return x.new_zeros(*x.shape[:-1], self.weights.shape[-1])
        return self.terminal_function(x)


class DiagonalQuadraticCost(WeightedCost):
    r"""Half the weighted squares of errors and controls, :math:`\tfrac12 \sum_i Q_i (x_i - g_i)^2 + \tfrac12 \sum_j R_j u_j^2`.

    The weights are those of states, then of controls, then of the last state where these are learned too.

    Args:
        Q: ``(n,)``, positive.
        R: ``(m,)``, positive.
        Q_terminal: weights of the last state ``(n,)``, to be learned; none by default. One that is known is part of ``known``.
        goal: g ``(n,)``; zero by default.
        known: a cost that is added and not learned.

    Raises:
        ValueError: weights are not positive, or of another number.
    """

    goal: Tensor

    def __init__(
        self,
        Q: Tensor | Sequence[float],
        R: Tensor | Sequence[float],
        Q_terminal: Tensor | Sequence[float] | None = None,
        *,
        goal: Tensor | Sequence[float] | None = None,
        known: Cost | None = None,
    ):
        parts = [finite_tensor("Q", Q), finite_tensor("R", R)]
        if Q_terminal is not None:
            parts.append(finite_tensor("Q_terminal", Q_terminal))
        if any(part.ndim != 1 for part in parts) or len(parts[-1]) != len(parts[-1 if Q_terminal is None else 0]):
            raise ValueError(
                f"Q and Q_terminal must be diagonals (n,), and R one (m,), got {[tuple(part.shape) for part in parts]}"
            )
        super().__init__(torch.cat([part.to(parts[0]) for part in parts]), known, True)
        self.state_dim, self.control_dim = len(parts[0]), len(parts[1])
        g = parts[0].new_zeros(self.state_dim) if goal is None else finite_tensor("goal", goal)
        if g.shape != (self.state_dim,):
            raise ValueError(f"goal must have shape ({self.state_dim},), got {tuple(g.shape)}")
        self.register_buffer("goal", g)

    @property
    def is_quadratic(self) -> bool:  # type: ignore[override]
        """Whether the known part is quadratic."""
        return self.known is None or self.known.is_quadratic

    @property
    def Q(self) -> Tensor:  # noqa: N802 (the symbols of the equation)
        """Weights of the states ``(n,)``."""
        return self.weights[..., : self.state_dim]

    @property
    def R(self) -> Tensor:  # noqa: N802 (the symbols of the equation)
        """Weights of the controls ``(m,)``."""
        return self.weights[..., self.state_dim : self.state_dim + self.control_dim]

    @property
    def Q_terminal(self) -> Tensor | None:  # noqa: N802
        """Weights of the last state ``(n,)``; None where they are not learned."""
        last = self.weights[..., self.state_dim + self.control_dim :]
        return last if last.shape[-1] else None

    def features(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Half the squares of errors and controls."""
        fitted("R", self.R, u)
        halves = 0.5 * torch.cat([x - fitted("goal", self.goal, x), u], dim=-1).square()
        return torch.nn.functional.pad(halves, (0, self.weights.shape[-1] - halves.shape[-1]))

    def terminal_features(self, x: Tensor) -> Tensor:
        """Half the squares of the last errors."""
        if self.Q_terminal is None:
            return x.new_zeros(*x.shape[:-1], self.weights.shape[-1])
        halves = 0.5 * (x - fitted("goal", self.goal, x)).square()
        return torch.nn.functional.pad(halves, (self.weights.shape[-1] - self.state_dim, 0))

    def expand(self, x: Tensor, u: Tensor, t: int | Tensor) -> StageExpansion:
        """The exact expansion, in closed form but for the known part."""
        n, m = self.state_dim, self.control_dim
        w = self._aligned(x, x.ndim - 1)
        Q, R, e = w[..., :n], w[..., n : n + m], x - fitted("goal", self.goal, x)
        batch = x.shape[:-1]
        own = StageExpansion(
            value=0.5 * (Q * e.square()).sum(-1) + 0.5 * (R * u.square()).sum(-1),
            x=Q * e,
            u=R * u,
            xx=torch.diag_embed(Q).expand(*batch, n, n),
            xu=x.new_zeros(*batch, n, m),
            uu=torch.diag_embed(R).expand(*batch, m, m),
        )
        if self.known is None:
            return own
        more = self.known.expand(x, u, t)
        return StageExpansion(**{name: value + getattr(more, name) for name, value in vars(own).items()})

    def expand_terminal(self, x: Tensor) -> TerminalExpansion:
        """The same for the last state."""
        n = self.state_dim
        if self.Q_terminal is None:
            own = TerminalExpansion(x.new_zeros(x.shape[:-1]), torch.zeros_like(x), x.new_zeros(*x.shape, n))
        else:
            Q, e = self._aligned(x, x.ndim - 1)[..., -n:], x - fitted("goal", self.goal, x)
            hessian = torch.diag_embed(Q).expand(*x.shape, n)
            own = TerminalExpansion(0.5 * (Q * e.square()).sum(-1), Q * e, hessian)
        if self.known is None:
            return own
        more = self.known.expand_terminal(x)
        return TerminalExpansion(**{name: value + getattr(more, name) for name, value in vars(own).items()})
