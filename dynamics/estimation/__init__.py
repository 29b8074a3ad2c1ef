"""Where the state is, from what is measured: Kalman filters and smoothers on any dynamics."""

from dynamics.estimation.base import GaussianFilter
from dynamics.estimation.belief import GaussianBelief, Innovation
from dynamics.estimation.extended import ExtendedKalmanFilter
from dynamics.estimation.sequences import FilteredSequence, SmoothedSequence
from dynamics.estimation.unscented import UnscentedKalmanFilter

__all__ = [
    "ExtendedKalmanFilter",
    "FilteredSequence",
    "GaussianBelief",
    "GaussianFilter",
    "Innovation",
    "SmoothedSequence",
    "UnscentedKalmanFilter",
]
