"""Tasks: two backends of one plant, what is charged, what counts as success, what a planner is handed."""

import inspect
import math
from dataclasses import replace

import pytest
import torch
from instances import ALL_TASK_VARIANTS, ALL_TASKS, backends

import mbrl
from dynamics import Acrobot, CartPole, LinearDynamics, MujocoDynamics, Pendulum, Reacher, TorchDynamics
from mbrl import Task, acrobot_swing_up, cart_pole_swing_up, pendulum_swing_up, reacher, uniform_initial_state
from planners import ICEM, MPC, GoalCost, QuadraticCost, TransitionCost

BACKENDS = ("mujoco", "torch")
SWING_UPS = ("PendulumSwingUp", "CartPoleSwingUp", "AcrobotSwingUp")
UPPER = {
    "PendulumSwingUp": [2.0],
    "CartPoleSwingUp": [10.0],
    "AcrobotSwingUp": [10.0],
    "Reacher": [1.0] * 2,
    "HalfCheetah": [1.0] * 6,
    "Hopper": [1.0] * 3,
    "Swimmer": [1.0] * 2,
    "PegInsertion": [20.0, 20.0, 10.0, 10.0, 5.0, 5.0, 2.0],
    "PointNavigation": [1.0] * 2,
    "PlanarQuadrotorFlight": [5.0] * 2,
    "CarParking": [0.5, 2.0],
}
LOWER = {name: [-limit for limit in limits] for name, limits in UPPER.items()} | {"PlanarQuadrotorFlight": [0.0] * 2}
ON_TORCH_ALONE = {"CarParking"}
SECONDS = {
    **dict.fromkeys(SWING_UPS, 10.0),
    "Reacher": 5.0,
    "HalfCheetah": 50.0,
    "Hopper": 8.0,
    "Swimmer": 40.0,
    "PegInsertion": 5.0,
    "PointNavigation": 10.0,
    "PlanarQuadrotorFlight": 5.0,
    "CarParking": 15.0,
}

every_variant = pytest.mark.parametrize(("name", "options"), ALL_TASK_VARIANTS.values(), ids=ALL_TASK_VARIANTS)
every_task_with_backends = pytest.mark.parametrize("name", [name for name in ALL_TASKS if backends(name)])
every_swing_up = pytest.mark.parametrize("name", SWING_UPS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def points(task, generator, count=200):
    """States all over the state space, carts in the middle half of the rail, and controls within the limits."""
    n = task.dynamics.state_dim
    x = torch.randn(count, n, generator=generator, dtype=torch.float64)
    x[:, list(task.dynamics.angles)] *= 3.0
    if task.dynamics.state_names[0] == "position":
        x[:, 0] = x[:, 0].clamp(-0.9, 0.9)
    lower, upper = task.limits()
    return x, lower + (upper - lower) * torch.rand(count, len(lower), generator=generator, dtype=torch.float64)


def toy(**fields):
    """An integrator with one state and one control."""
    defaults = {"horizon": 5, "episode_steps": 10}
    dynamics = LinearDynamics(torch.eye(1).double(), torch.eye(1).double(), dt=0.1)
    cost = QuadraticCost(torch.eye(1).double(), torch.eye(1).double())
    return Task("Toy", dynamics, cost, (-1.0, 1.0), uniform_initial_state([-1.0], [1.0]), **{**defaults, **fields})


def test_the_list_is_complete():
    made = {value for value in vars(mbrl).values() if inspect.isfunction(value) and returns_a_task(value)}
    assert made == set(ALL_TASKS.values())


def returns_a_task(function):
    """Those that take one, too, change it."""
    signature = inspect.signature(function)
    return signature.return_annotation is Task and "task" not in signature.parameters


# Two backends, one plant


@pytest.mark.parametrize("make", [pendulum_swing_up, reacher])
def test_pendulum_and_reacher_are_the_same_on_both_backends(make, generator):
    mujoco, formula = (make(backend).dynamics for backend in BACKENDS)
    x, u = points(make("torch"), generator)
    torch.testing.assert_close(mujoco(x, u), formula(x, u), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "fine", "close"),
    [
        (cart_pole_swing_up, CartPole(dt=0.01), 1e-4),
        (acrobot_swing_up, Acrobot(dt=0.0125).with_parameters(length_1=0.5), 1e-2),
    ],
)
def test_finer_steps_are_the_same_on_both_backends(make, fine, close, generator):
    """MuJoCo takes several steps: those of the formula are the same numbers, its one step is close."""
    task = make()
    x, u = points(task, generator)
    y = x
    for _ in range(round(task.dynamics.dt / fine.dt)):
        y = fine(y, u)
    x_next = task.dynamics(x, u)
    torch.testing.assert_close(x_next, y, rtol=0, atol=1e-12)
    torch.testing.assert_close(make("torch").dynamics(x, u), x_next, rtol=0, atol=close)


