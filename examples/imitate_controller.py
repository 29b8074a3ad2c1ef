"""Learn a controller from what it does: the cost it minimizes or the model it plans with, by derivatives of its plans.

    python examples/imitate_controller.py                            # what does a pendulum's controller want?
    python examples/imitate_controller.py --system cart-pole --unknown dynamics

Amos et al. (2018), section 5.3: an expert controls by MPC within limits. A learner with the same kind of controller, but wrong
weights and goal, or wrong masses and lengths, sees its states and controls on ten trajectories. It minimizes the difference of
the controls by Levenberg-Marquardt steps, with derivatives of its controls by its unknowns from an MPCLayer. At the end: the
error of its controls on trajectories that it has not seen, and a figure.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import tyro
from torch import Tensor

from dynamics import CartPole, Dynamics, Pendulum
from dynamics.progress import progress_bar
from mbrl.plots import save_figure
from mbrl.plots.style import BLUE, GRAY, INK, ORANGE, grid_of_axes, in_house_style
from planners import DDP, Implicit, MPCLayer, Problem, ResidualCost

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    system: Literal["pendulum", "cart-pole"] = "pendulum"
    """What is controlled."""
    unknown: Literal["cost", "dynamics", "both"] = "cost"
    """What the learner does not know of the expert's problem."""
    curvature: Literal["exact", "gauss-newton"] = "exact"
    """Second derivatives in the derivatives of plans; Amos et al. use Gauss-Newton."""
    damping: float = 0.0
    """Friction of the expert's plant and model, which the learner's model does not have."""
    trajectories: int = 10
    """Trajectories to learn from."""
    steps: int = 20
    """Length of a trajectory."""
    horizon: int = 15
    """Steps that expert and learner plan ahead."""
    iterations: int = 40
    """Steps of the optimizer at most."""
    seed: int = 0
    """Of all that is random."""
    out: Path = Path("runs/imitate_controller")
    """Folder for the figure."""


@dataclass(frozen=True)
class System:
    """A system, what its expert wants, and what is unknown of it."""

    model: Dynamics
    damping: tuple[str, ...]  # the parameters that are friction
    angle: int  # which state is an angle
    limit: float  # of the control [N m or N]
    control_weight: float  # known: only ratios of weights matter
    weights: tuple[float, ...]  # of the states
    goal: tuple[int, float]  # which state has a goal that is not zero, and the goal
    physical: dict[str, float]  # parameters of the model that may be unknown
    spread: tuple[float, ...]  # of initial states, uniform about zero


SYSTEMS = {
    "pendulum": System(
        model=Pendulum(),
        damping=("damping",),
        angle=0,
        limit=3.0,
        control_weight=0.2,
        weights=(2.0, 0.2),
        goal=(0, 0.2),
        physical={"mass": 1.0, "length": 1.0, "gravity": 9.81},
        spread=(1.5, 2.0),
    ),
    "cart-pole": System(
        model=CartPole(),
        damping=("cart_damping",),
        angle=1,
        limit=6.0,
        control_weight=0.02,
        weights=(2.0, 4.0, 0.2, 0.2),
        goal=(0, 0.3),
        physical={"cart_mass": 1.0, "pole_mass": 0.2, "length": 0.6},
        spread=(1.0, 0.6, 1.0, 1.5),
    ),
}


