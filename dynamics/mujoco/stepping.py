"""Batched, threaded control steps of a MuJoCo model as a pure function, on one persistent ``mujoco.batch.Batch``."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import ctypes
import os
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.mujoco.fields import ModelField

if TYPE_CHECKING:
    import mujoco
    from mujoco.batch import Batch

MAX_WORLDS = 16384  # larger calls are cut into pieces, so that memory stays bounded


class BatchedStepper:
    """Control steps of many worlds at once; equal inputs give equal bits, whatever was computed before.

    Each control step starts cold: the constraint solver's warm start is zero and all inputs but the controls have the
    model's defaults. Worlds in which MuJoCo warns (bad state or control, contacts or constraints that do not fit into
    memory), raises an error or leaves a non-finite state are NaN from there on.

    MuJoCo logs a warning where its counter was zero. All counters are one before a call here, so nothing is logged, and
    a counter that is not one afterwards is the sign of divergence.

    The batch is made by the first call and again when a call needs more worlds or the process was forked; copies and
    pickles do not contain it.

    Args:
        model: a model without automatic resets, not to be changed afterwards.
        substeps: MuJoCo steps per control step.
        threads: number of threads; None for one per core.
        fields: by name, what worlds can have their own values of.
    """

    def __init__(
        self,
        model: "mujoco.MjModel",
        substeps: int,
        threads: int | None = None,
        fields: Mapping[str, ModelField] | None = None,
    ):
        from mujoco import mjtState

        self.model = model
        self.substeps = substeps
        self.threads = threads if threads is not None else len(os.sched_getaffinity(0))
        self.fields = dict(fields or {})
        # where time, (qpos, qvel, act), ctrl and the warm start lie in a row of the batch's state
        bits = mjtState.mjSTATE_TIME, mjtState.mjSTATE_PHYSICS, mjtState.mjSTATE_CTRL, mjtState.mjSTATE_WARMSTART
        self._parts = tuple(_columns(model, int(components)) for components in bits)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()  # a Batch serves one thread at a time
        self._batch: Batch | None = None
        self._release: Any = None
        self._values: dict[str, np.ndarray] = {}  # what the worlds of the batch have now

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("model", "substeps", "threads", "fields", "_parts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_afresh()

    def rollout(
        self, x0: np.ndarray, us: np.ndarray, times: np.ndarray, values: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """States under control sequences.

        Args:
            x0: initial states (qpos, qvel, act), ``(worlds, n)``, float64, or float32 to have states rounded at each step.
            us: controls, ``(worlds, T, m)``.
            times: time at which each control begins [s], ``(worlds, T)``.
            values: by name of a field, one value for each world, ``(worlds, *s)``.

        Returns:
            ``(worlds, T+1, n)`` in the type of x0.
        """
        xs = np.empty((us.shape[0], us.shape[1] + 1, x0.shape[1]), x0.dtype)
        xs[:, 0] = x0
        if self._process != os.getpid():
            if self._release is not None:
                self._release()
            self._start_afresh()
        with self._lock:
            for start in range(0, len(xs), MAX_WORLDS):
                part = slice(start, start + MAX_WORLDS)
                self._rollout(xs[part], us[part], times[part], {name: v[part] for name, v in values.items()})
        return xs

    def _rollout(self, xs: np.ndarray, us: np.ndarray, times: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Fill in ``xs[:, 1:]``."""
        worlds = len(xs)
        batch = self._batch_for(worlds)
        self._load(batch, values, worlds)
        rows = batch.state[:worlds]
        time, x, ctrl, warmstart = (rows[:, part] for part in self._parts)
        counters = batch.warning[:worlds, :, 1]
        finite = np.all(np.isfinite(us), axis=-1)
        alive = np.all(np.isfinite(xs[:, 0]), axis=-1)
        x[:] = xs[:, 0]
        xs[~alive, 0] = np.nan
        for k in range(us.shape[1]):
            alive &= finite[:, k]
            time[:] = times[:, k : k + 1]
            ctrl[:] = us[:, k]
            warmstart[:] = 0.0
            counters[:] = 1
            self._advance(batch, alive)
            alive &= (counters == 1).all(-1) & np.isfinite(x).all(-1)
            xs[:, k + 1] = x
            xs[~alive, k + 1] = np.nan
            if xs.dtype != x.dtype:
                x[:] = xs[:, k + 1]

    def _advance(self, batch: "Batch", alive: np.ndarray) -> None:
        """One control step of the worlds that are alive; those in which MuJoCo raises an error are so no longer."""
        from mujoco.batch import SimulationError

        everyone = len(alive) == batch.nsim and alive.all()
        ids = None if everyone else np.flatnonzero(alive).astype(np.int32)
        if ids is not None and len(ids) == 0:
            return
        try:
            batch.rollout(self.substeps, record=(), ids=ids)  # unlike step, it stops a world at its first warning
        except SimulationError as error:
            alive[error.ids] = False

    def _load(self, batch: "Batch", values: dict[str, np.ndarray], worlds: int) -> None:
        """Give the first worlds of the batch their own values of model fields, unless they have them."""
        if all(np.array_equal(self._values[name][:worlds], value) for name, value in values.items()):
            return
        for name, value in values.items():
            location = self.fields[name].location(name, self.model)
            batch.expand(self.fields[name].field)[(slice(worlds), *location)] = value
            self._values[name][:worlds] = value
        batch.set_const(np.arange(worlds, dtype=np.int32))

    def _batch_for(self, worlds: int) -> "Batch":
        """The batch, made anew if it is too small."""
        from mujoco.batch import Batch

        if self._batch is not None:
            if self._batch.nsim >= worlds:
                return self._batch
            worlds = min(max(worlds, 2 * self._batch.nsim), MAX_WORLDS)
            self._release()
        self._batch = batch = Batch(self.model, worlds, self.threads)
        self._release = weakref.finalize(self, _release, batch, self._process)
        for name, field in self.fields.items():
            nominal = field.nominal(name, self.model)
            self._values[name] = np.broadcast_to(nominal, (worlds, *nominal.shape)).copy()
        return batch


def _columns(model: "mujoco.MjModel", components: int) -> slice:
    """Where neighboring components (``mjtState`` bits) lie in a row of the batch's state."""
    from mujoco import mj_stateSize

    first = components & -components
    start = mj_stateSize(model, first - 1) if first > 1 else 0
    return slice(start, start + mj_stateSize(model, components))


def _release(batch: "Batch", process: int) -> None:
    """Let go of a batch; in a forked process, where its threads do not exist, deleting it would wait for them for ever."""
    if process != os.getpid():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(batch))
