"""Features of terrain on a grid in the plane, and the paths that lead through its cells."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from planners.search.grid import Cell
from planners.search.paths import Path


@dataclass(frozen=True, eq=False)
class FeatureGrid:
    """Features of terrain in the cells of a grid in the plane; several scenes of one size are one grid with batch axes.

    Attributes:
        features: ``(*batch, k, H, W)``, finite. Axis H belongs to the first coordinate of positions, W to the second.
        cell_size: side of a cell [m].
        origin: position of the center of the cell (0, 0), ``(2,)`` [m]; zero by default.
        obstacles: mask of the cells that may not be entered, ``(*batch, H, W)``; none by default.
        names: of the features, for figures and reports; may be empty.

    Raises:
        ValueError: a shape does not fit, a feature is not finite, or another field is out of range.

    Example:
        >>> import torch
        >>> from planners import FeatureGrid
        >>> grid = FeatureGrid(torch.zeros(2, 4, 3), cell_size=0.5)
        >>> grid.cells_along(torch.tensor([[0.0, 0.0], [1.5, 1.0]]))
        ((0, 0), (1, 1), (2, 2), (3, 2))
    """

    features: Any
    cell_size: float = 1.0
    origin: Any = None
    obstacles: Any = None
    names: tuple[str, ...] = ()

    def __post_init__(self):
        features = torch.as_tensor(self.features)
        features = features if features.is_floating_point() else features.double()
        if features.ndim < 3 or 0 in features.shape[-3:]:
            raise ValueError(
                f"features must have shape (*batch, k, H, W), none of k, H, W zero, got {tuple(features.shape)}"
            )
        if not bool(features.isfinite().all()):
            raise ValueError(
                "features must be finite; mark cells of which nothing is known with a feature of their own"
            )
        if not 0 < self.cell_size < math.inf:
            raise ValueError(f"cell_size must be a positive number of meters, got {self.cell_size}")
        origin = torch.zeros(2) if self.origin is None else self.origin
        origin = torch.as_tensor(origin, dtype=torch.float64).to(features.device)
        if origin.shape != (2,) or not bool(origin.isfinite().all()):
            raise ValueError(f"origin must be a finite position of shape (2,) [m], got {origin.tolist()}")
        cells = (*features.shape[:-3], *features.shape[-2:])
        if self.obstacles is not None:
            mask = torch.as_tensor(self.obstacles).to(features.device)
            if mask.shape != cells or mask.dtype != torch.bool:
                raise ValueError(
                    f"obstacles must be a mask of bool of shape {cells}, got {mask.dtype} {tuple(mask.shape)}"
                )
            object.__setattr__(self, "obstacles", mask)
        if self.names and len(self.names) != features.shape[-3]:
            raise ValueError(f"there are {features.shape[-3]} features and {len(self.names)} names: {self.names}")
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "names", tuple(self.names))

    @property
    def batch(self) -> tuple[int, ...]:
        """Axes of scenes."""
        return tuple(self.features.shape[:-3])

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells along each axis, H and W."""
        return tuple(self.features.shape[-2:])

    @property
    def num_features(self) -> int:
        """Features of a cell, k."""
        return self.features.shape[-3]

    @property
    def centers(self) -> Tensor:
        """Positions of the centers of the cells, ``(H, W, 2)`` [m]."""
        axes = [torch.arange(size, dtype=self.origin.dtype, device=self.origin.device) for size in self.shape]
        return self.origin + self.cell_size * torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    def interpolate(self, values: Tensor, positions: Tensor) -> Tensor:
        """Values of cells at positions, bilinear between centers; beyond the outermost centers what it is at the nearest point.

        Args:
            values: ``(*batch, H, W)``.
            positions: ``(*batch, ..., 2)`` [m]; batch axes broadcast.

        Returns:
            ``(*batch, ...)``; NaN where a position is.

        Raises:
            ValueError: positions lack the batch axes of the scenes.
        """
        *batch, H, W = values.shape
        *lead, _ = positions.shape
        if len(lead) < len(batch):
            raise ValueError(
                f"a map of {tuple(batch)} scenes needs positions whose first axes are those, got {tuple(positions.shape)}"
            )
        scenes = torch.broadcast_shapes(tuple(batch), tuple(lead[: len(batch)]))
        full = (*scenes, *lead[len(batch) :])
        rows, count = math.prod(scenes), math.prod(lead[len(batch) :])
        table = values.expand(*scenes, H, W).reshape(rows, H * W)
        place = ((positions - self.origin.to(positions)) / self.cell_size).expand(*full, 2).reshape(rows, count, 2)
        last = positions.new_tensor([H - 1, W - 1])
        place = torch.minimum(place.clamp_min(0.0), last)
        low = torch.minimum(place.detach().nan_to_num(0.0).floor(), (last - 1).clamp_min(0.0))
        share = place - low
        i, j = low.long().unbind(-1)
        i_next, j_next = (i + 1).clamp_max(H - 1), (j + 1).clamp_max(W - 1)
        a, b = share.unbind(-1)
        near = torch.lerp(table.gather(1, i * W + j), table.gather(1, i * W + j_next), b)
        far = torch.lerp(table.gather(1, i_next * W + j), table.gather(1, i_next * W + j_next), b)
        return torch.lerp(near, far, a).reshape(full)

    def distance_outside(self, positions: Tensor) -> Tensor:
        """How far positions ``(..., 2)`` are from the map, half a cell beyond the outermost centers, along the axes [m]."""
        size = self.cell_size * (positions.new_tensor(self.shape) - 0.5)
        ahead = positions - self.origin.to(positions)
        return (-0.5 * self.cell_size - ahead).clamp_min(0.0).sum(-1) + (ahead - size).clamp_min(0.0).sum(-1)

    def cells_along(self, path: Any) -> tuple[Cell, ...]:
        """The cells that a path leads through, each a neighbor of the one before, as thin as a path of the graph is.

        Corners that a polyline touches are cut, but for those of obstacles, so that a straight line is as long as the shortest
        path of a graph with 8 neighbors.

        Args:
            path: a :class:`Path` on a grid of the same cells, whose nodes are taken as they are; one with other positions, or
                positions ``(L, 2)`` [m].

        Raises:
            ValueError: the path is empty, leaves the map, enters an obstacle or leads between two that touch at a corner, or the
                grid has batch axes.
        """
        self._check_single("cells_along")
        whole = isinstance(path, Path) and self._is_of_these_cells(path)
        cells = self._cells_of(path if whole or not isinstance(path, Path) else path.positions)
        outside = [cell for cell in cells if not self._has(cell)]
        if outside:
            raise ValueError(f"the path leaves the map of {self.shape} cells, first in cell {outside[0]}")
        blocked = [] if self.obstacles is None else [cell for cell in cells if bool(self.obstacles[cell])]
        if blocked:
            raise ValueError(f"the path enters an obstacle, first in cell {blocked[0]}")
        if whole:
            return tuple(cells)
        thin: list[Cell] = []
        for cell in cells:
            while len(thin) >= 2 and self._are_neighbors(thin[-2], cell):
                thin.pop()
            if thin and not self._are_neighbors(thin[-1], cell):
                thin.append(self._around_corner(thin[-1], cell))
            if not thin or thin[-1] != cell:
                thin.append(cell)
        return tuple(thin)

    def visits(self, cells: Sequence[Cell]) -> Tensor:
        """Meters of a path of neighboring cells that belong to each, half of each step to either end, ``(H, W)``.

        The cost of the path in a :class:`GridGraph` is the sum of costs times these.
        """
        index = torch.tensor([*cells], dtype=torch.long).reshape(-1, 2)
        half = 0.5 * self.cell_size * index.diff(dim=0).double().norm(dim=-1)
        flat = index[:, 0] * self.shape[1] + index[:, 1]
        visits = torch.zeros(math.prod(self.shape), dtype=torch.float64)
        visits.index_add_(0, flat[:-1], half).index_add_(0, flat[1:], half)
        return visits.reshape(self.shape)

    def _check_single(self, name: str) -> None:
        if self.batch:
            raise ValueError(f"{name} is for one scene, this grid has {self.batch}; take one with grid.scene(index)")

    def scene(self, *index: int) -> "FeatureGrid":
        """One scene of a grid with batch axes."""
        if len(index) != len(self.batch):
            raise ValueError(f"a grid of scenes {self.batch} needs {len(self.batch)} indices, got {index}")
        mask = None if self.obstacles is None else self.obstacles[index]
        return FeatureGrid(self.features[index], self.cell_size, self.origin, mask, self.names)

    def mapped(self, fn: Callable[[Tensor], Tensor]) -> "FeatureGrid":
        """The same scene with other tensors, such as on another device; the origin stays in double precision.

        Args:
            fn: gives the tensor to take instead of one; nothing is checked again.
        """
        new = copy.copy(self)
        moved = fn(self.features)
        object.__setattr__(new, "features", moved)
        object.__setattr__(new, "origin", self.origin.to(moved.device))
        if self.obstacles is not None:
            object.__setattr__(new, "obstacles", self.obstacles.to(moved.device))
        return new

    def _cells_of(self, path: Any) -> list[Cell]:
        """Cells of a path, or of points along a polyline that are closer than cells are wide."""
        if isinstance(path, Path):
            return list(path.nodes)  # type: ignore[arg-type]
        points = torch.as_tensor(path, dtype=torch.float64).detach().cpu()
        if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not bool(points.isfinite().all()):
            raise ValueError(f"a path must have finite positions (L, 2) [m], got shape {tuple(points.shape)}")
        longest = float(points.diff(dim=0).norm(dim=-1).amax()) if len(points) > 1 else 0.0
        between = max(1, math.ceil(8.0 * longest / self.cell_size))
        share = torch.arange(between, dtype=torch.float64)[:, None] / between
        dense = (points[:-1, None] + share * points.diff(dim=0)[:, None]).reshape(-1, 2)
        dense = torch.cat([dense, points[-1:]])
        index = torch.floor((dense - self.origin.cpu()) / self.cell_size + 0.5).long()
        return [tuple(cell) for cell in torch.unique_consecutive(index, dim=0).tolist()]

    def _is_of_these_cells(self, path: Path) -> bool:
        """Whether the nodes of a path are cells of this grid, and not of one with other cells."""
        if not path.found:
            raise ValueError("there is no path: the goal cannot be reached, see path.found")
        if path.positions is None:
            return True
        if not all(isinstance(node, tuple) and len(node) == 2 for node in path.nodes):
            return False
        centers = self.origin.cpu() + self.cell_size * torch.tensor([*path.nodes], dtype=torch.float64)
        return bool(((centers - path.positions).abs() <= 1e-6 * self.cell_size).all())

    def _has(self, cell: Cell) -> bool:
        return all(0 <= i < size for i, size in zip(cell, self.shape, strict=True))

    def _are_neighbors(self, a: Cell, b: Cell) -> bool:
        """Whether one step leads from a to b, and cuts no corner of an obstacle."""
        if max(abs(a[0] - b[0]), abs(a[1] - b[1])) > 1:
            return False
        return self.obstacles is None or not bool(self.obstacles[a[0], b[1]] | self.obstacles[b[0], a[1]])

    def _around_corner(self, a: Cell, b: Cell) -> Cell:
        """The free cell beside the corner of an obstacle that a step from a to b cuts."""
        for beside in ((a[0], b[1]), (b[0], a[1])):
            if not bool(self.obstacles[beside]):
                return beside
        raise ValueError(f"the path leads between two obstacles that touch at a corner, from cell {a} to {b}")
