"""What tells one MuJoCo environment from another, for all worlds at once, and the terms that several of them share.

The formulas are gymnasium's (``gymnasium/envs/mujoco/*_v5.py``), operation by operation and in their number types, so that the
results are the same bits: a control cost of float32 actions is float32, and a norm is the root of a dot product.
"""

import abc
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

Model = Any  # a mujoco.MjModel
Data = Any  # fields of MjData as attributes, each (worlds, ...), and the model: see mbrl.envs.mujoco.worlds


class Outcome(NamedTuple):
    """What a step leads to, in each world."""

    reward: np.ndarray  # (worlds,)
    terminated: np.ndarray  # (worlds,) of bool
    info: Mapping[str, np.ndarray]  # (worlds, ...) each, named as in gymnasium


@dataclass(frozen=True)
class Rules(abc.ABC):
    """One environment: where episodes begin, what is observed, rewarded and terminated.

    A subclass is a frozen dataclass whose fields are the options of gymnasium's environment, with its names and defaults.
    ``data`` holds the fields of ``MjData`` as attributes with the worlds in front: ``data.qpos`` is ``(worlds, nq)``.

    Attributes:
        outputs: fields of ``MjData`` that are read beside qpos, qvel and ctrl.
        contact_forces: whether ``data.cfrc_ext`` is read, which costs a call of ``mj_rnePostConstraint`` for each world.
        xml_file: the model, a file of gymnasium's or a path that begins with ``/``, ``.`` or ``~``.
        frame_skip: MuJoCo steps per step of the environment.
    """

    outputs: ClassVar[tuple[str, ...]] = ()
    contact_forces: ClassVar[bool] = False

    _: KW_ONLY
    xml_file: str
    frame_skip: int

    @abc.abstractmethod
    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Qpos and qvel at the beginning of an episode in one world, drawn in gymnasium's order."""

    @abc.abstractmethod
    def observe(self, data: Data) -> np.ndarray:
        """Observations ``(worlds, ny)``, a new array."""

    @abc.abstractmethod
    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Rewards and ends after a step under ``action`` ``(worlds, m)``, with the mean velocity of :meth:`position`."""

    def position(self, data: Data) -> np.ndarray:
        """What is to move, ``(worlds, ...)``; :meth:`outcome` gets its velocity over the step. Nothing by default."""
        return data.qpos[:, :0]

    def reset_info(self, data: Data) -> Mapping[str, np.ndarray]:
        """The info of a reset, ``(worlds, ...)`` each."""
        return {}


# Where an episode begins


def uniform_noise(scale: float, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The model's default state, positions and velocities displaced uniformly within the scale."""
    qpos = model.qpos0 + random.uniform(-scale, scale, model.nq)
    return qpos, random.uniform(-scale, scale, model.nv)


def mixed_noise(scale: float, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The model's default state, positions displaced uniformly within the scale, normal velocities."""
    qpos = model.qpos0 + random.uniform(-scale, scale, model.nq)
    return qpos, scale * random.standard_normal(model.nv)


# Terms of rewards and observations


def squares(values: np.ndarray) -> np.ndarray:
    """Sum of squares in each world, ``(worlds, ...)`` to ``(worlds,)``."""
    return np.sum(np.square(values).reshape(len(values), -1), axis=-1)


def norm(vectors: np.ndarray) -> np.ndarray:
    """Euclidean norm ``(worlds,)`` of ``(worlds, k)``, the bits of ``np.linalg.norm`` of each."""
    rows = np.ascontiguousarray(vectors)
    return np.sqrt(np.vecdot(rows, rows))


def within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Whether each value lies strictly between the limits."""
    lower, upper = limits
    return (lower < values) & (values < upper)


def never(data: Data) -> np.ndarray:
    """The ends of episodes that only time ends."""
    return np.zeros(len(data.qpos), dtype=bool)
