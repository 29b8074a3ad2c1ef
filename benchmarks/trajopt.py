"""DDP and its gradients against mpc.pytorch, cvxpylayers and Crocoddyl (ms per solve), and on MuJoCo models.

Every plan, whoever found it, is evaluated by the same formula in numpy and float64: "gap" is its cost over the best known one,
relative, "residual" its projected gradient, the medians over the batch; "worse" counts plans whose cost is more than 0.1 % above
that of the other contestant. The bounded LQR is unstable, so that rounding the controls alone leaves a residual of 1e-6.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from harness import HERE, Peer, peer_environment

from dynamics import MujocoDynamics
from dynamics.base import Curvature, Linearization, TimeStep
from mbrl.tasks import cart_pole_swing_up
from planners import DDP, LQR, FunctionCost, Implicit, Planner, Problem, QuadraticCost, solve

sys.path.append(str(HERE.parent / "tests"))
import oracles
import reference_problems
from reference_problems import Array, ReferenceProblem

Row = dict[str, Any]
ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


def main(quick: bool) -> list[Row]:
    """One row per problem and peer, then what is ours alone.

    A peer that does not converge is timed at the iterations that are stated in its row: time without its gap says nothing.
    """
    rounds = 2 if quick else 10
    torch.set_num_threads(1)
    rows = []
    for rows_of in (bounded_lqr, gradients, own_tasks_of_mpc_pytorch, problems_of_crocoddyl):
        rows += rows_of(quick, rounds)
    return rows + [on_mujoco(name, quick) for name in MODELS] + [swing_ups(quick, spread) for spread in STARTS]


def peer(name: str) -> Peer:
    """The peer of that name in its environment."""
    return Peer(HERE / "peers" / f"{name}.py", peer_environment(name))


def alternate(
    rounds: int, ours: Callable[[], Any], ask: Callable[[], Any], *, calls: int = 3
) -> tuple[float, Any, dict[str, Any]]:
    """Let us and a peer, which times itself, take turns; our median time [s], our last result, the peer's last answer.

    The times of all its rounds are in the answer, without the first of each where it repeats. We have a first, untimed call if
    we repeat.
    """
    result = ours() if calls > 1 else None
    seconds: list[float] = []
    theirs: dict[str, list[float]] = {"seconds": [], "gradient_seconds": []}
    answer: dict[str, Any] = {}
    for _ in range(rounds):
        for _ in range(calls):
            start = time.perf_counter()
            result = ours()
            seconds.append(time.perf_counter() - start)
        answer = ask()
        for key, values in theirs.items():
            measured = answer.get(key, [])
            values += measured[1:] if len(measured) > 1 else measured
    return statistics.median(seconds), result, answer | theirs


def compared(what: str, ours: Array, theirs: Array, best: Array | None, reference: ReferenceProblem) -> Row:
    """The columns of quality of two sets of plans ``(*batch, T, m)``."""
    (cost, residual), (peers_cost, peers_residual) = reference.evaluate(ours), reference.evaluate(theirs)
    best = np.minimum(cost, peers_cost) if best is None else best
    scale = np.abs(best) + 1e-12
    return {
        "residual": float(np.median(residual)),
        "peer's residual": float(np.median(peers_residual)),
        "gap": float(np.median((cost - best) / scale)),
        "peer's gap": float(np.median((peers_cost - best) / scale)),
        "worse": int(np.sum(cost > peers_cost + 1e-3 * scale)),
        "peer's worse": int(np.sum(peers_cost > cost + 1e-3 * scale)),
    }


def timed(what: str, name: str, batch: int, ours: float, answer: dict[str, Any], key: str = "seconds") -> Row:
    """The columns of time; the ratio is how many times faster we are."""
    theirs = statistics.median(answer[key])
    return {
        "what": what,
        "peer": name,
        "batch": batch,
        "ours": 1e3 * ours,
        "peer's": 1e3 * theirs,
        "ratio": theirs / ours,
    }


# The bounded LQR, and its gradients

PEERS_OF_LQR: dict[str, dict[str, Any]] = {
    "cvxpylayers_qp": {"threads": 2},
    "mpc_pytorch": {"threads": 1, "task": "lqr", "iterations": 20},
}


def _lqr_request(reference: ReferenceProblem, limit: float, repeats: int) -> dict[str, Any]:
    p = reference.problem.dynamics
    matrices = {name: getattr(p, name).tolist() for name in ("A", "B", "b")}
    return matrices | {"x0": reference.x0.tolist(), "limit": limit, "T": 20, "repeats": repeats}


def _optima(reference: ReferenceProblem, limit: float) -> tuple[oracles.BoundedLinearQuadratic, Array]:
    p = reference.problem.dynamics
    program = oracles.BoundedLinearQuadratic(p.A.numpy(), p.B.numpy(), p.b.numpy(), 20, limit)
    return program, np.stack([program.solve(x0, np.zeros(8)) for x0 in reference.x0.numpy()])


def bounded_lqr(quick: bool, rounds: int) -> list[Row]:
    """Problem and sizes of FreyJo/bounded_mpc."""
    rows = []
    for name, settings in PEERS_OF_LQR.items():
        for limit in (1e4, 1.0):
            for batch in (32,) if quick else (32, 128):
                slow = name == "mpc_pytorch" and limit == 1.0
                reference = reference_problems.bounded_lqr(batch, limit)
                request = settings | _lqr_request(reference, limit, 1 if slow else 3)
                with peer(name) as other:
                    seconds, solution, answer = alternate(
                        1 if slow else rounds,
                        lambda reference=reference: solve(reference.problem, DDP(), reference.x0),
                        lambda other=other, request=request: other.ask(**request),
                    )
                best, _ = reference.evaluate(_optima(reference, limit)[1])
                plans = np.clip(answer["us"], -limit, limit)
                what = f"bounded LQR, |u| <= {limit:g}"
                row = timed(what, name, batch, seconds, answer)
                rows.append(row | compared(what, solution.us.numpy(), plans, best, reference))
    return rows


def gradients(quick: bool, rounds: int) -> list[Row]:
    """Forward and backward by the initial states and a linear cost, of a weighted sum of the controls."""
    batch, limit = 32 if quick else 128, 1.0
    weights = np.random.default_rng(0).standard_normal((batch, 20, 4))
    eye = torch.eye(8, dtype=torch.float64)
    q = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    reference = reference_problems.bounded_lqr(batch, limit, QuadraticCost(eye, eye[:4, :4], q=q, Q_terminal=eye))
    x0 = reference.x0.clone().requires_grad_()

    def ours() -> tuple[Array, Array]:
        solution = solve(reference.problem, DDP(), x0, gradient=Implicit())
        by_x0, by_q = torch.autograd.grad((solution.us * torch.from_numpy(weights)).sum(), (x0, q))
        return by_x0.numpy(), by_q.numpy()

    program, optima = _optima(reference, limit)
    exact = [program.gradient(us, w) for us, w in zip(optima, weights, strict=True)]
    by_x0, by_q = np.stack([rows[0] for rows in exact]), np.sum([rows[1] for rows in exact], axis=0)

    def errors(found: tuple[Any, Any]) -> list[float]:
        return [
            float(np.abs(np.array(f) - e).max() / np.abs(e).max()) for f, e in zip(found, (by_x0, by_q), strict=True)
        ]

    rows = []
    for name, settings in PEERS_OF_LQR.items():
        request = settings | _lqr_request(reference, limit, 1) | {"weights": weights.tolist()}
        with peer(name) as other:
            seconds, found, answer = alternate(
                1 if name == "mpc_pytorch" else rounds,
                ours,
                lambda other=other, request=request: other.ask(**request),
            )
        row = timed("forward and backward, |u| <= 1", name, batch, seconds, answer, "gradient_seconds")
        mine, others = errors(found), errors((answer["by_x0"], answer["by_q"]))
        rows.append(row | {"gradient error": max(mine), "peer's gradient error": max(others)})
    return rows


# The pendulum and the cart-pole of mpc.pytorch


def own_tasks_of_mpc_pytorch(quick: bool, rounds: int) -> list[Row]:
    """Its environments under its own costs, starts and settings (50 iterations, eps 1e-2, as its notebooks)."""
    makers = {"pendulum": reference_problems.seen_pendulum, "cartpole": reference_problems.seen_cart_pole}
    rows = []
    for task, make in makers.items():
        for batch in (16,) if quick else (16, 128):
            reference = make(batch)
            request = {"task": task, "x0": reference.x0.tolist(), "T": 20, "iterations": 50, "eps": 1e-2}
            with peer("mpc_pytorch") as other:
                seconds, solution, answer = alternate(
                    1 if quick else 3,
                    lambda reference=reference: solve(reference.problem, DDP(), reference.x0),
                    lambda other=other, request=request: other.ask(**request, threads=1, repeats=1),
                )
            plans = np.array(answer["us"])
            states = reference.problem.dynamics.rollout(reference.x0, torch.from_numpy(plans))[:, :-1]
            row = timed(f"its own {task}", "mpc_pytorch", batch, seconds, answer)
            row |= compared(row["what"], solution.us.numpy(), plans, None, reference)
            difference = float((states - torch.tensor(answer["xs"])).abs().max())
            rows.append(row | {"difference of states": difference, "iterations": _iterations(solution)})
    return rows


def _iterations(solution: Any) -> int:
    return int(torch.as_tensor(solution.stats["iterations"]).max())


# The problems of Crocoddyl


def problems_of_crocoddyl(quick: bool, rounds: int) -> list[Row]:
    """Unicycle and linear problems are its own C++; its cart-pole has a Python model, as in its notebook."""
    balancing, swinging = reference_problems.balancing_cart_pole(), reference_problems.swinging_cart_pole()
    cases = [
        ("unicycle, 20 steps", reference_problems.unicycle(20), {"task": "unicycle"}, DDP()),
        ("unicycle, 200 steps", reference_problems.unicycle(200), {"task": "unicycle"}, DDP()),
        ("balancing (Python)", balancing, {"task": "cartpole", "terminal": [1.0, 1.0, 0.1, 0.001, 0.001]}, DDP()),
        ("swinging (Python)", swinging, {"task": "cartpole", "terminal": [100.0, 100.0, 1.0, 0.1, 0.01]}, SWINGING),
    ]
    for n, m in ((12, 4), (37, 12)):
        reference = reference_problems.affine_lqr(n, m)
        A, B = (getattr(reference.problem.dynamics, name) for name in ("A", "B"))
        cost = reference.problem.cost
        matrices = {"A": A, "B": B, "Q": cost.Q, "R": cost.R, "q": -cost.Q @ cost.goal.reshape(-1), "r": cost.r}
        request = {"task": "lqr", **{key: value.tolist() for key, value in matrices.items()}}
        cases += [(f"LQR {n}, {m}", reference, request, LQR()), (f"LQR {n}, {m} by DDP", reference, request, DDP())]
    with peer("crocoddyl_ddp") as other:
        return [_against_crocoddyl(other, rounds, *case) for case in cases]


SWINGING = DDP(curvature="gauss-newton", max_iterations=1000)  # as Crocoddyl does, in 425 iterations


def _against_crocoddyl(
    other: Peer, rounds: int, what: str, reference: ReferenceProblem, request: dict[str, Any], planner: Planner
) -> Row:
    T, slow = reference.us0.shape[-2], "swinging" in what
    asked = request | {"x0": reference.x0.tolist(), "T": T, "solver": "FDDP", "iterations": 1000}
    seconds, solution, answer = alternate(
        1 if slow else rounds,
        lambda: solve(reference.problem, planner, reference.x0),
        lambda: other.ask(**asked, repeats=1 if slow else 10),
        calls=1 if slow else 3,
    )
    best = None if reference.optimal_cost is None else reference.optimal_cost.numpy()
    row = timed(what, "crocoddyl_ddp", 1, seconds, answer)
    row |= compared(what, solution.us.numpy(), np.array(answer["us"]), best, reference)
    return row | {"iterations": _iterations(solution), "peer's iterations": answer["iterations"]}


# MuJoCo models


class Stopwatch(MujocoDynamics):
    """MuJoCo dynamics that count the time of steps and of derivatives [s]."""

    seconds: dict[str, float]

    def _count(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if self.__dict__.get("running"):  # called by another one
            return function(*arguments)
        self.__dict__["running"] = True
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            self.seconds[name] += time.perf_counter() - start
            self.__dict__["running"] = False

    def forward(self, x: torch.Tensor, u: torch.Tensor, t: TimeStep = None) -> torch.Tensor:
        """A step."""
        return self._count("steps", super().forward, x, u, t)

    def rollout(self, x0: torch.Tensor, us: torch.Tensor, t0: int = 0) -> torch.Tensor:
        """Steps."""
        return self._count("steps", super().rollout, x0, us, t0)

    def linearize(self, x: torch.Tensor, u: torch.Tensor, t: TimeStep = None) -> Linearization:
        """First derivatives."""
        return self._count("derivatives", super().linearize, x, u, t)

    def curvature(self, x: torch.Tensor, u: torch.Tensor, costate: torch.Tensor, t: TimeStep = None) -> Curvature:
        """Second derivatives."""
        return self._count("derivatives", super().curvature, x, u, costate, t)


def _runs(x: torch.Tensor, u: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
    """Half-cheetah: 2 m/s forward, and quiet controls."""
    return (x[..., 9] - 2.0).square() + 0.1 * u.square().sum(-1)


def _stands(x: torch.Tensor, u: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
    """Humanoid: height and orientation of the trunk kept, slow, and quiet controls."""
    trunk = 10.0 * (x[..., 2] - 1.4).square() + (1.0 - x[..., 3].square())
    return trunk + 0.01 * x[..., 24:].square().sum(-1) + 0.01 * u.square().sum(-1)


MODELS: dict[str, tuple[str, Any]] = {
    "half_cheetah": ("half_cheetah.xml", _runs),
    "humanoid": ("humanoid.xml", _stands),
}


def on_mujoco(name: str, quick: bool) -> Row:
    """A few iterations of iLQR over 50 steps of five MuJoCo steps each, and the share of time that is not MuJoCo's."""
    file, cost = MODELS[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="MuJoCo: .*settotalmass")  # the file is older than MuJoCo 4
        dynamics = Stopwatch(ASSETS / file, frame_skip=5)
    dynamics.seconds = {"steps": 0.0, "derivatives": 0.0}
    model = dynamics.model
    limits = tuple(torch.from_numpy(model.actuator_ctrlrange.T.copy()))
    problem = Problem(dynamics, FunctionCost(cost), 50, control_limits=limits)
    x0 = torch.from_numpy(np.concatenate([model.qpos0, np.zeros(model.nv)]))
    us = x0.new_zeros(50, model.nu)
    still = float(problem.trajectory_cost(dynamics.rollout(x0, us), us))
    planner = DDP(curvature="gauss-newton", max_iterations=2 if quick else 5)
    solve(problem, planner, x0, throw=False)  # starts the threads
    dynamics.seconds.update(steps=0.0, derivatives=0.0)
    start = time.perf_counter()
    solution = solve(problem, planner, x0, throw=False)
    seconds = time.perf_counter() - start
    return {
        "what": f"{name}, 50 steps",
        "batch": 1,
        "ours": 1e3 * seconds,
        "iterations": _iterations(solution),
        "share of steps": dynamics.seconds["steps"] / seconds,
        "share of derivatives": dynamics.seconds["derivatives"] / seconds,
        "share of the rest": 1.0 - sum(dynamics.seconds.values()) / seconds,
        "cost over that of no control": float(solution.cost) / still,
    }


