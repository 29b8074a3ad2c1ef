"""Fit a model to logged trajectories, and report honestly how good it is."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dynamics.base import is_numbered
from dynamics.evaluation import (
    LEVELS,
    EvaluationWindows,
    PredictionErrors,
    evaluate_predictions,
    evaluation_windows,
    persistence_errors,
)
from dynamics.learned.base import LearnedDynamics, TransitionData
from dynamics.learned.linear import LinearModel
from dynamics.learned.settings import Training
from dynamics.tables import text_table
from dynamics.trajectories import UNIFORM_TOLERANCE, Trajectory, check_compatible, state_source, transitions

HORIZONS = (1, 5, 10, 25, 50)


@dataclass(frozen=True, eq=False)
class FitReport:
    """What a fit achieved on trajectories it has not seen.

    Attributes:
        model: name of the model's class.
        names: names of the state dimensions.
        trajectories: number of trajectories for ``train``, ``validation`` and ``test``.
        steps: number of transitions for each.
        horizons: k, in steps.
        dt: duration of a step [s].
        errors: :class:`PredictionErrors` of the ``model``, of ``ridge`` regression on the same data, and of ``persistence``.
        nll: held-out negative log-likelihood of one step [nats per dimension of the normalized change]; NaN if no dimension
            changes.
        levels: levels of the intervals behind ``coverage``.
        history: one record per validation of the training, empty for a closed form.
        seconds: duration of the fit without the evaluation.
        test: indices of the held-out trajectories among those that ``fit`` was given; empty if they came as ``test=``.
    """

    model: str
    names: tuple[str, ...]
    trajectories: dict[str, int]
    steps: dict[str, int]
    horizons: tuple[int, ...]
    dt: float
    errors: dict[str, PredictionErrors]
    nll: float
    levels: tuple[float, ...] = LEVELS
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    test: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values."""
        nll = self.nll if math.isfinite(self.nll) else None  # JSON has no NaN
        return {**vars(self), "nll": nll, "errors": {name: e.to_dict() for name, e in self.errors.items()}}

    def __str__(self) -> str:
        train, test = self.steps["train"], self.steps["test"]
        head = (
            f"{self.model} fitted to {train} steps of {self.trajectories['train']} trajectories in {self.seconds:.1f} s; "
            f"held out: {test} steps of {self.trajectories['test']} trajectories\n"
            f"one-step NLL {self.nll:.3f} nats per dimension\n"
            "k steps ahead, open loop: errors in standard deviations of the held-out data, shares of values inside intervals\n"
        )
        return head + text_table(self.header(), self.rows())

    def header(self) -> list[str]:
        """Column titles of :meth:`rows`."""
        columns = ["k", "seconds", *(f"{name} (median)" for name in self.errors)]
        if self.errors["model"].coverage is not None:
            columns += [f"{round(100 * level)} % interval" for level in self.levels]
        return [*columns, "outside log", "diverged", "worst dimension (RMSE)"]

    def rows(self) -> list[list[str]]:
        """One row per horizon: normalized median errors, coverage, share outside the logged range, worst dimension."""
        model, rows = self.errors["model"], []
        for i, k in enumerate(self.horizons):
            row = [str(k), f"{k * self.dt:.2f}", *(f"{e.median[i]:.4f}" for e in self.errors.values())]
            if model.coverage is not None:
                row += [f"{100 * coverage[i]:.1f} %" for coverage in model.coverage]
            row.append("" if model.outside is None else f"{100 * model.outside[i]:.1f} %")
            rows.append([*row, f"{100 * model.diverged[i]:.1f} %", self._worst(i)])
        return rows

    def _worst(self, i: int) -> str:
        """The state dimension that the model predicts worst at the i-th horizon."""
        errors = self.errors["model"].per_dimension[i]
        if not np.isfinite(errors).any():
            return ""
        worst = int(np.nanargmax(errors))
        return f"{self.names[worst]} {errors[worst]:.4f}"


