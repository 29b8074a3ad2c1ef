"""Sums over the processes of a training, each with worlds of its own; of one process, the numbers themselves."""

from typing import Any

import torch
from torch import Tensor


class Processes:
    """The processes that train together under ``torchrun``, or the only one.

    What is averaged over samples is a sum over all processes divided by a number that is summed too, so that any number of
    processes does what one would do with all the samples.
    """

    def __init__(self) -> None:
        self.number, self.rank = 1, 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.number, self.rank = torch.distributed.get_world_size(), torch.distributed.get_rank()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes; not differentiable where there are several."""
        if self.number == 1:
            return values
        values = values.detach().clone()
        torch.distributed.all_reduce(values)
        return values

    def sum_into(self, values: Tensor) -> None:
        """Replace values, such as gradients, by their sum over the processes."""
        if self.number > 1:
            torch.distributed.all_reduce(values)

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes in the first one, None in the others."""
        if self.number == 1:
            return [value]
        values = [None] * self.number if self.rank == 0 else None
        torch.distributed.gather_object(value, values)
        return values

    def scatter(self, values: list[Any] | None) -> Any:
        """One of the first process's values for each process; None where it has none."""
        if self.number == 1:
            return None if values is None else values[0]
        found = [None]
        if self.rank == 0 and values is None:
            values = [None] * self.number
        torch.distributed.scatter_object_list(found, values)
        return found[0]
