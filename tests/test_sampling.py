"""The loop of the sampling planners: scoring, limits, faults, the fields of a problem, warm starts."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

import planners
from dynamics import DoubleIntegrator, Dynamics, LinearDynamics, Pendulum, Prediction, StochasticDynamics
from planners import (
    CEM,
    ICEM,
    LQR,
    MPC,
    MPPI,
    FunctionCost,
    GoalCost,
    KnotNoise,
    PredictiveSampling,
    Problem,
    QuadraticCost,
    RandomShooting,
    SamplingPlanner,
    SmoothAbsCost,
    SolveError,
    Status,
    WhiteNoise,
    solve,
)

EYE1, EYE2 = torch.eye(1, dtype=torch.float64), torch.eye(2, dtype=torch.float64)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear():
    return LinearDynamics(tensor([1.0, 0.1], [0.0, 1.0]), tensor([0.0], [0.1]))


def quadratic():
    return QuadraticCost(EYE2, 0.1 * EYE1, Q_terminal=10 * EYE2)


def integrator():
    """The state is the sum of the controls."""
    return LinearDynamics(EYE1, EYE1)


class Broken(Dynamics):
    """Dynamics that return a bad value in the step 0 where ``fails(x, u)``."""

    def __init__(self, sound, fails, value=float("nan")):
        super().__init__(sound.state_dim, sound.control_dim, sound.dt)
        self.sound, self.fails, self.value = sound, fails, value

    def forward(self, x, u, t=None):
        x_next = self.sound(x, u, t)
        return x_next.masked_fill(self.fails(x, u).unsqueeze(-1), self.value) if t == 0 else x_next


class ThreeMotors(StochasticDynamics):
    """Three members that disagree about the gain of a motor, with the same noise."""

    num_members = 3

    def __init__(self, gains=(0.5, 1.0, 1.8), noise=0.0):
        super().__init__(1, 1, 0.1)
        self.gains, self.noise = tensor(*gains), noise

    def predict(self, x, u, t=None):
        members = x + self.gains.to(x).reshape(-1, *[1] * x.ndim) * u
        std = torch.full_like(members, self.noise)
        return Prediction(members.mean(0), std[0], members.std(0, unbiased=False), members, std)


# Scores


def hand_cost(x0, us, gain, discount, t0):
    """J of x' = x + gain u with stage cost t x^2 + u^2 and terminal cost 5 x^2, in plain Python."""
    x, total = x0, 0.0
    for k, u in enumerate(us):
        total += discount**k * ((t0 + k) * x**2 + u**2)
        x = x + gain * u
    return total + discount ** len(us) * 5 * x**2


def motor_problem(dynamics, **fields):
    cost = FunctionCost(lambda x, u, t: t * x[..., 0].square() + u[..., 0].square(), lambda x: 5 * x[..., 0].square())
    return Problem(dynamics, cost, 4, control_limits=(-1.0, 1.0), **fields)


def test_the_score_is_the_mean_over_the_members():
    problem = motor_problem(ThreeMotors(), discount=0.9)
    x0 = tensor([0.3], [-2.0])
    candidates = torch.randn(2, 5, 4, 1, generator=seeded(), dtype=torch.float64)
    expected = [
        [
            sum(hand_cost(float(x), us.flatten().tolist(), gain, 0.9, 7) for gain in (0.5, 1.0, 1.8)) / 3
            for us in candidates[i]
        ]
        for i, x in enumerate(x0)
    ]
    for planner in (ICEM(), ICEM(particles=6)):
        scores, _ = planner.evaluate(problem, x0, candidates, 7, seeded())
        torch.testing.assert_close(scores, tensor(*expected), rtol=1e-12, atol=0)


def test_the_score_of_deterministic_dynamics_is_the_cost():
    problem = motor_problem(integrator(), discount=0.9)
    candidates = torch.randn(5, 4, 1, generator=seeded(), dtype=torch.float64)
    expected = tensor(*[hand_cost(0.3, us.flatten().tolist(), 1.0, 0.9, 2) for us in candidates])
    scores, xs = ICEM().evaluate(problem, tensor(0.3), candidates, 2)
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(xs, integrator().rollout(tensor(0.3), candidates), rtol=0, atol=1e-14)


def test_particles_carry_noise_only_when_asked():
    """Noise of variance s^2 per step adds sum_k (t_k + k-step variance) exactly: E x_k^2 grows by k s^2."""
    s, particles = 0.2, 30_000
    problem = motor_problem(ThreeMotors(noise=s))
    candidates = tensor([[0.5], [-0.5], [0.2], [0.1]])[None]
    silent, _ = ICEM(particles=3).evaluate(problem, tensor(0.0), candidates, 0, seeded())
    torch.testing.assert_close(
        silent,
        ICEM().evaluate(motor_problem(ThreeMotors()), tensor(0.0), candidates, 0, seeded())[0],
        rtol=1e-12,
        atol=0,
    )
    noisy, _ = ICEM(particles=particles, particle_noise=True).evaluate(problem, tensor(0.0), candidates, 0, seeded())
    added = s**2 * (sum(k * k for k in range(4)) + 5 * 4)  # stage weight k times variance k s^2, terminal weight 5
    # The cost of a particle has a standard deviation of about 6 on this problem, of the mean over particles 0.035.
    assert float(noisy - silent) == pytest.approx(added, abs=0.14)


