"""Where the solve of each problem stands."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Iterate:
    """The iterates of a batch.

    Attributes:
        xs: states ``(*batch, T+1, n)``. us: controls ``(*batch, T, m)``.
        merit: the augmented Lagrangian, without the price of gaps, ``(*batch,)``.
        mu: regularization of the control Hessians. newton: whether exact second derivatives are trusted, of bool.
        idle: steps in a row that did not decrease the merit by more than the arithmetic resolves.
        y: multipliers of the stage rows ``(*batch, T, r)``. y_T: of the terminal rows ``(*batch, r_T)``. None without.
        rho: penalty, max_rho: the largest. omega: optimality at which the multipliers are updated.
        infeasibility: at the last update.
        K: gains, Quu: control Hessians, P: value Hessians about xs and us.
        residual: relative projected gradient. iterations: taken so far. status: code; :data:`RUNNING` while it runs.
    """

    xs: Tensor
    us: Tensor
    merit: Tensor
    mu: Tensor
    newton: Tensor
    idle: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor
    K: Tensor
    Quu: Tensor
    P: Tensor
    rho: Tensor
    max_rho: Tensor
    omega: Tensor
    infeasibility: Tensor
    y: Tensor | None = None
    y_T: Tensor | None = None  # noqa: N815 (the symbols of the equations)

    @property
    def running(self) -> Tensor:
        """Which problems are still being solved, ``(*batch,)`` of bool."""
        return self.status == RUNNING


RUNNING = -1
MAX_PENALTY = 1e8
"""Of the augmented Lagrangian, relative to the first one."""


def started(xs: Tensor, us: Tensor, d: int, *, y: Tensor | None, y_T: Tensor | None, penalty: Tensor) -> Iterate:
    """The first iterate of trajectories, whose merit is zero.

    Args:
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.
        d: dimension of the tangent space.
        y: multipliers of the stage rows, or None.
        y_T: multipliers of the terminal rows, or None.
        penalty: first penalties, ``(*batch,)``.
    """
    batch, T, m = us.shape[:-2], us.shape[-2], us.shape[-1]
    zero, count = us.new_zeros(batch), torch.zeros(batch, dtype=torch.long, device=us.device)
    return Iterate(
        xs=xs,
        us=us,
        merit=zero,
        mu=zero,
        newton=torch.ones(batch, dtype=torch.bool, device=us.device),
        idle=count,
        iterations=count,
        residual=torch.full_like(zero, float("inf")),
        status=torch.full_like(count, RUNNING),
        K=us.new_zeros(*batch, T, m, d),
        Quu=us.new_zeros(*batch, T, m, m),
        P=us.new_zeros(*batch, T + 1, d, d),
        rho=penalty,
        max_rho=MAX_PENALTY * penalty,
        omega=torch.full_like(zero, 1e-2),
        infeasibility=torch.full_like(zero, float("inf")),
        y=y,
        y_T=y_T,
    )
