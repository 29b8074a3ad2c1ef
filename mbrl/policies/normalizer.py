"""Running statistics of what a policy sees."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mbrl.training.processes import Processes

CONSTANT = 1e-12
"""A column does not vary if its variance is at most this times 1 + mean**2: a millionth of its size is a rounding error."""


class RunningNormalizer(nn.Module):
    r"""Subtracts the mean and divides by the standard deviation of everything it has been shown.

    .. math:: z = \operatorname{clip}\bigl((y - \mu) / \sqrt{\sigma^2 + 10^{-8}}, -c, c\bigr)

    A column that does not vary, of standard deviation :math:`\sigma \le 10^{-6} \sqrt{1 + \mu^2}`, is shifted but not scaled:
    divided by its rounding errors, the smallest change of it would be the largest there is.

    The statistics are part of the policy and change in :meth:`update` alone, which training calls between iterations: what
    acts, what is evaluated and what is differentiated sees the same numbers. Batches are merged exactly (Chan, Golub and
    LeVeque 1983), in double precision.

    Args:
        dim: number of columns.
        clip: largest magnitude c of an output.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, dim: int, *, clip: float = 10.0):
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, y: Tensor) -> Tensor:
        """Normalized values ``(*batch, dim)`` in double precision; those that came, clipped, before the first update."""
        varies = self.variance > CONSTANT * (1 + self.mean.square())
        z = (y.double() - self.mean) * (torch.where(varies, self.variance, 1.0) + 1e-8).rsqrt()
        return z.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, y: Tensor) -> None:
        """Count in values ``(*batch, dim)``.

        Raises:
            ValueError: there are more or fewer columns, or a value is not finite.
        """
        if y.shape[-1:] != self.mean.shape:
            raise ValueError(f"the normalizer has {len(self.mean)} columns, got values {tuple(y.shape)}")
        y = y.reshape(-1, y.shape[-1]).to(self.mean)
        if len(y):
            self.merge(*moments(y))

    @torch.no_grad()
    def merge(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Count in values of which there are the number, the mean and the (biased) variance.

        Raises:
            ValueError: they are not finite.
        """
        if not bool(count > 0):
            return
        if not bool(mean.isfinite().all() & variance.isfinite().all()):
            raise ValueError(
                f"values to count in must be finite, got some of mean {mean.tolist()}; leave such rows out"
            )
        total = self.count + count
        delta = mean - self.mean
        spread = self.variance * self.count + variance * count + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.variance.copy_(spread / total)
        self.count.copy_(total)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow a policy to a device, and stay in double precision."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def moments(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and biased variance of the rows of ``(N, dim)``, in double precision."""
    y = y.double()
    return torch.tensor(float(len(y)), dtype=torch.float64, device=y.device), y.mean(0), y.var(0, correction=0)


@torch.no_grad()
def count_in(statistics: RunningNormalizer, values: Tensor, processes: "Processes") -> None:
    """Count in values ``(*batch, dim)`` of all processes that train together."""
    rows = values.reshape(-1, values.shape[-1]).to(statistics.mean)
    if processes.number == 1:
        statistics.update(rows)
        return
    count = torch.full((1,), float(len(rows)), dtype=rows.dtype, device=rows.device)
    sums = processes.sum(torch.cat([count, rows.sum(0)]))
    total, mean = sums[0], sums[1:] / sums[0]
    squares = processes.sum((rows - mean).square().sum(0))  # about the joint mean: no digits cancel
    if total > 0:
        statistics.merge(total, mean, squares / total)
