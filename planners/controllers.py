r"""Time-varying linear-Gaussian controllers.

.. math:: u_t \sim \mathcal N(\bar u_t + K_t (x_t \ominus \bar x_t), \; \Sigma_t)

A local optimum of a trajectory optimizer is such a controller with :math:`\Sigma_t = \tau Q_{uu,t}^{-1}` (Levine and
Koltun 2013, section 3). How much two of them differ, and how one changes into a better one that differs little, is
:mod:`planners.kl_constrained`.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dynamics import Dynamics
from planners.expansion import expand_problem
from planners.problem import Problem
from planners.psd import floored, positive_factor, project_psd
from planners.riccati import LinearQuadratic, backward_pass, mv
from planners.solution import Solution


@dataclass(frozen=True, eq=False)
class ControllerMemory:
    """Where a controller stands.

    Attributes:
        step: number of controls given so far.
        generator: source of exploration noise; its present state is part of the value.
    """

    step: int
    generator: torch.Generator


@dataclass(frozen=True, eq=False)
class LinearGaussianController:
    """Feedback about a plan; acts like a policy.

    Attributes:
        dynamics: supplies the tangent space in which state errors are measured.
        xs: nominal states ``(*batch, T+1, n)``.
        us: nominal controls ``(*batch, T, m)``.
        K: gains ``(*batch, T, m, n)``. Beyond the plan its last gain and references are held.
        covariance: ``(*batch, T, m, m)``, or None for a deterministic controller. Where it is not positive definite, as far as
            rounding can tell, its small eigenvalues count as what rounding leaves of the largest.
        t0: step of the first control.
    """

    acts_on: ClassVar[str] = "state"

    dynamics: Dynamics
    xs: Tensor
    us: Tensor
    K: Tensor
    covariance: Tensor | None = None
    t0: int = 0

    def init(self, batch: int | tuple[int, ...] = (), *, generator: torch.Generator | None = None) -> ControllerMemory:
        """Memory for a batch of episodes that start at step t0; noise from a generator seeded with 0 by default."""
        generator = generator.clone_state() if generator else torch.Generator(self.us.device).manual_seed(0)
        return ControllerMemory(0, generator)

    def act(
        self, x: Tensor, memory: ControllerMemory, *, deterministic: bool = True
    ) -> tuple[Tensor, ControllerMemory]:
        """Controls at states ``(*batch, n)`` and the memory for the next step."""
        k = min(memory.step, self.us.shape[-2] - 1)
        dx = self.dynamics.difference(x, self.xs[..., k, :].to(x))
        u = self.us[..., k, :].to(x) + (self.K[..., k, :, :].to(x) @ dx.unsqueeze(-1)).squeeze(-1)
        generator = memory.generator
        if not deterministic and self.covariance is not None:
            generator = generator.clone_state()
            L = positive_factor(self.covariance[..., k, :, :]).to(x)
            noise = torch.randn(u.shape, generator=generator, dtype=u.dtype, device=u.device)
            u = u + (L @ noise.unsqueeze(-1)).squeeze(-1)
        return u, ControllerMemory(memory.step + 1, generator)

    def mean(self, xs: Tensor) -> Tensor:
        """Means of the controls at the states of all steps.

        Args:
            xs: states ``(*samples, *batch, T, n)``, without the one after the last control.

        Returns:
            ``(*samples, *batch, T, m)``.

        Raises:
            ValueError: xs has another number of steps than the controller, or of states.
        """
        T, n = self.us.shape[-2], self.xs.shape[-1]
        if xs.ndim < 2 or xs.shape[-2:] != (T, n):
            raise ValueError(
                f"xs must be (*samples, *batch, {T}, {n}), a state for each control of the plan, got {tuple(xs.shape)}; "
                "leave out the state after the last control"
            )
        dx = self.dynamics.difference(xs, self.xs[..., :T, :].to(xs))
        return self.us.to(xs) + mv(self.K.to(xs), dx)

    def log_prob(self, xs: Tensor, us: Tensor) -> Tensor:
        """Log-densities of the controls at the states of all steps.

        Args:
            xs: states ``(*samples, *batch, T, n)``, without the one after the last control.
            us: controls ``(*samples, *batch, T, m)``.

        Returns:
            ``(*samples, *batch, T)``, a density per product of the controls' units.

        Raises:
            ValueError: a shape does not fit, or the controller is deterministic.
        """
        L, mean = self.covariance_factor().to(xs), self.mean(xs)
        if us.shape[-2:] != mean.shape[-2:]:
            raise ValueError(
                f"us must be (*samples, *batch, {', '.join(map(str, mean.shape[-2:]))}), got {tuple(us.shape)}"
            )
        deviation = torch.linalg.solve_triangular(L, (us.to(xs) - mean).unsqueeze(-1), upper=False).squeeze(-1)
        constant = 0.5 * us.shape[-1] * math.log(2.0 * math.pi)
        return -0.5 * deviation.square().sum(-1) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1) - constant

    def entropy(self) -> Tensor:
        """Differential entropy of the controls of each step given the state [nat], ``(*batch, T)``.

        Raises:
            ValueError: the controller is deterministic.
        """
        L = self.covariance_factor()
        return L.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * L.shape[-1] * math.log(2.0 * math.pi * math.e)

    def with_covariance_floor(self, floor: float) -> "LinearGaussianController":
        """The controller with the same means that explores in every direction with a variance of at least ``floor``.

        Args:
            floor: smallest eigenvalue of the covariances [squared unit of the controls].

        Raises:
            ValueError: the floor is not a positive number.
        """
        if not 0 < floor < math.inf:
            raise ValueError(f"floor must be positive and finite, got {floor}")
        eye = torch.eye(self.us.shape[-1], dtype=self.us.dtype, device=self.us.device)
        covariance = floor * eye.expand(*self.K.shape[:-1], -1) if self.covariance is None else self.covariance
        return replace(self, covariance=floored(covariance, floor))

    def covariance_factor(self) -> Tensor:
        """Lower Cholesky factors of the covariances, ``(*batch, T, m, m)``; NaN where they are not finite.

        Raises:
            ValueError: the controller is deterministic.
        """
        if self.covariance is None:
            raise ValueError(
                "a deterministic controller has no density of controls; make it with controller(temperature=1.0), or give it a "
                "covariance by with_covariance_floor(...)"
            )
        return positive_factor(self.covariance)


def linear_gaussian_controller(solution: Solution, *, temperature: float = 1.0) -> LinearGaussianController:
    """The controller of a solution, see :meth:`Solution.controller`."""
    if not temperature >= 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    K, Quu, us = solution.K, solution.Quu, solution.us
    if K is None or Quu is None:
        riccati = backward_pass(expand_about(solution.problem, solution.xs, us, solution.t0))
        K, Quu = riccati.K.to(us), riccati.Quu.to(us)
    if K.ndim == us.ndim:  # one gain for all steps
        K, Quu = K.unsqueeze(-3), Quu.unsqueeze(-3)
    covariance = temperature * torch.linalg.inv_ex(Quu).inverse if temperature > 0 else None
    return LinearGaussianController(solution.problem.dynamics, solution.xs, us, K, covariance, solution.t0)


@torch.no_grad()
def expand_about(problem: Problem, xs: Tensor, us: Tensor, t0: int = 0) -> LinearQuadratic:
    """The linear-quadratic model of a problem about a plan, in tangent-space displacements from it, made convex.

    The joint cost Hessian of each step is projected onto positive semidefinite matrices, plus a small multiple of the
    identity for the controls, so that the backward pass always has a minimum; for the same reason the model is in double
    precision. Costs are those of the present: the discount is that of the model.

    Args:
        problem: dynamics, cost and terminal value; limits, constraints and termination are not part of the model.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.
        t0: step of the first control.
    """
    e = expand_problem(replace(problem, discount=1.0), xs, us, t0)
    d, m = e.p_T.shape[-1], us.shape[-1]
    hessian = project_psd(e.H.double())
    scale = hessian.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1.0)[..., None, None]
    return LinearQuadratic(
        A=e.F[..., :d].double(),
        B=e.F[..., d:].double(),
        b=torch.zeros_like(e.gap, dtype=torch.float64),
        Q=hessian[..., :d, :d],
        N=hessian[..., :d, d:],
        R=hessian[..., d:, d:] + 1e-8 * scale * torch.eye(m, dtype=torch.float64, device=us.device),
        q=e.g[..., :d].double(),
        r=e.g[..., d:].double(),
        P_T=project_psd(e.P_T.double()),
        p_T=e.p_T.double(),
        discount=problem.discount,
    )
