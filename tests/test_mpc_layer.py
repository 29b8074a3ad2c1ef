"""MPC as a layer: derivatives of closed loops against finite differences, warm starts as values, its place in networks."""

import copy
import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from dynamics import Pendulum, PhysicalParameter, TorchDynamics
from planners import (
    DDP,
    ICEM,
    LQR,
    FunctionCost,
    Implicit,
    InvalidGradientError,
    MPCLayer,
    Problem,
    QuadraticCost,
    SolveError,
    StateLimits,
    Unrolled,
    solve,
)

STEPS = 5
PLANNER = DDP(tolerance=1e-9)
EXACT = Implicit(tolerance=1e-11)
X0 = torch.tensor([[0.9, 0.5], [-0.5, 0.4], [0.3, -0.3]], dtype=torch.float64)
THETA = torch.tensor([1.1, 0.9, 1.3, 0.2, 0.1], dtype=torch.float64)  # mass, length, two weights, goal


class Learner(nn.Module):
    """A pendulum's problem from physical parameters, weights and a goal: ``(5,)``, or ``(W, 5)`` for one set per world."""

    def __init__(self, theta=THETA, limit=3.0):
        super().__init__()
        self.theta, self.limit, self.model = nn.Parameter(theta.clone()), limit, Pendulum()

    def forward(self):
        mass, length, *_ = self.theta.unbind(-1)

        def distance(x):
            values = self.theta.unbind(-1)[2:]
            if self.theta.ndim == 2:
                values = [v.reshape(-1, *[1] * (x.ndim - 2)) for v in values]
            angle, velocity, goal = (v.to(x) for v in values)
            return angle * (1 - (x[..., 0] - goal).cos()) + velocity * x[..., 1].square()

        cost = FunctionCost(lambda x, u, t: distance(x) + 0.05 * u[..., 0].square(), distance)
        model = self.model.with_parameters(mass=mass, length=length)
        return Problem(model, cost, 8, control_limits=(-self.limit, self.limit))


def closed_loop(layer, x, *, warm, plant=None):
    """Controls and states of some steps in a plant that is not the layer's model, and the solutions on the way."""
    plant = plant or Pendulum().with_parameters(damping=0.3)
    init, us, xs, solutions = None, [], [], []
    for k in range(STEPS):
        u, solution = layer(x, init=init, t0=k)
        init = solution if warm else None
        x = plant(x, u)
        us, xs, solutions = [*us, u], [*xs, x], [*solutions, solution]
    return torch.stack(us), torch.stack(xs), solutions


def losses(us, xs):
    """One number for each world."""
    cost = us[..., 0].square() * torch.linspace(0.5, 1.5, STEPS).to(us)[:, None]
    return cost.sum(0) + (1 + xs[-1].sin()).square().sum(-1)


def fourth_order_differences(fn, worlds, step=1e-5):
    """Derivatives of ``fn((W, k)) -> (W,)``, each world by its own row, all evaluated as one batch: ``(W, k)``."""
    W, k = worlds.shape
    offsets = step * torch.tensor([-2.0, -1.0, 1.0, 2.0]).to(worlds)
    moved = worlds + offsets[:, None, None, None] * torch.eye(k).to(worlds)[:, None, :]  # (4, k, W, k)
    values = fn(moved.reshape(-1, k)).reshape(4, k, W)
    weights = torch.tensor([1.0, -8.0, 8.0, -1.0]).to(worlds) / (12 * step)
    return (weights[:, None, None] * values).sum(0).T


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("limit", [50.0, 3.0], ids=["free", "limited"])
def test_gradients_of_a_closed_loop(limit, warm):
    layer = MPCLayer(Learner(limit=limit), PLANNER, gradient=EXACT)
    x0 = X0.clone().requires_grad_()
    us, xs, solutions = closed_loop(layer, x0, warm=warm)
    losses(us, xs).sum().backward()
    active = (us.detach().abs() == limit).double().mean()
    assert (0.1 < active < 0.9) == (limit == 3.0)
    assert all(bool(s.certificate.gradient_valid.all()) for s in solutions)

    @torch.no_grad()
    def of_worlds(worlds):
        layer = MPCLayer(Learner(worlds[:, :5], limit), PLANNER, gradient=EXACT)
        return losses(*closed_loop(layer, worlds[:, 5:], warm=warm)[:2])

    differences = fourth_order_differences(of_worlds, torch.cat([THETA.expand(3, 5), X0], dim=-1))
    by_theta, by_x0 = differences[:, :5].sum(0), differences[:, 5:]
    torch.testing.assert_close(layer.problem.theta.grad, by_theta, rtol=1e-5, atol=1e-6 * float(by_theta.abs().max()))
    torch.testing.assert_close(x0.grad, by_x0, rtol=1e-5, atol=1e-6 * float(by_x0.abs().max()))


