"""Costs: what a plan should make small."""

from planners.costs.base import Cost, StageExpansion, SumCost, TerminalExpansion
from planners.costs.distance import GoalCost, SmoothAbsCost
from planners.costs.functions import FunctionCost, ResidualCost, TransitionCost
from planners.costs.quadratic import QuadraticCost
from planners.costs.weighted import DiagonalQuadraticCost, LinearFeatureCost, WeightedCost

__all__ = [
    "Cost",
    "DiagonalQuadraticCost",
    "FunctionCost",
    "GoalCost",
    "LinearFeatureCost",
    "QuadraticCost",
    "ResidualCost",
    "SmoothAbsCost",
    "StageExpansion",
    "SumCost",
    "TerminalExpansion",
    "TransitionCost",
    "WeightedCost",
]
