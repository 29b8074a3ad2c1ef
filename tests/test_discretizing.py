"""Finitely many controls: what they are, and that planners, environments and recordings have no others."""

import functools
import math
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mbrl import (
    SplineNoise,
    discretized,
    make_env,
    make_vec_env,
    pendulum_swing_up,
    point_navigation,
    record,
    record_env,
)
from mbrl.testing import check_vector_env
from planners import LQR, solve


def pendulum(bins=3, **fields):
    return discretized(replace(pendulum_swing_up("torch"), **fields), bins)


# What the controls are


def test_values_at_equal_distances_and_all_their_combinations():
    assert pendulum(5).control_values.tolist() == [[-2.0], [-1.0], [0.0], [1.0], [2.0]]
    plane = discretized(point_navigation("torch"), [2, 3]).control_values
    assert plane.tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    assert len(discretized(point_navigation("torch"), 4).control_values) == 16
    assert plane.dtype == torch.float64


def test_values_of_ones_own():
    values = [[0.0, 0.0], [1.0, 0.0], [0.0, -0.5]]
    for given in (values, torch.tensor(values), torch.tensor(values).double()):
        task = discretized(point_navigation("torch"), values=given)
        assert task.control_values.tolist() == values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either bins, how many values each control has, or values"),
        ({"bins": 3, "values": [[0.0]]}, "give either bins"),
        ({"bins": 1}, "bins must be an integer of at least 2, or one for each of 1 controls, got 1"),
        ({"bins": [3, 3]}, r"one for each of 1 controls, got \[3, 3\]"),
        ({"bins": 2.5}, None),
        ({"bins": [2.5]}, "at least 2"),
        ({"values": [0.0, 1.0]}, r"control_values must be a tensor of shape \(k, 1\), .* got \(2,\)"),
        ({"values": torch.zeros(3, 2)}, r"control_values must be a tensor of shape \(k, 1\), .* got \(3, 2\)"),
        ({"values": torch.zeros(0, 1)}, r"control_values must be a tensor of shape \(k, 1\), .* got \(0, 1\)"),
        ({"values": [[2.5]]}, r"control_values must lie within the control_limits \(-2.0, 2.0\), got \[\[2.5\]\]"),
        ({"values": [[math.nan]]}, "must lie within the control_limits"),
    ],
)
def test_values_that_are_none(options, message):
    with pytest.raises(TypeError if message is None else ValueError, match=message):
        discretized(pendulum_swing_up("torch"), **options)


def test_a_task_checks_its_values():
    with pytest.raises(ValueError, match=r"control_values must be a tensor of shape \(k, 1\), .* got list"):
        replace(pendulum_swing_up("torch"), control_values=[[0.0]])


def test_the_nearest_control():
    task = discretized(point_navigation("torch"), values=[[0.0, 0.0], [1.0, 0.0], [0.0, -0.5]])
    u = torch.tensor([[0.4, 0.1], [0.6, 0.1], [9.0, 3.0], [0.0, -0.26]], dtype=torch.float64)
    assert task.admissible(u).tolist() == [[0, 0], [1, 0], [1, 0], [0, -0.5]]
    assert task.admissible(u.reshape(2, 2, 2).float()).dtype == torch.float32
    free = point_navigation("torch")
    assert free.admissible(u).tolist() == [[0.4, 0.1], [0.6, 0.1], [1.0, 1.0], [0.0, -0.26]]


# Who sees them


def test_the_problem_has_them_and_a_planner_that_cannot_says_so():
    task = pendulum()
    problem = task.problem()
    assert problem.control_values is task.control_values
    assert problem.features() == {"control_limits", "control_values"}
    with pytest.raises(ValueError, match="LQR cannot honor: control_limits, control_values"):
        solve(problem, LQR(), torch.zeros(2).double())


@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is -?infinity")
def test_gymnasium_approves_of_the_environment():
    env = make_env(pendulum(5))
    assert env.action_space == gymnasium.spaces.Discrete(5)
    check_env(env, skip_render_check=True)


def test_an_action_is_the_number_of_a_control():
    free, task = make_env(pendulum_swing_up("torch")), pendulum(5)
    env, envs = make_env(task), make_vec_env(task, 5)
    assert envs.action_space == gymnasium.spaces.MultiDiscrete([5] * 5)
    start = {"state": [1.0, 0.5]}
    envs.reset(options=start)
    ys, rewards, *_ = envs.step(np.arange(5))
    for number, value in enumerate([-2.0, -1.0, 0.0, 1.0, 2.0]):
        free.reset(options=start)
        y, reward, *_ = free.step(np.array([value]))
        for action in (number, np.int64(number), np.array(number), np.uint8(number)):
            env.reset(options=start)
            found = env.step(action)
            np.testing.assert_array_equal(found[0], y)
            assert found[1] == reward
        np.testing.assert_allclose(ys[number], y, rtol=1e-12)
        assert rewards[number] == pytest.approx(reward, rel=1e-12)


@pytest.mark.parametrize("action", [-1, 3, 0.0, np.array([1]), None, np.nan, "0"])
def test_actions_that_are_none(action):
    env, envs = make_env(pendulum()), make_vec_env(pendulum(), 2)
    env.reset(seed=0)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="an action is an integer from 0 to 2, got"):
        env.step(action)
    with pytest.raises(ValueError, match="an action is an integer from 0 to 2 for each of 2 worlds, got"):
        envs.step(
            np.array([0, action], dtype=object if action is None or isinstance(action, str | np.ndarray) else None)
        )


def test_the_action_of_a_world_that_is_reset_may_be_anything():
    envs = make_vec_env(pendulum(episode_steps=1), 2)
    envs.reset(seed=0)
    envs.step(np.zeros(2, dtype=int))
    assert envs.step(np.array([99, -7]))[1].tolist() == [0.0, 0.0]


def test_vector_environments_keep_the_contract():
    check_vector_env(functools.partial(make_vec_env, pendulum(episode_steps=6)))


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2], ids=lambda mode: mode.name)
def test_the_worlds_are_those_of_single_environments(mode):
    task = pendulum(episode_steps=6)
    ours = make_vec_env(task, 3, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: make_env(task)] * 3, autoreset_mode=mode)
    assert (ours.single_action_space, ours.action_space) == (theirs.single_action_space, theirs.action_space)
    np.testing.assert_array_equal(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    for _ in range(20):
        actions = theirs.action_space.sample()
        for a, b in zip(ours.step(actions)[:4], theirs.step(actions)[:4], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_recordings_have_no_other_controls():
    task = pendulum(episode_steps=20)
    (trajectory,) = record(task, SplineNoise(task.control_limits, 1), 1)
    assert set(trajectory.controls[:, 0]) == {-2.0, 0.0, 2.0}
    (trajectory,) = record_env(make_env(task), None, 1)
    assert set(trajectory.controls[:, 0]) == {-2.0, 0.0, 2.0}
