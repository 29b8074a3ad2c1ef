"""Many worlds as one batch: gymnasium's vector of single environments is the truth, in every autoreset mode."""

import copy
import json
import math
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from instances import ALL_TASK_VARIANTS, ALL_TASKS

from dynamics import LinearDynamics, ModelField, MujocoDynamics, Pendulum, TorchDynamics
from mbrl import (
    SplineNoise,
    Task,
    TaskVectorEnv,
    cart_pole_swing_up,
    make_env,
    make_vec_env,
    pendulum_swing_up,
    record_env,
    uniform_initial_state,
)
from planners import FunctionCost, QuadraticCost

every_mode = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)


def spinning(backend="torch", **fields):
    """A pendulum whose episode ends once it turns fast, after at most 40 steps."""
    fields = {"termination": lambda x: x[..., 1].abs() > 1.5, "termination_cost": 5.0, "episode_steps": 40, **fields}
    return replace(pendulum_swing_up(backend), **fields)


def short(**fields):
    """A pendulum whose episodes are truncated together."""
    return replace(pendulum_swing_up("torch"), **{"episode_steps": 7, **fields})


def bursting():
    """x' = 1.1 x + u from [-1, 1], which terminates above 3 and diverges below -3; it observes the state itself."""
    dynamics = TorchDynamics(lambda x, u: torch.where(x < -3, torch.inf, 1.1 * x) + u, 1, 1, 0.1)
    cost = QuadraticCost(torch.eye(1).double(), torch.eye(1).double())
    fields = {"horizon": 5, "episode_steps": 15, "termination": lambda x: x[..., 0] > 3.0}
    return Task("Bursting", dynamics, cost, (-0.5, 0.5), uniform_initial_state([-1.0], [1.0]), **fields)


def timed():
    """Dynamics and cost that depend on the step, given for exactly the steps of an episode."""
    A = torch.linspace(0.5, 1.2, 9).double().reshape(9, 1, 1)
    dynamics = LinearDynamics(A, torch.ones(9, 1, 1).double(), dt=0.1)
    cost = FunctionCost(lambda x, u, t: x[..., 0] * torch.as_tensor(t))
    fields = {"horizon": 5, "episode_steps": 9, "termination": lambda x: x[..., 0] > 2.0}
    return Task("Timed", dynamics, cost, (-1.0, 1.0), uniform_initial_state([-1.0], [1.0]), **fields)


TASKS = {
    "spinning": spinning,
    "spinning in MuJoCo": lambda: spinning("mujoco"),
    "cart-pole in MuJoCo": lambda: replace(cart_pole_swing_up(), termination=lambda x: x[..., 0].abs() > 0.6),
    "short": short,
    "bursting": bursting,
    "timed": timed,
}


def both(task, worlds, mode):
    """One batch, and gymnasium's vector of single environments."""
    singles = SyncVectorEnv([lambda: make_env(task)] * worlds, autoreset_mode=mode)
    return make_vec_env(task, worlds, autoreset_mode=mode), singles


