r"""A better linear-Gaussian controller that differs little from the previous one: the trajectory step of guided policy search.

With the previous controller q, dynamics linearized about a trajectory with Gaussian noise W, and costs expanded to second order,

.. math::
    \min_p \; \mathbb E_p \Big[ \sum_t \ell_t \Big] - h \sum_t \mathbb E \, \mathcal H(p(\cdot | x_t)) \quad \text{s.t.} \quad
    \sum_t \mathbb E_{p} \, \mathrm{KL}\big(p(u_t | x_t) \,\|\, q(u_t | x_t)\big) \le \epsilon

(Levine and Abbeel 2014, "Learning neural network policies with guided policy search under unknown dynamics", section 3.1;
Montgomery and Levine 2016, "Guided policy search via approximate mirror descent", where q is the linearized policy). For a
multiplier :math:`\eta` the Lagrangian is a linear-quadratic problem with entropy, of the cost :math:`\ell - \eta \log q`. The
Riccati recursion solves it, with :math:`\Sigma_t = (\eta + h) Q_{uu,t}^{-1}`. The divergence falls with :math:`\eta`, whose
logarithm is bracketed.

Here the recursion runs in the whitened deviation w from the previous controller,

.. math::
    u = K^q x + k^q + L w, \quad L L^\top = \Sigma^q, \quad
    \mathrm{KL}_t = \tfrac12 (\mathbb E |\mathbb E[w | x_t]|^2 + \operatorname{tr} \Sigma^w_t - m - \log\det \Sigma^w_t),

in which the penalty is :math:`\tfrac12 \eta |w|^2`: nothing cancels when the multiplier is large, and nothing overflows when the
covariance is small. A control Hessian that is not positive definite counts as an infinite divergence, since that is what it tends
to as the multiplier falls to where the Hessian becomes singular.

With a bound for each step, the multipliers :math:`\eta_t` start at that of the whole plan and each follows its own error,
:math:`\Delta \log \eta_t = \alpha_t \log(\mathrm{KL}_t / \epsilon_t)`, with a gain that grows while the error keeps its sign and
becomes that of the secant where it changes; a step to where the problem is not convex is halved. This is ascent of the dual,
whose gradient is :math:`\mathrm{KL}_t - \epsilon_t`, as the Adam steps of the authors' code are.

Linear-quadratic models are in displacements :math:`(x \ominus \bar x, u - \bar u)` from a trajectory, as
:func:`planners.expand_about` makes them, and costs leave out that of the trajectory itself.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from planners.controllers import LinearGaussianController
from planners.linear_gaussian import (
    Conditional,
    StateMarginals,
    batch_of,
    checked_trajectory,
    divergence_from_normal,
    prepared,
    propagated,
    quadratic_expectation,
)
from planners.psd import floored, positive_factor
from planners.riccati import LinearQuadratic, backward_pass, mv
from planners.solution import Status

FACTOR = 10.0
"""By what a multiplier changes at most from one trial to the next."""
STEP_ITERATIONS = 4
"""Trials with bounds for each step, per iteration allowed with one bound."""


@dataclass(frozen=True, eq=False)
class KLStep:
    """What :func:`kl_constrained_step` finds.

    Attributes:
        controller: the new controller about the trajectory of the model; the previous one, about the same trajectory, where
            nothing within the bound was found.
        marginals: of its states, under the model.
        kl: expected divergence of the controls of each step from those of the previous controller [nat], ``(*batch, T)``.
        expected_cost: under the model, without the cost of the trajectory itself, ``(*batch,)``.
        dual: multipliers ``(*batch,)``, or ``(*batch, T)`` with bounds for each step [cost per nat].
        iterations: trials of multipliers, ``(*batch,)``.
        status: codes of :class:`planners.Status`, ``(*batch,)``: CONVERGED where the divergence is within the tolerance of the
            bound, or below it with the smallest multiplier allowed; STALLED where rounding prevents that, and ITERATION_LIMIT,
            where it is still below the bound with one bound for all steps; NOT_CONVEX where no multiplier makes the problem
            convex, and NO_FINITE_PLAN where the numbers given are not finite.
    """

    controller: LinearGaussianController
    marginals: StateMarginals
    kl: Tensor
    expected_cost: Tensor
    dual: Tensor
    iterations: Tensor
    status: Tensor

    @property
    def usable(self) -> Tensor:
        """Where the controller is a step and not the previous one, ``(*batch,)`` of bool."""
        return self.status <= int(Status.TIME_LIMIT)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A controller and what follows from it, in double precision; w is its whitened deviation from the previous one."""

    w: Conditional
    mean: Tensor
    covariance: Tensor
    kl: Tensor
    cost: Tensor


