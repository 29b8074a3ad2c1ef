"""Tasks, each on a MuJoCo and a torch backend."""

from mbrl.tasks.base import Task, uniform_initial_state
from mbrl.tasks.cartpole import cart_pole_swing_up
from mbrl.tasks.pendulum import pendulum_swing_up

__all__ = ["Task", "cart_pole_swing_up", "pendulum_swing_up", "uniform_initial_state"]
