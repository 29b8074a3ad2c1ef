r"""A car that rolls without slipping on its four wheels, as in the parking problem of Tassa, Mansard and Todorov (2014).

In one step of h seconds the front wheels, steered by w, roll :math:`f = h v`; the back wheels follow at the wheelbase d and
roll b:

.. math::
    b = d + f \cos w - \sqrt{d^2 - f^2 \sin^2 w}, \qquad
    x^+ = x + b \cos\theta, \quad y^+ = y + b \sin\theta, \quad \theta^+ = \theta + \arcsin(f \sin(w) / d), \quad v^+ = v + h a

("Control-limited differential dynamic programming", and ``demo_car.m`` of its code). This is geometry for a straight step of the
front wheels, not an integrator.
"""

import torch
from torch import Tensor

from dynamics.base import Dynamics, TimeStep
from dynamics.parameters import PhysicalParameter


class Car(Dynamics):
    """Car with state (x, y of the back axle [m], heading [rad], speed of the front wheels [m/s]).

    The controls are the steering angle [rad] and the acceleration [m/s^2]. A car that would roll sideways by more than its
    wheelbase within a step has left the formula's domain, and its next state is NaN.

    Args:
        dt: duration of one step [s].
    """

    def __init__(self, dt: float = 0.03):
        super().__init__(
            4,
            2,
            dt,
            parameters={
                "wheelbase": PhysicalParameter(2.0, "m", (0, float("inf")), "log", "distance between the axles"),
                "gain": PhysicalParameter(1.0, "1", description="acceleration per commanded acceleration"),
            },
            state_names=["x", "y", "heading", "speed"],
            control_names=["steering_angle", "acceleration"],
            angles=[2],
        )

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The next state, ``(*batch, 4)``."""
        self.check_step(x, u)
        p = self.parameters_like(x)
        heading, front, steering = x[..., 2], self.dt * x[..., 3], u[..., 0]
        sideways = front * torch.sin(steering)
        other = p.wheelbase + torch.sqrt(p.wheelbase**2 - sideways**2)
        back = front * torch.cos(steering) + sideways**2 / other  # d - sqrt(d^2 - s^2) without its cancellation
        turn = torch.asin(sideways / p.wheelbase)
        change = [back * torch.cos(heading), back * torch.sin(heading), turn, self.dt * p.gain * u[..., 1]]
        return x + torch.stack(change, dim=-1)
