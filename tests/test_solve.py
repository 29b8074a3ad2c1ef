"""What solve checks, what a solution tells."""

import math
import time
from dataclasses import dataclass

import pytest
import torch

from dynamics import LinearDynamics, Pendulum
from mbrl import pendulum_swing_up
from planners import (
    ICEM,
    LQR,
    MPC,
    FunctionCost,
    GoalCost,
    Planner,
    Problem,
    QuadraticCost,
    Solution,
    SolveError,
    StateLimits,
    Status,
    Unrolled,
    solve,
)
from planners.solution import finished

PLANT = LinearDynamics(torch.tensor([[1.0, 0.1], [0.0, 1.0]]).double(), torch.tensor([[0.0], [0.1]]).double())
COST = QuadraticCost(torch.eye(2), torch.eye(1), Q_terminal=torch.eye(2))
X0 = torch.ones(2, dtype=torch.float64)


def problem(horizon=4, **fields):
    return Problem(PLANT, fields.pop("cost", COST), horizon, **fields)


@dataclass(frozen=True)
class Still(Planner):
    """Leaves all controls at zero and hands back the request it got."""

    def plan(self, problem, x0, request):
        us = x0.new_zeros(*x0.shape[:-1], problem.horizon, 1)
        xs = problem.dynamics.rollout(x0, us)
        time.sleep(0.02)
        cost = problem.trajectory_cost(xs, us, t0=request.t0)
        status = torch.full(cost.shape, int(Status.CONVERGED))
        return finished(problem, xs, us, cost, status, t0=request.t0, warm_start=request)


@pytest.mark.parametrize(
    ("x0", "message"),
    [
        (torch.ones(3), r"x0 must be a floating-point tensor of shape \(\*batch, 2\), got \(3,\) of torch.float32"),
        (torch.ones(2, 3), r"got \(2, 3\)"),
        (torch.tensor(1.0), r"got \(\) of torch.float32"),
        (torch.ones(2, dtype=torch.int64), "of torch.int64"),
        ([1.0, 1.0], "got list"),
        (None, "got NoneType"),
    ],
)
def test_initial_states_that_do_not_fit_are_refused(x0, message):
    with pytest.raises(ValueError, match=message):
        solve(problem(), LQR(), x0)


def test_a_class_is_not_a_planner():
    with pytest.raises(TypeError, match=r"planner must be a planner such as LQR\(\), got <class .*LQR'>"):
        solve(problem(), LQR, X0)


@pytest.mark.parametrize("call", [lambda task: solve(task, LQR(), X0), lambda task: MPC(task, LQR())])
def test_a_task_is_not_a_problem(call):
    with pytest.raises(TypeError, match=r"problem must be a Problem, got Task; a task has one: task.problem\(\)"):
        call(pendulum_swing_up(backend="torch"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": 5}, r"generator must be a Generator, such as torch.Generator\(\).manual_seed\(0\), got int"),
        ({"init": torch.zeros(5, 1)}, "init must be a Solution, such as what solve returned before, got Tensor"),
        ({"previous_control": 0.0}, "previous_control must be a Tensor, .* got float"),
    ],
)
def test_arguments_of_another_kind(options, message):
    with pytest.raises(TypeError, match=message):
        solve(problem(), LQR(), X0, **options)


def test_planners_that_can_are_named():
    limited = problem(control_limits=(-1.0, 1.0), terminal_value=lambda x: x[..., 0])
    with pytest.raises(ValueError, match=r"^LQR cannot honor: control_limits, terminal_value; use .*ICEM"):
        solve(limited, LQR(), X0)
    with pytest.raises(ValueError, match=r"^ICEM cannot honor: infinite horizon; use LQR or RRT$"):
        solve(problem(math.inf), ICEM(), X0)
    with pytest.raises(
        ValueError,
        match=r"^LQR cannot honor: constraints, rate_limits; use ConvexProgram or SequentialConvex$",
    ):
        solve(problem(constraints=(StateLimits(-1.0),), rate_limits=(-1.0, 1.0)), LQR(), X0)
    stopped = problem(constraints=(StateLimits(-1.0),), rate_limits=(-1.0, 1.0), termination=lambda x: x[..., 0] > 1.0)
    everything = "constraints, rate_limits, termination"
    with pytest.raises(
        ValueError, match=rf"^LQR cannot honor: {everything}; no planner here honors all of {everything}$"
    ):
        solve(stopped, LQR(), X0)


