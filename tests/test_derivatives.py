"""Derivatives against closed forms; the error of finite differences is measured, not assumed."""

import numpy as np
import pytest
import torch

from dynamics import Acrobot, Dynamics, Pendulum, TorchDynamics, derivatives

BATCHES = [(), (4,), (2, 3), (0,)]


def f(z):
    """R^3 -> R^2 with all kinds of second derivatives."""
    a, b, c = z.unbind(-1)
    return torch.stack([torch.sin(a) * b + c**2, torch.exp(a * c)], dim=-1)


def f_jacobian(z):
    a, b, c = z.unbind(-1)
    zero, e = torch.zeros_like(a), torch.exp(a * c)
    rows = [torch.stack([torch.cos(a) * b, torch.sin(a), 2 * c], -1), torch.stack([c * e, zero, a * e], -1)]
    return torch.stack(rows, -2)


def f_hessian(z, w):
    a, b, c = z.unbind(-1)
    zero, e = torch.zeros_like(a), torch.exp(a * c)
    first = [[-torch.sin(a) * b, torch.cos(a), zero], [torch.cos(a), zero, zero], [zero, zero, 2 + zero]]
    second = [[c**2 * e, zero, (1 + a * c) * e], [zero, zero, zero], [(1 + a * c) * e, zero, a**2 * e]]
    H1, H2 = (torch.stack([torch.stack(row, -1) for row in rows], -2) for rows in (first, second))
    return w[..., :1, None] * H1 + w[..., 1:, None] * H2


def points(generator, batch=(4,), dtype=torch.float64):
    z = torch.randn(*batch, 3, generator=generator, dtype=torch.float64)
    w = torch.randn(*batch, 2, generator=generator, dtype=torch.float64)
    return z.to(dtype), w.to(dtype)


