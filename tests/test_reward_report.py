"""The report on a learned reward: its numbers against direct computations, and the sampled EPIC distance against exact ones."""

import contextlib
import dataclasses
import functools
import itertools
import math
from dataclasses import replace

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from tabular_worlds import DOUBLE, random_mdp

import mbrl
from dynamics import LinearDynamics, Trajectory
from mbrl import FeatureGap, TabularPolicy, TaskCost, reward_report, sampled_epic_distance
from mbrl.irl.reward_findings import _lost
from mbrl.plots import html_report, reward_sections
from mbrl.policies.action_space import ContinuousActions, DiscreteActions
from mbrl.tasks.base import uniform_initial_state
from planners import (
    DDP,
    ICEM,
    MPC,
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


@pytest.mark.parametrize("inputs", ["state", "state-action", "state-next", "state-action-next"])
def test_networks_in_tables(inputs):
    """Rewards and policies of adversarial methods, which are functions of one-hot states."""
    there = world()
    mdp = there.mdp
    shown = mbrl.record(there, TabularPolicy(solve_mdp(mdp).policy), 8, steps=5)
    result = mbrl.train(
        replace(ADVERSARIAL, inputs=inputs), there, steps=64, demonstrations=shown, evaluation_episodes=0
    )
    report = reward_report(there, result.reward, policy=result.policy, demonstrations=shown)
    eye = torch.eye(16, dtype=DOUBLE)
    dense = torch.zeros(16, 5, 16, dtype=DOUBLE)
    for s, a, after in itertools.product(range(16), range(5), range(16)):
        if mdp.transitions[s, a, after] > 0:
            dense[s, a, after] = result.reward(eye[s], torch.tensor([float(a)]).double(), eye[after]).detach()
    expected = mdp.expected_rewards(dense)
    torch.testing.assert_close(mdp.expected_rewards(report.learned), expected, rtol=1e-4, atol=1e-6)
    assert report.compared == ("state" if inputs == "state" else "state and action")
    table = torch.stack([result.policy.distribution(y[None]).logits[0].detach().double().softmax(-1) for y in eye])
    value = float(policy_evaluation(mdp, table).value)
    assert math.isclose(report.returns["learned policy"], value, rel_tol=1e-5)
    assert report.gap.gap < torch.inf
    with pytest.raises(ValueError, match="the reward is of 16 observations and 1 controls, TabularMDP has 4 states"):
        reward_report(random_mdp(0), result.reward)


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
    assert math.isclose(report.returns["one in every step"], mean_return(mbrl.record(task, result.policy, 2)))
    assert reward_report(task, task.cost, control=-3.0, episodes=2).returns["no demonstrations"] == -3.0


ADVERSARIAL = mbrl.GAIL(
    policy=mbrl.PPO(num_envs=2, steps_per_iteration=32, network=mbrl.NetworkSettings(hidden=(4,))),
    discriminator=mbrl.DiscriminatorSettings(hidden=(4,), updates=2),
)


def test_the_adversarial_algorithm_itself_without_demonstrations():
    task, demonstrations = regulator(), planned(regulator())
    learned = mbrl.train(ADVERSARIAL, task, steps=64, demonstrations=demonstrations, evaluation_episodes=0)
    arguments = {"demonstrations": demonstrations, "policy": learned.policy}
    report = reward_report(task, learned.reward, control=ADVERSARIAL, steps=64, **arguments)
    nothing = mbrl.train(ADVERSARIAL, task, steps=64, demonstrations=[], evaluation_episodes=0)
    starts = torch.stack([torch.tensor(d.states[0]) for d in demonstrations])
    score = mean_return(mbrl.record(task, nothing.policy, 4, initial_states=starts))
    assert math.isclose(report.returns["no demonstrations"], score)
    best, random = report.returns["expert"], report.returns["random"]
    assert math.isclose(report.shares["no demonstrations"], (score - random) / (best - random))
    assert math.isclose(report.shares["learned policy"], 1 - report.lost)
    assert "of the way from random actions to the expert: learned policy" in str(report)
    assert "of the way" not in str(reward_report(task, learned.reward, **arguments))


def test_a_control_whose_episodes_end_is_told():
    """Episodes of one length are asked for, and those of the control terminate."""
    task = regulator(termination=lambda x: x[..., 0] > 0)
    report = reward_report(task, task.cost, control=ADVERSARIAL, steps=64, episodes=2)
    assert "no demonstrations" not in report.returns
    assert any("the control was not trained to its end: " in note for note in report.notes)


def test_nothing_of_the_truth_is_left_for_what_is_trained_anew():
    """Termination costs as the learned reward says, not as the true one does."""
    task = regulator(termination=lambda x: x[..., 0] > 0.5, termination_cost=50.0, discount=0.9)
    network = mbrl.RewardNetwork(2, mbrl.Policy.for_task(task).actions, hidden=(4,), absorbing=True, dtype="float64")
    torch.nn.init.ones_(network.network[-1].weight)
    algorithm = mbrl.PPO(num_envs=2, steps_per_iteration=32, network=mbrl.NetworkSettings(hidden=(4,)), discount=0.8)
    report = reward_report(task, network, algorithm=algorithm, steps=64, episodes=2)
    there = mbrl.reward_task(task, network, discount=0.8)
    assert there.termination_cost == pytest.approx(-4 * float(network.absorbing_reward().detach()))
    result = mbrl.train(algorithm, there, steps=64, evaluation_episodes=0)
    assert math.isclose(report.returns["retrained"], mean_return(mbrl.record(task, result.policy, 2)))


@pytest.mark.parametrize("of_terms", [False, True])
def test_nothing_of_the_truth_is_left_for_what_is_planned_for_a_cost(of_terms):
    """A true cost of termination would keep plans for a learned cost away from where that ends, whatever this says."""
    task = regulator(termination=lambda x: x[..., 0] > 0.5, termination_cost=123.0)
    tempted = QuadraticCost(torch.eye(2).double(), torch.eye(1).double(), goal=torch.tensor([0.7, 0.0]).double())
    reward = TaskCost(task) if of_terms else tempted
    planner = ICEM(num_samples=16, max_iterations=2)
    report = reward_report(task, reward, algorithm=planner, episodes=2)

    def planned_for(**changes):
        alone = replace(task, cost=reward, **changes)
        return mean_return(mbrl.record(task, MPC(alone.problem(), planner), 2))

    assert math.isclose(report.returns["retrained"], planned_for(termination_cost=0.0))
    assert report.returns["retrained"] != planned_for()


# Rewards that depend on time


def at_steps(trajectories, steps):
    return [t.slice(*steps) for t in trajectories]


def clock():
    """A task that costs as many as the step."""
    return regulator(cost=FunctionCost(lambda x, u, t: t + 0.0 * x[..., 0]))


def test_each_state_is_compared_at_its_own_step():
    shown = at_steps(planned(clock()), (4, 8))
    report = reward_report(clock(), clock().cost, demonstrations=shown)
    steps = torch.bincount(-report.truth.long(), minlength=8).tolist()
    assert steps == [8] * 4 + [12] * 4  # 8 episodes of random controls, and 4 demonstrations of the last four steps
    assert "later steps" in str(report)
    elsewhen = [t.replace(times=t.times + 0.03) for t in shown]
    report = reward_report(clock(), clock().cost, demonstrations=elsewhen)
    assert torch.bincount(-report.truth.long(), minlength=8).tolist() == [12] * 4 + [8] * 4
    assert "the times of 4 of 4 demonstrations are no steps of the task" in str(report)
    of_states = reward_report(regulator(), regulator().cost, demonstrations=elsewhen)
    assert "steps" not in str(of_states)  # where time does not matter there is nothing to say


def test_a_reward_that_is_right_at_first_is_not_the_true_one():
    def cost(x, u, t):
        sign = torch.where(torch.as_tensor(t) < 2, 1.0, -1.0)
        return sign * x.square().sum(-1) + 0.1 * u[..., 0] ** 2

    def potential(x):
        return x[..., 0] + x[..., 1] ** 2

    task = regulator(cost=FunctionCost(cost), discount=0.9)
    same = TransitionCost(lambda x, u, after, t: 3 * cost(x, u, t) + 0.9 * potential(after) - potential(x))
    assert reward_report(task, same, episodes=2).epic < 1e-6
    at_first = reward_report(task, FunctionCost(lambda x, u, t: cost(x, u, 0)), episodes=2)
    assert at_first.epic > 0.3
    assert at_first.correlation < 0.5


# In a gymnasium environment


class Swing(torch.nn.Module):
    """The true reward of Pendulum-v1, with a potential on top."""

    def __init__(self, potential=0.0):
        super().__init__()
        self.potential = potential

    def forward(self, y, u, after):
        angle = torch.atan2(y[..., 1], y[..., 0])
        paid = -(angle**2 + 0.1 * y[..., 2] ** 2 + 0.001 * u[..., 0] ** 2)
        return 2 * paid + self.potential * (after[..., 2] - y[..., 2])


TORQUES = ContinuousActions(torch.tensor([-2.0]), torch.tensor([2.0]))


def pendulum(**options):
    return gymnasium.make("Pendulum-v1", max_episode_steps=16, **options)


def swung(actor=None, episodes=4, seed=7, make=pendulum):
    with contextlib.closing(make()) as env:
        return mbrl.record_env(env, actor, episodes, dt=0.05, seed=seed)


def test_of_the_true_reward_of_an_environment():
    report = reward_report(pendulum, Swing(), demonstrations=swung(), episodes=3)
    assert report.epic is None
    assert report.correlation == pytest.approx(1.0, abs=1e-6)
    assert report.return_correlation == pytest.approx(1.0, abs=1e-6)
    assert len(report.truth) == 3 * 16 + 4 * 16
    torch.testing.assert_close(report.learned, 2 * report.truth, rtol=1e-4, atol=1e-4)
    assert "no EPIC distance" in str(report)
    assert math.isclose(report.returns["expert"], mean_return(swung()))
    shaped = reward_report(pendulum, Swing(5.0), demonstrations=swung(), episodes=3)
    assert shaped.correlation < 0.99
    assert shaped.return_correlation > shaped.correlation


def test_features_and_returns_in_an_environment():
    policy = mbrl.Policy(3, TORQUES, mbrl.NetworkSettings(hidden=(4,)))
    shown = swung(policy)
    report = reward_report(pendulum, Swing(), policy=policy, demonstrations=shown, episodes=3, seed=5)
    assert report.gap.counted == "means"
    y = np.concatenate([d.observations[:-1] for d in shown])
    u = np.concatenate([d.controls for d in shown])
    values = np.concatenate([y, u], 1)
    expected = np.stack([values, values**2], -1).reshape(len(values), -1).mean(0)
    np.testing.assert_allclose(report.gap.expert, expected)
    assert report.gap.names[:2] == ("y0", "y0 squared")
    assert report.gap.names[-2:] == ("u0", "u0 squared")
    assert set(report.returns) == {"expert", "random", "learned policy"}
    assert 0 <= report.gap.gap < torch.inf


def test_shares_of_numbered_actions_and_episodes_that_end():
    """Demonstrations are cut at 10 steps, so that nothing else is paid for longer."""

    class Alive(torch.nn.Module):
        def forward(self, y, u, after):
            return torch.ones_like(y[..., 0])

    shown = [d.slice(0, min(d.num_steps, 10)) for d in swung(make=lambda: gymnasium.make("CartPole-v1"))]
    policy = mbrl.Policy(4, DiscreteActions(torch.tensor([[0.0], [1.0]])), mbrl.NetworkSettings(hidden=(4,)))
    report = reward_report("CartPole-v1", Alive(), policy=policy, demonstrations=shown, episodes=3)
    assert report.task == "CartPole-v1"
    assert report.gap.names[-3:] == ("y3 squared", "action 0", "action 1")
    chosen = np.concatenate([d.controls for d in shown]).mean()
    np.testing.assert_allclose(report.gap.expert[-2:], [1 - chosen, chosen])
    assert max(report.returns.values()) <= 10
    assert report.correlation is None  # all is one
    assert any("no direction" in note for note in report.notes)
    bare = [Trajectory(d.observations, d.controls, dt=1.0) for d in shown]
    report = reward_report("CartPole-v1", Alive(), demonstrations=bare, episodes=3)
    assert set(report.returns) == {"random"}
    assert any("demonstrations have no rewards" in note for note in report.notes)


class Walk(gymnasium.Env):
    """Two steps to the right are the goal, which costs one in every step until then; 12 steps are the limit."""

    observation_space = gymnasium.spaces.Box(-20.0, 20.0, (1,), dtype=np.float64)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {}  # noqa: RUF012

    def reset(self, **options):
        super().reset(**options)
        self.at, self.steps = 0.0, 0
        return np.array([self.at]), {}

    def step(self, action):
        self.at, self.steps = self.at + (1.0 if action else -1.0), self.steps + 1
        return np.array([self.at]), -1.0, self.at >= 2, self.steps >= 12, {}


class Away(torch.nn.Module):
    def forward(self, y, u, after):
        return after[..., 0] - y[..., 0]


def walked(steps=2, **flags):
    y = np.arange(steps + 1.0)[:, None]
    return Trajectory(y, np.ones((steps, 1)), rewards=-np.ones(steps), dt=1.0, **flags)


def test_nothing_is_cut_where_short_episodes_are_the_goal():
    """Random actions pay for as long as they wander, not for the two steps after which the expert has arrived."""
    arrived = [walked(terminated=True)] * 2
    there = mbrl.envs.making.vector_env(Walk, 6)
    with contextlib.closing(there):
        random = mean_return(mbrl.record_env(there, None, 6, dt=1.0))
    report = reward_report(Walk, Away(), demonstrations=arrived, control=-4.0, episodes=6)
    assert report.returns == {"expert": -2.0, "random": random, "no demonstrations": -4.0}
    assert random < -4
    assert report.shares["no demonstrations"] == pytest.approx((-4 - random) / (-2 - random))
    for cut_off in ({"truncated": True}, {}):  # pieces of episodes do not say when these end
        report = reward_report(Walk, Away(), demonstrations=[*arrived, walked(**cut_off)], control=-4.0, episodes=6)
        assert report.returns["random"] == -2
        assert report.shares == {}


NUMBERED = DiscreteActions(torch.tensor([[0.0], [1.0]]))


def absorbing_reward(each_step=0.0, columns=4):
    """One less in each step after the end of an episode than in those before."""
    reward = mbrl.RewardNetwork(columns, NUMBERED, inputs="state", hidden=(), absorbing=True, dtype="float64")
    with torch.no_grad():
        reward.network[-1].weight[0, -1] = -1.0
        reward.network[-1].bias.fill_(each_step)
    return reward


def short_pole():
    return gymnasium.make("CartPole-v1", max_episode_steps=20)


@pytest.mark.parametrize("each_step", [0.0, 0.1])
def test_sums_along_episodes_count_what_comes_after_the_end(each_step):
    reward, shown = absorbing_reward(each_step), swung(make=short_pole, episodes=12)
    with contextlib.closing(mbrl.envs.making.vector_env(short_pole, 8)) as there:
        lived = [*shown, *mbrl.record_env(there, None, 8, dt=0.02)]
    assert {e.terminated for e in lived} == {True, False}
    truth = [float(e.num_steps) for e in lived]
    for discount, later in ((0.9, 9.0), (0.5, 1.0)):
        report = reward_report(short_pole, reward, demonstrations=shown, episodes=8, discount=discount)
        sums = [each_step * e.num_steps + later * (each_step - 1) * e.terminated for e in lived]
        assert report.return_correlation == pytest.approx(np.corrcoef(sums, truth)[0, 1])
    unknown = reward_report(short_pole, reward, demonstrations=shown, episodes=8)
    assert unknown.return_correlation is None
    assert any("goes on after termination for ever" in note and "discount=" in note for note in unknown.notes)


def test_the_discount_of_what_comes_after_the_end_is_that_of_the_algorithm():
    reward, ppo = absorbing_reward(0.1), replace(ADVERSARIAL.policy, discount=0.9)
    options = {"episodes": 8, "steps": 64}
    report = reward_report(short_pole, reward, algorithm=ppo, **options)
    same = reward_report(short_pole, reward, episodes=8, discount=0.9)
    assert report.return_correlation == same.return_correlation is not None
    result = mbrl.train(ppo, mbrl.reward_env(short_pole, reward, discount=0.9), steps=64, evaluation_episodes=0)
    with contextlib.closing(mbrl.envs.making.vector_env(short_pole, 8)) as there:
        expected = mean_return(mbrl.record_env(there, result.policy, 8, dt=0.02))
    assert report.returns["retrained"] == expected


def test_an_algorithm_without_a_discount_below_one_takes_that_of_the_report():
    task = regulator(termination=lambda x: x[..., 0] > 0.5, termination_cost=50.0)
    of_task = mbrl.RewardNetwork(2, mbrl.Policy.for_task(task).actions, hidden=(4,), absorbing=True, dtype="float64")
    torch.nn.init.ones_(of_task.network[-1].weight)
    forever = replace(ADVERSARIAL.policy, discount=1.0)
    for where, reward in ((short_pole, absorbing_reward()), (task, of_task)):
        options = {"algorithm": forever, "steps": 64, "episodes": 2}
        with pytest.raises(ValueError, match=r"pass discount=\.\.\., .* got 1\.0"):
            reward_report(where, reward, **options)
        assert "retrained" in reward_report(where, reward, discount=0.9, **options).returns
    there = mbrl.reward_task(task, of_task, discount=0.9)
    result = mbrl.train(forever, there, steps=64, evaluation_episodes=0)
    report = reward_report(task, of_task, discount=0.9, **options)
    assert math.isclose(report.returns["retrained"], mean_return(mbrl.record(task, result.policy, 2)))


def test_trained_anew_in_an_environment():
    reward = mbrl.RewardNetwork(3, TORQUES, hidden=(4,))
    torch.nn.init.ones_(reward.network[-1].weight)
    ppo, weak = ADVERSARIAL.policy, functools.partial(pendulum, g=2.0)
    options = {"episodes": 3, "steps": 64}
    report = reward_report(pendulum, reward, algorithm=ppo, control=ADVERSARIAL, elsewhere=weak, **options)

    def score(result, make):
        with contextlib.closing(mbrl.envs.making.vector_env(make, 3)) as env:
            return mean_return(mbrl.record_env(env, result.policy, 3, dt=0.05))

    def trained(algorithm, make, **more):
        return mbrl.train(algorithm, make, steps=64, evaluation_episodes=0, **more)

    for found, make in ((report.returns, pendulum), (report.elsewhere, weak)):
        assert math.isclose(found["retrained"], score(trained(ppo, mbrl.reward_env(make, reward)), make))
        assert math.isclose(found["no demonstrations"], score(trained(ADVERSARIAL, make, demonstrations=[]), make))
    alive = reward_report(pendulum, reward, control=ppo, **options).returns["one in every step"]
    one = lambda: gymnasium.wrappers.TransformReward(pendulum(), lambda r: 1.0)  # noqa: E731
    assert math.isclose(alive, score(trained(ppo, one), pendulum))


def test_what_does_not_fit_an_environment():
    for arguments, error, match in (
        (
            {"reward": QuadraticCost(torch.eye(3), torch.eye(1))},
            TypeError,
            "a module of observations.* got QuadraticCost",
        ),
        ({"reward": torch.ones(3)}, TypeError, "a module of observations.* got Tensor"),
        ({"algorithm": DDP()}, ValueError, "planners know no model of, got DDP"),
        ({"algorithm": ADVERSARIAL.policy, "steps": 64}, TypeError, "paid by a mbrl.RewardModel, got Swing"),
        ({"elsewhere": regulator()}, ValueError, "elsewhere must be a gymnasium environment as well, got Task"),
        (
            {"demonstrations": planned(regulator())},
            ValueError,
            "demonstrations have 2 columns of observations, .* has 3",
        ),
    ):
        with pytest.raises(error, match=match):
            reward_report(pendulum, **{"reward": Swing(), "episodes": 1, **arguments})


class Plain(torch.nn.Module):
    """A linear reward whose weights are learned or not, which takes tensors of their dtype alone."""

    def __init__(self, columns, dtype, buffer=False):
        super().__init__()
        weight = torch.linspace(-1, 1, columns, dtype=dtype)
        self.register_buffer("weight", weight) if buffer else setattr(self, "weight", torch.nn.Parameter(weight))

    def forward(self, y, u, after):
        return torch.nn.functional.linear(y, self.weight) + u[..., 0] - after[..., 0]


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_modules_of_either_dtype(dtype, buffer):
    shown, task = swung(), regulator()
    report = reward_report(pendulum, Plain(3, dtype, buffer), demonstrations=shown, episodes=2, samples=2 * 4 * 16)
    assert report.learned.dtype == DOUBLE
    expected = np.concatenate(
        [-d.observations[:-1, 0] + d.observations[:-1, 2] + d.controls[:, 0] - d.observations[1:, 0] for d in shown]
    )
    found = np.sort(report.learned[-len(expected) :].numpy())  # those of the demonstrations, all of them in some order
    np.testing.assert_allclose(found, np.sort(expected), atol=1e-5)
    report = reward_report(task, Plain(2, dtype, buffer), algorithm=DDP(max_iterations=2), episodes=2)
    exact = reward_report(
        task, TransitionCost(lambda x, u, after, t: x[..., 0] - x[..., 1] - u[..., 0] + after[..., 0]), episodes=2
    )
    torch.testing.assert_close(report.learned, exact.learned, atol=1e-5, rtol=1e-5)
    assert report.epic == pytest.approx(exact.epic, abs=1e-5)
    assert math.isfinite(report.returns["retrained"])


# Pages


def test_pages_and_words(tmp_path):
    opened, there = plt.get_fignums(), world()
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
    assert plt.get_fignums() == opened  # a figure that pyplot knows of is kept for ever


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
            lambda: reward_report(3, torch.ones(2)),
            TypeError,
            "a gymnasium id, or a function that makes an environment, got int",
        ),
        (
            lambda: reward_report(regulator(), regulator().cost, control=mbrl.BC(), steps=3),
            ValueError,
            "control must be an adversarial algorithm or one that takes no demonstrations, got BC",
        ),
        (lambda: reward_report(world(), torch.ones(3)), ValueError, "rewards must have the shape"),
        (lambda: reward_report(world(), mbrl.FeatureReward(3)), ValueError, "one of 3 features, Objectworld has 16"),
        (
            lambda: reward_report(world(), regulator().cost),
            TypeError,
            "a mbrl.FeatureReward, a mbrl.RewardModel or a tensor",
        ),
        (lambda: reward_report(world(), torch.ones(16), algorithm=DDP()), ValueError, "are for tasks"),
        (lambda: reward_report(world(), torch.ones(16), discount=0.9), ValueError, "discount and device are for tasks"),
        (lambda: reward_report(world(), torch.ones(16), device="cuda"), ValueError, "device are for tasks"),
        (
            lambda: reward_report(regulator(), regulator().cost, device="cuda"),
            ValueError,
            "device would be ignored",
        ),
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
