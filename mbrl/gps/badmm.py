r"""Guided policy search by the Bregman alternating direction method of multipliers (Levine et al. 2016, section 4).

.. math:: \min_{\theta, p} \sum_i \mathrm E_{p_i}\Bigl[\sum_t c_t\Bigr] \quad \text{s.t.} \quad
    \mathrm E_{p_i}[u_t] = \mathrm E_{p_i \pi_\theta}[u_t]

With multipliers :math:`\lambda_{i,t}` of the mean controls and weights :math:`\nu_{i,t}` of a divergence instead of the quadratic
penalty of the common method of multipliers, each iteration repeats

.. math::
    p_i &\leftarrow \arg\min_p \sum_t \mathrm E_p[c_t - \lambda_{i,t}^\top u_t] + \nu_{i,t} \mathrm{KL}(p \,\|\, \pi_\theta), \\
    \theta &\leftarrow \arg\min_\theta \sum_{i,t} \mathrm E_{p_i}[\lambda_{i,t}^\top \mathrm E_{\pi_\theta}[u_t]]
        + \nu_{i,t} \mathrm{KL}(\pi_\theta \,\|\, p_i), \\
    \lambda_{i,t} &\leftarrow \lambda_{i,t} + \alpha \, \nu_{i,t} \Sigma_{i,t}^{-1}
        \bigl(\mathrm E_{\pi_\theta}[u_t] - \mathrm E_{p_i}[u_t]\bigr)

on one batch of samples. The middle line is a fit to the controllers' means less
:math:`\Sigma_{i,t} \lambda_{i,t} / \nu_{i,t}`. The weights double where a step's divergence is more than half a standard
deviation above the mean, and halve where it is more than one below. Controllers stay within a divergence from those before, about
which the model holds.
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mbrl.gps.alternating import AlternatingGPS, AlternatingLearner, Situation, kl_along
from mbrl.gps.linearized_policy import linearized
from mbrl.gps.rollouts import Rollouts
from mbrl.training.algorithm import Assignment
from mbrl.training.checking import check_numbers
from planners import KLStep, LinearGaussianController, expected_kl, with_kl_penalty


@dataclass(frozen=True)
class BADMM(AlternatingGPS):
    """Guided policy search by the Bregman alternating direction method of multipliers.

    Attributes:
        weight: nu at first, in units of the cost per nat.
        multiplier_rate: alpha.
        inner_iterations: of controllers, policy and multipliers on one batch of samples.
        kl_limit: bound on the divergence of new controllers from the old ones per step of the plan, on average [nat].

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    weight: float = 0.01
    multiplier_rate: float = 0.1
    inner_iterations: int = 4
    kl_limit: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, counts=("inner_iterations",), rates=("weight", "multiplier_rate", "kl_limit"))

    def learner(self, assignment: Assignment) -> "BADMMLearner":
        """A learner at its first step."""
        return BADMMLearner(self, assignment)


class BADMMLearner(AlternatingLearner):
    """The state of the method of multipliers.

    Attributes:
        weights: nu, ``(C, T)``.
        multipliers: lambda, ``(C, T, m)``.
    """

    settings: BADMM

    def __init__(self, algorithm: BADMM, assignment: Assignment):
        super().__init__(algorithm, assignment)
        shape = algorithm.conditions, self.task.episode_steps
        self.weights = torch.full(shape, algorithm.weight, dtype=torch.float64)
        self.multipliers = torch.zeros(*shape, self.task.dynamics.control_dim, dtype=torch.float64)

    def improved(self, situation: Situation) -> tuple[LinearGaussianController, Tensor | None, dict[str, float]]:
        """Controllers, policy and multipliers in turns; the last fit of the policy is left to the iteration."""
        settings, before, policy = self.settings, self.previous, situation.policy
        for k in range(settings.inner_iterations):
            step = self._stepped(situation, policy, before)
            self.controllers = step.controller
            self.shift = self._shift(step.controller)
            if k + 1 < settings.inner_iterations:
                self.fit(situation.rollouts, self.weights)
                policy = linearized(self.policy, self.task, self.space, self.task.dynamics, situation.xs)
            kl = expected_kl(step.controller, policy, step.marginals)
            self._ascend(step.controller, situation)
            self._weigh(kl)
        metrics = {
            "train/kl": float(self.processes.mean(kl.sum(-1).mean())),
            "train/weight": float(self.processes.mean(self.weights.mean())),
            "train/multiplier": float(self.processes.mean(self.multipliers.norm(dim=-1).mean())),
        }
        return step.controller, self.weights, metrics

    def _stepped(
        self, situation: Situation, policy: LinearGaussianController, before: LinearGaussianController
    ) -> KLStep:
        """Controllers of least augmented cost within the bound from those before."""
        about, weights, multipliers = (situation.xs, situation.us), self.weights, self.multipliers
        lq = with_kl_penalty(situation.lq, policy, weights, about=about)
        lq = replace(lq, r=lq.r - multipliers)

        def augmented(controller: LinearGaussianController, rollouts: Rollouts) -> Tensor:
            penalty = weights * kl_along(controller, policy, rollouts.states)
            linear = (multipliers * controller.mean(rollouts.states[..., :-1, :])).sum(-1)
            return rollouts.total_costs + (penalty - linear).sum(-1)

        return self.step_from(before, situation, lq, weights, self.settings.kl_limit, augmented)

    def _shift(self, controller: LinearGaussianController) -> Tensor:
        """What the policy is fitted to beside the controllers' means, ``(C, T, m)``."""
        if controller.covariance is None:
            raise ValueError("controllers without a covariance have no precision")
        return -(controller.covariance @ self.multipliers.unsqueeze(-1)).squeeze(-1) / self.weights.unsqueeze(-1)

    @torch.no_grad()
    def _ascend(self, controller: LinearGaussianController, situation: Situation) -> None:
        """Multipliers of what controllers and policy do differently on average at the states of the samples."""
        if controller.covariance is None:
            raise ValueError("controllers without a covariance have no precision")
        x = situation.rollouts.states[..., :-1, :]
        valid = situation.rollouts.valid[..., None, None]
        wanted = self.space.controls(self.policy.distribution(self.task.observe(x)).mode().to(x))
        difference = torch.where(valid, wanted - controller.mean(x), 0.0).sum(0) / valid.sum(0).clamp_min(1)
        precise = torch.linalg.solve(controller.covariance, difference.unsqueeze(-1)).squeeze(-1)
        self.multipliers = self.multipliers + self.settings.multiplier_rate * self.weights.unsqueeze(-1) * precise

    def _weigh(self, kl: Tensor) -> None:
        """Larger weights where controllers and policy differ much, smaller ones where they hardly do."""
        mean, std = kl.mean(-1, keepdim=True), kl.std(-1, keepdim=True, correction=0)
        factor = torch.where(kl > mean + 0.5 * std, 2.0, torch.where(kl < mean - std, 0.5, 1.0))
        self.weights = (self.weights * factor).clamp(1e-8, 1e8)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {**super().state_dict(), "weights": self.weights, "multipliers": self.multipliers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self.weights, self.multipliers = state["weights"], state["multipliers"]
