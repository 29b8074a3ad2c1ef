"""Values made of batched tensors: one of two by batch element, some elements of one, and putting them back."""

from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


def spread(value: Tensor, axes: int) -> Tensor:
    """A number for each batch element ``(*batch,)`` with that many more axes, to broadcast against what each has."""
    return value.reshape((*value.shape, *[1] * axes))


def where_batch(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """One of two tensors ``(*batch, ...)``, by batch element of the mask ``(*batch,)``."""
    return torch.where(spread(mask, new.ndim - mask.ndim), new, old)


def where_rows(mask: Tensor, new: Value, old: Value) -> Value:
    """The fields of one of two dataclass values, by batch element of the mask ``(*batch,)``; None where both have none."""

    def chosen(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if a is None or b is None:
            return a if b is None else b
        return where_batch(mask, a, b)

    return type(new)(**{f.name: chosen(getattr(new, f.name), getattr(old, f.name)) for f in fields(new)})  # type: ignore[arg-type]


def mapped(value: Value, function: Callable[[Tensor], Tensor]) -> Value:
    """A dataclass value with a function applied to every field; None stays None."""
    changed = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
    return type(value)(**{name: None if v is None else function(v) for name, v in changed.items()})


def take_rows(value: Value, index: Tensor) -> Value:
    """A dataclass value of the elements ``index`` along the first axis of every field."""
    return mapped(value, lambda v: v.index_select(0, index))


def put_rows(value: Value, index: Tensor, part: Value) -> Value:
    """A dataclass value with the elements ``index`` replaced by those of a part; what it had none of stays None."""

    def replaced(whole: Tensor | None, new: Tensor | None) -> Tensor | None:
        if whole is None or new is None:
            return whole
        return whole.index_copy(0, index, new)

    return type(value)(
        **{f.name: replaced(getattr(value, f.name), getattr(part, f.name)) for f in fields(value)}  # type: ignore[arg-type]
    )
