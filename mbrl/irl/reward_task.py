"""Learned rewards in the place of the true ones: in a task, for planners and training, and in any gymnasium environment."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mbrl.envs.making import EnvFactory, checked_id, made_env
from mbrl.irl.reward_network import RewardModel
from mbrl.tasks import Task
from planners import Cost

if TYPE_CHECKING:
    import gymnasium


class RewardCost(Cost):
    """Minus a reward of what a task shows, as a cost of its states.

    Args:
        reward: of observations ``(*b, ny)``.
        task: says what is observed, and when it is over.

    Raises:
        ValueError: the reward is of other columns than the task's.
    """

    def __init__(self, reward: RewardModel, task: Task):
        super().__init__()
        sample = task.observe(task.initial_state(1, torch.Generator().manual_seed(0)))
        came = sample.shape[-1], task.dynamics.control_dim
        expected = reward.observation_dim, reward.encoding.actions.control_dim
        if came != expected:
            raise ValueError(
                f"the reward is of {expected[0]} observations and {expected[1]} controls, task {task.name} has {came[0]} and "
                f"{came[1]}"
            )
        self.reward, self.task = reward, task
        self.needs_next_state = reward.needs_next

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Minus the reward, ``(*batch,)``.

        Raises:
            TypeError: the reward depends on the next state.
        """
        if self.needs_next_state:
            raise TypeError(
                "this reward depends on the next state; evaluate transition(x, u, x_next, t) instead of stage"
            )
        return -self.reward(*_broadcast(self.task.observe(x), u))

    def transition(self, x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        """Minus the reward of a step and the state that it leads to, ``(*batch,)``."""
        if not self.needs_next_state:
            return self.stage(x, u, t)
        termination = self.task.termination
        over = None if termination is None else termination(x_next)
        y, controls, y_next = _broadcast(self.task.observe(x), u, self.task.observe(x_next))
        return -self.reward(y, controls, y_next, over)


def _broadcast(*values: Tensor) -> list[Tensor]:
    """Tensors ``(*batch, columns)`` with one batch shape."""
    batch = torch.broadcast_shapes(*(value.shape[:-1] for value in values))
    return [value.expand(*batch, value.shape[-1]) for value in values]


def reward_task(task: Task, reward: RewardModel, *, discount: float | None = None) -> Task:
    r"""A task in which a learned reward takes the place of the true one: all planners and all training run on it.

    Plant, limits, starts, observations and ends stay what they are. The true cost of termination goes with the true reward; where
    the reward knows an absorbing state, the learned one takes its place, :math:`-\gamma / (1 - \gamma)` times its reward.

    Args:
        task: the task.
        reward: of what the task shows; it is used as it is, not copied, but for what comes after termination, which is a number.
        discount: gamma, of what comes after termination; that of the task by default.

    Raises:
        ValueError: the reward is of other columns than the task's, or what comes after termination needs a discount below 1.
    """
    after = 0.0
    if task.termination is not None and reward.encoding.absorbing:
        after = -reward.worth_of_the_end(task.discount if discount is None else discount)
    return replace(task, cost=RewardCost(reward, task), termination_cost=after)


def reward_env(
    environment: str | EnvFactory, reward: RewardModel, *, discount: float | None = None, **options: Any
) -> EnvFactory:
    r"""A function that makes a gymnasium environment with a learned reward, for training and evaluation.

    Where the reward knows an absorbing state, the step that terminates an episode is paid :math:`\gamma / (1 - \gamma)` times the
    reward of that state on top, as in the training that it was learned in; a truncated episode is not over. The true reward is
    ``info["true_reward"]``.

    Args:
        environment: an id, or a function without arguments that makes one, with observations of one axis.
        reward: of what the environment shows.
        discount: gamma, of what comes after termination: that of the algorithm which is going to be trained. Needed where the
            reward knows an absorbing state; without one nothing comes after the end.
        **options: of ``gymnasium.make`` or the function.

    Raises:
        ValueError: the reward knows an absorbing state, and there is no discount below 1.
    """
    reward.worth_of_the_end(discount)  # raises before environments are made
    return partial(_with_reward, environment, reward, discount, **options)


def _with_reward(
    environment: str | EnvFactory, reward: RewardModel, discount: float | None, **options: Any
) -> "gymnasium.Env":
    import gymnasium

    from mbrl.irl.reward_wrapper import RewardWrapper

    if isinstance(environment, str):
        return RewardWrapper(gymnasium.make(checked_id(environment), **options), reward, discount=discount)
    return RewardWrapper(made_env(environment, **options), reward, discount=discount)
