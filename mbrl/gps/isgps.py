r"""Guided policy search by importance sampling (Levine and Koltun 2013, algorithm 1).

1. Plan from several initial states, and draw guiding samples from the linear-Gaussian controllers about the plans.
2. Initialize the policy by maximum likelihood on them.
3. Repeat: choose samples :math:`\mathcal S_k`; minimize :math:`F_{\mathcal S_k}` (:mod:`mbrl.gps.importance`) from the best
   policy's parameters; draw samples of the new policy and keep them too; optionally plan anew on the cost minus the logarithm of
   the policy; estimate the costs of the new and of the best policy with the same samples; keep the better, and lower the weight
   :math:`w_r` of the regularizer where that is the new one, otherwise raise it, optionally with new samples of the best.

Adaptive guides minimize :math:`\mathrm E[c - \log \pi_\theta]` less their entropy, which is the divergence from
:math:`\pi_\theta \, e^{-c}`: where the policy is sure what to do, the guide does that unless it costs much.

Where it differs from the paper: several initial states have estimates of their own, whose mean counts, instead of one mixture for
all; samples are chosen by the distribution they came from (all guides, the best policy and the latest ones), which keeps the
estimates of the chosen ones unbiased but for the normalization of the weights; costs are divided by their standard deviation
among the guiding samples, so that w_r has no unit.
"""

import copy
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mbrl.gps.base import GuidedLearner, GuidedPolicySearch
from mbrl.gps.importance import effective_samples, expected_costs, objective, prefix_log_weights
from mbrl.gps.memory import Chosen, Memory
from mbrl.gps.rollouts import Rollouts, controller_actions, policy_log_probs
from mbrl.policies.policy import Policy
from mbrl.training.algorithm import Assignment
from mbrl.training.checking import check_numbers
from mbrl.training.flat_parameters import FlatParameters


@dataclass(frozen=True)
class ISGPS(GuidedPolicySearch):
    """Guided policy search with importance-sampled policy optimization.

    Attributes:
        regularization: w_r at first.
        regularization_factor: by which it is divided when a policy is better than the best, or else multiplied.
        regularization_range: its least and largest value.
        recent: how many of the latest policies' samples are chosen beside those of the guides and of the best policy.
        optimizer: ``"lbfgs"`` on all chosen samples, or ``"adam"`` on the rollouts of a few initial states at a time, for
            networks and numbers of samples for which that is too much.
        descents: iterations of L-BFGS, or steps of Adam.
        learning_rate: of Adam.
        minibatch: number of initial states of a step of Adam.
        adaptive: planning on the cost minus the policy's log-density adds guides in each iteration.
        resample: draw new samples of the best policy when the new one is worse.

    Raises:
        ValueError: a value is out of its range.
    """

    shows: ClassVar[str] = (
        "the cost of an episode of each new policy, what importance sampling says of it and of the best one, which was kept "
        "(accepted), and the share of samples that count (effective)"
    )

    _: KW_ONLY
    regularization: float = 1e-2
    regularization_factor: float = 10.0
    regularization_range: tuple[float, float] = (1e-6, 1.0)
    recent: int = 4
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    descents: int = 50
    learning_rate: float = 1e-3
    minibatch: int = 4
    adaptive: bool = False
    resample: bool = True

    def __post_init__(self):
        super().__post_init__()
        low, high = self.regularization_range
        if not (0 < low <= self.regularization <= high < torch.inf and self.regularization_factor > 1):
            raise ValueError(
                "need regularization within its range of positive numbers and regularization_factor > 1, got "
                f"{self.regularization}, {self.regularization_range} and {self.regularization_factor}"
            )
        if self.optimizer not in ("lbfgs", "adam"):
            raise ValueError(f"optimizer must be 'lbfgs' or 'adam', got {self.optimizer!r}")
        check_numbers(self, counts=("recent", "descents", "minibatch"), rates=("learning_rate",))

    def learner(self, assignment: Assignment) -> "ISGPSLearner":
        """A learner at its first step."""
        return ISGPSLearner(self, assignment)


