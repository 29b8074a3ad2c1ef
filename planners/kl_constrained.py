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

from dynamics import Dynamics
from planners.controllers import LinearGaussianController
from planners.psd import floored, positive_factor
from planners.riccati import LinearQuadratic, backward_pass, mv
from planners.solution import Status

FACTOR = 10.0
"""By what a multiplier changes at most from one trial to the next."""
STEP_ITERATIONS = 4
"""Trials with bounds for each step, per iteration allowed with one bound."""


@dataclass(frozen=True, eq=False)
class StateMarginals:
    """Gaussians of the states of each step, in the tangent space of a trajectory; d is its dimension.

    Attributes:
        xs: the trajectory, ``(*batch, T+1, n)``.
        mean: mean displacements from it, ``(*batch, T+1, d)``.
        covariance: ``(*batch, T+1, d, d)``.
    """

    xs: Tensor
    mean: Tensor
    covariance: Tensor


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
class _Conditional:
    """Controls given states, both as displacements: N(K x + k, covariance); ``(*batch, T, ...)``."""

    K: Tensor
    k: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A controller and what follows from it, in double precision; w is its whitened deviation from the previous one."""

    w: _Conditional
    mean: Tensor
    covariance: Tensor
    kl: Tensor
    cost: Tensor


@torch.no_grad()
def state_marginals(
    lq: LinearQuadratic,
    controller: LinearGaussianController,
    *,
    about: tuple[Tensor, Tensor] | None = None,
    noise: Tensor | None = None,
    x0: Tensor | None = None,
    x0_covariance: Tensor | None = None,
) -> StateMarginals:
    r"""States under a controller and linear-Gaussian dynamics, :math:`x' = A x + B u + b + \mathcal N(0, W)`.

    Args:
        lq: dynamics of displacements from the trajectory; costs play no part.
        controller: with or without a covariance.
        about: states ``(*batch, T+1, n)`` and controls ``(*batch, T, m)`` of the trajectory; the controller's by default.
        noise: W, ``(*batch, T, d, d)`` or what broadcasts to it; none by default.
        x0: mean of the first state ``(*batch, n)``; that of the trajectory by default.
        x0_covariance: covariance of the first state, ``(*batch, d, d)``; zero by default.

    Raises:
        ValueError: the controller and the model have different numbers of steps.
    """
    xs, us = _trajectory(lq, controller, about)
    lq, law, start, noise = _prepared(lq, controller, xs, us, noise, x0, x0_covariance, ())
    mean, covariance = _propagated(lq, law, *start, noise)
    return StateMarginals(xs, mean.to(xs), covariance.to(xs))


@torch.no_grad()
def expected_cost(
    lq: LinearQuadratic,
    controller: LinearGaussianController,
    marginals: StateMarginals,
    *,
    about: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Expectation of the quadratic cost under a controller, without the cost of the trajectory itself, ``(*batch,)``.

    Args:
        lq: costs of displacements from the trajectory.
        controller: with or without a covariance.
        marginals: of the states, about the same trajectory; see :func:`state_marginals`.
        about: states and controls of the trajectory; the controller's by default.

    Raises:
        ValueError: the controller and the model have different numbers of steps.
    """
    xs, us = _trajectory(lq, controller, about)
    batch = marginals.mean.shape[:-2]
    lq, law, _, _ = _prepared(lq, controller, xs, us, None, None, None, batch)
    return _expected(lq, law, marginals.mean.double(), marginals.covariance.double()).to(xs)


@torch.no_grad()
def expected_kl(new: LinearGaussianController, old: LinearGaussianController, marginals: StateMarginals) -> Tensor:
    """Divergence KL(new || old) of the controls of each step given the state, in expectation over states [nat].

    Args:
        new: with a covariance.
        old: with a covariance.
        marginals: Gaussians of the states; those of ``new`` for the divergence of its trajectories.

    Returns:
        ``(*batch, T)``.

    Raises:
        ValueError: a controller is deterministic, or numbers of steps differ.
    """
    xs = marginals.xs[..., :-1, :].double()
    L_old, L_new = old.covariance_factor().double(), new.covariance_factor().double()
    factor = torch.linalg.solve_triangular(L_old, L_new, upper=False)
    K = torch.linalg.solve_triangular(L_old, new.K.double() - old.K.double(), upper=False)
    k = torch.linalg.solve_triangular(L_old, (new.mean(xs) - old.mean(xs)).unsqueeze(-1), upper=False).squeeze(-1)
    w = _Conditional(K, k, factor @ factor.mT)
    kl = _divergence(w, factor, marginals.mean.double(), marginals.covariance.double())
    return kl.to(new.us)


