"""Gradient shooting: gradients against differences, solutions against exact ones, batches against singles, and what fails."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dynamics import LinearDynamics, MujocoDynamics, Pendulum, TorchDynamics
from mbrl.tasks import pendulum_swing_up
from planners import (
    ICEM,
    LQR,
    FunctionCost,
    GoalCost,
    GradientShooting,
    Problem,
    QuadraticCost,
    StateLimits,
    Status,
    TransitionCost,
    Unrolled,
    solve,
)
from planners.descent import Box, Point, Rules, adam
from planners.lbfgs import Pairs, lbfgs
from planners.shooting import control_gradient
from planners.splines import KnotGrid


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


A = torch.tensor([[1.0, 0.2], [-0.1, 0.9]], dtype=torch.float64)
B = torch.tensor([[0.0], [0.3]], dtype=torch.float64)
COST = QuadraticCost(torch.eye(2).double(), 0.3 * torch.eye(1).double(), Q_terminal=2 * torch.eye(2).double())
X0 = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.5, -2.0], [2.0, 1.0]], dtype=torch.float64)
T = 8


def linear(cost=COST, **fields):
    return Problem(LinearDynamics(A, B, dt=0.1), cost, T, **fields)


def statuses(solution):
    return [Status(int(code)).name for code in solution.status.reshape(-1)]


# Gradients


class Differenced(TorchDynamics):
    """A torch system that says its derivatives are finite differences."""

    derivatives = "finite-difference"


def wheel(kind=TorchDynamics):
    """The unicycle of Crocoddyl."""

    def f(x, u):
        angle, advance = x[..., 2], 0.1 * u[..., 0]
        step = torch.stack([advance * torch.cos(angle), advance * torch.sin(angle), 0.1 * u[..., 1]], dim=-1)
        return x + step

    return kind(f, 3, 2, dt=0.1)


TUMBLING = """
<mujoco>
  <option timestep="0.02" integrator="implicitfast"/>
  <worldbody><body><joint type="ball" damping="0.1"/><geom type="capsule" size="0.05 0.3" pos="0.1 0 0.3"/></body></worldbody>
  <actuator><motor joint="joint" gear="1 0.5 0"/></actuator>
