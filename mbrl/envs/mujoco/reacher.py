"""Reacher-v5: bring the fingertip to a target."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from mbrl.envs.mujoco.rules import Data, Model, Outcome, Rules, never, norm, squares


@dataclass(frozen=True)
class Reacher(Rules):
    """A planar arm with two motors: minus the distance to the target and the control cost."""

    outputs: ClassVar[tuple[str, ...]] = ("xpos",)

    _: KW_ONLY
    xml_file: str = "reacher.xml"
    frame_skip: int = 2
    reward_dist_weight: float = 1
    reward_control_weight: float = 1

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise and a target in a disk."""
        qpos = random.uniform(-0.1, 0.1, model.nq) + model.qpos0
        while True:
            target = random.uniform(-0.2, 0.2, 2)
            if np.linalg.norm(target) < 0.2:
                break
        qpos[-2:] = target
        qvel = random.uniform(-0.005, 0.005, model.nv)
        qvel[-2:] = 0
        return qpos, qvel

    def observe(self, data: Data) -> np.ndarray:
        """Cosines and sines of the joint angles, target, joint velocities, and the way to the target."""
        angles = data.qpos[:, :2].copy()
        parts = [np.cos(angles), np.sin(angles), data.qpos[:, 2:], data.qvel[:, :2], self._to_target(data)[:, :2]]
        return np.concatenate(parts, axis=1)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Minus the distance to the target and the control cost."""
        distance = -norm(self._to_target(data)) * self.reward_dist_weight
        control = -squares(action) * self.reward_control_weight
        return Outcome(distance + control, never(data), {"reward_dist": distance, "reward_ctrl": control})

    def _to_target(self, data: Data) -> np.ndarray:
        return data.xpos[:, data.model.body("fingertip").id] - data.xpos[:, data.model.body("target").id]
