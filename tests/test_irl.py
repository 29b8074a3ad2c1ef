"""Learners of rewards against likelihoods and policies listed one by one, finite differences, dual problems and closed forms."""

import dataclasses
import itertools
import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from tabular_worlds import DOUBLE, all_trajectories, probability, random_mdp, random_policy

from mbrl import (
    Apprenticeship,
    FeatureReward,
    MaxEntIRL,
    MaxMargin,
    action_log_likelihood,
    gridworld,
    objectworld,
    reward_correlation,
)
from planners import (
    TabularTrajectories,
    backward_induction,
    occupancies,
    occupancies_by_step,
    policy_evaluation,
    sample_trajectories,
    solve_mdp,
)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def demonstrated(mdp, number=6, *, steps=None, temperature=1.0, seed=0):
    policy = solve_mdp(mdp, temperature=temperature).policy
    return sample_trajectories(mdp, policy, number, steps=steps, generator=torch.Generator().manual_seed(seed))


def random_features(mdp, k, seed=0, *, of_actions=False):
    shape = (mdp.states, mdp.actions, k) if of_actions else (mdp.states, k)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# --- maximum entropy -------------------------------------------------------------------------------------------------

CASES = [  # horizon, discount, demonstrated steps
    (4, 1.0, 4),
    (5, 0.8, 3),
    (math.inf, 0.9, 6),
]


@pytest.mark.parametrize(("horizon", "discount", "steps"), CASES)
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_likelihood_is_that_of_demonstrated_actions(horizon, discount, steps, temperature):
    mdp = random_mdp(0, horizon=horizon, discount=discount)
    demonstrations = demonstrated(mdp, steps=steps)
    policy = solve_mdp(mdp, temperature=temperature).policy
    expected = 0.0
    for states, actions in zip(demonstrations.states.tolist(), demonstrations.actions.tolist(), strict=True):
        for t, a in enumerate(actions):
            expected += math.log(policy[t, states[t], a] if mdp.finite else policy[states[t], a])
    found = action_log_likelihood(mdp, mdp.rewards, demonstrations, temperature=temperature)
    assert math.isclose(float(found), expected, rel_tol=1e-12)


def test_likelihood_of_all_trajectories_is_one():
    """Probability of start and dynamics times the likelihood of actions, over every trajectory there is."""
    mdp = random_mdp(1, S=2, A=2, horizon=3)
    uniform = torch.full((3, 2, 2), 0.5, dtype=DOUBLE)
    total = 0.0
    for states, actions in all_trajectories(mdp):
        one = TabularTrajectories([states], [actions])
        chance = float(probability(mdp, uniform, states, actions)) * 2**3
        total += chance * math.exp(float(action_log_likelihood(mdp, mdp.rewards, one)))
    assert math.isclose(total, 1.0, rel_tol=1e-12)


