"""Weights from optimality conditions and from derivatives of plans: known weights of linear-quadratic problems, and pendulums."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from dynamics import CartPole, Dynamics, LinearDynamics, Pendulum, PlanarQuadrotor, Quadrotor, Trajectory
from mbrl import KKTInverse, LaplaceIRL, MPCInverse, pendulum_swing_up
from mbrl.irl.kkt_inverse import control_gradients
from planners import (
    DDP,
    LQR,
    DiagonalQuadraticCost,
    FunctionCost,
    GoalCost,
    LinearFeatureCost,
    Problem,
    QuadraticCost,
    StateLimits,
    solve,
)

DOUBLE = torch.float64
LEARNERS = [KKTInverse, MPCInverse]


def random_problem(seed, *, n=4, m=2, horizon=20, number=10, terminal=True):
    """A slow random system with random weights, and what is known of the cost: that of the last state, if anything."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    f = LinearDynamics(torch.eye(n, dtype=DOUBLE) + 0.1 * draw(n, n), 0.3 * draw(n, m))
    Q, R = draw(n).exp(), draw(m).exp()
    known = last_state(torch.eye(n, dtype=DOUBLE), m) if terminal else None
    return Problem(f, DiagonalQuadraticCost(Q, R, known=known), horizon), draw(number, n)


def last_state(Q_terminal, m):
    n = len(Q_terminal)
    zero = torch.zeros(n, n, dtype=DOUBLE), torch.zeros(m, m, dtype=DOUBLE)
    return QuadraticCost(*zero, Q_terminal=Q_terminal)


def demonstrated(problem, x0, planner=None):
    with torch.no_grad():
        plan = solve(problem, planner or LQR(), x0)
    return [
        Trajectory(x, u, states=x, dt=problem.dynamics.dt)
        for x, u in zip(plan.xs.numpy(), plan.us.numpy(), strict=True)
    ]


def guess(problem):
    """The same cost with other weights."""
    cost = problem.cost
    n, m = cost.state_dim, cost.control_dim
    return DiagonalQuadraticCost([1.0] * n, [1.0] * m, known=cost.known)


def pendulum(weights=(1.0, 0.3, 0.1), limit=math.inf, horizon=10):
    cost = LinearFeatureCost(pendulum_features, weights, known=FunctionCost(no_cost, last_angle))
    limits = None if limit == math.inf else (-limit, limit)
    return Problem(Pendulum(), cost, horizon, control_limits=limits)


def pendulum_features(x, u, t):
    return torch.stack([1.0 - x[..., 0].cos(), x[..., 1].square(), u[..., 0].square()], dim=-1)


def no_cost(x, u, t):
    return x.new_zeros(x.shape[:-1])


def last_angle(x):
    return 2.0 * (1.0 - x[..., 0].cos())


STARTS = torch.tensor([[0.4, 0.5], [-0.3, 0.2], [0.6, -0.5]], dtype=DOUBLE)


# --- both, where the truth is known ----------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", LEARNERS)
def test_weights_are_those_of_a_linear_quadratic_problem_with_a_known_terminal_cost(learner):
    problem, x0 = random_problem(0, n=2, m=1, horizon=10, number=3)
    result = learner().learn(problem, guess(problem), demonstrated(problem, x0))
    assert result.converged
    torch.testing.assert_close(result.weights, problem.cost.weights.detach(), rtol=1e-4, atol=0.0)
    assert result.report.identifiable.invisible == 0
    assert "3 of 3 directions" in str(result.report)


@pytest.mark.parametrize("learner", LEARNERS)
def test_without_a_known_part_ratios_are_found_and_the_report_says_that_the_factor_is_not(learner):
    problem, x0 = random_problem(1, n=2, m=1, horizon=10, number=3, terminal=False)
    result = learner().learn(problem, guess(problem), demonstrated(problem, x0))
    truth = problem.cost.weights.detach()
    torch.testing.assert_close(result.weights / result.weights.sum(), truth / truth.sum(), rtol=1e-4, atol=0.0)
    found = result.report.identifiable
    assert found.invisible == 1
    factor = result.weights if learner is KKTInverse else torch.ones(3, dtype=DOUBLE)  # weights, or their logarithms
    torch.testing.assert_close(
        (found.null_directions[:, 0] @ (factor / factor.norm())).abs(), torch.ones((), dtype=DOUBLE)
    )
    if learner is MPCInverse:
        assert float(found.identified(result.weights.log() - truth.log()).abs().max()) < 1e-4


