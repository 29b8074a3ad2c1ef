r"""What guided policy search learns from: rollouts of one length on a task's plant, with the probabilities of what was done.

.. math:: a_t \sim p(\cdot \mid x_t, t), \qquad u_t = \operatorname{clip}(\text{controls}(a_t)), \qquad x_{t+1} = f(x_t, u_t, t)

The action, in half widths of the control limits, is kept as it was drawn: clamping belongs to the plant, so that policies and
controllers have densities of the same variable.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from dynamics import Dynamics, Trajectory
from mbrl.policies.action_space import ContinuousActions
from mbrl.policies.actor import Actor
from mbrl.policies.policy import Policy
from mbrl.tasks import Task
from planners import LinearGaussianController

Choose = Callable[[Tensor, int], Tensor]
"""Actions ``(*batch, a)`` at states ``(*batch, n)`` and an integer step."""


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Rollouts of T steps, ``(S, C)`` of them: S from each of C initial states, or any other batch.

    Attributes:
        states: ``(S, C, T+1, n)``; after a divergence the last finite one.
        actions: as drawn, before clamping, ``(S, C, T, a)``.
        costs: of each step, as plans count them, which is with the task's discount, ``(S, C, T)``, the terminal cost in the last
            one; after a divergence the largest finite cost of all.
        valid: whether a rollout stayed finite, ``(S, C)``.
    """

    states: Tensor
    actions: Tensor
    costs: Tensor
    valid: Tensor

    @property
    def steps(self) -> int:
        """Steps of all rollouts."""
        return self.costs.numel()

    @property
    def total_costs(self) -> Tensor:
        """``(S, C)``."""
        return self.costs.sum(-1)

    @property
    def flattened(self) -> Self:
        """The same, one after the other, ``(S * C,)`` of them."""
        batch = self.valid.ndim
        return self._each(lambda name: getattr(self, name).flatten(0, batch - 1))

    def joined(self, more: Self) -> Self:
        """These and more rollouts, from as many initial states."""
        return self._each(lambda name: torch.cat([getattr(self, name), getattr(more, name)]))

    def __getitem__(self, index: Any) -> Self:
        """Some of the S samples."""
        return self._each(lambda name: getattr(self, name)[index])

    def _each(self, fn: Callable[[str], Tensor]) -> Self:
        return replace(self, **{name: fn(name) for name in ("states", "actions", "costs", "valid")})

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: getattr(self, name) for name in ("states", "actions", "costs", "valid")}


@torch.no_grad()
def roll_out(
    task: Task,
    choose: Choose,
    x0: Tensor,
    *,
    plant: Dynamics | None = None,
    control_noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Rollouts:
    """Run what chooses actions for an episode of the task.

    Args:
        task: costs, limits and the length of an episode.
        choose: what to do.
        x0: initial states ``(S, C, n)``, or any other batch.
        plant: what is run on, for instance one that counts; the task's by default.
        control_noise: standard deviation of disturbances of the controls, in half widths of the limits.
        generator: source of the disturbances.
    """
    plant, space = task.dynamics if plant is None else plant, actions_of_task(task)
    x, xs, actions, costs = x0, [x0], [], []
    for t in range(task.episode_steps):
        a = choose(x, t)
        disturbed = a
        if control_noise:
            disturbed = a + control_noise * torch.randn(a.shape, generator=generator, dtype=a.dtype, device=a.device)
        u = space.controls(disturbed).to(x)
        x_next = plant(x, u, t)
        costs.append(-task.reward(x, u, x_next, t))
        finite = x_next.isfinite().all(-1) & costs[-1].isfinite()
        costs[-1] = torch.where(finite, costs[-1], torch.nan)
        x = torch.where(finite.unsqueeze(-1), x_next, x)
        xs.append(x)
        actions.append(a)
    costs[-1] = costs[-1] + task.discount * task.cost.terminal(x)
    cost = torch.stack(costs, -1) * task.discount ** torch.arange(len(costs)).to(x)
    lost = cost.isnan().to(torch.uint8).cummax(-1).values.bool()  # a diverged world may look finite again
    worst = cost[~lost].max() if bool((~lost).any()) else cost.new_tensor(0.0)  # of none, nothing is known
    return Rollouts(torch.stack(xs, -2), torch.stack(actions, -2), torch.where(lost, worst, cost), ~lost.any(-1))


def actions_of_task(task: Task) -> ContinuousActions:
    """The task's controls as actions.

    Raises:
        ValueError: episodes of the task differ in length, or there are finitely many controls.
    """
    if task.termination is not None:
        raise ValueError(
            f"guided policy search needs episodes of one length, and task {task.name} terminates; leave termination out and "
            "charge it in the cost"
        )
    if task.control_values is not None:
        raise ValueError(f"guided policy search needs continuous controls, task {task.name} lists its control_values")
    return ContinuousActions(*task.limits())


def policy_actions(
    policy: Policy, task: Task, generator: torch.Generator | None = None, *, deterministic: bool = False
) -> Choose:
    """What a policy does: draws, or the modes of its distributions."""

    def choose(x: Tensor, t: int) -> Tensor:
        distribution = policy.distribution(task.observe(x))
        return (distribution.mode() if deterministic else distribution.sample(generator)).to(x)

    return choose


def controller_actions(
    controller: LinearGaussianController,
    space: ContinuousActions,
    generator: torch.Generator,
    *,
    deterministic: bool = False,
) -> Choose:
    """What controllers of C conditions do in ``(S, C)`` worlds, from their first step on."""
    memory = controller.init(generator=generator)

    def choose(x: Tensor, t: int) -> Tensor:
        nonlocal memory
        u, memory = controller.act(x, memory, deterministic=deterministic)
        return space.actions(u)

    return choose


def actor_actions(actor: Actor, task: Task, like: Tensor, generator: torch.Generator | None = None) -> Choose:
    """What anything that acts does in worlds of the shape of states ``(*batch, n)``, without its own noise."""
    space = actions_of_task(task)
    memory = actor.init(like[..., 0].numel(), generator=generator)

    def choose(x: Tensor, t: int) -> Tensor:
        nonlocal memory
        x = x.flatten(0, -2)
        u, memory = actor.act(x if actor.acts_on == "state" else task.observe(x), memory, deterministic=True)
        return space.actions(u.to(x)).unflatten(0, like.shape[:-1])

    return choose


def trajectories(task: Task, rollouts: Rollouts) -> list[Trajectory]:
    """The rollouts that stayed finite, as logs of states."""
    space = actions_of_task(task)
    xs, us = rollouts.states[rollouts.valid], space.controls(rollouts.actions[rollouts.valid])
    names = {"observations": task.dynamics.state_names, "controls": task.dynamics.control_names}
    return [
        Trajectory(x.numpy(), u.numpy(), dt=task.dynamics.dt, truncated=True, names=names)
        for x, u in zip(xs, us, strict=True)
    ]


def controller_state(controller: LinearGaussianController) -> dict[str, Any]:
    """The tensors of a controller by name: with the dynamics, the arguments that make it again."""
    return {name: getattr(controller, name) for name in ("xs", "us", "K", "covariance")}


def policy_log_probs(policy: Policy, task: Task, rollouts: Rollouts) -> Tensor:
    """Log-densities of the actions under a policy, ``(S, C, T)`` float64."""
    y = task.observe(rollouts.states[..., :-1, :])
    return policy.distribution(y).log_prob(rollouts.actions.to(policy.dtype)).double()
