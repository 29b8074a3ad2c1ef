"""Saved vector environments: a new one that loads the state goes on as the old one does, to the bit."""

import copy
import functools
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mbrl import FrameStack, cart_pole_swing_up, discretized, make_env, make_mujoco_vec_env, make_vec_env
from mbrl import pendulum_swing_up as pendulum
from mbrl.runs.run import _check_state

every_mode = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)


def cart_pole():
    """In MuJoCo, ends where the cart is far out."""
    return replace(cart_pole_swing_up(), termination=lambda x: x[..., 0].abs() > 0.6, episode_steps=50)


def task_env(task, worlds, **options):
    return make_vec_env(task(), worlds, **options)


MAKE = {
    "pendulum": functools.partial(task_env, lambda: replace(pendulum("torch"), episode_steps=30)),
    "pendulum in MuJoCo": functools.partial(task_env, lambda: replace(pendulum("mujoco"), episode_steps=30)),
    "cart-pole": functools.partial(task_env, cart_pole),
    "discretized": functools.partial(
        task_env, lambda: discretized(replace(cart_pole_swing_up("torch"), episode_steps=30), 3)
    ),
    "stacked": lambda worlds, **options: FrameStack(task_env(cart_pole, worlds, **options), 3),
    "half-cheetah": functools.partial(make_mujoco_vec_env, "HalfCheetah-v5", max_episode_steps=45),
    "hopper": functools.partial(make_mujoco_vec_env, "Hopper-v5", max_episode_steps=45),
    "ant": functools.partial(make_mujoco_vec_env, "Ant-v5", max_episode_steps=45),
    "humanoid": functools.partial(make_mujoco_vec_env, "Humanoid-v5", max_episode_steps=45),
    "reacher": functools.partial(make_mujoco_vec_env, "Reacher-v5"),
    "double pendulum": functools.partial(make_mujoco_vec_env, "InvertedDoublePendulum-v5"),
}


def through_a_file(state):
    """What a checkpoint does to it."""
    _check_state("state", state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def play(env, actions, masks):
    """Everything that steps return, and resets: of worlds that have ended, and in some steps of those in a mask."""
    found = []
    for action, mask in zip(actions, masks, strict=True):
        found.append(copy.deepcopy(env.step(action)))
        resets = np.zeros(env.num_envs, dtype=bool)
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
            resets = found[-1][2] | found[-1][3]
        resets = resets | mask
        if resets.any():
            found.append(copy.deepcopy(env.reset(options={"reset_mask": resets})))
    return found


def assert_same(ours, theirs):
    """Structure, dtypes and bits."""
    ours, theirs = (value.numpy() if isinstance(value, torch.Tensor) else value for value in (ours, theirs))
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert_same(value, theirs[key])
    elif isinstance(ours, list | tuple) or (isinstance(ours, np.ndarray) and ours.dtype == object):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()
    else:
        assert ours == theirs


@every_mode
@pytest.mark.parametrize("name", MAKE)
def test_a_new_environment_goes_on_to_the_bit(name, mode):
    worlds, before, after = 3, 37, 100
    env = MAKE[name](worlds, autoreset_mode=mode)
    env.reset(seed=[4, None, 9])
    env.action_space.seed(1)
    actions = [env.action_space.sample() for _ in range(before + after)]
    masks = np.random.default_rng(0).random((before + after, worlds)) < 0.01
    play(env, actions[:before], masks[:before])
    state = through_a_file(env.state_dict())
    expected = play(env, actions[before:], masks[before:])
    assert any((returned[2] | returned[3]).any() for returned in expected if len(returned) == 5)
    fresh, used = (MAKE[name](worlds, autoreset_mode=mode) for _ in range(2))
    used.reset(seed=77)
    play(used, actions[:5], masks[:5])
    for other in (fresh, used):
        other.load_state_dict(state)
        assert_same(play(other, actions[before:], masks[before:]), expected)
        assert other.unwrapped.np_random_seed == env.unwrapped.np_random_seed
        assert_same(other.state_dict(), env.state_dict())


def test_the_warm_start_is_part_of_it():
    """From the same positions and velocities, but cold, the worlds go elsewhere."""
    env, cold = (make_mujoco_vec_env("Ant-v5", 2) for _ in range(2))
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 2, 8)).astype(np.float32)
    for action in actions[:20]:
        *_, info = env.step(action)
    cold.reset(seed=0)
    cold.reset(options={"state": info["state"]})
    assert any((env.step(action)[0] != cold.step(action)[0]).any() for action in actions[20:])


