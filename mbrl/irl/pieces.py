"""Demonstrations cut into pieces, as long as a plan is.

A plan of T steps from where a demonstration was at some time is to be what was done in the T steps after it. Pieces that begin at
several times show more initial states, and what is learned from them is a cost for planning in receding horizon. Each piece is
learned as if it began at step 0, so nothing may depend on when it did.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.training.checking import check_numbers
from planners import Problem, WeightedCost


def check_pieces(settings: Any) -> None:
    """Raise ValueError unless ``horizon`` and ``stride`` of settings are None or counts, and the stride is one of pieces."""
    check_numbers(settings, counts=[name for name in ("horizon", "stride") if getattr(settings, name) is not None])
    if settings.stride is not None and settings.horizon is None:
        raise ValueError(f"stride={settings.stride} is that of pieces of horizon steps; set horizon, too")


def cut(demonstrations: Sequence[Trajectory], steps: int, stride: int | None = None) -> list[Trajectory]:
    """Pieces of one length that begin every so many steps; what is left at an end is not used.

    Args:
        demonstrations: trajectories, each of at least so many steps.
        steps: of a piece.
        stride: from the beginning of a piece to that of the next; as many as it has, by default.

    Raises:
        ValueError: a number is less than 1, or a demonstration is shorter than a piece.
    """
    return [d.slice(t, t + steps) for d, t in beginnings(demonstrations, steps, stride)]


def beginnings(
    demonstrations: Sequence[Trajectory], steps: int, stride: int | None = None
) -> list[tuple[Trajectory, int]]:
    """Of each piece that :func:`cut` makes of the same arguments, the demonstration and the step of it at which it begins."""
    stride = steps if stride is None else stride
    if steps < 1 or stride < 1:
        raise ValueError(f"pieces need at least one step and a stride of at least 1, got {steps} and {stride}")
    shortest = min((d.num_steps for d in demonstrations), default=steps)
    if shortest < steps:
        raise ValueError(
            f"a demonstration has {shortest} steps, and cannot be cut into pieces of {steps}; choose horizon={max(shortest, 1)}, "
            "or leave it out"
        )
    return [(d, t) for d in demonstrations for t in range(0, d.num_steps - steps + 1, stride)]


@torch.no_grad()
def check_steps(problem: Problem, xs: Tensor, us: Tensor, begins: Sequence[int]) -> None:
    """Raise ValueError where dynamics, cost, constraints or limits are others at the steps of pieces than at those from 0 on.

    Args:
        problem: with the cost to be learned.
        xs: states of the pieces ``(N, T+1, n)``.
        us: controls ``(N, T, m)``.
        begins: step of the demonstration at which each begins.
    """
    if not any(begins):
        return
    x, x_next = xs[..., :-1, :], xs[..., 1:, :]
    first = torch.arange(us.shape[-2]).expand(us.shape[:-1])
    own = first + torch.tensor(begins).unsqueeze(-1)

    def of_cost(t: Tensor) -> list[Tensor]:
        cost = problem.cost
        if isinstance(cost, WeightedCost):  # the terms, as a weight may be zero
            known = [] if cost.known is None else [cost.known.transition(x, us, x_next, t)]
            return [cost.features(x, us, t), *known]
        parameters = [p for p in cost.parameters() if p.requires_grad]
        with torch.enable_grad():
            value = cost.transition(x, us, x_next, t)
            total = value.sum()
        if not value.requires_grad:
            return [value]
        # what a parameter multiplies, as that may be zero at first
        return [value.detach(), *torch.autograd.grad(total, parameters, materialize_grads=True)]

    def all_of_it(t: Tensor) -> dict[str, list[Tensor]]:
        rows = [constraint.value(x, us, t) for constraint in problem.constraints]
        return {"dynamics": [problem.dynamics(x, us, t)], "cost": of_cost(t), "constraints": rows}

    here = all_of_it(first)
    try:
        there = all_of_it(own)
    except (ValueError, IndexError) as error:  # steps that there are not
        raise ValueError(_of_time(f"at steps up to {int(own.max())}: {error}")) from error
    pairs = {name: zip(values, there[name], strict=True) for name, values in here.items()}
    differ = [name for name, values in pairs.items() if not all(_alike(one, other) for one, other in values)]
    if any(_varies(limit) for limit in problem.control_limits or ()):
        differ.append("control limits")
    if differ:
        raise ValueError(_of_time(f"{' and '.join(differ)} are not the same at the later steps of demonstrations"))


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether values are the same, but for the order in which derivatives of many steps are added up."""
    size = torch.where(one.isfinite(), one, 0.0).abs().amax() if one.numel() else 0.0
    rounding = 1e3 * torch.finfo(one.dtype).eps * float(size)
    return torch.allclose(one, other, rtol=0.0, atol=rounding, equal_nan=True)


def _of_time(what: str) -> str:
    return (
        "horizon= needs a plant and a cost that do not depend on time, as each piece is learned as if it began at step 0: "
        f"{what}; leave horizon= out, or make the time one of the states"
    )


def _varies(limit: float | Tensor) -> bool:
    """Whether a limit ``(..., T, m)`` is another one at another step."""
    rows = torch.as_tensor(limit)
    return rows.ndim > 1 and not bool((rows == rows[..., :1, :]).all())
