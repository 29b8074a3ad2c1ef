"""Weights of costs from plans without noise: imitation loss, error of the weights, and seconds until they are found."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import mbrl
from dynamics import CartPole, Dynamics, PlanarQuadrotor, Quadrotor, Trajectory
from planners import DDP, FunctionCost, Implicit, LinearFeatureCost, Problem, Solution, solve

SHORT, LONG = (3, 15), (5, 30)  # demonstrations, and steps of each
RATES = 0.1, 0.3  # of Adam
LEAST = 5.0  # seconds of gradient descent, at each rate; as long as MPCInverse where that takes longer
PLANNER = DDP(tolerance=1e-8)


@dataclass(frozen=True, eq=False)
class Case:
    """A system whose cost is sought.

    Attributes:
        system: the plant.
        limits: of its controls.
        rest: controls at rest ``(m,)``.
        sizes: squares that are added up in each term, of states and then of controls.
        truth: weights of the terms.
        last: of the squares of the last state, which are known.
        number: of demonstrations.
        steps: of each.
    """

    system: Dynamics
    limits: tuple[float, float]
    rest: Tensor
    sizes: tuple[int, ...]
    truth: tuple[float, ...]
    last: tuple[float, ...]
    number: int = SHORT[0]
    steps: int = SHORT[1]

    def squares(self, x: Tensor) -> Tensor:
        """Half of those of the coordinates of states ``(*batch, n)``; of an attitude, of the vector of its quaternion."""
        return 0.5 * (torch.cat([x[..., :3], x[..., 4:]], -1) if isinstance(self.system, Quadrotor) else x).square()

    def features(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """The terms."""
        parts = torch.cat([self.squares(x), 0.5 * (u - self.rest).square()], -1).split(self.sizes, -1)
        return torch.stack([part.sum(-1) for part in parts], -1)

    def terminal(self, x: Tensor) -> Tensor:
        """What the last state costs."""
        return self.squares(x) @ torch.tensor(self.last, dtype=x.dtype)

    def problem(self, weights: Any) -> Problem:
        """What is planned, with weights of the terms."""
        known = FunctionCost(lambda x, u, t: x.new_zeros(x.shape[:-1]), self.terminal)
        return Problem(
            self.system, LinearFeatureCost(self.features, weights, known=known), self.steps, control_limits=self.limits
        )

    def starts(self, seed: int) -> Tensor:
        """States near rest, a normal number away in each coordinate."""
        draw = torch.randn(self.number, self.system.tangent_dim, generator=torch.Generator().manual_seed(seed))
        rest = torch.zeros(self.number, self.system.state_dim, dtype=torch.float64)
        if isinstance(self.system, Quadrotor):
            rest[:, 3] = 1.0
        return self.system.retract(rest, 0.3 * draw.double())


def cases() -> dict[str, Case]:
    """The systems; weights of the first two are those of the tests."""
    planar, spatial = PlanarQuadrotor(0.05), Quadrotor(0.05)
    cart_pole = Case(
        CartPole(0.05),
        (-6.0, 6.0),
        torch.zeros(1, dtype=torch.float64),
        (1,) * 5,
        (2.0, 4.0, 0.2, 0.2, 0.2),
        (2.0, 4.0, 0.2, 0.2),
    )
    flat = Case(
        planar,
        (0.0, 6.0),
        planar.hover_control.double(),
        (1,) * 8,
        (2.0, 3.0, 0.5, 0.2, 0.3, 0.1, 0.2, 0.4),
        (2.0, 2.0, 0.2, 0.2, 0.2, 0.2),
    )
    in_space = Case(
        spatial,
        (0.0, 4.0),
        spatial.hover_control.double(),
        (3, 3, 3, 3, 4),
        (2.0, 3.0, 0.3, 0.1, 0.5),
        (2.0,) * 6 + (0.2,) * 6,
    )
    short = {"cart-pole": cart_pole, "planar quadrotor": flat, "quadrotor": in_space}
    longer = {name: replace(short[name], number=LONG[0], steps=LONG[1]) for name in ("cart-pole", "planar quadrotor")}
    return short | {f"{name}, longer": case for name, case in longer.items()}


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per system and method, medians over seeds of the initial states (0 to 2) and the worst of them.

    Demonstrations are plans of DDP, without noise; all weights are 1 at first, and what the last state costs is known, so that
    there is a scale and all directions of the weights show. "loss" is the mean square of the errors of the plans' controls,
    beside that of each demonstrated control; "error" is the largest of a weight, beside it; "loss at first" is that of the
    weights to begin with, and "seconds" are of one processor. Gradient descent is Adam on the same loss by the same derivatives
    of the same plans, for logarithms of weights, as Amos et al. (2018) and Jin et al. (2020) descend, for as long as MPCInverse
    takes and at least ``LEAST`` seconds, at the best of two rates, each of which has that time.
    """
    torch.set_num_threads(1)
    rows, seeds = [], range(1 if quick else 3)
    for name, case in cases().items():
        if quick and case.steps == LONG[1]:
            continue
        found: dict[str, list[dict[str, float]]] = {"MPCInverse": [], "KKTInverse": [], "gradient descent": []}
        for seed in seeds:
            with torch.no_grad():
                plan = solve(case.problem(case.truth), DDP(tolerance=1e-9), case.starts(seed))
            shown = [
                Trajectory(x, u, states=x, dt=case.system.dt)
                for x, u in zip(plan.xs.numpy(), plan.us.numpy(), strict=True)
            ]
            for learner in (mbrl.MPCInverse(planner=PLANNER), mbrl.KKTInverse()):
                found[type(learner).__name__].append(_learned(learner, case, plan, shown))
            seconds = max(LEAST, found["MPCInverse"][-1]["seconds"])
            descents = [_descended(case, plan, rate, seconds) for rate in RATES]
            found["gradient descent"].append(min(descents, key=lambda one: one["loss"]))
        for method, ones in found.items():
            row: dict[str, Any] = {"system": name, "method": method, "weights": len(case.truth), "seeds": len(seeds)}
            row |= {"demonstrations": case.number, "horizon": case.steps}
            row["loss at first"] = statistics.median(one["loss at first"] for one in ones)
            for key in ("loss", "error", "seconds"):
                values = [one[key] for one in ones]
                row |= {key: statistics.median(values), f"{key}, worst": max(values)}
            rows.append(row | ({"aim": "1e-4 and 60 s"} if method == "MPCInverse" else {}))
    return rows


