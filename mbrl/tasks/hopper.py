r"""Hopper: hop forward on one leg without falling, with gymnasium's ``Hopper-v5`` model and reward.

.. math::
    \ell(x, u, x') &= -\frac{p' - p}{\Delta t} - h(x') + 0.001 \, |u|^2 \\
    \ell_T(x) &= -\frac{W^2}{W + V(x)}, \qquad
    V(x) = 3000 \, (\theta + 0.1 \dot\theta)^2 + 2000 \, (1.2 - z - 0.1 \dot z)_+^2 + 100 \, (\dot p - 1.5)_+^2

with the position p of the root along the track [m], its height z, the lean :math:`\theta` of the torso [rad], three torques u as
shares of their motors' strength, and h, which is one while the hopper is healthy: its height above 0.7 m, its torso within
0.2 rad of upright, and all other numbers of the state (the position aside) within 100. An episode ends when it is not.

The terminal cost is for planners alone, which see half a second: it says that to be upright and high, and slow enough to stay
so, is worth W. Without it they sprint, and lunge into a fall that costs nothing within the plan. It is negative, because a plan
that ends in a fall has no terminal cost: a penalty would be a reason to fall.
"""

import torch
from torch import Tensor

from mbrl.tasks.base import Task
from mbrl.tasks.gymnasium_plants import forward_velocity, gymnasium_plant
from planners import TransitionCost

FRAME_SKIP = 4  # MuJoCo steps of 2 ms per control step
CONTROL_WEIGHT = 1e-3
HEALTHY_REWARD = 1.0
LOWEST, STEEPEST, LARGEST = 0.7, 0.2, 100.0  # height [m], lean [rad], any number of the state
FASTEST_SEEN = 10.0  # observed velocities are clipped to it [m/s, rad/s]
RESET_NOISE = 5e-3
WORTH = 1000.0  # W, the reward of some 400 steps


def hopper() -> Task:
    """Hop forward: the negative reward of gymnasium's ``Hopper-v5`` as a cost, on its unmodified MuJoCo model.

    Rewards, observations (positions without that along the track, velocities clipped to 10), termination, the spread of
    initial states and the length of an episode are gymnasium's; what differs is the solver's warm start, see
    :func:`mbrl.half_cheetah`.

    The control step is short, so plans want slow noise, ``ICEM(num_samples=60, max_iterations=3, noise=ColoredNoise(3.0))``, and
    RK4 at 2 ms is expensive: :doc:`/tasks` shows a quicker model to plan on.

    Returns:
        A task of 1000 steps (8 s); success is not to fall.
    """
    dynamics = gymnasium_plant("hopper.xml", frame_skip=FRAME_SKIP)
    rest = torch.cat([torch.from_numpy(dynamics.model.qpos0), torch.zeros(dynamics.model.nv, dtype=torch.float64)])
    nq = dynamics.model.nq

    def cost(x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        reward = forward_velocity(x, x_next, dynamics.dt) + HEALTHY_REWARD * _healthy(x_next).to(x_next)
        return CONTROL_WEIGHT * u.square().sum(-1) - reward

    def initial_state(batch: int, generator: torch.Generator) -> Tensor:
        noise = 2.0 * torch.rand(batch, len(rest), generator=generator, dtype=torch.float64) - 1.0
        return rest + RESET_NOISE * noise

    return Task(
        "Hopper",
        dynamics,
        TransitionCost(cost, _worth_of_going_on),
        (-1.0, 1.0),
        initial_state,
        horizon=60,
        episode_steps=1000,
        observation=lambda x: torch.cat([x[..., 1:nq], x[..., nq:].clamp(-FASTEST_SEEN, FASTEST_SEEN)], dim=-1),
        termination=lambda x: ~_healthy(x),
        success=lambda xs: _healthy(xs[..., -1, :]),
        state_units=["m", "m", *["rad"] * 4, "m/s", "m/s", *["rad/s"] * 4],
        control_units=["1"] * 3,
        observation_names=dynamics.state_names[1:],
    )


def _healthy(x: Tensor) -> Tensor:
    height, lean, others = x[..., 1], x[..., 2], x[..., 2:]
    return (height > LOWEST) & (lean.abs() < STEEPEST) & (others.abs() < LARGEST).all(-1)


def _worth_of_going_on(x: Tensor) -> Tensor:
    height, lean, forward, upward, turning = (x[..., i] for i in (1, 2, 6, 7, 8))
    V = 3000.0 * (lean + 0.1 * turning).square()
    V = V + 2000.0 * torch.relu(1.2 - height - 0.1 * upward).square() + 100.0 * torch.relu(forward - 1.5).square()
    return -(WORTH**2) / (WORTH + V)
