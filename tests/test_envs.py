"""Tasks as gymnasium environments: gymnasium's own checker, and every step against the task."""

import copy
import math
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from instances import ALL_TASK_VARIANTS, ALL_TASKS

import mbrl
from dynamics import CartPole, LinearDynamics, MujocoDynamics, TorchDynamics, Trajectory
from mbrl import TaskEnv, cart_pole_swing_up, make_env, pendulum_swing_up
from mbrl.plots import RenderingUnavailable, render_mujoco, render_task, write_task_video
from mbrl.plots.rendering import MujocoRenderer
from mbrl.tasks import WORLDS

BACKENDS = ("mujoco", "torch")

every_variant = pytest.mark.parametrize(("name", "options"), ALL_TASK_VARIANTS.values(), ids=ALL_TASK_VARIANTS)


def stopping(at=-0.2, **fields):
    """A pendulum task on torch that ends once the rod turns faster than a bound."""
    task = pendulum_swing_up("torch")
    return replace(task, termination=lambda x: x[..., 1] < at, **{"termination_cost": 50.0, **fields})


def play(env, actions, **options):
    """Observations, rewards, flags and states of an episode."""
    y, info = env.reset(**options)
    steps = [env.step(action) for action in actions]
    return (
        np.stack([y, *(step[0] for step in steps)]),
        np.array([step[1] for step in steps]),
        [step[2:4] for step in steps],
        np.stack([info["state"], *(step[4]["state"] for step in steps)]),
    )