@torch.no_grad()
def with_kl_penalty(
    lq: LinearQuadratic,
    previous: LinearGaussianController,
    weights: float | Tensor,
    *,
    about: tuple[Tensor, Tensor] | None = None,
) -> LinearQuadratic:
    r"""A linear-quadratic problem with the cost :math:`- \sum_t \eta_t \log q(u_t | x_t)` added, up to its constant.

    For each step, with :math:`S = \Sigma^q_t`,

    .. math:: \tfrac{\eta_t}{2} \begin{pmatrix} x \\ u \end{pmatrix}^\top
        \begin{pmatrix} K^\top S^{-1} K & -K^\top S^{-1} \\ -S^{-1} K & S^{-1} \end{pmatrix} \begin{pmatrix} x \\ u \end{pmatrix}
        + \eta_t \begin{pmatrix} K^\top S^{-1} k \\ -S^{-1} k \end{pmatrix}^\top \begin{pmatrix} x \\ u \end{pmatrix} .

    Penalties on several controllers add up. With the entropy of the new controller, see :func:`maximum_entropy_controller`, the
    sum of weights makes it the divergence from them.

    Args:
        lq: a problem in displacements from the trajectory; a discount is absorbed in its terms.
        previous: the controller q, with a covariance.
        weights: eta, which broadcasts to ``(*batch, T)`` [cost per nat].
        about: states and controls of the trajectory; those of ``previous`` by default.

    Returns:
        A problem in double precision.

    Raises:
        ValueError: the controller is deterministic, or numbers of steps differ.
    """
    L = previous.covariance_factor().double()
    xs, us = _trajectory(lq, previous, about)
    weights = torch.as_tensor(weights, dtype=torch.float64, device=us.device)
    lq, law, _, _ = _prepared(lq, previous, xs, us, None, None, None, _batch_of(weights, 1))
    S_inv = weights[..., None, None] * torch.cholesky_inverse(L)
    SK = S_inv @ law.K
    return replace(
        lq,
        Q=lq.Q + law.K.mT @ SK,
        N=lq.N - SK.mT,
        R=lq.R + S_inv,
        q=lq.q + mv(SK.mT, law.k),
        r=lq.r - mv(S_inv, law.k),
    )