def test_the_difference_between_the_cart_poles_is_one_of_integration(generator):
    """RK4 errs by dt^5 in a step: half the step, a thirty-second of the difference."""
    x, u = points(cart_pole_swing_up("torch"), generator)
    largest = []
    for dt in (0.04, 0.02, 0.01):
        mujoco, formula = (cart_pole_swing_up(backend, system=CartPole(dt=dt)).dynamics for backend in BACKENDS)
        largest.append(float((mujoco(x, u) - formula(x, u)).abs().max()))
    assert 16 < largest[0] / largest[1] < 64
    assert 16 < largest[1] / largest[2] < 64


def test_the_end_stop_holds_the_cart_on_mujoco_alone():
    x, us = tensor(1.5, math.pi, 0.0, 0.0), torch.full((50, 1), 10.0, dtype=torch.float64)
    assert float(cart_pole_swing_up().dynamics.rollout(x, us)[:, 0].max()) < 1.85
    assert float(cart_pole_swing_up("torch").dynamics.rollout(x, us)[-1, 0]) > 5.0


@pytest.mark.parametrize(
    ("make", "standard", "changed", "fine"),
    [
        (cart_pole_swing_up, CartPole(), CartPole().with_parameters(pole_mass=0.3), CartPole(dt=0.01)),
        (pendulum_swing_up, Pendulum(), Pendulum().with_parameters(length=1.3, damping=0.2), Pendulum()),
        (acrobot_swing_up, Acrobot(0.02), Acrobot(0.02).with_parameters(length_1=0.7, mass_2=0.5), Acrobot(0.01)),
        (reacher, Reacher(), Reacher().with_parameters(length_1=0.7, damping_2=0.2), Reacher()),
    ],
)
def test_parameters_of_the_system_reach_both_backends(make, standard, changed, fine, generator):
    x, u = points(make("torch"), generator)
    mujoco, formula = (make(backend, system=changed) for backend in BACKENDS)
    fine = fine.with_parameters(**{name: getattr(changed, name) for name in changed.physical_parameters})
    y = x
    for _ in range(round(changed.dt / fine.dt)):
        y = fine(y, u)
    torch.testing.assert_close(mujoco.dynamics(x, u), y, rtol=0, atol=1e-12)
    assert torch.equal(formula.dynamics(x, u), changed(x, u))
    assert float((changed(x, u) - standard(x, u)).abs().max()) > 0.01


def test_a_torch_task_takes_one_value_per_world():
    """An MJCF model cannot, and is not asked for."""
    system = CartPole().with_parameters(pole_mass=tensor(0.1, 0.4))
    x = cart_pole_swing_up("torch", system=system).dynamics(torch.ones(2, 4).double(), torch.ones(2, 1).double())
    assert not torch.equal(x[0], x[1])
    with pytest.raises(ValueError, match="one per world for: pole_mass"):
        cart_pole_swing_up("mujoco", system=system)


