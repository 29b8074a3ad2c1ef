r"""The linear-quadratic model of a problem about a trajectory.

In displacements :math:`z_t = (\delta x_t, \delta u_t)` of the tangent space,

.. math::
    \delta x_{t+1} = F_t z_t + d_t, \qquad
    \ell_t(z) \approx \ell_t + g_t^\top z + \tfrac12 z^\top H_t z, \qquad
    \ell_T(\delta x) \approx \ell_T + p_T^\top \delta x + \tfrac12 \delta x^\top P_T \delta x,

with the gaps :math:`d_t = f(x_t, u_t) \ominus x_{t+1}` of a trajectory that does not obey the dynamics yet. Costs are discounted.
What the dynamics curve is :func:`dynamics_curvature`: with the costates it completes H to the Hessian of the Lagrangian.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynamics import Dynamics
from dynamics.derivatives import gradient_and_hessian, jacobian
from planners.problem import Problem
from planners.psd import convexified
from planners.riccati import mv


@dataclass(frozen=True, eq=False)
class Expansion:
    """A linear-quadratic model; d is the dimension of the tangent space, k = d + m.

    Attributes:
        F: Jacobian of the next state by (dx, du), ``(*batch, T, d, k)``.
        gap: ``(*batch, T, d)``.
        g: gradient of the discounted stage costs, ``(*batch, T, k)``.
        H: their Hessian, ``(*batch, T, k, k)``.
        p_T: gradient of terminal cost and value, ``(*batch, d)``.
        P_T: their Hessian, ``(*batch, d, d)``.
        g_next: gradient of the discounted stage costs by the next state where they depend on it, ``(*batch, T, d)``, or None.
    """

    F: Tensor
    gap: Tensor
    g: Tensor
    H: Tensor
    p_T: Tensor  # noqa: N815 (the symbols of the recursion)
    P_T: Tensor
    g_next: Tensor | None = None


def expand_problem(problem: Problem, xs: Tensor, us: Tensor, t0: int = 0) -> Expansion:
    """Expand dynamics and costs about a trajectory.

    Args:
        problem: dynamics, cost and terminal value; limits, constraints and termination are not part of the model.
        xs: states ``(*batch, T+1, n)``; they need not be a rollout.
        us: controls ``(*batch, T, m)``.
        t0: step of the first control.
    """
    steps = t0 + torch.arange(us.shape[-2], device=us.device)
    x, x_next = xs[..., :-1, :], xs[..., 1:, :]
    linear = problem.dynamics.linearize(x, us, steps)
    F = torch.cat([linear.fx, linear.fu], dim=-1)
    gap = problem.dynamics.difference(linear.x_next, x_next)
    g, H, g_next = _stage(problem, x, us, linear.x_next, F, steps)
    p_T, P_T = _terminal(problem, xs[..., -1, :])
    if problem.discount != 1.0:
        weight = problem.discounts(us)
        g, H = weight[:-1, None] * g, weight[:-1, None, None] * H
        p_T, P_T = weight[-1] * p_T, weight[-1] * P_T
        g_next = None if g_next is None else weight[:-1, None] * g_next
    return Expansion(F, gap, g, H, p_T, P_T, g_next)


def costates(expansion: Expansion) -> Tensor:
    r"""The multipliers of the dynamics along a trajectory, ``(*batch, T+1, d)``.

    .. math:: \lambda_T = p_T, \qquad \lambda_t = g_{x,t} + F_{x,t}^\top \lambda_{t+1} .

    Row t is the gradient of the cost-to-go by x_t; the gradient by u_t is :math:`g_{u,t} + F_{u,t}^\top \lambda_{t+1}`.
    """
    d = expansion.p_T.shape[-1]
    transposed = expansion.F[..., :d].mT.unbind(-3)
    gradients = expansion.g[..., :d].unbind(-2)
    found = [expansion.p_T]
    for A_transposed, gradient in zip(reversed(transposed), reversed(gradients), strict=True):
        found.append(gradient + mv(A_transposed, found[-1]))
    return torch.stack(torch.broadcast_tensors(*reversed(found)), dim=-2)


def control_gradient(expansion: Expansion, costate: Tensor) -> Tensor:
    """Gradient of the total cost by the controls from the costates ``(*batch, T+1, d)``: ``(*batch, T, m)``."""
    d = costate.shape[-1]
    return expansion.g[..., d:] + mv(expansion.F[..., d:].mT, costate[..., 1:, :])


def cost_scale(expansion: Expansion) -> Tensor:
    """The largest second derivative of the costs by a state or a control, ``(*batch,)``.

    What is small is small beside it, whatever the unit of the cost; a cost without curvature is measured by its gradient.
    """
    largest = expansion.H.diagonal(dim1=-2, dim2=-1).abs().amax((-2, -1))
    largest = torch.maximum(largest, expansion.P_T.diagonal(dim1=-2, dim2=-1).abs().amax(-1))
    slope = torch.maximum(expansion.g.abs().amax((-2, -1)), expansion.p_T.abs().amax(-1))
    largest = torch.where(largest > 0, largest, slope)
    return torch.where(largest > 0, largest, 1.0)


def control_scale(expansion: Expansion) -> Tensor:
    """The largest second derivative of the stage costs by a control, ``(*batch,)``; where there is none, the cost's scale."""
    d = expansion.p_T.shape[-1]
    largest = expansion.H[..., d:, d:].diagonal(dim1=-2, dim2=-1).abs().amax((-2, -1))
    return torch.where(largest > 0, largest, cost_scale(expansion))


