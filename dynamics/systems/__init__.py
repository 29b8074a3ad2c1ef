"""Physical systems written once in plain torch, the mechanical ones each with the same system as a MuJoCo model."""

from dynamics.systems.acrobot import Acrobot
from dynamics.systems.car import Car
from dynamics.systems.cartpole import CartPole
from dynamics.systems.double_integrator import DoubleIntegrator
from dynamics.systems.pendulum import Pendulum
from dynamics.systems.planar_quadrotor import PlanarQuadrotor
from dynamics.systems.quadrotor import Quadrotor
from dynamics.systems.reacher import Reacher
from dynamics.systems.two_link_arm import TwoLinkArm
from dynamics.systems.unicycle import Unicycle

__all__ = [
    "Acrobot",
    "Car",
    "CartPole",
    "DoubleIntegrator",
    "Pendulum",
    "PlanarQuadrotor",
    "Quadrotor",
    "Reacher",
    "TwoLinkArm",
    "Unicycle",
]
