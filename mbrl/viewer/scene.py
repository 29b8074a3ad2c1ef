"""What a page needs to know of a MuJoCo model: its shapes, where its bodies are in a state, and from where to look.

Nothing here draws; the same numbers can be compared with MuJoCo's own.
"""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dynamics import Dynamics, MechanicalSystem, MujocoDynamics
from mbrl.tasks.base import Task

if TYPE_CHECKING:
    import mujoco

VISIBLE_GROUPS = 3  # MuJoCo draws the geoms of groups 0, 1 and 2; in the others are those that only collide
MOST_TRACES = 6
UNSET_COLOR = (0.5, 0.5, 0.5, 1.0)  # of a geom that leaves its color to its material


@dataclass(frozen=True, eq=False)
class Shape:
    """A geom that is seen.

    Attributes:
        name: the geom's, or ``geom<number>``.
        geom: its number in the model.
        body: number of the body that carries it.
        is_plane: whether it is a plane; :func:`~mbrl.viewer.surfaces.surface` has the triangles of the others.
        position: in the body's frame, ``(3,)`` [m].
        quaternion: in the body's frame, ``(4,)``, w first.
        size: MuJoCo's three numbers, ``(3,)`` [m].
        color: red, green, blue and opacity in 0..1, ``(4,)``.
    """

    name: str
    geom: int
    body: int
    is_plane: bool
    position: np.ndarray
    quaternion: np.ndarray
    size: np.ndarray
    color: np.ndarray


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """Where the eye is.

    Attributes:
        position: ``(3,)`` [m].
        target: what it looks at, ``(3,)`` [m].
        fov: vertical field of view [rad].
        followed: number of the body that stays in view, None where the eye rests.
    """

    position: np.ndarray
    target: np.ndarray
    fov: float
    followed: int | None


def drawn_model(plant: Task | Dynamics) -> "mujoco.MjModel | None":
    """The MuJoCo model that a task or a system is drawn as: its own, or that of its twin; None where there is neither.

    Raises:
        TypeError: it is neither a task nor a system.
        ValueError: a system has one parameter value per world, and a model has one.
    """
    if not isinstance(plant, Task | Dynamics):
        raise TypeError(f"a Task or a Dynamics has a scene, got {type(plant).__name__}: mbrl.cart_pole_swing_up()")
    candidates = (plant.dynamics, plant.system) if isinstance(plant, Task) else (plant,)
    for dynamics in candidates:
        if isinstance(dynamics, MujocoDynamics):
            return dynamics.model
        if isinstance(dynamics, MechanicalSystem):
            return MujocoDynamics(dynamics.mjcf()).model
    return None


def shapes(model: "mujoco.MjModel") -> list[Shape]:
    """The geoms of a model that MuJoCo would draw."""
    from mujoco import mjtGeom

    seen = []
    for geom in range(model.ngeom):
        color = _color(model, geom)
        if model.geom_group[geom] >= VISIBLE_GROUPS or color[3] <= 0:
            continue
        seen.append(
            Shape(
                name=model.geom(geom).name or f"geom{geom}",
                geom=geom,
                body=int(model.geom_bodyid[geom]),
                is_plane=model.geom_type[geom] == mjtGeom.mjGEOM_PLANE,
                position=model.geom_pos[geom].copy(),
                quaternion=model.geom_quat[geom].copy(),
                size=model.geom_size[geom].copy(),
                color=color,
            )
        )
    return seen


def _color(model: "mujoco.MjModel", geom: int) -> np.ndarray:
    color, material = model.geom_rgba[geom].astype(float), int(model.geom_matid[geom])
    if material >= 0 and tuple(color) == UNSET_COLOR:
        return model.mat_rgba[material].astype(float)
    return color


def body_poses(model: "mujoco.MjModel", states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(*batch, bodies, 3)`` [m] and quaternions ``(*batch, bodies, 4)`` of all bodies.

    Args:
        model: the MuJoCo model.
        states: ``(*batch, n)``, beginning with qpos.

    Raises:
        ValueError: the states have fewer columns than the model has positions.
    """
    positions, quaternions = _kinematics(model, states, "xpos", "xquat")
    return positions, quaternions


def traces(model: "mujoco.MjModel", states: np.ndarray) -> np.ndarray:
    """Paths of the centers of mass of the last bodies of each chain, at most six, ``(bodies, T+1, 3)`` [m].

    Args:
        model: the MuJoCo model.
        states: ``(T+1, n)``, beginning with qpos.
    """
    parents = set(model.body_parentid[1:].tolist())
    moving = [b for b in range(1, model.nbody) if model.body_weldid[b] and b not in parents]
    (centers,) = _kinematics(model, states, "xipos")
    return centers[:, moving[:MOST_TRACES]].swapaxes(0, 1)


def _kinematics(model: "mujoco.MjModel", states: np.ndarray, *fields: str) -> tuple[np.ndarray, ...]:
    """Fields of MuJoCo's data at states ``(*batch, n)``."""
    import mujoco

    states = np.asarray(states, dtype=np.float64)
    if states.ndim == 0 or states.shape[-1] < model.nq:
        raise ValueError(f"the model has {model.nq} positions, the states have shape {states.shape}: (*batch, n)")
    data = mujoco.MjData(model)
    batch, rows = states.shape[:-1], states.reshape(-1, states.shape[-1])
    found = tuple(np.empty((len(rows), *getattr(data, field).shape)) for field in fields)
    for i, row in enumerate(rows):
        data.qpos[:] = row[: model.nq]
        mujoco.mj_kinematics(model, data)
        for field, values in zip(fields, found, strict=True):
            values[i] = getattr(data, field)
    return tuple(values.reshape(*batch, *values.shape[1:]) for values in found)


def viewpoint(model: "mujoco.MjModel") -> Viewpoint:
    """The model's first camera as it stands in the initial state, or MuJoCo's free one where there is none."""
    import mujoco

    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    center, extent = model.stat.center, float(model.stat.extent)
    if model.ncam == 0:
        azimuth, elevation = np.radians([model.vis.global_.azimuth, model.vis.global_.elevation])
        forward = np.array(
            [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
        )
        position, fov, distance = center - 1.5 * extent * forward, float(model.vis.global_.fovy), 1.5 * extent
    else:
        position, forward = data.cam_xpos[0], -data.cam_xmat[0].reshape(3, 3)[:, 2]
        fov, distance = float(model.cam_fovy[0]), float(forward @ (center - position))
    distance = distance if distance > 0 else extent  # a camera that has its back to the scene
    return Viewpoint(position.copy(), position + distance * forward, math.radians(fov), _followed(model))


def _followed(model: "mujoco.MjModel") -> int | None:
    """The body that the first camera tracks, or the first one that moves freely."""
    from mujoco import mjtCamLight, mjtJoint

    tracking = (mjtCamLight.mjCAMLIGHT_TRACK, mjtCamLight.mjCAMLIGHT_TRACKCOM)
    if model.ncam and model.cam_mode[0] in tracking:
        return int(model.cam_bodyid[0])
    free = np.flatnonzero(model.jnt_type == mjtJoint.mjJNT_FREE)
    return int(model.jnt_bodyid[free[0]]) if len(free) else None
