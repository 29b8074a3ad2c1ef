"""Learners of rewards as training: the same as the direct call, resumed to the bit, with policy and reward in the run folder."""

import dataclasses
import math

import pytest
import torch
from tabular_worlds import random_mdp

import mbrl
from mbrl import Apprenticeship, MaxEntIRL, MaxMargin, TabularPolicy
from planners import TabularTrajectories, occupancies_by_step, policy_evaluation, sample_trajectories, solve_mdp

LEARNERS = {
    "maxent": MaxEntIRL(max_iterations=12),
    "maxent, adam": MaxEntIRL(max_iterations=12, optimizer="adam", learning_rate=0.1),
    "maxent, deep": MaxEntIRL(max_iterations=12, hidden=(6,), l2=0.1),
    "margin": MaxMargin(max_iterations=12),
    "margin, subgradient": MaxMargin(max_iterations=12, solver="subgradient"),
    "apprenticeship": Apprenticeship(max_iterations=6, epsilon=1e-3),
    "apprenticeship, projection": Apprenticeship(max_iterations=6, epsilon=1e-3, method="projection"),
}


def world(**fields):
    return dataclasses.replace(mbrl.objectworld(4, 4, seed=3), **fields)


def demonstrated(world, number=8, steps=5, temperature=0.0):
    policy = solve_mdp(world.mdp, temperature=temperature).policy
    generator = torch.Generator().manual_seed(0)
    return sample_trajectories(world.mdp, policy, number, steps=steps, generator=generator)


