r"""Regular grids of cells as graphs.

A step from a cell a to a neighbor b costs the distance of their centers times the mean of the costs of the two cells,

.. math:: c(a, b) = \|p_a - p_b\| \, \tfrac12 (c_a + c_b) ,

the trapezoidal rule for the integral of the cost along the step.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

Cell = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class GridGraph:
    """A grid of cells in two or three dimensions. Nodes are tuples of indices ``(i, j)`` or ``(i, j, k)``.

    Attributes:
        costs: cost per meter of each cell, ``(H, W)`` or ``(H, W, D)``, tensor or array, not negative; infinite cells are
            obstacles. Axis i of the array is axis i of the positions.
        connectivity: number of neighbors of a cell: 4 or 8 in two dimensions, 6 or 26 in three; None for 8 or 26.
        cell_size: side of a cell [m].
        origin: position of the center of the cell with index zero, ``(2,)`` or ``(3,)`` [m]; zero by default.
        obstacles: mask of the cells that may not be entered, of the shape of costs.
        cut_corners: whether a diagonal step may pass beside an obstacle; by default all cells that it touches must be free.

    Raises:
        ValueError: a shape does not fit, a cost is negative or NaN, or another field is out of range.
    """

    costs: Any
    connectivity: Any = None
    cell_size: float = 1.0
    origin: Any = None
    obstacles: Any = None
    cut_corners: bool = False

    def __post_init__(self):
        costs = torch.as_tensor(self.costs, dtype=torch.float64).detach().cpu()
        ndim = costs.ndim
        if ndim not in (2, 3) or 0 in costs.shape:
            raise ValueError(f"costs must have shape (H, W) or (H, W, D), none of them zero, got {tuple(costs.shape)}")
        bad = (~(costs >= 0)).nonzero()
        if len(bad):
            cell = tuple(bad[0].tolist())
            raise ValueError(f"costs must not be negative or NaN, got {float(costs[cell])} at {cell}")
        allowed = {2: (4, 8), 3: (6, 26)}[ndim]
        connectivity = allowed[1] if self.connectivity is None else self.connectivity
        if connectivity not in allowed:
            raise ValueError(
                f"connectivity must be {allowed[0]} or {allowed[1]} in {ndim} dimensions, got {connectivity}"
            )
        if not 0 < self.cell_size < math.inf:
            raise ValueError(f"cell_size must be a positive number of meters, got {self.cell_size}")
        if self.obstacles is not None:
            mask = torch.as_tensor(self.obstacles).detach().cpu()
            if mask.shape != costs.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"obstacles must be a mask of bool of shape {tuple(costs.shape)} as costs has, got {mask.dtype} "
                    f"{tuple(mask.shape)}"
                )
            costs = costs.masked_fill(mask, math.inf)
        origin = torch.zeros(ndim) if self.origin is None else self.origin
        origin = torch.as_tensor(origin, dtype=torch.float64).detach().cpu()
        if origin.shape != (ndim,) or not bool(origin.isfinite().all()):
            raise ValueError(f"origin must be a finite position of shape ({ndim},) [m], got {origin.tolist()}")
        for name, value in (("costs", costs), ("connectivity", connectivity), ("origin", origin)):
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each axis."""
        return tuple(self.costs.shape)

    def successors(self, node: Cell) -> Iterator[tuple[Cell, float]]:
        """The free neighbors of a cell, each with the cost of the step."""
        costs = self._costs
        here = costs.get(node, math.inf)
        if here == math.inf:
            return
        for offset, half_distance, beside in self._moves:
            neighbor = tuple(map(int.__add__, node, offset))
            there = costs.get(neighbor)
            if there is not None and all(tuple(map(int.__add__, node, o)) in costs for o in beside):
                yield neighbor, half_distance * (here + there)

    def heuristic(self, goal: Cell, kind: Literal["grid", "euclidean"] = "grid") -> Callable[[Cell], float]:
        """A consistent lower bound of the cost from a cell to the goal: a distance times the smallest cost of a free cell.

        Args:
            goal: the cell to reach.
            kind: ``"grid"``, the length of the shortest path on the grid without obstacles (Manhattan distance with 4 or 6
                neighbors, octile distance with 8 or 26), or ``"euclidean"``, the straight line, which is never longer.

        Raises:
            ValueError: the goal is outside the grid or blocked, or kind is unknown.
        """
        self.check_node("goal", goal)
        if kind not in ("grid", "euclidean"):
            raise ValueError(f"kind must be 'grid' or 'euclidean', got {kind!r}")
        scale = self.cell_size * min(self._costs.values())
        if kind == "euclidean":
            return lambda node: scale * math.dist(node, goal)
        if self.connectivity in (4, 6):
            return lambda node: scale * sum(abs(a - b) for a, b in zip(node, goal, strict=True))
        return lambda node: scale * _octile(node, goal)

    def check_node(self, name: str, node: Any) -> None:
        """Raise ValueError unless a node is a free cell of the grid."""
        cell = isinstance(node, tuple) and len(node) == len(self.shape) and all(type(i) is int for i in node)
        if not (cell and all(0 <= i < size for i, size in zip(node, self.shape, strict=True))):
            indices = " x ".join(f"0..{size - 1}" for size in self.shape)
            raise ValueError(
                f"{name} must be a tuple of integers in {indices}, got {node!r}; see grid.cell_at(position)"
            )
        if node not in self._costs:
            raise ValueError(f"{name} {node} is an obstacle; choose a free cell")

    def cell_at(self, position: Tensor | Sequence[float]) -> Cell:
        """The cell that a position ``(2,)`` or ``(3,)`` [m] lies in.

        Raises:
            ValueError: the position has another shape, is not finite or lies outside the grid.
        """
        position = torch.as_tensor(position, dtype=torch.float64).detach().cpu()
        if position.shape != self.origin.shape or not bool(position.isfinite().all()):
            raise ValueError(
                f"position must be finite, of shape {tuple(self.origin.shape)} [m], got {position.tolist()}"
            )
        cell = tuple(int(i) for i in torch.floor((position - self.origin) / self.cell_size + 0.5).tolist())
        if not all(0 <= i < size for i, size in zip(cell, self.shape, strict=True)):
            raise ValueError(f"position {position.tolist()} lies outside the grid, in cell {cell} of {self.shape}")
        return cell

    def positions(self, nodes: Sequence[Cell]) -> Tensor:
        """Centers of cells, ``(L, 2)`` or ``(L, 3)`` [m]."""
        index = torch.tensor([*nodes], dtype=torch.float64).reshape(-1, len(self.shape))
        return self.origin + self.cell_size * index

    @cached_property
    def _costs(self) -> dict[Cell, float]:
        """Costs of the free cells."""
        cells = itertools.product(*map(range, self.shape))
        return {cell: cost for cell, cost in zip(cells, self.costs.flatten().tolist(), strict=True) if cost < math.inf}

    @cached_property
    def _moves(self) -> list[tuple[Cell, float, list[Cell]]]:
        """Offsets of the neighbors, half their distance [m], and the offsets of other cells that must be free."""
        moves, all_free = [], len(self._costs) == math.prod(self.shape)
        for offset in itertools.product((-1, 0, 1), repeat=len(self.shape)):
            axes = sum(map(abs, offset))
            if axes == 0 or (axes > 1 and self.connectivity in (4, 6)):
                continue
            touched = itertools.product(*[(0, o) if o else (0,) for o in offset])
            beside = [] if self.cut_corners or all_free else [o for o in touched if any(o) and o != offset]
            moves.append((offset, 0.5 * self.cell_size * math.sqrt(axes), beside))
        return moves


def _octile(a: Cell, b: Cell) -> float:
    """Length of the shortest path between two cells if diagonal steps are allowed: as many of the longest kind as fit first."""
    steps = sorted(abs(i - j) for i, j in zip(a, b, strict=True))
    length, used = 0.0, 0
    for diagonal, needed in zip(range(len(steps), 0, -1), steps, strict=True):
        length += math.sqrt(diagonal) * (needed - used)
        used = needed
    return length
