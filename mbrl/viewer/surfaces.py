"""Triangles of MuJoCo's geoms, in the frame of the geom."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco

Surface = tuple[np.ndarray, np.ndarray]  # vertices (V, 3) [m] and faces (F, 3) of counterclockwise corners
SEGMENTS, RINGS = 32, 13  # of a body of revolution: around the axis, and from pole to equator


def surface(model: "mujoco.MjModel", geom: int) -> Surface | None:
    """Vertices ``(V, 3)`` [m] and faces ``(F, 3)`` of a geom; None for planes and for what has no triangles.

    Vertices are shared where the surface is smooth and doubled at edges, so that normals averaged at vertices look right.
    """
    from mujoco import mjtGeom

    size = model.geom_size[geom].copy()
    kind = mjtGeom(model.geom_type[geom])
    if kind in (mjtGeom.mjGEOM_MESH, mjtGeom.mjGEOM_SDF):
        return _mesh(model, int(model.geom_dataid[geom]))
    if kind == mjtGeom.mjGEOM_HFIELD:
        return _height_field(model, int(model.geom_dataid[geom]))
    if kind == mjtGeom.mjGEOM_BOX:
        return _box(size)
    if kind == mjtGeom.mjGEOM_SPHERE:
        return _revolved(_arc(-90, 90) * size[0])
    if kind == mjtGeom.mjGEOM_ELLIPSOID:
        vertices, faces = _revolved(_arc(-90, 90))
        return vertices * size, faces
    if kind == mjtGeom.mjGEOM_CAPSULE:
        up = np.array([0.0, size[1]])
        return _revolved(np.concatenate([_arc(-90, 0) * size[0] - up, _arc(0, 90) * size[0] + up]))
    if kind == mjtGeom.mjGEOM_CYLINDER:
        radius, half = size[:2]
        return _revolved(
            np.array([[0.0, -half], [radius, -half]]),
            np.array([[radius, -half], [radius, half]]),
            np.array([[radius, half], [0.0, half]]),
        )
    return None


def _arc(start: float, end: float) -> np.ndarray:
    """Points (radius, height) of the unit circle between two latitudes [degree]."""
    latitude = np.radians(np.linspace(start, end, 1 + round((RINGS - 1) * (end - start) / 90)))
    return np.stack([np.cos(latitude), np.sin(latitude)], axis=1)


def _revolved(*profiles: np.ndarray) -> Surface:
    """Profiles of points (radius, height), bottom up, turned about the z axis; an edge where one ends and the next begins."""
    turn = 2 * np.pi * np.arange(SEGMENTS) / SEGMENTS
    vertices, faces, first = [], [], 0
    for profile in profiles:
        radius, height = profile[:, :1], profile[:, 1:]
        rings = np.stack(np.broadcast_arrays(radius * np.cos(turn), radius * np.sin(turn), height), axis=-1)
        corner = first + np.arange(len(profile) * SEGMENTS).reshape(len(profile), SEGMENTS)
        a, d = corner[:-1], corner[1:]
        b, c = np.roll(a, -1, axis=1), np.roll(d, -1, axis=1)
        vertices.append(rings.reshape(-1, 3))
        faces += [np.stack([a, b, c], axis=-1).reshape(-1, 3), np.stack([a, c, d], axis=-1).reshape(-1, 3)]
        first += corner.size
    return np.concatenate(vertices), np.concatenate(faces)


def _box(half: np.ndarray) -> Surface:
    """Six squares that share no vertices."""
    square = np.array([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0], [1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])  # the side x = 1
    sides = [np.roll(sign * square, axis, axis=1)[::sign] for axis in range(3) for sign in (1, -1)]
    corners = np.array([[0, 1, 2], [0, 2, 3]])
    return np.concatenate(sides) * half, np.concatenate([corners + 4 * side for side in range(6)])


def _mesh(model: "mujoco.MjModel", mesh: int) -> Surface:
    """A mesh; a vertex is doubled where faces give it different normals."""
    faces = slice(int(model.mesh_faceadr[mesh]), int(model.mesh_faceadr[mesh] + model.mesh_facenum[mesh]))
    corners = np.stack([model.mesh_face[faces].ravel(), model.mesh_facenormal[faces].ravel()], axis=1)
    distinct, index = np.unique(corners, axis=0, return_inverse=True)
    return model.mesh_vert[model.mesh_vertadr[mesh] + distinct[:, 0]].astype(float), index.reshape(-1, 3)


def _height_field(model: "mujoco.MjModel", field: int) -> Surface:
    """The upper side of a height field."""
    rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
    half_x, half_y, top, _ = model.hfield_size[field]
    start = int(model.hfield_adr[field])
    height = top * model.hfield_data[start : start + rows * columns].reshape(rows, columns)
    x, y = np.meshgrid(np.linspace(-half_x, half_x, columns), np.linspace(-half_y, half_y, rows))
    corner = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    faces = [np.stack(three, axis=-1).reshape(-1, 3) for three in ((a, b, c), (a, c, d))]
    return np.stack([x, y, height], axis=-1).reshape(-1, 3), np.concatenate(faces)
