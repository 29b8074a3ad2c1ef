"""Threaded MuJoCo vector environments: gymnasium's own, one at a time and in its SyncVectorEnv, are the truth."""

import copy
import functools
import inspect
import math
from dataclasses import MISSING, fields
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode

from dynamics import MujocoDynamics
from mbrl import MujocoVectorEnv, make_mujoco_vec_env, record_env
from mbrl.envs.mujoco import RULES
from mbrl.envs.mujoco.vector_env import ASSETS, DRAWING
from mbrl.testing import check_vector_env

every_env = pytest.mark.parametrize("env_id", RULES)
every_mode = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
OURS_ALONE = {"state", "_state", "diverged", "_diverged"}

# A value other than the default for every option of every environment; the XML files are in a test of their own.
OPTIONS = {
    "Ant-v5": {
        "frame_skip": 3,
        "forward_reward_weight": 1.5,
        "ctrl_cost_weight": 0.3,
        "contact_cost_weight": 0.2,
        "healthy_reward": 2.0,
        "main_body": "front_left_leg",
        "terminate_when_unhealthy": False,
        "healthy_z_range": (0.5, 0.8),
        "contact_force_range": (-0.4, 0.5),
        "reset_noise_scale": 0.2,
        "exclude_current_positions_from_observation": False,
        "include_cfrc_ext_in_observation": False,
    },
    "HalfCheetah-v5": {
        "frame_skip": 2,
        "forward_reward_weight": 0.7,
        "ctrl_cost_weight": 0.3,
        "reset_noise_scale": 0.3,
        "exclude_current_positions_from_observation": False,
    },
    "Hopper-v5": {
        "frame_skip": 2,
        "forward_reward_weight": 0.7,
        "ctrl_cost_weight": 0.3,
        "healthy_reward": 2,
        "terminate_when_unhealthy": False,
        "healthy_state_range": (-2.0, 3.0),
        "healthy_z_range": (0.5, 1.2),
        "healthy_angle_range": (-0.1, 0.3),
        "reset_noise_scale": 0.1,
        "exclude_current_positions_from_observation": False,
    },
    "Walker2d-v5": {
        "frame_skip": 2,
        "forward_reward_weight": 0.7,
        "ctrl_cost_weight": 0.3,
        "healthy_reward": 2.0,
        "terminate_when_unhealthy": False,
        "healthy_z_range": (0.5, 1.2),
        "healthy_angle_range": (-0.1, 0.3),
        "reset_noise_scale": 0.1,
        "exclude_current_positions_from_observation": False,
    },
    "Swimmer-v5": {
        "frame_skip": 2,
        "forward_reward_weight": 0.7,
        "ctrl_cost_weight": 0.3,
        "reset_noise_scale": 0.3,
        "exclude_current_positions_from_observation": False,
    },
    "Reacher-v5": {"frame_skip": 3, "reward_dist_weight": 0.4, "reward_control_weight": 0.3},
    "InvertedPendulum-v5": {"frame_skip": 3, "reset_noise_scale": 0.1},
    "InvertedDoublePendulum-v5": {"frame_skip": 3, "healthy_reward": 7.0, "reset_noise_scale": 0.2},
    "Pusher-v5": {
        "frame_skip": 3,
        "reward_near_weight": 0.3,
        "reward_dist_weight": 0.4,
        "reward_control_weight": 0.7,
    },
    "Humanoid-v5": {
        "frame_skip": 3,
        "forward_reward_weight": 0.7,
        "ctrl_cost_weight": 0.3,
        "contact_cost_weight": 1e-3,
        "contact_cost_range": (0.5, 2.0),
        "healthy_reward": 2.0,
        "terminate_when_unhealthy": False,
        "healthy_z_range": (1.2, 1.5),
        "reset_noise_scale": 0.1,
        "exclude_current_positions_from_observation": False,
        "include_cinert_in_observation": False,
        "include_cvel_in_observation": False,
        "include_qfrc_actuator_in_observation": False,
        "include_cfrc_ext_in_observation": False,
    },
    "HumanoidStandup-v5": {
        "frame_skip": 3,
        "uph_cost_weight": 0.5,
        "ctrl_cost_weight": 0.3,
        "impact_cost_weight": 1e-3,
        "impact_cost_range": (0.5, 2.0),
        "reset_noise_scale": 0.1,
        "exclude_current_positions_from_observation": False,
        "include_cinert_in_observation": False,
        "include_cvel_in_observation": False,
        "include_qfrc_actuator_in_observation": False,
        "include_cfrc_ext_in_observation": False,
    },
}


