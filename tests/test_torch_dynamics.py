"""Integrators, dynamics from a formula, linear dynamics, and the rollout that all share."""

import copy
import doctest
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from torch import nn

import dynamics.analytic
from dynamics import Dynamics, LinearDynamics, Pendulum, PhysicalParameter, TorchDynamics

OSCILLATOR = torch.tensor([[0.0, 1.0], [-4.0, -0.3]], dtype=torch.float64)
INPUT = torch.tensor([[0.0], [1.0]], dtype=torch.float64)


def oscillator(integrator, dt):
    """The damped oscillator x'' = -4 x - 0.3 x' + u; f is what the integrator asks for."""

    def derivative(x, u):
        return x @ OSCILLATOR.mT + u @ INPUT.mT

    f = (lambda x, u: derivative(x, u)[..., 1:]) if integrator == "semi_implicit_euler" else derivative
    return TorchDynamics(f, 2, 1, dt, integrator=integrator)


def observed_order(errors, steps):
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


# Integrators


@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("semi_implicit_euler", 1), ("rk4", 4)])
def test_order_on_the_damped_oscillator(integrator, order):
    """Against the matrix exponential of the augmented system, with a constant control."""
    x0, u = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.7]).double()
    augmented = np.zeros((3, 3))
    augmented[:2, :2], augmented[:2, 2:] = OSCILLATOR, INPUT
    exact = (scipy.linalg.expm(2.0 * augmented) @ np.array([*x0, *u]))[:2]
    counts = [40, 80, 160, 320]
    errors = []
    for count in counts:
        xs = oscillator(integrator, 2.0 / count).rollout(x0, u.expand(count, 1))
        errors.append(np.abs(xs[-1].numpy() - exact).max())
    assert observed_order(errors, [2.0 / count for count in counts]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("integrator", "order"), [("semi_implicit_euler", 1), ("rk4", 4)])
