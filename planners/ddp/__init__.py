"""Trajectory optimization by differential dynamic programming."""

from planners.ddp.planner import DDP

__all__ = ["DDP"]
