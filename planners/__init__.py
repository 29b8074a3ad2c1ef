"""Planning: costs, problems, and the planners that solve them."""

from planners.asynchronous import AsynchronousMemory, AsynchronousMPC, AsynchronousReport, PlanExecutor
from planners.constraints import (
    Constraint,
    Equality,
    Inequality,
    LinearEquality,
    LinearInequality,
    Slack,
    StateEquality,
    StateInequality,
    StateLimits,
    TerminalState,
)
from planners.controllers import LinearGaussianController, expand_about
from planners.convex import ConvexProgram, OptimalityCertificate, SequentialConvex
from planners.costs import (
    Cost,
    DiagonalQuadraticCost,
    FunctionCost,
    GoalCost,
    LinearFeatureCost,
    QuadraticCost,
    ResidualCost,
    SmoothAbsCost,
    StageExpansion,
    SumCost,
    TerminalExpansion,
    TransitionCost,
    WeightedCost,
)
from planners.ddp import DDP
from planners.implicit import Implicit, InvalidGradientError
from planners.kkt import Certificate, certify
from planners.kl_constrained import KLStep, kl_constrained_step
from planners.linear_gaussian import (
    StateMarginals,
    expected_cost,
    expected_kl,
    maximum_entropy_controller,
    state_marginals,
    with_kl_penalty,
)
from planners.lqr import LQR
from planners.mpc import MPC, MPCState
from planners.mpc_layer import MPCLayer
from planners.multi_start import Basin, MultiStart, multi_start
from planners.problem import Problem
from planners.riccati import LinearQuadratic
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
from planners.search import RRT, Graph, GridGraph, Path, shortest_path
from planners.shooting import GradientShooting
from planners.simulated_time import SimulatedTime
from planners.solution import Solution, SolveError, Status
from planners.solve import Planner, Unrolled, solve
from planners.splines import ControlSpline
from planners.tabular import (
    TabularMDP,
    TabularSolution,
    TabularTrajectories,
    backward_induction,
    occupancies,
    occupancies_by_step,
    policy_evaluation,
    policy_iteration,
    sample_trajectories,
    solve_mdp,
    value_iteration,
)

__all__ = [
    "CEM",
    "DDP",
    "ICEM",
    "LQR",
    "MPC",
    "MPPI",
    "RRT",
    "AsynchronousMPC",
    "AsynchronousMemory",
    "AsynchronousReport",
    "Basin",
    "CVaR",
    "Certificate",
    "ColoredNoise",
    "Constraint",
    "ControlSpline",
    "ConvexProgram",
    "Cost",
    "DiagonalQuadraticCost",
    "EpistemicPenalty",
    "Equality",
    "Expectation",
    "FunctionCost",
    "GoalCost",
    "GradientShooting",
    "Graph",
    "GridGraph",
    "Implicit",
    "Inequality",
    "InvalidGradientError",
    "KLStep",
    "KnotNoise",
    "LinearEquality",
    "LinearFeatureCost",
    "LinearGaussianController",
    "LinearInequality",
    "LinearQuadratic",
    "MPCLayer",
    "MPCState",
    "MultiStart",
    "Noise",
    "OptimalityCertificate",
    "Path",
    "PlanExecutor",
    "Planner",
    "PredictiveSampling",
    "Problem",
    "QuadraticCost",
    "RandomShooting",
    "ResidualCost",
    "Risk",
    "SamplingPlanner",
    "SequentialConvex",
    "SimulatedTime",
    "Slack",
    "SmoothAbsCost",
    "Solution",
    "SolveError",
    "StageExpansion",
    "StateEquality",
    "StateInequality",
    "StateLimits",
    "StateMarginals",
    "Status",
    "SumCost",
    "TabularMDP",
    "TabularSolution",
    "TabularTrajectories",
    "TerminalExpansion",
    "TerminalState",
    "TransitionCost",
    "Unrolled",
    "WeightedCost",
    "WhiteNoise",
    "WorstCase",
    "backward_induction",
    "certify",
    "expand_about",
    "expected_cost",
    "expected_kl",
    "kl_constrained_step",
    "maximum_entropy_controller",
    "multi_start",
    "occupancies",
    "occupancies_by_step",
    "policy_evaluation",
    "policy_iteration",
    "sample_trajectories",
    "shortest_path",
    "solve",
    "solve_mdp",
    "state_marginals",
    "value_iteration",
    "with_kl_penalty",
]
