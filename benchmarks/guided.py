"""Guided policy search, plans, cloning, policy gradients: scores on held-out starts under disturbances, and simulator calls."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cells import Cell, between, folder, interval, resampled, run, serve

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    import mbrl
    from mbrl.training.algorithm import Algorithm

NOISE = 0.1  # standard deviation of the disturbances [half widths of the limits]
STARTS, DRAWS = 20, 5  # held-out initial states, and episodes from each
GOOD = 0.9
DAGGER = 5  # iterations
TEACHING: dict[str, dict[str, Any]] = {  # settings of the teacher of a task
    "cart-pole": {"min_std": 0.15, "max_std": 0.3, "fit_steps": 1000},
    "planar quadrotor": {"lessons": 1, "fit_steps": 2500},
    "reach": {"lessons": 1, "fit_steps": 2500},
}

GUIDED = ("distillation", "isgps", "mdgps", "constrained", "badmm", "trajectory-dp")
CLONED = ("bc", "dagger")
GRADIENTS = ("ppo", "trpo", "reinforce")


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        tasks: names.
        seeds: of each contestant, from 0.
        budget: simulator calls of a policy gradient.
        looks: how often it is evaluated on the way.
    """

    tasks: tuple[str, ...]
    seeds: int
    budget: int
    looks: int


