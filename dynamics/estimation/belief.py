"""What is believed about a state: a Gaussian in the tangent space at its mean."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Innovation:
    """What an observation had to say. p is the dimension of the observation; missing components count for nothing.

    Attributes:
        value: observation minus prediction, ``(*batch, p)``; NaN where a component is missing.
        covariance: of the prediction, observation noise included, ``(*batch, p, p)``.
        log_likelihood: of the observation given all before it, ``(*batch,)``.
        nis: normalized innovation squared, ``(*batch,)``; in a consistent filter chi-squared with ``observed`` degrees.
        observed: number of components that are not missing, ``(*batch,)``.
    """

    value: Tensor
    covariance: Tensor
    log_likelihood: Tensor
    nis: Tensor
    observed: Tensor


@dataclass(frozen=True, eq=False)
class GaussianBelief:
    """A Gaussian over the state. On a manifold, the distribution of ``difference(x, mean)``.

    Attributes:
        mean: ``(*batch, n)``.
        covariance: ``(*batch, tangent_dim, tangent_dim)``, symmetric and positive semidefinite.
        step: the step t that the state belongs to.
        innovation: of the observation that was taken in last; None after a prediction.
    """

    mean: Tensor
    covariance: Tensor
    step: int = 0
    innovation: Innovation | None = None

    @property
    def std(self) -> Tensor:
        """Standard deviations, ``(*batch, tangent_dim)``."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()


def check_covariance(name: str, value: Tensor, dim: int | None = None) -> None:
    """Raise unless a covariance is ``(*batch, dim, dim)``, finite, symmetric and positive semidefinite up to round-off.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is anything else.
    """
    hint = "; for standard deviations std give torch.diag(std**2)"
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}{hint}")
    size = "p" if dim is None else dim
    if value.ndim < 2 or value.shape[-1] != value.shape[-2] or dim not in (None, value.shape[-1]):
        raise ValueError(
            f"{name} must be a covariance of shape (*batch, {size}, {size}), got {tuple(value.shape)}{hint}"
        )
    if not value.is_floating_point():
        raise ValueError(f"{name} must be of a floating dtype, got {value.dtype}; cast with .to()")
    value = value.detach()
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {value.tolist()}")
    if value.numel() == 0:
        return
    largest = value.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    slack = 1e3 * torch.finfo(value.dtype).eps * largest
    if bool(((value - value.mT).abs().amax((-2, -1)) > slack).any()):
        raise ValueError(f"{name} must be symmetric, got {value.tolist()}; use 0.5 * (P + P.mT)")
    smallest = torch.linalg.eigvalsh(0.5 * (value + value.mT))[..., 0]
    if bool((smallest < -slack).any()):
        raise ValueError(
            f"{name} must be positive semidefinite, got an eigenvalue of {float(smallest.min()):.3g}{hint}"
        )


def symmetric(matrix: Tensor) -> Tensor:
    """The symmetric part of ``(*batch, k, k)``."""
    return 0.5 * (matrix + matrix.mT)


def square_root(name: str, covariance: Tensor) -> Tensor:
    """Lower triangular L ``(*batch, k, k)`` with ``L Lᵀ = covariance``, also where it is singular; NaN where it is not finite.

    Raises:
        ValueError: it is not positive semidefinite.
    """
    L, info = torch.linalg.cholesky_ex(covariance)
    if bool((info == 0).all()):
        return L
    failed = (info != 0)[..., None, None]
    regular = torch.where(failed, torch.eye(covariance.shape[-1]).to(covariance), covariance)
    finite = covariance.isfinite().all(-1).all(-1)[..., None, None]
    singular = _semidefinite_cholesky(torch.where(finite & failed, covariance, torch.zeros_like(covariance)))
    tolerance = 8.0 * math.sqrt(
        covariance.shape[-1] * torch.finfo(covariance.dtype).eps
    )  # of what a zero pivot leaves out
    with torch.no_grad():
        error = (singular @ singular.mT - covariance).abs().amax((-2, -1))
        largest = covariance.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
        wrong = failed & finite & (error > tolerance * largest)[..., None, None]
    if bool(wrong.any()):
        raise ValueError(
            f"{name} is not positive semidefinite any more: round-off in float32 (use float64), or a negative weight of an "
            "unscented filter (use alpha=1.0, beta=2.0, kappa=0.0, whose weights are positive)"
        )
    L = torch.where(failed, singular, torch.linalg.cholesky_ex(regular).L)
    return torch.where(finite, L, torch.full_like(L, math.nan))


def _semidefinite_cholesky(P: Tensor) -> Tensor:
    """Cholesky factor with a zero column for each pivot that is zero up to round-off."""
    k = P.shape[-1]
    rounding = 8 * k * torch.finfo(P.dtype).eps
    columns: list[Tensor] = []
    rest = P
    for j in range(k):
        pivot = rest[..., j, j]
        positive = pivot > rounding * P[..., j, j]
        root = torch.where(positive, pivot, torch.ones_like(pivot)).sqrt()
        below = torch.arange(k, device=P.device) >= j
        column = torch.where(
            positive.unsqueeze(-1) & below, rest[..., :, j] / root.unsqueeze(-1), torch.zeros_like(rest[..., 0])
        )
        columns.append(column)
        rest = rest - column.unsqueeze(-1) * column.unsqueeze(-2)
    return torch.stack(columns, dim=-1)


def divided(left: Tensor, covariance: Tensor) -> Tensor:
    """``left covariance^-1`` for left ``(*batch, r, k)``; the pseudoinverse where the covariance is singular."""
    L, info = torch.linalg.cholesky_ex(covariance)
    if bool((info == 0).all()):
        return torch.cholesky_solve(left.mT, L).mT
    scale = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    inverse_scale = torch.where(
        scale > 0, 1.0 / scale.clamp_min(torch.finfo(scale.dtype).tiny), torch.zeros_like(scale)
    )
    correlation = (inverse_scale.unsqueeze(-1) * covariance * inverse_scale.unsqueeze(-2)).nan_to_num()
    inverse = torch.linalg.pinv(correlation, hermitian=True)
    result = left @ (inverse_scale.unsqueeze(-1) * inverse * inverse_scale.unsqueeze(-2))
    return torch.where(
        covariance.isfinite().all(-1).all(-1)[..., None, None], result, torch.full_like(result, math.nan)
    )
