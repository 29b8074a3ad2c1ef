"""What acts on a task."""

from mbrl.policies.actor import Actor
from mbrl.policies.spline_noise import SplineNoise

__all__ = ["Actor", "SplineNoise"]