FULL = Size(("cart-pole", "planar quadrotor", "reach"), 3, 300_000, 20)
QUICK = Size(("reach",), 1, 20_000, 4)


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per task and contestant; each training is a cell, see ``benchmarks/cells.py``.

    The score of a start is (J_random - J) / (J_random - J_DDP): costs of an episode under uniformly random controls, of the
    contestant, and of the plan that DDP finds from there on the true model, without disturbances. All of them face the same
    disturbances of the controls. "calls" are all simulator calls up to the policy that is scored, of rollouts, of planners on the
    true model and of experts; derivatives at a point are one call and one more per column. Rows of DDP plan from the held-out
    starts themselves. "calls to 0.9" is where a contestant's mean score first gets there. "fewer" is how many times as many calls
    the best policy gradient has taken when its mean score is first that of the row; ">" says that it was not within its budget.
    """
    size = QUICK if quick else FULL
    results = run(cells(quick, None), folder("guided", quick))
    return [row for task in size.tasks for row in _rows(task, size, results)]


def cells(quick: bool, peer_python: Path | None) -> list[Cell]:
    """The references, and all trainings, seed by seed.

    Args:
        quick: those of the quick benchmark.
        peer_python: not used, there is no peer.
    """
    size = QUICK if quick else FULL
    found = [
        Cell(_name(task, "reference", 0), Path(__file__), {"task": task, "contestant": "reference"})
        for task in size.tasks
    ]
    for seed in range(size.seeds):
        for task in size.tasks:
            for contestant in (*GUIDED, *CLONED, *GRADIENTS):
                limit = size.budget if contestant in GRADIENTS else None
                request = {"task": task, "contestant": contestant, "seed": seed, "budget": limit, "looks": size.looks}
                request["configuration"] = repr(algorithm_of(task, contestant)) if contestant != "dagger" else ""
                found.append(Cell(_name(task, contestant, seed), Path(__file__), request))
    return found


def _name(task: str, contestant: str, seed: int) -> str:
    return f"{task}_{contestant}_{seed}".replace(" ", "-")


# The table


def _rows(task: str, size: Size, results: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    reference = results[_name(task, "reference", 0)]["answer"]
    worst, best = np.array(reference["random"]), np.array(reference["plan"])

    def curve_of(contestant: str) -> tuple[np.ndarray, np.ndarray]:
        """Calls ``(looks,)`` and scores ``(looks, seeds, starts)``."""
        answers = [results[_name(task, contestant, seed)]["answer"] for seed in range(size.seeds)]
        looks = min(len(answer["curve"]) for answer in answers)
        calls = [[look["calls"] for look in answer["curve"][:looks]] for answer in answers]
        costs = np.array([[look["costs"] for look in answer["curve"][:looks]] for answer in answers])
        return np.median(calls, 0), ((worst - costs) / (worst - best)).swapaxes(0, 1)

    curves = {name: curve_of(name) for name in (*GUIDED, *CLONED, *GRADIENTS)}
    for name in ("open loop", "feedback"):
        scores = (worst - np.array(reference[name])) / (worst - best)
        curves[f"ddp, {name}"] = np.array([reference["calls"]]), scores[None, None]
    for name, (calls, scores) in curves.items():
        mean = scores.mean((-1, -2))
        row = {"task": task, "contestant": name, "seeds": scores.shape[1], "score": float(mean[-1])}
        row["score 95 %"] = between(interval(resampled(scores[-1], common=True).mean((-1, -2))))
        row["worst start"] = float(scores[-1].mean(0).min())
        row["calls"] = float(calls[-1])
        row[f"calls to {GOOD}"] = _first(calls, mean, GOOD)
        if name in GUIDED:
            row |= _against_gradients(float(mean[-1]), float(calls[-1]), curves)
        yield row


def _against_gradients(score: float, calls: float, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    needed = [_first(curves[name][0], curves[name][1].mean((-1, -2)), score) for name in GRADIENTS]
    reached = [number for number in needed if number is not None]
    least = min(reached) if reached else max(curves[name][0][-1] for name in GRADIENTS)
    return {"fewer": f"{'' if reached else '>'}{least / calls:.3g}", "aim": 20}


def _first(calls: np.ndarray, mean: np.ndarray, score: float) -> float | None:
    there = np.flatnonzero(mean >= score)
    return float(calls[there[0]]) if len(there) else None


# Contestants


@cache
def task_of(name: str) -> "mbrl.Task":
    """The task, cut to what it takes."""
    import mbrl
    from planners import GoalCost, SmoothAbsCost

    match name:
        case "cart-pole":
            # No end stops: a random cart runs away, which would cost so much that all scores were one. And effort has a price,
            # because a plan at the limits has no room for feedback.
            cost = SmoothAbsCost(state_weights=[0.0, 1.0, 0.0, 0.0], angles=[1])
            cost = cost + GoalCost(0.0, [0.2, 0.0, 0.0, 0.005], 0.01)
            return replace(mbrl.cart_pole_swing_up("torch"), episode_steps=100, cost=cost)
        case "planar quadrotor":
            return replace(mbrl.planar_quadrotor_flight("torch"), episode_steps=150)
        case "reach":  # from a bent arm to goals in front of it
            starts = mbrl.uniform_initial_state(
                [-0.1, 1.4, 0.2, -0.6, 0.0, 0.0, 0.0, 0.0], [0.1, 1.6, 0.7, 0.6, 0.0, 0.0, 0.0, 0.0]
            )
            return replace(mbrl.reacher("torch"), episode_steps=60, initial_state=starts)
    raise ValueError(f"no task {name!r}")


def teacher(task: str) -> "mbrl.FittedTeacher":
    """Who teaches all generations: an ensemble learned from the plant, which it plans on for nothing."""
    import mbrl
    from dynamics import Training

    settings = dict(TEACHING[task])
    training = Training(steps=settings.pop("fit_steps"))
    return mbrl.FittedTeacher(scout=scout(), temperature=0.1, hidden=(64, 64), training=training, **settings)


def scout() -> Any:
    """Goes ahead of plans, of all who plan."""
    from planners import ICEM

    return ICEM(num_samples=40, max_iterations=2, num_elites=8)


def algorithm_of(task: str, contestant: str, expert: Any = None) -> "Algorithm":
    """A contestant's settings, which for all tasks are the same but for those of the teacher."""
    import mbrl

    fit = mbrl.SupervisedStep(steps=3000, learning_rate=3e-3)
    taught: dict[str, Any] = {"teacher": teacher(task), "conditions": 24, "samples": 1}
    guided: dict[str, Any] = {**taught, "supervised": fit}
    match contestant:
        case "distillation":
            return mbrl.Distillation(**guided, iterations=3, remembered=2)
        case "isgps":
            return mbrl.ISGPS(**guided, iterations=6)
        case "mdgps":
            return mbrl.MDGPS(**guided, iterations=4, remembered=2, checks=3)
        case "constrained":
            return mbrl.ConstrainedGPS(**guided, iterations=4, remembered=2, checks=3)
        case "badmm":
            return mbrl.BADMM(**guided, iterations=4, remembered=2, checks=3)
        case "trajectory-dp":
            return mbrl.TrajectoryDP(**taught, iterations=3)
        case "bc":
            return mbrl.BC()
        case "dagger":
            return mbrl.DAgger(expert)
        case "ppo":
            return mbrl.PPO()
        case "trpo":
            return mbrl.TRPO()
        case "reinforce":
            return mbrl.REINFORCE()
    raise ValueError(f"no contestant {contestant!r}")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a cell is: the reference, or a training that is looked at on the way."""
    import torch

    torch.set_num_threads(1)
    task = task_of(request["task"])
    if request["contestant"] == "reference":
        return _reference(task)
    start = time.perf_counter()
    curve = list(_curve(request, task))
    return {"curve": curve, "seconds": time.perf_counter() - start}


def _curve(request: dict[str, Any], task: "mbrl.Task") -> Iterator[dict[str, Any]]:
    """Calls and costs of held-out starts, after each iteration or after equal shares of the budget."""
    import mbrl
    from dynamics import CountedDynamics
    from mbrl.gps.rollouts import actor_actions
    from mbrl.training.algorithm import Assignment
    from planners import MPC

    contestant, seed, budget = request["contestant"], request["seed"], request["budget"]
    plant = CountedDynamics(task.dynamics)  # that of the expert
    expert = MPC(task.problem(plant), scout())
    algorithm = algorithm_of(request["task"], contestant, expert)
    demonstrations, steps = None, budget
    if contestant == "bc":
        demonstrations = mbrl.record(task, expert, 8, generator=torch_generator(seed), progress=False)
        plant.calls += 8 * task.episode_steps
        steps = 3000
    learner = algorithm.learner(Assignment(task, steps, seed, demonstrations))
    due = 0
    limit = math.inf if steps is None else steps
    while learner.steps < limit and not learner.finished and (contestant != "dagger" or due < DAGGER):
        learner.iterate()
        if budget is None or learner.steps >= due * budget / request["looks"]:
            due += 1
            own = 0 if contestant == "bc" else learner.steps
            costs = _costs(task, lambda worlds: actor_actions(learner.policy, task, worlds, torch_generator(0)))
            yield {"calls": own + plant.calls, "costs": costs.tolist()}
    learner.close()


def _reference(task: "mbrl.Task") -> dict[str, Any]:
    """Costs of held-out starts under random controls, and of plans from them."""
    import torch

    from dynamics import CountedDynamics
    from mbrl.gps.rollouts import actions_of_task, controller_actions
    from mbrl.gps.teacher import ModelTeacher

    space, generator = actions_of_task(task), torch_generator(1)
    plant, x0 = CountedDynamics(task.dynamics), _starts(task)
    planner = ModelTeacher(scout=scout())
    plans = planner.plan(task, x0, plant, generator=generator)
    controller = planner.controller(task, plans)
    return {
        "random": _costs(
            task,
            lambda worlds: (
                lambda x, t: 2 * torch.rand(*x.shape[:-1], task.dynamics.control_dim, generator=generator) - 1
            ),
        ).tolist(),
        "plan": plans.cost.tolist(),
        "open loop": _costs(
            task, lambda worlds: lambda x, t: space.actions(plans.us[:, t]).expand(DRAWS, -1, -1)
        ).tolist(),
        "feedback": _costs(
            task, lambda worlds: controller_actions(controller, space, generator, deterministic=True)
        ).tolist(),
        "calls": plant.calls,
    }


def _starts(task: "mbrl.Task") -> "Tensor":
    return task.initial_state(STARTS, torch_generator(10_000_019))


def _costs(task: "mbrl.Task", choose: Callable[["Tensor"], Any]) -> "Tensor":
    """Mean cost of the held-out starts ``(STARTS,)``, all under the same disturbances."""
    from mbrl.gps.rollouts import roll_out

    worlds = _starts(task).expand(DRAWS, STARTS, -1)
    rollouts = roll_out(task, choose(worlds), worlds, control_noise=NOISE, generator=torch_generator(2))
    return rollouts.total_costs.mean(0)


def torch_generator(seed: int) -> "torch.Generator":
    """A source of random numbers."""
    import torch

    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    serve(answer)
