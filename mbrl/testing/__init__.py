"""Contract checks to run on one's own classes.

    from mbrl.testing import check_actor, check_dynamics, check_planner, check_vector_env
    check_dynamics(MySystem())
    check_planner(MyPlanner())
    check_actor(MyPolicy(), my_task)
    check_vector_env(MyVectorEnv)  # called as MyVectorEnv(num_envs=..., autoreset_mode=...)

A check raises :class:`ContractError` with a sentence that says what was violated. It samples its own test points from a
fixed seed; points that make sense for the system (unit quaternions, states away from contact) can be passed instead.
"""

from mbrl.testing.actors import check_actor
from mbrl.testing.contract import ContractError
from mbrl.testing.dynamics import check_dynamics
from mbrl.testing.planners import check_planner
from mbrl.testing.vector_envs import check_vector_env

__all__ = ["ContractError", "check_actor", "check_dynamics", "check_planner", "check_vector_env"]
