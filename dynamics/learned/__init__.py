"""Models learned from logged trajectories."""

from dynamics.learned.base import LearnedDynamics
from dynamics.learned.ensemble import MLP, Ensemble
from dynamics.learned.linear import LinearModel

__all__ = ["MLP", "Ensemble", "LearnedDynamics", "LinearModel"]
