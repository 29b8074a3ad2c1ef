r"""Sequential convexification: nonlinear problems as convex programs about an iterate that moves.

About states x and controls u that need not obey the dynamics yet, each iteration solves

.. math::
    \min_{\delta x, \delta u} \; g^\top z + \tfrac12 z^\top H z
    + \mu \sum_t \lVert \delta x_{t+1} - F_t z_t - d_t \rVert_1 + \mu \sum_t \lVert (c_t + C_t z_t)_+ \rVert_1
    \quad \text{s.t.} \quad \lVert z \rVert_\infty \le \Delta, \quad u + \delta u \in \mathcal U

with :math:`z_t = (\delta x_t, \delta u_t)`, gaps :math:`d_t = f(x_t, u_t) \ominus x_{t+1}` and linearized constraints c. What a
gap or a constraint is missed by is the virtual control of SCvx (Mao, Szmuk, Xu and Acikmese 2018, equations 13 to 17): every
program has a solution, and the penalty is exact once mu is larger than the multipliers. A step is taken, and the trust region
made wider or narrower, by the ratio of what the penalized cost loses to what the program predicts.

H is the Hessian of the cost, and of :math:`\lambda^\top f + y^\top c` with the previous program's multipliers (the Lagrangian of
sequential quadratic programming; dynamics without exact derivatives are left out), projected onto the positive semidefinite
matrices step by step. A step is tried as the program gives it, and rolled out through the dynamics with feedback about it, which
leaves no gaps; the cheaper of both counts. mu grows where the iterates come to rest before they are feasible. The plan that is
returned is the rollout of the controls, so that nothing virtual is left in it.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from planners.batches import take_rows
from planners.constraints import Slack
from planners.control_set import ControlSet, expanded
from planners.convex.control_program import AffineRows, ProgramBuilder
from planners.convex.convex_program import _flat_controls, scale_of
from planners.convex.linearized import constraint_curvature, linearized_constraints
from planners.convex.quadratic_program import Outcome, solve_programs
from planners.expansion import Expansion, dynamics_curvature, expand_problem
from planners.problem import Problem
from planners.psd import convexified
from planners.riccati import LinearQuadratic, backward_pass, mv
from planners.solution import Solution, Status, finished
from planners.solve import Planner, Request

PENALIZED = Slack(linear=1.0)
"""The price of a hard constraint in a program, before the penalty multiplies it."""


@dataclass(frozen=True)
class SequentialConvex(Planner):
    """Nonlinear dynamics and constraints by a sequence of convex programs in a trust region.

    Attributes:
        max_iterations: convex programs at most.
        tolerance: the iterates have come to rest when a program predicts to lower the penalized cost by no more than this share
            of it, or of 1.
        feasibility_tolerance: by how much a hard constraint may be violated, relative to the largest state and 1.
        trust_radius: how far the first program may move each state and control, in their units.
        penalty: the first price of violated dynamics and constraints, per unit; it grows as needed.

    Solving raises ValueError unless the problem is without termination and discrete controls.

    Raises:
        ValueError: a field is out of range.
    """

    supports: ClassVar[frozenset[str]] = frozenset(
        {
            "control_limits",
            "rate_limits",
            "constraints",
            "terminal_constraints",
            "soft constraints",
            "discount",
            "terminal_value",
        }
    )

    max_iterations: int = 100
    tolerance: float = 1e-9
    feasibility_tolerance: float = 1e-6
    trust_radius: float = 1.0
    penalty: float = 100.0

    def __post_init__(self):
        if not (isinstance(self.max_iterations, int) and self.max_iterations >= 1):
            raise ValueError(f"max_iterations must be an integer of at least 1, got {self.max_iterations!r}")
        for name in ("tolerance", "feasibility_tolerance", "trust_radius", "penalty"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def plan(self, problem: Problem, x0: Tensor, request: Request) -> Solution:
        """Run the loop; called through ``solve``."""
        start = x0.double()
        controls = ControlSet.of(problem, start, int(problem.horizon), request.previous_control)
        xs, us = _first_iterate(problem, start, controls, request)
        search = _Search(self, problem, request.t0, controls, xs, us)
        iterations, out_of_time = 0, False
        while bool(search.running.any()) and iterations < self.max_iterations and not out_of_time:
            search.advance()
            iterations += 1
            out_of_time = request.out_of_time()
        left = Status.TIME_LIMIT if out_of_time and iterations < self.max_iterations else Status.ITERATION_LIMIT
        status = search.status.masked_fill(search.running, int(left)).reshape(x0.shape[:-1]).to(x0.device)
        return self._finish(problem, x0, controls.admissible(search.us), status, controls, request.t0, iterations)

    def _finish(
        self,
        problem: Problem,
        x0: Tensor,
        us: Tensor,
        status: Tensor,
        controls: ControlSet,
        t0: int,
        iterations: int,
    ) -> Solution:
        """The rollout of the controls, and whether it respects what is hard."""
        exact = problem.dynamics.rollout(x0.double(), us, t0)
        violated = ~(problem.hard_violation(exact, us, t0=t0) <= self.feasibility_tolerance * scale_of(exact))
        status = status.masked_fill(violated & (status <= int(Status.TIME_LIMIT)), int(Status.INFEASIBLE))
        status = status.masked_fill(~exact.isfinite().all(-1).all(-1), int(Status.NO_FINITE_PLAN))
        status = status.masked_fill(controls.in_conflict(us), int(Status.LIMITS_IN_CONFLICT))
        us = us.to(x0)
        xs = problem.dynamics.rollout(x0, us, t0)
        return finished(
            problem,
            xs,
            us,
            problem.trajectory_cost(xs, us, t0=t0),
            status,
            t0=t0,
            violations=problem.violations(xs, us, t0=t0),
            stats={"iterations": iterations},
        )


ACCEPTED, GOOD, POOR = 1e-4, 0.75, 0.25
"""Shares of the predicted decrease: from the first on a step is taken, from the second on the trust region grows, below the third
it shrinks."""
SMALLEST_RADIUS, LARGEST_PENALTY = 1e-10, 1e9


class _Search:
    """The iterates of a batch of problems; problems that have ended are left out of further programs."""

    def __init__(
        self, planner: SequentialConvex, problem: Problem, t0: int, controls: ControlSet, xs: Tensor, us: Tensor
    ):
        self.planner, self.problem, self.t0 = planner, problem, t0
        self.xs, self.us, self.batch = xs, us, tuple(us.shape[:-2])
        self.controls = _flat_controls(controls, self.batch)
        count, like = math.prod(self.batch), us
        self.radius = torch.full((count,), planner.trust_radius, dtype=like.dtype)
        self.penalty = torch.full((count,), planner.penalty, dtype=like.dtype)
        self.status = torch.full((count,), int(Status.ITERATION_LIMIT))
        self.running = xs.isfinite().all(-1).all(-1).reshape(-1).cpu()
        self.status[~self.running] = int(Status.NO_FINITE_PLAN)
        if controls.previous is not None:
            self.running &= ~controls.in_conflict(us).reshape(-1).cpu()
        self.multipliers: list[Tensor] = []  # of the dynamics, as costates, and of the rows of each constraint

    def advance(self) -> None:
        """Solve one program about each iterate that has not ended, and move it if that helps."""
        problems = self.running.nonzero().squeeze(-1)
        model, rows = self._model()
        dx, du, predicted, failed = self._step(model, rows, problems)
        before, missed = self._merit(self.xs, self.us)
        us = self.us + du.reshape(self.us.shape).to(self.us)
        moved = self.problem.dynamics.retract(self.xs, dx.reshape(*self.batch, *dx.shape[1:]).to(self.xs))
        rolled = self._rolled_out(model, moved, us)
        costs = self._merit(moved, us)[0], self._merit(*rolled)[0]
        after = torch.minimum(*costs)
        better = (costs[1] < costs[0]).reshape(*self.batch, 1, 1).to(us.device)
        xs, us = torch.where(better, rolled[0], moved), torch.where(better, rolled[1], us)
        scale = 1.0 + before.abs()
        ratio = ((before - after) / predicted).nan_to_num(nan=-1.0, neginf=-1.0)
        noise = 1e-13 * scale  # a decrease as small as rounding can be neither predicted nor measured
        taken = self.running & ~failed & ((ratio >= ACCEPTED) | ((before - after).abs() <= noise))
        self._resize(ratio, torch.maximum(dx.abs().amax((-2, -1)), du.abs().amax((-2, -1))))
        chosen = taken.reshape(*self.batch, 1, 1).to(us.device)
        self.xs, self.us = torch.where(chosen, xs, self.xs), torch.where(chosen, us, self.us)
        resting = predicted <= self.planner.tolerance * scale
        self._end(resting, missed, failed)

    def _rolled_out(self, model: Expansion, xs: Tensor, us: Tensor) -> tuple[Tensor, Tensor]:
        """The controls, with feedback about the states of a step, through the dynamics: a step without gaps."""
        K, batch, dynamics = _gains(model), self.batch, self.problem.dynamics
        K = K.reshape(*batch, *K.shape[1:]).to(us)
        if self.controls.rise is not None:  # feedback would break rate limits
            K = torch.zeros_like(K)
        lower, upper = (v.reshape(us.shape).to(us) for v in (self.controls.lower, self.controls.upper))
        x, states, controls = xs[..., 0, :], [xs[..., 0, :]], []
        for t in range(us.shape[-2]):
            u = us[..., t, :] + mv(K[..., t, :, :], dynamics.difference(x, xs[..., t, :]))
            controls.append(u.clamp(lower[..., t, :], upper[..., t, :]))
            x = dynamics(x, controls[-1], self.t0 + t)
            states.append(x)
        return torch.stack(states, dim=-2), torch.stack(controls, dim=-2)

    def _model(self) -> tuple[Expansion, list[AffineRows]]:
        """The expansion about all iterates with a convex Hessian, and the linearized constraints, their batch axes in one."""
        problem, dynamics = self.problem, self.problem.dynamics
        model = expand_problem(problem, self.xs, self.us, self.t0)
        H = model.H
        P_T = model.P_T
        geometry = {"moved": dynamics.retract, "tangent_dim": dynamics.tangent_dim}
        if self.multipliers:
            costate, *weights = (value.reshape(*self.batch, *value.shape[1:]).to(self.us) for value in self.multipliers)
            if dynamics.derivatives == "autograd":
                costate = torch.cat([torch.zeros_like(costate[..., :1, :]), costate], dim=-2)
                H = H + dynamics_curvature(problem, model, self.xs, self.us, costate, self.t0)
            stage, last = constraint_curvature(problem, self.xs, self.us, self.t0, weights, **geometry)
            H, P_T = H + stage, P_T + last
        model = replace(model, H=convexified(H), P_T=convexified(P_T))
        rows = linearized_constraints(problem, self.xs, self.us, self.t0, hard=PENALIZED, **geometry)
        return _flattened(model, self.batch), list(rows)

    def _step(
        self, model: Expansion, rows: list[AffineRows], problems: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Displacements, the decrease that the programs predict, and where they failed; zero for problems that have ended."""
        part = take_rows(model, problems)
        program = ProgramBuilder.of(part)
        program.add_cost(part)
        program.add_start(part.p_T.new_zeros(part.p_T.shape))
        penalty = self.penalty[problems, None]
        weights = penalty.expand(-1, program.T)
        spans = [program.add_dynamics(part, soft=PENALIZED, weights=weights)]
        at_rest = (weights.unsqueeze(-1) * part.gap.abs()).sum((-2, -1))
        for one in rows:
            chosen = one.chosen(problems)
            weights = self._weights(chosen, penalty)
            spans.append(program.add_rows(chosen, weights))
            violation = chosen.d.abs() if one.equality else torch.relu(-chosen.d)
            price = (one.soft or PENALIZED)(violation)
            at_rest = at_rest + (weights.unsqueeze(-1) * price).sum((-2, -1))
        about = self.us.reshape(-1, *self.us.shape[-2:]).cpu()[problems]
        limits = take_rows(self.controls, problems)
        program.add_control_limits(limits, about)
        radius = self.radius[problems, None, None]
        for index, width in (
            (program.states(1, program.T), program.n),
            (program.controls(0, program.T), program.m),
        ):
            bound = radius.expand(-1, program.T, width)
            program.add_bounds(index, -bound, bound)
        quadratic = program.build()
        found = solve_programs(quadratic, tolerance=1e-9, max_iterations=200, polish=False)
        count = len(self.penalty)

        def whole(value: Tensor) -> Tensor:
            return value.new_zeros(count, *value.shape[1:]).index_copy(0, problems, value)

        costate, *others = (program.multipliers(span, found) for span in spans)
        self.multipliers = [whole(-costate), *map(whole, others)]
        dx, du = program.read(found)
        predicted = whole((at_rest - quadratic.cost(found.z)).clamp_min(0.0))
        return whole(dx), whole(du), predicted, whole(found.outcome > int(Outcome.INACCURATE))

    def _weights(self, rows: AffineRows, penalty: Tensor) -> Tensor:
        """What multiplies the price of rows, ``(B, steps)``: the penalty where they are hard, the discount otherwise."""
        steps = rows.steps().to(penalty)
        if rows.soft is PENALIZED:
            return penalty.expand(-1, len(steps))
        return (self.problem.discount**steps).expand(len(penalty), -1)

    def _merit(self, xs: Tensor, us: Tensor) -> tuple[Tensor, Tensor]:
        """Penalized cost, infinite where it is not finite, and largest violation of dynamics and hard constraints, ``(B,)``."""
        problem, steps = self.problem, self.t0 + torch.arange(us.shape[-2], device=us.device)
        gap = problem.dynamics.difference(problem.dynamics(xs[..., :-1, :], us, steps), xs[..., 1:, :])
        total, worst = gap.abs().sum((-2, -1)), gap.abs().amax((-2, -1))
        violations = []
        for constraint in problem.constraints:
            first = int(constraint.of_state)
            if constraint.soft is None:
                found = constraint.violation(xs[..., first:-1, :], us[..., first:, :], steps[first:])
                violations.append(found.flatten(-2))
        violations += [c.violation(xs[..., -1, :]) for c in problem.terminal_constraints if c.soft is None]
        rows = torch.cat([*violations, torch.zeros_like(total).unsqueeze(-1)], dim=-1)
        total, worst = total + rows.sum(-1), torch.maximum(worst, rows.amax(-1))
        cost = problem.trajectory_cost(xs, us, t0=self.t0)
        merit = cost.reshape(-1).cpu() + self.penalty * total.reshape(-1).cpu()
        worst = (worst / scale_of(xs)).reshape(-1).cpu()
        return merit.nan_to_num(nan=math.inf, neginf=math.inf), worst

    def _resize(self, ratio: Tensor, size: Tensor) -> None:
        """Narrow the trust region where the model is poor, widen it where it is good and was the limit."""
        at_border = size >= 0.99 * self.radius
        radius = torch.where(ratio < POOR, 0.5 * torch.minimum(self.radius, size), self.radius)
        radius = torch.where((ratio > GOOD) & at_border, 2.0 * self.radius, radius)
        self.radius = torch.where(self.running, radius, self.radius)

    def _end(self, resting: Tensor, missed: Tensor, failed: Tensor) -> None:
        """Iterates at rest have converged if they are feasible, and pay more for what they violate if they are not."""
        feasible = missed <= 0.1 * self.planner.feasibility_tolerance
        stuck = self.radius < SMALLEST_RADIUS
        stopped = self.running & (resting | stuck | failed)
        dearer = stopped & ~feasible & ~failed & (self.penalty < LARGEST_PENALTY)
        self.penalty = torch.where(dearer, 10.0 * self.penalty, self.penalty)
        self.radius = torch.where(dearer, self.radius.clamp_min(self.planner.trust_radius), self.radius)
        ended = stopped & ~dearer
        status = torch.where(resting & feasible, int(Status.CONVERGED), int(Status.STALLED))
        self.status = torch.where(ended, status, self.status)
        self.running = self.running & ~ended


