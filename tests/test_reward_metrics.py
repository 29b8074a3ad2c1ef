"""How good rewards are, and what cannot be known of them: invariances, sums written out, and policies themselves."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tabular_worlds import DOUBLE, random_mdp, random_policy

from mbrl import (
    canonical_reward,
    epic_distance,
    expected_value_difference,
    gridworld,
    identifiability,
    reward_correlation,
)
from planners import TabularMDP, policy_evaluation, solve_mdp


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# --- EPIC ------------------------------------------------------------------------------------------------------------


def test_canonical_reward_is_the_definition():
    mdp, r = random_mdp(0, S=3, A=2), draw(3, 2, 3)
    found, gamma, r = canonical_reward(mdp, r).tolist(), mdp.discount, r.tolist()
    for s in range(3):
        for a in range(2):
            for after in range(3):
                expected = r[s][a][after]
                for A in range(2):
                    for S2 in range(3):
                        expected = expected + (gamma * r[after][A][S2] - r[s][A][S2]) / 6
                        expected = expected - sum(gamma * r[S1][A][S2] for S1 in range(3)) / 18
                assert math.isclose(found[s][a][after], expected, rel_tol=1e-12)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 4)])
def test_epic_sees_neither_scale_nor_shaping(shape):
    mdp, r, potential = random_mdp(1), draw(*shape), draw(4, seed=1)
    full = r.view(*shape, *[1] * (3 - r.ndim)).expand(4, 3, 4)
    shaped = 2.5 * full + mdp.discount * potential - potential[:, None, None] + 0.7
    assert epic_distance(mdp, r, shaped) < 1e-7
    torch.testing.assert_close(canonical_reward(mdp, shaped), 2.5 * canonical_reward(mdp, r))
    assert math.isclose(epic_distance(mdp, r, -shaped), 1.0)
    other = draw(4, 3, 4, seed=2)
    apart = epic_distance(mdp, r, other)
    assert 0.4 < apart < 0.95
    assert math.isclose(epic_distance(mdp, other, shaped), apart, rel_tol=1e-9)  # symmetric


def test_epic_over_a_coverage():
    """Rewards that differ at one transition alone are equal where that is never seen."""
    mdp, r = random_mdp(2), draw(4, 3, 4)
    c = canonical_reward(mdp, r)
    coverage = torch.rand(4, 3, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    coverage /= coverage.sum()
    other = draw(4, 3, 4, seed=3)
    correlation = np.cov(
        c.numpy().ravel(), canonical_reward(mdp, other).numpy().ravel(), aweights=coverage.numpy().ravel(), ddof=0
    )
    rho = correlation[0, 1] / math.sqrt(correlation[0, 0] * correlation[1, 1])
    assert math.isclose(epic_distance(mdp, r, other, coverage=coverage), math.sqrt((1 - rho) / 2), rel_tol=1e-9)


def test_rewards_without_a_direction():
    mdp, potential = random_mdp(3), draw(4)
    with pytest.raises(ValueError, match="constant but for potential shaping"):
        epic_distance(mdp, draw(4, 3), mdp.discount * potential.expand(4, 3, 4) - potential[:, None, None])
    with pytest.raises(ValueError, match="the same everywhere"):
        reward_correlation(torch.ones(4), draw(4))
    with pytest.raises(ValueError, match="equal shapes"):
        reward_correlation(torch.ones(3), draw(4))
    with pytest.raises(ValueError, match="rewards must have the shape"):
        epic_distance(mdp, draw(3), draw(4))
    with pytest.raises(ValueError, match="coverage must be probabilities"):
        epic_distance(mdp, draw(4), draw(4), coverage=torch.ones(4, 3, 4))


# --- values ----------------------------------------------------------------------------------------------------------


def test_correlation_is_numpys():
    a, b = draw(5, 2), draw(5, 2, seed=1)
    expected = np.corrcoef(a.numpy().ravel(), b.numpy().ravel())[0, 1]
    assert math.isclose(reward_correlation(a, b), expected, rel_tol=1e-12)
    assert math.isclose(reward_correlation(a, 3 * a - 1), 1.0, rel_tol=1e-12)


@pytest.mark.parametrize("horizon", [4, math.inf])
def test_value_differences(horizon):
    mdp = random_mdp(4, horizon=horizon)
    best, policy = solve_mdp(mdp), random_policy(mdp, 0)
    assert abs(expected_value_difference(mdp, best.policy)) < 1e-12
    lost = float(best.value - policy_evaluation(mdp, policy).value)
    assert math.isclose(expected_value_difference(mdp, policy), lost, rel_tol=1e-12)
    uniform = torch.full((4, 3), 1 / 3, dtype=DOUBLE)
    assert math.isclose(expected_value_difference(mdp, uniform, relative=True), 1.0, rel_tol=1e-9)
    scaled = mdp.with_rewards(5 * mdp.rewards + 2)
    relative = [expected_value_difference(m, policy, relative=True) for m in (mdp, scaled)]
    assert math.isclose(relative[0], relative[1], rel_tol=1e-9)
    with pytest.raises(ValueError, match="nothing can be lost"):
        expected_value_difference(mdp.with_rewards(torch.ones(4)), policy, relative=True)


# --- identifiability -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [3, math.inf])
def test_null_directions_change_no_policy_and_all_others_do(horizon):
    """Features of every state and action, which can express all shaping that there is."""
    mdp = random_mdp(5, S=3, A=2, horizon=horizon)
    features = torch.eye(6, dtype=DOUBLE).view(3, 2, 6)
    found = identifiability(mdp, features)
    # an infinite horizon hides a potential of each state, a finite one only what shifts all actions alike at every step
    assert found.invisible == (3 if horizon == math.inf else 1)
    before = solve_mdp(mdp, temperature=1.0).policy
    for j in range(6):
        moved = solve_mdp(mdp, mdp.rewards + features @ found.directions[:, j], temperature=1.0).policy
        same = torch.allclose(moved, before, rtol=0, atol=1e-10)
        assert same == (j >= 6 - found.invisible)
    w = draw(2, 6)
    kept = found.identified(w)
    torch.testing.assert_close(kept @ found.null_directions, torch.zeros(2, found.invisible, dtype=DOUBLE))
    after = [solve_mdp(mdp, features @ x, temperature=1.0).policy for x in (w[0], kept[0])]
    torch.testing.assert_close(*after)
    assert "3 do not" in str(found) or "1 do not" in str(found)


def test_only_a_constant_is_invisible_in_a_windy_world():
    world = gridworld(3)
    found = identifiability(world.mdp, world.features)
    assert found.invisible == 1
    torch.testing.assert_close(found.null_directions.abs(), torch.full((9, 1), 1 / 3, dtype=DOUBLE))


@pytest.mark.parametrize("horizon", [3, math.inf])
def test_states_out_of_reach_tell_nothing(horizon):
    """Two islands of two states; demonstrations begin on the first one, where staying and going differ."""
    P = torch.zeros(4, 2, 4, dtype=DOUBLE)
    for s in range(4):
        P[s, 0, s] = P[s, 1, s ^ 1] = 1.0
    mdp = TabularMDP(P, discount=0.9, initial=torch.tensor([1.0, 0, 0, 0]), horizon=horizon)
    found = identifiability(mdp, torch.eye(4, dtype=DOUBLE))
    assert found.invisible == 3  # the rewards of the other island, and a constant on the first one
    torch.testing.assert_close(found.directions[:, 0].abs(), torch.tensor([0.5, 0.5, 0, 0], dtype=DOUBLE).sqrt())
    both = identifiability(dataclasses.replace(mdp, initial=torch.tensor([0.5, 0, 0.5, 0])), torch.eye(4))
    assert both.invisible == 2  # a constant on each
    one_action = TabularMDP(torch.eye(2).double().view(2, 1, 2), discount=0.5)
    assert identifiability(one_action, torch.eye(2)).invisible == 2