@pytest.fixture(autouse=True)
def _no_log_file(tmp_path, monkeypatch):
    """Nothing of ours writes MUJOCO_LOG.TXT; gymnasium's warnings about its model files go nowhere."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("MUJOCO_LOG.TXT").exists()


def gymnasium_says_nothing(make):
    """What gymnasium makes of model files that are older than MuJoCo 4, which would go to MUJOCO_LOG.TXT."""
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        return make()
    finally:
        mujoco.set_mju_user_warning(handler)


def sync(env_id, worlds, mode=AutoresetMode.NEXT_STEP, **options):
    """gymnasium's own environments in its own vector environment."""
    vector = {"autoreset_mode": mode}
    return gymnasium_says_nothing(
        lambda: gymnasium.make_vec(env_id, worlds, vectorization_mode="sync", vector_kwargs=vector, **options)
    )


def assert_same(ours, theirs, where=""):
    """The same structure, masks and types, and numbers to 1e-9; infos may have what we alone give."""
    if isinstance(theirs, dict):
        assert set(ours) - OURS_ALONE == set(theirs), where
        for key, value in theirs.items():
            assert_same(ours[key], value, f"{where}/{key}")
        return
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
    if ours.dtype == object:
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert (a is None) == (b is None), where
            if a is not None:
                assert_same(a, b, f"{where}/{i}")
        return
    np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=1e-9, err_msg=where)


def assert_same_play(ours, theirs, steps, seeds, dtype=np.float32):
    """Play both under the same random actions, reset what ends where nobody else does; returns the number of ends."""
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    worlds = theirs.num_envs
    for a, b in zip(ours.reset(seed=seeds), theirs.reset(seed=seeds), strict=True):
        assert_same(a, b, "reset")
    theirs.action_space.seed(0)
    ends = 0
    for k in range(steps):
        actions = theirs.action_space.sample().astype(dtype)
        step, expected = ours.step(actions), theirs.step(actions)
        for name, a, b in zip(("obs", "reward", "terminated", "truncated", "info"), step, expected, strict=True):
            assert_same(a, b, f"step {k}: {name}")
        states = np.stack([np.concatenate([env.unwrapped.data.qpos, env.unwrapped.data.qvel]) for env in theirs.envs])
        np.testing.assert_array_equal(step[-1]["state"], states)  # the physics to the bit
        ended = expected[2] | expected[3]
        ends += int(ended.sum())
        if theirs.autoreset_mode is AutoresetMode.DISABLED and ended.any():
            again = [env.reset(options={"reset_mask": ended}) for env in (ours, theirs)]
            for a, b in zip(*again, strict=True):
                assert_same(a, b, f"reset after step {k}")
    assert worlds == ours.num_envs
    ours.close()
    theirs.close()
    return ends


# The same as gymnasium's


@every_env
def test_two_hundred_steps_are_those_of_gymnasium(env_id):
    seeds = [3, 10, 5]
    assert_same_play(make_mujoco_vec_env(env_id, 3), sync(env_id, 3), 200, seeds)


