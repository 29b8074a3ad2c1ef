"""What swing-up tasks share: a plant on either backend, and what counts as upright."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dynamics import Dynamics, MujocoDynamics


def on_backend(system: Dynamics, mjcf: Callable[[], str], backend: str, *, frame_skip: int = 1) -> Dynamics:
    """The plant of a task: the torch system itself, or its MuJoCo twin.

    Raises:
        ValueError: the backend is unknown.
    """
    if backend == "torch":
        return system
    if backend == "mujoco":
        return MujocoDynamics(mjcf(), frame_skip=frame_skip)
    raise ValueError(f"backend must be 'mujoco' or 'torch', got {backend!r}")


def upright(angles: Tensor, *, tolerance: float = 0.2) -> Tensor:
    """Whether all angles ``(*batch, K)`` are within a tolerance of zero on the circle [rad]."""
    return (torch.cos(angles) >= math.cos(tolerance)).all(-1)
