"""Planning: costs, problems, and the planners that solve them."""

from planners.controllers import LinearGaussianController
from planners.costs import (
    Cost,
    FunctionCost,
    GoalCost,
    QuadraticCost,
    SmoothAbsCost,
    StageExpansion,
    SumCost,
    TerminalExpansion,
    TransitionCost,
)
from planners.lqr import LQR
from planners.problem import Problem
from planners.solution import Solution, SolveError, Status
from planners.solve import Planner, Unrolled, solve

__all__ = [
    "LQR",
    "Cost",
    "FunctionCost",
    "GoalCost",
    "LinearGaussianController",
    "Planner",
    "Problem",
    "QuadraticCost",
    "SmoothAbsCost",
    "Solution",
    "SolveError",
    "StageExpansion",
    "Status",
    "SumCost",
    "TerminalExpansion",
    "TransitionCost",
    "Unrolled",
    "solve",
]