</mujoco>
""".replace('<joint type="ball"', '<joint name="joint" type="ball"')


def differences(problem, x0, us, t0, step=1e-5):
    """The gradient of the cost by the controls, one central difference for each number."""
    gradient = torch.zeros_like(us)
    for index in np.ndindex(*us.shape[-2:]):
        moved = torch.zeros_like(us)
        moved[(..., *index)] = step
        up, down = (
            problem.trajectory_cost(problem.dynamics.rollout(x0, v, t0), v, t0=t0) for v in (us + moved, us - moved)
        )
        gradient[(..., *index)] = (up - down) / (2 * step)
    return gradient


GRADIENTS = {
    "transitions, discount and value": Problem(
        Pendulum(0.1),
        TransitionCost(lambda x, u, y, t: (1 + 0.1 * t) * torch.sin(x * y).sum(-1) + u.square().sum(-1)),
        6,
        discount=0.9,
        terminal_value=lambda x: x.square().sum(-1),
    ),
    "termination": Problem(
        Pendulum(0.1), GoalCost(0.0, 1.0, 0.1), 6, termination=lambda x: x[..., 0] > 1.05, termination_cost=3.0
    ),
    "finite differences": Problem(wheel(Differenced), GoalCost([1.0, 0.0, 0.5], 1.0, 0.1, 2.0), 6, discount=0.9),
    "transitions of finite differences": Problem(
        wheel(Differenced), TransitionCost(lambda x, u, y, t: (x * y).sum(-1) + t * u.square().sum(-1)), 5
    ),
    "MuJoCo": Problem(MujocoDynamics(Pendulum().mjcf()), GoalCost(0.0, 1.0, 0.1, 5.0), 6),
    "MuJoCo with quaternions": Problem(
        MujocoDynamics(TUMBLING),
        FunctionCost(
            lambda x, u, t: (x[..., 1] * x[..., 2]) + u.square().sum(-1), lambda x: x[..., 0] + x[..., 5] ** 2
        ),
        5,
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_equals_differences_of_the_cost(name):
    problem = GRADIENTS[name]
    n, m = problem.dynamics.state_dim, problem.dynamics.control_dim
    x0, us = 0.7 * normal(3, n, seed=1), normal(3, problem.horizon, m, seed=2)
    if n == 7:
        x0[..., :4] /= x0[..., :4].norm(dim=-1, keepdim=True)
    with torch.no_grad():
        cost, gradient = control_gradient(problem, x0, us, 2)
    torch.testing.assert_close(cost, problem.trajectory_cost(problem.dynamics.rollout(x0, us, 2), us, t0=2))
    torch.testing.assert_close(gradient, differences(problem, x0, us, 2), rtol=1e-6, atol=1e-6)
    assert not gradient.requires_grad


def test_both_kinds_of_gradient_agree():
    x0, us = normal(3, 3), normal(3, 6, 2, seed=1)
    cost = GoalCost([1.0, 0.0, 0.5], 1.0, 0.1, 2.0)
    by_autograd, by_adjoint = (
        control_gradient(Problem(wheel(kind), cost, 6), x0, us) for kind in (TorchDynamics, Differenced)
    )
    torch.testing.assert_close(by_adjoint, by_autograd, rtol=1e-8, atol=1e-8)


def test_inference_mode_is_an_error():
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        solve(linear(), GradientShooting(), X0)


# The curvature model


def dense_inverse(s, y, gamma):
    """The inverse BFGS matrix by its definition (Nocedal and Wright 2006, equation 6.17)."""
    eye = torch.eye(len(s[0]), dtype=torch.float64)
    H = gamma * eye
    for a, b in zip(s, y, strict=True):
        rho = 1.0 / (a @ b)
        V = eye - rho * torch.outer(b, a)
        H = V.T @ H @ V + rho * torch.outer(a, a)
    return H


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_the_metric_is_the_one_of_bfgs(steps):
    M, N = 4, 6
    root = normal(N, N, seed=3)
    hessian = root @ root.T + torch.eye(N, dtype=torch.float64)
    s = normal(steps, 2, 3, 2, seed=4)
    y = (s.flatten(-2) @ hessian).reshape(s.shape)
    pairs = Pairs.none(s[0], M)
    for a, b in zip(s, y, strict=True):
        pairs = pairs.joined(a, b, 1e-16)
    g, free = normal(2, 3, 2, seed=5), torch.ones(2, 3, 2, dtype=torch.bool)
    free[1, 0, 0] = free[1, 2, 1] = False
    found = pairs.times(g, free, torch.ones(2).double())
    for i in range(2):
        kept = free[i].flatten()
        last_s, last_y = (v[-M:, i].flatten(-2)[:, kept] for v in (s, y))
        curved = (last_s * last_y).sum(-1) > 0
        gamma = (last_s[-1] @ last_y[-1]) / (last_y[-1] @ last_y[-1]) if curved[-1] else pairs.scale(torch.ones(2))[i]
        expected = torch.zeros(N, dtype=torch.float64)
        expected[kept] = dense_inverse(last_s[curved], last_y[curved], gamma) @ g[i].flatten()[kept]
        torch.testing.assert_close(found[i].flatten(), expected, rtol=1e-9, atol=1e-9)


def test_a_pair_of_negative_curvature_is_left_out():
    pairs = Pairs.none(torch.zeros(3, 2, 1).double(), 2)
    s = normal(3, 2, 1)
    pairs = pairs.joined(s, torch.tensor([1.0, -1.0, 0.0]).double()[:, None, None] * s, 1e-16)
    assert pairs.known.tolist() == [True, False, False]
    assert pairs.without(torch.tensor([True, False, False])).known.tolist() == [False, False, False]


ROSENBROCK = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [3.0, -2.0], [1.0, 1.0]], dtype=torch.float64).unsqueeze(-1)


def rosenbrock(z, active):
    """Scaled by 1, 10, 100, ... for each element: they do not influence each other."""
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        x, y = z[..., 0, 0], z[..., 1, 0]
        cost = 10.0 ** torch.arange(len(z)).double() * ((1 - x) ** 2 + 100 * (y - x**2) ** 2)
        (gradient,) = torch.autograd.grad(cost.sum(), z)
    return Point.of(z.detach(), cost.detach(), gradient)


@pytest.mark.parametrize("upper", [math.inf, 0.5])
def test_rosenbrocks_valley(upper):
    """Within x <= 1/2 the minimum is (1/2, 1/4)."""
    box = Box(torch.full_like(ROSENBROCK, -math.inf), torch.full_like(ROSENBROCK, math.inf))
    box.upper[:, 0] = upper
    start = rosenbrock(box.project(ROSENBROCK), None)
    progress = lbfgs(rosenbrock, start, box, Rules(200, 1e-9, 2e-16), memory=5)
    x = min(upper, 1.0)
    torch.testing.assert_close(
        progress.best.z.squeeze(-1), torch.tensor([[x, x**2]]).double().expand(4, 2), rtol=0, atol=1e-8
    )
    assert (progress.status == Status.CONVERGED).all()
    assert int(progress.iterations.max()) < 60


# Exact solutions


@pytest.mark.parametrize("seed", range(3))
def test_linear_quadratic_problems_have_the_solution_of_the_lqr(seed):
    """Affine dynamics, cross and linear terms, discount: the controls agree to 1e-8."""
    n, m = 3, 2
    dynamics = LinearDynamics(
        0.9 * torch.eye(n).double() + 0.1 * normal(n, n, seed=seed), normal(n, m, seed=seed + 10), normal(n, seed=seed)
    )
    cost = QuadraticCost(
        torch.eye(n).double(),
        torch.eye(m).double(),
        N=0.1 * normal(n, m, seed=seed),
        q=normal(n, seed=seed + 1),
        r=normal(m, seed=seed + 2),
        Q_terminal=2 * torch.eye(n).double(),
    )
    problem, x0 = Problem(dynamics, cost, 6, discount=0.95), normal(4, n, seed=seed)
    exact = solve(problem, LQR(), x0)
    found = solve(problem, GradientShooting(tolerance=1e-10, memory=20), x0)
    assert statuses(found) == ["CONVERGED"] * 4
    torch.testing.assert_close(found.us, exact.us, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.cost, exact.cost, rtol=1e-10, atol=1e-10)
    for i in range(2):  # other step lengths, and another number of steps
        single = solve(problem, GradientShooting(tolerance=1e-10, memory=20), x0[i])
        torch.testing.assert_close(single.us, found.us[i], rtol=0, atol=1e-8)


def test_limited_problems_have_the_solution_of_the_quadratic_program():
    import cvxpy as cp

    lower = -torch.linspace(1.5, 0.5, T, dtype=torch.float64).unsqueeze(-1)
    found = solve(linear(control_limits=(lower, 0.6)), GradientShooting(tolerance=1e-9), X0)
    assert statuses(found) == ["CONVERGED"] * 4
    active = 0
    for i, x0 in enumerate(X0.numpy()):
        x, u = cp.Variable((T + 1, 2)), cp.Variable((T, 1))
        objective = 0.5 * cp.sum_squares(x[:T]) + 0.15 * cp.sum_squares(u) + cp.sum_squares(x[T])
        steps = [x[k + 1] == A.numpy() @ x[k] + B.numpy() @ u[k] for k in range(T)]
        program = cp.Problem(cp.Minimize(objective), [x[0] == x0, *steps, u >= lower.numpy(), u <= 0.6])
        program.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
        np.testing.assert_allclose(found.us[i], u.value, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.cost[i], program.value, rtol=1e-8)
        active += int(((found.us[i] == lower) | (found.us[i] == 0.6)).sum())
    assert 4 <= active < 3 * T


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_knots_have_the_solution_of_the_reduced_problem(degree):
    """J is quadratic in the knots: Hessian and gradient are J's second and first differences along them, exactly."""
    problem, time, steps = linear(), 0.33, T
    interval = steps * 0.1 / 3
    grid = KnotGrid.covering(time, time + (steps - 1) * 0.1, interval, degree)
    W = grid.weights(time + 0.1 * torch.arange(steps).double())

    def cost(theta):
        us = (W @ theta).unsqueeze(-1).expand(len(X0), T, 1)
        return problem.trajectory_cost(problem.dynamics.rollout(X0, us), us)

    K = grid.count
    e, none = torch.eye(K, dtype=torch.float64), torch.zeros(K).double()
    gradient = torch.stack([(cost(e[i]) - cost(-e[i])) / 2 for i in range(K)], dim=-1)
    hessian = torch.stack(
        [
            torch.stack([cost(e[i] + e[j]) - cost(e[i]) - cost(e[j]) + cost(none) for j in range(K)], dim=-1)
            for i in range(K)
        ],
        dim=-1,
    )
    theta = -torch.linalg.solve(hessian, gradient)
    found = solve(problem, GradientShooting(knots=3, degree=degree, tolerance=1e-10), X0, time=time)
    assert statuses(found) == ["CONVERGED"] * 4
    torch.testing.assert_close(found.us.squeeze(-1), theta @ W.T, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.spline.values.squeeze(-1), theta, rtol=0, atol=1e-7)


