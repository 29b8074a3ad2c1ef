"""Tasks: swing-ups, reaching and navigation, each on a MuJoCo and a torch backend, and gymnasium's runners."""

from mbrl.tasks.acrobot import acrobot_swing_up
from mbrl.tasks.base import Task, uniform_initial_state
from mbrl.tasks.cartpole import cart_pole_swing_up
from mbrl.tasks.discretizing import discretized
from mbrl.tasks.half_cheetah import half_cheetah
from mbrl.tasks.hopper import hopper
from mbrl.tasks.pendulum import pendulum_swing_up
from mbrl.tasks.point_navigation import point_navigation
from mbrl.tasks.reacher import reacher
from mbrl.tasks.shaping import shaped

# The library's own tasks by name; mbrl.envs registers mbrl/<name>-v0 for each.
CONSTRUCTORS = {
    "AcrobotSwingUp": acrobot_swing_up,
    "CartPoleSwingUp": cart_pole_swing_up,
    "HalfCheetah": half_cheetah,
    "Hopper": hopper,
    "PendulumSwingUp": pendulum_swing_up,
    "PointNavigation": point_navigation,
    "Reacher": reacher,
}

__all__ = [
    "CONSTRUCTORS",
    "Task",
    "acrobot_swing_up",
    "cart_pole_swing_up",
    "discretized",
    "half_cheetah",
    "hopper",
    "pendulum_swing_up",
    "point_navigation",
    "reacher",
    "shaped",
    "uniform_initial_state",
]
