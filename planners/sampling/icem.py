r"""The improved cross-entropy method (Pinneri et al. 2020, "Sample-efficient cross-entropy method for real-time planning").

A diagonal Gaussian over control sequences is refitted to the E cheapest candidates. What distinguishes it from CEM: noise
that is correlated in time with power spectrum :math:`f^{-\beta}` (section 3.1), candidates kept between iterations and
shifted between steps (3.2), fewer candidates in later iterations (3.3), clipping instead of truncated sampling, and the mean
as a candidate of the last iteration (3.4).

Differences from the paper: kept elites are evaluated again, so that a plan never rests on a cost from another step; the mean
is a candidate of the first iteration too, so that no plan is worse than the one it starts from; the standard deviation has a
floor.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from planners.sampling.base import Bounds, SamplingPlanner
from planners.solution import shifted


@dataclass(frozen=True, eq=False)
class _Belief:
    """Gaussian ``(*batch, T, m)`` and the cheapest candidates of the last iteration ``(*batch, E, T, m)``, or None."""

    mean: Tensor
    std: Tensor
    elites: Tensor | None


@dataclass(frozen=True)
class ICEM(SamplingPlanner):
    """Improved cross-entropy method.

    Attributes:
        num_elites: E, candidates to which the Gaussian is refitted.
        noise_exponent: beta of the noise spectrum; 0 is white, 2 and more suit slow systems, 0.25 legged gaits.
        initial_std: standard deviation of the first iteration, in half widths of the control limits.
        minimum_std: floor of the standard deviation, likewise.
        sample_decay: factor by which the number of candidates falls per iteration, down to 2 E.
        kept_elites: share of the elites that stay candidates in the next iteration and the next step.
        momentum: share of the old mean and standard deviation in the new ones.
    """

    num_elites: int = 10
    noise_exponent: float = 2.0
    initial_std: float = 0.5
    minimum_std: float = 0.02
    sample_decay: float = 1.25
    kept_elites: float = 0.3
    momentum: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not (isinstance(self.num_elites, int) and 1 <= self.num_elites <= self.num_samples):
            raise ValueError(
                f"num_elites must be an integer in 1..num_samples={self.num_samples}, got {self.num_elites!r}"
            )
        if not (self.initial_std > 0 and self.minimum_std >= 0 and self.noise_exponent >= 0 and self.sample_decay >= 1):
            raise ValueError(
                "need initial_std > 0, minimum_std >= 0, noise_exponent >= 0 and sample_decay >= 1, got "
                f"{self.initial_std}, {self.minimum_std}, {self.noise_exponent} and {self.sample_decay}"
            )
        if not (0 <= self.kept_elites <= 1 and 0 <= self.momentum < 1):
            raise ValueError(
                f"need kept_elites in [0, 1] and momentum in [0, 1), got {self.kept_elites} and {self.momentum}"
            )

    def start(self, mean: Tensor, bounds: Bounds, previous: Any, shift: int) -> _Belief:
        """A wide Gaussian about the shifted plan, and the shifted elites of the previous solve."""
        std = (self.initial_std * bounds.half_range).expand(mean.shape)
        elites = None
        if isinstance(previous, _Belief) and previous.elites is not None and self._num_kept:
            elites = shifted(previous.elites.to(mean), shift, mean.shape[-2])
            elites = elites.expand(*mean.shape[:-2], *elites.shape[-3:])
        return _Belief(mean, std, elites)

    def propose(self, belief: _Belief, bounds: Bounds, iteration: int, generator: torch.Generator) -> Tensor:
        """Colored noise about the mean, the kept elites, and in the first and last iteration the mean itself."""
        samples = max(int(self.num_samples / self.sample_decay**iteration), min(2 * self.num_elites, self.num_samples))
        *batch, T, m = belief.mean.shape
        noise = colored_noise((*batch, samples, m), T, self.noise_exponent, generator, belief.mean).mT
        std = torch.maximum(belief.std, self.minimum_std * bounds.half_range)
        proposals = [belief.mean.unsqueeze(-3) + std.unsqueeze(-3) * noise]
        if belief.elites is not None:
            proposals.append(belief.elites[..., : self._num_kept, :, :])
        if iteration in (0, self.max_iterations - 1):
            proposals.append(belief.mean.unsqueeze(-3))
        return torch.cat(proposals, dim=-3)

    def update(self, belief: _Belief, candidates: Tensor, costs: Tensor) -> _Belief:
        """Refit to the elites with finite cost; unchanged where there is none."""
        costs, index = costs.topk(self.num_elites, dim=-1, largest=False)
        elites = candidates.gather(-3, index[..., None, None].expand(*index.shape, *candidates.shape[-2:]))
        weight = costs.isfinite().to(candidates)[..., None, None]
        count = weight.sum(-3).clamp_min(1.0)
        mean = (weight * elites).sum(-3) / count
        std = ((weight * (elites - mean.unsqueeze(-3)).square()).sum(-3) / count).sqrt()
        found = costs[..., :1, None].isfinite()
        mean = torch.where(found, self.momentum * belief.mean + (1 - self.momentum) * mean, belief.mean)
        std = torch.where(found, self.momentum * belief.std + (1 - self.momentum) * std, belief.std)
        return _Belief(mean, std, elites)

    def mean(self, belief: _Belief) -> Tensor:
        """The mean of the elites, with momentum."""
        return belief.mean

    @property
    def _num_kept(self) -> int:
        return round(self.kept_elites * self.num_elites)


def colored_noise(
    shape: tuple[int, ...], length: int, exponent: float, generator: torch.Generator | None, like: Tensor
) -> Tensor:
    r"""Gaussian noise of unit variance with power spectrum :math:`f^{-\beta}` (Timmer and Koenig 1995).

    Args:
        shape: leading axes.
        length: number of samples in time, the last axis.
        exponent: beta; 0 is white noise.
        generator: source of randomness.
        like: gives dtype and device.

    Returns:
        ``(*shape, length)``.
    """
    white = torch.randn(*shape, length, generator=generator, dtype=like.dtype, device=like.device)
    if length == 1 or exponent == 0:
        return white
    frequencies = torch.fft.rfftfreq(length, dtype=like.dtype, device=like.device)
    frequencies[0] = frequencies[1]  # a constant offset has as much power as the slowest wave
    spectra = torch.fft.rfft(torch.eye(length, dtype=like.dtype, device=like.device)) * frequencies ** (-exponent / 2)
    filters = torch.fft.irfft(spectra, n=length)  # row i is the answer to an impulse at i, the same for all but shifted
    return white @ (filters / torch.linalg.vector_norm(filters[0]))
