"""HalfCheetah-v5: run forward."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from mbrl.envs.mujoco.rules import Data, Model, Outcome, Rules, mixed_noise, never, squares


@dataclass(frozen=True)
class HalfCheetah(Rules):
    """A planar runner with six motors: forward velocity minus control cost."""

    _: KW_ONLY
    xml_file: str = "half_cheetah.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 0.1
    reset_noise_scale: float = 0.1
    exclude_current_positions_from_observation: bool = True

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise on positions, normal noise on velocities."""
        return mixed_noise(self.reset_noise_scale, random, model)

    def position(self, data: Data) -> np.ndarray:
        """Along the track [m]."""
        return data.qpos[:, 0]

    def observe(self, data: Data) -> np.ndarray:
        """Positions, by default without that along the track, and velocities."""
        hidden = 1 if self.exclude_current_positions_from_observation else 0
        return np.concatenate([data.qpos[:, hidden:], data.qvel], axis=1)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Weighted forward velocity minus control cost."""
        forward = self.forward_reward_weight * velocity
        control_cost = self.ctrl_cost_weight * squares(action)
        info = {
            "x_position": data.qpos[:, 0],
            "x_velocity": velocity,
            "reward_forward": forward,
            "reward_ctrl": -control_cost,
        }
        return Outcome(forward - control_cost, never(data), info)

    def reset_info(self, data: Data) -> dict[str, np.ndarray]:
        """Where it begins."""
        return {"x_position": data.qpos[:, 0]}
