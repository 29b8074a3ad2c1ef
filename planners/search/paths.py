"""What a graph search returns."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Path:
    """A shortest path, or the answer that there is none.

    Attributes:
        nodes: from the start to the goal; empty where the goal cannot be reached.
        cost: the sum of the edge costs, infinite where the goal cannot be reached.
        expansions: how often the successors of a node were asked for.
        positions: positions of the nodes ``(L, d)`` [m] on graphs that have them, such as grids; None on others.
    """

    nodes: tuple[Hashable, ...]
    cost: float
    expansions: int
    positions: Tensor | None = None

    @property
    def found(self) -> bool:
        """Whether the goal can be reached."""
        return bool(self.nodes)

    @property
    def length(self) -> float:
        """Length of the polyline through the positions [m]; infinite where the goal cannot be reached."""
        return float(self._known_positions().diff(dim=0).norm(dim=-1).sum()) if self.found else math.inf

    def resampled(self, count: int) -> Tensor:
        """Positions ``(count, d)`` [m] at equal distances along the path, from its start to its end.

        With ``count = T + 1`` they are a first guess of the positions of a trajectory of T steps.

        Raises:
            ValueError: count is no integer of at least 2, the goal was not reached, or the graph has no positions.
        """
        if not (isinstance(count, int) and count >= 2):
            raise ValueError(f"count must be an integer of at least 2, the start and the end, got {count!r}")
        if not self.found:
            raise ValueError("there is no path to resample: the goal cannot be reached, see path.found")
        points = self._known_positions()
        pieces = points.diff(dim=0).norm(dim=-1)
        reached = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
        wanted = torch.linspace(0.0, 1.0, count, dtype=points.dtype, device=points.device) * reached[-1]
        if not len(pieces):
            return points.expand(count, -1).clone()
        piece = (torch.searchsorted(reached, wanted, right=True) - 1).clamp(0, len(pieces) - 1)
        share = (wanted - reached[piece]) / pieces[piece].clamp_min(torch.finfo(points.dtype).tiny)
        return torch.lerp(points[piece], points[piece + 1], share.clamp(0.0, 1.0).unsqueeze(-1))

    def _known_positions(self) -> Tensor:
        if self.positions is None:
            raise ValueError("the nodes of this graph have no positions; give it a method positions(nodes) -> (L, d)")
        return self.positions

    def __str__(self) -> str:
        if not self.found:
            return f"Path(the goal cannot be reached, {self.expansions} expansions)"
        return f"Path({len(self.nodes)} nodes, cost {self.cost:.6g}, {self.expansions} expansions)"

    __repr__ = __str__
