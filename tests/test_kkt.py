"""Certificates of plans, and Newton steps on the optimality conditions, against scipy and closed forms."""

import math

import pytest
import torch

from dynamics import LinearDynamics, Pendulum, TorchDynamics
from planners import (
    DDP,
    Certificate,
    GoalCost,
    Inequality,
    Problem,
    QuadraticCost,
    Slack,
    StateLimits,
    TerminalState,
    solve,
)
from planners.kkt import Conditions, certified, polished

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def unicycle_step(x, u):
    heading = x[..., 2]
    return x + 0.1 * torch.stack([u[..., 0] * torch.cos(heading), u[..., 0] * torch.sin(heading), u[..., 1]], dim=-1)


def unicycle(T=10, **fields):
    eye = torch.eye(3, dtype=F64)
    cost = QuadraticCost(10.0 * eye, eye[:2, :2], Q_terminal=10.0 * eye)
    return Problem(TorchDynamics(unicycle_step, 3, 2, dt=0.1), cost, T, **fields)


X0 = tensor(-1.0, -1.0, 0.7)
PROBLEMS = {
    "free": {},
    "limits": {"control_limits": (-3.0, 3.0)},
    "state limits": {"constraints": [StateLimits(-4.0, tensor(0.5, -0.3, 0.8))]},
    "a product": {"constraints": [Inequality(lambda x, u, t: -u[..., :1] * u[..., 1:] - 0.5)]},
    "a goal": {"terminal_constraints": [TerminalState([0.1, 0.2], states=[0, 1])], "control_limits": (-4.0, 4.0)},
    "soft": {"terminal_constraints": [TerminalState([0.1, 0.2, 0.0], soft=Slack(1.0, 5.0))], "discount": 0.9},
}


def conditions_of(solution, exact=True):
    conditions = Conditions(solution.problem, solution.xs, solution.us, solution.t0, exact=exact)
    return conditions, conditions.start(solution.xs, solution.us, solution.multipliers)


def moved(conditions, point, seed, size):
    """A plan nearby, its states those of its controls, within the limits."""
    us = point.us + size * draw(seed, *point.us.shape)
    us = torch.minimum(torch.maximum(us, conditions.lower), conditions.upper)
    xs = conditions.problem.dynamics.rollout(point.xs[..., 0, :], us)
    return type(point)(xs, us, point.y, point.y_T)


@pytest.mark.parametrize("name", PROBLEMS)
@torch.no_grad()
def test_optima_are_certified_and_what_is_near_is_not(name):
    solution = solve(unicycle(**PROBLEMS[name]), DDP(tolerance=1e-9), X0)
    assert isinstance(solution.certificate, Certificate)
    assert bool(solution.certificate.optimal)
    assert float(solution.certificate.residual) < 1e-8
    conditions, point = conditions_of(solution)
    for size in (1e-2, 1e-4):
        certificate, _, _ = certified(conditions, moved(conditions, point, 0, size), tolerance=1e-7)
        assert not bool(certificate.optimal)
        assert 1e-3 * size < float(certificate.residual) < 1e2 * size


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_newton_steps_lead_back_quadratically(name, seed):
    solution = solve(unicycle(**PROBLEMS[name]), DDP(tolerance=1e-9), X0)
    conditions, point = conditions_of(solution)
    start = moved(conditions, point, seed, 1e-3)
    residuals = [float(polished(conditions, start, tolerance=1e-13, max_iterations=k)[1]) for k in range(4)]
    assert residuals[0] > 1e-5
    assert residuals[2] < 1e-9
    found, residual = polished(conditions, start, tolerance=1e-13)
    assert float(residual) < 1e-11
    assert torch.allclose(found.us, polished(conditions, point, tolerance=1e-13)[0].us, atol=1e-10)
    assert torch.equal(found.xs, solution.problem.dynamics.rollout(X0, found.us))


