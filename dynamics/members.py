r"""One member of a stochastic model, or one for each world, as deterministic dynamics.

.. math:: x_{t+1} = f_{e(b)}(x_t, u_t, t)

A plan in the mean of an ensemble is a plan in a model that none of its members is; one plan for each member, side by side in one
batch, shows what depends on which of them is right.
"""

import torch
from torch import Tensor

from dynamics.base import Dynamics, TimeStep, arguments_like
from dynamics.stochastic import StochasticDynamics


class MemberDynamics(Dynamics):
    """The mean prediction of chosen members of a model.

    Args:
        model: an :class:`~dynamics.Ensemble`, :class:`~dynamics.RandomizedWorlds` or other model with members.
        member: index of the member, or ``(B,)`` for one for each element of the first batch axis.

    Raises:
        TypeError: the model is not stochastic dynamics.
        ValueError: an index is out of range.
    """

    member: Tensor

    def __init__(self, model: StochasticDynamics, member: int | Tensor):
        if not isinstance(model, StochasticDynamics):
            raise TypeError(f"model must be StochasticDynamics such as an Ensemble, got {type(model).__name__}")
        super().__init__(**arguments_like(model))
        index = torch.as_tensor(member)
        if index.ndim > 1 or index.is_floating_point() or not bool(((index >= 0) & (index < model.num_members)).all()):
            raise ValueError(
                f"member must be an index, or one for each element of a batch (B,), in 0..{model.num_members - 1}, got {member}"
            )
        self.derivatives = model.derivatives
        self.model = model
        self.register_buffer("member", index.long())

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The members' next states; see :meth:`Dynamics.forward`.

        Raises:
            ValueError: there is one member for each element of a batch of another size.
        """
        self.check_step(x, u)
        members = self.model.predict(x, u, t).members
        if members is None:
            raise ValueError(f"{type(self.model).__name__} predicts no members of its own to choose from")
        if self.member.ndim == 0:
            return members[self.member]
        if x.ndim < 2 or x.shape[0] != len(self.member):
            raise ValueError(
                f"there is a member for each of {len(self.member)} elements of the first batch axis, got x {tuple(x.shape)}"
            )
        return members[self.member, torch.arange(len(self.member), device=members.device)]

    def observe(self, x: Tensor) -> Tensor:
        """What the model observes."""
        return self.model.observe(x)

    def difference(self, x1: Tensor, x0: Tensor) -> Tensor:
        """The model's tangent vector from x0 to x1."""
        return self.model.difference(x1, x0)

    def retract(self, x: Tensor, dx: Tensor) -> Tensor:
        """The model's state reached from x along dx."""
        return self.model.retract(x, dx)
