"""Inverse reinforcement learning: rewards from demonstrations, and how good these are."""

from mbrl.irl.apprenticeship import Apprenticeship
from mbrl.irl.base import FeatureReward, LearnedReward, Mixture
from mbrl.irl.cost_learner import CostLearner, IdentifiableWeights, LearnedCost
from mbrl.irl.identifiability import Identifiability, identifiability
from mbrl.irl.kkt_inverse import KKTInverse, KKTReport
from mbrl.irl.laplace import LaplaceIRL, LaplaceReport, laplace_log_likelihood
from mbrl.irl.max_ent import MaxEntIRL, action_log_likelihood
from mbrl.irl.max_margin import MaxMargin
from mbrl.irl.mpc_inverse import MPCInverse, MPCInverseReport
from mbrl.irl.reward_files import load_reward, save_reward
from mbrl.irl.reward_learner import RewardLearner
from mbrl.irl.reward_metrics import (
    canonical_reward,
    epic_distance,
    expected_value_difference,
    reward_correlation,
    sampled_epic_distance,
)
from mbrl.irl.reward_report import FeatureGap, RewardReport, reward_report

__all__ = [
    "Apprenticeship",
    "CostLearner",
    "FeatureGap",
    "FeatureReward",
    "Identifiability",
    "IdentifiableWeights",
    "KKTInverse",
    "KKTReport",
    "LaplaceIRL",
    "LaplaceReport",
    "LearnedCost",
    "LearnedReward",
    "MPCInverse",
    "MPCInverseReport",
    "MaxEntIRL",
    "MaxMargin",
    "Mixture",
    "RewardLearner",
    "RewardReport",
    "action_log_likelihood",
    "canonical_reward",
    "epic_distance",
    "expected_value_difference",
    "identifiability",
    "laplace_log_likelihood",
    "load_reward",
    "reward_correlation",
    "reward_report",
    "sampled_epic_distance",
    "save_reward",
]
