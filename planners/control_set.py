r"""The controls that a problem allows over a plan.

.. math::
    \mathcal U = \{ u_{0:T-1} : \underline u_t \le u_t \le \overline u_t, \;
    \Delta t \, \underline r_t \le u_t - u_{t-1} \le \Delta t \, \overline r_t, \; u_t \in \{ v_1, \dots, v_k \} \}
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.problem import Limits, Problem


@dataclass(frozen=True, eq=False)
class ControlSet:
    """Limits, rate limits and allowed values of the controls of a batch of plans.

    Attributes:
        lower: lower limit, ``(*batch, T, m)``.
        upper: upper limit, ``(*batch, T, m)``.
        values: the allowed controls ``(k, m)``, or None.
        fall: smallest change from one step to the next, ``(*batch, T, m)``, or None without rate limits.
        rise: largest change, likewise.
        previous: the control before the first step, ``(*batch, m)``; None leaves the first step free of rate limits.
    """

    lower: Tensor
    upper: Tensor
    values: Tensor | None = None
    fall: Tensor | None = None
    rise: Tensor | None = None
    previous: Tensor | None = None

    @staticmethod
    def of(problem: Problem, like: Tensor, steps: int, previous: Tensor | None = None) -> "ControlSet":
        """The controls that a problem allows.

        Args:
            problem: its limits.
            like: ``(*batch, n)``; gives batch, dtype and device.
            steps: T.
            previous: control before the first step, ``(*batch, m)``.

        Raises:
            ValueError: limits or previous do not fit the batch.
        """
        batch, m = tuple(like.shape[:-1]), problem.dynamics.control_dim
        shape = (*batch, steps, m)
        lower, upper = _limits("control_limits", problem.control_limits, like, shape)
        values = problem.control_values
        if values is not None:
            values = values.to(like)
            lower, upper = torch.maximum(lower, values.amin(0)), torch.minimum(upper, values.amax(0))
        fall = rise = None
        if problem.rate_limits is not None:
            rates = _limits("rate_limits", problem.rate_limits, like, shape)
            fall, rise = (problem.dynamics.dt * rate for rate in rates)
            lower, upper = _within_reach(lower, upper, fall, rise)
        if previous is not None:
            previous = expanded("previous_control", previous.to(like), (*batch, m))
        return ControlSet(lower, upper, values, fall, rise, previous)

    def first(self) -> "ControlSet":
        """What is allowed at the first step, T = 1."""
        lower, upper, fall, rise = (
            None if v is None else v[..., :1, :] for v in (self.lower, self.upper, self.fall, self.rise)
        )
        return replace(self, lower=lower, upper=upper, fall=fall, rise=rise)

    @property
    def half_range(self) -> Tensor:
        """Half the width of the limits, ``(*batch, T, m)``."""
        return 0.5 * (self.upper - self.lower)

    @property
    def is_box(self) -> bool:
        """Whether there are limits and nothing else."""
        return self.values is None and self.rise is None

    def admissible(self, us: Tensor) -> Tensor:
        """The nearest allowed controls, step by step from the first on.

        Where no allowed value is within reach of the rate limits, the control stays at the value nearest to the one before.

        Args:
            us: controls ``(*batch, T, m)``, or candidates ``(*batch, samples, T, m)``.
        """
        lower, upper = self._beside(us, self.lower), self._beside(us, self.upper)
        us = us.clamp(lower, upper)
        if self.is_box:
            return us
        values, scale = self.values, self._beside(us, self.half_range)
        if self.rise is None or self.fall is None:
            return us if values is None else _nearest(values, us, scale)
        fall, rise = self._beside(us, self.fall), self._beside(us, self.rise)
        previous = self.previous
        if previous is not None and us.ndim > self.lower.ndim:
            previous = previous.unsqueeze(-2)
        steps = []
        for k in range(us.shape[-2]):
            u = us[..., k, :]
            if previous is None:  # nothing to count from
                previous = u if values is None else _nearest(values, u, scale[..., k, :])
            else:
                low, high = previous + fall[..., k, :], previous + rise[..., k, :]
                u = u.clamp(low, high).clamp(lower[..., k, :], upper[..., k, :])
                previous = u if values is None else _nearest_within(values, u, previous, low, high, scale[..., k, :])
            steps.append(previous)
        return torch.stack(steps, dim=-2)

    def in_conflict(self, us: Tensor) -> Tensor:
        """Where controls ``(*batch, T, m)`` break the rate limits, because the control before does not let them keep both."""
        if self.rise is None or self.fall is None or self.previous is None:
            return torch.zeros(us.shape[:-2], dtype=torch.bool, device=us.device)
        change = torch.cat([self.previous.unsqueeze(-2), us], dim=-2).diff(dim=-2)
        broken = (change > _loosened(self.rise, 1.0)) | (change < _loosened(self.fall, -1.0))
        return broken.any(-1).any(-1)

    def _beside(self, us: Tensor, limit: Tensor) -> Tensor:
        """A limit ``(*batch, T, m)`` with an axis for candidates where us has one."""
        return limit if us.ndim == limit.ndim else limit.unsqueeze(-3)


def _nearest(values: Tensor, u: Tensor, scale: Tensor, within: Tensor | None = None) -> Tensor:
    """The value of ``(k, m)`` nearest to u ``(..., m)``, of those ``within`` ``(..., k)``; differences count in ``scale``."""
    unit = torch.where(scale > 0, scale, torch.ones_like(scale)).unsqueeze(-2)
    distance = ((u.unsqueeze(-2) - values) / unit).square().sum(-1)
    if within is not None:
        distance = distance.masked_fill(~within, math.inf)
    return values[distance.argmin(-1)]


def _nearest_within(values: Tensor, u: Tensor, previous: Tensor, low: Tensor, high: Tensor, scale: Tensor) -> Tensor:
    """The value between low and high that is nearest to u; the one nearest to the previous where there is none."""
    low, high = _loosened(low, -1.0).unsqueeze(-2), _loosened(high, 1.0).unsqueeze(-2)
    within = ((values >= low) & (values <= high)).all(-1)
    nearest = _nearest(values, u, scale, within)
    return torch.where(within.any(-1, keepdim=True), nearest, _nearest(values, previous, scale))


def _loosened(bound: Tensor, sign: float) -> Tensor:
    """A bound moved outwards by the rounding of values and rates in single precision."""
    return bound + sign * 1e-6 * (1.0 + bound.abs())


def _within_reach(lower: Tensor, upper: Tensor, fall: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
    """Limits ``(*batch, T, m)`` narrowed to the controls from which those of all later steps can be reached.

    Raises:
        ValueError: there are none.
    """
    low, high = [lower[..., -1, :]], [upper[..., -1, :]]
    for k in range(lower.shape[-2] - 2, -1, -1):
        low.append(torch.maximum(lower[..., k, :], low[-1] - rise[..., k + 1, :]))
        high.append(torch.minimum(upper[..., k, :], high[-1] - fall[..., k + 1, :]))
    lower, upper = torch.stack(low[::-1], dim=-2), torch.stack(high[::-1], dim=-2)
    empty = (lower > _loosened(upper, 1.0)).nonzero()
    if len(empty):
        raise ValueError(
            f"control_limits and rate_limits leave no control at step {int(empty[0][-2])}: whatever it is, later limits are out "
            "of reach; widen one of them"
        )
    return lower, upper


def expanded(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A value broadcast to ``(*batch, T, m)``, or a ValueError that names it."""
    try:
        return value.expand(shape)
    except RuntimeError:
        axes = "(*batch, T, m)" if name != "previous_control" else "(*batch, m)"
        raise ValueError(f"{name} must broadcast to {axes} = {tuple(shape)}, got {tuple(value.shape)}") from None


def _limits(name: str, limits: Limits | None, like: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    pair = (-math.inf, math.inf) if limits is None else limits
    return [expanded(name, torch.as_tensor(limit, dtype=like.dtype, device=like.device), shape) for limit in pair]
