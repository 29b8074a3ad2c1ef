"""The process that draws for ``MujocoRenderer``: reads model.mjb, then positions from its input, and writes pictures."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import os
import sys

import numpy as np


def draw(camera: int, width: int, height: int) -> None:
    """One picture ``(height, width, 3)`` of uint8 for each qpos of float64, until the input ends."""
    pictures = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a graphics library prints may get between the pictures
    import mujoco

    model = mujoco.MjModel.from_binary_path("model.mjb")
    model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
    model.vis.global_.offheight = max(height, model.vis.global_.offheight)
    data = mujoco.MjData(model)
    with mujoco.Renderer(model, height, width) as renderer:
        while qpos := sys.stdin.buffer.read(8 * model.nq):
            data.qpos[:] = np.frombuffer(qpos)
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera)
            pictures.write(renderer.render().tobytes())
            pictures.flush()


if __name__ == "__main__":
    draw(*map(int, sys.argv[1:]))