def assert_same(ours, theirs, where="", exact=False):
    """Equal structure, kinds and dtypes, equal numbers to 1e-12."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in ours.items():
            assert_same(value, theirs[key], f"{where}[{key}]", exact)
    elif isinstance(ours, tuple) or (isinstance(ours, np.ndarray) and ours.dtype == object):
        assert len(ours) == len(theirs), where
        for i, value in enumerate(ours):
            assert_same(value, theirs[i], f"{where}[{i}]", exact)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype, where
        tolerance = 0.0 if exact else 1e-12
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=where)
    else:
        assert ours == theirs, where


def assert_same_run(ours, theirs, steps, *, seed=0, exact=False):
    """Both live the same life under random actions; returns the number of episodes that ended."""
    assert_same(ours.reset(seed=seed), theirs.reset(seed=seed), "reset", exact)
    ours.action_space.seed(seed)
    ended_episodes = 0
    for k in range(steps):
        actions = ours.action_space.sample()
        results = [env.step(actions) for env in (ours, theirs)]
        assert_same(*results, f"step {k}", exact)
        ended = results[0][2] | results[0][3]
        ended_episodes += int(ended.sum())
        if ours.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            resets = [env.reset(options={"reset_mask": ended}) for env in (ours, theirs)]
            assert_same(*resets, f"reset after {k}", exact)
    return ended_episodes


# The same as gymnasium's vector of single environments


@every_mode
@pytest.mark.parametrize("name", TASKS)
def test_the_worlds_are_those_of_single_environments(name, mode):
    ours, theirs = both(TASKS[name](), 5, mode)
    for attribute in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert ours.metadata == theirs.metadata
    assert ours.num_envs == theirs.num_envs
    steps = 60 if "MuJoCo" in name else 150
    assert assert_same_run(ours, theirs, steps, exact="MuJoCo" in name) > 3
    assert ours.np_random_seed == theirs.np_random_seed


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_all_ways_to_end_are_among_them(mode):
    """Otherwise the comparison would say little."""
    env, seen = make_vec_env(bursting(), 8, autoreset_mode=mode), set()
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(60):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        final = info["final_info"]["diverged"] if "final_info" in info else info["diverged"]
        seen |= set(zip(terminated.tolist(), truncated.tolist(), final.tolist(), strict=True))
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})
    assert {(True, False, False), (False, True, False), (False, True, True)} <= seen
    assert (True, True) not in {flags[:2] for flags in seen}


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize("name", TASKS)
def test_the_worlds_are_those_of_single_environments_for_long(name, mode):
    ours, theirs = both(TASKS[name](), 8, mode)
    assert assert_same_run(ours, theirs, 600, seed=3, exact="MuJoCo" in name) > 50


@pytest.mark.parametrize(("name", "options"), ALL_TASK_VARIANTS.values(), ids=ALL_TASK_VARIANTS)
def test_every_task_of_the_library(name, options):
    task = replace(ALL_TASKS[name](**options), episode_steps=6)
    exact = isinstance(task.dynamics, MujocoDynamics)
    assert assert_same_run(*both(task, 3, AutoresetMode.SAME_STEP), 15, exact=exact) >= 6


@every_mode
def test_one_world_is_a_vector_too(mode):
    assert assert_same_run(*both(spinning(), 1, mode), 100) > 1


# Seeds


def test_a_seeded_world_begins_as_the_single_environment_does_bit_for_bit():
    """Also after later resets by itself, whatever the other worlds do."""
    task, seeds = short(), [11, 3, 3, 400]
    env, singles = make_vec_env(task, 4, autoreset_mode="SameStep"), [make_env(task) for _ in seeds]
    starts = [env.reset(seed=seeds)[0]]
    for _ in range(3):
        for _ in range(7):
            y, *_ = env.step(np.zeros((4, 1)))
        starts.append(y)
    for i, single in enumerate(singles):
        expected = [single.reset(seed=seeds[i])[0], *(single.reset()[0] for _ in range(3))]
        np.testing.assert_array_equal(np.stack(starts)[:, i], np.stack(expected))
    np.testing.assert_array_equal(starts[2][1], starts[2][2])
    assert env.np_random_seed == tuple(seeds)


def test_seeds():
    env = make_vec_env(short(), 3)
    first = env.reset(seed=5)[0]
    np.testing.assert_array_equal(first, env.reset(seed=[5, 6, 7])[0])
    np.testing.assert_array_equal(first, env.reset(seed=np.int64(5))[0])
    np.testing.assert_array_equal(first[::-1], env.reset(seed=np.array([7, 6, 5]))[0])
    assert len(np.unique(first[:, 0])) == 3
    goes_on = env.reset()[0]
    env.reset(seed=[7, 6, 5])
    some = env.reset(seed=[5, None, 5])[0]
    assert some[0].tolist() == some[2].tolist() == first[0].tolist()
    np.testing.assert_array_equal(some[1], goes_on[1])  # world 1 had seed 6 and goes on
    unseeded = [make_vec_env(short(), 3).reset()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)


@pytest.mark.parametrize("seed", [[1, 2], [1, 2, 3, 4], []])
def test_seeds_that_do_not_fit(seed):
    with pytest.raises(ValueError, match=f"seed must be a number or one for each of 3 worlds, got {len(seed)}"):
        make_vec_env(short(), 3).reset(seed=seed)


@pytest.mark.parametrize("seed", [1.5, "one", [1, 2, 0.5]])
def test_seeds_that_are_none(seed):
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        make_vec_env(short(), 3).reset(seed=seed)


# Resets of some worlds, and from given states


@every_mode
def test_a_reset_of_some_worlds(mode):
    """As gymnasium's, in the middle of episodes and of worlds that would reset themselves next."""
    ours, theirs = both(short(), 4, mode)
    assert_same(ours.reset(seed=1), theirs.reset(seed=1))
    mask = np.array([True, False, False, True])
    for steps, seed in ((3, None), (2, [9, 9, 9, 9]), (2, 4)):
        for _ in range(steps):
            actions = ours.action_space.sample()
            assert_same(*(env.step(actions) for env in (ours, theirs)))
        resets = [env.reset(seed=seed, options={"reset_mask": mask}) for env in (ours, theirs)]
        assert_same(*resets)
        mask = ~mask if steps == 2 else mask


