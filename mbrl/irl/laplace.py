r"""Inverse optimal control by the Laplace approximation of the likelihood of controls (Levine and Koltun 2012).

The demonstrator is random about what is best: :math:`p(u \mid x_0) \propto e^{-J_\theta(u) / \tau}`, with J the cost of controls
through the dynamics. With gradient g and Hessian H of the reward :math:`-J / \tau` at the demonstrated controls,

.. math:: \log p(u) \approx \tfrac12 g^\top H^{-1} g + \tfrac12 \log \det(-H) - \tfrac{T m}{2} \log 2 \pi ,

without a planner, by what happens near the demonstration alone. The matrix H is never formed: -H / tau is the Hessian of a
linear-quadratic problem about the demonstration, with the Hessians of the Lagrangian, whose Riccati recursion factorizes it in
time linear in T:

.. math:: \log p(u) \approx -\tfrac12 \sum_t \Bigl[ \tfrac1\tau k_t^\top Q_{uu,t} k_t - \log \det (Q_{uu,t} / \tau) +
    m \log 2 \pi \Bigr] ,

the log-density of the demonstrated controls under the maximum-entropy controller, which has the mean
:math:`\bar u_t + k_t + K_t \delta x_t` and the covariance :math:`\tau Q_{uu,t}^{-1}`. Read like this the states need not be what
the dynamics predict: gaps between them are part of the recursion, and for linear dynamics with additive noise and quadratic costs
the likelihood is exact.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.irl.cost_learner import CostLearner, Demonstrated, LearnedCost, copied, of_weights
from mbrl.irl.kkt_inverse import control_gradients, nonnegative_weights
from mbrl.tasks import Task
from mbrl.training.checking import check_numbers
from planners import Cost, Problem, WeightedCost
from planners.batches import where_batch
from planners.expansion import costates, dynamics_curvature, expand_problem
from planners.riccati import LinearQuadratic, backward_pass, mv

EXACT_HESSIAN = 50  # parameters up to which the Hessian of the likelihood is formed


@dataclass(frozen=True, eq=False)
class LaplaceReport:
    """What the likelihood says beside the cost.

    Attributes:
        log_likelihood: of all demonstrations.
        standard_errors: of each parameter that was learned, from the curvature of the likelihood, ``(k,)``, in the order of
            ``cost.parameters()``; those of positive weights are relative, because logarithms are the parameter. Infinite for
            parameters that do not show; None for more than 50 parameters, and where the scale is unbounded.
        deviation: root mean square of demonstrated controls minus those that the cost would have, beside demonstrated controls.
        scale_unbounded: whether the demonstrations are optimal to within ``noise_floor``: the larger the cost, the likelier they
            are, without end. The weights then sum to what they did at first.
        prediction_error: largest error of the dynamics for one step of the demonstrations, beside the largest state.
    """

    log_likelihood: float
    standard_errors: Tensor | None
    deviation: float
    scale_unbounded: bool
    prediction_error: float

    def __str__(self) -> str:
        if self.scale_unbounded:
            return (
                f"demonstrations are optimal to {self.deviation:.1e}: the likelihood grows without end with the factor of "
                "the cost, which demonstrations without noise do not tell; only ratios of weights are learned"
            )
        return f"log-likelihood {self.log_likelihood:.6g}, demonstrations deviate by {self.deviation:.2g} of their controls"


@dataclass(frozen=True)
class LaplaceIRL(CostLearner):
    """Continuous inverse optimal control: the parameters of any cost by the Laplace approximation of the likelihood.

    Weights of a :class:`planners.WeightedCost` and parameters of any other differentiable cost are found by Newton steps in a
    trust region, with exact derivatives through the recursion. A step into parameters for which a demonstration is not near a
    minimum, so that there is no likelihood, is not taken.

    Attributes:
        temperature: tau of the demonstrator [cost per nat]; it sets the scale of the cost.
        l2: weight of half the squared change of the parameters from where they begin, per demonstration.
        max_iterations: Newton steps at most.
        tolerance: norm of the derivative of the log-likelihood per control at which the search ends.
        noise_floor: deviation from optimal controls, relative to their size, below which demonstrations count as without noise.

    Raises:
        ValueError: a field is out of range.
    """

    shows: ClassVar[str] = "the log-likelihood of the demonstrated controls"

    _: KW_ONLY
    temperature: float = 1.0
    l2: float = 0.0
    max_iterations: int = 200
    tolerance: float = 1e-8
    noise_floor: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        check_numbers(
            self, counts=("max_iterations",), rates=("temperature", "tolerance", "noise_floor"), weights=("l2",)
        )

    def learn(self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory]) -> LearnedCost:
        """Learn; see :meth:`CostLearner.learn`.

        Control limits are not part of the likelihood, so that demonstrations must not touch them. ``history`` has the
        log-likelihood per demonstration of each step and the ``report`` is a :class:`LaplaceReport`.

        Raises:
            ValueError: also where the first guess leaves some demonstration without a likelihood, or a control is at its limit.
        """
        given = Demonstrated.of(
            problem,
            cost,
            demonstrations,
            accepted=frozenset({"control_limits", "discount", "terminal_value"}),
            learner="LaplaceIRL",
            other="MPCInverse plans with constraints",
            pieces=(self.horizon, self.stride),
        )
        _check_inside(given.problem, given.us)
        objective = _Objective(self, given)
        start, bad = objective.start, ~_expanded(objective.problem, given.xs, given.us, self.temperature)[2]
        if bool(bad.any()):
            raise ValueError(
                f"{int(bad.sum())} of {len(bad)} demonstrations are not near a minimum of the cost that the search begins "
                "with, and have no likelihood; begin with larger weights of the controls, or smaller ones of the states"
            )
        if not np.isfinite(start).all():
            raise ValueError("parameters must be finite; a weight of zero stays zero, so begin with positive ones")
        objective.check_parameters()
        optimal = _without_noise(self, given)
        if optimal is not None:
            objective.cost, objective.problem = optimal, replace(given.problem, cost=optimal)
            numbers, converged, unbounded = start, False, True
        else:
            numbers, converged, unbounded = _maximized(self, objective)
            objective.place(numbers)
            if unbounded:
                objective.rescale()
        with torch.no_grad():
            values, deviation, _ = _expanded(objective.problem, given.xs, given.us, self.temperature)
        errors = None
        if len(numbers) <= EXACT_HESSIAN and not unbounded:
            errors = _standard_errors(given.us.numel() * objective.hessian(numbers))
        report = LaplaceReport(float(values.sum()), errors, deviation, unbounded, given.prediction_error)
        return LearnedCost(objective.cost, converged, {"log_likelihood": objective.history}, report)


def laplace_log_likelihood(
    problem: Problem, xs: Tensor, us: Tensor, *, temperature: float = 1.0, t0: int = 0
) -> Tensor:
    """Log-density of controls by the Laplace approximation, in time linear in their number.

    Gradients reach every parameter of cost and dynamics, and second derivatives too.

    Args:
        problem: dynamics, cost, discount and terminal value; limits and constraints are not part of the density.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.
        temperature: tau [cost per nat].
        t0: step of the first control.

    Returns:
        ``(*batch,)`` [nat]; minus infinity, without a gradient, where the Hessian by the controls is not positive definite: the
        controls are not near a minimum.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature must be positive, got {temperature}; a demonstrator without noise has no density"
        )
    value, _, convex = _expanded(problem, xs, us, temperature, t0)
    return torch.where(convex, value, -math.inf)


