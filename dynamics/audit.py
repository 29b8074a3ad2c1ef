"""Auditing logs before a model is fitted to them: what a plot of every column would show, in numbers.

    kind              what is counted
    missing           values that are NaN or infinite, per column
    time backwards    stamps earlier than the one before
    duplicate time    stamps equal to the one before
    gap               steps longer than 1.5 median steps
    jitter            other steps that differ from the median step by more than 1 %
    duplicate row     rows of observations equal to the row before in every column (a stuck sensor, a repeated message)
    constant          columns with a single value
    clipped           controls at a limit; without limits, more than 5 % of the samples at the largest or smallest value
                      of a column that takes more than ten values
    beyond limits     controls outside the limits

A finding is a reason to look, not always a fault: a command may well be constant.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamics.tables import text_table
from dynamics.trajectories import FloatArray, RawLog, Trajectory, origin

GAP = 1.5
JITTER = 0.01
CLIPPED_SHARE = 0.05
CLIPPED_MIN_VALUES = 10


@dataclass(frozen=True)
class Finding:
    """One kind of defect in one column of one log.

    Attributes:
        source: source of the log, or its index where it has none.
        kind: see the module.
        column: "group: name", or "times", or "observations" for whole rows.
        count: how many rows or steps.
        first: row of the first one.
        detail: the number behind it, e.g. the longest gap.
    """

    source: str
    kind: str
    column: str
    count: int
    first: int
    detail: str = ""


@dataclass(frozen=True)
class AuditReport:
    """What an audit found; `print(report)` shows one line per kind and column, with the log where it is worst.

    `findings` has every log.
    """

    findings: tuple[Finding, ...]
    num_logs: int
    num_steps: int

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __str__(self) -> str:
        total = f"{self.num_logs} logs, {self.num_steps} steps: {len(self.findings) or 'no'} findings"
        return total if self.ok else f"{total}\n{text_table(*self.table())}"

    def table(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Column titles and the rows that are printed."""
        return _HEADER, [_row(group) for group in _groups(self.findings)]


_HEADER = ("kind", "column", "logs", "count", "detail", "first row", "of log")


