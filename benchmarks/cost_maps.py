"""Costs of terrain from a driver's paths: what plans in held-out maps cost more than the driver's, and how like his they are."""

import sys
import time
from typing import Any

import torch
from harness import HERE

import mbrl
from planners import CostMap, ExponentialTerrain, LinearTerrain

sys.path.insert(0, str(HERE.parent / "examples"))
from learned_cost_map import FEATURES, Driver, crossings, held_out, make_scene, search

SCENES, PATHS = 5, 4  # maps to learn from, and as many to test on; paths through each


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per learner, means over the held-out paths of ``examples/learned_cost_map.py`` and over seeds (0 to 4).

    "regret" is by how much a plan costs more than the cheapest one by the driver's cost, which is no linear function of the
    features; "overlap" is the share of the driver's path within a cell of the plan; "distance" is the modified Hausdorff distance
    [m]. "worst" is the largest mean regret of a seed.
    """
    torch.set_num_threads(1)
    k, rounds = len(FEATURES), 10 if quick else 60
    linear, learch = mbrl.MaxMarginPlanning(), mbrl.LEARCH(max_iterations=rounds)
    nothing = LinearTerrain(torch.zeros(k))
    learners = {
        "shortest way": (None, nothing),
        "maximum margin planning, linear": (linear, nothing),
        "LEARCH, exponential of a linear function": (learch, ExponentialTerrain(k)),
        "LEARCH, network of the cell": (learch, ExponentialTerrain(k, hidden=(16,))),
        "LEARCH, network of 3 by 3 cells": (learch, ExponentialTerrain(k, hidden=(16,), kernel_size=3)),
    }
    seeds = (0,) if quick else range(5)
    rows = []
    for name, (learner, terrain) in learners.items():
        found = [_learned(learner, terrain, seed) for seed in seeds]
        regret, overlap, distance, seconds = (sum(column) / len(found) for column in zip(*found, strict=True))
        row = {"learner": name, "seeds": len(found), "regret": regret, "worst": max(values[0] for values in found)}
        rows.append(row | {"overlap": overlap, "distance": distance, "seconds of processor": seconds})
    return rows


def _learned(learner: Any, terrain: Any, seed: int) -> tuple[float, float, float, float]:
    """Mean regret, overlap and distance in held-out maps, and seconds of learning."""
    generator, driver = torch.Generator().manual_seed(seed), Driver()
    grids = [make_scene(generator) for _ in range(2 * SCENES)]
    ways = [crossings(PATHS, generator) for _ in grids]
    driven = [[search(CostMap(driver, g), *way) for way in those] for g, those in zip(grids, ways, strict=True)]
    start = time.process_time()
    if learner is not None:
        terrain = learner.learn(terrain, grids[:SCENES], driven[:SCENES]).terrain
    seconds = time.process_time() - start
    return (*held_out(terrain, driver, grids[SCENES:], driven[SCENES:]).mean(0).tolist(), seconds)