@every_mode
@pytest.mark.parametrize("env_id", ["Hopper-v5", "Reacher-v5", "Humanoid-v5"])
def test_every_autoreset_mode_is_that_of_gymnasium(env_id, mode):
    """Falls at different times, time limits at the same time, contact forces; several episodes each."""
    ours = make_mujoco_vec_env(env_id, 3, autoreset_mode=mode)
    assert assert_same_play(ours, sync(env_id, 3, mode), 120, 7) >= 6


@pytest.mark.slow
@every_mode
@every_env
def test_long_runs_of_many_worlds(env_id, mode):
    ours = make_mujoco_vec_env(env_id, 8, autoreset_mode=mode, max_episode_steps=90)
    assert assert_same_play(ours, sync(env_id, 8, mode, max_episode_steps=90), 200, 100) >= 16


@every_env
def test_options_do_what_they_do_in_gymnasium(env_id):
    ours = make_mujoco_vec_env(env_id, 2, max_episode_steps=25, **OPTIONS[env_id])
    theirs = sync(env_id, 2, max_episode_steps=25, **OPTIONS[env_id])
    assert_same_play(ours, theirs, 60, 0)


@every_env
def test_options_are_those_of_gymnasium(env_id):
    single = gymnasium_says_nothing(lambda: gymnasium.make(env_id)).unwrapped
    parameters = inspect.signature(type(single).__init__).parameters.values()
    theirs = {p.name: p.default for p in parameters if p.name not in {"self", "kwargs"} | DRAWING}
    ours = {field.name: field.default for field in fields(RULES[env_id])}
    assert ours == theirs
    assert MISSING not in ours.values()
    assert set(OPTIONS[env_id]) == set(theirs) - {"xml_file"}
    assert all(OPTIONS[env_id][name] != default for name, default in theirs.items() if name != "xml_file")


def test_every_environment_of_gymnasium_is_there():
    v5 = {
        env_id
        for env_id, spec in gymnasium.registry.items()
        if ":" in str(spec.entry_point) and "_v5" in spec.entry_point
    }
    assert set(RULES) == v5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_of_both_precisions(dtype):
    assert_same_play(make_mujoco_vec_env("HalfCheetah-v5", 1), sync("HalfCheetah-v5", 1), 10, 0, dtype)


def test_a_model_of_ones_own_with_sensors(tmp_path):
    """MuJoCo computes contact forces for such a sensor by itself, at a reset too."""
    text = (ASSETS / "ant.xml").read_text()
    site = '<site name="chest"/></body></worldbody><sensor><accelerometer site="chest"/></sensor>'
    head, tail = text.rsplit("</body>", 1)
    path = tmp_path / "ant.xml"
    path.write_text(head + site + tail.split("</worldbody>", 1)[1])
    options = {"xml_file": str(path), "reset_noise_scale": 0.6}  # some begin in contact
    ours = make_mujoco_vec_env("Ant-v5", 6, **options)
    assert ours.model.nsensor == 1
    assert_same_play(ours, sync("Ant-v5", 6, **options), 60, 0)


def test_a_model_with_activations(tmp_path):
    """Their initial value is zero, and they are part of the state."""
    text = (ASSETS / "inverted_pendulum.xml").read_text()
    motor = '<general ctrllimited="true" ctrlrange="-3 3" gainprm="100" dyntype="filter" dynprm="0.1" joint="slider"'
    path = tmp_path / "filtered.xml"
    path.write_text(text.replace('<motor ctrllimited="true" ctrlrange="-3 3" gear="100" joint="slider"', motor))
    ours = make_mujoco_vec_env("InvertedPendulum-v5", 2, xml_file=str(path))
    single = gymnasium_says_nothing(lambda: gymnasium.make("InvertedPendulum-v5", xml_file=str(path)))
    assert ours.model.na == 1
    observations, info = ours.reset(seed=4)
    np.testing.assert_array_equal(observations[0], single.reset(seed=4)[0])
    actions = np.full((2, 1), 0.2, np.float32)
    for _ in range(4):
        observations, *_, info = ours.step(actions)
        np.testing.assert_array_equal(observations[0], single.step(actions[0])[0])
    assert info["state"].shape == (2, 5)
    assert info["state"][0, 4] == single.unwrapped.data.act[0] > 0.0


