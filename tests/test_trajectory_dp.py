"""Trajectory-based dynamic programming."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are

import mbrl
from dynamics import LinearDynamics, TorchDynamics
from mbrl import ModelTeacher, TrajectoryDP, TrajectoryLibrary, evaluate, load_policy, train
from mbrl.tasks.base import uniform_initial_state
from planners import DDP, QuadraticCost

A = torch.tensor([[1.0, 0.1], [0.2, 1.0]], dtype=torch.float64)
B = torch.tensor([[0.0], [0.1]], dtype=torch.float64)
Q, R = torch.diag(torch.tensor([1.0, 0.1], dtype=torch.float64)), torch.eye(1, dtype=torch.float64)
P = torch.from_numpy(solve_discrete_are(A.numpy(), B.numpy(), Q.numpy(), R.numpy()))
STEPS = 8
LARGE = 10**9


def linear_quadratic():
    """Its optimal cost from x is half of x'Px, for any number of steps."""
    return mbrl.Task(
        "Regulator",
        LinearDynamics(A, B, dt=0.1),
        QuadraticCost(Q, R, Q_terminal=P),
        (-100.0, 100.0),
        uniform_initial_state([-1.0, -1.0], [1.0, 1.0]),
        horizon=STEPS,
        episode_steps=STEPS,
    )


def curved(u_max=2.0):
    """A spring that softens: gains differ from point to point."""
    plant = TorchDynamics(
        lambda x, u: torch.cat([x[..., 1:], u + x[..., :1].sin() - 0.1 * x[..., 1:]], -1), 2, 1, 0.1, integrator="euler"
    )
    return replace(linear_quadratic(), name="Spring", dynamics=plant, control_limits=(-u_max, u_max))


def small(**settings):
    teacher = ModelTeacher(planner=DDP(max_iterations=8))
    return TrajectoryDP(**{"teacher": teacher, "conditions": 3, "iterations": 2, **settings})


@pytest.mark.parametrize("window", [None, 0])
def test_of_a_linear_quadratic_task_it_is_the_regulator(window):
    """All gains are equal, and the plans are optimal, so that every point gives the optimal control everywhere."""
    task = linear_quadratic()
    result = train(small(iterations=1, conditions=2, window=window), task, steps=LARGE, evaluation_episodes=8)
    K = -torch.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(result.policy.controls_at(x, 3), x @ K.T, rtol=1e-8, atol=1e-8)
    for episode, found in zip(result.evaluation.trajectories, result.evaluation.returns, strict=True):
        first, last = (torch.tensor(episode.states[i]) for i in (0, -1))
        optimum = 0.5 * float(first @ P @ first - last @ P @ last)  # rewards have no terminal cost
        assert -found == pytest.approx(optimum, rel=1e-8)


def test_points_and_steps_are_counted():
    task = linear_quadratic()
    result = train(small(), task, steps=LARGE, evaluation_episodes=0)
    assert result.metrics["train/points"].tolist() == [3 * STEPS, 6 * STEPS]
    assert len(result.policy) == 6 * STEPS
    assert result.learner.plant.calls == result.steps > 2 * 3 * STEPS
    assert np.isfinite(result.metrics["rollout/cost"]).all()


def test_more_plans_leave_less_to_the_optimum():
    """The excess over plans from the very states that are evaluated shrinks as the library grows, the more so the denser."""
    task = curved()
    x0 = task.initial_state(20, torch.Generator().manual_seed(5))
    optimum = float(ModelTeacher().plan(task, x0, task.dynamics).cost.mean())
    excess = []
    for iterations in (1, 8):
        learner = small(iterations=iterations, conditions=2, window=0).learner(mbrl.Assignment(task, LARGE))
        while not learner.finished:
            learner.iterate()
        xs = mbrl.record(task, learner.policy, 20, initial_states=x0)
        costs = [
            task.problem(horizon=STEPS).trajectory_cost(*(torch.tensor(a) for a in (e.states, e.controls))) for e in xs
        ]
        excess.append(float(torch.stack(costs).mean()) - optimum)
    assert 0 <= excess[1] < 0.5 * excess[0]


