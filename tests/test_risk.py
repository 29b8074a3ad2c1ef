"""Risk measures against their definitions: linear programs, closed forms of Gaussians, the analysis of variance."""

import math
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import pytest
import torch

from dynamics import DoubleIntegrator, Pendulum, Prediction, RandomizedWorlds, StochasticDynamics
from planners import (
    CEM,
    ICEM,
    CVaR,
    EpistemicPenalty,
    Expectation,
    FunctionCost,
    GoalCost,
    Problem,
    Risk,
    WorstCase,
    solve,
)


def costs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("level", [1.0, 0.75, 0.5, 0.33, 0.2, 0.05])
@pytest.mark.parametrize("outcomes", [1, 2, 7, 20])
def test_cvar_is_the_minimum_of_rockafellar_and_uryasev(level, outcomes):
    sample = costs(outcomes)
    nu, excess = cp.Variable(), cp.Variable(outcomes, nonneg=True)
    objective = nu + cp.sum(excess) / (level * outcomes)
    value = cp.Problem(cp.Minimize(objective), [excess >= sample.numpy() - nu]).solve(solver=cp.CLARABEL)
    assert float(CVaR(level)(sample, outcomes)) == pytest.approx(value, abs=1e-7)


def test_cvar_of_a_gaussian():
    """CVaR of a standard normal is phi(z) / alpha at its quantile z of 1 - alpha; the sample's error is about 0.005."""
    level = 0.1
    z = 1.2815515655446004
    expected = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) / level
    assert float(CVaR(level)(costs(200_000), 1)) == pytest.approx(expected, abs=0.02)


def test_the_ends_of_cvar_are_the_mean_and_the_worst_case():
    sample = costs(3, 4, 8)
    torch.testing.assert_close(CVaR(1.0)(sample, 8), Expectation()(sample, 8), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(CVaR(1 / 8)(sample, 8), WorstCase()(sample, 8))
    torch.testing.assert_close(CVaR(1e-3)(sample, 8), WorstCase()(sample, 8))
    assert torch.equal(WorstCase()(sample, 8), sample.amax(-1))
    assert torch.equal(Expectation()(sample, 8), sample.mean(-1))


def test_the_penalty_of_one_particle_for_each_member_is_their_deviation():
    sample = costs(5, 4)
    expected = sample.numpy().mean(-1) + 2.0 * sample.numpy().std(-1)
    np.testing.assert_allclose(EpistemicPenalty(2.0)(sample, 4).numpy(), expected, rtol=1e-13)
    np.testing.assert_allclose(EpistemicPenalty(0.0)(sample, 4).numpy(), sample.numpy().mean(-1), rtol=1e-13)


def test_noise_within_members_is_not_taken_for_disagreement():
    """Members at 0, 1, 2, 3 have a variance of 1.25, whatever the noise of their particles: here 9, four times 4000 of them."""
    means = torch.arange(4.0, dtype=torch.float64).repeat_interleave(4000)
    noisy = means + 3.0 * costs(16_000)
    std = float(EpistemicPenalty(1.0)(noisy, 4) - noisy.mean())
    assert std == pytest.approx(math.sqrt(1.25), abs=0.1)
    agreeing = 3.0 * costs(
        200, 4 * 4
    )  # no disagreement at all: unbiased before the root, so half of them come out as zero
    spread = EpistemicPenalty(1.0)(agreeing, 4) - agreeing.mean(-1)
    assert 0.2 < float((spread < 1e-12).double().mean()) < 0.8
    assert float(spread.square().mean()) < 0.5 * 9 / 4  # what the means' own variance would be


@pytest.mark.parametrize("level", [0.0, -1.0, 1.5, float("nan")])
def test_levels_out_of_range(level):
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\]"):
        CVaR(level)


# In planners


def motor(gains):
    """One step of x' = gain u from 0, in one world for each gain: the cost of being away from 1 after one step."""
    gains = torch.tensor(gains, dtype=torch.float64)
    worlds = RandomizedWorlds(DoubleIntegrator(dt=1.0, integrator="semi_implicit_euler"), mass=1 / gains)
    cost = FunctionCost(lambda x, u, t: 0.0 * u[..., 0], lambda x: (x[..., 0] - 1).abs())
    return Problem(worlds, cost, 1, control_limits=(-2.0, 4.0))


def best_control(problem, risk):
    x0 = torch.zeros(2, dtype=torch.float64)
    return float(solve(problem, CEM(max_iterations=20, minimum_std=0.001, risk=risk), x0).us)


def test_a_planner_minimizes_what_its_risk_measure_says():
    """|g u - 1| for gains 0.5, 0.8, 1, 1: the median of the worlds, the middle of the extremes, and the worse half."""
    problem, grid = motor([0.5, 0.8, 1.0, 1.0]), torch.linspace(-2, 4, 60_001, dtype=torch.float64)
    outcomes = (torch.tensor([0.5, 0.8, 1.0, 1.0]).double() * grid.unsqueeze(-1) - 1).abs()
    for risk in (Expectation(), WorstCase(), CVaR(0.5), EpistemicPenalty(1.0)):
        expected = float(grid[risk(outcomes, 4).argmin()])
        assert best_control(problem, risk) == pytest.approx(expected, abs=0.02), risk
    assert best_control(problem, Expectation()) == pytest.approx(1.0, abs=0.02)
    assert best_control(problem, WorstCase()) == pytest.approx(4 / 3, abs=0.02)


