"""Demonstrations cut into pieces, as long as a plan is.

A plan of T steps from where a demonstration was at some time is to be what was done in the T steps after it. Pieces that begin at
several times show more initial states, and what is learned from them is a cost for planning in receding horizon.
"""

from collections.abc import Sequence
from typing import Any

from dynamics import Trajectory
from mbrl.training.checking import check_numbers


def check_pieces(settings: Any) -> None:
    """Raise ValueError unless ``horizon`` and ``stride`` of settings are None or counts, and the stride is one of pieces."""
    check_numbers(settings, counts=[name for name in ("horizon", "stride") if getattr(settings, name) is not None])
    if settings.stride is not None and settings.horizon is None:
        raise ValueError(f"stride={settings.stride} is that of pieces of horizon steps; set horizon, too")


def cut(demonstrations: Sequence[Trajectory], steps: int, stride: int | None = None) -> list[Trajectory]:
    """Pieces of one length that begin every so many steps; what is left at an end is not used.

    Args:
        demonstrations: trajectories, each of at least so many steps.
        steps: of a piece.
        stride: from the beginning of a piece to that of the next; as many as it has, by default.

    Raises:
        ValueError: a number is less than 1, or a demonstration is shorter than a piece.
    """
    return [d.slice(t, t + steps) for d, t in beginnings(demonstrations, steps, stride)]


def beginnings(
    demonstrations: Sequence[Trajectory], steps: int, stride: int | None = None
) -> list[tuple[Trajectory, int]]:
    """Of each piece that :func:`cut` makes of the same arguments, the demonstration and the step of it at which it begins."""
    stride = steps if stride is None else stride
    if steps < 1 or stride < 1:
        raise ValueError(f"pieces need at least one step and a stride of at least 1, got {steps} and {stride}")
    shortest = min((d.num_steps for d in demonstrations), default=steps)
    if shortest < steps:
        raise ValueError(
            f"a demonstration has {shortest} steps, and cannot be cut into pieces of {steps}; choose horizon={max(shortest, 1)}, "
            "or leave it out"
        )
    return [(d, t) for d in demonstrations for t in range(0, d.num_steps - steps + 1, stride)]
