"""The contract on every planner of the library, and every way to violate it."""

import inspect
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from instances import ALL_PLANNERS

import planners
from dynamics import Pendulum
from mbrl.testing import ContractError, check_planner
from planners import LQR, GoalCost, Planner, Problem, Solution, Status
from planners.solve import Request


@pytest.mark.parametrize("planner", [pytest.param(planner, id=name) for name, planner in ALL_PLANNERS.items()])
def test_contract(planner: Planner):
    check_planner(planner)


def test_the_list_is_complete():
    exported = {
        value
        for value in vars(planners).values()
        if inspect.isclass(value) and issubclass(value, Planner) and not inspect.isabstract(value)
    }
    missing = exported - {type(planner) for planner in ALL_PLANNERS.values()}
    assert not missing, f"add to tests/instances.py: {', '.join(sorted(cls.__name__ for cls in missing))}"


def test_another_problem_can_be_checked():
    cost = GoalCost([0.0, 0.0], [1.0, 0.1], [0.01], angles=[0])
    problem = Problem(Pendulum(), cost, 4, control_limits=(-3.0, 3.0))
    check_planner(ALL_PLANNERS["ICEM"], problem, torch.tensor([[3.0, 0.0], [-1.0, 0.5]]))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"x0 must have shape \(K, 2\), got \(3,\)"):
        check_planner(LQR(), x0=torch.zeros(3))
    problem = Problem(Pendulum(), GoalCost(), math.inf)
    with pytest.raises(ValueError, match="finite horizon"):
        check_planner(LQR(), problem)


# Planners that violate the contract. Each is the LQR with one thing spoiled.


@dataclass(frozen=True)
class Spoiled(LQR):
    def plan(self, problem: Problem, x0: torch.Tensor, request: Request) -> Solution:
        return self.spoil(super().plan(problem, x0, request), x0, request)

    def spoil(self, solution: Solution, x0: torch.Tensor, request: Request) -> Solution:
        raise NotImplementedError


class Thawed(Planner):
    supports = LQR.supports
    gradients = LQR.gradients

    def plan(self, problem, x0, request):
        return LQR().plan(problem, x0, request)


class Counting(Spoiled):
    calls: ClassVar[int] = 0

    def spoil(self, solution, x0, request):
        type(self).calls += 1
        return replace(solution, cost=solution.cost + 1e-9 * self.calls)


class GlobalNoise(Spoiled):
    def spoil(self, solution, x0, request):
        torch.rand(1)
        return solution


class FreshNoise(Spoiled):
    def spoil(self, solution, x0, request):
        generator = request.generator or torch.Generator()
        if request.generator is None:
            generator.seed()
        return replace(solution, cost=solution.cost + 1e-9 * torch.rand((), generator=generator))


class Overwriting(Spoiled):
    def spoil(self, solution, x0, request):
        with torch.no_grad():
            x0.mul_(0.5)
        return solution


class WrongDtype(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, cost=solution.cost.double())


class WrongShape(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, xs=solution.xs[..., 1:, :])


class OneStatus(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, status=torch.tensor(0))


class NoStatistics(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, stats={})


class NotConvex(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, status=torch.full_like(solution.status, int(Status.NOT_CONVEX)))


class ForgetsTime(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, t0=0)


class WrongStates(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, xs=solution.xs + 1e-6)


class WrongCost(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, cost=solution.cost + 1e-6)


class IgnoresLimits(Spoiled):
    supports = LQR.supports | {"control_limits"}

    def spoil(self, solution, x0, request):
        return solution


class IgnoresValues(Spoiled):
    supports = LQR.supports | {"control_values"}

    def spoil(self, solution, x0, request):
        return solution


class IgnoresRates(Spoiled):
    supports = LQR.supports | {"rate_limits"}

    def spoil(self, solution, x0, request):
        return solution


class IgnoresDiscount(Planner):
    supports = frozenset({"discount"})

    def plan(self, problem, x0, request):
        return LQR().plan(replace(problem, discount=1.0), x0, request)


class DependsOnBatch(Spoiled):
    def spoil(self, solution, x0, request):
        us = solution.us + 1e-6 * (x0.ndim > 1)
        xs = solution.problem.dynamics.rollout(x0, us)
        return replace(solution, us=us, xs=xs, cost=solution.problem.trajectory_cost(xs, us, t0=request.t0))


class NanIsUsable(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, status=torch.zeros_like(solution.status))


class NanIsFree(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, cost=torch.where(solution.cost.isinf(), 0.0, solution.cost))


class NanControls(Spoiled):
    def spoil(self, solution, x0, request):
        nan = solution.us / (solution.status == 0)[..., None, None]
        return replace(solution, us=nan)


class NanSpreads(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, us=solution.us + 0 * x0.sum()) if x0.isnan().any() else solution


class Attached(Spoiled):
    def spoil(self, solution, x0, request):
        with torch.enable_grad():
            return replace(solution, cost=solution.cost + 0 * x0.nan_to_num().sum(-1))


class Detached(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, us=solution.us.detach())


class SpoilsWarmStart(Spoiled):
    def spoil(self, solution, x0, request):
        if request.init is not None:
            request.init.us.zero_()
        return solution


class NeedsColdStart(Spoiled):
    def spoil(self, solution, x0, request):
        bad = torch.full_like(solution.status, int(Status.NO_FINITE_PLAN))
        return solution if request.init is None else replace(solution, status=bad)


class HidesTimeLimit(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, stats={"iterations": 1 if request.out_of_time() else 2})


class WrongGains(Spoiled):
    def spoil(self, solution, x0, request):
        return replace(solution, xs=solution.xs.clone(), K=solution.K * math.nan)


VIOLATIONS = {
    Thawed: r"must be decorated with @dataclass\(frozen=True\)",
    Counting: "hold no state",
    GlobalNoise: "not the global one",
    FreshNoise: "when no generator is given",
    Overwriting: "not modify x0",
    WrongDtype: "cost must have the dtype of x0",
    WrongShape: r"xs must have shape \(6, 2\), got \(5, 2\)",
    OneStatus: "one code for each problem",
    NoStatistics: "stats must have iterations",
    NotConvex: "usable plan for every x0 of the check, got NOT_CONVEX",
    ForgetsTime: "t0 must be the step of the first control, 3, got 0",
    WrongStates: "xs must be the rollout of us",
    WrongCost: r"cost must be problem.trajectory_cost\(xs, us\)",
    IgnoresLimits: "us must keep the control_limits",
    IgnoresValues: "us must be control_values",
    IgnoresRates: "us must keep the rate_limits",
    IgnoresDiscount: r"cost must be problem.trajectory_cost\(xs, us\)",
    DependsOnBatch: "us of a batch must equal us of each problem",
    NanIsUsable: "must have status NO_FINITE_PLAN, got CONVERGED",
    NanIsFree: "must cost infinity, got 0.0",
    NanControls: "must have finite controls",
    NanSpreads: "must have finite controls",
    Attached: "detached tensors, but cost",
    Detached: r"Unrolled\(\) must give controls with a graph",
    SpoilsWarmStart: "a warm start must not be modified",
    NeedsColdStart: "must solve from init= a solution 0 steps old",
    HidesTimeLimit: "must have status TIME_LIMIT",
    WrongGains: "the controller must follow the plan",
}


@pytest.mark.parametrize("kind", VIOLATIONS, ids=lambda kind: kind.__name__)
def test_a_violation_is_found(kind):
    with pytest.raises(ContractError, match=VIOLATIONS[kind]):
        check_planner(kind() if kind is Thawed else dataclass(frozen=True)(kind)())