@torch.no_grad()
def maximum_entropy_controller(
    lq: LinearQuadratic, dynamics: Dynamics, xs: Tensor, us: Tensor, *, temperature: float | Tensor = 1.0
) -> LinearGaussianController:
    r"""The controller that minimizes expected cost minus :math:`\sum_t \tau_t` times the entropy of its controls.

    Its covariance is :math:`\tau_t Q_{uu,t}^{-1}` (Levine and Koltun 2013, section 3).

    Args:
        lq: a problem in displacements from the trajectory.
        dynamics: supplies the tangent space.
        xs: states of the trajectory ``(*batch, T+1, n)``.
        us: its controls ``(*batch, T, m)``.
        temperature: tau, which broadcasts to ``(*batch, T)`` [cost per nat].

    Returns:
        A controller about the trajectory; NaN for elements whose problem is not convex in the controls.
    """
    temperature = torch.as_tensor(temperature, dtype=torch.float64, device=us.device)
    lq = _undiscounted(_double(lq))
    riccati = backward_pass(lq)
    covariance = temperature[..., None, None] * torch.linalg.inv_ex(riccati.Quu).inverse
    covariance = torch.where(riccati.convex[..., None, None, None], 0.5 * (covariance + covariance.mT), torch.nan)
    return LinearGaussianController(dynamics, xs, us + riccati.k.to(us), riccati.K.to(us), covariance.to(us))


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
    xs, us = _trajectory(lq, previous, about)
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
    batch = torch.broadcast_shapes(*(_batch_of(v, int(per_step)) for v in (limit, start)))
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
    previous: _Conditional
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
        lq, law, start, noise = _prepared(lq, previous, xs, us, noise, x0, x0_covariance, batch)
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

    def law(self, w: _Conditional) -> _Conditional:
        """A controller in displacements from its whitened deviation."""
        covariance = self.L @ w.covariance @ self.L.mT
        return _Conditional(
            self.previous.K + self.L @ w.K, self.previous.k + mv(self.L, w.k), 0.5 * (covariance + covariance.mT)
        )

    def stay(self) -> _Outcome:
        """The previous controller."""
        eye = torch.eye(self.L.shape[-1], dtype=self.L.dtype, device=self.L.device).expand(self.L.shape)
        return self.outcome(_Conditional(torch.zeros_like(self.previous.K), torch.zeros_like(self.previous.k), eye))

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
            least = floored(self.law(_Conditional(riccati.K, riccati.k, covariance)).covariance, self.covariance_floor)
            half = torch.linalg.solve_triangular(self.L, least, upper=False)
            covariance = torch.linalg.solve_triangular(self.L, half.mT, upper=False)
        return self.outcome(_Conditional(riccati.K, riccati.k, torch.where(convex, covariance, torch.nan)))

    def outcome(self, w: _Conditional) -> _Outcome:
        """What follows from a controller."""
        mean, covariance = _propagated(self.lq, w, self.mean0, self.covariance0, self.noise)
        kl = _divergence(w, positive_factor(w.covariance), mean, covariance)
        return _Outcome(w, mean, covariance, kl, self.constant + _expected(self.lq, w, mean, covariance))


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


