r"""Natural gradients without a matrix: conjugate gradients on products with the Fisher information.

The direction of steepest ascent of a gain with gradient g, measured by how far the policy's distributions move, is

.. math:: F x = g, \qquad F = \nabla^2_\theta \, \overline{\mathrm{KL}}(\pi_{\mathrm{old}} \,\|\, \pi_\theta)
          \Big|_{\theta = \theta_{\mathrm{old}}}

(Kakade 2001; Schulman et al. 2015, appendix C). At that point the Hessian of the mean divergence is the Fisher information.
:class:`FisherVectorProduct` multiplies by it, with two passes backwards through one graph (Pearlmutter 1994), and
:func:`conjugate_gradient` (Hestenes and Stiefel 1952; Nocedal and Wright 2006, algorithm 5.2) needs nothing else.

Parameters are vectors here; :func:`flatten` and :func:`unflatten` go from a list of tensors to a vector and back.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ConjugateGradient:
    """What conjugate gradients found.

    Attributes:
        solution: the last iterate, ``(n,)``; zero where the very first direction had no positive curvature.
        residual: norm of ``b - A solution``, as the recursion carries it, relative to that of b; zero where b is zero, NaN
            where b is not finite.
        iterations: steps taken.
        negative_curvature: whether it stopped because A was not positive along a direction, or not finite.
    """

    solution: Tensor
    residual: float
    iterations: int
    negative_curvature: bool


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int, tolerance: float = 1e-10
) -> ConjugateGradient:
    r"""Solve :math:`A x = b` for a symmetric positive definite A, starting at zero.

    It stops where the residual is at most ``tolerance`` times the norm of b, and before a step along a direction p with
    :math:`p^\top A p \le 0` or not finite, or so small that the step is not finite: what it then returns is the last iterate,
    which is zero if this happens at once. Zero is no direction at all: the caller sees the flag and leaves its parameters as
    they are. Every other iterate x has :math:`b^\top x > 0`.

    Args:
        apply: the product with A, ``(n,)`` to ``(n,)``.
        b: ``(n,)``.
        iterations: steps at most.
        tolerance: relative residual at which to stop.

    Raises:
        ValueError: b or a product is not a vector of floating-point numbers of length n, or a setting is out of range.
    """
    if b.ndim != 1 or not b.is_floating_point():
        raise ValueError(f"b must be a floating-point vector (n,), got {b.dtype} of shape {tuple(b.shape)}")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations must be an integer of at least 1, got {iterations!r}")
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance must be a number of at least 0, got {tolerance}")
    b = b.detach()
    x = torch.zeros_like(b)
    scale = float(b.abs().max()) if len(b) else 0.0  # squares of the entries themselves may leave the range of floats
    if not math.isfinite(scale):
        return ConjugateGradient(x, math.nan, 0, True)
    if scale == 0.0:
        return ConjugateGradient(x, 0.0, 0, False)
    r = b / scale
    p = r
    start = squared = float(r @ r)
    taken = 0
    while taken < iterations and squared > tolerance**2 * start:
        Ap = apply(p).detach()
        if Ap.shape != b.shape:
            raise ValueError(f"apply must return a vector of the shape of b, {tuple(b.shape)}, got {tuple(Ap.shape)}")
        curvature = float(p @ Ap)
        length = squared / curvature if 0.0 < curvature < math.inf else math.nan
        moved = x + length * p
        if not bool((moved * scale).isfinite().all()):
            return ConjugateGradient(x * scale, math.sqrt(squared / start), taken, True)
        x = moved
        r = r - length * Ap
        before, squared = squared, float(r @ r)
        p = r + (squared / before) * p
        taken += 1
    return ConjugateGradient(x * scale, math.sqrt(squared / start), taken, False)


@dataclass(frozen=True, eq=False)
class FisherVectorProduct:
    r"""Products with the damped Fisher information, :math:`v \mapsto F v + \beta v`.

    The gradient of the divergence is built once and each product goes back through it, so that the iterations of
    :func:`conjugate_gradient` share one graph. It lives as long as this object.

    Attributes:
        kl: mean of KL(old || new) over the batch, a scalar with its graph: new depends on the parameters, old is the same
            distribution detached. F is the Hessian; it is the Fisher information, and positive semidefinite, where they agree.
        parameters: what to differentiate by; those that the divergence does not depend on have a zero row.
        damping: beta, not negative; makes F definite where the data say nothing.

    Raises:
        ValueError: kl is not a scalar with a graph, there are no parameters, damping is negative, or a vector has another length
            than the parameters together.
    """

    kl: Tensor
    parameters: Sequence[Tensor]
    damping: float = 0.1
    _gradient: tuple[Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "parameters", tuple(self.parameters))
        if not self.parameters:
            raise ValueError("parameters must be a sequence of tensors to differentiate by, got none")
        if self.kl.ndim or not self.kl.requires_grad:
            graph = "with a graph" if self.kl.requires_grad else "without a graph"
            raise ValueError(
                f"kl must be a scalar with a graph, a mean computed with gradients enabled, got one {graph} "
                f"of shape {tuple(self.kl.shape)}"
            )
        if not 0.0 <= self.damping < math.inf:
            raise ValueError(f"damping must be a finite number of at least 0, got {self.damping}")
        gradient = torch.autograd.grad(self.kl, self.parameters, create_graph=True, materialize_grads=True)
        object.__setattr__(self, "_gradient", gradient)

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with a vector ``(n,)``, n the number of all parameters; detached, ``(n,)``."""
        vector = vector.detach()
        directions = unflatten(vector, self.parameters)
        curved = [(g, v) for g, v in zip(self._gradient, directions, strict=True) if g.requires_grad]
        if not curved:
            return self.damping * vector
        gradient, along = zip(*curved, strict=True)
        product = torch.autograd.grad(gradient, self.parameters, along, retain_graph=True, materialize_grads=True)
        return flatten(product) + self.damping * vector


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """The numbers of tensors one after another, ``(n,)``, in their common type.

    Raises:
        ValueError: there are no tensors.
    """
    pieces = [tensor.reshape(-1) for tensor in tensors]
    if not pieces:
        raise ValueError("flatten takes at least one tensor, got none")
    return torch.cat(pieces)


def unflatten(vector: Tensor, like: Iterable[Tensor]) -> list[Tensor]:
    """Undo :func:`flatten`, bit for bit.

    Args:
        vector: ``(n,)``.
        like: tensors whose shapes and types to take; n numbers together.

    Returns:
        Tensors that share the memory of the vector where they have its type.

    Raises:
        ValueError: the vector has another length.
    """
    like = list(like)
    sizes = [tensor.numel() for tensor in like]
    if vector.shape != (sum(sizes),):
        raise ValueError(
            f"the vector must have shape ({sum(sizes)},), the numbers of {len(like)} tensors together, "
            f"got {tuple(vector.shape)}"
        )
    pieces = vector.split(sizes)
    return [piece.view(tensor.shape).to(tensor.dtype) for piece, tensor in zip(pieces, like, strict=True)]
