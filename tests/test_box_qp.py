"""Quadratic programs with bounds against scipy and the optimality conditions."""

import numpy as np
import pytest
import scipy.optimize
import torch

from planners.box_qp import box_qp


def draw(count, m, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(count, m, m, generator=generator, dtype=dtype)
    H = root @ root.mT + 0.01 * torch.eye(m, dtype=dtype)
    g = 5 * torch.randn(count, m, generator=generator, dtype=dtype)
    lower = -torch.rand(count, m, generator=generator, dtype=dtype)
    upper = torch.rand(count, m, generator=generator, dtype=dtype)
    return H, g, lower, upper


@pytest.mark.parametrize("m", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_minimizers_are_those_of_bounded_least_squares(m, seed):
    H, g, lower, upper = draw(40, m, seed)
    found = box_qp(H, g, lower, upper)
    assert bool(found.converged.all())
    for i in range(len(g)):
        L = np.linalg.cholesky(H[i].numpy())
        target = -np.linalg.solve(L, g[i].numpy())
        oracle = scipy.optimize.lsq_linear(L.T, target, (lower[i].numpy(), upper[i].numpy()), method="bvls", tol=1e-14)
        np.testing.assert_allclose(found.x[i].numpy(), oracle.x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_optimality_conditions_and_factor(dtype):
    H, g, lower, upper = draw(500, 5, 7, dtype)
    lower[::3] = -torch.inf
    upper[::4] = torch.inf
    found = box_qp(H, g, lower, upper)
    assert found.x.dtype == dtype
    assert bool(found.converged.all())
    gradient = g + (H @ found.x.unsqueeze(-1)).squeeze(-1)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-2
    assert bool(((found.x >= lower) & (found.x <= upper)).all())
    assert float(torch.where(found.free, gradient, 0.0).abs().max()) < tolerance
    clamped = ~found.free
    assert bool((gradient[clamped] * torch.where(found.x == lower, 1.0, -1.0)[clamped] >= 0).all())
    rows = found.free.to(dtype)
    reduced = H * rows[..., None] * rows[..., None, :] + torch.diag_embed(1 - rows)
    torch.testing.assert_close(found.factor @ found.factor.mT, reduced)


def test_starts_do_not_matter_and_equal_bounds_pin():
    H, g, lower, upper = draw(50, 4, 3)
    upper[:, 1] = lower[:, 1]
    start = torch.where(g > 0, lower, upper)
    one, other = box_qp(H, g, lower, upper), box_qp(H, g, lower, upper, start)
    torch.testing.assert_close(one.x, other.x, rtol=0, atol=1e-9)
    assert torch.equal(one.x[:, 1], lower[:, 1])


def test_an_indefinite_member_is_marked_and_leaves_the_others_alone():
    H, g, lower, upper = draw(3, 3, 0)
    alone = box_qp(H[2], g[2], lower[2], upper[2])
    H[1] = -H[1]
    found = box_qp(H, g, lower, upper)
    assert found.convex.tolist() == found.converged.tolist() == [True, False, True]
    torch.testing.assert_close(found.x[2], alone.x)


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_shapes(batch):
    H, g, lower, upper = (value[0].expand(*batch, *value.shape[1:]) for value in draw(1, 2, 0))
    found = box_qp(H, g, lower, upper)
    assert found.x.shape == found.free.shape == (*batch, 2)
    assert found.factor.shape == (*batch, 2, 2)
    assert found.convex.shape == found.converged.shape == batch