# Seeds


def test_each_world_has_the_seed_and_the_later_episodes_of_one_environment():
    env = make_mujoco_vec_env("Hopper-v5", 3)
    single = gymnasium_says_nothing(lambda: gymnasium.make("Hopper-v5"))
    for i, start in enumerate(env.reset(seed=20)[0]):
        np.testing.assert_array_equal(start, single.reset(seed=20 + i)[0])
    for i, start in enumerate(env.reset(seed=[5, None, 5])[0]):
        expected = single.reset(seed=(5, 21, 5)[i])[0]
        if i == 1:  # goes on with its own numbers: its second episode
            expected = single.reset()[0]
        np.testing.assert_array_equal(start, expected)
    assert env.np_random_seed == (5, 21, 5)
    again = [make_mujoco_vec_env("Hopper-v5", 2).reset()[0] for _ in range(2)]
    assert not np.array_equal(*again)


def test_the_result_does_not_depend_on_threads_or_neighbors():
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 6, 8)).astype(np.float32)

    def play(worlds, threads):
        env = make_mujoco_vec_env("Ant-v5", len(worlds), threads=threads)
        env.reset(seed=worlds)
        return np.stack([env.step(a[worlds])[0] for a in actions])

    everyone = play([0, 1, 2, 3, 4, 5], 1)
    np.testing.assert_array_equal(play([0, 1, 2, 3, 4, 5], 3), everyone)
    np.testing.assert_array_equal(play([4, 1], 2), everyone[:, [4, 1]])


# Resets


def test_a_reset_mask_leaves_the_others_where_they_are():
    env = make_mujoco_vec_env("Hopper-v5", 3, autoreset_mode="Disabled")
    env.reset(seed=0)
    y, *_, before = env.step(env.action_space.sample())
    mask = np.array([False, True, False])
    y2, info = env.reset(seed=[8, 9, 10], options={"reset_mask": mask})
    np.testing.assert_array_equal(y2[~mask], y[~mask])
    assert (y2[mask] != y[mask]).any()
    np.testing.assert_array_equal(info["_x_position"], mask)
    assert env.np_random_seed == (0, 9, 2)
    after = env.step(np.zeros((3, 3), np.float32))[-1]["state"]
    twin = make_mujoco_vec_env("Hopper-v5", 3, autoreset_mode="Disabled")
    twin.reset(seed=9)
    np.testing.assert_array_equal(twin.step(np.zeros((3, 3), np.float32))[-1]["state"][0], after[1])
    assert not np.array_equal(before["state"], after)


def test_episodes_begin_at_given_states():
    env = make_mujoco_vec_env("Hopper-v5", 2)
    _, info = env.reset(seed=0)
    x = info["state"] + 0.01
    y, info = env.reset(options={"state": x})
    np.testing.assert_array_equal(info["state"], x)
    np.testing.assert_array_equal(y, np.concatenate([x[:, 1:6], x[:, 6:]], axis=1))
    single = gymnasium_says_nothing(lambda: gymnasium.make("Hopper-v5"))
    actions = np.ones((2, 3), np.float32)
    for begun in (x, np.stack([x[0], x[0]])):
        single.reset(seed=0)
        single.unwrapped.set_state(begun[1, :6], begun[1, 6:])
        np.testing.assert_array_equal(env.step(actions)[0][1], single.step(actions[1])[0])
        env.reset(options={"state": x[0]})