@pytest.mark.parametrize("stochastic", [True, False])
def test_auto_executes_the_mean_on_stochastic_dynamics_and_the_best_elsewhere(stochastic):
    problem = motor_problem(ThreeMotors() if stochastic else integrator())
    plans = {name: solve(problem, ICEM(execute=name), tensor(1.0)) for name in ("auto", "best", "mean")}
    assert torch.equal(plans["auto"].us, plans["mean" if stochastic else "best"].us)
    assert not torch.equal(plans["best"].us, plans["mean"].us)
    assert torch.equal(plans["mean"].us, plans["mean"].warm_start.mean)
    score, _ = ICEM().evaluate(problem, tensor(1.0), plans["auto"].us[None], 0, seeded())
    torch.testing.assert_close(plans["auto"].cost[None], score, rtol=1e-12, atol=0)


def test_the_ensemble_mean_is_not_the_plan_of_the_mean_model():
    """Cost x_T^4 under unequal gains: the mean over members is smallest at u = -sum g^3 / sum g^4, at x0 = 1, T = 1."""
    gains = (0.2, 0.5, 2.0)
    problem = Problem(
        ThreeMotors(gains), FunctionCost(lambda x, u, t: 0.0 * u[..., 0], lambda x: (x[..., 0] - 1).square()), 1,
        control_limits=(-2.0, 2.0),
    )  # fmt: skip
    best = sum(gains) / sum(g**2 for g in gains)
    us = solve(problem, ICEM(max_iterations=20), tensor(0.0)).us
    assert float(us) == pytest.approx(best, abs=0.02)  # the floor of the noise is 0.04, the mean of the elites finer
    assert abs(3 / sum(gains) - best) > 0.4  # what the mean model would ask for


def test_worlds_with_their_own_parameters():
    masses = tensor(0.5, 1.0, 4.0)
    worlds = DoubleIntegrator(dt=0.1).with_parameters(mass=masses)
    problem = Problem(worlds, GoalCost([0.0, 0.0], [1.0, 0.1], [1e-3]), 10, control_limits=(-1.0, 1.0))
    x0 = tensor([1.0, 0.0]).expand(3, 2)
    solution = solve(problem, ICEM(), x0)
    for w, mass in enumerate(masses):
        alone = replace(problem, dynamics=DoubleIntegrator(dt=0.1).with_parameters(mass=mass))
        xs = alone.dynamics.rollout(x0[w], solution.us[w])
        torch.testing.assert_close(solution.xs[w], xs, rtol=1e-12, atol=1e-12)
        cost = solve(alone, ICEM(), x0[w]).cost
        assert float(solution.cost[w]) == pytest.approx(float(cost), rel=0.01)


def test_a_cost_of_the_wrong_shape_is_an_error():
    cost = FunctionCost(lambda x, u, t: x.square())  # forgets to sum
    problem = Problem(integrator(), cost, 3, control_limits=(-1.0, 1.0))
    with pytest.raises(ValueError, match=r"the stage cost must have shape"):
        solve(problem, ICEM(), tensor(1.0))


def test_float32_stays_float32_under_a_float64_cost():
    cost = FunctionCost(lambda x, u, t: (x.double() - tensor(1.0)).square().sum(-1))
    solution = solve(Problem(integrator(), cost, 3, control_limits=(-1.0, 1.0)), ICEM(), torch.zeros(2, 1))
    assert {solution.xs.dtype, solution.us.dtype, solution.cost.dtype} == {torch.float32}


# Faults


def rough(x, u):
    """True for about 30 % of all controls, without any pattern that a planner could learn."""
    return (u[..., 0] * 1e4).remainder(1.0) < 0.3


SAMPLERS = {
    "random shooting": RandomShooting(num_samples=2000),
    "CEM": CEM(),
    "ICEM": ICEM(),
    "MPPI": MPPI(max_iterations=10),
    "predictive sampling": PredictiveSampling(max_iterations=10),
}
sampler = pytest.mark.parametrize("planner", [pytest.param(planner, id=name) for name, planner in SAMPLERS.items()])


def test_every_sampling_planner_is_among_them():
    exported = {
        kind
        for kind in vars(planners).values()
        if inspect.isclass(kind) and issubclass(kind, SamplingPlanner) and not inspect.isabstract(kind)
    }
    assert exported == {type(planner) for planner in SAMPLERS.values()}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["by control", "at random"])
