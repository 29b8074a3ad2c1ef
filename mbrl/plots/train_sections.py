"""What a page says about a training run, for html_report."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mbrl.plots.learning_curves import MOST_METRICS, logged_metrics, plot_learning_curves
from mbrl.plots.report import Picture, Section, Text
from mbrl.runs import RunRecord, group_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINES = ("eval/return", "rollout/return", "train/kl", "train/value_loss", "train/entropy")
"""What one looks at first; an algorithm that logs none of them shows all that it logs."""


def plot_training(run: RunRecord) -> "Figure":
    """Learning curves of a training run: returns, divergence, value loss and entropy, as far as there are any.

    Args:
        run: from :func:`mbrl.read_run`.

    Raises:
        ValueError: nothing has been logged.
    """
    groups = group_runs([run])
    logged = logged_metrics(groups)
    return plot_learning_curves(groups, [name for name in HEADLINES if name in logged] or logged[:MOST_METRICS])


def train_sections(run: RunRecord) -> list[Section]:
    """The result, the learning curves, and what else was logged.

    Args:
        run: from :func:`mbrl.read_run`.

    Raises:
        ValueError: nothing has been logged.
    """
    groups = group_runs([run])
    logged = logged_metrics(groups)
    others, drawn = [name for name in logged if name not in HEADLINES], run.folder / "figures" / "learning_curve.png"
    curves = drawn if run.finished and drawn.exists() else plot_training(run)
    sections: list[Section] = [
        Text(_result(run.summary or {}), "Result"),
        Picture(curves, "Over environment steps: returns of episodes, and how the policy changed.", "Learning"),
    ]
    if others and len(others) < len(logged):
        rest = plot_learning_curves(groups, others[:MOST_METRICS])
        sections.append(Picture(rest, "What else was logged in metrics.csv."))
    return sections


def _result(summary: Mapping[str, Any]) -> str:
    """A line for each number."""
    values = {name.replace("_", " "): value for name, value in summary.items() if isinstance(value, int | float)}
    lines = [f"{name}: {value if isinstance(value, int) else f'{value:.4g}'}" for name, value in values.items()]
    return "\n".join(lines) or "The run is not finished."
