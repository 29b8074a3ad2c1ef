"""InvertedPendulum-v5 and InvertedDoublePendulum-v5: balance one or two poles on a cart."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from mbrl.envs.mujoco.rules import Data, Model, Outcome, Rules, mixed_noise, uniform_noise


@dataclass(frozen=True)
class InvertedPendulum(Rules):
    """One pole: one point per step until it leans by 0.2 rad."""

    _: KW_ONLY
    xml_file: str = "inverted_pendulum.xml"
    frame_skip: int = 2
    reset_noise_scale: float = 0.01

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise."""
        return uniform_noise(self.reset_noise_scale, random, model)

    def observe(self, data: Data) -> np.ndarray:
        """Positions and velocities."""
        return np.concatenate([data.qpos, data.qvel], axis=1)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """One point until the pole leans by 0.2 rad."""
        finite = np.isfinite(data.qpos).all(axis=1) & np.isfinite(data.qvel).all(axis=1)
        terminated = ~finite | (np.abs(data.qpos[:, 1]) > 0.2)
        survival = (~terminated).astype(int)
        return Outcome(survival, terminated, {"reward_survive": survival})


@dataclass(frozen=True)
class InvertedDoublePendulum(Rules):
    """Two poles: survival minus the tip's distance from upright and the velocities, until the tip is below 1 m."""

    outputs: ClassVar[tuple[str, ...]] = ("site_xpos", "qfrc_constraint")

    _: KW_ONLY
    xml_file: str = "inverted_double_pendulum.xml"
    frame_skip: int = 5
    healthy_reward: float = 10.0
    reset_noise_scale: float = 0.1

    def initial_state(self, random: np.random.Generator, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise on positions, normal noise on velocities."""
        return mixed_noise(self.reset_noise_scale, random, model)

    def observe(self, data: Data) -> np.ndarray:
        """Place of the cart, sines and cosines, clipped velocities, and the clipped constraint force on the cart."""
        angles = data.qpos[:, 1:].copy()
        rates, force = np.clip(data.qvel, -10, 10), np.clip(data.qfrc_constraint[:, :1], -10, 10)
        return np.concatenate([data.qpos[:, :1], np.sin(angles), np.cos(angles), rates, force], axis=1)

    def outcome(self, data: Data, action: np.ndarray, velocity: np.ndarray) -> Outcome:
        """Survival minus penalties of the tip's place and the velocities, until the tip is below 1 m."""
        x, y = data.site_xpos[:, 0, 0], data.site_xpos[:, 0, 2]
        terminated = y <= 1
        (v1, v2), power = (
            data.qvel[:, 1:3].T,
            np.float_power,
        )  # gymnasium's numbers, unlike arrays, take pow for a square
        distance_penalty = 0.01 * power(x, 2) + power(y - 2, 2)
        velocity_penalty = 1e-3 * power(v1, 2) + 5e-3 * power(v2, 2)
        survival = self.healthy_reward * (~terminated).astype(int)
        info = {
            "reward_survive": survival,
            "distance_penalty": -distance_penalty,
            "velocity_penalty": -velocity_penalty,
        }
        return Outcome(survival - distance_penalty - velocity_penalty, terminated, info)
