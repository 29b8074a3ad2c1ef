"""Trajectories: what was measured and what was commanded, on one time axis.

A trajectory of T steps is

    y_0, u_0, y_1, u_1, ..., u_{T-1}, y_T      at times t_0 < t_1 < ... < t_T [s]

The control u_k is held over [t_k, t_{k+1}) (zero-order hold) and the reward r_k belongs to that step. Observations y are
what the sensors gave; full states x are there where somebody knew them (a simulation, an estimator).

`RawLog` holds the same arrays before anybody vouches for their values: NaN, repeated stamps and the like pass, so that
`audit` can look at them and the repairs in `preparation` can mend them. `RawLog.trajectory()` turns it into a
`Trajectory`, whose values are checked. Both are immutable; their arrays are read-only copies.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn, Self, final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

UNIFORM_TOLERANCE = 1e-3
"""A time grid counts as uniform while no step differs from the mean step by more than this share of it."""


@dataclass(frozen=True)
class Labels:
    """One text per column of a trajectory: names, or units ("" where nobody stated one).

    Attributes:
        observations: ny texts.
        controls: m texts.
        states: n texts; empty where there are no states.
    """

    observations: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    states: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, init=False, repr=False)
class _Log(ABC):
    """The arrays of one log with their shapes checked; what their values may be, a subclass decides."""

    observations: FloatArray  # (T+1, ny)
    controls: FloatArray  # (T, m)
    states: FloatArray | None  # (T+1, n)
    rewards: FloatArray | None  # (T,)
    times: FloatArray  # (T+1,) [s]
    terminated: bool
    truncated: bool
    names: Labels
    units: Labels
    source: str

    def __init__(
        self,
        observations: npt.ArrayLike,
        controls: npt.ArrayLike,
        *,
        states: npt.ArrayLike | None = None,
        rewards: npt.ArrayLike | None = None,
        times: npt.ArrayLike | None = None,
        dt: float | None = None,
        terminated: bool = False,
        truncated: bool = False,
        names: Labels | Mapping[str, Sequence[str]] | None = None,
        units: Labels | Mapping[str, Sequence[str]] | None = None,
        source: str = "",
    ):
        y = _array("observations", observations, ndim=2)
        u = _array("controls", controls, ndim=2)
        x = None if states is None else _array("states", states, ndim=2)
        r = None if rewards is None else _array("rewards", rewards, ndim=1)
        if 0 in y.shape:
            raise ValueError(f"observations must have at least one row and one column, got shape {y.shape}.")
        t = _times(times, dt, num_steps=len(y) - 1)
        for field, array in (("observations", y), ("controls", u), ("states", x), ("rewards", r), ("times", t)):
            _check_rows(field, array, num_observations=len(y))
            object.__setattr__(self, field, array)
        widths = {"observations": y.shape[1], "controls": u.shape[1], "states": 0 if x is None else x.shape[1]}
        for field, flag in (("terminated", terminated), ("truncated", truncated)):
            object.__setattr__(self, field, _flag(field, flag))
        object.__setattr__(self, "names", _labels("names", names, widths, default=_numbered_names))
        object.__setattr__(self, "units", _labels("units", units, widths, default=_no_units))
        object.__setattr__(self, "source", str(source))
        self._check_values()

    @abstractmethod
    def _check_values(self) -> None:
        """Raises ValueError where a value is not allowed."""

    @property
    def num_steps(self) -> int:
        """T, the number of controls."""
        return len(self.controls)

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> NoReturn:
        raise TypeError(
            f"a single {type(self).__name__} came where a sequence of them belongs; put it in a list: [log]"
        )

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; `names` and `units` as mappings change only the groups they name."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for field in ("names", "units"):
            if isinstance(changes.get(field), Mapping):
                changes[field] = {**dataclasses.asdict(fields[field]), **changes[field]}
        if "dt" in changes:
            fields["times"] = None
        return type(self)(**{**fields, **changes})

    def __repr__(self) -> str:
        parts = [f"T={self.num_steps}", f"t={self.times[0]:.6g}..{self.times[-1]:.6g} s"]
        for group in _GROUPS:
            names = getattr(self.names, group)
            if names:
                parts.append(f"{group}=({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})")
        parts += ["rewards"] if self.rewards is not None else []
        parts += [flag for flag in ("terminated", "truncated") if getattr(self, flag)]
        parts += [f"source={self.source!r}"] if self.source else []
        return f"{type(self).__name__}({', '.join(parts)})"


@final
class Trajectory(_Log):
    """One trajectory of T steps with checked values.

    Args:
        observations: (T+1, ny).
        controls: (T, m), each held until the next stamp.
        states: (T+1, n) full states, where they are known.
        rewards: (T,).
        times: (T+1,) [s], strictly increasing. Give either `times` or `dt`.
        dt: uniform step [s]; the times are then 0, dt, 2 dt, ...
        terminated: the last step ended in a terminal state of the task.
        truncated: the last step was the last for another reason (time limit, end of the recording).
        names: column names, a `Labels` or a mapping with keys observations, controls, states; y0, u0, x0, ... by default.
        units: column units in the same form; "" by default.
        source: where the data came from and what was done to it; errors and reports name it.

    T = 0 (one observation, no control) is valid; nothing can be fitted to it.

    Raises:
        ValueError: shapes that do not belong together, NaN or infinite values (named by column and row), times that do
            not increase, labels that do not fit.
    """

    def _check_values(self) -> None:
        for group in _GROUPS:
            if getattr(self, group) is not None:
                _check_finite(group, getattr(self, group), getattr(self.names, group))
        if self.rewards is not None:
            _check_finite("rewards", self.rewards[:, None], ("rewards",))
        _check_finite("times", self.times[:, None], ("times",))
        late = np.flatnonzero(np.diff(self.times) <= 0)
        if late.size:
            row = late[0] + 1
            fix = "Repeated stamps can be removed with drop_duplicates, on reading by repair=[drop_duplicates]."
            if (np.diff(self.times) < 0).any():
                fix = (
                    "A clock that runs backwards has been set, or rows are out of order: cut the log there, or sort it."
                )
            raise ValueError(
                f"times must increase strictly, but times[{row}] = {self.times[row]:.9g} s comes after "
                f"times[{row - 1}] = {self.times[row - 1]:.9g} s ({late.size} such rows in all). {fix}"
            )

    @property
    def dt(self) -> float:
        """The step of a uniform time grid [s].

        Raises:
            ValueError: the grid is not uniform, or there is no step at all.
        """
        if self.num_steps == 0:
            raise ValueError(f"{self!r} has a single observation and therefore no dt.")
        steps = np.diff(self.times)
        mean = (self.times[-1] - self.times[0]) / self.num_steps
        if not self.is_uniform():
            worst = int(np.argmax(np.abs(steps - mean)))
            raise ValueError(
                f"{self!r} has no single dt: step {worst} lasts {steps[worst]:.6g} s, the mean is {mean:.6g} s. "
                f"Resample it first: resample(trajectory, dt={np.median(steps):.3g})."
            )
        return float(f"{mean:.12g}")  # 12 digits, so that a grid built from 0.02 s gives 0.02 back

    def is_uniform(self, tolerance: float = UNIFORM_TOLERANCE) -> bool:
        """Whether every step is within `tolerance` (relative) of the mean step, up to the rounding of the stamps."""
        if self.num_steps == 0:
            return True
        mean = (self.times[-1] - self.times[0]) / self.num_steps
        rounding = 4 * np.finfo(float).eps * np.abs(self.times).max()
        return bool(np.abs(np.diff(self.times) - mean).max() <= tolerance * mean + rounding)

    def slice(self, start: int, stop: int) -> "Trajectory":
        """Steps start..stop-1 with their stop - start + 1 observations; a cut before the end is a truncation.

        Raises:
            ValueError: unless 0 <= start <= stop <= T.
        """
        if not 0 <= start <= stop <= self.num_steps:
            raise ValueError(f"slice({start}, {stop}) is outside the steps 0..{self.num_steps} of {self!r}.")
        rows, steps = slice(start, stop + 1), slice(start, stop)
        at_end = stop == self.num_steps
        return self.replace(
            observations=self.observations[rows],
            controls=self.controls[steps],
            states=None if self.states is None else self.states[rows],
            rewards=None if self.rewards is None else self.rewards[steps],
            times=self.times[rows],
            terminated=self.terminated and at_end,
            truncated=self.truncated if at_end else True,
            source=f"{self.source}[{start}:{stop}]",
        )

    def segments(self, length: int) -> "list[Trajectory]":
        """Consecutive pieces of `length` steps; the last one has what is left and keeps the flags of the end.

        Neighbours share the observation at the border, so no step is lost.

        Raises:
            ValueError: length < 1.
        """
        if length < 1:
            raise ValueError(f"segments need a length of at least 1 step, got {length}.")
        starts = range(0, max(self.num_steps, 1), length)
        return [self.slice(start, min(start + length, self.num_steps)) for start in starts]


@final
class RawLog(_Log):
    """A log as it was read: shapes and labels are checked, values are not. Takes the arguments of `Trajectory`."""

    def _check_values(self) -> None:
        """Everything passes; `audit` reports it and `trajectory` refuses it."""

    def trajectory(self) -> Trajectory:
        """The log as a `Trajectory`.

        Raises:
            ValueError: values that a trajectory does not allow.
        """
        return Trajectory(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


# ---------------------------------------------------------------------------------------------------------------------
# Collections: plain sequences of trajectories.


def origin(source: str) -> str:
    """Where a log came from, without the steps of preparation that its source lists after it."""
    return source.split(" | ")[0]


def check_compatible(trajectories: Sequence[Trajectory]) -> None:
    """Checks that trajectories can be used together: same dimensions, names, units and dt.

    Raises:
        TypeError: an entry is no `Trajectory`, or a single one came in place of a sequence.
        ValueError: the sequence is empty, a time grid is not uniform, or two trajectories disagree (both are named).
    """
    if not len(trajectories):
        raise ValueError("No trajectories: the collection is empty. Check the path or the filter they came from.")
    first: dict[str, tuple[Any, str]] = {}
    for index, trajectory in enumerate(trajectories):
        if not isinstance(trajectory, Trajectory):
            fix = "take .trajectory() of it" if isinstance(trajectory, RawLog) else "make one with Trajectory(...)"
            raise TypeError(f"Entry {index} must be a Trajectory, got {type(trajectory).__name__}; {fix}.")
        label = f"trajectory {index}" + (f" ({trajectory.source})" if trajectory.source else "")
        for what, value in _comparable(trajectory):
            reference, reference_label = first.setdefault(what, (value, label))
            same = np.isclose(value, reference, rtol=UNIFORM_TOLERANCE, atol=0) if what == "dt" else value == reference
            if not same:
                raise ValueError(
                    f"{reference_label} and {label} do not go together: {what} is {reference} in the first and {value} "
                    f"in the second. {'Resample both to one dt.' if what == 'dt' else 'Leave one out or relabel it.'}"
                )


def summarize(trajectories: Sequence[Trajectory]) -> str:
    """One line about a collection: counts, duration, dimensions."""
    check_compatible(trajectories)
    first = trajectories[0]
    steps = sum(trajectory.num_steps for trajectory in trajectories)
    seconds = sum(trajectory.times[-1] - trajectory.times[0] for trajectory in trajectories)
    with_states = sum(trajectory.states is not None for trajectory in trajectories)
    return (
        f"{len(trajectories)} trajectories, {steps} steps, {seconds:.6g} s; "
        f"observations ({', '.join(first.names.observations)}), controls ({', '.join(first.names.controls)}), "
        f"{with_states} with states"
    )


def state_source(
    trajectories: Sequence[Trajectory], use: Literal["auto", "states", "observations"] = "auto"
) -> Literal["states", "observations"]:
    """Which array plays the state: "auto" takes states where every trajectory has them, else observations.

    Raises:
        ValueError: some trajectories have states and some do not, or states are asked for where there are none.
    """
    if use not in ("auto", "states", "observations"):
        raise ValueError(f"use must be 'auto', 'states' or 'observations', got {use!r}.")
    missing = [trajectory for trajectory in trajectories if trajectory.states is None]
    if use == "observations" or (use == "auto" and len(missing) == len(trajectories)):
        return "observations"
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(trajectories)} trajectories have no states, the first is {missing[0]!r}. "
            "Pass use='observations', or leave these out."
        )
    return "states"


class Transitions(NamedTuple):
    """Stacked steps x' <- (x, u) of many trajectories."""

    x: FloatArray  # (N, n)
    u: FloatArray  # (N, m)
    x_next: FloatArray  # (N, n)
    trajectory: npt.NDArray[np.int64]  # (N,) index of the trajectory that each row comes from