UNICYCLE = Problem(wheel(), GoalCost(0.0, 50.0, 0.5, 50.0), 20)
CORNER = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_the_unicycle_reaches_its_published_optimum(dtype, rtol):
    """Crocoddyl's unicycle from (-1, -1, 1): J0 = 3150, J* = 249.560897931, u0 = (9.419478, -5.604502)."""
    x0, nothing = CORNER.to(dtype), torch.zeros(20, 2, dtype=dtype)
    first = UNICYCLE.trajectory_cost(UNICYCLE.dynamics.rollout(x0, nothing), nothing)
    assert float(first) == pytest.approx(3150, rel=1e-6)
    found = solve(UNICYCLE, GradientShooting(), x0)
    assert found.us.dtype == dtype
    assert float(found.cost) == pytest.approx(249.560897931, rel=rtol)
    np.testing.assert_allclose(found.us[0], [9.419478, -5.604502], atol=1e-6 if dtype == torch.float64 else 2e-2)
    assert Status(int(found.status)).usable
    assert dtype == torch.float32 or statuses(found) == ["CONVERGED"]


@pytest.mark.slow
def test_the_long_unicycle_costs_the_golden_ratio():
    """T = 200 from (1, 0, 0): a scalar Riccati equation, J* = 50 (1 + sqrt 5) / 2."""
    found = solve(replace(UNICYCLE, horizon=200), GradientShooting(max_iterations=600), torch.eye(3).double()[0])
    assert float(found.cost) == pytest.approx(25 * (1 + math.sqrt(5)), rel=1e-9)


