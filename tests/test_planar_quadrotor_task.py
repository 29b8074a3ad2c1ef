"""Flying a planar quadrotor to a place: the cost by hand, one plant on two backends, and that planning flies there."""

import math

import pytest
import torch

import mbrl
from dynamics import PlanarQuadrotor
from mbrl import planar_quadrotor_flight
from planners import ICEM, MPC


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_cost_by_hand():
    task = planar_quadrotor_flight("torch")
    hover = 0.5 * 9.81 / 2
    x = tensor([0.0] * 6, [0.3, -0.4, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 1.0, -2.0, 3.0])
    u = tensor([hover, hover], [hover, hover], [hover + 1.0, hover - 0.5])
    motion = 0.1 * (1 - math.cos(0.5)) + 0.05 * 5.0 + 0.005 * 9.0
    expected = tensor(0.0, math.hypot(0.5, 0.2) - 0.2, motion + 0.05 * 1.25 / 25.0)
    torch.testing.assert_close(task.cost.stage(x, u, 0), expected, rtol=0, atol=1e-14)
    assert not bool(task.cost.terminal(x).any())


def test_the_cost_knows_the_weight_of_every_world():
    system = PlanarQuadrotor().with_parameters(mass=tensor(0.4, 0.6), gain=tensor(1.0, 2.0))
    task = planar_quadrotor_flight("torch", system=system)
    hover = system.hover_control.unsqueeze(1).expand(2, 3, 2)  # worlds, samples
    assert not bool(task.cost.stage(torch.zeros(2, 3, 6).double(), hover, 0).any())


def test_both_backends_are_one_plant(generator):
    mujoco, formula = (planar_quadrotor_flight(backend).dynamics for backend in ("mujoco", "torch"))
    x = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    u = 5.0 * torch.rand(50, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mujoco(x, u), formula(x, u), rtol=0, atol=1e-12)
    assert torch.equal(mujoco(x, u - 5.0), mujoco(x, 0.0 * u))  # rotors do not pull


def test_limits_of_ones_own():
    task = planar_quadrotor_flight(thrust_limit=3.0)
    assert [limit.tolist() for limit in task.limits()] == [[0.0, 0.0], [3.0, 3.0]]
    x, u = torch.zeros(6).double(), tensor(3.0, 2.0)
    assert torch.equal(task.dynamics(x, u + tensor(4.0, 0.0)), task.dynamics(x, u))
    for limit in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"thrust_limit must be positive and finite, got {limit}"):
            planar_quadrotor_flight("torch", thrust_limit=limit)


def test_success_is_the_last_second_close_to_the_goal():
    task = planar_quadrotor_flight("torch")
    xs = torch.ones(4, 251, 6).double()
    xs[:, -51:, :2] = 0.0
    xs[1, -51:, 0] = 0.19
    xs[2, -51, 1] = 0.21
    xs[3, -1, 0] = math.nan
    assert task.success(xs).tolist() == [True, True, False, False]


def test_the_initial_distribution(generator):
    x = planar_quadrotor_flight("torch").initial_state(4000, generator)
    bounds = tensor(2.0, 2.0, 0.5, 0.5, 0.5, 1.0)
    assert bool(((x.abs() <= bounds) & (x.abs().max(0).values > 0.99 * bounds)).all())


@pytest.mark.slow
def test_planning_flies_there_and_stays():
    task = planar_quadrotor_flight("torch")
    mpc = MPC(task.problem(), ICEM(num_samples=40, max_iterations=2))
    assert mbrl.evaluate(mpc, task, episodes=10).success_rate >= 0.8
