r"""The iterations of DDP: expand, solve backward, search a step forward, update multipliers.

The constraints are part of the cost through an augmented Lagrangian (see :mod:`planners.constraints.rows`), whose multipliers
and penalty each problem of the batch updates on its own as soon as its optimality reaches ``omega``. Problems that have
finished are taken out of the batch where their problem lets itself be divided.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from planners.batches import put_rows, spread, take_rows, where_batch, where_rows
from planners.constraints.rows import Rows, StageRows, TerminalRows
from planners.ddp.backward import LocalPolicy, Model, backward_pass
from planners.ddp.iterate import RUNNING, Iterate
from planners.ddp.line_search import chosen_step, policy_rollout
from planners.expansion import (
    Expansion,
    control_gradient,
    control_scale,
    convex_hessians,
    costates,
    expand_problem,
    stationarity,
)
from planners.kkt import lagrangian_hessians
from planners.problem import Problem
from planners.solution import Status

if TYPE_CHECKING:
    from planners.ddp.planner import DDP

ACCEPT = 1e-4
"""Share of the expected decrease that a step has to achieve."""
SHORT_STEPS = 0.5 ** torch.arange(1, 11, dtype=torch.float64)
"""Tried at once where the full step fails."""
IDLE = 4
"""Steps in a row that gain nothing after which a solve has stalled."""
REGULARIZATION = (1e-7, 1e7)
"""Smallest and largest regularization, relative to :func:`_scale`."""
NEAR = 0.1
"""Residual below which exact second derivatives are tried again where they were not convex or led nowhere."""
SLOW = 0.25
"""Share of the violation left by an update of the multipliers above which the penalty grows."""


@dataclass
class Counts:
    """What happened in a solve."""

    evaluations: int = 0
    nonfinite: int = 0


@dataclass(frozen=True, eq=False)
class Terms:
    """The expansion about an iterate with the rows of the constraints in it.

    Attributes:
        expansion: its gradients include the rows' multipliers.
        costate: ``(*batch, T+1, d)``.
        rows: the penalty's part of the stage Hessian ``(*batch, T, k, k)``, rows_T: of the terminal one; None without rows.
        y_hat: multipliers the rows ask for now, y_hat_T: of the terminal rows.
    """

    expansion: Expansion
    costate: Tensor
    rows: Tensor | None
    rows_T: Tensor | None  # noqa: N815 (the symbols of the equations)
    y_hat: Tensor | None
    y_hat_T: Tensor | None  # noqa: N815


@dataclass(frozen=True, eq=False)
class Trial:
    """The outcome of a line search.

    Attributes:
        xs: states ``(*batch, T+1, n)``. us: controls ``(*batch, T, m)``.
        merit: ``(*batch,)``. alpha: step length.
        good: whether the merit decreases enough, of bool.
    """

    xs: Tensor
    us: Tensor
    merit: Tensor
    alpha: Tensor
    good: Tensor


@dataclass(frozen=True, eq=False)
class Solver:
    """The steps of a solve, for all of a batch or a part of it.

    Attributes:
        config: the planner.
        problem: without constraints and limits.
        stage: the rows of the stage constraints, terminal: of the terminal constraints; None without.
        limits: control limits ``(*batch, T, m)`` each, or None.
        t0: step of the first control.
        multiple: whether gaps between the states are open at first.
        divisible: whether the batch is ``(B,)`` and its problems can be solved apart from each other.
        counts: what happened so far; shared with parts.
    """

    config: "DDP"
    problem: Problem
    stage: StageRows | None
    terminal: TerminalRows | None
    limits: tuple[Tensor, Tensor] | None
    t0: int
    multiple: bool
    divisible: bool
    counts: Counts

    @property
    def constrained(self) -> bool:
        """Whether there are rows of constraints."""
        return self.stage is not None or self.terminal is not None

    def part(self, index: Tensor) -> "Solver":
        """The solver of the problems ``index`` of a batch ``(B,)`` that divides."""
        if self.limits is None:
            return self
        lower, upper = self.limits
        return replace(self, limits=(lower.index_select(0, index), upper.index_select(0, index)))

    def step(self, s: Iterate, *, search: bool = True) -> Iterate:
        """One iteration for all problems; ``search=False`` only says where they stand, with the gains there."""
        unfinished = s.running
        s, terms, gap = self._assessed(s)
        policy, convex, s = self._local_policy(s, terms, gap)
        s = self._reconsidered(s, policy, unfinished)
        K = policy.K.nan_to_num(0.0)  # where there are no derivatives there is no feedback
        s = replace(s, K=K, Quu=policy.Quu, P=policy.P)
        if not search or not bool(s.running.any()):
            return s
        moved = self._searched(s, terms, policy, convex, gap)
        return where_rows(s.running, replace(moved, iterations=s.iterations + 1), s)

    def _reconsidered(self, s: Iterate, policy: LocalPolicy, unfinished: Tensor) -> Iterate:
        """Whether problems that have just ended did so for good, now that it is known what a step would gain.

        A gradient that is small in the unit of one control is not in that of another; what a step gains has no unit but the
        cost's. Where there are no finite derivatives there is no step.
        """
        gain = (policy.slope + policy.bend).abs()
        worthwhile = gain > self.config.tolerance_in(self.problem, s.us) * s.merit.abs() + self._noise(s.merit)
        early = unfinished & (s.status == int(Status.CONVERGED)) & policy.solved & worthwhile
        stuck = s.running & ~(policy.slope.isfinite() & policy.bend.isfinite())
        status = torch.where(stuck, int(Status.STALLED), s.status)
        return replace(s, status=torch.where(early, RUNNING, status))

    def merit(self, xs: Tensor, us: Tensor, s: Iterate) -> Tensor:
        """The augmented Lagrangian of trajectories ``(*batch, A, ...)``, ``(*batch, A)``; infinite where it is not finite."""
        value = self.problem.trajectory_cost(xs, us, t0=self.t0).to(us)
        if self.constrained:
            value = value + self._penalty(xs, us, s, axis=1)
        self.counts.evaluations += value.numel()
        finite = value.isfinite()
        self.counts.nonfinite += value.numel() - int(finite.sum())
        return torch.where(finite, value, torch.inf)

    def _penalty(self, xs: Tensor, us: Tensor, s: Iterate, *, axis: int = 0) -> Tensor:
        """Psi over all rows, for trajectories with ``axis`` more axes after the batch."""
        total = us.new_zeros(())
        for rows, y, core in ((self.stage, s.y, 2), (self.terminal, s.y_T, 1)):
            if rows is not None and y is not None:
                for _ in range(axis):
                    y = y.unsqueeze(-core - 1)
                rho = spread(s.rho, axis + core)
                psi = rows.prices.merit(rows.value(xs, us), y, rho)
                total = total + (psi.sum(-1) if core == 2 else psi)
        return total

    def _assessed(self, s: Iterate) -> tuple[Iterate, Terms, Tensor | None]:
        """Expand, decide which problems have finished, and update the multipliers of those whose turn it is."""
        bare = expand_problem(self.problem, s.xs, s.us, self.t0)
        values = self._row_values(s)
        terms = self._terms(bare, s, values)
        gradient = control_gradient(terms.expansion, terms.costate)
        own = terms.expansion.g[..., terms.costate.shape[-1] :]
        s = replace(s, residual=stationarity(s.us, gradient, own, self.limits, control_scale(bare)))
        gap = bare.gap if self.multiple else None
        infeasible = self._infeasibility(terms, s)
        s = replace(s, status=torch.where(s.running, self._verdict(s, gap, infeasible), s.status))
        turn = s.running & self._ready(s)
        if self.constrained and bool(turn.any()):
            s = where_rows(turn, self._multipliers_updated(s, terms, infeasible), s)
            terms = self._terms(bare, s, values)
        return s, terms, gap

    def _ready(self, s: Iterate) -> Tensor:
        """Whether a problem is solved well enough with its present multipliers, ``(*batch,)`` of bool."""
        return (s.residual <= s.omega) | (s.idle >= IDLE)

    def _verdict(self, s: Iterate, gap: Tensor | None, infeasible: Tensor) -> Tensor:
        """The status of each problem where it stands; :data:`RUNNING` for those that go on."""
        tolerance = self.config.tolerance_in(self.problem, s.us)
        optimal = s.residual <= tolerance
        if gap is not None:
            optimal = optimal & (gap.abs().amax((-2, -1)) <= tolerance)
        met = infeasible <= self.config.constraint_tolerance
        stalled = ~optimal & met & (s.idle >= IDLE)
        hopeless = torch.zeros_like(stalled)
        if self.constrained:
            stalled = stalled & (s.omega <= self.config.tolerance)
            slow = infeasible > SLOW * s.infeasibility
            hopeless = self._ready(s) & ~met & (s.rho >= s.max_rho) & slow
        status = torch.where(optimal & met, int(Status.CONVERGED), s.status)
        status = torch.where(stalled, int(Status.STALLED), status)
        return torch.where(hopeless, int(Status.INFEASIBLE), status)

    def _multipliers_updated(self, s: Iterate, terms: Terms, infeasible: Tensor) -> Iterate:
        """What the rows ask for becomes their multiplier; the penalty grows where the violation does not fall fast."""
        grown = torch.minimum(s.rho * self.config.penalty_factor, s.max_rho)
        new = replace(
            s,
            y=terms.y_hat,
            y_T=terms.y_hat_T,
            rho=torch.where(infeasible > SLOW * s.infeasibility, grown, s.rho),
            omega=(0.1 * s.omega).clamp_min(self.config.tolerance),
            infeasibility=infeasible,
            idle=torch.zeros_like(s.idle),
        )
        change = self._penalty(s.xs, s.us, new) - self._penalty(s.xs, s.us, s)
        return replace(new, merit=s.merit + change)

    def _row_values(self, s: Iterate) -> list[tuple[Rows, Tensor, Tensor] | None]:
        """Values and Jacobians of the rows of stages and of the last state."""
        return [
            None if rows is None else (rows, rows.value(s.xs, s.us), rows.jacobian(s.xs, s.us))
            for rows in (self.stage, self.terminal)
        ]

    def _terms(self, bare: Expansion, s: Iterate, values: list[tuple[Rows, Tensor, Tensor] | None]) -> Terms:
        g, p_T = bare.g, bare.p_T
        found: list[tuple[Tensor | None, Tensor | None]] = []
        for known, y, core in zip(values, (s.y, s.y_T), (2, 1), strict=True):
            if known is None or y is None:
                found.append((None, None))
                continue
            rows, value, C = known
            y_hat, slope = rows.prices.multiplier(value, y, spread(s.rho, core))
            gradient = (C.mT @ y_hat.unsqueeze(-1)).squeeze(-1)
            g, p_T = (g + gradient, p_T) if core == 2 else (g, p_T + gradient)
            found.append((y_hat, C.mT @ (slope.unsqueeze(-1) * C)))
        expansion = replace(bare, g=g, p_T=p_T)
        (y_hat, rows), (y_hat_T, rows_T) = found
        return Terms(expansion, costates(expansion), rows, rows_T, y_hat, y_hat_T)

    def _infeasibility(self, terms: Terms, s: Iterate) -> Tensor:
        """The largest violation or error of complementarity, ``(*batch,)``: the change of the multipliers over the penalty."""
        sizes = [torch.zeros_like(s.merit)]
        for y_hat, y, core in ((terms.y_hat, s.y, 2), (terms.y_hat_T, s.y_T, 1)):
            if y_hat is not None and y is not None and y.numel():
                sizes.append((y_hat - y).abs().amax(tuple(range(-core, 0))) / s.rho)
        return torch.stack(sizes).amax(0)

    def _local_policy(self, s: Iterate, terms: Terms, gap: Tensor | None) -> tuple[LocalPolicy, Model, Iterate]:
        """The backward pass; where it fails, first with the convexified Hessian, then with more regularization.

        Returns:
            The policy, the convexified model, and the iterate with its regularization and trust.
        """
        e = terms.expansion
        lower, upper = (None, None) if self.limits is None else (limit - s.us for limit in self.limits)
        # gains and value Hessians that are returned are exact wherever they are convex
        live, mu = s.status < int(Status.NO_FINITE_PLAN), torch.where(s.running, s.mu, 0.0)
        exact = (s.newton | ~s.running) & live if self.config.curvature == "exact" else torch.zeros_like(s.newton)
        convex = convex_hessians(self.problem, e, s.xs, s.us, self.t0)
        H, P_T = convex
        if bool(exact.any()):
            full = self._lagrangian_hessian(s, terms)
            H = torch.where(exact[..., None, None, None], full[0], H)
            P_T = torch.where(exact[..., None, None], full[1], P_T)
        H, P_T = (_plus(a, b) for a, b in ((H, terms.rows), (P_T, terms.rows_T)))
        model = Model(e.F, gap, e.g, H, e.p_T, P_T, lower, upper)
        policy = backward_pass(model, mu)
        fallback = replace(model, H=_plus(convex[0], terms.rows), P_T=_plus(convex[1], terms.rows_T))
        scale = _scale(policy, terms)
        for attempt in range(20):
            failed = ~policy.solved & live
            if not bool(failed.any()):
                break
            if attempt > 0:
                mu = torch.where(failed, self._raised(mu, scale), mu)
            some = fallback.where(failed)
            policy = _put_masked(policy, failed, backward_pass(some, mu[failed]))
            exact = exact & ~failed
        return policy, fallback, replace(s, mu=mu, newton=torch.where(s.running, exact, s.newton))

    def _lagrangian_hessian(self, s: Iterate, terms: Terms) -> tuple[Tensor, Tensor]:
        """The cost's Hessians with the curvature of dynamics and constraints."""
        rows = (self.stage, terms.y_hat), (self.terminal, terms.y_hat_T)
        return lagrangian_hessians(self.problem, terms.expansion, s.xs, s.us, terms.costate, self.t0, *rows)

    def _searched(self, s: Iterate, terms: Terms, policy: LocalPolicy, convex: Model, gap: Tensor | None) -> Iterate:
        """The best of some step lengths; the iterate itself, with more regularization, where none decreases the merit."""
        price = torch.zeros_like(s.merit)  # of the gaps, as an exact penalty
        if gap is not None:
            price = 2.0 * terms.costate.abs().amax((-2, -1)) * gap.abs().sum((-2, -1))
            # a guess that costs nothing has no costate, but closing its gaps costs what the value bends
            bent = (gap.unsqueeze(-2) @ policy.P[..., 1:, :, :] @ gap.unsqueeze(-1)).sum((-3, -2, -1))
            price = price + bent.clamp_min(0.0)
        trial = self._tried(s, policy, gap, price, torch.ones(1).to(s.us))
        again = s.running & ~trial.good
        if bool(again.any()):
            trial = self._tried_shorter(s, policy, gap, price, again, trial)
        if self.limits is not None and gap is None and not bool(s.iterations.any()):
            trial = self._tried_saturating(s, convex, trial)
        xs, us, merit, alpha, good = trial.xs, trial.us, trial.merit, trial.alpha, trial.good
        noise = self._noise(s.merit)
        gained = good & (s.merit + price - merit - (1.0 - alpha) * price > noise)
        scale = _scale(policy, terms)
        lowered, raised = self._lowered(s.mu, scale), self._raised(s.mu, scale)
        mu = torch.where(good & (alpha > 0.5), lowered, torch.where(good & (alpha > 0.1), s.mu, raised))
        # after a short or failed step along an exact direction the convexified one is next, before any regularization
        mu = torch.where(s.newton & ~(good & (alpha > 0.1)), s.mu, mu)
        trusted = good & (alpha > 0.2)
        newton = torch.where(s.newton, trusted, good & (alpha > 0.5) & (s.residual < NEAR))
        full = scale * REGULARIZATION[1]
        moved = replace(
            s,
            xs=where_batch(good, xs, s.xs),
            us=where_batch(good, us, s.us),
            merit=torch.where(good, merit, s.merit),
            mu=torch.minimum(mu, full),
            newton=newton,
            idle=torch.where(gained, 0, s.idle + torch.where(good | (mu >= full), 1, 0)),
        )
        return moved

    def _tried_shorter(
        self, s: Iterate, policy: LocalPolicy, gap: Tensor | None, price: Tensor, again: Tensor, trial: Trial
    ) -> Trial:
        """Shorter steps for the problems of a mask, the others as they are; alone where the batch divides."""
        alphas = SHORT_STEPS.to(s.us)
        if not self.divisible:
            return where_rows(again, self._tried(s, policy, gap, price, alphas), trial)
        rows = again.nonzero().squeeze(-1)
        some = take_rows(s, rows), take_rows(policy, rows), None if gap is None else gap[rows], price[rows]
        return put_rows(trial, rows, self.part(rows)._tried(*some, alphas))

    def _tried_saturating(self, s: Iterate, convex: Model, trial: Trial) -> Trial:
        """The better of a trial and the feedback of the problem without limits, cut off at them.

        The gains of clamped controls are zero. Along a first trajectory that runs away all controls are clamped, and nothing is
        left that would bring it back.
        """
        policy = backward_pass(replace(convex, lower=None, upper=None), s.mu)
        zero = torch.zeros_like(s.merit)
        other = self._tried(s, replace(policy, slope=zero, bend=zero), None, zero, torch.ones(1).to(s.us))
        best = torch.where(trial.good, trial.merit, s.merit)
        return where_rows(other.good & policy.solved & (other.merit < best - self._noise(best)), other, trial)

    def _tried(self, s: Iterate, policy: LocalPolicy, gap: Tensor | None, price: Tensor, alphas: Tensor) -> Trial:
        """The best of step lengths ``(A,)`` that decrease the merit enough."""
        xs, us = policy_rollout(self.problem.dynamics, s.xs, s.us, policy, alphas, self.limits, gap, self.t0)
        merits = self.merit(xs, us, s)
        before = (s.merit + price).unsqueeze(-1)
        after = merits + (1.0 - alphas) * price.unsqueeze(-1)
        expected = -(policy.slope.unsqueeze(-1) * alphas + policy.bend.unsqueeze(-1) * alphas.square())
        expected = expected.clamp_min(0.0) + alphas * price.unsqueeze(-1)
        good = before - after >= ACCEPT * expected - self._noise(s.merit).unsqueeze(-1)
        good = good & after.isfinite()
        index = torch.where(good, after, torch.inf).argmin(-1)
        chosen = [chosen_step(values, index) for values in (xs, us, merits, good)]
        return Trial(chosen[0], chosen[1], chosen[2], alphas[index], chosen[3])

    def _noise(self, merit: Tensor) -> Tensor:
        """Changes of the merit that the arithmetic does not resolve."""
        return 16 * torch.finfo(merit.dtype).eps * merit.abs().clamp_min(1e-30)

    def _raised(self, mu: Tensor, scale: Tensor) -> Tensor:
        return torch.maximum(10.0 * mu, 1e2 * REGULARIZATION[0] * scale)

    def _lowered(self, mu: Tensor, scale: Tensor) -> Tensor:
        lower = 0.1 * mu
        return torch.where(lower < REGULARIZATION[0] * scale, 0.0, lower)


