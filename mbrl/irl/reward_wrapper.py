"""A gymnasium environment that pays a learned reward."""

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mbrl.envs.action_spaces import env_actions
from mbrl.irl.reward_network import RewardModel
from mbrl.policies.action_space import DiscreteActions


class RewardWrapper(gymnasium.Wrapper):
    """An environment with a learned reward; the true one is ``info["true_reward"]``.

    Args:
        env: with observations of one axis.
        reward: of what it shows; it is used as it is, not copied, so that what it learns later is paid from then on.
        discount: gamma, where the reward knows an absorbing state: what this pays after the end of an episode is paid with the
            step that terminates it.

    Raises:
        ValueError: the reward is of other columns than the environment's, or knows an absorbing state and there is no discount
            below 1.
    """

    def __init__(self, env: gymnasium.Env, reward: RewardModel, *, discount: float | None = None):
        super().__init__(env)
        reward.worth_of_the_end(discount)  # raises before a step is made
        self.reward, self._actions, self._discount = reward, env_actions(env), discount
        shape = env.observation_space.shape
        came, expected = (
            (shape, self._actions.control_dim),
            ((reward.observation_dim,), reward.encoding.actions.control_dim),
        )
        if came != expected:
            raise ValueError(
                f"the reward is of observations {expected[0]} and {expected[1]} controls, the environment has {shape} and "
                f"{came[1]}"
            )
        self._before: Tensor | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        y, info = self.env.reset(**kwargs)
        self._before = _row(y)
        return y, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A step, paid by the learned reward of the control that the environment applies."""
        y, true, terminated, truncated, info = self.env.step(action)
        if self._before is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        after = _row(y)
        over = torch.tensor(bool(terminated))
        with torch.no_grad():
            reward = float(self.reward(self._before, self._control(action), after, over))
        if terminated:
            reward += self.reward.worth_of_the_end(self._discount)
        self._before = after
        return y, reward, bool(terminated), bool(truncated), {**info, "true_reward": float(true)}

    def _control(self, action: Any) -> Tensor:
        if isinstance(self._actions, DiscreteActions):
            space = self.env.action_space
            number = int(action) - int(space.start) if isinstance(space, gymnasium.spaces.Discrete) else int(action)
            return self._actions.controls(torch.tensor(number))
        lower, upper = self._actions.bounds()
        return torch.minimum(torch.maximum(_row(action), lower), upper)


def _row(values: Any) -> Tensor:
    """Numbers of one transition as a float64 row."""
    return torch.from_numpy(np.array(values, dtype=np.float64)).reshape(-1)
