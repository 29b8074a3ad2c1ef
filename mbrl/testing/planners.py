"""The contract of planners."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dynamics import LinearDynamics, StochasticDynamics
from mbrl.testing.contract import ContractError, require, require_close, require_value_error
from planners import (
    Planner,
    Problem,
    QuadraticCost,
    Slack,
    Solution,
    SolveError,
    StateLimits,
    Status,
    Unrolled,
    solve,
)


def check_planner(planner: Planner, problem: Problem | None = None, x0: Tensor | None = None) -> None:
    """Check everything that :class:`planners.Planner` and :class:`planners.Solution` promise.

    A frozen configuration without state; shapes and dtypes on several batch shapes, an empty one too; batched equals single
    where no randomness is involved; states are the rollout of the controls and the cost is theirs; limits; a world that is
    not finite is marked and leaves the others alone; fields that are not honored are named in an error; gradients only when
    asked for; warm starts, time limits and the controller.

    Args:
        planner: the planner to check.
        problem: a problem with a finite horizon that it solves from every x0; by default a linear-quadratic one with two
            states, one control and, if the planner honors them, control limits.
        x0: initial states ``(K, n)``, standard normal by default.

    Raises:
        ContractError: the contract is violated.
        ValueError: the problem's horizon is infinite or x0 does not fit.
    """
    case = _make_planner_case(planner, problem, x0)
    for check in _PLANNER_CHECKS:
        check(case)


_STARTS = 6


@dataclass(frozen=True, eq=False)
class _PlannerCase:
    planner: Planner
    problem: Problem
    x0: Tensor

    @property
    def name(self) -> str:
        return type(self.planner).__name__

    def solve(
        self,
        x0: Tensor | None = None,
        *,
        problem: Problem | None = None,
        seed: int = 0,
        throw: bool = False,
        **options: Any,
    ) -> Solution:
        x0 = self.x0 if x0 is None else x0
        generator = torch.Generator(x0.device).manual_seed(seed)
        return solve(problem or self.problem, self.planner, x0, generator=generator, throw=throw, **options)


def _make_planner_case(planner: Planner, problem: Problem | None, x0: Tensor | None) -> _PlannerCase:
    if problem is None:
        A = torch.tensor([[1.0, 0.2], [0.0, 1.0]], dtype=torch.float64)
        B = torch.tensor([[0.0], [0.2]], dtype=torch.float64)
        cost = QuadraticCost(torch.eye(2).double(), 0.1 * torch.eye(1).double(), Q_terminal=torch.eye(2).double())
        limits = (-2.0, 3.0) if "control_limits" in planner.supports else None
        problem = Problem(LinearDynamics(A, B), cost, 5, control_limits=limits)
    if problem.horizon == math.inf:
        raise ValueError("check the planner on a problem with a finite horizon")
    n = problem.dynamics.state_dim
    if x0 is None:
        x0 = torch.randn(_STARTS, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if x0.ndim != 2 or x0.shape[0] < 1 or x0.shape[1] != n:
        raise ValueError(f"x0 must have shape (K, {n}), got {tuple(x0.shape)}")
    return _PlannerCase(planner, problem, x0.detach().double()[torch.arange(_STARTS) % x0.shape[0]])


def _require_same(first: Solution, second: Solution, tolerance: float, sentence: str) -> None:
    for field in ("us", "xs", "cost"):
        require_close(getattr(first, field), getattr(second, field), tolerance, f"{sentence}: {field}")
    require(torch.equal(first.status, second.status), f"{sentence}: status")


def _check_configuration(case: _PlannerCase) -> None:
    planner = case.planner
    own = vars(type(planner)).get("__dataclass_params__")  # a subclass without the decorator could be assigned to
    require(own is not None and own.frozen, f"{case.name} must be decorated with @dataclass(frozen=True)")
    before, global_state, x0 = dict(vars(planner)), torch.get_rng_state(), case.x0.clone()
    first = case.solve()
    require(torch.equal(x0, case.x0), f"{case.name} must not modify x0")
    case.solve(0.5 * case.x0.flip(0), seed=1)
    _require_same(case.solve(), first, 0.0, f"{case.name} must hold no state, but equal calls differ")
    first, second = (solve(case.problem, planner, case.x0, throw=False) for _ in range(2))
    _require_same(first, second, 0.0, f"{case.name} must draw the same numbers when no generator is given")
    require(vars(planner) == before, f"{case.name} must not change itself")
    same = torch.equal(global_state, torch.get_rng_state())
    require(same, f"{case.name} must draw from the generator it is given, not the global one")


def _check_solution(case: _PlannerCase) -> None:
    n, m, T = case.problem.dynamics.state_dim, case.problem.dynamics.control_dim, int(case.problem.horizon)
    for dtype in (torch.float64, torch.float32):
        for x0 in (case.x0[0], case.x0[:3], case.x0.unflatten(0, (2, 3)), case.x0[:0]):
            batch = tuple(x0.shape[:-1])
            solution = case.solve(x0.to(dtype))
            for field, shape in (("xs", (*batch, T + 1, n)), ("us", (*batch, T, m)), ("cost", batch)):
                value = getattr(solution, field)
                require(value.shape == shape, f"{field} must have shape {shape}, got {tuple(value.shape)}")
                require(value.dtype == dtype, f"{field} must have the dtype of x0, {dtype}, got {value.dtype}")
            status = solution.status
            require(
                status.shape == batch and not status.is_floating_point(),
                f"status must be one code for each problem of a batch {batch}, got {status.dtype} {tuple(status.shape)}",
            )
            missing = {"iterations", "seconds"} - solution.stats.keys()
            require(not missing, f"stats must have {', '.join(sorted(missing))}")
            require("\n" not in str(solution), "a solution must print as one line")


def _check_plan(case: _PlannerCase, problem: Problem | None = None) -> None:
    problem = problem or case.problem
    for t0 in (0, 3):
        solution = case.solve(problem=problem, t0=t0)
        bad = [Status(int(code)).name for code in solution.status.unique() if not Status(int(code)).usable]
        require(not bad, f"{case.name} must find a usable plan for every x0 of the check, got {', '.join(bad)}")
        require(solution.t0 == t0, f"t0 must be the step of the first control, {t0}, got {solution.t0}")
        xs = problem.dynamics.rollout(case.x0, solution.us, t0)
        require_close(solution.xs, xs, 1e-10, "xs must be the rollout of us from x0")
        lower, upper = problem.limits_like(solution.us)
        inside = bool(((solution.us >= lower) & (solution.us <= upper)).all())
        require(inside, f"us must keep the control_limits {problem.control_limits}")
        _check_values_and_rates(problem, solution, None)
        if not isinstance(problem.dynamics, StochasticDynamics):
            cost = problem.trajectory_cost(solution.xs, solution.us, t0=t0)
            require_close(solution.cost, cost, 1e-10, "cost must be problem.trajectory_cost(xs, us)")


def _check_values_and_rates(problem: Problem, solution: Solution, previous: Tensor | None) -> None:
    us, values, rates = solution.us, problem.control_values, problem.rate_limits
    if values is not None:
        allowed = (us.unsqueeze(-2) == values.to(us)).all(-1).any(-1)
        require(bool(allowed.all()), "us must be control_values")
    if rates is not None:
        steps = us if previous is None else torch.cat([previous.unsqueeze(-2).to(us), us], dim=-2)
        rate = steps.diff(dim=-2) / problem.dynamics.dt
        lower, upper = (torch.as_tensor(limit, dtype=us.dtype) for limit in rates)
        kept = (rate >= lower - 1e-6 * (1 + lower.abs())) & (rate <= upper + 1e-6 * (1 + upper.abs()))
        require(bool(kept.all()), f"us must keep the rate_limits {rates}, the first step those from previous_control")


def _narrowest_limits(problem: Problem) -> tuple[Tensor, Tensor]:
    """Middle and half width ``(m,)`` of what is allowed at every step; one half about zero where there are no limits."""
    m = problem.dynamics.control_dim
    like = torch.zeros(m, dtype=torch.float64)
    if problem.control_limits is None:
        return like, like + 0.5
    lower, upper = (torch.broadcast_to(v, torch.broadcast_shapes(v.shape, (m,))) for v in problem.limits_like(like))
    lower, upper = lower.reshape(-1, m).amax(0), upper.reshape(-1, m).amin(0)
    return 0.5 * (lower + upper), 0.5 * (upper - lower)


def _features(case: _PlannerCase) -> dict[str, dict[str, Any]]:
    """Values for the fields of a problem that ask something special of a planner, by feature."""
    x0 = case.x0
    middle, half = _narrowest_limits(case.problem)
    threshold = float(x0[:, 0].median())  # some problems end at once, others later
    bound = 100.0 * float(x0.abs().max())  # far from every plan
    return {
        "control_limits": {"control_limits": (middle - 0.5 * half, middle + 0.25 * half), "control_values": None},
        "control_values": {"control_values": middle + half * torch.tensor([[-1.0], [0.0], [1.0]], dtype=x0.dtype)},
        "rate_limits": {"rate_limits": (-5.0 * half, 7.0 * half)},
        "constraints": {"constraints": (StateLimits(-bound, bound),)},
        "terminal_constraints": {"terminal_constraints": (StateLimits(-bound, bound),)},
        "soft constraints": {
            "constraints": (StateLimits(upper=threshold, soft=Slack(linear=1.0, quadratic=2.0)),),
            "terminal_constraints": (StateLimits(threshold, soft=Slack(quadratic=2.0)),),
        },
        "discount": {"discount": 0.5},
        "termination": {"termination": lambda x: x[..., 0] > threshold, "termination_cost": 10.0},
        "terminal_value": {"terminal_value": lambda x: 3.0 * x.square().sum(-1)},
        "infinite horizon": {"horizon": math.inf},
    }


_CHECKED_FEATURES = (
    "control_limits",
    "control_values",
    "rate_limits",
    "constraints",
    "terminal_constraints",
    "soft constraints",
    "discount",
    "termination",
    "terminal_value",
)


def _check_features(case: _PlannerCase) -> None:
    """What a planner cannot honor it refuses; what it honors is in the cost, the limits, the values and the rates."""
    for feature, values in _features(case).items():
        changed = replace(case.problem, **values)
        if feature not in case.planner.supports:
            sentence = f"{case.name} does not list {feature} in supports"
            require_value_error(lambda p=changed: case.solve(problem=p), sentence, feature)
        elif feature in _CHECKED_FEATURES:
            _check_plan(case, changed)
            if feature in ("control_values", "rate_limits"):
                middle, half = _narrowest_limits(case.problem)
                previous = (middle + half).expand(_STARTS, -1)
                _check_values_and_rates(changed, case.solve(problem=changed, previous_control=previous), previous)


def _check_batch(case: _PlannerCase) -> None:
    batch = case.solve(seed=0)
    if not torch.equal(batch.us, case.solve(seed=1).us):
        return  # random: which numbers an element gets depends on the batch
    for i, x0 in enumerate(case.x0):
        single = case.solve(x0)
        for field in ("us", "cost"):
            sentence = f"{field} of a batch must equal {field} of each problem solved alone"
            require_close(getattr(batch, field)[i], getattr(single, field), 1e-8, sentence)


def _check_unusable(case: _PlannerCase) -> None:
    broken = case.x0.clone()
    broken[1] = float("nan")
    others = [i for i in range(_STARTS) if i != 1]
    solution, sound = case.solve(broken), case.solve()
    sentence = "a problem whose states are NaN"
    status = Status(int(solution.status[1]))
    require(status == Status.NO_FINITE_PLAN, f"{sentence} must have status NO_FINITE_PLAN, got {status.name}")
    require(bool(solution.cost[1] == math.inf), f"{sentence} must cost infinity, got {float(solution.cost[1])}")
    require(bool(solution.us.isfinite().all()), f"{sentence} must have finite controls, got {solution.us[1].tolist()}")
    for field in ("us", "xs", "cost", "status"):
        actual, expected = getattr(solution, field)[others].double(), getattr(sound, field)[others].double()
        require_close(actual, expected, 1e-10, f"{sentence} must leave the others alone: {field}")
    try:
        case.solve(broken, throw=True)
    except SolveError as error:
        same = torch.equal(error.solution.status, solution.status)
        require(same, "SolveError must carry the whole solution")
    else:
        raise ContractError(f"{sentence} must raise SolveError unless throw=False")


def _check_gradient(case: _PlannerCase) -> None:
    x0 = case.x0.clone().requires_grad_()
    solution = case.solve(x0)
    attached = [
        f.name for f in dataclasses.fields(solution) if getattr(getattr(solution, f.name), "requires_grad", False)
    ]
    require(not attached, f"gradient=None must return detached tensors, but {', '.join(attached)} require a gradient")
    for kind in case.planner.gradients:
        us = case.solve(x0, gradient=kind()).us
        require(us.requires_grad, f"gradient={kind.__name__}() must give controls with a graph")
    if Unrolled not in case.planner.gradients:
        sentence = f"{case.name} does not list Unrolled in gradients"
        require_value_error(lambda: case.solve(x0, gradient=Unrolled()), sentence, "Unrolled")


def _check_warm_start(case: _PlannerCase) -> None:
    first = case.solve()
    us = first.us.clone()
    for t0 in (0, 2):
        second = case.solve(init=first, t0=t0)
        require(bool(second.usable.all()), f"{case.name} must solve from init= a solution {t0} steps old")
        _require_same(case.solve(init=first, t0=t0), second, 0.0, "equal warm starts must give equal plans")
    require(torch.equal(first.us, us), "a warm start must not be modified")


def _check_time_limit(case: _PlannerCase) -> None:
    full, ended = case.solve(), case.solve(out_of_time=lambda: True)
    require(bool(ended.usable.all()), f"{case.name} must have a usable plan when the time is over")
    early = ended.stats["iterations"] < full.stats["iterations"]
    late = ended.status == int(Status.TIME_LIMIT)
    require(
        not early or bool(late.any() and (late | (ended.status == int(Status.CONVERGED))).all()),
        f"a solve of {case.name} that ended early must have status TIME_LIMIT where it has not converged",
    )


def _check_controller(case: _PlannerCase) -> None:
    solution = case.solve()
    controller = solution.controller()
    memory = controller.init(_STARTS, generator=torch.Generator(case.x0.device).manual_seed(0))
    for k in range(int(case.problem.horizon)):
        u, memory = controller.act(solution.xs[:, k], memory)
        require_close(u, solution.us[:, k], 1e-10, f"the controller must follow the plan on it, step {k}")


_PLANNER_CHECKS: tuple[Callable[[_PlannerCase], None], ...] = (
    _check_configuration,
    _check_solution,
    _check_plan,
    _check_features,
    _check_batch,
    _check_unusable,
    _check_gradient,
    _check_warm_start,
    _check_time_limit,
    _check_controller,
)
