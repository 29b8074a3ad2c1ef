"""Scalars to where people watch them, beside ``metrics.csv``: TensorBoard and Weights & Biases."""

import importlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

WandbMode = Literal["online", "offline", "disabled"]


@runtime_checkable
class Logger(Protocol):
    """What is told of every row of the metrics as it is made."""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Take a row: numbers by name, such as ``"eval/return"``, at a step."""

    def close(self) -> None:
        """Write what is still to be written; called once, at the end or after an interruption."""


class TensorBoardLogger:
    """Event files for ``tensorboard --logdir``; takes the extra ``tensorboard``.

    Where a run is resumed, what an earlier process has written from there on is purged, as it is logged again.

    Args:
        folder: where the files go, such as ``runs/first/tensorboard``; it is made at the first row.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError(
                'TensorBoardLogger takes tensorboard: pip install "mbrl-control[tensorboard]"', name="tensorboard"
            ) from error
        self.folder = Path(folder)
        self._make, self._writer = SummaryWriter, None

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Write a scalar for each number."""
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=step)
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write the rest."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandbLogger:
    """A run of Weights & Biases; takes the extra ``wandb``.

    Without network: ``mode="offline"``, or the environment variable ``WANDB_MODE=offline``; ``wandb sync`` uploads it later. Its
    id is kept in the folder, so that a run that is resumed goes on as the same one.

    Args:
        folder: where its files go, into ``wandb``, such as that of a run; it is made at the first row.
        project: of wandb; that of ``WANDB_PROJECT`` by default.
        name: that is shown.
        config: settings that are shown.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``; that of ``WANDB_MODE`` by default.

    Raises:
        ModuleNotFoundError: wandb is not installed.
        ValueError: there is no such mode.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str | None = None,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        mode: WandbMode | None = None,
    ):
        if mode not in (None, *get_args(WandbMode)):
            raise ValueError(f"mode must be one of {', '.join(get_args(WandbMode))}, or None, got {mode!r}")
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise ModuleNotFoundError(
                'WandbLogger takes wandb: pip install "mbrl-control[wandb]"', name="wandb"
            ) from error
        self.folder = Path(folder)
        self._run: Any = None
        self._given = {"project": project, "name": name, "config": dict(config or {}), "mode": mode}

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Send a row."""
        if self._run is None:
            self._run = self._wandb.init(dir=str(self.folder), id=self._id(), resume="allow", **self._given)
        self._run.log(dict(row), step=step)

    def close(self) -> None:
        """Send the rest."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _id(self) -> str:
        """That of the first start."""
        file = self.folder / "wandb" / "id.txt"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(secrets.token_hex(4), encoding="utf-8")
        return file.read_text(encoding="utf-8")
