"""The reacher: goals, distances, what is seen, and that planning reaches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mbrl
from dynamics import Reacher
from mbrl import make_env, reacher
from planners import ICEM, MPC


def states(**columns):
    """States at rest with the given columns, ``(rows, 8)``."""
    names = Reacher().state_names
    x = torch.zeros(max(len(values) for values in columns.values()), 8, dtype=torch.float64)
    for name, values in columns.items():
        x[:, names.index(name)] = torch.tensor(values, dtype=torch.float64)
    return x


def test_goals_are_spread_evenly_over_a_ring(generator):
    """The area within a radius grows with its square; angles of arm and goal are uniform on the circle."""
    x = reacher("torch").initial_state(4000, generator)
    radius = torch.linalg.vector_norm(x[:, 2:4], dim=-1)
    assert 0.2 <= float(radius.min()) < 0.22
    assert 0.89 < float(radius.max()) <= 0.9
    share = (radius.square() - 0.2**2) / (0.9**2 - 0.2**2)
    directions = torch.atan2(x[:, 3], x[:, 2])
    for uniform in (share, *((angle + math.pi) / (2 * math.pi) for angle in (x[:, 0], x[:, 1], directions))):
        ranks = uniform.sort().values - (torch.arange(4000) + 0.5) / 4000
        assert float(ranks.abs().max()) < 1.95 / math.sqrt(4000)  # Kolmogorov-Smirnov at 0.1 %
    assert not bool(x[:, 4:].any())


@pytest.mark.parametrize(("lengths", "inner", "outer"), [((0.8, 0.2), 0.68, 0.96), ((0.3, 0.3), 0.12, 0.54)])
def test_goals_are_within_reach_of_other_arms(lengths, inner, outer, generator):
    system = Reacher().with_parameters(length_1=lengths[0], length_2=lengths[1])
    radius = torch.linalg.vector_norm(reacher("torch", system=system).initial_state(2000, generator)[:, 2:4], dim=-1)
    assert float(radius.min()) == pytest.approx(inner, rel=0.02)
    assert float(radius.max()) == pytest.approx(outer, rel=0.02)


def test_the_cost_by_hand():
    """A straight arm ends at (1, 0): sqrt(d^2 + 0.05^2) - 0.05, and the terms of speed and torque."""
    task = reacher("torch")
    x = states(goal_x=[1.0, 1.0, 0.0, 1.0], goal_y=[0.0, 0.12, 0.0, 0.0], shoulder_velocity=[0.0, 0.0, 0.0, 2.0])
    u = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, -0.5]], dtype=torch.float64)
    expected = torch.tensor(
        [0.0, 0.13 - 0.05, math.hypot(1.0, 0.05) - 0.05, 0.02 * 4.0 + 0.01 * 1.25], dtype=torch.float64
    )
    torch.testing.assert_close(task.cost.stage(x, u, 0), expected, rtol=0, atol=1e-14)


def test_what_is_seen_is_what_gymnasiums_reacher_sees():
    """Cosines, sines, goal, velocities, and where the goal is seen from the fingertip."""
    task = reacher("torch")
    x = states(
        shoulder=[0.3], elbow=[-1.2], goal_x=[0.4], goal_y=[-0.6], shoulder_velocity=[1.5], elbow_velocity=[-2.5]
    )
    tip = 0.5 * np.array([math.cos(0.3) + math.cos(-0.9), math.sin(0.3) + math.sin(-0.9)])
    expected = [
        math.cos(0.3),
        math.cos(1.2),
        math.sin(0.3),
        -math.sin(1.2),
        0.4,
        -0.6,
        1.5,
        -2.5,
        0.4 - tip[0],
        -0.6 - tip[1],
    ]
    np.testing.assert_allclose(task.observe(x)[0].numpy(), expected, rtol=0, atol=1e-15)
    assert task.names["observations"][4:6] == ("goal_x", "goal_y")


def test_success_is_the_last_second_within_five_centimeters():
    task = reacher("torch")
    x = states(goal_x=[1.0, 1.0, 1.0], goal_y=[0.0, 0.049, 0.051])
    xs = x.unsqueeze(1).repeat(1, task.episode_steps + 1, 1)
    assert task.success(xs).tolist() == [True, True, False]
    for step, expected in ((-21, False), (-22, True), (-1, False)):
        left = xs[0].clone()
        left[step, 3] = 0.1
        assert bool(task.success(left)) == expected
    lost = xs[0].clone()
    lost[-1] = math.nan
    assert not bool(task.success(lost))


def test_a_batch_of_episodes_has_a_goal_each_that_stays(generator):
    task = replace(reacher(), episode_steps=8)
    actor = mbrl.SplineNoise(task.control_limits, 2)
    goals = [trajectory.states[:, 2:4] for trajectory in mbrl.record(task, actor, 3, generator=generator)]
    assert all((goal == goal[0]).all() for goal in goals)
    assert len({tuple(goal[0]) for goal in goals}) == 3


def test_an_episode_with_a_goal_of_ones_own():
    env = make_env(reacher("torch"))
    y, _ = env.reset(options={"state": states(goal_x=[0.25], goal_y=[0.5])[0].numpy()})
    assert y[4:6].tolist() == [0.25, 0.5]


def test_one_arm_per_world():
    """The cost of each world is that of its own arm, on torch; an MJCF model has one."""
    arms = Reacher().with_parameters(length_2=torch.tensor([0.5, 0.25]).double())
    task, x = reacher("torch", system=arms), states(goal_x=[1.0, 1.0])
    stage = task.cost.stage(x, torch.zeros(2, 2).double(), 0)
    torch.testing.assert_close(
        stage, torch.tensor([0.0, math.hypot(0.25, 0.05) - 0.05], dtype=torch.float64), rtol=0, atol=1e-14
    )
    with pytest.raises(ValueError, match="one per world for: length_2"):
        reacher("mujoco", system=arms)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mujoco", "torch"])
def test_planning_with_default_settings_reaches_every_goal(backend):
    task, formula = reacher(backend), reacher("torch").dynamics
    result = mbrl.evaluate(MPC(task.problem(formula), ICEM()), task, episodes=5)
    assert result.success_rate == 1.0