@pytest.mark.slow  # MPCInverse 15 s
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("learner", LEARNERS)
def test_weights_of_random_linear_quadratic_problems(learner, terminal):
    for seed in range(4):
        problem, x0 = random_problem(seed, terminal=terminal)
        result = learner().learn(problem, guess(problem), demonstrated(problem, x0))
        error = result.weights.log() - problem.cost.weights.detach().log()
        assert float((error if terminal else error - error.mean()).abs().max()) < 1e-4
        assert result.report.identifiable.invisible == (0 if terminal else 1)


@pytest.mark.parametrize("learner", LEARNERS)
def test_single_precision_comes_in_and_double_precision_goes_out(learner):
    """Of the plant, of the cost and of demonstrations that were planned in it."""
    problem, x0 = random_problem(0, n=2, m=1, horizon=10, number=3)
    truth, f = problem.cost.weights.detach(), problem.dynamics
    single = replace(
        problem, dynamics=LinearDynamics(f.A.float(), f.B.float()), cost=copy.deepcopy(problem.cost).float()
    )
    shown = demonstrated(single, x0.float())
    start = guess(problem).float()
    result = learner().learn(single, start, shown)
    assert result.converged
    assert result.weights.dtype == DOUBLE
    assert {p.dtype for p in result.cost.parameters()} == {DOUBLE}
    assert {p.dtype for p in start.parameters()} == {torch.float32}  # and has stayed what it was
    torch.testing.assert_close(result.weights, truth, rtol=1e-4, atol=0.0)
    of_cost_alone = learner().learn(problem, start, demonstrated(problem, x0))
    assert torch.equal(
        of_cost_alone.weights, learner().learn(problem, guess(problem), demonstrated(problem, x0)).weights
    )


class Single(Dynamics):
    """A pendulum in single precision, as a network is one."""

    def __init__(self, gain=None):
        super().__init__(2, 1, Pendulum().dt)
        self.plant, self.gain = Pendulum().float(), gain

    def forward(self, x, u, t=None):
        x_next = self.plant(x.float(), u.float(), t).to(x)
        return x_next if self.gain is None else self.gain.to(x) * x_next


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_model_that_computes_in_single_precision(learner):
    truth, start = pendulum(), pendulum((0.5, 0.5, 0.5)).cost
    network = Single(torch.nn.Parameter(torch.ones(())))
    shown = demonstrated(truth, STARTS, DDP(tolerance=1e-10))
    result = learner().learn(replace(truth, dynamics=network), start, shown)
    assert result.converged
    assert result.weights.dtype == DOUBLE
    torch.testing.assert_close(result.weights, truth.cost.weights.detach(), rtol=1e-3, atol=0.0)


def test_what_has_no_derivatives_is_not_converged():
    """Single precision that no parameter shows: no plan is as exact as is asked for, and nothing is learned."""
    problem = replace(pendulum(), dynamics=Single())
    result = MPCInverse().learn(problem, pendulum((0.5, 0.5, 0.5)).cost, demonstrated(pendulum(), STARTS, DDP()))
    assert not result.converged
    assert result.report.invalid_plans == 3
    assert "3 plans have no derivatives" in str(result.report)


@pytest.mark.parametrize("learner", LEARNERS)
def test_two_names_for_the_same_feature_are_one_direction_that_does_not_show(learner):
    problem = pendulum(horizon=5)
    double = LinearFeatureCost(
        lambda x, u, t: torch.cat([pendulum_features(x, u, t), pendulum_features(x, u, t)[..., 2:]], -1),
        [0.9, 0.4, 0.05, 0.05],
        known=problem.cost.known,
    )
    result = learner().learn(problem, double, demonstrated(problem, STARTS, DDP(tolerance=1e-10)))
    assert result.report.identifiable.invisible == 1
    first, second, *same = result.weights.tolist()
    assert [first, second, sum(same)] == pytest.approx([1.0, 0.3, 0.1], rel=1e-4)


