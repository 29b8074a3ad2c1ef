"""MPPI against pytorch_mppi (ms per command), and predictive sampling over raw MuJoCo stepping (control steps/s)."""

import math
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch
from harness import HERE, Peer, interleave, peer_environment
from mujoco.batch import Batch

from dynamics import CartPole, MujocoDynamics, TorchDynamics
from planners import MPPI, FunctionCost, KnotNoise, PredictiveSampling, Problem, Solution, TransitionCost, solve

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per problem of pytorch_mppi, one per MuJoCo model.

    pytorch_mppi computes in an environment of its own and times each of its commands; blocks of commands and solves alternate.
    Ours also rolls out and scores the plan that it returns, so that a plan that is not finite is never given; "ratio best" is
    with the best candidate returned, whose rollout is known. Costs are those of the plan after 50 commands from the same
    state, both with controls within +-2, noise of unit standard deviation, and float64.

    The share of MuJoCo is a solve over stepping the same number of worlds over the same horizon under random controls, on
    the same threads, cold at each control step as planning needs it; "share of warm" over stepping that keeps the warm start.
    """
    rounds = 10 if quick else 40
    rows = []
    with Peer(HERE / "peers" / "mppi.py", peer_environment("mppi")) as peer:
        for problem, K, T in (("toy", 500, 15), ("pendulum", 1000, 15), ("pendulum", 10_000, 50)):
            rows += [_against_the_peer(peer, problem, K, T, threads, rounds) for threads in (1, 2)]
    return rows + [_on_mujoco(name, 5 if quick else 21) for name in MODELS]


# Against pytorch_mppi

B = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
GOAL = torch.tensor([2.0, 2.0], dtype=torch.float64)


def toy_step(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The plane of pytorch_mppi's own benchmark."""
    return x + u @ B.T


