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
from planners.mpc import MPC, MPCState
from planners.problem import Problem
from planners.sampling import ICEM, SamplingPlanner
from planners.solution import Solution, SolveError, Status
from planners.solve import Planner, Unrolled, solve
from planners.splines import ControlSpline

__all__ = [
    "ICEM",
    "LQR",
    "MPC",
    "ControlSpline",
    "Cost",
    "FunctionCost",
    "GoalCost",
    "LinearGaussianController",
    "MPCState",
    "Planner",
    "Problem",
    "QuadraticCost",
    "SamplingPlanner",
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
