"""Constraints: what a plan has to respect."""

from planners.constraints.base import Constraint, Slack
from planners.constraints.functions import Equality, Inequality, StateEquality, StateInequality
from planners.constraints.linear import LinearEquality, LinearInequality, StateLimits, TerminalState

__all__ = [
    "Constraint",
    "Equality",
    "Inequality",
    "LinearEquality",
    "LinearInequality",
    "Slack",
    "StateEquality",
    "StateInequality",
    "StateLimits",
    "TerminalState",
]