@every_task_with_backends
def test_an_unknown_backend(name):
    with pytest.raises(ValueError, match="backend must be 'mujoco' or 'torch', got 'warp'"):
        ALL_TASKS[name]("warp")


# What a task says about itself


@every_variant
def test_names_units_and_dimensions(name, options):
    task = ALL_TASKS[name](**options)
    n, m = task.dynamics.state_dim, task.dynamics.control_dim
    assert task.name == name
    assert isinstance(task.dynamics, MujocoDynamics) == (
        options.get("backend") != "torch" and name not in ON_TORCH_ALONE
    )
    assert len(task.names["states"]) == len(task.units["states"]) == n
    assert len(task.names["controls"]) == len(task.units["controls"]) == m
    x = task.initial_state(3, torch.Generator().manual_seed(0))
    assert task.observe(x).shape == (3, len(task.names["observations"]))
    assert task.episode_steps * task.dynamics.dt == pytest.approx(SECONDS[name])
    assert all(task.names == ALL_TASKS[name](backend).names for backend in backends(name))


def test_names_and_units_word_by_word():
    cart_pole, pendulum = cart_pole_swing_up(), pendulum_swing_up()
    assert cart_pole.names["states"] == ("position", "angle", "position_velocity", "angle_velocity")
    assert cart_pole.units == {"states": ("m", "rad", "m/s", "rad/s"), "controls": ("N",)}
    assert pendulum.names["observations"] == ("cos_angle", "sin_angle", "angle_velocity")
    assert pendulum.units == {"states": ("rad", "rad/s"), "controls": ("N m",)}
    assert (pendulum.names["controls"], cart_pole.names["controls"]) == (("torque",), ("force",))


def test_a_task_that_observes_its_state_names_the_observations_after_it():
    task = toy(state_units=["m"])
    assert task.names == {"states": ("x0",), "controls": ("u0",), "observations": ("x0",)}
    assert task.units == {"states": ("m",), "observations": ("m",)}
    blind = toy(state_units=["m"], observation=torch.sin)
    assert set(blind.names) == {"states", "controls"}
    assert set(blind.units) == {"states"}


def test_a_task_observes_with_the_sensors_of_its_plant():
    class Sensor(LinearDynamics):
        def observe(self, x):
            return torch.cat([x, -x], dim=-1)

    sensor = Sensor(torch.eye(1), torch.eye(1))
    assert torch.equal(toy().observe(tensor(2.0)), tensor(2.0))
    task = replace(toy(), dynamics=sensor)
    assert torch.equal(task.observe(tensor(2.0)), tensor(2.0, -2.0))
    assert "observations" not in task.names
    assert torch.equal(replace(task, observation=torch.sin).observe(tensor(2.0)), torch.sin(tensor(2.0)))


@every_variant
def test_limits(name, options):
    """The plants of MuJoCo clamp by themselves, at the task's limit and at no smaller one."""
    task = ALL_TASKS[name](**options)
    lower, upper = task.limits()
    assert (lower.tolist(), upper.tolist()) == (LOWER[name], UPPER[name])
    assert lower.dtype == torch.float64
    x = task.initial_state(1, torch.Generator().manual_seed(0))[0]
    clamped = torch.equal(task.dynamics(x, upper), task.dynamics(x, 3.0 * upper))
    assert clamped == isinstance(task.dynamics, MujocoDynamics)
    assert not torch.equal(task.dynamics(x, 0.9 * upper), task.dynamics(x, upper))


@pytest.mark.parametrize("make", [pendulum_swing_up, acrobot_swing_up, reacher])
def test_a_torque_limit_of_ones_own(make):
    task = make(torque_limit=3.0)
    assert set(task.limits()[1].tolist()) == {3.0}
    x, u = torch.full((task.dynamics.state_dim,), 0.5).double(), torch.full((task.dynamics.control_dim,), 3.0).double()
    assert torch.equal(task.dynamics(x, u), task.dynamics(x, 3.0 * u))
    assert not torch.equal(task.dynamics(x, 0.9 * u), task.dynamics(x, u))