def _expanded(
    problem: Problem, xs: Tensor, us: Tensor, temperature: float, t0: int = 0
) -> tuple[Tensor, float, Tensor]:
    """Log-densities ``(*batch,)``, the deviation of the controls from optimal ones, and where there is a density."""
    e = expand_problem(problem, xs, us, t0)
    H = e.H + dynamics_curvature(problem, e, xs, us, costates(e), t0)
    d, (T, m) = e.p_T.shape[-1], us.shape[-2:]
    lq = LinearQuadratic(
        A=e.F[..., :d],
        B=e.F[..., d:],
        b=e.gap,
        Q=H[..., :d, :d],
        N=H[..., :d, d:],
        R=H[..., d:, d:],
        q=e.g[..., :d],
        r=e.g[..., d:],
        P_T=e.P_T,
        p_T=e.p_T,
    )
    riccati = backward_pass(lq)
    convex = riccati.convex & riccati.p[..., 0, :].isfinite().all(-1)
    if not bool(convex.all()):  # what is NaN in some would be NaN in the derivatives of all
        riccati = backward_pass(_without(lq, ~convex))
    k = riccati.k
    squares = (k * mv(riccati.Quu, k)).sum((-2, -1)) / temperature
    L = torch.linalg.cholesky_ex(riccati.Quu).L
    log_det = 2.0 * L.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
    size = us.square().mean().sqrt().clamp_min(1e-30)
    deviation = float(k.detach().square().mean().sqrt() / size)
    return -0.5 * (squares - log_det + T * m * math.log(2.0 * math.pi * temperature)), deviation, convex