def test_gauss_newton_derivatives_of_a_closed_loop_are_others():
    """So the test above would notice: without second derivatives of the dynamics the gradient is off by more than 1 %."""
    grads = []
    for gradient in (EXACT, replace(EXACT, curvature="gauss-newton")):
        layer = MPCLayer(Learner(), PLANNER, gradient=gradient)
        losses(*closed_loop(layer, X0, warm=True)[:2]).sum().backward()
        grads.append(layer.problem.theta.grad)
    assert float((grads[1] - grads[0]).norm() / grads[0].norm()) > 0.01


def test_warm_starts_change_nothing_but_the_work():
    layer = MPCLayer(Learner(), PLANNER, gradient=EXACT)
    cold, warm = (closed_loop(layer, X0, warm=w) for w in (False, True))
    torch.testing.assert_close(cold[0], warm[0], rtol=0, atol=1e-9)
    before = cold[2][0]
    _, again = layer(X0, init=before)
    assert before.stats["iterations"] > 2
    assert again.stats["iterations"] == 0


@pytest.mark.parametrize("gradient", [EXACT, Unrolled()], ids=["implicit", "unrolled"])
def test_no_gradient_passes_through_a_warm_start(gradient):
    layer = MPCLayer(Learner(), PLANNER, gradient=gradient)
    first = X0.clone().requires_grad_()
    _, before = layer(first)
    u, _ = layer(X0.clone(), init=before, t0=1)
    u.sum().backward()
    assert first.grad is None
    assert layer.problem.theta.grad is not None


def test_a_detached_solution_has_no_graph():
    _, solution = MPCLayer(Learner(), PLANNER)(X0)
    assert solution.us.requires_grad
    plain = solution.detach()
    tensors = [getattr(plain, f.name) for f in fields(plain) if isinstance(getattr(plain, f.name), Tensor)]
    assert len(tensors) >= 6
    assert not any(t.requires_grad for t in tensors)
    assert torch.equal(plain.us, solution.us)


def test_equal_calls_give_equal_controls():
    layer = MPCLayer(Learner(), PLANNER)
    u, solution = layer(X0)
    layer(X0 + 0.3, init=solution)
    assert torch.equal(layer(X0)[0], u)


def lq(horizon=6, limits=(-1.0, 1.0), **fields):
    def f(x, u, p):
        return torch.stack([x[..., 0] + p.gain * 0.2 * x[..., 1], x[..., 1] + 0.2 * u[..., 0]], dim=-1)

    gain = PhysicalParameter(nn.Parameter(torch.tensor(1.2, dtype=torch.float64)))
    model = TorchDynamics(f, 2, 1, dt=0.2, parameters={"gain": gain})
    eye = torch.eye(2, dtype=torch.float64)
    cost = QuadraticCost(nn.Parameter(eye.clone()), 0.1 * eye[:1, :1], Q_terminal=eye)
    return Problem(model, cost, horizon, control_limits=limits, **fields)


