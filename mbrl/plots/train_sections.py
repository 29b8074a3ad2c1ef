"""What a page says about a training run, for html_report."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mbrl.plots.learning_curves import MOST_METRICS, choose_scale, curve, logged_metrics, plot_learning_curves
from mbrl.plots.report import Picture, Section, Text
from mbrl.plots.style import CYCLE, in_house_style
from mbrl.runs import RunRecord, group_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = ("rollout/return", "eval/return", "rollout/cost")
"""What training is about: drawn even where it never changes."""

HEADLINES = (
    *RESULTS,
    "train/cost_best",
    "train/multiplier",
    "train/kl",
    "train/effective_samples",
    "train/loss",
    "train/value_loss",
    "train/entropy",
    "train/discriminator_loss",
    "train/reward",
)
"""What one looks at first; an algorithm that logs none of them shows all that it logs."""

HELD_OUT = "train/held_out_loss"
"""Drawn in the panel of the loss of training."""


@in_house_style
def plot_training(run: RunRecord) -> "Figure":
    """Learning curves of a training run: returns, costs, divergence, losses and entropy, as far as there are any.

    What never changes is left out. A limit on costs is a line in their panel. Losses of training and of held-out episodes share
    a panel, and where the weights are kept under which a metric was lowest, a line is at that step. What the algorithm has said
    of its numbers is in ``legend.json``.

    Args:
        run: from :func:`mbrl.read_run`.

    Raises:
        ValueError: nothing has been logged.
    """
    drawn, _, _ = _panels(run)
    figure, kept = plot_learning_curves(group_runs([run]), drawn, _steps(run)), _legend(run, "keeps_lowest", "")
    for axes, metric in zip(figure.axes, drawn, strict=False):
        if metric == "train/loss":
            _add_held_out(axes, run)
        if _logged(run, kept) and metric == ("train/loss" if kept == HELD_OUT else kept):
            steps, values = curve(run, kept)
            best = steps[np.argmin(values)]  # the first of equal ones, as in training
            axes.axvline(best, color="0.4", linestyle="--", label=f"weights kept: step {best:.0f}")
            axes.legend(loc="best")
        limit = (_algorithm(run).get("constraint") or {}).get("limit")
        if metric == "rollout/cost" and isinstance(limit, int | float):
            axes.axhline(limit, color="0.4", linestyle="--", label=f"limit {limit:.4g}")
            axes.legend(loc="best")
    return figure


def train_sections(run: RunRecord, settings: str = "") -> list[Section]:
    """The result, the learning curves, and what else was logged.

    Args:
        run: from :func:`mbrl.read_run`.
        settings: of the algorithm, where they are not those by default, in words.

    Raises:
        ValueError: nothing has been logged.
    """
    (_, others, constant), picture = _panels(run), run.folder / "figures" / "learning_curve.png"
    curves = picture if run.finished and picture.exists() else plot_training(run)
    sections: list[Section] = [
        Text(f"{training_result(run)}\n\n{_about(run, settings)}", "Result"),
        Picture(curves, _caption(run), "Learning"),
    ]
    if others:
        rest = plot_learning_curves(group_runs([run]), others[:MOST_METRICS], _steps(run))
        sections.append(Picture(rest, "What else was logged in metrics.csv."))
    if constant:
        said = ", ".join(f"{name} {curve(run, name)[1][0]:.6g}" for name in constant)
        sections.append(Text(f"The same in every row of metrics.csv: {said}."))
    return sections


def training_result(run: RunRecord) -> str:
    """The result of a training run in a sentence.

    Args:
        run: from :func:`mbrl.read_run`.
    """
    summary, config = run.summary or {}, run.config or {}
    if not run.finished:
        return "The run is not finished."
    took = f"after {summary.get('steps', '?')} {_steps(run)} in {summary.get('seconds', math.nan):.0f} s"
    if "return" not in summary:
        return f"not evaluated, {took}"
    value, low, high = (_number(summary.get(name)) for name in ("return", "interval_low", "interval_high"))
    episodes = config.get("evaluation_episodes", "?")
    of = "one episode" if episodes == 1 else f"95 % {low} to {high}, interquartile mean of {episodes} episodes"
    success = f", success {100 * summary['success_rate']:.0f} %" if "success_rate" in summary else ""
    return f"return {value} ({of}){success} {took}"


def _number(value: Any) -> str:
    """Of a summary, where a number that is not finite is a text."""
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _about(run: RunRecord, settings: str) -> str:
    config = run.config or {}
    name, task, seed = _algorithm(run).get("class", "?"), config.get("task", "?"), config.get("seed", "?")
    return f"{name} on {task}, seed {seed}" + (f"; {settings}" if settings else "")


def _algorithm(run: RunRecord) -> dict[str, Any]:
    found = (run.config or {}).get("algorithm")
    return found if isinstance(found, dict) else {}


def _legend(run: RunRecord, name: str, otherwise: str) -> str:
    """What the algorithm has said of its numbers; runs of before, and of others, have no legend."""
    found = run.legend.get(name)
    return found if isinstance(found, str) else otherwise


def _steps(run: RunRecord) -> str:
    return _legend(run, "steps", "steps")


def _caption(run: RunRecord) -> str:
    returns = any(_logged(run, name) for name in ("rollout/return", "eval/return"))
    said = ["returns of episodes"] if returns else []
    said += ["what they cost"] if returns and _logged(run, "rollout/cost") else []
    shown = _legend(run, "shows", "what else was learned")
    held_out = ", in training and in episodes held out" if _logged(run, HELD_OUT) else ""
    words = f"Over {_steps(run)}: {', '.join([*said, f'and {shown}' if said else shown])}{held_out}."
    kept = _legend(run, "keeps_lowest", "")
    return words + (f" The policy has the weights of the step with the lowest {kept}." if _logged(run, kept) else "")


def _logged(run: RunRecord, metric: str) -> bool:
    return len(curve(run, metric)[0]) > 0


def _panels(run: RunRecord) -> tuple[list[str], list[str], list[str]]:
    """Metrics that are looked at first, further ones, and those that never change."""
    logged = logged_metrics(group_runs([run]))
    constant = [name for name in logged if name not in RESULTS and _is_constant(curve(run, name)[1])]
    changing = [name for name in logged if name not in constant]
    if not changing:
        return logged[:MOST_METRICS], [], []
    main = [name for name in HEADLINES if name in changing]
    if not main:
        return changing[:MOST_METRICS], [], constant
    shown = {*main, HELD_OUT} if "train/loss" in main else set(main)
    return main, [name for name in changing if name not in shown], [name for name in constant if name not in shown]


def _is_constant(values: np.ndarray) -> bool:
    return len(values) > 1 and bool((values == values[0]).all())


def _add_held_out(axes: "Axes", run: RunRecord) -> None:
    """The loss of held-out episodes beside that of training."""
    steps, losses = curve(run, HELD_OUT)
    if not len(steps):
        return
    (learned,) = axes.lines
    learned.set_label("training")
    axes.plot(steps, losses, color=CYCLE[1], marker="o" if len(steps) == 1 else "", label="held out")
    axes.set_yscale("linear")
    choose_scale(axes)
    axes.set_ylabel("loss")
    axes.legend(loc="best")
