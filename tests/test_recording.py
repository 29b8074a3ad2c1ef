"""Recording from tasks and from gymnasium: every transition is replayed, and none is made up."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, RescaleAction, TransformAction, TransformObservation
from instances import ALL_TASK_VARIANTS, ALL_TASKS

from dynamics import LinearDynamics, TorchDynamics, check_compatible, read_trajectories, transitions
from mbrl import (
    SplineNoise,
    Task,
    cart_pole_swing_up,
    discretized,
    make_env,
    make_vec_env,
    pendulum_swing_up,
    record,
    record_env,
    uniform_initial_state,
)
from planners import ICEM, MPC, QuadraticCost

every_variant = pytest.mark.parametrize(("name", "options"), ALL_TASK_VARIANTS.values(), ids=ALL_TASK_VARIANTS)
every_backend = pytest.mark.parametrize("backend", ["mujoco", "torch"])


class Fixed:
    """Gives the same control everywhere; the memory counts."""

    def __init__(self, value, acts_on="observation"):
        self.value, self.acts_on = value, acts_on

    def init(self, batch, *, generator=None):
        return 0

    def act(self, y, memory, *, deterministic=True):
        value = self.value(y, memory) if callable(self.value) else torch.full((len(y), 1), self.value).to(y)
        return value, memory + 1


def noise(task, **options):
    return SplineNoise(task.control_limits, task.dynamics.control_dim, **options)


def drift(**fields):
    """x' = x + u, which ends beyond 1, from somewhere in [-1, 0]."""
    dynamics = LinearDynamics(torch.eye(1).double(), torch.eye(1).double(), dt=0.1)
    cost = QuadraticCost(torch.eye(1).double(), torch.eye(1).double())
    settings = {"horizon": 5, "episode_steps": 20, "termination": lambda x: x[..., 0] > 1.0, "termination_cost": 3.0}
    initial = uniform_initial_state([-1.0], [0.0])
    return Task("Drift", dynamics, cost, (-0.25, 0.25), initial, **{**settings, **fields})


def bursting(**fields):
    """x' = 2 x: infinite as soon as x exceeds 30."""
    dynamics = TorchDynamics(lambda x, u: torch.where(x > 30, torch.inf, 2 * x) + 0 * u, 1, 1, 0.1)
    return replace(drift(termination=None, termination_cost=0.0), dynamics=dynamics, **fields)


