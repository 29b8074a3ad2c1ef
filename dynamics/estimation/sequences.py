r"""Filtering and smoothing of whole sequences.

The smoother goes back in time (Rauch, Tung and Striebel 1965; Särkkä 2008 for the unscented one). With the prediction
:math:`m^-_{t+1}, P^-_{t+1}`, the cross covariance :math:`C_t` of a state and its successor and
:math:`G_t = C_t (P^-_{t+1})^{-1}`,

.. math:: m^s_t = m_t \boxplus G_t (m^s_{t+1} \boxminus m^-_{t+1}), \qquad
    P^s_t = (D_x - G D_y) W (D_x - G D_y)^\top + G_t (Q + P^s_{t+1}) G_t^\top,

which equals :math:`P_t + G_t (P^s_{t+1} - P^-_{t+1}) G_t^\top` and stays positive semidefinite.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynamics.estimation.belief import GaussianBelief, Innovation, divided, symmetric

if TYPE_CHECKING:
    from dynamics.estimation.base import GaussianFilter


@dataclass(frozen=True, eq=False)
class FilteredSequence:
    """What a filter knew at each step.

    Attributes:
        means: after each observation, ``(*batch, T+1, n)``.
        covariances: ``(*batch, T+1, tangent_dim, tangent_dim)``.
        predicted_means: before each observation, ``(*batch, T+1, n)``.
        predicted_covariances: ``(*batch, T+1, tangent_dim, tangent_dim)``.
        innovations: of each observation, with an axis T+1 behind the batch axes.
        us: controls ``(*batch, T, m)``.
        t0: step of the first observation.
    """

    means: Tensor
    covariances: Tensor
    predicted_means: Tensor
    predicted_covariances: Tensor
    innovations: Innovation
    us: Tensor
    t0: int

    @property
    def log_likelihood(self) -> Tensor:
        """Of all observations, ``(*batch,)``: what identification by maximum likelihood maximizes."""
        return self.innovations.log_likelihood.sum(-1)

    @property
    def stds(self) -> Tensor:
        """Standard deviations, ``(*batch, T+1, tangent_dim)``."""
        return self.covariances.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()

    def belief(self, k: int) -> GaussianBelief:
        """The belief after observation k; -1 for the last."""
        k = range(self.means.shape[-2])[k]
        innovation = Innovation(
            self.innovations.value[..., k, :],
            self.innovations.covariance[..., k, :, :],
            self.innovations.log_likelihood[..., k],
            self.innovations.nis[..., k],
            self.innovations.observed[..., k],
        )
        return GaussianBelief(self.means[..., k, :], self.covariances[..., k, :, :], self.t0 + k, innovation)


@dataclass(frozen=True, eq=False)
class SmoothedSequence:
    """What is known about each step in hindsight.

    Attributes:
        means: ``(*batch, T+1, n)``.
        covariances: ``(*batch, T+1, tangent_dim, tangent_dim)``.
        gains: G of each step, ``(*batch, T, tangent_dim, tangent_dim)``; the covariance of a state and its successor is
            ``G P`` with the successor's smoothed covariance P.
        t0: step of the first observation.
    """

    means: Tensor
    covariances: Tensor
    gains: Tensor
    t0: int

    @property
    def stds(self) -> Tensor:
        """Standard deviations, ``(*batch, T+1, tangent_dim)``."""
        return self.covariances.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()


def filter_sequence(kalman: "GaussianFilter", belief: GaussianBelief, ys: Tensor, us: Tensor) -> FilteredSequence:
    """See :meth:`GaussianFilter.filter`."""
    for name, value in (("ys", ys), ("us", us)):
        if not isinstance(value, Tensor) or value.ndim < 2:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a tensor of shape (*batch, time, dim), got {came}")
    T = us.shape[-2]
    if ys.shape[-2] != T + 1:
        raise ValueError(
            f"need one observation more than controls, ys (*batch, T+1, p) and us (*batch, T, m), got {ys.shape[-2]} and {T}; "
            "an observation that is missing is a row of NaN"
        )
    batch = torch.broadcast_shapes(belief.mean.shape[:-1], ys.shape[:-2], us.shape[:-2])
    n, d = belief.mean.shape[-1], belief.covariance.shape[-1]
    mean, P = belief.mean.expand(*batch, n), belief.covariance.expand(*batch, d, d)
    predicted = [GaussianBelief(mean, P, belief.step)]
    filtered = [kalman.update(predicted[0], ys[..., 0, :])]
    for k in range(T):
        predicted.append(kalman.predict(filtered[-1], us[..., k, :]))
        filtered.append(kalman.update(predicted[-1], ys[..., k + 1, :]))
    found = [b.innovation for b in filtered if b.innovation is not None]
    return FilteredSequence(
        torch.stack([b.mean for b in filtered], dim=-2),
        torch.stack([b.covariance for b in filtered], dim=-3),
        torch.stack([b.mean for b in predicted], dim=-2),
        torch.stack([b.covariance for b in predicted], dim=-3),
        Innovation(
            value=torch.stack([i.value for i in found], dim=-2),
            covariance=torch.stack([i.covariance for i in found], dim=-3),
            log_likelihood=torch.stack([i.log_likelihood for i in found], dim=-1),
            nis=torch.stack([i.nis for i in found], dim=-1),
            observed=torch.stack([i.observed for i in found], dim=-1),
        ),
        us.expand(*batch, *us.shape[-2:]),
        belief.step,
    )


def smooth_sequence(kalman: "GaussianFilter", filtered: FilteredSequence) -> SmoothedSequence:
    """See :meth:`GaussianFilter.smooth`."""
    if not isinstance(filtered, FilteredSequence):
        raise TypeError(f"need what filter(belief, ys, us) returned, got {type(filtered).__name__}")
    if filtered.means.ndim == 2:  # functions of states see batches only
        smoothed = smooth_sequence(kalman, _each(filtered, lambda value: value.unsqueeze(0)))
        return SmoothedSequence(
            smoothed.means.squeeze(0), smoothed.covariances.squeeze(0), smoothed.gains.squeeze(0), filtered.t0
        )
    T = filtered.us.shape[-2]
    last = filtered.belief(T)
    means, covariances, gains = [last.mean], [last.covariance], []
    for k in reversed(range(T)):
        now, u = filtered.belief(k), filtered.us[..., k, :]
        predicted = filtered.predicted_means[..., k + 1, :], filtered.predicted_covariances[..., k + 1, :, :]
        mean, P, G = _one_step_back(kalman, now, u, predicted, (means[-1], covariances[-1]))
        means.append(mean)
        covariances.append(P)
        gains.append(G)
    d = last.covariance.shape[-1]
    return SmoothedSequence(
        torch.stack(means[::-1], dim=-2),
        torch.stack(covariances[::-1], dim=-3),
        torch.stack(gains[::-1], dim=-3) if gains else last.covariance.new_zeros(*last.covariance.shape[:-2], 0, d, d),
        filtered.t0,
    )


def _each(filtered: FilteredSequence, change: Callable[[Tensor], Tensor]) -> FilteredSequence:
    """The sequence with all of its tensors changed."""
    values = {name: change(value) for name, value in vars(filtered).items() if isinstance(value, Tensor)}
    innovations = Innovation(**{name: change(value) for name, value in vars(filtered.innovations).items()})
    return replace(filtered, **values, innovations=innovations)


def _one_step_back(
    kalman: "GaussianFilter",
    now: GaussianBelief,
    u: Tensor,
    predicted: tuple[Tensor, Tensor],
    later: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed mean, covariance and gain of a step from those of the next."""
    joint, Q = kalman.transition(now, u)
    dynamics, (predicted_mean, predicted_P), (later_mean, later_P) = kalman.dynamics, predicted, later
    G = divided(joint.Dx @ joint.W @ joint.Dy.mT, predicted_P)
    correction = dynamics.difference(later_mean, predicted_mean)
    dx = (G @ correction.unsqueeze(-1)).squeeze(-1)
    mean = dynamics.retract(now.mean, dx)
    later_P = kalman.moved(later_P, later_mean, torch.zeros_like(dx), predicted_mean)
    residual = joint.Dx - G @ joint.Dy
    P = symmetric(residual @ joint.W @ residual.mT + G @ (Q + later_P) @ G.mT)
    return mean, kalman.moved(P, now.mean, dx, mean), G