def test_the_action_of_a_world_that_only_begins_is_ignored():
    env = make_mujoco_vec_env("Reacher-v5", 2, max_episode_steps=1)
    env.reset(seed=0)
    _, _, _, truncated, _ = env.step(np.zeros((2, 2)))
    assert truncated.all()
    _, reward, _, truncated, info = env.step(np.full((2, 2), math.nan))
    np.testing.assert_array_equal(reward, [0.0, 0.0])
    assert not truncated.any()
    assert "reward_dist" not in info


def test_a_limit_of_minus_one_is_none():
    env = make_mujoco_vec_env("Reacher-v5", 1, max_episode_steps=-1)
    env.reset(seed=0)
    assert not any(env.step(np.zeros((1, 2)))[3].any() for _ in range(120))
    assert env.max_episode_steps is None


@every_mode
def test_what_was_returned_never_changes(mode):
    env = make_mujoco_vec_env("Humanoid-v5", 2, autoreset_mode=mode)
    env.action_space.seed(0)
    returned, kept = [], []

    def keep(values):
        returned.append(values)
        kept.append(copy.deepcopy(values))
        return values

    keep(env.reset(seed=1))
    for _ in range(60):
        _, _, terminated, truncated, _ = keep(env.step(env.action_space.sample()))
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            keep(env.reset(options={"reset_mask": terminated | truncated}))
    for now, then in zip(flat(returned), flat(kept), strict=True):
        np.testing.assert_array_equal(now, then)


