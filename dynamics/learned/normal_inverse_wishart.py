r"""Linear-Gaussian regression with a prior on the joint covariance of inputs and outputs.

Points :math:`p = [z; y]` of inputs z and outputs y are jointly Gaussian. With the sample mean :math:`\hat\mu` and the sample
covariance S of N points and the prior :math:`\mu_0, \Phi, m, n_0`, the covariance at the posterior's mode is

.. math::
    \Sigma = \frac{\Phi + N S + \frac{N m}{N + m} (\hat\mu - \mu_0)(\hat\mu - \mu_0)^\top}{N + n_0} + \lambda I

(Levine and Abbeel 2014, section 3 and appendix A), and conditioning on z gives the regression

.. math::
    y \mid z \sim \mathcal N(F z + f, \; \Sigma_{yy} - F \Sigma_{zy}), \qquad
    F = \Sigma_{yz} \Sigma_{zz}^{-1}, \quad f = \hat\mu_y - F \hat\mu_z .

Two choices: the regression goes through the mean of the points, as in the authors' code, and not through the posterior mean of
the paper, because it holds near the points; and :math:`\lambda` is on the whole diagonal, where their code leaves out y, so that
the noise of points without any is positive definite.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class NormalInverseWishart:
    r"""What is believed of a Gaussian before its points are seen; by itself a prior that is the same everywhere.

    Attributes:
        mu0: mean, ``(*batch, D)``.
        Phi: positive semidefinite sum of squares, ``(*batch, D, D)``; :math:`\Phi / n_0` is a covariance.
        m: how many points mu0 is worth.
        n0: how many points Phi is worth.

    Raises:
        ValueError: shapes do not fit, or m or n0 is negative.
    """

    mu0: Tensor
    Phi: Tensor
    m: float
    n0: float

    def __post_init__(self):
        if self.mu0.ndim < 1 or self.Phi.shape != (*self.mu0.shape, self.mu0.shape[-1]):
            raise ValueError(
                f"need mu0 (*batch, D) and Phi (*batch, D, D), got {tuple(self.mu0.shape)} and {tuple(self.Phi.shape)}"
            )
        if not (self.m >= 0 and self.n0 >= 0):
            raise ValueError(f"m and n0 must be numbers of points, at least 0, got {self.m} and {self.n0}")

    def moments(self, points: Tensor) -> "NormalInverseWishart":
        """This prior, wherever the points ``(*batch, N, D)`` are."""
        return self


class RegressionPrior(Protocol):
    """What :func:`dynamics.fit_local_linear` asks of a prior."""

    def moments(self, points: Tensor) -> NormalInverseWishart:
        """The prior of Gaussians about sets of N points ``(*batch, N, D)``; points that are not finite do not count."""
        ...


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """Outputs that are linear in inputs with Gaussian noise.

    Attributes:
        F: slope, ``(*batch, outputs, inputs)``.
        f: offset, ``(*batch, outputs)``.
        covariance: of the noise, ``(*batch, outputs, outputs)``.
    """

    F: Tensor
    f: Tensor
    covariance: Tensor


def linear_gaussian(
    points: Tensor, inputs: int, *, prior: RegressionPrior | None = None, regularization: float = 1e-6
) -> LinearGaussian:
    """Regressions of the last ``D - inputs`` coordinates of points on the first, each from N points; in float64.

    Args:
        points: ``(*batch, N, D)``; points that are not finite do not count.
        inputs: number of coordinates that are inputs.
        prior: prior of the joint Gaussian; None for maximum likelihood.
        regularization: lambda, a variance in the squared units of each coordinate.

    Raises:
        ValueError: a shape or the regularization does not fit, or there are too few points for a regression.
    """
    if not 0 <= regularization < float("inf"):
        raise ValueError(f"regularization must be a number of at least 0, got {regularization}")
    D = points.shape[-1] if points.ndim > 1 else 0
    if not 1 <= inputs < D:
        raise ValueError(
            f"need points (*batch, N, D), got {tuple(points.shape)}; inputs must be from 1 to {D - 1} of the {D} coordinates, "
            f"got {inputs}"
        )
    points = points.to(torch.float64)
    sound = points.isfinite().all(-1, keepdim=True)
    N = sound.sum(-2).to(points)  # (*batch, 1)
    _check_counts(N, inputs, prior)
    at_zero = points.masked_fill(~sound, 0.0)
    mean = at_zero.sum(-2) / N
    rows = (at_zero - mean.unsqueeze(-2)) * sound  # N S is their sum of squares
    total, Phi = N, None
    if prior is not None:
        belief = prior.moments(points.masked_fill(~sound, float("nan")))
        if belief.mu0.shape[-1] != D:
            raise ValueError(f"the prior is of points with {belief.mu0.shape[-1]} numbers, got {D}")
        m, Phi = belief.m, belief.Phi.to(points)
        shift = (N * m / (N + m)).sqrt() * (mean - belief.mu0.to(points))
        rows = torch.cat([rows, shift.unsqueeze(-2)], dim=-2)
        total = total + belief.n0
    total = total.unsqueeze(-1)
    z, y = rows.split([inputs, D - inputs], dim=-1)
    zz, zy = z.mT @ z, z.mT @ y
    if Phi is not None:
        zz, zy = zz + Phi[..., :inputs, :inputs], zy + Phi[..., :inputs, inputs:]
    eye = torch.eye(D, dtype=points.dtype, device=points.device)
    factor, failed = torch.linalg.cholesky_ex(zz / total + regularization * eye[:inputs, :inputs])
    if bool(failed.any()):
        raise ValueError(
            f"the inputs of {int((failed > 0).sum())} of {failed.numel()} regressions do not vary in every direction, so their "
            f"slope is unknown with regularization={regularization:g}; raise it, vary the controls, or pass a prior"
        )
    F = torch.cholesky_solve(zy / total, factor).mT
    # The Schur complement as a sum of squares: what the difference of two large matrices leaves need not be positive.
    residual = y - z @ F.mT
    covariance = residual.mT @ residual
    if Phi is not None:
        E = torch.cat([-F, eye[inputs:, inputs:].expand(*F.shape[:-1], -1)], dim=-1)
        covariance = covariance + E @ Phi @ E.mT
    covariance = covariance / total + regularization * (F @ F.mT + eye[inputs:, inputs:])
    f = mean[..., inputs:] - (F @ mean[..., :inputs, None]).squeeze(-1)
    return LinearGaussian(F=F, f=f, covariance=0.5 * (covariance + covariance.mT))


def _check_counts(N: Tensor, inputs: int, prior: RegressionPrior | None) -> None:
    needed = inputs + 1 if prior is None else 1
    least = int(N.min()) if N.numel() else needed
    if least < needed:
        found = f"there are only {least} finite samples for one of {N.numel()} regressions"
        raise ValueError(
            f"{found}; a prior needs one: sample again from where rollouts do not diverge"
            if prior is not None
            else f"{found} on {inputs} inputs, which needs {needed}; sample more, or pass a prior such as fit_mixture_prior(...)"
        )