def _without(lq: LinearQuadratic, lost: Tensor) -> LinearQuadratic:
    """The problem with half the squared controls in place of the costs of some elements, ``(*batch,)`` of bool."""

    def zeroed(value: Tensor, axes: int) -> Tensor:
        return where_batch(lost, torch.zeros_like(value), value.expand(*lost.shape, *value.shape[-axes:]))

    eye = torch.eye(lq.R.shape[-1], dtype=lq.R.dtype, device=lq.R.device)
    axes = {"A": 3, "B": 3, "b": 2, "Q": 3, "N": 3, "R": 3, "q": 2, "r": 2, "P_T": 2, "p_T": 1}
    safe = {name: zeroed(getattr(lq, name), count) for name, count in axes.items()}
    safe["R"] = where_batch(lost, eye.expand_as(lq.R), lq.R)
    return replace(lq, **safe)


def _check_inside(problem: Problem, us: Tensor) -> None:
    """Raise ValueError if a control is at, or beyond, a limit."""
    lower, upper = problem.limits_like(us)
    room = 1e-6 * torch.where((upper - lower).isfinite(), upper - lower, 0.0)
    touched = (us <= lower + room) | (us >= upper - room)
    if bool(touched.any()):
        raise ValueError(
            f"{int(touched.sum())} of {us.numel()} demonstrated controls are at their limits, where the Gaussian density "
            "of LaplaceIRL is wrong; use KKTInverse or MPCInverse"
        )


