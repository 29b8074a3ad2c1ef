r"""Gaussian filtering on any dynamics, once; how a Gaussian goes through a function is for the filters to say.

.. math:: x_{t+1} = f(x_t, u_t, t) \boxplus w_t, \quad w_t \sim \mathcal N(0, Q), \qquad
    y_t = h(x_t) + v_t, \quad v_t \sim \mathcal N(0, R).

Every filter here describes the belief :math:`x = m \boxplus \delta` and a function of it by deviations
:math:`D_x, D_y` with weights W, so that

.. math:: P = D_x W D_x^\top, \qquad C = D_x W D_y^\top, \qquad P_{yy} = D_y W D_y^\top .

The prediction is :math:`P_{yy} + Q` of f. The update with h is, with :math:`S = P_{yy} + R` and :math:`K = C S^{-1}`,

.. math:: m \leftarrow m \boxplus K (y - \hat y), \qquad
    P \leftarrow (D_x - K D_y) W (D_x - K D_y)^\top + K R K^\top,

Joseph's form (Bar-Shalom, Li and Kirubarajan 2001, section 5.2.3), which with :math:`D_y = H D_x` is
:math:`(I - K H) P (I - K H)^\top + K R K^\top` and stays positive semidefinite whatever the round-off in K.

On a manifold the covariance belongs to the tangent space at the mean and is carried along when the mean moves (the reset
of an error-state filter, Solà 2017, section 6.3).
"""

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from dynamics import derivatives
from dynamics.base import Dynamics, graph_if_needed, is_own, surely_finite
from dynamics.estimation.belief import GaussianBelief, Innovation, check_covariance, symmetric
from dynamics.estimation.sequences import FilteredSequence, SmoothedSequence, filter_sequence, smooth_sequence

ProcessNoise = Tensor | Callable[[Tensor, Tensor, int], Tensor]
ObservationNoise = Tensor | Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Joint:
    """A state and a function of it, jointly Gaussian.

    Attributes:
        mean: of the function, ``(*batch, n)`` or ``(*batch, p)``.
        Dx: deviations of the state in its tangent space, ``(*batch, tangent_dim, k)``.
        Dy: the deviations of the function that go with them, ``(*batch, tangent_dim or p, k)``.
        W: weights, ``(k, k)`` or ``(*batch, k, k)``.
    """

    mean: Tensor
    Dx: Tensor
    Dy: Tensor
    W: Tensor


