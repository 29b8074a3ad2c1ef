"""Swimmer-v5: swim forward."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from mbrl.envs.mujoco.rules import Data, Model, Outcome, Rules, never, norm, squares, uniform_noise


@dataclass(frozen=True)
class Swimmer(Rules):
    """Three links in a viscous fluid with two motors: forward velocity minus control cost."""

    _: KW_ONLY
    xml_file: str = "swimmer.xml"
    frame_skip: int = 4
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-4
    reset_noise_scale: float = 0.1
    exclude_current_positions_from_observation: bool = True

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise."""
        return uniform_noise(self.reset_noise_scale, random, model)

    def position(self, data: Data) -> np.ndarray:
        """In the plane [m]."""
        return data.qpos[:, :2]

    def observe(self, data: Data) -> np.ndarray:
        """Positions, by default without those in the plane, and velocities."""
        hidden = 2 if self.exclude_current_positions_from_observation else 0
        return np.concatenate([data.qpos[:, hidden:], data.qvel], axis=1)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Weighted forward velocity minus control cost."""
        forward = self.forward_reward_weight * velocity[:, 0]
        control_cost = self.ctrl_cost_weight * squares(action)
        info = {
            **self.reset_info(data),
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_forward": forward,
            "reward_ctrl": -control_cost,
        }
        return Outcome(forward - control_cost, never(data), info)

    def reset_info(self, data: Data) -> dict[str, np.ndarray]:
        """Where it begins."""
        x, y = data.qpos[:, 0], data.qpos[:, 1]
        return {"x_position": x, "y_position": y, "distance_from_origin": norm(data.qpos[:, :2])}
