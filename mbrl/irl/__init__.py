"""Inverse reinforcement learning: rewards from demonstrations, and how good these are."""

from mbrl.irl.apprenticeship import Apprenticeship
from mbrl.irl.base import FeatureReward, LearnedReward, Mixture, RewardLearner
from mbrl.irl.cost_learner import CostLearner, IdentifiableWeights, LearnedCost
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
from mbrl.irl.reward_metrics import canonical_reward, epic_distance, expected_value_difference, reward_correlation
from mbrl.irl.worlds import GridWorld, gridworld, objectworld

__all__ = [
    "GCL",
    "LEARCH",
    "Apprenticeship",
    "CostLearner",
    "FeatureReward",
    "GCLLearner",
    "GridWorld",
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
    "RewardLearner",
    "TerrainLearner",
    "action_log_likelihood",
    "canonical_reward",
    "epic_distance",
    "expected_value_difference",
    "gridworld",
    "identifiability",
    "laplace_log_likelihood",
    "log_partition",
    "modified_hausdorff_distance",
    "objectworld",
    "path_overlap",
    "path_regret",
    "reward_correlation",
]
