"""What counts as upright, for the swing-up tasks."""

import math

import torch
from torch import Tensor


def upright(angles: Tensor, *, tolerance: float = 0.2) -> Tensor:
    """Whether all angles ``(*batch, K)`` are within a tolerance of zero on the circle [rad]."""
    return (torch.cos(angles) >= math.cos(tolerance)).all(-1)
