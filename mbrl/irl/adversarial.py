r"""What adversarial inverse reinforcement learning has in common: the iteration.

.. math:: \text{collect under } \pi_k \;\to\; \theta_{k+1} \text{ tells expert and learner apart}
    \;\to\; r_t = r_{\theta_{k+1}}(y_t, u_t, y_{t+1}) \;\to\; \pi_{k+1} \text{ by an on-policy algorithm}

An algorithm says what the discriminator is made of, and what the learner is paid.

**Ends.** If episodes end at different times, when they end tells expert and learner apart, and a reward of one sign makes the
learner end early or late whatever it does (Kostrikov et al. 2019, section 4). Three ways of dealing with it:

* ``"fixed"``: all episodes are of one length, and an end that is part of the task is an error;
* ``"absorbing"``: a terminated episode goes on in an absorbing state up to the longest length there is, of the expert as of the
  learner. The discriminator sees these steps as often as they occur, and the end is worth what they pay for ever,
  :math:`\gamma r_{abs} / (1 - \gamma)`, as the last observation of a truncated episode is worth its value;
* ``"variable"``: ends are left as they are, with the bias.

Where it differs from the paper: Kostrikov et al. let the value function learn what the absorbing state is worth; here it is
computed, so that the policy never sees it and acts on the task's own observations.

**No demonstrations.** ``demonstrations=[]`` leaves nothing to tell apart, and the discriminator stays at D = 1/2 everywhere: what
the policy learns then, it learns from the form of the reward alone.
"""

import abc
import math
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.irl.applied_actions import applied_log_prob
from mbrl.irl.demonstrated_steps import DemonstratedSteps
from mbrl.irl.discriminator import Discriminator, DiscriminatorSettings, Rows
from mbrl.irl.reward_files import save_reward
from mbrl.irl.reward_network import RewardInputs, RewardModel, RewardNetwork
from mbrl.on_policy.base import OnPolicy, OnPolicyLearner
from mbrl.on_policy.ppo import PPO
from mbrl.on_policy.rollout import Rollout
from mbrl.on_policy.statistics import mean_over
from mbrl.policies.action_space import ActionSpace
from mbrl.policies.normalizer import count_in, moments
from mbrl.policies.policy import Policy
from mbrl.policies.value_function import ValueFunction
from mbrl.training.algorithm import Algorithm, Assignment, Demonstrations, Learner
from mbrl.training.errors import TrainingError

Horizon = Literal["fixed", "absorbing", "variable"]
"""How ends of episodes are dealt with."""