def run(solver: Solver, s: Iterate, max_iterations: int, out_of_time: Callable[[], bool]) -> Iterate:
    """Iterate until every problem has finished.

    Args:
        solver: of the whole batch.
        s: the first iterate.
        max_iterations: at most.
        out_of_time: true once the solve should end.
    """
    whole, index, everything = s, None, solver
    ended = Status.ITERATION_LIMIT
    for _ in range(max_iterations):
        s = solver.step(s)
        running = s.running
        if not bool(running.any()):
            break
        if solver.divisible and 4 * int(running.sum()) <= 3 * running.numel():
            rows = running.nonzero().squeeze(-1)
            whole, index = _merged(whole, index, s), rows if index is None else index[rows]
            s, solver = take_rows(s, rows), everything.part(index)
        if out_of_time():
            ended = Status.TIME_LIMIT
            break
    if bool(s.running.any()):  # gains about where they have come to
        s = solver.step(s, search=False)
        s = replace(s, status=torch.where(s.running, int(ended), s.status))
    return _merged(whole, index, s)


def _merged(whole: Iterate, index: Tensor | None, part: Iterate) -> Iterate:
    return part if index is None else put_rows(whole, index, part)


def _scale(policy: LocalPolicy, terms: Terms) -> Tensor:
    """What regularization is relative to, ``(*batch,)``: the largest control Hessian, of the model or of the cost itself.

    Where neither has any, as where a concave cost has been convexified or a linear one left alone, a share of the gradient.
    """
    d, e = terms.costate.shape[-1], terms.expansion
    own = e.H[..., d:, d:].diagonal(dim1=-2, dim2=-1).abs().amax((-2, -1))
    gradient = control_gradient(e, terms.costate).abs().amax((-2, -1))
    largest = policy.Quu.diagonal(dim1=-2, dim2=-1).abs().amax((-2, -1))
    return torch.maximum(torch.maximum(largest, own), 1e-6 * gradient).clamp_min(1e-30)


def _plus(value: Tensor, addition: Tensor | None) -> Tensor:
    return value if addition is None else value + addition


def _put_masked(policy: LocalPolicy, mask: Tensor, part: LocalPolicy) -> LocalPolicy:
    """A policy with the problems of a mask replaced."""
    fields = {}
    for name, value in vars(policy).items():
        whole = value.clone()
        whole[mask] = getattr(part, name)
        fields[name] = whole
    return LocalPolicy(**fields)
