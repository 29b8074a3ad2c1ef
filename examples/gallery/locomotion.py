"""A MuJoCo half-cheetah runs: iLQR in a receding horizon, beside iCEM with about as many simulated steps."""

import math
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch

import mbrl
from dynamics import Trajectory
from mbrl.plots import plot_trajectory, save_figure, write_task_video
from planners import DDP, ICEM, MPC, ColoredNoise, GoalCost, Planner, Problem

HORIZON = 20  # steps of 50 ms
LEVEL = 2.0  # weight of the squared lean of the trunk, in units of the reward
LINE_SEARCH = 11  # step lengths that an iteration tries at most


def run(folder: Path, tiny: bool) -> bool:
    """Whether iLQR has made the half-cheetah run, and not tumble."""
    torch.set_num_threads(1)
    task, steps = mbrl.half_cheetah(), 3 if tiny else 60
    weights = torch.zeros(task.dynamics.state_dim, dtype=torch.float64)
    weights[task.dynamics.state_names.index("rooty")] = LEVEL
    level = GoalCost(
        0.0, weights, angles=[task.dynamics.state_names.index("rooty")]
    )  # or it tumbles, as fast as it runs
    problem = task.problem(horizon=5 if tiny else HORIZON)
    problem = replace(problem, cost=problem.cost + level)
    iterations = 1 if tiny else 3
    ilqr = DDP(curvature="gauss-newton", max_iterations=iterations, certify=False)
    budget = simulated_steps(problem, iterations)
    samples = budget // (3 * int(problem.horizon))
    icem = ICEM(num_samples=max(samples, 4), max_iterations=3, noise=ColoredNoise(0.25))
    episodes = {
        name: _episode(folder, task, problem, name, planner, steps)
        for name, planner in {"iLQR": ilqr, "iCEM": icem}.items()
    }
    print(f"at most {budget} simulated steps of either per control; {samples} candidates in each iteration of iCEM")
    run = torch.from_numpy(episodes["iLQR"].states.copy())
    distance, steepest = float(run[-1, 0] - run[0, 0]), float(run[:, 2].abs().max())
    print(f"iLQR: {distance:.2f} m, the trunk within {math.degrees(steepest):.0f} degrees of level")
    return distance > 2.0 and steepest < 1.0


def simulated_steps(problem: Problem, iterations: int) -> int:
    """Steps that iLQR simulates at most for a plan: two per column of each Jacobian and one, and its line searches."""
    d, m, T = problem.dynamics.tangent_dim, problem.dynamics.control_dim, int(problem.horizon)
    expansions = iterations + 1  # the last one is for the gains about the plan
    return T * (expansions * (2 * (d + m) + 1) + iterations * LINE_SEARCH)


def _episode(folder: Path, task: mbrl.Task, problem: Problem, name: str, planner: Planner, steps: int) -> Trajectory:
    """An episode, with its figure and video."""
    start = perf_counter()
    (episode,) = mbrl.record(task, MPC(problem, planner), 1, steps=steps)
    seconds = perf_counter() - start
    total = float(episode.rewards.sum())
    speed = float(episode.states[-1, 0] - episode.states[0, 0]) / (len(episode) * task.dynamics.dt)
    print(f"{name}: return {total:.1f} in {steps} steps, {speed:.2f} m/s on average, {seconds / steps:.2f} s per plan")
    save_figure(plot_trajectory(episode, control_limits=(-1.0, 1.0)), folder / f"half_cheetah_{name}.png")
    write_task_video(folder / f"half_cheetah_{name}.mp4", task, episode)
    return episode
