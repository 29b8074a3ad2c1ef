"""Offscreen pictures of MuJoCo scenes.

MuJoCo chooses its graphics library once, when it is imported, and a missing or broken one can end the process. So the pictures
are drawn by a process of their own: it does not matter what has been imported here, and a failure is an exception.
"""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from dynamics import MujocoDynamics
from mbrl.plots.video import states_at_frames

if TYPE_CHECKING:
    import mujoco


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
    import mujoco

    if isinstance(model, MujocoDynamics):
        model, dt = model.model, dt or model.dt
    if dt is None:
        raise ValueError("an MjModel does not know how long a control step is; pass dt= [s]")
    x = states_at_frames(states, dt, fps)
    if x.shape[1] < model.nq:
        raise ValueError(f"the model has {model.nq} positions, the states have {x.shape[1]} columns")
    number = _camera(model, camera)
    with tempfile.TemporaryDirectory() as folder:
        mujoco.mj_saveModel(model, f"{folder}/model.mjb")
        np.save(f"{folder}/qpos.npy", x[:, : model.nq])
        _draw(folder, number, width, height, seconds=60.0 + 2.0 * len(x))
        return np.load(f"{folder}/frames.npy")


def _camera(model: "mujoco.MjModel", camera: str | int) -> int:
    names = [model.camera(i).name for i in range(model.ncam)]
    number = names.index(camera) if camera in names else camera
    if isinstance(number, str) or not -1 <= number < model.ncam:
        known = ", ".join(map(repr, names)) or "none"
        raise ValueError(f"there is no camera {camera!r}; the model's are: {known}, and -1 is a free one")
    return number


def _draw(folder: str, camera: int, width: int, height: int, *, seconds: float) -> None:
    """Let the other process draw, in the folder, where MuJoCo may leave its log."""
    environment = dict(os.environ)
    if sys.platform == "linux" and not environment.get("MUJOCO_GL"):
        environment["MUJOCO_GL"] = "egl"
    script = Path(__file__).with_name("rendering_process.py")
    # -P: this folder's modules must not hide those of the standard library
    command = [sys.executable, "-P", str(script), str(camera), str(width), str(height)]
    try:
        drawn = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise RenderingUnavailable(f"MuJoCo did not finish drawing within {seconds:g} s") from error
    if drawn.returncode != 0:
        reason = (drawn.stderr.strip().splitlines() or [f"exit status {drawn.returncode}"])[-1]
        raise RenderingUnavailable(
            "MuJoCo cannot draw here; without a display it needs the system packages libegl1 and libgl1 "
            f"(apt-get install libegl1 libgl1). It said: {reason}"
        )
