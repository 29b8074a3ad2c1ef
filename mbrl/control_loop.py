"""A control loop on a real or simulated plant: fixed rate, safety limits, a log in the library's own format.

Cycle k is due at k times the period, counted from the start, so that errors of single cycles do not add up:

    y_k = read,  u_k = act(y_k),  clamp u_k,  write u_k

A cycle that is due while the one before is still running begins late, and one that is due while a later one is due as well is
left out: the loop never hurries to make up for lost time. However the loop ends, the last thing written is the safe control.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dynamics import Labels, Trajectory, write_trajectories
from dynamics.progress import progress_bar
from mbrl.policies.actor import Actor, require_actor

Limits = tuple[float | Sequence[float] | Tensor, float | Sequence[float] | Tensor]

LATE = 0.1
"""A cycle that begins later than this share of a period is counted as late."""


class Plant(Protocol):
    """What a control loop reads from and writes to. ``names``, ``units`` and ``stop()`` are used where a plant has them."""

    def read(self) -> Tensor | np.ndarray | Sequence[float]:
        """The present measurement ``(ny,)``."""
        ...

    def write(self, u: Tensor) -> None:
        """Apply controls ``(m,)`` until the next write."""
        ...


@dataclass(frozen=True, eq=False)
class Safety:
    """What keeps a plant whole. Everything is a number or has one entry per column.

    Attributes:
        control_limits: (lower, upper); controls are clamped to them.
        rate_limits: (lower, upper) change of control per second, from the safe control on; controls are clamped to them.
        envelope: (lower, upper) of the measurement; outside of it the loop ends.
        safe_control: written when the loop ends, however it ends.
        max_dropouts: measurements in a row that may be not finite before the loop ends; the control is held meanwhile.

    Raises:
        ValueError: limits are inverted or not numbers, the safe control is not finite or outside the limits, or the number of
            dropouts is negative.
    """

    control_limits: Limits | None = None
    rate_limits: Limits | None = None
    envelope: Limits | None = None
    safe_control: float | Sequence[float] | Tensor = 0.0
    max_dropouts: int = 0

    def __post_init__(self):
        for name in ("control_limits", "rate_limits", "envelope"):
            limits = getattr(self, name)
            if limits is None:
                continue
            try:
                lower, upper = (_row(limit) for limit in limits)
                ordered = bool((lower <= upper).all())
            except (TypeError, ValueError, RuntimeError):
                raise ValueError(f"{name} must be (lower, upper), numbers or one per column, got {limits}") from None
            if not ordered:
                raise ValueError(f"{name} must satisfy lower <= upper everywhere, got {limits}")
        safe = _row(self.safe_control)
        if not bool(safe.isfinite().all()) or (
            self.control_limits is not None and bool((_clamped(safe, self.control_limits) != safe).any())
        ):
            raise ValueError(
                f"safe_control must be finite and within control_limits={self.control_limits}, got {self.safe_control}"
            )
        if self.max_dropouts < 0:
            raise ValueError(f"max_dropouts must be at least 0, got {self.max_dropouts}")

    def applied(self, u: Tensor, previous: Tensor, seconds: float) -> Tensor:
        """What may be written instead of u ``(m,)`` some seconds after the previous control ``(m,)``."""
        if self.rate_limits is not None:
            fall, rise = _columns("rate_limits", self.rate_limits, u)
            u = torch.minimum(torch.maximum(u, previous + fall * seconds), previous + rise * seconds)
        return u if self.control_limits is None else _clamped(u, _columns("control_limits", self.control_limits, u))

    def violation(self, y: Tensor, names: Sequence[str]) -> str | None:
        """What of a measurement ``(ny,)`` lies outside of the envelope, in words; None if nothing does."""
        if self.envelope is None:
            return None
        lower, upper = _columns("envelope", self.envelope, y)
        outside = ((y < lower) | (y > upper)).nonzero()
        if not len(outside):
            return None
        i = int(outside[0])
        return (
            f"{names[i]} = {float(y[i]):.6g} is outside of the envelope, {float(lower[i]):.6g} to {float(upper[i]):.6g}"
        )


@dataclass(frozen=True, eq=False)
class ControlLoopResult:
    """How a control loop went.

    Attributes:
        trajectory: what was measured and written, at the times of measurement since the start [s]; a control whose outcome
            was not measured any more is not part of it. None if nothing was measured.
        ended: why the loop ended, in words.
        completed: whether it ended because all cycles were done.
        error: what was raised inside, or None.
        period: time from cycle to cycle [s].
        lateness: of each cycle, how much later than due it began [s].
        latency: of each cycle, time from its beginning until its control was written [s].
        missed: cycles left out because one before took too long.
        limited: cycles whose control the safety limits changed.
        dropouts: measurements that were not finite.
        memory: the actor's, after the last cycle.
    """

    trajectory: Trajectory | None
    ended: str
    completed: bool
    error: BaseException | None
    period: float
    lateness: np.ndarray
    latency: np.ndarray
    missed: int
    limited: int
    dropouts: int
    memory: Any

    @property
    def late(self) -> int:
        """Cycles that began more than a tenth of a period late."""
        return int((self.lateness > LATE * self.period).sum())

    def __str__(self) -> str:
        cycles = f"{len(self.lateness)} cycles of {1e3 * self.period:.4g} ms, {self.late} late, {self.missed} left out"
        figures = ""
        if len(self.latency):
            median, tail, longest = 1e3 * np.quantile(self.latency, [0.5, 0.99, 1.0])
            figures = f"; read to write {median:.3g} ms (99 % {tail:.3g} ms, at most {longest:.3g} ms)"
        counts = f"; {self.limited} controls limited, {self.dropouts} dropouts" if self.limited + self.dropouts else ""
        return f"{cycles}{figures}{counts}; ended: {self.ended}"


class ControlLoopError(RuntimeError):
    """A control loop broke off; the plant has its safe control. ``result`` holds everything that was logged."""

    def __init__(self, result: ControlLoopResult):
        self.result = result
        super().__init__(f"the control loop broke off: {result.ended}\n{result}")


@dataclass
class _Log:
    """What a running loop has seen and done."""

    times: list[float] = field(default_factory=list)
    measurements: list[Tensor] = field(default_factory=list)
    controls: list[Tensor] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    missed: int = 0
    limited: int = 0
    dropouts: int = 0
    memory: Any = None

    def trajectory(self, **labels: Any) -> Trajectory | None:
        """What is complete of it: each control with a measurement after it."""
        if not self.measurements:
            return None
        steps = min(len(self.controls), len(self.measurements) - 1)
        controls = np.zeros((0, len(self.controls[0]) if self.controls else 0))
        if steps:
            controls = torch.stack(self.controls[:steps]).numpy()
        rows = torch.stack(self.measurements[: steps + 1]).numpy()
        return Trajectory(rows, controls, times=np.array(self.times[: steps + 1]), truncated=True, **labels)


class _Stop(Exception):  # noqa: N818 (not an error)
    """Ends the loop; says why."""


def run_control_loop(
    plant: Plant,
    actor: Actor,
    *,
    period: float,
    steps: int,
    safety: Safety | None = None,
    memory: Any = None,
    generator: torch.Generator | None = None,
    deterministic: bool = True,
    names: Labels | Mapping[str, Sequence[str]] | None = None,
    units: Labels | Mapping[str, Sequence[str]] | None = None,
    source: str = "control loop",
    save: str | Path | None = None,
    throw: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    progress: bool | None = False,
) -> ControlLoopResult:
    """Let an actor control a plant at a fixed rate.

    Args:
        plant: gives measurements and takes controls.
        actor: anything that acts on what the plant measures.
        period: time from cycle to cycle [s].
        steps: length of the run [periods]; cycles that are left out count.
        safety: limits and the safe control; by default no limits, and zero.
        memory: the actor's memory to begin with, for instance of :meth:`planners.MPC.warm_up`; ``actor.init(1)`` by default.
        generator: source of the actor's randomness.
        deterministic: passed on to the actor.
        names: names of the log's columns, for :class:`dynamics.Trajectory`; the plant's, where it has some.
        units: units, likewise.
        source: where the log says that it comes from.
        save: file (.npz) to write the log to, however the loop ends; nothing there is overwritten.
        throw: raise if the plant, the actor or the safety rules ended the loop; Ctrl-C ends it without an error.
        clock: returns the present time [s].
        sleep: waits for some seconds.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        The log and how the loop kept time.

    Raises:
        ControlLoopError: something inside raised an error, a measurement left the envelope, or was not finite more often than
            allowed; it comes from the original error and carries the result. Only with ``throw``.
        ValueError: period or steps is not positive.
        FileExistsError: there is something at ``save``.
        TypeError: actor is nothing that acts, or plant has no read and write.
    """
    require_actor(actor)
    if isinstance(plant, type) or not (hasattr(plant, "read") and hasattr(plant, "write")):
        kind = plant.__name__ if isinstance(plant, type) else type(plant).__name__
        raise TypeError(f"a plant is an object with read() and write(u), got {kind}; a task's is SimulatedPlant(task)")
    if not (0 < period < math.inf and steps >= 1):
        raise ValueError(f"need a period > 0 [s] and steps >= 1, got {period} and {steps}")
    if save is not None and Path(save).exists():
        raise FileExistsError(f"{save} exists; a log is not overwritten, choose another name")
    safety = Safety() if safety is None else safety
    names = getattr(plant, "names", None) if names is None else names
    units = getattr(plant, "units", None) if units is None else units
    log, ended, error = _Log(), "all cycles are done", None
    schedule = _Schedule(period, steps, clock, sleep)
    try:
        with progress_bar(source, steps, show=progress) as advance, _short_collections():
            log.memory = actor.init(1, generator=generator) if memory is None else memory
            _cycles(plant, actor, deterministic, safety, schedule, log, _observed(names), advance)
    except (_Stop, KeyboardInterrupt) as stop:
        ended = str(stop) or "interrupted"
    except Exception as raised:
        ended, error = f"{type(raised).__name__}: {raised}", raised
    finally:
        failed = _make_safe(plant, _row(safety.safe_control), log)
    error = error or failed
    if failed is not None:
        ended += f"; the safe control could not be written: {failed!r}"
    result = ControlLoopResult(
        log.trajectory(names=names, units=units, source=source),
        ended,
        ended == "all cycles are done",
        error,
        period,
        np.array(log.lateness),
        np.array(log.latency),
        log.missed,
        log.limited,
        log.dropouts,
        log.memory,
    )
    if save is not None and result.trajectory is not None:
        write_trajectories(save, [result.trajectory], format="npz")
    if throw and not result.completed and ended != "interrupted":
        raise ControlLoopError(result) from error
    return result


@contextmanager
def _short_collections() -> Iterator[None]:
    """Spare the garbage collector all that is there already: looking through it is a pause of 0.1 s and more."""
    ours = not gc.get_freeze_count()
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


@dataclass(frozen=True)
class _Schedule:
    period: float
    steps: int
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def wait_until(self, due: float) -> None:
        wait = due - self.clock()
        if wait > 0:
            self.sleep(wait)


def _cycles(
    plant: Plant,
    actor: Actor,
    deterministic: bool,
    safety: Safety,
    schedule: _Schedule,
    log: _Log,
    names: Sequence[str] | None,
    advance: Callable[[int], None],
) -> None:
    """All cycles and the measurement after them."""
    start, slot, in_a_row = schedule.clock(), 0, 0
    written: Tensor | None = None
    written_at = 0.0
    while slot < schedule.steps:
        schedule.wait_until(start + slot * schedule.period)
        began = schedule.clock() - start
        log.lateness.append(began - slot * schedule.period)
        y = _measurement(plant, log)
        measured_at = schedule.clock() - start
        if bool(y.isfinite().all()):
            in_a_row = 0
            _append(log, y, measured_at)
            if violation := safety.violation(y, names or [f"measurement {i}" for i in range(len(y))]):
                raise _Stop(violation)
            u, log.memory = actor.act(y.unsqueeze(0), log.memory, deterministic=deterministic)
            u = _control(u, actor, slot)
            previous = _row(safety.safe_control).expand(u.shape) if written is None else written
            seconds = schedule.period if written is None else schedule.clock() - start - written_at
            allowed = safety.applied(u, previous, seconds)
            log.limited += not torch.equal(allowed, u)
            log.controls.append(allowed)
            written = allowed
        else:
            log.dropouts += 1
            in_a_row += 1
            if in_a_row > safety.max_dropouts:
                raise _Stop(f"measurement {y.tolist()} of cycle {slot} is not finite, {in_a_row} in a row")
        plant.write(_row(safety.safe_control) if written is None else written)
        written_at = schedule.clock() - start
        log.latency.append(written_at - began)
        following = max(slot + 1, math.floor(written_at / schedule.period + 1e-9))
        log.missed += min(following, schedule.steps) - slot - 1
        slot = following
        advance(min(slot, schedule.steps))
    schedule.wait_until(start + schedule.steps * schedule.period)
    y = _measurement(plant, log)
    if bool(y.isfinite().all()):
        _append(log, y, schedule.clock() - start)


def _measurement(plant: Plant, log: _Log) -> Tensor:
    y = torch.as_tensor(np.asarray(plant.read(), dtype=np.float64)).clone()
    if y.ndim != 1 or (log.measurements and y.shape != log.measurements[0].shape):
        expected = f"{tuple(log.measurements[0].shape)} as before" if log.measurements else "(ny,)"
        raise ValueError(f"{type(plant).__name__}.read must give an array of shape {expected}, got {tuple(y.shape)}")
    return y


def _append(log: _Log, y: Tensor, measured_at: float) -> None:
    if log.times and measured_at <= log.times[-1]:
        raise RuntimeError(f"the clock stands still or runs backwards: {measured_at} s after {log.times[-1]} s")
    log.times.append(measured_at)
    log.measurements.append(y)


def _control(u: Tensor, actor: Actor, slot: int) -> Tensor:
    name = type(actor).__name__
    if not isinstance(u, Tensor) or u.ndim != 2 or len(u) != 1:
        came = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
        raise ValueError(f"{name} must give controls of shape (1, m), got {came}")
    u = u.detach().squeeze(0).to("cpu", torch.float64)
    if not bool(u.isfinite().all()):
        raise ValueError(f"{name} gave a control that is not finite in cycle {slot}: {u.tolist()}")
    return u


def _make_safe(plant: Plant, safe: Tensor, log: _Log) -> Exception | None:
    """Write the safe control and stop the plant, whatever fails; the first failure."""
    failure = None
    for action in (
        lambda: plant.write(safe.expand(log.controls[0].shape) if log.controls else safe),
        getattr(plant, "stop", lambda: None),
    ):
        try:
            action()
        except Exception as error:
            failure = failure or error
    return failure


def _observed(names: Labels | Mapping[str, Sequence[str]] | None) -> Sequence[str] | None:
    observed = names.observations if isinstance(names, Labels) else (names or {}).get("observations")
    return tuple(observed) if observed else None


def _row(value: float | Sequence[float] | Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1)


def _columns(name: str, limits: Limits, like: Tensor) -> list[Tensor]:
    """Both limits with one entry for each column of a row ``(columns,)``."""
    try:
        return [_row(limit).expand(like.shape) for limit in limits]
    except RuntimeError:
        raise ValueError(f"{name} must be numbers or one for each of {len(like)} columns, got {limits}") from None


def _clamped(u: Tensor, limits: Sequence[Any]) -> Tensor:
    lower, upper = (_row(limit) for limit in limits)
    return torch.minimum(torch.maximum(u, lower), upper)