@pytest.mark.parametrize("learner", LEARNERS)
def test_controls_at_limits_are_explained_by_the_limits(learner):
    problem = pendulum(limit=1.2, horizon=8)
    demonstrations = demonstrated(problem, STARTS, DDP(tolerance=1e-10))
    held = sum(int((abs(d.controls) == 1.2).sum()) for d in demonstrations)
    assert 3 <= held <= 18
    cost = LinearFeatureCost(pendulum_features, [0.8, 0.4, 0.15], known=problem.cost.known)
    result = learner().learn(problem, cost, demonstrations)
    assert result.weights.tolist() == pytest.approx([1.0, 0.3, 0.1], rel=1e-4)
    if learner is KKTInverse:
        assert result.report.at_limits == held
        assert result.report.residual < 1e-6
        free = KKTInverse().learn(pendulum(horizon=8), cost, demonstrations)  # the limits are not known
        assert free.report.residual > 1e-2


# --- optimality conditions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("kind", ["linear", "quadrotor"])
def test_gradients_of_terms_are_those_of_autograd_through_rollouts(kind, discount):
    generator = torch.Generator().manual_seed(0)
    if kind == "linear":
        problem, x0 = random_problem(0, horizon=4, number=2)
        us = torch.randn(2, 4, 2, generator=generator, dtype=DOUBLE)
    else:
        f = Quadrotor()
        cost = LinearFeatureCost(
            lambda x, u, t: torch.stack([x.square().sum(-1), u.square().sum(-1)], -1),
            [1.0, 2.0],
            lambda x: torch.stack([x[..., 3] * x[..., 4], 0.0 * x[..., 0]], -1),
        )
        problem = Problem(f, cost, 3)
        x0 = torch.zeros(1, f.state_dim, dtype=DOUBLE)
        x0[:, 3] = 1.0
        us = 2.0 + 0.1 * torch.randn(1, 3, f.control_dim, generator=generator, dtype=DOUBLE)
    problem = Problem(problem.dynamics, problem.cost, problem.horizon, discount=discount)
    G, g = control_gradients(problem, problem.cost, problem.dynamics.rollout(x0, us), us)
    w = torch.rand(problem.cost.weights.shape, generator=generator, dtype=DOUBLE)

    us = us.requires_grad_()
    weighted = Problem(problem.dynamics, problem.cost.with_weights(w), problem.horizon, discount=discount)
    total = weighted.trajectory_cost(problem.dynamics.rollout(x0, us), us).sum()
    (gradient,) = torch.autograd.grad(total, us)
    torch.testing.assert_close(G @ w + g, gradient, rtol=1e-10, atol=1e-10)


def test_noisy_demonstrations_have_the_least_residual_of_all_weights_of_that_sum():
    """Against SciPy's bounded least squares, in which the sum is a row of a large weight."""
    problem, x0 = random_problem(2, n=3, m=1, horizon=6, number=4, terminal=False)
    noise = np.random.default_rng(0)
    noisy = []
    for d in demonstrated(problem, x0):
        us = torch.as_tensor(d.controls + 0.3 * noise.standard_normal(d.controls.shape))
        xs = problem.dynamics.rollout(torch.as_tensor(d.states[0].copy()), us).numpy()
        noisy.append(Trajectory(xs, us.numpy(), states=xs, dt=1.0))
    result = KKTInverse().learn(problem, guess(problem), noisy)
    xs, us = (torch.as_tensor(np.stack([getattr(d, name) for d in noisy])) for name in ("states", "controls"))
    G = control_gradients(problem, problem.cost, xs, us)[0].detach().flatten(0, 2).numpy()
    stacked = np.vstack([G, 1e6 * np.ones((1, 4))])
    other = lsq_linear(stacked, np.r_[np.zeros(len(G)), 4e6], bounds=(0.0, np.inf), tol=1e-14, method="bvls")
    np.testing.assert_allclose(result.weights.numpy(), other.x, rtol=1e-5, atol=1e-8)
    assert result.weights.sum().item() == pytest.approx(4.0)
    assert result.report.residual > 1e-3