@torch.no_grad()
def kl_constrained_step(
    lq: LinearQuadratic,
    previous: LinearGaussianController,
    *,
    kl_limit: float | Tensor,
    per_step: bool = False,
    about: tuple[Tensor, Tensor] | None = None,
    noise: Tensor | None = None,
    x0: Tensor | None = None,
    x0_covariance: Tensor | None = None,
    entropy_weight: float | Tensor = 0.0,
    covariance_floor: float = 0.0,
    dual: float | Tensor = 1.0,
    dual_range: tuple[float, float] = (1e-8, 1e16),
    tolerance: float = 0.1,
    max_iterations: int = 50,
) -> KLStep:
    """Minimize the expected cost within a divergence from the previous controller, for a batch of problems at once.

    Each element has a bracket and an end of its own. The multiplier changes by a factor of ten at most in a trial, until there
    are multipliers on both sides of the bound, and is then their geometric mean. Computed in double precision.

    Args:
        lq: dynamics and costs of displacements from the trajectory.
        previous: the controller to stay near, or a policy that is linearized about the trajectory; with a covariance.
        kl_limit: the bound epsilon on the sum over steps [nat], which broadcasts to ``(*batch,)``; with ``per_step`` the bound of
            each step, which broadcasts to ``(*batch, T)``. Infinity is the best controller that the range of multipliers allows.
        per_step: whether each step has a bound, and a multiplier, of its own.
        about: states ``(*batch, T+1, n)`` and controls ``(*batch, T, m)`` of the trajectory; those of ``previous`` by default.
        noise: covariance of the dynamics, ``(*batch, T, d, d)`` or what broadcasts to it; none by default.
        x0: mean of the first state ``(*batch, n)``; that of the trajectory by default.
        x0_covariance: covariance of the first state, ``(*batch, d, d)``; zero by default.
        entropy_weight: h, what a nat of entropy is worth [cost per nat]; a number, or one for each step, ``(*batch, T)``.
        covariance_floor: smallest eigenvalue of the new covariances, and of the previous ones [squared unit of the controls].
            Without one, many steps in a row end in a controller without exploration, and what it cannot explore it no longer
            learns.
        dual: multiplier to begin with, which broadcasts to ``(*batch,)``, or with ``per_step`` to ``(*batch, T)``: that of the
            step before saves trials.
        dual_range: smallest and largest multiplier.
        tolerance: relative error of the divergence.
        max_iterations: trials at most; four times as many more where each step has a bound.

    Returns:
        The step; it never raises for numbers, see its status.

    Raises:
        ValueError: a setting is out of range, the previous controller is deterministic, or numbers of steps differ.
    """
    _check_settings(entropy_weight, covariance_floor, dual_range, tolerance, max_iterations)
    xs, us = checked_trajectory(lq, previous, about)
    if covariance_floor > 0 and previous.covariance is not None:
        previous = previous.with_covariance_floor(covariance_floor)
    T = us.shape[-2]
    limit = torch.as_tensor(kl_limit, dtype=torch.float64, device=us.device)
    if not bool((limit >= 0).all()):
        raise ValueError(f"kl_limit must not be negative, got {kl_limit}")
    start = torch.as_tensor(dual, dtype=torch.float64, device=us.device)
    if not bool((start > 0).all()):
        raise ValueError(f"dual must be positive, got {dual}")
    if per_step:
        limit, start = (v.expand(torch.broadcast_shapes(v.shape, (T,))) for v in (limit, start))
    batch = torch.broadcast_shapes(*(batch_of(v, int(per_step)) for v in (limit, start)))
    entropy = torch.as_tensor(entropy_weight, dtype=torch.float64, device=us.device)
    model = _Model.of(lq, previous, xs, us, noise, x0, x0_covariance, batch, entropy, covariance_floor)
    batch = model.batch
    start = start.clamp(*dual_range)
    if per_step:
        total = limit.sum(-1).expand(batch)
        scale = start.log().mean(-1).exp()
        profile = (start / scale.unsqueeze(-1)).expand(*batch, T)
        search = _bracketed(model, total, scale.expand(batch), profile, dual_range, tolerance, max_iterations)
        search = _balanced(
            model, limit.expand(*batch, T), search, dual_range, tolerance, STEP_ITERATIONS * max_iterations
        )
        dual = search.dual
    else:
        profile = torch.ones(*batch, T, dtype=torch.float64, device=us.device)
        search = _bracketed(
            model, limit.expand(batch), start.expand(batch), profile, dual_range, tolerance, max_iterations
        )
        dual = search.dual[..., 0]
    found, law = search.outcome, model.law(search.outcome.w)
    controller = LinearGaussianController(
        previous.dynamics, xs, us + law.k.to(us), law.K.to(us), law.covariance.to(us), previous.t0
    )
    return KLStep(
        controller=controller,
        marginals=StateMarginals(xs, found.mean.to(us), found.covariance.to(us)),
        kl=found.kl.to(us),
        expected_cost=found.cost.to(us),
        dual=dual.to(us),
        iterations=search.iterations,
        status=search.status,
    )


