"""Quaternions against scipy, series by hand and finite differences, at zero displacement as elsewhere."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dynamics import quaternions

LENGTHS = [0.0, 1e-200, 1e-12, 1e-6, 1.9e-3, 2.1e-3, 0.1, 1.0, 3.0]  # [rad]; the series end at 2e-3
every_length = pytest.mark.parametrize("length", LENGTHS)


def rotations(length, generator, count=20):
    """Rotation vectors of one length."""
    vectors = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return length * vectors / vectors.norm(dim=-1, keepdim=True)


def attitudes(generator, count=20):
    q = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return q / q.norm(dim=-1, keepdim=True)


def scipy_rotation(q):
    return Rotation.from_quat(q.numpy(), scalar_first=True)


def round_trip(rotation, other, q):
    """(q + rotation) - (q + other)."""
    return quaternions.displacement(quaternions.displaced(q, rotation), quaternions.displaced(q, other))


def test_product_and_conjugate_equal_scipy(generator):
    p, q = attitudes(generator), attitudes(generator)
    expected = (scipy_rotation(p) * scipy_rotation(q)).as_matrix()
    np.testing.assert_allclose(scipy_rotation(quaternions.product(p, q)).as_matrix(), expected, atol=1e-14)
    np.testing.assert_allclose(
        scipy_rotation(quaternions.conjugate(q)).as_matrix(), scipy_rotation(q).inv().as_matrix(), atol=1e-14
    )
    i, j, k = torch.eye(4, dtype=torch.float64)[1:]
    assert torch.equal(quaternions.product(i, j), k)
    assert torch.equal(quaternions.product(j, i), -k)


@every_length
def test_exponential_and_logarithm_equal_scipy(length, generator):
    phi = rotations(length, generator)
    q = quaternions.exponential(phi)
    np.testing.assert_allclose(q.numpy(), Rotation.from_rotvec(phi.numpy()).as_quat(scalar_first=True), atol=1e-15)
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(20).double(), rtol=0, atol=3e-16)
    torch.testing.assert_close(quaternions.logarithm(q), phi, rtol=1e-14, atol=1e-300)


def test_displacements_of_attitudes_equal_scipy(generator):
    q0, q1 = attitudes(generator), attitudes(generator)
    expected = (scipy_rotation(q0).inv() * scipy_rotation(q1)).as_rotvec()
    for sign0 in (1, -1):
        for sign1 in (1, -1):  # the same two attitudes
            ours = quaternions.displacement(sign1 * 1.3 * q1, sign0 * 0.7 * q0)
            np.testing.assert_allclose(ours.numpy(), expected, atol=1e-14)
            assert float(ours.norm(dim=-1).max()) <= torch.pi
    reached = quaternions.displaced(q0, torch.as_tensor(expected))
    np.testing.assert_allclose(scipy_rotation(reached).as_matrix(), scipy_rotation(q1).as_matrix(), atol=1e-14)


def test_longer_rotations_than_half_a_turn_come_back_as_the_shortest(generator):
    axis = rotations(1.0, generator)
    q = quaternions.exponential(5.0 * axis)
    torch.testing.assert_close(quaternions.logarithm(q), (5.0 - 2 * torch.pi) * axis, rtol=0, atol=1e-14)


def test_half_a_turn_is_finite():
    q = torch.tensor([0.0, 0.0, 1.0, 0.0]).double()
    torch.testing.assert_close(quaternions.logarithm(q), torch.tensor([0.0, torch.pi, 0.0]).double())


def test_derivatives_at_zero_are_those_of_the_series(generator):
    """exp(phi / 2) = (1 - |phi|^2 / 8, phi / 2) + O(phi^3), and log is its inverse."""
    zero = torch.zeros(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(quaternions.exponential, zero)
    torch.testing.assert_close(jacobian, 0.5 * torch.eye(4, dtype=torch.float64)[:, 1:], rtol=0, atol=0)
    for i in range(4):
        hessian = torch.autograd.functional.hessian(lambda phi, i=i: quaternions.exponential(phi)[i], zero)
        expected = -0.25 * torch.eye(3, dtype=torch.float64) if i == 0 else torch.zeros(3, 3, dtype=torch.float64)
        torch.testing.assert_close(hessian, expected, rtol=0, atol=0)
    for q in attitudes(generator, 5):
        jacobian = torch.autograd.functional.jacobian(lambda phi, q=q: round_trip(phi, zero, q), zero)
        torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-15)
        for i in range(3):
            hessian = torch.autograd.functional.hessian(lambda phi, q=q, i=i: round_trip(phi, zero, q)[i], zero)
            torch.testing.assert_close(hessian, torch.zeros(3, 3).double(), rtol=0, atol=1e-14)


@every_length
def test_first_and_second_derivatives_equal_finite_differences(length, generator):
    """Of (q + phi) - (q + other), by phi: first derivatives by differences of values, second by those of first ones."""
    other, h, eye = rotations(0.3, generator, 1)[0], 1e-5, torch.eye(3, dtype=torch.float64)
    for phi in rotations(length, generator, 5):
        for q in attitudes(generator, 2):

            def f(phi, q=q):
                return round_trip(phi, other, q)

            jacobian = torch.autograd.functional.jacobian(f, phi)
            numbers = torch.stack([(f(phi + h * e) - f(phi - h * e)) / (2 * h) for e in eye], dim=-1)
            torch.testing.assert_close(jacobian, numbers, rtol=0, atol=2e-9)
            for i in range(3):
                hessian = torch.autograd.functional.hessian(lambda phi, i=i: f(phi)[i], phi)
                rows = [torch.autograd.functional.jacobian(f, phi + h * e)[i] for e in eye]
                others = [torch.autograd.functional.jacobian(f, phi - h * e)[i] for e in eye]
                numbers = (torch.stack(rows) - torch.stack(others)) / (2 * h)
                torch.testing.assert_close(hessian, numbers, rtol=0, atol=2e-8)


@every_length
def test_derivatives_of_exponential_and_logarithm_are_inverse(length, generator):
    """log(exp(phi)) = phi for less than half a turn: its Jacobian is the identity and its Hessians vanish."""
    for phi in rotations(length, generator, 3):
        jacobian = torch.autograd.functional.jacobian(lambda p: quaternions.logarithm(quaternions.exponential(p)), phi)
        torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
        for i in range(3):
            hessian = torch.autograd.functional.hessian(
                lambda p, i=i: quaternions.logarithm(quaternions.exponential(p))[i], phi
            )
            torch.testing.assert_close(hessian, torch.zeros(3, 3).double(), rtol=0, atol=1e-9)


def test_many_small_turns_keep_the_length(generator):
    q = attitudes(generator, 5)
    for phi in rotations(0.2, generator, 2000):
        q = quaternions.displaced(q, phi)
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(5).double(), rtol=0, atol=3e-16)


def test_batches_dtypes_and_nothing_at_all(generator):
    q, phi = attitudes(generator, 6), rotations(1.0, generator, 6)
    for dtype, tolerance in ((torch.float64, 0.0), (torch.float32, 1e-6)):
        single = quaternions.displaced(q[:1].to(dtype), phi.to(dtype))
        assert single.dtype == dtype
        torch.testing.assert_close(single.double(), quaternions.displaced(q[:1], phi), rtol=0, atol=tolerance)
        back = quaternions.displacement(single.unflatten(0, (2, 3)), q[0].to(dtype))
        assert back.dtype == dtype
        torch.testing.assert_close(back.double().flatten(0, 1), phi, rtol=0, atol=max(tolerance, 1e-14))
    assert quaternions.displaced(q[:0], phi[:0]).shape == (0, 4)
    assert quaternions.displacement(q[:0], q[:0]).shape == (0, 3)