def stationarity(
    us: Tensor, gradient: Tensor, own: Tensor, limits: tuple[Tensor, Tensor] | None, floor: Tensor
) -> Tensor:
    """How far controls are from making a gradient vanish within their limits, ``(*batch,)``.

    The largest way that a step along the gradient, relative to the terms that cancel in it, goes within the limits.

    Args:
        us: controls ``(*batch, T, m)``.
        gradient: of the total cost or Lagrangian, ``(*batch, T, m)``.
        own: the part of the gradient that comes from the stage costs themselves; the rest comes through the dynamics.
        limits: ``(*batch, T, m)`` each, or None.
        floor: the gradient counts as relative to no less than this, ``(*batch,)``; see :func:`control_scale`.
    """
    scale = torch.maximum(own.abs().amax((-2, -1)), (gradient - own).abs().amax((-2, -1)))
    step = gradient / torch.maximum(scale, floor)[..., None, None]
    if limits is not None:
        step = us - torch.minimum(torch.maximum(us - step, limits[0]), limits[1])
    return step.abs().amax((-2, -1))


def dynamics_curvature(
    problem: Problem, expansion: Expansion, xs: Tensor, us: Tensor, costate: Tensor, t0: int = 0
) -> Tensor:
    """Costate-weighted second derivatives of the dynamics by (dx, du), ``(*batch, T, k, k)``.

    Where stage costs depend on the next state, their gradient by it is a part of the weight.
    """
    steps = t0 + torch.arange(us.shape[-2], device=us.device)
    weight = costate[..., 1:, :] if expansion.g_next is None else costate[..., 1:, :] + expansion.g_next
    c = problem.dynamics.curvature(xs[..., :-1, :], us, weight, steps)
    return torch.cat([torch.cat([c.xx, c.ux.mT], dim=-1), torch.cat([c.ux, c.uu], dim=-1)], dim=-2)


def convex_hessians(
    problem: Problem, expansion: Expansion, xs: Tensor, us: Tensor, t0: int = 0
) -> tuple[Tensor, Tensor]:
    """Positive semidefinite models of the stage Hessians ``(*batch, T, k, k)`` and of the terminal one ``(*batch, d, d)``.

    They are the cost's Gauss-Newton Hessians, see :meth:`planners.Cost.gauss_newton`; for costs of the next state, and with a
    terminal value, the nearest positive semidefinite matrices.
    """
    cost, dynamics = problem.cost, problem.dynamics
    on_manifold = dynamics.tangent_dim != xs.shape[-1]
    weight = problem.discounts(us)
    if cost.needs_next_state:
        H = convexified(expansion.H)
    else:
        x, steps = xs[..., :-1, :], t0 + torch.arange(us.shape[-2], device=us.device)
        H = weight[:-1, None, None] * cost.gauss_newton(x, us, steps)
        if on_manifold:
            H = _pulled_back(H, tangent_basis(dynamics, x))
    if problem.terminal_value is not None:
        return H, convexified(expansion.P_T)
    P_T = weight[-1] * cost.gauss_newton_terminal(xs[..., -1, :])
    if on_manifold:
        P_T = _pulled_back(P_T, tangent_basis(dynamics, xs[..., -1, :]))
    return H, P_T


