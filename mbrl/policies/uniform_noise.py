"""Controls drawn anew at every step, the plainest excitation and the baseline that everything has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mbrl.policies.limits import ControlLimits, finite_limits


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

    control_limits: ControlLimits
    control_dim: int = 1

    def __post_init__(self):
        finite_limits(self.control_limits, self.control_dim)

    def init(self, batch: int = 1, *, generator: torch.Generator | None = None) -> torch.Generator:
        """The source of the controls."""
        return generator.clone_state() if generator else torch.Generator().manual_seed(0)

    def act(self, y: Tensor, memory: torch.Generator, *, deterministic: bool = True) -> tuple[Tensor, torch.Generator]:
        """Controls ``(batch, m)`` and the next source; y gives the batch's size and dtype only."""
        lower, upper = finite_limits(self.control_limits, self.control_dim)
        generator = memory.clone_state()
        share = torch.rand(len(y), self.control_dim, generator=generator, dtype=torch.float64)
        return (lower + (upper - lower) * share).to(y), generator