def test_order_on_the_pendulum(integrator, order):
    """Against an adaptive solver of order 8 with a tolerance of 1e-12."""
    reference = scipy.integrate.solve_ivp(
        lambda t, x: [x[1], 1.5 * 9.81 * np.sin(x[0]) + 3 * (0.8 - 0.1 * x[1])],
        (0, 2),
        [2.0, 1.0],
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    ).y[:, -1]
    errors, counts = [], [50, 100, 200, 400]
    for count in counts:
        pendulum = Pendulum(dt=2 / count, integrator=integrator).with_parameters(damping=0.1)
        xs = pendulum.rollout(torch.tensor([2.0, 1.0]).double(), torch.full((count, 1), 0.8, dtype=torch.float64))
        errors.append(np.abs(xs[-1].numpy() - reference).max())
    assert observed_order(errors, [2 / count for count in counts]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("integrator", ["euler", "semi_implicit_euler", "rk4"])
def test_one_step_closed_form(integrator, generator):
    """The Taylor polynomials of the matrix exponential and its integral, of degree 1 and 4."""
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    u = torch.randn(5, 1, generator=generator, dtype=torch.float64)
    A, B, dt = OSCILLATOR, INPUT, 0.1
    if integrator == "semi_implicit_euler":
        v = x[:, 1:] + dt * (x @ A.mT + u @ B.mT)[:, 1:]
        expected = torch.cat([x[:, :1] + dt * v, v], dim=-1)
    else:
        degree = 1 if integrator == "euler" else 4
        powers = [torch.linalg.matrix_power(dt * A, k) / math.factorial(k) for k in range(degree + 1)]
        integral = [dt * powers[k] / (k + 1) for k in range(degree)]
        expected = x @ sum(powers).mT + u @ (sum(integral) @ B).mT
    torch.testing.assert_close(oscillator(integrator, dt)(x, u), expected, rtol=0, atol=1e-14)


def test_without_an_integrator_f_is_the_next_state():
    double = TorchDynamics(lambda x, u: 2 * x + u, 1, 1, dt=1.0)
    xs = double.rollout(torch.ones(1), torch.zeros(5, 1))
    assert xs.flatten().tolist() == [1, 2, 4, 8, 16, 32]


# TorchDynamics


def spring(**options):
    def acceleration(x, u, p):
        return ((p.gain * u[..., 0] - p.stiffness * x[..., 0]) / p.mass).unsqueeze(-1)

    parameters = {
        "stiffness": 4.0,
        "mass": PhysicalParameter(2.0, "kg", (0, float("inf")), "log"),
        "gain": torch.tensor(1.5),
    }
    return TorchDynamics(acceleration, 2, 1, 0.1, parameters=parameters, integrator="semi_implicit_euler", **options)


def test_parameters_by_name():
    x, u = torch.tensor([1.0, 0.0]).double(), torch.tensor([2.0]).double()
    assert spring()(x, u)[1].item() == pytest.approx(0.1 * (1.5 * 2 - 4) / 2, rel=1e-15)
    assert spring().with_parameters(stiffness=5.0, mass=4.0)(x, u)[1].item() == pytest.approx(-0.05, rel=1e-15)
    assert spring(state_names=["q", "v"], control_names=["force"]).state_names == ("q", "v")
    assert repr(spring()) == "TorchDynamics(state_dim=2, control_dim=1, dt=0.1)"


@pytest.mark.parametrize("name", ["stiffness", "mass", "gain"])
def test_gradient_of_a_rollout_by_a_parameter(name, generator):
    """Shared and per world, against central differences."""
    x0 = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    us = torch.randn(3, 10, 1, generator=generator, dtype=torch.float64)

    def final(value):
        return spring().with_parameters(**{name: value}).rollout(x0, us)[:, -1].square().sum(-1)

    for value in (torch.tensor(1.2).double(), torch.tensor([1.2, 0.9, 3.0]).double()):
        assert torch.autograd.gradcheck(final, [value.requires_grad_()], atol=1e-9, rtol=1e-6)
    (per_world,) = torch.autograd.grad(final(value)[1], value)
    assert per_world[1] != 0
    assert per_world[[0, 2]].tolist() == [0, 0]


def test_a_network_as_f(generator):
    """Its weights are parameters of the dynamics, learn, and are shared by copies."""
    network = nn.Linear(3, 2).double()

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x, u, p):
            return p.speed.unsqueeze(-1) * torch.tanh(self.network(torch.cat([x, u], dim=-1)))

    tanh = TorchDynamics(Field(), 2, 1, 0.1, parameters={"speed": 2.0}, integrator="rk4")
    assert {id(p) for p in tanh.parameters()} == {id(p) for p in network.parameters()}
    fast = tanh.with_parameters(speed=4.0)
    assert fast.f is tanh.f
    x = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    u = torch.randn(6, 1, generator=generator, dtype=torch.float64)
    fast(x, u).square().sum().backward()
    step, gradient = 1e-6, network.bias.grad.clone()
    for i in range(2):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                network.bias[i] += sign * step
                values.append(fast(x, u).square().sum())
                network.bias[i] -= sign * step
        assert ((values[0] - values[1]) / (2 * step)).item() == pytest.approx(gradient[i].item(), rel=1e-7)


def test_docstring_example():
    result = doctest.testmod(dynamics.analytic)
    assert result.attempted > 0
    assert result.failed == 0


def test_f_must_return_the_right_shape():
    x, u = torch.zeros(3, 2), torch.zeros(3, 1)
    for integrator, expected in (
        (None, r"\(1, 3, 2\)"),
        ("rk4", r"\(1, 3, 2\)"),
        ("semi_implicit_euler", r"\(1, 3, 1\)"),
    ):
        flat = TorchDynamics(lambda x, u: x[..., 0], 2, 1, 0.1, integrator=integrator)
        with pytest.raises(ValueError, match=rf"f must return shape {expected} for x \(1, 3, 2\).*, got \(1, 3\)"):
            flat(x, u)
    per_world = TorchDynamics(lambda x, u, p: p.k * x, 2, 1, 0.1, parameters={"k": torch.tensor(2.0)})
    assert per_world(x, u).shape == (3, 2)
    with pytest.raises(ValueError, match=r"got \(1, 3, 3\); a scalar parameter multiplies x\[..., 0\]"):
        TorchDynamics(lambda x, u, p: p.k * x[..., :1], 1, 1, 0.1, parameters={"k": 1.0}).with_parameters(
            k=torch.ones(3)
        )(x[:, :1], u)


@pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
def test_f_without_batch_axes_is_an_error_and_no_other_number(batch):
    """With n = 2 states x[1] is a whole state of a batch of two, of the same shape as what was meant."""
    for f in (lambda x, u: torch.stack([x[1], -x[0]]), lambda x, u: torch.stack([-x[0], x[0]])):
        system = TorchDynamics(f, 2, 1, 0.1, integrator="rk4")
        with pytest.raises(ValueError, match=r"write x\[\.\.\., 1\], not x\[1\]|f must return shape"):
            system(torch.zeros(*batch, 2), torch.zeros(*batch, 1))
        with pytest.raises(ValueError, match=r"write x\[\.\.\., 1\], not x\[1\]|f must return shape"):
            system.linearize(torch.zeros(*batch, 2), torch.zeros(*batch, 1))


def test_an_unknown_parameter_in_f_is_named():
    system = TorchDynamics(lambda x, u, p: p.k * x, 1, 1, 0.1, parameters={"stiffness": 1.0})
    with pytest.raises(AttributeError, match="there is no parameter 'k'; the parameters are: stiffness"):
        system(torch.zeros(1), torch.zeros(1))


def test_bad_arguments():
    def f(x, u):
        return x

    with pytest.raises(
        ValueError, match="integrator must be None, 'euler', 'rk4' or 'semi_implicit_euler', got 'heun'"
    ):
        TorchDynamics(f, 2, 1, 0.1, integrator="heun")  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ValueError, match=r"angles must be indices of states, got \('x0',\) for the states \('x0', 'x1'\)"
    ):
        TorchDynamics(f, 2, 1, 0.1, angles=["x0"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="even dimension, got state_dim=3"):
        TorchDynamics(f, 3, 1, 0.1, integrator="semi_implicit_euler")
    with pytest.raises(ValueError, match="need state_dim >= 1 and control_dim >= 0, got 0 and 1"):
        TorchDynamics(f, 0, 1, 0.1)
    for dt in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="dt must be a positive number of seconds"):
            TorchDynamics(f, 2, 1, dt)
    with pytest.raises(ValueError, match=r"state_names must be 2 distinct names, got \('q', 'q'\)"):
        TorchDynamics(f, 2, 1, 0.1, state_names=["q", "q"])
    with pytest.raises(ValueError, match=r"control_names must be 1 distinct names, got \('a', 'b'\)"):
        TorchDynamics(f, 2, 1, 0.1, control_names=["a", "b"])
    with pytest.raises(ValueError, match=r"angles must be state indices in 0..1, got \(2,\)"):
        TorchDynamics(f, 2, 1, 0.1, angles=[2])
    for name in ("dt", "forward", "not an identifier"):
        with pytest.raises(ValueError, match=f"parameter '{name}' must be an identifier that is no attribute"):
            TorchDynamics(f, 2, 1, 0.1, parameters={name: 1.0})


# Calls that do not fit


