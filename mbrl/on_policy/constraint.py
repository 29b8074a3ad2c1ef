r"""A limit on what episodes cost on average: constrained Markov decision processes by their Lagrangian.

.. math:: \max_\theta \; J_R(\theta) \quad \text{subject to} \quad J_C(\theta) = \mathbb E\Bigl[\sum_t c_t\Bigr] \le d

with :math:`c_t` the ``info["cost"]`` of a step, summed over an episode without a discount. The policy ascends the Lagrangian and
the multiplier descends it (Altman 1999; Ray, Achiam and Amodei 2019, section 5): before each update of the policy, with
:math:`\hat J_C` the mean over the episodes that have ended in the iteration,

.. math::
    I \leftarrow \max(0, I + \eta (\hat J_C - d)), \qquad
    \lambda = \max\bigl(0, I + K_P (\hat J_C - d) + K_D (\hat J_C - \hat J_C^-)_+\bigr), \qquad
    \hat A = \frac{\hat A_R - \lambda \hat A_C}{1 + \lambda}.

With :math:`K_P = K_D = 0` this is gradient ascent of the dual; the other two terms damp the oscillation of cost and multiplier
(Stooke, Achiam and Abbeel 2020, algorithm 2), with :math:`\hat J_C^-` the cost of the iteration before. The advantages of the
cost come from a value function of its own, with the discount and the estimator of the rewards'.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mbrl.on_policy.reward_scale import RewardScale
from mbrl.on_policy.rollout import Rollout, Samples, rollout_values
from mbrl.on_policy.value_fitting import fit_value
from mbrl.policies.policy import Policy
from mbrl.policies.value_function import ValueFunction
from mbrl.training.checking import check_numbers
from mbrl.training.flat_parameters import FlatParameters
from mbrl.training.processes import Processes


@dataclass(frozen=True)
class CostConstraint:
    """A limit on the mean cost of an episode, kept by a multiplier.

    The multiplier is the price of a unit of cost in units of reward, both as the algorithm sees them: where it normalizes
    rewards, costs are divided by the standard deviation of their discounted sum, too.

    Attributes:
        limit: d, of the sum of ``info["cost"]`` over an episode.
        learning_rate: eta, of the multiplier per unit of cost above the limit.
        proportional: K_P.
        derivative: K_D.
        initial: multiplier before the first iteration.
        value_epochs: passes over the samples of an iteration, for the value function of the cost.
        value_minibatch_size: steps of one descent, of each process.
        value_learning_rate: of Adam.

    Raises:
        ValueError: a number is out of its range.
    """

    limit: float
    _: KW_ONLY
    learning_rate: float = 0.05
    proportional: float = 0.0
    derivative: float = 0.0
    initial: float = 0.0
    value_epochs: int = 10
    value_minibatch_size: int = 64
    value_learning_rate: float = 1e-3

    def __post_init__(self):
        if not abs(self.limit) < torch.inf:
            raise ValueError(f"limit must be finite, got {self.limit}; without a limit leave the constraint out")
        check_numbers(
            self,
            counts=("value_epochs", "value_minibatch_size"),
            rates=("value_learning_rate",),
            weights=("learning_rate", "proportional", "derivative", "initial"),
        )


class ConstraintLearner:
    """What changes while a constraint is learned to be kept.

    Args:
        settings: the constraint.
        value: value function of the cost, on its device.
        scale: of the costs; None for costs as they are.
        processes: that train together.
        worlds: number of worlds.

    Attributes:
        multiplier: lambda.
        value: the value function of the cost.
    """

    def __init__(
        self,
        settings: CostConstraint,
        value: ValueFunction,
        scale: RewardScale | None,
        processes: Processes,
        worlds: int,
    ):
        self.settings, self.value, self.scale, self.processes = settings, value, scale, processes
        self.parameters = FlatParameters(value)
        self.optimizer = torch.optim.Adam(
            [self.parameters.vector], lr=settings.value_learning_rate, eps=1e-5, fused=True
        )
        self.multiplier = self._integral = settings.initial
        self._cost: float | None = None
        self._hidden = value.initial_hidden(worlds)

    def ascend(self, cost: float) -> None:
        """Raise the multiplier where the mean cost of an episode is above the limit, and lower it where it is below."""
        settings, excess = self.settings, cost - self.settings.limit
        rise = 0.0 if self._cost is None else max(cost - self._cost, 0.0)
        self._integral = max(self._integral + settings.learning_rate * excess, 0.0)
        self.multiplier = max(self._integral + settings.proportional * excess + settings.derivative * rise, 0.0)
        self._cost = cost

    def advantages(
        self, policy: Policy, rollout: Rollout, advantages: Tensor, estimate: Callable[..., tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Advantages ``(T, N)`` of the Lagrangian from those of the rewards.

        Args:
            policy: whose normalizer the value function shares.
            rollout: T steps in N worlds.
            advantages: of the rewards.
            estimate: from costs, values and values of what followed to advantages and value targets of the cost.

        Returns:
            The advantages, the targets of the value function of the cost, and what that remembers before each step,
            ``(T, N, h)``.

        Raises:
            ValueError: the environment has named no costs so far.
        """
        if rollout.costs is None:
            raise ValueError(
                'a constraint needs the cost of each step in info["cost"], and this environment gives none; give the task a '
                "constraint_cost, wrap the environment, or leave the constraint out"
            )
        costs = rollout.costs.to(advantages.device)
        if self.scale is not None:
            costs = self.scale(
                costs, rollout.ended.to(costs.device), self.processes, valid=rollout.valid.to(costs.device)
            )
        values, next_values, hidden = rollout_values(policy, self.value, rollout, self._hidden)
        of_cost, returns = estimate(costs.to(values), values, next_values)
        self._hidden = hidden[-1]
        return (advantages - self.multiplier * of_cost) / (1.0 + self.multiplier), returns, hidden[:-1]

    def fit(self, samples: Samples, generator: torch.Generator) -> dict[str, float]:
        """Fit the value function of the cost, and say how it went."""
        settings, hidden, returns = self.settings, samples.cost_hidden, samples.cost_returns
        if hidden is None or returns is None:
            raise ValueError("these samples have no costs; take those of a learner with a constraint")
        loss = fit_value(
            self.value,
            self.parameters,
            self.optimizer,
            replace(samples, returns=returns, value_hidden=hidden),
            epochs=settings.value_epochs,
            minibatch_size=settings.value_minibatch_size,
            generator=generator,
            processes=self.processes,
        )
        return {"train/multiplier": self.multiplier, "train/cost_value_loss": loss}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            "value": self.value.state_dict(),
            "scale": None if self.scale is None else self.scale.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "multiplier": self.multiplier,
            "integral": self._integral,
            "cost": self._cost,
            "hidden": self._hidden,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.value.load_state_dict(state["value"])
        if self.scale is not None:
            self.scale.load_state_dict(state["scale"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.multiplier, self._integral, self._cost = state["multiplier"], state["integral"], state["cost"]
        self._hidden = state["hidden"].to(self._hidden.device)

    def begin(self) -> None:
        """New episodes in all worlds."""
        self._hidden = torch.zeros_like(self._hidden)
        if self.scale is not None:
            self.scale.begin()
