"""The lists of instances that drive the contract tests. A new class gets an entry here and is tested everywhere."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from dynamics import (
    Acrobot,
    Car,
    CartPole,
    CountedDynamics,
    DoubleIntegrator,
    Dynamics,
    Ensemble,
    LinearDynamics,
    LinearModel,
    LocalLinearDynamics,
    MemberDynamics,
    MujocoDynamics,
    Pendulum,
    PlanarQuadrotor,
    Quadrotor,
    RandomizedWorlds,
    Reacher,
    TorchDynamics,
    Training,
    TwoLinkArm,
    Unicycle,
)
from dynamics.learned.base import TransitionData
from mbrl import (
    A2C,
    BADMM,
    ISGPS,
    MDGPS,
    PPO,
    REINFORCE,
    TRPO,
    BetaHead,
    CategoricalHead,
    ConstrainedGPS,
    Distillation,
    FittedTeacher,
    GaussianHead,
    GeneralizedAdvantages,
    GuidedPolicySearch,
    Head,
    KLPenalty,
    LocalTeacher,
    MixtureHead,
    ModelTeacher,
    NetworkSettings,
    OnPolicy,
    RewardsToGo,
    SquashedGaussianHead,
    SupervisedStep,
    Task,
)
from mbrl.tasks import CONSTRUCTORS
from planners import (
    CEM,
    DDP,
    ICEM,
    LQR,
    MPPI,
    RRT,
    ColoredNoise,
    ConvexProgram,
    GradientShooting,
    KnotNoise,
    Planner,
    PredictiveSampling,
    RandomShooting,
    SequentialConvex,
    WhiteNoise,
)


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


def worlds() -> RandomizedWorlds:
    """Pendulums of three masses and lengths."""
    values = {"mass": torch.tensor([0.8, 1.0, 1.3]).double(), "length": torch.tensor([1.1, 0.9, 1.0]).double()}
    return RandomizedWorlds(Pendulum(), **values)


def attitudes() -> torch.Tensor:
    """States of a quadrotor in motion."""
    x = torch.randn(6, 13, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    x[:, 3:7] /= x[:, 3:7].norm(dim=-1, keepdim=True)
    return x


def learnable() -> TransitionData:
    """Noisy transitions of a smooth system with three states and two controls."""
    generator = torch.Generator().manual_seed(3)
    x, noise = torch.randn(2, 200, 3, generator=generator, dtype=torch.float64)
    u = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    return TransitionData(x, u, x + 0.1 * torch.sin(x.roll(1, dims=-1)) + 0.1 * u[:, :1] + 0.01 * noise)


def linear_model() -> LinearModel:
    model = LinearModel(3, 2, 0.1, angles=[1])
    model.solve(learnable())
    return model


def local_linear() -> LocalLinearDynamics:
    """Five steps with three states, two controls and correlated noise."""
    mean = linear(5)
    root = 0.1 * mean.A
    return LocalLinearDynamics(mean.A, mean.B, mean.b, root @ root.mT, dt=0.1)


def ensemble(members: int = 3, dtype: torch.dtype = torch.float64) -> Ensemble:
    """Random weights; in float64 it meets the tolerances of the systems."""
    model = Ensemble(3, 2, 0.1, angles=[1], members=members, hidden=(16, 16)).to(dtype)
    model.set_statistics(learnable())
    return model


ALL_SYSTEMS: dict[str, Instance] = {
    "pendulum": Instance(Pendulum),
    "pendulum semi-implicit": Instance(lambda: Pendulum(integrator="semi_implicit_euler")),
    "cartpole": Instance(CartPole),
    "cartpole semi-implicit": Instance(lambda: CartPole(integrator="semi_implicit_euler")),
    "acrobot": Instance(Acrobot),
    "acrobot semi-implicit": Instance(lambda: Acrobot(integrator="semi_implicit_euler")),
    "reacher": Instance(Reacher),
    "reacher semi-implicit": Instance(lambda: Reacher(integrator="semi_implicit_euler")),
    "two-link arm": Instance(TwoLinkArm),
    "two-link arm semi-implicit": Instance(lambda: TwoLinkArm(integrator="semi_implicit_euler")),
    "planar quadrotor": Instance(PlanarQuadrotor),
    "planar quadrotor semi-implicit": Instance(lambda: PlanarQuadrotor(integrator="semi_implicit_euler")),
    "quadrotor": Instance(Quadrotor, {"x": attitudes()}),
    "quadrotor at rest": Instance(Quadrotor, {"x": Quadrotor().hover_state(torch.zeros(1, 3)), "u": torch.ones(1, 4)}),
    "car": Instance(Car),
    "unicycle": Instance(Unicycle),
    "double integrator": Instance(DoubleIntegrator),
    "double integrator in space": Instance(lambda: DoubleIntegrator(3, integrator="semi_implicit_euler")),
    "linear": Instance(linear),
    "linear time-varying": Instance(lambda: linear(5), {"t": 1}),
    "mujoco cartpole": Instance(lambda: MujocoDynamics(CartPole().mjcf(rail=5.0), frame_skip=2), {"exact": True}),
    "pendulum in three worlds": Instance(worlds),
    "counted": Instance(lambda: CountedDynamics(Pendulum())),
    "counted MuJoCo": Instance(lambda: CountedDynamics(MujocoDynamics(Pendulum().mjcf())), {"exact": True}),
    "member of an ensemble": Instance(lambda: MemberDynamics(ensemble(), 1)),
    "torch next state": Instance(lambda: spring(None)),
    "torch euler": Instance(lambda: spring("euler")),
    "torch rk4": Instance(lambda: spring("rk4")),
    "torch semi-implicit": Instance(lambda: spring("semi_implicit_euler")),
}

ALL_MODELS: dict[str, Instance] = {
    "linear model": Instance(linear_model),
    "local linear": Instance(local_linear, {"t": 1}),
    "ensemble": Instance(ensemble),
    "ensemble in float32": Instance(lambda: ensemble(dtype=torch.float32), {"precision": torch.float32}),
    "single network": Instance(lambda: ensemble(members=1)),
}

ALL_PLANNERS: dict[str, Planner] = {
    "LQR": LQR(),
    "DDP": DDP(),
    "DDP, Gauss-Newton, multiple shooting": DDP(curvature="gauss-newton", shooting="multiple"),
    "convex program": ConvexProgram(),
    "sequential convex": SequentialConvex(),
    "random shooting": RandomShooting(num_samples=200),
    "random shooting, knots": RandomShooting(num_samples=50, max_iterations=2, noise=KnotNoise(2, degree=0)),
    "CEM": CEM(),
    "CEM, cubic knots": CEM(num_samples=40, noise=KnotNoise(3, degree=3)),
    "ICEM": ICEM(),
    "ICEM, mean": ICEM(num_samples=30, max_iterations=2, num_elites=20, noise=WhiteNoise(), execute="mean"),
    "ICEM, knots": ICEM(num_samples=30, max_iterations=2, noise=KnotNoise(2)),
    "MPPI": MPPI(),
    "MPPI, colored": MPPI(num_samples=50, max_iterations=3, noise=ColoredNoise(1.0), execute="best"),
    "gradient shooting": GradientShooting(max_iterations=25),
    "gradient shooting, knots": GradientShooting(knots=2, memory=3, tolerance=1e-7, max_iterations=25),
    "gradient shooting, Adam": GradientShooting(optimizer="adam", max_iterations=10, learning_rate=0.3),
    "predictive sampling": PredictiveSampling(),
    "RRT": RRT(max_iterations=3, num_extensions=4),
    "RRT, one at a time": RRT(goal_bias=0.5, num_controls=4, max_steps=2, num_extensions=1, max_iterations=5),
    "predictive sampling, white": PredictiveSampling(num_samples=1, max_iterations=3, noise=WhiteNoise()),
}

# each for a number of features
ALL_HEADS: dict[str, Callable[..., Head]] = {
    "categorical": partial(CategoricalHead, choices=4),
    "Gaussian": partial(GaussianHead, action_dim=2),
    "Gaussian, state-dependent": partial(GaussianHead, action_dim=2, initial_std=0.5, state_dependent_std=True),
    "squashed": partial(SquashedGaussianHead, action_dim=2, initial_std=0.5),
    "squashed, state-dependent": partial(SquashedGaussianHead, action_dim=2, state_dependent_std=True),
    "beta": partial(BetaHead, action_dim=2),
    "mixture": partial(MixtureHead, action_dim=2, components=3),
}

SMALL = {"num_envs": 4, "steps_per_iteration": 64, "sequence_length": 4}

# with iterations that are short
ALL_ON_POLICY: dict[str, OnPolicy] = {
    "PPO": PPO(**SMALL, epochs=2, minibatch_size=32),
    "PPO, penalty": PPO(**SMALL, epochs=2, minibatch_size=32, objective=KLPenalty()),
    "TRPO": TRPO(**SMALL, value_epochs=2, value_minibatch_size=32),
    "TRPO, half of the samples for directions": TRPO(
        **SMALL, value_epochs=2, value_minibatch_size=32, fisher_fraction=0.5
    ),
    "REINFORCE": REINFORCE(**SMALL, value_epochs=2, value_minibatch_size=32),
    "REINFORCE, no baseline": REINFORCE(
        **SMALL, value_epochs=2, value_minibatch_size=32, advantages=RewardsToGo(baseline=False)
    ),
    "A2C": A2C(**SMALL),
    "A2C, entropy": A2C(**SMALL, entropy_weight=0.01, advantages=GeneralizedAdvantages()),
}

SHORT = {
    "conditions": 2,
    "samples": 2,
    "network": NetworkSettings(hidden=(8,)),
    "supervised": SupervisedStep(steps=20),
    "teacher": ModelTeacher(planner=DDP(max_iterations=2)),
}

# with iterations that are short
ALL_GPS: dict[str, GuidedPolicySearch] = {
    "importance sampling": ISGPS(**SHORT, descents=3),
    "importance sampling, Adam, adaptive guides": ISGPS(
        **SHORT, optimizer="adam", minibatch=1, descents=3, adaptive=True, resample=False
    ),
    "mirror descent": MDGPS(**SHORT),
    "mirror descent, local models, on the policy's samples": MDGPS(
        **{**SHORT, "teacher": LocalTeacher()}, on_policy=True, remembered=2
    ),
    "constrained": ConstrainedGPS(**SHORT),
    "method of multipliers": BADMM(**SHORT, inner_iterations=2),
    "distillation": Distillation(**SHORT),
    "distillation of a learned model": Distillation(
        **{
            **SHORT,
            "teacher": FittedTeacher(
                planner=DDP(max_iterations=2),
                scout=PredictiveSampling(num_samples=5),
                lessons=1,
                members=1,
                hidden=(8,),
                training=Training(steps=20),
            ),
        }
    ),
}

ALL_TASKS: dict[str, Callable[..., Task]] = CONSTRUCTORS


def backends(name: str) -> tuple[str, ...]:
    """The backends between which a task's constructor lets one choose."""
    return ("mujoco", "torch") if "backend" in inspect.signature(ALL_TASKS[name]).parameters else ()


# name and keywords of every task on every backend that it has
ALL_TASK_VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    f"{name} on {backend}": (name, {"backend": backend}) for name in ALL_TASKS for backend in backends(name)
} | {name: (name, {}) for name in ALL_TASKS if not backends(name)}
