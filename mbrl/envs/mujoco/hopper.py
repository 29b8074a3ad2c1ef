"""Hopper-v5 and Walker2d-v5: hop and walk forward without falling."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import numpy as np

from mbrl.envs.mujoco.rules import Data, Model, Outcome, Rules, squares, uniform_noise, within

Range = tuple[float, float]


@dataclass(frozen=True)
class Hopper(Rules):
    """A planar one-legged hopper with three motors: forward velocity and survival minus control cost."""

    _: KW_ONLY
    xml_file: str = "hopper.xml"
    frame_skip: int = 4
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-3
    healthy_reward: float = 1.0
    terminate_when_unhealthy: bool = True
    healthy_state_range: Range = (-100.0, 100.0)
    healthy_z_range: Range = (0.7, float("inf"))
    healthy_angle_range: Range = (-0.2, 0.2)
    reset_noise_scale: float = 5e-3
    exclude_current_positions_from_observation: bool = True

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise."""
        return uniform_noise(self.reset_noise_scale, random, model)

    def position(self, data: Data) -> np.ndarray:
        """Along the track [m]."""
        return data.qpos[:, 0]

    def observe(self, data: Data) -> np.ndarray:
        """Positions, by default without that along the track, and velocities, clipped."""
        return _observe(data, self.exclude_current_positions_from_observation)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Weighted forward velocity and survival minus control cost, until it leans, falls or leaves the healthy states."""
        healthy = _upright(data, self.healthy_z_range, self.healthy_angle_range)
        for values in (data.qpos[:, 2:], data.qvel):
            healthy &= within(values, self.healthy_state_range).all(axis=1)
        return _outcome(self, data, action, velocity, healthy)

    def reset_info(self, data: Data) -> Mapping[str, np.ndarray]:
        """Where it begins."""
        return _place(data)


@dataclass(frozen=True)
class Walker2d(Rules):
    """A planar walker with six motors: forward velocity and survival minus control cost."""

    _: KW_ONLY
    xml_file: str = "walker2d_v5.xml"
    frame_skip: int = 4
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-3
    healthy_reward: float = 1.0
    terminate_when_unhealthy: bool = True
    healthy_z_range: Range = (0.8, 2.0)
    healthy_angle_range: Range = (-1.0, 1.0)
    reset_noise_scale: float = 5e-3
    exclude_current_positions_from_observation: bool = True

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise."""
        return uniform_noise(self.reset_noise_scale, random, model)

    def position(self, data: Data) -> np.ndarray:
        """Along the track [m]."""
        return data.qpos[:, 0]

    def observe(self, data: Data) -> np.ndarray:
        """Positions, by default without that along the track, and velocities, clipped."""
        return _observe(data, self.exclude_current_positions_from_observation)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Weighted forward velocity and survival minus control cost, until it leans or falls."""
        healthy = _upright(data, self.healthy_z_range, self.healthy_angle_range)
        return _outcome(self, data, action, velocity, healthy)

    def reset_info(self, data: Data) -> Mapping[str, np.ndarray]:
        """Where it begins."""
        return _place(data)


def _observe(data: Data, exclude_position: bool) -> np.ndarray:
    return np.concatenate([data.qpos[:, 1 if exclude_position else 0 :], np.clip(data.qvel, -10, 10)], axis=1)


def _upright(data: Data, z_range: Range, angle_range: Range) -> np.ndarray:
    return within(data.qpos[:, 1], z_range) & within(data.qpos[:, 2], angle_range)


def _place(data: Data) -> dict[str, np.ndarray]:
    return {"x_position": data.qpos[:, 0], "z_distance_from_origin": data.qpos[:, 1] - data.model.qpos0[1]}


def _outcome(
    rules: Hopper | Walker2d, data: Data, action: np.ndarray, velocity: np.ndarray, healthy: np.ndarray
) -> Outcome:
    forward, survival = rules.forward_reward_weight * velocity, healthy * rules.healthy_reward
    control_cost = rules.ctrl_cost_weight * squares(action)
    info = {
        **_place(data),
        "x_velocity": velocity,
        "reward_forward": forward,
        "reward_ctrl": -control_cost,
        "reward_survive": survival,
    }
    return Outcome(forward + survival - control_cost, ~healthy & rules.terminate_when_unhealthy, info)
