"""The report on a learned reward: its numbers against direct computations, and the sampled EPIC distance against exact ones."""

import dataclasses
import itertools
import math
from dataclasses import replace

import pytest
import torch
from tabular_worlds import DOUBLE, random_mdp

import mbrl
from dynamics import LinearDynamics, Trajectory
from mbrl import FeatureGap, TabularPolicy, TaskCost, reward_report, sampled_epic_distance
from mbrl.irl.reward_report import _lost
from mbrl.plots import html_report, reward_sections
from mbrl.tasks.base import uniform_initial_state
from planners import (
    DDP,
    FunctionCost,
    QuadraticCost,
    TransitionCost,
    occupancies,
    policy_evaluation,
    sample_trajectories,
    solve,
    solve_mdp,
)


def world(**options):
    return mbrl.objectworld(4, 4, seed=3, **options)


def demonstrated(world, number=20, steps=5):
    policy = solve_mdp(world.mdp).policy
    return sample_trajectories(world.mdp, policy, number, steps=steps, generator=torch.Generator().manual_seed(0))


# In tables


def test_of_the_truth_nothing_is_lost():
    there = world()
    policy = solve_mdp(there.mdp).policy
    shaped = 3.0 * there.rewards + 1.0
    elsewhere = mbrl.objectworld(4, 4, seed=3, wind=0.05)
    report = reward_report(there, shaped, policy=policy, elsewhere=elsewhere.mdp.with_rewards(elsewhere.rewards))
    assert report.epic < 1e-7
    assert math.isclose(report.correlation, 1.0)
    assert abs(report.lost) < 1e-12
    assert abs(report.lost_elsewhere) < 1e-12
    assert math.isclose(report.returns["retrained"], report.returns["optimal"])
    assert math.isclose(report.returns["learned policy"], float(solve_mdp(there.mdp).value))


def test_numbers_are_those_of_direct_computations():
    there, elsewhere = world(), mbrl.objectworld(4, 4, seed=5, wind=0.1)
    demonstrations = demonstrated(there)
    trajectories = demonstrations.to_trajectories()
    learned = mbrl.MaxMargin(max_iterations=8).learn(there.mdp, there.features, demonstrations)
    report = reward_report(
        there, learned.reward, policy=TabularPolicy(learned.policy), demonstrations=trajectories, elsewhere=elsewhere
    )
    mdp = there.mdp
    assert report.epic == mbrl.epic_distance(mdp, learned.rewards, mdp.rewards)
    assert report.correlation == mbrl.reward_correlation(learned.rewards, mdp.rewards)
    retrained = solve_mdp(mdp, mdp.expected_rewards(learned.rewards)).policy
    assert math.isclose(report.lost, mbrl.expected_value_difference(mdp, retrained, relative=True))
    moved = elsewhere.mdp.expected_rewards(learned.reward(elsewhere.features).detach())
    transferred = solve_mdp(elsewhere.mdp, moved).policy
    assert math.isclose(
        report.lost_elsewhere, mbrl.expected_value_difference(elsewhere.mdp, transferred, relative=True)
    )
    assert report.identifiable.invisible == mbrl.identifiability(mdp, there.features).invisible
    phi = there.features
    expected = torch.stack(
        [sum(0.9**t * phi[s] for t, s in enumerate(states[:-1])) for states in demonstrations.states.tolist()]
    ).mean(0)
    torch.testing.assert_close(report.gap.expert, expected)
    starts = torch.bincount(demonstrations.states[:, 0], minlength=16).double() / 20
    part = dataclasses.replace(mdp, horizon=5, initial=starts)
    uniform = torch.full((16, 5), 0.2, dtype=DOUBLE)
    torch.testing.assert_close(report.gap.random, occupancies(part, uniform).sum(-1) @ phi)
    torch.testing.assert_close(report.gap.learned, occupancies(part, learned.policy).sum(-1) @ phi)
    uniform_value = float(policy_evaluation(mdp, uniform).value)
    assert math.isclose(report.returns["random"], uniform_value)


