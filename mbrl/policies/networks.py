r"""The bodies of policies and value functions: from what is seen to features, with memory or without.

.. math:: \phi_t, h_t = \text{body}(z_t, h_{t-1})
"""

import abc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU, "softplus": nn.Softplus}


class Body(nn.Module, abc.ABC):
    """Features of observations.

    Attributes:
        features: number f of features.
        hidden_dim: size h of what is remembered from step to step; 0 for a body without memory.
    """

    features: int
    hidden_dim: int

    @abc.abstractmethod
    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            inputs: ``(*batch, d)``.
            hidden: ``(*batch, h)``, zero at the start of an episode.

        Returns:
            Features ``(*batch, f)`` and the next hidden values ``(*batch, h)``.
        """

    @abc.abstractmethod
    def sequence(self, inputs: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Many steps.

        Args:
            inputs: ``(T, N, d)``.
            hidden: ``(N, h)`` before the first step.
            starts: ``(T, N)`` of bool, steps that are the first of an episode, at which what is remembered is zero.

        Returns:
            Features ``(T, N, f)`` and hidden values after each step, ``(T, N, h)``.
        """


class FeedForward(Body):
    """Fully connected layers without memory.

    Weights are orthogonal with gain sqrt(2) and biases zero, which trains on-policy methods more reliably than the usual
    initialization (Andrychowicz et al. 2021, section 3.2).

    Args:
        inputs: number d of inputs.
        hidden: widths of the layers; none for the inputs themselves as features.
        activation: ``"tanh"``, ``"relu"``, ``"elu"``, ``"silu"`` or ``"softplus"``.
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (64, 64), activation: str = "tanh"):
        super().__init__()
        self.layers = nn.Sequential(*_layers(inputs, hidden, activation))
        self.features = hidden[-1] if hidden else inputs
        self.hidden_dim = 0

    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(*batch, f)``; nothing is remembered."""
        return self.layers(inputs), hidden

    def sequence(self, inputs: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(T, N, f)``; nothing is remembered."""
        return self.layers(inputs), hidden.expand(len(inputs), *hidden.shape)


class Recurrent(Body):
    """Fully connected layers and a gated recurrent unit (Cho et al. 2014) on top.

    Args:
        inputs: number d of inputs.
        units: number h of gated units, which are the features too.
        hidden: widths of the layers below them.
        activation: of those layers.
    """

    def __init__(self, inputs: int, units: int, hidden: Sequence[int] = (64,), activation: str = "tanh"):
        super().__init__()
        self.layers = nn.Sequential(*_layers(inputs, hidden, activation))
        self.cell = nn.GRUCell(hidden[-1] if hidden else inputs, units)
        nn.init.orthogonal_(self.cell.weight_ih)
        nn.init.orthogonal_(self.cell.weight_hh)
        nn.init.zeros_(self.cell.bias_ih)
        nn.init.zeros_(self.cell.bias_hh)
        self.features = self.hidden_dim = units

    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(*batch, h)``, which are the next hidden values."""
        below = self.layers(inputs)
        flat = self.cell(below.reshape(-1, below.shape[-1]), hidden.reshape(-1, self.hidden_dim))
        h = flat.reshape(hidden.shape)
        return h, h

    def sequence(self, inputs: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(T, N, h)``, which are the hidden values after each step."""
        below, found = self.layers(inputs), []
        for z, start in zip(below, starts.unsqueeze(-1), strict=True):
            hidden = self.cell(z, torch.where(start, 0.0, hidden))  # not a product: an episode may have ended in NaN
            found.append(hidden)
        hiddens = torch.stack(found) if found else below.new_zeros(0, *hidden.shape)
        return hiddens, hiddens


def _layers(inputs: int, hidden: Sequence[int], activation: str) -> list[nn.Module]:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    layers: list[nn.Module] = []
    for width in hidden:
        linear = nn.Linear(inputs, width)
        nn.init.orthogonal_(linear.weight, gain=2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, ACTIVATIONS[activation]()]
        inputs = width
    return layers


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Weights that are made inside come from a seed, and the global random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach GPUs too
        yield
