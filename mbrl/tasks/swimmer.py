r"""Swimmer: swim forward as fast as possible, with gymnasium's ``Swimmer-v5`` model and reward.

.. math:: \ell(x, u, x') = -\frac{p' - p}{\Delta t} + 10^{-4} \, |u|^2

with the position p of the first link along the track [m] and two torques u as shares of their motors' strength. Three links swim
in a thick fluid, whose drag is all that there is to push against.

To swim at a given speed :math:`\bar v` instead is a cost with a least value, which derivative planners like better:

.. math:: \ell(x, u, x') = \tfrac12 \Bigl(\frac{p' - p}{\Delta t} - \bar v\Bigr)^2 + 10^{-4} \, |u|^2
"""

import math

import torch
from torch import Tensor

from mbrl.tasks.base import Task
from mbrl.tasks.gymnasium_plants import forward_velocity, gymnasium_plant
from planners import TransitionCost

FRAME_SKIP = 4  # MuJoCo steps of 10 ms per control step
CONTROL_WEIGHT = 1e-4
RESET_NOISE = 0.1


def swimmer(*, speed: float | None = None) -> Task:
    """Swim forward: the negative reward of gymnasium's ``Swimmer-v5`` as a cost, on its unmodified MuJoCo model.

    Rewards, observations (angles without the position in the plane, velocities), the spread of initial states and the length of
    an episode are gymnasium's; what differs is the solver's warm start, see :func:`mbrl.half_cheetah`.

    Args:
        speed: to keep [m/s], for planners that follow derivatives; as fast as possible by default, which is what gymnasium
            rewards.

    Returns:
        A task of 1000 steps (40 s), which nothing ends early and which has no success but distance.

    Raises:
        ValueError: the speed is not finite.
    """
    if speed is not None and not math.isfinite(speed):
        raise ValueError(f"speed must be finite, or None for as fast as possible, got {speed}")
    dynamics = gymnasium_plant("swimmer.xml", frame_skip=FRAME_SKIP)
    n = dynamics.state_dim

    def cost(x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        velocity = forward_velocity(x, x_next, dynamics.dt)
        aim = -velocity if speed is None else 0.5 * (velocity - speed).square()
        return aim + CONTROL_WEIGHT * u.square().sum(-1)

    def initial_state(batch: int, generator: torch.Generator) -> Tensor:
        return RESET_NOISE * (2.0 * torch.rand(batch, n, generator=generator, dtype=torch.float64) - 1.0)

    return Task(
        "Swimmer",
        dynamics,
        TransitionCost(cost),
        (-1.0, 1.0),
        initial_state,
        horizon=100,
        episode_steps=1000,
        observation=lambda x: x[..., 2:],
        state_units=["m", "m", *["rad"] * 3, "m/s", "m/s", *["rad/s"] * 3],
        control_units=["1"] * 2,
        observation_names=dynamics.state_names[2:],
    )
