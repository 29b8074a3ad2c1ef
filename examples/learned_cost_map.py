"""Learn from a driver what terrain costs, plan in a map that nobody has seen, and drive a car there.

    python examples/learned_cost_map.py

A driver crosses a few maps of roads, grass, mud, slopes and trees, and minds what no sum of the features is: a
slope costs nothing on a road and much on grass. Two costs are learned from the paths, by planning in the loop: one that is linear
in the features (maximum margin planning), and a network (LEARCH). In a new map the network's cost is searched for a path, and a
sampling planner drives a car along it, with the same cost map under its wheels. At the end: by how much plans are more expensive
than the driver's in maps that were held out, and a figure.
"""

from dataclasses import dataclass, field
from pathlib import Path as File

import numpy as np
import torch
import tyro
from torch import Tensor

import mbrl
from dynamics import Car
from mbrl.plots import outlines, save_figure
from mbrl.plots.style import BLUE, GRAY, GREEN, INK, ORANGE, RED, SKY, in_house_style, new_figure
from planners import (
    ICEM,
    MPC,
    CostMap,
    ExponentialTerrain,
    FeatureGrid,
    GoalCost,
    GridGraph,
    KnotNoise,
    LinearTerrain,
    Path,
    Problem,
    TerrainCost,
    shortest_path,
)

SHAPE, CELL = (36, 24), 0.75  # cells, and their side [m]
MUD, TREE = np.array([0.80, 0.62, 0.52]), np.array([0.10, 0.32, 0.16])  # colors
FEATURES = ("off road", "mud", "slope", "trees")
CAR = Car(dt=0.1).with_parameters(wheelbase=1.2)  # turns within 2.2 m


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    scenes: int = 5
    """Maps to learn from, and as many to test on."""
    paths: int = 4
    """Paths through each."""
    learner: mbrl.LEARCH = field(default_factory=lambda: mbrl.LEARCH(max_iterations=60))
    """How the network learns."""
    planner: ICEM = field(
        default_factory=lambda: ICEM(
            num_samples=60, max_iterations=2, noise=KnotNoise(5), initial_std=0.4, minimum_std=0.05
        )
    )
    """What drives the car: rollouts of sampled controls, scored by the learned map."""
    speed: float = 3.0
    """Of the point that the car follows along the planned path [m/s]."""
    seconds: float = 20.0
    """Time for the drive [s]."""
    seed: int = 0
    """Of maps and paths."""
    out: File = File("runs/learned_cost_map")
    """Folder for the figure."""


class Driver(TerrainCost):
    """What the driver minds; the learners only see the paths."""

    def __init__(self):
        super().__init__(len(FEATURES), 1.0)
        self.register_parameter("scale", torch.nn.Parameter(torch.ones((), dtype=torch.float64), requires_grad=False))

    def excess(self, features: Tensor) -> Tensor:
        """Grass, the more the steeper; mud; and trees, which are to be kept away from."""
        off_road, mud, slope, trees = features.unbind(-3)
        return self.scale * (off_road * (0.5 + 5.0 * slope + 5.0 * mud) + 15.0 * trees)


def smooth_field(generator: torch.Generator, coarse: tuple[int, int]) -> Tensor:
    """A random surface of about unit variance, ``SHAPE``."""
    noise = torch.randn(1, 1, *coarse, generator=generator, dtype=torch.float64)
    return torch.nn.functional.interpolate(noise, size=SHAPE, mode="bicubic", align_corners=True)[0, 0]


