"""The problems of other libraries are the problems meant: initial guesses cost what is published, in torch and in numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import BoundedLinearQuadratic, optimality, optimum_by_slsqp
from reference_problems import (
    affine_lqr,
    balancing_cart_pole,
    bounded_lqr,
    car_parking,
    complex_step,
    raised_pendulum,
    seen_cart_pole,
    seen_pendulum,
    swinging_cart_pole,
    unicycle,
    unicycle_around_disc,
)

PROBLEMS = {
    "bounded LQR": bounded_lqr,
    "car parking": car_parking,
    "car parking, seed 1": lambda: car_parking(1),
    "unicycle": unicycle,
    "unicycle, 200 steps": lambda: unicycle(200),
    "balancing": balancing_cart_pole,
    "swinging": swinging_cart_pole,
    "around a disc": unicycle_around_disc,
    "raised pendulum": raised_pendulum,
    "seen pendulum": seen_pendulum,
    "seen cart-pole": seen_cart_pole,
    "affine LQR": lambda: affine_lqr(12, 4),
}
INITIAL_COSTS = {  # as published, to half a unit of the last digit
    "car parking": (5.7086, 5e-5),
    "car parking, seed 1": (5.9152, 5e-5),
    "unicycle": (3150.0, 1e-9),
    "unicycle, 200 steps": (10050.0, 1e-9),
    "balancing": (22.447931012, 5e-10),
    "swinging": (20099.99385, 5e-6),
}


@pytest.mark.parametrize("name", INITIAL_COSTS)
def test_initial_guesses_cost_what_is_published(name):
    reference, (published, digits) = PROBLEMS[name](), INITIAL_COSTS[name]
    assert float(reference.start().cost) == pytest.approx(published, abs=digits, rel=0)
    assert float(reference.initial_cost) == pytest.approx(published, abs=digits, rel=0)


def test_the_bounded_lqr_is_the_published_one():
    reference = bounded_lqr()
    A = reference.problem.dynamics.A
    assert float(A[0, 0]) == pytest.approx(1.0993428306, abs=5e-11)
    assert float(torch.linalg.eigvals(A).abs().max()) == pytest.approx(1.5417, abs=5e-5)
    assert torch.equal(bounded_lqr(128).x0[:32], reference.x0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_torch_and_numpy_state_the_same_problem(name):
    reference = PROBLEMS[name]()
    problem, random = reference.problem, np.random.default_rng(0)
    us = torch.from_numpy(0.3 * random.standard_normal(reference.us0.shape))
    xs = problem.dynamics.rollout(reference.x0, us)
    cost, _ = reference.evaluate(us)
    np.testing.assert_allclose(problem.trajectory_cost(xs, us).numpy(), cost, rtol=1e-11)
    np.testing.assert_allclose(xs, reference.formula.rollout(reference.x0.numpy(), us.numpy()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_of_the_formula_are_those_of_autograd(name):
    reference = PROBLEMS[name]()
    x0, us = (v.reshape(-1, *v.shape[-k:])[0] for v, k in ((reference.x0, 1), (reference.us0, 2)))
    us = (us + 0.1).requires_grad_()
    reference.problem.trajectory_cost(reference.problem.dynamics.rollout(x0, us), us).backward()
    gradient = reference.formula.gradient(x0.numpy(), us.detach().numpy())
    np.testing.assert_allclose(gradient, us.grad, rtol=1e-9, atol=1e-9 * float(us.grad.abs().max()))


def test_complex_steps_differentiate_vectors_and_scalars():
    z = np.array([[0.3, -1.2], [2.0, 0.7]])
    np.testing.assert_allclose(complex_step(lambda rows: np.sin(rows).sum((-2, -1)), z), np.cos(z), rtol=1e-15)
    by_rows = complex_step(lambda rows: (rows**2).sum(-1), z)
    np.testing.assert_allclose(by_rows, [2 * z * [[1.0], [0.0]], 2 * z * [[0.0], [1.0]]], rtol=1e-15)


def test_the_residual_counts_only_what_limits_leave_free():
    reference = bounded_lqr(1, limit=1.0)
    formula, x0 = reference.formula, reference.x0[0].numpy()
    us = np.ones((20, 4))
    outward = formula.gradient(x0, us) < 0
    expected = np.where(outward, 0.0, np.minimum(formula.gradient(x0, us), 2.0)).max()
    assert formula.residual(x0, us) == pytest.approx(expected)


def test_the_long_unicycle_drives_straight_so_its_optimum_is_a_scalar_riccati_equation():
    P = 100.0
    for _ in range(200):
        P = 100.0 + P - (0.1 * P) ** 2 / (1.0 + 0.01 * P)
    reference = unicycle(200)
    optimum = pytest.approx(float(reference.optimal_cost), rel=1e-13)
    assert optimum == 0.5 * P
    assert optimum == 25.0 * (1.0 + math.sqrt(5.0))


@pytest.mark.parametrize("make", [unicycle_around_disc, pytest.param(raised_pendulum, marks=pytest.mark.slow)])
def test_constrained_optima_are_scipys_and_meet_the_optimality_conditions(make):
    reference = make()
    x0, us0 = reference.x0.numpy(), reference.us0.numpy()
    us = optimum_by_slsqp(reference.formula, x0, us0)
    assert float(reference.formula.cost(x0, us)) == pytest.approx(float(reference.optimal_cost), rel=2e-11)
    residual, violation = optimality(reference.formula, x0, us)
    assert residual < 1e-4  # of gradients up to 1e2
    assert violation < 1e-10
    plan = torch.from_numpy(us)
    xs = reference.problem.dynamics.rollout(reference.x0, plan)
    assert all(float(v) < 1e-9 for v in reference.problem.violations(xs, plan).values())


@pytest.mark.parametrize("make", [unicycle_around_disc, raised_pendulum])
def test_constraints_count_at_the_constrained_optimum(make):
    reference = make()
    free = replace(reference.formula, inequality=None, terminal_equality=None)
    us = optimum_by_slsqp(free, reference.x0.numpy(), reference.us0.numpy())
    assert float(free.cost(reference.x0.numpy(), us)) < 0.9 * float(reference.optimal_cost)
    assert optimality(reference.formula, reference.x0.numpy(), us)[1] > 0.01


def test_slsqp_finds_the_published_optimum_of_the_unicycle():
    reference = unicycle()
    us = optimum_by_slsqp(reference.formula, reference.x0.numpy(), reference.us0.numpy())
    assert float(reference.formula.cost(reference.x0.numpy(), us)) == pytest.approx(249.560897931, abs=5e-10)
    np.testing.assert_allclose(us[0], [9.419478, -5.604502], atol=5e-7)


def linear_quadratic(reference):
    dynamics, limit = reference.problem.dynamics, reference.formula.upper
    return BoundedLinearQuadratic(*(getattr(dynamics, name).numpy() for name in "ABb"), 20, limit)


@pytest.mark.parametrize("limit", [1e4, 1.0])
def test_the_bounded_lqr_has_its_published_optimum(limit):
    reference = bounded_lqr(32, limit)
    program = linear_quadratic(reference)
    plans = np.stack([program.solve(x0, np.zeros(8)) for x0 in reference.x0.numpy()])
    cost, residual = reference.evaluate(plans)
    np.testing.assert_allclose(cost[:2], reference.optimal_cost, rtol=0, atol=1e-9)
    assert cost.sum() == pytest.approx({1e4: 2073.60322239, 1.0: 2933.26757382}[limit], abs=5e-9)
    first = {1e4: (-2.131651, 0.909898, 0.442298, -0.476020), 1.0: (-1.0, 0.953027, 0.159043, -0.813287)}[limit]
    np.testing.assert_allclose(plans[0, 0], first, atol=5e-7)
    if limit == 1.0:
        assert np.mean(np.abs(plans) == 1.0) == pytest.approx(0.0703, abs=5e-5)
    assert residual.max() < 1e-6  # of gradients up to 1e8 at the initial guess


def test_its_gradients_are_those_of_finite_differences():
    reference = bounded_lqr(3, 1.0)
    program = linear_quadratic(reference)
    random, h = np.random.default_rng(0), 1e-6
    for x0 in reference.x0.numpy():
        weights, direction = random.standard_normal((20, 4)), random.standard_normal(8)
        by_x0, by_q = program.gradient(program.solve(x0, np.zeros(8)), weights)
        change = program.solve(x0 + h * direction, np.zeros(8)) - program.solve(x0 - h * direction, np.zeros(8))
        assert by_x0 @ direction == pytest.approx((weights * change).sum() / (2 * h), rel=1e-6)
        change = program.solve(x0, h * direction) - program.solve(x0, -h * direction)
        assert by_q @ direction == pytest.approx((weights * change).sum() / (2 * h), rel=1e-6)
