r"""Time-varying linear-Gaussian controllers.

.. math:: u_t \sim \mathcal N(\bar u_t + K_t (x_t \ominus \bar x_t), \; \Sigma_t)

A local optimum of a trajectory optimizer is such a controller with :math:`\Sigma_t = \tau Q_{uu,t}^{-1}` (Levine and
Koltun 2013, section 3).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynamics import Dynamics
from planners.problem import Problem
from planners.riccati import LinearQuadratic, backward_pass
from planners.solution import Solution


@dataclass(frozen=True, eq=False)
class ControllerMemory:
    """Where a controller stands.

    Attributes:
        step: number of controls given so far.
        generator: source of exploration noise.
    """

    step: int
    generator: torch.Generator | None


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
        """Memory for a batch of episodes that start at step t0."""
        return ControllerMemory(0, generator)

    def act(
        self, x: Tensor, memory: ControllerMemory, *, deterministic: bool = True
    ) -> tuple[Tensor, ControllerMemory]:
        """Controls at states ``(*batch, n)`` and the memory for the next step."""
        k = min(memory.step, self.us.shape[-2] - 1)
        dx = self.dynamics.difference(x, self.xs[..., k, :].to(x))
        u = self.us[..., k, :].to(x) + (self.K[..., k, :, :].to(x) @ dx.unsqueeze(-1)).squeeze(-1)
        if not deterministic and self.covariance is not None:
            L = torch.linalg.cholesky(self.covariance[..., k, :, :].to(x))
            noise = torch.randn(u.shape, generator=memory.generator, dtype=u.dtype, device=u.device)
            u = u + (L @ noise.unsqueeze(-1)).squeeze(-1)
        return u, ControllerMemory(memory.step + 1, memory.generator)


def linear_gaussian_controller(solution: Solution, *, temperature: float = 1.0) -> LinearGaussianController:
    """The controller of a solution, see :meth:`Solution.controller`."""
    if not temperature >= 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    K, Quu = solution.K, solution.Quu
    if K is None or Quu is None:
        lq = expand_about(solution.problem, solution.xs, solution.us, solution.t0)
        riccati = backward_pass(lq)
        K, Quu = riccati.K, riccati.Quu
    if K.ndim == solution.us.ndim:  # one gain for all steps
        K, Quu = K.unsqueeze(-3), Quu.unsqueeze(-3)
    covariance = temperature * torch.linalg.inv(Quu) if temperature > 0 else None
    return LinearGaussianController(solution.problem.dynamics, solution.xs, solution.us, K, covariance, solution.t0)


@torch.no_grad()
def expand_about(problem: Problem, xs: Tensor, us: Tensor, t0: int = 0) -> LinearQuadratic:
    """The linear-quadratic model of a problem about a plan, in displacements from it.

    The joint cost Hessian of each step is projected onto positive semidefinite matrices, plus a small multiple of the
    identity for the controls, so that the backward pass always has a minimum.

    Args:
        problem: dynamics and cost; limits are not part of the model.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.
        t0: step of the first control.
    """
    steps = t0 + torch.arange(us.shape[-2], device=us.device)
    linear = problem.dynamics.linearize(xs[..., :-1, :], us, steps)
    discounts = problem.discount ** (steps - t0).to(us)
    cost = problem.cost.expand(xs[..., :-1, :], us, steps)
    terminal = problem.cost.expand_terminal(xs[..., -1, :])
    n, m = xs.shape[-1], us.shape[-1]
    hessian = torch.cat([torch.cat([cost.xx, cost.xu], dim=-1), torch.cat([cost.xu.mT, cost.uu], dim=-1)], dim=-2)
    hessian = project_psd(hessian)
    scale = hessian.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).clamp_min(1.0).unsqueeze(-1)
    R = hessian[..., n:, n:] + 1e-8 * scale * torch.eye(m, dtype=us.dtype, device=us.device)
    weight, matrix_weight = discounts.unsqueeze(-1), discounts[:, None, None]
    final = problem.discount ** us.shape[-2]
    return LinearQuadratic(
        A=linear.fx,
        B=linear.fu,
        b=torch.zeros_like(xs[..., 1:, :]),
        Q=matrix_weight * hessian[..., :n, :n],
        N=matrix_weight * hessian[..., :n, n:],
        R=matrix_weight * R,
        q=weight * cost.x,
        r=weight * cost.u,
        P_T=final * project_psd(terminal.xx),
        p_T=final * terminal.x,
    )


def project_psd(matrix: Tensor) -> Tensor:
    """The nearest positive semidefinite matrix (Frobenius norm) to symmetric ``(*batch, k, k)``."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0.0).unsqueeze(-2)) @ vectors.mT
