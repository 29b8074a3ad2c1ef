r"""Guided policy search as approximate mirror descent (Montgomery and Levine 2016, algorithm 2).

.. math:: p_i \leftarrow \arg\min_p \mathrm E_p\Bigl[\sum_t c_t\Bigr] \;\; \text{s.t.} \;\;
    \sum_t \mathrm E_p \, \mathrm{KL}(p(u_t | x_t) \,\|\, \bar\pi_i(u_t | x_t)) \le \epsilon,
    \qquad \theta \leftarrow \arg\min_\theta \sum_{i,t} \mathrm{KL}(\pi_\theta \,\|\, p_i)

Controllers are improved from the linearized policy, and the policy is projected back: for a linear plant and policy and a convex
cost this is mirror descent. The bound is T times ``kl_limit`` times a factor that follows what came of the last step, the same
for all conditions, because one alone has too few samples to tell: with the mean improvement predicted by the model and the one
that came about,

.. math:: \text{factor} \leftarrow \text{factor} \cdot s \cdot \operatorname{clip}\Bigl(
    \frac{\text{predicted}}{2 \max(10^{-4}, \text{predicted} - \text{actual})}, \; 0.1, \; 5 \Bigr).

Both improvements are those of the steps that were taken, so that the bound is scaled from what these had: s is the mean share of
the bound that was left of it where steps were shortened in the model, 1 in the paper, which shortens none. Where no condition
took a step nothing came of any bound, and the factor falls to a tenth.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor

from mbrl.gps.alternating import AlternatingGPS, AlternatingLearner, Situation
from mbrl.training.algorithm import Assignment
from mbrl.training.checking import check_numbers
from planners import KLStep, LinearGaussianController, kl_constrained_step

LEAST_CHANGE, LARGEST_CHANGE = 0.1, 5.0  # of the factor, by what came of a step


@dataclass(frozen=True)
class MDGPS(AlternatingGPS):
    """Guided policy search by mirror descent.

    Attributes:
        kl_limit: bound on the divergence of a step of the plan, on average, at first [nat].
        per_step: a bound for each step of the plan, instead of one for their sum.
        adapt: let the bound follow how well improvements are predicted.
        factor_range: least and largest factor of the bound.

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    kl_limit: float = 1.0
    per_step: bool = False
    adapt: bool = True
    factor_range: tuple[float, float] = (0.01, 10.0)

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, rates=("kl_limit",))
        low, high = self.factor_range
        if not 0 < low <= 1 <= high:
            raise ValueError(f"factor_range must be around 1 and positive, got {self.factor_range}")

    def learner(self, assignment: Assignment) -> "MDGPSLearner":
        """A learner at its first step."""
        return MDGPSLearner(self, assignment)


class MDGPSLearner(AlternatingLearner):
    """The state of guided policy search by mirror descent.

    Attributes:
        factor: of the bounds on the divergence of all conditions.
    """

    settings: MDGPS

    def __init__(self, algorithm: MDGPS, assignment: Assignment):
        super().__init__(algorithm, assignment)
        self.factor = 1.0
        self._expected: tuple[Tensor, Tensor] | None = (
            None  # cost measured before the last step, and predicted after it
        )
        self._taken = 1.0  # mean share of the bound that the last step had
        self._dual: Tensor | None = None

    def improved(self, situation: Situation) -> tuple[LinearGaussianController, Tensor | None, dict[str, float]]:
        """The step of least cost within the bound."""
        settings, T = self.settings, self.task.episode_steps
        measured = situation.rollouts.total_costs.mean(0)
        self._adapt(measured)
        whole = settings.kl_limit * self.factor * (1 if settings.per_step else T)

        def within(bound: Tensor) -> KLStep:
            return kl_constrained_step(
                situation.lq,
                situation.policy,
                kl_limit=bound.unsqueeze(-1).expand(-1, T) if settings.per_step else bound,
                per_step=settings.per_step,
                about=(situation.xs, situation.us),
                noise=situation.noise,
                covariance_floor=self.least_variance,
                dual=1.0 if self._dual is None else self._dual,
            )

        step, bound = self.checked(situation, within, measured.new_full(measured.shape, whole), situation.policy)
        self._taken = float(self.processes.mean(bound.mean() / whole))
        self._dual = step.dual
        self._expected = measured, situation.cost + step.expected_cost
        kl = step.kl.sum(-1)
        metrics = {
            "train/kl": float(self.processes.mean(kl.mean())),
            "train/kl_limit": float(self.processes.mean(bound.mean() * (T if settings.per_step else 1))),
            "train/dual": float(self.processes.mean(step.dual.log().mean()).exp()),
            "train/predicted_cost": float(self.processes.mean(self._expected[1].mean())),
        }
        return step.controller, None, metrics

    def _adapt(self, measured: Tensor) -> None:
        """The next factor, from that of the last step as it was taken and from what it promised."""
        if self._expected is None or not self.settings.adapt:
            return
        before, promised = self._expected
        predicted, actual = (float(self.processes.mean((before - after).mean())) for after in (promised, measured))
        change = min(max(predicted / (2 * max(predicted - actual, 1e-4)), LEAST_CHANGE), LARGEST_CHANGE)
        low, high = self.settings.factor_range
        # without a step there is no bound to scale from, and a share of 0 would make the factor the least there is at once
        next_one = self.factor * self._taken * change if self._taken > 0 else self.factor * LEAST_CHANGE
        self.factor = min(max(next_one, low), high)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        own = {"factor": self.factor, "expected": self._expected, "taken": self._taken, "dual": self._dual}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self.factor, self._expected = state["factor"], state["expected"]
        self._taken, self._dual = state["taken"], state["dual"]