def relative_error(actual, expected):
    return float((actual.detach() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("batch", BATCHES)
def test_closed_forms(batch, generator):
    z, w = points(generator, batch)
    torch.testing.assert_close(derivatives.jacobian(f, z, 2), f_jacobian(z), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(derivatives.weighted_hessian(f, z, w), f_hessian(z, w), rtol=1e-14, atol=1e-14)
    gradient, hessian = derivatives.gradient_and_hessian(lambda y: (w.unsqueeze(-2) * f(y)).sum(-1), z)
    expected = (w.unsqueeze(-2) @ f_jacobian(z)).squeeze(-2)
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(hessian, f_hessian(z, w), rtol=1e-14, atol=1e-14)
    assert torch.equal(hessian, hessian.mT)


def test_hessians_are_symmetric_to_the_last_bit(generator):
    """Even where the two orders of differentiation round differently."""
    z = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    _, hessian = derivatives.gradient_and_hessian(lambda y: torch.exp(0.1 * torch.sin(y).prod(-1) * y.sum(-1)), z)
    assert torch.equal(hessian, hessian.mT)


@pytest.mark.parametrize("batch", BATCHES)
def test_finite_differences(batch, generator):
    z, w = points(generator, batch)
    jacobian = derivatives.finite_difference_jacobian(f, z)
    torch.testing.assert_close(jacobian, f_jacobian(z), rtol=1e-9, atol=1e-9)
    hessian = derivatives.finite_difference_weighted_hessian(f, z, w)
    torch.testing.assert_close(hessian, f_hessian(z, w), rtol=1e-6, atol=1e-6)
    assert torch.equal(hessian, hessian.mT)


def test_float32(generator):
    z, w = points(generator, dtype=torch.float32)
    exact_jacobian, exact_hessian = f_jacobian(z.double()), f_hessian(z.double(), w.double())
    for jacobian, tolerance in (
        (derivatives.jacobian(f, z, 2), 1e-6),
        (derivatives.finite_difference_jacobian(f, z), 1e-3),
    ):
        assert jacobian.dtype == torch.float32
        assert relative_error(jacobian, exact_jacobian) < tolerance
    for hessian, tolerance in (
        (derivatives.weighted_hessian(f, z, w), 1e-6),
        (derivatives.finite_difference_weighted_hessian(f, z, w), 1e-2),
    ):
        assert hessian.dtype == torch.float32
        assert relative_error(hessian, exact_hessian) < tolerance


def order(steps, errors):
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


def test_finite_differences_are_of_second_order(generator):
    z, w = points(generator)
    steps = [0.1, 0.05, 0.025, 0.0125]
    jacobians = [derivatives.finite_difference_jacobian(f, z, step=h) for h in steps]
    assert order(steps, [relative_error(J, f_jacobian(z)) for J in jacobians]) == pytest.approx(2, abs=0.05)
    hessians = [derivatives.finite_difference_weighted_hessian(f, z, w, step=h) for h in steps]
    assert order(steps, [relative_error(H, f_hessian(z, w)) for H in hessians]) == pytest.approx(2, abs=0.05)


def test_default_steps_are_near_the_best(generator):
    """Steps ten times longer or shorter are worse: truncation on one side, round-off on the other."""
    z, w = points(generator, (200,))
    eps = torch.finfo(torch.float64).eps

    def jacobian_error(step):
        difference = derivatives.finite_difference_jacobian(f, z, step=step) - f_jacobian(z)
        return float(difference.abs().mean())

    def hessian_error(step):
        difference = derivatives.finite_difference_weighted_hessian(f, z, w, step=step) - f_hessian(z, w)
        return float(difference.abs().mean())

    for error, step in ((jacobian_error, eps ** (1 / 3)), (hessian_error, eps**0.25)):
        assert error(None) == error(step)
        assert error(None) < min(error(10 * step), error(0.1 * step))


@pytest.mark.parametrize("weight", [None, torch.ones(2, dtype=torch.float64, requires_grad=True)])
def test_a_function_that_ignores_its_argument(weight, generator):
    """With and without something else that requires a gradient."""
    z, w = points(generator)

    def constant(y):
        return y.new_ones(*y.shape[:-1], 2) * (1 if weight is None else weight)

    assert torch.equal(derivatives.jacobian(constant, z, 2), torch.zeros(4, 2, 3, dtype=torch.float64))
    hessian = derivatives.weighted_hessian(constant, z, w)
    assert torch.equal(hessian, torch.zeros(4, 3, 3, dtype=torch.float64))
    gradient, _ = derivatives.gradient_and_hessian(lambda y: constant(y).sum(-1), z)
    assert torch.equal(gradient, torch.zeros(4, 3, dtype=torch.float64))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_linear_function(requires_grad, generator):
    z, w = points(generator)
    A = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=requires_grad)
    jacobian = derivatives.jacobian(lambda y: y @ A.mT, z, 2)
    torch.testing.assert_close(jacobian, A.expand(4, 2, 3), rtol=0, atol=1e-15)
    hessian = derivatives.weighted_hessian(lambda y: y @ A.mT, z, w)
    assert torch.equal(hessian, torch.zeros(4, 3, 3, dtype=torch.float64))


def test_derivatives_are_differentiable(generator):
    """By the point, the weight and whatever the function closes over."""
    z, w = points(generator, (2,))
    s = torch.tensor(0.7, dtype=torch.float64)
    inputs = [a.requires_grad_() for a in (z, w, s)]
    assert torch.autograd.gradcheck(lambda z, w, s: derivatives.jacobian(lambda y: f(s * y), z, 2), inputs)
    assert torch.autograd.gradcheck(lambda z, w, s: derivatives.weighted_hessian(lambda y: f(s * y), z, w), inputs)

    def gradient(z, w, s):
        return derivatives.gradient_and_hessian(lambda y: (w.unsqueeze(-2) * f(s * y)).sum(-1), z)[0]

    assert torch.autograd.gradcheck(gradient, inputs)


def test_no_graph_under_no_grad(generator):
    z, w = points(generator)
    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        results = [
            derivatives.jacobian(lambda y: f(s * y), z, 2),
            derivatives.weighted_hessian(lambda y: f(s * y), z, w),
            *derivatives.gradient_and_hessian(lambda y: f(s * y).sum(-1), z),
        ]
    assert not any(result.requires_grad for result in results)
    torch.testing.assert_close(results[0], s.detach() * f_jacobian(s.detach() * z), rtol=1e-14, atol=1e-14)
    assert derivatives.jacobian(lambda y: f(s * y), z, 2).requires_grad


def test_finite_differences_carry_no_graph(generator):
    z, w = (a.requires_grad_() for a in points(generator))
    assert not derivatives.finite_difference_jacobian(f, z).requires_grad
    assert not derivatives.finite_difference_weighted_hessian(f, z, w).requires_grad


def test_inference_mode_is_an_error_and_not_zero():
    x, u = torch.zeros(2), torch.zeros(1)
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match=r"use torch\.no_grad"):
            Pendulum().linearize(x, u)
        with pytest.raises(RuntimeError, match=r"use torch\.no_grad"):
            Pendulum().curvature(x, u, x)


# Through Dynamics


class Circle(Dynamics):
    """A point on the unit circle, x = (cos a, sin a), with a' = a + dt (u + k sin a): two numbers, one degree of freedom."""

    def __init__(self, derivatives):
        super().__init__(2, 1, 0.1, tangent_dim=1, observation_dim=1, parameters={"k": 3.0})
        self.derivatives = derivatives

    def forward(self, x, u, t=None):
        self.check_step(x, u)
        turn = self.dt * (u[..., 0] + self.parameters_like(x).k * x[..., 1])
        return self.retract(x, turn.unsqueeze(-1))

    def observe(self, x):
        return 2 * x[..., 1:]

    def retract(self, x, dx):
        cos, sin = torch.cos(dx[..., 0]), torch.sin(dx[..., 0])
        return torch.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]], dim=-1)

    def difference(self, x1, x0):
        cross = x0[..., 0] * x1[..., 1] - x0[..., 1] * x1[..., 0]
        return torch.atan2(cross, (x0 * x1).sum(-1)).unsqueeze(-1)