@sampler
def test_a_model_that_fails_in_a_third_of_the_rollouts(planner, value, kind):
    """Over ten seeds the cost is on average at most 5 % above that of a sound model; and no plan is ever not finite."""
    x0 = tensor([1.0, 0.0], [-1.0, 1.0])
    problem = Problem(linear(), quadratic(), 8, control_limits=(-10.0, 10.0))
    ratios = []
    for seed in range(10):
        reference = solve(problem, planner, x0, generator=seeded(seed))
        noise = seeded(100 + seed)
        fails = (
            rough if kind == "by control" else lambda x, u, noise=noise: torch.rand(x.shape[:-1], generator=noise) < 0.3
        )
        broken = replace(problem, dynamics=Broken(linear(), fails, value))
        solution = solve(broken, planner, x0, generator=seeded(seed), throw=kind == "by control")
        assert solution.us.isfinite().all()
        share = solution.stats["nonfinite"] / solution.stats["evaluations"]
        assert 0.1 < share < 0.4
        cost = problem.trajectory_cost(problem.dynamics.rollout(x0, solution.us), solution.us)
        ratios.append(cost / reference.cost)
    assert (torch.stack(ratios).mean(0) <= 1.05).all()


@sampler
def test_all_rollouts_fail(planner):
    broken = Broken(linear(), lambda x, u: torch.ones_like(x[..., 0], dtype=torch.bool))
    problem = Problem(broken, quadratic(), 5, control_limits=(-1.0, 3.0))
    x0 = tensor([1.0, 0.0], [0.0, 1.0])
    cold = solve(problem, planner, x0, throw=False)
    assert (cold.status == Status.NO_FINITE_PLAN).all()
    assert cold.cost.isinf().all()
    assert (cold.us == 1.0).all()  # the middle of the limits
    assert cold.stats["nonfinite"] == cold.stats["evaluations"]
    previous = solve(replace(problem, dynamics=linear()), planner, x0)
    warm = solve(problem, planner, x0, init=previous, throw=False)
    assert torch.allclose(warm.us, previous.us, rtol=0, atol=1e-12)
    assert (warm.status == Status.NO_FINITE_PLAN).all()
    with pytest.raises(SolveError, match="2 of 2 problems have no usable plan"):
        solve(problem, planner, x0)


@sampler
def test_one_world_fails(planner):
    broken = Broken(linear(), lambda x, u: x[..., 0] > 5)
    problem = Problem(broken, quadratic(), 5, control_limits=(-1.0, 1.0))
    x0 = tensor([1.0, 0.0], [9.0, 0.0], [0.0, 1.0])
    solution = solve(problem, planner, x0, throw=False)
    sound = solve(replace(problem, dynamics=linear()), planner, x0)
    assert solution.status.tolist() == [Status.ITERATION_LIMIT, Status.NO_FINITE_PLAN, Status.ITERATION_LIMIT]
    assert torch.equal(solution.us[[0, 2]], sound.us[[0, 2]])


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), float("inf")])
@pytest.mark.parametrize("execute", ["best", "mean"])
@sampler
def test_a_score_that_is_not_finite_never_wins(planner, value, execute):
    """Every finite cost is at least 1, so a bad one taken for 0 or less would be the best."""

    def stage(x, u, t):
        cost = 1.0 + (u[..., 0] + 0.5).square()
        return torch.where(u[..., 0] > 0, value, cost)

    problem = Problem(integrator(), FunctionCost(stage), 1, control_limits=(-1.0, 1.0))
    for seed in range(5):
        solution = solve(problem, replace(planner, execute=execute), tensor(0.0), generator=seeded(seed))
        assert float(solution.us) == pytest.approx(-0.5, abs=0.05)
        assert float(solution.cost) >= 1
        assert solution.stats["nonfinite"] > 0


def test_one_bad_particle_spoils_its_candidate():
    class OneBadMember(ThreeMotors):
        def predict(self, x, u, t=None):
            prediction = super().predict(x, u, t)
            bad = prediction.members.clone()
            bad[2] = torch.where(u > 0, float("nan"), bad[2])
            return replace(prediction, members=bad)

    score, _ = ICEM().evaluate(motor_problem(OneBadMember()), tensor(0.0), tensor([[0.1]], [[-0.1]]).expand(2, 4, 1), 0)
    assert score.isinf().tolist() == [True, False]


# Limits


@pytest.mark.parametrize("limits", [None, (-float("inf"), float("inf")), (tensor(-1.0, -1.0), float("inf"))])
def test_limits_must_be_finite(limits):
    problem = Problem(DoubleIntegrator(2), GoalCost(), 3, control_limits=limits)
    with pytest.raises(ValueError, match="ICEM needs finite control_limits"):
        solve(problem, ICEM(), torch.zeros(4).double())


@pytest.mark.parametrize("limits", [(1.0, -1.0), (tensor(0.0, 0.0), tensor(1.0, -1.0)), (float("nan"), 1.0)])
def test_limits_must_not_be_inverted(limits):
    with pytest.raises(ValueError, match="control_limits must satisfy lower <= upper"):
        Problem(DoubleIntegrator(2), GoalCost(), 3, control_limits=limits)