@dataclass(frozen=True, eq=False)
class _Model:
    """A problem in the whitened deviation from the previous controller; everything has all batch axes.

    Attributes:
        lq: dynamics and costs of displacements and deviations.
        constant: cost of the previous controller's mean where the trajectory passes, ``(*batch,)``.
        previous: the previous controller about the trajectory.
        L: factors of its covariances.
    """

    lq: LinearQuadratic
    constant: Tensor
    previous: Conditional
    L: Tensor
    mean0: Tensor
    covariance0: Tensor
    noise: Tensor
    entropy_weight: Tensor
    covariance_floor: float

    @classmethod
    def of(
        cls,
        lq: LinearQuadratic,
        previous: LinearGaussianController,
        xs: Tensor,
        us: Tensor,
        noise: Tensor | None,
        x0: Tensor | None,
        x0_covariance: Tensor | None,
        batch: torch.Size,
        entropy_weight: Tensor,
        covariance_floor: float,
    ) -> "_Model":
        """The model of a problem, with at least the batch axes given."""
        L = previous.covariance_factor().double()
        lq, law, start, noise = prepared(lq, previous, xs, us, noise, x0, x0_covariance, batch)
        L = L.expand(law.covariance.shape)
        K, k, r = law.K, law.k, lq.r + mv(lq.R, law.k)
        closed = replace(
            lq,
            A=lq.A + lq.B @ K,
            B=lq.B @ L,
            b=lq.b + mv(lq.B, k),
            Q=lq.Q + lq.N @ K + K.mT @ lq.N.mT + K.mT @ lq.R @ K,
            N=(lq.N + K.mT @ lq.R) @ L,
            R=L.mT @ lq.R @ L,
            q=lq.q + mv(lq.N, k) + mv(K.mT, r),
            r=mv(L.mT, r),
        )
        constant = (0.5 * k * (r + lq.r)).sum((-1, -2))
        return cls(closed, constant, law, L, *start, noise, entropy_weight, covariance_floor)

    @property
    def batch(self) -> torch.Size:
        """All batch axes."""
        return self.L.shape[:-3]

    def law(self, w: Conditional) -> Conditional:
        """A controller in displacements from its whitened deviation."""
        covariance = self.L @ w.covariance @ self.L.mT
        return Conditional(
            self.previous.K + self.L @ w.K, self.previous.k + mv(self.L, w.k), 0.5 * (covariance + covariance.mT)
        )

    def stay(self) -> _Outcome:
        """The previous controller."""
        eye = torch.eye(self.L.shape[-1], dtype=self.L.dtype, device=self.L.device).expand(self.L.shape)
        return self.outcome(Conditional(torch.zeros_like(self.previous.K), torch.zeros_like(self.previous.k), eye))

    def best(self, dual: Tensor) -> _Outcome:
        """The best controller for multipliers ``(*batch, T)``; NaN where its problem is not convex."""
        eye = torch.eye(self.L.shape[-1], dtype=self.L.dtype, device=self.L.device)
        weight = dual[..., None, None]
        riccati = backward_pass(replace(self.lq, R=self.lq.R + weight * eye))
        convex = riccati.convex[..., None, None, None]
        Quu = torch.where(convex, riccati.Quu, eye)
        covariance = (weight + self.entropy_weight[..., None, None]) * torch.cholesky_inverse(
            torch.linalg.cholesky_ex(Quu).L
        )
        if self.covariance_floor > 0:
            least = floored(self.law(Conditional(riccati.K, riccati.k, covariance)).covariance, self.covariance_floor)
            half = torch.linalg.solve_triangular(self.L, least, upper=False)
            covariance = torch.linalg.solve_triangular(self.L, half.mT, upper=False)
        return self.outcome(Conditional(riccati.K, riccati.k, torch.where(convex, covariance, torch.nan)))

    def outcome(self, w: Conditional) -> _Outcome:
        """What follows from a controller."""
        mean, covariance = propagated(self.lq, w, self.mean0, self.covariance0, self.noise)
        kl = divergence_from_normal(w, positive_factor(w.covariance), mean, covariance)
        return _Outcome(w, mean, covariance, kl, self.constant + quadratic_expectation(self.lq, w, mean, covariance))


