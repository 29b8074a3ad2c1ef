r"""What a computation costs in steps of a simulator.

A step of one state is one call. First derivatives at a point take one call and one for each of the :math:`d + m` columns, second
ones as many columns again: finite differences spend no less, and derivatives by other means shall not look cheaper than what a
user of a simulator without them pays.
"""

import math

from torch import Tensor

from dynamics.base import Curvature, Dynamics, Linearization, TimeStep, arguments_like


class CountedDynamics(Dynamics):
    """Dynamics that count how many steps of single states have been asked of them.

    Args:
        dynamics: what is counted; physical parameters keep the values that it has.

    Attributes:
        calls: steps so far.

    Raises:
        TypeError: dynamics is no Dynamics.

    Example:
        >>> import torch
        >>> from dynamics import CountedDynamics, Pendulum
        >>> plant = CountedDynamics(Pendulum())
        >>> xs = plant.rollout(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(10, 1, dtype=torch.float64))
        >>> plant.calls
        30
    """

    def __init__(self, dynamics: Dynamics):
        if not isinstance(dynamics, Dynamics):
            raise TypeError(f"dynamics must be a Dynamics, got {type(dynamics).__name__}")
        super().__init__(**arguments_like(dynamics))
        self.derivatives = dynamics.derivatives
        self.counted = dynamics
        self.calls = 0

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The next state; a call for each element of the batch."""
        self.calls += math.prod(x.shape[:-1])
        return self.counted(x, u, t)

    def rollout(self, x0: Tensor, us: Tensor, t0: int = 0) -> Tensor:
        """States under a control sequence; a call for each step of each element of the batch."""
        xs = self.counted.rollout(x0, us, t0)
        self.calls += math.prod(xs.shape[:-2]) * us.shape[-2]
        return xs

    def linearize(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Linearization:
        """First derivatives; a call for the point and one for each column."""
        found = self.counted.linearize(x, u, t)
        self.calls += math.prod(found.x_next.shape[:-1]) * (1 + self.tangent_dim + self.control_dim)
        return found

    def curvature(self, x: Tensor, u: Tensor, costate: Tensor, t: TimeStep = None) -> Curvature:
        """Second derivatives; a call for each column."""
        found = self.counted.curvature(x, u, costate, t)
        self.calls += math.prod(found.xx.shape[:-2]) * (self.tangent_dim + self.control_dim)
        return found

    def observe(self, x: Tensor) -> Tensor:
        """What the counted dynamics observe."""
        return self.counted.observe(x)

    def difference(self, x1: Tensor, x0: Tensor) -> Tensor:
        """The counted dynamics' tangent vector from x0 to x1."""
        return self.counted.difference(x1, x0)

    def retract(self, x: Tensor, dx: Tensor) -> Tensor:
        """The counted dynamics' state reached from x along dx."""
        return self.counted.retract(x, dx)
