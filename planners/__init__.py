"""Planning: costs, problems, and the planners that solve them."""

from planners.asynchronous import AsynchronousMemory, AsynchronousMPC, AsynchronousReport, PlanExecutor
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
from planners.risk import CVaR, EpistemicPenalty, Expectation, Risk, WorstCase
from planners.sampling import (
    CEM,
    ICEM,
    MPPI,
    ColoredNoise,
    KnotNoise,
    Noise,
    PredictiveSampling,
    RandomShooting,
    SamplingPlanner,
    WhiteNoise,
)
from planners.shooting import GradientShooting
from planners.simulated_time import SimulatedTime
from planners.solution import Solution, SolveError, Status
from planners.solve import Planner, Unrolled, solve
from planners.splines import ControlSpline

__all__ = [
    "CEM",
    "ICEM",
    "LQR",
    "MPC",
    "MPPI",
    "AsynchronousMPC",
    "AsynchronousMemory",
    "AsynchronousReport",
    "CVaR",
    "ColoredNoise",
    "ControlSpline",
    "Cost",
    "EpistemicPenalty",
    "Expectation",
    "FunctionCost",
    "GoalCost",
    "GradientShooting",
    "KnotNoise",
    "LinearGaussianController",
    "MPCState",
    "Noise",
    "PlanExecutor",
    "Planner",
    "PredictiveSampling",
    "Problem",
    "QuadraticCost",
    "RandomShooting",
    "Risk",
    "SamplingPlanner",
    "SimulatedTime",
    "SmoothAbsCost",
    "Solution",
    "SolveError",
    "StageExpansion",
    "Status",
    "SumCost",
    "TerminalExpansion",
    "TransitionCost",
    "Unrolled",
    "WhiteNoise",
    "WorstCase",
    "solve",
]
