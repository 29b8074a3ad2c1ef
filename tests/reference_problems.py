"""Optimal control problems of other libraries with reference optima, shared by tests and benchmarks.

Each is stated twice: in torch, as a :class:`planners.Problem`, and in numpy, from which costs and gradients of any plan follow
without anything of this library. Reference costs are float64: ``initial_cost`` is that of the initial guess and shows that
the problem is the same, ``optimal_cost`` that of the local optimum that is reached from it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dynamics import LinearDynamics, TorchDynamics
from planners import (
    FunctionCost,
    Problem,
    QuadraticCost,
    ResidualCost,
    Solution,
    StateInequality,
    StateLimits,
    Status,
    TerminalState,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Formula:
    """A problem in numpy, written so that complex numbers pass through: states ``(..., n)``, controls ``(..., m)``."""

    step: Callable[[Array, Array], Array]
    stage: Callable[[Array, Array], Array]
    terminal: Callable[[Array], Array]
    lower: ArrayLike = -math.inf
    upper: ArrayLike = math.inf
    inequality: Callable[[Array], Array] | None = None  # rows (..., k) that must not be positive, of states x_1 .. x_T
    terminal_equality: Callable[[Array], Array] | None = None  # rows (..., k) that must be zero, of the last state

    def rollout(self, x0: Array, us: Array) -> Array:
        """States ``(..., T+1, n)``."""
        xs = [np.broadcast_to(x0, (*us.shape[:-2], x0.shape[-1])).astype(us.dtype)]
        for t in range(us.shape[-2]):
            xs.append(self.step(xs[-1], us[..., t, :]))
        return np.stack(xs, axis=-2)

    def cost(self, x0: Array, us: Array) -> Array:
        """Total costs ``(...)``."""
        xs = self.rollout(x0, us)
        return self.stage(xs[..., :-1, :], us).sum(-1) + self.terminal(xs[..., -1, :])

    def gradient(self, x0: Array, us: Array) -> Array:
        """Derivative of the cost by the controls of one plan ``(T, m)``, by complex steps: exact to round-off."""
        return complex_step(lambda plans: self.cost(x0, plans), us)

    def residual(self, x0: Array, us: Array) -> float:
        """Projected gradient of one plan ``(T, m)``: the largest entry of u - clip(u - dJ/du), zero at an optimum."""
        return float(np.abs(us - np.clip(us - self.gradient(x0, us), self.lower, self.upper)).max())


def complex_step(f: Callable[[Array], Array], z: Array, step: float = 1e-40) -> Array:
    """Derivative of an analytic f, ``(rows, *z.shape) -> (rows, *k)``, at one point z: ``(*k, *z.shape)``."""
    directions = np.eye(z.size).reshape(z.size, *z.shape)
    columns = np.moveaxis(f(z + 1j * step * directions).imag / step, 0, -1)
    return columns.reshape(*columns.shape[:-1], *z.shape)


@dataclass(frozen=True, eq=False)
class ReferenceProblem:
    """A problem, an initial guess and what is known about it.

    Attributes:
        problem: in torch.
        formula: the same in numpy.
        x0: initial states ``(*batch, n)``.
        us0: initial controls ``(*batch, T, m)``.
        initial_cost: that of us0, ``(*batch,)``.
        optimal_cost: that of the optimum reached from us0, ``(*batch,)``; None where none is published.
    """

    problem: Problem
    formula: Formula
    x0: Tensor
    us0: Tensor
    initial_cost: Tensor | None = None
    optimal_cost: Tensor | None = None

    def start(self) -> Solution:
        """The initial guess as a solution, for ``solve(..., init=...)``."""
        xs = self.problem.dynamics.rollout(self.x0, self.us0)
        cost = self.problem.trajectory_cost(xs, self.us0)
        return Solution(self.problem, xs, self.us0, cost, torch.full(cost.shape, int(Status.ITERATION_LIMIT)))

    def evaluate(self, us: Tensor | Array) -> tuple[Array, Array]:
        """Costs and projected gradients ``(*batch,)`` of plans ``(*batch, T, m)``, by the formula in float64."""
        plans = np.asarray(us, dtype=np.float64).reshape(-1, *self.us0.shape[-2:])
        x0 = np.broadcast_to(self.x0.numpy(), (*self.us0.shape[:-2], self.x0.shape[-1])).reshape(len(plans), -1)
        batch = tuple(self.us0.shape[:-2])
        residuals = np.array([self.formula.residual(x, u) for x, u in zip(x0, plans, strict=True)])
        return self.formula.cost(x0, plans).reshape(batch), residuals.reshape(batch)


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).squeeze(-1)


# Bounded LQR of the benchmark of FreyJo/bounded_mpc: unstable, strictly convex

HORIZON_OF_LQR = 20


def bounded_lqr(batch: int = 32, limit: float = 1.0, cost: QuadraticCost | None = None) -> ReferenceProblem:
    """Eight states, four controls within +-limit, 20 steps; optimal costs are known for ``limit`` 1e4 and 1.

    The optimal cost is given for the first two elements. A cost that is handed in shall have the same value.
    """
    random = np.random.RandomState(42)  # the published problem is drawn this way
    A, B, b = np.eye(8) + 0.2 * random.randn(8, 8), random.randn(8, 4), random.randn(8)
    x0 = random.randn(batch, 8)
    eye = torch.eye(8, dtype=torch.float64)
    cost = QuadraticCost(eye, eye[:4, :4], Q_terminal=eye) if cost is None else cost
    problem = Problem(LinearDynamics(A, B, b), cost, HORIZON_OF_LQR, control_limits=(-limit, limit))
    formula = Formula(
        step=lambda x, u: x @ A.T + u @ B.T + b,
        stage=lambda x, u: 0.5 * (x**2).sum(-1) + 0.5 * (u**2).sum(-1),
        terminal=lambda x: 0.5 * (x**2).sum(-1),
        lower=-limit,
        upper=limit,
    )
    known = {1e4: (39.246480296, 70.641020579), 1.0: (46.512372250, 77.971706718)}.get(limit)
    us0 = torch.zeros(batch, HORIZON_OF_LQR, 4, dtype=torch.float64)
    return ReferenceProblem(
        problem, formula, torch.from_numpy(x0), us0, optimal_cost=None if known is None else _double(*known)
    )


# Car parking of Tassa, Mansard and Todorov (2014), demo_car.m

CAR_LENGTH, CAR_STEP = 2.0, 0.03  # distance of the axles [m], time step [s]


def car_parking(seed: int = 0) -> ReferenceProblem:
    """Park a car that starts sideways within 500 steps; x = (x, y, heading, speed), u = (front wheel angle, acceleration).

    The running cost of the position is charged at the last state too, as there. Two local minima are known. Reference costs
    are given for the seeds 0 and 1 of the initial guess.
    """
    weights, scales = (0.1, 0.1, 1.0, 0.3), (0.01, 0.01, 0.01, 1.0)

    def step(x: Tensor, u: Tensor) -> Tensor:
        angle, (px, py, heading, speed) = u[..., 0], x.unbind(-1)
        f = CAR_STEP * speed  # distance rolled by the front wheels
        sine = f * torch.sin(angle)
        b = CAR_LENGTH + f * torch.cos(angle) - torch.sqrt(CAR_LENGTH**2 - sine**2)
        turn = torch.asin(sine / CAR_LENGTH)
        moved = (px + b * torch.cos(heading), py + b * torch.sin(heading), heading + turn, speed + CAR_STEP * u[..., 1])
        return torch.stack(moved, dim=-1)

    def smooth_abs(z: Tensor, p: float) -> Tensor:
        return torch.sqrt(z**2 + p**2) - p

    def stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        effort = 1e-2 * u[..., 0] ** 2 + 1e-4 * u[..., 1] ** 2
        return effort + distance(x)

    def distance(x: Tensor) -> Tensor:
        return 1e-3 * (smooth_abs(x[..., 0], 0.1) + smooth_abs(x[..., 1], 0.1))

    def terminal(x: Tensor) -> Tensor:
        terms = [w * smooth_abs(x[..., i], p) for i, (w, p) in enumerate(zip(weights, scales, strict=True))]
        return torch.stack(terms).sum(0) + distance(x)

    def numpy_step(x: Array, u: Array) -> Array:
        f = CAR_STEP * x[..., 3]
        sine = f * np.sin(u[..., 0])
        b = CAR_LENGTH + f * np.cos(u[..., 0]) - np.sqrt(CAR_LENGTH**2 - sine**2)
        change = (b * np.cos(x[..., 2]), b * np.sin(x[..., 2]), np.arcsin(sine / CAR_LENGTH), CAR_STEP * u[..., 1])
        return x + np.stack(change, axis=-1)

    def numpy_abs(z: Array, p: ArrayLike) -> Array:
        return np.sqrt(z**2 + np.square(p)) - p

    def numpy_distance(x: Array) -> Array:
        return 1e-3 * numpy_abs(x[..., :2], 0.1).sum(-1)

    limits = _double(0.5, 2.0)
    formula = Formula(
        step=numpy_step,
        stage=lambda x, u: (u**2 * [1e-2, 1e-4]).sum(-1) + numpy_distance(x),
        terminal=lambda x: (numpy_abs(x, np.array(scales)) * weights).sum(-1) + numpy_distance(x),
        lower=-limits.numpy(),
        upper=limits.numpy(),
    )
    problem = Problem(
        TorchDynamics(step, 4, 2, dt=CAR_STEP), FunctionCost(stage, terminal), 500, control_limits=(-limits, limits)
    )
    us0 = torch.from_numpy(0.1 * np.random.default_rng(seed).standard_normal((500, 2)))
    initial, optimal = {0: (5.7086, 1.97404), 1: (5.9152, 1.90517)}.get(seed, (None, None))
    x0 = _double(1.0, 1.0, 1.5 * math.pi, 0.0)
    return ReferenceProblem(problem, formula, x0, us0, _known(initial), _known(optimal))


def _known(value: float | None) -> Tensor | None:
    return None if value is None else torch.tensor(value, dtype=torch.float64)


# Unicycle of Crocoddyl, core/actions/unicycle.hxx


def _unicycle_step(x: Tensor, u: Tensor) -> Tensor:
    heading, speed, turn = x[..., 2], u[..., 0], u[..., 1]
    return x + 0.1 * torch.stack((speed * torch.cos(heading), speed * torch.sin(heading), turn), dim=-1)


def _numpy_unicycle_step(x: Array, u: Array) -> Array:
    direction = np.stack([np.cos(x[..., 2]), np.sin(x[..., 2])], axis=-1)
    return x + 0.1 * np.concatenate([u[..., :1] * direction, u[..., 1:]], axis=-1)


UNICYCLE = Formula(
    step=_numpy_unicycle_step,
    stage=lambda x, u: 50.0 * (x**2).sum(-1) + 0.5 * (u**2).sum(-1),
    terminal=lambda x: 50.0 * (x**2).sum(-1),
)


def _unicycle_cost() -> QuadraticCost:
    eye = torch.eye(3, dtype=torch.float64)
    return QuadraticCost(100.0 * eye, eye[:2, :2], Q_terminal=100.0 * eye)


def unicycle(T: int = 20) -> ReferenceProblem:
    """Drive to the origin: x = (x, y, heading), u = (speed, turn rate), from (-1, -1, 1) in 20 steps or (1, 0, 0) in 200.

    The 200 steps are Crocoddyl's own benchmark; the optimal cost is then 50 times the golden ratio, exactly.
    """
    short = T == 20
    problem = Problem(TorchDynamics(_unicycle_step, 3, 2, dt=0.1), _unicycle_cost(), T)
    x0 = _double(-1.0, -1.0, 1.0) if short else _double(1.0, 0.0, 0.0)
    optimal = 249.560897931 if short else 25.0 * (1.0 + math.sqrt(5.0))
    us0 = torch.zeros(T, 2, dtype=torch.float64)
    return ReferenceProblem(problem, UNICYCLE, x0, us0, _known(50.0 * float(x0 @ x0) * (T + 1)), _known(optimal))


# Cart-pole of Crocoddyl's second notebook


def balancing_cart_pole() -> ReferenceProblem:
    """Hold a pole that starts upright and moving, in 50 steps; x = (position, angle, speeds), upright is 0.

    Gravity is not worth resisting: at the optimum the pole goes round once.
    """
    running = (1.0, 1.0, 0.1, 0.001, 0.001)
    return _cart_pole(running, [0.0, 0.0, 1.0, 0.5], 22.447931012, 18.165607393)


def swinging_cart_pole() -> ReferenceProblem:
    """Swing the pole up from near hanging, in 50 steps, with terminal weights a hundred times those on the way.

    The optimal cost is that of the local optimum to which Gauss-Newton steps from controls of zero lead.
    """
    return _cart_pole((100.0, 100.0, 1.0, 0.1, 0.01), [0.0, 3.14, 0.0, 0.0], 20099.99385, 363.769081546)


def _cart_pole(
    terminal_weights: tuple[float, ...], x0: list[float], initial: float, optimal: float
) -> ReferenceProblem:
    cart, pole, length, gravity, dt = 1.0, 0.1, 0.5, 9.81, 0.05
    weights = (1.0, 1.0, 0.1, 0.001, 0.001)  # of sin, 1 - cos, position, speed and angular speed; squared

    def acceleration(x: Tensor, u: Tensor) -> Tensor:
        angle, turn, force = x[..., 1], x[..., 3], u[..., 0]
        s, c = torch.sin(angle), torch.cos(angle)
        mass = cart + pole * s**2
        along = (force + pole * gravity * c * s - pole * length * s * turn**2) / mass
        around = force * c / length + (cart + pole) * gravity * s / length - pole * c * s * turn**2
        return torch.stack([along, around / mass], dim=-1)

    def weighted(x: Tensor, w: tuple[float, ...]) -> Tensor:
        s, c = torch.sin(x[..., 1]), torch.cos(x[..., 1])
        return torch.stack([s, 1.0 - c, x[..., 0], x[..., 2], x[..., 3]], dim=-1) * x.new_tensor(w)

    def stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        return torch.cat([weighted(x, weights), u], dim=-1)

    def terminal(x: Tensor) -> Tensor:
        return weighted(x, terminal_weights)

    def numpy_step(x: Array, u: Array) -> Array:
        s, c, turn, force = np.sin(x[..., 1]), np.cos(x[..., 1]), x[..., 3], u[..., 0]
        push = force - pole * length * s * turn**2
        along = (push + pole * gravity * c * s) / (cart + pole * s**2)
        around = (push * c + (cart + pole) * gravity * s) / (length * (cart + pole * s**2))
        speeds = x[..., 2:] + dt * np.stack([along, around], axis=-1)
        return np.concatenate([x[..., :2] + dt * speeds, speeds], axis=-1)

    def half_square(x: Array, w: tuple[float, ...]) -> Array:
        s, c = np.sin(x[..., 1]), np.cos(x[..., 1])
        parts = (w[0] * s, w[1] * (1.0 - c), w[2] * x[..., 0], w[3] * x[..., 2], w[4] * x[..., 3])
        return 0.5 * (np.stack(parts, axis=-1) ** 2).sum(-1)

    formula = Formula(
        step=numpy_step,
        stage=lambda x, u: half_square(x, weights) + 0.5 * (u**2).sum(-1),
        terminal=lambda x: half_square(x, terminal_weights),
    )
    dynamics = TorchDynamics(acceleration, 4, 1, dt=dt, integrator="semi_implicit_euler", angles=[1])
    problem = Problem(dynamics, ResidualCost(stage, terminal), 50)
    us0 = torch.zeros(50, 1, dtype=torch.float64)
    return ReferenceProblem(problem, formula, _double(*x0), us0, _known(initial), _known(optimal))


# With constraints; optima by SciPy, see optimum_by_slsqp


def unicycle_around_disc() -> ReferenceProblem:
    """The unicycle with both controls within +-3 and a disc of radius 0.35 in its way, in 15 steps."""
    center, radius = np.array([-0.75, -0.4]), 0.35

    def inside(x: Tensor) -> Tensor:
        return radius**2 - (x[..., :2] - torch.from_numpy(center).to(x)).square().sum(-1, keepdim=True)

    formula = replace(
        UNICYCLE,
        lower=-3.0,
        upper=3.0,
        inequality=lambda x: radius**2 - ((x[..., :2] - center) ** 2).sum(-1, keepdims=True),
    )
    disc = StateInequality(inside, name="disc")
    problem = Problem(
        TorchDynamics(_unicycle_step, 3, 2, dt=0.1),
        _unicycle_cost(),
        15,
        control_limits=(-3.0, 3.0),
        constraints=[disc],
        terminal_constraints=[disc],
    )
    us0 = torch.zeros(15, 2, dtype=torch.float64)
    return ReferenceProblem(problem, formula, _double(-1.0, -1.0, 1.0), us0, _known(2400.0), _known(478.681806397))


def raised_pendulum() -> ReferenceProblem:
    """Raise a pendulum from hanging to rest upright in 30 steps of 0.1 s with least effort, its speed within +-2.5 rad/s."""
    dt, top_speed = 0.1, 2.5

    def step(x: Tensor, u: Tensor) -> Tensor:
        speed = x[..., 1] + dt * (9.81 * torch.sin(x[..., 0]) + u[..., 0])
        return torch.stack([x[..., 0] + dt * speed, speed], dim=-1)

    def numpy_step(x: Array, u: Array) -> Array:
        speed = x[..., 1] + dt * (9.81 * np.sin(x[..., 0]) + u[..., 0])
        return np.stack([x[..., 0] + dt * speed, speed], axis=-1)

    formula = Formula(
        step=numpy_step,
        stage=lambda x, u: 0.05 * (u**2).sum(-1),
        terminal=lambda x: 0.0 * x.sum(-1),
        lower=-12.0,
        upper=12.0,
        inequality=lambda x: np.stack([x[..., 1] - top_speed, -x[..., 1] - top_speed], axis=-1),
        terminal_equality=lambda x: x,
    )
    limits = StateLimits([-math.inf, -top_speed], [math.inf, top_speed], name="speed")
    problem = Problem(
        TorchDynamics(step, 2, 1, dt=dt, angles=[0]),
        QuadraticCost(torch.zeros(2, 2, dtype=torch.float64), 0.1 * torch.ones(1, 1, dtype=torch.float64)),
        30,
        control_limits=(-12.0, 12.0),
        constraints=[limits],
        terminal_constraints=[limits, TerminalState([0.0, 0.0])],
    )
    us0 = torch.zeros(30, 1, dtype=torch.float64)
    return ReferenceProblem(problem, formula, _double(math.pi, 0.0), us0, _known(0.0), _known(30.1204624012691))


# Pendulum and cart-pole of mpc.pytorch, env_dx, under their own costs (get_true_obj); sampled as in its notebooks


def seen_pendulum(batch: int = 16, seed: int = 0) -> ReferenceProblem:
    """Hold a pendulum upright within 20 steps of 0.05 s: x = (cos, sin, angular speed), torque within +-2.

    The goal enters the cost with the square root of its weight, as there.
    """
    gravity, dt = 10.0, 0.05
    random = np.random.default_rng(seed)
    angle, speed = random.uniform(-0.5 * np.pi, 0.5 * np.pi, batch), random.uniform(-1.0, 1.0, batch)

    def step(x: Tensor, u: Tensor) -> Tensor:
        c, s, speed = x.unbind(-1)
        speed = speed + dt * (1.5 * gravity * s + 3.0 * u[..., 0])
        angle = torch.atan2(s, c) + dt * speed
        return torch.stack([torch.cos(angle), torch.sin(angle), speed], dim=-1)

    def numpy_step(x: Array, u: Array) -> Array:
        c, s, speed = x[..., 0], x[..., 1], x[..., 2] + dt * (1.5 * gravity * x[..., 1] + 3.0 * u[..., 0])
        return np.stack([*_turned(c, s, dt * speed), speed], axis=-1)

    x0 = np.stack([np.cos(angle), np.sin(angle), speed], axis=-1)
    return _seen(step, numpy_step, x0, [1.0, 1.0, 0.1], [1.0, 0.0, 0.0], 2.0)


def seen_cart_pole(batch: int = 16, seed: int = 0) -> ReferenceProblem:
    """Hold a pole upright within 20 steps of 0.05 s: x = (position, speed, cos, sin, angular speed), force within +-100."""
    gravity, cart, pole, length, dt = 9.8, 1.0, 0.1, 0.5, 0.05
    mass, random = cart + pole, np.random.default_rng(seed)
    angle = random.uniform(-2.0 * np.pi, 2.0 * np.pi, batch)
    turn, position, speed = random.uniform(-0.5, 0.5, (3, batch))

    def step(x: Tensor, u: Tensor) -> Tensor:
        position, speed, c, s, turn = x.unbind(-1)
        push = (u[..., 0] + pole * length * turn**2 * s) / mass
        around = (gravity * s - c * push) / (length * (4.0 / 3.0 - pole * c**2 / mass))
        along = push - pole * length * around * c / mass
        angle = torch.atan2(s, c) + dt * turn
        moved = (position + dt * speed, speed + dt * along, torch.cos(angle), torch.sin(angle), turn + dt * around)
        return torch.stack(moved, dim=-1)

    def numpy_step(x: Array, u: Array) -> Array:
        speed, c, s, turn = (x[..., i] for i in range(1, 5))
        push = (u[..., 0] + pole * length * turn**2 * s) / mass
        around = (gravity * s - c * push) / (length * (4.0 / 3.0 - pole * c**2 / mass))
        along = push - pole * length * around * c / mass
        return np.stack(
            [x[..., 0] + dt * speed, speed + dt * along, *_turned(c, s, dt * turn), turn + dt * around], axis=-1
        )

    x0 = np.stack([position, speed, np.cos(angle), np.sin(angle), turn], axis=-1)
    return _seen(step, numpy_step, x0, [0.1, 0.1, 1.0, 1.0, 0.1], [0.0, 0.0, 1.0, 0.0, 0.0], 100.0)


def _turned(c: Array, s: Array, angle: Array) -> tuple[Array, Array]:
    """Cosine and sine after a turn; without arctan2, which takes no complex numbers."""
    return c * np.cos(angle) - s * np.sin(angle), s * np.cos(angle) + c * np.sin(angle)


def _seen(
    step: Callable[[Tensor, Tensor], Tensor],
    numpy_step: Callable[[Array, Array], Array],
    x0: Array,
    weights: list[float],
    goal: list[float],
    limit: float,
) -> ReferenceProblem:
    w, T = np.array(weights), 20
    linear, penalty = -np.sqrt(w) * np.array(goal), 0.001
    formula = Formula(
        step=numpy_step,
        stage=lambda x, u: (0.5 * w * x**2 + linear * x).sum(-1) + 0.5 * penalty * (u**2).sum(-1),
        terminal=lambda x: 0.0 * x.sum(-1),
        lower=-limit,
        upper=limit,
    )
    R = penalty * torch.ones(1, 1, dtype=torch.float64)
    cost = QuadraticCost(torch.from_numpy(np.diag(w)), R, q=torch.from_numpy(linear))
    problem = Problem(TorchDynamics(step, len(w), 1, dt=0.05), cost, T, control_limits=(-limit, limit))
    return ReferenceProblem(problem, formula, torch.from_numpy(x0), torch.zeros(len(x0), T, 1, dtype=torch.float64))


# Linear-quadratic problems of the sizes of Crocoddyl's benchmark


def affine_lqr(n: int, m: int, T: int = 100, seed: int = 0) -> ReferenceProblem:
    """A drawn linear-quadratic problem with a goal and a linear cost of the controls; A turns and shrinks by 0.9."""
    random = np.random.default_rng(seed)
    A = 0.9 * np.linalg.qr(random.standard_normal((n, n)))[0]
    B, goal, r, x0 = (random.standard_normal(shape) for shape in ((n, m), n, m, n))
    Q = random.standard_normal((n, n))
    Q = Q @ Q.T / n + np.eye(n)
    R = random.standard_normal((m, m))
    R = R @ R.T / m + np.eye(m)

    def half_square(x: Array) -> Array:
        return 0.5 * (((x - goal) @ Q) * (x - goal)).sum(-1)

    formula = Formula(
        step=lambda x, u: x @ A.T + u @ B.T,
        stage=lambda x, u: half_square(x) + 0.5 * ((u @ R) * u).sum(-1) + (u * r).sum(-1),
        terminal=half_square,
    )
    Qt, Rt = torch.from_numpy(Q), torch.from_numpy(R)
    cost = QuadraticCost(Qt, Rt, r=torch.from_numpy(r), Q_terminal=Qt, goal=torch.from_numpy(goal))
    problem = Problem(LinearDynamics(A, B), cost, T)
    return ReferenceProblem(problem, formula, torch.from_numpy(x0), torch.zeros(T, m, dtype=torch.float64))
