r"""The normalizer of trajectories that cost little, by importance sampling (Finn, Levine and Abbeel 2016, sections 3 and 4).

The demonstrator chooses controls with a density that falls with their cost J, at a temperature :math:`\tau`, and

.. math:: \log Z(x_0) = \log \int e^{-J(\zeta) / \tau} \, d\zeta

is what the likelihood of demonstrations needs beside their cost. Trajectories :math:`\zeta_j` are drawn from distributions
:math:`q_\kappa`, :math:`n_\kappa` of :math:`n` from each, all from one initial state, and

.. math::
    \hat Z = \frac1n \sum_j z_j \, e^{-J(\zeta_j) / \tau}, \qquad
    z_j = \Bigl[ \sum_\kappa \frac{n_\kappa}{n} \, q_\kappa(\zeta_j) \Bigr]^{-1},

with the fusion density of all distributions in the place of the one that a sample came from: equation 5 of the paper where all
:math:`n_\kappa` are equal. The estimate of Z is unbiased; that of its logarithm is too low on average, by half the relative
variance of the former. With weights normalized by themselves, :math:`w_j \propto z_j e^{-J_j / \tau}`, the derivative of
:math:`\log \hat Z` is minus the weighted mean of that of :math:`J_j / \tau`. All sums are taken in log space.

What :math:`q_\kappa(\zeta)` is decides what Z is the normalizer of:

- The product of the densities of the controls, :math:`\prod_t q_\kappa(u_t | x_t)`. On a deterministic plant trajectories are
  their controls, this product is their density, and :math:`Z = \int e^{-J(u)/\tau} du` normalizes :math:`p(u | x_0)`: the
  demonstrator of maximum entropy. On a stochastic plant the densities of the dynamics, which samples and integrand have in
  common, cancel:

  .. math:: Z = \int \prod_t p(x_{t+1} | x_t, u_t) \, e^{-J(x, u) / \tau} \, du \, dx ,

  which normalizes :math:`p(\zeta) \propto \prod_t p(x_{t+1} | x_t, u_t) \, e^{-J/\tau}`. The luck of this demonstrator depends on
  the cost, too; it is not the one of maximum causal entropy, and differs from that the more, the more noise there is.
- The same with the densities of the dynamics, :math:`\prod_t p(x_{t+1} | x_t, u_t) \, q_\kappa(u_t | x_t)`. Then nothing cancels:
  :math:`Z = \int e^{-J(x, u)/\tau} du \, dx` is over all sequences of states and controls, whether or not the plant could go
  there. That is what :math:`p(\zeta) \propto e^{-J}` says literally, and it is finite only where states cost enough.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl.gps.importance import effective_samples


@dataclass(frozen=True, eq=False)
class LogPartition:
    """An estimate for each initial state.

    Attributes:
        value: log Z, ``(*batch,)``; minus infinity where no sample counts.
        log_weights: of the samples, ``(M, *batch)``, minus infinity for those that do not count.
    """

    value: Tensor
    log_weights: Tensor

    @property
    def weights(self) -> Tensor:
        """The same, with the sum 1 over the samples, ``(M, *batch)``."""
        return torch.softmax(self.log_weights, 0)

    @property
    def effective_samples(self) -> Tensor:
        """Effective number of samples (Kish 1965), ``(*batch,)``; an estimate that rests on one or two is none."""
        return effective_samples(self.log_weights)


def log_partition(
    costs: Tensor, log_q: Tensor, counts: Tensor, *, temperature: float = 1.0, valid: Tensor | None = None
) -> LogPartition:
    """Estimate log Z from samples; gradients reach the costs.

    Args:
        costs: of whole trajectories, M of them from each initial state, ``(M, *batch)``.
        log_q: their log-densities under each of J distributions, ``(J, M, *batch)``; of the controls alone, or with those of the
            dynamics: see the module.
        counts: how many came from each distribution, ``(J,)`` or ``(J, *batch)``.
        temperature: tau [cost per nat].
        valid: which samples there are, ``(M, *batch)`` of bool, so that numbers may differ between initial states; all by
            default. A sample that diverged counts as one and has infinite cost.

    Raises:
        ValueError: shapes or numbers of samples do not fit together, or the temperature is not positive.
    """
    counts = counts.to(log_q).reshape(*counts.shape, *[1] * (costs.ndim - counts.ndim))
    there = torch.ones_like(costs, dtype=torch.bool) if valid is None else valid
    shapes = log_q.shape[1:] == costs.shape == there.shape and counts.shape[:1] == log_q.shape[:1]
    total = counts.sum(0)
    if not (shapes and costs.ndim and len(costs) and bool((total == there.sum(0)).all())):
        raise ValueError(
            "need costs (M, *batch), log_q (J, M, *batch), and counts (J,) or (J, *batch) of as many samples, got "
            f"{tuple(costs.shape)}, {tuple(log_q.shape)} and counts {counts.squeeze().tolist()}"
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    shares = (counts / total).log().unsqueeze(1)
    fused = torch.logsumexp(log_q + shares, 0)
    counted = there & costs.isfinite()
    scaled = torch.where(counted, costs, 0.0) / temperature  # what is not finite has no derivative either
    log_weights = torch.where(counted, -scaled - torch.where(counted, fused, 0.0), -torch.inf)
    return LogPartition(torch.logsumexp(log_weights, 0) - total.log().reshape(total.shape), log_weights)