def random_actions(env, steps, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


# What gymnasium asks for


def check(env, **options):
    """All but gymnasium's advice to scale actions to [-1, 1] and to bound observations: units are physical here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*A Box observation space (minimum|maximum) value is -?infinity")
        warnings.filterwarnings("ignore", message=r".*we recommend using a symmetric and normalized space")
        check_env(env, **options)


@every_variant
def test_gymnasium_approves(name, options):
    check(gymnasium.make(f"mbrl/{name}-v0", **options).unwrapped, skip_render_check=True)
    check(make_env(ALL_TASKS[name](**options)), skip_render_check=True)


def test_keywords_of_make_go_to_the_task():
    env = gymnasium.make("mbrl/PendulumSwingUp-v0", torque_limit=3.0).unwrapped
    assert env.task.limits()[1].tolist() == env.action_space.high.tolist() == [3.0]
    assert isinstance(env.task.dynamics, MujocoDynamics)
    system = CartPole(dt=0.02).with_parameters(pole_mass=0.3)
    env = gymnasium.make("mbrl/CartPoleSwingUp-v0", backend="torch", system=system).unwrapped
    assert env.task.dynamics is system
    assert env.dt == 0.02
    assert env.metadata["render_fps"] == 50
    assert TaskEnv.metadata["render_fps"] == 25  # that of the class is left alone
    with pytest.raises(ValueError, match="backend must be 'mujoco' or 'torch', got 'jax'"):
        gymnasium.make("mbrl/CartPoleSwingUp-v0", backend="jax")


def test_spaces():
    env = make_env(cart_pole_swing_up())
    assert env.action_space == gymnasium.spaces.Box(-10.0, 10.0, (1,), np.float32)
    assert env.observation_space == gymnasium.spaces.Box(-math.inf, math.inf, (5,), np.float64)


def test_an_unknown_render_mode():
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', got 'human'"):
        make_env(pendulum_swing_up("torch"), render_mode="human")


@every_variant
def test_a_vector_of_environments(name, options):
    envs = gymnasium.make_vec(f"mbrl/{name}-v0", 3, vectorization_mode="sync", **options)
    y, info = envs.reset(seed=5)
    singles = [make_env(ALL_TASKS[name](**options)) for _ in range(3)]
    expected = [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)]
    np.testing.assert_array_equal(y, np.stack(expected))
    actions = envs.action_space.sample()
    y, reward, terminated, truncated, info = envs.step(actions)
    for i, env in enumerate(singles):
        y_i, reward_i, *_ = env.step(actions[i])
        np.testing.assert_array_equal(y[i], y_i)
        assert reward[i] == reward_i
        np.testing.assert_array_equal(info["state"][i], env.state)
    assert not (terminated | truncated).any()
    envs.close()


# Every step is the task's


@every_variant
def test_steps_are_those_of_the_plant(name, options):
    task = ALL_TASKS[name](**options)
    env = gymnasium.make(f"mbrl/{name}-v0", **options).unwrapped
    actions = random_actions(env, 50)
    y, rewards, flags, states = play(env, actions, seed=3)
    x = torch.from_numpy(states[0])
    for k, action in enumerate(actions):
        u = torch.from_numpy(action).double()
        x_next = task.dynamics(x, u)
        np.testing.assert_array_equal(states[k + 1], x_next.numpy())
        assert rewards[k] == -float(task.cost.transition(x, u, x_next, k))
        x = x_next
    np.testing.assert_array_equal(y, task.observe(torch.from_numpy(states)).numpy())
    ended = [False] * 50 if task.termination is None else task.termination(torch.from_numpy(states[1:])).tolist()
    assert flags == [(end, False) for end in ended]


@every_variant
def test_the_seed_decides_everything(name, options):
    env = gymnasium.make(f"mbrl/{name}-v0", **options)
    actions = random_actions(env, 5)
    first, again, other = (play(env, actions, seed=seed)[3] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], other[0])
    env.reset(seed=1)
    second_episode = play(env, actions)[3]
    assert not np.array_equal(second_episode[0], first[0])
    env.reset(seed=1)
    np.testing.assert_array_equal(play(env, actions)[3], second_episode)


def test_initial_states_are_the_tasks():
    env = make_env(cart_pole_swing_up("torch"))
    starts = np.stack([env.reset(seed=seed)[1]["state"] for seed in range(300)])
    offsets = np.abs(starts - [0, math.pi, 0, 0])
    assert (offsets <= 0.1).all()
    assert (offsets.max(0) > 0.09).all()


def test_actions_are_clipped_to_the_limits():
    env = make_env(pendulum_swing_up("torch"))
    outcomes = []
    for action in (2.0, 50.0, -2.0, -50.0):
        env.reset(options={"state": [1.0, 0.0]})
        y, reward, *_ = env.step(np.array([action]))
        outcomes.append((*y, reward))
    assert outcomes[0] == outcomes[1] != outcomes[2] == outcomes[3]


def test_an_episode_can_begin_anywhere():
    env = make_env(pendulum_swing_up())
    state = np.array([0.1, -0.2])
    y, info = env.reset(options={"state": state})
    np.testing.assert_array_equal(info["state"], state)
    np.testing.assert_allclose(y, [math.cos(0.1), math.sin(0.1), -0.2])
    env.step(np.array([1.0]))
    np.testing.assert_array_equal(state, [0.1, -0.2])
    with pytest.raises(ValueError, match=r"options\['state'\] must have shape \(2,\), got \(3,\)"):
        env.reset(options={"state": [0.0, 0.0, 0.0]})


def test_states_that_were_handed_out_are_copies():
    env = make_env(pendulum_swing_up("torch"))
    _, info = env.reset(seed=0)
    before = env.state.copy()
    info["state"][:] = math.nan
    np.testing.assert_array_equal(env.state, before)
    info = env.step(np.array([0.0]))[-1]
    info["state"][:] = math.nan
    assert np.isfinite(env.state).all()


# How an episode ends


def test_an_episode_is_truncated_after_its_steps():
    env = make_env(replace(pendulum_swing_up("torch"), episode_steps=4))
    flags = play(env, [np.zeros(1)] * 4, seed=0)[2]
    assert flags == [(False, False)] * 3 + [(False, True)]
    flags = play(env, [np.zeros(1)] * 4)[2]
    assert flags == [(False, False)] * 3 + [(False, True)]  # the count begins again


def test_termination_ends_an_episode_and_is_charged_once():
    task = stopping()
    env = make_env(task)
    _, rewards, flags, states = play(env, [np.array([-1.0])] * 8, options={"state": [math.pi, 0.0]})
    first = int(np.argmax(states[1:, 1] < -0.2))
    assert 0 < first < 7
    assert [terminated for terminated, _ in flags[: first + 1]] == [False] * first + [True]
    xs = torch.from_numpy(states)
    costs = task.cost.stage(xs[:-1], torch.full((8, 1), -1.0).double(), 0).numpy()
    np.testing.assert_allclose(-rewards[: first + 1], costs[: first + 1] + 50.0 * (np.arange(first + 1) == first))


def test_the_last_step_of_an_episode_can_terminate_it():
    _, _, flags, states = play(make_env(stopping()), [np.array([-1.0])] * 8, options={"state": [math.pi, 0.0]})
    steps = int(np.argmax(states[1:, 1] < -0.2)) + 1
    env = make_env(stopping(episode_steps=steps))
    flags = play(env, [np.array([-1.0])] * steps, options={"state": [math.pi, 0.0]})[2]
    assert flags[-1] == (True, False)


# Pictures


@pytest.fixture(scope="module")
def _mujoco_draws():
    try:
        render_mujoco(cart_pole_swing_up().dynamics, np.zeros((1, 4)), width=16, height=16)
    except RenderingUnavailable as error:
        pytest.skip(f"rendering of MuJoCo scenes: {error}")


def orange(frame):
    """Rows and columns of the pixels of a pole, which is orange on MuJoCo and in drawings."""
    r, g, b = (frame[..., i].astype(int) for i in range(3))
    return ((r > 80) & (r > 1.3 * g) & (g > 1.3 * b)).nonzero()


@pytest.mark.usefixtures("_mujoco_draws")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_picture_shows_the_present_state(backend):
    env = gymnasium.make("mbrl/CartPoleSwingUp-v0", backend=backend, render_mode="rgb_array")
    env.reset(options={"state": [0.0, 0.0, 0.0, 0.0]})
    up = env.render()
    env.reset(options={"state": [0.5, math.pi, 0.0, 0.0]})
    down = env.render()
    env.close()
    assert up.shape == down.shape == (360, 640, 3)
    assert up.dtype == np.uint8
    assert orange(up)[0].mean() < 180 < orange(down)[0].mean()  # above and below the rail
    assert orange(up)[1].mean() == pytest.approx(320, abs=3)
    assert orange(down)[1].mean() > 340


@pytest.mark.usefixtures("_mujoco_draws")
def test_gymnasium_approves_of_the_pictures():
    check(gymnasium.make("mbrl/PendulumSwingUp-v0", render_mode="rgb_array").unwrapped)


@pytest.mark.usefixtures("_mujoco_draws")
def test_one_process_draws_all_pictures_and_ends_with_the_environment():
    env = make_env(pendulum_swing_up(), render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    process = env._renderer._renderer._process
    np.testing.assert_array_equal(env.render(), first)
    assert env._renderer._renderer._process is process
    assert process.poll() is None
    env.close()
    assert process.poll() is not None
    np.testing.assert_array_equal(env.render(), first)  # a new one
    env.close()
    env.close()


@pytest.mark.usefixtures("_mujoco_draws")
def test_a_process_that_dies_is_an_error_like_no_graphics_library():
    renderer = MujocoRenderer(cart_pole_swing_up().dynamics.model, width=32, height=24)
    assert renderer.frames(np.zeros((2, 4))).shape == (2, 24, 32, 3)
    renderer._process.kill()
    with pytest.raises(RenderingUnavailable, match="It said: exit status -9"):
        renderer.frames(np.zeros((1, 4)))
    renderer.close()


@pytest.mark.usefixtures("_mujoco_draws")
def test_a_motion_of_a_task_in_pictures():
    """One picture for each state, or as many as the time needs; the same as for one state alone."""
    task = pendulum_swing_up()
    states = np.linspace([0.0, 0.0], [math.pi, 0.0], 11)
    frames = render_task(task, states, width=96, height=64)
    assert frames.shape == (11, 64, 96, 3)
    np.testing.assert_array_equal(frames[7], render_task(task, states[7:8], width=96, height=64)[0])
    heights = [orange(frame)[0].mean() for frame in frames]
    assert (np.diff(heights) > 0).all()
    assert len(render_task(task, states, fps=10, width=96, height=64)) == 6


@pytest.mark.usefixtures("_mujoco_draws")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_on_a_model_of_its_plant_is_drawn_like_the_plant(backend):
    task, states = pendulum_swing_up(backend), np.array([[0.5, 0.0]])
    model = LinearDynamics(torch.eye(2).double(), torch.ones(2, 1).double(), dt=0.05)
    frames = render_task(task.with_dynamics(model), states, width=96, height=64)
    np.testing.assert_array_equal(frames, render_task(task, states, width=96, height=64))


def test_a_task_without_a_scene_is_drawn_as_curves():
    dynamics = LinearDynamics(torch.eye(2).double(), torch.ones(2, 1).double(), dt=0.1)
    task = replace(pendulum_swing_up("torch"), dynamics=dynamics, system=None)
    frames = render_task(task, np.zeros((3, 2)), width=320, height=200)
    assert frames.shape == (3, 200, 320, 3)
    assert frames.std() > 5


def test_motions_that_cannot_be_drawn(tmp_path):
    task = pendulum_swing_up("torch")
    blind = Trajectory(np.zeros((2, 3)), np.zeros((1, 1)), dt=0.05)
    with pytest.raises(ValueError, match=r"has no states to draw; record it with mbrl.record"):
        write_task_video(tmp_path / "blind.mp4", task, blind)
    with pytest.raises(ValueError, match="row 0 of 1 is not finite"):
        render_task(task, np.full((1, 2), math.nan))


def test_without_a_graphics_library_the_system_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", str(tmp_path / "none.json"))
    env = make_env(cart_pole_swing_up(), render_mode="rgb_array")
    env.reset(options={"state": [0.0, 0.0, 0.0, 0.0]})
    with pytest.warns(UserWarning, match="libegl1.*; drawn by matplotlib instead"):
        up = env.render()
    env.reset(options={"state": [0.0, math.pi, 0.0, 0.0]})
    down = env.render()  # says so once
    env.close()
    assert up.shape == (360, 640, 3)
    assert orange(up)[0].mean() + 40 < orange(down)[0].mean()


def test_an_environment_without_render_mode_draws_nothing():
    env = make_env(pendulum_swing_up("torch"))
    env.reset(seed=0)
    assert env.render() is None
    env.close()


def test_an_environment_can_be_copied_in_the_middle_of_an_episode():
    env = make_env(pendulum_swing_up("torch"))
    env.reset(seed=0)
    env.step(np.array([1.0]))
    twin = copy.deepcopy(env)
    np.testing.assert_array_equal(env.step(np.array([1.0]))[0], twin.step(np.array([1.0]))[0])


def test_importing_the_package_registers_the_ids():
    named = {*ALL_TASKS, *WORLDS}
    assert {spec for spec in gymnasium.registry if spec.startswith("mbrl/")} == {f"mbrl/{n}-v0" for n in named}
    assert mbrl.make_env is make_env


def test_an_action_that_is_no_control_is_refused():
    env = make_env(pendulum_swing_up(backend="torch"))
    env.reset(seed=0)
    for action in (np.array([np.nan]), np.zeros(2)):
        with pytest.raises(ValueError, match="an action is 1 finite numbers"):
            env.step(action)


def test_a_diverged_simulation_ends_the_episode():
    task = pendulum_swing_up(backend="torch")
    broken = TorchDynamics(lambda x, u: x / 0.0, 2, 1, task.dynamics.dt)
    env = make_env(replace(task, dynamics=broken))
    env.reset(seed=0)
    *_, terminated, truncated, info = env.step(np.zeros(1))
    assert (terminated, truncated, info["diverged"]) == (False, True, True)
