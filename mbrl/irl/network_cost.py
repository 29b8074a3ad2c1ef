r"""A cost that is learned as the squared output of a network, with a known price of controls.

.. math:: \ell(x, u) = \ell_T(x) + w_u \| a \|^2, \qquad \ell_T(x) = \tfrac12 \| A \, y_\theta(s) + b \|^2

(Finn, Levine and Abbeel 2016, section 5), with features y of a network, of what the task shows of the state, normalized to s, and
with controls a in half widths of their limits. The form is that of a distance to a goal in a space of features. The price of
controls is not learned: it is what keeps the integral over controls finite, and it sets the scale of the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from mbrl.policies.action_space import ContinuousActions
from mbrl.policies.networks import FeedForward, seeded_weights
from mbrl.tasks import Task
from mbrl.tasks.task_cost import recorded_task, task_record
from planners import Cost, ResidualCost

FIRST_SCALE = 0.1
"""Of the last layer at first, beside what is usual: nothing is known yet, and states cost next to nothing."""


class NetworkCost(Cost):
    """Half the squared length of a network's output, and a known price of controls.

    Args:
        observe: ``fn(x) -> y``, what the network sees of states ``(*batch, n)``, ``(*batch, ny)``.
        observation_dim: ny.
        actions: the limits in whose half widths controls are charged.
        hidden: widths of the layers that make the features.
        outputs: number of rows of A.
        control_weight: w_u [cost per squared half width].
        seed: of the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        observe: Callable[[Tensor], Tensor],
        observation_dim: int,
        actions: ContinuousActions,
        *,
        hidden: Sequence[int] = (32, 32),
        outputs: int = 16,
        control_weight: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        self.observe, self.control_weight, self._actions = observe, float(control_weight), actions
        self.hidden, self.outputs = tuple(hidden), outputs
        self.task: Task | None = None  # that it was made for
        self.register_buffer("mean", torch.zeros(observation_dim, dtype=torch.float64))
        self.register_buffer("std", torch.ones(observation_dim, dtype=torch.float64))
        with seeded_weights(seed):
            body = FeedForward(observation_dim, hidden, "softplus")
            last = nn.Linear(body.features, outputs)
        with torch.no_grad():
            last.weight.mul_(FIRST_SCALE)
            last.bias.mul_(FIRST_SCALE)
        self.network = nn.Sequential(*body.layers, last).double()

    @classmethod
    def for_task(
        cls,
        task: Task,
        *,
        hidden: Sequence[int] = (32, 32),
        outputs: int = 16,
        control_weight: float = 1.0,
        seed: int = 0,
    ) -> Self:
        """A cost of what a task shows, with its limits.

        Args:
            task: the task; its own cost is not looked at.
            hidden: see the class.
            outputs: see the class.
            control_weight: see the class.
            seed: see the class.
        """
        seen = task.observe(torch.zeros(1, task.dynamics.state_dim, dtype=torch.float64)).shape[-1]
        actions = ContinuousActions(*task.limits())
        cost = cls(
            task.observe, seen, actions, hidden=hidden, outputs=outputs, control_weight=control_weight, seed=seed
        )
        cost.task = task
        return cost

    def config(self) -> dict[str, Any]:
        """JSON values from which :func:`mbrl.load_reward` makes the cost again, without its weights.

        Raises:
            ValueError: it was not made for a task.
        """
        if self.task is None:
            raise ValueError(
                "what the cost sees is a function that no file can hold; make it with NetworkCost.for_task"
            )
        shape = {"hidden": list(self.hidden), "outputs": self.outputs, "control_weight": self.control_weight}
        return {"task": task_record(self.task), **shape}

    @classmethod
    def made(cls, config: Mapping[str, Any]) -> Self:
        """The cost of a :meth:`config`, with weights of seed 0.

        Raises:
            ValueError: the task is none of this library, or another one now.
        """
        shape = {name: config[name] for name in ("hidden", "outputs", "control_weight")}
        return cls.for_task(recorded_task(config["task"]), **shape)

    @torch.no_grad()
    def normalize(self, xs: Tensor) -> None:
        """Let what the network sees have mean 0 and standard deviation 1 over states ``(*batch, n)``; constants stay constant."""
        y = self.observe(xs).flatten(0, -2).to(self.mean)
        std = y.std(0, correction=0)
        self.mean.copy_(y.mean(0))
        self.std.copy_(torch.where(std > 1e-6 * y.abs().amax(0), std, 1.0))

    def residual(self, x: Tensor) -> Tensor:
        """The network's output at states ``(*batch, n)``, ``(*batch, outputs)``."""
        inputs = (self.observe(x).to(self.mean) - self.mean) / self.std
        return self.network(inputs).to(x)

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Half its squared length, and the price of the controls."""
        return self.terminal(x) + self.control_weight * self._actions.actions(u).square().sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        """Half its squared length."""
        return 0.5 * self.residual(x).square().sum(-1)

    def gauss_newton(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """J'J of the network, and the price of the controls."""
        return self._squares.gauss_newton(x, u, t)

    def gauss_newton_terminal(self, x: Tensor) -> Tensor:
        """J'J of the network."""
        return self._squares.gauss_newton_terminal(x)

    @property
    def _squares(self) -> ResidualCost:
        price = (2.0 * self.control_weight) ** 0.5

        def stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
            return torch.cat([self.residual(x), price * self._actions.actions(u)], -1)

        return ResidualCost(stage, self.residual)
