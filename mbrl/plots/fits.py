"""What a fit achieved and how its predictions look."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dynamics import Dynamics, FitReport, StochasticDynamics, Trajectory, check_compatible
from dynamics.trajectories import origin, state_source
from mbrl.plots.style import (
    BLUE,
    CYCLE,
    GRAY,
    INK,
    ORANGE,
    RED,
    axis_label,
    in_house_style,
    new_figure,
    plain,
    seconds_and_steps,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PREDICTORS = {"model": (BLUE, "o", "-"), "ridge": (ORANGE, "s", "--"), "persistence": (GRAY, "^", ":")}
MOST_DIMENSIONS = 24


@in_house_style
def plot_fit(report: FitReport) -> "Figure":
    """Held-out errors, calibration, errors by dimension and, after gradient training, the learning curve.

    Args:
        report: from ``dynamics.fit``.
    """
    panels = [_draw_errors, _draw_dimensions]
    if report.errors["model"].coverage is not None:
        panels.insert(1, _draw_calibration)
    if report.history:
        panels.insert(0, _draw_training)
    columns = 2 if len(panels) == 4 else len(panels)
    figure = new_figure(5.5 * columns, 4.0 * len(panels) / columns)
    for draw, axes in zip(panels, figure.subplots(len(panels) // columns, columns, squeeze=False).flat, strict=True):
        draw(report, axes)
    return figure


def _draw_training(report: FitReport, axes: "Axes") -> None:
    steps = [record["step"] for record in report.history]
    axes.plot(steps, [record["error"] for record in report.history], color=BLUE, label="validation error")
    axes.set(title="Training", xlabel="gradient step", yscale="log")
    axes.set_ylabel("validation RMSE [normalized]", color=BLUE)
    loss = axes.twinx()
    loss.plot(steps, [record["loss"] for record in report.history], color=RED, linestyle="--", label="training loss")
    loss.set_ylabel("training loss (beta-NLL)", color=RED)
    loss.grid(visible=False)
    loss.spines["right"].set_visible(True)
    loss.legend(handles=[*axes.lines, *loss.lines], loc="center right")  # on the upper of the two axes


def _draw_errors(report: FitReport, axes: "Axes") -> None:
    seconds = np.array(report.horizons) * report.dt
    for name, errors in report.errors.items():
        color, marker, dash = PREDICTORS[name]
        label = report.model if name == "model" else name
        axes.plot(seconds, errors.median, color=color, marker=marker, linestyle=dash, label=label)
    axes.set(title="Held-out error", ylabel="median k-step error [normalized]", yscale="log")
    seconds_and_steps(axes, report.horizons, report.dt)
    axes.legend(loc="best")


def _draw_calibration(report: FitReport, axes: "Axes") -> None:
    coverage = report.errors["model"].coverage
    seconds = np.array(report.horizons) * report.dt
    for level, measured, color in zip(report.levels, coverage if coverage is not None else (), CYCLE, strict=False):
        axes.axhline(100 * level, color=color, linestyle=":", linewidth=1.2)
        axes.plot(seconds, 100 * measured, color=color, marker="o", label=f"{100 * level:g} % interval")
    axes.plot([], [], color=INK, linestyle=":", linewidth=1.2, label="nominal")
    axes.set(title="Calibration", ylabel="truth inside the interval [%]", ylim=(0, 103))
    seconds_and_steps(axes, report.horizons, report.dt)
    axes.legend(loc="best", ncols=2)


def _draw_dimensions(report: FitReport, axes: "Axes") -> None:
    """RMSE by dimension and horizon as a table on a color scale; of very many dimensions the worst."""
    errors = report.errors["model"].per_dimension
    shown = np.arange(errors.shape[1])
    title = "Error by dimension"
    if len(shown) > MOST_DIMENSIONS:
        shown = np.sort(np.argsort(-np.nan_to_num(errors[-1], nan=np.inf))[:MOST_DIMENSIONS])
        title = f"Error by dimension (worst {MOST_DIMENSIONS} of {errors.shape[1]})"
    values = errors[:, shown].T
    shade = np.log10(np.clip(values, 1e-4, 1.0))
    axes.imshow(shade, cmap="Blues", vmin=-4.5, vmax=0.5, aspect="auto")
    size = 9.0 if len(shown) <= 12 else 6.5
    for (row, column), value in np.ndenumerate(values):
        color = "white" if shade[row, column] > -1.5 else INK
        axes.text(column, row, f"{value:.2g}", ha="center", va="center", color=color, fontsize=size)
    axes.set_yticks(range(len(shown)), [axis_label(report.names[i]) for i in shown], fontsize=size)
    axes.set_xticks(range(len(report.horizons)), [f"{k * report.dt:.3g}\nk = {k}" for k in report.horizons])
    axes.set(title=title, xlabel="prediction horizon [s], entries: normalized RMSE")
    axes.grid(visible=False)


@in_house_style
def plot_predictions(
    model: Dynamics,
    trajectories: Trajectory | Sequence[Trajectory],
    *,
    steps: int = 50,
    level: float = 0.9,
    particles: int = 200,
    generator: torch.Generator | None = None,
) -> "Figure":
    """Open-loop predictions from the first logged state under the logged controls, against what was logged.

    A stochastic model shows the mean of its rollouts and the central interval of sampled ones (TSinf). Logged angles are
    unwrapped; the axes end where a prediction is further away than the logged range is wide.

    Args:
        model: its states are those of the trajectories (observations where there are none).
        trajectories: one per column.
        steps: T at most.
        level: of the interval.
        particles: number of sampled rollouts.
        generator: source of randomness; seeded with 0 by default.

    Raises:
        ValueError: trajectories that do not go together or are not the model's.
    """
    trajectories = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    check_compatible(trajectories)
    group = state_source(trajectories)
    names, units = getattr(trajectories[0].names, group), getattr(trajectories[0].units, group)
    if len(names) != model.state_dim:
        raise ValueError(f"the model has {model.state_dim} states, the trajectories have {len(names)} {group}")
    generator = generator or torch.Generator().manual_seed(0)
    interval = f"{100 * level:g} % interval"
    figure = new_figure(max(3.6 * len(trajectories), 7.0), 1.6 * len(names) + 1.0)
    grid = figure.subplots(len(names), len(trajectories), sharex="col", squeeze=False)
    for column, trajectory in zip(grid.T, trajectories, strict=True):
        logged = np.array(getattr(trajectory, group)[: steps + 1])
        logged[:, list(model.angles)] = np.unwrap(logged[:, list(model.angles)], axis=0)
        x0, us = torch.from_numpy(logged[0]), torch.from_numpy(np.array(trajectory.controls[: len(logged) - 1]))
        predicted, band = _predict(model, x0, us, level, particles, generator)
        seconds = trajectory.times[: len(logged)] - trajectory.times[0]
        for i, axes in enumerate(column):
            if band is not None:
                axes.fill_between(seconds, *band[:, :, i], color=BLUE, alpha=0.25, linewidth=0, label=interval)
            axes.plot(seconds, predicted[:, i], color=BLUE, label="prediction")
            axes.plot(seconds, logged[:, i], color=INK, linestyle="--", linewidth=1.2, label="log")
            axes.set_ylim(_limits(logged[:, i], predicted[:, i], *([] if band is None else band[:, :, i])))
        column[0].set_title(_short(trajectory.source), fontsize=9)
        column[-1].set_xlabel("time [s]")
    for axes, name, unit in zip(grid[:, 0], names, units, strict=True):
        axes.set_ylabel(axis_label(name, unit, separator="\n"))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    figure.align_ylabels()
    return figure


@torch.no_grad()
def _predict(
    model: Dynamics, x0: torch.Tensor, us: torch.Tensor, level: float, particles: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predicted states ``(T+1, n)`` and the ends of the interval ``(2, T+1, n)``, None for a deterministic model."""
    predicted = model.rollout(x0, us).numpy()
    if not isinstance(model, StochasticDynamics):
        return predicted, None
    sampled = model.sample_rollout(x0, us, particles=particles, generator=generator)
    tails = torch.tensor([0.5 - 0.5 * level, 0.5 + 0.5 * level], dtype=sampled.dtype)
    return predicted, torch.nanquantile(sampled, tails, dim=0).numpy()


def _short(source: str) -> str:
    """The end of a source, where files and episodes differ."""
    name = origin(source)
    return plain(name if len(name) <= 40 else f"…{name[-39:]}")


def _limits(logged: np.ndarray, *drawn: np.ndarray) -> tuple[float, float]:
    """What is drawn, but no more than the width of the logged range on either side of it."""
    width = max(float(np.ptp(logged)), 1e-6 * (1.0 + float(np.abs(logged).max())))
    values = np.concatenate([logged, *(curve[np.isfinite(curve)] for curve in drawn)])
    lower, upper = max(values.min(), logged.min() - width), min(values.max(), logged.max() + width)
    return float(lower - 0.05 * width), float(upper + 0.05 * width)
