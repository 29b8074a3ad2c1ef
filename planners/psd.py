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