class Controller:
    """The MPC of a system as a function of what may be unknown: logarithms of weights, a goal, logarithms of parameters.

    Args:
        system: what is controlled.
        horizon: steps to plan ahead.
        damping: friction of the model.
        curvature: of the derivatives of plans.
    """

    def __init__(self, system: System, horizon: int, *, damping: float = 0.0, curvature: str = "exact"):
        self.system, self.horizon = system, horizon
        self.model = system.model.with_parameters(**dict.fromkeys(system.damping, damping))
        self.layer = MPCLayer(
            self.problem,
            DDP(tolerance=1e-8, certify=False),
            gradient=Implicit(curvature=curvature, invalid="zero", tolerance=1e-9),  # type: ignore[arg-type]
        )
        values = [*system.weights, *system.physical.values()]
        logs = torch.tensor(values, dtype=torch.float64).log()
        n = len(system.weights)
        goal = torch.tensor([system.goal[1]], dtype=torch.float64)
        self.truth = torch.cat([logs[:n], goal, logs[n:]])
        """What the expert has, ``(k,)``."""
        self.names = [f"weight of {name}" for name in self.model.state_names]
        self.names += [f"goal of {self.model.state_names[system.goal[0]]}", *system.physical]

    def free(self, unknown: str) -> Tensor:
        """Which entries the learner has to find, ``(k,)`` of bool."""
        of_cost = torch.arange(len(self.truth)) <= len(self.system.weights)
        return {"cost": of_cost, "dynamics": ~of_cost, "both": torch.ones_like(of_cost)}[unknown]

    def guess(self, unknown: str, generator: torch.Generator) -> Tensor:
        """Where the learner starts: what it has to find is off by about a third, its goal at zero."""
        wrong = self.truth + 0.3 * torch.randn(len(self.truth), generator=generator, dtype=torch.float64)
        wrong[len(self.system.weights)] = 0.0
        return torch.where(self.free(unknown), wrong, self.truth)

    def dynamics(self, theta: Tensor) -> Dynamics:
        """The model of unknowns ``(k,)``, or ``(W, k)`` with one model per world."""
        values = theta[..., -len(self.system.physical) :].exp().unbind(-1)
        return self.model.with_parameters(**dict(zip(self.system.physical, values, strict=True)))

    def problem(self, theta: Tensor) -> Problem:
        """What the controller with these unknowns solves."""
        n = self.model.state_dim
        goal_of = torch.nn.functional.one_hot(torch.tensor(self.system.goal[0]), n)

        def state(x: Tensor) -> Tensor:
            values = theta.to(x) if theta.ndim == 1 else theta.to(x).reshape(-1, *[1] * (x.ndim - 2), theta.shape[-1])
            error = x - values[..., n : n + 1] * goal_of
            is_angle = torch.arange(n) == self.system.angle
            distance = torch.where(is_angle, 2.0 * torch.sin(0.5 * error), error)
            return (0.5 * values[..., :n]).exp() * distance

        def stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
            return torch.cat([state(x), self.system.control_weight**0.5 * u], dim=-1)

        cost = ResidualCost(stage, lambda x: 2.0 * state(x))
        limits = -self.system.limit, self.system.limit
        return Problem(self.dynamics(theta), cost, self.horizon, control_limits=limits)

    def act(self, x: Tensor, theta: Tensor | None = None) -> Tensor:
        """Controls ``(*batch, m)`` at states, planned from no control on."""
        with torch.no_grad():
            return self.layer(x, self.truth if theta is None else theta)[0]


@dataclass(frozen=True, eq=False)
class Data:
    """States ``(N, n)``, the expert's controls ``(N, m)``, and the states that followed."""

    x: Tensor
    u: Tensor
    x_next: Tensor


def recorded(expert: Controller, config: Config) -> tuple[Data, Data]:
    """Closed loops of the expert from random initial states: what the learner sees, and as much that it does not see."""
    generator, count = torch.Generator().manual_seed(config.seed), config.trajectories
    spread = torch.tensor(expert.system.spread, dtype=torch.float64)
    x = (2.0 * torch.rand(2 * count, len(spread), generator=generator, dtype=torch.float64) - 1.0) * spread
    plant, xs, us = expert.dynamics(expert.truth), [x], []
    for _ in range(config.steps):
        us.append(expert.act(xs[-1]))
        xs.append(plant(xs[-1], us[-1]))
    logs = (torch.stack(values) for values in (xs[:-1], us, xs[1:]))  # (steps, trajectories, ...)
    both = [values.split(count, dim=1) for values in logs]
    train, test = (Data(*(value.flatten(0, 1) for value in part)) for part in zip(*both, strict=True))
    return train, test


# What is minimized: residuals (N, r) of unknowns, and if asked their Jacobian (N, r, k)

Residuals = Callable[[Tensor, bool], tuple[Tensor, Tensor]]


def imitation(controller: Controller, data: Data) -> Residuals:
    """The controller's controls minus the expert's.

    Plans are searched from no control on, as the expert's are: both find the same one where there are several minima.
    """

    def residuals(theta: Tensor, derivatives: bool) -> tuple[Tensor, Tensor]:
        each = theta.expand(len(data.x), -1).clone().requires_grad_(derivatives)  # one set of unknowns for every sample
        with torch.set_grad_enabled(derivatives):
            u, _ = controller.layer(data.x, each)
        return u.detach() - data.u, jacobian(u, each) if derivatives else torch.empty(0)

    return residuals


def identification(controller: Controller, data: Data) -> Residuals:
    """Errors of the model's predictions of the next state: a learner that ignores what the model is for."""

    def residuals(theta: Tensor, derivatives: bool) -> tuple[Tensor, Tensor]:
        each = theta.expand(len(data.x), -1).clone().requires_grad_(derivatives)
        x_next = controller.dynamics(each)(data.x, data.u)
        return x_next.detach() - data.x_next, jacobian(x_next, each) if derivatives else torch.empty(0)

    return residuals


def jacobian(values: Tensor, each: Tensor) -> Tensor:
    """Derivatives ``(N, r, k)`` of values ``(N, r)``, each row of its own set of unknowns ``(N, k)``."""
    columns = [torch.autograd.grad(column.sum(), each, retain_graph=True)[0] for column in values.unbind(-1)]
    return torch.stack(columns, dim=1)


