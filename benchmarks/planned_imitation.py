"""Contestants of ``irl_table`` that know the plant: they learn a cost, and plan with it in receding horizon."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import mbrl
    from dynamics import Trajectory
    from planners import Cost, Planner, WeightedCost

Array = np.ndarray


@dataclass(frozen=True)
class Plant:
    """What they know.

    Attributes:
        task: the plant, its limits, and what is observed.
        states: ``fn(observations, controls) -> states`` of an episode.
        state: ``fn(observations) -> states`` of a batch, as far as it matters for what comes.
        cost: what :class:`mbrl.MPCInverse` learns.
        first: weights of its terms at first, in shares by which all count the same along demonstrations; one by default.
        planner: what acts.
        mpc: settings of :class:`mbrl.MPCInverse`.
        gcl: of :class:`mbrl.GCL`.
        strides: steps from a piece of the demonstrations to the next, by their number.
        episodes: of an evaluation by planning.
    """

    task: "mbrl.Task"
    states: Callable[[Array, Array], Array]
    state: Callable[[torch.Tensor], torch.Tensor]
    cost: "WeightedCost"
    first: dict[int, float]
    planner: "Planner"
    mpc: dict[str, Any]
    gcl: dict[str, Any]
    strides: dict[int, int]
    episodes: int


HORIZON = 20  # steps of a plan, and of a piece of the demonstrations


def plant_of(name: str) -> Plant:
    """The plant of a case by its name."""
    return {"Pendulum": _pendulum, "HalfCheetah": _half_cheetah}[name]()


def _pendulum() -> Plant:
    """gymnasium's, with the terms of its reward."""
    import mbrl
    from dynamics import TorchDynamics
    from mbrl.tasks.base import uniform_initial_state
    from planners import DDP, GoalCost

    def step(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        velocity = x[..., 1] + 0.05 * (15.0 * torch.sin(x[..., 0]) + 3.0 * u[..., 0])
        velocity = velocity.clamp(-8.0, 8.0)
        return torch.stack([x[..., 0] + 0.05 * velocity, velocity], dim=-1)

    def states(observations: Array, controls: Array) -> Array:
        angle = np.unwrap(np.arctan2(observations[:, 1], observations[:, 0]))
        return np.stack([angle, observations[:, 2]], axis=1)

    task = mbrl.Task(
        "Pendulum",
        TorchDynamics(step, 2, 1, dt=0.05, angles=[0], state_names=["angle", "velocity"], control_names=["torque"]),
        GoalCost(0.0, [1.0, 0.1], 0.001, [1.0, 0.1], angles=[0]),
        (-2.0, 2.0),
        uniform_initial_state([-math.pi, -1.0], [math.pi, 1.0]),
        horizon=HORIZON,
        episode_steps=200,
        observation=lambda x: torch.stack([x[..., 0].cos(), x[..., 0].sin(), x[..., 1]], dim=-1),
    )
    return Plant(
        task,
        states,
        lambda y: torch.stack([torch.atan2(y[..., 1], y[..., 0]), y[..., 2]], dim=-1),
        mbrl.TaskCost(task),
        {},
        DDP(max_iterations=5),
        {"imitated": 5, "max_iterations": 30, "tolerance": 1e-5},
        {"iterations": 60, "cost_learning_rate": 3e-3, "on_policy": True, "remembered": 5},
        {1: 5, 5: 20, 25: 40},
        episodes=100,
    )


def _half_cheetah() -> Plant:
    """gymnasium's, with forward velocity, and squares of the posture, of velocities and controls."""
    import mbrl
    from planners import DDP, LinearFeatureCost

    task = replace(mbrl.half_cheetah(), horizon=HORIZON, episode_steps=200)

    def state(y: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(y[..., :1]), y], dim=-1)  # where it is along the track makes no difference

    def states(observations: Array, controls: Array) -> Array:
        xs = state(torch.from_numpy(np.array(observations)))  # demonstrations are not to be written to
        way = task.dynamics(xs[:-1], torch.from_numpy(controls.astype(np.float64)), 0)[:, 0]
        xs[1:, 0] = way.cumsum(0)
        return xs.numpy()

    def posture(x: torch.Tensor) -> list[torch.Tensor]:
        q, v = x[..., :9], x[..., 9:]
        squares = (q[..., 1:2], q[..., 2:3], v[..., 1:2], v[..., 2:3], q[..., 3:], v[..., 3:])
        return [-v[..., 0], *(0.5 * square.square().sum(-1) for square in squares)]

    def stage(x: torch.Tensor, u: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
        terms = [0.5 * u.square().sum(-1), *posture(x)]
        return torch.nn.functional.pad(torch.stack(terms, dim=-1), (0, 7))

    def last(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(torch.stack(posture(x), dim=-1), (8, 0))

    return Plant(
        task,
        states,
        state,
        LinearFeatureCost(stage, torch.ones(15, dtype=torch.float64), last),
        {1: 30.0, 8: 30.0},  # it is to run: a search from equal shares ends where it hardly does
        DDP(max_iterations=2),
        {
            "planner": DDP(max_iterations=5, tolerance=1e-6),
            "curvature": "gauss-newton",
            "imitated": 5,
            "max_iterations": 15,
            "tolerance": 1e-2,
        },
        {"iterations": 40, "cost_learning_rate": 1e-3, "checks": 1},
        {1: 10, 5: 36, 25: 180},
        episodes=10,
    )


def configuration(name: str, contestant: str, number: int) -> str:
    """The settings in words: cells with other ones are run again."""
    plant = plant_of(name)
    own = plant.gcl if contestant == "gcl" else {**plant.mpc, "first": plant.first}
    return f"{own}, horizon {HORIZON}, stride {plant.strides[number]}, {plant.planner}, {plant.episodes} episodes"


def trained_on_plant(
    name: str, contestant: str, demonstrations: "list[Trajectory]", seed: int, task: Any, episodes: int, quick: bool
) -> dict[str, Any]:
    """A training of "mpc-irl" or "gcl": ``returns`` of its policy, ``planned`` of plans with the learned cost.

    Args:
        name: of the case.
        contestant: which.
        demonstrations: with observations alone.
        seed: of the training.
        task: makes the environment of the evaluation.
        episodes: of the evaluation of a policy.
        quick: learn next to nothing, to see that it runs.
    """
    import mbrl

    plant = plant_of(name)
    if quick:
        shorter = {"mpc": plant.mpc | {"max_iterations": 1}, "gcl": plant.gcl | {"iterations": 2}}
        plant = replace(plant, **shorter, episodes=1)
    shown = [d.replace(states=plant.states(d.observations, d.controls)) for d in demonstrations]
    stride = plant.strides[len(demonstrations)]
    start = time.perf_counter()
    if contestant == "mpc-irl":
        cost, steps = _imitated(plant, shown, stride), 0
        seconds = time.perf_counter() - start
        return {"returns": _planned(plant, cost, task), "steps": steps, "seconds": seconds}
    algorithm = mbrl.GCL(horizon=HORIZON, stride=stride, conditions=1, **plant.gcl)
    result = mbrl.train(algorithm, plant.task, demonstrations=shown, seed=seed, evaluation_episodes=0)
    seconds = time.perf_counter() - start
    generator = torch.Generator().manual_seed(3)
    returns = mbrl.evaluate(result.policy, task, episodes=episodes, generator=generator).returns
    return {
        "returns": [float(value) for value in returns],
        "planned": _planned(plant, result.reward, task),
        "steps": result.steps,
        "seconds": seconds,
    }


def _imitated(plant: Plant, shown: "list[Trajectory]", stride: int) -> "Cost":
    """The cost that differentiable MPC learns."""
    import mbrl
    from mbrl.irl.cost_learner import of_weights
    from mbrl.irl.pieces import cut
    from mbrl.tasks.task_cost import equal_shares

    pieces = cut(shown, HORIZON, stride)
    xs = torch.stack([torch.from_numpy(np.array(d.states)) for d in pieces])
    us = torch.stack([torch.from_numpy(np.array(d.controls, dtype=np.float64)) for d in pieces])
    weights = equal_shares(plant.cost, xs, us)
    for term, share in plant.first.items():
        weights[term] *= share
    cost = of_weights(plant.cost, weights)
    problem = replace(plant.task.problem(horizon=HORIZON), cost=cost)
    return mbrl.MPCInverse(**plant.mpc).learn(problem, cost, pieces).cost


def _planned(plant: Plant, cost: Any, task: Any) -> list[float]:
    """Returns of acting by plans with a cost."""
    import mbrl
    from planners import MPC

    mpc = MPC(replace(plant.task.problem(horizon=HORIZON), cost=cost), plant.planner)
    generator = torch.Generator().manual_seed(3)
    actor = _Observing(mpc, plant.state)
    return [float(r) for r in mbrl.evaluate(actor, task, episodes=plant.episodes, generator=generator).returns]


class _Observing:
    """MPC that is shown observations."""

    acts_on = "observation"

    def __init__(self, mpc: Any, state: Callable[[torch.Tensor], torch.Tensor]):
        self.mpc, self.state = mpc, state

    def init(self, batch: int = 1, *, generator: Any = None) -> Any:
        """The memory of the loop."""
        return self.mpc.init(batch, generator=generator)

    def act(self, y: torch.Tensor, memory: Any, *, deterministic: bool = True) -> Any:
        """The first control of the plan from the state that is observed."""
        return self.mpc.act(self.state(y.double()), memory)
