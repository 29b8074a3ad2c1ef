"""Tabular processes against closed forms, linear programs, enumeration of all trajectories and finite differences."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from tabular_worlds import DOUBLE, all_trajectories, probability, random_mdp, random_policy

from planners import (
    TabularMDP,
    TabularTrajectories,
    backward_induction,
    occupancies,
    occupancies_by_step,
    policy_evaluation,
    policy_iteration,
    sample_trajectories,
    solve_mdp,
    value_iteration,
)


def chain(gamma, horizon=math.inf, slip=0.0):
    """Two states; action 0 stays, action 1 goes over (and slips back with some probability); being in state 1 pays one."""
    P = torch.tensor([[[1, 0], [slip, 1 - slip]], [[0, 1], [1 - slip, slip]]], dtype=DOUBLE)
    return TabularMDP(P, torch.tensor([0.0, 1.0]), discount=gamma, initial=torch.tensor([1.0, 0.0]), horizon=horizon)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [value_iteration, policy_iteration])
def test_two_states(solver):
    gamma, slip = 0.8, 0.25
    solution = solver(chain(gamma, slip=slip))
    V1 = 1 / (1 - gamma)  # stay for ever
    V0 = gamma * (1 - slip) * V1 / (1 - gamma * slip)  # V0 = gamma ((1 - slip) V1 + slip V0)
    close(solution.values, torch.tensor([V0, V1], dtype=DOUBLE), 1e-9)
    assert solution.policy.tolist() == [[0, 1], [1, 0]]
    close(solution.value, torch.tensor(V0, dtype=DOUBLE), 1e-9)


def test_two_states_to_the_end():
    solution = backward_induction(chain(1.0, horizon=4))
    assert solution.values.tolist() == [[3, 4], [2, 3], [1, 2], [0, 1], [0, 0]]  # the last state is not paid for
    assert solution.policy[0].tolist() == [[0, 1], [1, 0]]
    assert solution.policy[3, 0].tolist() == [1, 0]  # nothing to gain: the first of equal actions


def test_soft_values_of_one_state_are_entropy():
    """Nothing is paid: every step has the entropy of a uniform choice."""
    mdp = TabularMDP(torch.ones(1, 5, 1, dtype=DOUBLE), torch.zeros(1), discount=0.9)
    close(solve_mdp(mdp, temperature=2.0).value, torch.tensor(2.0 * math.log(5) / 0.1, dtype=DOUBLE))
    finite = dataclasses.replace(mdp, horizon=3)
    close(solve_mdp(finite, temperature=2.0).value, torch.tensor(2.0 * math.log(5) * (1 + 0.9 + 0.81), dtype=DOUBLE))


# --- independent solvers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_values_and_occupancies_are_those_of_the_linear_program(seed):
    mdp = random_mdp(seed, S=6, A=3, discount=0.95)
    S, A = mdp.states, mdp.actions
    P, r = mdp.transitions.numpy(), mdp.rewards.numpy()
    rows = (np.eye(S)[:, None] - mdp.discount * P).reshape(S * A, S)
    primal = linprog(mdp.initial.numpy(), A_ub=-rows, b_ub=-r.ravel(), bounds=(None, None))
    dual = linprog(-r.ravel(), A_eq=rows.T, b_eq=mdp.initial.numpy())
    solution = policy_iteration(mdp)
    np.testing.assert_allclose(solution.values.numpy(), primal.x, rtol=1e-8)
    np.testing.assert_allclose(occupancies(mdp, solution.policy).numpy().ravel(), dual.x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("discount", [0.5, 0.99])
def test_policy_iteration_is_value_iteration(temperature, discount):
    mdp = random_mdp(3, S=10, discount=discount)
    one, other = (solver(mdp, temperature=temperature) for solver in (policy_iteration, value_iteration))
    close(one.values, other.values, 1e-9)
    close(one.policy, other.policy, 1e-8)
    assert one.iterations < 12
    assert other.error >= float((other.values - one.values).abs().max()) - 1e-10


def test_finite_horizon_is_the_best_of_all_policies():
    mdp = random_mdp(0, S=2, A=2, horizon=3, discount=0.9)
    best = -math.inf
    for choice in itertools.product(range(2), repeat=6):
        policy = torch.nn.functional.one_hot(torch.tensor(choice).view(3, 2), 2).double()
        value = sum(
            probability(mdp, policy, states, actions)
            * sum(0.9**t * mdp.rewards[states[t], a] for t, a in enumerate(actions))
            for states, actions in all_trajectories(mdp)
        )
        close(policy_evaluation(mdp, policy).value, value)
        best = max(best, float(value))
    close(backward_induction(mdp).value, torch.tensor(best, dtype=DOUBLE))


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_soft_values_of_deterministic_dynamics_sum_over_all_trajectories(temperature):
    """V(s0) = tau log sum exp(return / tau), and trajectories have probabilities proportional to exp(return / tau)."""
    mdp = random_mdp(1, S=3, A=2, horizon=4, discount=1.0, deterministic=True)
    solution = backward_induction(mdp, temperature=temperature)
    returns, visits = {s: [] for s in range(3)}, {s: [] for s in range(3)}
    for states, actions in all_trajectories(mdp):
        if all(mdp.transitions[states[t], a, states[t + 1]] == 1 for t, a in enumerate(actions)):
            counts = torch.zeros(4, 3, 2, dtype=DOUBLE)
            for t, a in enumerate(actions):
                counts[t, states[t], a] = 1
            returns[states[0]].append((counts * mdp.rewards).sum())
            visits[states[0]].append(counts)
    expected = torch.zeros(4, 3, 2, dtype=DOUBLE)
    for s in range(3):
        scaled = torch.stack(returns[s]) / temperature
        close(solution.values[0, s], temperature * scaled.logsumexp(0))
        expected += mdp.initial[s] * (scaled.softmax(0)[:, None, None, None] * torch.stack(visits[s])).sum(0)
    close(occupancies_by_step(mdp, solution.policy), expected)


def test_soft_policy_of_stochastic_dynamics_is_best_for_return_and_causal_entropy():
    """By enumeration of trajectories: the value is attained, and no change of the policy is uphill."""
    mdp, tau = random_mdp(5, S=2, A=2, horizon=3, discount=0.8), 0.5
    solution = backward_induction(mdp, temperature=tau)
    logits = solution.policy.log().requires_grad_()
    policy = logits.softmax(-1)
    value = torch.zeros((), dtype=DOUBLE)
    for states, actions in all_trajectories(mdp):
        gained = sum(
            0.8**t * (mdp.rewards[states[t], a] - tau * policy[t, states[t], a].log()) for t, a in enumerate(actions)
        )
        value = value + probability(mdp, policy, states, actions) * gained
    value.backward()
    close(solution.value, value.detach())
    assert float(logits.grad.abs().max()) < 1e-14
    close(policy_evaluation(mdp, solution.policy, temperature=tau).values, solution.values)


# --- occupancies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_occupancies_of_a_finite_horizon_are_those_of_all_trajectories(discount):
    mdp = random_mdp(2, S=3, A=2, horizon=3, discount=discount)
    policy = random_policy(mdp, 0)
    expected = torch.zeros(3, 3, 2, dtype=DOUBLE)
    for states, actions in all_trajectories(mdp):
        for t, a in enumerate(actions):
            expected[t, states[t], a] += discount**t * probability(mdp, policy, states, actions)
    close(occupancies_by_step(mdp, policy), expected)
    if discount == 1.0:
        close(occupancies(mdp, policy).sum(), torch.tensor(3.0, dtype=DOUBLE))


def test_occupancies_of_an_infinite_horizon():
    mdp = random_mdp(4, discount=0.9)
    policy = random_policy(mdp, 1)
    D = occupancies(mdp, policy)
    close(D.sum(), torch.tensor(10.0, dtype=DOUBLE))
    powers, now = torch.zeros(mdp.states, dtype=DOUBLE), mdp.initial
    for t in range(400):
        powers, now = powers + 0.9**t * now, now @ torch.einsum("sa,sap->sp", policy, mdp.transitions)
    close(D, policy * powers[:, None], 1e-11)
    close((D * mdp.rewards).sum(), policy_evaluation(mdp, policy).value)


def test_occupancies_of_what_enters_later_are_those_of_the_rest_of_the_horizon():
    mdp = random_mdp(6, horizon=5, discount=0.9)
    policy = random_policy(mdp, 2)
    entering = torch.zeros(5, mdp.states, dtype=DOUBLE)
    entering[2, 1] = -3.0
    rest = dataclasses.replace(mdp, horizon=3, initial=torch.eye(mdp.states, dtype=DOUBLE)[1])
    D = occupancies_by_step(mdp, policy, entering=entering)
    assert not bool(D[:2].any())
    close(D[2:], -3.0 * occupancies_by_step(rest, policy[2:]))


# --- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("horizon", "solver"), [(4, backward_induction), (math.inf, policy_iteration), (math.inf, value_iteration)]
)
def test_soft_values_and_policies_are_differentiable_in_the_rewards(horizon, solver):
    mdp = random_mdp(7, horizon=horizon)

    def solved(rewards):
        solution = solver(mdp, rewards, temperature=0.6)
        return solution.values, solution.action_values, solution.policy, solution.value

    assert torch.autograd.gradcheck(solved, (mdp.rewards.clone().requires_grad_(),), atol=1e-7)


@pytest.mark.parametrize("horizon", [4, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_the_derivative_of_the_value_is_the_occupancy(horizon, temperature):
    mdp = random_mdp(8, horizon=horizon)
    rewards = mdp.rewards.clone().requires_grad_()
    solution = solve_mdp(mdp, rewards, temperature=temperature)
    (gradient,) = torch.autograd.grad(solution.value, rewards)
    close(gradient, occupancies(mdp, solution.policy.detach()))


# --- batches, types, sparse tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [3, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_batch_of_rewards_is_each_of_them(horizon, temperature):
    mdp = random_mdp(9, horizon=horizon)
    rewards = torch.randn(2, 3, mdp.states, mdp.actions, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    together = solve_mdp(mdp, rewards, temperature=temperature)
    visits = occupancies(mdp, together.policy)
    evaluated = policy_evaluation(mdp, together.policy, rewards, temperature=temperature)
    close(evaluated.values, together.values, 1e-10)
    for i, j in itertools.product(range(2), range(3)):
        alone = solve_mdp(mdp, rewards[i, j], temperature=temperature)
        close(together.values[i, j], alone.values)
        close(together.policy[i, j], alone.policy)
        close(visits[i, j], occupancies(mdp, alone.policy))


@pytest.mark.parametrize(
    ("horizon", "solver"), [(5, backward_induction), (math.inf, policy_iteration), (math.inf, value_iteration)]
)
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_single_precision(horizon, solver, temperature):
    mdp, exact = (random_mdp(10, S=8, discount=0.97, horizon=horizon, dtype=t) for t in (torch.float32, DOUBLE))
    solution = solver(mdp, temperature=temperature)
    assert solution.values.dtype == solution.policy.dtype == occupancies(mdp, solution.policy).dtype == torch.float32
    torch.testing.assert_close(
        solution.values.double(), solve_mdp(exact, temperature=temperature).values, rtol=1e-4, atol=1e-4
    )


def test_few_successors_are_the_same_as_a_full_table():
    """Of a walk on a ring of 20 states, which is summed over successors, against the table itself."""
    S = 20
    P = torch.zeros(S, 2, S, dtype=DOUBLE)
    for s in range(S):
        P[s, 0, (s + 1) % S], P[s, 0, s] = 0.7, 0.3
        P[s, 1, (s - 1) % S] = 1.0
    mdp = TabularMDP(P, discount=0.9)
    assert mdp.sparse
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, S, generator=generator, dtype=DOUBLE)
    visits = torch.rand(3, S, 2, generator=generator, dtype=DOUBLE)
    policy = visits / visits.sum(-1, keepdim=True)
    close(mdp.next_values(values), torch.einsum("sap,bp->bsa", P, values))
    close(mdp.next_states(visits), torch.einsum("bsa,sap->bp", visits, P))
    close(mdp.chain(policy), torch.einsum("bsa,sap->bsp", policy, P))
    for adjoint in (False, True):
        matrices = torch.eye(S, dtype=DOUBLE) - 0.9 * mdp.chain(policy)
        expected = torch.linalg.solve(matrices.mT if adjoint else matrices, values.unsqueeze(-1)).squeeze(-1)
        close(mdp.resolved(policy, values, adjoint=adjoint), expected)
        close(mdp.resolved(policy[0], values[0], adjoint=adjoint), expected[0])
    assert torch.autograd.gradcheck(mdp.next_states, (visits.requires_grad_(),))


def test_rewards_of_states_actions_and_transitions():
    mdp = random_mdp(11)
    generator = torch.Generator().manual_seed(0)
    by_state = torch.randn(4, generator=generator, dtype=DOUBLE)
    by_transition = torch.randn(4, 3, 4, generator=generator, dtype=DOUBLE)
    close(mdp.with_rewards(by_state).expected_rewards(), by_state[:, None].expand(4, 3))
    close(mdp.expected_rewards(by_transition), torch.einsum("sap,sap->sa", mdp.transitions, by_transition))
    shaped = (
        by_transition * 0 + 0.9 * by_state - by_state[:, None, None]
    )  # potential shaping moves values by the potential
    before, after = (policy_iteration(mdp, mdp.rewards + extra).values for extra in (0.0, mdp.expected_rewards(shaped)))
    close(after, before - by_state, 1e-11)


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [4, math.inf])
def test_sampled_frequencies(horizon):
    N, T = 20_000, 4
    mdp = random_mdp(12, horizon=horizon)
    policy = random_policy(mdp, 3)
    drawn = sample_trajectories(mdp, policy, N, steps=T, generator=torch.Generator().manual_seed(0))
    assert drawn.states.shape == (N, T + 1)
    assert drawn.states.dtype == drawn.actions.dtype == torch.int64
    drawn.check_fits(mdp)
    finite = dataclasses.replace(mdp, horizon=T, discount=1.0)
    expected = occupancies_by_step(finite, policy if mdp.finite else policy.expand(T, -1, -1))
    deviation = (drawn.counts(mdp) / N - expected) / (expected * (1 - expected) / N).sqrt()
    assert float(deviation.abs().max()) < 4.5  # of 48 numbers: less than one in 1000 seeds


def test_trajectories_as_logs_and_back():
    mdp = random_mdp(13, horizon=3)
    drawn = sample_trajectories(mdp, random_policy(mdp, 0), 5, generator=torch.Generator().manual_seed(1))
    back = TabularTrajectories.from_trajectories(drawn.to_trajectories())
    assert torch.equal(back.states, drawn.states)
    assert torch.equal(back.actions, drawn.actions)


# --- errors ----------------------------------------------------------------------------------------------------------

HALF = torch.full((2, 1, 2), 0.5, dtype=DOUBLE)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"transitions": torch.ones(2, 3)}, r"must have the shape \(S, A, S\), got \(2, 3\)"),
        ({"transitions": torch.full((3, 2, 2), 0.5)}, r"permute\(1, 0, 2\)"),
        ({"transitions": torch.full((2, 1, 2), 0.4)}, r"transitions\[0, 0\] must sum to one, got 0.8"),
        ({"transitions": torch.tensor([[[2.0, -1.0]], [[0.5, 0.5]]])}, r"got -1 at \[0, 0, 1\]"),
        ({"rewards": torch.zeros(3)}, r"rewards must have the shape"),
        ({"rewards": torch.tensor([0.0, math.inf])}, "rewards must be finite"),
        ({"initial": torch.tensor([0.5, 0.6])}, "initial must sum to one"),
        ({"initial": torch.ones(3) / 3}, r"initial must have the shape \(S,\) = \(2,\)"),
        ({"discount": 1.0}, "infinite horizon needs discount < 1"),
        ({"discount": 0.0}, r"discount must be in \(0, 1\]"),
        ({"horizon": 0}, "horizon must be an integer of at least 1"),
        ({"horizon": 2.5}, "horizon must be an integer of at least 1"),
    ],
)
def test_a_process_that_is_none(fields, words):
    with pytest.raises(ValueError, match=words):
        TabularMDP(**{"transitions": HALF, "discount": 0.9, **fields})


def test_solvers_say_what_they_need():
    infinite, finite = TabularMDP(HALF, discount=0.9), TabularMDP(HALF, torch.zeros(2), horizon=2)
    with pytest.raises(ValueError, match="has no rewards"):
        solve_mdp(infinite)
    with pytest.raises(ValueError, match="needs a finite horizon"):
        backward_induction(infinite, torch.zeros(2, 1))
    for solver in (value_iteration, policy_iteration):
        with pytest.raises(ValueError, match="needs an infinite horizon"):
            solver(finite)
        with pytest.raises(ValueError, match="max_iterations"):
            solver(infinite, torch.zeros(2, 1), max_iterations=0)
    with pytest.raises(ValueError, match="temperature"):
        solve_mdp(finite, temperature=-1.0)
    with pytest.raises(ValueError, match=r"expected_rewards\(rewards\) makes it"):
        solve_mdp(finite, torch.zeros(2))
    with pytest.raises(ValueError, match="must be finite"):
        solve_mdp(finite, torch.full((2, 1), math.nan))
    with pytest.raises(RuntimeError, match="raise max_iterations"):
        value_iteration(random_mdp(0), max_iterations=2)
    with pytest.raises(RuntimeError, match="raise max_iterations"):
        policy_iteration(random_mdp(0), max_iterations=1)
    with pytest.raises(ValueError, match="policy must have the shape"):
        policy_evaluation(finite, torch.ones(3, 2, 1))
    with pytest.raises(ValueError, match=r"policy.* must sum to one"):
        occupancies(infinite, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="entering must have the shape"):
        occupancies(infinite, torch.ones(2, 1), entering=torch.zeros(3))
    with pytest.raises(ValueError, match="entering must have the shape"):
        occupancies(finite, torch.ones(2, 1), entering=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="pass steps="):
        sample_trajectories(infinite, torch.ones(2, 1), 3)
    with pytest.raises(ValueError, match="steps <= 2, got 3 and 5"):
        sample_trajectories(finite, torch.ones(2, 1), 3, steps=5)
    with pytest.raises(ValueError, match="must be a single one"):
        sample_trajectories(infinite, torch.ones(3, 2, 1), 3, steps=5)


def test_trajectories_that_are_none():
    with pytest.raises(ValueError, match=r"lengths from 2 to 3.*absorbing state"):
        TabularTrajectories([[0, 1], [0, 1, 1]], [[0], [0, 0]])
    with pytest.raises(ValueError, match="need one more state"):
        TabularTrajectories([[0, 1]], [[0, 0]])
    with pytest.raises(ValueError, match="N, T >= 1"):
        TabularTrajectories(torch.zeros(0, 2).long(), torch.zeros(0, 1).long())
    with pytest.raises(TypeError, match="must be integers"):
        TabularTrajectories(torch.zeros(1, 2), torch.zeros(1, 1).long())
    one, two = TabularTrajectories([[0, 1]], [[0]]), TabularTrajectories([[0, 1, 1]], [[0, 0]])
    with pytest.raises(ValueError, match="lengths from 1 to 2 steps; all trajectories must have one length"):
        TabularTrajectories.from_trajectories(one.to_trajectories() + two.to_trajectories())
    stay = TabularMDP(torch.eye(2).view(2, 1, 2), horizon=2)
    with pytest.raises(ValueError, match="from state 0 by action 0 to state 1 at step 0, which has probability zero"):
        one.check_fits(stay)
    with pytest.raises(ValueError, match="states must be indices from 0 to 1"):
        TabularTrajectories([[0, 2]], [[0]]).check_fits(stay)
    with pytest.raises(ValueError, match="have 3 steps, but the horizon"):
        TabularTrajectories([[0, 0, 0, 0]], [[0, 0, 0]]).check_fits(stay)


def test_logs_that_hold_no_indices():
    from dynamics import Trajectory

    wide = Trajectory(observations=np.zeros((2, 2)), controls=np.zeros((1, 1)), dt=1.0)
    with pytest.raises(ValueError, match="observations must be one column"):
        TabularTrajectories.from_trajectories([wide])
    broken = Trajectory(observations=np.full((2, 1), 0.5), controls=np.zeros((1, 1)), dt=1.0)
    with pytest.raises(ValueError, match=r"indices 0, 1, 2, \.\.\., got 0\.5"):
        TabularTrajectories.from_trajectories([broken])
