"""Derivatives of plans by the optimality conditions against differences of plans."""

import math

import pytest
import torch
from derivative_oracle import POLISHED, gradient_errors, weights
from instances import ensemble
from torch import nn

from dynamics import (
    Acrobot,
    CartPole,
    LinearDynamics,
    MujocoDynamics,
    Pendulum,
    Quadrotor,
    TorchDynamics,
)
from planners import (
    DDP,
    Equality,
    FunctionCost,
    GoalCost,
    Implicit,
    Inequality,
    InvalidGradientError,
    LinearEquality,
    LinearFeatureCost,
    LinearInequality,
    Problem,
    QuadraticCost,
    Slack,
    SmoothAbsCost,
    StateInequality,
    StateLimits,
    TerminalState,
    TransitionCost,
    Unrolled,
    solve,
)
from planners.implicit import refined

F64 = torch.float64
T = 10


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def number(value):
    return torch.tensor(value, dtype=F64)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def unicycle_step(x, u):
    heading = x[..., 2]
    return x + 0.1 * torch.stack([u[..., 0] * torch.cos(heading), u[..., 0] * torch.sin(heading), u[..., 1]], dim=-1)


UNICYCLE = TorchDynamics(unicycle_step, 3, 2, dt=0.1)
Q, R, X0 = tensor(10.0, 10.0, 1.0), tensor(1.0, 1.0), tensor(-1.0, -1.0, 0.7)


def unicycle(x0, Q=Q, R=R, limits=None, horizon=T, **fields):
    cost = QuadraticCost(torch.diag(Q), torch.diag(R), Q_terminal=torch.diag(Q))
    return Problem(UNICYCLE, cost, horizon, control_limits=limits, **fields), x0


def pendulum(mass, length, damping, x0, **fields):
    dynamics = Pendulum().with_parameters(mass=mass, length=length, damping=damping)
    cost = GoalCost([0.0, 0.0], [1.0, 0.1], [0.05], [10.0, 1.0], angles=[0])
    return Problem(dynamics, cost, 20, **fields), x0


def weighted(kind):
    def make(w, v, w_T, goal, x0):
        cost = kind([0.0, 0.0], w, v, w_T, angles=[0]).with_reference(goal)
        return Problem(Pendulum(), cost, 15, control_limits=(-2.0, 2.0)), x0

    return make, [tensor(1.0, 0.1), tensor(0.05), tensor(3.0, 1.0), tensor(0.0, 0.1).repeat(16, 1), tensor(2.0, 0.0)]


def linear(A, B, b, root, N, q, r, goal, x0):
    Q = root @ root.mT + 0.1 * torch.eye(3, dtype=F64)
    cost = QuadraticCost(Q, torch.eye(2, dtype=F64), 0.1 * N, q, r, root @ root.mT, goal)
    return Problem(LinearDynamics(A, B, b), cost, 8, control_limits=(-0.5, 0.5)), x0


LINEAR = [draw(0, 3, 3) / 2, draw(1, 3, 2), draw(2, 3), draw(3, 3, 3), draw(4, 3, 2), draw(5, 3), draw(6, 2)]


def network(w1, b1, w2, x0):
    def step(x, u):
        return x + 0.1 * (torch.tanh(torch.cat([x, u], dim=-1) @ w1 + b1) @ w2)

    eye = torch.eye(3, dtype=F64)
    cost = QuadraticCost(eye, 0.1 * eye[:2, :2], Q_terminal=10.0 * eye)
    return Problem(TorchDynamics(step, 3, 2, dt=0.1), cost, 8, control_limits=(-1.0, 1.0)), x0


def learned_value(w, x0):
    eye = torch.eye(3, dtype=F64)
    fields = {
        "terminal_value": lambda x: torch.tanh(x @ w).square().sum(-1),
        "discount": 0.95,
        "control_limits": (-2.0, 2.0),
    }
    return Problem(UNICYCLE, QuadraticCost(eye, 0.1 * eye[:2, :2]), T, **fields), x0


