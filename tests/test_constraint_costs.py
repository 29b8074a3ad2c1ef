"""The cost that constrained policies keep below a limit: reported beside the reward by environments, one world or many."""

import math

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from dynamics import TorchDynamics
from mbrl import Task, discretized, make_env, make_vec_env, shaped, uniform_initial_state
from mbrl.testing import check_vector_env
from planners import QuadraticCost

every_mode = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)


def toll(x, u):
    """What x and u cost together."""
    return x[..., 0].abs() + 10.0 * u[..., 0].square()


def road(**fields):
    """x' = 1.1 x + u, which terminates above 3 and diverges below -3; driving fast costs a toll."""
    dynamics = TorchDynamics(lambda x, u: torch.where(x < -3, torch.inf, 1.1 * x) + u, 1, 1, 0.1)
    cost = QuadraticCost(torch.eye(1).double(), torch.eye(1).double())
    settings = {"horizon": 5, "episode_steps": 15, "termination": lambda x: x[..., 0] > 3.0, "constraint_cost": toll}
    return Task("Road", dynamics, cost, (-0.5, 0.5), uniform_initial_state([-1.0], [1.0]), **{**settings, **fields})


def test_the_cost_is_that_of_the_state_and_the_control_a_step_begins_with():
    env = make_env(road())
    _, info = env.reset(seed=0)
    assert "cost" not in info
    for action in (0.3, -0.2, 9.0):  # the last one is clipped
        x, u = info["state"][0], min(action, 0.5)
        _, reward, _, _, info = env.step(np.array([action]))
        assert info["cost"] == pytest.approx(abs(x) + 10.0 * u**2, rel=1e-12)
        assert type(info["cost"]) is float
        assert reward == pytest.approx(-0.5 * (x**2 + u**2), rel=1e-12)  # as without a toll


def test_a_task_without_one_reports_none():
    env = make_env(road(constraint_cost=None))
    env.reset(seed=0)
    assert "cost" not in env.step(np.zeros(1))[-1]
    many = make_vec_env(road(constraint_cost=None), 2)
    many.reset(seed=0)
    assert "cost" not in many.step(np.zeros((2, 1)))[-1]


@every_mode
def test_many_worlds_report_what_single_ones_do(mode):
    ours = make_vec_env(road(), 6, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: make_env(road())] * 6, autoreset_mode=mode)
    ours.reset(seed=0)
    theirs.reset(seed=0)
    ours.action_space.seed(0)
    diverged = 0
    for _ in range(60):
        action = ours.action_space.sample()
        (*_, end, cut, info), (*_, expected) = ours.step(action), theirs.step(action)
        parts = [(info, expected)]
        if "final_info" in info:
            parts.append((info["final_info"], expected["final_info"]))
        for mine, other in parts:
            assert ("cost" in mine) == ("cost" in other)
            if "cost" in mine:
                np.testing.assert_array_equal(mine["_cost"], other["_cost"])
                np.testing.assert_allclose(mine["cost"], other["cost"], rtol=1e-12)
                assert np.isfinite(mine["cost"]).all()
            diverged += int(mine["diverged"].sum())
        if mode is AutoresetMode.DISABLED and (end | cut).any():
            for env in (ours, theirs):
                env.reset(options={"reset_mask": end | cut})
    assert diverged > 0


def test_the_contract_is_kept():
    check_vector_env(lambda **options: make_vec_env(road(), **options))


def test_what_is_done_to_a_task_keeps_it():
    task = road()
    changed = {
        "shaped": shaped(task, slack=0.1),
        "discretized": discretized(task, 3),
        "on a model": task.with_dynamics(TorchDynamics(lambda x, u: x + 0 * u, 1, 1, 0.1)),
    }
    for name, other in changed.items():
        env = make_env(other)
        _, info = env.reset(seed=1)
        x = abs(info["state"][0])
        action = 2 if name == "discretized" else np.array([0.5])
        assert env.step(action)[-1]["cost"] == pytest.approx(x + 2.5, rel=1e-12), name


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_cost_is_a_number_from_zero_on(value):
    task = road(constraint_cost=lambda x, u: torch.full_like(x[..., 0], value))
    for env, action in ((make_env(task), np.zeros(1)), (make_vec_env(task, 2), np.zeros((2, 1)))):
        env.reset(seed=0)
        with pytest.raises(ValueError, match="constraint_cost of task Road must be finite and not negative, got"):
            env.step(action)


def test_a_cost_of_another_shape():
    env = make_vec_env(road(constraint_cost=lambda x, u: x), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"constraint_cost must have shape \(2,\).* got \(2, 1\)"):
        env.step(np.zeros((2, 1)))