@pytest.mark.parametrize("shape", [(2,), (5, 1), (5, 2), (3, 5, 2), (3, 1, 2), (4, 1, 5, 2), (4, 3, 5, 2)])
def test_limits_of_any_shape_that_broadcasts(shape):
    """Under noise much wider than the limits some candidate reaches each of them, and none is beyond."""
    batch = (4, 3) if len(shape) == 4 else (3,)
    upper = torch.rand(shape, generator=seeded(), dtype=torch.float64) + 0.5
    lower = -torch.rand(shape, generator=seeded(1), dtype=torch.float64)
    seen = []
    cost = FunctionCost(lambda x, u, t: seen.append(u) or u.sum(-1))
    problem = Problem(DoubleIntegrator(2), cost, 5, control_limits=(lower, upper))
    solution = solve(problem, ICEM(initial_std=5.0, max_iterations=1), torch.zeros(*batch, 4).double())
    assert torch.equal(seen[0].amax(-3), upper.expand(*batch, 5, 2))
    assert torch.equal(seen[0].amin(-3), lower.expand(*batch, 5, 2))
    assert solution.us.shape == (*batch, 5, 2)


def test_limits_as_lists_and_arrays():
    problem = Problem(DoubleIntegrator(2), GoalCost(), 5, control_limits=([-1.0, -2.0], np.array([1.0, 2.0])))
    assert solve(problem, ICEM(), torch.ones(4).double()).us.abs().amax(0)[1] <= 2.0


def test_limits_that_do_not_fit_the_batch():
    limits = (-torch.ones(2, 5, 2), torch.ones(2, 5, 2))
    problem = Problem(DoubleIntegrator(2), GoalCost(), 5, control_limits=limits)
    with pytest.raises(ValueError, match=r"control_limits must broadcast to .* = \(3, 5, 2\), got \(2, 5, 2\)"):
        solve(problem, ICEM(), torch.zeros(3, 4).double())


def test_limits_of_zero_width_fix_a_control():
    problem = Problem(DoubleIntegrator(2), GoalCost(), 5, control_limits=(tensor(-1.0, 0.5), tensor(1.0, 0.5)))
    us = solve(problem, ICEM(), torch.ones(4).double()).us
    assert (us[:, 1] == 0.5).all()
    assert us[:, 0].std() > 0


def test_one_step_one_sample():
    problem = Problem(DoubleIntegrator(2), GoalCost(), 1, control_limits=(-1.0, 1.0))
    solution = solve(problem, ICEM(num_samples=1, num_elites=1, max_iterations=1), torch.ones(3, 4).double())
    assert solution.us.shape == (3, 1, 2)
    assert solution.cost.isfinite().all()


# Fields of a problem. Each is constructed so that the best plan is another one without the field.


def test_discount_is_honored():
    """Control costs 1 per unit and saves 1.5 at the end, which is worth 0.375 after two steps at half the value each."""
    cost = FunctionCost(lambda x, u, t: u[..., 0], lambda x: 1.5 * (1 - x[..., 0]))
    problem = Problem(integrator(), cost, 2, control_limits=(0.0, 0.5))
    assert float(solve(problem, ICEM(max_iterations=10), tensor(0.0)).us.sum()) == pytest.approx(1.0, abs=0.02)
    problem = replace(problem, discount=0.5)
    assert float(solve(problem, ICEM(max_iterations=10), tensor(0.0)).us.sum()) == pytest.approx(0.0, abs=0.02)


def test_termination_is_honored():
    """Each step costs 1 until the state is beyond 1.5, and control costs something."""
    cost = FunctionCost(lambda x, u, t: 1 + 0.1 * u[..., 0].square())
    problem = Problem(integrator(), cost, 6, control_limits=(-1.0, 1.0))
    assert float(solve(problem, ICEM(max_iterations=10), tensor(0.0)).us.abs().max()) < 0.1
    ends = replace(problem, termination=lambda x: x[..., 0] > 1.5)
    solution = solve(ends, ICEM(max_iterations=10), tensor(0.0))
    assert float(solution.xs[2]) > 1.5
    assert float(solution.cost) == pytest.approx(2 + 0.1 * 2 * 0.75**2, abs=0.02)
    costly = replace(ends, termination_cost=10.0)
    assert float(solve(costly, ICEM(max_iterations=10), tensor(0.0)).us.abs().max()) < 0.1


def test_terminal_value_is_honored():
    problem = Problem(integrator(), FunctionCost(lambda x, u, t: u[..., 0].square()), 2, control_limits=(-1.0, 1.0))
    assert float(solve(problem, ICEM(max_iterations=10), tensor(0.0)).us.abs().max()) < 0.05
    problem = replace(problem, terminal_value=lambda x: 100 * (x[..., 0] - 1).square())
    us = solve(problem, ICEM(max_iterations=20), tensor(0.0)).us  # the best is 1 / 2.01 each
    torch.testing.assert_close(us, torch.full_like(us, 1 / 2.01), atol=0.05, rtol=0)


# Warm starts


def warm_problem(seen=None):
    def stage(x, u, t):
        if seen is not None:
            seen.append(u.clone())
        return (x - 1).square().sum(-1) + 0.01 * u.square().sum(-1)

    return Problem(integrator(), FunctionCost(stage), 6, control_limits=(-0.3, 0.3))