def _groups(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one kind in one column, over all logs, in order of first appearance."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.kind, finding.column), []).append(finding)
    return list(groups.values())


def _row(group: Sequence[Finding]) -> list[str]:
    """One line for a group, with the place and detail of its worst log."""
    worst = max(group, key=lambda finding: finding.count)
    source = origin(worst.source)
    source = source if len(source) <= 60 else f"...{source[-57:]}"
    counts = sum(finding.count for finding in group)
    logs = len({finding.source for finding in group})
    return [worst.kind, worst.column, str(logs), str(counts), worst.detail, str(worst.first), source]


def audit(
    logs: Sequence[Trajectory | RawLog],
    control_limits: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> AuditReport:
    """Lists gaps, missing values, duplicates, constant columns, jitter and clipped controls.

    Args:
        logs: trajectories, or raw logs from `read_logs`, whose values may be anything.
        control_limits: (lower, upper), each a number or one per control, in the units of the log.

    Raises:
        ValueError: no logs, or limits that do not fit the controls.
    """
    if not len(logs):
        raise ValueError("No logs to audit: the collection is empty.")
    findings = []
    for index, log in enumerate(logs):
        source = log.source or f"log {index}"
        checks = (_missing(log), _time_axis(log), _repeats(log), _clipped(log, control_limits))
        for check in checks:
            for kind, column, rows, detail in check:
                if len(rows):
                    findings.append(Finding(source, kind, column, len(rows), int(rows[0]), detail))
    return AuditReport(tuple(findings), num_logs=len(logs), num_steps=sum(log.num_steps for log in logs))


_Check = Iterator[tuple[str, str, npt.NDArray[np.intp], str]]  # kind, column, rows, detail


def _columns(log: Trajectory | RawLog) -> Iterator[tuple[str, FloatArray]]:
    for group in ("observations", "controls", "states"):
        if getattr(log, group) is not None:
            yield from zip((f"{group}: {n}" for n in getattr(log.names, group)), getattr(log, group).T, strict=True)
    if log.rewards is not None:
        yield "rewards", log.rewards


def _missing(log: Trajectory | RawLog) -> _Check:
    for column, values in [*_columns(log), ("times", log.times)]:
        yield "missing", column, np.flatnonzero(~np.isfinite(values)), ""


def _time_axis(log: Trajectory | RawLog) -> _Check:
    times = _finite_or_nan(log.times)
    steps = np.diff(times)
    forward = steps[steps > 0]
    yield "time backwards", "times", np.flatnonzero(steps < 0) + 1, ""
    yield "duplicate time", "times", np.flatnonzero(steps == 0) + 1, ""
    if forward.size:
        median = float(np.median(forward))
        rounding = 4 * np.finfo(float).eps * np.nanmax(np.abs(times))
        gap = steps > GAP * median
        jitter = (steps > 0) & ~gap & (np.abs(steps - median) > JITTER * median + rounding)
        longest = f"longest {forward.max():.4g} s, median step {median:.4g} s"
        yield "gap", "times", np.flatnonzero(gap), longest
        spread = steps[jitter] - median
        worst = f"up to {np.abs(spread).max() / median:.1%} of {median:.4g} s" if spread.size else ""
        yield "jitter", "times", np.flatnonzero(jitter), worst


def _repeats(log: Trajectory | RawLog) -> _Check:
    same = (log.observations[1:] == log.observations[:-1]).all(axis=1)
    yield "duplicate row", "observations", np.flatnonzero(same) + 1, ""
    for column, values in _columns(log):
        finite = np.flatnonzero(np.isfinite(values))
        if finite.size > 1 and np.ptp(values[finite]) == 0:
            yield "constant", column, finite, f"{values[finite[0]] + 0.0:.6g}"


def _clipped(log: Trajectory | RawLog, limits: tuple[npt.ArrayLike, npt.ArrayLike] | None) -> _Check:
    lower, upper = (None, None) if limits is None else (_limit(limit, log) for limit in limits)
    if lower is not None and upper is not None and not (lower < upper).all():
        raise ValueError(f"control_limits must be (lower, upper) with lower < upper, got {limits}.")
    if log.num_steps == 0:
        return
    for i, (name, u) in enumerate(zip(log.names.controls, _finite_or_nan(log.controls).T, strict=True)):
        column = f"controls: {name}"
        if lower is not None and upper is not None:
            near = np.nan_to_num(1e-9 * (upper[i] - lower[i]), posinf=0.0)  # for rounding; limits may be infinite
            outside = (u < lower[i] - near) | (u > upper[i] + near)
            at_limit = ((np.abs(u - lower[i]) <= near) | (np.abs(u - upper[i]) <= near)) & ~outside
            yield "beyond limits", column, np.flatnonzero(outside), f"limits {lower[i]:.6g} to {upper[i]:.6g}"
            yield "clipped", column, np.flatnonzero(at_limit), f"{at_limit.mean():.1%} of the samples at a limit"
        elif len(np.unique(u[np.isfinite(u)])) > CLIPPED_MIN_VALUES:
            for extreme in (np.nanmin(u), np.nanmax(u)):
                at_extreme = u == extreme
                if at_extreme.mean() > CLIPPED_SHARE:
                    yield "clipped", column, np.flatnonzero(at_extreme), f"{at_extreme.mean():.1%} at {extreme:.6g}"


def _finite_or_nan(array: FloatArray) -> FloatArray:
    return np.where(np.isfinite(array), array, np.nan)


def _limit(limit: npt.ArrayLike, log: Trajectory | RawLog) -> FloatArray:
    values = np.asarray(limit, dtype=np.float64)
    if values.shape not in ((), (1,), log.controls.shape[1:]):
        raise ValueError(
            f"A control limit must be a number or one per control {log.names.controls}, got {values.tolist()}."
        )
    return np.broadcast_to(values, log.controls.shape[1:])