class Windows(NamedTuple):
    """Stacked pieces of consecutive steps of many trajectories."""

    xs: FloatArray  # (N, length+1, n)
    us: FloatArray  # (N, length, m)
    trajectory: npt.NDArray[np.int64]  # (N,) index of the trajectory that each window comes from


def transitions(
    trajectories: Sequence[Trajectory], use: Literal["auto", "states", "observations"] = "auto"
) -> Transitions:
    """All N = sum of T steps of compatible trajectories, in order, never across a border.

    Raises:
        ValueError: trajectories that do not go together (`check_compatible`, `state_source`).
    """
    check_compatible(trajectories)
    group = state_source(trajectories, use)
    xs = [getattr(trajectory, group) for trajectory in trajectories]
    return Transitions(
        x=np.concatenate([x[:-1] for x in xs]),
        u=np.concatenate([trajectory.controls for trajectory in trajectories]),
        x_next=np.concatenate([x[1:] for x in xs]),
        trajectory=np.repeat(np.arange(len(trajectories)), [trajectory.num_steps for trajectory in trajectories]),
    )


def windows(
    trajectories: Sequence[Trajectory],
    length: int,
    *,
    stride: int = 1,
    use: Literal["auto", "states", "observations"] = "auto",
) -> Windows:
    """Pieces of `length` steps that start every `stride` steps of each trajectory, never across a border.

    A trajectory shorter than `length` has no window; `Windows.trajectory` shows which ones took part.

    Raises:
        ValueError: length or stride below 1, trajectories that do not go together, or none as long as `length`.
    """
    if length < 1 or stride < 1:
        raise ValueError(f"length and stride must be at least 1, got length={length}, stride={stride}.")
    check_compatible(trajectories)
    longest = max(trajectory.num_steps for trajectory in trajectories)
    if longest < length:
        raise ValueError(f"No window of {length} steps: the longest of {len(trajectories)} trajectories has {longest}.")
    group = state_source(trajectories, use)
    pieces = [(index, t) for index, t in enumerate(trajectories) if t.num_steps >= length]
    xs = [_sliding(getattr(t, group), length + 1)[::stride] for _, t in pieces]
    return Windows(
        xs=np.concatenate(xs),
        us=np.concatenate([_sliding(t.controls, length)[::stride] for _, t in pieces]),
        trajectory=np.repeat([index for index, _ in pieces], [len(x) for x in xs]),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Checks.

_GROUPS = ("observations", "controls", "states")


def _array(name: str, value: npt.ArrayLike, ndim: int) -> FloatArray:
    try:
        source = np.asarray(value)
        if source.dtype.kind not in "biuf":
            raise ValueError
        array = source.astype(np.float64)
    except ValueError as error:  # ragged nested lists, text, complex numbers, objects
        raise ValueError(
            f"{name} must be one rectangular array of real numbers, got {type(value).__name__}."
        ) from error
    if array.ndim != ndim:
        wanted = "(rows, columns)" if ndim == 2 else "(rows,)"
        hint = " A single column is array[:, None]." if (ndim, array.ndim) == (2, 1) else ""
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}.{hint}")
    array.flags.writeable = False
    return array