def held(us, steps, horizon):
    rows = [us[..., min(k + steps, us.shape[-2] - 1), :] for k in range(horizon)]
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize("steps", [0, 1, 3, 20])
@pytest.mark.parametrize("horizon", [4, 6, 9])
def test_a_warm_start_is_shifted_by_the_steps_since(steps, horizon):
    """Where every rollout fails the first plan comes back as it is."""
    previous = solve(warm_problem(), ICEM(), tensor([0.0], [0.5]), t0=10)
    always = Broken(integrator(), lambda x, u: torch.ones_like(x[..., 0], dtype=torch.bool))
    always.forward = lambda x, u, t=None: x * float("nan")
    problem = replace(warm_problem(), dynamics=always, horizon=horizon)
    solution = solve(problem, ICEM(), tensor([0.0], [0.5]), t0=10 + steps, init=previous, throw=False)
    assert torch.equal(solution.us, held(previous.us, steps, horizon))


@pytest.mark.parametrize("horizon", [4, 6, 9])
def test_elites_are_kept_and_shifted(horizon):
    previous = solve(warm_problem(), ICEM(), tensor(0.0))
    seen = []
    problem = replace(warm_problem(seen), horizon=horizon)
    solve(problem, ICEM(num_elites=10, kept_elites=0.3, max_iterations=1), tensor(0.1), init=previous, t0=1)
    for elite in previous.warm_start.elites[:3]:
        assert (seen[0] == held(elite, 1, horizon)).all(-1).all(-1).any()
    fourth = held(previous.warm_start.elites[3], 1, horizon)
    assert not (seen[0] == fourth).all(-1).all(-1).any()


@pytest.mark.parametrize("kept_elites", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_a_plan_is_never_worse_than_the_one_it_starts_from(kept_elites, seed):
    planner = ICEM(num_samples=12, num_elites=5, max_iterations=2, kept_elites=kept_elites)
    solution = solve(warm_problem(), planner, tensor([0.0], [2.0], [5.0]), generator=seeded(seed))
    for _ in range(10):
        previous = solution
        solution = solve(
            warm_problem(), planner, tensor([0.0], [2.0], [5.0]), init=previous, generator=seeded(seed + 1)
        )
        assert (solution.cost <= previous.cost + 1e-12).all()


def test_the_plan_of_another_planner_is_a_start():
    """The LQR's plan cannot be improved, so that it must come back."""
    x0 = tensor([1.0, 0.0], [-1.0, 1.0])
    problem = Problem(linear(), quadratic(), 8)
    best = solve(problem, LQR(), x0)
    solution = solve(replace(problem, control_limits=(-30.0, 30.0)), ICEM(), x0, init=best)
    torch.testing.assert_close(solution.cost, best.cost, rtol=1e-9, atol=0)
    torch.testing.assert_close(solution.us, best.us, rtol=0, atol=1e-9)


def test_one_plan_starts_a_batch_but_not_the_other_way_round():
    single = solve(warm_problem(), ICEM(), tensor(0.0))
    solution = solve(warm_problem(), ICEM(), tensor([0.0], [0.2], [0.4]), init=single)
    assert solution.us.shape == (3, 6, 1)
    with pytest.raises(ValueError, match=r"the controls of init must broadcast to .* = \(2, 6, 1\), got \(3, 6, 1\)"):
        solve(warm_problem(), ICEM(), tensor([0.0], [0.2]), init=solution)


def test_plans_keep_the_limits_of_the_new_problem():
    previous = solve(warm_problem(), ICEM(), tensor(0.0))
    assert float(previous.us.max()) > 0.25
    tight = replace(warm_problem(), control_limits=(-0.1, 0.1))
    assert float(solve(tight, ICEM(), tensor(0.0), init=previous).us.abs().max()) <= 0.1


# Randomness and configuration


def test_the_generator_decides():
    problem = Problem(Pendulum(), GoalCost(angles=[0]), 5, control_limits=(-1.0, 1.0))
    x0 = tensor(3.0, 0.0)
    first, second, other = (solve(problem, ICEM(), x0, generator=seeded(seed)).us for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    generator = seeded(1)
    advanced = [solve(problem, ICEM(), x0, generator=generator).us for _ in range(2)]
    assert torch.equal(advanced[0], first)
    assert not torch.equal(advanced[1], first)


def test_a_time_limit_ends_the_loop_with_the_best_so_far():
    calls = []
    problem = warm_problem()
    solution = solve(
        problem, ICEM(max_iterations=9), tensor(0.0), out_of_time=lambda: len(calls.append(1) or calls) >= 3
    )
    assert solution.stats["iterations"] == 3
    assert int(solution.status) == Status.TIME_LIMIT
    assert torch.equal(solution.us, solve(problem, ICEM(max_iterations=9), tensor(0.0), out_of_time=counts(3)).us)
    assert float(solution.cost) == pytest.approx(float(problem.trajectory_cost(solution.xs, solution.us)), rel=1e-12)


def counts(n):
    calls = iter(range(1, 100))
    return lambda: next(calls) >= n


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("num_samples", 0, "num_samples must be an integer of at least 1, got 0"),
        ("num_samples", 20.5, "num_samples must be an integer of at least 1, got 20.5"),
        ("max_iterations", 0, "max_iterations must be an integer of at least 1"),
        ("particles", 0, "particles must be an integer of at least 1"),
        ("execute", "worst", "execute must be 'auto', 'best' or 'mean', got 'worst'"),
    ],
)
def test_configuration_is_checked(field, value, text):
    with pytest.raises(ValueError, match=text):
        ICEM(**{field: value})


