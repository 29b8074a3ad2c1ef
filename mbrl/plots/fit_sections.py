"""What a page says about a fit and about logs, for html_report."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynamics import AuditReport, FitReport, LearnedDynamics, RawLog, Trajectory, summarize
from mbrl.plots.fits import plot_fit, plot_predictions
from mbrl.plots.report import Picture, Section, Table, Text
from mbrl.plots.style import BLUE, GREEN, axis_label, grid_of_axes, in_house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN = 20
"""Logs that are drawn on top of each other."""


def fit_sections(model: LearnedDynamics, logs: Sequence[Trajectory], report: FitReport) -> list[Section]:
    """Held-out errors in numbers and pictures.

    Args:
        model: the fitted model.
        logs: what :func:`dynamics.fit` was given.
        report: what it returned.
    """
    head = str(report).splitlines()[:2]
    sections: list[Section] = [
        Text("\n".join([summarize(logs), *head])),
        Table(
            report.header(),
            report.rows(),
            "Open-loop errors k steps ahead, in standard deviations of the held-out data, and shares of values inside intervals.",
            "Held-out predictions",
        ),
        Picture(plot_fit(report), "How the fit went, and how far ahead it predicts trajectories it has not seen."),
    ]
    if report.test:
        shown = [logs[i] for i in report.test[:2]]
        sections.append(Picture(plot_predictions(model, shown), "Open-loop predictions of trajectories held out."))
    return sections


def audit_sections(logs: Sequence[Trajectory | RawLog], report: AuditReport) -> list[Section]:
    """Findings by kind and column, and the columns of the first logs over time.

    Args:
        logs: what :func:`dynamics.audit` was given.
        report: what it returned.
    """
    sections: list[Section] = [Text(str(report).splitlines()[0])]
    if not report.ok:
        sections.append(
            Table(*report.table(), "One line per kind and column, with the log where it is worst.", "Findings")
        )
    alike = [log for log in logs if log.names == logs[0].names]
    shown = alike[:MOST_DRAWN]
    caption = (
        f"{len(shown)} of {len(logs)} logs over time, as they are." if len(shown) < len(logs) else "All logs over time."
    )
    return [*sections, Picture(_plot_columns(shown), caption, "Over time")]


@in_house_style
def _plot_columns(logs: Sequence[Trajectory | RawLog]) -> "Figure":
    """Observations and controls of logs with the same columns, whatever their values and stamps."""
    names, units = logs[0].names, logs[0].units
    figure, grid = grid_of_axes(len(names.observations) + len(names.controls))
    alpha = max(0.15, 1.0 / math.sqrt(len(logs)))
    for log in logs:
        held = (
            np.vstack([log.controls, log.controls[-1:]])
            if len(log.controls)
            else np.full((1, len(names.controls)), np.nan)
        )
        for axes, values in zip(grid, log.observations.T, strict=False):
            axes.plot(log.times, values, color=BLUE, alpha=alpha)
        for axes, values in zip(grid[len(names.observations) :], held.T, strict=True):
            axes.step(log.times, values, where="post", color=GREEN, alpha=alpha)
    labels = zip([*names.observations, *names.controls], [*units.observations, *units.controls], strict=True)
    for axes, (name, unit) in zip(grid, labels, strict=True):
        axes.set_ylabel(axis_label(name, unit, separator="\n"))
        if axes.xaxis.get_tick_params()["labelbottom"]:
            axes.set_xlabel("time [s]")
    figure.align_ylabels()
    return figure
