"""Many warm simulations of one MuJoCo model, stepped on threads."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from mbrl.envs.episodes import Worlds

if TYPE_CHECKING:
    import mujoco


class WarmWorlds:
    """Simulations whose whole integration state lives on between steps, the constraint solver's warm start included.

    Each does what an ``MjData`` of its own would do under ``mj_resetData``, ``mj_forward`` and ``mj_step``, to the bit and
    with any number of threads, on one ``mujoco.batch.Batch``.

    A world that MuJoCo finds unstable (a non-finite or huge position, velocity or acceleration) is set back to the model's
    default state by MuJoCo itself in the middle of the step and goes on from there. MuJoCo logs a warning where its counter was
    zero. All counters are one before a call here, so nothing is written to ``MUJOCO_LOG.TXT``, and a counter that is not one
    afterwards is the sign of divergence.

    Args:
        model: the model.
        number: of worlds.
        threads: number of threads.
        outputs: fields of ``MjData`` to have in :attr:`data`, beside the state and the controls.
        contact_forces: whether :attr:`data` has ``cfrc_ext`` as ``mj_rnePostConstraint`` leaves it after a step.

    Attributes:
        model: the model.
        data: what the worlds are after the last call, as attributes, each ``(worlds, ...)`` and not to be written: ``state``
            (qpos, qvel, act) and its parts ``qpos`` and ``qvel``, ``ctrl``, the outputs, and ``diverged``, whether MuJoCo set
            the world back in the last call; with the ``model``.
    """

    def __init__(
        self,
        model: "mujoco.MjModel",
        number: int,
        threads: int,
        outputs: tuple[str, ...] = (),
        *,
        contact_forces: bool = False,
    ):
        from mujoco import MjData, mj_stateSize, mjtState
        from mujoco.batch import Batch

        self.model = model
        # What mj_step leaves behind is read by mj_rnePostConstraint, so the worlds need an MjData each.
        self._batch = Batch(model, number, threads, persistent=contact_forces)
        self._counters = self._batch.warning[:, :, 1]
        self._counters[:] = 1
        start = mj_stateSize(model, mjtState.mjSTATE_TIME)  # of (qpos, qvel, act), which are neighbors
        self._state = self._batch.state[:, start : start + mj_stateSize(model, mjtState.mjSTATE_PHYSICS)]
        self._ctrl = self._batch.bind("ctrl")
        # The rows of the batch are long and come from other cores' caches: they are read once, into arrays of our own.
        state = self._state.copy()
        self.data = SimpleNamespace(
            model=model,
            state=state,
            qpos=state[:, : model.nq],
            qvel=state[:, model.nq : model.nq + model.nv],
            ctrl=self._ctrl.copy(),
            diverged=np.zeros(number, dtype=bool),
            **{name: self._batch.bind(name).copy() for name in outputs},
        )
        self._outputs = {name: self._batch.bind(name) for name in outputs}
        self._scratch: Any = None
        if contact_forces:
            self._scratch = MjData(model)
            self.data.cfrc_ext = np.zeros((number, model.nbody, 6))

    def begin(self, worlds: Worlds, states: np.ndarray) -> None:
        """Start k worlds afresh by ``mj_resetData``, at states (qpos, qvel, act) ``(k, n)``, with ``mj_forward``."""
        from mujoco import mjtStage

        ids = _ids(worlds)
        self._batch.reset(ids, stage=mjtStage.mjSTAGE_NONE)
        self._state[worlds] = states
        self._counters[worlds] = 1
        self._batch.forward(ids)
        self._read(worlds)
        if self._scratch is not None:  # zero, unless the model has sensors that need it
            self.data.cfrc_ext[worlds] = self._batch.bind("cfrc_ext")[worlds]

    def step(self, worlds: Worlds, controls: np.ndarray, substeps: int) -> None:
        """Advance k worlds under controls ``(k, nu)`` by MuJoCo steps.

        Raises:
            mujoco.batch.SimulationError: MuJoCo raised an error in some worlds, which stay where they were.
        """
        self._ctrl[worlds] = controls
        self._batch.step(_ids(worlds), nstep=substeps)
        self._read(worlds)
        if self._scratch is not None:
            self._contact_forces(worlds)

    def rows(self, worlds: Worlds) -> SimpleNamespace:
        """:attr:`data` of some worlds."""
        fields = {name: values[worlds] for name, values in vars(self.data).items() if name != "model"}
        return SimpleNamespace(model=self.model, **fields)

    def saved(self) -> dict[str, np.ndarray]:
        """What decides the next steps, ``(worlds, ...)`` each, not to be written.

        Beside the integration state these are the outputs, which are as old as the last call.

        Raises:
            ValueError: bodies of the model fall asleep, which no integration state says.
        """
        from mujoco import mjtEnableBit

        if self.model.opt.enableflags & int(mjtEnableBit.mjENBL_SLEEP):
            raise ValueError(
                "MuJoCo does not tell which bodies are asleep; save worlds of a model without the flag sleep"
            )
        return {"integration": self._batch.state, **self._old()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on where other worlds of the same model were when they gave ``arrays`` by :meth:`saved`."""
        self._batch.state[:] = arrays["integration"]
        self._counters[:] = 1
        self.data.state[:], self.data.ctrl[:], self.data.diverged[:] = self._state, self._ctrl, False
        for name, array in self._old().items():
            array[:] = arrays[name]

    def _old(self) -> dict[str, np.ndarray]:
        names = [*self._outputs, *([] if self._scratch is None else ["cfrc_ext"])]
        return {name: getattr(self.data, name) for name in names}

    def _read(self, worlds: Worlds) -> None:
        """Take over what a call has left in some worlds."""
        from mujoco import mjtWarning

        self.data.state[worlds], self.data.ctrl[worlds] = self._state[worlds], self._ctrl[worlds]
        for name, output in self._outputs.items():
            getattr(self.data, name)[worlds] = output[worlds]
        changed = self._counters != 1
        unstable = slice(int(mjtWarning.mjWARN_BADQPOS), int(mjtWarning.mjWARN_BADQACC) + 1)
        self.data.diverged[worlds] = changed[worlds, unstable].any(axis=1)
        if changed.any():
            self._counters[:] = 1

    def _contact_forces(self, worlds: Worlds) -> None:
        """Refresh ``cfrc_ext`` after a step.

        The one place with Python calls per world, two each: the batch has no such stage, and a sensor that makes MuJoCo
        compute it would do so in the first stage of a Runge-Kutta step, where gymnasium's environments see the last.
        """
        from mujoco import mj_rnePostConstraint

        batch, model, scratch, forces = self._batch, self.model, self._scratch, self.data.cfrc_ext
        for i in np.arange(len(forces))[worlds].tolist():
            batch.get_data(i, scratch)
            mj_rnePostConstraint(model, scratch)
            forces[i] = scratch.cfrc_ext


def _ids(worlds: Worlds) -> np.ndarray | None:
    return None if isinstance(worlds, slice) else worlds.astype(np.int32)
