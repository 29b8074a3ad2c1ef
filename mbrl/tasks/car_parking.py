r"""Car parking: drive a car that can only steer into a parking place at the origin, heading along x (Tassa et al. 2014).

.. math::
    \ell(x, u) = 0.01 \, w^2 + 10^{-4} a^2 + 10^{-3} \left( s_{0.1}(x) + s_{0.1}(y) \right), \qquad
    \ell_T(x) = \ell(x, 0) + 0.1 \, s_{0.01}(x) + 0.1 \, s_{0.01}(y) + s_{0.01}(\theta) + 0.3 \, s_1(v)

with :math:`s_p(z) = \sqrt{z^2 + p^2} - p`, as in ``demo_car.m`` of "Control-limited differential dynamic programming", where the
running cost acts on the last state, too. The heading counts turns: the car starts at three quarters of one and parks at none.
"""

import math

import torch
from torch import Tensor

from dynamics import Car
from mbrl.tasks.base import Task, uniform_initial_state
from planners import SmoothAbsCost

STEERING_LIMIT = 0.5  # [rad]
ACCELERATION_LIMIT = 2.0  # [m/s^2]
EPISODE_STEPS = 500
CLOSE, ALIGNED = 0.1, 0.1  # what counts as parked [m], [rad]


def car_parking(*, system: Car | None = None) -> Task:
    """Park a car in one maneuver of 15 s: turn it round by back and forth, and stop at the origin.

    A problem of trajectory optimization: the plan is as long as the episode, and nearly all of its cost is the terminal one.
    From the published initial state (1, 1, 3 pi / 2, 0) the best known local optimum costs 1.905; an episode starts within 0.1 m
    and 0.1 rad of it, at rest.

    Args:
        system: gives the physical parameters and dt; ``Car(dt=0.03)`` by default.

    Returns:
        A task of 500 steps; success is a last state within 0.1 m and 0.1 rad of the parking place.
    """
    limits = torch.tensor([STEERING_LIMIT, ACCELERATION_LIMIT], dtype=torch.float64)
    position = [1e-3, 1e-3, 0.0, 0.0]
    cost = SmoothAbsCost(0.0, position, [0.01, 1e-4], position, smoothing=0.1)
    cost = cost + SmoothAbsCost(0.0, 0.0, 0.0, [0.1, 0.1, 1.0, 0.0], smoothing=0.01)
    cost = cost + SmoothAbsCost(0.0, 0.0, 0.0, [0.0, 0.0, 0.0, 0.3], smoothing=1.0)
    return Task(
        "CarParking",
        Car() if system is None else system,
        cost,
        (-limits, limits),
        uniform_initial_state(
            [0.9, 0.9, 1.5 * math.pi - 0.1, 0.0],
            [1.1, 1.1, 1.5 * math.pi + 0.1, 0.0],
        ),
        horizon=EPISODE_STEPS,
        episode_steps=EPISODE_STEPS,
        observation=_observation,
        success=lambda xs: _parked(xs[..., -1, :]),
        state_units=["m", "m", "rad", "m/s"],
        control_units=["rad", "m/s^2"],
        observation_names=["x", "y", "cos_heading", "sin_heading", "speed"],
    )


def _parked(x: Tensor) -> Tensor:
    return (x[..., :2].abs() < CLOSE).all(-1) & (torch.cos(x[..., 2]) > math.cos(ALIGNED))


def _observation(x: Tensor) -> Tensor:
    heading = x[..., 2]
    return torch.stack([x[..., 0], x[..., 1], torch.cos(heading), torch.sin(heading), x[..., 3]], dim=-1)