# Knots at absolute times


KNOTS = {
    "CEM": CEM(noise=KnotNoise(4, degree=1)),
    "ICEM": ICEM(noise=KnotNoise(4, degree=3)),
    "MPPI": MPPI(noise=KnotNoise(4, degree=1)),
    "predictive sampling": PredictiveSampling(noise=KnotNoise(4, degree=0)),
    "random shooting": RandomShooting(noise=KnotNoise(4, degree=3)),
}


def waiting(dt, horizon):
    """No candidate is ever better than the plan that a solve starts from: every rollout fails."""
    broken = Broken(DoubleIntegrator(dt=dt), lambda x, u: torch.ones_like(x[..., 0], dtype=torch.bool))
    broken.forward = lambda x, u, t=None: x * float("nan")
    return Problem(broken, GoalCost(), horizon, control_limits=(-1.0, 1.0))


@pytest.mark.parametrize("planner", [pytest.param(planner, id=name) for name, planner in KNOTS.items()])
@pytest.mark.parametrize(("dt", "later"), [(0.1, 0.1), (0.1, 0.37), (0.02, 0.02), (0.04, 0.5), (0.05, 0.0)])
def test_replanning_at_another_rate_is_exact(planner, dt, later):
    """A plan over 2 s read a fraction of a step later by a model of another dt is the same function of time."""
    problem = Problem(
        DoubleIntegrator(dt=0.1), GoalCost([0.0, 0.0], [1.0, 0.1], [0.01]), 20, control_limits=(-1.0, 1.0)
    )
    x0 = tensor([1.0, 0.0], [-2.0, 1.0])
    first = solve(problem, planner, x0, t0=3)
    assert first.spline is not None
    second = solve(waiting(dt, round(2.0 / dt)), planner, x0, time=first.time + later, init=first, throw=False)
    times = first.time + torch.linspace(later, 1.9, 77, dtype=torch.float64)
    torch.testing.assert_close(second.controls_at(times), first.controls_at(times), rtol=0, atol=1e-13)
    steps = second.time + dt * torch.arange(second.us.shape[-2], dtype=torch.float64)
    steps = steps[steps <= first.time + 1.9]  # beyond it the first plan is held
    torch.testing.assert_close(second.us[:, : len(steps)], first.controls_at(steps), rtol=0, atol=1e-13)


def test_stepwise_plans_are_held_and_have_no_spline():
    problem = Problem(DoubleIntegrator(dt=0.1), GoalCost(), 20, control_limits=(-1.0, 1.0))
    solution = solve(problem, ICEM(), tensor(1.0, 0.0))
    assert solution.spline is None
    assert torch.equal(solution.controls_at(tensor(0.31, 0.39)), solution.us[[3, 3]])
    limited = replace(problem, rate_limits=(-1.0, 1.0))
    kept = solve(limited, CEM(noise=KnotNoise()), tensor(1.0, 0.0))  # the rates are kept step by step
    assert torch.equal(kept.controls_at(tensor(0.31, 0.39)), kept.us[[3, 3]])


@pytest.mark.parametrize(
    "fields", [{"rate_limits": (-3.0, 3.0)}, {"control_values": tensor([-1.0], [0.0], [0.5], [1.0])}]
)
@pytest.mark.parametrize(
    "planner", [PredictiveSampling(num_samples=20), CEM(num_samples=20, noise=KnotNoise(), execute="best")]
)
def test_a_warm_start_keeps_the_signal_behind_rates_and_values(planner, fields):
    """What a solve starts from is what the one before found, so that the same problem never gets a worse plan."""
    problem = Problem(
        DoubleIntegrator(dt=0.1), GoalCost(0.0, [1.0, 0.1], [0.01]), 20, control_limits=(-1.0, 1.0), **fields
    )
    x0 = tensor([1.0, 0.0], [-0.5, 1.0])
    plan = solve(problem, planner, x0)
    for seed in range(20):
        later = solve(problem, planner, x0, init=plan, generator=seeded(seed))
        assert (later.cost <= plan.cost + 1e-12).all()
        plan = later


def test_limits_at_knots_are_those_of_their_steps():
    """The upper limit falls to 0 half way: knots before it may be high, knots after it not, and the candidates use both."""
    upper = torch.cat([torch.full((10, 1), 1.0), torch.zeros(10, 1)]).double()
    problem = Problem(integrator(), FunctionCost(lambda x, u, t: -u.sum(-1)), 20, control_limits=(-1.0, upper))
    us = solve(problem, CEM(noise=KnotNoise(10, degree=0), max_iterations=20), tensor(0.0)).us
    torch.testing.assert_close(us, upper, rtol=0, atol=0.05)


