"""Shaping: what is added is what is said, returns telescope, and progress changes no optimal plan and no optimal policy."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mbrl
from dynamics import DoubleIntegrator, MujocoDynamics, TorchDynamics
from mbrl import Task, evaluate, make_env, make_vec_env, pendulum_swing_up, point_navigation, shaped
from mbrl.tasks.point_navigation import PointAndGoal
from mbrl.testing import check_dynamics
from planners import ICEM, LQR, MPC, FunctionCost, TransitionCost, solve

CELLS, GOAL = 7, 6


def corridor(discount=0.5, **fields):
    """Cells 0 to 6 in a row, moves -1, 0 and 1, each at a price of its own; the episode ends in cell 6."""
    prices = torch.rand(CELLS, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    prices = (8 * prices).round() / 8 + 0.125  # sums of eighths are exact

    def cost(x, u, t):
        return prices[x[..., 0].long().clamp(0, GOAL), u[..., 0].long() + 1]

    dynamics = TorchDynamics(lambda x, u: (x + u).clamp(0, GOAL), 1, 1, 1.0)
    task = Task("Corridor", dynamics, FunctionCost(cost), (-1.0, 1.0), _anywhere, horizon=6, episode_steps=20)
    return replace(task, **{"termination": lambda x: x[..., 0] >= GOAL, "discount": discount, **fields})


def _anywhere(batch, generator):
    return torch.randint(0, GOAL, (batch, 1), generator=generator).double()


def potential(x):
    """Not above zero, and neither monotone nor zero in the goal."""
    return -torch.tensor([4.0, 3.5, 9.0, 2.0, 2.5, 1.0, 5.0], dtype=torch.float64)[x[..., 0].long()]


def all_plans(steps):
    return torch.tensor(list(itertools.product([-1.0, 0.0, 1.0], repeat=steps)), dtype=torch.float64)[..., None]


def walk(task, start, us):
    return task.dynamics.rollout(torch.full((len(us), 1), float(start)).double(), us)


# What is added


def test_a_reward_is_that_of_the_task_with_bonus_slack_and_progress():
    task = corridor()
    more = shaped(task, success=3.0, reached=lambda x: x[..., 0] == 2, slack=0.25, progress=potential)
    x = torch.tensor([[0.0], [1.0], [2.0], [5.0]], dtype=torch.float64)
    u = torch.tensor([[1.0], [1.0], [0.0], [1.0]], dtype=torch.float64)
    x_next = x + u
    phi, phi_next = [-4.0, -3.5, -9.0, -1.0], [-3.5, -9.0, -9.0, 0.0]  # zero in the goal, which terminates
    bonus = [0.0, 3.0, 3.0, 0.0]
    added = [b - 0.25 + 0.5 * after - before for b, after, before in zip(bonus, phi_next, phi, strict=True)]
    assert (more.reward(x, u, x_next, 0) - task.reward(x, u, x_next, 0)).tolist() == added
    assert (more.termination, more.success, more.dynamics) == (task.termination, task.success, task.dynamics)


def test_each_part_alone_and_one_after_the_other():
    task = corridor()
    x, u = torch.tensor([[1.0]]).double(), torch.tensor([[1.0]]).double()

    def added(other):
        return float(other.reward(x, u, x + u, 0) - task.reward(x, u, x + u, 0))

    bonus = {"success": 2.0, "reached": lambda x: x[..., 0] == 2}
    assert added(shaped(task)) == 0.0
    assert added(shaped(task, **bonus)) == 2.0
    assert added(shaped(task, slack=0.5)) == -0.5
    assert added(shaped(task, progress=potential)) == 0.5 * -9.0 + 3.5
    assert added(shaped(shaped(shaped(task, slack=0.5), progress=potential), **bonus)) == added(
        shaped(task, slack=0.5, progress=potential, **bonus)
    )


def test_costs_that_need_the_next_state_and_termination_costs_stay():
    cost = TransitionCost(lambda x, u, x_next, t: 10.0 * (x_next - x)[..., 0] + t)
    task = corridor(cost=cost, termination_cost=7.0)
    x, u = torch.tensor([[5.0]]).double(), torch.tensor([[1.0]]).double()
    assert float(shaped(task, slack=1.0).reward(x, u, x + u, 3)) == -(10.0 + 3 + 7.0 + 1.0)


# Progress changes nothing that is optimal


@pytest.mark.parametrize("discount", [1.0, 0.5])
@pytest.mark.parametrize("termination", [None, lambda x: x[..., 0] >= GOAL])
def test_returns_telescope_exactly(discount, termination):
    """For every plan: the difference is the potential of the start, less that of the end if the episode goes on."""
    task = corridor(discount, termination=termination)
    more, us = shaped(task, progress=potential), all_plans(6)
    for start in range(GOAL):
        xs = walk(task, start, us)
        difference = more.problem().trajectory_cost(xs, us) - task.problem().trajectory_cost(xs, us)
        last = potential(xs[:, -1])
        if termination is not None:
            last = torch.where((xs[..., 0] >= GOAL).any(-1), 0.0, last)
        expected = potential(xs[:, 0]) - discount**6 * last
        assert torch.equal(difference, expected)


def test_the_optimal_plan_stays_optimal():
    """Of all 729, from every cell from which the goal is worth its price and within the horizon."""
    task = corridor(0.5, termination_cost=-20.0)
    more, us, terminated = shaped(task, progress=potential), all_plans(6), 0
    for start in range(GOAL):
        xs = walk(task, start, us)
        before, after = (t.problem().trajectory_cost(xs, us) for t in (task, more))
        best = before == before.min()
        if bool((xs[best][..., 0] >= GOAL).any(-1).all()):
            terminated += 1
            assert torch.equal(after == after.min(), best)
    assert terminated >= 4


def optimal(task):
    """Values of the cells and, for each, which of the three moves are optimal, by value iteration with the task's rewards."""
    x = torch.arange(CELLS).double().repeat_interleave(3)[:, None]
    u = torch.tensor([-1.0, 0.0, 1.0]).double().repeat(CELLS)[:, None]
    x_next = task.dynamics(x, u)
    reward, going = task.reward(x, u, x_next, 0), (~task.termination(x_next)).double()
    values = torch.zeros(CELLS).double()
    for _ in range(2000):
        q = (reward + task.discount * going * values[x_next[:, 0].long()]).reshape(CELLS, 3)
        values = q.max(-1).values
    return values[:GOAL], (q[:GOAL] >= values[:GOAL, None] - 1e-9)


