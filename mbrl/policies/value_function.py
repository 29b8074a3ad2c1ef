"""The value of states under a policy, as a network."""

import torch
from torch import Tensor, nn

from mbrl.policies.networks import Body


class ValueFunction(nn.Module):
    """V(y), the expected discounted return from what is seen on.

    Args:
        body: from normalized observations to features.
    """

    def __init__(self, body: Body):
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.features, 1)
        nn.init.orthogonal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(*batch,)`` of normalized observations ``(*batch, d)``, and the next hidden values."""
        features, hidden = self.body.step(inputs, hidden)
        return self.head(features).squeeze(-1), hidden

    def sequence(self, inputs: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(T, N)`` of sequences ``(T, N, d)``, and the hidden values after each step, see :class:`Body`."""
        features, hiddens = self.body.sequence(inputs, hidden, starts)
        return self.head(features).squeeze(-1), hiddens

    def initial_hidden(self, batch: int) -> Tensor:
        """What is remembered before an episode, ``(batch, h)``."""
        return torch.zeros(batch, self.body.hidden_dim, dtype=self.head.weight.dtype, device=self.head.weight.device)