@dataclass(frozen=True, eq=False)
class GaussianFilter(abc.ABC):
    """A filter whose belief is a Gaussian. It holds no state: beliefs go in and come out as values.

    Attributes:
        dynamics: any dynamics, whose ``difference`` and ``retract`` say what an error of the state is. An angle that is not
            wrapped needs nothing; a system that wraps its own angles has to wrap them in ``difference`` too.
        process_noise: covariance Q of one step in the tangent space of the next state, ``(tangent_dim, tangent_dim)``, with
            leading axes that broadcast against those of the belief, or a function of ``(x, u, t)`` that returns it.
        observation_noise: covariance R ``(p, p)``, likewise, or a function of ``(x, t)``.
        observation: what the sensor sees, a torch function from ``(*batch, n)`` to ``(*batch, p)``; ``dynamics.observe`` by
            default.
        observation_angles: indices of the observations that are angles [rad]: their innovations are taken the short way
            round.

    A component of an observation that is NaN is missing, and the others are used as if it did not exist; an observation with
    nothing in it changes nothing. A belief whose state diverges is NaN from there on.

    Raises:
        TypeError: dynamics is no Dynamics, or a covariance is neither a tensor nor a function.
        ValueError: a covariance is not finite, not symmetric, indefinite or of the wrong shape.
    """

    dynamics: Dynamics
    process_noise: ProcessNoise
    observation_noise: ObservationNoise
    _: KW_ONLY
    observation: Callable[[Tensor], Tensor] | None = None
    observation_angles: Sequence[int] = ()

    def __post_init__(self):
        if not isinstance(self.dynamics, Dynamics):
            raise TypeError(f"dynamics must be a Dynamics, got {type(self.dynamics).__name__}")
        if isinstance(self.process_noise, Tensor) or not callable(self.process_noise):
            check_covariance("process_noise", self.process_noise, self.dynamics.tangent_dim)
        p = self.dynamics.observation_dim if self.observation is None else None
        if isinstance(self.observation_noise, Tensor) or not callable(self.observation_noise):
            check_covariance("observation_noise", self.observation_noise, p)
            p = self.observation_noise.shape[-1]
        if any(not isinstance(i, int) or i < 0 or (p is not None and i >= p) for i in self.observation_angles):
            raise ValueError(
                f"observation_angles must be indices of the {p} observations, got {self.observation_angles}"
            )

    @abc.abstractmethod
    def _propagated(self, belief: GaussianBelief, u: Tensor) -> Joint:
        """The state and its successor under controls ``(*batch, m)``, without process noise."""

    @abc.abstractmethod
    def _observed(self, belief: GaussianBelief) -> Joint:
        """The state and its observation, without observation noise."""

    # Step by step

    def init(self, mean: Tensor, covariance: Tensor, *, step: int = 0) -> GaussianBelief:
        """The belief before anything is measured.

        Args:
            mean: ``(*batch, n)``, finite.
            covariance: ``(tangent_dim, tangent_dim)`` or ``(*batch, tangent_dim, tangent_dim)``; zero where the state is known.
            step: the step that it belongs to.

        Raises:
            TypeError: mean or covariance is no tensor.
            ValueError: mean is not finite or of the wrong shape, or covariance is none, or their batch axes do not broadcast.
        """
        if not isinstance(mean, Tensor):
            raise TypeError(f"mean must be a tensor, got {type(mean).__name__}; use torch.as_tensor(mean)")
        n, d = self.dynamics.state_dim, self.dynamics.tangent_dim
        if mean.ndim < 1 or mean.shape[-1] != n or not mean.is_floating_point():
            raise ValueError(
                f"mean must be floating and of shape (*batch, {n}), got {tuple(mean.shape)} of {mean.dtype}"
            )
        if not bool(mean.detach().isfinite().all()):
            raise ValueError(f"mean must be finite, got {mean.tolist()}")
        check_covariance("covariance", covariance, d)
        batch = _common_batch("mean", mean.shape[:-1], "covariance", covariance.shape[:-2])
        return GaussianBelief(mean.expand(*batch, n), symmetric(covariance.to(mean)).expand(*batch, d, d), step)

    def predict(self, belief: GaussianBelief, u: Tensor) -> GaussianBelief:
        """The belief one step later, under controls ``(*batch, m)``.

        Raises:
            TypeError: belief is no belief.
            ValueError: the shape or dtype of u does not fit, or the covariance is indefinite.
        """
        self._check(belief)
        m, like = self.dynamics.control_dim, belief.mean
        if not isinstance(u, Tensor) or u.ndim < 1 or u.shape[-1] != m or u.dtype != like.dtype:
            raise ValueError(f"u must be of shape (*batch, {m}) and {like.dtype} as the belief, got {_described(u)}")
        batch = _common_batch("belief", like.shape[:-1], "u", u.shape[:-1])
        lifted = _expanded(belief, batch)
        joint, Q = self.transition(lifted, u.expand(*(batch or (1,)), m))
        P = symmetric(joint.Dy @ joint.W @ joint.Dy.mT + Q)
        return _lowered(replace(lifted, mean=joint.mean, covariance=P, step=belief.step + 1, innovation=None), batch)

    def update(self, belief: GaussianBelief, y: Tensor) -> GaussianBelief:
        """The belief after observing ``(*batch, p)``, with its :class:`Innovation`. NaN components are missing.

        Raises:
            TypeError: belief is no belief.
            ValueError: the shape or dtype of y does not fit, a component is infinite, or the covariance of the innovation is
                singular.
        """
        self._check(belief)
        like = belief.mean
        if not isinstance(y, Tensor) or y.ndim < 1 or y.dtype != like.dtype:
            raise ValueError(f"y must be of shape (*batch, p) and {like.dtype} as the belief, got {_described(y)}")
        batch = _common_batch("belief", like.shape[:-1], "y", y.shape[:-1])
        lifted = _expanded(belief, batch)
        joint = self._observed(lifted)
        p = joint.mean.shape[-1]
        if y.shape[-1] != p:
            raise ValueError(f"y must have last axis p = {p} as what is observed, got shape {tuple(y.shape)}")
        if bool(y.detach().isinf().any()):
            raise ValueError(f"y is infinite: {y.tolist()}; a measurement that is missing is NaN")
        return _lowered(self._updated(lifted, joint, y.expand(*joint.mean.shape)), batch)

    def step(self, belief: GaussianBelief, u: Tensor, y: Tensor) -> GaussianBelief:
        """:meth:`predict` under the control u ``(*batch, m)``, then :meth:`update` with what was measured after it."""
        return self.update(self.predict(belief, u), y)

    # Whole sequences

    def filter(self, belief: GaussianBelief, ys: Tensor, us: Tensor) -> FilteredSequence:
        """Beliefs about a whole sequence, each from what was measured until then.

        Args:
            belief: about the state at the first observation, before it.
            ys: observations ``(*batch, T+1, p)``, as in a :class:`dynamics.Trajectory`; NaN where they are missing.
            us: controls ``(*batch, T, m)``.

        Raises:
            ValueError: there is not one observation more than controls, or what :meth:`predict` and :meth:`update` raise.
        """
        return filter_sequence(self, belief, ys, us)

    def smooth(self, filtered: FilteredSequence) -> SmoothedSequence:
        """Beliefs about a whole sequence, each from all that was measured: the smoother of Rauch, Tung and Striebel (1965)."""
        return smooth_sequence(self, filtered)

    def nees(self, belief: GaussianBelief, x: Tensor) -> Tensor:
        """Normalized estimation error squared of the true states ``(*batch, n)``: ``(*batch,)``.

        In a consistent filter chi-squared with ``tangent_dim`` degrees. Angles of the state count the short way round.
        """
        e = self.dynamics.difference(x, belief.mean)
        if self.dynamics.tangent_dim == self.dynamics.state_dim:
            e = wrapped(e, self.dynamics.angles)
        return (e * torch.linalg.solve(belief.covariance, e)).sum(-1)

    def transition(self, belief: GaussianBelief, u: Tensor) -> tuple[Joint, Tensor]:
        """A state and its successor under controls, all with the same batch axes, and the noise that is added to it."""
        return self._propagated(belief, u), self._process_covariance(belief, u)

    # The update

    def _updated(self, belief: GaussianBelief, joint: Joint, y: Tensor) -> GaussianBelief:
        present = y.isfinite()
        R = self._observation_covariance(belief, joint.mean.shape[-1])
        full = symmetric(joint.Dy @ joint.W @ joint.Dy.mT + R)
        nu = wrapped(torch.where(present, y, joint.mean) - joint.mean, self.observation_angles)
        # A missing component neither moves the state nor is moved by it: no deviation, no noise, a variance of one in S.
        both = present.unsqueeze(-1) & present.unsqueeze(-2)
        Dy = torch.where(present.unsqueeze(-1), joint.Dy, torch.zeros_like(joint.Dy))
        R = torch.where(both, R, torch.zeros_like(R))
        S = torch.where(both, full, torch.eye(y.shape[-1]).to(full))
        L = self._factor(S)
        K = torch.cholesky_solve((joint.Dx @ joint.W @ Dy.mT).mT, L).mT
        residual = joint.Dx - K @ Dy
        P = symmetric(residual @ joint.W @ residual.mT + K @ R @ K.mT)
        dx = (K @ nu.unsqueeze(-1)).squeeze(-1)
        mean = self.dynamics.retract(belief.mean, dx)
        nis = (nu * torch.cholesky_solve(nu.unsqueeze(-1), L).squeeze(-1)).sum(-1)
        observed = present.sum(-1)
        log_determinant = 2.0 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_likelihood = -0.5 * (nis + log_determinant + math.log(2.0 * math.pi) * observed.to(nis))
        value = torch.where(present, nu, torch.full_like(nu, math.nan))
        innovation = Innovation(value, full, log_likelihood, nis, observed)
        return GaussianBelief(mean, self.moved(P, belief.mean, dx, mean), belief.step, innovation)

    def _factor(self, S: Tensor) -> Tensor:
        """Cholesky factor of the covariance of the innovation; NaN where a belief has diverged."""
        L, info = torch.linalg.cholesky_ex(S)
        failed = info != 0
        if not bool(failed.any()):
            return L
        if bool((failed & S.isfinite().all(-1).all(-1)).any()):
            raise ValueError(
                "the covariance of the innovation is singular: observation_noise must be positive definite where the belief "
                "is certain of an observation"
            )
        return torch.where(failed[..., None, None], torch.full_like(L, math.nan), L)

    # Geometry

    @property
    def is_flat(self) -> bool:
        """Whether displacements of the state are plain differences."""
        d = self.dynamics
        return is_own(d.difference, Dynamics.difference) and is_own(d.retract, Dynamics.retract)

    def moved(self, P: Tensor, origin: Tensor, dx: Tensor, target: Tensor) -> Tensor:
        """A covariance about ``origin + dx``, of displacements from origin, as one of displacements from target."""
        if self.is_flat:
            return P
        d = self.dynamics
        base = d.difference(d.retract(origin, dx), target)

        def displacement(e: Tensor) -> Tensor:
            moved = d.retract(origin.unsqueeze(-2), dx.unsqueeze(-2) + e)
            return d.difference(moved, target.unsqueeze(-2)) - base.unsqueeze(-2)

        zero = torch.zeros_like(dx)
        if d.derivatives == "autograd":
            with graph_if_needed(base):
                J = derivatives.jacobian(displacement, zero, d.tangent_dim)
        else:
            J = derivatives.finite_difference_jacobian(displacement, zero)
        return symmetric(J @ P @ J.mT)

    def h(self, x: Tensor) -> Tensor:
        """What the sensor sees of states ``(*batch, n)``."""
        return self.dynamics.observe(x) if self.observation is None else self.observation(x)

    # Noise

    def _process_covariance(self, belief: GaussianBelief, u: Tensor) -> Tensor:
        Q, d = self.process_noise, self.dynamics.tangent_dim
        Q = Q if isinstance(Q, Tensor) else Q(belief.mean, u, belief.step)
        return _noise("process_noise", Q, belief.mean, d)

    def _observation_covariance(self, belief: GaussianBelief, p: int) -> Tensor:
        R = self.observation_noise
        R = R if isinstance(R, Tensor) else R(belief.mean, belief.step)
        return _noise("observation_noise", R, belief.mean, p)

    def _check(self, belief: GaussianBelief) -> None:
        if not isinstance(belief, GaussianBelief):
            raise TypeError(
                f"belief must be a GaussianBelief, got {type(belief).__name__}; begin with init(mean, covariance)"
            )
        n, d = self.dynamics.state_dim, self.dynamics.tangent_dim
        if belief.mean.shape[-1:] != (n,) or belief.covariance.shape != (*belief.mean.shape[:-1], d, d):
            raise ValueError(
                f"belief must have a mean (*batch, {n}) and a covariance (*batch, {d}, {d}), got {tuple(belief.mean.shape)} "
                f"and {tuple(belief.covariance.shape)}; begin with init(mean, covariance)"
            )


