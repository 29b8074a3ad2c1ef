r"""Guided policy search with a constraint between controllers and policy (Levine and Abbeel 2014, algorithm 1).

.. math:: \min_{\theta, p} \sum_i \mathrm E_{p_i}\Bigl[\sum_t c_t\Bigr] \quad \text{s.t.} \quad
    \mathrm E_{p_i} \, \mathrm{KL}\bigl(p_i(u_t | x_t) \,\|\, \pi_\theta(u_t | x_t)\bigr) = 0 \;\; \text{for all } i, t

by dual descent: with multipliers :math:`\nu_{i,t}`, controllers minimize :math:`\mathrm E[c_t] + \nu_{i,t} \mathrm{KL}_t`,
within a divergence from the controllers before them, about which the model holds; the policy minimizes
:math:`\nu_{i,t} \mathrm{KL}_t`; and

.. math:: \nu_{i,t} \leftarrow \nu_{i,t} + \alpha \, \nu_{i,t} \, \mathrm{KL}_t .

The multipliers' own size sets the scale of their steps, which has no unit then; they grow until policy and controllers agree.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from mbrl.gps.alternating import AlternatingGPS, AlternatingLearner, Situation, kl_along
from mbrl.gps.rollouts import Rollouts
from mbrl.training.algorithm import Assignment
from mbrl.training.checking import check_numbers
from planners import LinearGaussianController, expected_kl, with_kl_penalty

LARGEST_GROWTH = 2.0
"""Of a multiplier in one iteration."""


@dataclass(frozen=True)
class ConstrainedGPS(AlternatingGPS):
    """Guided policy search by dual descent on the agreement of controllers and policy.

    Attributes:
        multiplier: nu at first, in units of the cost per nat.
        multiplier_rate: alpha.
        kl_limit: bound on the divergence of new controllers from the old ones per step of the plan, on average [nat].

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    multiplier: float = 0.01
    multiplier_rate: float = 0.3
    kl_limit: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, rates=("multiplier", "multiplier_rate", "kl_limit"))

    def learner(self, assignment: Assignment) -> "ConstrainedLearner":
        """A learner at its first step."""
        return ConstrainedLearner(self, assignment)


class ConstrainedLearner(AlternatingLearner):
    """The state of constrained guided policy search.

    Attributes:
        multipliers: nu, ``(C, T)``.
    """

    settings: ConstrainedGPS

    def __init__(self, algorithm: ConstrainedGPS, assignment: Assignment):
        super().__init__(algorithm, assignment)
        shape = algorithm.conditions, self.task.episode_steps
        self.multipliers = torch.full(shape, algorithm.multiplier, dtype=torch.float64)

    def improved(self, situation: Situation) -> tuple[LinearGaussianController, Tensor | None, dict[str, float]]:
        """Controllers of least cost and weighted divergence from the policy, and larger multipliers where they differ."""
        settings, about, nu = self.settings, (situation.xs, situation.us), self.multipliers
        lq = with_kl_penalty(situation.lq, situation.policy, nu, about=about)

        def penalized(controller: LinearGaussianController, rollouts: Rollouts) -> Tensor:
            return rollouts.total_costs + (nu * kl_along(controller, situation.policy, rollouts.states)).sum(-1)

        step = self.step_from(self.previous, situation, lq, nu, settings.kl_limit, penalized)
        kl = expected_kl(step.controller, situation.policy, step.marginals)
        growth = (1 + settings.multiplier_rate * kl).clamp_max(LARGEST_GROWTH)
        self.multipliers = (nu * growth).clamp_max(1e8)
        metrics = {
            "train/kl": float(self.processes.mean(kl.sum(-1).mean())),
            "train/multiplier": float(self.processes.mean(self.multipliers.mean())),
            "train/dual": float(self.processes.mean(step.dual.log().mean()).exp()),
        }
        return step.controller, nu, metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {**super().state_dict(), "multipliers": self.multipliers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self.multipliers = state["multipliers"]
