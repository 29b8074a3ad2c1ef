r"""A unicycle: what rolls where it points and turns on the spot, such as a robot on two driven wheels.

.. math:: x^+ = x + h k_v v \cos\theta, \qquad y^+ = y + h k_v v \sin\theta, \qquad \theta^+ = \theta + h k_\omega \omega

with the step h: explicit Euler, as in Crocoddyl's ``ActionModelUnicycle`` (``core/actions/unicycle.hxx``).
"""

import torch
from torch import Tensor

from dynamics.base import Dynamics, TimeStep
from dynamics.parameters import PhysicalParameter


class Unicycle(Dynamics):
    """Unicycle with state (x, y [m], heading [rad]) and speed [m/s] and turn rate [rad/s] as controls.

    Args:
        dt: duration of one step [s].
    """

    def __init__(self, dt: float = 0.1):
        super().__init__(
            3,
            2,
            dt,
            parameters={
                "speed_gain": PhysicalParameter(1.0, "1", description="speed per commanded speed"),
                "turn_gain": PhysicalParameter(1.0, "1", description="turn rate per commanded turn rate"),
            },
            state_names=["x", "y", "heading"],
            control_names=["speed", "turn_rate"],
            angles=[2],
        )

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The next state, ``(*batch, 3)``."""
        self.check_step(x, u)
        p, heading = self.parameters_like(x), x[..., 2]
        distance = self.dt * p.speed_gain * u[..., 0]
        turn = self.dt * p.turn_gain * u[..., 1]
        return x + torch.stack([distance * torch.cos(heading), distance * torch.sin(heading), turn], dim=-1)
