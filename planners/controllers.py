r"""Time-varying linear-Gaussian controllers.

.. math:: u_t \sim \mathcal N(\bar u_t + K_t (x_t \ominus \bar x_t), \; \Sigma_t)

A local optimum of a trajectory optimizer is such a controller with :math:`\Sigma_t = \tau Q_{uu,t}^{-1}` (Levine and
Koltun 2013, section 3).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynamics import Dynamics, Linearization
from dynamics.derivatives import gradient_and_hessian, jacobian
from planners.problem import Problem
from planners.riccati import LinearQuadratic, backward_pass
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
        covariance: ``(*batch, T, m, m)``, or None for a deterministic controller.
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
            L = torch.linalg.cholesky_ex(self.covariance[..., k, :, :]).L.to(x)
            noise = torch.randn(u.shape, generator=generator, dtype=u.dtype, device=u.device)
            u = u + (L @ noise.unsqueeze(-1)).squeeze(-1)
        return u, ControllerMemory(memory.step + 1, generator)


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
    """The linear-quadratic model of a problem about a plan, in tangent-space displacements from it.

    The joint cost Hessian of each step is projected onto positive semidefinite matrices, plus a small multiple of the
    identity for the controls, so that the backward pass always has a minimum; for the same reason the model is in double
    precision.

    Args:
        problem: dynamics, cost and terminal value; limits and termination are not part of the model.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.
        t0: step of the first control.
    """
    steps = t0 + torch.arange(us.shape[-2], device=us.device)
    linear = problem.dynamics.linearize(xs[..., :-1, :], us, steps)
    gradient, hessian = _stage_expansion(problem, xs, us, steps, linear)
    terminal_gradient, terminal_hessian = _terminal_expansion(problem, xs[..., -1, :])
    hessian = project_psd(hessian.double())
    n, m = problem.dynamics.tangent_dim, us.shape[-1]
    scale = hessian.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1.0)[..., None, None]
    return LinearQuadratic(
        A=linear.fx.double(),
        B=linear.fu.double(),
        b=torch.zeros_like(gradient[..., :n], dtype=torch.float64),
        Q=hessian[..., :n, :n],
        N=hessian[..., :n, n:],
        R=hessian[..., n:, n:] + 1e-8 * scale * torch.eye(m, dtype=torch.float64, device=us.device),
        q=gradient[..., :n].double(),
        r=gradient[..., n:].double(),
        P_T=project_psd(terminal_hessian.double()),
        p_T=terminal_gradient.double(),
        discount=problem.discount,
    )


def project_psd(matrix: Tensor) -> Tensor:
    """The nearest positive semidefinite matrix (Frobenius norm) to symmetric ``(*batch, k, k)``."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0.0).unsqueeze(-2)) @ vectors.mT


def _stage_expansion(
    problem: Problem, xs: Tensor, us: Tensor, steps: Tensor, linear: Linearization
) -> tuple[Tensor, Tensor]:
    """Gradient ``(*batch, T, k)`` and Hessian of the stage costs by displacements (dx, du).

    On a manifold, and where the cost depends on the next state, the Hessian leaves out the curvature of what the cost is
    composed with, as in Gauss-Newton.
    """
    x, x_next, dynamics, cost = xs[..., :-1, :], xs[..., 1:, :], problem.dynamics, problem.cost
    n, m, d = xs.shape[-1], us.shape[-1], dynamics.tangent_dim
    if not cost.needs_next_state:
        e = cost.expand(x, us, steps)
        gradient = torch.cat([e.x, e.u], dim=-1)
        hessian = torch.cat([torch.cat([e.xx, e.xu], dim=-1), torch.cat([e.xu.mT, e.uu], dim=-1)], dim=-2)
        if d == n:
            return gradient, hessian
    else:

        def transition(z: Tensor) -> Tensor:
            x, u, x_next = z.split([n, m, n], dim=-1)
            return cost.transition(x, u, x_next, steps.unsqueeze(-1))

        gradient, hessian = gradient_and_hessian(transition, torch.cat([x, us, x_next], dim=-1))
    rows = [  # of the derivative of (x, u, x_next) by (dx, du)
        torch.cat([_tangent_basis(dynamics, x), x.new_zeros(*x.shape, m)], dim=-1),
        torch.cat([us.new_zeros(*us.shape, d), torch.eye(m).to(us).expand(*us.shape, m)], dim=-1),
    ]
    if cost.needs_next_state:
        rows.append(_tangent_basis(dynamics, x_next) @ torch.cat([linear.fx, linear.fu], dim=-1))
    return _pulled_back(gradient, hessian, torch.cat(rows, dim=-2))


def _terminal_expansion(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient ``(*batch, k)`` and Hessian of terminal cost and terminal value by displacements dx."""
    e = problem.cost.expand_terminal(x)
    gradient, hessian = e.x, e.xx
    if problem.terminal_value is not None:
        value_gradient, value_hessian = gradient_and_hessian(problem.terminal_value, x)
        gradient, hessian = gradient + value_gradient, hessian + value_hessian
    if problem.dynamics.tangent_dim == x.shape[-1]:
        return gradient, hessian
    return _pulled_back(gradient, hessian, _tangent_basis(problem.dynamics, x))


def _tangent_basis(dynamics: Dynamics, x: Tensor) -> Tensor:
    """Derivative of retract(x, dx) by dx at zero, ``(*batch, n, tangent_dim)``."""
    zero = x.new_zeros(*x.shape[:-1], dynamics.tangent_dim)
    return jacobian(lambda dx: dynamics.retract(x.unsqueeze(-2), dx), zero, x.shape[-1])


def _pulled_back(gradient: Tensor, hessian: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    return (basis.mT @ gradient.unsqueeze(-1)).squeeze(-1), basis.mT @ hessian @ basis
