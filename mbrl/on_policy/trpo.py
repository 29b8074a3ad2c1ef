r"""Trust region policy optimization (Schulman et al. 2015, arXiv:1502.05477).

.. math:: \max_\theta \; \hat{\mathbb E}\Bigl[\frac{\pi_\theta(a \mid y)}{\pi_k(a \mid y)} \hat A\Bigr]
    \quad \text{subject to} \quad \hat{\mathbb E}\bigl[\mathrm{KL}[\pi_k(\cdot \mid y), \pi_\theta(\cdot \mid y)]\bigr] \le \delta

With g the gradient of the surrogate and F the Fisher information, both at :math:`\theta_k`, the step to the limit of the
quadratic model is (appendix C)

.. math:: s = \sqrt{\frac{2 \delta}{x^\top (F + \beta I) x}} \; x, \qquad (F + \beta I) x = g,

and the policy becomes the first of :math:`\theta_k + \alpha^j s, \; j = 0, 1, \dots` whose surrogate is better and whose exact
divergence is within the limit; if there is none, it stays what it was, bit for bit.

The limit is of the divergence of a whole action, a sum over its coordinates. Its default is larger than the paper's, and so is
the damping, in the same proportion: steps go far along what matters and do not go astray where the policy hardly feels them.

Where it differs from the paper: F is damped, advantages are normalized over all samples of an iteration and come from a value
function (Schulman et al. 2016) instead of single paths or vines, and the divergence is the exact one, of all samples, at every
candidate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from mbrl.on_policy.base import OnPolicyLearner
from mbrl.on_policy.natural_gradient import FisherVectorProduct, conjugate_gradient, flatten, unflatten
from mbrl.on_policy.policy_gradient import check_closed_forms, weighted_share
from mbrl.on_policy.policy_then_value import PolicyThenValue
from mbrl.on_policy.rollout import Samples
from mbrl.on_policy.statistics import mean_over, normalized
from mbrl.policies.distributions import ActionDistribution
from mbrl.training.checking import check_numbers


@dataclass(frozen=True)
class TRPO(PolicyThenValue):
    """Trust region policy optimization.

    Attributes:
        kl_limit: delta, of the mean divergence of an iteration [nats].
        cg_iterations: of conjugate gradients for the direction.
        damping: beta.
        backtrack: alpha, by which a step that is not accepted is shortened.
        max_backtracks: candidates of a line search.
        fisher_fraction: share of the samples, drawn anew in each iteration, on which F is taken.

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    kl_limit: float = 0.05
    cg_iterations: int = 15
    damping: float = 0.5
    backtrack: float = 0.8
    max_backtracks: int = 10
    fisher_fraction: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, counts=("cg_iterations", "max_backtracks"), rates=("kl_limit",), weights=("damping",))
        if not 0 < self.backtrack < 1 or not 0 < self.fisher_fraction <= 1:
            raise ValueError(
                f"need backtrack in (0, 1) and fisher_fraction in (0, 1], got {self.backtrack} and {self.fisher_fraction}"
            )

    def prepare(self, learner: OnPolicyLearner) -> None:
        """The optimizer of the value function.

        Raises:
            NoClosedFormError: the divergence of the policy's distributions has no formula.
        """
        check_closed_forms(learner.policy, kl="TRPO")
        super().prepare(learner)

    def improve(self, learner: OnPolicyLearner, samples: Samples) -> dict[str, float]:
        """A natural gradient step within the limit."""
        processes = learner.processes
        samples = replace(samples, advantages=normalized(samples.advantages, samples.weights, processes))
        parameters = list(learner.policy.parameters())
        old = _distribution(learner, samples)
        gain = surrogate(old, samples)
        before = float(mean_over(gain, samples.weights, processes))
        gradient = flatten(
            torch.autograd.grad(
                weighted_share(gain, samples.weights, processes), parameters, retain_graph=True, materialize_grads=True
            )
        )
        apply = self.damped_fisher(learner, self._part(learner, samples))
        found = conjugate_gradient(apply, processes.sum(gradient), iterations=self.cg_iterations)
        curvature = float(found.solution @ apply(found.solution))
        accepted = 0.0, 0.0, before
        if 0 < curvature < math.inf:
            step = math.sqrt(2.0 * self.kl_limit / curvature) * found.solution
            accepted = self.line_search(learner, samples, step, before)
        fraction, kl, after = accepted
        with torch.no_grad():
            entropy = _distribution(learner, samples).entropy()
        return {
            "train/kl": kl,
            "train/surrogate": after - before,
            "train/step_fraction": fraction,
            "train/cg_residual": found.residual,
            "train/negative_curvature": float(found.negative_curvature),
            "train/entropy": float(mean_over(entropy, samples.weights, processes)),
        }

    def damped_fisher(self, learner: OnPolicyLearner, samples: Samples) -> Callable[[Tensor], Tensor]:
        """Products of vectors ``(n,)`` with F + beta I, F over the samples of all processes."""
        new = _distribution(learner, samples)
        kl = weighted_share(new.detach().kl(new), samples.weights, learner.processes)
        share = self.damping / learner.processes.number
        product = FisherVectorProduct(kl, tuple(learner.policy.parameters()), damping=share)
        return lambda vector: learner.processes.sum(product(vector))

    @torch.no_grad()
    def line_search(
        self, learner: OnPolicyLearner, samples: Samples, step: Tensor, before: float
    ) -> tuple[float, float, float]:
        """Move the policy along a step as far as the limit and the surrogate allow, or not at all.

        Args:
            learner: whose policy is moved.
            samples: with normalized advantages.
            step: the whole step, ``(n,)``.
            before: surrogate of the policy as it is.

        Returns:
            The fraction of the step that was taken, the mean divergence and the surrogate there; 0, 0 and ``before`` if no
            candidate was accepted.
        """
        parameters = list(learner.policy.parameters())
        start = [p.clone() for p in parameters]
        for j in range(self.max_backtracks):
            fraction = self.backtrack**j
            _assign(parameters, [a + fraction * b for a, b in zip(start, unflatten(step, start), strict=True)])
            new = _distribution(learner, samples)
            kl = float(mean_over(samples.distribution.kl(new), samples.weights, learner.processes))
            after = float(mean_over(surrogate(new, samples), samples.weights, learner.processes))
            if kl <= self.kl_limit and before < after < math.inf:  # NaN is neither
                return fraction, kl, after
        _assign(parameters, start)
        return 0.0, 0.0, before

    def _part(self, learner: OnPolicyLearner, samples: Samples) -> Samples:
        """The samples that F is taken on."""
        if self.fisher_fraction == 1.0:
            return samples
        number = max(round(self.fisher_fraction * len(samples)), 1)
        generator = learner.generator
        return samples.pieces(torch.randperm(len(samples), generator=generator, device=generator.device)[:number])


def surrogate(new: ActionDistribution, samples: Samples) -> Tensor:
    """Ratios of probabilities times advantages, ``(L, C)``."""
    return (new.log_prob(samples.actions) - samples.log_probs).exp() * samples.advantages


def _distribution(learner: OnPolicyLearner, samples: Samples) -> ActionDistribution:
    return learner.policy.sequence(samples.inputs, samples.hidden, samples.starts)[0]


def _assign(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