def test_adam_comes_close():
    """With steps of a constant size it settles about the optimum."""
    exact = solve(linear(control_limits=(-1.0, 1.0)), GradientShooting(), X0)
    planner = GradientShooting(optimizer="adam", max_iterations=150, learning_rate=0.05)
    found = solve(linear(control_limits=(-1.0, 1.0)), planner, X0)
    assert ((found.cost >= exact.cost - 1e-9) & (found.cost < exact.cost + 1e-4)).all()
    single = solve(linear(control_limits=(-1.0, 1.0)), planner, X0[1])
    torch.testing.assert_close(single.us, found.us[1], rtol=0, atol=1e-8)


def test_adam_takes_the_steps_of_torch():
    def objective(z, active):
        return Point.of(z, 0.5 * (z.square() * 3).sum((-2, -1)), 3 * z)

    z = normal(2, 3, 1).requires_grad_()
    box = Box(torch.full_like(z, -math.inf), torch.full_like(z, math.inf))
    progress = adam(objective, objective(z.detach(), None), box, Rules(7, 1e-9, 2e-16), learning_rate=0.1)
    optimizer = torch.optim.Adam([z], lr=0.1)
    for _ in range(7):
        optimizer.zero_grad()
        objective(z, None).cost.sum().backward()
        optimizer.step()
    torch.testing.assert_close(progress.best.z, z.detach(), rtol=0, atol=1e-6)


# Nonlinear problems


@pytest.mark.parametrize("backend", ["torch", "mujoco"])
def test_the_pendulum_swings_up_to_a_stationary_point(backend):
    """From several starts it costs less than what iCEM finds, and no control could be moved to lower the cost."""
    problem = pendulum_swing_up(backend).problem()
    x0 = pendulum_swing_up("torch").initial_state(4, seeded(1))
    found = solve(problem, GradientShooting(), x0)
    assert (found.cost < solve(problem, ICEM(), x0).cost).all()
    lower, upper = problem.limits_like(found.us)
    gradient = differences(problem, x0, found.us.clamp(lower + 1e-5, upper - 1e-5), 0)  # MuJoCo's limits are kinks
    held = ((found.us == lower) & (gradient > 0)) | ((found.us == upper) & (gradient < 0))
    assert held.any(-1).any(-1).all()  # at times the motor is at its limit
    assert gradient.masked_fill(held, 0.0).abs().max() < 1e-3
    if backend == "torch":
        assert statuses(found) == ["CONVERGED"] * 4