def fit(
    model: LearnedDynamics,
    trajectories: Sequence[Trajectory],
    *,
    test: Sequence[Trajectory] | None = None,
    test_fraction: float = 0.15,
    validation_fraction: float = 0.1,
    training: Training | None = None,
    horizons: Sequence[int] = HORIZONS,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    on_validation: Callable[[dict[str, float]], object] | None = None,
    progress: bool | None = None,
) -> FitReport:
    """Fit a model in place and evaluate it on held-out trajectories.

    Full states are used where every trajectory has them, observations otherwise. Whole trajectories are held out, never parts
    of one: for the test, and for the validation that chooses weights and the end of training.

    An ensemble that has been fitted goes on from its weights; what it has seen then may be held out here, so a report on new
    logs takes a new model, or ``test=``.

    Args:
        model: an :class:`Ensemble` or :class:`LinearModel` of matching dimensions and dt.
        trajectories: compatible trajectories (same names, units and dt).
        test: trajectories to test on instead of a share of ``trajectories``.
        test_fraction: share of the trajectories held out for the test.
        validation_fraction: share of the trajectories held out for validation.
        training: settings of gradient training; ``Training()`` by default. A closed form takes none, and no checkpoint.
        horizons: numbers of steps k at which predictions are evaluated.
        seed: of the split, the bootstrap, the minibatches and the sampled intervals.
        checkpoint: file for exact resume: an interrupted fit called again with the same arguments continues from it.
        on_validation: told of each record of the report's ``history`` as it is made, of those in a checkpoint first.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        The report; print it.

    Raises:
        TypeError: the model is of another kind, or the trajectories are no :class:`Trajectory`.
        ValueError: no trajectories, too few to hold some out, dimensions or dt that do not match the model.
        FitError: training diverged, or the checkpoint belongs to another fit.
    """
    if not isinstance(model, LearnedDynamics):
        raise TypeError(f"fit takes a learned model, such as Ensemble or LinearModel, got {type(model).__name__}")
    group = _check(model, trajectories, test)
    generator = torch.Generator().manual_seed(seed)
    indices = _split(trajectories, test, test_fraction, validation_fraction, generator)
    parts = {name: [trajectories[i] for i in part] for name, part in indices.items()}
    if test is not None:
        parts["test"] = [t for t in test if len(t)]
    device = model.target_mean.device
    data = {name: _transitions(part, group, device) for name, part in parts.items()}
    held_out = evaluation_windows(parts["test"], horizons, angles=model.angles, use=group).to(device)
    start = time.perf_counter()
    history = model.learn(
        data["train"],
        data["validation"],
        training=training,
        generator=generator,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        on_validation=on_validation,
        progress=progress,
    )
    seconds = time.perf_counter() - start
    return FitReport(
        model=type(model).__name__,
        names=model.state_names,
        trajectories={name: len(part) for name, part in parts.items()},
        steps={name: len(part) for name, part in data.items()},
        horizons=held_out.horizons,
        dt=model.dt,
        errors=_errors(model, data["train"], held_out, torch.Generator(device=device).manual_seed(seed)),
        nll=negative_log_likelihood(model, data["test"]),
        history=history,
        seconds=seconds,
        test=tuple(indices["test"]),
    )


@torch.no_grad()
def negative_log_likelihood(model: LearnedDynamics, data: TransitionData) -> float:
    """Mean Gaussian NLL of one step, per dimension of the change normalized by the model's statistics [nats].

    Dimensions that are constant in the model's data have no density and are left out.
    """
    total = 0.0
    for x, u, x_next in zip(*(rows.split(10_000) for rows in (data.x, data.u, data.x_next)), strict=True):
        prediction = model.predict(x, u)
        error = model.change(prediction.mean, x_next) / model.target_scale
        std = (prediction.std / model.target_scale).clamp_min(1e-12)
        nll = 0.5 * (error / std).square() + std.log() + 0.5 * math.log(2 * math.pi)
        total += float(nll[:, model.changes].mean(-1).sum())
    return total / len(data)


