r"""The linear-quadratic regulator, finite and infinite horizon.

Finite horizon: the Riccati recursion of :mod:`planners.riccati`. Infinite horizon: the discrete algebraic Riccati equation

.. math:: P = Q + \gamma A^\top P A - (N + \gamma A^\top P B)(R + \gamma B^\top P B)^{-1} (N + \gamma A^\top P B)^\top

by the structure-preserving doubling algorithm (Chu, Fan and Lin 2005, equation 2.8), which converges quadratically.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dynamics import LinearDynamics
from planners.problem import Problem, check_shape
from planners.riccati import LinearQuadratic, algebraic_riccati, backward_pass, mv, solved
from planners.solution import Solution, Status, finished
from planners.solve import Planner, Request, Unrolled


@dataclass(frozen=True)
class LQR(Planner):
    """Exact optimal control of linear (affine, time-varying) dynamics under a quadratic cost.

    With ``horizon=math.inf`` the solution holds the stationary gain K and value Hessian P, and its plan is the first step.

    Attributes:
        max_iterations: doublings of the infinite-horizon solve; k of them look 2^k steps ahead.
        tolerance: relative residual of the algebraic Riccati equation at which it counts as solved.

    Solving raises ValueError unless the dynamics are LinearDynamics and the cost is quadratic.

    Raises:
        ValueError: a field is out of range.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"discount", "infinite horizon"})
    gradients: ClassVar[tuple[type, ...]] = (Unrolled,)

    max_iterations: int = 60
    tolerance: float = 1e-8

    def __post_init__(self):
        if not (isinstance(self.max_iterations, int) and self.max_iterations >= 1):
            raise ValueError(f"max_iterations must be an integer of at least 1, got {self.max_iterations!r}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")

    def check(self, problem: Problem) -> None:
        """Raise ValueError unless the problem is linear-quadratic and, for an infinite horizon, time-invariant."""
        dynamics, cost = problem.dynamics, problem.cost
        if not isinstance(dynamics, LinearDynamics) or not cost.is_quadratic:
            raise ValueError(
                f"LQR needs LinearDynamics and a quadratic cost, got {type(dynamics).__name__} and {type(cost).__name__}; "
                "for other problems use ICEM()"
            )
        if problem.horizon == math.inf and dynamics.time_varying:
            raise ValueError(
                f"an infinite horizon needs the same dynamics at every step, but {', '.join(sorted(dynamics.time_varying))} "
                f"is given for {dynamics.num_steps} steps; set horizon={dynamics.num_steps}"
            )
        if problem.horizon == math.inf and cost.time_varying:
            raise ValueError(
                "an infinite horizon needs the same cost at every step, but the goal or a coefficient is given by step; "
                "set a finite horizon"
            )

    def plan(self, problem: Problem, x0: Tensor, request: Request) -> Solution:
        """Exact solution; called through ``solve``."""
        if problem.horizon == math.inf:
            return self._infinite(problem, x0, request.t0)
        lq = linear_quadratic(problem, x0, request.t0)
        riccati = backward_pass(lq)
        x, xs, us = x0, [x0], []
        for t in range(int(problem.horizon)):
            us.append(mv(riccati.K[..., t, :, :], x) + riccati.k[..., t, :])
            x = mv(lq.A[..., t, :, :], x) + mv(lq.B[..., t, :, :], us[-1]) + lq.b[..., t, :]
            xs.append(x)
        xs, us = torch.stack(xs, dim=-2), torch.stack(us, dim=-2)
        cost = problem.trajectory_cost(xs, us, t0=request.t0)
        status = torch.where(riccati.convex, int(Status.CONVERGED), int(Status.NOT_CONVEX)).expand(cost.shape)
        return finished(
            problem,
            xs,
            us,
            cost,
            status,
            t0=request.t0,
            K=riccati.K,
            P=riccati.P,
            Quu=riccati.Quu,
            stats={"iterations": 1},
        )

    def _infinite(self, problem: Problem, x0: Tensor, t0: int) -> Solution:
        lq = _first_step(linear_quadratic(replace(problem, horizon=1), x0, t0))
        P, iterations = algebraic_riccati(lq, max_iterations=self.max_iterations)
        gamma, PB = lq.discount, P @ lq.B
        Quu = lq.R + gamma * lq.B.mT @ PB
        Qxu = lq.N + gamma * lq.A.mT @ PB
        K = -solved(Quu, Qxu.mT)
        closed = lq.A + lq.B @ K
        residual = _norm(lq.Q + gamma * lq.A.mT @ P @ lq.A + Qxu @ K - P).detach()
        residual = residual / (_norm(P) + _norm(lq.Q)).detach().clamp_min(torch.finfo(P.dtype).tiny)
        p, k, constant = _affine_part(lq, P, K, Quu, closed, lambda x, u: problem.cost.stage(x, u, t0))
        u = mv(K, x0) + k
        xs = torch.stack([x0, mv(lq.A, x0) + mv(lq.B, u) + lq.b], dim=-2)
        cost = 0.5 * (x0 * mv(P, x0)).sum(-1) + (p * x0).sum(-1) + constant
        stable = (residual <= self._tolerance(P)) & (_spectral_radius(closed) * math.sqrt(gamma) < 1)
        status = torch.where(_is_positive(Quu), int(Status.CONVERGED), int(Status.NOT_CONVEX))
        status = torch.where(stable & constant.isfinite(), status, int(Status.NOT_STABILIZABLE))
        status = torch.where(_is_positive(lq.R), status, int(Status.NOT_CONVEX))
        stats = {"iterations": iterations, "residual": float(residual.max()) if residual.numel() else 0.0}
        return finished(problem, xs, u.unsqueeze(-2), cost, status, t0=t0, K=K, P=P, Quu=Quu, stats=stats)

    def _tolerance(self, P: Tensor) -> float:
        return max(self.tolerance, 1e3 * torch.finfo(P.dtype).eps)