def starts(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for field in ("observations", "controls", "states", "rewards", "times"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        assert (a.terminated, a.truncated, a.names, a.units) == (b.terminated, b.truncated, b.names, b.units)


def assert_happened(task, trajectory):
    """Each recorded transition is one of the plant."""
    xs, us = (torch.from_numpy(np.array(a)) for a in (trajectory.states, trajectory.controls))
    assert len(xs) == len(us) + 1 == len(trajectory.observations) == len(trajectory.rewards) + 1
    for k, u in enumerate(us):
        x_next = task.dynamics(xs[k], u, k)
        np.testing.assert_array_equal(trajectory.states[k + 1], x_next.numpy())
        assert trajectory.rewards[k] == pytest.approx(float(task.reward(xs[k], u, x_next, k)), rel=1e-14)
    np.testing.assert_array_equal(trajectory.observations, task.observe(xs).numpy())
    lower, upper = task.limits()
    assert bool(((us >= lower) & (us <= upper)).all())


# record


@every_variant
def test_what_is_recorded_is_what_happened(name, options):
    task = ALL_TASKS[name](**options)
    trajectories = record(task, noise(task), 4, steps=60)
    check_compatible(trajectories)
    for trajectory in trajectories:
        assert_happened(task, trajectory)
        xs, us = (torch.from_numpy(np.array(a)) for a in (trajectory.states, trajectory.controls))
        terminated = task.termination is not None and bool(task.termination(xs[-1]))
        assert (trajectory.terminated, trajectory.truncated) == (terminated, not terminated)
        assert terminated or len(us) == 60
        # the terminal cost stands for what comes after a plan: it is no reward, and nothing comes after a termination
        after = 0.0 if terminated else float(task.cost.terminal(xs[-1]))
        cost = float(task.problem().trajectory_cost(xs, us)) - after
        assert trajectory.rewards.sum() == pytest.approx(-cost, rel=1e-10)
        assert trajectory.dt == task.dynamics.dt
        np.testing.assert_array_equal(trajectory.times, task.dynamics.dt * np.arange(len(us) + 1))
        assert trajectory.names.states == task.names["states"]
        assert trajectory.names.observations == task.names["observations"]
        assert trajectory.units.states == task.units["states"]
        assert trajectory.units.controls == task.units["controls"]
        assert trajectory.units.observations == ("",) * len(task.names["observations"])
    assert trajectories[3].source == f"{name} episode 3"


def test_rewards_are_minus_the_cost_of_the_problem_where_it_terminates_too():
    task = drift()
    for trajectory in record(task, Fixed(0.2), 8):
        xs, us = (torch.from_numpy(np.array(a)) for a in (trajectory.states, trajectory.controls))
        assert trajectory.terminated
        assert trajectory.rewards.sum() == pytest.approx(-float(task.problem().trajectory_cost(xs, us)), rel=1e-12)


@every_backend
def test_a_batch_is_its_episodes(backend):
    task = pendulum_swing_up(backend)
    x = task.initial_state(3, torch.Generator().manual_seed(0))
    policy = Fixed(lambda y, k: 2.0 * torch.sin(y[:, 1:2] + 0.3 * k))
    batch = record(task, policy, 3, initial_states=x, steps=40)
    singles = [record(task, policy, 1, initial_states=x[i : i + 1], steps=40)[0] for i in range(3)]
    assert_same(batch, singles)


def test_termination_cuts_an_episode():
    trajectories = record(drift(), Fixed(0.25), 2, initial_states=starts(-1.0, 0.5))
    assert [t.num_steps for t in trajectories] == [9, 3]
    for trajectory in trajectories:
        assert (trajectory.terminated, trajectory.truncated) == (True, False)
        assert trajectory.states[-1] == 1.25
        assert_happened(drift(), trajectory)


def test_an_episode_that_does_not_terminate_is_truncated_beside_one_that_does():
    task = drift(episode_steps=5)
    trajectories = record(task, Fixed(0.25), 2, initial_states=starts(-1.0, 0.5))
    assert [(t.num_steps, t.terminated, t.truncated) for t in trajectories] == [(5, False, True), (3, True, False)]
    at_the_end = record(drift(episode_steps=3), Fixed(0.25), 1, initial_states=starts(0.5))[0]
    assert (at_the_end.terminated, at_the_end.truncated) == (True, False)


def test_nobody_waits_for_episodes_that_have_ended():
    calls = []
    record(
        drift(), Fixed(lambda y, k: (calls.append(k), torch.full_like(y, 0.25))[1]), 2, initial_states=starts(0, 0.5)
    )
    assert calls == list(range(5))


def test_a_diverged_episode_keeps_its_finite_part_and_no_flag():
    first, second = record(bursting(), Fixed(0.1), 2, initial_states=starts(1.0, 0.0))
    assert first.states[:, 0].tolist() == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert (first.terminated, first.truncated) == (False, False)
    assert first.source == "Drift episode 0, diverged"
    assert (second.num_steps, second.truncated) == (20, True)
    assert_happened(bursting(), first)


def test_an_episode_that_terminates_before_it_diverges_has_terminated():
    task = bursting(termination=lambda x: x[..., 0] > 3.0)
    (trajectory,) = record(task, Fixed(0.1), 1, initial_states=starts(1.0))
    assert (trajectory.num_steps, trajectory.terminated, trajectory.truncated) == (2, True, False)


def test_an_episode_can_diverge_at_once():
    (trajectory,) = record(bursting(), Fixed(0.1), 1, initial_states=starts(40.0))
    assert (trajectory.num_steps, trajectory.terminated, trajectory.truncated) == (0, False, False)


def test_controls_are_those_that_acted():
    (trajectory,) = record(drift(), Fixed(7.0), 1, steps=3)
    assert trajectory.controls.tolist() == [[0.25]] * 3
    assert_happened(drift(), trajectory)


def test_a_control_that_is_not_finite():
    broken = Fixed(lambda y, k: torch.where((torch.arange(len(y)) == 1)[:, None] & (k == 2), math.nan, 0 * y))
    with pytest.raises(ValueError, match="Fixed gave a control that is not finite at step 2 of Drift"):
        record(drift(), broken, 3)


def test_what_an_actor_does_after_the_end_does_not_matter():
    """The second episode is over when its control stops being finite."""
    policy = Fixed(lambda y, k: torch.where(y > 1.0, math.nan, torch.full_like(y, 0.25)))
    trajectories = record(drift(), policy, 2, initial_states=starts(-1.0, 0.5))
    assert [t.num_steps for t in trajectories] == [9, 3]


def test_controls_of_another_shape():
    with pytest.raises(ValueError, match=r"Fixed must give controls of shape \(3, 1\), got \(1, 1\)"):
        record(drift(), Fixed(lambda y, k: torch.zeros(1, 1).double()), 3)


def test_an_actor_gets_what_it_asks_for():
    task, seen = pendulum_swing_up("torch"), {}
    for acts_on in ("state", "observation"):
        record(task, Fixed(lambda y, k, name=acts_on: (seen.update({name: y}), 0 * y[:, :1])[1], acts_on), 2, steps=1)
    assert torch.equal(task.observe(seen["state"]), seen["observation"])
    assert seen["state"].shape == (2, 2)


def test_deterministic_and_the_generator_reach_the_actor():
    calls = []

    class Listening(Fixed):
        def init(self, batch, *, generator=None):
            calls.append((batch, generator.initial_seed()))
            return 0

        def act(self, y, memory, *, deterministic=True):
            calls.append(deterministic)
            return 0 * y, memory

    record(drift(), Listening(0.0), 3, generator=torch.Generator().manual_seed(5), steps=1, deterministic=False)
    assert calls == [(3, 5), False]


@every_variant
def test_the_same_seed_gives_the_same_episodes(name, options):
    task = ALL_TASKS[name](**options)
    first, again, other = (
        record(task, noise(task), 2, generator=torch.Generator().manual_seed(seed), steps=20) for seed in (1, 1, 2)
    )
    assert_same(first, again)
    assert not np.array_equal(first[0].states[0], other[0].states[0])
    assert not np.array_equal(first[0].controls, other[0].controls)
    assert not np.array_equal(first[0].controls, first[1].controls)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes and steps must be at least 1, got 0 and 20"),
        ({"steps": 0}, "episodes and steps must be at least 1, got 2 and 0"),
        ({"initial_states": torch.zeros(3, 1)}, r"initial_states must have shape \(2, 1\), got \(3, 1\)"),
        ({"initial_states": torch.zeros(2)}, r"initial_states must have shape \(2, 1\), got \(2,\)"),
        ({"initial_states": starts(math.nan, 0.0)}, "row 0 is nan"),
    ],
)
def test_recordings_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        record(drift(), Fixed(0.0), **{"episodes": 2, **options})


