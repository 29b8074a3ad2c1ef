"""What a filter believed, beside what was measured and what was true."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mbrl.plots.style import BLUE, GRAY, INK, axis_label, grid_of_axes, in_house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@in_house_style
def plot_estimates(
    means: Any,
    stds: Any,
    *,
    dt: float,
    names: Sequence[str],
    units: Sequence[str] = (),
    states: Any = None,
    measurements: Mapping[str, Any] | None = None,
    angles: Sequence[str] = (),
) -> "Figure":
    """Estimated states over time [s] with bands of two standard deviations, 95 % of a Gaussian.

    Args:
        means: ``(T+1, n)``, array or tensor, of :class:`dynamics.FilteredSequence` or collected step by step.
        stds: their standard deviations ``(T+1, n)``.
        dt: time between two of them [s].
        names: one name per state.
        units: one unit per state.
        states: true states ``(T+1, n)``, where they are known.
        measurements: by the name of the state that is measured, ``(T+1,)``; NaN where there is none.
        angles: names of the states that are angles [rad]; what was measured or true is drawn at the turn of the estimate.

    Raises:
        ValueError: shapes do not fit, or no state is called like a measurement or an angle.
    """
    means, stds = np.asarray(means, dtype=float), np.asarray(stds, dtype=float)
    shape = (len(means), len(names))
    others = {} if states is None else {"states": np.asarray(states, dtype=float)}
    for name, values in {"means": means, "stds": stds, **others}.items():
        if values.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, time by names, got {values.shape}")
    measured = {name: np.asarray(values, dtype=float) for name, values in (measurements or {}).items()}
    if unknown := [name for name in (*measured, *angles) if name not in names]:
        raise ValueError(f"no state is called {unknown[0]!r}; they are {', '.join(names)}")
    if wrong := [name for name, values in measured.items() if values.shape != shape[:1]]:
        raise ValueError(f"measurements of {wrong[0]} must have shape {shape[:1]}, got {measured[wrong[0]].shape}")
    times = dt * np.arange(len(means))
    figure, grid = grid_of_axes(len(names), height=2.0)
    for i, (axes, name) in enumerate(zip(grid, names, strict=True)):
        mean, turning = means[:, i], name in angles
        if name in measured:
            values = _at_turn(measured[name], mean) if turning else measured[name]
            axes.plot(times, values, ".", color=GRAY, markersize=4, label="measured")
        axes.fill_between(times, mean - 2 * stds[:, i], mean + 2 * stds[:, i], color=BLUE, alpha=0.25, linewidth=0)
        axes.plot(times, mean, color=BLUE, label="estimated, 95 %")
        for truth in others.values():
            values = _at_turn(truth[:, i], mean) if turning else truth[:, i]
            axes.plot(times, values, color=INK, linestyle="--", linewidth=1.2, label="true")
        axes.set_ylabel(axis_label(name, units[i] if units else "", separator="\n"))
        if axes.xaxis.get_tick_params()["labelbottom"]:
            axes.set_xlabel("time [s]")
        axes.legend(loc="upper right")
    figure.align_ylabels()
    return figure


def _at_turn(values: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Angles [rad] shifted by whole turns to where the others are."""
    return values - 2 * math.pi * np.round((values - near) / (2 * math.pi))