@pytest.mark.parametrize(("kind", "first", "second"), [("autograd", 1e-14, 1e-14), ("finite-difference", 1e-10, 1e-7)])
def test_tangent_space_closed_form(kind, first, second, generator):
    """fx = 1 + dt k cos a, fu = dt, hx = 2 cos a; the curvature is -costate dt k sin a in xx and zero elsewhere."""
    a = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    x = torch.stack([torch.cos(a), torch.sin(a)], dim=-1)
    u, costate = torch.randn(2, 2, 5, 1, generator=generator, dtype=torch.float64)
    circle = Circle(kind)
    result, curvature = circle.linearize(x, u), circle.curvature(x, u, costate)
    torch.testing.assert_close(result.fx[..., 0, 0], 1 + 0.3 * torch.cos(a), rtol=0, atol=first)
    torch.testing.assert_close(result.fu, torch.full((2, 5, 1, 1), 0.1, dtype=torch.float64), rtol=0, atol=first)
    torch.testing.assert_close(result.hx[..., 0, 0], 2 * torch.cos(a), rtol=0, atol=first)
    torch.testing.assert_close(curvature.xx[..., 0, 0], -0.3 * torch.sin(a) * costate[..., 0], rtol=0, atol=second)
    for block in (curvature.ux, curvature.uu):
        torch.testing.assert_close(block, torch.zeros_like(block), rtol=0, atol=second)