class ISGPSLearner(GuidedLearner):
    """The state of guided policy search by importance sampling.

    Attributes:
        best: the best policy so far.
        regularization: w_r now.
        memory: all samples.
    """

    settings: ISGPS

    def __init__(self, algorithm: ISGPS, assignment: Assignment):
        super().__init__(algorithm, assignment)
        self.best = copy.deepcopy(self.policy)
        self.best_source = -1
        self.regularization = algorithm.regularization
        self.memory = Memory(self.task)
        self.guides: list[int] = []
        self.scale = torch.ones((), dtype=torch.float64)

    def advance(self) -> dict[str, float]:
        """The guides and the first policy; from then on a better one."""
        return self._begin() if self.memory.rollouts is None else self._improve()

    def _begin(self) -> dict[str, float]:
        """Plans, guiding samples, and the policy under which they are likeliest."""
        rollouts = self._guide()
        deviations = (rollouts.costs - rollouts.costs.mean()).square()
        self.scale = self.processes.mean(deviations.mean()).sqrt().clamp_min(1e-12)
        y = self.task.observe(rollouts.states[..., :-1, :])
        y, actions = y[rollouts.valid].flatten(0, -2), rollouts.actions[rollouts.valid].flatten(0, -2)
        with self.timed("fit"):
            loss = self.settings.supervised.clone(self.policy, y, actions, self.generator, self.processes)
        cost = self._sample_policy()
        self._promote()
        return {"rollout/cost": cost, "train/loss": loss, "train/guide_cost": self.mean_cost(rollouts)}

    def _guide(self, near: Policy | None = None) -> Rollouts:
        """Samples of the teacher's controllers, which may keep near a policy; they are kept."""
        controller = self.taught(near=near)
        rollouts = self.rolled_out(controller_actions(controller, self.space, self.generator))
        self.guides.append(len(self.memory.sources))
        self.memory.add(controller, rollouts)
        return rollouts

    def _sample_policy(self) -> float:
        """Samples of the policy, kept; their mean cost."""
        rollouts = self.policy_rollouts()
        self.memory.add(copy.deepcopy(self.policy), rollouts)
        return self.mean_cost(rollouts)

    def _promote(self) -> None:
        self.best.load_state_dict(self.policy.state_dict())
        self.best_source = len(self.memory.sources) - 1

    def _improve(self) -> dict[str, float]:
        """One iteration of the paper's algorithm, from choosing samples to choosing the policy."""
        settings = self.settings
        self.policy.load_state_dict(self.best.state_dict())
        chosen = self._choose()
        before = self.value(self.policy, chosen)
        with self.timed("fit"):
            self._optimize(chosen)
        metrics = {"train/predicted_change": self.value(self.policy, chosen) - before}
        metrics["rollout/cost"] = self._sample_policy()
        if settings.adaptive:
            metrics["train/guide_cost"] = self.mean_cost(self._guide(near=self.policy))
        chosen = self._choose()
        new, best = self.value(self.policy, chosen), self.value(self.best, chosen)
        better = new < best
        if better:
            self._promote()
        elif settings.resample:
            self._resample()
        factor = settings.regularization_factor ** (-1 if better else 1)
        low, high = settings.regularization_range
        used, self.regularization = self.regularization, min(max(self.regularization * factor, low), high)
        weights = self._log_weights(self.best, chosen)
        share = effective_samples(weights.detach()).mean() / len(weights)
        self.policy.load_state_dict(self.best.state_dict())
        return {
            **metrics,
            "train/cost_new": new,
            "train/cost_best": best,
            "train/accepted": float(better),
            "train/regularization": used,
            "train/effective_samples": float(self.processes.mean(share)),
        }

    def _resample(self) -> None:
        """New samples of the best policy."""
        self.policy.load_state_dict(self.best.state_dict())
        self._sample_policy()
        self.best_source = len(self.memory.sources) - 1

    def _choose(self) -> Chosen:
        """Samples of all guides, of the best policy and of the latest ones; others are forgotten."""
        policies = [j for j in range(len(self.memory.sources)) if j not in self.guides]
        sources = sorted({*self.guides, self.best_source, *policies[-self.settings.recent :]})
        self.memory.keep(sources)
        self.guides, self.best_source = [sources.index(j) for j in self.guides], sources.index(self.best_source)
        return self.memory.chosen(list(range(len(sources))))

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            **super().state_dict(),
            "best": self.best.state_dict(),
            "best_source": self.best_source,
            "regularization": self.regularization,
            "memory": self.memory.state_dict(),
            "guides": list(self.guides),
            "scale": self.scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self.best.load_state_dict(state["best"])
        self.best_source, self.regularization = state["best_source"], state["regularization"]
        self.memory.load_state_dict(state["memory"], self.policy)
        self.guides, self.scale = list(state["guides"]), state["scale"]

    # The objective

    def _log_weights(self, policy: Policy, chosen: Chosen) -> Tensor:
        return prefix_log_weights(policy_log_probs(policy, self.task, chosen.rollouts), chosen.log_q, chosen.counts)

    def loss(self, policy: Policy, chosen: Chosen) -> Tensor:
        """F, the mean over the initial states."""
        return objective(
            self._log_weights(policy, chosen), chosen.rollouts.costs / self.scale, self.regularization
        ).mean()

    @torch.no_grad()
    def value(self, policy: Policy, chosen: Chosen) -> float:
        """Estimated cost of an episode of a policy, in units of the task."""
        costs = expected_costs(self._log_weights(policy, chosen), chosen.rollouts.costs)
        return float(self.processes.mean(costs.sum(-1).mean()))

    def _optimize(self, chosen: Chosen) -> None:
        """Descend on F from where the policy is."""
        flat = FlatParameters(self.policy)
        if self.settings.optimizer == "lbfgs":
            optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
                [flat.vector], max_iter=self.settings.descents, history_size=20, line_search_fn="strong_wolfe"
            )
            optimizer.step(lambda: self._gradient(flat, chosen))
            return
        optimizer = torch.optim.Adam([flat.vector], lr=self.settings.learning_rate)
        for _ in range(self.settings.descents):
            order = torch.randperm(self.settings.conditions, generator=self.generator)
            self._gradient(flat, chosen.conditions(order[: self.settings.minibatch]))
            optimizer.step()

    def _gradient(self, flat: FlatParameters, chosen: Chosen) -> Tensor:
        flat.zero_gradients()
        loss = self.loss(self.policy, chosen)
        loss.backward()
        self.processes.sum_into(flat.gradient)
        flat.gradient.div_(self.processes.number)
        return self.processes.mean(loss.detach())