def test_a_process_without_true_rewards():
    mdp = dataclasses.replace(random_mdp(0), rewards=None)
    report = reward_report(mdp, torch.randn(4, 3, dtype=DOUBLE))
    assert report.epic is report.correlation is report.lost is None
    assert "true reward is not known" in str(report)


def test_a_constant_reward_has_no_direction():
    there = world()
    report = reward_report(there, torch.ones(16))
    assert report.epic is report.correlation is None
    assert any("no direction" in note for note in report.notes)
    assert report.lost is not None


# Sampled EPIC


def as_functions(*tables):
    """Rewards of states and controls that are indices."""

    def of(table):
        return lambda x, u, after: table[x[..., 0].long(), u[..., 0].long(), after[..., 0].long()]

    return [of(table) for table in tables]


def all_of(S, A):
    rows = torch.tensor(list(itertools.product(range(S), range(A), range(S))), dtype=DOUBLE)
    return tuple(rows[:, [i]] for i in range(3))


@pytest.mark.parametrize("seed", range(3))
def test_sampled_epic_of_all_transitions_is_the_exact_one(seed):
    mdp = random_mdp(seed, S=4, A=2)
    generator = torch.Generator().manual_seed(seed)
    tables = [torch.randn(4, 2, 4, generator=generator, dtype=DOUBLE) for _ in range(2)]
    every = all_of(4, 2)
    found = sampled_epic_distance(*as_functions(*tables), every, every, discount=mdp.discount)
    assert math.isclose(found, mbrl.epic_distance(mdp, *tables), rel_tol=1e-12)


def test_sampled_epic_comes_closer_with_samples():
    """The error of independent samples falls about as one over their root."""
    mdp = random_mdp(1, S=5, A=3)
    generator = torch.Generator().manual_seed(4)
    tables = [torch.randn(5, 3, 5, generator=generator, dtype=DOUBLE) for _ in range(2)]
    exact, errors = mbrl.epic_distance(mdp, *tables), []
    for number in (30, 3000):
        found = []
        for _ in range(5):
            x, u, after = (torch.randint(k, (number, 1), generator=generator).double() for k in (5, 3, 5))
            found.append(sampled_epic_distance(*as_functions(*tables), (x, u, after), discount=mdp.discount))
        errors.append(max(abs(one - exact) for one in found))
    assert errors[1] < 0.02 < errors[0]


def test_sampled_epic_sees_neither_scale_nor_shaping():
    generator = torch.Generator().manual_seed(0)
    x, u, after = (torch.randn(200, k, generator=generator, dtype=DOUBLE) for k in (2, 1, 2))

    def reward(x, u, after):
        return -x.square().sum(-1) - 0.1 * u[..., 0] ** 2 + after[..., 0]

    def shaped(x, u, after):
        return 2.0 * reward(x, u, after) + 0.9 * after[..., 1].sin() - x[..., 1].sin() + 3.0

    assert sampled_epic_distance(reward, shaped, (x, u, after), discount=0.9) < 1e-6
    opposite = sampled_epic_distance(reward, lambda *a: -shaped(*a), (x, u, after), discount=0.9)
    assert math.isclose(opposite, 1.0)


def test_sampled_epic_refuses():
    x = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="at least 2 transitions"):
        sampled_epic_distance(*as_functions(torch.zeros(1, 1, 1)) * 2, (x[:1], x[:1], x[:1]), discount=0.9)
    with pytest.raises(ValueError, match="no direction"):
        sampled_epic_distance(lambda x, u, y: x[..., 0] + 1, lambda x, u, y: x[..., 0] + 1, (x, x, x), discount=0.9)
    with pytest.raises(ValueError, match="not finite"):
        sampled_epic_distance(lambda x, u, y: x[..., 0] / 0, lambda x, u, y: x[..., 0], (x, x, x), discount=0.9)


# On a task


def regulator(gain=0.5, **fields):
    A = torch.tensor([[1.0, 0.3], [0.2, 0.9]], dtype=DOUBLE)
    plant = LinearDynamics(A, torch.tensor([[0.0], [gain]], dtype=DOUBLE), dt=0.1)
    cost = QuadraticCost(torch.tensor([2.0, 0.5]).diag().double(), 0.3 * torch.eye(1, dtype=DOUBLE))
    start = uniform_initial_state([-1.0, -1.0], [1.0, 1.0])
    task = mbrl.Task("Regulator", plant, cost, (-2.0, 2.0), start, horizon=8, episode_steps=8)
    return replace(task, **fields)