def make_scene(generator: torch.Generator) -> FeatureGrid:
    """A winding road and a lane that crosses it, patches of mud, hills, and trees beside the roads."""
    i, j = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in SHAPE), indexing="ij")

    def random(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    bend = random(5.0, 18.0) + random(1.5, 4.0) * torch.sin(i * random(0.1, 0.25) + random(0.0, 6.3))
    road = ((j - bend).abs() < 1.3).double()
    lane = random(6.0, 30.0) + random(-0.6, 0.6) * (j - 12.0)
    road = torch.maximum(road, ((i - lane).abs() < 1.2).double())
    mud = (smooth_field(generator, (7, 5)) > 0.5).double() * (1.0 - road)
    slope = torch.sigmoid(2.5 * smooth_field(generator, (5, 4)))
    places = torch.rand(14, 2, generator=generator, dtype=torch.float64) * torch.tensor(SHAPE)
    on_grass = places[road[tuple(places.long().T)] == 0.0]
    away = CELL * torch.cdist(torch.stack([i, j], -1).reshape(-1, 2), on_grass).amin(-1).reshape(SHAPE)
    trees = torch.exp(-((away / 1.0) ** 2))
    return FeatureGrid(torch.stack([1.0 - road, mud, slope, trees]), CELL, names=FEATURES)


def search(cost: CostMap, start: tuple[int, int], goal: tuple[int, int]) -> Path:
    """The cheapest path."""
    graph: GridGraph = cost.graph()
    return shortest_path(graph, start, goal, graph.heuristic(goal))


def crossings(count: int, generator: torch.Generator) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Starts at one side of a map and goals at the other."""
    rows = torch.randint(1, SHAPE[1] - 1, (count, 2), generator=generator).tolist()
    return [((2, a), (SHAPE[0] - 3, b)) for a, b in rows]


def drive(config: Config, cost: CostMap, path: Path) -> tuple[Tensor, Tensor]:
    """States and controls of a car that follows a path, with terrain as a cost, until it is there or time is up."""
    limits = torch.tensor([0.5, 3.0], dtype=torch.float64)  # steering [rad], acceleration [m/s^2]
    follow = GoalCost(torch.zeros(4), [1.0, 1.0, 0.0, 0.0], [1.0, 0.05], [3.0, 3.0, 0.0, 0.0])
    problem = Problem(
        CAR,
        follow + cost,
        20,
        control_limits=(-limits, limits),
        rate_limits=(torch.tensor([-1.5, -10.0]), torch.tensor([1.5, 10.0])),
    )
    mpc = MPC(problem, config.planner)
    points = path.resampled(max(2, round(path.length / (config.speed * CAR.dt))))
    ahead = points[min(5, len(points) - 1)] - points[0]
    x = torch.cat([points[0], torch.atan2(ahead[1], ahead[0]).reshape(1), torch.ones(1)])
    state, xs, us, nearest = mpc.init(), [x], [], 0
    for _ in range(round(config.seconds / CAR.dt)):
        window = points[nearest : nearest + 8]
        nearest += int((window - x[:2]).norm(dim=-1).argmin())
        rows = (nearest + 1 + torch.arange(problem.horizon + 1)).clamp_max(len(points) - 1)
        reference = torch.cat([points[rows], torch.zeros(len(rows), 2)], dim=-1)
        u, state = mpc.step(state, x, reference=reference)
        x = CAR(x, u)
        xs.append(x)
        us.append(u)
        if float((x[:2] - points[-1]).norm()) < 1.0:
            break
    return torch.stack(xs), torch.stack(us)


def held_out(terrain: TerrainCost, driver: Driver, grids: list[FeatureGrid], paths: list[list[Path]]) -> np.ndarray:
    """Regret, overlap and distance [m] of plans beside the paths that were driven between the same places, ``(paths, 3)``."""
    rows = []
    for grid, driven in zip(grids, paths, strict=True):
        cost, true = CostMap(terrain, grid), CostMap(driver, grid)
        for path in driven:
            plan = search(cost, path.nodes[0], path.nodes[-1])  # type: ignore[arg-type]
            regret, overlap = mbrl.path_regret(true, plan), mbrl.path_overlap(plan, path, tolerance=CELL)
            rows.append((regret, overlap, mbrl.modified_hausdorff_distance(plan, path)))
    return np.array(rows)


def main(config: Config) -> bool:
    """Whether plans in new maps are nearly as cheap as the driver's, and the car arrived without much more."""
    torch.set_num_threads(1)  # small tensors
    generator = torch.Generator().manual_seed(config.seed)
    driver = Driver()
    grids = [make_scene(generator) for _ in range(2 * config.scenes + 1)]
    ways = [crossings(config.paths, generator) for _ in grids]
    driven = [[search(CostMap(driver, g), *way) for way in those] for g, those in zip(grids, ways, strict=True)]
    seen, unseen = slice(0, config.scenes), slice(config.scenes, 2 * config.scenes)

    # Two costs from what was driven in the first maps; and none, which makes for the shortest way.
    nothing = LinearTerrain(torch.zeros(len(FEATURES)))
    linear = mbrl.MaxMarginPlanning().learn(nothing, grids[seen], driven[seen])
    network = config.learner.learn(ExponentialTerrain(len(FEATURES), hidden=(16,)), grids[seen], driven[seen])
    print(
        "weights of", ", ".join(f"{n}: {w:.1f}" for n, w in zip(FEATURES, linear.terrain.weights.tolist(), strict=True))
    )
    terrains = {"shortest way": nothing, "linear": linear.terrain, "network": network.terrain}
    scores = {n: held_out(terrain, driver, grids[unseen], driven[unseen]) for n, terrain in terrains.items()}
    for name, rows in scores.items():
        regret, overlap, distance = rows.mean(0)
        print(
            f"{name:>12}: {100 * regret:5.1f} % more expensive than the driver's way, {100 * overlap:3.0f} % of it shared, "
            f"{distance:.2f} m away"
        )

    # A map that nobody has seen: a path by graph search, and a car on it.
    grid, expert = grids[-1], driven[-1][0]
    cost, true = network.on(grid), CostMap(driver, grid)
    plan = search(cost, expert.nodes[0], expert.nodes[-1])  # type: ignore[arg-type]
    xs, us = drive(config, cost, plan)
    regret = mbrl.path_regret(true, plan)
    best = float(true.path_cost(expert.positions))
    spent, straight = (
        float(true.path_cost(p)) for p in (xs[:, :2], search(CostMap(nothing, grid), *ways[-1][0]).positions)
    )
    missed = float((xs[-1, :2] - plan.positions[-1]).norm())
    print(
        f"in the new map: planned {100 * regret:.1f} % above the driver's {best:.0f}; the shortest way costs {straight:.0f}"
    )
    print(f"driven in {len(us) * CAR.dt:.1f} s at a cost of {spent:.0f}, to {missed:.1f} m from the goal")

    file = save_figure(draw(grid, true, cost, expert, plan, xs, us, scores), config.out / "learned_cost_map.png")
    print(file)
    means = {name: rows.mean(0)[0] for name, rows in scores.items()}
    return means["network"] < 0.25 * means["shortest way"] and missed < 1.5 and spent < 0.5 * (best + straight)


def relative(cost: CostMap) -> Tensor:
    """Costs beside the cheapest cell: paths do not tell a factor of all costs."""
    cells = cost.cells().detach()
    return cells / cells.min()


@in_house_style
def draw(
    grid: FeatureGrid,
    true: CostMap,
    learned: CostMap,
    expert: Path,
    plan: Path,
    xs: Tensor,
    us: Tensor,
    scores: dict[str, np.ndarray],
):
    """The new map with three paths, its true and its learned cost, and what these are worth in maps that were held out."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = new_figure(13.5, 7.6)
    rows = ("ground ground true true learned learned", "cells cells cells regrets regrets regrets")
    panels = figure.subplot_mosaic([row.split() for row in rows], height_ratios=[1.0, 0.9])
    half, size = 0.5 * grid.cell_size, [grid.cell_size * count for count in grid.shape]
    extent = (-half, size[0] - half, -half, size[1] - half)

    off_road, mud, slope, trees = (f.T.numpy() for f in grid.features)
    grass, steep = np.array([0.84, 0.91, 0.70]), np.array([0.50, 0.60, 0.36])
    picture = grass + slope[..., None] * (steep - grass)
    picture = np.where(mud[..., None] > 0.0, picture * MUD, picture)
    picture[off_road == 0.0] = 0.82
    picture += trees[..., None] * (TREE - picture)
    panels["ground"].imshow(picture, origin="lower", extent=extent, interpolation="nearest")
    gone = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xs[:, :2].numpy(), axis=0), axis=1))])
    shown = np.searchsorted(gone, np.linspace(0.0, gone[-1], max(2, int(gone[-1] / 3.5))))
    for part in outlines(CAR, xs, torch.cat([us, us[-1:]])):
        for polygon in part[shown]:
            panels["ground"].fill(*polygon.T, facecolor="white", edgecolor=INK, linewidth=0.7, alpha=0.85, zorder=6)
    panels["ground"].set_title("A new map, and the car in it")

    top = float(relative(true).max())
    for name, cost, title in (("true", true, "What the driver minds"), ("learned", learned, "What was learned")):
        values = relative(cost).T.numpy()
        colors = LogNorm(1.0, top)
        image = panels[name].imshow(
            values, origin="lower", extent=extent, norm=colors, cmap="cividis", interpolation="nearest"
        )
        panels[name].set_title(title)
    bar = figure.colorbar(image, ax=panels["learned"], ticks=[1, 2, 5, 10, 20], format="%g", shrink=0.75, pad=0.02)
    bar.set_label("cost beside the cheapest cell")
    bar.ax.minorticks_off()
    for name in ("ground", "true", "learned"):
        axes = panels[name]
        axes.plot(*expert.positions.T, color=ORANGE, linewidth=3.2, label="driver's way", zorder=3)
        axes.plot(
            *plan.positions.T, color=SKY, linewidth=2.0, linestyle="--", label="plan in the learned map", zorder=4
        )
        axes.plot(*xs[:, :2].T, color=RED, linewidth=1.6, label="driven by the car", zorder=5)
        axes.plot(*plan.positions[-1], color=INK, marker="*", linestyle="", markersize=12, label="goal", zorder=7)
        axes.set(xlabel="x [m]", ylabel="y [m]", aspect="equal", xlim=extent[:2], ylim=extent[2:])
        axes.grid(False)

    kinds = {"road": [0.82] * 3, "grass": grass, "steep grass": steep, "mud": grass * MUD, "tree": TREE}
    names = [Patch(facecolor=color, edgecolor=GRAY, label=name) for name, color in kinds.items()]
    lines = panels["ground"].get_legend_handles_labels()[0]
    figure.legend(handles=[*names, *lines], ncols=len(names) + len(lines), loc="outside upper center")

    x, y = relative(true).flatten().numpy(), relative(learned).flatten().numpy()
    places = {"road": off_road == 0, "mud": mud > 0, "grass": (off_road > 0) & (mud == 0)}
    for (name, where), color in zip(places.items(), (GRAY, RED, GREEN), strict=True):
        which = where.T.flatten()
        panels["cells"].plot(x[which], y[which], ".", color=color, alpha=0.5, markersize=4, label=name)
    panels["cells"].plot([1.0, top], [1.0, top], color=INK, linewidth=1.0, linestyle=":")
    panels["cells"].set(xscale="log", yscale="log", xlabel="what the driver minds", ylabel="learned")
    panels["cells"].set_title("Cost per meter of the cells, beside the cheapest")
    panels["cells"].legend(loc="upper left", markerscale=2.5)
    for axis in (panels["cells"].xaxis, panels["cells"].yaxis):
        axis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50]))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())

    axes = panels["regrets"]
    for k, rows in enumerate(scores.values()):
        spread = np.linspace(-0.25, 0.25, len(rows))
        axes.plot(k + spread, 100 * np.sort(rows[:, 0]), "o", color=BLUE, alpha=0.6)
        axes.plot([k - 0.35, k + 0.35], [100 * rows[:, 0].mean()] * 2, color=INK, linewidth=2.0)
        axes.annotate(f"{100 * rows[:, 0].mean():.1f} %", (k + 0.38, 100 * rows[:, 0].mean()), va="center")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=-0.1)
    axes.yaxis.set_major_locator(FixedLocator([0, 1, 10, 100]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(-0.5, len(scores) - 0.2)
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set_ylabel("above the driver's cost [%]")
    axes.set_title("Plans in held-out maps, and their mean")
    return figure


if __name__ == "__main__":
    raise SystemExit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