def test_options_are_left_alone():
    options = {"reset_mask": np.array([True, True, False])}
    env = make_vec_env(short(), 3)
    env.reset(seed=0)
    env.reset(options=options)
    assert set(options) == {"reset_mask"}


def test_worlds_begin_at_given_states():
    env, task = make_vec_env(spinning(), 3), spinning()
    states = np.array([[0.1, -0.2], [1.0, 0.0], [math.pi, 0.5]])
    y, info = env.reset(options={"state": states})
    np.testing.assert_array_equal(info["state"], states)
    np.testing.assert_array_equal(y, task.observe(torch.from_numpy(states)).numpy())
    env.step(np.ones((3, 1)))
    before = env.state
    np.testing.assert_array_equal(states, [[0.1, -0.2], [1.0, 0.0], [math.pi, 0.5]])
    mask = np.array([False, True, False])
    _, info = env.reset(options={"state": states, "reset_mask": mask})
    np.testing.assert_array_equal(env.state, np.where(mask[:, None], states, before))
    np.testing.assert_array_equal(info["_state"], mask)
    np.testing.assert_array_equal(info["state"], np.where(mask[:, None], states, 0.0))
    _, info = env.reset(options={"state": [0.3, 0.0]})
    np.testing.assert_array_equal(info["state"], [[0.3, 0.0]] * 3)
    for state in (np.zeros((2, 2)), np.zeros(3), np.zeros((3, 1))):
        with pytest.raises(ValueError, match=r"options\['state'\] must have shape \(2,\) or \(3, 2\), got"):
            env.reset(options={"state": state})


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([True, False, True], TypeError, "numpy array of bool, got list"),
        (np.array([1, 0, 1]), TypeError, "numpy array of bool, got an array of int64"),
        (np.array([True, False]), ValueError, r"must have shape \(3,\) and at least one world"),
        (np.zeros(3, dtype=bool), ValueError, "at least one world"),
    ],
)
def test_masks_that_are_none(mask, error, message):
    env = make_vec_env(short(), 3)
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.reset(options={"reset_mask": mask})


def test_the_first_reset_is_one_of_all_worlds():
    env = make_vec_env(short(), 2)
    with pytest.raises(ResetNeeded, match="call reset before step"):
        env.step(np.zeros((2, 1)))
    with pytest.raises(ResetNeeded, match="the first reset is one of all worlds"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(options={"reset_mask": np.array([True, True])})
    env.step(np.zeros((2, 1)))


def test_without_autoreset_a_world_that_has_ended_is_not_stepped():
    env = make_vec_env(short(episode_steps=2), 3, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step(np.zeros((3, 1)))
    env.reset(options={"reset_mask": np.array([True, False, False])})
    env.step(np.zeros((3, 1)))
    with pytest.raises(ResetNeeded, match=r"worlds \[1, 2\] have ended; .*reset_mask"):
        env.step(np.zeros((3, 1)))


# Worlds that differ


@every_mode
def test_worlds_with_parameters_of_their_own(mode):
    masses = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    system = Pendulum(dt=0.05)
    task = replace(spinning(episode_steps=15), dynamics=system.with_parameters(mass=masses))
    singles = [lambda mass=mass: make_env(replace(task, dynamics=system.with_parameters(mass=mass))) for mass in masses]
    theirs = SyncVectorEnv(singles, autoreset_mode=mode)
    assert assert_same_run(make_vec_env(task, 4, autoreset_mode=mode), theirs, 100) > 4


def test_mujoco_worlds_with_parameters_of_their_own():
    def plant(mass=None):
        system = MujocoDynamics(Pendulum(dt=0.05).mjcf(), parameters={"damping": ModelField("dof_damping", "angle")})
        return system if mass is None else system.with_parameters(damping=mass)

    dampings = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    task = replace(spinning("mujoco", episode_steps=15), dynamics=plant(dampings))
    singles = [lambda value=value: make_env(replace(task, dynamics=plant(value))) for value in dampings]
    assert assert_same_run(make_vec_env(task, 3), SyncVectorEnv(singles), 60, exact=True) > 3


def test_as_many_parameters_as_worlds():
    task = replace(spinning(), dynamics=Pendulum(dt=0.05).with_parameters(mass=torch.ones(4).double()))
    with pytest.raises(ValueError, match="parameter 'mass' has one value for each of 4 worlds, num_envs is 3"):
        make_vec_env(task, 3)


# Arguments, actions, copies


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1, got 0"),
        ({"num_envs": 2.5}, TypeError, "cannot be interpreted as an integer"),
        (
            {"autoreset_mode": "never"},
            ValueError,
            "AutoresetMode or one of 'NextStep', 'SameStep', 'Disabled', got 'ne",
        ),
        ({"render_mode": "human"}, ValueError, "render_mode must be None or 'rgb_array', got 'human'"),
    ],
)
def test_arguments_that_are_none(arguments, error, message):
    with pytest.raises(error, match=message):
        make_vec_env(short(), **{"num_envs": 2, **arguments})