def planned(task, number=4):
    plan = solve(task.problem(), DDP(tolerance=1e-10), task.initial_state(number, torch.Generator().manual_seed(0)))
    return [
        Trajectory(x, u, states=x, dt=0.1, truncated=True)
        for x, u in zip(plan.xs.numpy(), plan.us.numpy(), strict=True)
    ]


def mean_return(episodes):
    return sum(float(e.rewards.sum()) for e in episodes) / len(episodes)


def test_of_the_true_cost():
    task, planner = regulator(), DDP(max_iterations=4)
    cost = TaskCost(task, 7.0 * TaskCost(task).true_weights)
    policy = mbrl.PlanningPolicy(task, cost, planner)
    elsewhere = regulator(gain=-0.4)
    report = reward_report(
        task, cost, policy=policy, demonstrations=planned(task), algorithm=planner, elsewhere=elsewhere, episodes=3
    )
    assert report.epic < 1e-6
    assert math.isclose(report.correlation, 1.0)
    demonstrations = planned(task)
    starts = torch.stack([torch.tensor(d.states[0]) for d in demonstrations])
    true = mbrl.PlanningPolicy(task, TaskCost(task, TaskCost(task).true_weights), planner)
    best = mbrl.record(task, true, 4, initial_states=starts)
    assert math.isclose(report.returns["retrained"], mean_return(best), rel_tol=1e-6)
    assert abs(report.gap.gap) < 0.3
    assert report.returns["random"] < report.returns["learned policy"]
    there = mbrl.PlanningPolicy(elsewhere, TaskCost(elsewhere, TaskCost(elsewhere).true_weights), planner)
    best = mbrl.record(elsewhere, there, 3)
    assert math.isclose(report.elsewhere["retrained"], mean_return(best), rel_tol=1e-6)
    expert = [
        float(task.reward(torch.tensor(d.states[:-1]), torch.tensor(d.controls), None, 0).sum()) for d in planned(task)
    ]
    assert math.isclose(report.returns["expert"], sum(expert) / len(expert))
    features = [cost.features(torch.tensor(d.states[:-1]), torch.tensor(d.controls), 0).sum(0) for d in planned(task)]
    torch.testing.assert_close(report.gap.expert, torch.stack(features).mean(0))
    assert report.weights["x0"] == pytest.approx((14.0, 2.0))
    assert report.identifiable.invisible == 1  # the factor


def test_a_reward_of_what_is_observed():
    """A module of observations, controls and next observations, as adversarial methods learn it."""

    class Reward(torch.nn.Module):
        def forward(self, y, u, following):
            return -(y.square() * torch.tensor([1.0, 0.25])).sum(-1) - 0.15 * u[..., 0] ** 2

    report = reward_report(regulator(), Reward(), episodes=2)
    assert report.epic < 1e-6
    assert report.weights is report.gap is None
    assert set(report.returns) == {"random"}


def test_retrained_and_without_demonstrations():
    task = regulator()
    algorithm = mbrl.PPO(num_envs=2, steps_per_iteration=32, network=mbrl.NetworkSettings(hidden=(4,)))
    arguments = {"algorithm": algorithm, "steps": 64, "episodes": 2}
    report = reward_report(task, task.cost, control=algorithm, **arguments)
    result = mbrl.train(algorithm, task, steps=64, evaluation_episodes=0)
    assert math.isclose(report.returns["retrained"], mean_return(mbrl.record(task, result.policy, 2)))
    alive = replace(task, cost=FunctionCost(lambda x, u, t: -torch.ones_like(x[..., 0])))
    result = mbrl.train(algorithm, alive, steps=64, evaluation_episodes=0)
    assert math.isclose(report.returns["no demonstrations"], mean_return(mbrl.record(task, result.policy, 2)))
    assert reward_report(task, task.cost, control=-3.0, episodes=2).returns["no demonstrations"] == -3.0