@pytest.mark.parametrize("name", LEARNERS)
def test_training_is_learning(name):
    there, learner = world(), LEARNERS[name]
    demonstrations = demonstrated(there)
    result = mbrl.train(learner, there, demonstrations=demonstrations.to_trajectories(), evaluation_episodes=3)
    direct = learner.learn(
        there.mdp, there.features, demonstrations, seed=mbrl.Assignment(there, None).seed_for("reward")
    )
    for one, other in zip(result.reward.parameters(), direct.reward.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(result.policy.probabilities, direct.policy)
    assert result.learner.learned.converged == direct.converged
    for key, numbers in direct.history.items():
        column = result.metrics[f"train/{key}"]
        assert [x for x in column.tolist() if not math.isnan(x)] == numbers
    assert result.steps == len(result.metrics["step"]) <= learner.ends_after + 1
    assert math.isfinite(result.evaluation.iqm)


@pytest.mark.parametrize("name", LEARNERS)
def test_resumed_it_is_the_same(tmp_path, name):
    there, learner = world(), LEARNERS[name]
    arguments = {"demonstrations": demonstrated(there).to_trajectories(), "evaluation_episodes": 0}
    whole = mbrl.train(learner, there, **arguments)

    class KilledError(Exception):
        pass

    def kill(row):
        if row["step"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        mbrl.train(learner, there, run=tmp_path / "run", on_iteration=kill, **arguments)
    resumed = mbrl.train(learner, there, run=tmp_path / "run", resume="must", **arguments)
    assert resumed.steps == whole.steps > 3
    assert torch.equal(whole.policy.probabilities, resumed.policy.probabilities)
    for one, other in zip(whole.reward.parameters(), resumed.reward.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.learner.learned.history == resumed.learner.learned.history
    policy, reward = mbrl.load_policy(tmp_path / "run"), mbrl.load_reward(tmp_path / "run")
    assert torch.equal(policy.probabilities, whole.policy.probabilities)
    assert torch.equal(reward(there.features), whole.reward(there.features))


def test_a_process_whose_states_are_told_apart():
    mdp = random_mdp(1, S=3, A=2, horizon=4)
    policy = solve_mdp(mdp, temperature=1.0).policy
    drawn = sample_trajectories(mdp, policy, 50, generator=torch.Generator().manual_seed(0))
    result = mbrl.train(MaxEntIRL(), mdp, demonstrations=drawn.to_trajectories(), evaluation_episodes=4)
    direct = MaxEntIRL().learn(mdp, torch.eye(3), drawn)
    assert torch.equal(result.reward.weights, direct.weights)
    assert result.policy.probabilities.shape == (4, 3, 2)


def test_recorded_episodes_are_demonstrations():
    there = world(episode_steps=6)
    expert = TabularPolicy(solve_mdp(there.mdp).policy)
    recorded = mbrl.record(there, expert, 10)
    result = mbrl.train(MaxEntIRL(), there, demonstrations=recorded, evaluation_episodes=0)
    same = [t.replace(states=None) for t in recorded]
    again = mbrl.train(MaxEntIRL(), there, demonstrations=same, evaluation_episodes=0)
    assert torch.equal(result.reward.weights, again.reward.weights)
    copied = mbrl.train(mbrl.BC(), there, steps=4, demonstrations=recorded, evaluation_episodes=0)
    assert copied.policy.observation_dim == 16


def test_a_policy_in_tables_acts_by_its_probabilities(tmp_path):
    """The value of drawn actions is that of the policy, stationary and of each step; files hold it."""
    mdp = random_mdp(2, S=3, A=3, horizon=4, discount=1.0)
    generator = torch.Generator().manual_seed(1)
    for shape in ((3, 3), (4, 3, 3)):
        table = torch.rand(shape, generator=generator, dtype=torch.float64).softmax(-1)
        policy = mbrl.load_policy(mbrl.save_policy(TabularPolicy(table), tmp_path / "policy.safetensors"))
        episodes = mbrl.record(mdp, policy, 5000, deterministic=False)
        returns = torch.tensor([e.rewards.sum() for e in episodes])
        expected = float(policy_evaluation(mdp, table).value)
        assert abs(float(returns.mean()) - expected) <= 5 * float(returns.std()) / 5000**0.5
        drawn = TabularTrajectories.from_trajectories(episodes)
        frequencies = drawn.counts(mdp) / drawn.number
        p = occupancies_by_step(mdp, table)
        assert bool(((frequencies - p).abs() <= 5 * (p * (1 - p) / drawn.number).sqrt()).all())
        (greedy,) = mbrl.record(mdp, policy, 1)
        s = int(greedy.states[0, 0])
        assert greedy.controls[0, 0] == int((table if table.ndim == 2 else table[0])[s].argmax())


def test_a_policy_in_tables_is_a_value():
    """The same memory gives the same actions."""
    policy = TabularPolicy(torch.full((3, 4), 0.25, dtype=torch.float64))
    y, memory = torch.eye(3).repeat(10, 1), policy.init(30, generator=torch.Generator().manual_seed(5))
    first, after = policy.act(y, memory, deterministic=False)
    second, _ = policy.act(y, memory, deterministic=False)
    third, _ = policy.act(y, after, deterministic=False)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    policy.check_fits(3, policy.actions)
    with pytest.raises(ValueError, match="Gridworld shows 9 columns"):
        mbrl.record(mbrl.gridworld(3), policy, 1)


def trained(learner=MaxEntIRL(), task=None, **arguments):  # noqa: B008
    task = world() if task is None else task
    return mbrl.train(learner, task, **{"evaluation_episodes": 0, **arguments})


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: trained(), ValueError, "MaxEntIRL learns from demonstrations"),
        (
            lambda: trained(task="CartPole-v1", demonstrations=demonstrated(world()).to_trajectories()),
            ValueError,
            "plans exactly, in a mbrl.GridWorld or a planners.TabularMDP, got CartPole-v1",
        ),
        (lambda: trained(demonstrations=demonstrated(world())), TypeError, r"demonstrations.to_trajectories\(\)"),
        (lambda: trained(demonstrations=[]), ValueError, "at least one trajectory"),
        (
            lambda: trained(demonstrations=demonstrated(mbrl.gridworld(5)).to_trajectories()),
            ValueError,
            "demonstrations do not fit Objectworld: states must be indices from 0 to 15",
        ),
        (
            lambda: trained(
                demonstrations=[
                    t.replace(states=None) for t in mbrl.record(mbrl.gridworld(3), TabularPolicy(torch.ones(9, 1)), 2)
                ]
            ),
            ValueError,
            "demonstrations show 9 columns, Objectworld has 16 states",
        ),
        (
            lambda: trained(
                demonstrations=demonstrated(world()).to_trajectories(), init=TabularPolicy(torch.ones(2, 1))
            ),
            ValueError,
            "init would be ignored",
        ),
        (lambda: TabularPolicy(torch.ones(3)), ValueError, r"\(S, A\) or \(T, S, A\)"),
        (lambda: TabularPolicy(torch.ones(3, 2)), ValueError, "sum to one"),
        (lambda: TabularPolicy(torch.ones(2, 1)).act(torch.ones(1, 2), None), ValueError, "rows that are none"),
        (lambda: TabularPolicy(torch.ones(2, 1)).act(torch.ones(1, 3), None), ValueError, "sees 2 states"),
        (lambda: mbrl.save_reward(torch.nn.Linear(1, 1), "r"), TypeError, "save_reward takes"),
        (lambda: mbrl.load_reward("nowhere"), FileNotFoundError, "no reward at nowhere"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
