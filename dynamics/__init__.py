"""What happens next: systems, simulators, learned models, and the logs they are fitted to."""

import importlib.util
from pathlib import Path

from dynamics.analytic import LinearDynamics, MechanicalSystem, TorchDynamics
from dynamics.base import Curvature, Dynamics, Linearization
from dynamics.parameters import PhysicalParameter
from dynamics.stochastic import Prediction, StochasticDynamics
from dynamics.systems import Acrobot, CartPole, DoubleIntegrator, Pendulum

__all__ = [
    "Acrobot",
    "CartPole",
    "Curvature",
    "DoubleIntegrator",
    "Dynamics",
    "LinearDynamics",
    "Linearization",
    "MechanicalSystem",
    "Pendulum",
    "PhysicalParameter",
    "Prediction",
    "StochasticDynamics",
    "TorchDynamics",
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
