"""Run folders: what was configured, measured and learned, and exact resume."""

from mbrl.runs.run import Run, RunError, open_run

__all__ = ["Run", "RunError", "open_run"]
