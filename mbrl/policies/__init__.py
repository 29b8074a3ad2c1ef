"""What acts on a task."""

from mbrl.policies.actor import Actor
from mbrl.policies.distributions import (
    ActionDistribution,
    Beta,
    Categorical,
    DiagonalGaussian,
    GaussianMixture,
    NoClosedFormError,
    SquashedGaussian,
)
from mbrl.policies.estimated_state import EstimatedStateActor, EstimatedStateMemory
from mbrl.policies.heads import (
    BetaHead,
    CategoricalHead,
    GaussianHead,
    Head,
    MixtureHead,
    SquashedGaussianHead,
)
from mbrl.policies.spline_noise import SplineNoise
from mbrl.policies.uniform_noise import UniformNoise

__all__ = [
    "ActionDistribution",
    "Actor",
    "Beta",
    "BetaHead",
    "Categorical",
    "CategoricalHead",
    "DiagonalGaussian",
    "EstimatedStateActor",
    "EstimatedStateMemory",
    "GaussianHead",
    "GaussianMixture",
    "Head",
    "MixtureHead",
    "NoClosedFormError",
    "SplineNoise",
    "SquashedGaussian",
    "SquashedGaussianHead",
    "UniformNoise",
]
