"""Imitation: policies from what an expert has done, and from what it would do where the policy goes."""

from mbrl.imitation.behavior_cloning import BC, BCLearner
from mbrl.imitation.dagger import DAgger, DAggerLearner

__all__ = ["BC", "BCLearner", "DAgger", "DAggerLearner"]
