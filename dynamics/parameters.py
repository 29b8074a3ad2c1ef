"""Named physical parameters: value, bounds, transform and unit, shared or one per world."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PhysicalParameter:
    """What is known about one named physical parameter.

    Attributes:
        nominal: value of shape ``s``, a float for a scalar.
        unit: SI unit, ``"1"`` if dimensionless.
        bounds: lower and upper bound, infinite where there is none.
        transform: how an optimizer sees the value: ``"identity"``; ``"log"`` for values above 0; ``"logit"`` between two
            finite bounds.
        description: one line.

    Raises:
        ValueError: the bounds are inverted, do not contain the nominal value, or do not fit the transform; or the
            nominal value lies on a bound that the transform sends to infinity.
    """

    nominal: float | Tensor
    unit: str = "1"
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    transform: Literal["identity", "log", "logit"] = "identity"
    description: str = ""

    def __post_init__(self):
        lower, upper = self.bounds
        if not lower < upper:
            raise ValueError(f"parameter bounds must satisfy lower < upper, got {self.bounds}")
        if self.transform not in ("identity", "log", "logit"):
            raise ValueError(f"transform must be 'identity', 'log' or 'logit', got {self.transform!r}")
        if self.transform == "log" and self.bounds != (0.0, float("inf")):
            raise ValueError(
                f"transform 'log' keeps values above 0, not within {self.bounds}; use bounds (0, inf) or 'logit'"
            )
        if self.transform == "logit" and not (lower > float("-inf") and upper < float("inf")):
            raise ValueError(f"transform 'logit' needs two finite bounds, got {self.bounds}")
        self.check("nominal", self.tensor())
        if not bool(self.to_unconstrained(self.tensor()).isfinite().all()):
            raise ValueError(
                f"transform {self.transform!r} sends the nominal value {self.nominal} to infinity: move it off the bounds "
                f"{self.bounds}, or use 'identity'"
            )

    @property
    def shape(self) -> torch.Size:
        """The shape ``s`` of a shared value."""
        return torch.Size(np.shape(self.nominal))

    def tensor(self) -> Tensor:
        """The nominal value as a float64 tensor of shape ``s``, or the tensor itself if it requires a gradient."""
        if isinstance(self.nominal, Tensor) and self.nominal.requires_grad:
            return self.nominal
        return torch.as_tensor(self.nominal, dtype=torch.float64).detach().clone()

    def check(self, name: str, value: Tensor) -> None:
        """Raise ValueError if a value is not finite or lies outside the bounds."""
        lower, upper = self.bounds
        if not bool(((value >= lower) & (value <= upper) & value.isfinite()).all()):
            raise ValueError(f"{name} must be finite and within [{lower}, {upper}] {self.unit}, got {value.tolist()}")

    def to_unconstrained(self, value: Tensor) -> Tensor:
        """The optimizer's coordinate of a value."""
        lower, upper = self.bounds
        if self.transform == "log":
            return value.log()
        if self.transform == "logit":
            return torch.logit((value - lower) / (upper - lower))
        return value

    def from_unconstrained(self, coordinate: Tensor) -> Tensor:
        """Inverse of :meth:`to_unconstrained`."""
        lower, upper = self.bounds
        if self.transform == "log":
            return coordinate.exp()
        if self.transform == "logit":
            return lower + (upper - lower) * torch.sigmoid(coordinate)
        return coordinate


def value_like(name: str, value: Tensor, ndim: int, x: Tensor) -> Tensor:
    """A parameter value shaped and cast so that it broadcasts against per-state quantities of ``x``.

    Args:
        name: for the error message.
        value: shared ``s`` or per world ``(W, *s)``.
        ndim: number of axes of ``s``.
        x: states ``(*batch, n)``; a world axis of the value is aligned with the first batch axis.

    Returns:
        ``s``, or ``(W, 1, ..., 1, *s)`` with one axis for each axis of ``batch``.

    Raises:
        ValueError: the value is per world and x has no matching leading axis.
    """
    value = value.to(device=x.device, dtype=x.dtype)
    if value.ndim == ndim:
        return value
    worlds = value.shape[0]
    if x.ndim < 2 or x.shape[0] != worlds:
        raise ValueError(
            f"parameter {name!r} has one value for each of {worlds} worlds, so the first axis of x must be {worlds}, "
            f"got x of shape {tuple(x.shape)}; add it with x.expand({worlds}, *x.shape)"
        )
    return value.reshape(worlds, *[1] * (x.ndim - 2), *value.shape[1:])


class ParameterView(SimpleNamespace):
    """Parameter values by attribute, broadcastable against the state they were asked for."""

    def __getattr__(self, name: str) -> Tensor:
        raise AttributeError(f"there is no parameter {name!r}; the parameters are: {', '.join(vars(self)) or 'none'}")
