"""mbrl.make_mujoco_vec_env over raw mujoco.batch.Batch stepping, and over gymnasium's "sync" (environment steps/s)."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from harness import interleave
from mujoco import MjData, get_mju_user_warning, mj_rnePostConstraint, set_mju_user_warning
from mujoco.batch import Batch

import mbrl

NEVER_ENDS = {"terminate_when_unhealthy": False}
CASES: dict[str, tuple[int, dict[str, Any]]] = {  # steps of a run with 64 worlds, options without episodes that end
    "HalfCheetah-v5": (40, {}),
    "Hopper-v5": (20, NEVER_ENDS),
    "Ant-v5": (8, NEVER_ENDS),
    "Humanoid-v5": (4, NEVER_ENDS),
}


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per environment and number of worlds.

    "raw" writes the controls and calls ``step(nstep=frame_skip)`` on a batch of the same model, warm, and nothing else; for
    ant and humanoid it also calls ``mj_rnePostConstraint`` for each world, which gymnasium's observations need. "ours" goes
    through the same states from the same start under the same random actions on the same threads, without episodes that
    end: "ratio" is ours over raw. "episodes" is ours as it is used, with falls, resets and all, through the same episodes as
    "sync" (one thread, gymnasium's default).
    """
    return [_row(env_id, worlds, 21 if quick else 101) for env_id in CASES for worlds in (64, 256)]


def _row(env_id: str, worlds: int, repeats: int) -> dict[str, Any]:
    steps, options = CASES[env_id]
    steps = steps * 64 // worlds
    ours = mbrl.make_mujoco_vec_env(env_id, worlds, max_episode_steps=-1, **options)
    episodes = mbrl.make_mujoco_vec_env(env_id, worlds)
    with _silent_compiler():
        sync = gymnasium.make_vec(env_id, worlds, vectorization_mode="sync")
    space = ours.action_space
    actions = np.random.default_rng(0).uniform(space.low, space.high, (steps, *space.shape)).astype(np.float32)
    _, info = ours.reset(seed=0)
    batch, step = _raw(ours, info["state"])
    for env in (episodes, sync):
        env.reset(seed=0)

    def play(act: Callable[[np.ndarray], object]) -> Callable[[], None]:
        def run() -> None:
            for action in actions:
                act(action)

        return run

    timing = interleave(
        repeats, raw=play(step), ours=play(ours.step), episodes=play(episodes.step), sync=play(sync.step)
    )
    rate = {name: worlds * steps / result.median for name, result in timing.items()}
    state = ours.step(actions[0])[-1]["state"]
    step(actions[0])
    for env in (ours, episodes, sync):
        env.close()
    return {
        "env": env_id,
        "worlds": worlds,
        **rate,
        "ratio": rate["ours"] / rate["raw"],
        "aim": 0.85,
        "over sync": rate["episodes"] / rate["sync"],
        "same bits": np.array_equal(state[:, : ours.model.nq], batch.bind("qpos")),
    }


def _raw(env: mbrl.MujocoVectorEnv, start: np.ndarray) -> tuple[Batch, Callable[[np.ndarray], None]]:
    """A batch of the environment's model at its states ``(worlds, n)``, and what steps it under actions."""
    model, forces = env.model, env.rules.contact_forces
    batch = Batch(model, env.num_envs, len(os.sched_getaffinity(0)), persistent=forces)
    batch.bind("qpos")[:], batch.bind("qvel")[:] = np.split(start, [model.nq], axis=1)
    batch.forward()
    ctrl, scratch = batch.bind("ctrl"), MjData(model)

    def step(action: np.ndarray) -> None:
        ctrl[:] = action
        batch.step(nstep=env.frame_skip)
        if forces:
            for world in range(env.num_envs):
                batch.get_data(world, scratch)
                mj_rnePostConstraint(model, scratch)

    return batch, step


@contextlib.contextmanager
def _silent_compiler() -> Iterator[None]:
    """Let MuJoCo say nothing about gymnasium's model files, which are older than MuJoCo 4."""
    handler = get_mju_user_warning()
    set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        set_mju_user_warning(handler)