# record_env: one environment


def mpc(task):
    return MPC(task.problem(horizon=5), ICEM(num_samples=20, num_elites=4, max_iterations=1))


@every_variant
def test_an_environment_of_a_task_is_recorded_as_it_happened(name, options):
    task = replace(ALL_TASKS[name](**options), episode_steps=12)
    trajectories = record_env(make_env(task), noise(task), 3, seed=4)
    check_compatible(trajectories)
    for trajectory in trajectories:
        assert_happened(task, trajectory)
        assert (trajectory.num_steps, trajectory.terminated, trajectory.truncated) == (12, False, True)
        assert trajectory.dt == task.dynamics.dt
        assert trajectory.names.observations == task.names["observations"]
        assert trajectory.units.states == task.units["states"]
    assert not np.array_equal(trajectories[0].states[0], trajectories[1].states[0])
    assert not np.array_equal(trajectories[0].controls, trajectories[1].controls)  # noise of their own


@pytest.mark.parametrize("deal", [record, lambda task, actor, episodes: record_env(make_env(task), actor, episodes)])
def test_mpc_acts_on_the_state(deal):
    raised = uniform_initial_state([1.0, 0.0], [2.0, 0.0])
    task = replace(pendulum_swing_up("torch"), episode_steps=12, initial_state=raised)
    trajectories = deal(task, mpc(task), 2)
    for trajectory in trajectories:
        assert_happened(task, trajectory)
        assert trajectory.num_steps == 12
    assert np.abs(trajectories[0].controls).max() > 0.5


