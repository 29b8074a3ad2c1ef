"""gymnasium's MuJoCo v5 environments as threaded vector environments.

``vector_env.RULES`` is the table of ids. A new environment is one frozen dataclass of :class:`~mbrl.envs.mujoco.rules.Rules`
in a file of its own and one line of the table.
"""

from mbrl.envs.mujoco.vector_env import RULES, MujocoVectorEnv, make_mujoco_vec_env

__all__ = ["RULES", "MujocoVectorEnv", "make_mujoco_vec_env"]