@pytest.mark.parametrize("make", [acrobot_swing_up, reacher])
@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan])
def test_torque_limits_that_are_none(make, limit):
    with pytest.raises(ValueError, match=f"torque_limit must be positive and finite, got {limit}"):
        make("torch", torque_limit=limit)


def test_neither_swing_up_is_a_matter_of_pushing():
    """Held level, the rod pulls with m g l / 2 = 4.9 N m, more than the motor has."""
    task = pendulum_swing_up("torch")
    xs = task.dynamics.rollout(tensor(math.pi, 0.0), torch.full((200, 1), 2.0, dtype=torch.float64))
    assert float(torch.cos(xs[:, 0]).max()) < 0.0


@pytest.mark.parametrize(
    ("name", "middle", "half_width"),
    [
        ("PendulumSwingUp", [math.pi, 0.0], [0.3, 0.3]),
        ("CartPoleSwingUp", [0.0, math.pi, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]),
        ("AcrobotSwingUp", [math.pi, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]),
    ],
)
def test_the_initial_distribution(name, middle, half_width, generator):
    x = ALL_TASKS[name]("torch").initial_state(4000, generator)
    scaled = (x - tensor(*middle)) / tensor(*half_width)
    assert x.dtype == torch.float64
    assert float(scaled.abs().max()) <= 1.0
    assert float(scaled.abs().max(0).values.min()) > 0.99
    # mean and variance of a uniform distribution on [-1, 1], within four standard errors
    torch.testing.assert_close(scaled.mean(0), torch.zeros(len(middle)).double(), rtol=0, atol=4 / math.sqrt(3 * 4000))
    expected = torch.full((len(middle),), 1 / 3).double()
    torch.testing.assert_close(scaled.square().mean(0), expected, rtol=0, atol=4 * math.sqrt(4 / 45 / 4000))


