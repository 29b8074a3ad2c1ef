r"""What on-policy algorithms share: the iteration.

.. math::
    \text{collect } (y_t, a_t, r_t) \text{ under } \pi_k \;\to\; \hat A_t, \hat R_t \text{ from } V_k
    \;\to\; \pi_{k+1}, V_{k+1} \;\to\; \text{statistics of observations}

The statistics that observations are normalized by change last, so that within an iteration the policy that collected, the old
one of the ratios and the one that is improved are the same function of what was seen.

An algorithm says what it needs for that, ``prepare``, and how policy and value function learn from samples, ``update``.
"""

import abc
import time
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mbrl.on_policy.advantages import AdvantageEstimator, GeneralizedAdvantages
from mbrl.on_policy.constraint import ConstraintLearner, CostConstraint
from mbrl.on_policy.reward_scale import RewardScale
from mbrl.on_policy.rollout import Rollout, Samples, collect, rollout_values
from mbrl.policies.networks import seeded_weights
from mbrl.policies.normalizer import count_in
from mbrl.policies.policy import NetworkSettings, Policy
from mbrl.policies.value_function import ValueFunction
from mbrl.training.algorithm import Algorithm, Assignment, Learner
from mbrl.training.checking import check_numbers
from mbrl.training.flat_parameters import FlatParameters


@dataclass(frozen=True)
class OnPolicy(Algorithm, abc.ABC):
    """What all on-policy algorithms are told.

    Attributes:
        discount: gamma.
        advantages: how good an action was: :class:`GeneralizedAdvantages`, :class:`NStepAdvantages` or :class:`RewardsToGo`.
        num_envs: number of worlds, of each process.
        steps_per_iteration: environment steps of one iteration, over the worlds of a process; None for five in each.
        network: of the policy, and the body of the value function.
        sequence_length: steps through which a recurrent network is trained at a time.
        normalize_rewards: whether rewards are divided by the standard deviation of the discounted return.
        constraint: limit on the mean cost of an episode; None for none.

    Raises:
        ValueError: a number is out of its range, or the steps of an iteration are no multiple of the worlds.
    """

    _: KW_ONLY
    discount: float = 0.99
    advantages: AdvantageEstimator = field(default_factory=GeneralizedAdvantages)
    num_envs: int = 8
    steps_per_iteration: int | None = 2048
    network: NetworkSettings = field(default_factory=NetworkSettings)
    sequence_length: int = 32
    normalize_rewards: bool = True
    constraint: CostConstraint | None = None

    def __post_init__(self):
        check_numbers(self, counts=("num_envs", "sequence_length"), shares=("discount",))
        if self.steps_per_iteration is not None:
            check_numbers(self, counts=("steps_per_iteration",))
            if self.steps_per_iteration % self.num_envs:
                raise ValueError(
                    f"steps_per_iteration must be a multiple of num_envs, got {self.steps_per_iteration} and {self.num_envs}"
                )
        if self.network.recurrent and self.steps_in_each % self.sequence_length:
            raise ValueError(
                f"each of {self.num_envs} worlds takes {self.steps_in_each} steps in an iteration, which "
                f"must be a multiple of sequence_length, got {self.sequence_length}"
            )

    @property
    def steps_in_each(self) -> int:
        """Steps of each world in an iteration."""
        return 5 if self.steps_per_iteration is None else self.steps_per_iteration // self.num_envs

    def learner(self, assignment: Assignment) -> "OnPolicyLearner":
        """A learner at its first step."""
        return OnPolicyLearner(self, assignment)

    @abc.abstractmethod
    def prepare(self, learner: "OnPolicyLearner") -> None:
        """Give a new learner what the updates need: optimizers, and numbers that change."""

    @abc.abstractmethod
    def update(self, learner: "OnPolicyLearner", samples: Samples) -> dict[str, float]:
        """Improve policy and value function on samples, and say how it went."""


