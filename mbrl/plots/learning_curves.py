"""How runs learned: scalars over steps, seeds of the same settings together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mbrl.evaluation import bootstrap_interval, interquartile_mean
from mbrl.plots.style import CYCLE, axis_label, grid_of_axes, in_house_style, plain
from mbrl.runs import RunGroup, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", "--", ":", "-.")
MOST_METRICS = 24
MOST_POINTS = 200


def logged_metrics(groups: Sequence[RunGroup]) -> list[str]:
    """Names of all metrics with a finite value in some run, in order of first appearance."""
    found: dict[str, None] = {}
    for group in groups:
        for run in group.runs:
            found.update(dict.fromkeys(name for name in run.metrics if name != "step" and len(curve(run, name)[0])))
    return list(found)


def curve(run: RunRecord, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, increasing, and finite values of a metric of a run; the last value where a step was logged twice."""
    if metric not in run.metrics:
        return np.empty(0), np.empty(0)
    steps, values = run.metrics["step"], run.metrics[metric]
    finite = np.isfinite(steps) & np.isfinite(values)
    by_step = dict(zip(steps[finite].tolist(), values[finite].tolist(), strict=True))
    order = sorted(by_step)
    return np.array(order), np.array([by_step[step] for step in order])


def aggregated(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interquartile mean and its 95 % bootstrap interval over curves, as far as all of them go.

    Args:
        curves: steps and values of each, interpolated linearly to the steps of all. Up to three are averaged whole.

    Returns:
        steps ``(S,)``, at most 200 and none where the curves do not overlap, means ``(S,)`` and intervals ``(2, S)``.
    """
    first = max(steps[0] for steps, _ in curves)
    last = min(steps[-1] for steps, _ in curves)
    steps = np.unique(np.concatenate([steps for steps, _ in curves]))
    steps = steps[(steps >= first) & (steps <= last)]
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int))] if len(steps) else steps
    values = np.array([np.interp(steps, *one) for one in curves])
    means = np.array([interquartile_mean(column) for column in values.T])
    return steps, means, bootstrap_interval(values)


@in_house_style
def plot_learning_curves(
    groups: Sequence[RunGroup], metrics: Sequence[str] | None = None, steps: str = "step"
) -> "Figure":
    """Scalars over steps: a panel for each metric, a color for each group, each seed thin.

    Of two seeds and more, the interquartile mean is drawn thick and its 95 % bootstrap interval as a band, as far as all seeds
    go.

    Args:
        groups: from :func:`mbrl.group_runs`.
        metrics: columns of ``metrics.csv``; by default all, at most 24.
        steps: what the steps are called.

    Raises:
        ValueError: no run has logged any of the metrics.
    """
    logged = logged_metrics(groups)
    metrics = logged[:MOST_METRICS] if metrics is None else list(metrics)
    if not set(metrics) & set(logged):
        asked = ", ".join(metrics) or "any metric"
        raise ValueError(f"no run has logged {asked}; there is {', '.join(logged) or 'nothing in metrics.csv'}")
    figure, grid = grid_of_axes(len(metrics), height=2.6, share_x=False)
    for axes, metric in zip(grid, metrics, strict=True):
        for number, group in enumerate(groups):
            _draw_group(axes, group, metric, CYCLE[number % len(CYCLE)], DASHES[number // len(CYCLE) % len(DASHES)])
        axes.set(xlabel=steps, ylabel=axis_label(metric, "s" if metric.startswith("time/") else ""))
        choose_scale(axes)
    lines = {str(line.get_label()): line for axes in grid for line in axes.lines}
    labelled = {label: line for label, line in lines.items() if not label.startswith("_")}  # others are matplotlib's
    ordered = [(labelled[label], label) for group in groups if (label := plain(group.label)) in labelled]
    if len(ordered) > 1:
        columns = 1 if max(len(label) for _, label in ordered) > 30 else min(len(ordered), 3)
        figure.legend(*zip(*ordered, strict=True), loc="outside upper left", ncols=columns)
    return figure


def _draw_group(axes: "Axes", group: RunGroup, metric: str, color: str, dash: str) -> None:
    curves = [found for run in group.runs if len((found := curve(run, metric))[0])]
    alone = len(curves) == 1
    label = plain(group.label)
    for steps, values in curves:
        marker = "o" if len(steps) == 1 else ""  # a line through one point is none
        style = {"alpha": 1.0, "label": label} if alone else {"alpha": 0.35, "linewidth": 0.8}
        axes.plot(steps, values, color=color, linestyle=dash, marker=marker, **style)  # type: ignore[arg-type]
    if len(curves) > 1:
        steps, means, intervals = aggregated(curves)
        axes.fill_between(steps, *intervals, color=color, alpha=0.2, linewidth=0)
        axes.plot(steps, means, color=color, linestyle=dash, linewidth=2.2, label=label)


def choose_scale(axes: "Axes") -> None:
    """Logarithmic where everything is positive and spans more than a decade and a half."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.empty(0)])
    if values.size and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
