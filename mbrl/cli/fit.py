"""Fit a model to logs: whole trajectories are held out, and the report says how far ahead it predicts them.

    mbrl fit my_logs-v0 --angles angle --run runs/ensemble
    mbrl fit my_logs-v0 --angles angle --model linear --run runs/ridge
    mbrl fit runs/*.csv --time t --observations angle --observation-units deg --controls torque --angles angle --resample 0.05 --velocities angle --training.steps 2000 --run runs/mine

The run folder holds the model, the metrics and a page to look at. After Ctrl-C or a kill, the same command goes on where it was.
"""  # noqa: E501 (an example is one line to copy)

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import mbrl
from dynamics import FitReport, LearnedDynamics, Training, Trajectory, fit, summarize
from dynamics.learned.training import TrainedDynamics
from mbrl.cli.choices import choice, choices_of, model_kinds
from mbrl.cli.logs import Preparation, Reading
from mbrl.cli.runs import opened_run

KINDS = model_kinds()
CHOICES = choices_of("model", KINDS)

if TYPE_CHECKING:
    AnyModel = Any
else:
    AnyModel = choice(KINDS)


@dataclass(frozen=True)
class Options:
    """Options of ``mbrl fit``."""

    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH [PATH ...]", help_behavior_hint="(required)")
    ]
    """Logs: files, folders, Minari datasets or patterns in quotes."""
    run: Path | None = None
    """Run folder; runs/fit-DATE-TIME by default."""
    seed: int = 0
    """Of the split, the weights and the minibatches."""
    test_fraction: float = 0.15
    """Share of the trajectories held out for the report."""
    validation_fraction: float = 0.1
    """Share of the trajectories that chooses weights and the end of training."""
    horizons: tuple[int, ...] = (1, 5, 10, 25, 50)
    """Steps ahead at which predictions are compared with the held-out trajectories."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    preparation: tyro.conf.OmitArgPrefixes[Preparation] = field(default_factory=Preparation)
    training: Training = field(default_factory=Training)
    model: AnyModel = field(default_factory={kind.__name__: kind for kind in KINDS}["Ensemble"])
    """What is fitted, --model NAME."""


def run(options: Options) -> None:
    """Read, prepare, fit, save, report."""
    logs = options.preparation.apply(options.reading.trajectories(options.paths, options.preparation.repairs()))
    model = options.model.build(logs, angles=options.preparation.angles, seed=options.seed)
    with opened_run("fit", options) as run:
        sys.stdout.write(f"{summarize(logs)}\n")
        report = fit(
            model,
            logs,
            test_fraction=options.test_fraction,
            validation_fraction=options.validation_fraction,
            horizons=options.horizons,
            seed=options.seed,
            on_validation=partial(_log, run),
            **_gradient_options(options, model, run),
        )
        run.save_model(model)
        write_page(run, logs, model, report)
        run.finish({**headline(report), "fit": report.to_dict()})
        sys.stdout.write(f"{report}\nmodel: {run.path('model.safetensors')}\nreport: {run.path('report.html')}\n")


def _log(run: mbrl.Run, record: Mapping[str, float]) -> None:
    """A row of metrics; before the first, that the options have passed and where the run is."""
    if not (run.folder / "metrics.csv").exists():
        sys.stdout.write(f"run folder: {run.folder}\n")
    run.log(int(record["step"]), **{"fit/loss": record["loss"], "fit/error": record["error"]})


def _gradient_options(options: Options, model: LearnedDynamics, run: mbrl.Run) -> dict[str, Any]:
    """Settings and checkpoint of gradient training; a closed form takes none, and says so if it is given some."""
    if isinstance(model, TrainedDynamics):
        return {"training": options.training, "checkpoint": run.path("fit.pt")}
    return {} if options.training == Training() else {"training": options.training}


def headline(report: FitReport) -> dict[str, float]:
    """The numbers by which runs are compared: median errors by horizon, and the likelihood of a step."""
    errors = report.errors["model"].median
    return {**{f"error_k{k}": float(errors[i]) for i, k in enumerate(report.horizons)}, "nll": report.nll}


def write_page(run: mbrl.Run, logs: list[Trajectory], model: LearnedDynamics, report: FitReport) -> None:
    """The page and its figures."""
    from mbrl.plots import Picture, fit_sections, html_report, save_figure

    sections = fit_sections(model, logs, report)
    drawn = [section.figure for section in sections if isinstance(section, Picture)]
    figures = [figure for figure in drawn if not isinstance(figure, str | Path)]
    for name, figure in zip(("fit", "predictions"), figures, strict=False):
        save_figure(figure, run.path(f"figures/{name}.png"))
    html_report(run.path("report.html"), f"{report.model} fitted to {len(logs)} trajectories", sections)