@pytest.mark.parametrize(
    "actions", [np.zeros((2, 1)), np.zeros((3, 2)), np.zeros(3), np.array([[0.0], [np.nan], [0.0]])]
)
def test_actions_that_are_no_controls(actions):
    env = make_vec_env(short(), 3)
    env.reset(seed=0)
    before = env.state
    with pytest.raises(ValueError, match="an action is 1 finite numbers for each of 3 worlds, got array"):
        env.step(actions)
    np.testing.assert_array_equal(env.state, before)


def test_the_action_of_a_world_that_is_reset_may_be_anything():
    env = make_vec_env(short(episode_steps=1), 2)
    env.reset(seed=0)
    env.step(np.zeros((2, 1)))
    _, reward, terminated, truncated, _ = env.step(np.full((2, 1), np.nan))
    assert reward.tolist() == [0.0, 0.0]
    assert not (terminated | truncated).any()


def test_actions_are_clipped_and_left_alone():
    env = make_vec_env(pendulum_swing_up("torch"), 2)
    outcomes = []
    for value in (2.0, 50.0):
        env.reset(options={"state": [1.0, 0.0]})
        actions = np.full((2, 1), value)
        outcomes.append(env.step(actions)[:2])
        assert actions.tolist() == [[value], [value]]
    np.testing.assert_array_equal(*(y for y, _ in outcomes))
    np.testing.assert_array_equal(*(reward for _, reward in outcomes))


def test_an_id_is_no_task():
    for make in (make_env, lambda task: make_vec_env(task, 2)):
        with pytest.raises(
            TypeError, match=r"task must be a Task, got 'mbrl/.*; gymnasium.make and gymnasium.make_vec take"
        ):
            make("mbrl/PendulumSwingUp-v0")


@every_mode
def test_nothing_that_was_handed_out_is_used_again(mode):
    """Bursting observes the state itself, so that a view of it would be handed out."""

    def run(spoil):
        env = make_vec_env(bursting(), 4, autoreset_mode=mode)
        results = [env.reset(seed=0)]
        env.action_space.seed(0)
        for _ in range(40):
            results.append(env.step(env.action_space.sample()))
            ended = results[-1][2] | results[-1][3]
            if mode is AutoresetMode.DISABLED and ended.any():
                results.append(env.reset(options={"reset_mask": ended}))
            kept = copy.deepcopy(results[-1])
            if spoil:
                env.state[:] = math.nan
                for value in (*results[-1][:-1], *results[-1][-1].values()):
                    if isinstance(value, np.ndarray):
                        value[:] = True if value.dtype == bool else 7.0
                results[-1] = kept
        return results

    first, second = run(False), run(True)
    for k, (a, b) in enumerate(zip(first, second, strict=True)):
        assert_same(a, b, f"result {k}", exact=True)


