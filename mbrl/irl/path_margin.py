r"""The objective of maximum margin planning (Ratliff, Bagnell and Zinkevich 2006) for paths on cost maps.

.. math:: J(c) = \frac1N \sum_{i=1}^N \frac1{|\xi_i|} \Bigl[ \langle c_i, \mu(\xi_i) \rangle
    - \min_{\xi} \, \langle c_i - \ell_i, \mu(\xi) \rangle \Bigr]

with the costs per meter :math:`c_i` of the cells of the scene of demonstration i, the meters :math:`\mu(\xi)` of a path that
belong to each cell, the demonstrated length, and a loss per meter :math:`\ell_i` that grows with the distance from the
demonstrated path,

.. math:: \ell_i(p) = \text{margin} \cdot c_0 \, \bigl( 1 - e^{-d_i(p)^2 / 2 \sigma^2} \bigr) ,

so that paths have to be the more expensive the farther they lead from what was demonstrated. The minimum is a shortest path
among costs :math:`c - \ell`, which are not negative, because the loss is at most the floor :math:`c_0` of the terrain's costs.
J is convex in c, not negative, and has the sub-gradient :math:`(\mu(\xi_i) - \mu(\xi_i^*)) / N |\xi_i|`: costs rise where the
planner goes and the demonstrator does not.
"""

import abc
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.training.checking import check_numbers
from planners import CostMap, FeatureGrid, GridGraph, Path, TerrainCost, shortest_path

Demonstrations = Sequence[Sequence[Path | Trajectory | Tensor]]


@dataclass(frozen=True, eq=False)
class LearnedTerrain:
    """What a learner made of paths through scenes.

    Attributes:
        terrain: the learned cost of terrain; the one that was handed in stays as it was.
        converged: whether the learner's own criterion was met.
        history: numbers of each iteration by name.
    """

    terrain: TerrainCost
    converged: bool
    history: dict[str, list[float]] = field(default_factory=dict)

    def on(self, grid: FeatureGrid, **options: Any) -> CostMap:
        """The cost map of a scene; options are those of :class:`planners.CostMap`."""
        return CostMap(self.terrain, grid, **options)


@dataclass(frozen=True)
class TerrainLearner(abc.ABC):
    """The settings of a learner of costs of terrain from paths.

    Attributes:
        margin: largest loss per meter, as a share of the terrain's floor: by how much other paths have to be more expensive.
        margin_width: sigma, distance from the demonstrated path at which the loss has grown to two fifths of it [m].

    Raises:
        ValueError: a field is out of range.
    """

    margin: float = 0.5
    margin_width: float = 1.0

    def __post_init__(self):
        check_numbers(self, rates=("margin_width",), shares=("margin",))

    @abc.abstractmethod
    def learn(
        self, terrain: TerrainCost, grids: Sequence[FeatureGrid], demonstrations: Demonstrations
    ) -> LearnedTerrain:
        """Learn.

        Args:
            terrain: what is learned, with the parameters from which the search begins.
            grids: features of each scene.
            demonstrations: for each scene the paths that were driven there: trajectories whose first two states are the position
                (or observations, where there are no states), positions ``(L, 2)`` [m], or paths of a graph of the same cells.

        Raises:
            ValueError: demonstrations do not fit the scenes, or features the terrain.
            TypeError: an argument is of another kind.
        """


@dataclass(frozen=True, eq=False)
class DemonstratedPath:
    """One path that was demonstrated.

    Attributes:
        scene: index of its grid.
        start: its first cell.
        goal: its last cell.
        length: of the path through cells [m].
        visits: meters in each cell ``(H, W)``.
        loss: per meter ``(H, W)``.
    """

    scene: int
    start: tuple[int, ...]
    goal: tuple[int, ...]
    length: float
    visits: Tensor
    loss: Tensor