def test_a_uniform_initial_state_is_drawn_from_the_generator_it_is_given():
    sample = uniform_initial_state([-1.0, 2.0], [1.0, 2.0])
    first, again = (sample(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first[:, 1], torch.full((5,), 2.0).double())
    assert not torch.equal(first, sample(5, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(
    ("lower", "upper"), [([1.0], [0.0]), ([0.0], [1.0, 1.0]), ([math.nan], [1.0]), ([0.0], [math.inf])]
)
def test_ends_that_do_not_fit(lower, upper):
    with pytest.raises(ValueError, match="need finite lower <= upper of equal length, got"):
        uniform_initial_state(lower, upper)


def test_control_limits_are_one_for_each_control():
    with pytest.raises(ValueError, match="control_limits must be numbers or one for each of 1 controls"):
        replace(toy(), control_limits=(torch.tensor([-1.0, -1.0]), 1.0))


@pytest.mark.parametrize("limits", [(1.0, -1.0), (-math.inf, 1.0), (0.0, 0.0), (math.nan, 1.0)])
def test_control_limits_that_are_none(limits):
    with pytest.raises(ValueError, match="control_limits must be finite with lower < upper, got"):
        replace(toy(), control_limits=limits)


@pytest.mark.parametrize("steps", [{"episode_steps": 0}, {"horizon": 0}])
def test_numbers_of_steps_that_are_none(steps):
    with pytest.raises(ValueError, match="need episode_steps >= 1 and horizon >= 1, got"):
        toy(**steps)


# What is charged


@every_swing_up
@every_backend
def test_upright_costs_nothing_and_everything_else_something(name, backend, generator):
    task = ALL_TASKS[name](backend)
    x, u = points(task, generator)
    goal, rest = torch.zeros_like(x[:1]), torch.zeros_like(u[:1])
    assert float(task.cost.stage(goal, rest, 0)) == 0.0
    assert bool((task.cost.stage(x, u, 0) > 0).all())
    assert bool((task.cost.stage(goal, u, 0) > 0).all())
    hanging = goal.clone()
    hanging[:, task.dynamics.angles[0]] = math.pi
    assert float(task.cost.stage(hanging, rest, 0)) > 1.0


@pytest.mark.parametrize("name", [*SWING_UPS, "Reacher"])
def test_full_turns_change_neither_cost_nor_observation_nor_success(name, generator):
    task = ALL_TASKS[name]("torch")
    x, u = points(task, generator)
    turned = x.clone()
    turned[:, list(task.dynamics.angles)] += 2 * math.pi
    torch.testing.assert_close(task.cost.stage(turned, u, 0), task.cost.stage(x, u, 0), rtol=0, atol=1e-12)
    torch.testing.assert_close(task.cost.terminal(turned), task.cost.terminal(x), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(task.observe(turned), task.observe(x), rtol=0, atol=1e-12)


@every_swing_up
def test_full_turns_are_a_success(name):
    task = ALL_TASKS[name]("torch")
    assert bool(task.success(episode(task, 2 * math.pi)))


def test_the_rail_gets_expensive_before_it_ends():
    task = cart_pole_swing_up("torch")
    x = torch.zeros(4, 4).double()
    x[:, 0] = tensor(1.0, 1.5, 1.7, -1.7)
    beyond = task.cost.stage(x, torch.zeros(4, 1).double(), 0) - 0.2 * x[:, 0].square()
    torch.testing.assert_close(beyond, tensor(0.0, 0.0, 20 * 0.2**2, 20 * 0.2**2), rtol=0, atol=1e-12)


def test_the_reward_is_minus_the_cost_of_the_step_with_the_termination_cost():
    cost = TransitionCost(lambda x, u, x_next, t: (x_next - 2 * x)[..., 0] + t)
    task = replace(toy(), cost=cost, termination=lambda x: x[..., 0] > 1.0, termination_cost=7.0)
    x, x_next = tensor([0.5], [0.5]), tensor([0.9], [1.1])
    torch.testing.assert_close(task.reward(x, x, x_next, 3), tensor(-2.9, -10.1))


# What counts as success


def episode(task, angle, steps=None):
    """States at rest with an angle, ``(T+1, n)``."""
    xs = torch.zeros((steps or task.episode_steps) + 1, task.dynamics.state_dim).double()
    xs[:, list(task.dynamics.angles)] = angle
    return xs


@pytest.mark.parametrize(
    ("name", "angle"), [("PendulumSwingUp", 0), ("CartPoleSwingUp", 1), ("AcrobotSwingUp", 0), ("AcrobotSwingUp", 1)]
)
def test_success_is_the_last_second_within_a_fifth_of_a_radian(name, angle):
    task = ALL_TASKS[name]("torch")
    second = round(1.0 / task.dynamics.dt)
    values = tensor(0.0, 0.199, -0.199, 0.201, -0.201, math.pi)
    xs = torch.stack([episode(task, 0.0)] * len(values))
    xs[..., angle] = values.unsqueeze(-1)
    assert task.success(xs).tolist() == [True, True, True, False, False, False]
    for step, expected in ((-second - 1, False), (-second - 2, True), (-1, False), (0, True)):
        fallen = episode(task, 0.0)
        fallen[step, angle] = 0.3
        assert bool(task.success(fallen)) == expected, step


@every_swing_up
def test_a_state_that_is_not_finite_is_no_success(name):
    task = ALL_TASKS[name]("torch")
    xs = episode(task, 0.0)
    xs[-1] = math.nan
    assert not bool(task.success(xs))


# What a planner is handed


@every_variant
def test_a_problem_of_the_task(name, options):
    task = ALL_TASKS[name](**options)
    problem = task.problem()
    assert problem.dynamics is task.dynamics
    assert problem.cost is task.cost
    assert (problem.horizon, task.problem(horizon=7).horizon) == (task.horizon, 7)
    assert problem.features() == {"control_limits"} | ({"termination"} if task.termination is not None else set())
    assert problem.control_limits == task.control_limits


def test_a_problem_has_everything_that_a_planner_must_know():
    task = toy(termination=lambda x: x[..., 0] > 1.0, termination_cost=3.0, discount=0.9)
    problem = task.problem()
    assert (problem.termination, problem.termination_cost, problem.discount) == (task.termination, 3.0, 0.9)


def model(dt=0.04, **names):
    return TorchDynamics(lambda x, u: x, 4, 1, dt, **names)


def test_models_that_fit_are_planned_with():
    task = cart_pole_swing_up()
    own = {"state_names": task.dynamics.state_names, "control_names": task.dynamics.control_names}
    for fitting in (model(), model(**own), model(0.04 + 1e-9), cart_pole_swing_up("torch").dynamics):
        assert task.problem(fitting).dynamics is fitting


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Pendulum(dt=0.04), "has 4 states and 1 controls, the model 2 and 1; fit it to the task's full states"),
        (TorchDynamics(lambda x, u: x, 4, 2, 0.04), "has 4 states and 1 controls, the model 4 and 2; fit it"),
        (model(0.02), r"has dt=0.04 s, the model 0.02 s; resample its logs"),
        (
            model(state_names=["angle", "position", "position_velocity", "angle_velocity"]),
            r"has state_names \('position', 'angle', .*the model \('angle', 'position', .*reorder the logs' columns",
        ),
        (model(control_names=["voltage"]), r"has control_names \('force',\), the model \('voltage',\)"),
    ],
)
def test_models_that_do_not_fit(model, message):
    with pytest.raises(ValueError, match=f"task CartPoleSwingUp {message}"):
        cart_pole_swing_up().problem(model)


# The task can be done


def test_planning_swings_the_pendulum_up():
    task = pendulum_swing_up("torch")
    mpc = MPC(task.problem(horizon=25), ICEM(num_samples=40, max_iterations=2))
    result = mbrl.evaluate(mpc, task, episodes=10)
    assert result.success_rate >= 0.8


def test_doing_nothing_does_not():
    task = pendulum_swing_up("torch")
    nothing = replace(task, cost=GoalCost(0.0, 0.0, 1.0))
    mpc = MPC(nothing.problem(horizon=2), ICEM(num_samples=10, num_elites=2, max_iterations=1))
    assert mbrl.evaluate(mpc, task, episodes=4).success_rate == 0.0


# A task on a model of its plant


def test_a_task_on_a_model_keeps_all_but_the_plant():
    task, other = cart_pole_swing_up(), model()
    learned = task.with_dynamics(other)
    assert learned.dynamics is other
    for field in ("name", "cost", "observation", "termination", "success", "system", "horizon", "episode_steps"):
        assert getattr(learned, field) is getattr(task, field), field
    x = tensor(0.1, 0.2, 0.3, 0.4)
    assert torch.equal(learned.observe(x), task.observe(x))
    with pytest.raises(ValueError, match="has 4 states and 1 controls, the model 2 and 1; fit it to"):
        task.with_dynamics(Pendulum())


def test_a_task_on_a_model_sees_with_the_sensors_of_the_plant():
    class Sensor(LinearDynamics):
        def observe(self, x):
            return torch.cat([x, -x], dim=-1)

    blind = LinearDynamics(torch.eye(1).double(), torch.zeros(1, 1).double(), dt=0.1)
    task = replace(toy(), dynamics=Sensor(torch.eye(1), torch.eye(1), dt=0.1))
    assert torch.equal(task.with_dynamics(blind).observe(tensor(2.0)), tensor(2.0, -2.0))
    assert torch.equal(toy().with_dynamics(blind).observe(tensor(2.0)), tensor(2.0))
    assert task.with_dynamics(blind).system is task.dynamics  # what is drawn
