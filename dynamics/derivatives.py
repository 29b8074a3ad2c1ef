"""Derivatives of batched torch functions, exact or by finite differences.

A function ``f: R^k -> R^p`` is evaluated on ``z`` of shape ``(*batch, rows, k)`` and returns ``(*batch, rows, p)``;
the batch is whatever the caller closes over, ``rows`` is an axis added here so that all derivatives of all batch elements
come from one call:

* exact Jacobians replicate ``z`` once per output row i and pull back ``e_i``, one forward and one reverse pass;
* exact Hessians of ``w . f`` replicate once per input row and differentiate the gradient again;
* finite differences put the displaced points on the same axis.

Replicating one call beats nesting ``vmap(jacrev(f))`` at the sizes of control problems, where the overhead of an
operation and not its arithmetic is the cost. Exact derivatives are themselves differentiable: when gradients are enabled on
entry, results carry a graph to everything ``f`` closes over. Call under ``torch.no_grad()`` to have plain numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BatchedFunction = Callable[[Tensor], Tensor]


def jacobian(f: BatchedFunction, z: Tensor, output_dim: int) -> Tensor:
    """Exact Jacobian of ``f`` at ``z`` by reverse-mode differentiation.

    Args:
        f: maps ``(*batch, rows, k)`` to ``(*batch, rows, p)`` row by row.
        z: point of evaluation, ``(*batch, k)``.
        output_dim: p.

    Returns:
        ``(*batch, p, k)``; differentiable when gradients are enabled on entry.
    """
    differentiable = _differentiable()
    with torch.enable_grad():
        displacement = z.new_zeros(*z.shape[:-1], output_dim, z.shape[-1]).requires_grad_()
        y = f(z.unsqueeze(-2) + displacement)
        if not y.requires_grad:  # f ignores z altogether
            return torch.zeros_like(displacement)
        rows = torch.eye(output_dim, dtype=y.dtype, device=y.device).expand(y.shape)
        (result,) = torch.autograd.grad(y, displacement, rows, create_graph=differentiable, materialize_grads=True)
    return result


def weighted_hessian(f: BatchedFunction, z: Tensor, weight: Tensor) -> Tensor:
    r"""Exact Hessian of :math:`w^\top f(z)` with respect to ``z``.

    Args:
        f: maps ``(*batch, rows, k)`` to ``(*batch, rows, p)`` row by row.
        z: point of evaluation, ``(*batch, k)``.
        weight: w, for instance a costate, ``(*batch, p)``.

    Returns:
        Symmetric ``(*batch, k, k)``; differentiable when gradients are enabled on entry.
    """
    return gradient_and_hessian(lambda points: (weight.unsqueeze(-2) * f(points)).sum(-1), z)[1]


def gradient_and_hessian(f: BatchedFunction, z: Tensor) -> tuple[Tensor, Tensor]:
    """Exact gradient and Hessian of a scalar function.

    Args:
        f: maps ``(*batch, rows, k)`` to ``(*batch, rows)``.
        z: point of evaluation, ``(*batch, k)``.

    Returns:
        gradient ``(*batch, k)`` and symmetric Hessian ``(*batch, k, k)``; differentiable when gradients are enabled on
        entry.
    """
    differentiable = _differentiable()
    k = z.shape[-1]
    with torch.enable_grad():
        displacement = z.new_zeros(*z.shape[:-1], k, k).requires_grad_()
        value = f(z.unsqueeze(-2) + displacement)
        if not value.requires_grad:  # f ignores z altogether
            return torch.zeros_like(z), torch.zeros_like(displacement)
        (gradient,) = torch.autograd.grad(value.sum(), displacement, create_graph=True, materialize_grads=True)
        if not gradient.requires_grad:  # f is linear in z
            hessian = torch.zeros_like(displacement)
        else:
            diagonal = gradient.diagonal(dim1=-2, dim2=-1).sum()
            (hessian,) = torch.autograd.grad(
                diagonal, displacement, create_graph=differentiable, materialize_grads=True
            )
    gradient = gradient[..., 0, :] if differentiable else gradient[..., 0, :].detach()
    return gradient, 0.5 * (hessian + hessian.mT)


def _differentiable() -> bool:
    """Whether results shall carry a graph."""
    if torch.is_inference_mode_enabled():  # no graph is recorded there, and every derivative would be zero
        raise RuntimeError("autograd derivatives do not exist under torch.inference_mode(); use torch.no_grad()")
    return torch.is_grad_enabled()


def finite_difference_jacobian(f: BatchedFunction, z: Tensor, *, step: float | None = None) -> Tensor:
    """Jacobian of ``f`` at ``z`` by central differences, all columns in one call of ``f``.

    Args:
        f: maps ``(*batch, rows, k)`` to ``(*batch, rows, p)`` row by row.
        z: point of evaluation, ``(*batch, k)``.
        step: displacement; the default, the cube root of the machine epsilon, balances truncation and round-off.

    Returns:
        ``(*batch, p, k)``, without a graph.
    """
    k = z.shape[-1]
    h = step if step is not None else torch.finfo(z.dtype).eps ** (1 / 3)
    with torch.no_grad():
        directions = h * torch.eye(k, dtype=z.dtype, device=z.device)
        y = f(z.unsqueeze(-2) + torch.cat([directions, -directions]))
        return ((y[..., :k, :] - y[..., k:, :]) / (2 * h)).mT


def finite_difference_weighted_hessian(
    f: BatchedFunction, z: Tensor, weight: Tensor, *, step: float | None = None
) -> Tensor:
    r"""Hessian of :math:`w^\top f(z)` by central differences, all entries in one call of ``f``.

    With ``s = w . f`` the second difference along ``e_i + e_j`` gives

    .. math:: H_{ij} = \frac{s(+i+j) - s(+i) - s(+j) + 2 s - s(-i) - s(-j) + s(-i-j)}{2 h^2}.

    Args:
        f: maps ``(*batch, rows, k)`` to ``(*batch, rows, p)`` row by row.
        z: point of evaluation, ``(*batch, k)``.
        weight: w, ``(*batch, p)``.
        step: displacement; the default is the fourth root of the machine epsilon.

    Returns:
        Symmetric ``(*batch, k, k)``, without a graph.
    """
    k = z.shape[-1]
    h = step if step is not None else torch.finfo(z.dtype).eps ** 0.25
    with torch.no_grad():
        eye = torch.eye(k, dtype=z.dtype, device=z.device)
        i, j = torch.tril_indices(k, k, device=z.device)
        singles, pairs = h * eye, h * (eye[i] + eye[j])
        points = torch.cat([torch.zeros_like(eye[:1]), singles, -singles, pairs, -pairs])
        s = (weight.unsqueeze(-2) * f(z.unsqueeze(-2) + points)).sum(-1)
        center, plus, minus, pair_plus, pair_minus = s.split([1, k, k, len(i), len(i)], dim=-1)
        both = plus + minus
        entries = (pair_plus + pair_minus + 2 * center - both[..., i] - both[..., j]) / (2 * h * h)
        hessian = z.new_zeros(*z.shape[:-1], k, k)
        hessian[..., i, j] = entries
        hessian[..., j, i] = entries
        return hessian
