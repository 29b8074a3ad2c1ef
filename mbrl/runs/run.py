"""A folder per run, from which an interrupted run goes on as if nothing had happened.

=====================  ===========================================================================================
``config.json``        what was asked for; a resumed run must ask for the same
``system.json``        where it ran: versions, machine, commit, command line, one record per start
``metrics.csv``        scalars over steps, a row per :meth:`Run.log`
``trainer.pt``         the latest checkpoint, see :meth:`Run.save_state`
``model.safetensors``  the learned model, see :meth:`Run.save_model`
``summary.json``       the result; it marks the run as finished
=====================  ===========================================================================================

Exact resume takes four things: everything that changes is in the state (weights, optimizer, random generators, the step),
the state is saved as the last act of a step, the metrics of a step are logged before it, and nothing depends on the time of
day. Then N steps, a kill at any moment and a second start give the files of one uninterrupted run, bit for bit on the same
machine::

    run = open_run("runs/first", config=config)
    step = 0
    if state := run.load_state():
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
    while step < config.steps:
        step += 1
        loss = descend(model, optimizer, generator)
        run.log(step, loss=loss)
        if step % 100 == 0:
            run.save_state(
                {
                    "step": step,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                }
            )
    run.save_model(model)
    run.finish({"loss": loss})

What was logged after the last checkpoint is cut off at the second start, because it is logged again.
"""

import json
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

import dynamics
from dynamics import LearnedDynamics
from mbrl.runs import metrics
from mbrl.runs.files import replace_file, write_json
from mbrl.runs.records import json_values, system_record, told_differences

Resume = Literal["auto", "never", "must"]


class RunError(RuntimeError):
    """A run folder cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Run:
    """Handle of a run folder; what it knows is in the files.

    Attributes:
        folder: the folder. Runs are opened with :func:`open_run`.
    """

    folder: Path

    def path(self, name: str) -> Path:
        """The path of a file in the folder, ``run.path("figures/fit.png")``; folders on the way are created."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, step: int, **scalars: float | Tensor) -> None:
        """Append a row to ``metrics.csv``; columns that are new are added to the file, empty in the rows before.

        Args:
            step: what the row belongs to.
            **scalars: numbers, or arrays and tensors of one element. Other names than identifiers go in as
                ``**{"eval/return": 1.0}``.

        Raises:
            TypeError: a value is not a number.
            ValueError: a name holds a comma, quote or line break.
        """
        metrics.append(self.folder / "metrics.csv", {"step": step, **scalars})

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint ``trainer.pt``, whole or not at all.

        Args:
            state: everything that a resumed run needs: nested dicts, lists and tuples of tensors, numbers, strings and None.

        Raises:
            TypeError: the state holds something else, which could not be read back without executing code.
        """
        state = dict(state)
        _check_state("state", state)
        content = {"rows": metrics.count(self.folder / "metrics.csv"), "state": state}
        replace_file(self.folder / "trainer.pt", lambda partial: torch.save(content, partial))

    def load_state(self) -> dict[str, Any] | None:
        """The last checkpoint with its tensors on the CPU, or None if there is none yet.

        Raises:
            RunError: the checkpoint cannot be read.
        """
        checkpoint = self._checkpoint()
        return None if checkpoint is None else checkpoint["state"]

    def save_model(self, model: LearnedDynamics) -> Path:
        """Write a fitted model to ``model.safetensors``, from where ``dynamics.load`` reads it."""
        return dynamics.save(model, self.folder / "model.safetensors")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the result to ``summary.json``; a finished run is not continued or overwritten."""
        write_json(self.folder / "summary.json", json_values("summary", summary))

    def _checkpoint(self) -> dict[str, Any] | None:
        path = self.folder / "trainer.pt"
        if not path.exists():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise RunError(f"{path} is not a readable checkpoint; delete it to start over") from error
        if not (isinstance(content, dict) and content.keys() == {"rows", "state"}):
            raise RunError(f"{path} was not written by Run.save_state; delete it to start over")
        return content


def open_run(path: str | Path, *, config: Any, resume: Resume = "auto") -> Run:
    """Start a run in a new folder, or go on with an unfinished one.

    Args:
        path: the folder, for instance ``runs/cartpole-seed0``.
        config: what determines the run: a dataclass or mapping, nested as you like, with numbers, strings, paths, tensors.
        resume: ``"auto"`` goes on where there is something to go on with, ``"must"`` insists on it and ``"never"`` refuses.

    Returns:
        The run, with ``metrics.csv`` as it was at the last checkpoint.

    Raises:
        RunError: the folder holds something else or a finished run, its config differs (the differing keys are named), or
            ``resume`` forbids what is there.
        TypeError: the config holds something that has no JSON value.
        ValueError: ``resume`` is something else.
    """
    if resume not in get_args(Resume):
        raise ValueError(f"resume must be one of {', '.join(map(repr, get_args(Resume)))}, got {resume!r}")
    run, asked = Run(Path(path)), json_values("config", config)
    config_file = run.folder / "config.json"
    if config_file.exists():
        _check_resumable(run, asked, resume)
    elif run.folder.exists() and not (run.folder.is_dir() and not any(run.folder.iterdir())):
        raise RunError(f"{run.folder} exists and is not a run (there is no config.json); choose another path")
    elif resume == "must":
        raise RunError(f"there is no run at {run.folder} to go on with; start it with resume='auto'")
    else:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(config_file, asked)
    _cut_metrics(run)
    _record_start(run)
    return run


def _check_resumable(run: Run, asked: Any, resume: Resume) -> None:
    fix = "choose another path, or delete the folder to run again"
    if (run.folder / "summary.json").exists():
        raise RunError(f"the run at {run.folder} is finished (summary.json); {fix}")
    if resume == "never":
        raise RunError(f"there is an unfinished run at {run.folder}; go on with resume='auto', {fix}")
    try:
        before = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{run.folder / 'config.json'} is not readable JSON ({error}); {fix}") from error
    found = told_differences(before, asked)
    if found:
        raise RunError(
            f"the run at {run.folder} was started with another config; resume it with the same one, or choose another path: "
            f"{found}"
        )


def _record_start(run: Run) -> None:
    """Versions and machine of every start: a resume is exact on the same ones only."""
    path = run.folder / "system.json"
    try:
        starts = list(json.loads(path.read_text(encoding="utf-8"))["starts"]) if path.exists() else []
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no list of starts ({error}); delete it to go on") from error
    write_json(path, {"starts": [*starts, system_record()]})


def _cut_metrics(run: Run) -> None:
    """Leave in ``metrics.csv`` what was there at the last checkpoint."""
    checkpoint, path = run._checkpoint(), run.folder / "metrics.csv"
    logged, found = checkpoint["rows"] if checkpoint else 0, metrics.count(path)
    if found < logged:
        raise RunError(f"{path} has {found} rows, but had {logged} at the checkpoint; delete the folder to start over")
    metrics.cut(path, logged)


def _check_state(place: str, value: Any) -> None:
    """Raise TypeError for what ``torch.load(weights_only=True)`` would refuse; exact types, subclasses are pickled by name."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{place} has the key {key!r}; keys must be strings or integers")
            _check_state(f"{place}[{key!r}]", item)
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_state(f"{place}[{index}]", item)
    elif not isinstance(value, Tensor) and type(value) not in (int, float, bool, str, bytes, type(None)):
        raise TypeError(
            f"{place} is a {type(value).__module__}.{type(value).__qualname__}; the state is made of dicts, lists and tuples "
            "of tensors, numbers, strings and None (arrays go in by torch.from_numpy, numpy numbers by .item())"
        )