class OnPolicyLearner(Learner):
    """The state of on-policy training.

    Args:
        algorithm: its settings.
        assignment: what is to be learned.

    Attributes:
        policy: the policy.
        value: the value function.
        parameters: of both as one vector.
        constraint: what keeps the limit of the cost; None without one.
        optimizers: of the algorithm, by name.
        numbers: of the algorithm that change and are kept, by name.
        generator: source of actions and minibatches.
        progress: share of the steps that are taken, from 0 to 1.
    """

    policy: Policy

    def __init__(self, algorithm: OnPolicy, assignment: Assignment):
        algorithm.check_demonstrations(assignment)
        self.algorithm, self.assignment = algorithm, assignment
        self.processes = assignment.processes
        self.worlds = assignment.worlds(algorithm.num_envs)
        self.policy = assignment.first_policy(self.worlds.observation_dim, self.worlds.actions, algorithm.network)
        self.value = self._value_function(assignment.seed_for("weights") + 1)
        self.generator = assignment.generator("actions")
        self.scale = RewardScale(algorithm.num_envs, algorithm.discount).to(assignment.device)
        self.parameters = FlatParameters(self.policy, self.value)
        self.constraint = self._constraint_learner(assignment.seed_for("weights of the cost"))
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.numbers: dict[str, float] = {}
        self.steps = self.iterations = 0
        self._hidden = self.policy.initial_hidden(algorithm.num_envs)
        self._value_hidden = self.value.initial_hidden(algorithm.num_envs)
        algorithm.prepare(self)

    def _value_function(self, seed: int) -> ValueFunction:
        with seeded_weights(seed):
            value = ValueFunction(self.policy.settings.body(self.policy.observation_dim))
        return value.to(self.policy.dtype).to(self.assignment.device)

    def _constraint_learner(self, seed: int) -> ConstraintLearner | None:
        settings = self.algorithm
        if settings.constraint is None:
            return None
        scale = RewardScale(settings.num_envs, settings.discount).to(self.assignment.device)
        return ConstraintLearner(
            settings.constraint,
            self._value_function(seed),
            scale if settings.normalize_rewards else None,
            self.processes,
            settings.num_envs,
        )

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        """Policy and value functions."""
        networks: dict[str, torch.nn.Module] = {"policy": self.policy, "value function": self.value}
        if self.constraint is not None:
            networks["value function of the cost"] = self.constraint.value
        return networks

    @property
    def progress(self) -> float:
        """Share of the environment steps that are taken."""
        return min(self.steps / self.assignment.whole, 1.0)

    @property
    def exact(self) -> bool:
        """Whether the worlds can be kept to the bit."""
        return self.worlds.exact

    def iterate(self) -> dict[str, float]:
        """Collect, update, and count in what was seen."""
        return self.learn(self.collect())

    def collect(self) -> Rollout:
        """The steps of an iteration under the present policy; :meth:`learn` is to follow, with rewards of the caller's choice."""
        steps = self.algorithm.steps_in_each
        rollout, self._hidden = collect(self.policy, self.worlds, steps, self._hidden, self.generator)
        return rollout

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Update policy and value function on what was collected, and count in what was seen."""
        settings, begun = self.algorithm, time.perf_counter()
        episodes = self._episodes(rollout)
        if rollout.costs is None and self.worlds.named_costs:
            rollout = replace(rollout, costs=torch.zeros_like(rollout.rewards))
        if self.constraint is not None and "rollout/cost" in episodes:
            self.constraint.ascend(episodes["rollout/cost"])
        samples, self._value_hidden = self.samples(rollout)
        metrics = settings.update(self, samples)
        if self.constraint is not None:
            metrics = {**metrics, **self.constraint.fit(samples, self.generator)}
        if self.policy.normalizer is not None:
            count_in(self.policy.normalizer, rollout.observations[rollout.valid], self.processes)
        self.steps += rollout.rewards.numel() * self.processes.number
        self.iterations += 1
        environment, inference = rollout.seconds
        return {
            **episodes,
            **metrics,
            "time/environment": environment,
            "time/inference": inference,
            "time/update": time.perf_counter() - begun,
        }

    def samples(self, rollout: Rollout) -> tuple[Samples, Tensor]:
        """What is learned from a rollout, and what the value function remembers after it."""
        settings, device = self.algorithm, self.assignment.device
        rewards = rollout.rewards.to(device)
        ended, terminated, valid = (flag.to(device) for flag in (rollout.ended, rollout.terminated, rollout.valid))
        if settings.normalize_rewards:
            rewards = self.scale(rewards, ended, self.processes, valid=valid)
        values, next_values, value_hidden = rollout_values(self.policy, self.value, rollout, self._value_hidden)

        def estimate(rewards: Tensor, values: Tensor, next_values: Tensor) -> tuple[Tensor, Tensor]:
            return settings.advantages.estimate(
                rewards, values, next_values, terminated, ended, valid, settings.discount
            )

        advantages, returns = estimate(rewards.to(values), values, next_values)
        cost_returns = cost_hidden = None
        if self.constraint is not None:
            advantages, cost_returns, cost_hidden = self.constraint.advantages(
                self.policy, rollout, advantages, estimate
            )
        samples = Samples(
            inputs=self.policy.inputs(rollout.observations),
            actions=rollout.actions.to(device),
            advantages=advantages,
            returns=returns,
            values=values,
            weights=valid.to(values),
            starts=rollout.starts.to(device),
            hidden=rollout.hidden,
            value_hidden=value_hidden[:-1],
            cost_returns=cost_returns,
            cost_hidden=cost_hidden,
        )
        pieces = samples.in_pieces(settings.sequence_length if self.policy.body.hidden_dim else 1)
        return pieces.with_old_policy(self.policy), value_hidden[-1]

    def _episodes(self, rollout: Rollout) -> dict[str, float]:
        """Means over the episodes that have ended, none where none has, and the numbers of those and of what was broken off."""
        finished = self.worlds.take_finished()
        sums = torch.tensor([[e.reward, e.cost, e.steps, 1.0] for e in finished], dtype=torch.float64).reshape(-1, 4)
        broken, named = float((~rollout.valid).sum()), float(self.worlds.named_costs)
        sums = self.processes.sum(torch.cat([sums.sum(0), torch.tensor([broken, named], dtype=torch.float64)]))
        reward, cost, steps, number, broken, named = sums.tolist()
        self.worlds.named_costs = named > 0  # in any process: an environment may name them only where there are some
        found = {"rollout/episodes": number, "rollout/diverged": broken}  # a step that is not valid ends its episode
        if number:
            found = {"rollout/return": reward / number, "rollout/length": steps / number, **found}
            if self.worlds.named_costs:
                found["rollout/cost"] = cost / number
        return found

    def close(self) -> None:
        """Let go of the worlds."""
        self.worlds.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            "policy": self.policy.state_dict(),
            "value": self.value.state_dict(),
            "scale": self.scale.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "numbers": dict(self.numbers),
            "generator": self.generator.get_state(),
            "worlds": self.worlds.state_dict(),
            "named_costs": self.worlds.named_costs,
            "hidden": self._hidden,
            "value_hidden": self._value_hidden,
            "constraint": None if self.constraint is None else self.constraint.state_dict(),
            "steps": self.steps,
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called; worlds that cannot be kept begin new episodes."""
        for module, name in ((self.policy, "policy"), (self.value, "value"), (self.scale, "scale")):
            module.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.constraint is not None:
            self.constraint.load_state_dict(state["constraint"])
        self.numbers.update(state["numbers"])
        self.generator.set_state(state["generator"].cpu())
        self.steps, self.iterations = state["steps"], state["iterations"]
        self.worlds.named_costs = state["named_costs"]
        if self.worlds.exact:
            self.worlds.load_state_dict(state["worlds"])
            self._hidden, self._value_hidden = (
                state[name].to(self.assignment.device) for name in ("hidden", "value_hidden")
            )
        else:
            seed = self.assignment.seed_for(f"worlds after iteration {self.iterations}")
            self.worlds.begin(seed + self.algorithm.num_envs * self.processes.rank)
            self.scale.begin()
            if self.constraint is not None:
                self.constraint.begin()
