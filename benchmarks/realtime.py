"""MPC in real time on MuJoCo: what is lost when the plant does not wait for the planner (cost per second, ages in ms).

The first rows are in simulated time, whatever the speed of the machine: a plan can be used a given latency after it was
begun. Modes:

- waiting: the plant waits for the planner (latency 0), what other modes are to be measured by
- asynchronous: plans start from where the model says that the plant will be when they are ready
- not predicted: plans start from the measured state instead
- blocking: synchronous MPC that gives the first control of a plan when it is ready, and holds it until the next one

The rows "real time" are by the clock of this machine, with a plant that goes on by itself: synchronous MPC with a deadline of
half a period, and asynchronous MPC at twice the rate. "load" is that of the whole machine: with more than one process per core,
the operating system keeps single plans waiting ("planning max"), and ages with them.
"""

import copy
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

import mbrl
from dynamics import CartPole, MujocoDynamics
from planners import (
    ICEM,
    MPC,
    AsynchronousMPC,
    FunctionCost,
    KnotNoise,
    Planner,
    PredictiveSampling,
    Problem,
    Solution,
    solve,
)

PERIOD = 0.02  # of control in simulated time [s]
CHEETAH = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
# Knots at fixed times: a plan read half a step later is the same function.
SWING_UP = ICEM(num_samples=32, max_iterations=2, noise=KnotNoise(knots=12, degree=1))
PLANNING_THREADS = max(1, len(os.sched_getaffinity(0)) - 1)  # one core is the loop's


def main(quick: bool) -> list[dict[str, Any]]:
    """Rows in simulated time, then in real time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    episodes, seconds, runs = (3, 5.0, 1) if quick else (6, 6.0, 3)
    rows = [_simulated("waiting", 0.0, episodes, seconds)]
    for mode, latencies in (
        ("asynchronous", (0.01, 0.02, 0.05, 0.1)),
        ("not predicted", (0.02, 0.05, 0.1)),
        ("blocking", (0.02, 0.05, 0.1)),
    ):
        rows += [_simulated(mode, latency, episodes, seconds) for latency in latencies]
    for plant in (_cart_pole(), _half_cheetah()):
        rows.append(_waiting(*plant, seconds, runs))
        rows += [_real_time(*plant, mode, seconds, runs) for mode in ("deadline", "asynchronous")]
    torch.set_num_threads(threads)
    return rows


# In simulated time


class _Blocking:
    """Synchronous MPC whose plans take a while; meanwhile the last control is held."""

    acts_on = "state"

    def __init__(self, problem: Problem, planner: Planner, latency: float):
        self.problem, self.planner, self.latency = problem, planner, latency

    def init(
        self, batch: int, *, generator: torch.Generator | None = None
    ) -> tuple[int, Tensor, Solution | None, float]:
        """Step, control, the plan being made, and when it will be ready."""
        self.generator = generator or torch.Generator().manual_seed(0)
        return 0, torch.zeros(batch, self.problem.dynamics.control_dim, dtype=torch.float64), None, 0.0

    def act(self, x: Tensor, memory: Any, *, deterministic: bool = True) -> tuple[Tensor, Any]:
        """Take over a plan that is ready, and begin the next one."""
        step, u, plan, ready = memory
        now = step * PERIOD
        if now >= ready - 1e-9:
            u = u if plan is None else plan.us[..., 0, :]
            plan = solve(self.problem, self.planner, x, time=now, init=plan, generator=self.generator, throw=False)
            ready = now + self.latency
        return u, (step + 1, u, plan, ready)


def _simulated(mode: str, latency: float, episodes: int, seconds: float) -> dict[str, Any]:
    task = replace(mbrl.cart_pole_swing_up(system=CartPole(dt=PERIOD)), episode_steps=round(seconds / PERIOD))
    problem, planner = _cart_pole_problem(), SWING_UP
    report = None
    if mode == "blocking":
        result = mbrl.evaluate(_Blocking(problem, planner, latency), task, episodes=episodes)
    else:
        predict = mode != "not predicted"
        with AsynchronousMPC(problem, planner, latency=latency, period=PERIOD, predict=predict) as mpc:
            result = mbrl.evaluate(mpc, task, episodes=episodes)
            report = mpc.report()
    angles = np.stack([t.states[:, 1] for t in result.trajectories])
    return {
        "plant": "CartPoleSwingUp",
        "time": "simulated",
        "mode": mode,
        "latency": f"{1e3 * latency:.0f} ms",
        "runs": episodes,
        "cost": -float(result.returns.mean()) * PERIOD / seconds,
        "upright": _upright(angles),
        "success": result.success_rate,
        "plans/s": report.plans / seconds if report else 1 / max(latency, PERIOD),
        **({"age mean": 1e3 * report.age_mean, "age max": 1e3 * report.age_max} if report else {}),
    }


def _upright(angles: np.ndarray) -> float:
    """Share of the second half of the time in which angles ``(runs, T+1)`` are within 0.2 rad of upright."""
    half = angles[:, angles.shape[1] // 2 :]
    return float((np.cos(half) > np.cos(0.2)).mean())


# In real time


def _cart_pole_problem() -> Problem:
    """Plans of 1.2 s on a model with steps of 40 ms, a quarter of the plant's steps."""
    task = mbrl.cart_pole_swing_up()
    return task.problem(_stepping(task.dynamics.model, task.dynamics.dt))


