"""Convex problems, and problems as sequences of convex ones."""

from planners.convex.convex_program import ConvexProgram, OptimalityCertificate
from planners.convex.sequential import SequentialConvex

__all__ = ["ConvexProgram", "OptimalityCertificate", "SequentialConvex"]
