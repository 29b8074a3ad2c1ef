"""What happens next: systems, simulators, learned models, and the logs they are fitted to."""

import importlib.util
from pathlib import Path

from dynamics.analytic import LinearDynamics, MechanicalSystem, TorchDynamics
from dynamics.audit import AuditReport, Finding, audit
from dynamics.base import Curvature, Dynamics, Linearization
from dynamics.estimation import (
    ExtendedKalmanFilter,
    FilteredSequence,
    GaussianBelief,
    GaussianFilter,
    Innovation,
    SmoothedSequence,
    UnscentedKalmanFilter,
)
from dynamics.evaluation import EvaluationWindows, PredictionErrors, evaluate_predictions, evaluation_windows
from dynamics.fitting import FitReport, fit
from dynamics.formats import TrajectoryFormatError, read_logs, read_trajectories, write_trajectories
from dynamics.learned import MLP, Ensemble, LearnedDynamics, LinearModel
from dynamics.learned.local_linear import LocalLinearDynamics, fit_local_linear, transition_points
from dynamics.learned.mixture_prior import MixturePrior, fit_mixture_prior
from dynamics.learned.normal_inverse_wishart import LinearGaussian, NormalInverseWishart, linear_gaussian
from dynamics.learned.settings import FitError, Training
from dynamics.members import MemberDynamics
from dynamics.mujoco import ModelField, MujocoDynamics
from dynamics.parameters import PhysicalParameter
from dynamics.preparation import (
    convert_units,
    drop_duplicates,
    estimate_velocities,
    fill_gaps,
    resample,
    shift_latency,
)
from dynamics.randomization import RandomizedWorlds
from dynamics.serialization import load, save
from dynamics.stochastic import Prediction, StochasticDynamics
from dynamics.systems import (
    Acrobot,
    Car,
    CartPole,
    DoubleIntegrator,
    Pendulum,
    PlanarQuadrotor,
    Quadrotor,
    Reacher,
    TwoLinkArm,
    Unicycle,
)
from dynamics.trajectories import (
    Labels,
    RawLog,
    Trajectory,
    Transitions,
    Windows,
    check_compatible,
    summarize,
    transitions,
    windows,
)

__all__ = [
    "MLP",
    "Acrobot",
    "AuditReport",
    "Car",
    "CartPole",
    "Curvature",
    "DoubleIntegrator",
    "Dynamics",
    "Ensemble",
    "EvaluationWindows",
    "ExtendedKalmanFilter",
    "FilteredSequence",
    "Finding",
    "FitError",
    "FitReport",
    "GaussianBelief",
    "GaussianFilter",
    "Innovation",
    "Labels",
    "LearnedDynamics",
    "LinearDynamics",
    "LinearGaussian",
    "LinearModel",
    "Linearization",
    "LocalLinearDynamics",
    "MechanicalSystem",
    "MemberDynamics",
    "MixturePrior",
    "ModelField",
    "MujocoDynamics",
    "NormalInverseWishart",
    "Pendulum",
    "PhysicalParameter",
    "PlanarQuadrotor",
    "Prediction",
    "PredictionErrors",
    "Quadrotor",
    "RandomizedWorlds",
    "RawLog",
    "Reacher",
    "SmoothedSequence",
    "StochasticDynamics",
    "TorchDynamics",
    "Training",
    "Trajectory",
    "TrajectoryFormatError",
    "Transitions",
    "TwoLinkArm",
    "Unicycle",
    "UnscentedKalmanFilter",
    "Windows",
    "audit",
    "check_compatible",
    "convert_units",
    "drop_duplicates",
    "estimate_velocities",
    "evaluate_predictions",
    "evaluation_windows",
    "fill_gaps",
    "fit",
    "fit_local_linear",
    "fit_mixture_prior",
    "linear_gaussian",
    "load",
    "read_logs",
    "read_trajectories",
    "resample",
    "save",
    "shift_latency",
    "summarize",
    "transition_points",
    "transitions",
    "windows",
    "write_trajectories",
]


def _check_installation() -> None:
    """PyPI has other distributions that install packages called mbrl and planners; a mix of them must not go unnoticed."""
    here = Path(__file__).resolve().parent.parent
    for package in ("planners", "mbrl"):
        spec = importlib.util.find_spec(package)
        found = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        if found != here:
            raise ImportError(
                f"mbrl-control installs dynamics, planners and mbrl side by side in {here}, but {package} "
                f"{f'comes from {found}' if found else 'is missing'}: install mbrl-control into an environment of its own "
                "(other distributions on PyPI use the same import names)"
            )


_check_installation()
