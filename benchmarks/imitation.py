"""MPC learned from an expert's controls (Amos et al. 2018, 5.3): mean squared error of unseen controls [(N m)² or N²]."""

import sys
import time
from dataclasses import replace
from itertools import product
from statistics import median
from typing import Any

import torch
from harness import HERE

sys.path.insert(0, str(HERE.parent / "examples"))
from imitate_controller import SYSTEMS, Config, Controller, learned, recorded

DAMPING = {"pendulum": 0.5, "cart-pole": 2.0}  # [N m s/rad], [N s/m]


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per system and unknown, with the learning of ``examples/imitate_controller.py``; medians over seeds.

    Ten trajectories of twenty steps to learn from and ten others to test on; control limits are active in the share "active" of
    the controls. Cost is the logarithms of the weights of the states and a goal, dynamics those of masses, lengths and gravity;
    everything is off by about a third at first. All learners take Levenberg-Marquardt steps in float64. "gauss-newton" is the
    same learner with derivatives of plans that leave out second derivatives of the dynamics, those of Amos et al.; "ratio" is
    its error over that with exact ones. In the rows with damping the expert has friction that no model of the learner has, and
    "identified" is the error with the parameters of best one-step predictions, the usual way to a model.
    """
    torch.set_num_threads(1)  # small tensors
    seeds = (0,) if quick else (0, 1, 2)
    rows = []
    for system, unknown in product(SYSTEMS, ("cost", "dynamics", "both")):
        rows.append(_row(Config(system=system, unknown=unknown), seeds))  # type: ignore[arg-type]
    for system in SYSTEMS:
        rows.append(_row(Config(system=system, unknown="dynamics", damping=DAMPING[system]), seeds))  # type: ignore[arg-type]
    return rows


def _row(config: Config, seeds: tuple[int, ...]) -> dict[str, Any]:
    found = [_errors(replace(config, seed=seed)) for seed in seeds]
    row: dict[str, Any] = {
        "system": config.system,
        "unknown": config.unknown,
        "damping": config.damping,
        "seeds": len(seeds),
    }
    row |= {name: median(errors[name] for errors in found) for name in found[0]}
    row["worst"] = max(errors["exact"] for errors in found)
    row["ratio"] = row["gauss-newton"] / row["exact"]
    if not config.damping:
        row["aim"] = 1e-6
    return row


def _errors(config: Config) -> dict[str, float]:
    """Errors of unseen controls with each kind of learner, and seconds of learning."""
    system = SYSTEMS[config.system]
    train, test = recorded(Controller(system, config.horizon, damping=config.damping), config)
    found = {"active": float((train.u.abs() == system.limit).double().mean())}
    for curvature in ("exact", "gauss-newton"):
        start = time.perf_counter()
        result = learned(config, Controller(system, config.horizon, curvature=curvature), train, test)
        seconds = time.perf_counter() - start
        found |= {"at first": result.test_loss_at_start, curvature: result.test_loss}
        found |= {f"{curvature} steps": len(result.losses) - 1, f"{curvature} seconds": seconds}
    if config.damping:
        found["identified"] = learned(config, Controller(system, config.horizon), train, test, identify=True).test_loss
    return found