def wrapped(e: Tensor, angles: Sequence[int]) -> Tensor:
    """Differences ``(*batch, k)`` with those of angles taken the short way round, from -pi to pi."""
    if not angles:
        return e
    turning = torch.zeros(e.shape[-1], dtype=torch.bool, device=e.device)
    turning[list(angles)] = True
    return torch.where(turning, e - 2.0 * math.pi * (e.detach() / (2.0 * math.pi)).round(), e)


def _noise(name: str, value: Tensor, like: Tensor, dim: int) -> Tensor:
    """A covariance in the dtype of the states and with axes that broadcast against theirs."""
    batch = like.shape[:-1]
    value = value.to(like)
    try:
        return value.expand(*batch, dim, dim)
    except RuntimeError:
        raise ValueError(
            f"{name} must have shape ({dim}, {dim}), or leading axes that broadcast to those of the belief {tuple(batch)}, got "
            f"{tuple(value.shape)}"
        ) from None


def _expanded(belief: GaussianBelief, batch: torch.Size) -> GaussianBelief:
    """With all batch axes, and one of length 1 where there is none: a function of states sees batches only."""
    batch = batch or torch.Size((1,))
    mean, P = belief.mean, belief.covariance
    return replace(belief, mean=mean.expand(*batch, mean.shape[-1]), covariance=P.expand(*batch, *P.shape[-2:]))


def _lowered(belief: GaussianBelief, batch: torch.Size) -> GaussianBelief:
    """Without the added axis, and all NaN where anything is not finite."""
    mean, P, innovation = belief.mean, belief.covariance, belief.innovation
    if not (surely_finite(mean) and surely_finite(P)):
        lost = ~(mean.isfinite().all(-1) & P.isfinite().all(-1).all(-1))
        mean = mean.masked_fill(lost.unsqueeze(-1), math.nan)
        P = P.masked_fill(lost[..., None, None], math.nan)
    if not batch:
        mean, P = mean.squeeze(0), P.squeeze(0)
        if innovation is not None:
            innovation = Innovation(**{name: value.squeeze(0) for name, value in vars(innovation).items()})
    return replace(belief, mean=mean, covariance=P, innovation=innovation)


def _common_batch(name: str, batch: torch.Size, other_name: str, other: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(batch, other)
    except RuntimeError:
        raise ValueError(
            f"the batch axes of {name} {tuple(batch)} and {other_name} {tuple(other)} do not broadcast"
        ) from None


def _described(value: object) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