@pytest.mark.parametrize("discount", [0.5, 0.9, 0.99])
def test_the_optimal_policy_stays_optimal(discount):
    task = corridor(discount)
    (values, moves), (others, other_moves) = optimal(task), optimal(shaped(task, progress=potential))
    assert torch.equal(moves, other_moves)
    torch.testing.assert_close(others, values - potential(torch.arange(GOAL).double()[:, None]), rtol=0, atol=1e-9)


def test_slack_changes_what_is_optimal():
    """Staying where that is cheap is no longer worth it."""
    task = corridor(0.5)
    assert not torch.equal(optimal(task)[1], optimal(shaped(task, slack=2.0))[1])


# Planners, environments and vector environments see it


def test_everybody_sees_the_same_reward():
    task = shaped(pendulum_swing_up("torch"), slack=0.1, progress=lambda x: 5.0 * x[..., 0].cos())
    env, envs = make_env(task), make_vec_env(task, 2)
    _, info = env.reset(seed=3)
    envs.reset(seed=3)
    states, actions, rewards = [info["state"]], [], []
    env.action_space.seed(0)
    for _ in range(10):
        actions.append(env.action_space.sample())
        _, reward, *_, info = env.step(actions[-1])
        batch = envs.step(np.stack([actions[-1]] * 2))[1]
        assert batch[0] == pytest.approx(reward, rel=1e-12)
        rewards.append(reward)
        states.append(info["state"])
    xs, us = torch.from_numpy(np.stack(states)), torch.from_numpy(np.stack(actions)).double()
    assert -float(task.problem(horizon=10).trajectory_cost(xs, us)) == pytest.approx(sum(rewards), rel=1e-12)
    plain = -float(pendulum_swing_up("torch").problem(horizon=10).trajectory_cost(xs, us))
    gained = 5.0 * (xs[-1, 0].cos() - xs[0, 0].cos())
    assert sum(rewards) == pytest.approx(plain - 1.0 + float(gained), rel=1e-12)


def test_a_diverged_state_is_no_progress():
    task = shaped(corridor(termination=None), slack=0.1, progress=lambda x: x[..., 0])
    x = torch.tensor([[math.nan]]).double()
    assert bool(task.reward(torch.ones(1, 1).double(), torch.ones(1, 1).double(), x, 0).isnan().all())


def test_a_planner_without_next_states_refuses_it():
    problem = replace(shaped(pendulum_swing_up("torch"), slack=0.1).problem(), control_limits=None)
    with pytest.raises(ValueError, match="LQR"):
        solve(problem, LQR(), torch.zeros(2).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"success": -1.0, "reached": lambda x: x[..., 0] > 0}, "success must be finite and not negative, got -1.0"),
        ({"slack": math.nan}, "slack must be finite and not negative, got nan"),
        ({"success": 1.0}, "success, a bonus above zero, and reached, where it is paid, go together"),
        ({"reached": lambda x: x[..., 0] > 0}, "go together; give both or none"),
    ],
)
def test_shaping_that_is_none(options, message):
    with pytest.raises(ValueError, match=message):
        shaped(corridor(), **options)


