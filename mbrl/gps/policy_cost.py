"""A policy as part of a cost, so that a trajectory optimizer keeps to what it would do."""

from torch import Tensor

from mbrl.policies.policy import Policy
from mbrl.tasks import Task
from planners import Cost


class PolicyCost(Cost):
    r"""Minus the log-density of controls under a policy, :math:`-w \log \pi_\theta(a \mid h(x))`.

    Args:
        policy: the policy, whose weights are held.
        task: what it sees and the limits that its actions are relative to.
        weight: w, in units of the task's cost.
    """

    def __init__(self, policy: Policy, task: Task, weight: float = 1.0):
        super().__init__()
        self.policy, self.task, self.weight = policy, task, weight

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """``(*batch,)`` at states ``(*batch, n)`` and controls ``(*batch, m)``."""
        distribution = self.policy.distribution(self.task.observe(x))
        actions = self.policy.actions.actions(u).to(self.policy.dtype)
        return -self.weight * distribution.log_prob(actions).to(x)
