"""Sampling planners: one loop, one idea per file."""

from planners.sampling.base import SamplingPlanner
from planners.sampling.icem import ICEM

__all__ = ["ICEM", "SamplingPlanner"]