def _pulled_back(hessian: Tensor, basis: Tensor) -> Tensor:
    """A Hessian by (x, u), or by x, as one by (dx, du), or dx."""
    n, d, m = basis.shape[-2], basis.shape[-1], hessian.shape[-1] - basis.shape[-2]
    if m:
        controls = torch.eye(m, dtype=basis.dtype, device=basis.device).expand(*basis.shape[:-2], m, m)
        upper = torch.cat([basis, basis.new_zeros(*basis.shape[:-2], n, m)], dim=-1)
        basis = torch.cat([upper, torch.cat([basis.new_zeros(*basis.shape[:-2], m, d), controls], dim=-1)], dim=-2)
    return basis.mT @ hessian @ basis


def _stage(
    problem: Problem, x: Tensor, us: Tensor, x_next: Tensor, F: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradient ``(*batch, T, k)`` and Hessian of the stage costs by (dx, du), and the gradient by the next state.

    Where the cost depends on the next state the Hessian leaves out what the dynamics curve, see :func:`dynamics_curvature`.
    """
    dynamics, cost = problem.dynamics, problem.cost
    d, m = dynamics.tangent_dim, us.shape[-1]
    rows = steps.unsqueeze(-1)
    if not cost.needs_next_state:
        if d == x.shape[-1]:
            e = cost.expand(x, us, steps)
            H = torch.cat([torch.cat([e.xx, e.xu], dim=-1), torch.cat([e.xu.mT, e.uu], dim=-1)], dim=-2)
            return torch.cat([e.x, e.u], dim=-1), H, None

        def stage(z: Tensor) -> Tensor:
            return cost.stage(dynamics.retract(x.unsqueeze(-2), z[..., :d]), us.unsqueeze(-2) + z[..., d:], rows)

        g, H = gradient_and_hessian(stage, us.new_zeros(*us.shape[:-1], d + m))
        return g, H, None

    def transition(z: Tensor) -> Tensor:
        dx, du, dx_next = z.split([d, m, d], dim=-1)
        moved, reached = dynamics.retract(x.unsqueeze(-2), dx), dynamics.retract(x_next.unsqueeze(-2), dx_next)
        return cost.transition(moved, us.unsqueeze(-2) + du, reached, rows)

    g, H = gradient_and_hessian(transition, us.new_zeros(*us.shape[:-1], d + m + d))
    eye = torch.eye(d + m, dtype=us.dtype, device=us.device).expand(*us.shape[:-1], d + m, d + m)
    basis = torch.cat([eye, F], dim=-2)
    return mv(basis.mT, g), basis.mT @ H @ basis, g[..., d + m :]


def _terminal(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient ``(*batch, d)`` and Hessian of terminal cost and terminal value by displacements dx."""
    dynamics, value = problem.dynamics, problem.terminal_value
    if dynamics.tangent_dim == x.shape[-1]:
        e = problem.cost.expand_terminal(x)
        if value is None:
            return e.x, e.xx
        gradient, hessian = gradient_and_hessian(value, x)
        return e.x + gradient, e.xx + hessian

    def last(dx: Tensor) -> Tensor:
        reached = dynamics.retract(x.unsqueeze(-2), dx)
        return problem.cost.terminal(reached) + (0.0 if value is None else value(reached))

    return gradient_and_hessian(last, x.new_zeros(*x.shape[:-1], dynamics.tangent_dim))


def tangent_basis(dynamics: Dynamics, x: Tensor) -> Tensor:
    """Derivative of retract(x, dx) by dx at zero, ``(*batch, n, d)``."""
    zero = x.new_zeros(*x.shape[:-1], dynamics.tangent_dim)
    return jacobian(lambda dx: dynamics.retract(x.unsqueeze(-2), dx), zero, x.shape[-1])
