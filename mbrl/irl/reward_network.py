r"""Rewards of what is observed, as networks: what is learned where no features are known.

.. math:: r_\theta(y, u, y'), \qquad
    f_{\theta, \phi}(y, u, y') = r_\theta(y, u, y') + \gamma \, h_\phi(y') - h_\phi(y), \qquad h_\phi(\text{end}) = 0

A reward says by ``inputs`` of what it is a function. Shaping by a potential h changes no optimal policy (Ng, Harada and Russell
1999, theorem 1), if the potential is zero where an episode terminates; it takes up what a reward of the state alone cannot
express (Fu, Luo and Levine 2018, eq. 4).

Episodes that terminate can be taken to go on in an absorbing state for ever (Kostrikov et al. 2019, section 4.2): all its columns
are zero but one of its own, which is zero elsewhere. A reward with that column has a value for what comes after the end.

All of a transition is first encoded as a row of numbers of order one, and rewards are functions of such rows, between which one
can interpolate.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus
from torch.nn.utils import parametrizations

from mbrl.policies.action_space import ActionSpace, DiscreteActions, action_space
from mbrl.policies.networks import FeedForward, seeded_weights
from mbrl.policies.normalizer import RunningNormalizer

RewardInputs = Literal["state", "state-action", "state-next", "state-action-next"]
"""Of what a reward is a function: what is observed, what is done, and what is observed next."""

RewardForm = Literal["signed", "positive", "negative"]
"""Of a discriminator's logits, see :class:`DiscriminatorReward`."""


class Encoding(nn.Module):
    """A transition as a row: what is observed, the action, what is observed next, and whether it is over.

    Observations are normalized by running statistics, controls by their limits; of finitely many, which one it is.

    Args:
        observation_dim: number ny of observed columns.
        actions: what the controls are.
        normalize: whether observations are normalized.
        absorbing: whether there is a column that is 1 in the absorbing state, in which terminated episodes go on.

    Attributes:
        dim: number of columns of a row.
        blocks: columns of the parts by name, ``"state"``, ``"action"`` and ``"next"``.
    """

    def __init__(self, observation_dim: int, actions: ActionSpace, *, normalize: bool, absorbing: bool):
        super().__init__()
        self.observation_dim, self.actions, self.absorbing = observation_dim, actions, absorbing
        self.normalizer = RunningNormalizer(observation_dim) if normalize else None
        state = observation_dim + absorbing
        action = len(actions.values) if isinstance(actions, DiscreteActions) else actions.control_dim
        ends = torch.tensor([0, state, action, state]).cumsum(0).tolist()
        names = ("state", "action", "next")
        self.blocks = {name: slice(a, b) for name, a, b in zip(names, ends[:-1], ends[1:], strict=True)}
        self.dim = ends[-1] + 1

    def forward(
        self, observations: Tensor, controls: Tensor | None, next_observations: Tensor | None, terminated: Tensor | None
    ) -> Tensor:
        """The rows ``(*b, dim)`` of transitions in double precision; what is None counts as zero, or as not terminated."""
        self._check(observations, "observations", self.observation_dim)
        over = observations.new_zeros(observations.shape[:-1]) if terminated is None else terminated.to(observations)
        state, following = self._observed(observations), torch.zeros_like(observations)
        if controls is None:
            size = self.blocks["action"].stop - self.blocks["action"].start
            action = observations.new_zeros(*observations.shape[:-1], size)
        else:
            self._check(controls, "controls", self.actions.control_dim)
            action = self._action(controls)
        if next_observations is not None:
            self._check(next_observations, "next_observations", self.observation_dim)
            following = self._observed(next_observations)
        if self.absorbing:
            state = torch.cat([state, torch.zeros_like(over).unsqueeze(-1)], -1)
            following = torch.cat([following * (1 - over).unsqueeze(-1), over.unsqueeze(-1)], -1)
        return torch.cat([part.double() for part in (state, action, following, over.unsqueeze(-1))], -1)

    def absorbing_row(self) -> Tensor:
        """The row ``(dim,)`` of a step in the absorbing state.

        Raises:
            ValueError: there is none.
        """
        if not self.absorbing:
            raise ValueError("this reward knows no absorbing state; make it with absorbing=True")
        row = torch.zeros(self.dim, dtype=torch.float64)
        row[[self.blocks["state"].stop - 1, self.blocks["next"].stop - 1, self.dim - 1]] = 1.0
        return row

    def _observed(self, y: Tensor) -> Tensor:
        return y if self.normalizer is None else self.normalizer(y).to(y)

    def _action(self, controls: Tensor) -> Tensor:
        actions = self.actions.actions(controls)
        if isinstance(self.actions, DiscreteActions):
            return one_hot(actions, len(self.actions.values)).to(controls)
        return actions

    def _check(self, values: Tensor, what: str, columns: int) -> None:
        if values.shape[-1:] != (columns,):
            raise ValueError(f"the reward is of {columns} columns of {what}, got {tuple(values.shape)}")