def test_planners_of_users_are_not_recommended_and_hide_none():
    class Mine(LQR):
        pass

    assert Mine in LQR.__subclasses__()
    with pytest.raises(ValueError, match=r"^ICEM cannot honor: infinite horizon; use LQR or RRT$"):
        solve(problem(math.inf), ICEM(), X0)


def test_kinds_of_gradient_that_a_planner_lacks_are_refused():
    with pytest.raises(ValueError, match=r"LQR offers Unrolled\(\), got gradient='yes'"):
        solve(problem(), LQR(), X0, gradient="yes")
    limited = problem(control_limits=(-1.0, 1.0))
    with pytest.raises(ValueError, match=r"ICEM offers no gradient, got gradient=Unrolled\(\)"):
        solve(limited, ICEM(), X0, gradient=Unrolled())


def test_previous_controls_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"previous_control must have shape \(\*batch, 1\), got \(2,\)"):
        solve(problem(), LQR(), X0, previous_control=torch.zeros(2))


def test_lqr_needs_a_linear_quadratic_problem():
    pendulum = Problem(Pendulum(), QuadraticCost(torch.eye(2), torch.eye(1)), 5)
    with pytest.raises(ValueError, match="LQR needs LinearDynamics and a quadratic cost, got Pendulum and Quadratic"):
        solve(pendulum, LQR(), X0)
    with pytest.raises(ValueError, match="got LinearDynamics and GoalCost"):
        solve(problem(cost=GoalCost(0.0)), LQR(), X0)


def test_the_request_carries_what_came():
    generator, previous = torch.Generator(), torch.zeros(1).double()
    first = solve(problem(), Still(), X0)
    assert first.warm_start.out_of_time() is False
    second = solve(
        problem(),
        Still(),
        X0,
        t0=3,
        previous_control=previous,
        init=first,
        generator=generator,
        out_of_time=lambda: True,
    )
    request = second.warm_start
    assert (request.t0, request.previous_control, request.init, request.generator) == (3, previous, first, generator)
    assert request.out_of_time() is True
    assert second.t0 == 3


def test_the_time_of_a_solve_is_reported():
    assert 0.02 <= solve(problem(), Still(), X0).stats["seconds"] < 60


def test_references_are_seen_from_the_step_of_the_solve():
    goal = torch.arange(10.0).double().unsqueeze(-1).expand(10, 2)
    tracking = problem(cost=GoalCost(goal, 1.0, 0.0, 100.0))
    still = torch.zeros(2).double()
    # two states, zero from first to last: 2 (3^2 + 4^2 + 5^2 + 6^2) + 200 7^2
    assert float(solve(tracking, Still(), still, t0=3).cost) == 2 * 86 + 200 * 49