def test_steps_that_do_not_fit():
    pendulum = Pendulum()
    with pytest.raises(TypeError, match=r"x must be a torch tensor, got list; use torch\.as_tensor\(x\)"):
        pendulum([0.0, 0.0], torch.zeros(1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"us must be a torch tensor, got ndarray"):
        pendulum.rollout(torch.zeros(2), torch.zeros(3, 1).numpy())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"x must have last axis n = 2, got shape \(3,\)"):
        pendulum(torch.zeros(3), torch.zeros(1))
    with pytest.raises(ValueError, match=r"u must have last axis m = 1, got shape \(2,\)"):
        pendulum(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"u must have last axis m = 1, got shape \(\)"):
        pendulum(torch.zeros(2), torch.tensor(0.0))
    with pytest.raises(ValueError, match=r"same batch axes, got x \(3, 2\) and u \(1,\); expand one of them"):
        pendulum(torch.zeros(3, 2), torch.zeros(1))
    with pytest.raises(ValueError, match=r"same floating dtype, got torch.float32 and torch.float64; cast"):
        pendulum(torch.zeros(2), torch.zeros(1).double())
    with pytest.raises(ValueError, match=r"same floating dtype, got torch.int64 and torch.int64"):
        pendulum(torch.tensor([0, 0]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"the batch axes of x \(3,\) and u \(2,\) do not broadcast"):
        pendulum.linearize(torch.zeros(3, 2), torch.zeros(2, 1))


def test_rollouts_that_do_not_fit():
    pendulum = Pendulum()
    with pytest.raises(ValueError, match=r"us must have shape \(\*batch, T, 1\), got \(1,\)"):
        pendulum.rollout(torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match=r"us must have last axis m = 1, got shape \(5, 2\)"):
        pendulum.rollout(torch.zeros(2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"x0 must have last axis n = 2, got shape \(3,\)"):
        pendulum.rollout(torch.zeros(3), torch.zeros(5, 1))
    with pytest.raises(ValueError, match=r"the batch axes of x0 \(3,\) and us \(2,\) do not broadcast"):
        pendulum.rollout(torch.zeros(3, 2), torch.zeros(2, 5, 1))


def test_rollout_broadcasts():
    pendulum, u = Pendulum(), torch.tensor([0.3])
    alone = pendulum.rollout(torch.ones(2), u.expand(4, 1))
    assert pendulum.rollout(torch.ones(3, 1, 2), u.expand(5, 4, 1)).shape == (3, 5, 5, 2)
    torch.testing.assert_close(pendulum.rollout(torch.ones(3, 2), u.expand(4, 1))[2], alone)
    torch.testing.assert_close(pendulum.rollout(torch.ones(2), u.expand(3, 4, 1))[1], alone)


# Divergence


def test_a_diverged_world_is_nan_from_there_on():
    """A formula can make infinity finite again; the state after it is none."""
    cube = TorchDynamics(lambda x, u: torch.where(x.isinf(), 0.5, x**3), 1, 1, 1.0)
    x0, us = torch.tensor([[0.5], [1e50], [2.0]], dtype=torch.float64), torch.zeros(3, 5, 1).double()
    xs = cube.rollout(x0, us)[..., 0]
    assert xs[1].isnan().tolist() == [False, False, True, True, True, True]
    assert xs[[0, 2]].isfinite().all()
    assert xs[2, 5].item() == 2.0**243
    assert cube.rollout(torch.tensor([torch.inf]), us[0].float()).isnan().all()


def test_a_diverged_world_leaves_the_gradient_of_the_others_alone():
    cube = TorchDynamics(lambda x, u: x**3 + u, 1, 1, 1.0)
    us = torch.zeros(2, 9, 1, dtype=torch.float64, requires_grad=True)
    xs = cube.rollout(torch.tensor([[0.5], [1e100]]).double(), us)
    assert xs[1, -1].isnan().all()
    (gradient,) = torch.autograd.grad(xs[0, -1, 0], us)
    assert gradient[0].isfinite().all()
    assert gradient[0, -1].item() == 1


# Linear dynamics


def matrices(generator, *steps):
    return [torch.randn(*steps, *shape, generator=generator, dtype=torch.float64) for shape in ((3, 3), (3, 2), (3,))]


@pytest.mark.parametrize("steps", [(), (4,)], ids=["constant", "time-varying"])
def test_linear_equals_numpy(steps, generator):
    A, B, b = matrices(generator, *steps)
    x0 = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    us = torch.randn(5, 4, 2, generator=generator, dtype=torch.float64)
    xs = [x0.numpy()]
    for k in range(4):
        A_k, B_k, b_k = (M[k].numpy() if steps else M.numpy() for M in (A, B, b))
        xs.append(np.einsum("ij,bj->bi", A_k, xs[-1]) + np.einsum("ij,bj->bi", B_k, us[:, k].numpy()) + b_k)
    expected = np.stack(xs, axis=1)
    np.testing.assert_allclose(LinearDynamics(A, B, b).rollout(x0, us).numpy(), expected, rtol=1e-13, atol=1e-13)
    shorter = LinearDynamics(A, B, b).rollout(torch.from_numpy(expected[:, 1]), us[:, 1:], t0=1)
    np.testing.assert_allclose(shorter.numpy(), expected[:, 1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [(), (4,)], ids=["constant", "time-varying"])
def test_linear_derivatives_are_the_matrices(steps, generator):
    A, B, b = matrices(generator, *steps)
    x, u = torch.ones(5, 3).double(), torch.ones(5, 2).double()
    result = LinearDynamics(A, B, b).linearize(x, u, 2)
    torch.testing.assert_close(result.fx, (A[2] if steps else A).expand(5, 3, 3), rtol=0, atol=1e-15)
    torch.testing.assert_close(result.fu, (B[2] if steps else B).expand(5, 3, 2), rtol=0, atol=1e-15)
    curvature = LinearDynamics(A, B, b).curvature(x, u, x, 2)
    assert all(torch.equal(M, torch.zeros_like(M)) for M in (curvature.xx, curvature.ux, curvature.uu))


def test_only_one_matrix_varies(generator):
    A, B, _ = matrices(generator)
    b = torch.arange(12).double().reshape(4, 3)
    zero = torch.zeros(3).double(), torch.zeros(2).double()
    assert torch.equal(LinearDynamics(A, B, b)(*zero, 3), b[3])


def test_steps_as_a_tensor(generator):
    """One step per batch element, broadcast against the batch from the right."""
    system = LinearDynamics(*matrices(generator, 4))
    x = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    u = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    for t in (torch.tensor([[0, 1, 2], [3, 2, 1]]), torch.tensor([3, 0, 1]), torch.tensor([[1], [2]])):
        result, together = system.linearize(x, u, t), system(x, u, t)
        steps = t.expand(2, 3)
        for i in range(2):
            for j in range(3):
                single = system.linearize(x[i, j], u[i, j], int(steps[i, j]))
                torch.testing.assert_close(together[i, j], single.x_next, rtol=1e-13, atol=1e-13)
                torch.testing.assert_close(result.fx[i, j], single.fx, rtol=0, atol=1e-15)


def test_steps_out_of_range(generator):
    system = LinearDynamics(*matrices(generator, 4))
    x, u = torch.zeros(3).double(), torch.zeros(2).double()
    with pytest.raises(ValueError, match=r"A is given for steps 0..3, got t=4"):
        system(x, u, 4)
    with pytest.raises(ValueError, match=r"A is given for steps 0..3, got t=-1"):
        system(x, u, -1)
    with pytest.raises(ValueError, match=r"A is given for steps 0..3, got t=4"):
        system.rollout(x, u.expand(5, 2))
    with pytest.raises(ValueError, match="A has one matrix per step, so the step t must be given"):
        system(x, u)


@pytest.mark.parametrize("steps", [(), (4,)], ids=["constant", "time-varying"])
def test_linear_per_world(steps, generator):
    """Also with a planner's axis after the world axis, and time-varying per world."""
    nominal = LinearDynamics(*matrices(generator, *steps))
    A, B, b = matrices(generator, 5, *steps)
    worlds = nominal.with_parameters(A=A, B=B, b=b)
    x0 = torch.randn(5, 7, 3, generator=generator, dtype=torch.float64)
    us = torch.randn(5, 7, 4, 2, generator=generator, dtype=torch.float64)
    xs = worlds.rollout(x0, us)
    fx = worlds.linearize(x0, us[..., 0, :], 1).fx
    for w in range(5):
        expected = LinearDynamics(A[w], B[w], b[w]).rollout(x0[w], us[w])
        torch.testing.assert_close(xs[w], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(fx[w], (A[w, 1] if steps else A[w]).expand(7, 3, 3), rtol=0, atol=1e-15)
    if steps:
        with pytest.raises(ValueError, match="A is per world and per step: call it with one step t at a time"):
            worlds(x0, us[..., 0, :], torch.arange(4)[torch.zeros(7, dtype=torch.long)])


def test_gradient_reaches_the_matrices(generator):
    A, B, b = (M.requires_grad_() for M in matrices(generator))
    x, u = torch.ones(3).double(), torch.ones(2).double()
    nominal = LinearDynamics(torch.eye(3), torch.zeros(3, 2))
    assert torch.autograd.gradcheck(lambda A, B, b: nominal.with_parameters(A=A, B=B, b=b)(x, u), [A, B, b])
    learned = LinearDynamics(nn.Parameter(torch.eye(3)), torch.zeros(3, 2))
    assert [name for name, _ in learned.named_parameters()] == ["A"]


def test_linear_shapes_that_do_not_fit(generator):
    A, B, b = matrices(generator)
    for args in (
        (A[:2], B),
        (A, B[:2]),
        (A, B, b[:2]),
        (A, B, b.expand(4, 5, 3)),
        (A.expand(4, 3, 3), B.expand(5, 3, 2)),
    ):
        with pytest.raises(ValueError, match=r"need A \(n, n\) or \(T, n, n\), .* got A \("):
            LinearDynamics(*args)
    with pytest.raises(ValueError, match=r"A and B must be matrices, got shapes \(3, 3\) and \(3,\)"):
        LinearDynamics(A, b)


def test_copies():
    """A deep copy is independent; state_dict carries the present parameter values."""
    pendulum = Pendulum().with_parameters(mass=3.0)
    deep = copy.deepcopy(pendulum)
    assert deep.mass is not pendulum.mass
    fresh = Pendulum()
    fresh.load_state_dict(pendulum.state_dict())
    assert fresh.mass.item() == 3


def test_a_subclass_that_changes_the_step_changes_the_rollout():
    class Clipped(Pendulum):
        def forward(self, x, u, t=None):
            return super().forward(x, u.clamp(-1, 1), t)

    class Clocked(TorchDynamics):
        def forward(self, x, u, t=None):
            return super().forward(x, u, t) + t

    x0, us = torch.zeros(2).double(), torch.full((3, 1), 5.0).double()
    torch.testing.assert_close(Clipped().rollout(x0, us), Pendulum().rollout(x0, us.clamp(-1, 1)))
    clocked = Clocked(lambda x, u: x + u, 1, 1, 0.1)
    assert clocked.rollout(torch.zeros(1), torch.zeros(3, 1), 2).flatten().tolist() == [0.0, 2.0, 5.0, 9.0]
    replaced = Pendulum()
    replaced.forward = lambda x, u, t=None: x + 1
    assert replaced.rollout(torch.zeros(2).double(), us)[-1].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("graph", [True, False])
def test_rollouts_under_vmap_equal_batched_ones(graph):
    x0 = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    us = torch.randn(5, 4, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spring = TorchDynamics(lambda x, u: torch.cat([x[..., 1:], u - x[..., :1]], -1), 2, 1, 0.1, integrator="rk4")
    with torch.set_grad_enabled(graph):
        for system in (Pendulum(), spring):
            torch.testing.assert_close(torch.vmap(system.rollout)(x0, us), system.rollout(x0, us))
            mapped = torch.vmap(system.rollout, in_dims=(None, 0))(x0[0], us)
            torch.testing.assert_close(mapped, system.rollout(x0[0], us))


@pytest.mark.parametrize("graph", [True, False])
def test_a_step_that_changes_dtype_or_shape_is_refused_with_and_without_a_graph(graph):
    class Wider(Dynamics):
        def forward(self, x, u, t=None):
            return x.double()

    class Shorter(Dynamics):
        def forward(self, x, u, t=None):
            return x[..., :1]

    with torch.set_grad_enabled(graph):
        for kind in (Wider, Shorter):
            with pytest.raises(ValueError, match="a step must keep shape and dtype of the state"):
                kind(2, 1, 0.1).rollout(torch.zeros(2), torch.zeros(3, 1))