class RewardModel(nn.Module, abc.ABC):
    """A reward of a transition in terms of what is observed.

    Attributes:
        encoding: makes rows of transitions.
    """

    encoding: Encoding

    @property
    @abc.abstractmethod
    def inputs(self) -> RewardInputs:
        """Of what the reward is a function."""

    @abc.abstractmethod
    def of_rows(self, rows: Tensor) -> Tensor:
        """Rewards ``(*b,)`` of rows ``(*b, dim)`` of the encoding."""

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON values from which :func:`mbrl.load_reward` makes the reward again, without its weights."""

    @classmethod
    @abc.abstractmethod
    def made(cls, config: Mapping[str, Any]) -> Self:
        """The reward of a :meth:`config`, with other weights."""

    @property
    def needs_next(self) -> bool:
        """Whether it is a function of what is observed next."""
        return "next" in self.inputs

    @property
    def observation_dim(self) -> int:
        """Number ny of observed columns."""
        return self.encoding.observation_dim

    @property
    def dtype(self) -> torch.dtype:
        """Of the network."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(
        self,
        observations: Tensor,
        controls: Tensor | None = None,
        next_observations: Tensor | None = None,
        terminated: Tensor | None = None,
    ) -> Tensor:
        """Rows ``(*b, dim)`` of transitions, in the network's dtype and on its device; see :meth:`forward`.

        Raises:
            ValueError: there are more or fewer columns, or the reward is of what is missing.
        """
        for what, value, needed in (
            ("controls", controls, "action"),
            ("next_observations", next_observations, "next"),
        ):
            if value is None and needed in self.inputs:
                raise ValueError(f"this reward is one of {self.inputs}; pass {what}=...")
        given = (
            None if v is None else v.to(self.device) for v in (observations, controls, next_observations, terminated)
        )
        y, u, y_next, over = given
        if y is None:
            raise ValueError("pass observations")
        return self.encoding(y, u, y_next, over).to(self.dtype)

    def forward(
        self,
        observations: Tensor,
        controls: Tensor | None = None,
        next_observations: Tensor | None = None,
        terminated: Tensor | None = None,
    ) -> Tensor:
        """Rewards ``(*b,)`` in the dtype of the observations.

        Args:
            observations: y, ``(*b, ny)``.
            controls: u that were applied, ``(*b, m)``; only where the reward is of them.
            next_observations: y', ``(*b, ny)``; likewise.
            terminated: ``(*b,)`` of bool, steps that ended the episode for good; none by default.

        Raises:
            ValueError: there are more or fewer columns, or the reward is of what is missing.
        """
        return self.of_rows(self.encode(observations, controls, next_observations, terminated)).to(observations)

    def absorbing_reward(self) -> Tensor:
        """The reward of each step after the end of an episode, a number.

        Raises:
            ValueError: the reward knows no absorbing state.
        """
        return self.of_rows(self.encoding.absorbing_row().to(self.device, self.dtype))

    @torch.no_grad()
    def worth_of_the_end(self, discount: float | None) -> float:
        r"""What all steps after the end of an episode pay, at the step that ends it: :math:`\gamma r_{abs} / (1 - \gamma)`.

        Args:
            discount: gamma, of who acts for the reward.

        Returns:
            Zero where the reward knows no absorbing state.

        Raises:
            ValueError: it does, and the discount is missing or not in [0, 1).
        """
        if not self.encoding.absorbing:
            return 0.0
        if discount is None or not 0 <= discount < 1:
            raise ValueError(
                "the reward goes on after termination for ever, which has a value for discounts below 1; pass discount=..., "
                f"for instance the 0.99 that it was learned with, got {discount}"
            )
        return discount / (1 - discount) * float(self.absorbing_reward())


