r"""Controllers as distributions: where they go, what they cost, and how far one is from another, under linear-Gaussian dynamics.

Controls are :math:`u \sim \mathcal N(K x + k, \Sigma)`, dynamics :math:`x' = A x + B u + b + \mathcal N(0, W)`, so that states
are Gaussian, too, and expectations of quadratic costs and of divergences have closed forms. Linear-quadratic models are in
displacements :math:`(x \ominus \bar x, u - \bar u)` from a trajectory, as :func:`planners.expand_about` makes them, and costs
leave out that of the trajectory itself. All is computed in double precision.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from dynamics import Dynamics
from planners.controllers import LinearGaussianController
from planners.psd import floored
from planners.riccati import LinearQuadratic, backward_pass, mv


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
class Conditional:
    """Controls given states, both as displacements: N(K x + k, covariance); ``(*batch, T, ...)``."""

    K: Tensor
    k: Tensor
    covariance: Tensor


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
    xs, us = checked_trajectory(lq, controller, about)
    lq, law, start, noise = prepared(lq, controller, xs, us, noise, x0, x0_covariance, ())
    mean, covariance = propagated(lq, law, *start, noise)
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
    xs, us = checked_trajectory(lq, controller, about)
    batch = marginals.mean.shape[:-2]
    lq, law, _, _ = prepared(lq, controller, xs, us, None, None, None, batch)
    return quadratic_expectation(lq, law, marginals.mean.double(), marginals.covariance.double()).to(xs)


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
    w = Conditional(K, k, factor @ factor.mT)
    kl = divergence_from_normal(w, factor, marginals.mean.double(), marginals.covariance.double())
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
    xs, us = checked_trajectory(lq, previous, about)
    weights = torch.as_tensor(weights, dtype=torch.float64, device=us.device)
    lq, law, _, _ = prepared(lq, previous, xs, us, None, None, None, batch_of(weights, 1))
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


def propagated(
    lq: LinearQuadratic, law: Conditional, mean: Tensor, covariance: Tensor, noise: Tensor
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


def quadratic_expectation(lq: LinearQuadratic, law: Conditional, mean: Tensor, covariance: Tensor) -> Tensor:
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


def divergence_from_normal(w: Conditional, factor: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Expected divergence ``(*batch, T)`` from a standard normal, given a Cholesky factor of the covariance of w."""
    shift = (mv(w.K, mean[..., :-1, :]) + w.k).square().sum(-1)
    spread = ((w.K @ covariance[..., :-1, :, :]) * w.K).sum((-1, -2))
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    shape = factor.square().sum((-1, -2)) - factor.shape[-1] - 2.0 * diagonal.log().sum(-1)
    return 0.5 * (shift + spread + shape).clamp_min(0.0)


def checked_trajectory(
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


def prepared(
    lq: LinearQuadratic,
    controller: LinearGaussianController,
    xs: Tensor,
    us: Tensor,
    noise: Tensor | None,
    x0: Tensor | None,
    x0_covariance: Tensor | None,
    batch: torch.Size | tuple[int, ...],
) -> tuple[LinearQuadratic, Conditional, tuple[Tensor, Tensor], Tensor]:
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
    shapes = [batch_of(value, core) for value, core in parts]
    shapes += [batch_of(getattr(lq, name), core) for name, core in cores.items()]
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
    return lq, Conditional(K, k, covariance), (mean0, covariance0), noise


def batch_of(value: Tensor, core: int) -> torch.Size:
    """The batch axes of a value whose last ``core`` axes are its own."""
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
