"""What acts on a task."""

from mbrl.policies.action_space import ActionSpace, ContinuousActions, DiscreteActions
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
from mbrl.policies.export import export_policy
from mbrl.policies.heads import (
    BetaHead,
    CategoricalHead,
    GaussianHead,
    Head,
    MixtureHead,
    SquashedGaussianHead,
)
from mbrl.policies.learned_actor import LearnedActor
from mbrl.policies.networks import Body, FeedForward, Recurrent
from mbrl.policies.normalizer import RunningNormalizer
from mbrl.policies.planning_policy import PlanningPolicy
from mbrl.policies.policy import NetworkSettings, Policy, PolicyMemory
from mbrl.policies.saving import load_policy, save_policy
from mbrl.policies.spline_noise import SplineNoise
from mbrl.policies.tabular_policy import TabularPolicy
from mbrl.policies.trajectory_library import TrajectoryLibrary
from mbrl.policies.uniform_noise import UniformNoise
from mbrl.policies.value_function import ValueFunction

__all__ = [
    "ActionDistribution",
    "ActionSpace",
    "Actor",
    "Beta",
    "BetaHead",
    "Body",
    "Categorical",
    "CategoricalHead",
    "ContinuousActions",
    "DiagonalGaussian",
    "DiscreteActions",
    "EstimatedStateActor",
    "EstimatedStateMemory",
    "FeedForward",
    "GaussianHead",
    "GaussianMixture",
    "Head",
    "LearnedActor",
    "MixtureHead",
    "NetworkSettings",
    "NoClosedFormError",
    "PlanningPolicy",
    "Policy",
    "PolicyMemory",
    "Recurrent",
    "RunningNormalizer",
    "SplineNoise",
    "SquashedGaussian",
    "SquashedGaussianHead",
    "TabularPolicy",
    "TrajectoryLibrary",
    "UniformNoise",
    "ValueFunction",
    "export_policy",
    "load_policy",
    "save_policy",
]
