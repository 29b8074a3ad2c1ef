"""Tasks: swing-ups, arms, navigation, flight and parking, most of them on two backends, and gymnasium's runners and swimmer."""

from mbrl.tasks.acrobot import acrobot_swing_up
from mbrl.tasks.base import Task, uniform_initial_state
from mbrl.tasks.car_parking import car_parking
from mbrl.tasks.cartpole import cart_pole_swing_up
from mbrl.tasks.discretizing import discretized
from mbrl.tasks.half_cheetah import half_cheetah
from mbrl.tasks.hopper import hopper
from mbrl.tasks.peg_insertion import peg_insertion, peg_insertion_starts
from mbrl.tasks.pendulum import pendulum_swing_up
from mbrl.tasks.planar_quadrotor import planar_quadrotor_flight
from mbrl.tasks.point_navigation import point_navigation
from mbrl.tasks.reacher import reacher
from mbrl.tasks.shaping import shaped
from mbrl.tasks.swimmer import swimmer
from mbrl.tasks.task_cost import TaskCost
from mbrl.tasks.worlds import GridWorld, gridworld, objectworld

# The library's own tasks by name; mbrl.envs registers mbrl/<name>-v0 for each.
CONSTRUCTORS = {
    "AcrobotSwingUp": acrobot_swing_up,
    "CarParking": car_parking,
    "CartPoleSwingUp": cart_pole_swing_up,
    "HalfCheetah": half_cheetah,
    "Hopper": hopper,
    "PegInsertion": peg_insertion,
    "PendulumSwingUp": pendulum_swing_up,
    "PlanarQuadrotorFlight": planar_quadrotor_flight,
    "PointNavigation": point_navigation,
    "Reacher": reacher,
    "Swimmer": swimmer,
}

# The worlds in tables by name, registered likewise.
WORLDS = {"Gridworld": gridworld, "Objectworld": objectworld}

__all__ = [
    "CONSTRUCTORS",
    "WORLDS",
    "GridWorld",
    "Task",
    "TaskCost",
    "acrobot_swing_up",
    "car_parking",
    "cart_pole_swing_up",
    "discretized",
    "gridworld",
    "half_cheetah",
    "hopper",
    "objectworld",
    "peg_insertion",
    "peg_insertion_starts",
    "pendulum_swing_up",
    "planar_quadrotor_flight",
    "point_navigation",
    "reacher",
    "shaped",
    "swimmer",
    "uniform_initial_state",
]
