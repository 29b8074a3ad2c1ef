"""The control limits of actors that draw between them."""

import torch
from torch import Tensor

ControlLimits = tuple[float | Tensor, float | Tensor]


def finite_limits(control_limits: ControlLimits, control_dim: int) -> tuple[Tensor, Tensor]:
    """Lower and upper limit, ``()``, ``(1,)`` or ``(m,)`` each, float64.

    Raises:
        ValueError: they are not finite, inverted, or not m each.
    """
    lower, upper = (torch.as_tensor(limit, dtype=torch.float64) for limit in control_limits)
    fit = all(limit.shape in ((), (1,), (control_dim,)) for limit in (lower, upper))
    if not (fit and bool((lower.isfinite() & upper.isfinite() & (lower <= upper)).all())):
        raise ValueError(
            f"control_limits must be finite with lower <= upper for control_dim={control_dim}, got {control_limits}"
        )
    return lower, upper