def toy_cost(x: torch.Tensor, u: torch.Tensor, x_next: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
    """Squared distance from the goal, of the state that a step leads to, as there."""
    return (GOAL - x_next).square().sum(-1)


def pendulum_step(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Gymnasium's pendulum, whose angle is zero when it is upright."""
    angle, speed = x[..., :1], x[..., 1:]
    speed = torch.clamp(speed + (15.0 * torch.sin(angle) + 3.0 * torch.clamp(u, -2, 2)) * 0.05, -8, 8)
    return torch.cat((angle + speed * 0.05, speed), dim=-1)


def pendulum_cost(x: torch.Tensor, u: torch.Tensor, x_next: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
    """Squared angle and a tenth of the squared speed."""
    angle = ((x_next[..., 0] + math.pi) % (2 * math.pi)) - math.pi
    return angle**2 + 0.1 * x_next[..., 1] ** 2


def _problem(name: str, T: int) -> tuple[Problem, torch.Tensor]:
    step, cost, m, x0 = {
        "toy": (toy_step, toy_cost, 2, [-3.0, -2.0]),
        "pendulum": (pendulum_step, pendulum_cost, 1, [math.pi, 1.0]),
    }[name]
    dynamics = TorchDynamics(step, 2, m, dt=0.05)
    return Problem(dynamics, TransitionCost(cost), T, control_limits=(-2.0, 2.0)), torch.tensor(x0).double()


def _against_the_peer(peer: Peer, name: str, K: int, T: int, threads: int, rounds: int) -> dict[str, Any]:
    problem, x0 = _problem(name, T)
    torch.set_num_threads(threads)
    planners = {"ours": MPPI(num_samples=K), "best": MPPI(num_samples=K, execute="best")}
    plans: dict[str, Solution] = {key: solve(problem, planner, x0) for key, planner in planners.items()}
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {"ours": [], "best": [], "peer": []}
    block = 5
    for _ in range(rounds):
        for key, planner in planners.items():
            for _ in range(block):
                start = time.perf_counter()
                solve(problem, planner, x0, init=plans[key], generator=generator)
                seconds[key].append(time.perf_counter() - start)
        seconds["peer"] += peer.ask(problem=name, K=K, T=T, threads=threads, commands=block + 2)["seconds"][2:]
    plan = None
    for _ in range(50):
        plan = solve(problem, planners["ours"], x0, init=plan, generator=generator)
    time_of = {key: median(values) for key, values in seconds.items()}
    return {
        "what": f"MPPI, {name}",
        "K": K,
        "T": T,
        "threads": threads,
        "ours": 1e3 * time_of["ours"],
        "peer": 1e3 * time_of["peer"],
        "ratio": time_of["peer"] / time_of["ours"],
        "aim": 1.5,
        "ratio best": time_of["peer"] / time_of["best"],
        "cost": float(plan.cost),
        "peer's cost": peer.ask(problem=name, K=K, T=T, threads=threads, commands=50)["cost"],
    }


# On MuJoCo


def _upright_cart_pole(x: torch.Tensor, u: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
    position, angle, speeds = x[..., 0], x[..., 1], x[..., 2:]
    return (1 - torch.cos(angle)) + 0.1 * position**2 + 0.01 * speeds.square().sum(-1) + 1e-4 * u.square().sum(-1)


def _stands(height: float, nq: int, upright: Any) -> Any:
    """Keep the trunk's height and orientation and do not move."""

    def cost(x: torch.Tensor, u: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
        return upright(x, height) + 0.01 * x[..., nq:].square().sum(-1) + 0.01 * u.square().sum(-1)

    return cost


def _walker_trunk(x: torch.Tensor, height: float) -> torch.Tensor:
    return 10 * (x[..., 1] - height).square() + x[..., 2].square()


def _humanoid_trunk(x: torch.Tensor, height: float) -> torch.Tensor:
    return 10 * (x[..., 2] - height).square() + (
        1 - x[..., 3].square()
    )  # w of the quaternion is the cosine of half the tilt


# model, frame skip, candidates, horizon [control steps], cost; sizes as in MuJoCo MPC's tasks
MODELS: dict[str, tuple[Any, int, int, int, Any]] = {
    "cart-pole": (CartPole().mjcf(timestep=0.01), 1, 60, 100, _upright_cart_pole),
    "walker": (ASSETS / "walker2d.xml", 4, 60, 75, _stands(1.25, 9, _walker_trunk)),
    "humanoid": (ASSETS / "humanoid.xml", 5, 30, 24, _stands(1.4, 24, _humanoid_trunk)),
}


def _on_mujoco(name: str, repeats: int) -> dict[str, Any]:
    source, frame_skip, samples, horizon, cost = MODELS[name]
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="MuJoCo: .*settotalmass")  # the file is older than MuJoCo 4
        dynamics = MujocoDynamics(source, frame_skip=frame_skip)
    model = dynamics.model
    limits = (-10.0, 10.0) if name == "cart-pole" else tuple(torch.from_numpy(model.actuator_ctrlrange.T.copy()))
    problem = Problem(dynamics, FunctionCost(cost), horizon, control_limits=limits)
    planner = PredictiveSampling(num_samples=samples, noise=KnotNoise(5))
    x0 = torch.from_numpy(np.concatenate([model.qpos0, np.zeros(model.nv)]))
    x0[1 if name == "cart-pole" else model.nq] += 0.3  # a tilted pole, a push
    still = problem.trajectory_cost(
        dynamics.rollout(x0, x0.new_zeros(horizon, model.nu)), x0.new_zeros(horizon, model.nu)
    )
    plan = None
    for seed in range(20):
        plan = solve(problem, planner, x0, init=plan, generator=torch.Generator().manual_seed(seed))
    worlds = samples + 1  # the previous plan is a candidate
    us = np.random.default_rng(0).uniform(-0.3, 0.3, (worlds, horizon, model.nu)) * np.asarray(limits[1])
    batch = Batch(model, worlds)

    def raw(cold: bool) -> None:
        ctrl, warmstart = batch.bind("ctrl"), batch.bind("qacc_warmstart")
        batch.bind("qpos")[:], batch.bind("qvel")[:], warmstart[:] = x0[: model.nq], x0[model.nq :], 0.0
        for k in range(horizon):
            ctrl[:] = us[:, k]
            if cold:
                warmstart[:] = 0.0
            batch.step(nstep=frame_skip)

    timing = interleave(
        repeats, ours=lambda: solve(problem, planner, x0, init=plan), cold=lambda: raw(True), warm=lambda: raw(False)
    )
    steps = worlds * horizon
    return {
        "what": f"predictive sampling, {name}",
        "K": samples,
        "T": horizon,
        "steps/s": steps / timing["ours"].median,
        "raw steps/s": steps / timing["cold"].median,
        "share": timing["cold"].median / timing["ours"].median,
        "aim": 0.9,
        "share of warm": timing["warm"].median / timing["ours"].median,
        "plans/s": 1 / timing["ours"].median,
        "cost after 20 solves over that of no control": float(plan.cost / still),
    }