def test_each_plan_is_the_better_one_by_its_own_measure():
    worlds = RandomizedWorlds.drawn(DoubleIntegrator(dt=0.1), {"mass": (0.5, 3.0)}, worlds=6)
    cost = GoalCost([0.0, 0.0], [1.0, 0.1], [1e-3], terminal_weights=[10.0, 1.0])
    problem, x0 = Problem(worlds, cost, 15, control_limits=(-2.0, 2.0)), torch.tensor([1.0, 0.0]).double()

    def outcomes(risk):
        us = solve(problem, ICEM(risk=risk, max_iterations=15, minimum_std=0.005), x0).us
        return problem.trajectory_cost(worlds.sample_rollout(x0, us, particles=6), us.unsqueeze(-3))

    neutral, robust = outcomes(Expectation()), outcomes(WorstCase())
    assert float(robust.max()) < float(neutral.max())
    assert float(neutral.mean()) < float(robust.mean())


@pytest.mark.parametrize("risk", [CVaR(0.5), WorstCase(), EpistemicPenalty()])
def test_a_risk_measure_needs_something_uncertain(risk):
    problem = Problem(Pendulum(), GoalCost(), 3, control_limits=(-1.0, 1.0))
    with pytest.raises(
        ValueError, match=r"needs several outcomes .* Pendulum has one: plan on an ensemble, or on Random"
    ):
        solve(problem, CEM(risk=risk), torch.zeros(2).double())


def test_a_risk_measure_needs_outcomes_that_differ():
    """One member without noise: all particles are the same."""
    problem = Problem(
        RandomizedWorlds(Pendulum(), mass=torch.ones(1).double()), GoalCost(), 3, control_limits=(-1.0, 1.0)
    )
    for planner in (CEM(risk=WorstCase()), CEM(risk=CVaR(0.1), particles=10)):
        with pytest.raises(ValueError, match="needs outcomes that differ"):
            solve(problem, planner, torch.zeros(2).double())


class Noisy(StochasticDynamics):
    """Four members at x + u + their number, with noise of their own: a model with the generic sampling."""

    num_members = 4

    def __init__(self, noise):
        super().__init__(1, 1, 0.1)
        self.noise = noise

    def predict(self, x, u, t=None):
        members = x + u + torch.arange(4.0, dtype=x.dtype).reshape(-1, *[1] * x.ndim)
        std = torch.full_like(members, self.noise)
        return Prediction(members.mean(0), std[0], members.std(0, correction=0), members, std)


def test_disagreement_is_told_from_noise_on_any_model():
    """The particles of a member lie side by side: at a cost of x the members' means differ by a variance of 1.25."""
    cost = FunctionCost(lambda x, u, t: 0.0 * u[..., 0], lambda x: x[..., 0])
    problem = Problem(Noisy(3.0), cost, 1, control_limits=(-1.0, 1.0))
    planner = CEM(risk=EpistemicPenalty(1.0), particles=40_000, particle_noise=True)
    candidates = torch.zeros(1, 1, 1, dtype=torch.float64)
    score, _ = planner.evaluate(problem, torch.zeros(1).double(), candidates, 0, torch.Generator().manual_seed(0))
    assert float(score) == pytest.approx(1.5 + math.sqrt(1.25), abs=0.1)


@pytest.mark.parametrize("risk", [Expectation(), WorstCase(), CVaR(0.5), CVaR(1.0), EpistemicPenalty()])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_outcome_spoils_a_candidate_whatever_the_measure(risk, value):
    cost = FunctionCost(lambda x, u, t: torch.where(x[..., 0] > 2.5, value, 0.0 * u[..., 0]))
    problem = Problem(Noisy(0.0), cost, 2, control_limits=(-1.0, 1.0))
    score, _ = CEM(risk=risk).evaluate(problem, torch.zeros(1).double(), torch.zeros(1, 2, 1).double(), 0)
    assert float(score) == math.inf


def test_a_measure_of_ones_own_gives_one_score_for_each_candidate():
    @dataclass(frozen=True)
    class Median(Risk):
        def __call__(self, costs, members):
            return costs.median(-1).values

    @dataclass(frozen=True)
    class Scalar(Risk):
        def __call__(self, costs, members):
            return costs.mean()

    assert best_control(motor([0.5, 1.0, 1.0]), Median()) == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match="risk must have shape"):
        best_control(motor([0.5, 1.0, 1.0]), Scalar())
    with pytest.raises(ValueError, match="kappa must be a finite number, got nan"):
        EpistemicPenalty(math.nan)


def test_the_epistemic_penalty_needs_equally_many_particles():
    with pytest.raises(ValueError, match=r"got 3 particles of 4 members; set particles to a multiple of 4"):
        solve(motor([0.5, 0.8, 1.0, 1.0]), CEM(risk=EpistemicPenalty(), particles=3), torch.zeros(2).double())
    with pytest.raises(TypeError, match="risk must be a risk measure such as Expectation"):
        CEM(risk="worst")
