"""Policy optimization from what the policy itself has just done: the iteration once, an algorithm per file."""

from mbrl.on_policy.a2c import A2C
from mbrl.on_policy.advantages import AdvantageEstimator, GeneralizedAdvantages, NStepAdvantages, RewardsToGo
from mbrl.on_policy.base import OnPolicy, OnPolicyLearner
from mbrl.on_policy.constraint import CostConstraint
from mbrl.on_policy.objectives import ClippedObjective, KLPenalty, PolicyObjective
from mbrl.on_policy.policy_then_value import PolicyThenValue
from mbrl.on_policy.ppo import PPO
from mbrl.on_policy.reinforce import REINFORCE
from mbrl.on_policy.trpo import TRPO

__all__ = [
    "A2C",
    "PPO",
    "REINFORCE",
    "TRPO",
    "AdvantageEstimator",
    "ClippedObjective",
    "CostConstraint",
    "GeneralizedAdvantages",
    "KLPenalty",
    "NStepAdvantages",
    "OnPolicy",
    "OnPolicyLearner",
    "PolicyObjective",
    "PolicyThenValue",
    "RewardsToGo",
]