def test_a_single_environment_does_not_hand_out_its_state_as_observation():
    env = make_env(bursting())
    y, _ = env.reset(seed=0)
    before = env.state.copy()
    y[:] = 7.0
    np.testing.assert_array_equal(env.state, before)


def test_an_environment_can_be_copied_in_the_middle_of_episodes():
    env = make_vec_env(spinning(), 3)
    env.reset(seed=0)
    env.step(np.ones((3, 1)))
    twin = copy.deepcopy(env)
    for _ in range(50):
        assert_same(*(e.step(np.ones((3, 1))) for e in (env, twin)), exact=True)


def test_a_cost_of_another_shape_is_refused():
    task = replace(short(), cost=FunctionCost(lambda x, u, t: x[..., :1]))
    env = make_vec_env(task, 3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"the stage cost must have shape \(3,\)"):
        env.step(np.zeros((3, 1)))


# gymnasium, recording, pictures


def test_gymnasium_makes_them():
    env = gymnasium.make_vec("mbrl/CartPoleSwingUp-v0", num_envs=8, vectorization_mode="vector_entry_point")
    assert isinstance(env, TaskVectorEnv)
    assert isinstance(env.task.dynamics, MujocoDynamics)
    assert env.num_envs == 8
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env = gymnasium.make_vec("mbrl/PendulumSwingUp-v0", 2, backend="torch", torque_limit=3.0, autoreset_mode="Disabled")
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert env.task.limits()[1].tolist() == [3.0]
    assert str(env) == "TaskVectorEnv(mbrl/PendulumSwingUp-v0, num_envs=2)"
    assert json.loads(env.spec.to_json())["kwargs"]["autoreset_mode"] == "Disabled"
    again = gymnasium.make_vec(env.spec)
    np.testing.assert_array_equal(env.reset(seed=4)[0], again.reset(seed=4)[0])


def test_gymnasiums_vector_wrappers_go_around_them():
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(make_vec_env(short(), 3))
    env.reset(seed=0)
    total = np.zeros(3)
    for _ in range(7):
        _, reward, *_, info = env.step(np.zeros((3, 1)))
        total += reward
    np.testing.assert_allclose(info["episode"]["r"], total)
    assert info["episode"]["l"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("make", [spinning, bursting])
def test_recording_from_a_vector_gives_the_episodes_of_single_environments(make):
    task = make()
    actor = SplineNoise(task.control_limits, 1)
    ours, theirs = both(task, 4, AutoresetMode.DISABLED)
    recorded = [record_env(env, actor, 6, seed=3, dt=task.dynamics.dt) for env in (ours, theirs)]
    for a, b in zip(*recorded, strict=True):
        for field in ("observations", "controls", "states", "rewards", "times"):
            np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-12, atol=1e-12)
        assert (a.terminated, a.truncated, a.names, a.units) == (b.terminated, b.truncated, b.names, b.units)
        assert a.names.controls == task.names.get("controls", ("u0",))
    assert record_env(ours, actor, 1)[0].dt == task.dynamics.dt


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_recording_from_a_vector_that_resets_itself(mode):
    with pytest.raises(ValueError, match=r'mbrl\.make_vec_env does, with autoreset_mode="Disabled"'):
        record_env(make_vec_env(short(), 2, autoreset_mode=mode), None, 1)


def test_a_picture_of_each_world(monkeypatch):
    """Drawn by matplotlib, which every machine has; what MuJoCo draws is tested with single environments."""
    import mbrl.plots.tasks

    drawing = mbrl.plots.tasks.TaskRenderer.__init__

    def without_mujoco(self, task, **size):
        drawing(self, task, **size)
        self.close()

    monkeypatch.setattr(mbrl.plots.tasks.TaskRenderer, "__init__", without_mujoco)
    env, single = make_vec_env(short(), 2, render_mode="rgb_array"), make_env(short(), render_mode="rgb_array")
    env.reset(options={"state": [[0.0, 0.0], [3.0, 0.0]]})
    single.reset(options={"state": [3.0, 0.0]})
    frames = env.render()
    assert isinstance(frames, tuple)
    assert [frame.shape for frame in frames] == [(360, 640, 3)] * 2
    assert not np.array_equal(*frames)
    assert frames[1].dtype == np.uint8
    assert single.render().shape == frames[1].shape
    env.close()
    env.close()
    assert env.closed
    assert make_vec_env(short(), 2).render() is None