def test_pendulum_closed_form(generator):
    """Semi-implicit Euler: v' = v + dt (3 g / 2 l sin a + 3 u / m l^2), a' = a + dt v'."""
    pendulum = Pendulum(dt=0.1, integrator="semi_implicit_euler").with_parameters(length=2.0, mass=0.5)
    x = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    u, costate = torch.randn(6, 1, generator=generator, dtype=torch.float64), torch.tensor([0.3, -2.0]).double()
    c, s = torch.cos(x[:, 0]), torch.sin(x[:, 0])
    k, dt, zero, one = 1.5 * 9.81 / 2.0, 0.1, torch.zeros(6).double(), torch.ones(6).double()
    result, curvature = pendulum.linearize(x, u), pendulum.curvature(x, u, costate)
    fx = torch.stack([1 + dt**2 * k * c, dt * one, dt * k * c, one], -1).unflatten(-1, (2, 2))
    torch.testing.assert_close(result.fx, fx, rtol=0, atol=1e-14)
    fu = torch.tensor([[dt**2 * 1.5], [dt * 1.5]], dtype=torch.float64)
    torch.testing.assert_close(result.fu, fu.expand(6, 2, 1), rtol=0, atol=1e-14)
    bend = -k * s * (costate[0] * dt**2 + costate[1] * dt)
    xx = torch.stack([bend, zero, zero, zero], -1).unflatten(-1, (2, 2))
    torch.testing.assert_close(curvature.xx, xx, rtol=0, atol=1e-13)
    assert torch.equal(curvature.ux, torch.zeros(6, 1, 2).double())
    assert torch.equal(curvature.uu, torch.zeros(6, 1, 1).double())


def test_linearize_broadcasts_and_is_differentiable(generator):
    acrobot = Acrobot()
    x = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)
    us = torch.randn(5, 1, generator=generator, dtype=torch.float64)
    result = acrobot.linearize(x, us)
    for k in range(5):
        torch.testing.assert_close(result.fx[k], acrobot.linearize(x, us[k]).fx, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: acrobot.linearize(x, us[0]).fx, [x])


def test_a_graph_only_where_something_requires_a_gradient():
    class Sensor(Pendulum):
        def observe(self, x):
            return self.parameters_like(x).gain.unsqueeze(-1) * x

    x, u, costate = torch.ones(3, 2).double(), torch.zeros(3, 1).double(), torch.ones(2).double()
    leaf, gain = x.clone().requires_grad_(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    pendulum, sensor = Pendulum(), Sensor().with_parameters(gain=gain)
    assert not pendulum.linearize(x, u).fx.requires_grad
    assert pendulum.linearize(leaf, u).fx.requires_grad
    assert not pendulum.curvature(x, u, costate).xx.requires_grad
    assert pendulum.curvature(leaf, u, costate).xx.requires_grad
    assert pendulum.curvature(x, u, costate.requires_grad_()).xx.requires_grad
    assert not Sensor().linearize(x, u).hx.requires_grad
    assert sensor.linearize(x, u).hx.requires_grad
    with torch.no_grad():
        assert not pendulum.linearize(leaf, u).fx.requires_grad
        assert not pendulum.curvature(leaf, u, costate).xx.requires_grad
        assert not sensor.linearize(leaf, u).hx.requires_grad


def test_gradient_of_a_jacobian_by_a_physical_parameter():
    """d fx / d length of the pendulum, fx[1, 0] = dt 3 g / 2 l at the top."""
    length = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    pendulum = Pendulum(dt=0.1, integrator="semi_implicit_euler").with_parameters(length=length)
    fx = pendulum.linearize(torch.zeros(2).double(), torch.zeros(1).double()).fx
    (gradient,) = torch.autograd.grad(fx[1, 0], length)
    assert gradient.item() == pytest.approx(-0.1 * 1.5 * 9.81 / 4, rel=1e-13)


def test_more_outputs_than_inputs_and_no_controls():
    drift = TorchDynamics(lambda x, u: torch.sin(x), 2, 0, dt=0.1)
    x = torch.tensor([0.3, -1.0], dtype=torch.float64)
    result = drift.linearize(x, torch.zeros(0, dtype=torch.float64))
    torch.testing.assert_close(result.fx, torch.diag(torch.cos(x)), rtol=0, atol=1e-15)
    assert result.fu.shape == (2, 0)


def test_costate_of_the_wrong_size():
    with pytest.raises(ValueError, match=r"costate must have last axis 2, got shape \(3,\)"):
        Pendulum().curvature(torch.zeros(2), torch.zeros(1), torch.zeros(3))
