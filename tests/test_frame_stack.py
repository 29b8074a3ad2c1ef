"""Stacked observations of many worlds: gymnasium's wrapper around each of them is the truth."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation

from mbrl import FrameStack, make_env, make_vec_env, pendulum_swing_up
from mbrl.testing import check_vector_env

every_mode = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)


def task():
    """Episodes of different lengths, at most nine steps."""
    return replace(pendulum_swing_up("torch"), termination=lambda x: x[..., 1].abs() > 0.8, episode_steps=9)


def both(stack_size, mode, worlds=4):
    ours = FrameStack(make_vec_env(task(), worlds, autoreset_mode=mode), stack_size)
    singles = [lambda: FrameStackObservation(make_env(task()), stack_size)] * worlds
    return ours, SyncVectorEnv(singles, autoreset_mode=mode)


def assert_same(ours, theirs):
    assert ours[0].dtype == theirs[0].dtype
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert ours[-1].keys() == theirs[-1].keys()
    if "final_obs" in ours[-1]:
        for a, b in zip(ours[-1]["final_obs"], theirs[-1]["final_obs"], strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@every_mode
@pytest.mark.parametrize("stack_size", [1, 2, 4])
def test_the_same_as_a_wrapper_around_each_world(mode, stack_size):
    ours, theirs = both(stack_size, mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space.shape == (4, stack_size, 3)
    assert_same(ours.reset(seed=2), theirs.reset(seed=2))
    ended_steps = 0
    for _ in range(80):
        actions = theirs.action_space.sample()
        results = [env.step(actions) for env in (ours, theirs)]
        assert_same(*results)
        ended = results[0][2] | results[0][3]
        ended_steps += bool(ended.any() and not ended.all())
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(*(env.reset(options={"reset_mask": ended}) for env in (ours, theirs)))
    assert ended_steps > 10


@every_mode
def test_resets_of_some_worlds(mode):
    """Also of worlds that would have been reset by the next step."""
    ours, theirs = both(3, mode)
    assert_same(ours.reset(seed=2), theirs.reset(seed=2))
    mask = np.array([True, False, True, False])
    for _ in range(30):
        actions = theirs.action_space.sample()
        results = [env.step(actions) for env in (ours, theirs)]
        ended = results[0][2] | results[0][3]
        if ended.any():
            assert_same(*results)
            mask = ended if mode is AutoresetMode.DISABLED else ~mask
            assert_same(*(env.reset(options={"reset_mask": mask.copy()}) for env in (ours, theirs)))
    assert_same(ours.reset(seed=5), theirs.reset(seed=5))
    assert_same(*(env.step(actions) for env in (ours, theirs)))


def test_a_stack_by_hand():
    """One number per observation: the last three angular velocities."""
    env = FrameStack(make_vec_env(pendulum_swing_up("torch"), 2), 3)
    y, _ = env.reset(options={"state": [[1.0, 0.5], [2.0, 0.25]]})
    assert y[:, :, 2].tolist() == [[0.5] * 3, [0.25] * 3]
    y = env.step(np.zeros((2, 1)))[0]
    first = y[:, 2, 2]
    assert y[:, :2, 2].tolist() == [[0.5, 0.5], [0.25, 0.25]]
    y = env.step(np.zeros((2, 1)))[0]
    assert y[:, 0, 2].tolist() == [0.5, 0.25]
    assert y[:, 1, 2].tolist() == first.tolist()


def test_the_contract_of_vector_environments():
    def of_gymnasium(num_envs, autoreset_mode):
        fns = [lambda: gymnasium.make("CartPole-v1")] * num_envs
        return FrameStack(SyncVectorEnv(fns, autoreset_mode=autoreset_mode), 3)

    check_vector_env(of_gymnasium)
    check_vector_env(lambda **options: FrameStack(make_vec_env(task(), **options), 2))


@pytest.mark.parametrize("stack_size", [0, -1, 2.0, "3"])
def test_stacks_that_are_none(stack_size):
    with pytest.raises(ValueError, match="stack_size must be an integer of at least 1, got"):
        FrameStack(make_vec_env(task(), 2), stack_size)


def test_only_arrays_are_stacked():
    with pytest.raises(ValueError, match=r"only observations of a Box can be stacked, got Discrete\(16\)"):
        FrameStack(gymnasium.make_vec("FrozenLake-v1", 2, vectorization_mode="sync"), 2)
