"""Tasks with finitely many controls."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mbrl.tasks.base import Task


def discretized(
    task: Task, bins: int | Sequence[int] | None = None, *, values: Tensor | Sequence[Sequence[float]] | None = None
) -> Task:
    """A task with finitely many of its controls.

    Its problem has ``control_values``, which a planner honors or refuses; its environments have ``Discrete`` actions, vectors of
    them ``MultiDiscrete`` ones, numbers of these values; what :func:`mbrl.record` is given is moved to the nearest one.

    Args:
        task: the task.
        bins: how many values each control has, from limit to limit at equal distances; one number for all controls, or one
            for each. All their combinations are allowed, in the order of counting, the last control first.
        values: the controls themselves instead, ``(k, m)``.

    Raises:
        ValueError: not exactly one of bins and values is given, there are fewer than two bins, or values do not fit the task.

    Example:
        >>> import mbrl
        >>> mbrl.discretized(mbrl.pendulum_swing_up("torch"), 3).control_values.tolist()
        [[-2.0], [0.0], [2.0]]
    """
    if (bins is None) == (values is None):
        raise ValueError("give either bins, how many values each control has, or values, the controls themselves")
    if bins is not None:
        return replace(task, control_values=_grid(task, bins))
    return replace(task, control_values=torch.as_tensor(values, dtype=torch.float64))


def _grid(task: Task, bins: int | Sequence[int]) -> Tensor:
    """All combinations of evenly spaced controls, ``(k, m)``."""
    m = task.dynamics.control_dim
    counts = [bins] * m if isinstance(bins, int) else list(bins)
    if len(counts) != m or any(not isinstance(count, int) or count < 2 for count in counts):
        raise ValueError(f"bins must be an integer of at least 2, or one for each of {m} controls, got {bins!r}")
    axes = [
        torch.linspace(float(low), float(high), count, dtype=torch.float64)
        for low, high, count in zip(*task.limits(), counts, strict=True)
    ]
    return torch.cartesian_prod(*axes).reshape(-1, m)
