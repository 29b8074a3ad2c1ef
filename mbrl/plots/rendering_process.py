"""The process that draws for ``render_mujoco``: reads model.mjb and qpos.npy, writes frames.npy, all in the working directory."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import sys

import numpy as np


def draw(camera: int, width: int, height: int) -> None:
    """One picture ``(height, width, 3)`` for each row of positions."""
    import mujoco

    model = mujoco.MjModel.from_binary_path("model.mjb")
    model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
    model.vis.global_.offheight = max(height, model.vis.global_.offheight)
    data, positions = mujoco.MjData(model), np.load("qpos.npy")
    frames = np.empty((len(positions), height, width, 3), dtype=np.uint8)
    with mujoco.Renderer(model, height, width) as renderer:
        for qpos, frame in zip(positions, frames, strict=True):
            data.qpos[:] = qpos
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera)
            renderer.render(out=frame)
    np.save("frames.npy", frames)


if __name__ == "__main__":
    draw(*map(int, sys.argv[1:]))