def _propagated(
    lq: LinearQuadratic, law: _Conditional, mean: Tensor, covariance: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Means ``(*batch, T+1, d)`` and covariances ``(*batch, T+1, d, d)`` of the states."""
    F, f = lq.A + lq.B @ law.K, lq.b + mv(lq.B, law.k)
    W = lq.B @ law.covariance @ lq.B.mT + noise
    means, covariances = [mean], [covariance]
    for F_t, f_t, W_t in zip(F.unbind(-3), f.unbind(-2), W.unbind(-3), strict=True):
        mean = mv(F_t, mean) + f_t
        covariance = F_t @ covariance @ F_t.mT + W_t
        covariance = 0.5 * (covariance + covariance.mT)
        means.append(mean)
        covariances.append(covariance)
    return torch.stack(means, -2), torch.stack(covariances, -3)


def _expected(lq: LinearQuadratic, law: _Conditional, mean: Tensor, covariance: Tensor) -> Tensor:
    """Expected cost ``(*batch,)`` from the marginals of the states."""
    x, P = mean[..., :-1, :], covariance[..., :-1, :, :]
    u = mv(law.K, x) + law.k
    second = P + x.unsqueeze(-1) * x.unsqueeze(-2)  # E[x x']
    cross = law.K @ P + u.unsqueeze(-1) * x.unsqueeze(-2)  # E[u x']
    controls = law.K @ P @ law.K.mT + law.covariance + u.unsqueeze(-1) * u.unsqueeze(-2)  # E[u u']
    stage = (
        0.5 * (lq.Q * second).sum((-1, -2)) + (lq.N.mT * cross).sum((-1, -2)) + 0.5 * (lq.R * controls).sum((-1, -2))
    )
    stage = stage + (lq.q * x).sum(-1) + (lq.r * u).sum(-1)
    x, P = mean[..., -1, :], covariance[..., -1, :, :]
    last = 0.5 * (lq.P_T * (P + x.unsqueeze(-1) * x.unsqueeze(-2))).sum((-1, -2)) + (lq.p_T * x).sum(-1)
    return stage.sum(-1) + last


def _divergence(w: _Conditional, factor: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Expected divergence ``(*batch, T)`` from a standard normal, given a Cholesky factor of the covariance of w."""
    shift = (mv(w.K, mean[..., :-1, :]) + w.k).square().sum(-1)
    spread = ((w.K @ covariance[..., :-1, :, :]) * w.K).sum((-1, -2))
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    shape = factor.square().sum((-1, -2)) - factor.shape[-1] - 2.0 * diagonal.log().sum(-1)
    return 0.5 * (shift + spread + shape).clamp_min(0.0)


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


def _trajectory(
    lq: LinearQuadratic, controller: LinearGaussianController, about: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """The trajectory from which displacements are counted, checked."""
    xs, us = (controller.xs, controller.us) if about is None else about
    T = lq.A.shape[-3]
    if us.shape[-2] != T or controller.us.shape[-2] != T or xs.shape[-2] != T + 1:
        raise ValueError(
            f"the model has {T} steps, so the controller needs {T} controls, and the trajectory {T + 1} states and {T} controls; "
            f"got {controller.us.shape[-2]}, {xs.shape[-2]} and {us.shape[-2]}"
        )
    return xs, us


def _prepared(
    lq: LinearQuadratic,
    controller: LinearGaussianController,
    xs: Tensor,
    us: Tensor,
    noise: Tensor | None,
    x0: Tensor | None,
    x0_covariance: Tensor | None,
    batch: torch.Size | tuple[int, ...],
) -> tuple[LinearQuadratic, _Conditional, tuple[Tensor, Tensor], Tensor]:
    """Everything in double precision, in displacements, without a discount, and with all batch axes."""
    lq = _undiscounted(_double(lq))
    d, m = lq.B.shape[-2:]
    xs, us = xs.double(), us.double()
    zero = us.new_zeros(())
    covariance = zero.expand(1, m, m) if controller.covariance is None else floored(controller.covariance.double())
    parts: list[tuple[Tensor, int]] = [
        (controller.K.double(), 3),
        (controller.mean(xs[..., :-1, :]) - us, 2),
        (covariance, 3),
        (zero.expand(d) if x0 is None else controller.dynamics.difference(x0.double(), xs[..., 0, :]), 1),
        (zero.expand(d, d) if x0_covariance is None else x0_covariance.double(), 2),
        (zero.expand(1, d, d) if noise is None else noise.double(), 3),
    ]
    cores = {"A": 3, "B": 3, "b": 2, "Q": 3, "N": 3, "R": 3, "q": 2, "r": 2, "P_T": 2, "p_T": 1}
    shapes = [_batch_of(value, core) for value, core in parts]
    shapes += [_batch_of(getattr(lq, name), core) for name, core in cores.items()]
    batch = torch.broadcast_shapes(batch, xs.shape[:-2], *shapes)
    T = us.shape[-2]

    def full(value: Tensor, core: int, *, steps: bool) -> Tensor:
        shape = value.shape[value.ndim - core :]
        return value.expand(*batch, *((T, *shape[1:]) if steps else shape))

    K, k, covariance, mean0, covariance0, noise = (
        full(value, core, steps=index not in (3, 4)) for index, (value, core) in enumerate(parts)
    )
    lq = replace(
        lq,
        **{name: full(getattr(lq, name), core, steps=name not in ("P_T", "p_T")) for name, core in cores.items()},
    )
    return lq, _Conditional(K, k, covariance), (mean0, covariance0), noise


def _batch_of(value: Tensor, core: int) -> torch.Size:
    return value.shape[: max(value.ndim - core, 0)]


def _double(lq: LinearQuadratic) -> LinearQuadratic:
    return replace(lq, **{f.name: getattr(lq, f.name).double() for f in fields(lq) if f.name != "discount"})


def _undiscounted(lq: LinearQuadratic) -> LinearQuadratic:
    """The same problem with the discount in its terms, so that divergences of all steps count the same."""
    if lq.discount == 1.0:
        return lq
    T = lq.A.shape[-3]
    weight = lq.discount ** torch.arange(T + 1, dtype=lq.A.dtype, device=lq.A.device)
    vector, matrix = weight[:-1, None], weight[:-1, None, None]
    return replace(
        lq,
        Q=matrix * lq.Q,
        N=matrix * lq.N,
        R=matrix * lq.R,
        q=vector * lq.q,
        r=vector * lq.r,
        P_T=weight[-1] * lq.P_T,
        p_T=weight[-1] * lq.p_T,
        discount=1.0,
    )


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
