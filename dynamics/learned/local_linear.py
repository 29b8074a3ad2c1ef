r"""Time-varying linear-Gaussian dynamics about a few sampled rollouts per condition (Levine and Abbeel 2014, section 3).

.. math:: x_{t+1} \sim \mathcal N(A_t x_t + B_t u_t + c_t, \; \Sigma_t)

Every condition and step has its own regression of x' on (x, u) over the N rollouts, with equations and prior as in
:mod:`dynamics.learned.normal_inverse_wishart`: ``[A B] = F``, ``c = f``. Without a prior it is least squares, and N must exceed
n + m. A :class:`~dynamics.MixturePrior` of transitions from all conditions and iterations makes do with fewer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dynamics.analytic import LinearDynamics
from dynamics.base import Curvature, Linearization, TimeStep, nan_after_divergence, time_first
from dynamics.learned.normal_inverse_wishart import RegressionPrior, linear_gaussian
from dynamics.stochastic import Prediction, Resample, StochasticDynamics, check_sampling


class LocalLinearDynamics(StochasticDynamics):
    """Linear-Gaussian dynamics that hold near the trajectories they were fitted to, one for each condition and step.

    The first batch axes of states and controls are those of the conditions; planners' own axes come after them.

    Args:
        A: ``(*batch, T, n, n)``.
        B: ``(*batch, T, n, m)``.
        c: ``(*batch, T, n)``.
        covariance: of the noise, positive semidefinite, ``(*batch, T, n, n)``.
        dt: duration of one step [s].
        state_names: one name per state.
        control_names: one name per control.
        angles: indices of the states that are angles [rad]; the model takes them as they are, unwrapped.

    Raises:
        ValueError: shapes do not fit; a step is missing or outside the T given ones, or the batch of a state does not begin
            with that of the conditions, when it is called.

    Example:
        >>> import torch
        >>> from dynamics import Pendulum, fit_local_linear
        >>> pendulum, generator = Pendulum(), torch.Generator().manual_seed(0)
        >>> us = torch.randn(3, 10, 20, 1, generator=generator, dtype=torch.float64)  # 3 conditions, 10 rollouts of 20 steps
        >>> x0 = 0.1 * torch.randn(3, 10, 2, generator=generator, dtype=torch.float64)
        >>> model = fit_local_linear(pendulum.rollout(x0, us), us, dt=pendulum.dt)
        >>> model.A.shape, model.rollout(x0[:, 0], us[:, 0]).shape
        (torch.Size([3, 20, 2, 2]), torch.Size([3, 21, 2]))
    """

    A: Tensor
    B: Tensor
    c: Tensor
    covariance: Tensor

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        c: Tensor,
        covariance: Tensor,
        *,
        dt: float,
        state_names: Sequence[str] | None = None,
        control_names: Sequence[str] | None = None,
        angles: Sequence[int] = (),
    ):
        given = {"A": A, "B": B, "c": c, "covariance": covariance}
        n, m = A.shape[-1], B.shape[-1]
        sizes = {"A": (n, n), "B": (n, m), "c": (n,), "covariance": (n, n)}
        if A.ndim < 3 or any(value.shape != (*A.shape[:-2], *sizes[name]) for name, value in given.items()):
            raise ValueError(
                "need A (*batch, T, n, n), B (*batch, T, n, m), c (*batch, T, n) and covariance (*batch, T, n, n), got "
                + ", ".join(f"{name} {tuple(value.shape)}" for name, value in given.items())
            )
        super().__init__(n, m, dt, state_names=state_names, control_names=control_names, angles=angles)
        for name, value in given.items():
            self.register_buffer(name, value)
        self.num_steps = A.shape[-3]
        self.conditions = A.shape[:-3]

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The mean of the next state, ``(*batch, n)``; t is required."""
        self.check_step(x, u)
        A, B, c = (self._at(value, x, t) for value in (self.A, self.B, self.c))
        return (A @ x.unsqueeze(-1) + B @ u.unsqueeze(-1)).squeeze(-1) + c

    def predict(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Prediction:
        """The distribution of the next state, without the correlations of its noise; all of it is aleatoric."""
        mean = self(x, u, t)
        variance = self._at(self.covariance.diagonal(dim1=-2, dim2=-1), x, t)
        return Prediction(
            mean=mean, aleatoric_std=variance.sqrt().expand(mean.shape), epistemic_std=torch.zeros_like(mean)
        )

    def linearize(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Linearization:
        """The coefficients themselves, see :meth:`Dynamics.linearize`."""
        x, u = self._broadcast(x, u)
        A, B = (self._at(value, x, t) for value in (self.A, self.B))
        return Linearization(
            x_next=self(x, u, t),
            fx=A.expand(*x.shape, self.state_dim),
            fu=B.expand(*x.shape, self.control_dim),
            hx=self._observation_jacobian(x),
        )

    def curvature(self, x: Tensor, u: Tensor, costate: Tensor, t: TimeStep = None) -> Curvature:
        """Zero, see :meth:`Dynamics.curvature`."""
        x, u = self._broadcast(x, u)
        if costate.shape[-1:] != (self.state_dim,):
            raise ValueError(f"costate must have last axis {self.state_dim}, got shape {tuple(costate.shape)}")
        n, m = self.state_dim, self.control_dim
        xx, ux, uu = (x.new_zeros(*x.shape[:-1], rows, columns) for rows, columns in ((n, n), (m, n), (m, m)))
        return Curvature(xx=xx, ux=ux, uu=uu)

    def sample_rollout(
        self,
        x0: Tensor,
        us: Tensor,
        *,
        particles: int,
        generator: torch.Generator | None = None,
        resample: Resample = "trajectory",
        noise: bool = True,
        t0: int = 0,
    ) -> Tensor:
        """Sampled state sequences, with the correlations of the noise; see :meth:`StochasticDynamics.sample_rollout`."""
        batch = self.check_sequence(x0, us)
        check_sampling(particles, resample)
        x = x0.unsqueeze(-2).expand(*batch, particles, self.state_dim)
        us = us.expand(*batch, *us.shape[-2:]).unsqueeze(-3).expand(*batch, particles, *us.shape[-2:])
        xs = [x]
        for k in range(us.shape[-2]):
            x = self(x, us[..., k, :], t0 + k)
            if noise:
                draw = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                x = x + (_root(self._at(self.covariance, x, t0 + k)) @ draw.unsqueeze(-1)).squeeze(-1)
            xs.append(x)
        return nan_after_divergence(time_first(xs))

    def mean_dynamics(self) -> LinearDynamics:
        """The mean as :class:`~dynamics.LinearDynamics`, for LQR and convex programs; one world for each condition.

        Raises:
            ValueError: the conditions have more than one axis.
        """
        if len(self.conditions) > 1:
            raise ValueError(
                f"LinearDynamics has one axis of worlds, but the conditions are {tuple(self.conditions)}; flatten them before "
                "fitting"
            )
        if not self.conditions:
            return LinearDynamics(self.A, self.B, self.c, dt=self.dt)
        first = LinearDynamics(self.A[0], self.B[0], self.c[0], dt=self.dt)
        return first.with_parameters(A=self.A, B=self.B, b=self.c)

    def _at(self, value: Tensor, x: Tensor, t: TimeStep) -> Tensor:
        """A coefficient ``(*conditions, T, *s)`` at step t, ``(..., *s)`` that broadcasts against states ``(*batch, n)``."""
        if t is None:
            raise ValueError("LocalLinearDynamics are another model at every step, so the step t must be given")
        axes, batch = len(self.conditions), x.shape[:-1]
        if batch[:axes] != self.conditions:
            raise ValueError(
                f"there is a model for each of {tuple(self.conditions)} conditions, so the batch axes of x must begin with them, "
                f"got x {tuple(x.shape)}"
            )
        index = torch.as_tensor(t, device=value.device)
        if bool(((index < 0) | (index >= self.num_steps)).any()):
            raise ValueError(f"the model is given for steps 0..{self.num_steps - 1}, got t={t}")
        if index.ndim == 0:
            found = value.select(axes, int(index))
            return found.reshape(*self.conditions, *[1] * (len(batch) - axes), *found.shape[axes:]).to(x)
        if index.ndim > len(batch):
            raise ValueError(f"t {tuple(index.shape)} must broadcast to the batch axes {tuple(batch)} of x")
        index = index.reshape(*[1] * (len(batch) - index.ndim), *index.shape)
        own = [
            torch.arange(size, device=value.device).reshape(-1, *[1] * (len(batch) - 1 - i))
            for i, size in enumerate(self.conditions)
        ]
        return value[(*own, index)].to(x)


def transition_points(xs: Tensor, us: Tensor) -> Tensor:
    """The points ``[x; u; x']`` of rollouts, ``(*batch, T, 2n + m)``.

    Args:
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.

    Raises:
        ValueError: the shapes do not go together.
    """
    fit = xs.ndim == us.ndim >= 2 and xs.shape[:-2] == us.shape[:-2] and xs.shape[-2] == us.shape[-2] + 1
    if not fit or us.shape[-2] == 0:
        raise ValueError(
            "need states (*batch, T+1, n) and controls (*batch, T, m) of at least one step, got "
            f"{tuple(xs.shape)} and {tuple(us.shape)}"
        )
    return torch.cat([xs[..., :-1, :], us, xs[..., 1:, :]], dim=-1)


def fit_local_linear(
    xs: Tensor,
    us: Tensor,
    *,
    dt: float,
    prior: RegressionPrior | None = None,
    regularization: float = 1e-6,
    state_names: Sequence[str] | None = None,
    control_names: Sequence[str] | None = None,
    angles: Sequence[int] = (),
) -> LocalLinearDynamics:
    """Linear-Gaussian dynamics for each condition and step, from N rollouts of each condition; in float64.

    Args:
        xs: states ``(*batch, N, T+1, n)``; a rollout with a value that is not finite does not count.
        us: controls ``(*batch, N, T, m)``.
        dt: duration of one step [s].
        prior: a :class:`~dynamics.MixturePrior`, a :class:`~dynamics.NormalInverseWishart`, or what has their ``moments``, over
            ``[x; u; x']``; None for maximum likelihood.
        regularization: variance that is added to each of x, u and x', in their squared units.
        state_names: one name per state.
        control_names: one name per control.
        angles: indices of the states that are angles [rad]; they must not jump by a turn within or between rollouts.

    Raises:
        ValueError: shapes do not fit, a condition has too few finite rollouts, or the regularization is negative.
    """
    if xs.ndim < 3 or us.ndim < 3:
        raise ValueError(
            "need states (*batch, N, T+1, n) and controls (*batch, N, T, m) of N rollouts, got "
            f"{tuple(xs.shape)} and {tuple(us.shape)}"
        )
    points = transition_points(xs.to(torch.float64), us.to(torch.float64))
    diverged = ~points.isfinite().all(-1).all(-1)
    points = points.masked_fill(diverged[..., None, None], float("nan")).transpose(-3, -2)
    n, m = xs.shape[-1], us.shape[-1]
    found = linear_gaussian(points, n + m, prior=prior, regularization=regularization)
    A, B = found.F.split([n, m], dim=-1)
    return LocalLinearDynamics(
        A, B, found.f, found.covariance, dt=dt, state_names=state_names, control_names=control_names, angles=angles
    )


def _root(covariance: Tensor) -> Tensor:
    """A square root of positive semidefinite matrices, singular ones included."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