@dataclass(frozen=True, eq=False)
class _Search:
    """What a search for multipliers ``(*batch, T)`` finds."""

    outcome: _Outcome
    dual: Tensor
    iterations: Tensor
    status: Tensor


def _bracketed(
    model: _Model,
    limit: Tensor,
    start: Tensor,
    profile: Tensor,
    dual_range: tuple[float, float],
    tolerance: float,
    max_iterations: int,
) -> _Search:
    """One number ``(*batch,)`` for each element that multiplies a profile ``(*batch, T)`` of multipliers."""
    T, m = model.previous.k.shape[-2:]
    floor, ceiling = (torch.full_like(limit, end) for end in dual_range)
    low, high = floor, ceiling
    dual = torch.where(limit.isinf(), floor, start)
    found, chosen = model.stay(), ceiling
    rounding = 10 * T * m * torch.finfo(torch.float64).eps
    below = torch.zeros_like(limit, dtype=torch.bool)  # whether a multiplier with a larger divergence is known
    above, done, within = below.clone(), below.clone(), below.clone()
    iterations = torch.zeros_like(limit, dtype=torch.long)
    status = torch.full_like(iterations, int(Status.ITERATION_LIMIT))
    for _ in range(max_iterations):
        trial = model.best((dual.unsqueeze(-1) * profile).clamp(*dual_range))
        kl = _comparable(trial)
        iterations = iterations + (~done).long()
        close = limit.isfinite() & ((kl - limit).abs() <= tolerance * limit + rounding)
        feasible = (kl <= limit) & kl.isfinite()
        take = ~done & (close | feasible)
        found, chosen, within = _where(take, trial, found), torch.where(take, dual, chosen), within | take
        converged = close | (feasible & (dual <= floor))
        high = torch.where(feasible, dual, high)
        low = torch.where(feasible, low, dual)
        above, below = above | feasible, below | ~feasible
        stalled = ~converged & ((above & below & (high <= low * (1 + 1e-14))) | (~feasible & (dual >= ceiling)))
        status = torch.where(~done & converged, int(Status.CONVERGED), status)
        status = torch.where(~done & stalled, int(Status.STALLED), status)
        done = done | converged | stalled
        if bool(done.all()):
            break
        wider = torch.where(above, (dual / FACTOR).maximum(floor), (dual * FACTOR).minimum(ceiling))
        dual = torch.where(done, dual, torch.where(above & below, (low * high).sqrt(), wider))
    finite = _finite(model)
    status = torch.where(within, status, torch.where(finite, int(Status.NOT_CONVEX), int(Status.NO_FINITE_PLAN)))
    return _Search(found, (chosen.unsqueeze(-1) * profile).clamp(*dual_range), iterations, status)


