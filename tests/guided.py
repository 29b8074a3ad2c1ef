"""Small tasks for guided policy search, and what is known of them."""

from dataclasses import replace

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

import mbrl
from dynamics import LinearDynamics
from mbrl import NetworkSettings, Task
from planners import QuadraticCost

A = torch.tensor([[1.0, 0.1], [-0.1, 0.98]], dtype=torch.float64)
B = torch.tensor([[0.0], [0.1]], dtype=torch.float64)
Q = torch.diag(torch.tensor([1.0, 0.1], dtype=torch.float64))
R = 0.1 * torch.eye(1, dtype=torch.float64)
P = torch.from_numpy(scipy.linalg.solve_discrete_are(*(matrix.numpy() for matrix in (A, B, Q, R))))
GAIN = -np.linalg.solve(R + B.mT @ P @ B, B.mT @ P @ A)  # of the best policy, at any horizon
LIMIT = 20.0

LINEAR = NetworkSettings(hidden=(), initial_std=0.05, normalize=False, dtype="float64")


def regulator(steps: int = 20) -> Task:
    """A linear plant whose terminal cost is what the best policy pays from there on, so that one gain is best at every step."""

    def initial_state(batch: int, generator: torch.Generator) -> Tensor:
        return torch.randn(batch, 2, generator=generator, dtype=torch.float64)

    plant = LinearDynamics(A, B, dt=0.1)
    cost = QuadraticCost(Q, R, Q_terminal=P)
    return Task("Regulator", plant, cost, (-LIMIT, LIMIT), initial_state, horizon=steps, episode_steps=steps)


def optimal_cost(x0: Tensor) -> Tensor:
    """Of episodes of the regulator from states ``(*batch, 2)``."""
    return 0.5 * ((x0 @ P) * x0).sum(-1)


def pendulum(steps: int = 15) -> Task:
    """The pendulum's swing-up, cut short."""
    return replace(mbrl.pendulum_swing_up("torch"), episode_steps=steps)
