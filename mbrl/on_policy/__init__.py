"""Policy optimization from what the policy itself has just done: the iteration once, an algorithm per file."""

from mbrl.on_policy.advantages import AdvantageEstimator, GeneralizedAdvantages, NStepAdvantages, RewardsToGo
from mbrl.on_policy.base import OnPolicy, OnPolicyLearner
from mbrl.on_policy.objectives import ClippedObjective, KLPenalty, PolicyObjective
from mbrl.on_policy.ppo import PPO

__all__ = [
    "PPO",
    "AdvantageEstimator",
    "ClippedObjective",
    "GeneralizedAdvantages",
    "KLPenalty",
    "NStepAdvantages",
    "OnPolicy",
    "OnPolicyLearner",
    "PolicyObjective",
    "RewardsToGo",
]