def test_mpc_is_recorded_as_it_would_act_by_itself():
    task = pendulum_swing_up("torch")
    actor, x = mpc(task), torch.tensor([[1.0, 0.0], [2.0, -1.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    trajectories = record(task, actor, 2, initial_states=x, generator=generator, steps=6)
    memory, us = actor.init(2, generator=generator), []
    for k in range(6):
        u, memory = actor.step(memory, x)
        x = task.dynamics(x, u, k)
        us.append(u)
    np.testing.assert_array_equal(np.stack([t.controls for t in trajectories], axis=1), torch.stack(us).numpy())


def test_an_environment_and_its_task_record_the_same():
    """In float32, the dtype of actions."""
    task = replace(pendulum_swing_up("torch"), episode_steps=30)
    policy = Fixed(lambda y, k: (2.0 * torch.sin(y[:, 1:2] + 0.3 * k)).float().to(y))
    from_env = record_env(make_env(task), policy, 2)
    x = torch.from_numpy(np.stack([t.states[0] for t in from_env]))
    assert_same(from_env, record(task, policy, 2, initial_states=x))


def test_pendulum_v1_obeys_its_equation():
    """Gymnasium's own pendulum: g = 10, m = l = 1, dt = 0.05, observed in float32."""
    env = gymnasium.make("Pendulum-v1")
    for trajectory in record_env(env, None, 3):
        assert trajectory.dt == 0.05
        assert trajectory.num_steps == 200
        assert (trajectory.terminated, trajectory.truncated, trajectory.states) == (False, True, None)
        assert trajectory.source.startswith("Pendulum-v1 episode")
        cos, sin, velocity = trajectory.observations.T
        angle, u = np.arctan2(sin, cos), trajectory.controls[:, 0]
        following = np.clip(velocity[:-1] + (15.0 * sin[:-1] + 3.0 * u) * 0.05, -8, 8)
        np.testing.assert_allclose(velocity[1:], following, atol=1e-5)
        turned = angle[:-1] + 0.05 * velocity[1:]
        np.testing.assert_allclose(cos[1:], np.cos(turned), atol=1e-5)
        cost = angle[:-1] ** 2 + 0.1 * velocity[:-1] ** 2 + 0.001 * u**2
        np.testing.assert_allclose(trajectory.rewards, -cost, rtol=1e-3, atol=1e-5)
        assert 1.5 < np.abs(u).max() <= 2.0


def test_random_actions_differ_between_episodes_and_agree_between_calls():
    first, again, other = (record_env(gymnasium.make("Pendulum-v1"), None, 2, seed=s) for s in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.observations, b.observations)
        np.testing.assert_array_equal(a.controls, b.controls)
    assert not np.array_equal(first[0].controls, first[1].controls)
    assert not np.array_equal(first[0].controls, other[0].controls)


def test_the_actors_noise_comes_from_the_generator_or_the_seed():
    task = replace(pendulum_swing_up("torch"), episode_steps=10)

    def controls(**options):
        return np.stack([t.controls for t in record_env(make_env(task), noise(task), 2, **options)])

    np.testing.assert_array_equal(controls(seed=1), controls(seed=1))
    assert not np.array_equal(controls(seed=1), controls(seed=2))
    generator = torch.Generator().manual_seed(0)
    first, second = (controls(seed=1, generator=generator) for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, controls(seed=1, generator=torch.Generator().manual_seed(0)))


def test_termination_and_clipping():
    trajectories = record_env(make_env(drift()), Fixed(9.0), 3)
    for trajectory in trajectories:
        assert (trajectory.terminated, trajectory.truncated) == (True, False)
        assert (trajectory.controls == 0.25).all()
        assert (trajectory.states[:-1] <= 1.0).all()
        assert trajectory.states[-1] > 1.0
        assert_happened(drift(), trajectory)


def test_an_environment_that_diverges_is_recorded_up_to_there():
    task = bursting(initial_state=uniform_initial_state([1.0], [1.0]))
    (trajectory,) = record_env(make_env(task), Fixed(0.1), 1)
    assert trajectory.states[:, 0].tolist() == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert (trajectory.terminated, trajectory.truncated) == (False, False)
    assert trajectory.source == "TaskEnv episode 0, diverged"


def test_a_wrapper_that_changes_a_space_takes_its_names_away():
    task = replace(pendulum_swing_up("torch"), episode_steps=3)
    (plain,) = record_env(FlattenObservation(make_env(task)), None, 1)
    assert plain.names.observations == ("cos_angle", "sin_angle", "angle_velocity")
    (scaled,) = record_env(RescaleAction(make_env(task), -1, 1), None, 1)
    assert (scaled.names.controls, scaled.units.controls) == (("u0",), ("",))
    assert scaled.units.states == ("rad", "rad/s")
    space = gymnasium.spaces.Box(-math.inf, math.inf, (6,))
    (stacked,) = record_env(TransformObservation(make_env(task), lambda y: np.tile(y, 2), space), None, 1)
    assert stacked.names.observations == ("y0", "y1", "y2", "y3", "y4", "y5")
    assert stacked.names.controls == ("torque",)


def test_what_cannot_be_recorded_from_an_environment():
    with pytest.raises(ValueError, match=r"need observations in a Box of one axis, got Discrete\(16\); flatten it"):
        record_env(gymnasium.make("FrozenLake-v1"), None, 1, dt=1.0)
    several = TransformAction(
        gymnasium.make("Pendulum-v1"), lambda a: np.zeros(1), gymnasium.spaces.MultiDiscrete([2, 2])
    )
    with pytest.raises(
        ValueError, match=r"need actions in a Box of one axis or Discrete, got MultiDiscrete\(\[2 2\]\)"
    ):
        record_env(several, None, 1)
    task = pendulum_swing_up("torch")
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        record_env(make_env(task), None, 0)
    with pytest.raises(ValueError, match="MPC acts on the state, which Pendulum-v1 does not give in info"):
        record_env(gymnasium.make("Pendulum-v1"), mpc(task), 1)
    with pytest.raises(ValueError, match="Fixed gave a control that is not finite on TaskEnv"):
        record_env(make_env(task), Fixed(math.nan), 1)


# record_env: numbered actions


def cart_pole_v1(y, u):
    """Gymnasium's formula of CartPole-v1: a step of Euler's method under a push of 10 N to the left or the right."""
    x, v, angle, w = y.T
    force, sin, cos = np.where(u[:, 0] == 1, 10.0, -10.0), np.sin(angle), np.cos(angle)
    push = (force + 0.05 * w**2 * sin) / 1.1
    turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    return np.stack(
        [x + 0.02 * v, v + 0.02 * (push - 0.05 * turn * cos / 1.1), angle + 0.02 * w, w + 0.02 * turn], axis=1
    )


def leaning(y, k):
    """Pushes to where the pole leans."""
    return (y[:, 2:3] + 0.3 * y[:, 3:4] > 0).to(y)


@pytest.mark.parametrize("worlds", [None, 3])
@pytest.mark.parametrize("actor", [None, Fixed(leaning), Fixed(lambda y, k: leaning(y, k) + 5e-7)])
def test_cart_pole_v1_is_recorded_as_it_happened(actor, worlds):
    if worlds is None:
        env = gymnasium.make("CartPole-v1", max_episode_steps=60)
    else:
        kwargs = {"autoreset_mode": AutoresetMode.DISABLED}
        options = {"max_episode_steps": 60, "vectorization_mode": "sync", "vector_kwargs": kwargs}
        env = gymnasium.make_vec("CartPole-v1", worlds, **options)
    trajectories = record_env(env, actor, 4, dt=0.02)
    for trajectory in trajectories:
        assert trajectory.controls.shape == (trajectory.num_steps, 1)
        assert set(trajectory.controls.flatten().tolist()) == {0.0, 1.0}
        predicted = cart_pole_v1(trajectory.observations[:-1], trajectory.controls)
        np.testing.assert_allclose(trajectory.observations[1:], predicted, atol=1e-5)
        assert trajectory.rewards.sum() == trajectory.num_steps
        if actor is not None:
            assert (trajectory.num_steps, trajectory.truncated) == (60, True)
            expected = leaning(torch.from_numpy(np.array(trajectory.observations[:-1])), 0)
            np.testing.assert_array_equal(trajectory.controls, expected.numpy())
    assert actor is not None or any(t.terminated for t in trajectories)


def test_acrobot_v1_has_three_actions():
    (trajectory,) = record_env(gymnasium.make("Acrobot-v1", max_episode_steps=40), None, 1)
    assert (trajectory.dt, trajectory.num_steps) == (0.2, 40)
    assert set(trajectory.controls.flatten().tolist()) == {0.0, 1.0, 2.0}


class Counting(gymnasium.Env):
    """Actions -1, 0 and 1; the observation is the last one."""

    observation_space, action_space = gymnasium.spaces.Box(-9, 9, (1,)), gymnasium.spaces.Discrete(3, start=-1)
    dt = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._steps += 1
        return np.full(1, action, np.float32), float(action), self._steps == 5, False, {}


def test_the_numbers_begin_where_the_space_does():
    (trajectory,) = record_env(Counting(), Fixed(lambda y, k: torch.full_like(y, k % 3 - 1)), 1)
    assert trajectory.controls.tolist() == [[-1.0], [0.0], [1.0], [-1.0], [0.0]]
    assert trajectory.rewards.tolist() == [-1.0, 0.0, 1.0, -1.0, 0.0]
    assert trajectory.observations[1:].tolist() == trajectory.controls.tolist()
    (sampled,) = record_env(Counting(), None, 1, seed=1)
    assert sampled.observations[1:].tolist() == sampled.controls.tolist()


@pytest.mark.parametrize("control", [0.4, 1.00001, 2.0, -2.0])
def test_controls_that_are_no_number_of_an_action(control):
    message = r"Fixed gave a control that is no action on Counting: expected an integer from -1 to 1, \(batch, 1\), got"
    with pytest.raises(ValueError, match=message):
        record_env(Counting(), Fixed(control), 1)
    with pytest.raises(ValueError, match=message):
        record_env(Counting(), Fixed(lambda y, k: torch.zeros(len(y), 2)), 1)


@pytest.mark.parametrize("many", [False, True])
def test_actors_on_discretized_tasks_give_controls_and_the_nearest_one_acts(many):
    """As in recordings of the task itself."""
    task = discretized(replace(pendulum_swing_up("torch"), episode_steps=15), 5)
    policy = Fixed(lambda y, k: 3.0 * torch.sin(y[:, 1:2] + 0.3 * k))
    env = make_vec_env(task, 2, autoreset_mode="Disabled") if many else make_env(task)
    from_env = record_env(env, policy, 2)
    for trajectory in from_env:
        assert_happened(task, trajectory)
        assert trajectory.names.controls == ("torque",)
        assert set(trajectory.controls.flatten().tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
    x = torch.from_numpy(np.stack([t.states[0] for t in from_env]))
    for one, other in zip(from_env, record(task, policy, 2, initial_states=x), strict=True):
        np.testing.assert_array_equal(one.controls, other.controls)
        np.testing.assert_allclose(one.states, other.states, rtol=0, atol=1e-12)
    (sampled,) = record_env(make_env(task), None, 1)
    assert_happened(task, sampled)
    with pytest.raises(ValueError, match=r"expected controls \(batch, 1\), got \(1, 2\)"):
        record_env(make_env(task), Fixed(lambda y, k: torch.zeros(len(y), 2)), 1)


def test_a_task_that_lists_no_controls_has_no_numbers_of_them():
    with pytest.raises(ValueError, match="task PendulumSwingUp lists no control_values; discretize it"):
        pendulum_swing_up("torch").control_numbers(torch.zeros(1))


class Timeless(gymnasium.Env):
    """Says nothing about time."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.asarray(action), 1.0, True, False, {}


def test_the_duration_of_a_step_must_be_known():
    with pytest.raises(ValueError, match=r"does not say how long a step takes; pass dt= \[s\]"):
        record_env(Timeless(), None, 1)
    (trajectory,) = record_env(Timeless(), None, 1, dt=0.3)
    assert trajectory.times.tolist() == [0.0, 0.3]
    assert record_env(gymnasium.make("Pendulum-v1"), None, 1, dt=0.3)[0].dt == 0.3  # said by the caller


# record_env: vectors of environments


def vector(*tasks, mode=AutoresetMode.DISABLED, wrap=lambda env: env):
    return SyncVectorEnv([lambda task=task: wrap(make_env(task)) for task in tasks], autoreset_mode=mode)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_vector_that_resets_by_itself_is_refused_with_the_fix(mode):
    with pytest.raises(
        ValueError, match=r"make it with vector_kwargs=\{\"autoreset_mode\": .*AutoresetMode.DISABLED\}"
    ):
        record_env(vector(drift(), mode=mode), None, 1)


def test_the_fix_works():
    kwargs = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
    envs = gymnasium.make_vec("mbrl/PendulumSwingUp-v0", 2, vectorization_mode="sync", vector_kwargs=kwargs)
    with pytest.raises(ValueError, match="NEXT_STEP"):
        record_env(gymnasium.make_vec("mbrl/PendulumSwingUp-v0", 2, vectorization_mode="sync"), None, 1)
    trajectories = record_env(envs, None, 2)
    assert [t.num_steps for t in trajectories] == [200, 200]
    for trajectory in trajectories:
        assert_happened(pendulum_swing_up(), trajectory)


def test_episodes_of_different_length_are_whole_and_nothing_else():
    """x' = x + 0.25 from [-1, 0] takes five to nine steps; in each round some worlds wait for others."""
    envs = vector(*[drift()] * 4)
    trajectories = record_env(envs, Fixed(0.25), 10)
    assert len(trajectories) == 10
    assert len({t.num_steps for t in trajectories}) > 2
    for index, trajectory in enumerate(trajectories):
        assert (trajectory.terminated, trajectory.truncated) == (True, False)
        start = trajectory.states[0, 0]
        assert -1.0 <= start <= 0.0
        assert trajectory.num_steps == math.floor((1.0 - start) / 0.25) + 1
        assert trajectory.source == f"SyncVectorEnv episode {index}"
        assert_happened(drift(), trajectory)
    assert len({t.states[0, 0] for t in trajectories}) == 10


def test_truncation_and_termination_side_by_side():
    trajectories = record_env(vector(drift(), drift(episode_steps=2)), Fixed(0.25), 4)
    assert [(t.terminated, t.truncated) for t in trajectories] == [(True, False), (False, True)] * 2
    assert [t.num_steps for t in trajectories[1::2]] == [2, 2]
    for trajectory in trajectories:
        assert_happened(drift(), trajectory)


def test_a_vector_records_the_first_episodes_of_its_environments():
    task = replace(pendulum_swing_up("torch"), episode_steps=15)
    policy = Fixed(lambda y, k: (2.0 * torch.sin(y[:, 1:2] + 0.3 * k)).float().to(y))
    singles = [record_env(make_env(task), policy, 1, seed=7 + i)[0] for i in range(3)]
    assert_same(record_env(vector(task, task, task), policy, 3, seed=7), singles)


def test_actors_with_a_memory_and_on_the_state_act_on_vectors():
    tasks = [drift(episode_steps=steps) for steps in (4, 9)]
    for actor in (noise(tasks[0]), mpc(drift(termination=None, termination_cost=0.0))):
        trajectories = record_env(vector(*tasks), actor, 4, seed=2)
        for trajectory in trajectories:
            assert_happened(drift(), trajectory)
        assert [t.num_steps for t in trajectories] == [4, 9, 4, 9]
        again = record_env(vector(*tasks), actor, 4, seed=2)
        assert_same(trajectories, again)
    first, _, second, _ = record_env(vector(*tasks), noise(tasks[0]), 4)
    assert not np.array_equal(first.controls, second.controls)  # another round, other noise


def test_a_world_that_diverges_leaves_the_others_alone():
    calm = replace(bursting(), initial_state=uniform_initial_state([0.0], [0.0]))
    wild = replace(bursting(), initial_state=uniform_initial_state([1.0], [1.0]))
    policy = Fixed(lambda y, k: 0.1 + 0 * y, "state")  # NaN for a state that is NaN
    diverged, whole = record_env(vector(wild, calm), policy, 2)
    assert diverged.states[:, 0].tolist() == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert (diverged.terminated, diverged.truncated) == (False, False)
    assert (whole.num_steps, whole.truncated) == (20, True)


def test_vectors_of_wrapped_environments_have_their_names_too():
    trajectories = record_env(
        vector(*[pendulum_swing_up("torch")] * 2, wrap=lambda e: RescaleAction(e, -1, 1)), None, 1
    )
    assert trajectories[0].names.observations == ("cos_angle", "sin_angle", "angle_velocity")
    assert trajectories[0].names.controls == ("u0",)
    assert trajectories[0].dt == 0.05


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_environments_in_other_processes_survive():
    """Asked for an attribute that it does not have, a worker would end."""
    envs = AsyncVectorEnv([lambda: gymnasium.make("Pendulum-v1")] * 2, autoreset_mode=AutoresetMode.DISABLED)
    try:
        with pytest.raises(ValueError, match=r"pass dt= \[s\]"):
            record_env(envs, None, 2)
        trajectories = record_env(envs, None, 3, dt=0.05, seed=3)
    finally:
        envs.close()
    (single,) = record_env(gymnasium.make("Pendulum-v1"), Fixed(0.0), 1, seed=3)
    np.testing.assert_array_equal(trajectories[0].observations[0], single.observations[0])
    assert [t.num_steps for t in trajectories] == [200] * 3


# The logs that are shipped

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "examples" / "logs" / "cartpole" / "random-v0"


@pytest.fixture(scope="module")
def logs():
    return read_trajectories(LOGS)


def test_the_shipped_logs_are_clips_of_the_cart_pole_from_anywhere(logs):
    task = cart_pole_swing_up()
    check_compatible(logs)
    assert len(logs) == 134
    assert {(t.num_steps, t.terminated, t.truncated) for t in logs} == {(75, False, True)}
    assert logs[0].dt == task.dynamics.dt
    for group in ("observations", "controls", "states"):
        assert getattr(logs[0].names, group) == task.names[group]
    assert (logs[0].units.states, logs[0].units.controls) == (task.units["states"], task.units["controls"])
    angles = np.array([t.states[0, 1] for t in logs])
    assert np.histogram(angles, bins=8, range=(-math.pi, math.pi))[0].min() > 5
    assert sum(file.stat().st_size for file in LOGS.rglob("*") if file.is_file()) < 3e6


def test_the_shipped_logs_happened(logs):
    """Step by step: another machine may round otherwise, and over a clip the swinging pole magnifies that."""
    task = cart_pole_swing_up()
    x, u, x_next = (torch.from_numpy(a) for a in transitions(logs)[:3])
    torch.testing.assert_close(task.dynamics(x, u), x_next, rtol=0, atol=1e-9)
    reward = task.reward(x, u, x_next, 0).numpy()
    np.testing.assert_allclose(np.concatenate([t.rewards for t in logs]), reward, rtol=1e-9)
    xs, us = (
        torch.from_numpy(np.stack(arrays)) for arrays in zip(*((t.states, t.controls) for t in logs), strict=True)
    )
    torch.testing.assert_close(task.dynamics.rollout(xs[:, 0], us), xs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.stack([t.observations for t in logs]), task.observe(xs).numpy(), atol=1e-12)
    assert float(us.abs().max()) <= 10.0


def test_minari_loads_the_shipped_logs(logs, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(ROOT / "examples" / "logs"))
    dataset = minari.load_dataset("cartpole/random-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (134, 10050)
    for trajectory, episode in zip(logs[:3], dataset.iterate_episodes([0, 1, 2]), strict=True):
        np.testing.assert_array_equal(episode.observations, trajectory.observations)
        np.testing.assert_array_equal(episode.actions, trajectory.controls)


def run_record_logs(folder, *arguments):
    command = [sys.executable, str(ROOT / "examples" / "record_logs.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_command_that_records_them(tmp_path):
    result = run_record_logs(tmp_path, "--clips", "3", "--path", "few-v0")
    assert result.returncode == 0, result.stderr
    assert "3 trajectories, 225 steps, 9 s" in result.stdout
    assert [t.num_steps for t in read_trajectories(tmp_path / "few-v0")] == [75] * 3


@pytest.mark.slow
def test_the_command_gives_the_shipped_logs(logs, tmp_path):
    result = run_record_logs(tmp_path, "--path", "all-v0")
    assert result.returncode == 0, result.stderr
    for recorded, shipped in zip(read_trajectories(tmp_path / "all-v0"), logs, strict=True):
        np.testing.assert_allclose(recorded.controls, shipped.controls, rtol=0, atol=1e-12)
        np.testing.assert_allclose(recorded.states, shipped.states, rtol=0, atol=1e-6)
    again = run_record_logs(tmp_path, "--clips", "3", "--path", "all-v0")
    assert again.returncode != 0  # nothing is overwritten unasked
    assert len(read_trajectories(tmp_path / "all-v0")) == 134