class _Objective:
    """The negative log-likelihood per control of a copy of a cost, as a function of all of its parameters in a row."""

    def __init__(self, settings: LaplaceIRL, given: Demonstrated):
        self.settings, self.given = settings, given
        self.cost = copied(given.problem.cost)
        self.problem = replace(given.problem, cost=self.cost)
        self.parameters = [p for p in self.cost.parameters() if p.requires_grad]
        self.start = torch.cat([p.detach().flatten() for p in self.parameters]).numpy().copy()
        self.deviations: dict[bytes, float] = {}
        self.history: list[float] = []

    def check_parameters(self) -> None:
        """Raise ValueError if the likelihood does not depend on some parameter."""
        loss = -_expanded(self.problem, self.given.xs, self.given.us, self.settings.temperature)[0].mean()
        names = [name for name, p in self.cost.named_parameters() if p.requires_grad]
        grads = [None] * len(names)
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        unused = [name for name, g in zip(names, grads, strict=True) if g is None]
        if unused:
            raise ValueError(
                f"the cost does not depend on its parameters {', '.join(unused)}: a function that closes over a module sees "
                "the one that was handed in, not the copy that learns; make the function an nn.Module itself, or freeze "
                "parameters with requires_grad_(False)"
            )

    def place(self, numbers: np.ndarray) -> None:
        """Set all parameters."""
        parts = torch.as_tensor(numbers).split([p.numel() for p in self.parameters])
        with torch.no_grad():
            for p, part in zip(self.parameters, parts, strict=True):
                p.copy_(part.view_as(p))

    def loss(self, numbers: np.ndarray) -> Tensor | None:
        """The value with its graph, None where there is none."""
        self.place(numbers)
        given, settings = self.given, self.settings
        value, deviation, convex = _expanded(self.problem, given.xs, given.us, settings.temperature)
        if not (bool(convex.all()) and bool(value.isfinite().all())):
            return None
        self.deviations = dict(list(self.deviations.items())[-3:])
        self.deviations[numbers.tobytes()] = deviation
        loss, starts = -value.mean(), torch.as_tensor(self.start).split([p.numel() for p in self.parameters])
        for p, start in zip(self.parameters, starts, strict=True) if settings.l2 else ():
            loss = loss + 0.5 * settings.l2 * (p - start.view_as(p)).square().sum()
        return loss / given.us[0].numel()

    def __call__(self, numbers: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient."""
        loss = self.loss(numbers)
        if loss is None:
            return math.inf, np.zeros_like(numbers)
        return float(loss.detach()), self._gradient(loss).numpy()

    def hessian(self, numbers: np.ndarray) -> np.ndarray:
        """The Hessian ``(k, k)``; zero where there is no value, which SciPy asks for and does not use."""
        loss, k = self.loss(numbers), len(numbers)
        gradient = None if loss is None else self._gradient(loss, create=True)
        if gradient is None or not gradient.requires_grad:
            return np.zeros((k, k))
        rows = torch.eye(k, dtype=gradient.dtype)
        parts = torch.autograd.grad(gradient, self.parameters, rows, is_grads_batched=True, materialize_grads=True)
        H = torch.cat([part.reshape(k, -1) for part in parts], dim=1).numpy()
        return 0.5 * (H + H.T)

    def times_hessian(self, numbers: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Its product with a vector."""
        loss = self.loss(numbers)
        if loss is None:
            return np.zeros_like(numbers)
        return self._gradient(self._gradient(loss, create=True) @ torch.as_tensor(vector)).numpy()

    def rescale(self) -> None:
        """Give the weights the sum that they had at the start, if there are any."""
        self.cost = with_the_sum_of(self.given.problem.cost, self.cost)
        self.problem = replace(self.problem, cost=self.cost)

    def _gradient(self, value: Tensor, *, create: bool = False) -> Tensor:
        if not value.requires_grad:
            return torch.cat([torch.zeros_like(p).flatten() for p in self.parameters])
        grads = torch.autograd.grad(value, self.parameters, create_graph=create, materialize_grads=True)
        return torch.cat([g.flatten() for g in grads])


def _maximized(settings: LaplaceIRL, objective: _Objective) -> tuple[np.ndarray, bool, bool]:
    """The parameters found, whether they are a maximum, and whether the likelihood has none because nothing is random."""
    from scipy.optimize import minimize

    fixed_scale, unbounded = scale_is_fixed(objective.problem), False
    controls = objective.given.us[0].numel()

    def watch(intermediate_result: Any) -> None:
        nonlocal unbounded
        objective.history.append(-controls * float(intermediate_result.fun))
        deviation = objective.deviations.get(intermediate_result.x.tobytes(), math.inf)
        if deviation <= settings.noise_floor and not fixed_scale:
            unbounded = True
            raise StopIteration

    few = len(objective.start) <= EXACT_HESSIAN
    found = minimize(
        objective,
        objective.start,
        jac=True,
        method="trust-exact" if few else "trust-ncg",
        hess=objective.hessian if few else None,
        hessp=None if few else objective.times_hessian,
        callback=watch,
        options={"gtol": settings.tolerance, "maxiter": settings.max_iterations, "max_trust_radius": 10.0},
    )
    flat = float(np.linalg.norm(found.jac)) <= 1e2 * settings.tolerance  # the arithmetic may resolve no more
    return found.x, bool(found.success or flat) and not unbounded, unbounded


def scale_is_fixed(problem: Problem) -> bool:
    """Whether a part of the cost does not scale with its weights."""
    known = isinstance(problem.cost, WeightedCost) and problem.cost.known is not None
    return known or problem.terminal_value is not None


def with_the_sum_of(first: Cost, now: Cost) -> Cost:
    """A cost with weights of the same sum as those of the first one; costs without weights stay as they are."""
    if not (isinstance(first, WeightedCost) and isinstance(now, WeightedCost)):
        return now
    factor = (first.weights.sum() / now.weights.sum()).detach()
    if not 0 < float(factor) < math.inf:  # of weights that may be negative
        return now
    return of_weights(now, factor * now.weights.detach())


def _without_noise(settings: LaplaceIRL, given: Demonstrated) -> Cost | None:
    """The cost with weights of which all demonstrations are optimal, if there are any; a search would take long to find them."""
    problem, cost = given.problem, given.problem.cost
    if not isinstance(cost, WeightedCost) or scale_is_fixed(problem) or not float(cost.weights.detach().sum()) > 0:
        return None
    with torch.no_grad():
        G, g = (v.flatten(0, 2) for v in control_gradients(problem, cost, given.xs, given.us))
        nowhere = torch.zeros(len(G), dtype=torch.bool)
        weights, _ = nonnegative_weights(G, g, nowhere, nowhere, float(cost.weights.sum()))
        optimal = replace(problem, cost=cost.with_weights(weights))
        _, deviation, convex = _expanded(optimal, given.xs, given.us, settings.temperature)
    return of_weights(cost, weights) if bool(convex.all()) and deviation <= settings.noise_floor else None


def _standard_errors(information: np.ndarray) -> Tensor:
    """Square roots of the diagonal of the inverse ``(k,)``; infinite where it has none."""
    values, vectors = np.linalg.eigh(information)
    seen = values > 1e-12 * max(values[-1], 1e-300)
    variance = (vectors[:, seen] ** 2 / values[seen]).sum(-1)
    hidden = (vectors[:, ~seen] ** 2).sum(-1) > 1e-8
    return torch.as_tensor(np.where(hidden, np.inf, np.sqrt(variance)))
