"""How like a demonstrator's path another one is, and what it costs by the true cost."""

import math
from typing import Any

import torch
from torch import Tensor

from planners import CostMap, Path, shortest_path


def path_regret(true_cost: CostMap, path: Any, *, connectivity: int = 8) -> float:
    """What a path costs more than the cheapest one between its ends, by the true costs of cells, relative to that.

    Args:
        true_cost: of one scene.
        path: a path of a graph of the same cells, or positions ``(L, 2)`` [m], of which the cells that it leads through count.
        connectivity: of the graph in which the cheapest path is found.

    Returns:
        0 for a cheapest path, 1 for one that costs twice as much.

    Raises:
        ValueError: the path leaves the map, enters an obstacle or does not end in another cell than it begins.
    """
    cells = true_cost.grid.cells_along(path)
    if cells[0] == cells[-1]:
        raise ValueError("the path ends in the cell where it begins, the cheapest way to which costs nothing")
    graph = true_cost.graph(connectivity=connectivity)
    best = shortest_path(graph, cells[0], cells[-1], graph.heuristic(cells[-1])).cost
    return float((true_cost.cells().detach().double().cpu() * true_cost.grid.visits(cells)).sum()) / best - 1.0


def path_overlap(path: Any, demonstrated: Any, *, tolerance: float) -> float:
    """Share of the demonstrated path's length that another one passes by, within a tolerance [m].

    Args:
        path: a :class:`planners.Path` with positions, or positions ``(L, 2)`` [m].
        demonstrated: the same.
        tolerance: distance that counts as being there [m], such as the side of a cell.

    Raises:
        ValueError: a path is empty, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a distance that is not negative [m], got {tolerance}")
    a, b = _dense(path, tolerance), _dense(demonstrated, tolerance)
    return float((torch.cdist(b, a).amin(-1) <= tolerance * (1.0 + 1e-9)).double().mean())


def modified_hausdorff_distance(path: Any, demonstrated: Any) -> float:
    """The larger of the mean distances of the points of each path to the nearest one of the other [m] (Dubuisson and Jain 1994).

    Paths are compared at points as close as a hundredth of the longer one, so that it does not matter where theirs are.

    Args:
        path: a :class:`planners.Path` with positions, or positions ``(L, 2)`` [m].
        demonstrated: the same.

    Raises:
        ValueError: a path is empty.
    """
    a, b = _dense(path), _dense(demonstrated)
    distances = torch.cdist(a, b)
    return float(torch.maximum(distances.amin(0).mean(), distances.amin(1).mean()))


def _dense(path: Any, spacing: float = 0.0) -> Tensor:
    """Positions at equal distances along a polyline, 200 at least, and closer than a quarter of the spacing."""
    if not isinstance(path, Path):
        points = torch.as_tensor(path, dtype=torch.float64).detach().cpu()
        if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not bool(points.isfinite().all()):
            raise ValueError(f"a path must have finite positions (L, 2) [m], got shape {tuple(points.shape)}")
        path = Path(tuple(range(len(points))), 0.0, 0, points)
    count = 200 if spacing == 0.0 else max(200, math.ceil(4.0 * path.length / spacing))
    return path.resampled(min(count, 5000) + 1)
