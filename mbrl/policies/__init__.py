"""What acts on a task."""

from mbrl.policies.actor import Actor
from mbrl.policies.spline_noise import SplineNoise
from mbrl.policies.uniform_noise import UniformNoise

__all__ = ["Actor", "SplineNoise", "UniformNoise"]