class PathMargin:
    """The objective and its sub-gradients.

    Args:
        settings: margin and its width.
        terrain: is copied to :attr:`terrain`, in double precision, whose parameters can be changed.
        grids: features of each scene.
        demonstrations: for each scene.

    Raises:
        ValueError: they do not fit.
        TypeError: one is of another kind.
    """

    def __init__(self, settings: TerrainLearner, terrain: Any, grids: Any, demonstrations: Any):
        if not isinstance(terrain, TerrainCost):
            raise TypeError(f"terrain must be LinearTerrain or another TerrainCost, got {type(terrain).__name__}")
        for name, value in (("grids", grids), ("demonstrations", demonstrations)):
            if not isinstance(value, Sequence):
                raise TypeError(f"{name} must be a sequence with one entry for each scene, got {type(value).__name__}")
        if len(grids) != len(demonstrations) or not any(len(paths) for paths in demonstrations):
            raise ValueError(
                f"there are {len(grids)} grids and demonstrations in {len(demonstrations)} scenes, "
                f"{[len(paths) for paths in demonstrations]}; there must be as many, and at least one path"
            )
        for grid in grids:
            if not isinstance(grid, FeatureGrid) or grid.batch:
                raise TypeError("grids must be a FeatureGrid of one scene each; take grid.scene(index) of batches")
            terrain.check(grid.features)
        self.settings, self.device = settings, next(terrain.parameters()).device
        self.terrain = copy.deepcopy(terrain).double().cpu()  # where graphs are searched
        self.grids = [_on_cpu(grid) for grid in grids]
        self.features = [grid.features for grid in self.grids]
        self.demonstrated = [
            self._demonstrated(scene, path, f"demonstration {i} in scene {scene}")
            for scene, paths in enumerate(demonstrations)
            for i, path in enumerate(paths)
        ]

    def costs(self) -> list[Tensor]:
        """Costs of the cells of each scene ``(H, W)``, with a graph to the parameters."""
        return [self.terrain(features) for features in self.features]

    def learned(self) -> TerrainCost:
        """The terrain, on the device that it came from."""
        return self.terrain.to(self.device)

    def value_and_gradients(self, costs: Sequence[Tensor]) -> tuple[float, list[Tensor], float]:
        """The objective, a sub-gradient by the costs of each scene ``(H, W)``, and its part that does not depend on costs."""
        value, losses, gradients = 0.0, 0.0, [torch.zeros(grid.shape, dtype=torch.float64) for grid in self.grids]
        for demonstration in self.demonstrated:
            c = costs[demonstration.scene].detach()
            planned = self.plan(demonstration, c)
            share = 1.0 / (len(self.demonstrated) * demonstration.length)
            gradients[demonstration.scene] += share * (demonstration.visits - planned)
            losses += share * float((demonstration.loss * planned).sum())
            value += share * float((c * (demonstration.visits - planned)).sum())
        return value + losses, gradients, losses

    def slope(self, gradients: Sequence[Tensor]) -> Tensor:
        """Gradients by costs as one by the weights of a linear terrain, ``(k,)``."""
        parts = [torch.einsum("khw,hw->k", f, g) for f, g in zip(self.features, gradients, strict=True)]
        return torch.stack(parts).sum(0)

    def plan(self, demonstration: DemonstratedPath, costs: Tensor) -> Tensor:
        """Meters in each cell of the cheapest path among costs less the loss, ``(H, W)``."""
        grid = self.grids[demonstration.scene]
        augmented = (costs - demonstration.loss).clamp_min(0.0)  # rounding; the loss is at most the floor of costs
        graph = GridGraph(augmented, 8, grid.cell_size, grid.origin, grid.obstacles)
        path = shortest_path(graph, demonstration.start, demonstration.goal, graph.heuristic(demonstration.goal))
        if not path.found:
            raise ValueError(
                f"no path of the graph leads from {demonstration.start} to {demonstration.goal} in scene {demonstration.scene}, "
                "where one was demonstrated: it cuts corners of obstacles; mark fewer cells as obstacles"
            )
        return grid.visits(path.nodes)  # type: ignore[arg-type]

    def _demonstrated(self, scene: int, path: Any, name: str) -> DemonstratedPath:
        grid = self.grids[scene]
        if isinstance(path, Trajectory):
            rows = path.observations if path.states is None else path.states
            path = torch.as_tensor(rows[:, :2].copy())
        try:
            cells = grid.cells_along(path)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if cells[0] == cells[-1]:
            raise ValueError(f"{name} ends in the cell where it begins, and is no way to anywhere")
        visits = grid.visits(cells)
        away = torch.cdist(grid.centers.reshape(-1, 2), grid.centers[tuple(torch.tensor(cells).T)]).amin(-1)
        ratio = away.reshape(grid.shape) / self.settings.margin_width
        loss = self.settings.margin * self.terrain.floor * (1.0 - (-0.5 * ratio.square()).exp())
        return DemonstratedPath(scene, cells[0], cells[-1], float(visits.sum()), visits, loss)


def _on_cpu(grid: FeatureGrid) -> FeatureGrid:
    mask = None if grid.obstacles is None else grid.obstacles.cpu()
    return FeatureGrid(grid.features.double().cpu(), grid.cell_size, grid.origin.cpu(), mask, grid.names)