def _stepping(model: Any, timestep: float, frame_skip: int = 1, threads: int = PLANNING_THREADS) -> MujocoDynamics:
    model = copy.copy(model)
    model.opt.timestep = timestep
    return MujocoDynamics(model, frame_skip=frame_skip, threads=threads)


def _cart_pole() -> tuple[mbrl.Task, MujocoDynamics, Problem, Planner]:
    """A task, its plant in small steps, what is planned on, and how."""
    task = mbrl.cart_pole_swing_up()
    plant = _stepping(task.dynamics.model, 0.002, threads=1)
    return task, plant, _cart_pole_problem(), SWING_UP


def _half_cheetah() -> tuple[mbrl.Task, MujocoDynamics, Problem, Planner]:
    """Run fast; gymnasium's model with its own steps of 10 ms, of which a planned step takes five."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="MuJoCo: .*settotalmass")  # the file is older than MuJoCo 4
        model = MujocoDynamics(CHEETAH).model
    dynamics = _stepping(model, 0.01, frame_skip=5)

    def start(batch: int, generator: torch.Generator) -> Tensor:
        return 0.1 * torch.randn(batch, 18, generator=generator, dtype=torch.float64)

    cost = FunctionCost(lambda x, u, t: 0.1 * u.square().sum(-1) - x[..., 9])
    task = mbrl.Task("HalfCheetah", dynamics, cost, (-1.0, 1.0), start, horizon=12, episode_steps=100)
    return task, _stepping(model, 0.01, threads=1), task.problem(), PredictiveSampling(num_samples=32)


def _waiting(
    task: mbrl.Task, plant: MujocoDynamics, problem: Problem, planner: Planner, seconds: float, runs: int
) -> dict[str, Any]:
    trajectories = mbrl.record(task, MPC(problem, planner), runs, steps=round(seconds / task.dynamics.dt))
    states = np.stack([trajectory.states for trajectory in trajectories])
    return {
        "plant": task.name,
        "time": "waits for the planner",
        "mode": "waiting",
        "runs": runs,
        **_quality(task, [(t.states, t.controls, t.times) for t in trajectories]),
        "upright": _upright(states[:, :, 1]) if task.success else "",
        "plans/s": 1 / task.dynamics.dt,
    }


def _real_time(
    task: mbrl.Task,
    plant: MujocoDynamics,
    problem: Problem,
    planner: Planner,
    mode: str,
    seconds: float,
    runs: int,
) -> dict[str, Any]:
    dt = problem.dynamics.dt
    starts = task.initial_state(runs, torch.Generator().manual_seed(0))
    logs, latency, late, missed, overruns, reports = [], [], 0, 0, 0, []
    for x0 in starts:
        simulated = mbrl.SimulatedPlant(task, dynamics=plant, x0=x0)
        if mode == "deadline":
            mpc = MPC(problem, planner, budget=0.5 * dt)
            memory = mpc.warm_up(x0.unsqueeze(0))
            result = mbrl.run_control_loop(simulated, mpc, period=dt, steps=round(seconds / dt), memory=memory)
            overruns += result.memory.overruns
        else:
            with AsynchronousMPC(problem, planner) as mpc:
                mpc.warm_up(x0.unsqueeze(0))
                result = mbrl.run_control_loop(simulated, mpc, period=0.5 * dt, steps=round(2 * seconds / dt))
                reports.append(mpc.report())
        log = result.trajectory
        logs.append((log.observations, log.controls, log.times))
        latency.append(result.latency)
        late, missed = late + result.late, missed + result.missed
    latency = 1e3 * np.concatenate(latency)
    row = {
        "plant": task.name,
        "time": "real time",
        "mode": mode,
        "runs": runs,
        **_quality(task, logs),
        "plans/s": sum(r.plans for r in reports) / (runs * seconds) if reports else 1 / dt,
        "read-write p50": float(np.quantile(latency, 0.5)),
        "read-write p99": float(np.quantile(latency, 0.99)),
        "late": late / len(latency),
        "left out": missed / (len(latency) + missed),
        "load": os.getloadavg()[0] / len(os.sched_getaffinity(0)),  # of the machine, per core; beyond 1 everybody waits
    }
    if task.success:
        row["upright"] = float(np.mean([_upright(states[None, :, 1]) for states, *_ in logs]))
    if reports:
        row["age mean"] = 1e3 * float(np.mean([report.age_mean for report in reports]))
        row["age max"] = 1e3 * max(report.age_max for report in reports)
        row["planning max"] = 1e3 * max(report.planning_max for report in reports)
    else:
        row["overruns"] = overruns / len(latency)
    return row


def _quality(task: mbrl.Task, logs: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Cost per second over states ``(T+1, n)``, controls ``(T, m)`` and times ``(T+1,)``; success over the last second."""
    costs, successes = [], []
    for states, controls, times in logs:
        xs, us = (torch.from_numpy(np.array(values)) for values in (states, controls))
        stage = task.cost.stage(xs[:-1], us, 0).numpy()
        costs.append((stage * np.diff(times)).sum() / (times[-1] - times[0]))
        if task.success:
            successes.append(bool((np.cos(states[times >= times[-1] - 1.0, 1]) >= np.cos(0.2)).all()))
    return {"cost": float(np.mean(costs)), **({"success": float(np.mean(successes))} if successes else {})}
