"""Tasks, each on a MuJoCo and a torch backend."""

from mbrl.tasks.base import Task, uniform_initial_state
from mbrl.tasks.cartpole import cart_pole_swing_up
from mbrl.tasks.pendulum import pendulum_swing_up

# The library's own tasks by name; mbrl.envs registers mbrl/<name>-v0 for each.
CONSTRUCTORS = {
    "CartPoleSwingUp": cart_pole_swing_up,
    "PendulumSwingUp": pendulum_swing_up,
}

__all__ = ["CONSTRUCTORS", "Task", "cart_pole_swing_up", "pendulum_swing_up", "uniform_initial_state"]