def linear_quadratic(problem: Problem, x0: Tensor, t0: int = 0) -> LinearQuadratic:
    """The matrices of a problem with LinearDynamics and quadratic cost, in the dtype and for the batch of x0 ``(*batch, n)``."""
    dynamics = problem.dynamics
    if not isinstance(dynamics, LinearDynamics):
        raise TypeError(f"dynamics must be LinearDynamics, got {type(dynamics).__name__}")
    T = int(problem.horizon)
    A, B, b = zip(*(dynamics.coefficients(x0, t0 + k) for k in range(T)), strict=True)
    steps = t0 + torch.arange(T, device=x0.device)
    zero_x = x0.new_zeros(*x0.shape[:-1], T, dynamics.state_dim)
    zero_u = x0.new_zeros(*x0.shape[:-1], T, dynamics.control_dim)
    stage = problem.cost.expand(zero_x, zero_u, steps)
    check_shape("the stage cost", stage.value, zero_x.shape[:-1])
    terminal = problem.cost.expand_terminal(torch.zeros_like(x0))
    return LinearQuadratic(
        A=torch.stack(A, dim=-3),
        B=torch.stack(B, dim=-3),
        b=torch.stack(b, dim=-2),
        Q=stage.xx,
        N=stage.xu,
        R=stage.uu,
        q=stage.x,
        r=stage.u,
        P_T=terminal.xx,
        p_T=terminal.x,
        discount=problem.discount,
    )


def _first_step(lq: LinearQuadratic) -> LinearQuadratic:
    """The same matrices without their time axis."""
    matrices = {name: getattr(lq, name)[..., 0, :, :] for name in ("A", "B", "Q", "N", "R")}
    vectors = {name: getattr(lq, name)[..., 0, :] for name in ("b", "q", "r")}
    return replace(lq, **matrices, **vectors)


def _affine_part(
    lq: LinearQuadratic, P: Tensor, K: Tensor, Quu: Tensor, closed: Tensor, stage: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient p and constant v of the value x'Px/2 + p'x + v, and the feedforward control k: ``(p, k, v)``.

    (I - gamma (A + BK)') p = q + K'r + gamma (A + BK)' P b and k = -Quu^-1 (r + gamma B' (p + P b)).
    v = (l(0, 0) + gamma (b'Pb/2 + p'b) - k'Quu k/2) / (1 - gamma). Without discount the cost is finite only if the state x_s
    at which the closed loop settles is free, which then fixes v by V(x_s) = 0; otherwise v is infinite.
    """
    gamma = lq.discount
    eye = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    right = lq.q + mv(K.mT, lq.r) + gamma * mv(closed.mT, mv(P, lq.b))
    p = solved(eye - gamma * closed.mT, right.unsqueeze(-1)).squeeze(-1)
    k = -solved(Quu, (lq.r + gamma * mv(lq.B.mT, p + mv(P, lq.b))).unsqueeze(-1)).squeeze(-1)
    drift = gamma * (lq.b * (0.5 * mv(P, lq.b) + p)).sum(-1)
    saved = 0.5 * (k * mv(Quu, k)).sum(-1)
    at_zero = stage(torch.zeros_like(p), torch.zeros_like(k))
    if gamma < 1:
        return p, k, (at_zero + drift - saved) / (1 - gamma)
    settled = solved(eye - closed, (mv(lq.B, k) + lq.b).unsqueeze(-1)).squeeze(-1)
    # evaluated there, and not as at_zero + drift - saved: an error of the settled state enters only by its square
    rate = stage(settled, mv(K, settled) + k)
    free = rate.abs() <= 1e3 * torch.finfo(P.dtype).eps * (at_zero.abs() + drift.abs() + saved.abs())
    v = -(settled * (0.5 * mv(P, settled) + p)).sum(-1)
    return p, k, torch.where(free, v, torch.full_like(v, math.inf))


def _is_positive(matrix: Tensor) -> Tensor:
    """Whether symmetric matrices are positive definite, ``(*batch,)``."""
    return torch.linalg.cholesky_ex(matrix.detach()).info == 0


def _spectral_radius(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvals(matrix.detach().nan_to_num()).abs().amax(-1)


def _norm(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix)