def _learned(learner: Any, case: Case, plan: Solution, shown: Sequence[Trajectory]) -> dict[str, float]:
    problem, start = case.problem([1.0] * len(case.truth)), time.process_time()
    learned = learner.learn(problem, problem.cost, shown)
    seconds = time.process_time() - start
    return _judged(case, plan, learned.weights) | {"seconds": seconds}


def _descended(case: Case, plan: Solution, rate: float, longest: float) -> dict[str, float]:
    """The best of Adam's weights."""
    theta = torch.zeros(len(case.truth), dtype=torch.float64, requires_grad=True)
    optimizer, start = torch.optim.Adam([theta], lr=rate), time.process_time()
    best, lowest = theta.detach().clone(), math.inf
    while time.process_time() - start < longest:
        loss = _loss(case, plan, theta.exp())
        if float(loss.detach()) < lowest:
            best, lowest = theta.detach().clone(), float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _judged(case, plan, best.exp()) | {"seconds": time.process_time() - start}


def _judged(case: Case, plan: Solution, weights: Tensor) -> dict[str, float]:
    truth = torch.tensor(case.truth, dtype=torch.float64)
    losses = {"loss at first": torch.ones_like(truth), "loss": weights}
    return {name: float(_loss(case, plan, w).detach()) for name, w in losses.items()} | {
        "error": float((weights / truth - 1.0).abs().max())
    }


def _loss(case: Case, shown: Solution, weights: Tensor) -> Tensor:
    first = case.problem([1.0] * len(case.truth))
    problem = replace(first, cost=first.cost.with_weights(weights))
    init = Solution.guess(problem, shown.xs, shown.us)
    gradient = Implicit(invalid="zero", tolerance=1e-9)
    plan = solve(problem, PLANNER, shown.xs[:, 0], init=init, gradient=gradient, throw=False)
    size = shown.us.square().mean((0, 1)).sqrt()
    return ((plan.us - shown.us) / size).square().mean()
