"""The best candidate so far, which the planners that only choose keep as their belief."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Incumbent:
    """The best candidate of each problem.

    Attributes:
        knots: ``(*batch, K, m)``.
        cost: ``(*batch,)``, infinite where there is none yet.
        xs: its states ``(*batch, T+1, n)`` where they are known, or None.
    """

    knots: Tensor
    cost: Tensor
    xs: Tensor | None = None

    @staticmethod
    def unknown(knots: Tensor) -> "Incumbent":
        """Knots of unknown cost, which any finite candidate replaces."""
        return Incumbent(knots, knots.new_full(knots.shape[:-2], float("inf")))

    def improved(self, candidates: Tensor, costs: Tensor, xs: Tensor | None = None) -> "Incumbent":
        """The better of this and the best of ``(*batch, samples, K, m)`` with costs ``(*batch, samples)`` and their states."""
        cost, index = costs.min(dim=-1)
        return self.where(cost < self.cost, _pick(candidates, index), cost, None if xs is None else _pick(xs, index))

    def where(self, mask: Tensor, knots: Tensor, cost: Tensor, xs: Tensor | None = None) -> "Incumbent":
        """Another plan where the mask ``(*batch,)`` is true."""
        rows = mask[..., None, None]
        if xs is not None and self.xs is not None:
            xs = torch.where(rows, xs, self.xs)
        return Incumbent(torch.where(rows, knots, self.knots), torch.where(mask, cost, self.cost), xs)


def _pick(candidates: Tensor, index: Tensor) -> Tensor:
    """The candidate of an index ``(*batch,)`` among ``(*batch, samples, K, m)``: ``(*batch, K, m)``."""
    rows = index[..., None, None, None].expand(*index.shape, 1, *candidates.shape[-2:])
    return candidates.gather(-3, rows).squeeze(-3)
