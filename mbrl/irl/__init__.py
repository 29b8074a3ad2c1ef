"""Inverse reinforcement learning: rewards from demonstrations, and how good these are."""

from mbrl.irl.adversarial import Adversarial, AdversarialLearner
from mbrl.irl.airl import AIRL
from mbrl.irl.apprenticeship import Apprenticeship
from mbrl.irl.base import FeatureReward, LearnedReward, Mixture
from mbrl.irl.cost_learner import CostLearner, IdentifiableWeights, LearnedCost
from mbrl.irl.discriminator import DiscriminatorSettings
from mbrl.irl.gail import GAIL
from mbrl.irl.guided_cost import GCL, GCLLearner
from mbrl.irl.identifiability import Identifiability, identifiability
from mbrl.irl.kkt_inverse import KKTInverse, KKTReport
from mbrl.irl.laplace import LaplaceIRL, LaplaceReport, laplace_log_likelihood
from mbrl.irl.learch import LEARCH
from mbrl.irl.max_ent import MaxEntIRL, action_log_likelihood
from mbrl.irl.max_margin import MaxMargin
from mbrl.irl.max_margin_planning import MaxMarginPlanning
from mbrl.irl.mpc_inverse import MPCInverse, MPCInverseReport
from mbrl.irl.network_cost import NetworkCost
from mbrl.irl.partition import LogPartition, log_partition
from mbrl.irl.path_integral import PathIntegralIRL, PathIntegralReport
from mbrl.irl.path_margin import LearnedTerrain, TerrainLearner
from mbrl.irl.path_metrics import modified_hausdorff_distance, path_overlap, path_regret
from mbrl.irl.reward_files import load_reward, save_reward
from mbrl.irl.reward_findings import FeatureGap, RewardReport
from mbrl.irl.reward_learner import RewardLearner
from mbrl.irl.reward_metrics import (
    canonical_reward,
    epic_distance,
    expected_value_difference,
    reward_correlation,
    sampled_epic_distance,
)
from mbrl.irl.reward_network import DiscriminatorReward, RewardModel, RewardNetwork, ShapedReward
from mbrl.irl.reward_report import reward_report
from mbrl.irl.reward_task import RewardCost, reward_env, reward_task

__all__ = [
    "AIRL",
    "GAIL",
    "GCL",
    "LEARCH",
    "Adversarial",
    "AdversarialLearner",
    "Apprenticeship",
    "CostLearner",
    "DiscriminatorReward",
    "DiscriminatorSettings",
    "FeatureGap",
    "FeatureReward",
    "GCLLearner",
    "Identifiability",
    "IdentifiableWeights",
    "KKTInverse",
    "KKTReport",
    "LaplaceIRL",
    "LaplaceReport",
    "LearnedCost",
    "LearnedReward",
    "LearnedTerrain",
    "LogPartition",
    "MPCInverse",
    "MPCInverseReport",
    "MaxEntIRL",
    "MaxMargin",
    "MaxMarginPlanning",
    "Mixture",
    "NetworkCost",
    "PathIntegralIRL",
    "PathIntegralReport",
    "RewardCost",
    "RewardLearner",
    "RewardModel",
    "RewardNetwork",
    "RewardReport",
    "ShapedReward",
    "TerrainLearner",
    "action_log_likelihood",
    "canonical_reward",
    "epic_distance",
    "expected_value_difference",
    "identifiability",
    "laplace_log_likelihood",
    "load_reward",
    "log_partition",
    "modified_hausdorff_distance",
    "path_overlap",
    "path_regret",
    "reward_correlation",
    "reward_env",
    "reward_report",
    "reward_task",
    "sampled_epic_distance",
    "save_reward",
]