def test_unusable_plans_raise_and_come_with_the_error():
    x0 = torch.stack([X0, X0 * math.nan, X0])
    with pytest.raises(
        SolveError, match=r"^1 of 3 problems have no usable plan \(solve\(\.\.\., throw=False\)"
    ) as error:
        solve(problem(), LQR(), x0)
    solution = error.value.solution
    assert isinstance(solution, Solution)
    assert solution.usable.tolist() == [True, False, True]
    assert "no_finite_plan x 1: every candidate led to" in str(error.value)
    assert "converged x 2" in str(error.value)
    assert solution.cost.isinf().tolist() == [False, True, False]
    assert bool(solution.us.isfinite().all())
    alone = solve(problem(), LQR(), X0)
    torch.testing.assert_close(solution.us[0], alone.us, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(solution.cost[2], alone.cost, rtol=1e-13, atol=1e-15)
    quiet = solve(problem(), LQR(), x0, throw=False)
    assert torch.equal(quiet.status, solution.status)


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_remedy(status):
    assert len(status.remedy) > 20
    assert status.usable == (status.name in ("CONVERGED", "ITERATION_LIMIT", "STALLED", "TIME_LIMIT"))


@pytest.mark.parametrize("status", [Status.CONVERGED, Status.ITERATION_LIMIT, Status.NOT_CONVEX])
def test_what_is_not_finite_is_no_plan(status):
    xs, us, cost = torch.zeros(4, 3, 2), torch.zeros(4, 2, 1), torch.arange(4.0)
    xs[1, 2, 0], us[2, 0, 0], cost[3] = math.nan, math.inf, -math.inf
    solution = finished(problem(), xs, us, cost, torch.full((4,), int(status)))
    found = [Status(int(code)) for code in solution.status]
    assert found == [status] + [Status.NO_FINITE_PLAN if status.usable else status] * 3
    assert solution.cost.tolist() == [0.0 if status.usable else math.inf] + [math.inf] * 3
    assert bool(solution.us.isfinite().all())


def test_a_solution_is_one_line():
    single = solve(problem(), LQR(), X0)
    assert str(single).startswith(
        f"Solution(batch (), 4 steps, cost {float(single.cost):.6g}, converged, iterations 1, "
    )
    batch = solve(problem(), LQR(), torch.stack([X0, X0 * math.nan, 2 * X0]), throw=False)
    mean = float(batch.cost[[0, 2]].mean())
    assert f"batch (3,), 4 steps, cost {mean:.6g} (mean of 2 usable), converged, no_finite_plan" in str(batch)
    empty = solve(problem(), LQR(), X0.expand(0, 2))
    assert "batch (0,), 4 steps, cost inf (mean of 0 usable), empty" in str(empty)
    bad = solve(problem(), LQR(), X0 * math.nan, throw=False)
    assert "batch (), 4 steps, cost inf, no_finite_plan" in str(bad)
    stationary = solve(problem(math.inf), LQR(), X0)
    assert "batch (), infinite horizon, cost" in str(stationary)
    graph = solve(problem(), LQR(), X0, gradient=Unrolled())
    for solution in (single, batch, empty, bad, stationary, graph):
        assert "\n" not in str(solution)
        assert repr(solution) == str(solution)


@pytest.mark.parametrize("horizon", [4, math.inf])
def test_without_gradient_nothing_has_a_graph(horizon):
    Q = torch.nn.Parameter(torch.eye(2).double())
    x0 = X0.clone().requires_grad_()
    p = problem(horizon, cost=QuadraticCost(Q, torch.eye(1), Q_terminal=Q))
    for gradient, has_graph in ((None, False), (Unrolled(), True)):
        s = solve(p, LQR(), x0, gradient=gradient)
        assert [v.requires_grad for v in (s.xs, s.us, s.cost, s.K, s.P, s.Quu)] == [has_graph] * 6


def test_functions_of_another_shape_are_found():
    wrong = Problem(PLANT, FunctionCost(lambda x, u, t: x.square()), 4)
    with pytest.raises(ValueError, match=r"the stage cost must have shape \(4,\), .* got \(4, 2\)"):
        solve(wrong, Still(), X0)


def test_the_time_of_a_solution_is_absolute():
    x0 = torch.zeros(2, dtype=torch.float64)
    assert solve(problem(), LQR(), x0).time == 0.0
    assert solve(problem(), LQR(), x0, t0=3).time == pytest.approx(3 * problem().dynamics.dt)
    assert solve(problem(), LQR(), x0, t0=3, time=1.234).time == 1.234
    with pytest.raises(ValueError, match="time must be a finite number of seconds, got nan"):
        solve(problem(), LQR(), x0, time=float("nan"))
