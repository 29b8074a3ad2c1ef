r"""Reward shaping of a task, seen by planners, environments and vector environments alike.

.. math::
    r'(x, u, x') = r(x, u, x') + b \, [x' \in G] - s + \gamma \Phi(x') - \Phi(x)

The last two terms are a potential-based shaping (Ng, Harada and Russell 1999, "Policy invariance under reward
transformations", theorem 1) with the task's discount :math:`\gamma`. Over an episode they telescope,

.. math::
    \sum_{t=0}^{T-1} \gamma^t \bigl(\gamma \Phi(x_{t+1}) - \Phi(x_t)\bigr) = \gamma^T \Phi(x_T) - \Phi(x_0),

where :math:`\Phi` counts as zero in a state that terminates the episode, as the theorem asks for. So every policy's value
moves by :math:`-\Phi(x_0)`, which does not depend on the policy, and the optimal policy stays what it is. A planner whose
horizon ends before the episode does is left with :math:`\gamma^T \Phi(x_T)`: to it :math:`-\Phi` is a cost-to-go at the end
of the horizon, which is what makes a short horizon do. Where :math:`\Phi \le 0` and the optimal plan terminates within the
horizon, it stays the optimal plan.

The other two terms change what is optimal: they say what is wanted.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mbrl.tasks.base import Task
from planners import TransitionCost


def shaped(
    task: Task,
    *,
    success: float = 0.0,
    reached: Callable[[Tensor], Tensor] | None = None,
    slack: float = 0.0,
    progress: Callable[[Tensor], Tensor] | None = None,
) -> Task:
    """A task with a success bonus, a time penalty and a reward for progress, each optional, added to its own reward.

    Args:
        task: the task.
        success: bonus for a step that leads to a state in which ``reached`` is true: once where that terminates the episode,
            otherwise for each step that stays there, so that leaving and coming back does not pay.
        reached: ``fn(x) -> (*batch,)`` of bool for states ``(*batch, n)``; goes with ``success``.
        slack: penalty of every step.
        progress: the potential, ``fn(x) -> (*batch,)``, how far along a state is: for example minus the distance to the goal.
            A step is rewarded ``discount * progress(x_next) - progress(x)``, with zero for the potential of a terminal state.
            This changes no optimal policy; train with the task's discount.

    Raises:
        ValueError: success or slack is negative or not finite, or one of success and reached comes without the other.
        TypeError: reached or progress is no function.

    Example:
        >>> import mbrl
        >>> task = mbrl.shaped(mbrl.pendulum_swing_up("torch"), slack=0.1, progress=lambda x: x[..., 0].cos())
    """
    for name, value in (("success", success), ("slack", slack)):
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {value}")
    for name, function in (("reached", reached), ("progress", progress)):
        if not (function is None or callable(function)):
            raise TypeError(f"{name} must be a function of states (*batch, n), got {function!r}")
    if (reached is None) != (success == 0.0):
        raise ValueError("success, a bonus above zero, and reached, where it is paid, go together; give both or none")

    def cost(x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        reward = torch.full_like(x_next[..., 0], -slack)
        if reached is not None:
            reward = reward + success * reached(x_next).to(reward)
        if progress is not None:
            reward = reward + task.discount * _until_termination(task, progress(x_next), x_next) - progress(x)
        return -reward

    return replace(task, cost=task.cost + TransitionCost(cost))


def _until_termination(task: Task, potential: Tensor, x: Tensor) -> Tensor:
    """The potential of states, zero where they terminate the episode."""
    return potential if task.termination is None else potential.masked_fill(task.termination(x), 0.0)
