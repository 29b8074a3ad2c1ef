"""Worlds of cells to learn rewards in: a plain one, and Objectworld (Levine, Popović and Koltun 2011, section 5.1).

An agent stays or moves to one of four neighbors, and with the probability of wind takes a random one of the five actions
instead. It stays where a step would leave the world.

Worlds and processes are things to learn on, as tasks are: their environments show the state as a one-hot vector, take the number
of an action and end after a fixed number of steps.
"""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from planners import TabularMDP

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
"""Rows and columns of the actions: stay, east, south, west, north."""
NEAR_FIRST, NEAR_SECOND = 3.0, 2.0
"""Distances from outer colors that Objectworld's rewards depend on, in cells."""


@dataclass(frozen=True, eq=False)
class GridWorld:
    """A square world of cells; cell (i, j), row and column, is state ``i * size + j``.

    Attributes:
        mdp: the process with its true rewards ``(S,)``.
        features: of states ``(S, k)``.
        names: of the features.
        size: of a side, in cells.
        name: of the world.
        episode_steps: after which an episode of its environment is truncated; see :func:`episode_steps` for None.

    Raises:
        ValueError: episode_steps is no integer of at least 1.
    """

    mdp: TabularMDP
    features: Tensor
    names: tuple[str, ...]
    size: int
    name: str = "GridWorld"
    episode_steps: int | None = None

    def __post_init__(self):
        steps = self.episode_steps
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1):
            raise ValueError(f"episode_steps must be an integer of at least 1, or None, got {steps!r}")

    @property
    def rewards(self) -> Tensor:
        """The true rewards, ``(S,)``."""
        return self.mdp.expected_rewards()[:, 0]

    def image(self, values: Tensor) -> Tensor:
        """Numbers of states ``(*batch, S)`` as rows and columns, ``(*batch, size, size)``."""
        return values.unflatten(-1, (self.size, self.size))


TabularWorld = TabularMDP | GridWorld
"""What there is to learn on in tables."""

REMAINDER = 0.01
"""Discount of the step after the last one of an episode, where the horizon is infinite."""


def process(world: TabularWorld) -> TabularMDP:
    """The process of a world, or the process itself."""
    return world.mdp if isinstance(world, GridWorld) else world


def world_name(world: TabularWorld) -> str:
    """What a world or a process is called."""
    return world.name if isinstance(world, GridWorld) else type(world).__name__


def episode_steps(world: TabularWorld) -> int:
    """Steps of an episode: the world's own, those of a finite horizon, or as many as make the discount fall to 0.01."""
    if isinstance(world, GridWorld) and world.episode_steps is not None:
        return world.episode_steps
    mdp = process(world)
    return mdp.steps if mdp.finite else max(math.ceil(math.log(REMAINDER) / math.log(mdp.discount)), 1)


def is_world(task: Any) -> bool:
    """Whether something is a world or a process."""
    return isinstance(task, TabularWorld)


def gridworld(size: int = 8, *, rewards: Tensor | None = None, wind: float = 0.3, discount: float = 0.9) -> GridWorld:
    """A plain world, whose features tell each cell from all others.

    Args:
        size: of a side, in cells.
        rewards: of each cell, ``(size, size)``; by default one in the last corner.
        wind: probability of a random action.
        discount: of each step.

    Raises:
        ValueError: a number is out of its range, or rewards have another shape.
    """
    transitions = _transitions(size, wind)
    if rewards is None:
        rewards = torch.zeros(size, size)
        rewards[-1, -1] = 1.0
    if rewards.shape != (size, size):
        raise ValueError(f"rewards must have the shape (size, size) = {(size, size)}, got {tuple(rewards.shape)}")
    mdp = TabularMDP(transitions, rewards.flatten(), discount=discount)
    features = torch.eye(size * size, dtype=torch.float64)
    return GridWorld(
        mdp, features, tuple(f"cell {i}, {j}" for i in range(size) for j in range(size)), size, "Gridworld"
    )


def objectworld(
    size: int = 32,
    objects: int = 50,
    *,
    colors: int = 2,
    wind: float = 0.3,
    discount: float = 0.9,
    features: Literal["near", "distance"] = "near",
    seed: int = 0,
) -> GridWorld:
    """Objectworld: objects with an inner and an outer color lie about, and what cells pay depends on the outer ones nearby.

    A cell within 3 cells of the first outer color pays 1 if it is within 2 of the second as well, and -1 otherwise; all others
    pay nothing. Inner colors and further outer ones distract. The reward is no linear function of the features.

    Args:
        size: of a side, in cells.
        objects: how many, in different cells.
        colors: number of inner and of outer colors.
        wind: probability of a random action.
        discount: of each step.
        features: ``"near"``, for each inner and outer color whether its nearest object is no more than 1, 2, ..., size cells
            away, or ``"distance"``, these distances over the size.
        seed: of places and colors.

    Raises:
        ValueError: a number is out of its range.
    """
    if not 1 <= objects <= size * size or colors < 2:
        raise ValueError(f"need 1 to {size * size} objects and at least 2 colors, got {objects} and {colors}")
    if features not in ("near", "distance"):
        raise ValueError(f"features must be 'near' or 'distance', got {features!r}")
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(size * size, generator=generator)[:objects]
    paint = torch.randint(colors, (2, objects), generator=generator)
    places = torch.stack([cells // size, cells % size], dim=-1).double()
    every = torch.stack([torch.arange(size * size) // size, torch.arange(size * size) % size], dim=-1).double()
    apart = torch.cdist(every, places)
    nearest = torch.full((2, colors, size * size), 2.0 * size, dtype=torch.float64)
    for kind in range(2):
        for color in range(colors):
            chosen = paint[kind] == color
            if bool(chosen.any()):
                nearest[kind, color] = apart[:, chosen].amin(-1)
    first, second = nearest[1, 0] <= NEAR_FIRST, nearest[1, 1] <= NEAR_SECOND
    rewards = torch.where(first, torch.where(second, 1.0, -1.0), 0.0)
    names = [f"{kind} color {color}" for kind in ("inner", "outer") for color in range(colors)]
    distances = nearest.flatten(0, 1).mT
    if features == "distance":
        phi = distances / size
    else:
        phi = (distances.unsqueeze(-1) <= torch.arange(1, size + 1)).flatten(1).double()
        names = [f"{name} within {d}" for name in names for d in range(1, size + 1)]
    mdp = TabularMDP(_transitions(size, wind), rewards, discount=discount)
    return GridWorld(mdp, phi, tuple(names), size, "Objectworld")


def _transitions(size: int, wind: float) -> Tensor:
    if size < 2 or not 0 <= wind <= 1:
        raise ValueError(f"need a size of at least 2 and a wind in [0, 1], got {size} and {wind}")
    S, A = size * size, len(MOVES)
    row, column = torch.arange(S) // size, torch.arange(S) % size
    moved = torch.zeros(A, S, S, dtype=torch.float64)
    for a, (down, right) in enumerate(MOVES):
        i, j = row + down, column + right
        outside = (i < 0) | (i >= size) | (j < 0) | (j >= size)
        moved[a, torch.arange(S), torch.where(outside, row * size + column, i * size + j)] = 1.0
    return ((1 - wind) * moved + wind * moved.mean(0)).movedim(0, 1).contiguous()