def function_cost(p, x0):
    def stage(x, u, t):
        return p[0] * torch.sin(x).square().sum(-1) + p[1] * torch.cosh(0.3 * u).sum(-1) + p[2] * x[..., 0] * u[..., 1]

    return Problem(UNICYCLE, FunctionCost(stage, lambda x: p[3] * x.square().sum(-1)), T, discount=0.95), x0


def transition_cost(p, x0):
    def transition(x, u, x_next, t):
        moved = p[0] * (x_next - x).square().sum(-1) + p[1] * torch.sin(x_next[..., 0]) * x[..., 1]
        return moved + p[2] * u.square().sum(-1) + x_next.square().sum(-1)

    cost = TransitionCost(transition, lambda x: p[3] * x.square().sum(-1))
    return Problem(UNICYCLE, cost, T, control_limits=(-2.0, 2.0), discount=0.9), x0


def quadrotor(weight, displacement, goal, mass, **fields):
    attitude = tensor(0.8, 0.6, 0.0, 0.0)

    def stage(x, u, t):
        turned = 1.0 - (x[..., 3:7] * attitude).sum(-1).square()
        place = (x[..., :3] - goal).square().sum(-1)
        return (
            weight[0] * place
            + weight[1] * x[..., 7:].square().sum(-1)
            + weight[2] * turned
            + 0.1 * (u - 1.2).square().sum(-1)
        )

    def terminal(x):
        return 10.0 * (x[..., :3] - goal).square().sum(-1) + x[..., 7:].square().sum(-1)

    dynamics = Quadrotor().with_parameters(mass=mass)
    x0 = dynamics.retract(Quadrotor().hover_state(torch.zeros(3, dtype=F64)), displacement)
    return Problem(dynamics, FunctionCost(stage, terminal), 4, **fields), x0


def acrobot(x0):
    cost = GoalCost(0.0, tensor(1.0, 1.0, 0.1, 0.1), [0.1], tensor(30.0, 30.0, 3.0, 3.0), angles=[0, 1])
    return Problem(Acrobot(), cost, 30), x0


ACROBOT = [tensor(2.6, 0.4, 0.0, 0.0)]
QUADROTOR = [tensor(1.0, 0.1, 1.0), 0.2 * draw(1, 12), tensor(0.3, 0.2, 0.1), number(0.5)]


def disc(center, radius):
    def inside(x):
        return radius**2 - (x[..., :2] - center).square().sum(-1, keepdim=True)

    return StateInequality(inside, name="disc")


def around_disc(x0, center, radius):
    constraint = [disc(center, radius)]
    return unicycle(x0, limits=(-3.0, 3.0), constraints=constraint, terminal_constraints=constraint)


def limited_states(x0, lower, upper, soft=None, **fields):
    constraint = [StateLimits(lower, upper, soft=soft)]
    return unicycle(x0, constraints=constraint, terminal_constraints=constraint, **fields)


def reached(x0, goal, soft=None, **fields):
    states = range(goal.shape[-1])
    return unicycle(x0, terminal_constraints=[TerminalState(goal, states=list(states), soft=soft)], **fields)


def affine_rows(kind):
    return lambda x0, C, D, d: unicycle(x0, constraints=[kind(C, D, d)])


STATE_LIMITS = [X0, tensor(-4.0, -4.0, -4.0), tensor(0.5, -0.35, 0.75)]
ROWS = [X0, tensor(0.2, 0.1, 0.3)[None], tensor(1.0, -0.5)[None], tensor(1.5)]
BOTH = (tensor(-3.0, -2.0), tensor(2.5, 2.0))
FAR = tensor(-8.0, -3.0, 0.3)