def _times(times: npt.ArrayLike | None, dt: float | None, num_steps: int) -> FloatArray:
    if times is not None and dt is None:
        return _array("times", times, ndim=1)
    if times is not None or dt is None:
        raise ValueError(f"Give times or dt, one of the two; got {'neither' if times is None else 'both'}.")
    if not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"dt must be a positive number of seconds, got {dt!r}.")
    return _array("times", dt * np.arange(num_steps + 1), ndim=1)


def _check_rows(name: str, array: FloatArray | None, num_observations: int) -> None:
    rows = num_observations - (name in ("controls", "rewards"))
    if array is not None and len(array) != rows:
        raise ValueError(
            f"{name} must have {rows} rows, got {len(array)}: there are {num_observations} observations, and T+1 "
            "observations (states, times) go with T controls (rewards)."
        )


def _check_finite(group: str, array: FloatArray, names: Sequence[str]) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{group}, column {names[column]!r}, row {row} is {array[row, column]}; {len(bad)} of {array.size} values are "
            "not finite. Missing samples can be filled with fill_gaps, on reading by repair=[fill_gaps]."
        )


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(
            f"{name} is one bool about the last step, got {type(value).__name__}; of an array take the last."
        )
    return bool(value)


def _labels(
    kind: str, given: Labels | Mapping[str, Sequence[str]] | None, widths: Mapping[str, int], default: Any
) -> Labels:
    if not isinstance(given, Labels | Mapping | None):
        raise ValueError(
            f"{kind} must be a mapping such as {{'observations': [...], 'controls': [...]}}, got {given!r}."
        )
    given = dataclasses.asdict(given) if isinstance(given, Labels) else dict(given or {})
    if unknown := set(given) - set(_GROUPS):
        raise ValueError(f"{kind} has the unknown key {sorted(unknown)[0]!r}; known are {', '.join(_GROUPS)}.")
    labels = {group: tuple(default(group, width)) for group, width in widths.items()}
    for group, texts in given.items():
        if texts is None or len(texts) == 0 or widths[group] == 0:
            continue
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{kind} of {group} must be a sequence of str, got {texts!r}.")
        if len(texts) != widths[group]:
            raise ValueError(f"{kind} of {group} has {len(texts)} entries {tuple(texts)} for {widths[group]} columns.")
        if kind == "names" and len(set(texts)) != len(texts):
            double = next(text for text in texts if list(texts).count(text) > 1)
            raise ValueError(f"names of {group} must differ, but {double!r} appears twice in {tuple(texts)}.")
        labels[group] = tuple(texts)
    return Labels(**labels)


def _numbered_names(group: str, width: int) -> Iterator[str]:
    letter = {"observations": "y", "controls": "u", "states": "x"}[group]
    return (f"{letter}{i}" for i in range(width))


def _no_units(group: str, width: int) -> tuple[str, ...]:
    return ("",) * width


def _comparable(trajectory: Trajectory) -> Iterator[tuple[str, Any]]:
    """What must agree within a collection; states only among those that have them, dt only where there is a step."""
    for group in _GROUPS:
        if getattr(trajectory, group) is not None:
            yield f"dimension of {group}", getattr(trajectory, group).shape[1]
            yield f"names of {group}", getattr(trajectory.names, group)
            yield f"units of {group}", getattr(trajectory.units, group)
    if trajectory.num_steps:
        yield "dt", trajectory.dt


def _sliding(array: FloatArray, rows: int) -> FloatArray:
    """(N, columns) -> (N - rows + 1, rows, columns)."""
    return np.lib.stride_tricks.sliding_window_view(array, rows, axis=0).swapaxes(1, 2)
