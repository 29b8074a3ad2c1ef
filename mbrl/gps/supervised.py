r"""The supervised step of guided policy search: one policy that does, wherever they went, what many controllers do.

.. math:: \min_\theta \sum_{i,t} \nu_{i,t} \,
    \mathrm{KL}\bigl(\pi_\theta(\cdot \mid x_{i,t}) \,\|\, p_i(\cdot \mid x_{i,t}, t)\bigr), \qquad
    \mathrm{KL} = \tfrac12 \bigl[ (\mu_\theta - \mu)^\top \Sigma^{-1} (\mu_\theta - \mu)
    + \operatorname{tr}(\Sigma^{-1} \Sigma_\theta) - a + \log \det \Sigma - \log \det \Sigma_\theta \bigr]

(Montgomery and Levine 2016, equation 4; the authors' code fits the mean alone and sets one covariance for all states.) Where a
controller is sure the policy is held to it; where it explores the policy may differ, and may explore too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from mbrl.gps.rollouts import Rollouts
from mbrl.policies.action_space import ContinuousActions
from mbrl.policies.distributions import ActionDistribution, DiagonalGaussian
from mbrl.policies.normalizer import count_in
from mbrl.policies.policy import Policy
from mbrl.tasks import Task
from mbrl.training.errors import TrainingError
from mbrl.training.flat_parameters import FlatParameters
from mbrl.training.processes import Processes
from planners import LinearGaussianController


@dataclass(frozen=True, eq=False)
class Targets:
    """N observations and the Gaussians of actions that are wanted there.

    Attributes:
        observations: ``(N, ny)``.
        means: ``(N, a)``.
        precisions: inverse covariances ``(N, a, a)``.
        weights: nu, ``(N,)``.
    """

    observations: Tensor
    means: Tensor
    precisions: Tensor
    weights: Tensor

    def joined(self, more: Self) -> Self:
        """These and more."""
        names = ("observations", "means", "precisions", "weights")
        return replace(self, **{name: torch.cat([getattr(self, name), getattr(more, name)]) for name in names})

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: getattr(self, name) for name in ("observations", "means", "precisions", "weights")}


def targets(
    task: Task,
    space: ContinuousActions,
    controller: LinearGaussianController,
    rollouts: Rollouts,
    weights: Tensor | None = None,
) -> Targets:
    """What controllers of C conditions want at the states of rollouts that stayed finite.

    Args:
        task: what a policy sees.
        space: what its actions are.
        controller: with a covariance.
        rollouts: ``(S, C)`` of them.
        weights: nu of each step, which broadcasts to ``(S, C, T)``; 1 by default.
    """
    x = rollouts.states[..., :-1, :]
    _, half = space.scale(x)
    means = space.actions(controller.mean(x))
    precision = torch.cholesky_inverse(controller.covariance_factor()) * half.unsqueeze(-1) * half
    weights = torch.ones(()) if weights is None else weights
    keep = rollouts.valid
    return Targets(
        task.observe(x)[keep].flatten(0, -2),
        means[keep].flatten(0, -2),
        precision.expand(*x.shape[:-1], *precision.shape[-2:])[keep].flatten(0, -3),
        weights.to(x).expand(x.shape[:-1])[keep].flatten(),
    )


@dataclass(frozen=True)
class SupervisedStep:
    """How a policy is fitted to Gaussians of actions, by Adam from where it is.

    Attributes:
        steps: of Adam.
        batch_size: observations of a minibatch, of each process.
        learning_rate: at first; it falls linearly to zero.

    Raises:
        ValueError: a number is not positive.
    """

    steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3

    def __post_init__(self):
        if not (min(self.steps, self.batch_size) >= 1 and self.learning_rate > 0):
            raise ValueError(
                f"need steps, batch_size and learning_rate > 0, got {self.steps}, {self.batch_size} and {self.learning_rate}"
            )

    def fit(self, policy: Policy, wanted: Targets, generator: torch.Generator, processes: Processes) -> float:
        """Fit a policy in place to Gaussians of actions; its mean weighted divergence in the last tenth of the steps.

        Raises:
            TrainingError: the divergence is not finite.
        """
        weights = wanted.weights / wanted.weights.mean()

        def loss(distribution: DiagonalGaussian, rows: Tensor) -> Tensor:
            means, precisions, nu = (v[rows].to(distribution.mean) for v in (wanted.means, wanted.precisions, weights))
            return nu * divergence(distribution, means, precisions)

        return self._descend(policy, wanted.observations, loss, generator, processes)

    def clone(
        self, policy: Policy, observations: Tensor, actions: Tensor, generator: torch.Generator, processes: Processes
    ) -> float:
        """Fit a policy in place to actions ``(N, a)`` by maximum likelihood; its mean negative log-likelihood, likewise.

        Raises:
            TrainingError: the likelihood is not finite.
        """

        def loss(distribution: DiagonalGaussian, rows: Tensor) -> Tensor:
            return -distribution.log_prob(actions[rows].to(distribution.mean))

        return self._descend(policy, observations, loss, generator, processes)

    def _descend(
        self,
        policy: Policy,
        observations: Tensor,
        loss: Callable[[DiagonalGaussian, Tensor], Tensor],
        generator: torch.Generator,
        processes: Processes,
    ) -> float:
        """Adam on the mean of a loss of distributions and the rows that they belong to."""
        if policy.normalizer is not None and not float(policy.normalizer.count):
            count_in(policy.normalizer, observations, processes)
        inputs, flat = policy.inputs(observations), FlatParameters(policy)
        optimizer = torch.optim.Adam([flat.vector], lr=self.learning_rate)
        late, counted = torch.zeros((), dtype=torch.float64), max(self.steps // 10, 1)
        for step in range(self.steps):
            (group,) = optimizer.param_groups
            group["lr"] = self.learning_rate * (1 - step / self.steps)
            rows = torch.randint(len(inputs), (min(self.batch_size, len(inputs)),), generator=generator)
            distribution, _ = policy.step(inputs[rows], policy.initial_hidden(len(rows)))
            mean = loss(as_gaussian(distribution), rows).mean()
            flat.zero_gradients()
            mean.backward()
            processes.sum_into(flat.gradient)
            flat.gradient.div_(processes.number)
            optimizer.step()
            if step >= self.steps - counted:
                late += mean.detach().cpu()
        found = float(processes.mean(late)) / counted
        if not abs(found) < torch.inf:
            raise TrainingError(f"the fit of the policy is not finite after {self.steps} steps; lower learning_rate")
        return found


def divergence(policy: DiagonalGaussian, means: Tensor, precisions: Tensor) -> Tensor:
    """KL of a policy's distributions from Gaussians of actions ``(N, a)`` with precisions ``(N, a, a)``: ``(N,)`` [nat]."""
    error, variance = policy.mean - means, (2 * policy.log_std).exp()
    quadratic = (error.unsqueeze(-2) @ precisions @ error.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    trace = (precisions.diagonal(dim1=-2, dim2=-1) * variance).sum(-1)
    log_det = torch.logdet(precisions) + 2 * policy.log_std.sum(-1)
    return 0.5 * (quadratic + trace - means.shape[-1] - log_det)


def as_gaussian(distribution: ActionDistribution) -> DiagonalGaussian:
    """The distribution, which must be Gaussian.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(distribution, DiagonalGaussian):
        raise TypeError(f"guided policy search needs a Gaussian policy, got {type(distribution).__name__}")
    return distribution