def test_the_time_of_day_is_a_time():
    problem = Problem(DoubleIntegrator(dt=0.01), GoalCost(), 20, control_limits=(-1.0, 1.0))
    solution = solve(problem, ICEM(), tensor(1.0, 0.0), time=1.7e9 + 0.123)
    times = solution.time + 0.01 * torch.arange(20, dtype=torch.float64)
    assert torch.equal(solution.controls_at(times), solution.us)
    again = solve(problem, ICEM(), tensor(1.0, 0.0), time=solution.time + 0.03, init=solution)
    assert again.us.shape == solution.us.shape
    with pytest.raises(ValueError, match=r"as torch.float32 are too coarse for steps of 0.01 s"):
        solution.controls_at(times.float())
    early = solve(problem, ICEM(), tensor(1.0, 0.0), time=10.0)
    assert torch.equal(early.controls_at(10.0 + 0.01 * torch.arange(20)), early.us)  # single precision is enough
    for wrong in (torch.tensor(0.1), 0.1):
        with pytest.raises(ValueError, match=r"times must be a tensor of shape \(L,\)"):
            early.controls_at(wrong)


def test_a_plan_for_one_control_does_not_start_one_for_two():
    one = Problem(DoubleIntegrator(), GoalCost(), 5, control_limits=(-1.0, 1.0))
    two = Problem(DoubleIntegrator(2), GoalCost(), 5, control_limits=(-1.0, 1.0))
    with pytest.raises(ValueError, match="init has 1 controls, the problem 2"):
        solve(two, ICEM(), torch.zeros(4).double(), init=solve(one, ICEM(), torch.zeros(2).double()))


def test_elites_outlive_a_failed_solve():
    problem = warm_problem()
    first = solve(problem, ICEM(), tensor(0.0))
    failed = solve(problem, ICEM(), tensor(float("nan")), init=first, throw=False)
    assert torch.equal(failed.warm_start.elites, first.warm_start.elites)


def test_the_step_of_the_clock_reaches_particles_and_proposals():
    """Time-varying gains: only a rollout that begins at t0 knows the one that turns the sign."""

    class Turning(ThreeMotors):
        def predict(self, x, u, t=None):
            return super().predict(x, -u if t >= 7 else u, t)

    cost = FunctionCost(lambda x, u, t: 0.0 * u[..., 0], lambda x: (x[..., 0] - 3).square())
    problem = Problem(Turning((1.0, 1.0, 1.0)), cost, 2, control_limits=(-2.0, 2.0))
    planner = CEM(max_iterations=20)
    assert float(solve(problem, planner, tensor(0.0), t0=0).us.sum()) == pytest.approx(3.0, abs=0.05)
    assert float(solve(problem, planner, tensor(0.0), t0=7).us.sum()) == pytest.approx(-3.0, abs=0.05)
    follow = CEM(num_samples=20, max_iterations=1, execute="best", proposal=lambda x: 3.0 - x)
    proposals = follow._proposals(problem, tensor(0.0), _space(problem, follow), 6)
    torch.testing.assert_close(proposals[0].flatten(), tensor(2.0, 1.0))
    proposals = follow._proposals(problem, tensor(0.0), _space(problem, follow), 7)
    torch.testing.assert_close(proposals[0].flatten(), tensor(2.0, 2.0))


def _space(problem, planner):
    from planners.sampling.space import SearchSpace
    from planners.solve import Request

    return SearchSpace.of(problem, tensor(0.0), Request(), planner.noise, seeded())


def test_a_plan_of_steps_starts_a_planner_of_knots_and_the_other_way_round():
    problem = Problem(linear(), quadratic(), 16, control_limits=(-5.0, 5.0))
    x0 = tensor([1.0, 0.0], [-1.0, 1.0])
    steps, knots = ICEM(noise=WhiteNoise()), ICEM(noise=KnotNoise(8))
    coarse = solve(problem, knots, x0)
    fine = solve(problem, steps, x0, init=coarse)
    assert (fine.cost <= coarse.cost).all()
    again = solve(problem, knots, x0, init=fine)
    assert (again.cost <= 1.2 * coarse.cost).all()


# Proposals


def test_a_proposal_is_a_candidate():
    """An LQR law cannot be improved by noise: with it as the proposal its plan comes back, without it none as good is found."""
    x0 = tensor([3.0, 0.0], [-1.0, 2.0])
    problem = Problem(linear(), quadratic(), 8, control_limits=(-60.0, 60.0))
    best = solve(replace(problem, control_limits=None), LQR(), x0)
    controller = best.controller()

    class Law:
        """The time-varying gains of the LQR, called once per step of the rollout."""

        step = 0

        def __call__(self, x):
            dx = x - best.xs[:, None, self.step]
            u = best.us[:, None, self.step] + (controller.K[:, None, self.step] @ dx[..., None])[..., 0]
            self.step += 1
            return u

    with_law = solve(problem, ICEM(max_iterations=1, proposal=Law()), x0)
    torch.testing.assert_close(with_law.us, best.us, rtol=0, atol=1e-9)
    assert (solve(problem, ICEM(max_iterations=1), x0).cost > 1.01 * best.cost).all()


