"""MujocoDynamics.rollout over raw mujoco.batch.Batch stepping on half-cheetah, frame skip 5 (control steps/s)."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from harness import interleave
from mujoco.batch import Batch

from dynamics import MujocoDynamics

MODEL = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
FRAME_SKIP = 5


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per number of worlds.

    All contestants step the same worlds under the same random controls from the same states on the same threads.
    "raw cold" does the same work as ours, the solver's warm start set to zero before each control step, and records
    nothing; its ratio counts. "raw warm" keeps the warm start from step to step, so that it is no function of the state,
    and saves solver iterations.
    """
    horizon, repeats = (25, 7) if quick else (100, 21)
    return [_row(worlds, horizon, repeats) for worlds in (64, 256)]


def _row(worlds: int, horizon: int, repeats: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="MuJoCo: .*settotalmass")  # the file is older than MuJoCo 4
        dynamics = MujocoDynamics(MODEL, frame_skip=FRAME_SKIP)
    model = dynamics.model
    generator = np.random.default_rng(0)
    qpos = 0.1 * generator.standard_normal((worlds, model.nq))
    us = generator.uniform(-1.0, 1.0, (worlds, horizon, model.nu))
    x0 = torch.from_numpy(np.concatenate([qpos, np.zeros((worlds, model.nv))], axis=1))
    controls = torch.from_numpy(us)
    batch = Batch(model, worlds)

    def raw(cold: bool) -> np.ndarray:
        ctrl, warmstart = batch.bind("ctrl"), batch.bind("qacc_warmstart")
        batch.bind("qpos")[:], batch.bind("qvel")[:], warmstart[:] = qpos, 0.0, 0.0
        for k in range(horizon):
            ctrl[:] = us[:, k]
            if cold:
                warmstart[:] = 0.0
            batch.step(nstep=FRAME_SKIP)
        return batch.bind("qpos")

    same = np.array_equal(dynamics.rollout(x0, controls)[:, -1, : model.nq].numpy(), raw(cold=True))
    timing = interleave(
        repeats, ours=lambda: dynamics.rollout(x0, controls), cold=lambda: raw(True), warm=lambda: raw(False)
    )
    rate = {name: worlds * horizon / result.median for name, result in timing.items()}
    return {
        "worlds": worlds,
        "horizon": horizon,
        "ours": rate["ours"],
        "raw cold": rate["cold"],
        "raw warm": rate["warm"],
        "ratio": rate["ours"] / rate["cold"],
        "aim": 0.85,
        "ratio to warm": rate["ours"] / rate["warm"],
        "same bits as raw cold": same,
    }
