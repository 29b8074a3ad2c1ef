"""Humanoid-v5 and HumanoidStandup-v5: walk, and stand up, with inertias, velocities and forces in the observation."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from mbrl.envs.mujoco.rules import Data, Model, Outcome, Rules, never, norm, squares, uniform_noise, within


@dataclass(frozen=True)
class Humanoid(Rules):
    """A biped with 17 motors: forward velocity and survival minus costs of control and contact."""

    outputs: ClassVar[tuple[str, ...]] = ("cinert", "cvel", "qfrc_actuator", "xipos", "ten_length", "ten_velocity")
    contact_forces: ClassVar[bool] = True

    _: KW_ONLY
    xml_file: str = "humanoid.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1.25
    ctrl_cost_weight: float = 0.1
    contact_cost_weight: float = 5e-7
    contact_cost_range: tuple[float, float] = (-np.inf, 10.0)
    healthy_reward: float = 5.0
    terminate_when_unhealthy: bool = True
    healthy_z_range: tuple[float, float] = (1.0, 2.0)
    reset_noise_scale: float = 1e-2
    exclude_current_positions_from_observation: bool = True
    include_cinert_in_observation: bool = True
    include_cvel_in_observation: bool = True
    include_qfrc_actuator_in_observation: bool = True
    include_cfrc_ext_in_observation: bool = True

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise."""
        return uniform_noise(self.reset_noise_scale, random, model)

    def position(self, data: Data) -> np.ndarray:
        """Of the center of mass in the plane [m]."""
        mass = data.model.body_mass
        return (np.einsum("b,nbj->nj", mass, data.xipos) / mass.sum())[:, :2]

    def observe(self, data: Data) -> np.ndarray:
        """Positions, by default without those in the plane, velocities, inertias and forces."""
        return _observe(self, data)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Weighted forward velocity and survival minus costs of control and contact, until it falls."""
        healthy = within(data.qpos[:, 2], self.healthy_z_range)
        forward, survival = self.forward_reward_weight * velocity[:, 0], healthy * self.healthy_reward
        control_cost = self.ctrl_cost_weight * squares(data.ctrl)
        contact_cost = np.clip(self.contact_cost_weight * squares(data.cfrc_ext), *self.contact_cost_range)
        info = {
            **self.reset_info(data),
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_survive": survival,
            "reward_forward": forward,
            "reward_ctrl": -control_cost,
            "reward_contact": -contact_cost,
        }
        reward = forward + survival - (control_cost + contact_cost)
        return Outcome(reward, ~healthy & self.terminate_when_unhealthy, info)

    def reset_info(self, data: Data) -> dict[str, np.ndarray]:
        """Where it begins."""
        return {
            "x_position": data.qpos[:, 0],
            "y_position": data.qpos[:, 1],
            "tendon_length": data.ten_length,
            "tendon_velocity": data.ten_velocity,
            "distance_from_origin": norm(data.qpos[:, :2]),
        }


@dataclass(frozen=True)
class HumanoidStandup(Rules):
    """The biped lying on its back: height over the time step minus costs of control and impact."""

    outputs: ClassVar[tuple[str, ...]] = ("cinert", "cvel", "qfrc_actuator", "ten_length", "ten_velocity")
    contact_forces: ClassVar[bool] = True

    _: KW_ONLY
    xml_file: str = "humanoidstandup.xml"
    frame_skip: int = 5
    uph_cost_weight: float = 1
    ctrl_cost_weight: float = 0.1
    impact_cost_weight: float = 0.5e-6
    impact_cost_range: tuple[float, float] = (-np.inf, 10.0)
    reset_noise_scale: float = 1e-2
    exclude_current_positions_from_observation: bool = True
    include_cinert_in_observation: bool = True
    include_cvel_in_observation: bool = True
    include_qfrc_actuator_in_observation: bool = True
    include_cfrc_ext_in_observation: bool = True

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise."""
        return uniform_noise(self.reset_noise_scale, random, model)

    def observe(self, data: Data) -> np.ndarray:
        """Positions, by default without those in the plane, velocities, inertias and forces."""
        return _observe(self, data)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Height over the time step minus costs of control and impact; gymnasium ignores uph_cost_weight, and so it does here."""
        up = (data.qpos[:, 2] - 0) / data.model.opt.timestep
        control_cost = self.ctrl_cost_weight * squares(data.ctrl)
        impact_cost = np.clip(self.impact_cost_weight * squares(data.cfrc_ext), *self.impact_cost_range)
        info = {
            **self.reset_info(data),
            "reward_linup": up,
            "reward_quadctrl": -control_cost,
            "reward_impact": -impact_cost,
        }
        return Outcome(up - control_cost - impact_cost + 1, never(data), info)

    def reset_info(self, data: Data) -> dict[str, np.ndarray]:
        """Where it begins."""
        return {
            "x_position": data.qpos[:, 0],
            "y_position": data.qpos[:, 1],
            "z_distance_from_origin": data.qpos[:, 2] - data.model.qpos0[2],
            "tendon_length": data.ten_length,
            "tendon_velocity": data.ten_velocity,
        }


def _observe(rules: Humanoid | HumanoidStandup, data: Data) -> np.ndarray:
    worlds = len(data.qpos)
    parts = [data.qpos[:, 2 if rules.exclude_current_positions_from_observation else 0 :], data.qvel]
    if rules.include_cinert_in_observation:
        parts.append(data.cinert[:, 1:].reshape(worlds, -1))
    if rules.include_cvel_in_observation:
        parts.append(data.cvel[:, 1:].reshape(worlds, -1))
    if rules.include_qfrc_actuator_in_observation:
        parts.append(data.qfrc_actuator[:, 6:])
    if rules.include_cfrc_ext_in_observation:
        parts.append(data.cfrc_ext[:, 1:].reshape(worlds, -1))
    return np.concatenate(parts, axis=1)
