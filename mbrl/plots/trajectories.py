"""What was logged, recorded or driven."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynamics import Trajectory, check_compatible
from dynamics.trajectories import state_source
from mbrl.plots.style import BLUE, GREEN, INK, RED, axis_label, grid_of_axes, in_house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Limits = tuple[float | Sequence[float], float | Sequence[float]]


@in_house_style
def plot_trajectory(
    trajectories: Trajectory | Sequence[Trajectory], *, control_limits: Limits | None = None
) -> "Figure":
    """States (observations where there are none) and controls over time [s]; several trajectories on top of each other.

    Args:
        trajectories: compatible trajectories.
        control_limits: (lower, upper), each a number or one per control, drawn as lines.

    Raises:
        ValueError: the trajectories do not go together.
    """
    trajectories = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    check_compatible(trajectories)
    group = state_source(trajectories)
    names, units = trajectories[0].names, trajectories[0].units
    figure, grid = grid_of_axes(len(getattr(names, group)) + len(names.controls))
    states, controls = grid[: len(getattr(names, group))], grid[len(getattr(names, group)) :]
    alpha = max(0.15, 1.0 / math.sqrt(len(trajectories)))
    for trajectory in trajectories:
        for axes, values in zip(states, getattr(trajectory, group).T, strict=True):
            axes.plot(trajectory.times, values, color=BLUE, alpha=alpha)
        for axes, values in zip(controls, trajectory.controls.T, strict=True):
            axes.step(trajectory.times, [*values, *values[-1:]] or [math.nan], where="post", color=GREEN, alpha=alpha)
    labels = zip([*getattr(names, group), *names.controls], [*getattr(units, group), *units.controls], strict=True)
    for axes, (name, unit) in zip(grid, labels, strict=True):
        axes.set_ylabel(axis_label(name, unit, separator="\n"))
        if axes.xaxis.get_tick_params()["labelbottom"]:
            axes.set_xlabel("time [s]")
    for limit in control_limits or ():
        for axes, value in zip(controls, np.broadcast_to(limit, len(controls)), strict=True):
            axes.axhline(value, color=RED, linestyle="--", linewidth=1.2)
    figure.align_ylabels()
    return figure


@in_house_style
def plot_logged_states(
    trajectories: Sequence[Trajectory], x: str, y: str, *, angles: Sequence[str] = (), bins: int = 40
) -> "Figure":
    """Where the data are: a histogram of two columns over all trajectories.

    Args:
        trajectories: compatible trajectories.
        x: name of the state (observation, where there are no states) on the horizontal axis.
        y: name of the one on the vertical axis.
        angles: names of columns that are angles [rad], drawn from -pi to pi.
        bins: number of bins per axis.

    Raises:
        ValueError: the trajectories do not go together or there is no such column.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.ticker import LogLocator

    check_compatible(trajectories)
    group = state_source(trajectories)
    names, units = getattr(trajectories[0].names, group), getattr(trajectories[0].units, group)
    if unknown := [name for name in (x, y, *angles) if name not in names]:
        raise ValueError(f"no column is called {unknown[0]!r}; the {group} are {', '.join(names)}")
    rows = np.concatenate([getattr(trajectory, group) for trajectory in trajectories])
    columns, edges = [], []
    for name in (x, y):
        values = rows[:, names.index(name)]
        if name in angles:
            values = np.remainder(values + np.pi, 2 * np.pi) - np.pi
        columns.append(values)
        edges.append(np.linspace(-np.pi, np.pi, bins + 1) if name in angles else np.histogram_bin_edges(values, bins))
    figure = new_figure(6.4, 4.6)
    axes = figure.subplots()
    counts, *_ = np.histogram2d(*columns, bins=edges)
    filled = np.where(counts > 0, counts, np.nan)
    shades = ListedColormap(colormaps["Blues"](np.linspace(0.3, 1.0, 128)))  # a single sample stands out from white
    mesh = axes.pcolormesh(*edges, filled.T, cmap=shades, norm=LogNorm(1, max(counts.max(), 2)))
    bar = figure.colorbar(mesh, label="samples per bin", ticks=LogLocator(subs=(1, 2, 5)), format="%d")
    bar.minorticks_off()
    axes.set_title(f"{len(rows)} samples of {len(trajectories)} trajectories")
    axes.set_xlabel(axis_label(x, units[names.index(x)]))
    axes.set_ylabel(axis_label(y, units[names.index(y)]))
    for name, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        if name in angles:
            axis.set_ticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"])
    return figure


@in_house_style
def plot_planning(seconds: Sequence[float], costs: Sequence[float], dt: float) -> "Figure":
    """How long each step of a control loop was planned for, and what its plans cost.

    Args:
        seconds: planning time of each step [s], ``solution.stats["seconds"]``.
        costs: cost of each plan, ``solution.cost``.
        dt: duration of a control step [s], the limit for real time.
    """
    milliseconds = 1e3 * np.asarray(seconds, dtype=float)
    figure = new_figure(10.0, 3.4)
    left, right = figure.subplots(1, 2)
    left.hist(milliseconds, bins=40, color=BLUE)
    left.yaxis.get_major_locator().set_params(integer=True)
    median = float(np.median(milliseconds))
    left.axvline(median, color=INK, linestyle="-", label=f"median {median:.3g} ms")
    left.axvline(1e3 * dt, color=RED, linestyle="--", label=f"control step {1e3 * dt:g} ms")
    left.set(title="Planning time", xlabel="planning time of a step [ms]", ylabel="steps")
    left.legend(loc="best")
    right.plot(dt * np.arange(len(costs)), costs, color=BLUE)
    right.set(title="Cost of the plan", xlabel="time [s]", ylabel="cost over the horizon")
    return figure
