"""The lists of instances that drive the contract tests. A new class gets an entry here and is tested everywhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dynamics import Acrobot, CartPole, DoubleIntegrator, Dynamics, LinearDynamics, Pendulum, TorchDynamics
from planners import ICEM, LQR, Planner


@dataclass(frozen=True)
class Instance:
    """How to make a dynamics, and the options with which ``check_dynamics`` is called."""

    make: Callable[[], Dynamics]
    check: Mapping[str, Any] = field(default_factory=dict)


def linear(*steps: int) -> LinearDynamics:
    """Affine dynamics with three states and two controls; ``steps`` makes the matrices vary with time."""
    generator = torch.Generator().manual_seed(7)
    A, B, b = (torch.randn(*steps, *s, generator=generator, dtype=torch.float64) for s in ((3, 3), (3, 2), (3,)))
    return LinearDynamics(A, B, b, dt=0.1)


def spring(integrator: str | None) -> TorchDynamics:
    """A hardening spring; f is what the integrator asks for."""

    def acceleration(x, u, p):
        force = -p.stiffness * (x[..., 0] + x[..., 0] ** 3) - p.damping * x[..., 1]
        return (force + u[..., 0]).unsqueeze(-1)

    def derivative(x, u, p):
        return torch.cat([x[..., 1:], acceleration(x, u, p)], dim=-1)

    def next_state(x, u, p):
        return x + 0.05 * derivative(x, u, p)

    f = {None: next_state, "semi_implicit_euler": acceleration}.get(integrator, derivative)
    return TorchDynamics(f, 2, 1, dt=0.05, parameters={"stiffness": 4.0, "damping": 0.3}, integrator=integrator)


ALL_SYSTEMS: dict[str, Instance] = {
    "pendulum": Instance(Pendulum),
    "pendulum semi-implicit": Instance(lambda: Pendulum(integrator="semi_implicit_euler")),
    "cartpole": Instance(CartPole),
    "cartpole semi-implicit": Instance(lambda: CartPole(integrator="semi_implicit_euler")),
    "acrobot": Instance(Acrobot),
    "acrobot semi-implicit": Instance(lambda: Acrobot(integrator="semi_implicit_euler")),
    "double integrator": Instance(DoubleIntegrator),
    "double integrator in space": Instance(lambda: DoubleIntegrator(3, integrator="semi_implicit_euler")),
    "linear": Instance(linear),
    "linear time-varying": Instance(lambda: linear(5), {"t": 1}),
    "torch next state": Instance(lambda: spring(None)),
    "torch euler": Instance(lambda: spring("euler")),
    "torch rk4": Instance(lambda: spring("rk4")),
    "torch semi-implicit": Instance(lambda: spring("semi_implicit_euler")),
}

ALL_MODELS: dict[str, Instance] = {}

ALL_PLANNERS: dict[str, Planner] = {
    "LQR": LQR(),
    "ICEM": ICEM(),
    "ICEM, mean": ICEM(num_samples=30, max_iterations=2, num_elites=20, noise_exponent=0.0, execute="mean"),
}
