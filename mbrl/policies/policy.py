r"""Stochastic policies on networks.

.. math:: a_t \sim \pi_\theta(\cdot \mid z_t, h_{t-1}), \qquad z_t = \text{normalizer}(y_t), \qquad u_t = \text{controls}(a_t)
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from mbrl.policies.action_space import ActionSpace, ContinuousActions, DiscreteActions, action_space
from mbrl.policies.distributions import ActionDistribution
from mbrl.policies.heads import (
    BetaHead,
    CategoricalHead,
    GaussianHead,
    Head,
    MixtureHead,
    SquashedGaussianHead,
)
from mbrl.policies.learned_actor import LearnedActor, task_actions
from mbrl.policies.networks import ACTIVATIONS, Body, FeedForward, Recurrent, seeded_weights
from mbrl.policies.normalizer import RunningNormalizer
from mbrl.tasks.base import Task
from planners.mpc import on_device

HeadName = Literal["gaussian", "squashed-gaussian", "beta", "mixture", "categorical"]


@dataclass(frozen=True)
class NetworkSettings:
    """What the network of a policy looks like; a value function beside it has the same body.

    Attributes:
        head: family of distributions: ``"gaussian"``, whose controls are clamped to the limits, ``"squashed-gaussian"`` and
            ``"beta"``, which keep within them, ``"mixture"`` of Gaussians, or ``"categorical"`` for finitely many controls. By
            default that one, or Gaussian.
        hidden: widths of the fully connected layers.
        activation: ``"tanh"``, ``"relu"``, ``"elu"``, ``"silu"`` or ``"softplus"``.
        recurrent: number of gated recurrent units on top of them, for tasks that are not seen in full; 0 for none.
        initial_std: standard deviation of Gaussian actions at first, squashed and mixed ones too, in half widths of the limits;
            rather small, as Andrychowicz et al. 2021 recommend, so that few controls are clamped.
        state_dependent_std: whether it is an output of the network instead of a parameter, of a normal or a squashed one; of a
            mixture it always is.
        components: of a mixture.
        normalize: whether observations are normalized by running statistics.
        dtype: ``"float32"`` or ``"float64"``, of the networks.

    Raises:
        ValueError: a value is none of these. A policy refuses those that its head would ignore.
    """

    head: HeadName | None = None
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    recurrent: int = 0
    initial_std: float = 0.5
    state_dependent_std: bool = False
    components: int = 5
    normalize: bool = True
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(self.hidden))  # of a list too: settings are compared
        if self.head not in (None, *HEADS):
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")
        sizes = (*self.hidden, self.components, self.recurrent)
        whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
        fit = whole and min((*self.hidden, self.components)) >= 1 and self.recurrent >= 0
        if not (fit and 0 < self.initial_std < math.inf):
            raise ValueError(
                "need whole numbers of widths and components >= 1 and recurrent >= 0, and initial_std > 0, got "
                f"{self.hidden}, {self.components}, {self.recurrent} and {self.initial_std}"
            )

    def body(self, inputs: int) -> Body:
        """Layers on a number of inputs, with random weights of the global generator."""
        if self.recurrent:
            return Recurrent(inputs, self.recurrent, self.hidden, self.activation)
        return FeedForward(inputs, self.hidden, self.activation)


HEADS: dict[str, tuple[type[Head], tuple[str, ...]]] = {
    "gaussian": (GaussianHead, ("initial_std", "state_dependent_std")),
    "squashed-gaussian": (SquashedGaussianHead, ("initial_std", "state_dependent_std")),
    "beta": (BetaHead, ()),
    "mixture": (MixtureHead, ("components", "initial_std")),
    "categorical": (CategoricalHead, ()),
}
"""By name, with the settings that each uses; a policy refuses the others."""

OPTIONS = ("initial_std", "state_dependent_std", "components")
"""Settings that some heads use."""


@dataclass(frozen=True, eq=False)
class PolicyMemory:
    """Where a policy stands in a batch of episodes.

    Attributes:
        hidden: what a recurrent network remembers, ``(batch, h)``.
        generator: source of the actions that are drawn; its present state is part of the value.
    """

    hidden: Tensor
    generator: torch.Generator


class Policy(LearnedActor):
    """A distribution of actions for what is seen; acts like every actor.

    Args:
        observation_dim: number of observed columns.
        actions: what there is to choose among.
        settings: of the network.
        seed: of its first weights.

    Attributes:
        normalizer: running statistics of the observations; None where the settings say so.
        body: from normalized observations to features.
        head: from features to a distribution.
        names: names of the columns by group, ``"observations"`` and ``"controls"``, where they are known.
        units: units, likewise.

    Raises:
        ValueError: the head does not fit the actions.
    """

    def __init__(
        self,
        observation_dim: int,
        actions: ActionSpace,
        settings: NetworkSettings = NetworkSettings(),
        *,
        seed: int = 0,
    ):
        super().__init__(actions)
        self.observation_dim, self.settings = observation_dim, settings
        with seeded_weights(seed):
            self.normalizer = RunningNormalizer(observation_dim) if settings.normalize else None
            self.body = settings.body(observation_dim)
            self.head = _head(self.body.features, actions, settings)
        self.body.to(getattr(torch, settings.dtype))
        self.head.to(getattr(torch, settings.dtype))

    @classmethod
    def for_task(cls, task: Task, settings: NetworkSettings = NetworkSettings(), *, seed: int = 0) -> Self:
        """A policy that sees what the task shows and chooses among its controls."""
        sample = task.observe(task.initial_state(1, torch.Generator().manual_seed(0)))
        policy = cls(sample.shape[-1], task_actions(task), settings, seed=seed)
        policy.describe(task)
        return policy

    @property
    def acts_on(self) -> str:
        """``"observation"``."""
        return "observation"

    @property
    def seen_dim(self) -> int:
        """Number of observed columns."""
        return self.observation_dim

    @property
    def dtype(self) -> torch.dtype:
        """Of the networks."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def inputs(self, y: Tensor) -> Tensor:
        """What the network gets for observations ``(*batch, ny)``: normalized, in its dtype, on its device."""
        y = y.to(self.device)
        return (y if self.normalizer is None else self.normalizer(y)).to(self.dtype)

    def initial_hidden(self, batch: int) -> Tensor:
        """What is remembered before an episode, ``(batch, h)``."""
        return torch.zeros(batch, self.body.hidden_dim, dtype=self.dtype, device=self.device)

    def distribution(self, y: Tensor, hidden: Tensor | None = None) -> ActionDistribution:
        """The distribution of actions for observations ``(*batch, ny)``.

        Args:
            y: observations.
            hidden: what is remembered, ``(*batch, h)``; that of the start of an episode by default.
        """
        self._check(y)
        if hidden is None:
            hidden = self.initial_hidden(1).squeeze(0).expand(*y.shape[:-1], -1)
        return self.step(self.inputs(y), hidden)[0]

    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[ActionDistribution, Tensor]:
        """The distribution for :meth:`inputs` ``(*batch, ny)``, and the next hidden values ``(*batch, h)``."""
        features, hidden = self.body.step(inputs, hidden)
        return self.head(features), hidden

    def sequence(self, inputs: Tensor, hidden: Tensor, starts: Tensor) -> tuple[ActionDistribution, Tensor]:
        """The distributions for sequences of :meth:`inputs` ``(T, N, ny)``, and hidden values after each step.

        Args:
            inputs: normalized observations.
            hidden: ``(N, h)`` before the first step.
            starts: ``(T, N)`` of bool, steps that are the first of an episode.
        """
        features, hiddens = self.body.sequence(inputs, hidden, starts)
        return self.head(features), hiddens

    def init(self, batch: int = 1, *, generator: torch.Generator | None = None) -> PolicyMemory:
        """Memory at the start of a batch of episodes; actions from a generator seeded with 0 by default."""
        generator = on_device(generator or torch.Generator().manual_seed(0), self.device)
        return PolicyMemory(self.initial_hidden(batch), generator)

    @torch.no_grad()
    def act(self, y: Tensor, memory: PolicyMemory, *, deterministic: bool = True) -> tuple[Tensor, PolicyMemory]:
        """Controls ``(batch, m)`` for observations ``(batch, ny)`` in their dtype, and the next memory.

        Args:
            y: observations.
            memory: from :meth:`init` or the step before.
            deterministic: the mode of the distribution; otherwise a draw.

        Raises:
            ValueError: the observations have other columns, or the memory is of another number of episodes.
        """
        self._check(y)
        if y.shape[:-1] != memory.hidden.shape[:-1]:
            raise ValueError(
                f"the memory is of {len(memory.hidden)} episodes, got observations {tuple(y.shape)}; begin with "
                "policy.init(batch)"
            )
        distribution, hidden = self.step(self.inputs(y), memory.hidden)
        generator = memory.generator
        if deterministic:
            actions = distribution.mode()
        else:
            generator = generator.clone_state()
            actions = distribution.sample(generator)
        return self.controls(actions, y), PolicyMemory(hidden, generator)

    def controls(self, actions: Tensor, like: Tensor) -> Tensor:
        """The controls of actions in the dtype of a tensor and on its device, in which they keep within the limits."""
        if actions.is_floating_point():
            actions = actions.to(like)
        return self.actions.controls(actions).to(like)

    def config(self) -> dict[str, Any]:
        """JSON values from which :func:`mbrl.load_policy` makes the policy again, without its weights."""
        return {
            "observation_dim": self.observation_dim,
            "actions": self.actions.config(),
            "settings": asdict(replace(self.settings, dtype=str(self.dtype).removeprefix("torch."))),
        }

    @classmethod
    def restored(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy of a :meth:`config` and weights."""
        settings = {**config["settings"], "hidden": tuple(config["settings"]["hidden"])}
        policy = cls(config["observation_dim"], action_space(config["actions"]), NetworkSettings(**settings))
        policy.load_state_dict(tensors)
        return policy

    def _check(self, y: Tensor) -> None:
        if y.shape[-1:] != (self.observation_dim,):
            raise ValueError(f"the policy sees {self.observation_dim} columns, got observations {tuple(y.shape)}")


def _head(features: int, actions: ActionSpace, settings: NetworkSettings) -> Head:
    discrete = isinstance(actions, DiscreteActions)
    name = head_name(actions, settings)
    if (name == "categorical") != discrete:
        what = "finitely many controls take the head 'categorical'" if discrete else "'categorical' needs finitely many"
        raise ValueError(f"head {name!r} does not fit the actions: {what}")
    kind, used = HEADS[name]
    ignored = [o for o in OPTIONS if o not in used and getattr(settings, o) != getattr(NetworkSettings, o)]
    if ignored:
        raise ValueError(f"the head {name!r} does not use {' and '.join(ignored)}; leave it out, or take another head")
    bounded = isinstance(actions, ContinuousActions) and bool(actions.lower.isfinite().all())
    if kind.bounded and not bounded:
        raise ValueError(f"head {name!r} keeps within limits, and these controls have none; take 'gaussian'")
    size = len(actions.values) if isinstance(actions, DiscreteActions) else actions.control_dim
    options: dict[str, Any] = {option: getattr(settings, option) for option in used}
    return kind(features, size, **options)


def head_name(actions: ActionSpace, settings: NetworkSettings) -> str:
    """The head of a policy for actions, that by default included."""
    return settings.head or ("categorical" if isinstance(actions, DiscreteActions) else "gaussian")
