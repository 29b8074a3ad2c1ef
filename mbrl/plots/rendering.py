"""Offscreen pictures of MuJoCo scenes.

MuJoCo chooses its graphics library once, when it is imported, and a missing or broken one can end the process. So the pictures
are drawn by a process of their own: it does not matter what has been imported here, and a failure is an exception.
"""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from dynamics import MujocoDynamics
from mbrl.plots.video import states_at_frames

if TYPE_CHECKING:
    import mujoco

ERRORS = "errors.txt"
LONGEST_DRAWING = 60.0  # of one picture, the first one including the start [s]


class RenderingUnavailable(RuntimeError):  # noqa: N818 (a condition of the machine, which callers fall back from)
    """MuJoCo cannot draw on this machine; the message names what to install."""


def render_mujoco(
    model: "MujocoDynamics | mujoco.MjModel",
    states: np.ndarray | Tensor,
    *,
    camera: str | int = -1,
    width: int = 640,
    height: int = 360,
    fps: float = 25.0,
    dt: float | None = None,
) -> np.ndarray:
    """Frames of a motion in real time, drawn by MuJoCo.

    The graphics library is EGL, which needs no display, unless the environment variable ``MUJOCO_GL`` names another.

    Args:
        model: the scene.
        states: ``(T+1, n)``, beginning with ``qpos``.
        camera: name or number of a camera of the model; -1 is a free one that sees everything.
        width: of the frames [pixel].
        height: of the frames [pixel].
        fps: frames per second.
        dt: duration of a step [s]; needed with an ``MjModel``.

    Returns:
        Frames ``(frames, height, width, 3)`` of uint8, for :func:`write_video`.

    Raises:
        RenderingUnavailable: there is no usable graphics library.
        ValueError: the states do not fit the model, there is no such camera, or dt is missing.
    """
    if isinstance(model, MujocoDynamics):
        model, dt = model.model, dt or model.dt
    if dt is None:
        raise ValueError("an MjModel does not know how long a control step is; pass dt= [s]")
    x = states_at_frames(states, dt, fps)
    if x.shape[1] < model.nq:
        raise ValueError(f"the model has {model.nq} positions, the states have {x.shape[1]} columns")
    renderer = MujocoRenderer(model, camera=camera, width=width, height=height)
    try:
        return renderer.frames(x)
    finally:
        renderer.close()


class MujocoRenderer:
    """A process that draws a MuJoCo scene until it is closed or the object is gone, as in :func:`render_mujoco`.

    Args:
        model: the scene.
        camera: name or number of a camera of the model; -1 is a free one that sees everything.
        width: of the frames [pixel].
        height: of the frames [pixel].

    Raises:
        ValueError: there is no such camera.
    """

    def __init__(self, model: "mujoco.MjModel", *, camera: str | int = -1, width: int = 640, height: int = 360):
        import mujoco

        number = _camera(model, camera)
        self._num_positions, self._shape = model.nq, (height, width, 3)
        self._folder = tempfile.TemporaryDirectory()
        mujoco.mj_saveModel(model, f"{self._folder.name}/model.mjb")
        self._process = _drawing_process(self._folder.name, number, width, height)
        self.close = weakref.finalize(self, _end, self._process, self._folder)

    def frames(self, states: np.ndarray) -> np.ndarray:
        """One frame for each state ``(frames, n)`` that begins with qpos.

        Raises:
            RenderingUnavailable: there is no usable graphics library.
        """
        frames = np.empty((len(states), *self._shape), dtype=np.uint8)
        for state, frame in zip(states, frames, strict=True):
            self._draw(state[: self._num_positions], frame)
        return frames

    def _draw(self, qpos: np.ndarray, frame: np.ndarray) -> None:
        source, target = self._process.stdout, self._process.stdin
        too_long = threading.Timer(LONGEST_DRAWING, self._process.kill)
        too_long.start()
        try:
            target.write(np.asarray(qpos, dtype=np.float64).tobytes())  # type: ignore[union-attr]
            target.flush()  # type: ignore[union-attr]
            picture = source.read(frame.size)  # type: ignore[union-attr]
        except BrokenPipeError:
            picture = b""
        finally:
            too_long.cancel()
        if len(picture) != frame.size:
            raise RenderingUnavailable(
                "MuJoCo cannot draw here; without a display it needs the system packages libegl1 and libgl1 "
                f"(apt-get install libegl1 libgl1). It said: {self._reason()}"
            )
        frame[:] = np.frombuffer(picture, dtype=np.uint8).reshape(self._shape)

    def _reason(self) -> str:
        status = self._process.wait()
        said = Path(self._folder.name, ERRORS).read_text(errors="replace").strip().splitlines()
        return said[-1] if said else f"exit status {status}"


def _camera(model: "mujoco.MjModel", camera: str | int) -> int:
    names = [model.camera(i).name for i in range(model.ncam)]
    number = names.index(camera) if camera in names else camera
    if isinstance(number, str) or not -1 <= number < model.ncam:
        known = ", ".join(map(repr, names)) or "none"
        raise ValueError(f"there is no camera {camera!r}; the model's are: {known}, and -1 is a free one")
    return number


def _drawing_process(folder: str, camera: int, width: int, height: int) -> "subprocess.Popen[bytes]":
    """A process in the folder, where it finds the model and MuJoCo may leave its log."""
    environment = dict(os.environ)
    if sys.platform == "linux" and not environment.get("MUJOCO_GL"):
        environment["MUJOCO_GL"] = "egl"
    script = Path(__file__).with_name("rendering_process.py")
    # -P: this folder's modules must not hide those of the standard library
    command = [sys.executable, "-P", str(script), str(camera), str(width), str(height)]
    pipe = subprocess.PIPE
    with open(f"{folder}/{ERRORS}", "wb") as errors:
        return subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=errors)


def _end(process: "subprocess.Popen[bytes]", folder: "tempfile.TemporaryDirectory[str]") -> None:
    process.kill()  # it holds nothing worth waiting for
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):  # positions that it has not read
            stream.close()  # type: ignore[union-attr]
    folder.cleanup()
