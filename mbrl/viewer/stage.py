"""A MuJoCo model as a scene of viser."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

from typing import TYPE_CHECKING, Any

import numpy as np

from mbrl.viewer.scene import Shape, body_poses, shapes, traces, viewpoint
from mbrl.viewer.surfaces import surface

if TYPE_CHECKING:
    import mujoco
    import viser

GROUND: dict[str, Any] = {
    "cell_color": (225, 229, 234),
    "section_color": (196, 203, 212),
    "plane_color": (250, 251, 252),
}
PLAN_COLOR = (230, 159, 0)
AMBIENT = 0.7
STEP_BACK = 1.2  # panels cover part of the picture that a camera was placed for


class Stage:
    """The shapes of a model in the browser, moved by :meth:`show`.

    Each body is a frame that carries its shapes; all of them hang on one frame, which is moved to keep a body in view.

    Args:
        server: the page.
        model: the scene.

    Attributes:
        follows: whether the scene moves so that the followed body stays in view; without such a body, nothing is followed.
    """

    def __init__(self, server: "viser.ViserServer", model: "mujoco.MjModel"):
        self._server, self._model = server, model
        self._view = viewpoint(model)
        self.follows = self.can_follow
        server.scene.add_light_ambient("/light", intensity=AMBIENT)  # MuJoCo's headlight, which viser does not have
        self._world = server.scene.add_frame("/world", show_axes=False)
        visible = shapes(model)
        self._bodies = {body: self._body(body) for body in sorted({shape.body for shape in visible})}
        for shape in visible:
            self._add(shape)
        if not any(shape.is_plane or shape.size[0] >= 2 * model.stat.extent for shape in visible):
            self._add_ground()
        self._plan: list[Any] = []
        self._home, _ = body_poses(model, model.qpos0)
        self._look()
        self.show(model.qpos0)

    @property
    def can_follow(self) -> bool:
        """Whether there is a body that goes somewhere."""
        return self._view.followed is not None

    def _look(self) -> None:
        """Where a browser looks when it connects, and on "Reset view"."""
        camera, view = self._server.initial_camera, self._view
        camera.position = view.target + STEP_BACK * (view.position - view.target)
        camera.look_at, camera.fov = view.target, view.fov

    def show(self, state: np.ndarray) -> None:
        """Put the bodies where they are in a state ``(n,)``; nothing moves where it is not finite."""
        if not np.isfinite(state[: self._model.nq]).all():
            return
        positions, quaternions = body_poses(self._model, state)
        with self._server.atomic():
            for body, frame in self._bodies.items():
                frame.position, frame.wxyz = positions[body], quaternions[body]
            self._world.position = -self._shift(positions)

    def _shift(self, positions: np.ndarray) -> np.ndarray:
        """How far the followed body has gone along the ground, ``(3,)`` [m]."""
        if not (self.follows and self._view.followed is not None):
            return np.zeros(3)
        return (positions - self._home)[self._view.followed] * [1.0, 1.0, 0.0]

    def show_plan(self, states: np.ndarray | None) -> None:
        """Draw where the last bodies of each chain go along states ``(T+1, n)``; None takes the lines away."""
        finite = states is not None and bool(np.isfinite(states).all())
        lines = traces(self._model, states) if finite else np.zeros((0, 2, 3))  # type: ignore[arg-type]
        segments = np.stack([lines[:, :-1], lines[:, 1:]], axis=2).astype(np.float32)
        for handle in self._plan[len(segments) :]:
            handle.visible = False
        for number, points in enumerate(segments):
            if number < len(self._plan):
                self._plan[number].points, self._plan[number].visible = points, True
            else:
                self._plan.append(
                    self._server.scene.add_line_segments(
                        f"/world/plan{number}", points, PLAN_COLOR, thickness=3.0, thickness_units="screen"
                    )
                )

    def _body(self, body: int) -> "viser.FrameHandle":
        return self._server.scene.add_frame(f"/world/{body}", show_axes=False)

    def _add(self, shape: Shape) -> None:
        """One shape, carried by its body's frame."""
        name = f"/world/{shape.body}/{shape.geom}"
        color = tuple((255 * shape.color[:3].clip(0.0, 1.0)).round().astype(int))
        opacity = None if shape.color[3] >= 1 else float(shape.color[3])
        pose: dict[str, Any] = {"position": shape.position, "wxyz": shape.quaternion}
        if shape.is_plane:
            self._add_plane(name, shape, pose)
            return
        triangles = surface(self._model, shape.geom)
        if triangles is not None:
            vertices, faces = triangles
            self._server.scene.add_mesh_simple(
                name, vertices.astype(np.float32), faces.astype(np.uint32), color=color, opacity=opacity, **pose
            )

    def _add_plane(self, name: str, shape: Shape, pose: dict[str, Any]) -> None:
        """A plane with lines; MuJoCo's are endless where their size is zero."""
        cell = _round_length(0.1 * float(self._model.stat.extent))
        width, height = (2 * side if side > 0 else 40 * float(self._model.stat.extent) for side in shape.size[:2])
        self._server.scene.add_grid(
            name,
            width=width,
            height=height,
            cell_size=cell,
            section_size=5 * cell,
            plane_opacity=1.0,
            shadow_opacity=0.2,
            fade_distance=20 * float(self._model.stat.extent),
            **GROUND,
            **pose,
        )

    def _add_ground(self) -> None:
        """A grid below a scene that has no ground, for the eye."""
        extent, center = float(self._model.stat.extent), self._model.stat.center
        cell = _round_length(0.1 * extent)
        self._server.scene.add_grid(
            "/world/ground",
            width=20 * extent,
            height=20 * extent,
            cell_size=cell,
            section_size=5 * cell,
            shadow_opacity=0.15,
            fade_distance=10 * extent,
            position=(0.0, 0.0, float(center[2]) - 0.6 * extent),
            **GROUND,
        )


def _round_length(length: float) -> float:
    """The nearest of 1, 2, 5, 10, 20, ... and 0.5, 0.2, ... from below [m]."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(power * max(digit for digit in (1, 2, 5) if digit * power <= length * (1 + 1e-9)))
