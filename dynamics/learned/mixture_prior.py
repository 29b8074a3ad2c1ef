r"""A Gaussian mixture as the prior of local regressions (Levine and Abbeel 2014, section 3.2).

Transitions of a nonlinear system lie on a curved sheet, which a mixture covers with pieces

.. math:: p \sim \sum_k w_k \, \mathcal N(\mu_k, \Sigma_k), \qquad p = [x; u; x'] .

Where N points have the mean responsibilities :math:`r_k`, the prior is the mixture with these weights, as one Gaussian:

.. math::
    \mu_0 = \sum_k r_k \mu_k, \quad \Phi = m \sum_k r_k \bigl(\Sigma_k + (\mu_k - \mu_0)(\mu_k - \mu_0)^\top\bigr), \quad
    m = s, \quad n_0 = s \max\bigl(0, (P - 2 - D) / P\bigr)

for a mixture fitted to P points with D coordinates, and strength s = 1 as in the authors' code.

The mixture maximizes the likelihood by expectation maximization, under the constraint :math:`\Sigma_k \succeq \epsilon I` in
units of each coordinate's standard deviation. The M-step clips the eigenvalues of the weighted covariance from below, which is
the exact constrained maximum; so no component collapses and the likelihood never falls.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dynamics.learned.base import is_constant
from dynamics.learned.normal_inverse_wishart import NormalInverseWishart

POINTS_PER_COMPONENT = 40
MOST_COMPONENTS = 20


@dataclass(frozen=True, eq=False)
class MixturePrior:
    """Gaussian mixture over points; made by :func:`fit_mixture_prior`.

    Attributes:
        log_weights: ``(K,)``.
        means: ``(K, D)``.
        covariances: positive definite, ``(K, D, D)``.
        num_points: P, how many points it was fitted to.
        strength: s, how many points the mean of the prior is worth.

    Raises:
        ValueError: shapes do not fit, or the strength is negative.
    """

    log_weights: Tensor
    means: Tensor
    covariances: Tensor
    num_points: int
    strength: float = 1.0

    def __post_init__(self):
        K, D = self.means.shape if self.means.ndim == 2 else (0, 0)
        if K == 0 or self.log_weights.shape != (K,) or self.covariances.shape != (K, D, D):
            raise ValueError(
                "need log_weights (K,), means (K, D) and covariances (K, D, D), got "
                f"{tuple(self.log_weights.shape)}, {tuple(self.means.shape)} and {tuple(self.covariances.shape)}"
            )
        if not self.strength >= 0:
            raise ValueError(f"strength must be a number of points, at least 0, got {self.strength}")

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-density at points ``(*batch, D)``, ``(*batch,)``."""
        return self._log_joint(points).logsumexp(-1)

    def responsibilities(self, points: Tensor) -> Tensor:
        """Probability that each component made a point of ``(*batch, D)``, ``(*batch, K)``."""
        return self._log_joint(points).softmax(-1)

    def moments(self, points: Tensor) -> NormalInverseWishart:
        """The prior of Gaussians about sets of N points.

        Args:
            points: ``(*batch, N, D)``; points that are not finite do not count.

        Raises:
            ValueError: the points have another number of coordinates, or a set has no finite point.
        """
        if points.ndim < 2 or points.shape[-1] != self.means.shape[-1]:
            raise ValueError(f"need points (*batch, N, {self.means.shape[-1]}), got {tuple(points.shape)}")
        sound = points.isfinite().all(-1, keepdim=True)
        if not bool(sound.any(-2).all()):
            raise ValueError("a set of points has no finite one to place the prior by")
        r = self.responsibilities(points.masked_fill(~sound, 0.0)) * sound
        r = r.sum(-2) / sound.sum(-2)
        means, covariances = self.means.to(points), self.covariances.to(points)
        mu0 = r @ means
        spread = means - mu0.unsqueeze(-2)
        Phi = (r @ covariances.flatten(1)).unflatten(-1, covariances.shape[1:])
        Phi = Phi + (r.unsqueeze(-1) * spread).mT @ spread
        share = max(0.0, (self.num_points - 2 - self.means.shape[-1]) / self.num_points)
        return NormalInverseWishart(mu0, self.strength * Phi, m=self.strength, n0=self.strength * share)

    def _log_joint(self, points: Tensor) -> Tensor:
        """Log of weight times density, ``(*batch, K)``."""
        factor = torch.linalg.cholesky(self.covariances.to(points))
        K, D = self.means.shape
        shift = self.means.to(points).mean(0)  # so that no two large numbers are subtracted
        means, flat = self.means.to(points) - shift, (points - shift).reshape(-1, D)
        whitening = torch.linalg.solve_triangular(factor, torch.eye(D).to(factor), upper=False)
        white = (whitening.flatten(0, 1) @ flat.mT).unflatten(0, (K, D)) - whitening @ means.unsqueeze(-1)
        log_volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * D * math.log(2 * math.pi)
        log_density = -0.5 * white.square().sum(-2).mT - log_volume
        return (self.log_weights.to(points) + log_density).reshape(*points.shape[:-1], -1)