@pytest.mark.parametrize(("horizon", "discount", "steps"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_the_likelihood_is_that_of_finite_differences(horizon, discount, steps, seed):
    mdp = random_mdp(seed, horizon=horizon, discount=discount)
    demonstrations = demonstrated(mdp, steps=steps)
    rewards = mdp.rewards.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(action_log_likelihood(mdp, rewards, demonstrations, temperature=0.7), rewards)
    step = 1e-4
    for s, a in itertools.product(range(mdp.states), range(mdp.actions)):
        values = []
        for k in (2, 1, -1, -2):
            moved = mdp.rewards.clone()
            moved[s, a] += k * step
            values.append(float(action_log_likelihood(mdp, moved, demonstrations, temperature=0.7)))
        slope = (-values[0] + 8 * values[1] - 8 * values[2] + values[3]) / (12 * step)
        assert abs(slope - float(gradient[s, a])) < 1e-7


def test_gradient_is_the_difference_of_feature_counts_where_nothing_is_random():
    mdp = random_mdp(3, horizon=5, discount=1.0, deterministic=True)
    demonstrations = demonstrated(mdp)
    rewards = mdp.rewards.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(action_log_likelihood(mdp, rewards, demonstrations), rewards)
    starts = torch.bincount(demonstrations.states[:, 0], minlength=mdp.states).double()
    expected = occupancies(mdp, solve_mdp(mdp, temperature=1.0).policy, entering=starts)
    close(expected.sum(), torch.tensor(5.0 * 6, dtype=DOUBLE))  # the horizon, for each demonstration
    close(gradient, demonstrations.counts(mdp).sum(0) - expected)


@pytest.mark.parametrize(("horizon", "discount", "steps"), CASES)
def test_maximum_entropy_finds_the_maximum(horizon, discount, steps):
    """The derivative by autograd through the solver vanishes, and more demonstrations come closer to the truth."""
    mdp = random_mdp(4, horizon=horizon, discount=discount)
    phi = random_features(mdp, 3, of_actions=True)
    truth = torch.tensor([2.0, -1.0, 0.5], dtype=DOUBLE)
    mdp = mdp.with_rewards(phi @ truth)
    errors = []
    for number in (20, 4000):
        demonstrations = demonstrated(mdp, number, steps=steps)
        learned = MaxEntIRL(l2=1e-4, tolerance=1e-8).learn(mdp, phi, demonstrations)
        assert learned.converged
        w = learned.weights.clone().requires_grad_()
        soft = solve_mdp(mdp, phi @ w, temperature=1.0)
        log_policy = soft.action_values - soft.values[: mdp.horizon if mdp.finite else None].unsqueeze(-1)
        counts = demonstrations.counts(mdp)
        log_policy = log_policy[:steps] if mdp.finite else log_policy
        objective = (counts * log_policy).sum() / number - 0.5e-4 * (w**2).sum()
        assert math.isclose(float(objective.detach()), learned.history["objective"][-1], rel_tol=1e-9)
        (gradient,) = torch.autograd.grad(objective, w)
        assert float(gradient.abs().max()) < 1e-5
        errors.append(float((learned.weights - truth).norm()))
    assert errors[1] < 0.25 < errors[0]
    close(learned.rewards, phi @ learned.weights)
    close(learned.policy, solve_mdp(mdp, learned.rewards, temperature=1.0).policy)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_network_learns_what_is_not_linear(optimizer):
    """The reward is the exclusive or of two features, of which a linear reward knows nothing."""
    bits = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=DOUBLE)
    mdp = random_mdp(5, horizon=4, discount=1.0).with_rewards(torch.tensor([-1.0, 1.0, 1.0, -1.0]))
    demonstrations = demonstrated(mdp, 1000)
    settings = {"l2": 1e-4, "optimizer": optimizer, "max_iterations": 60, "learning_rate": 0.1}
    deep = MaxEntIRL(hidden=(8,), **settings).learn(mdp, bits, demonstrations)
    linear = MaxEntIRL(l2=1e-4).learn(mdp, bits, demonstrations)
    assert deep.weights is None
    assert reward_correlation(deep.rewards, mdp.rewards) > 0.97
    assert deep.history["objective"][-1] > linear.history["objective"][-1] + 0.05


def test_a_network_in_another_precision():
    mdp = random_mdp(5, horizon=4, dtype=torch.float32)
    learned = MaxEntIRL(hidden=(4,), max_iterations=5).learn(mdp, torch.eye(4), demonstrated(mdp))
    assert learned.rewards.dtype == learned.policy.dtype == torch.float32
    assert learned.rewards.shape == (4,)


# --- maximum margin --------------------------------------------------------------------------------------------------


def margin_problem():
    mdp = random_mdp(6, S=3, A=2, discount=0.9)
    return mdp, random_features(mdp, 4), demonstrated(mdp, 5, steps=3, temperature=0.3)


def all_cuts(mdp, phi, demonstrations):
    """Features less those of the demonstrations, and losses, of every deterministic policy of the demonstrated steps."""
    starts = torch.bincount(demonstrations.states[:, 0], minlength=3).double() / demonstrations.number
    part = dataclasses.replace(mdp, rewards=None, horizon=3, initial=starts)
    expert = torch.zeros(4, dtype=DOUBLE)
    for states in demonstrations.states.tolist():
        expert += sum(0.9**t * phi[s] for t, s in enumerate(states[:-1])) / demonstrations.number
    loss = torch.ones(3, 2, dtype=DOUBLE)
    loss[demonstrations.states[:, :-1], demonstrations.actions] = 0.0
    for choice in itertools.product(range(2), repeat=9):
        policy = torch.nn.functional.one_hot(torch.tensor(choice).view(3, 3), 2).double()
        D = occupancies(part, policy)
        yield D.sum(-1) @ phi - expert, (D * loss).sum()


def test_maximum_margin_is_the_quadratic_program_of_all_policies():
    mdp, phi, demonstrations = margin_problem()
    F, loss = (torch.stack(x).numpy() for x in zip(*all_cuts(mdp, phi, demonstrations), strict=True))
    w, slack = cp.Variable(4), cp.Variable()
    rows = [slack >= F @ w + loss]
    program = cp.Problem(cp.Minimize(0.005 * cp.sum_squares(w) + slack), rows)
    program.solve(solver=cp.CLARABEL)
    learned = MaxMargin(l2=0.01).learn(mdp, phi, demonstrations)
    assert learned.converged
    np.testing.assert_allclose(learned.history["objective"][-1], program.value, rtol=1e-6)
    np.testing.assert_allclose(learned.weights.numpy(), w.value, atol=1e-2)
    multipliers = rows[0].dual_value  # optimality: they sum to one, and the weights are their average of cuts
    np.testing.assert_allclose(multipliers.sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(learned.weights.numpy(), -F.T @ multipliers / 0.01, atol=1e-2)


def test_sub_gradients_and_the_quadratic_program_agree():
    mdp, phi, demonstrations = margin_problem()
    exact = MaxMargin(l2=0.01).learn(mdp, phi, demonstrations)
    steps = MaxMargin(l2=0.01, solver="subgradient", tolerance=1e-3, max_iterations=2000)
    steps = steps.learn(mdp, phi, demonstrations)
    assert exact.converged
    assert steps.converged
    assert len(exact.history["objective"]) < 10 < len(steps.history["objective"])
    lowest = exact.history["objective"][-1]
    assert lowest - 1e-6 <= steps.history["objective"][-1] <= lowest + 1e-3 * max(1.0, lowest)
    for learned in (exact, steps):  # every bound is one, and bounds close in
        assert all(bound <= lowest + 1e-6 for bound in learned.history["bound"])
        assert np.all(np.diff(learned.history["objective"]) <= 0)
        assert np.all(np.diff(learned.history["bound"]) >= 0)


def test_maximum_margin_prefers_what_was_demonstrated():
    """In a world without chance, an optimal expert, seen from everywhere, is imitated exactly."""
    world = gridworld(4, wind=0.0)
    expert = solve_mdp(world.mdp)
    starts = torch.arange(16)
    states, actions = [starts], []
    for _ in range(8):
        actions.append(expert.policy[states[-1]].argmax(-1))
        states.append(world.mdp.transitions[states[-1], actions[-1]].argmax(-1))
    demonstrations = TabularTrajectories(torch.stack(states, 1), torch.stack(actions, 1))
    learned = MaxMargin(l2=1e-3).learn(world.mdp, world.features, demonstrations)
    assert learned.converged
    assert int(learned.rewards.argmax()) == 15
    value = policy_evaluation(world.mdp, learned.policy).value
    close(value, expert.value, 1e-9)


# --- apprenticeship --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["projection", "max-margin"])
@pytest.mark.parametrize("horizon", [6, math.inf])
def test_apprenticeship_reaches_the_expert_within_the_bound(method, horizon):
    mdp = random_mdp(7, S=8, A=3, discount=0.9, horizon=horizon)
    phi, epsilon = random_features(mdp, 4), 0.05
    mdp = mdp.with_rewards(phi @ torch.tensor([1.0, -0.5, 0.2, -1.0], dtype=DOUBLE))
    target = (occupancies(mdp, solve_mdp(mdp).policy)[..., None] * phi[:, None]).sum((0, 1))
    learned = Apprenticeship(method=method, epsilon=epsilon).match(mdp, phi, target)
    margins = np.array(learned.history["margin"])
    assert learned.converged
    assert margins[-1] <= epsilon
    assert np.all(np.diff(margins) < 0)
    k, steps = 4, 10.0 if horizon == math.inf else sum(0.9**t for t in range(6))  # features lie in [0, 1]
    assert len(margins) <= k * steps**2 / epsilon**2 * math.log(math.sqrt(k) * steps / epsilon)  # theorem 1
    far = np.array([float((point - target).norm()) for point in learned.mixture.expectations])
    assert len(margins) <= far.max() ** 2 / epsilon**2 + 1
    assert np.all(1 / margins[1:] ** 2 >= 1 / margins[:-1] ** 2 + 1 / far.max() ** 2 - 1e-6)  # each step of the bound
    close(learned.mixture.shares.sum(), torch.tensor(1.0, dtype=DOUBLE))
    assert float((learned.mixture.expectation - target).norm()) <= epsilon
    acted = (occupancies(mdp, learned.policy)[..., None] * phi[:, None]).sum((0, 1))
    close(acted, learned.mixture.expectation, 1e-9)  # one policy with the mixture's occupancies
    worth = abs(float((acted - target) @ torch.tensor([1.0, -0.5, 0.2, -1.0], dtype=DOUBLE)))
    assert worth <= epsilon * math.sqrt(1 + 0.25 + 0.04 + 1)


def test_max_margin_weights_are_those_of_the_support_vector_machine():
    """The primal problem of the paper, equation 11, for the policies that were found."""
    mdp = random_mdp(8, S=6, A=3, horizon=5)
    phi = random_features(mdp, 3)
    target = torch.tensor([6.0, 0.5, 2.0], dtype=DOUBLE)  # of no policy
    learned = Apprenticeship().match(mdp, phi, target)
    assert learned.converged
    w, t = cp.Variable(3), cp.Variable()
    rows = [(target - learned.mixture.expectations).numpy() @ w >= t, cp.norm(w) <= 1]
    cp.Problem(cp.Maximize(t), rows).solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(learned.history["margin"][-1], t.value, rtol=1e-5)
    np.testing.assert_allclose(learned.weights.numpy(), w.value, atol=1e-4)


def test_apprenticeship_from_demonstrations():
    mdp = random_mdp(9, S=6, A=2, horizon=4, discount=0.9)
    phi = random_features(mdp, 3)
    mdp = mdp.with_rewards(phi @ torch.tensor([1.0, 0.0, -1.0], dtype=DOUBLE))
    demonstrations = demonstrated(mdp, 2000, temperature=0.05)
    learned = Apprenticeship(epsilon=0.02).learn(mdp, phi, demonstrations)
    assert learned.converged
    assert learned.policy.shape == (4, 6, 2)
    values = [float(policy_evaluation(mdp, p).value) for p in (learned.policy, random_policy(mdp, 0))]
    best = float(backward_induction(mdp).value)
    assert best - values[0] < 0.1 < best - values[1]
    longer = dataclasses.replace(mdp, horizon=math.inf)
    assert Apprenticeship().learn(longer, phi, demonstrations).policy.shape == (6, 2)


# --- worlds ----------------------------------------------------------------------------------------------------------


def test_objectworld_by_hand():
    """Rewards and features again, cell by cell from the features of distance."""
    near, far = (objectworld(9, 12, seed=2, features=kind) for kind in ("near", "distance"))
    assert near.features.shape == (81, 4 * 9)
    assert len(near.names) == 36
    assert len(far.names) == 4
    for cell in range(81):
        outer = (far.features[cell, 2:] * 9).tolist()
        first, second = round(outer[0], 9) <= 3, round(outer[1], 9) <= 2
        assert near.rewards[cell] == (0 if not first else 1 if second else -1)
        for kind in range(4):
            within = [round(float(far.features[cell, kind] * 9), 9) <= d for d in range(1, 10)]
            assert near.features[cell, 9 * kind : 9 * kind + 9].tolist() == within
    assert torch.equal(near.image(near.rewards)[3], near.rewards[27:36])
    assert not torch.equal(near.rewards, objectworld(9, 12, seed=3).rewards)


def test_moves_and_wind():
    P = gridworld(3, wind=0.5).mdp.transitions
    middle = {4: 0.1, 5: 0.6, 7: 0.1, 3: 0.1, 1: 0.1}  # east is state 5: half of the time, and a fifth of the wind
    close(P[4, 1], torch.tensor([middle.get(s, 0.0) for s in range(9)], dtype=DOUBLE))
    corner = {0: 0.5 + 3 * 0.1, 1: 0.1, 3: 0.1}  # west and north lead out of the world
    close(P[0, 4], torch.tensor([corner.get(s, 0.0) for s in range(9)], dtype=DOUBLE))
    assert occupancies_by_step(dataclasses.replace(gridworld(3).mdp, horizon=2), P.new_full((9, 5), 0.2)).shape == (
        2,
        9,
        5,
    )


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaxEntIRL(hidden=(0,)), "hidden must be widths"),
        (lambda: MaxEntIRL(optimizer="sgd"), "optimizer must be"),
        (lambda: MaxEntIRL(temperature=0.0), "temperature"),
        (lambda: MaxEntIRL(max_iterations=0), "max_iterations"),
        (lambda: MaxMargin(solver="lp"), "solver must be"),
        (lambda: MaxMargin(l2=0.0), "l2 must be a finite positive number"),
        (lambda: MaxMargin(max_iterations=1.5), "max_iterations"),
        (lambda: Apprenticeship(method="svm"), "method must be"),
        (lambda: Apprenticeship(epsilon=0.0), "epsilon must be a finite positive number"),
        (lambda: Apprenticeship(max_iterations=0), "max_iterations"),
        (lambda: objectworld(4, 17), "need 1 to 16 objects"),
        (lambda: objectworld(4, 3, features="none"), "features must be"),
        (lambda: gridworld(4, wind=1.5), "wind"),
        (lambda: gridworld(4, rewards=torch.zeros(3, 3)), r"rewards must have the shape \(size, size\)"),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("learner", [MaxEntIRL(), MaxMargin(), Apprenticeship()])
def test_learners_say_what_they_need(learner):
    mdp = random_mdp(0, horizon=3)
    demonstrations = demonstrated(mdp)
    with pytest.raises(ValueError, match=r"features must have the shape \(S, k\) or \(S, A, k\) with S = 4 and A = 3"):
        learner.learn(mdp, torch.zeros(3, 2), demonstrations)
    with pytest.raises(ValueError, match="features must be finite"):
        learner.learn(mdp, torch.full((4, 2), math.nan), demonstrations)
    with pytest.raises(TypeError, match="TabularTrajectories"):
        learner.learn(mdp, torch.eye(4), demonstrations.to_trajectories())
    with pytest.raises(ValueError, match="states must be indices"):
        learner.learn(random_mdp(0, S=2, horizon=3), torch.eye(2), demonstrations)


def test_a_target_and_a_temperature():
    mdp = random_mdp(0, horizon=3)
    with pytest.raises(ValueError, match=r"target must have the shape \(k,\) = \(4,\)"):
        Apprenticeship().match(mdp, torch.eye(4), torch.zeros(3))
    with pytest.raises(ValueError, match="hard-optimal policy has no likelihood"):
        action_log_likelihood(mdp, mdp.rewards, demonstrated(mdp), temperature=0.0)


def test_a_linear_reward_is_linear():
    reward = FeatureReward(3)
    assert torch.equal(reward.weights, torch.zeros(3, dtype=DOUBLE))
    assert FeatureReward(3, (2,)).weights is None