class RewardNetwork(RewardModel):
    """A reward that is a fully connected network.

    At first it is the same everywhere, zero, because its last layer is zero.

    Args:
        observation_dim: number ny of observed columns.
        actions: what the controls are.
        inputs: of what the reward is a function: ``"state"``, ``"state-action"``, ``"state-next"`` or ``"state-action-next"``.
        hidden: widths of the layers; none for a linear reward.
        activation: as of :class:`mbrl.NetworkSettings`.
        normalize: whether observations are normalized by running statistics, which who trains the network counts in.
        spectral_norm: whether the layers are divided by their largest singular value, so that the reward changes no faster than
            its inputs (Miyato et al. 2018). The last layer is random at first then.
        absorbing: whether there is an absorbing state after the end of episodes.
        dtype: ``"float32"`` or ``"float64"``.
        seed: of the weights.

    Raises:
        ValueError: a setting is none of these.
    """

    def __init__(
        self,
        observation_dim: int,
        actions: ActionSpace,
        *,
        inputs: RewardInputs = "state-action",
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        normalize: bool = True,
        spectral_norm: bool = False,
        absorbing: bool = False,
        dtype: str = "float32",
        seed: int = 0,
    ):
        super().__init__()
        if inputs not in get_args(RewardInputs):
            raise ValueError(f"inputs must be one of {', '.join(get_args(RewardInputs))}, got {inputs!r}")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
        self._inputs: RewardInputs = inputs
        self.hidden, self.activation, self.spectral_norm = tuple(hidden), activation, spectral_norm
        self.encoding = Encoding(observation_dim, actions, normalize=normalize, absorbing=absorbing)
        self._blocks = [block for name, block in self.encoding.blocks.items() if name in inputs.split("-")]
        columns = sum(block.stop - block.start for block in self._blocks)
        self.network = scalar_network(columns, hidden, activation, spectral_norm, seed)
        self.network.to(getattr(torch, dtype))
        self.eval()

    @property
    def inputs(self) -> RewardInputs:
        """Of what the reward is a function."""
        return self._inputs

    def of_rows(self, rows: Tensor) -> Tensor:
        """Rewards ``(*b,)``."""
        parts = [rows[..., block] for block in self._blocks]
        return self.network(parts[0] if len(parts) == 1 else torch.cat(parts, -1)).squeeze(-1)

    def config(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "observation_dim": self.observation_dim,
            "actions": self.encoding.actions.config(),
            "inputs": self.inputs,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "normalize": self.encoding.normalizer is not None,
            "spectral_norm": self.spectral_norm,
            "absorbing": self.encoding.absorbing,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @classmethod
    def made(cls, config: Mapping[str, Any]) -> Self:
        """The network of a config, with weights of seed 0."""
        return cls(**{**config, "actions": action_space(config["actions"])})


class ShapedReward(RewardModel):
    """A reward and the change of a potential, ``f = r(y, u, y') + gamma h(y') - h(y)``.

    The potential of the end of an episode, and of the absorbing state after it, is zero: otherwise shaping could reward ending.

    Args:
        base: r; its encoding is shared.
        discount: gamma.
        hidden: widths of the layers of the potential.
        seed: of the weights of the potential.
    """

    def __init__(self, base: RewardNetwork, *, discount: float, hidden: Sequence[int] = (64, 64), seed: int = 0):
        super().__init__()
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must be a number in [0, 1], got {discount!r}")
        self.base, self.discount, self.hidden = base, discount, tuple(hidden)
        blocks = base.encoding.blocks
        size = blocks["state"].stop - blocks["state"].start
        potential = scalar_network(size, hidden, base.activation, base.spectral_norm, seed)
        self.potential = potential.to(base.dtype)
        self.eval()

    @property
    def encoding(self) -> Encoding:
        """That of the base."""
        return self.base.encoding

    @property
    def inputs(self) -> RewardInputs:
        """Those of the base, and what is observed next."""
        return "state-action-next" if "action" in self.base.inputs else "state-next"

    def potentials(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """h(y) and h(y'), ``(*b,)`` each."""
        before, after = (rows[..., self.encoding.blocks[name]] for name in ("state", "next"))
        h, h_next = self.potential(before).squeeze(-1), self.potential(after).squeeze(-1)
        if self.encoding.absorbing:
            h, h_next = h * (1 - before[..., -1]), h_next * (1 - after[..., -1])
        return h, h_next * (1 - rows[..., -1])

    def of_rows(self, rows: Tensor) -> Tensor:
        """Shaped rewards ``(*b,)``."""
        h, h_next = self.potentials(rows)
        return self.base.of_rows(rows) + self.discount * h_next - h

    def config(self) -> dict[str, Any]:
        """JSON values."""
        return {"base": self.base.config(), "discount": self.discount, "hidden": list(self.hidden)}

    @classmethod
    def made(cls, config: Mapping[str, Any]) -> Self:
        """The reward of a config, with weights of seed 0."""
        return cls(**{**config, "base": RewardNetwork.made(config["base"])})


class DiscriminatorReward(RewardModel):
    r"""The reward that the logits :math:`l = \log D - \log(1 - D)` of a discriminator of expert and learner stand for.

    ``"signed"`` is l itself; ``"positive"`` is :math:`-\log(1 - D) \ge 0`, which pays for every step and so for long episodes
    whatever happens in them; ``"negative"`` is :math:`\log D \le 0`, which pays for short ones (Kostrikov et al. 2019,
    section 4.1). Where all episodes are of one length, or go on in an absorbing state, the three have the same optimum.

    Args:
        logits: l.
        form: one of the three.

    Raises:
        ValueError: form is none of them.
    """

    def __init__(self, logits: RewardModel, form: RewardForm = "signed"):
        super().__init__()
        if form not in get_args(RewardForm):
            raise ValueError(f"form must be one of {', '.join(get_args(RewardForm))}, got {form!r}")
        self.logits = logits
        self.form: RewardForm = form
        self.eval()

    @property
    def encoding(self) -> Encoding:
        """That of the logits."""
        return self.logits.encoding

    @property
    def inputs(self) -> RewardInputs:
        """Those of the logits."""
        return self.logits.inputs

    def of_rows(self, rows: Tensor) -> Tensor:
        """Rewards ``(*b,)``."""
        return of_logits(self.logits.of_rows(rows), self.form)

    def config(self) -> dict[str, Any]:
        """JSON values."""
        return {"logits": reward_config(self.logits), "form": self.form}

    @classmethod
    def made(cls, config: Mapping[str, Any]) -> Self:
        """The reward of a config, with weights of seed 0."""
        return cls(made_reward(config["logits"]), config["form"])


def of_logits(logits: Tensor, form: RewardForm) -> Tensor:
    """The rewards of logits; both ``(*b,)``."""
    if form == "signed":
        return logits
    return softplus(logits) if form == "positive" else -softplus(-logits)


REWARDS: dict[str, type[RewardModel]] = {k.__name__: k for k in (RewardNetwork, ShapedReward, DiscriminatorReward)}


def reward_config(reward: RewardModel) -> dict[str, Any]:
    """Class and config of a reward, as JSON values.

    Raises:
        TypeError: it is none of this library.
    """
    name = type(reward).__name__
    if REWARDS.get(name) is not type(reward):
        raise TypeError(f"need a {' or a '.join(f'mbrl.{known}' for known in REWARDS)}, got {name}")
    return {"class": name, "config": reward.config()}


def made_reward(config: Mapping[str, Any]) -> RewardModel:
    """The reward of a :func:`reward_config`, with weights of seed 0.

    Raises:
        ValueError: the config is of another version.
    """
    if config["class"] not in REWARDS:
        raise ValueError(f"there is no reward {config['class']!r} in this version, only {', '.join(REWARDS)}")
    return REWARDS[config["class"]].made(config["config"])


def scalar_network(
    inputs: int, hidden: Sequence[int], activation: str, spectral_norm: bool, seed: int
) -> nn.Sequential:
    """A fully connected network with one output, which is zero at first unless its layers are normalized."""
    with seeded_weights(seed):
        body = FeedForward(inputs, hidden, activation)
        last = nn.Linear(body.features, 1)
        nn.init.zeros_(last.bias)
        if not spectral_norm:
            nn.init.zeros_(last.weight)
            return nn.Sequential(*body.layers, last)
        layers = [
            parametrizations.spectral_norm(layer) if isinstance(layer, nn.Linear) else layer
            for layer in (*body.layers, last)
        ]
    return nn.Sequential(*layers)