# Swing-ups of the cart-pole, a batch at once

STARTS = {"near hanging, sd 0.1": 0.1, "uniform: |p| <= 1, any angle, |speeds| <= 1, 3": None}
SWING_UP_STEPS = 100  # 4 s


def swing_ups(quick: bool, name: str) -> Row:
    """How many open-loop plans of 4 s end upright: the angle within 0.2 rad over the last five steps."""
    batch, generator = 64 if quick else 512, torch.Generator().manual_seed(0)
    task = cart_pole_swing_up(backend="torch")
    hanging = torch.tensor([0.0, np.pi, 0.0, 0.0], dtype=torch.float64)
    if STARTS[name] is not None:
        x0 = hanging + STARTS[name] * torch.randn(batch, 4, generator=generator, dtype=torch.float64)
    else:
        box = torch.tensor([1.0, np.pi, 1.0, 3.0], dtype=torch.float64)
        x0 = box * (2.0 * torch.rand(batch, 4, generator=generator, dtype=torch.float64) - 1.0)
    problem = task.problem(horizon=SWING_UP_STEPS)
    start = time.perf_counter()
    solution = solve(problem, DDP(max_iterations=200), x0, throw=False)
    seconds = time.perf_counter() - start
    upright = (torch.cos(solution.xs[:, -5:, 1]) >= np.cos(0.2)).all(-1)
    return {
        "what": f"swing-up, {name}",
        "batch": batch,
        "ours": 1e3 * seconds,
        "iterations": _iterations(solution),
        "upright": int(upright.sum()),
        "converged": int((solution.status == 0).sum()),
    }