def test_a_feature_that_nobody_avoids_gets_no_weight_and_the_cost_plans():
    problem = pendulum(horizon=6)

    def features(x, u, t):
        return torch.cat([pendulum_features(x, u, t), (x[..., :1] - 3.0).square()], dim=-1)

    cost = LinearFeatureCost(features, [1.0, 1.0, 1.0, 1.0], known=problem.cost.known)
    demonstrations = demonstrated(problem, STARTS, DDP(tolerance=1e-10))
    result = KKTInverse().learn(problem, cost, demonstrations)
    assert result.weights.tolist() == pytest.approx([1.0, 0.3, 0.1, 0.0], rel=1e-4, abs=1e-5)
    plan = solve(Problem(Pendulum(), result.cost, 6), DDP(tolerance=1e-10), STARTS)
    expected = torch.as_tensor(np.stack([d.controls for d in demonstrations]))
    torch.testing.assert_close(plan.us, expected, rtol=1e-4, atol=1e-5)


def test_conditions_need_a_sum_of_weights():
    problem, x0 = random_problem(0, n=2, m=1, horizon=3, number=1, terminal=False)
    cost = LinearFeatureCost(lambda x, u, t: torch.cat([x, u], -1), [1.0, -1.0, 0.0], positive=False)
    with pytest.raises(ValueError, match=r"positive sum, which sets their factor, got 0\.0"):
        KKTInverse().learn(problem, cost, demonstrated(problem, x0))


# --- through plans ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("imitated", [None, 2])
def test_the_jacobian_is_that_of_finite_differences(imitated):
    """With controls at their limits, among those that are imitated, too."""
    from mbrl.irl.cost_learner import Demonstrated
    from mbrl.irl.mpc_inverse import _Plans

    problem = pendulum(limit=1.2, horizon=6)
    demonstrations = demonstrated(problem, STARTS, DDP(tolerance=1e-10))
    given = Demonstrated.of(
        problem, problem.cost, demonstrations, accepted=DDP.supports, learner="MPCInverse", other=""
    )
    plans = _Plans(MPCInverse(imitated=imitated), given, problem.cost)
    theta, h = problem.cost.weights.detach().log() + 0.1, 1e-4
    plans.errors(theta)
    J = plans.jacobian(theta)
    K = imitated or 6
    held = plans.of(theta).point.us[:, :K].abs() == 1.2
    assert 0 < int(held.sum()) < 3 * K
    assert J.shape == (3, K, 3)
    assert not bool(J[held.squeeze(-1)].any())
    for k in range(3):
        step = torch.zeros(3, dtype=DOUBLE)
        step[k] = h
        difference = (plans.errors(theta + step) - plans.errors(theta - step)) / (2 * h)
        torch.testing.assert_close(J[..., k], difference, rtol=1e-4, atol=1e-6)


def test_demonstrations_that_no_weights_explain_end_the_search_at_a_minimum():
    problem = pendulum(horizon=5)
    demonstrations = demonstrated(problem, STARTS[:2], DDP(tolerance=1e-10))
    shifted = [d.replace(controls=d.controls + 0.05 * np.cos(np.arange(5.0))[:, None]) for d in demonstrations]
    result = MPCInverse(tolerance=1e-7).learn(problem, problem.cost, shifted)
    losses = result.history["loss"]
    assert result.converged
    assert losses == sorted(losses, reverse=True)
    assert result.report.loss > 1e-5
    assert result.report.prediction_error > 1e-3  # the states are those without the shift


@pytest.mark.slow  # 5 s each
@pytest.mark.parametrize("system", ["cart-pole", "planar quadrotor"])
def test_nonlinear_systems_are_imitated(system):
    generator = torch.Generator().manual_seed(0)
    if system == "cart-pole":
        f, limits, rest = CartPole(0.05), (-6.0, 6.0), torch.zeros(1, dtype=DOUBLE)
        truth, last = [2.0, 4.0, 0.2, 0.2, 0.2], [2.0, 4.0, 0.2, 0.2]
        x0 = 0.3 * torch.randn(3, 4, generator=generator, dtype=DOUBLE)
    else:
        f, limits = PlanarQuadrotor(0.05), (0.0, 6.0)
        rest = f.hover_control.double()
        truth, last = [2.0, 3.0, 0.5, 0.2, 0.3, 0.1, 0.2, 0.4], [2.0, 2.0, 0.2, 0.2, 0.2, 0.2]
        x0 = 0.3 * torch.randn(3, 6, generator=generator, dtype=DOUBLE)

    def features(x, u, t):
        return 0.5 * torch.cat([x, u - rest], dim=-1).square()

    known = last_state(torch.diag(torch.tensor(last, dtype=DOUBLE)), len(rest))
    problem = Problem(f, LinearFeatureCost(features, truth, known=known), 15, control_limits=limits)
    demonstrations = demonstrated(problem, x0, DDP(tolerance=1e-9))
    cost = LinearFeatureCost(features, [1.0] * len(truth), known=known)
    result = MPCInverse().learn(problem, cost, demonstrations)
    assert result.report.loss < 1e-4
    assert result.report.invalid_plans == 0
    assert result.weights.tolist() == pytest.approx(truth, rel=1e-3)