def _first_iterate(problem: Problem, x0: Tensor, controls: ControlSet, request: Request) -> tuple[Tensor, Tensor]:
    """The previous plan's controls or zeros, within the limits, and their rollout; where it is not finite, x0 held."""
    us = torch.zeros_like(controls.lower)
    if request.init is not None:
        times = request.time + problem.dynamics.dt * torch.arange(us.shape[-2], dtype=torch.float64)
        us = expanded("the controls of init", request.init.controls_at(times).to(us), tuple(us.shape))
    us = controls.admissible(us)
    xs = problem.dynamics.rollout(x0, us, request.t0)
    held = x0.unsqueeze(-2).expand(xs.shape)
    return torch.where(xs.isfinite().all(-1).all(-1)[..., None, None], xs, held), us


def _gains(model: Expansion) -> Tensor:
    """Gains of the model without constraints, ``(B, T, m, n)``."""
    n = model.p_T.shape[-1]
    eye = torch.eye(model.H.shape[-1] - n, dtype=model.H.dtype)
    lq = LinearQuadratic(
        A=model.F[..., :n],
        B=model.F[..., n:],
        b=torch.zeros_like(model.gap),
        Q=model.H[..., :n, :n],
        N=model.H[..., :n, n:],
        R=model.H[..., n:, n:] + 1e-6 * eye,
        q=torch.zeros_like(model.gap),
        r=torch.zeros_like(model.g[..., n:]),
        P_T=model.P_T,
        p_T=torch.zeros_like(model.p_T),
    )
    return backward_pass(lq).K.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _flattened(model: Expansion, batch: tuple[int, ...]) -> Expansion:
    """An expansion with its batch axes in one, for the solver on the processor."""
    core = {"F": 3, "gap": 2, "g": 2, "H": 3, "p_T": 1, "P_T": 2}

    def flat(value: Tensor, ndim: int) -> Tensor:
        shape = value.shape[value.ndim - ndim :]
        return value.expand(*batch, *shape).reshape(math.prod(batch), *shape).cpu()

    return Expansion(**{name: flat(getattr(model, name), ndim) for name, ndim in core.items()})
