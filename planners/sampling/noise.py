r"""Noise in time: how the controls of a candidate depend on each other.

Every noise is Gaussian of unit variance at each knot; a planner scales it. White and colored noise have a knot at each step of
the plan. :class:`KnotNoise` has fewer, at fixed points of absolute time, and the controls are a spline through them: candidates
are smooth, there is less to search, and a plan that is read later or at another rate is the same function.
"""

import abc
import numbers
from dataclasses import dataclass

import torch
from torch import Tensor

from planners.splines import Degree, KnotGrid


@dataclass(frozen=True)
class Noise(abc.ABC):
    """Base of the noises."""

    def grid(self, time: float, dt: float, steps: int) -> KnotGrid:
        """The knots of a plan that begins at ``time`` [s] and has steps of dt [s]; one at each step by default."""
        return KnotGrid(time, dt, steps)

    @property
    def is_stepwise(self) -> bool:
        """Whether the knots are the controls of the steps themselves."""
        return type(self).grid is Noise.grid

    @abc.abstractmethod
    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
        """Noise of unit variance.

        Args:
            shape: ``(K, *rest)``, knots first; the entries of ``rest`` are independent.
            generator: source of randomness.
            like: gives dtype and device.
        """


@dataclass(frozen=True)
class WhiteNoise(Noise):
    """Independent numbers at each step."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
        """Standard normal numbers, drawn in single precision: on a CPU torch takes ten times as long for double."""
        return torch.randn(shape, generator=generator, dtype=torch.float32, device=like.device).to(like.dtype)


@dataclass(frozen=True)
class ColoredNoise(Noise):
    r"""Noise of power spectrum :math:`f^{-\beta}` (Timmer and Koenig 1995), correlated over the steps of a plan.

    Attributes:
        exponent: beta; 0 is white, 2 and more suit slow systems, 0.25 legged gaits.

    Raises:
        ValueError: the exponent is negative.
    """

    exponent: float = 2.0

    def __post_init__(self):
        if not 0 <= self.exponent < float("inf"):
            raise ValueError(f"exponent must be a number of at least 0, got {self.exponent}")

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
        """White noise, filtered in time."""
        white = WhiteNoise().draw(shape, generator, like)
        length = shape[0]
        if length == 1 or self.exponent == 0:
            return white
        frequencies = torch.fft.rfftfreq(length, dtype=like.dtype, device=like.device)
        frequencies[0] = frequencies[1]  # a constant offset has as much power as the slowest wave
        frequencies = frequencies / frequencies[0]  # so that no exponent overflows
        impulses = torch.eye(length, dtype=like.dtype, device=like.device)
        spectra = torch.fft.rfft(impulses) * frequencies ** (-self.exponent / 2)
        filters = torch.fft.irfft(spectra, n=length)  # row i is the answer to an impulse at i: the same, shifted
        filters = filters / torch.linalg.vector_norm(filters[0])
        return (filters.T @ white.reshape(length, -1)).reshape(shape)


@dataclass(frozen=True)
class KnotNoise(Noise):
    """Independent numbers at knots, which a spline joins.

    Knots lie at multiples of ``horizon / knots`` [s] of absolute time, so that plans of the same duration share them, whatever
    their steps and whenever they begin.

    Attributes:
        knots: number of intervals between knots over one horizon.
        degree: 0 (held until the next knot), 1 (straight lines) or 3 (cubic, Catmull-Rom).

    Raises:
        ValueError: a field is out of range.
    """

    knots: int = 5
    degree: Degree = 1

    def __post_init__(self):
        if not (isinstance(self.knots, numbers.Integral) and self.knots >= 1):
            raise ValueError(f"knots must be an integer of at least 1, got {self.knots!r}")
        if self.degree not in (0, 1, 3):
            raise ValueError(f"degree must be 0 (held), 1 (linear) or 3 (cubic), got {self.degree!r}")

    def grid(self, time: float, dt: float, steps: int) -> KnotGrid:
        """The knots at fixed times that the plan depends on."""
        return KnotGrid.covering(time, time + (steps - 1) * dt, steps * dt / self.knots, self.degree)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
        """Standard normal numbers, one for each knot."""
        return WhiteNoise().draw(shape, generator, like)
