"""Trees of states that grow from initial states, one for each problem of a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Tree:
    """Nodes in tensors with room for more.

    Where the room runs out it is doubled, so that copying takes no longer than adding. A node that is not alive fills a place
    only: nothing could be added there for that problem of the batch.

    Attributes:
        states: ``(*batch, N, n)``.
        distance: distance of a node from the goal ``(*batch, N)``, infinite for nodes that are not alive.
        depth: steps from the root ``(*batch, N)``.
        parent: index of the node before ``(*batch, N)``; -1 at the root.
        steps: steps from there ``(*batch, N)``.
        controls: controls of these steps ``(*batch, N, H, m)``.
        alive: whether a node may be extended ``(*batch, N)``.
        reached: whether a node is at the goal ``(*batch, N)``.
        size: nodes so far, of the N that there is room for.
    """

    states: Tensor
    distance: Tensor
    depth: Tensor
    parent: Tensor
    steps: Tensor
    controls: Tensor
    alive: Tensor
    reached: Tensor
    size: int = 0

    @staticmethod
    def empty(like: Tensor, room: int, segment: tuple[int, int]) -> "Tree":
        """Room for nodes with states like ``(*batch, n)``, reached by segments of up to ``(H, m)`` controls."""
        shape, n = (*like.shape[:-1], room), like.shape[-1]
        return Tree(
            states=like.new_zeros(*shape, n),
            distance=like.new_zeros(shape),
            depth=like.new_zeros(shape, dtype=torch.long),
            parent=like.new_zeros(shape, dtype=torch.long),
            steps=like.new_zeros(shape, dtype=torch.long),
            controls=like.new_zeros(*shape, *segment),
            alive=like.new_zeros(shape, dtype=torch.bool),
            reached=like.new_zeros(shape, dtype=torch.bool),
        )

    def add(self, **values: Tensor) -> None:
        """Add nodes, all fields ``(*batch, S, ...)``."""
        axis = self.depth.ndim - 1
        added = values["depth"].shape[-1]
        while self.size + added > self.depth.shape[-1]:
            for name in values:
                field = getattr(self, name)
                setattr(self, name, torch.cat([field, torch.zeros_like(field)], dim=axis))
        for name, value in values.items():
            getattr(self, name).narrow(axis, self.size, added).copy_(value)
        self.size += added

    def present(self, name: str) -> Tensor:
        """A field of the nodes so far."""
        return getattr(self, name).narrow(self.depth.ndim - 1, 0, self.size)

    def branch(self, element: int, node: int) -> Tensor:
        """Controls ``(L, m)`` from the root to a node in the tree of one element of the flattened batch."""
        room = self.depth.shape[-1]
        parent, steps = (field.reshape(-1, room)[element] for field in (self.parent, self.steps))
        controls = self.controls.reshape(-1, *self.controls.shape[-3:])[element]
        parts = []
        while int(parent[node]) >= 0:
            parts.append(controls[node, : int(steps[node])])
            node = int(parent[node])
        return torch.cat(parts[::-1]) if parts else controls.new_zeros(0, controls.shape[-1])