def test_half_of_the_plans_begin_where_the_library_went():
    task = curved()
    learner = small(conditions=4, samples=2, control_noise=0.3).learner(mbrl.Assignment(task, LARGE))
    seen = []
    rolled_out = learner.rolled_out
    learner.rolled_out = lambda choose: seen.append(rolled_out(choose)) or seen[-1]
    learner.iterate()
    (rollouts,) = seen
    rank = rollouts.total_costs.flatten().argsort(descending=True)[:2]
    assert learner.begun[:2].tolist() == [0, 0]
    for k, row in enumerate(rank.tolist()):
        states = rollouts.states.flatten(0, 1)[row][:-1]
        distances = [float(learner.policy.nearest(x)[1]) for x in states]
        farthest = int(np.argmax(distances))
        assert int(learner.begun[2 + k]) == farthest
        assert torch.equal(learner.x0[2 + k], states[farthest])
    begun = learner.begun
    learner.iterate()
    steps = learner.policy.steps[4 * STEPS :].reshape(4, STEPS)
    assert torch.equal(steps, begun.unsqueeze(-1) + torch.arange(STEPS))


@pytest.mark.parametrize("revisited", [0.0, 1.0])
def test_none_or_all_of_the_plans(revisited):
    learner = small(revisited=revisited).learner(mbrl.Assignment(curved(), LARGE))
    learner.iterate()
    assert learner.x0.shape == (3, 2)
    inside = (learner.x0.abs() <= 1).all(-1) & (learner.begun == 0)
    assert bool(inside.all()) or revisited == 1.0


@pytest.mark.parametrize(
    "settings", [pytest.param({}, marks=pytest.mark.slow), {"window": 2, "scale": (1.0, 2.0), "control_noise": 0.2}]
)
def test_resumed_it_is_the_same(tmp_path, settings):
    task, algorithm = curved(), small(iterations=3, conditions=2, **settings)
    whole = train(algorithm, task, steps=LARGE, evaluation_episodes=2)

    class KilledError(Exception):
        pass

    def kill(row):
        if row["train/points"] == 4 * STEPS:
            raise KilledError

    with pytest.raises(KilledError):
        train(algorithm, task, steps=LARGE, evaluation_episodes=2, run=tmp_path / "run", on_iteration=kill)
    resumed = train(algorithm, task, steps=LARGE, evaluation_episodes=2, run=tmp_path / "run", resume="must")
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[name]), name
    assert resumed.steps == whole.steps
    assert resumed.policy.names == whole.policy.names
    assert np.array_equal(resumed.evaluation.returns, whole.evaluation.returns)
    loaded = load_policy(tmp_path / "run")
    again = evaluate(loaded, task, episodes=3)
    assert np.array_equal(again.returns, evaluate(whole.policy, task, episodes=3).returns)


def test_begins_with_a_library():
    task = linear_quadratic()
    first = train(small(iterations=1), task, steps=LARGE, evaluation_episodes=0).policy
    second = train(small(iterations=1), task, steps=LARGE, evaluation_episodes=0, init=first, seed=1).policy
    assert len(second) == 2 * len(first)
    assert torch.equal(second.states[: len(first)], first.states)
    with pytest.raises(ValueError, match=r"init must be a mbrl\.TrajectoryLibrary to add to, got Policy"):
        train(small(), task, steps=1, init=mbrl.Policy.for_task(task))
    other = TrajectoryLibrary.for_task(replace(task, control_limits=(-200.0, 200.0)))
    with pytest.raises(ValueError, match="takes controls from"):
        train(small(), task, steps=1, init=other)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"revisited": 1.5}, r"revisited must be a number in \[0, 1\]"),
        ({"window": -1}, "window must be an integer of at least 0"),
        ({"window": 0.5}, "window must be an integer of at least 0"),
        ({"conditions": 0}, "conditions must be an integer of at least 1"),
        ({"scale": (1.0, -1.0)}, "scale must be positive numbers"),
    ],
)
def test_bad_settings(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrajectoryDP(**settings)


def test_other_tasks():
    with pytest.raises(ValueError, match="plans on the model of a task of this library"):
        train(TrajectoryDP(), "CartPole-v1", steps=1)
    with pytest.raises(ValueError, match="scale must be 2 positive numbers"):
        train(TrajectoryDP(scale=(1.0,)), linear_quadratic(), steps=1)
