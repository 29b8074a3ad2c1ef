"""Preparing real logs: repairs, units, one dt, velocities from positions, actuation latency.

Every function returns a new log and writes into its `source` what was done. The repairs (`drop_duplicates`, `fill_gaps`)
also take a `RawLog`, so they can be applied while reading: `read_trajectories(path, repair=[drop_duplicates])`.

Where the time axis changes, a control stays what it is, a signal held between its stamps,

    u(t) = u_k  for t_k <= t < t_{k+1},

and a new step over [a, b) gets the mean of u(t) over it: the held value itself where it does not change within the step,
otherwise the constant with the same impulse. Rewards of the old steps are shared out in proportion to time, so that their
sum over the covered span stays the same.

Angles are columns named in `angles=`; they are interpolated and differentiated along the shorter way round. Their period
follows from the unit of the column: 360 for deg, 1 for rev, otherwise 2π.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from dynamics.trajectories import FloatArray, RawLog, Trajectory

AnyLog = TypeVar("AnyLog", RawLog, Trajectory)

_GAP = 5.0  # steps longer than this many median steps are gaps, which nothing interpolates across unasked
_PERIODS = {"deg": 360.0, "rev": 1.0}
_UNITS = (  # units of one dimension, each with its value in the SI unit
    {"rad": 1.0, "deg": np.pi / 180, "rev": 2 * np.pi},
    {"rad/s": 1.0, "deg/s": np.pi / 180, "rev/s": 2 * np.pi, "rpm": 2 * np.pi / 60},
    {"m": 1.0, "mm": 1e-3, "cm": 1e-2, "km": 1e3, "in": 0.0254, "ft": 0.3048},
    {"m/s": 1.0, "mm/s": 1e-3, "cm/s": 1e-2, "km/h": 1 / 3.6, "mph": 0.44704},
    {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0},
    {"N": 1.0, "mN": 1e-3, "kN": 1e3, "lbf": 4.4482216152605},
    {"N m": 1.0, "mN m": 1e-3, "N mm": 1e-3, "kN m": 1e3},
    {"kg": 1.0, "g": 1e-3},
    {"A": 1.0, "mA": 1e-3},
    {"V": 1.0, "mV": 1e-3},
)


def resample(
    trajectory: Trajectory,
    dt: float,
    *,
    method: Literal["linear", "cubic"] = "linear",
    angles: Sequence[str] = (),
    max_gap: float | None = None,
) -> Trajectory:
    """The trajectory on the uniform grid t_0, t_0 + dt, ..., as far as it lies within the old times.

    Observations and states are interpolated, controls and rewards are shared out (see the module). What remains after
    the last full step is left out; a terminated trajectory that loses its end this way counts as truncated.

    Args:
        trajectory: T steps on any grid.
        dt: the new step [s].
        method: "linear", or "cubic" for a cubic spline (for smooth signals without noise).
        angles: names of the columns that are angles.
        max_gap: longest old step [s] to interpolate across; by default five median steps, or dt if that is longer.

    Raises:
        ValueError: the trajectory is shorter than dt, a gap is longer than `max_gap`, or a name is unknown.
    """
    if not dt > 0:
        raise ValueError(f"dt must be a positive number of seconds, got {dt!r}.")
    if method not in ("linear", "cubic"):
        raise ValueError(f"method must be 'linear' or 'cubic', got {method!r}.")
    t, duration = trajectory.times, trajectory.times[-1] - trajectory.times[0]
    num_steps = int(np.floor(duration / dt * (1 + 1e-9)))
    if num_steps < 1:
        raise ValueError(f"{trajectory!r} lasts {duration:.6g} s, which is shorter than one step of {dt:g} s.")
    steps = np.diff(t)
    max_gap = max(_GAP * float(np.median(steps)), dt) if max_gap is None else max_gap
    if steps.max() > max_gap:
        raise ValueError(
            f"step {steps.argmax()} of {trajectory!r} lasts {steps.max():.6g} s; filling it would invent data. "
            f"Cut there with trajectory.slice(...), or allow it with max_gap={steps.max():.3g}."
        )
    new = np.minimum(t[0] + dt * np.arange(num_steps + 1), t[-1])  # rounding must not lead past the end
    keeps_end = t[-1] - new[-1] < 1e-6 * dt
    fields = _columns(trajectory, angles, lambda y, period: _interpolate(t, y, new, method, period))
    return trajectory.replace(
        **fields,
        controls=_held_mean(t, trajectory.controls, new),
        rewards=None if trajectory.rewards is None else _shares(t, trajectory.rewards, new),
        times=t[0] + dt * np.arange(num_steps + 1),
        terminated=trajectory.terminated and keeps_end,
        truncated=trajectory.truncated or not keeps_end,
        source=_done(trajectory, f"resample(dt={dt:g}, {method})"),
    )


def estimate_velocities(
    trajectory: Trajectory,
    columns: Sequence[str],
    *,
    window_length: int = 9,
    polyorder: int = 2,
    angles: Sequence[str] = (),
) -> Trajectory:
    """Appends smoothed time derivatives of observations, named `<column>_velocity` with the unit `<unit>/s`.

    Savitzky-Golay differentiation: the derivative of a polynomial fitted to `window_length` samples around each one. The
    estimate therefore looks (window_length - 1) / 2 samples ahead: right for fitting a model, not what a controller
    sees while it runs. With polyorder 2, noise of standard deviation σ in the column becomes
    σ / (dt sqrt(Σ k²)), k = -(window_length-1)/2 ... (window_length-1)/2, in the velocity.

    Args:
        trajectory: T steps of one dt.
        columns: names of observations.
        window_length: samples per fit, odd.
        polyorder: degree of the polynomial, below `window_length`.
        angles: which of the columns are angles.

    Raises:
        ValueError: unknown names, a grid that is not uniform, or a window that does not fit.

    Reference: Savitzky and Golay, Analytical Chemistry 36(8), 1964.
    """
    from scipy.signal import savgol_filter

    names, units = trajectory.names.observations, trajectory.units.observations
    _check_names(columns, names, "observations")
    _check_names(angles, columns, "the columns to differentiate")
    if window_length % 2 == 0 or not 1 <= polyorder < window_length:
        raise ValueError(f"window_length must be odd and above polyorder, got {window_length} and {polyorder}.")
    if window_length > trajectory.num_steps + 1:
        raise ValueError(
            f"window_length={window_length} is more than the {trajectory.num_steps + 1} rows of {trajectory!r}."
        )
    if not columns:
        return trajectory
    positions = trajectory.observations[:, [names.index(column) for column in columns]].copy()
    for i, column in enumerate(columns):
        if column in angles:
            positions[:, i] = np.unwrap(positions[:, i], period=_period(units[names.index(column)]))
    velocities = np.asarray(savgol_filter(positions, window_length, polyorder, deriv=1, delta=trajectory.dt, axis=0))
    new_units = [f"{unit}/s" if (unit := units[names.index(column)]) else "" for column in columns]
    return trajectory.replace(
        observations=np.column_stack([trajectory.observations, velocities]),
        names={"observations": [*names, *(f"{column}_velocity" for column in columns)]},
        units={"observations": [*units, *new_units]},
        source=_done(trajectory, f"estimate_velocities({', '.join(columns)}; window={window_length})"),
    )


def shift_latency(trajectory: Trajectory, seconds: float) -> Trajectory:
    """Moves each control to where it acts: what was commanded at t acts from t + seconds on.

    The observations up to t_0 + seconds answer to controls from before the log and are left out, like the controls that
    would act after its end. A latency that is not a whole number of steps mixes two controls in each step (see the
    module).

    Args:
        trajectory: T steps on any grid.
        seconds: the latency [s], not negative.

    Raises:
        ValueError: a negative latency, or one that leaves no step.
    """
    if not seconds >= 0:
        raise ValueError(f"The latency must not be negative, got {seconds!r} s.")
    t = trajectory.times
    first = int(np.searchsorted(t, t[0] + seconds - 1e-9 * (t[-1] - t[0])))
    if first >= trajectory.num_steps:
        raise ValueError(f"A latency of {seconds:g} s leaves no step of {trajectory!r}.")
    return trajectory.replace(
        observations=trajectory.observations[first:],
        controls=_held_mean(t, trajectory.controls, np.maximum(t[first:] - seconds, t[0])),
        states=None if trajectory.states is None else trajectory.states[first:],
        rewards=None if trajectory.rewards is None else trajectory.rewards[first:],
        times=t[first:],
        source=_done(trajectory, f"shift_latency({seconds:g} s)"),
    )


def convert_units(trajectory: AnyLog, units: Mapping[str, str]) -> AnyLog:
    """Converts columns to other units of the same dimension, wherever the names occur.

    Args:
        trajectory: a trajectory or raw log whose `units` say what the columns are in.
        units: column name -> new unit, e.g. {"heading": "rad", "engine": "rad/s"}.

    Raises:
        ValueError: an unknown column, a column without a unit, or units that do not convert into each other.
    """
    _check_names([*units], [name for group in _names(trajectory).values() for name in group], "the log")
    if not units:
        return trajectory
    arrays, new_units = {}, {}
    for group, names in _names(trajectory).items():
        array, texts = getattr(trajectory, group).copy(), list(getattr(trajectory.units, group))
        for name in units.keys() & set(names):
            column = names.index(name)
            array[:, column] *= _factor(name, texts[column], units[name])
            texts[column] = units[name]
        arrays[group], new_units[group] = array, texts
    what = ", ".join(f"{name} in {unit}" for name, unit in units.items())
    return trajectory.replace(**arrays, units=new_units, source=_done(trajectory, f"convert_units({what})"))


def drop_duplicates(log: AnyLog) -> AnyLog:
    """Removes rows with the same time stamp as the next row, together with the control and reward of their empty step.

    The row that stays is the last one with its stamp, because its control is the one that then acts.
    """
    keep = np.append(np.diff(log.times) != 0, True)
    if keep.all():
        return log
    return log.replace(
        observations=log.observations[keep],
        controls=log.controls[keep[:-1]],
        states=None if log.states is None else log.states[keep],
        rewards=None if log.rewards is None else log.rewards[keep[:-1]],
        times=log.times[keep],
        source=_done(log, f"drop_duplicates({(~keep).sum()} rows)"),
    )


def fill_gaps(log: AnyLog, *, max_gap: float | None = None, angles: Sequence[str] = ()) -> AnyLog:
    """Fills missing values: observations and states linearly in time, controls with the value held so far.

    Args:
        log: a raw log (a trajectory has no missing values). Its times must be complete.
        max_gap: longest stretch [s] between two valid values to fill; by default five median steps.
        angles: names of the columns that are angles.

    Raises:
        ValueError: missing stamps, values missing at the start or end, or a stretch longer than `max_gap`.
    """
    t = log.times
    if not np.isfinite(t).all() or (np.diff(t) < 0).any():
        raise ValueError("Values are filled in along the time axis, but time stamps are missing or run backwards.")
    missing = {group: int((~np.isfinite(getattr(log, group))).sum()) for group in _names(log)}
    if not any(missing.values()):
        return log
    max_gap = _GAP * float(np.median(np.diff(t))) if max_gap is None else max_gap

    def fill(y: FloatArray, period: float | None) -> FloatArray:
        known = np.isfinite(y)
        return np.where(known, y, _interpolate(t[known], y[known], t, "linear", period))

    for group, names in _names(log).items():
        stamps = t if group != "controls" else t[:-1]
        for name, y in zip(names, getattr(log, group).T, strict=True):
            _check_gap(group, name, stamps, np.isfinite(y), max_gap)
    controls = log.controls.copy()
    for column in controls.T:
        known = np.maximum.accumulate(np.where(np.isfinite(column), np.arange(len(column)), 0))
        column[:] = column[known]
    what = ", ".join(f"{count} in {group}" for group, count in missing.items() if count)
    return log.replace(**_columns(log, angles, fill), controls=controls, source=_done(log, f"fill_gaps({what})"))


# ---------------------------------------------------------------------------------------------------------------------


def _held_mean(t: FloatArray, u: FloatArray, edges: FloatArray) -> FloatArray:
    """Mean of the held signal u(t) over [edges_k, edges_{k+1}): (T', m)."""
    rounding = 1e-9 * np.diff(edges).min()
    held = np.clip(np.searchsorted(t, edges[:-1] + rounding, side="right") - 1, 0, len(u) - 1)
    single = t[held + 1] >= edges[1:] - rounding
    integral = np.vstack([np.zeros(u.shape[1]), np.cumsum(u * np.diff(t)[:, None], axis=0)])
    at_edges = np.column_stack([np.interp(edges, t, column) for column in integral.T])
    mean = np.diff(at_edges, axis=0) / np.diff(edges)[:, None]
    return np.where(single[:, None], u[held], mean)  # exact where the value is simply held


def _shares(t: FloatArray, rewards: FloatArray, edges: FloatArray) -> FloatArray:
    return np.diff(np.interp(edges, t, np.concatenate([[0.0], np.cumsum(rewards)])))


def _interpolate(t: FloatArray, y: FloatArray, new: FloatArray, method: str, period: float | None) -> FloatArray:
    """y(new); for an angle along the shorter way round, in the range that the old values wrap to."""
    continuous = y if period is None else np.unwrap(y, period=period)
    if method == "cubic":
        from scipy.interpolate import CubicSpline

        values = CubicSpline(t, continuous)(new)
    else:
        values = np.interp(new, t, continuous)
    if period is None or np.array_equal(continuous, y):
        return values
    lower = -period / 2 if y.min() < 0 else 0.0
    return (values - lower) % period + lower


def _columns(
    log: RawLog | Trajectory, angles: Sequence[str], function: Callable[[FloatArray, float | None], FloatArray]
) -> dict[str, FloatArray]:
    """Applies function(column, period) to every column of observations and states."""
    groups = {group: names for group, names in _names(log).items() if group != "controls"}
    _check_names(angles, [name for names in groups.values() for name in names], "observations and states")
    result = {}
    for group, names in groups.items():
        periods = [_period(u) if n in angles else None for n, u in zip(names, getattr(log.units, group), strict=True)]
        columns = [function(y, period) for y, period in zip(getattr(log, group).T, periods, strict=True)]
        result[group] = np.column_stack(columns)
    return result


def _check_gap(group: str, name: str, t: FloatArray, known: npt.NDArray[np.bool_], max_gap: float) -> None:
    where = f"{group}, column {name!r}"
    if known.all():
        return
    if not known[0] or (group != "controls" and not known[-1]):
        end = "start" if not known[0] else "end"
        raise ValueError(f"{where}: values are missing at the {end}, where there is nothing to fill from; cut the log.")
    valid = np.flatnonzero(known)
    gaps = np.where(np.diff(valid) > 1, np.diff(t[valid]), 0.0)
    if group == "controls" and not known[-1]:
        gaps, valid = np.append(gaps, t[-1] - t[valid[-1]]), np.append(valid, len(t))
    if gaps.size and gaps.max() > max_gap:
        raise ValueError(
            f"{where}: nothing valid for {gaps.max():.6g} s after row {valid[gaps.argmax()]}, more than {max_gap:.6g} s. "
            f"Cut the log there, or allow it with functools.partial(fill_gaps, max_gap={gaps.max():.3g})."
        )


def _factor(name: str, old: str, new: str) -> float:
    if not old:
        raise ValueError(
            f"Column {name!r} has no unit. State it first: trajectory.replace(units=...), or units= on reading."
        )
    for dimension in _UNITS:
        if old in dimension and new in dimension:
            return dimension[old] / dimension[new]
    known = "; ".join(", ".join(dimension) for dimension in _UNITS)
    raise ValueError(
        f"Column {name!r} cannot be converted from {old!r} to {new!r}. Known units, by dimension: {known}."
    )


def _period(unit: str) -> float:
    return _PERIODS.get(unit, 2 * np.pi)


def _names(log: RawLog | Trajectory) -> dict[str, tuple[str, ...]]:
    groups = ("observations", "controls", "states")
    return {group: getattr(log.names, group) for group in groups if getattr(log, group) is not None}


def _check_names(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    if isinstance(wanted, str):  # its letters would be taken for names
        raise ValueError(f"Columns are given as a sequence of names, got {wanted!r}; write [{wanted!r}].")
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"There is no column {unknown[0]!r} in {where}; there are {', '.join(known)}.")


def _done(log: RawLog | Trajectory, what: str) -> str:
    return f"{log.source} | {what}" if log.source else what
