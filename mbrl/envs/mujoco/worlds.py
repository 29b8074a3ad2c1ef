"""Many warm simulations of one MuJoCo model, stepped on threads."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import mujoco


class WarmWorlds:
    """Simulations whose whole integration state lives on between steps, the constraint solver's warm start included.

    Each does what an ``MjData`` of its own would do under ``mj_resetData``, ``mj_forward`` and ``mj_step``, to the bit and
    with any number of threads, on one ``mujoco.batch.Batch``.

    A world that MuJoCo finds unstable (a non-finite or huge position, velocity or acceleration) is set back to the model's
    default state by MuJoCo itself in the middle of the step and goes on from there: see :meth:`diverged`. MuJoCo logs a
    warning where its counter was zero. All counters are one before a call here, so nothing is written to ``MUJOCO_LOG.TXT``,
    and a counter that is not one afterwards is the sign of divergence.

    Args:
        model: the model.
        number: of worlds.
        threads: number of threads.
        outputs: fields of ``MjData`` to have in :attr:`data`, beside the state and the controls.
        contact_forces: whether :attr:`data` has ``cfrc_ext`` as ``mj_rnePostConstraint`` leaves it after a step.

    Attributes:
        model: the model.
        data: fields of ``MjData`` as attributes, each ``(worlds, ...)``, live and not to be written: ``qpos``, ``qvel``,
            ``ctrl`` and the outputs; with ``state``, which is (qpos, qvel, act), and the ``model``.
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
        fields = {name: self._batch.bind(name) for name in ("qpos", "qvel", "ctrl", *outputs)}
        start = mj_stateSize(model, mjtState.mjSTATE_TIME)  # of (qpos, qvel, act), which are neighbors
        state = self._batch.state[:, start : start + mj_stateSize(model, mjtState.mjSTATE_PHYSICS)]
        self.data = SimpleNamespace(model=model, state=state, **fields)
        self._scratch: Any = None
        if contact_forces:
            self._scratch = MjData(model)
            self.data.cfrc_ext = np.zeros((number, model.nbody, 6))

    def begin(self, worlds: np.ndarray, states: np.ndarray) -> None:
        """Start k worlds (sorted indices) afresh by ``mj_resetData``, at states (qpos, qvel, act) ``(k, n)``, ``mj_forward``."""
        from mujoco import mjtStage

        ids = self._ids(worlds)
        self._batch.reset(ids, stage=mjtStage.mjSTAGE_NONE)
        self.data.state[worlds] = states
        self._counters[worlds] = 1
        self._batch.forward(ids)
        if self._scratch is not None:  # zero, unless the model has sensors that need it
            self.data.cfrc_ext[worlds] = self._batch.bind("cfrc_ext")[worlds]

    def step(self, worlds: np.ndarray, controls: np.ndarray, substeps: int) -> None:
        """Advance some worlds (sorted indices) under controls ``(worlds, nu)`` by MuJoCo steps.

        Raises:
            mujoco.batch.SimulationError: MuJoCo raised an error in some worlds, which stay where they were.
        """
        self.data.ctrl[worlds] = controls
        self._counters[worlds] = 1
        self._batch.step(self._ids(worlds), nstep=substeps)
        if self._scratch is not None:
            self._contact_forces(worlds)

    def diverged(self, worlds: np.ndarray) -> np.ndarray:
        """Which of k worlds MuJoCo set back to the model's default state in their last step, ``(k,)`` of bool."""
        from mujoco import mjtWarning

        return (self._counters[worlds, mjtWarning.mjWARN_BADQPOS : mjtWarning.mjWARN_BADQACC + 1] != 1).any(axis=1)

    def rows(self, worlds: np.ndarray) -> SimpleNamespace:
        """:attr:`data` of some worlds (sorted indices): a copy, unless these are all."""
        if len(worlds) == self._batch.nsim:
            return self.data
        fields = {name: values[worlds] for name, values in vars(self.data).items() if name != "model"}
        return SimpleNamespace(model=self.model, **fields)

    def _ids(self, worlds: np.ndarray) -> np.ndarray | None:
        return None if len(worlds) == self._batch.nsim else worlds.astype(np.int32)

    def _contact_forces(self, worlds: np.ndarray) -> None:
        """Refresh ``cfrc_ext`` after a step.

        The one place with Python calls per world, two each: the batch has no such stage, and a sensor that makes MuJoCo
        compute it would do so in the first stage of a Runge-Kutta step, where gymnasium's environments see the last.
        """
        from mujoco import mj_rnePostConstraint

        batch, model, scratch, forces = self._batch, self.model, self._scratch, self.data.cfrc_ext
        for i in worlds.tolist():
            batch.get_data(i, scratch)
            mj_rnePostConstraint(model, scratch)
            forces[i] = scratch.cfrc_ext
