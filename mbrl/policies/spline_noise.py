"""Smooth random controls, to excite a system without an expert."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mbrl.policies.limits import ControlLimits, finite_limits


@dataclass(frozen=True, eq=False)
class SplineNoiseMemory:
    """Where the spline stands.

    Attributes:
        impulses: ``(5, batch, m)``; their differences are the four knots about the present interval.
        step: step within the interval.
        generator: source of further impulses.
    """

    impulses: Tensor
    step: int
    generator: torch.Generator


@dataclass(frozen=True, eq=False)
class SplineNoise:
    """Zero-mean controls along a cubic (Catmull-Rom) spline through random knots, whatever the state.

    Knots are differences of independent Gaussians: what one pushes, the next takes back, so that the impulse stays bounded
    over time and a cart is shaken rather than driven away.

    Attributes:
        control_limits: (lower, upper), numbers or ``(m,)``; the noise is about their middle and clipped to them.
        control_dim: m.
        interval: steps between knots.
        scale: standard deviation of the knots in half widths of the limits.

    Raises:
        ValueError: interval or scale is not positive, or the limits are not finite, inverted, or not m each.
    """

    acts_on: ClassVar[str] = "observation"

    control_limits: ControlLimits
    control_dim: int = 1
    interval: int = 5
    scale: float = 0.5

    def __post_init__(self):
        if self.interval < 1 or not self.scale > 0:
            raise ValueError(f"need interval >= 1 and scale > 0, got {self.interval} and {self.scale}")
        finite_limits(self.control_limits, self.control_dim)

    def init(self, batch: int = 1, *, generator: torch.Generator | None = None) -> SplineNoiseMemory:
        """Draw the first knots for a batch of episodes."""
        generator = generator.clone_state() if generator else torch.Generator().manual_seed(0)
        impulses = torch.randn(5, batch, self.control_dim, generator=generator, dtype=torch.float64)
        return SplineNoiseMemory(impulses, 0, generator)

    def act(
        self, y: Tensor, memory: SplineNoiseMemory, *, deterministic: bool = True
    ) -> tuple[Tensor, SplineNoiseMemory]:
        """Controls ``(batch, m)`` and the next memory; y gives the batch's dtype only."""
        lower, upper = finite_limits(self.control_limits, self.control_dim)
        s = memory.step / self.interval
        weights = 0.5 * torch.tensor(
            [-s + 2 * s**2 - s**3, 2 - 5 * s**2 + 3 * s**3, s + 4 * s**2 - 3 * s**3, s**3 - s**2], dtype=torch.float64
        )
        knots = memory.impulses.diff(dim=0) / 2**0.5
        value = self.scale * (weights[:, None, None] * knots).sum(0)
        u = 0.5 * (lower + upper) + 0.5 * (upper - lower) * value
        u = torch.minimum(torch.maximum(u, lower), upper)
        return u.to(y), self._next(memory)

    def _next(self, memory: SplineNoiseMemory) -> SplineNoiseMemory:
        if memory.step + 1 < self.interval:
            return SplineNoiseMemory(memory.impulses, memory.step + 1, memory.generator)
        generator = memory.generator.clone_state()
        impulse = torch.randn(1, *memory.impulses.shape[1:], generator=generator, dtype=torch.float64)
        return SplineNoiseMemory(torch.cat([memory.impulses[1:], impulse]), 0, generator)
