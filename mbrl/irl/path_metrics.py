"""How like a demonstrator's path another one is, and what it costs by the true cost."""

from typing import Any

import torch
from torch import Tensor

from planners import CostMap, Path, shortest_path

PIECES = 200


def path_regret(true_cost: CostMap, path: Any) -> float:
    """What a path costs more than the cheapest one between its ends, by the true costs of cells, relative to that.

    The cheapest is that of a graph with 8 neighbors.

    Args:
        true_cost: of one scene.
        path: a path of a graph of the same cells, or positions ``(L, 2)`` [m], of which the cells that it leads through count.

    Returns:
        0 for a cheapest path, 1 for one that costs twice as much.

    Raises:
        ValueError: the path leaves the map, enters an obstacle or does not end in another cell than it begins.
    """
    cells = true_cost.grid.cells_along(path)
    if cells[0] == cells[-1]:
        raise ValueError("the path ends in the cell where it begins, the cheapest way to which costs nothing")
    graph = true_cost.graph()
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
    distances = _distances(_dense(demonstrated), _positions(path))
    return float((distances <= tolerance + 1e-9 * (1.0 + tolerance)).double().mean())


def modified_hausdorff_distance(path: Any, demonstrated: Any) -> float:
    """The larger of the mean distances of each path from the other [m] (Dubuisson and Jain 1994, for polylines).

    Means are along the paths, over 200 pieces of the same length, so that it does not matter where their points are.

    Args:
        path: a :class:`planners.Path` with positions, or positions ``(L, 2)`` [m].
        demonstrated: the same.

    Raises:
        ValueError: a path is empty.
    """
    there = _distances(_dense(path), _positions(demonstrated)).mean()
    back = _distances(_dense(demonstrated), _positions(path)).mean()
    return float(torch.maximum(there, back))


def _positions(path: Any) -> Tensor:
    """Points of a polyline ``(L, 2)``."""
    points = path.positions if isinstance(path, Path) else torch.as_tensor(path, dtype=torch.float64).detach().cpu()
    if isinstance(path, Path) and not path.found:
        raise ValueError("there is no path: the goal cannot be reached, see path.found")
    if (
        points is None
        or points.ndim != 2
        or points.shape[1] != 2
        or not bool(points.isfinite().all())
        or not len(points)
    ):
        shape = None if points is None else tuple(points.shape)
        raise ValueError(f"a path must have finite positions (L, 2) [m], got shape {shape}")
    return points


def _dense(path: Any) -> Tensor:
    """The middles of 200 pieces of equal length of a polyline."""
    points = _positions(path)
    dense = Path(tuple(range(len(points))), 0.0, 0, points).resampled(PIECES + 1)
    return 0.5 * (dense[1:] + dense[:-1])


def _distances(points: Tensor, polyline: Tensor) -> Tensor:
    """Distances of points ``(P, 2)`` from a polyline ``(L, 2)``: ``(P,)``."""
    if len(polyline) == 1:
        return (points - polyline).norm(dim=-1)
    start, way = polyline[:-1], polyline.diff(dim=0)
    share = ((points[:, None] - start) * way).sum(-1) / way.square().sum(-1).clamp_min(1e-300)
    nearest = start + share.clamp(0.0, 1.0).unsqueeze(-1) * way
    return (points[:, None] - nearest).norm(dim=-1).amin(-1)