@dataclass(frozen=True)
class Adversarial(Algorithm, abc.ABC):
    """What adversarial algorithms are told.

    Attributes:
        policy: what the learner learns by.
        discriminator: what it looks like, and how it learns.
        inputs: of what the reward is a function.
        horizon: how ends of episodes are dealt with: ``"fixed"``, ``"absorbing"`` or ``"variable"``.

    Raises:
        TypeError: the policy or the discriminator has settings of another kind.
        ValueError: a setting is none there is.
    """

    demonstrations: ClassVar[Demonstrations] = "required"
    shows: ClassVar[str] = "how well expert and learner are told apart, and how the policy changed"

    _: KW_ONLY
    policy: OnPolicy = field(default_factory=PPO)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    inputs: RewardInputs = "state-action"
    horizon: Horizon = "fixed"

    def __post_init__(self):
        if not isinstance(self.policy, OnPolicy):
            raise TypeError(
                f"policy must be an on-policy algorithm such as mbrl.PPO(), got {type(self.policy).__name__}; a policy to begin "
                "with is init= of mbrl.train"
            )
        if not isinstance(self.discriminator, DiscriminatorSettings):
            raise TypeError(
                f"discriminator must be mbrl.DiscriminatorSettings(...), got {type(self.discriminator).__name__}"
            )
        for name, kinds in (("inputs", RewardInputs), ("horizon", Horizon)):
            if getattr(self, name) not in get_args(kinds):
                known = ", ".join(map(repr, get_args(kinds)))
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.horizon == "absorbing" and self.policy.discount >= 1:
            raise ValueError(
                f"absorbing states pay for ever, which needs policy.discount < 1, got {self.policy.discount}"
            )

    def learner(self, assignment: Assignment) -> "AdversarialLearner":
        """A learner at its first step."""
        return AdversarialLearner(self, assignment)

    def config(self) -> dict[str, Any]:
        """The settings as JSON values, with what the discriminator does by default, so that another default is another run."""
        settings, compares = self.discriminator, self.compares_policies
        done = {"updates": settings.number_of_updates(compares), "gradient_penalty": settings.penalty(compares)}
        found = super().config()
        return {**found, "discriminator": {**found["discriminator"], **done}}

    def network(self, observation_dim: int, actions: ActionSpace, seed: int) -> RewardNetwork:
        """The network that the settings describe."""
        settings = self.discriminator
        return RewardNetwork(
            observation_dim,
            actions,
            inputs=self.inputs,
            hidden=settings.hidden,
            activation=settings.activation,
            normalize=settings.normalize,
            spectral_norm=settings.spectral_norm,
            absorbing=self.horizon == "absorbing",
            dtype=settings.dtype,
            seed=seed,
        )

    @property
    @abc.abstractmethod
    def compares_policies(self) -> bool:
        """Whether the policy's own log-probabilities are part of the logits."""

    @abc.abstractmethod
    def model(self, network: RewardNetwork, seed: int) -> RewardModel:
        """What the discriminator learns, made of the network."""

    @abc.abstractmethod
    def reward(self, model: RewardModel) -> RewardModel:
        """The learned reward, of the same weights."""

    @abc.abstractmethod
    def pay(self, model: RewardModel, rows: Tensor, log_probs: Tensor) -> Tensor:
        """What the learner is paid ``(*b,)`` for rows ``(*b, dim)`` of controls with log-probabilities ``(*b,)``."""