def test_a_point_that_nothing_improves_stays():
    solution = solve(unicycle(), DDP(), X0)
    conditions, point = conditions_of(solution)
    broken = type(point)(point.xs * math.nan, point.us * math.nan, point.y, point.y_T)
    found, residual = polished(conditions, broken, tolerance=1e-9)
    assert bool(found.us.isnan().all())
    assert math.isinf(float(residual))


@torch.no_grad()
def test_elements_do_not_touch_each_other():
    x0 = draw(0, 4, 3)
    problem = unicycle(**PROBLEMS["state limits"])
    solution = solve(problem, DDP(tolerance=1e-4), x0, throw=False)
    conditions, point = conditions_of(solution)
    together, _ = polished(conditions, point, tolerance=1e-12)
    for i in range(4):
        one, start = conditions_of(solve(problem, DDP(tolerance=1e-4), x0[i], throw=False))
        assert torch.allclose(polished(one, start, tolerance=1e-12)[0].us, together.us[i], atol=1e-9)


@pytest.mark.parametrize("exact", [True, False])
@torch.no_grad()
def test_a_hanging_pendulum_that_shall_stand_is_at_a_saddle(exact):
    """No torque is stationary there; the Gauss-Newton model takes it for a minimum."""
    cost = GoalCost([0.0, 0.0], [1.0, 0.1], [0.01], [10.0, 0.1], angles=[0])
    problem = Problem(Pendulum(), cost, 20)
    us = torch.zeros(20, 1, dtype=F64)
    xs = problem.dynamics.rollout(tensor(math.pi, 0.0), us)
    conditions = Conditions(problem, xs, us, 0, exact=exact)
    certificate, _, _ = certified(conditions, conditions.start(xs, us), tolerance=1e-9)
    assert float(certificate.residual) < 1e-9
    assert certificate.exact is exact
    assert bool(certificate.optimal) is not exact
    assert (float(certificate.curvature) < 0) is exact


@pytest.mark.parametrize("a", [0.3, 0.999, 1.001, 4.0])
def test_the_margin_is_the_distance_to_the_kink(a):
    """Of min (u - a)^2 / 2 within u <= 1: the slack 1 - a, or the multiplier a - 1."""
    eye = torch.eye(1, dtype=F64)
    for as_limit in (True, False):
        fields = {"control_limits": (-math.inf, 1.0)}
        if not as_limit:
            fields = {"constraints": [Inequality(lambda x, u, t: u - 1.0)]}
        problem = Problem(LinearDynamics(0 * eye, 0 * eye), QuadraticCost(0 * eye, eye, r=tensor(-a)), 1, **fields)
        solution = solve(problem, DDP(), tensor(0.0))
        assert float(solution.us) == pytest.approx(min(a, 1.0), abs=1e-9)
        assert float(solution.certificate.margin) == pytest.approx(abs(a - 1.0), abs=1e-8)
        assert bool(solution.certificate.gradient_valid)
        if not as_limit:
            assert float(solution.multipliers[0]) == pytest.approx(max(a - 1.0, 0.0), abs=1e-8)


@torch.no_grad()
def test_a_multiplier_of_the_wrong_sign_is_a_violation():
    """A control that a limit holds against its will is not optimal."""
    solution = solve(unicycle(), DDP(), X0)
    limited = unicycle(control_limits=(-3.0, 3.0))
    us = solution.us.clamp(-3.0, 3.0)
    us[-1] = 3.0  # where it shall be zero
    xs = limited.dynamics.rollout(X0, us)
    conditions = Conditions(limited, xs, us, 0, exact=True)
    certificate, _, _ = certified(conditions, conditions.start(xs, us), tolerance=1e-6)
    assert float(certificate.stationarity) > 0.1


def test_certificates_read_as_one_line():
    solution = solve(unicycle(**PROBLEMS["limits"]), DDP(), X0.expand(3, 3))
    assert str(solution.certificate).startswith("Certificate(optimal 3 of 3, residual ")
    assert repr(solution.certificate) == str(solution.certificate)
    empty = solve(unicycle(**PROBLEMS["limits"]), DDP(), X0.expand(0, 3)).certificate
    assert str(empty) == "Certificate(optimal 0 of 0, residual none, margin none)"
