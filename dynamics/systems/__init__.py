"""Physical systems written once in plain torch, each with the same system as a MuJoCo model."""

from dynamics.systems.acrobot import Acrobot
from dynamics.systems.cartpole import CartPole
from dynamics.systems.double_integrator import DoubleIntegrator
from dynamics.systems.pendulum import Pendulum
from dynamics.systems.reacher import Reacher

__all__ = ["Acrobot", "CartPole", "DoubleIntegrator", "Pendulum", "Reacher"]
