"""Controls drawn anew at every step, the plainest excitation and the baseline that everything has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class UniformNoise:
    """Independent controls, uniform between the limits, whatever the state.

    At small time steps they average out and move a system little; :class:`SplineNoise` goes further.

    Attributes:
        control_limits: (lower, upper), numbers or ``(m,)``.
        control_dim: m.

    Raises:
        ValueError: the limits are not finite, inverted, or not m each.
    """

    acts_on: ClassVar[str] = "observation"

    control_limits: tuple[float | Tensor, float | Tensor]
    control_dim: int = 1

    def __post_init__(self):
        lower, upper = self._limits()
        fit = all(limit.shape in ((), (1,), (self.control_dim,)) for limit in (lower, upper))
        if not (fit and bool((lower.isfinite() & upper.isfinite() & (lower <= upper)).all())):
            raise ValueError(
                f"control_limits must be finite with lower <= upper for control_dim={self.control_dim}, got "
                f"{self.control_limits}"
            )

    def _limits(self) -> tuple[Tensor, Tensor]:
        lower, upper = (torch.as_tensor(limit, dtype=torch.float64) for limit in self.control_limits)
        return lower, upper

    def init(self, batch: int = 1, *, generator: torch.Generator | None = None) -> torch.Generator:
        """The source of the controls."""
        return generator.clone_state() if generator else torch.Generator().manual_seed(0)

    def act(self, y: Tensor, memory: torch.Generator, *, deterministic: bool = True) -> tuple[Tensor, torch.Generator]:
        """Controls ``(batch, m)`` and the next source; y gives the batch's size and dtype only."""
        lower, upper = self._limits()
        generator = memory.clone_state()
        share = torch.rand(len(y), self.control_dim, generator=generator, dtype=torch.float64)
        return (lower + (upper - lower) * share).to(y), generator
