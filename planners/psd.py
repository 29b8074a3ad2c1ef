"""The nearest positive semidefinite matrices."""

import torch
from torch import Tensor


def project_psd(matrix: Tensor) -> Tensor:
    """The nearest positive semidefinite matrix (Frobenius norm) to symmetric ``(*batch, k, k)``."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0.0).unsqueeze(-2)) @ vectors.mT


def convexified(matrix: Tensor) -> Tensor:
    """The same, but decomposing only those matrices of a batch that need it; what is not finite stays.

    Its derivative is that of the identity: that of the projection is not defined where eigenvalues coincide.
    """
    scale = matrix.diagonal(dim1=-2, dim2=-1).abs().amax(-1).clamp_min(1e-30)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    ridge = 1e2 * torch.finfo(matrix.dtype).eps * scale[..., None, None] * eye
    bad = (torch.linalg.cholesky_ex(matrix + ridge).info != 0) & matrix.isfinite().all(-1).all(-1)
    if not bool(bad.any()):
        return matrix
    correction = torch.zeros_like(matrix)
    with torch.no_grad():
        correction[bad] = project_psd(matrix[bad]) - matrix[bad]
    return matrix + correction


def floored(matrix: Tensor, floor: float = 0.0) -> Tensor:
    """Symmetric ``(*batch, k, k)`` with no eigenvalue below ``floor``, nor below what rounding leaves of its largest one.

    Matrices that need nothing are returned bit for bit, and so are those that are not finite.
    """
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    finite = matrix.isfinite().all(-1).all(-1)
    info = torch.linalg.cholesky_ex(torch.where(finite[..., None, None], matrix - floor * eye, eye)).info
    bad = (info != 0) & finite
    if not bool(bad.any()):
        return matrix
    values, vectors = torch.linalg.eigh(0.5 * (matrix[bad] + matrix[bad].mT))
    rounding = 10 * matrix.shape[-1] * torch.finfo(matrix.dtype).eps * values.abs().amax(-1, keepdim=True)
    raised = torch.maximum(values, rounding.clamp_min(max(floor, 1e-30)))
    return matrix.index_put((bad,), (vectors * raised.unsqueeze(-2)) @ vectors.mT)


def positive_factor(matrix: Tensor, floor: float = 0.0) -> Tensor:
    """Cholesky factor of :func:`floored`; NaN where a matrix is not finite, and never an error."""
    L, info = torch.linalg.cholesky_ex(floored(matrix, floor))
    return torch.where((info == 0)[..., None, None], L, torch.nan)