def fit_mixture_prior(
    points: Tensor,
    *,
    components: int | None = None,
    strength: float = 1.0,
    floor: float = 1e-6,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    generator: torch.Generator | None = None,
) -> MixturePrior:
    """A mixture by expectation maximization, from centers drawn as in k-means++ (Arthur and Vassilvitskii 2007); in float64.

    Args:
        points: ``(*any, D)``, such as ``transition_points(xs, us)`` of the latest rollouts of all conditions; points that are
            not finite do not count.
        components: K; one for every 40 points by default, from 2 to 20, and no more than there are points.
        strength: how many points the prior is worth in a local fit.
        floor: smallest variance of a component in any direction, in units of the points' variances.
        max_iterations: most iterations.
        tolerance: gain of the mean log-likelihood per point at which to stop.
        generator: source of randomness, on the device of the points; seeded with 0 by default.

    Raises:
        ValueError: there are no finite points, fewer than components, or a setting is out of range.
    """
    if points.ndim < 2:
        raise ValueError(f"need points (*any, D), got {tuple(points.shape)}")
    points = points.to(torch.float64).reshape(-1, points.shape[-1])
    points = points[points.isfinite().all(-1)]
    P = len(points)
    K = components if components is not None else max(2, min(MOST_COMPONENTS, P // POINTS_PER_COMPONENT))
    K = min(K, P) if components is None else K
    if P == 0 or not 1 <= K <= P:
        raise ValueError(f"need from one component to as many as finite points, got {K} for {P} points")
    if not (0 < floor < float("inf") and max_iterations >= 1 and tolerance >= 0):
        raise ValueError(
            "need floor > 0, max_iterations >= 1 and tolerance >= 0, got "
            f"floor={floor}, max_iterations={max_iterations}, tolerance={tolerance}"
        )
    generator = generator or torch.Generator(device=points.device).manual_seed(0)
    center, scale = points.mean(0), points.std(0, correction=0)
    scale = torch.where(is_constant(points), torch.ones_like(scale), scale)
    z = (points - center) / scale
    mixture = _seeded(z, K, strength, floor, generator)
    before = -math.inf
    for _ in range(max_iterations):
        log_joint = mixture._log_joint(z)
        likelihood = float(log_joint.logsumexp(-1).mean())
        if likelihood - before <= tolerance:
            break
        mixture, before = _maximized(mixture, z, log_joint.softmax(-1), floor), likelihood
    return replace(
        mixture, means=center + scale * mixture.means, covariances=mixture.covariances * torch.outer(scale, scale)
    )


def _seeded(z: Tensor, K: int, strength: float, floor: float, generator: torch.Generator) -> MixturePrior:
    """Components of the points nearest to K centers, each drawn in proportion to its squared distance from the others."""
    first = int(torch.randint(len(z), (), generator=generator, device=z.device))
    chosen, distance = [first], (z - z[first]).square().sum(-1)
    for _ in range(K - 1):
        weight = distance if float(distance.max()) > 0 else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
        distance = torch.minimum(distance, (z - z[chosen[-1]]).square().sum(-1))
    centers = z[chosen]
    nearest = torch.cdist(z, centers).argmin(-1)
    everywhere = _clipped(z.mT @ z / len(z), floor).expand(K, -1, -1)
    blank = MixturePrior(z.new_zeros(K) - math.log(K), centers, everywhere, len(z), strength)
    return _maximized(blank, z, torch.nn.functional.one_hot(nearest, K).to(z), floor)


def _maximized(mixture: MixturePrior, z: Tensor, r: Tensor, floor: float) -> MixturePrior:
    """The M-step for responsibilities ``(P, K)``; components without points stay where they are, with weight zero."""
    count = r.sum(0)
    alive = count > 1e-8
    weight = r / count.clamp_min(1e-8)
    means = torch.where(alive.unsqueeze(-1), weight.mT @ z, mixture.means)
    second = (weight.mT.unsqueeze(-2) * z.mT).flatten(0, 1) @ z  # one product for all components
    covariances = _clipped(second.unflatten(0, means.shape) - means.unsqueeze(-1) * means.unsqueeze(-2), floor)
    covariances = torch.where(alive[:, None, None], covariances, mixture.covariances)
    log_weights = torch.where(alive, count / len(z), torch.zeros_like(count)).log()
    return replace(mixture, log_weights=log_weights, means=means, covariances=covariances)


def _clipped(covariance: Tensor, floor: float) -> Tensor:
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
    return (vectors * values.clamp_min(floor).unsqueeze(-2)) @ vectors.mT
