"""What acts on a task."""

from mbrl.policies.actor import Actor
from mbrl.policies.estimated_state import EstimatedStateActor, EstimatedStateMemory
from mbrl.policies.spline_noise import SplineNoise
from mbrl.policies.uniform_noise import UniformNoise

__all__ = ["Actor", "EstimatedStateActor", "EstimatedStateMemory", "SplineNoise", "UniformNoise"]
