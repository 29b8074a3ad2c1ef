"""Markov decision processes with finitely many states and actions, solved exactly."""

from planners.tabular.exact import (
    TabularSolution,
    backward_induction,
    policy_evaluation,
    policy_iteration,
    solve_mdp,
    value_iteration,
)
from planners.tabular.mdp import TabularMDP
from planners.tabular.occupancy import occupancies, occupancies_by_step
from planners.tabular.trajectories import TabularTrajectories, sample_trajectories

__all__ = [
    "TabularMDP",
    "TabularSolution",
    "TabularTrajectories",
    "backward_induction",
    "occupancies",
    "occupancies_by_step",
    "policy_evaluation",
    "policy_iteration",
    "sample_trajectories",
    "solve_mdp",
    "value_iteration",
]
