"""Pusher-v5: push a cylinder to a goal."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from mbrl.envs.mujoco.rules import Data, Model, Outcome, Rules, never, norm, squares


@dataclass(frozen=True)
class Pusher(Rules):
    """An arm with seven motors: minus the distances hand to object and object to goal and the control cost."""

    outputs: ClassVar[tuple[str, ...]] = ("xpos",)

    _: KW_ONLY
    xml_file: str = "pusher_v5.xml"
    frame_skip: int = 5
    reward_near_weight: float = 0.5
    reward_dist_weight: float = 1
    reward_control_weight: float = 0.1

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """The cylinder in a rectangle beside the goal, the arm at rest."""
        goal = np.zeros(2)
        while True:
            cylinder = np.concatenate([random.uniform(-0.3, 0, 1), random.uniform(-0.2, 0.2, 1)])
            if np.linalg.norm(cylinder - goal) > 0.17:
                break
        qpos = model.qpos0.copy()
        qpos[-4:-2], qpos[-2:] = cylinder, goal
        qvel = random.uniform(-0.005, 0.005, model.nv)
        qvel[-4:] = 0
        return qpos, qvel

    def observe(self, data: Data) -> np.ndarray:
        """Joint angles and velocities, and the places of hand, cylinder and goal."""
        places = [_place(data, name) for name in ("tips_arm", "object", "goal")]
        return np.concatenate([data.qpos[:, :7], data.qvel[:, :7], *places], axis=1)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Minus the distances hand to cylinder and cylinder to goal and the control cost."""
        cylinder = _place(data, "object")
        near = -norm(cylinder - _place(data, "tips_arm")) * self.reward_near_weight
        distance = -norm(cylinder - _place(data, "goal")) * self.reward_dist_weight
        control = -squares(action) * self.reward_control_weight
        info = {"reward_dist": distance, "reward_ctrl": control, "reward_near": near}
        return Outcome(distance + control + near, never(data), info)


def _place(data: Data, body: str) -> np.ndarray:
    return data.xpos[:, data.model.body(body).id]