# Warm starts and time


def test_a_solved_problem_stays_as_it_is():
    first = solve(linear(control_limits=(-1.0, 1.0)), GradientShooting(), X0)
    again = solve(linear(control_limits=(-1.0, 1.0)), GradientShooting(), X0, init=first)
    assert again.stats["iterations"] == 0
    assert torch.equal(again.us, first.us)


@pytest.mark.parametrize("knots", [None, 4])
def test_a_warm_start_is_read_by_absolute_time(knots):
    """A problem in which everything is optimal returns what it starts from: the previous plan, later."""
    indifferent = linear(FunctionCost(lambda x, u, t: 0.0 * u.sum(-1)))
    previous = solve(linear(), GradientShooting(knots=knots), X0)
    later = solve(indifferent, GradientShooting(knots=knots), X0, init=previous, t0=3)
    times = 0.3 + 0.1 * torch.arange(T).double()
    torch.testing.assert_close(later.us, previous.controls_at(times), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="init has 1 controls, the problem 2"):
        solve(UNICYCLE, GradientShooting(), CORNER, init=solve(linear(), GradientShooting(), X0[0]))


def test_the_time_limit_keeps_the_best_plan():
    asked = []
    found = solve(linear(), GradientShooting(), X0, out_of_time=lambda: asked.append(0) or len(asked) >= 4)
    assert statuses(found) == ["TIME_LIMIT"] * 4
    assert len(asked) == 4
    nothing = torch.zeros(4, T, 1).double()
    assert (found.cost < linear().trajectory_cost(linear().dynamics.rollout(X0, nothing), nothing)).all()


def test_more_iterations_are_never_worse():
    for optimizer in ("lbfgs", "adam"):
        costs = [
            solve(UNICYCLE, GradientShooting(max_iterations=k, optimizer=optimizer, learning_rate=1.0), CORNER).cost
            for k in (1, 3, 8, 20)
        ]
        assert all(later <= earlier for earlier, later in itertools.pairwise(costs))


# What fails


def test_rollouts_that_are_not_finite_are_counted_and_never_win():
    """A world that breaks above u = 0.4, towards which the cost pulls."""
    fragile = TorchDynamics(lambda x, u: torch.where(u > 0.4, torch.nan, x + u), 1, 1, dt=0.1)
    problem = Problem(fragile, GoalCost(9.0, 1.0, 0.0, 1.0), 3)
    for optimizer in ("lbfgs", "adam"):
        found = solve(problem, GradientShooting(optimizer=optimizer, max_iterations=12), torch.zeros(2, 1).double())
        assert found.stats["nonfinite"] > 0
        assert found.xs.isfinite().all()
        assert (found.us.max(-2).values > 0.3).all()
        assert (found.us <= 0.4).all()


def test_a_warm_start_that_breaks_gives_way_to_zero():
    fragile = TorchDynamics(lambda x, u: torch.where(u > 0.4, torch.nan, x + u), 1, 1, dt=0.1)
    problem = Problem(fragile, GoalCost(-1.0, 1.0, 0.1, 1.0), 3)
    x0 = torch.zeros(2, 1).double()
    good = solve(problem, GradientShooting(), x0)
    broken = replace(good, us=torch.stack([good.us[0], torch.ones(3, 1).double()]))
    found = solve(problem, GradientShooting(), x0, init=broken)
    torch.testing.assert_close(found.us, good.us, rtol=0, atol=1e-6)
    assert statuses(found) == ["CONVERGED"] * 2
    assert found.stats["nonfinite"] >= 1


@pytest.mark.parametrize(
    "cost",
    [
        QuadraticCost(-torch.eye(2).double(), 0.01 * torch.eye(1).double()),
        FunctionCost(lambda x, u, t: x[..., 0] + u.sum(-1)),
    ],
    ids=["concave", "linear"],
)
def test_a_cost_without_bound_is_not_converged(cost):
    """Without limits there is no minimum; within limits there is one."""
    found = solve(linear(cost), GradientShooting(), X0[:2], throw=False)
    assert statuses(found) == ["NOT_CONVEX"] * 2
    assert found.cost.isinf().all()
    assert found.us.isfinite().all()
    limited = solve(linear(cost, control_limits=(-1.0, 1.0)), GradientShooting(), X0[:2])
    assert statuses(limited) == ["CONVERGED"] * 2
    assert (limited.us[:, :-2].abs() == 1.0).all()


