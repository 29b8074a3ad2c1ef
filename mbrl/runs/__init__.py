"""Run folders: what was configured, measured and learned, exact resume, and reading many of them."""

from mbrl.runs.evaluations import add_evaluation
from mbrl.runs.loggers import Logger, TensorBoardLogger, WandbLogger
from mbrl.runs.reading import RunGroup, RunRecord, find_runs, group_runs, read_run
from mbrl.runs.run import Run, RunError, open_run

__all__ = [
    "Logger",
    "Run",
    "RunError",
    "RunGroup",
    "RunRecord",
    "TensorBoardLogger",
    "WandbLogger",
    "add_evaluation",
    "find_runs",
    "group_runs",
    "open_run",
    "read_run",
]