def test_saving_changes_nothing_and_what_was_saved_does_not_change():
    env, twin = (make_mujoco_vec_env("Ant-v5", 2) for _ in range(2))
    actions, saved = np.random.default_rng(0).uniform(-1, 1, (10, 2, 8)).astype(np.float32), []
    env.reset(seed=0)
    twin.reset(seed=0)
    for action in actions:
        state = env.state_dict()
        saved.append((state, copy.deepcopy(state)))
        assert_same(env.step(action), twin.step(action))
    for now, then in saved:
        assert_same(now, then)


def test_an_environment_that_has_not_begun():
    env, other = (task_env(cart_pole, 2) for _ in range(2))
    other.reset(seed=0)
    other.load_state_dict(through_a_file(env.state_dict()))
    with pytest.raises(Exception, match="call reset before step"):
        other.step(np.zeros((2, 1)))


def test_seeds_by_chance_go_on_too():
    """They have 128 bits."""
    env, other = (task_env(cart_pole, 2) for _ in range(2))
    env.reset()
    other.load_state_dict(through_a_file(env.state_dict()))
    assert max(seed or 0 for seed in env.np_random_seed) > 2**64
    assert other.np_random_seed == env.np_random_seed
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_states_that_do_not_fit():
    env = make_mujoco_vec_env("Hopper-v5", 2)
    env.reset(seed=0)
    env.step(np.zeros((2, 3), np.float32))
    before = env.state_dict()
    wrong = {
        r"the state is one of Walker2d-v5, this environment is one of Hopper-v5": make_mujoco_vec_env("Walker2d-v5", 2),
        r"the state is one of num_envs=3, this environment is one of num_envs=2": make_mujoco_vec_env("Hopper-v5", 3),
        r"one of autoreset mode SameStep, this environment is one of autoreset mode NextStep": make_mujoco_vec_env(
            "Hopper-v5", 2, autoreset_mode="SameStep"
        ),
        r"one of a Hopper-v5 that was made with other arguments": make_mujoco_vec_env(
            "Hopper-v5", 2, exclude_current_positions_from_observation=False
        ),
        r"one of CartPoleSwingUp, this environment is one of Hopper-v5": task_env(cart_pole, 2),
    }
    for message, other in wrong.items():
        with pytest.raises(ValueError, match=message):
            env.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="no state of a vector environment: it lacks autoreset_mode, began"):
        env.load_state_dict({"num_envs": 2})
    assert_same(env.state_dict(), before)


def test_stacks_that_do_not_fit():
    inner = task_env(cart_pole, 2)
    env = FrameStack(inner, 3)
    with pytest.raises(ValueError, match=r"one of stacks \(2, 5\), this environment is one of \(3, 5\)"):
        env.load_state_dict(FrameStack(task_env(cart_pole, 2), 2).state_dict())
    with pytest.raises(ValueError, match="no state of a FrameStack: it lacks begins, env, frames"):
        env.load_state_dict(inner.state_dict())
    singles = FrameStack(SyncVectorEnv([lambda: make_env(cart_pole())] * 2), 3)
    with pytest.raises(TypeError, match="cannot be saved: it has no state_dict"):
        singles.state_dict()


def test_a_closed_environment_is_not_saved():
    env = make_mujoco_vec_env("Hopper-v5", 2)
    state = env.state_dict()
    env.close()
    for call in (env.state_dict, lambda: env.load_state_dict(state)):
        with pytest.raises(ClosedEnvironmentError):
            call()


def test_bodies_that_sleep_cannot_be_saved(tmp_path):
    from mbrl.envs.mujoco.vector_env import ASSETS

    text = (ASSETS / "ant.xml").read_text()
    path = tmp_path / "sleeping.xml"
    path.write_text(text.replace("<worldbody>", '<option><flag sleep="enable"/></option><worldbody>', 1))
    env = make_mujoco_vec_env("Ant-v5", 2, xml_file=str(path))
    with pytest.raises(ValueError, match="which bodies are asleep; save worlds of a model without the flag sleep"):
        env.state_dict()
