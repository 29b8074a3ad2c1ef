r"""How well a model predicts k steps ahead, and whether its intervals can be believed.

From each window of a held-out trajectory the model predicts open loop under the logged controls. The error of dimension d is
normalized by the standard deviation of that dimension over the held-out data, angles compared on the circle and spread about
their circular mean:

.. math:: e_{k,d} = (\hat x_{t+k,d} - x_{t+k,d}) / s_d .

Persistence (nothing changes) then comes near sqrt(2) once the state has decorrelated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dynamics.base import Dynamics
from dynamics.learned.base import LearnedDynamics, is_constant, wrap
from dynamics.stochastic import StochasticDynamics
from dynamics.trajectories import Trajectory, check_compatible, state_source, windows

LEVELS = (0.5, 0.9, 0.95)

CHUNK = 100
"""Windows whose particles are in memory at one time."""


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
        """Plain lists for JSON, which has no NaN: None where every window has diverged."""
        return {name: None if values is None else _json_values(values) for name, values in vars(self).items()}


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
        return wrap(predicted - self.truth, self.angles) / self.scale

    def to(self, device: torch.device) -> "EvaluationWindows":
        """The windows on a device, that of the model."""
        return replace(self, xs=self.xs.to(device), us=self.us.to(device), scale=self.scale.to(device))


def evaluation_windows(
    trajectories: Sequence[Trajectory],
    horizons: Sequence[int],
    *,
    angles: Sequence[int] = (),
    use: Literal["auto", "states", "observations"] = "auto",
    most: int = 500,
) -> EvaluationWindows:
    """Windows for :func:`evaluate_predictions`, at most ``most``, evenly spread over the trajectories.

    Horizons longer than every trajectory are left out.

    Raises:
        ValueError: a horizon is below 1, none fits any trajectory, or the trajectories do not go together.
    """
    if any(k < 1 for k in horizons):
        raise ValueError(f"horizons are numbers of steps, at least 1, got {tuple(horizons)}")
    check_compatible(trajectories)
    longest = max(len(trajectory) for trajectory in trajectories)
    fitting = tuple(sorted({k for k in horizons if k <= longest}))
    if not fitting:
        raise ValueError(
            f"no horizon of {tuple(horizons)} fits a held-out trajectory, the longest has {longest} steps; pass horizons="
        )
    group, length = state_source(trajectories, use), fitting[-1]
    available = sum(max(len(trajectory) - length + 1, 0) for trajectory in trajectories)
    found = windows(trajectories, length, stride=max(1, available // most), use=use)
    # the stride leaves up to twice as many, and more if there are many short trajectories
    chosen = np.linspace(0, len(found.xs) - 1, min(most, len(found.xs))).astype(int)
    return EvaluationWindows(
        xs=torch.from_numpy(found.xs[chosen]),
        us=torch.from_numpy(found.us[chosen]),
        horizons=fitting,
        scale=_spread(torch.from_numpy(np.concatenate([getattr(t, group) for t in trajectories])), angles),
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
        outside = left[:, [k - 1 for k in horizons]].double().mean(0).cpu().numpy()
    if isinstance(model, StochasticDynamics):
        generator = generator or torch.Generator(device=held_out.xs.device).manual_seed(0)
        particles = -(-particles // model.num_members) * model.num_members
        inside = []
        for xs_part, us_part in zip(held_out.xs.split(CHUNK), held_out.us.split(CHUNK), strict=True):
            part = replace(held_out, xs=xs_part, us=us_part)
            sampled = model.sample_rollout(part.xs[:, 0], part.us, particles=particles, generator=generator)
            inside.append(_inside(part, sampled[..., horizons, :].movedim(1, 0), levels))
        coverage = torch.cat(inside, dim=1).double().mean(1).cpu().numpy()
    return _summarize(held_out.errors(xs[:, horizons]), coverage, outside)


def persistence_errors(held_out: EvaluationWindows) -> PredictionErrors:
    """Errors of predicting that nothing changes."""
    return _summarize(held_out.errors(held_out.xs[:, :1]), None, None)


def _summarize(errors: Tensor, coverage: np.ndarray | None, outside: np.ndarray | None) -> PredictionErrors:
    """Statistics of errors ``(W, H, n)`` over the finite ones."""
    errors = errors.cpu()
    finite = errors.isfinite().all(-1)
    squared = errors.square().masked_fill(~finite.unsqueeze(-1), float("nan"))
    return PredictionErrors(
        median=squared.mean(-1).sqrt().nanmedian(0).values.numpy(),
        rmse=squared.mean(-1).nanmean(0).sqrt().numpy(),
        per_dimension=squared.nanmean(0).sqrt().numpy(),
        diverged=(~finite).double().mean(0).numpy(),
        coverage=None if coverage is None else coverage.mean(-1),
        coverage_per_dimension=coverage,
        outside=outside,
    )


def _inside(held_out: EvaluationWindows, sampled: Tensor, levels: Sequence[float]) -> Tensor:
    """Whether the truth lies in the central interval of the samples ``(P, W, H, n)``, ``(levels, W, H, n)``.

    Samples are taken as errors about the truth, so that angles compare on the circle; a non-finite sample counts as a miss.
    The quantiles are at ranks p (P + 1), between which another sample of the same distribution falls with the probability
    of the level; the usual ones of torch and numpy leave intervals 2 % too narrow at a hundred samples.
    """
    errors = held_out.errors(sampled)
    tails = torch.tensor([[0.5 - 0.5 * level, 0.5 + 0.5 * level] for level in levels]).to(errors)
    size = len(errors)
    ranks = ((tails * (size + 1) - 1) / max(size - 1, 1)).clamp(0.0, 1.0)
    quantiles = torch.quantile(errors, ranks.flatten(), dim=0).unflatten(0, tails.shape)
    return (quantiles[:, 0] <= 0) & (quantiles[:, 1] >= 0)


def _json_values(values: np.ndarray) -> list[Any]:
    nested = values.astype(object)
    nested[~np.isfinite(values)] = None
    return nested.tolist()


def _spread(values: Tensor, angles: Sequence[int]) -> Tensor:
    """Standard deviation of each column of ``(N, n)``, of an angle about its circular mean; 1 where nothing changes."""
    center = values.mean(0)
    for i in angles:
        center[i] = torch.atan2(values[:, i].sin().mean(), values[:, i].cos().mean())
    scale = wrap(values - center, angles).square().mean(0).sqrt()
    return torch.where(is_constant(values), torch.ones_like(scale), scale)