class AdversarialLearner(Learner):
    """The state of adversarial training.

    Args:
        algorithm: its settings.
        assignment: what is to be learned, with demonstrations, or an empty list of them.

    Attributes:
        policy: the policy.
        on_policy: what learns it.
        discriminator: what tells its steps from the expert's.
        reward: the learned reward.
        expert: the demonstrated steps; None where there are no demonstrations.
        horizon_steps: length up to which terminated episodes go on in the absorbing state.

    Raises:
        ValueError: there are no demonstrations, they do not fit the task, or they end at different times.
    """

    policy: Policy

    def __init__(self, algorithm: Adversarial, assignment: Assignment):
        algorithm.check_demonstrations(assignment)
        self.algorithm, self.processes, device = algorithm, assignment.processes, assignment.device
        self.on_policy: OnPolicyLearner = algorithm.policy.learner(replace(assignment, demonstrations=None))
        self.policy = self.on_policy.policy
        try:
            self.expert = self._expert(assignment)
        except Exception:
            self.close()
            raise
        network = algorithm.network(
            self.policy.observation_dim, self.policy.actions, assignment.seed_for("weights of the reward")
        )
        model = algorithm.model(network.to(device), assignment.seed_for("weights of the potential")).to(device)
        generator = assignment.generator("discriminator")
        self.discriminator = Discriminator(
            algorithm.discriminator,
            model,
            generator,
            self.processes,
            compares_policies=algorithm.compares_policies,
        )
        self.reward = algorithm.reward(model)
        self.horizon_steps = self._horizon_steps()
        torch.nn.init.zeros_(
            self.on_policy.value.head.weight
        )  # as all rewards are at first, and no noise is learned from
        self._elapsed = torch.zeros(algorithm.policy.num_envs, dtype=torch.int64)
        if algorithm.horizon == "absorbing":
            # the end is worth what all that comes after it pays: that is no outlier
            self.on_policy.scale.clip = math.inf

    def _expert(self, assignment: Assignment) -> DemonstratedSteps | None:
        demonstrations = cast(Sequence[Trajectory], assignment.demonstrations)
        if isinstance(demonstrations, Sequence) and not len(demonstrations):
            return None
        expert = DemonstratedSteps.of(demonstrations, self.policy, assignment.task)
        if self.algorithm.horizon == "fixed" and expert.variable:
            raise ValueError(
                f"{expert.variable}: when an episode ends would tell expert and learner apart, and the reward would teach the "
                'learner when to end. Set horizon="absorbing", which takes that away, or cut them to one length; '
                'horizon="variable" learns with the bias'
            )
        return expert

    def _horizon_steps(self) -> int:
        longest = 1 if self.expert is None else int(self.expert.labels.lengths.max())
        return max(longest, episode_limit(self.on_policy.worlds.env) or 1)

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.on_policy.steps

    @property
    def value(self) -> ValueFunction:
        """The value function of the policy, of learned rewards."""
        return self.on_policy.value

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        """Those of the policy, and the discriminator."""
        return {**self.on_policy.networks, "discriminator": self.discriminator.model}

    @property
    def exact(self) -> bool:
        """Whether the worlds can be kept to the bit."""
        return self.on_policy.exact

    def iterate(self) -> dict[str, float]:
        """Collect, tell apart, pay, and improve the policy."""
        rollout = self.on_policy.collect()
        begun = time.perf_counter()
        lengths = self._lengths(rollout)
        self._check_ends(rollout, lengths)
        self._count_in(rollout)
        log_probs, rows = self._log_probs(rollout), self._rows(rollout)
        found = self._discriminate(rollout, rows, log_probs, lengths)
        rewards = self._rewards(rollout, rows, log_probs)
        weights = rollout.valid.to(rewards)
        found["train/reward"] = float(mean_over(rewards, weights, self.processes))
        paid = rewards + self._after_the_end(rollout)
        spent = time.perf_counter() - begun
        metrics = self.on_policy.learn(replace(rollout, rewards=paid))
        metrics["time/update"] += spent
        return {**metrics, **found}

    def _lengths(self, rollout: Rollout) -> Tensor:
        """Steps of its episode up to each step, itself included, ``(T, N)``."""
        found = torch.empty_like(rollout.starts, dtype=torch.int64)
        for t, start in enumerate(rollout.starts):
            self._elapsed = torch.where(start, 0, self._elapsed) + 1
            found[t] = self._elapsed
        return found

    def _check_ends(self, rollout: Rollout, lengths: Tensor) -> None:
        if self.algorithm.horizon != "fixed":
            return
        ended = torch.stack([rollout.terminated.sum(), lengths[rollout.terminated].sum()]).double()
        number, steps = self.processes.sum(ended).tolist()
        if number:
            raise TrainingError(
                f"{number:.0f} episodes of the learner have terminated, after {steps / number:.4g} steps on average: a reward "
                'that is learned without knowing of ends pays for long or for short episodes. Set horizon="absorbing", which '
                'takes that away; horizon="variable" learns with the bias'
            )

    @torch.no_grad()
    def _count_in(self, rollout: Rollout) -> None:
        """Statistics of observations, of expert and learner half each."""
        normalizer = self.discriminator.model.encoding.normalizer
        seen = rollout.observations[rollout.valid]
        if normalizer is None:
            return
        count_in(normalizer, seen, self.processes)
        if self.expert is not None:
            number = self.processes.sum(torch.tensor([float(len(seen))], dtype=torch.float64))
            _, mean, variance = (m.to(normalizer.mean) for m in moments(self.expert.labels.observations))
            normalizer.merge(number[0].to(mean), mean, variance)

    @torch.no_grad()
    def _log_probs(self, rollout: Rollout) -> Tensor:
        """Of the learner's applied controls ``(T, N)``; zeros where the algorithm does not look at them."""
        policy = self.policy
        if not self.algorithm.compares_policies:
            return torch.zeros(rollout.rewards.shape, device=policy.device)
        inputs, starts = policy.inputs(rollout.observations), rollout.starts.to(policy.device)
        distribution, _ = policy.sequence(inputs, rollout.hidden[0], starts)
        return applied_log_prob(distribution, rollout.actions.to(policy.device), policy)

    def _rows(self, rollout: Rollout) -> Tensor:
        """Rows ``(T, N, dim)`` of the learner's steps."""
        actions = rollout.actions.double() if rollout.actions.is_floating_point() else rollout.actions
        controls = self.policy.actions.controls(actions.cpu())
        model = self.discriminator.model
        return model.encode(rollout.observations, controls, rollout.next_observations, rollout.terminated)

    def expert_rows(self) -> Rows:
        """The demonstrated steps as the discriminator sees them, with log-probabilities of the present policy.

        Raises:
            ValueError: there are no demonstrations.
        """
        expert, model = self.expert, self.discriminator.model
        if expert is None:
            raise ValueError("this training has no demonstrations")
        labels = expert.labels
        controls = self.policy.actions.controls(labels.actions)
        rows = model.encode(labels.observations, controls, expert.next_observations, expert.terminated)
        absorbed = expert.absorbed(self.horizon_steps) if model.encoding.absorbing else 0
        if self.algorithm.compares_policies:
            return Rows(rows, expert.log_probs(self.policy).to(rows), absorbed)
        return Rows(rows, rows.new_zeros(len(rows)), absorbed)

    def _discriminate(self, rollout: Rollout, rows: Tensor, log_probs: Tensor, lengths: Tensor) -> dict[str, float]:
        if self.expert is None:
            return {}
        counted = rollout.valid if bool(rollout.valid.any()) else torch.ones_like(rollout.valid)
        kept = counted.to(rows.device)
        absorbed = 0
        if self.discriminator.model.encoding.absorbing:
            absorbed = int((self.horizon_steps - lengths[rollout.terminated]).clamp_min(0).sum())
        learner = Rows(rows[kept], log_probs[kept].to(rows), absorbed)
        return self.discriminator.update(self.expert_rows(), learner)

    @torch.no_grad()
    def _rewards(self, rollout: Rollout, rows: Tensor, log_probs: Tensor) -> Tensor:
        """What the learner is paid for each step, ``(T, N)``; zero where a step is not valid."""
        rewards = self.algorithm.pay(self.discriminator.model, rows, log_probs.to(rows)).double().cpu()
        return torch.where(rollout.valid, rewards, 0.0)

    @torch.no_grad()
    def _after_the_end(self, rollout: Rollout) -> Tensor:
        """What all steps in the absorbing state are worth where an episode has terminated, ``(T, N)``."""
        model, gamma = self.discriminator.model, self.algorithm.policy.discount
        if not model.encoding.absorbing:
            return torch.zeros_like(rollout.rewards)
        row = model.encoding.absorbing_row().to(model.device, model.dtype)
        each = float(self.algorithm.pay(model, row, row.new_zeros(())))
        return gamma / (1 - gamma) * each * rollout.terminated.double()

    def leave(self, folder: Path) -> None:
        """The reward, as ``reward.safetensors``."""
        save_reward(self.reward, folder / "reward.safetensors")

    def close(self) -> None:
        """Let go of the worlds."""
        self.on_policy.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            "on_policy": self.on_policy.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "elapsed": self._elapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called, with the same demonstrations."""
        self.on_policy.load_state_dict(state["on_policy"])
        self.discriminator.load_state_dict(state["discriminator"])
        self._elapsed = state["elapsed"].clone()


def episode_limit(env: Any) -> int | None:
    """Steps after which an environment, one or many, ends an episode; None where it does not say."""
    plain = env.envs[0] if getattr(env, "envs", None) else env
    task = getattr(plain.unwrapped, "task", None)
    found = getattr(task, "episode_steps", None) or getattr(plain.spec, "max_episode_steps", None)
    if found is None and hasattr(plain, "has_wrapper_attr") and plain.has_wrapper_attr("_max_episode_steps"):
        found = plain.get_wrapper_attr("_max_episode_steps")  # of gymnasium's TimeLimit around what has no id
    return found if isinstance(found, int) and found > 0 else None
