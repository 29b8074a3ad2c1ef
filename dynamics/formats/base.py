"""What the readers share: the one error they raise, and the checks that every format needs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamics.trajectories import UNIFORM_TOLERANCE, RawLog


class TrajectoryFormatError(ValueError):
    """A file that cannot be read as trajectories: which file, where in it, what is wrong, how to fix it."""

    def __init__(self, file: str | os.PathLike[str], place: str, problem: str, fix: str):
        super().__init__(os.fspath(file), place, problem, fix)
        self.file, self.place, self.problem, self.fix = os.fspath(file), place, problem, fix

    def __str__(self) -> str:
        return f"{self.file}: {self.place + ': ' if self.place else ''}{self.problem} {self.fix}"


@contextmanager
def naming(file: str | os.PathLike[str], place: str, fix: str) -> Iterator[None]:
    """Turns a ValueError or TypeError about the data into a `TrajectoryFormatError` that names the file and the place."""
    try:
        yield
    except TrajectoryFormatError:
        raise
    except (ValueError, TypeError) as error:
        raise TrajectoryFormatError(file, place, str(error), fix) from error


def build_log(
    file: str | os.PathLike[str], place: str, *, times: npt.ArrayLike | None, dt: float | None, **fields: Any
) -> RawLog:
    """A `RawLog` of one episode; its times come from the file, or from the caller's dt where the file has none.

    Raises:
        TrajectoryFormatError: no times and no dt, a dt that contradicts the times, or arrays that do not belong together.
    """
    if times is None and dt is None:
        raise TrajectoryFormatError(file, place, "holds no time stamps.", "Pass dt= with the seconds per step.")
    with naming(file, place, "Correct the file, or choose other columns."):
        log = RawLog(times=times, dt=dt if times is None else None, **fields)
    steps = np.diff(log.times[np.isfinite(log.times)])
    if dt is not None and times is not None and steps.size:
        median = float(np.median(steps))
        if abs(median - dt) > UNIFORM_TOLERANCE * dt:
            problem = f"dt={dt:g} s was asked for, but the time stamps step by {median:.6g} s."
            fix = "Leave dt= out and resample afterwards, or check the unit of the stamps."
            raise TrajectoryFormatError(file, place, problem, fix)
    return log


@contextmanager
def open_hdf5(file: str | os.PathLike[str]) -> Iterator[Any]:
    """An HDF5 file opened for reading; a broken one raises `TrajectoryFormatError`."""
    import h5py

    try:
        with h5py.File(file, "r") as root:
            yield root
    except FileNotFoundError:
        raise
    except OSError as error:
        fix = "Copy the file again from where it came from."
        raise TrajectoryFormatError(file, "", f"is not HDF5, or it is truncated ({error}).", fix) from error