def levenberg_marquardt(
    residuals: Residuals, theta: Tensor, free: Tensor, iterations: int, title: str
) -> tuple[Tensor, list[float]]:
    """Minimize the mean squared residual over some of the unknowns ``(k,)``; the minimizer, and the loss after each step.

    Steps solve (J'J + mu I) d = -J'r; mu falls after a step that lowers the loss and rises after one that does not, which is
    not taken (Nocedal and Wright 2006, section 10.3).
    """
    r, J = residuals(theta, True)
    mu, losses = 1e-2, [float(r.square().mean())]
    with progress_bar(title, iterations) as advance:
        for iteration in range(iterations):
            flat = J[..., free].flatten(0, 1)
            A, b = flat.mT @ flat, flat.mT @ r.flatten()
            A = A + mu * A.diagonal().mean() * torch.eye(len(b)).to(A)
            tried = theta.clone()
            tried[free] -= torch.linalg.solve(A, b)
            loss = float(residuals(tried, False)[0].square().mean())
            if loss < losses[-1]:
                theta, mu = tried, 0.2 * mu
                r, J = residuals(theta, True)
                loss = float(r.square().mean())
            else:
                mu, loss = 5.0 * mu, losses[-1]
            losses.append(loss)
            advance(iteration + 1, f"loss {loss:.1e}")
            if mu > 1e4 or loss < 1e-16 or 0.0 < losses[-2] - loss < 1e-6 * loss:
                break
    return theta, losses


@dataclass(frozen=True, eq=False)
class Result:
    """What a learner came to: unknowns before and after, the loss after each step, and its error on unseen trajectories."""

    start: Tensor
    theta: Tensor
    losses: list[float]
    test_loss: float
    test_loss_at_start: float


def learned(config: Config, learner: Controller, train: Data, test: Data, *, identify: bool = False) -> Result:
    """Learn from some trajectories, by imitation or by identification; the loss on others is that of imitation."""
    start = learner.guess(config.unknown, torch.Generator().manual_seed(config.seed + 1))
    residuals = (identification if identify else imitation)(learner, train)
    title = "identification" if identify else "imitation"
    theta, losses = levenberg_marquardt(residuals, start, learner.free(config.unknown), config.iterations, title)
    before, after = (float((learner.act(test.x, v) - test.u).square().mean()) for v in (start, theta))
    return Result(start, theta, losses, after, before)


@in_house_style
def plot(learner: Controller, config: Config, result: Result, test: Data) -> "Figure":
    """The loss after each step, and the controls of the first unseen trajectory."""
    figure, (top, bottom) = grid_of_axes(2, height=2.6, share_x=False)
    top.semilogy(result.losses, color=BLUE)
    top.set(xlabel="step", ylabel="mean squared error of controls", title="Imitation of what was seen")
    first = slice(0, None, config.trajectories)
    times = learner.model.dt * torch.arange(config.steps)
    bottom.axhspan(-learner.system.limit, learner.system.limit, color=GRAY, alpha=0.12, linewidth=0)
    bottom.plot(times, learner.act(test.x[first], result.start), color=ORANGE, linestyle="--", label="learner at first")
    bottom.plot(times, test.u[first], color=INK, linewidth=4, alpha=0.35, label="expert")
    bottom.plot(times, learner.act(test.x[first], result.theta), color=BLUE, label="learner")
    bottom.set(xlabel="time [s]", ylabel=learner.model.control_names[0], title="At states that were not seen")
    bottom.legend()
    return figure


def main(config: Config) -> bool:
    """Whether the learner's controls at states that it has not seen are the expert's."""
    torch.set_num_threads(1)  # small tensors
    system = SYSTEMS[config.system]
    expert = Controller(system, config.horizon, damping=config.damping)
    train, test = recorded(expert, config)
    active = float((train.u.abs() == system.limit).double().mean())
    print(f"{len(train.u)} controls of the expert, {100 * active:.0f} % of them at a limit")

    learner = Controller(system, config.horizon, curvature=config.curvature)
    result = learned(config, learner, train, test)
    values = zip(learner.names, *(v.tolist() for v in (learner.free(config.unknown), learner.truth)), strict=True)
    for (name, free, true), first, last in zip(values, result.start.tolist(), result.theta.tolist(), strict=True):
        if free:
            shown = [v if name.startswith("goal") else math.exp(v) for v in (first, last, true)]
            print("{}: {:.4g} at first, {:.6g} learned, {:.6g} true".format(name, *shown))
    print(f"error of unseen controls: {result.test_loss_at_start:.1e} at first, {result.test_loss:.1e} learned")
    if config.damping and config.unknown != "cost":
        other = learned(config, learner, train, test, identify=True)
        print(f"error of unseen controls with the model of best predictions: {other.test_loss:.1e}")

    file = save_figure(plot(learner, config, result, test), config.out / "imitation.png")
    good = result.test_loss < (1e-6 if not config.damping else result.test_loss_at_start)
    print(f"{'imitated' if good else 'NOT imitated'}; {file}")
    return good


if __name__ == "__main__":
    raise SystemExit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
