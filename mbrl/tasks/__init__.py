"""Tasks, each on a MuJoCo and a torch backend."""

from mbrl.tasks.base import Task, uniform_initial_state
from mbrl.tasks.cartpole import cart_pole_swing_up
from mbrl.tasks.discretizing import discretized
from mbrl.tasks.pendulum import pendulum_swing_up
from mbrl.tasks.point_navigation import point_navigation
from mbrl.tasks.shaping import shaped

# The library's own tasks by name; mbrl.envs registers mbrl/<name>-v0 for each.
CONSTRUCTORS = {
    "CartPoleSwingUp": cart_pole_swing_up,
    "PendulumSwingUp": pendulum_swing_up,
    "PointNavigation": point_navigation,
}

__all__ = [
    "CONSTRUCTORS",
    "Task",
    "cart_pole_swing_up",
    "discretized",
    "pendulum_swing_up",
    "point_navigation",
    "shaped",
    "uniform_initial_state",
]
