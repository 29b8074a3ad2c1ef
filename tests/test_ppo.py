"""Proximal policy optimization against closed forms: ratios, objectives, gradients, targets, samples, constraints."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mbrl
from dynamics import TorchDynamics
from mbrl import PPO, ClippedObjective, CostConstraint, DiagonalGaussian, KLPenalty, NetworkSettings
from mbrl.on_policy import GeneralizedAdvantages
from mbrl.on_policy.reward_scale import RewardScale
from mbrl.on_policy.rollout import Samples, collect
from mbrl.on_policy.statistics import normalized
from mbrl.training import Assignment
from mbrl.training.processes import Processes
from planners import TransitionCost

DOUBLE = NetworkSettings(hidden=(8,), dtype="float64")
SMALL = PPO(num_envs=2, steps_per_iteration=32, epochs=2, minibatch_size=16, network=DOUBLE)
RECURRENT = replace(SMALL, network=replace(DOUBLE, recurrent=4), sequence_length=8)


def pendulum(**fields):
    return replace(mbrl.pendulum_swing_up("torch"), **{"episode_steps": 7, **fields})


def stands(reward, **fields):
    """One state, whatever the controls; the reward is a function of them."""
    dynamics = TorchDynamics(lambda x, u: 0 * x + 0 * u, 1, 1, 0.1)
    cost = TransitionCost(lambda x, u, x_next, t: -reward(u[..., 0]))
    start = lambda n, generator: torch.zeros(n, 1, dtype=torch.float64)  # noqa: E731
    settings = {"horizon": 1, "episode_steps": 8}
    return mbrl.Task("Stands", dynamics, cost, (-4.0, 4.0), start, **{**settings, **fields})


def watched(learner, name):
    """The arguments that a method of a learner is called with from now on, and what it gives."""
    calls, method = [], getattr(learner, name)

    def watching(*arguments):
        found = method(*arguments)
        calls.append((arguments, found))
        return found

    setattr(learner, name, watching)
    return calls


# Ratios


@pytest.mark.parametrize("task", [pendulum(), mbrl.discretized(pendulum(), 3)], ids=["continuous", "discrete"])
@pytest.mark.parametrize("algorithm", [SMALL, RECURRENT], ids=["feedforward", "recurrent"])
def test_ratios_are_one_before_the_first_step_of_every_iteration(task, algorithm):
    learner = algorithm.learner(Assignment(task, 96))
    update, found = PPO.update, []

    class Watching:
        def __getattr__(self, name):
            return getattr(algorithm, name)

        def update(self, learner, samples):
            with torch.no_grad():
                for part in samples.minibatches(8, torch.Generator().manual_seed(0)):
                    new, _ = learner.policy.sequence(part.inputs, part.hidden, part.starts)
                    found.append((new.log_prob(part.actions) - part.log_probs).abs().max())
            return update(algorithm, learner, samples)

    learner.algorithm = Watching()
    for _ in range(3):
        learner.iterate()
    assert len(found) == 3 * 4
    assert max(found) < 1e-12
    assert float(learner.policy.normalizer.count) == 96  # which has changed twice before the last one


@pytest.mark.parametrize("algorithm", [SMALL, RECURRENT], ids=["feedforward", "recurrent"])
def test_probabilities_of_pieces_are_those_of_stepping_through_the_episodes(algorithm):
    learner = algorithm.learner(Assignment(pendulum(), 320))
    for _ in range(3):
        learner.iterate()
    policy = learner.policy
    rollout, _ = collect(policy, learner.worlds, 16, learner._hidden, learner.generator)
    samples, _ = learner.samples(rollout)
    assert rollout.starts[1:].any()  # an episode begins within a piece
    with torch.no_grad():
        memory, expected = learner._hidden, []
        for y, starts, actions in zip(rollout.observations, rollout.starts, rollout.actions, strict=True):
            memory = torch.where(starts.unsqueeze(-1), 0.0, memory)
            distribution, memory = policy.step(policy.inputs(y), memory)
            expected.append(distribution.log_prob(actions))
    length = len(samples.log_probs)  # pieces (L, C) back to sequences (16, 2)
    found = samples.log_probs.reshape(length, 16 // length, 2).transpose(0, 1).reshape(16, 2)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)


# Objectives


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [  # clip range 0.2: a ratio pays off no further than to 1.2 or 0.8, and is charged without bounds
        (1.0, 2.0, 2.0, 2.0),
        (1.1, 2.0, 2.2, 2.0),
        (1.5, 2.0, 2.4, 0.0),
        (0.5, 2.0, 1.0, 2.0),
        (1.0, -2.0, -2.0, -2.0),
        (0.9, -2.0, -1.8, -2.0),
        (0.5, -2.0, -1.6, 0.0),
        (1.5, -2.0, -3.0, -2.0),
    ],
)
def test_the_clipped_objective_is_what_one_computes_by_hand(ratio, advantage, value, slope):
    rho = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    found = ClippedObjective(0.2)(rho, torch.tensor([advantage]).double(), None, None, 0.0)
    assert found.item() == pytest.approx(value, rel=1e-12)
    found.sum().backward()
    assert rho.grad.item() == slope


def test_the_penalized_objective_is_what_one_computes_by_hand():
    old = DiagonalGaussian(torch.zeros(1, 1).double(), torch.zeros(1, 1).double())
    mean = torch.full((1, 1), 0.3, dtype=torch.float64, requires_grad=True)
    new = DiagonalGaussian(mean, torch.zeros(1, 1).double())
    found = KLPenalty()(torch.tensor([1.25]).double(), torch.tensor([2.0]).double(), old, new, 4.0)
    assert found.item() == pytest.approx(1.25 * 2.0 - 4.0 * 0.3**2 / 2, rel=1e-12)
    found.sum().backward()
    assert mean.grad.item() == pytest.approx(-4.0 * 0.3, rel=1e-12)


@pytest.mark.parametrize(
    ("kl", "factor"), [(0.0, 0.5), (0.0133, 0.5), (0.0134, 1.0), (0.02, 1.0), (0.0299, 1.0), (0.0301, 2.0), (9.0, 2.0)]
)
def test_the_penalty_is_halved_below_and_doubled_above_its_target(kl, factor):
    assert KLPenalty(target=0.02).next_coefficient(3.0, kl) == 3.0 * factor


def test_the_penalty_adapts_once_per_iteration_on_the_divergence_of_all_samples():
    algorithm = replace(SMALL, objective=KLPenalty(target=1e-9, initial=0.7))
    learner = algorithm.learner(Assignment(pendulum(), 320))
    samples, coefficient = watched(learner, "samples"), 0.7
    for _ in range(3):
        metrics = learner.iterate()
        assert metrics["train/coefficient"] == coefficient
        coefficient *= 2.0  # every step goes further than that
        assert learner.numbers["coefficient"] == coefficient
        found = samples[-1][1][0]
        with torch.no_grad():
            new, _ = learner.policy.sequence(found.inputs, found.hidden, found.starts)
        old = found.distribution
        moved, ratio = old.mean - new.mean, (old.log_std - new.log_std).exp()
        exact = (0.5 * (ratio.square() + (moved / new.log_std.exp()).square() - 1) - ratio.log()).sum(-1)
        assert metrics["train/kl"] == pytest.approx(exact.mean().item(), rel=1e-9)


@pytest.mark.parametrize(("target", "factor"), [(1e9, 0.5), (None, 1.0)])
def test_the_penalty_falls_and_stays(target, factor):
    learner = replace(SMALL, objective=KLPenalty(target=1.0)).learner(Assignment(pendulum(), 320))
    kl = learner.iterate()["train/kl"]  # the same for all targets
    learner = replace(SMALL, objective=KLPenalty(target=target or kl)).learner(Assignment(pendulum(), 320))
    learner.iterate()
    assert learner.numbers["coefficient"] == factor


# Updates


def test_advantages_are_normalized_over_what_counts():
    values = torch.randn(7, 3, dtype=torch.float64) * 5.0 + 3.0
    weights = (torch.arange(21).reshape(7, 3) % 4 > 0).double()
    values[weights == 0] = 1e6
    found = normalized(values, weights, Processes())[weights > 0]
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(found.std(correction=0)) == pytest.approx(1.0, rel=1e-7)


def test_the_update_gets_advantages_normalized_over_the_iteration(monkeypatch):
    seen = []
    descend = PPO.descend
    monkeypatch.setattr(PPO, "descend", lambda self, learner, s: (seen.append(s), descend(self, learner, s))[1])
    SMALL.learner(Assignment(pendulum(), 320)).iterate()
    for epoch in (seen[:2], seen[2:]):
        found = torch.cat([s.advantages.flatten() for s in epoch])
        assert len(found) == 32
        assert float(found.mean()) == pytest.approx(0.0, abs=1e-12)
        assert float(found.std(correction=0)) == pytest.approx(1.0, rel=1e-6)


def some_samples(pieces, length=1):
    shape = length, pieces
    numbers = torch.arange(length * pieces, dtype=torch.float64).reshape(shape)
    return Samples(
        inputs=numbers.unsqueeze(-1),
        actions=numbers.unsqueeze(-1),
        advantages=numbers,
        returns=numbers,
        values=numbers,
        weights=torch.ones(shape).double(),
        starts=torch.zeros(shape, dtype=torch.bool),
        hidden=numbers[0].unsqueeze(-1),
        value_hidden=numbers[0].unsqueeze(-1),
    )


@pytest.mark.parametrize(
    ("pieces", "length", "size", "number"),
    [(32, 1, 8, 4), (30, 1, 8, 4), (5, 1, 100, 1), (4, 8, 16, 2), (4, 8, 2, 4), (7, 3, 6, 4)],
)
def test_minibatches_are_every_sample_once(pieces, length, size, number):
    samples, generator = some_samples(pieces, length), torch.Generator().manual_seed(0)
    found = list(samples.minibatches(size, generator))
    assert len(found) == number
    sizes = [len(part) for part in found]
    assert min(sizes) >= max(max(sizes) - 1, 1)
    for part in found:
        assert torch.equal(part.hidden, part.advantages[0].unsqueeze(-1))  # a piece stays together
        assert torch.equal(part.actions.squeeze(-1), part.returns)
    numbers = torch.cat([part.advantages.flatten() for part in found])
    assert torch.equal(numbers.sort().values, samples.advantages.flatten())
    again = torch.cat([part.advantages.flatten() for part in samples.minibatches(size, generator)])
    assert pieces < 7 or not torch.equal(again, numbers)


def test_the_learning_rate_falls_to_zero():
    learner = SMALL.learner(Assignment(pendulum(), 32 * 4))
    rates = []
    for _ in range(4):
        learner.iterate()
        rates.append(learner.optimizers["adam"].param_groups[0]["lr"])
    assert rates == pytest.approx([3e-4, 0.75 * 3e-4, 0.5 * 3e-4, 0.25 * 3e-4], rel=1e-12)
    learner = replace(SMALL, anneal=False).learner(Assignment(pendulum(), 32 * 4))
    for _ in range(4):
        learner.iterate()
    assert learner.optimizers["adam"].param_groups[0]["lr"] == 3e-4


def first_gradients(algorithm, task=None):
    """Policy and value function at the first step, their gradients in it, and its samples, all in one minibatch."""
    algorithm = replace(algorithm, minibatch_size=32, epochs=1)
    learner = algorithm.learner(Assignment(pendulum() if task is None else task, 320))
    rollout, _ = collect(learner.policy, learner.worlds, 16, learner._hidden, learner.generator)
    samples, _ = learner.samples(rollout)
    samples = replace(samples, advantages=normalized(samples.advantages, samples.weights, Processes()))
    learner.optimizers["adam"].step = lambda: None  # gradients as they come to it
    algorithm.descend(learner, samples)
    return learner, samples, [[p.grad.clone() for p in n.parameters()] for n in (learner.policy, learner.value)]


def norm(gradients):
    return float(torch.cat([g.flatten() for g in gradients]).norm())


def test_gradients_of_each_network_are_scaled_down_to_the_norm_of_their_own():
    _, _, free = first_gradients(replace(SMALL, max_gradient_norm=1e9))
    assert norm(free[0]) != pytest.approx(norm(free[1]), rel=0.1)
    for limit in (0.5 * min(map(norm, free)), sum(map(norm, free)) / 2):
        _, _, clipped = first_gradients(replace(SMALL, max_gradient_norm=limit))
        for of_free, of_clipped in zip(free, clipped, strict=True):
            factor = min(1.0, limit / norm(of_free))
            for a, b in zip(of_free, of_clipped, strict=True):
                torch.testing.assert_close(b, factor * a, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_first_gradient_is_that_of_the_policy_gradient_theorem_and_the_entropy(weight):
    learner, samples, (of_policy, of_value) = first_gradients(
        replace(SMALL, entropy_weight=weight, max_gradient_norm=1e9)
    )
    new = learner.policy.sequence(samples.inputs, samples.hidden, samples.starts)[0]
    entropy = (new.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
    gain = (new.log_prob(samples.actions) * samples.advantages + weight * entropy).mean()
    for expected, found in zip(torch.autograd.grad(gain, list(learner.policy.parameters())), of_policy, strict=True):
        torch.testing.assert_close(-found, expected, rtol=1e-6, atol=1e-9)
    values = learner.value.sequence(samples.inputs, samples.value_hidden, samples.starts)[0]
    loss = 0.5 * (values - samples.returns).square().mean()
    for expected, found in zip(torch.autograd.grad(loss, list(learner.value.parameters())), of_value, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_mixtures_are_trained_with_the_clipped_objective_alone():
    algorithm = replace(SMALL, network=replace(DOUBLE, head="mixture"))
    metrics = algorithm.learner(Assignment(pendulum(), 64)).iterate()
    assert metrics["train/ratio_spread"] > 0
    assert "train/kl" not in metrics
    with pytest.raises(mbrl.NoClosedFormError, match="clipped objective"):
        replace(algorithm, objective=KLPenalty()).learner(Assignment(pendulum(), 64)).iterate()


# Values


@pytest.mark.parametrize(
    ("terminates", "value"), [(False, 1 / (1 - 0.9)), (True, None)], ids=["truncated", "terminated"]
)
def test_time_limits_do_not_end_what_there_is_to_come(terminates, value):
    """A reward of one for ever, seen ten steps at a time."""
    task = stands(lambda u: 1.0 + 0 * u, episode_steps=10)
    if terminates:  # after every step, as the state says nothing of the time
        task = replace(task, termination=lambda x: torch.ones_like(x[..., 0], dtype=torch.bool))
        value = 1.0
    algorithm = PPO(
        num_envs=4,
        steps_per_iteration=40,
        epochs=10,
        minibatch_size=40,
        discount=0.9,
        learning_rate=0.1,
        max_gradient_norm=1e9,
        normalize_rewards=False,
        network=replace(DOUBLE, hidden=(), normalize=False),
    )
    learner = algorithm.learner(Assignment(task, 40 * 60))
    while learner.progress < 1:
        learner.iterate()
    found, _ = learner.value.step(torch.zeros(1, 1).double(), learner.value.initial_hidden(1))
    assert found.item() == pytest.approx(value, rel=2e-3)


def test_rewards_are_scaled_by_the_returns_so_far():
    generator = torch.Generator().manual_seed(0)
    scale, returns, running = RewardScale(3, 0.9), [], np.zeros(3)
    for _ in range(2):  # the sums go on from segment to segment
        rewards = 5.0 * torch.randn(20, 3, generator=generator, dtype=torch.float64) + 2.0
        ended = torch.rand(20, 3, generator=generator) < 0.2
        valid = torch.rand(20, 3, generator=generator) < 0.9
        found = scale(rewards, ended, Processes(), valid=valid)
        for r, end, good in zip(rewards.numpy(), ended.numpy(), valid.numpy(), strict=True):
            running = 0.9 * running + r
            returns += running[good].tolist()
            running = running * ~end
        expected = (rewards / math.sqrt(np.var(returns) + 1e-8)).clamp(-10.0, 10.0)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_acting_and_evaluating_leave_the_normalizer_alone():
    result = mbrl.train(SMALL, pendulum(), steps=64, evaluation_episodes=0)
    normalizer = result.policy.normalizer
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    mbrl.evaluate(result.policy, pendulum(), episodes=2)
    result.policy.act(torch.ones(1, 3).double(), result.policy.init(1), deterministic=False)
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())
    assert float(before["count"]) == 64


def test_the_normalizer_knows_what_was_seen():
    learner = SMALL.learner(Assignment(pendulum(), 320))
    calls = watched(learner, "samples")
    for _ in range(3):
        learner.iterate()
    seen = torch.cat([arguments[0].observations.reshape(-1, 3) for arguments, _ in calls])
    torch.testing.assert_close(learner.policy.normalizer.mean, seen.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(learner.policy.normalizer.variance, seen.var(0, correction=0), rtol=1e-12, atol=1e-12)


# Constraints


def square(x, u):
    return u[..., 0].square()


TWO = lambda u: -(u - 2.0).square()  # noqa: E731
CONTROL = PPO(
    num_envs=16,
    steps_per_iteration=128,
    epochs=4,
    minibatch_size=64,
    learning_rate=1e-2,
    discount=0.0,
    normalize_rewards=False,
    network=replace(DOUBLE, hidden=(), initial_std=0.1, normalize=False),
)


def mean_control(policy):
    return float(policy.act(torch.zeros(1, 1).double(), policy.init(1))[0])


@pytest.mark.slow
def test_the_constraint_is_kept_at_the_price_of_the_closed_form():
    """Maximal -(u - 2)^2 with E[u^2] <= 1: u = 1 and lambda = 1, from -2 (u - 2) = 2 lambda u."""
    algorithm = replace(CONTROL, constraint=CostConstraint(8.0, learning_rate=0.01))  # eight steps in an episode
    found = mbrl.train(algorithm, stands(TWO, constraint_cost=square), steps=12_000, evaluation_episodes=0)
    assert mean_control(found.policy) == pytest.approx(1.0, abs=0.05)
    assert found.metrics["rollout/cost"][-10:].mean() == pytest.approx(8.0, rel=0.05)
    assert found.metrics["train/multiplier"][-10:].mean() == pytest.approx(1.0, abs=0.08)


@pytest.mark.slow
def test_without_a_constraint_or_with_one_that_does_not_bind_the_policy_goes_to_its_optimum():
    task = stands(TWO, constraint_cost=square)
    free = mbrl.train(CONTROL, task, steps=12_000, evaluation_episodes=0)
    assert mean_control(free.policy) == pytest.approx(2.0, abs=0.05)
    assert free.metrics["rollout/cost"][-10:].mean() == pytest.approx(32.0, rel=0.05)
    loose = replace(CONTROL, constraint=CostConstraint(40.0, learning_rate=0.01))
    found = mbrl.train(loose, task, steps=12_000, evaluation_episodes=0)
    assert mean_control(found.policy) == pytest.approx(2.0, abs=0.05)
    assert found.metrics["train/multiplier"].max() == 0.0


def test_the_multiplier_ascends_where_the_limit_is_exceeded():
    settings = CostConstraint(10.0, learning_rate=0.5, proportional=0.1, derivative=0.2, initial=1.0)
    learner = replace(SMALL, constraint=settings).learner(Assignment(pendulum(), 64)).constraint
    assert learner.multiplier == 1.0
    expected = []
    integral, last = 1.0, None
    for cost in (12.0, 15.0, 11.0, 0.0, 0.0, 12.0):
        integral = max(integral + 0.5 * (cost - 10.0), 0.0)
        rise = 0.0 if last is None else max(cost - last, 0.0)
        expected.append(max(integral + 0.1 * (cost - 10.0) + 0.2 * rise, 0.0))
        last = cost
        learner.ascend(cost)
        assert learner.multiplier == pytest.approx(expected[-1], rel=1e-12)
    assert 0.0 in expected  # it is never negative, nor has it to come back from below
    assert expected[-1] == pytest.approx(1.0 + 0.2 + 0.2 * 12.0)


@pytest.mark.parametrize("algorithm", [SMALL, RECURRENT, mbrl.TRPO(num_envs=2, steps_per_iteration=32, network=DOUBLE)])
def test_advantages_are_those_of_the_lagrangian(algorithm):
    """Costs that are the reward, minus: the Lagrangian is the reward whatever the multiplier, with the same value function."""
    plain = stands(lambda u: -u.square(), constraint_cost=square, episode_steps=5)
    algorithm = replace(algorithm, normalize_rewards=False, advantages=GeneralizedAdvantages(0.9))
    constrained = replace(algorithm, constraint=CostConstraint(1.0, learning_rate=0.0, initial=0.7))
    learner = constrained.learner(Assignment(plain, 64))
    with torch.no_grad():
        learner.constraint.parameters.vector.copy_(torch.cat([p.flatten() for p in learner.value.parameters()]))
        learner.constraint.value.head.weight.neg_()
    rollout, _ = collect(learner.policy, learner.worlds, 16, learner._hidden, learner.generator)
    found, _ = learner.samples(rollout)
    learner.constraint = None
    rewards_only, _ = learner.samples(rollout)
    torch.testing.assert_close(found.advantages, rewards_only.advantages, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.cost_returns, -rewards_only.returns, rtol=1e-9, atol=1e-12)


def test_costs_have_a_value_function_of_their_own():
    """A cost of one for ever, while rewards are zero."""
    task = stands(lambda u: 0 * u, constraint_cost=lambda x, u: torch.ones_like(x[..., 0]), episode_steps=10)
    constraint = CostConstraint(20.0, value_learning_rate=0.1, value_minibatch_size=128)
    algorithm = replace(CONTROL, steps_per_iteration=160, discount=0.9, epochs=1, constraint=constraint)
    learner = algorithm.learner(Assignment(task, 160 * 35))
    while learner.progress < 1:
        metrics = learner.iterate()
    value, _ = learner.constraint.value.step(torch.zeros(1, 1).double(), torch.zeros(1, 0).double())
    assert value.item() == pytest.approx(10.0, rel=1e-2)
    assert metrics["rollout/cost"] == 10.0  # an episode of ten steps


def test_a_constraint_needs_a_cost():
    algorithm = replace(SMALL, constraint=CostConstraint(1.0))
    for task in (pendulum(), "CartPole-v1"):
        with pytest.raises(ValueError, match=r'needs the cost of each step in info\["cost"\]'):
            mbrl.train(algorithm, task, steps=32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": math.inf},
        {"limit": math.nan},
        {"learning_rate": -1.0},
        {"initial": -0.1},
        {"proportional": math.nan},
        {"derivative": -1.0},
        {"value_epochs": 0},
        {"value_minibatch_size": 0},
        {"value_learning_rate": 0.0},
        {"value_epochs": 1.5},
    ],
)
def test_numbers_of_a_constraint_have_ranges(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        CostConstraint(**{"limit": 1.0, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": 2.0},
        {"epochs": True},
        {"minibatch_size": 8.5},
        {"steps_per_iteration": 32.0},
        {"num_envs": 2.0},
        {"learning_rate": math.inf},
        {"entropy_weight": -0.1},
        {"entropy_weight": math.nan},
        {"minibatch_size": 0},
        {"learning_rate": 0.0},
        {"max_gradient_norm": -1.0},
        {"discount": 1.5},
        {"num_envs": 3},
        {"steps_per_iteration": 0},
        {"sequence_length": 0},
        {"network": replace(DOUBLE, recurrent=4), "sequence_length": 5},
    ],
)
def test_settings_have_ranges(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)) if "network" not in wrong else "sequence_length"):
        replace(SMALL, **wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mbrl.ClippedObjective(0.0), "clip_range must be a positive number, got 0.0"),
        (lambda: KLPenalty(target=math.nan), "target must be a finite positive number, got nan"),
        (lambda: KLPenalty(initial=-1.0), "initial must be a finite positive number, got -1.0"),
        (lambda: mbrl.GeneralizedAdvantages(1.01), r"trace_decay must be a number in \[0, 1\], got 1.01"),
        (lambda: mbrl.NStepAdvantages(2.5), "n must be an integer of at least 1, got 2.5"),
    ],
    ids=["clip_range", "target", "initial", "trace_decay", "n"],
)
def test_settings_of_objectives_and_advantages_have_ranges(make, message):
    with pytest.raises(ValueError, match=message):
        make()