def test_a_first_guess_without_a_plan_is_refused():
    problem = pendulum(horizon=4)
    demonstrations = demonstrated(problem, STARTS, DDP())
    cost = LinearFeatureCost(lambda x, u, t: (-1.0 - x[..., :1].square()).sqrt(), [1.0])
    with pytest.raises(ValueError, match="there is no plan for some demonstration"):
        MPCInverse().learn(problem, cost, demonstrations)


def test_any_planner_finds_the_same_weights():
    """Derivatives are those of the problem, and no matter of who solves it."""
    problem, x0 = random_problem(0, n=2, m=1, horizon=3, number=4)
    demonstrations = demonstrated(problem, x0)
    found = [MPCInverse(planner=planner).learn(problem, guess(problem), demonstrations) for planner in (LQR(), DDP())]
    assert found[0].report.loss < 1e-10
    assert found[0].weights.tolist() == pytest.approx(found[1].weights.tolist(), rel=1e-5)


def test_a_demonstrator_of_longer_sight_is_imitated_in_its_first_steps():
    """Plans of 5 steps of one of 30: its first control is a better guide than its last, which looks beyond them."""
    truth = LinearFeatureCost(pendulum_features, [1.0, 0.3, 0.1])
    problem = replace(pendulum(horizon=30), cost=truth)
    pieces = [d.slice(0, 5) for d in demonstrated(problem, STARTS, DDP(tolerance=1e-10))]
    short, cost = replace(problem, horizon=5), LinearFeatureCost(pendulum_features, [1.0, 1.0, 1.0])
    losses = [MPCInverse(imitated=k).learn(short, cost, pieces).report.loss for k in (1, 5, None)]
    assert losses[0] < 0.1 * losses[1]
    assert losses[1] == losses[2]
    with pytest.raises(ValueError, match="plans have 5 steps, of which imitated=6 cannot be compared"):
        MPCInverse(imitated=6).learn(short, cost, pieces)


def test_an_approximate_jacobian_finds_the_weights_that_reproduce_demonstrations():
    """Without the second derivatives of the dynamics steps are others, and what is reproduced is the same."""
    problem = pendulum()
    demonstrations = demonstrated(problem, 0.5 * STARTS, DDP(tolerance=1e-10))
    guessed = LinearFeatureCost(pendulum_features, [0.9, 0.4, 0.2], known=problem.cost.known)
    found = MPCInverse(curvature="gauss-newton", tolerance=1e-10).learn(problem, guessed, demonstrations)
    assert found.report.loss < 1e-9
    assert found.weights.tolist() == pytest.approx([1.0, 0.3, 0.1], rel=1e-3)


def test_plans_that_are_differentiated_are_those_that_count_as_valid():
    """In single precision no plan is as exact as is asked for; without second derivatives they are good enough."""
    problem, shown = replace(pendulum(), dynamics=Single()), demonstrated(pendulum(), STARTS, DDP())
    found = MPCInverse(curvature="gauss-newton").learn(problem, pendulum((0.5, 0.5, 0.5)).cost, shown)
    assert found.converged
    assert found.report.loss < 1e-9
    assert found.report.invalid_plans == 0
    assert "0 plans have no derivatives" in str(found.report)


