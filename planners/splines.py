r"""Controls as functions of absolute time: splines through knots that are evenly spaced in time.

.. math:: u(\tau) = \sum_k w_k(\tau) \, \theta_k, \qquad \tau_k = \tau_0 + k \, \Delta

with weights of degree 0 (each knot is held until the next), 1 (straight lines) or 3 (Catmull and Rom 1974: cubic, through the
knots, with continuous slope). The first and the last knot are held outside. Because knots belong to points in time and not to
steps of a plan, a plan that is read a fraction of a step later is still the same function.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Degree = Literal[0, 1, 3]


def _rounding(time: float, interval: float, dtype: torch.dtype) -> float:
    """The share of an interval by which a time may miss a knot and still be the knot's: more for large times than rounding.

    Raises:
        ValueError: numbers of this dtype cannot tell such times apart.
    """
    epsilon = torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps
    rounding = max(1e-6, 8.0 * epsilon * time / interval)
    if rounding > 0.1:
        raise ValueError(
            f"times up to {time:g} s as {dtype} are too coarse for steps of {interval:g} s; give them in double precision, or "
            "count from a later start"
        )
    return rounding


@dataclass(frozen=True)
class KnotGrid:
    """Knots that are evenly spaced in time.

    Attributes:
        start: time of the first knot [s].
        interval: time between knots [s].
        count: K.
        degree: 0, 1 or 3.

    Raises:
        ValueError: a field is out of range.
    """

    start: float
    interval: float
    count: int
    degree: Degree = 0

    def __post_init__(self):
        if self.degree not in (0, 1, 3):
            raise ValueError(f"degree must be 0 (held), 1 (linear) or 3 (cubic), got {self.degree!r}")
        if not (0 < self.interval < math.inf and math.isfinite(self.start) and self.count >= 1):
            raise ValueError(
                f"need a finite start, interval > 0 and count >= 1, got {self.start}, {self.interval} and {self.count}"
            )

    @staticmethod
    def covering(first: float, last: float, interval: float, degree: Degree) -> "KnotGrid":
        """The knots at multiples of the interval that the spline between two times [s] depends on.

        Two grids of the same interval agree on the knots that they share, whatever times they cover.
        """
        rounding = _rounding(max(abs(first), abs(last)), interval, torch.float64)
        begin = math.floor(first / interval + rounding)
        end = math.floor(last / interval + rounding) if degree == 0 else math.ceil(last / interval - rounding)
        if degree == 3:
            begin -= 1  # the slope at the first knot in use depends on the one before
        return KnotGrid(begin * interval, interval, max(end - begin, 0) + 1, degree)

    def times(self) -> Tensor:
        """Times of the knots [s], ``(K,)``, float64."""
        return self.start + self.interval * torch.arange(self.count, dtype=torch.float64)

    def held(self, times: Tensor) -> Tensor:
        """Index of the last knot at or before times ``(L,)`` [s], the ends held; ``(L,)``."""
        return (self._position(times) + self._rounding(times)).floor().long()

    def _rounding(self, times: Tensor) -> float:
        largest = float(times.abs().max()) if times.numel() else 0.0
        return _rounding(max(largest, abs(self.start)), self.interval, times.dtype)

    def _position(self, times: Tensor) -> Tensor:
        return ((times.double() - self.start) / self.interval).clamp(0.0, self.count - 1.0)

    def weights(self, times: Tensor) -> Tensor:
        """Weights of the knots at times ``(L,)`` [s]: ``(L, K)``, float64; each row sums to 1."""
        index = self.held(times)
        s = self._position(times) - index
        s = s.masked_fill(s.abs() <= self._rounding(times), 0.0)
        if self.degree == 0:
            parts = {0: torch.ones_like(s)}
        elif self.degree == 1:
            parts = {0: 1.0 - s, 1: s}
        else:
            parts = {
                -1: 0.5 * (-s + 2 * s**2 - s**3),
                0: 0.5 * (2 - 5 * s**2 + 3 * s**3),
                1: 0.5 * (s + 4 * s**2 - 3 * s**3),
                2: 0.5 * (s**3 - s**2),
            }
        weights = torch.zeros(len(times), self.count, dtype=torch.float64, device=times.device)
        for offset, part in parts.items():
            knot = (index + offset).clamp(0, self.count - 1)
            weights.scatter_add_(1, knot.unsqueeze(-1), part.unsqueeze(-1))
        return weights


@dataclass(frozen=True, eq=False)
class ControlSpline:
    """A control signal through knots, called with times.

    Attributes:
        values: controls at the knots, ``(*batch, K, m)``.
        start: time of the first knot [s].
        interval: time between knots [s].
        degree: 0 (held), 1 (linear) or 3 (Catmull-Rom).

    Raises:
        ValueError: a field is out of range.

    Example:
        >>> import torch
        >>> from planners import ControlSpline
        >>> ramp = ControlSpline(torch.tensor([[0.0], [1.0]]), start=2.0, interval=0.5, degree=1)
        >>> ramp(torch.tensor([2.0, 2.25, 9.0])).squeeze(-1).tolist()
        [0.0, 0.5, 1.0]
    """

    values: Tensor
    start: float
    interval: float
    degree: Degree = 0

    def __post_init__(self):
        if not isinstance(self.values, Tensor) or self.values.ndim < 2 or not self.values.shape[-2]:
            came = tuple(self.values.shape) if isinstance(self.values, Tensor) else type(self.values).__name__
            raise ValueError(f"values must be a tensor of shape (*batch, K, m) with K >= 1, got {came}")
        _ = self.grid

    @property
    def grid(self) -> KnotGrid:
        """Where the knots are."""
        return KnotGrid(self.start, self.interval, self.values.shape[-2], self.degree)

    def __call__(self, times: Tensor) -> Tensor:
        """Controls ``(*batch, L, m)`` at times ``(L,)`` [s]; at the time of a knot exactly its value."""
        return self.grid.weights(times.to(self.values.device)).to(self.values) @ self.values