def test_parameters_and_state_of_a_fixed_problem():
    layer, other = MPCLayer(lq(), DDP()), MPCLayer(lq(), DDP())
    assert {name for name, _ in layer.named_parameters()} == {"dynamics.gain", "cost.Q"}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.5)
    x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    assert not torch.equal(layer(x)[0], other(x)[0])
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x)[0], other(x)[0])
    again = copy.deepcopy(layer)
    assert torch.equal(layer(x)[0], again(x)[0])
    again(x)[0].sum().backward()
    assert all(p.grad is None for p in layer.parameters())
    assert all(p.grad is not None for p in again.parameters())


def test_state_of_a_factory_that_is_a_module():
    layer, other = MPCLayer(Learner(THETA), PLANNER), MPCLayer(Learner(1.2 * THETA), PLANNER)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(X0)[0], other(X0)[0])


def test_constraints_are_submodules():
    limits = StateLimits(nn.Parameter(torch.tensor([-5.0, -0.3]).double()), torch.tensor([5.0, 0.3]).double())
    layer = MPCLayer(lq(constraints=[limits], terminal_constraints=[limits]), DDP())
    assert sum(name.startswith("constraints.") for name in layer.state_dict()) == len(limits.state_dict())
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    _, solution = layer(x)
    assert float(solution.xs.detach()[..., 1].abs().max()) == pytest.approx(0.3)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)])
def test_batch_shapes(batch):
    x = torch.linspace(-1, 1, 2 * max(1, torch.Size(batch).numel())).double()[: 2 * torch.Size(batch).numel()]
    x = x.reshape(*batch, 2).requires_grad_()
    u, solution = MPCLayer(lq(), DDP())(x)
    assert u.shape == (*batch, 1)
    assert solution.us.shape == (*batch, 6, 1)
    u.sum().backward()
    assert x.grad.shape == x.shape
    assert bool(x.grad.isfinite().all())