def test_a_kink_stalls_close_to_the_minimum():
    problem = linear(FunctionCost(lambda x, u, t: (u.squeeze(-1) - 0.3).abs() + 0.1 * u.square().sum(-1)))
    found = solve(problem, GradientShooting(max_iterations=30), X0[:2])
    assert found.usable.all()
    assert (found.cost < T * (0.1 * 0.09) + 1e-3).all()
    assert "STALLED" in statuses(found) or "ITERATION_LIMIT" in statuses(found)


def test_what_is_not_supported_is_refused_by_name():
    for name, fields in {
        "control_values": {"control_values": torch.zeros(1, 1)},
        "rate_limits": {"rate_limits": (-1.0, 1.0)},
        "constraints": {"constraints": (StateLimits(-1.0, 1.0),)},
        "terminal_constraints": {"terminal_constraints": (StateLimits(-1.0, 1.0),)},
    }.items():
        with pytest.raises(ValueError, match=f"GradientShooting cannot honor: {name}"):
            solve(linear(**fields), GradientShooting(), X0)
    with pytest.raises(ValueError, match="GradientShooting cannot honor: infinite horizon"):
        solve(replace(linear(), horizon=math.inf), GradientShooting(), X0)
    nothing = Problem(TorchDynamics(lambda x, u: x, 1, 0, dt=0.1), GoalCost(0.0, 1.0), 3)
    with pytest.raises(ValueError, match="at least one control"):
        solve(nothing, GradientShooting(), torch.zeros(1).double())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"max_iterations": 0}, "max_iterations must be an integer of at least 1, got 0"),
        ({"max_iterations": True}, "max_iterations must be an integer of at least 1, got True"),
        ({"memory": 2.5}, "memory must be an integer of at least 1, got 2.5"),
        ({"knots": 0}, "knots must be an integer of at least 1, got 0"),
        ({"degree": 2}, "degree must be 0"),
        ({"tolerance": 0.0}, "tolerance must be positive and finite, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be positive and finite, got nan"),
        ({"optimizer": "sgd"}, "optimizer must be 'lbfgs' or 'adam', got 'sgd'"),
    ],
)
def test_fields_are_checked(fields, text):
    with pytest.raises(ValueError, match=text):
        GradientShooting(**fields)


# Differentiating the solve


@pytest.mark.parametrize("limits", [None, (-0.5, 0.5)])
def test_the_unrolled_gradient_is_that_of_the_solution(limits):
    """By the weight of the controls and the initial state, against differences of converged solutions."""
    planner = GradientShooting(tolerance=1e-11, memory=12, max_iterations=60)
    weights = normal(2, T, 1, seed=5)

    def value(weight, x0, **options):
        cost = FunctionCost(
            lambda x, u, t: x.square().sum(-1) + weight * u.square().sum(-1), lambda x: x.square().sum(-1)
        )
        return (weights * solve(linear(cost, control_limits=limits), planner, x0, **options).us).sum()

    weight, x0 = torch.tensor(0.4, dtype=torch.float64), X0[1:3]
    leaves = [weight.clone().requires_grad_(), x0.clone().requires_grad_()]
    by_weight, by_x0 = torch.autograd.grad(value(*leaves, gradient=Unrolled()), leaves)
    h = 1e-5
    expected = (value(weight + h, x0) - value(weight - h, x0)) / (2 * h)
    torch.testing.assert_close(by_weight, expected, rtol=1e-6, atol=1e-7)
    for index in np.ndindex(2, 2):
        moved = torch.zeros_like(x0)
        moved[index] = h
        expected = (value(weight, x0 + moved) - value(weight, x0 - moved)) / (2 * h)
        torch.testing.assert_close(by_x0[index], expected, rtol=1e-6, atol=1e-7)


def test_finite_differences_cannot_be_unrolled():
    with pytest.raises(
        ValueError, match=r"Unrolled\(\) needs second derivatives of the dynamics, and those of Differenced"
    ):
        solve(Problem(wheel(Differenced), GoalCost(), 3), GradientShooting(), CORNER, gradient=Unrolled())
