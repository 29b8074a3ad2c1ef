"""Ant-v5: walk forward on four legs, with contact forces in the observation."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from mbrl.envs.mujoco.rules import Data, Model, Outcome, Rules, mixed_noise, norm, squares


@dataclass(frozen=True)
class Ant(Rules):
    """A quadruped with eight motors: forward velocity and survival minus costs of control and contact."""

    outputs: ClassVar[tuple[str, ...]] = ("xpos",)
    contact_forces: ClassVar[bool] = True

    _: KW_ONLY
    xml_file: str = "ant.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1
    ctrl_cost_weight: float = 0.5
    contact_cost_weight: float = 5e-4
    healthy_reward: float = 1.0
    main_body: int | str = 1
    terminate_when_unhealthy: bool = True
    healthy_z_range: tuple[float, float] = (0.2, 1.0)
    contact_force_range: tuple[float, float] = (-1.0, 1.0)
    reset_noise_scale: float = 0.1
    exclude_current_positions_from_observation: bool = True
    include_cfrc_ext_in_observation: bool = True

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise on positions, normal noise on velocities."""
        return mixed_noise(self.reset_noise_scale, random, model)

    def position(self, data: Data) -> np.ndarray:
        """Of the main body in the plane [m]."""
        return data.xpos[:, data.model.body(self.main_body).id, :2]

    def observe(self, data: Data) -> np.ndarray:
        """Positions, by default without those in the plane, velocities, and clipped contact forces."""
        parts = [data.qpos[:, 2 if self.exclude_current_positions_from_observation else 0 :], data.qvel]
        if self.include_cfrc_ext_in_observation:
            parts.append(self._forces(data)[:, 1:].reshape(len(data.qpos), -1))
        return np.concatenate(parts, axis=1)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Weighted forward velocity and survival minus costs of control and contact, until it falls or jumps."""
        healthy = self._healthy(data)
        forward, survival = velocity[:, 0] * self.forward_reward_weight, healthy * self.healthy_reward
        control_cost = self.ctrl_cost_weight * squares(action)
        contact_cost = self.contact_cost_weight * squares(self._forces(data))
        info = {
            **self.reset_info(data),
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_forward": forward,
            "reward_ctrl": -control_cost,
            "reward_contact": -contact_cost,
            "reward_survive": survival,
        }
        reward = forward + survival - (control_cost + contact_cost)
        return Outcome(reward, ~healthy & self.terminate_when_unhealthy, info)

    def reset_info(self, data: Data) -> dict[str, np.ndarray]:
        """Where it begins."""
        x, y = data.qpos[:, 0], data.qpos[:, 1]
        return {"x_position": x, "y_position": y, "distance_from_origin": norm(data.qpos[:, :2])}

    def _forces(self, data: Data) -> np.ndarray:
        return np.clip(data.cfrc_ext, *self.contact_force_range)

    def _healthy(self, data: Data) -> np.ndarray:
        lowest, highest = self.healthy_z_range
        finite = np.isfinite(data.qpos).all(axis=1) & np.isfinite(data.qvel).all(axis=1)
        return finite & (lowest <= data.qpos[:, 2]) & (data.qpos[:, 2] <= highest)
