r"""A cost of where a vehicle is: cells of terrain for graph search, and the same numbers between their centers for all planners.

A step from position p to p' costs

.. math:: \ell(x, x') = \|p' - p\| \, \tfrac12 \bigl( c(p) + c(p') \bigr) ,

the trapezoidal rule for the integral of the cost per meter along the way, as in a :class:`planners.GridGraph`: on a path from
center to center both are the same. With ``per="step"`` the cost is c(p), however fast the vehicle goes.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Literal, Self

from torch import Tensor

from planners.costs import Cost
from planners.search import GridGraph
from planners.terrain.feature_grid import FeatureGrid
from planners.terrain.terrain_cost import TerrainCost

ROUNDING = 0.01  # of a cell: below it the length of a step is smooth, so that it has derivatives at rest


class CostMap(Cost):
    """Terrain as a cost, of one scene or of several.

    Args:
        terrain: cost per meter by features. Its parameters are those of this cost.
        grid: the features of the scene. Its batch axes are the first axes of states: one scene for each problem of a batch.
        position: indices of the two coordinates in the state [m].
        per: whether terrain is paid for by the ``"meter"``, or by the ``"step"``.
        outside: what a meter away from the map adds to the cost per meter; the cost of the nearest cell goes on.
        obstacle: what an obstacle adds to the cost per meter; graphs have no way through it.

    Raises:
        ValueError: features do not fit the terrain, or an argument is out of range.
        TypeError: terrain or grid are of another kind.

    Example:
        >>> import torch
        >>> from planners import CostMap, FeatureGrid, LinearTerrain, shortest_path
        >>> mud = torch.zeros(1, 5, 3)
        >>> mud[0, 2, :2] = 1.0
        >>> cost = CostMap(LinearTerrain([9.0]), FeatureGrid(mud))
        >>> shortest_path(cost.graph(), (0, 0), (4, 0)).nodes  # around the mud
        ((0, 0), (1, 1), (2, 2), (3, 1), (4, 0))
    """

    def __init__(
        self,
        terrain: TerrainCost,
        grid: FeatureGrid,
        *,
        position: Sequence[int] = (0, 1),
        per: Literal["meter", "step"] = "meter",
        outside: float = 10.0,
        obstacle: float = 100.0,
    ):
        super().__init__()
        if not isinstance(terrain, TerrainCost) or not isinstance(grid, FeatureGrid):
            raise TypeError(
                "a CostMap is made of a TerrainCost, such as LinearTerrain, and a FeatureGrid, got "
                f"{type(terrain).__name__} and {type(grid).__name__}"
            )
        terrain.check(grid.features)
        if len(position) != 2 or per not in ("meter", "step") or not (outside >= 0 and obstacle >= 0):
            raise ValueError(
                "need two indices in position, per 'meter' or 'step', and outside and obstacle not negative, got "
                f"{position}, {per!r}, {outside} and {obstacle}"
            )
        self.terrain, self.grid = terrain, grid
        self.position, self.per = tuple(position), per
        self.outside, self.obstacle = float(outside), float(obstacle)
        self.needs_next_state = per == "meter"

    def on(self, grid: FeatureGrid) -> Self:
        """The same terrain cost, its parameters shared, in another scene."""
        self.terrain.check(grid.features)
        new = copy.copy(self)
        new._parameters, new._modules = dict(self._parameters), dict(self._modules)
        new.grid = grid
        return new

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """The scene goes along to another device or dtype."""
        super()._apply(fn, recurse)
        self.grid = self.grid.mapped(fn)
        return self

    def cells(self) -> Tensor:
        """Cost per meter of the cells ``(*batch, H, W)``, with gradients to the terrain's parameters."""
        costs = self.terrain(self.grid.features)
        return costs if self.grid.obstacles is None else costs + self.obstacle * self.grid.obstacles.to(costs)

    def graph(self, *, connectivity: int | None = None, cut_corners: bool = False) -> GridGraph:
        """The cells as a graph for :func:`planners.shortest_path`.

        Raises:
            ValueError: the map has several scenes; take one with ``cost_map.on(grid.scene(index))``.
        """
        if self.grid.batch:
            raise ValueError(
                f"a graph is of one scene, this map has {self.grid.batch}; take cost_map.on(grid.scene(index))"
            )
        return GridGraph(
            self.cells(),
            connectivity,
            self.grid.cell_size,
            self.grid.origin,
            self.grid.obstacles,
            cut_corners,
        )

    def at(self, positions: Tensor) -> Tensor:
        """Cost per meter at positions ``(*batch, ..., 2)`` [m], bilinear between the centers of cells: ``(*batch, ...)``."""
        inside = self.grid.interpolate(self.cells().to(positions), positions)
        return inside + self.outside * self.grid.distance_outside(positions)

    def path_cost(self, positions: Tensor) -> Tensor:
        """Cost of polylines ``(*batch, ..., L, 2)`` [m], by the trapezoidal rule on each piece: ``(*batch, ...)``.

        Pieces should not be longer than cells are wide, for between their ends the map is not looked at.
        """
        costs = self.at(positions)
        return (positions.diff(dim=-2).norm(dim=-1) * 0.5 * (costs[..., :-1] + costs[..., 1:])).sum(-1)

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Cost of a step where terrain is paid for by the step.

        Raises:
            TypeError: it is paid for by the meter, which depends on the next state.
        """
        if self.per == "meter":
            raise TypeError(
                "a CostMap per meter depends on the next state; evaluate transition(x, u, x_next, t) instead of stage, or "
                "choose per='step'"
            )
        return self.at(x[..., self.position])

    def transition(self, x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        """Cost of a step and the state it leads to, ``(*batch,)``."""
        if self.per == "step":
            return self.stage(x, u, t)
        start, end = x[..., self.position], x_next[..., self.position]
        rounding = ROUNDING * self.grid.cell_size
        length = ((end - start).square().sum(-1) + rounding**2).sqrt() - rounding
        return length * 0.5 * (self.at(start) + self.at(end))

    def extra_repr(self) -> str:
        """Scenes, cells and unit."""
        H, W = self.grid.shape
        return f"scenes={self.grid.batch}, {H} x {W} cells of {self.grid.cell_size} m, per {self.per}"