def _errors(
    model: LearnedDynamics, train: TransitionData, held_out: EvaluationWindows, generator: torch.Generator
) -> dict[str, PredictionErrors]:
    errors = {"model": evaluate_predictions(model, held_out, generator=generator)}
    if not isinstance(model, LinearModel):
        ridge = LinearModel(model.state_dim, model.control_dim, model.dt, angles=model.angles).to(train.x.device)
        ridge.solve(train)
        errors["ridge"] = evaluate_predictions(ridge, held_out)
    errors["persistence"] = persistence_errors(held_out)
    return errors


def _check(
    model: LearnedDynamics, trajectories: Sequence[Trajectory], test: Sequence[Trajectory] | None
) -> Literal["states", "observations"]:
    """The group of columns to learn from, "states" or "observations", after checking that everything fits together."""
    everything = [*trajectories, *(test or ())]
    check_compatible(everything)
    group = state_source(everything)
    first = next((t for t in everything if len(t)), None)
    if first is None:
        raise ValueError(f"none of the {len(everything)} trajectories has a step; a fit needs transitions")
    dims = getattr(first, group).shape[1], first.controls.shape[1]
    if dims != (model.state_dim, model.control_dim):
        raise ValueError(
            f"the model has {model.state_dim} states and {model.control_dim} controls, the trajectories have {dims[0]} "
            f"{group} and {dims[1]} controls; build the model with state_dim={dims[0]}, control_dim={dims[1]}"
        )
    if abs(first.dt - model.dt) > UNIFORM_TOLERANCE * model.dt:
        raise ValueError(
            f"the model has dt={model.dt:g} s, the trajectories {first.dt:g} s; build the model with dt={first.dt:g} or "
            "resample the trajectories"
        )
    given = {"state_names": getattr(first.names, group), "control_names": first.names.controls}
    for kind, logged in given.items():
        expected = getattr(model, kind)
        if expected != logged and not is_numbered(expected) and not is_numbered(logged):
            raise ValueError(f"the model's {kind} are {expected}, the trajectories have {logged}; reorder the columns")
    return group


def _split(
    trajectories: Sequence[Trajectory],
    test: Sequence[Trajectory] | None,
    test_fraction: float,
    validation_fraction: float,
    generator: torch.Generator,
) -> dict[str, list[int]]:
    """Indices of whole trajectories for train, validation and, unless it is given, test: at least one each."""
    for name, value in (("test_fraction", test_fraction), ("validation_fraction", validation_fraction)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1), got {value}")
    usable = [i for i, t in enumerate(trajectories) if len(t)]
    needed = 2 if test is not None else 3
    if len(usable) < needed:
        raise ValueError(
            f"need at least {needed} trajectories to hold whole ones out, got {len(usable)}; cut long ones with "
            "trajectory.segments(length)" + ("" if test is not None else ", or pass test=")
        )
    if test is not None and not any(len(t) for t in test):
        raise ValueError("test has no trajectory with a step; leave it out to hold out a share of trajectories")
    order = [usable[i] for i in torch.randperm(len(usable), generator=generator).tolist()]
    num_validation = max(1, round(validation_fraction * len(order)))
    num_test = 0 if test is not None else max(1, round(test_fraction * len(order)))
    if num_validation + num_test >= len(order):
        raise ValueError(
            f"test_fraction={test_fraction} and validation_fraction={validation_fraction} leave none of {len(order)} "
            "trajectories to learn from"
        )
    held_out, rest = order[:num_test], order[num_test:]
    return {"train": rest[num_validation:], "validation": rest[:num_validation], "test": held_out}


def _transitions(
    trajectories: Sequence[Trajectory], group: Literal["states", "observations"], device: torch.device
) -> TransitionData:
    found = transitions(trajectories, group)
    return TransitionData(*(torch.from_numpy(array).to(device) for array in (found.x, found.u, found.x_next)))
