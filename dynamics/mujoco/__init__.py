"""Unmodified MuJoCo models as batched, differentiable dynamics."""

from dynamics.mujoco.fields import ModelField
from dynamics.mujoco.system import MujocoDynamics

__all__ = ["ModelField", "MujocoDynamics"]
