"""One step of fixed-step integrators with the control held constant (zero-order hold)."""

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]


def euler(derivative: Field, x: Tensor, u: Tensor, dt: float) -> Tensor:
    """Explicit Euler, order 1: ``x + dt f(x, u)``."""
    return x + dt * derivative(x, u)


def rk4(derivative: Field, x: Tensor, u: Tensor, dt: float) -> Tensor:
    """The classical Runge-Kutta method, order 4."""
    k1 = derivative(x, u)
    k2 = derivative(x + 0.5 * dt * k1, u)
    k3 = derivative(x + 0.5 * dt * k2, u)
    k4 = derivative(x + dt * k3, u)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def semi_implicit_euler(acceleration: Field, x: Tensor, u: Tensor, dt: float) -> Tensor:
    """Semi-implicit Euler, order 1, for ``x = (q, v)``: ``v' = v + dt a(x, u)``, ``q' = q + dt v'``.

    Symplectic, so that the energy error stays bounded, where the acceleration depends on q alone; a mass matrix that varies
    with q makes it depend on v, and the energy drifts.
    """
    q, v = x.chunk(2, dim=-1)
    v_next = v + dt * acceleration(x, u)
    return torch.cat([q + dt * v_next, v_next], dim=-1)


def first_order(acceleration: Field) -> Field:
    """The time derivative ``(v, a)`` of ``x = (q, v)`` for a given acceleration."""

    def derivative(x: Tensor, u: Tensor) -> Tensor:
        return torch.cat([x[..., x.shape[-1] // 2 :], acceleration(x, u)], dim=-1)

    return derivative