def test_functions_that_are_none():
    for options in ({"progress": 1.0}, {"success": 1.0, "reached": True}):
        with pytest.raises(TypeError, match=r"must be a function of states \(\*batch, n\), got (1.0|True)"):
            shaped(corridor(), **options)


# Point navigation


def test_the_plant_keeps_the_contract_on_both_backends():
    system = DoubleIntegrator(2, dt=0.1).with_parameters(damping=0.3)
    check_dynamics(point_navigation("torch").dynamics)
    formula, mujoco = (point_navigation(backend, system=system).dynamics for backend in ("torch", "mujoco"))
    assert isinstance(mujoco, MujocoDynamics)
    assert mujoco.state_names == formula.state_names
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    u = 2 * torch.rand(50, 2, generator=generator, dtype=torch.float64) - 1
    torch.testing.assert_close(mujoco(x, u), formula(x, u), rtol=0, atol=1e-12)
    point = torch.cat([x[:, :2], x[:, 4:6]], dim=-1)
    torch.testing.assert_close(
        formula(x, u)[:, [0, 1, 4, 5]], system(point, u), rtol=0, atol=1e-12
    )  # the point mass itself
    torch.testing.assert_close(formula.energy(x), system.energy(point), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["mujoco", "torch"])
def test_the_goal_rests(backend):
    task = point_navigation(backend)
    x0 = task.initial_state(5, torch.Generator().manual_seed(0))
    xs = task.dynamics.rollout(x0, torch.ones(5, 50, 2).double())
    goals = [2, 3, 6, 7]
    assert torch.equal(xs[..., goals], x0[:, None, goals].expand(5, 51, 4))


def test_where_an_episode_begins():
    x = point_navigation("torch").initial_state(4000, torch.Generator().manual_seed(0))
    ahead = x[:, 2:4] - x[:, 0:2]
    distance, angle = torch.linalg.vector_norm(ahead, dim=-1), torch.atan2(ahead[:, 1], ahead[:, 0])
    assert bool((x[:, 0:2].abs() <= 1.0).all())
    assert bool(((distance >= 1.0) & (distance <= 3.0)).all())
    assert bool((x[:, 4:] == 0).all())
    assert float(distance.mean()) == pytest.approx(2.0, abs=4 * 2 / math.sqrt(12 * 4000))
    assert float(angle.mean()) == pytest.approx(0.0, abs=4 * 2 * math.pi / math.sqrt(12 * 4000))


def test_an_episode_ends_at_the_goal():
    task = point_navigation("torch")
    env = make_env(task)
    y, _ = env.reset(options={"state": [0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0]})
    assert y.tolist() == [0.0, 0.0, 0.0, 0.0, 0.3, 0.0]
    y, reward, terminated, truncated, _ = env.step(np.array([1.0, 0.0]))
    moved = 0.5 * 0.1**2
    np.testing.assert_allclose(y, [moved, 0.0, 0.1, 0.0, 0.3 - moved, 0.0])
    assert (terminated, truncated) == (False, False)
    assert reward == pytest.approx(-0.01 - 0.05 + moved)  # force, slack, progress
    while not terminated:
        y, reward, terminated, _, _ = env.step(np.array([1.0, 0.0]))
    assert np.hypot(*y[4:]) <= 0.2
    before = 0.3 - 0.5 * (0.1 * 4) ** 2
    assert reward == pytest.approx(-0.01 - 0.05 + 1.0 + before)  # and the bonus; at the goal the potential is zero


def test_the_goal_is_found_and_progress_is_what_shows_the_way():
    """Two seconds ahead, the goal is mostly out of sight for the sparse reward."""
    task = point_navigation("torch")
    planner = ICEM(num_samples=40, max_iterations=2)
    assert evaluate(MPC(task.problem(), planner), task, episodes=10).success_rate == 1.0
    sparse = point_navigation("torch", progress=0.0)
    assert evaluate(MPC(sparse.problem(), planner), task, episodes=10).success_rate <= 0.5


def test_arguments_of_point_navigation():
    with pytest.raises(ValueError, match="a point mass with two axes, got 3"):
        point_navigation("torch", system=DoubleIntegrator(3))
    with pytest.raises(ValueError, match="progress must be finite and not negative, got -1"):
        point_navigation("torch", progress=-1.0)
    assert isinstance(mbrl.point_navigation("torch").dynamics, PointAndGoal)
