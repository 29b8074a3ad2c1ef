r"""How well a model predicts k steps ahead, and whether its intervals can be believed.

From each window of a held-out trajectory the model predicts open loop under the logged controls. The error of dimension d is
normalized by the standard deviation of that dimension over the held-out data, angles compared on the circle:

.. math:: e_{k,d} = (\hat x_{t+k,d} - x_{t+k,d}) / s_d .

Persistence (nothing changes) then comes near sqrt(2) once the state has decorrelated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamics.base import Dynamics
from dynamics.learned.base import LearnedDynamics
from dynamics.stochastic import StochasticDynamics
from dynamics.trajectories import Trajectory, windows

LEVELS = (0.5, 0.9, 0.95)


@dataclass(frozen=True, eq=False)
class PredictionErrors:
    """Errors of one predictor, each a row per horizon.

    Attributes:
        median: median over windows of the root mean square over dimensions, ``(H,)``.
        rmse: root mean square over windows and dimensions, ``(H,)``.
        per_dimension: root mean square over windows, ``(H, n)``.
        coverage: share of values inside the central interval of each level, ``(levels, H)``; None without intervals.
        coverage_per_dimension: the same by dimension, ``(levels, H, n)``; None without intervals.
        outside: share of windows whose prediction has left the logged range of the model's data, ``(H,)``; None if unknown.
        diverged: share of windows whose prediction is not finite, ``(H,)``; they are left out of the errors.
    """

    median: np.ndarray
    rmse: np.ndarray
    per_dimension: np.ndarray
    diverged: np.ndarray
    coverage: np.ndarray | None = None
    coverage_per_dimension: np.ndarray | None = None
    outside: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {k: None if v is None else v.tolist() for k, v in vars(self).items()}


@dataclass(frozen=True, eq=False)
class EvaluationWindows:
    """Held-out pieces ``xs (W, K+1, n)``, ``us (W, K, m)`` that all horizons share, and the scale ``(n,)`` of each dimension."""

    xs: Tensor
    us: Tensor
    horizons: tuple[int, ...]
    scale: Tensor
    angles: tuple[int, ...]

    @property
    def truth(self) -> Tensor:
        """States at the horizons, ``(W, H, n)``."""
        return self.xs[:, list(self.horizons)]

    def errors(self, predicted: Tensor) -> Tensor:
        """Normalized errors of predictions ``(..., W, H, n)``."""
        error = predicted - self.truth
        angles = list(self.angles)
        error[..., angles] = torch.remainder(error[..., angles] + torch.pi, 2 * torch.pi) - torch.pi
        return error / self.scale


def evaluation_windows(
    trajectories: Sequence[Trajectory],
    horizons: Sequence[int],
    *,
    angles: Sequence[int] = (),
    use: str = "auto",
    most: int = 500,
) -> EvaluationWindows:
    """Windows for :func:`evaluate_predictions`, at most about ``most``, evenly spread over the trajectories.

    Horizons longer than every trajectory are left out.

    Raises:
        ValueError: no horizon fits any trajectory.
    """
    longest = max(len(trajectory) for trajectory in trajectories)
    fitting = tuple(sorted(k for k in horizons if 1 <= k <= longest))
    if not fitting:
        raise ValueError(
            f"no horizon of {tuple(horizons)} fits a held-out trajectory, the longest has {longest} steps; pass horizons="
        )
    length = fitting[-1]
    available = sum(max(len(trajectory) - length + 1, 0) for trajectory in trajectories)
    found = windows(trajectories, length, stride=max(1, available // most), use=use)  # type: ignore[arg-type]
    xs = torch.from_numpy(np.ascontiguousarray(found.xs))
    logged = torch.cat([torch.from_numpy(np.array(_states(t, use))) for t in trajectories])
    wrapped = logged.clone()
    wrapped[:, list(angles)] = torch.remainder(logged[:, list(angles)] + torch.pi, 2 * torch.pi) - torch.pi
    scale = wrapped.std(0, correction=0)
    scale = torch.where(scale > 1e-9 * (1 + wrapped.abs().amax(0)), scale, torch.ones_like(scale))
    return EvaluationWindows(
        xs=xs,
        us=torch.from_numpy(np.ascontiguousarray(found.us)),
        horizons=fitting,
        scale=scale,
        angles=tuple(angles),
    )


@torch.no_grad()
def evaluate_predictions(
    model: Dynamics,
    held_out: EvaluationWindows,
    *,
    particles: int = 100,
    generator: torch.Generator | None = None,
    levels: Sequence[float] = LEVELS,
) -> PredictionErrors:
    """Open-loop errors of a model and, if it is stochastic, coverage of its intervals.

    Intervals are quantiles of sampled rollouts (TSinf with aleatoric noise).
    """
    xs = model.rollout(held_out.xs[:, 0], held_out.us)
    horizons = list(held_out.horizons)
    outside = coverage = None
    if isinstance(model, LearnedDynamics):
        left = model.outside_log(xs[:, 1:], held_out.us).cummax(1).values
        outside = left[:, [k - 1 for k in horizons]].double().mean(0).numpy()
    if isinstance(model, StochasticDynamics):
        generator = generator or torch.Generator().manual_seed(0)
        particles = -(-particles // model.num_members) * model.num_members
        sampled = model.sample_rollout(held_out.xs[:, 0], held_out.us, particles=particles, generator=generator)
        coverage = _coverage(held_out, sampled[..., horizons, :].movedim(1, 0), levels)
    return _summarize(held_out.errors(xs[:, horizons]), coverage, outside)


def persistence_errors(held_out: EvaluationWindows) -> PredictionErrors:
    """Errors of predicting that nothing changes."""
    return _summarize(held_out.errors(held_out.xs[:, :1].expand_as(held_out.truth).clone()), None, None)


def _summarize(errors: Tensor, coverage: np.ndarray | None, outside: np.ndarray | None) -> PredictionErrors:
    """Statistics of errors ``(W, H, n)`` over the finite ones."""
    finite = errors.isfinite().all(-1)
    squared = errors.square().masked_fill(~finite.unsqueeze(-1), float("nan"))
    per_dimension = squared.nanmean(0).sqrt()
    window = squared.mean(-1).sqrt()
    return PredictionErrors(
        median=window.nanmedian(0).values.numpy(),
        rmse=squared.mean(-1).nanmean(0).sqrt().numpy(),
        per_dimension=per_dimension.numpy(),
        diverged=1.0 - finite.double().mean(0).numpy(),
        coverage=None if coverage is None else coverage.mean(-1),
        coverage_per_dimension=coverage,
        outside=outside,
    )


def _coverage(held_out: EvaluationWindows, sampled: Tensor, levels: Sequence[float]) -> np.ndarray:
    """Share of windows whose truth lies in the central interval of the samples ``(P, W, H, n)``, ``(levels, H, n)``.

    Samples are taken as errors about the truth, so that angles compare on the circle; a non-finite sample counts as a miss.
    """
    errors = held_out.errors(sampled.clone())
    tails = torch.tensor([[0.5 - 0.5 * level, 0.5 + 0.5 * level] for level in levels], dtype=errors.dtype)
    quantiles = torch.quantile(errors, tails.flatten(), dim=0).unflatten(0, tails.shape)
    inside = (quantiles[:, 0] <= 0) & (quantiles[:, 1] >= 0)
    return inside.double().mean(1).numpy()


def _states(trajectory: Trajectory, use: str) -> np.ndarray:
    if use == "observations" or trajectory.states is None:
        return trajectory.observations
    return trajectory.states