def test_float32():
    layer = MPCLayer(Learner(), DDP())
    x = X0.float().requires_grad_()
    u, _ = layer(x)
    assert u.dtype == torch.float32
    u.square().sum().backward()
    double = MPCLayer(Learner(), PLANNER)
    X = X0.clone().requires_grad_()
    double(X)[0].square().sum().backward()
    torch.testing.assert_close(x.grad.double(), X.grad, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(layer.problem.theta.grad, double.problem.theta.grad, rtol=1e-2, atol=1e-2)


def test_networks_before_and_after_the_layer():
    torch.manual_seed(0)
    before = nn.Linear(3, 2).double()
    goals = nn.Linear(3, 2).double()
    after = nn.Linear(1, 1).double()
    layer = MPCLayer(lq(), DDP())
    y = torch.randn(4, 3, dtype=torch.float64)
    u, _ = layer(before(y), reference=goals(y).unsqueeze(-2))
    after(u).square().sum().backward()
    for module in (before, goals, after, layer):
        grads = [p.grad for p in module.parameters()]
        assert all(g is not None and bool(g.isfinite().all()) for g in grads)
        assert any(bool((g != 0).any()) for g in grads)


def test_inputs_reach_the_function_that_makes_the_problem():
    base = lq()

    def problem(goal):
        return replace(base, cost=base.cost.with_reference(goal))

    layer = MPCLayer(problem, DDP(), gradient=Implicit(tolerance=1e-11))
    x = torch.tensor([[0.3, 0.0]], dtype=torch.float64)
    goal = torch.tensor([0.2, 0.0], dtype=torch.float64, requires_grad=True)
    u, _ = layer(x, goal)
    u.sum().backward()
    d = 1e-5 * torch.eye(2, dtype=torch.float64)
    values = [[layer(x, goal.detach() + sign * row)[0].item() for row in d] for sign in (1, -1)]
    differences = torch.tensor(values, dtype=torch.float64).diff(dim=0)[0] / -2e-5
    torch.testing.assert_close(goal.grad, differences, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(MPCLayer(base, DDP())(x, reference=goal)[0], u, rtol=0, atol=1e-9)


def test_a_reference_begins_at_the_present_step():
    layer, x = MPCLayer(lq(), DDP()), torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    reference = torch.stack([torch.linspace(0, 0.5, 10), torch.zeros(10)], dim=-1).double()
    torch.testing.assert_close(layer(x, reference=reference)[0], layer(x, reference=reference, t0=7)[0])


def diverging(limit=1.0):
    """A system whose rollouts overflow where x starts beyond the limit."""
    return TorchDynamics(lambda x, u: x + u + 1e200 * torch.relu(x - limit) ** 3, 1, 1, dt=0.1)


@pytest.mark.parametrize("invalid", ["zero", "one-step"])
def test_samples_without_a_plan_do_not_spoil_the_others(invalid):
    eye = torch.eye(1, dtype=torch.float64)
    Q = nn.Parameter(eye.clone())
    layer = MPCLayer(
        Problem(diverging(), QuadraticCost(Q, eye, Q_terminal=eye), 4), DDP(), gradient=Implicit(invalid=invalid)
    )
    x = torch.tensor([[0.5], [3.0], [-0.2]], dtype=torch.float64, requires_grad=True)
    u, solution = layer(x)
    assert solution.usable.tolist() == [True, False, True]
    assert solution.certificate.optimal.tolist() == [True, False, True]
    weight = solution.certificate.optimal.to(u)
    (weight * u[..., 0].square()).sum().backward()
    sound = x.detach()[[0, 2]].requires_grad_()
    alone = MPCLayer(Problem(diverging(), QuadraticCost(P := nn.Parameter(eye.clone()), eye, Q_terminal=eye), 4), DDP())
    alone(sound)[0].square().sum().backward()
    torch.testing.assert_close(Q.grad, P.grad)
    torch.testing.assert_close(x.grad[[0, 2]], sound.grad)
    assert x.grad[1].item() == 0.0


def test_a_sample_without_a_plan_raises_by_default():
    eye = torch.eye(1, dtype=torch.float64)
    layer = MPCLayer(Problem(diverging(), QuadraticCost(eye, eye), 4), DDP())
    with pytest.raises(SolveError, match="no usable plan"):
        layer(torch.tensor([[3.0]], dtype=torch.float64))


def test_a_plan_that_is_no_minimum_raises_once_a_gradient_is_asked_for():
    """To hang exactly is a saddle: no control is a stationary plan, and every other plan is better."""
    x = torch.tensor([[math.pi, 0.0], [0.1, 0.0]], dtype=torch.float64)
    theta = THETA * torch.tensor([1.0, 1.0, 30.0, 0.0, 0.0])
    layer = MPCLayer(Learner(theta, limit=50.0), DDP())
    u, solution = layer(x)
    assert solution.certificate.optimal.tolist() == [False, True]
    with pytest.raises(InvalidGradientError, match="1 of 2 plans"):
        u.sum().backward(retain_graph=True)
    u[1].sum().backward()
    assert bool(layer.problem.theta.grad.isfinite().all())


def test_bad_arguments():
    with pytest.raises(TypeError, match="Problem or a function"):
        MPCLayer(3, DDP())
    with pytest.raises(ValueError, match="offers"):
        MPCLayer(lq(), ICEM())
    with pytest.raises(ValueError, match="cannot honor"):
        MPCLayer(lq(), LQR())
    x = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(TypeError, match="fixed problem"):
        MPCLayer(lq(), DDP())(x, x)
    with pytest.raises(TypeError, match="must return a Problem"):
        MPCLayer(lambda: 3, DDP())(x)
    with pytest.raises(ValueError, match="x0 must be"):
        MPCLayer(lq(), DDP())(x[..., :1])
    with pytest.raises(TypeError, match="init must be"):
        MPCLayer(lq(), DDP())(x, init=x)


def test_it_is_solve():
    problem = lq()
    x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    assert torch.equal(MPCLayer(problem, DDP())(x)[0], solve(problem, DDP(), x, gradient=Implicit()).us[:, 0])