# Pages


def test_pages_and_words(tmp_path):
    there = world()
    learner = mbrl.MaxEntIRL(max_iterations=20)
    demonstrations = demonstrated(there).to_trajectories()
    result = mbrl.train(learner, there, demonstrations=demonstrations, evaluation_episodes=0)
    report = reward_report(there, result.reward, policy=result.policy, demonstrations=demonstrations, elsewhere=there)
    page = html_report(tmp_path / "page.html", "Reward", reward_sections(report)).read_text()
    assert "EPIC distance from the truth" in str(report)
    assert "show in no behavior" in page
    assert "true value that is lost" in page
    assert "Under other dynamics, true return" in page
    for one in (
        reward_report(random_mdp(0), torch.randn(4, 3, dtype=DOUBLE)),
        reward_report(regulator(), TaskCost(regulator()), demonstrations=planned(regulator()), episodes=2),
        reward_report(world(), torch.arange(16.0), policy=torch.full((16, 5), 0.2, dtype=DOUBLE)),
        reward_report(dataclasses.replace(there, mdp=dataclasses.replace(there.mdp, rewards=None)), torch.arange(16.0)),
    ):
        page = html_report(tmp_path / "page.html", "Reward", reward_sections(one)).read_text()
        assert page.count("<img") == (one.truth is not None or one.world is not None)


def test_captions_say_where_rewards_are_compared(tmp_path):
    class Network(torch.nn.Module):
        def forward(self, y, u, after):
            return -y.square().sum(-1)

    for report, where in (
        (reward_report(regulator(), Network(), episodes=2), "transition"),
        (reward_report(random_mdp(0), torch.randn(4, 3, dtype=DOUBLE)), "state and action"),
        (reward_report(world().mdp, torch.arange(16.0)), "state"),
    ):
        page = html_report(tmp_path / "page.html", "Reward", reward_sections(report)).read_text()
        assert f"Learned and true reward of each {where}." in page


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: reward_report("CartPole-v1", torch.ones(2)),
            TypeError,
            "a Task, a GridWorld or a TabularMDP, got str",
        ),
        (lambda: reward_report(world(), torch.ones(3)), ValueError, "rewards must have the shape"),
        (lambda: reward_report(world(), mbrl.FeatureReward(3)), ValueError, "one of 3 features, Objectworld has 16"),
        (lambda: reward_report(world(), regulator().cost), TypeError, "a mbrl.FeatureReward or a tensor"),
        (lambda: reward_report(world(), torch.ones(16), algorithm=DDP()), ValueError, "are for tasks"),
        (
            lambda: reward_report(world(), torch.ones(16), elsewhere=regulator()),
            ValueError,
            "elsewhere must be a world",
        ),
        (
            lambda: reward_report(regulator(), regulator().cost, elsewhere=world()),
            ValueError,
            "elsewhere must be a task",
        ),
        (lambda: reward_report(regulator(), regulator().cost, steps=3), ValueError, "steps would be ignored"),
        (lambda: reward_report(regulator(), torch.ones(3)), TypeError, "a planners.Cost or a module"),
        (lambda: reward_report(world(), torch.ones(16), policy=mbrl.UniformNoise((-1, 1))), TypeError, "TabularPolicy"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_cost_of_the_next_state():
    task = regulator(cost=TransitionCost(lambda x, u, after, t: after.square().sum(-1)))
    report = reward_report(task, TaskCost(task), episodes=2)
    assert 0 < report.epic < 1
    assert report.weights["x0"] == (1.0, None)


def test_what_random_actions_do_as_well_has_no_share():
    features = torch.tensor([1.0, 2.0], dtype=torch.float64)
    gap = FeatureGap(("a", "b"), features, features + 1.0, features.clone())
    assert gap.gap == float("inf")
    assert "tell nothing" in str(gap)
    assert _lost({"expert": -19.08, "random": -19.11, "retrained": -19.3}) is None
    assert _lost({"expert": -10.0, "random": -20.0, "retrained": -15.0}) == 0.5
