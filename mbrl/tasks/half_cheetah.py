r"""Half-cheetah: run forward as fast as possible, with gymnasium's ``HalfCheetah-v5`` model and reward.

.. math:: \ell(x, u, x') = -\frac{p' - p}{\Delta t} + 0.1 \, |u|^2

with the position p of the root along the track [m] and six torques u as shares of their motors' strength.
"""

import torch
from torch import Tensor

from mbrl.tasks.base import Task
from mbrl.tasks.gymnasium_plants import forward_velocity, gymnasium_plant
from planners import TransitionCost

FRAME_SKIP = 5  # MuJoCo steps of 10 ms per control step
CONTROL_WEIGHT = 0.1
RESET_NOISE = 0.1


def half_cheetah() -> Task:
    """Run forward: the negative reward of gymnasium's ``HalfCheetah-v5`` as a cost, on its unmodified MuJoCo model.

    Rewards, observations (positions without that along the track, velocities), the spread of initial states and the length
    of an episode are gymnasium's. The difference is the solver's warm start, which gymnasium carries from step to step: here
    a step is a function of the state, and differs from gymnasium's in the last digits.

    Legged gaits want fast noise: plan with ``ICEM(noise=ColoredNoise(0.25))``.

    Returns:
        A task of 1000 steps (50 s), which nothing ends early and which has no success but distance.
    """
    dynamics = gymnasium_plant("half_cheetah.xml", frame_skip=FRAME_SKIP)
    nq = dynamics.model.nq

    def cost(x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        return CONTROL_WEIGHT * u.square().sum(-1) - forward_velocity(x, x_next, dynamics.dt)

    def initial_state(batch: int, generator: torch.Generator) -> Tensor:
        positions = 2.0 * torch.rand(batch, nq, generator=generator, dtype=torch.float64) - 1.0
        velocities = torch.randn(batch, dynamics.model.nv, generator=generator, dtype=torch.float64)
        positions = torch.from_numpy(dynamics.model.qpos0) + RESET_NOISE * positions
        return torch.cat([positions, RESET_NOISE * velocities], dim=-1)

    return Task(
        "HalfCheetah",
        dynamics,
        TransitionCost(cost),
        (-1.0, 1.0),
        initial_state,
        horizon=30,
        episode_steps=1000,
        observation=lambda x: x[..., 1:],
        state_units=["m", "m", *["rad"] * 7, "m/s", "m/s", *["rad/s"] * 7],
        control_units=["1"] * 6,
        observation_names=dynamics.state_names[1:],
    )