def _balanced(
    model: _Model,
    limit: Tensor,
    search: _Search,
    dual_range: tuple[float, float],
    tolerance: float,
    max_iterations: int,
) -> _Search:
    """A multiplier for each step, from where the whole plan is within the sum of the limits ``(*batch, T)``."""
    floor, ceiling = dual_range
    m = model.previous.k.shape[-1]
    rounding = 10 * m * torch.finfo(torch.float64).eps
    dual = search.dual
    anchor, gain, before = dual, torch.full_like(dual, 0.5), torch.zeros_like(dual)
    done = search.status > int(Status.TIME_LIMIT)
    found, chosen = model.stay(), torch.full_like(dual, ceiling)
    excess = torch.full_like(limit[..., 0], torch.inf)
    iterations, status = search.iterations, torch.where(done, search.status, int(Status.ITERATION_LIMIT))
    largest = math.log(FACTOR)
    for _ in range(max_iterations):
        trial = model.best(dual)
        iterations = iterations + (~done).long()
        convex = _comparable(trial).isfinite()
        error = ((trial.kl + rounding) / (limit + rounding)).log()
        met = (trial.kl - limit).abs() <= tolerance * limit + rounding
        met = limit.isfinite() & met | (trial.kl <= limit) & (dual <= floor)
        converged = convex & met.all(-1)
        worst = torch.where(convex, torch.where(dual <= floor, error, error.abs()).amax(-1), torch.inf)
        take = ~done & ((worst < excess) | converged)
        found, chosen, excess = (
            _where(take, trial, found),
            torch.where(take.unsqueeze(-1), dual, chosen),
            torch.where(take, worst, excess),
        )
        status = torch.where(~done & converged, int(Status.CONVERGED), status)
        done = done | converged
        if bool(done.all()):
            break
        inside = convex.unsqueeze(-1)
        secant = ((dual / anchor).log() / (before - error)).nan_to_num(nan=0.0).maximum(0.05 * gain).minimum(0.8 * gain)
        gain = torch.where(inside, torch.where(error * before < 0, secant, 1.2 * gain), 0.5 * gain).clamp(1e-6, 4.0)
        step = (gain * error).nan_to_num().clamp(-largest, largest)
        moved = torch.where(inside, (dual * step.exp()).clamp(floor, ceiling), (dual * anchor).sqrt())
        anchor, before = torch.where(inside, dual, anchor), torch.where(inside, error, before)
        dual = torch.where(done.unsqueeze(-1), dual, moved)
    return _Search(found, chosen, iterations, status)


def _comparable(outcome: _Outcome) -> Tensor:
    """Divergence of whole plans ``(*batch,)``, infinite where a controller or what follows from it is not finite."""
    kl = outcome.kl.sum(-1)
    return torch.where(kl.isfinite() & outcome.cost.isfinite(), kl, torch.inf)


def _where(take: Tensor, new: Any, old: Any) -> Any:
    """Tensors of values of one kind, taken by element of the batch."""
    if isinstance(new, Tensor):
        return torch.where(take.reshape(take.shape + (1,) * (new.ndim - take.ndim)), new, old)
    return type(new)(**{f.name: _where(take, getattr(new, f.name), getattr(old, f.name)) for f in fields(new)})


def _finite(model: _Model) -> Tensor:
    """Whether all numbers of a problem are finite, ``(*batch,)``."""
    values = [getattr(model.lq, f.name) for f in fields(model.lq)] + [model.mean0, model.covariance0, model.noise]
    n = len(model.batch)
    return torch.stack([v.isfinite().flatten(n).all(-1) for v in values if isinstance(v, Tensor)]).all(0)


def _check_settings(
    entropy_weight: float | Tensor,
    covariance_floor: float,
    dual_range: tuple[float, float],
    tolerance: float,
    max_iterations: int,
) -> None:
    rules: list[tuple[str, Any, Callable[[Any], bool], str]] = [
        (
            "entropy_weight",
            entropy_weight,
            lambda v: bool(((torch.as_tensor(v) >= 0) & (torch.as_tensor(v) < math.inf)).all()),
            "must not be negative",
        ),
        ("covariance_floor", covariance_floor, lambda v: 0 <= v < math.inf, "must not be negative"),
        (
            "dual_range",
            dual_range,
            lambda v: 0 < v[0] < v[1] < math.inf,
            "must be two positive numbers, the smaller first",
        ),
        ("tolerance", tolerance, lambda v: 0 < v < 1, "must be between 0 and 1"),
        ("max_iterations", max_iterations, lambda v: isinstance(v, int) and v >= 1, "must be an integer of at least 1"),
    ]
    for name, value, valid, demand in rules:
        if not valid(value):
            raise ValueError(f"{name} {demand}, got {value}")