def flat(values):
    """All arrays in nested tuples, lists and dictionaries."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return [values]
    if values is None:
        return []
    parts = values.values() if isinstance(values, dict) else values
    return [array for part in parts for array in flat(part)]


def test_what_was_returned_is_the_callers():
    """To write into it does nothing to the environment."""
    plays = []
    for vandal in (False, True):
        env = make_mujoco_vec_env("Ant-v5", 2)
        y, info = env.reset(seed=1)
        for _ in range(5):
            if vandal:
                for array in flat([y, info]):
                    array[...] = 0
            y, *_, info = env.step(np.full((2, 8), 0.3, np.float32))
        plays.append(y.copy())
    np.testing.assert_array_equal(*plays)


# Divergence


def test_a_world_that_diverges_goes_on_as_in_gymnasium():
    """MuJoCo sets it back in the middle of the step; the others do not notice."""
    env = make_mujoco_vec_env("HalfCheetah-v5", 3)
    single = gymnasium_says_nothing(lambda: gymnasium.make("HalfCheetah-v5"))
    _, info = env.reset(seed=0)
    single.reset(seed=0)
    x = info["state"]
    x[1, 9:] = 1e3
    env.reset(options={"state": x})
    single.unwrapped.set_state(x[1, :9], x[1, 9:])
    actions = np.full((3, 6), 0.5, np.float32)
    y, reward, terminated, truncated, info = env.step(actions)
    expected = gymnasium_says_nothing(lambda: single.step(actions[1]))
    np.testing.assert_array_equal(y[1], expected[0])
    np.testing.assert_allclose(reward[1], expected[1], rtol=1e-12)
    assert not (terminated | truncated).any()
    np.testing.assert_array_equal(info["diverged"], [False, True, False])
    y, *_, info = env.step(actions)
    np.testing.assert_array_equal(y[1], single.step(actions[1])[0])
    assert not info["diverged"].any()
    x[1, 9:] = 1e11  # more than MuJoCo takes at all
    np.testing.assert_array_equal(env.reset(options={"state": x})[1]["diverged"], [False, True, False])


def test_a_step_in_which_a_world_diverges_is_not_recorded():
    class Exploding(gymnasium.vector.VectorWrapper):
        def reset(self, *, seed=None, options=None):
            _, info = self.env.reset(seed=seed, options=options)
            x = info["state"]
            x[0, 9:] = 100.0
            return self.env.reset(options={"state": x})

    env = Exploding(make_mujoco_vec_env("HalfCheetah-v5", 2, autoreset_mode="Disabled", max_episode_steps=20))
    burst, sound = record_env(env, None, 2, dt=0.05)
    assert len(burst.controls) < 20 == len(sound.controls)
    assert burst.source.endswith("diverged")


# The models of planners


def test_a_model_to_plan_on_is_cold_and_almost_the_same():
    env = make_mujoco_vec_env("HalfCheetah-v5", 16)
    model = MujocoDynamics(env)
    assert (model.dt, model.state_dim, model.control_dim) == (env.dt, env.state_dim, 6)
    _, info = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(30):
        x, actions = torch.from_numpy(info["state"]), env.action_space.sample()
        info = env.step(actions)[-1]
        predicted = model(x, torch.from_numpy(actions).double()).numpy()
        np.testing.assert_allclose(predicted, info["state"], rtol=0.0, atol=1e-6)
    us = torch.zeros(16, 5, 6, dtype=torch.float64)
    assert model.rollout(torch.from_numpy(info["state"]), us).shape == (16, 6, 18)


def test_episodes_are_recorded():
    env = make_mujoco_vec_env("Hopper-v5", 3, autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=40)
    found = record_env(env, None, 5)
    assert len(found) == 5
    model = MujocoDynamics(env)
    for trajectory in found:
        assert trajectory.states.shape == (len(trajectory.controls) + 1, 12)
        x, u = torch.tensor(trajectory.states[0]), torch.tensor(trajectory.controls[0])
        np.testing.assert_allclose(model(x, u).numpy(), trajectory.states[1], atol=1e-6)
        assert trajectory.terminated or len(trajectory.controls) == 40


# What belongs to a gymnasium environment


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Reacher-v5", "Ant-v5"])
def test_they_keep_the_contract_of_vector_environments(env_id):
    check_vector_env(functools.partial(make_mujoco_vec_env, env_id, max_episode_steps=15))


def test_the_spec_makes_one_of_its_worlds():
    env = make_mujoco_vec_env("Hopper-v5", 2, ctrl_cost_weight=0.5, max_episode_steps=7)
    single = gymnasium_says_nothing(lambda: gymnasium.make(env.spec))
    assert single.unwrapped._ctrl_cost_weight == 0.5
    assert env.spec.max_episode_steps == 7
    assert env.dt == single.unwrapped.dt
    assert repr(env) == "MujocoVectorEnv(Hopper-v5, num_envs=2)"
    assert gymnasium.spec("Hopper-v5").kwargs == {}


def test_gymnasiums_vector_wrappers_take_it():
    env = make_mujoco_vec_env("InvertedPendulum-v5", 4)
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    env.reset(seed=0)
    lengths = []
    for _ in range(60):
        *_, info = env.step(np.full((4, 1), 3.0, np.float32))
        lengths += info["episode"]["l"][info["_episode"]].tolist() if "episode" in info else []
    assert len(lengths) >= 12
    assert all(1 < length < 30 for length in lengths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env_id": "HalfCheetah-v4"}, r"no vector environment for 'HalfCheetah-v4'; there are Ant-v5, HalfCheetah-v5"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, or None for one per core, got 0"),
        ({"max_episode_steps": 0}, "max_episode_steps must be at least 1, or -1 for no limit, got 0"),
        ({"autoreset_mode": "sometimes"}, "autoreset_mode must be .* one of 'NextStep', 'SameStep', 'Disabled'"),
        ({"healthy_z": 1.0}, "Hopper-v5 has no option healthy_z; it has xml_file, frame_skip, forward_reward_weight"),
        ({"render_mode": "rgb_array"}, "render_mode: the vector environment does not draw; draw the states"),
        ({"healthy_z_range": 1.0}, "healthy_z_range must be a lower and an upper limit, got 1.0"),
        ({"frame_skip": 0}, "frame_skip must be a positive number of MuJoCo steps, got 0"),
    ],
)
def test_what_cannot_be_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_mujoco_vec_env(**{"env_id": "Hopper-v5", "num_envs": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": "2"}, "cannot be interpreted as an integer"),
        ({"threads": 1.5}, "cannot be interpreted as an integer"),
        ({"max_episode_steps": 9.5}, "cannot be interpreted as an integer"),
        ({"frame_skip": 2.0}, "frame_skip must be of type int, got 2.0"),
        ({"ctrl_cost_weight": "much"}, "ctrl_cost_weight must be of type float, got 'much'"),
        ({"terminate_when_unhealthy": None}, "terminate_when_unhealthy must be of type bool, got None"),
        ({"xml_file": 3}, "xml_file must be of type str, got 3"),
        ({"env_id": "Ant-v5", "main_body": 1.5}, r"main_body must be of type int \| str, got 1.5"),
    ],
)
def test_arguments_of_another_type(arguments, message):
    with pytest.raises(TypeError, match=message):
        make_mujoco_vec_env(**{"env_id": "Hopper-v5", "num_envs": 2, **arguments})


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no MuJoCo model at .*nothing\.xml"):
        make_mujoco_vec_env("Hopper-v5", 2, xml_file="nothing.xml")
    Path("broken.xml").write_text("<mujoco>")
    with pytest.raises(ValueError, match=r"MuJoCo cannot load 'broken\.xml'"):
        make_mujoco_vec_env("Hopper-v5", 2, xml_file="./broken.xml")
    with pytest.raises(KeyError, match="Invalid name 'head'"):
        make_mujoco_vec_env("Ant-v5", 2, main_body="head")


def test_actions_that_are_none():
    env = make_mujoco_vec_env("Hopper-v5", 2)
    with pytest.raises(ResetNeeded, match="call reset before step"):
        env.step(np.zeros((2, 3)))
    env.reset(seed=0)
    for actions in (np.zeros(3), np.zeros((2, 4)), np.full((2, 3), math.nan)):
        with pytest.raises(ValueError, match="an action is 3 finite numbers for each of 2 worlds"):
            env.step(actions)


def test_resets_that_are_none():
    env = make_mujoco_vec_env("Hopper-v5", 2)
    with pytest.raises(ResetNeeded, match="the first reset is one of all worlds"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    for mask in ([True, False], np.array([1, 0])):
        with pytest.raises(TypeError, match="must be a numpy array of bool"):
            env.reset(options={"reset_mask": mask})
    for mask in (np.array([True]), np.array([False, False])):
        with pytest.raises(ValueError, match="at least one world"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match=r"must have shape \(12,\) or \(2, 12\), got \(3,\)"):
        env.reset(options={"state": np.zeros(3)})
    with pytest.raises(ValueError, match="is not finite"):
        env.reset(options={"state": np.full(12, math.nan)})
    with pytest.raises(ValueError, match=r"options of reset are 'reset_mask' and 'state', got \['masks'\]"):
        env.reset(options={"masks": None})
    with pytest.raises(ValueError, match="seed must be a number or one for each of 2 worlds, got 3"):
        env.reset(seed=[1, 2, 3])


def test_a_world_that_ended_must_be_reset_where_nobody_else_does():
    env = make_mujoco_vec_env("Reacher-v5", 3, autoreset_mode="Disabled", max_episode_steps=2)
    env.reset(seed=0)
    env.step(np.zeros((3, 2)))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(np.zeros((3, 2)))
    with pytest.raises(ResetNeeded, match=r"worlds \[0, 2\] have ended"):
        env.step(np.zeros((3, 2)))


def test_a_closed_environment_says_so():
    env = make_mujoco_vec_env("Hopper-v5", 2)
    assert isinstance(env, MujocoVectorEnv)
    env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.step(np.zeros((2, 3))), env.reset):
        with pytest.raises(ClosedEnvironmentError, match=r"MujocoVectorEnv\(Hopper-v5, num_envs=2\) is closed"):
            call()