def test_a_step_that_fails_along_approximate_derivatives_is_no_convergence():
    """At its end the exact derivative of the loss is not zero, and exact steps go on from there."""
    problem = pendulum(horizon=5)
    shown = demonstrated(problem, 4.0 * STARTS[:2], DDP(tolerance=1e-10))
    shown = [d.replace(controls=d.controls + 0.5 * np.cos(np.arange(5.0))[:, None]) for d in shown]
    found = {}
    for curvature in ("gauss-newton", "exact"):
        search = MPCInverse(curvature=curvature).search(problem, problem.cost, shown)
        while not search.finished:
            before = len(search.history["loss"])
            search.advance()
        found[curvature] = search.learned()
        if curvature == "gauss-newton":
            assert len(search.history["loss"]) == before  # the last step failed
    assert not found["gauss-newton"].converged
    assert found["exact"].converged
    assert found["exact"].report.loss < found["gauss-newton"].report.loss


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", LEARNERS)
def test_costs_that_are_not_linear_in_weights_are_refused(learner):
    problem, x0 = random_problem(0, n=2, m=1, horizon=3, number=1)
    with pytest.raises(TypeError, match=r"linear in weights.*got GoalCost; LaplaceIRL learns any parameters"):
        learner().learn(problem, GoalCost(0.0, 1.0, 1.0), demonstrated(problem, x0))


@pytest.mark.parametrize("learner", [*LEARNERS, LaplaceIRL])
def test_what_learners_cannot_take_account_of_is_refused(learner):
    problem, x0 = random_problem(0, n=2, m=1, horizon=3, number=1)
    demonstrations = demonstrated(problem, x0)
    with pytest.raises(ValueError, match="horizon of the problem is 5: set horizon=3"):
        learner().learn(Problem(problem.dynamics, problem.cost, 5), guess(problem), demonstrations)
    ended = Problem(problem.dynamics, problem.cost, 3, termination=lambda x: x[..., 0] > 1e3)
    with pytest.raises(ValueError, match="cannot take account of termination"):
        learner().learn(ended, guess(problem), demonstrations)
    if learner is KKTInverse:
        constrained = Problem(problem.dynamics, problem.cost, 3, constraints=[StateLimits(-1e3, 1e3)])
        with pytest.raises(ValueError, match="constraints; MPCInverse plans with constraints"):
            learner().learn(constrained, guess(problem), demonstrations)


@pytest.mark.parametrize("learner", [*LEARNERS, LaplaceIRL])
def test_a_task_has_the_horizon_of_the_demonstrations(learner):
    task = pendulum_swing_up(backend="torch")
    truth = LinearFeatureCost(pendulum_features, [1.0, 0.3, 0.1])
    problem = replace(task.problem(horizon=4), cost=truth, control_limits=None)
    demonstrations = demonstrated(problem, 0.5 * STARTS, DDP(tolerance=1e-10))
    result = learner().learn(task, LinearFeatureCost(pendulum_features, [0.9, 0.4, 0.2]), demonstrations)
    ratios = (result.weights / result.weights[0]).tolist()
    assert ratios == pytest.approx([1.0, 0.3, 0.1], rel=1e-4)


def test_plants_without_second_derivatives_need_another_curvature():
    problem = pendulum(horizon=3)
    numeric = Pendulum()
    numeric.derivatives = "finite-difference"
    demonstrations = demonstrated(problem, STARTS, DDP(tolerance=1e-10))
    problem = replace(problem, dynamics=numeric)
    with pytest.raises(ValueError, match=r"Pendulum has no exact second derivatives; choose curvature='finite-differ"):
        MPCInverse().learn(problem, problem.cost, demonstrations)
    found = MPCInverse(curvature="finite-difference").learn(problem, problem.cost, demonstrations)
    assert found.report.loss < 1e-8


def test_weights_of_plans_are_positive():
    problem, x0 = random_problem(0, n=2, m=1, horizon=3, number=1)
    cost = LinearFeatureCost(lambda x, u, t: torch.cat([x, u], -1), [1.0, -1.0, 0.0], positive=False)
    with pytest.raises(ValueError, match="must be positive, got"):
        MPCInverse().learn(problem, cost, demonstrated(problem, x0))


@pytest.mark.parametrize(
    ("learner", "settings"),
    [
        (MPCInverse, {"max_iterations": 0}),
        (MPCInverse, {"tolerance": 0.0}),
        (MPCInverse, {"max_change": -1.0}),
        (MPCInverse, {"rank_tolerance": math.inf}),
        (MPCInverse, {"curvature": "none"}),
        (KKTInverse, {"limit_tolerance": -1.0}),
        (KKTInverse, {"rank_tolerance": 0.0}),
    ],
)
def test_settings_are_checked(learner, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        learner(**settings)