@sampler
def test_a_proposal_helps_every_planner(planner):
    """With few samples: the stationary law is near the best plan of all, what they find alone is not."""
    x0 = tensor([3.0, 0.0], [-1.0, 2.0])
    problem = Problem(linear(), quadratic(), 12, control_limits=(-60.0, 60.0))
    optimum = solve(replace(problem, control_limits=None), LQR(), x0).cost
    K = solve(Problem(linear(), quadratic(), float("inf")), LQR(), x0[0]).K
    few = replace(planner, num_samples=12, max_iterations=1, execute="best")
    few = replace(few, num_elites=3) if hasattr(few, "num_elites") else few
    helped = solve(problem, replace(few, noise=WhiteNoise(), proposal=lambda x: x @ K.mT), x0).cost
    assert (helped < 1.1 * optimum).all()
    assert (solve(problem, few, x0).cost > 1.25 * optimum).all()


def test_random_proposals_are_rolled_out_as_often_as_asked():
    noise, seen = seeded(), []

    def policy(x):
        seen.append(tuple(x.shape))
        return torch.randn(*x.shape[:-1], 1, generator=noise, dtype=x.dtype)

    problem = Problem(linear(), quadratic(), 5, control_limits=(-1.0, 1.0))
    solution = solve(
        problem, CEM(num_samples=20, max_iterations=2, proposal=policy, num_proposals=7), torch.zeros(3, 2).double()
    )
    assert seen == [(3, 7, 2)] * 5
    assert solution.stats["evaluations"] == 3 * (20 + 1 + 7 + 20)


def test_a_proposal_that_fails_is_replaced_and_one_of_the_wrong_shape_refused():
    problem = Problem(linear(), quadratic(), 5, control_limits=(-1.0, 3.0))
    x0 = tensor(1.0, 0.0)
    solution = solve(problem, ICEM(proposal=lambda x: x[..., :1] * float("nan")), x0)
    assert solution.cost.isfinite()
    with pytest.raises(ValueError, match=r"proposal must have shape \(1, 1\), one number for each state, got \(1, 2\)"):
        solve(problem, ICEM(proposal=lambda x: x), x0)
    with pytest.raises(TypeError, match="proposal must be a function of states that gives controls, got 3"):
        ICEM(proposal=3)


def test_a_network_in_single_precision_proposes_in_a_solve_in_double():
    network = torch.nn.Linear(2, 1)
    problem = Problem(linear(), quadratic(), 5, control_limits=(-1.0, 1.0))
    solution = solve(problem, MPPI(proposal=lambda x: network(x.float())), tensor(1.0, 0.0))
    assert solution.us.dtype == torch.float64


# Discrete controls and rates


@sampler
def test_discrete_controls_are_as_good_as_the_best_of_all_sequences(planner):
    """Three values, four steps: all 81 sequences are tried."""
    values = tensor([-1.0], [0.25], [1.0])
    problem = Problem(linear(), quadratic(), 4, control_values=values)
    x0 = tensor([1.0, 0.0], [-1.0, 1.0])
    every = torch.cartesian_prod(*[values[:, 0]] * 4).unsqueeze(-1)
    xs = problem.dynamics.rollout(x0.unsqueeze(-2), every)
    best = problem.trajectory_cost(xs, every).amin(-1)
    many = replace(planner, noise=WhiteNoise(), num_samples=400, execute="best")
    solution = solve(problem, many, x0)
    torch.testing.assert_close(solution.cost, best, rtol=1e-12, atol=0)


def test_rates_cost_what_they_must():
    """From 0 to 1 at most 0.25 per step: the best of all plans climbs as fast as it may."""
    cost = FunctionCost(lambda x, u, t: (u[..., 0] - 1).square())
    problem = Problem(integrator(), cost, 6, control_limits=(-2.0, 2.0), rate_limits=(-0.25, 0.25))
    solution = solve(problem, ICEM(max_iterations=20, minimum_std=0.002), tensor(0.0), previous_control=tensor(0.0))
    torch.testing.assert_close(solution.us.flatten(), tensor(0.25, 0.5, 0.75, 1.0, 1.0, 1.0), rtol=0, atol=0.02)


# Pendulum


@pytest.mark.slow
@pytest.mark.parametrize(
    "planner",
    [RandomShooting(), CEM(), ICEM(), MPPI(), PredictiveSampling()],
    ids=lambda planner: type(planner).__name__,
)
def test_the_pendulum_is_upright_from_20_starts_with_the_defaults_of_each_planner(planner):
    """Torque 3 N m of the 4.9 that gravity asks for; within 0.2 rad over the last of five seconds."""
    cost = SmoothAbsCost(state_weights=[1.0, 0.0], angles=[0]) + GoalCost([0.0, 0.0], [0.0, 0.02], [0.005])
    mpc = MPC(Problem(Pendulum(0.05), cost, 30, control_limits=(-3.0, 3.0)), planner)
    generator = seeded()
    x = tensor(torch.pi, 0.0) + 0.3 * torch.randn(20, 2, generator=generator, dtype=torch.float64)
    state, cosines = mpc.init(x, generator=generator), []
    for _ in range(100):
        u, state = mpc.step(state, x)
        x = mpc.problem.dynamics(x, u)
        cosines.append(torch.cos(x[:, 0]))
    worst = torch.stack(cosines[-20:]).amin(0)
    assert (worst > torch.cos(tensor(0.2))).all(), worst