CASES = {
    "without limits": (unicycle, [X0, Q, R]),
    "limits": (lambda x0, Q, R, a, b: unicycle(x0, Q, R, (a, b)), [X0, Q, R, *BOTH]),
    "limits by step": (
        lambda x0, a, b: unicycle(x0, limits=(a, b)),
        [X0, BOTH[0].repeat(T, 1), BOTH[1].repeat(T, 1)],
    ),
    "limits that never matter": (lambda x0, Q: unicycle(x0, Q, limits=(-50.0, 50.0)), [X0, Q]),
    "every control at a limit": (
        lambda x0, Q, a, b: unicycle(x0, Q, limits=(a, b)),
        [FAR, Q, tensor(-0.01, -0.01), tensor(0.02, 0.02)],
    ),
    "controls held by equal limits": (lambda x0, u: unicycle(x0, limits=(u, u)), [X0, draw(8, T, 2)]),
    "discount": (lambda x0, Q, R: unicycle(x0, Q, R, (-3.0, 3.0), discount=0.9), [X0, Q, R]),
    "parameters of the dynamics": (pendulum, [number(1.1), number(0.9), number(0.1), tensor(2.0, 0.0)]),
    "parameters, limits": (
        lambda *a: pendulum(*a, control_limits=(-2.0, 2.0)),
        [number(1.1), number(0.9), number(0.1), tensor(2.0, 0.0)],
    ),
    "weights and goals": weighted(GoalCost),
    "weights and goals, smooth absolute": weighted(SmoothAbsCost),
    "every matrix": (linear, [*LINEAR, draw(7, 9, 3), draw(8, 2, 3)]),
    "a goal for each": (linear, [*LINEAR, draw(7, 2, 9, 3), draw(8, 2, 3)]),
    "weights of a network": (network, [draw(1, 5, 6), draw(2, 6), draw(3, 6, 3), draw(4, 2, 3)]),
    "a learned value": (learned_value, [draw(0, 3, 6), draw(1, 2, 3)]),
    "a closure": (function_cost, [tensor(1.0, 0.5, 0.1, 2.0), X0]),
    "a transition cost": (transition_cost, [tensor(1.0, 0.5, 0.3, 2.0), X0]),
    "attitudes": (quadrotor, QUADROTOR),
    "attitudes, limits": (lambda *a: quadrotor(*a, control_limits=(1.0, 1.5)), QUADROTOR),
    "attitudes, a height to reach": (
        lambda w, d, g, m, z: quadrotor(w, d, g, m, terminal_constraints=[TerminalState(z, states=[2])]),
        [*QUADROTOR, tensor(0.05)],
    ),
    "a disc": (around_disc, [tensor(-1.0, -1.0, 1.0), tensor(-0.7, -0.45), number(0.35)]),
    "state limits": (limited_states, STATE_LIMITS),
    "state limits twice": (
        lambda x0, b: unicycle(x0, constraints=[StateLimits(-4.0, b, name=n) for n in ("one", "two")]),
        [X0, STATE_LIMITS[2]],
    ),
    "state limits, discount": (lambda *a: limited_states(*a, limits=(-4.0, 4.0), discount=0.9), STATE_LIMITS),
    "a state to reach": (reached, [X0, tensor(0.1, 0.2, 0.3)]),
    "a place to reach, limits": (lambda x0, g: reached(x0, g, limits=(-3.0, 3.0)), [X0, tensor(-0.1, 0.0)]),
    "affine inequality": (affine_rows(LinearInequality), ROWS),
    "affine equality": (affine_rows(LinearEquality), ROWS),
    "a limited product": (
        lambda x0, p: unicycle(x0, constraints=[Inequality(lambda x, u, t: u[..., :1] * u[..., 1:] - p)]),
        [tensor(-1.0, -1.0, 1.0), tensor(-1.0)],
    ),
    "a ratio to keep": (
        lambda x0, p: unicycle(x0, constraints=[Equality(lambda x, u, t: u[..., 1:] - p * u[..., :1])]),
        [X0, tensor(0.2)],
    ),
    "soft, exact": (lambda *a: limited_states(*a, soft=Slack(1e3)), STATE_LIMITS),
    "soft, at its price": (lambda *a: limited_states(*a, soft=Slack(0.3)), STATE_LIMITS),
    "soft, quadratic": (lambda *a: limited_states(*a, soft=Slack(quadratic=3.0)), STATE_LIMITS),
    "soft, both": (lambda *a: limited_states(*a, soft=Slack(0.3, 3.0)), STATE_LIMITS),
    "soft equality": (lambda *a: reached(*a, soft=Slack(0.5, 2.0)), [X0, tensor(0.1, 0.2, 0.3)]),
    "a batch": (
        lambda x0, Q, b: unicycle(x0, Q, limits=(-b, b)),
        [X0 + 0.3 * draw(0, 2, 2, 3), Q, tensor(3.0).expand(2, 2, 1, 1)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_equal_differences_of_plans(name):
    make, values = CASES[name]
    errors, solution = gradient_errors(make, values, directions=1)
    assert bool(solution.certificate.gradient_valid.all()), solution.certificate
    assert max(errors) < 1e-5, errors


@pytest.mark.parametrize("name", ["limits", "limits by step", "a disc", "affine inequality", "state limits"])
@pytest.mark.parametrize("tau", [1e-1, 1e-3])
def test_derivatives_of_smoothed_plans_equal_their_differences(name, tau):
    make, values = CASES[name]
    errors, solution = gradient_errors(make, values, how=Implicit(tolerance=1e-10, smoothing=tau), directions=1)
    assert bool(solution.certificate.optimal.all())
    assert max(errors) < 1e-5, errors


def gradient_of(make, values, how):
    leaves = [value.clone().requires_grad_() for value in values]
    problem, x0 = make(*leaves)
    us = solve(problem, DDP(tolerance=1e-8), x0, gradient=how).us
    return torch.cat([g.flatten() for g in torch.autograd.grad((weights(us, 3) * us).sum(), leaves)])


@pytest.mark.parametrize("name", ["limits", "a disc"])
def test_smoothed_derivatives_tend_to_the_exact_ones(name):
    make, values = CASES[name]
    problem, x0 = make(*values)
    assert float(solve(problem, DDP(), x0).certificate.margin) > 1e-2  # no kink is near
    exact = gradient_of(make, values, POLISHED)
    errors = [
        float((gradient_of(make, values, Implicit(smoothing=tau)) - exact).norm() / exact.norm())
        for tau in (1e-2, 1e-4, 1e-6)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 1e-2


def test_smoothing_holds_controls_between_equal_limits():
    def make(x0, u):
        return unicycle(x0, limits=(torch.stack([u, number(-1.0)]), torch.stack([u, number(1.0)])))

    errors, solution = gradient_errors(make, [X0, number(2.5)], how=Implicit(tolerance=1e-10, smoothing=1e-2))
    assert bool(solution.certificate.optimal.all())
    assert bool((solution.us[..., 0] == 2.5).all())
    assert max(errors) < 1e-5, errors


# MuJoCo


def mujoco_cart_pole(w, x0, limit, **fields):
    dynamics = MujocoDynamics(CartPole().mjcf(rail=5.0), frame_skip=2)
    cost = GoalCost([0.0, 0.0, 0.0, 0.0], w, [0.02], 10.0 * w, angles=[1])
    return Problem(dynamics, cost, 12, control_limits=(-limit, limit), **fields), x0


def test_mujoco_has_derivatives_by_finite_differences():
    values = [tensor(1.0, 2.0, 0.1, 0.1), tensor(0.3, 0.6, 0.0, 0.0), tensor(4.0)]
    how = Implicit(curvature="finite-difference", tolerance=1e-7)
    errors, solution = gradient_errors(mujoco_cart_pole, values, how=how, step=1e-3)
    assert bool(solution.certificate.optimal.all())
    assert max(errors) < 2e-3, errors  # what second differences of a simulator leave


def test_exact_curvature_of_mujoco_is_refused():
    problem, x0 = mujoco_cart_pole(tensor(1.0, 2.0, 0.1, 0.1), tensor(0.3, 0.6, 0.0, 0.0), tensor(4.0))
    with pytest.raises(ValueError, match=r"no exact second derivatives; choose curvature='finite-difference'"):
        solve(problem, DDP(), x0, gradient=Implicit())


def test_gauss_newton_derivatives_are_wrong_on_nonlinear_dynamics():
    """Of the size of the derivative itself; on linear dynamics they are the exact ones."""
    make, values = CASES["parameters of the dynamics"]
    exact, model = (gradient_of(make, values, Implicit(curvature=c)) for c in ("exact", "gauss-newton"))
    assert float((model - exact).norm() / exact.norm()) > 0.1
    exact, model = (gradient_of(acrobot, ACROBOT, Implicit(curvature=c)) for c in ("exact", "gauss-newton"))
    assert float((model - exact).norm() / exact.norm()) > 0.1
    make, values = CASES["without limits"]
    exact, model = (gradient_of(make, values, Implicit(curvature=c)) for c in ("exact", "gauss-newton"))
    assert float((model - exact).norm() / exact.norm()) > 0.01
    make, values = CASES["every matrix"]
    exact, model = (gradient_of(make, values, Implicit(curvature=c)) for c in ("exact", "gauss-newton"))
    assert torch.allclose(model, exact, rtol=1e-9, atol=1e-9)


def test_modules_keep_their_gradients():
    """A network's own parameters, and an ensemble's mean."""
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    dynamics = TorchDynamics(lambda x, u: x + 0.1 * net(torch.cat([x, u], dim=-1)), 3, 2, dt=0.1)
    learned = ensemble(members=2)
    eye = torch.eye(3, dtype=F64)
    for model, parameters in ((dynamics, net.parameters()), (learned, learned.parameters())):
        problem = Problem(model, QuadraticCost(eye, eye[:2, :2], Q_terminal=eye), 5)
        found = list(parameters)
        solution = solve(problem, DDP(), draw(3, 4, 3), gradient=Implicit())
        gradients = torch.autograd.grad(solution.us.square().sum(), found, allow_unused=True)
        assert sum(float(g.abs().max()) for g in gradients if g is not None) > 0


def test_parameters_of_each_world():
    masses, x0 = tensor(0.8, 1.0, 1.3), tensor(2.0, 0.0).repeat(3, 1)

    def make(mass, x0):
        cost = GoalCost([0.0, 0.0], [1.0, 0.1], [0.05], [10.0, 1.0], angles=[0])
        return Problem(Pendulum().with_parameters(mass=mass), cost, 15, control_limits=(-2.0, 2.0)), x0

    errors, solution = gradient_errors(make, [masses, x0])
    assert max(errors) < 1e-5, errors
    for i in range(3):
        problem, start = make(masses[i], x0[i])
        assert torch.allclose(solve(problem, DDP(tolerance=1e-9), start).us, solution.us[i], atol=1e-8)


# what holds of the gradient as a whole


@pytest.mark.parametrize("name", ["limits", "a disc", "state limits", "discount", "soft, both", "a transition cost"])
def test_the_envelope_theorem(name):
    """The cost's derivative is that of the Lagrangian at fixed plan and multipliers, here by differences of optimal costs."""
    make, values = CASES[name]
    errors, _ = gradient_errors(make, values, loss=lambda solution: solution.cost.sum())
    assert max(errors) < 1e-5, errors


@pytest.mark.parametrize("name", ["without limits", "limits", "attitudes"])
def test_unrolled_agrees_at_convergence(name):
    make, values = CASES[name]
    found = []
    for how in (POLISHED, Unrolled()):
        leaves = [value.clone().requires_grad_() for value in values]
        problem, x0 = make(*leaves)
        # iterations that go on at the solution contract the error of the unrolled derivative as they do that of the plan
        us = solve(problem, DDP(tolerance=1e-12), x0, gradient=how).us
        found.append(
            torch.autograd.grad((weights(us, 3) * us).sum(), leaves, materialize_grads=True, allow_unused=True)
        )
    for implicit, unrolled in zip(*found, strict=True):
        assert torch.allclose(implicit, unrolled, rtol=1e-4, atol=1e-4 * float(implicit.abs().max())), (
            implicit,
            unrolled,
        )


def test_gradients_need_no_second_backward():
    problem, x0 = unicycle(X0.clone().requires_grad_(), limits=(-3.0, 3.0))
    solution = solve(problem, DDP(), x0, gradient=Implicit())
    (first,) = torch.autograd.grad(solution.us.sum(), x0, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(first.sum(), x0)


def test_a_second_pass_over_a_freed_graph_says_so():
    problem, x0 = unicycle(X0.clone().requires_grad_())
    loss = solve(problem, DDP(), x0, gradient=Implicit()).us.sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


# kinks


def one_control(a):
    """Minimize (u - a)^2 / 2 within u <= 1: the plan is min(a, 1)."""
    eye = torch.eye(1, dtype=F64)
    cost = QuadraticCost(eye, eye, goal=tensor(0.0), r=-a.reshape(1))
    return Problem(LinearDynamics(0 * eye, 0 * eye), cost, 1, control_limits=(-math.inf, 1.0)), tensor(0.0)


def test_at_a_weakly_active_limit_the_gradient_is_a_one_sided_one():
    a = number(1.0).requires_grad_()
    solution = solve(*(lambda p, x: (p, DDP(), x))(*one_control(a)), gradient=Implicit())
    (gradient,) = torch.autograd.grad(solution.us.sum(), a)
    assert float(gradient) in (0.0, 1.0)
    certificate = solution.certificate
    assert bool(certificate.optimal)
    assert not bool(certificate.gradient_valid)
    assert float(certificate.margin) == pytest.approx(0.0, abs=1e-12)
    smoothed = solve(*(lambda p, x: (p, DDP(), x))(*one_control(a)), gradient=Implicit(smoothing=1e-4))
    (gradient,) = torch.autograd.grad(smoothed.us.sum(), a)
    assert float(gradient) == pytest.approx(0.5, abs=0.05)


# plans without a derivative


@pytest.mark.parametrize("invalid", ["raise", "zero", "one-step"])
def test_plans_that_have_not_converged_have_no_gradient(invalid):
    """One iteration does not swing a pendulum up, and Newton steps from there lead nowhere."""
    x0 = torch.stack([tensor(3.0, 0.0), tensor(0.0, 0.0)]).requires_grad_()
    cost = GoalCost([0.0, 0.0], [1.0, 0.1], [0.01], [100.0, 10.0], angles=[0])
    problem = Problem(Pendulum(), cost, 40, control_limits=(-3.0, 3.0))
    solution = solve(problem, DDP(max_iterations=1), x0, gradient=Implicit(invalid=invalid))
    assert solution.certificate.optimal.tolist() == [False, True]
    assert bool(solution.usable.all())
    if invalid == "raise":
        with pytest.raises(InvalidGradientError, match="1 of 2 plans have no valid gradient: 1 are not converged") as e:
            torch.autograd.grad(solution.us.sum(), x0)
        assert e.value.certificate is solution.certificate
        return
    (gradient,) = torch.autograd.grad(solution.us.sum(), x0)
    assert bool(gradient.isfinite().all())
    assert bool((gradient[0] == 0).all()) == (invalid == "zero")
    assert float(gradient[1].abs().max()) > 0


@pytest.mark.parametrize("invalid", ["raise", "zero", "one-step"])
def test_saddles_have_no_gradient(invalid):
    """A hanging pendulum that is asked to stand: no torque is stationary, and no minimum."""
    x0 = torch.stack([tensor(math.pi, 0.0), tensor(0.1, 0.0)]).requires_grad_()
    cost = GoalCost([0.0, 0.0], [1.0, 0.1], [0.01], [10.0, 0.1], angles=[0])
    problem = Problem(Pendulum(), cost, 15)
    solution = solve(problem, DDP(tolerance=1e-9), x0, gradient=Implicit(invalid=invalid))
    assert solution.certificate.optimal.tolist() == [False, True]
    assert float(solution.certificate.curvature[0]) < 0 < float(solution.certificate.curvature[1])
    (gradient,) = torch.autograd.grad(solution.us[1].sum(), x0, retain_graph=True)  # what is asked for is valid
    assert float(gradient[1].abs().max()) > 0
    if invalid == "raise":
        with pytest.raises(InvalidGradientError, match="1 of 2 plans have no valid gradient"):
            torch.autograd.grad(solution.us.sum(), x0)
        return
    (gradient,) = torch.autograd.grad(solution.us.sum(), x0)
    assert bool(gradient.isfinite().all())
    assert bool((gradient[0] == 0).all()) == (invalid == "zero")


@pytest.mark.parametrize("invalid", ["raise", "zero", "one-step"])
def test_lost_plans_do_not_spoil_the_gradients_of_others(invalid):
    x0 = draw(0, 3, 3)
    x0[1, 0] = math.nan
    x0.requires_grad_()
    weight = Q.clone().requires_grad_()
    problem, _ = unicycle(x0, weight, limits=(-3.0, 3.0), constraints=[StateLimits(-4.0, 4.0)])
    solution = solve(problem, DDP(), x0, gradient=Implicit(invalid=invalid), throw=False)
    assert solution.usable.tolist() == [True, False, True]
    assert solution.cost.isfinite().tolist() == [True, False, True]
    assert bool(solution.us.isfinite().all())
    (solution.cost[solution.usable].sum() + solution.us[solution.usable].sum()).backward()
    both = x0.detach()[[0, 2]].requires_grad_()
    other = Q.clone().requires_grad_()
    problem, _ = unicycle(both, other, limits=(-3.0, 3.0), constraints=[StateLimits(-4.0, 4.0)])
    expected = solve(problem, DDP(), both, gradient=Implicit())
    (expected.cost.sum() + expected.us.sum()).backward()
    assert torch.allclose(weight.grad, other.grad, rtol=1e-8)
    assert torch.allclose(x0.grad[[0, 2]], both.grad, rtol=1e-8)
    assert bool((x0.grad[1] == 0).all())


def test_empty_batches_have_empty_gradients():
    for how in (Implicit(), Implicit(smoothing=0.1)):
        x0 = X0.expand(0, 3).clone().requires_grad_()
        problem, _ = unicycle(x0, limits=(-3.0, 3.0), constraints=[StateLimits(-2.0, 2.0)])
        solve(problem, DDP(), x0, gradient=how).us.sum().backward()
        assert x0.grad.shape == (0, 3)


def test_single_precision_has_gradients_of_its_digits():
    found = []
    for dtype in (torch.float32, F64):
        x0 = X0.to(dtype).requires_grad_()
        problem, _ = unicycle(x0, limits=(-3.0, 3.0))
        us = solve(problem, DDP(), x0, gradient=Implicit()).us
        assert us.dtype == dtype
        found.append(torch.autograd.grad((weights(us, 3) * us).sum(), x0)[0].double())
    assert torch.allclose(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"curvature": "some"}, "curvature must be"),
        ({"invalid": "ignore"}, "invalid must be"),
        ({"smoothing": -1.0}, "smoothing must not be negative"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        Implicit(**fields)


# All weights at once


def terms(x, u, t):
    squares = torch.cat([x[..., :2], u], dim=-1).square()
    return torch.stack([squares[..., :2].sum(-1), 1.0 - x[..., 2].cos(), squares[..., 2], squares[..., 3]], dim=-1)


def last_terms(x):
    return torch.stack([10.0 * x[..., 0].square(), x[..., 1].square(), *x.new_zeros(2, *x.shape[:-1])], dim=-1)


def responding(name, w):
    """A unicycle of two axes of starts with weights ``(k,)`` or ``(*batch, k)``."""
    fields = {
        "free": {},
        "limits": {"control_limits": (-0.5, 0.5)},
        "row": {"constraints": [LinearInequality(torch.zeros(1, 3), tensor(1.0, 1.0)[None], tensor(0.3))]},
        "terminal row": {"terminal_constraints": [TerminalState(tensor(0.1), states=[1])]},
        "limits, a row and a discount": {
            "control_limits": (-0.5, 0.5),
            "constraints": [LinearInequality(torch.zeros(1, 3), tensor(1.0, 1.0)[None], tensor(0.3))],
            "discount": 0.9,
        },
    }[name]
    cost = LinearFeatureCost(terms, [1.0] * 4, last_terms, known=GoalCost(0.1, [0.1, 0.1, 0.3], 0.05)).with_weights(w)
    x0 = tensor(-1.0, 0.2, 0.3) + 0.3 * draw(3, 2, 3, 3)
    return Problem(UNICYCLE, cost, 6, **fields), cost, x0


def gradients_of_terms(problem, cost, xs, us):
    """Of each total term, discounted, by states ``(k, *batch, T+1, n)`` and controls, which are free of each other."""
    xs, us = xs.clone().requires_grad_(), us.clone().requires_grad_()
    weight = problem.discounts(us)
    stage = cost.features(xs[..., :-1, :], us, torch.arange(us.shape[-2])) * weight[:-1, None]
    total = stage.sum(-2) + weight[-1] * cost.terminal_features(xs[..., -1, :])
    found = [torch.autograd.grad(one.sum(), (xs, us), retain_graph=True) for one in total.unbind(-1)]
    return tuple(map(torch.stack, zip(*found, strict=True)))


@pytest.mark.parametrize("name", ["free", "limits", "row", "terminal row", "limits, a row and a discount"])
def test_the_response_to_all_weights_is_what_autograd_says_of_each(name):
    w = tensor(1.0, 0.7, 0.4, 0.2)
    problem, cost, x0 = responding(name, w)
    plan = solve(problem, DDP(tolerance=1e-8, max_iterations=300), x0)
    found = refined(plan, POLISHED)
    assert bool(found.certificate.gradient_valid.all())
    xs, us = found.point.xs, found.point.us
    response = found.response(*gradients_of_terms(problem, cost, xs, us))
    assert response.shape == (4, *us.shape)
    if "limits" in name:
        held = us.abs() == 0.5
        assert 0 < int(held.sum()) < held.numel()
        assert not bool(response[:, held].any())
    if "row" in name and name != "terminal row":
        on_it = (us.sum(-1) - 0.3).abs() < 1e-9
        assert 0 < int(on_it.sum()) < on_it.numel()
        torch.testing.assert_close(response.sum(-1)[:, on_it], torch.zeros(4, int(on_it.sum())).double())

    each = w.expand(2, 3, 4).clone().requires_grad_()  # of each plan its own
    problem, _, x0 = responding(name, each)
    derived = solve(problem, DDP(tolerance=1e-8, max_iterations=300), x0, gradient=POLISHED)
    torch.testing.assert_close(derived.us.detach(), us, rtol=0.0, atol=1e-9)
    for t in range(6):
        for i in range(2):
            (gradient,) = torch.autograd.grad(derived.us[..., t, i].sum(), each, retain_graph=True)
            torch.testing.assert_close(response[..., t, i].movedim(0, -1), gradient, rtol=1e-6, atol=1e-8)
