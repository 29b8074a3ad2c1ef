"""Planners that sample: one loop, one idea per file."""

from planners.sampling.base import SamplingPlanner
from planners.sampling.cem import CEM
from planners.sampling.icem import ICEM
from planners.sampling.mppi import MPPI
from planners.sampling.noise import ColoredNoise, KnotNoise, Noise, WhiteNoise
from planners.sampling.predictive_sampling import PredictiveSampling
from planners.sampling.random_shooting import RandomShooting

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "ColoredNoise",
    "KnotNoise",
    "Noise",
    "PredictiveSampling",
    "RandomShooting",
    "SamplingPlanner",
    "WhiteNoise",
]
