"""The Laplace approximation against dense Hessians and exact densities, and what is learned by it against the truth."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dynamics import LinearDynamics, Pendulum, Quadrotor, Trajectory
from mbrl import LaplaceIRL, laplace_log_likelihood
from planners import (
    DDP,
    DiagonalQuadraticCost,
    FunctionCost,
    GoalCost,
    LinearFeatureCost,
    LinearQuadratic,
    Problem,
    QuadraticCost,
    StateLimits,
    maximum_entropy_controller,
    solve,
)

DOUBLE = torch.float64
N_STATES, N_CONTROLS = 3, 2
TRUTH = torch.tensor([1.0, 0.5, 2.0, 0.3, 1.0], dtype=DOUBLE)  # weights of states and controls


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def linear_problem(horizon=10, **fields):
    A = torch.eye(N_STATES, dtype=DOUBLE) + 0.2 * draw(N_STATES, N_STATES, seed=1)
    cost = DiagonalQuadraticCost(TRUTH[:N_STATES], TRUTH[N_STATES:])
    return Problem(LinearDynamics(A, draw(N_STATES, N_CONTROLS, seed=2)), cost, horizon, **fields)


def soft_optimal(problem, number, temperature):
    """The maximum-entropy controller of the linear problem, about zero."""
    f, w, T = problem.dynamics, problem.cost.weights.detach(), problem.horizon
    n, m = N_STATES, N_CONTROLS
    lq = LinearQuadratic(
        A=f.A.expand(T, n, n),
        B=f.B.expand(T, n, m),
        b=torch.zeros(T, n, dtype=DOUBLE),
        Q=torch.diag(w[:n]).expand(T, n, n),
        N=torch.zeros(T, n, m, dtype=DOUBLE),
        R=torch.diag(w[n:]).expand(T, m, m),
        q=torch.zeros(T, n, dtype=DOUBLE),
        r=torch.zeros(T, m, dtype=DOUBLE),
        P_T=torch.zeros(n, n, dtype=DOUBLE),
        p_T=torch.zeros(n, dtype=DOUBLE),
        discount=problem.discount,
    )
    xs, us = torch.zeros(number, T + 1, n, dtype=DOUBLE), torch.zeros(number, T, m, dtype=DOUBLE)
    return maximum_entropy_controller(lq, f, xs, us, temperature=temperature)


def sampled(problem, number, *, temperature, seed=0, noise=0.0):
    """The controller, and states and controls of episodes of it."""
    controller = soft_optimal(problem, number, temperature)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, N_STATES, generator=generator, dtype=DOUBLE)
    memory, xs, us = controller.init(number, generator=generator), [x], []
    for _ in range(problem.horizon):
        u, memory = controller.act(x, memory, deterministic=temperature < 1e-20)
        x = problem.dynamics(x, u) + noise * torch.randn(x.shape, generator=generator, dtype=DOUBLE)
        xs.append(x)
        us.append(u)
    return controller, torch.stack(xs, -2), torch.stack(us, -2)


def trajectories(xs, us, dt=1.0):
    return [Trajectory(x, u, states=x, dt=dt) for x, u in zip(xs.numpy(), us.numpy(), strict=True)]


def first_guess():
    return DiagonalQuadraticCost([1.0] * N_STATES, [1.0] * N_CONTROLS)


def dense_log_likelihood(problem, x0, us, temperature):
    """The formula of Levine and Koltun with the Hessian of the total reward by all controls of one demonstration."""

    def reward(flat):
        controls = flat.view_as(us)
        xs = problem.dynamics.rollout(x0, controls)
        return -problem.trajectory_cost(xs, controls) / temperature

    flat = us.flatten()
    g = torch.autograd.functional.jacobian(reward, flat)
    H = torch.autograd.functional.hessian(reward, flat)
    log_det = torch.linalg.slogdet(-H)
    assert log_det.sign > 0
    return 0.5 * g @ torch.linalg.solve(H, g) + 0.5 * log_det.logabsdet - 0.5 * flat.numel() * math.log(2 * math.pi)


def pendulum_problem(horizon=8):
    return Problem(Pendulum(), GoalCost([0.0, 0.0], [1.0, 0.1], 0.05, [3.0, 0.5], angles=[0]), horizon)


# --- likelihood ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("noise", [0.0, 0.2], ids=["rollouts", "noisy states"])
def test_likelihood_of_linear_quadratic_problems_is_the_density_of_the_maximum_entropy_controller(discount, noise):
    problem = linear_problem(discount=discount)
    controller, xs, us = sampled(problem, 5, temperature=0.3, noise=noise)
    value = laplace_log_likelihood(problem, xs, us, temperature=0.3)
    torch.testing.assert_close(value, controller.log_prob(xs[:, :-1], us).sum(-1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["linear", "pendulum"])
def test_likelihood_equals_that_of_the_dense_hessian(kind):
    if kind == "linear":
        problem, xs, us = linear_problem(discount=0.95), *sampled(linear_problem(), 3, temperature=0.2)[1:]
    else:
        problem, x0 = pendulum_problem(), torch.tensor([[0.5, 0.2], [-0.3, 1.0]], dtype=DOUBLE)
        us = solve(problem, DDP(), x0).us + 0.1 * draw(2, 8, 1)
        xs = problem.dynamics.rollout(x0, us)
    value = laplace_log_likelihood(problem, xs, us, temperature=0.7)
    dense = torch.stack([dense_log_likelihood(problem, x[0], u, 0.7) for x, u in zip(xs, us, strict=True)])
    torch.testing.assert_close(value, dense, rtol=1e-8, atol=1e-8)
    alone = laplace_log_likelihood(problem, xs[0], us[0], temperature=0.7)
    torch.testing.assert_close(alone, value[0], rtol=1e-12, atol=1e-12)


def test_likelihood_on_a_manifold_does_not_depend_on_how_the_state_is_written():
    """The control Hessian of a quadrotor, through the tangent space of quaternions, against finite differences of rollouts."""
    f = Quadrotor()
    goal = torch.zeros(f.state_dim, dtype=DOUBLE)

    def stage(x, u, t):
        return 0.5 * (x - goal).square().sum(-1) + 0.5 * (u - 2.0).square().sum(-1)

    problem = Problem(f, FunctionCost(stage), 3)
    x0 = torch.zeros(f.state_dim, dtype=DOUBLE)
    x0[3] = 1.0
    us = 2.0 + 0.1 * draw(3, f.control_dim)
    xs = f.rollout(x0, us)
    value = laplace_log_likelihood(problem, xs, us)
    torch.testing.assert_close(value, dense_log_likelihood(problem, x0, us, 1.0), rtol=1e-8, atol=1e-8)


def test_derivatives_of_the_likelihood_are_those_of_finite_differences():
    problem, xs, us = linear_problem(horizon=4), *sampled(linear_problem(horizon=4), 2, temperature=0.2)[1:]
    mass = torch.tensor(1.1, dtype=DOUBLE, requires_grad=True)

    def by_weights(weights):
        return laplace_log_likelihood(
            Problem(problem.dynamics, problem.cost.with_weights(weights), 4), xs, us, temperature=0.5
        ).sum()

    w = TRUTH.clone().requires_grad_()
    assert torch.autograd.gradcheck(by_weights, w)
    assert torch.autograd.gradgradcheck(by_weights, w)

    def by_mass(mass):
        f = Pendulum().with_parameters(mass=mass)
        return laplace_log_likelihood(Problem(f, pendulum_problem().cost, 4), states, controls)

    controls = 0.1 * draw(4, 1)
    states = Pendulum().rollout(torch.tensor([0.3, 0.0], dtype=DOUBLE), controls)
    assert torch.autograd.gradcheck(by_mass, mass)


def test_demonstrations_that_are_not_near_a_minimum_have_no_likelihood_and_leave_others_alone():
    problem, xs, us = linear_problem(), *sampled(linear_problem(), 2, temperature=0.2)[1:]
    w = torch.stack([TRUTH, -TRUTH]).requires_grad_()
    cost = problem.cost.with_weights(w)
    value = laplace_log_likelihood(Problem(problem.dynamics, cost, 10), xs, us)
    torch.testing.assert_close(value[0], laplace_log_likelihood(problem, xs[0], us[0]))
    assert value[1] == -math.inf
    value[0].backward()
    assert bool(w.grad[0].isfinite().all())
    assert bool((w.grad[0] != 0).all())
    assert bool((w.grad[1] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_likelihood_has_the_dtype_of_the_demonstration(dtype):
    problem, xs, us = linear_problem(), *sampled(linear_problem(), 2, temperature=0.2)[1:]
    value = laplace_log_likelihood(problem, xs.to(dtype), us.to(dtype), temperature=0.2)
    assert value.dtype == dtype
    torch.testing.assert_close(
        value.double(), laplace_log_likelihood(problem, xs, us, temperature=0.2), rtol=1e-3, atol=1e-2
    )


def test_likelihood_needs_a_temperature():
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        laplace_log_likelihood(linear_problem(), torch.zeros(11, 3), torch.zeros(10, 2), temperature=0.0)


# --- learning --------------------------------------------------------------------------------------------------------


def learned(number, *, seed=0, temperature=0.05, horizon=4):
    problem = linear_problem(horizon)
    _, xs, us = sampled(problem, number, temperature=temperature, seed=seed)
    return LaplaceIRL(temperature=temperature).learn(problem, first_guess(), trajectories(xs, us))


def test_weights_are_recovered_within_standard_errors_that_fall_with_the_root_of_the_number():
    few, many = learned(16), learned(144)
    for result in (few, many):
        assert result.converged
        assert not result.report.scale_unbounded
        assert bool(((result.weights.log() - TRUTH.log()).abs() < 3.0 * result.report.standard_errors).all())
    ratio = few.report.standard_errors / many.report.standard_errors
    assert bool(((ratio > 0.6 * 3.0) & (ratio < 3.0 / 0.6)).all())
    assert many.history["log_likelihood"][-1] > many.history["log_likelihood"][0]


@pytest.mark.slow  # 40 s
def test_standard_errors_are_the_spread_of_what_is_learned():
    results = [learned(20, seed=seed) for seed in range(60)]
    errors = torch.stack([r.weights.log() - TRUTH.log() for r in results])
    stated = torch.stack([r.report.standard_errors for r in results])
    z = (errors / stated).square().mean(0)  # of 60: one, with a standard error of sqrt(2 / 60) = 0.18
    assert bool(((z > 0.45) & (z < 1.8)).all())
    assert bool((errors.mean(0).abs() < 4.0 * errors.std(0) / 60**0.5 + 0.05).all())


def test_the_maximum_does_not_depend_on_how_weights_are_written():
    """Without logarithms steps lead to negative weights, of which there is no likelihood, and are not taken."""
    problem = linear_problem(3)
    demonstrations = trajectories(*sampled(problem, 12, temperature=0.05)[1:])
    plain = LinearFeatureCost(lambda x, u, t: first_guess().features(x, u, t), [9.0] * 5, positive=False)
    result = LaplaceIRL(temperature=0.05).learn(problem, plain, demonstrations)
    assert result.converged
    expected = LaplaceIRL(temperature=0.05).learn(problem, first_guess(), demonstrations)
    torch.testing.assert_close(result.weights, expected.weights, rtol=1e-4, atol=1e-6)
    errors = result.report.standard_errors / expected.weights
    torch.testing.assert_close(errors, expected.report.standard_errors, rtol=1e-4, atol=1e-6)


def test_the_temperature_sets_the_scale():
    problem = linear_problem(4)
    demonstrations = trajectories(*sampled(problem, 8, temperature=0.1)[1:])
    a, b = (LaplaceIRL(temperature=t).learn(problem, first_guess(), demonstrations).weights for t in (0.1, 0.3))
    torch.testing.assert_close(3.0 * a, b, rtol=1e-5, atol=0.0)


def test_demonstrations_without_noise_tell_ratios_only_and_the_report_says_so():
    problem = linear_problem(4)
    demonstrations = trajectories(*sampled(problem, 4, temperature=1e-30)[1:])
    guess = first_guess()
    result = LaplaceIRL().learn(problem, guess, demonstrations)
    assert result.report.scale_unbounded
    assert not result.converged
    assert result.report.standard_errors is None
    assert "only ratios" in str(result.report)
    torch.testing.assert_close(result.weights, 5.0 * TRUTH / TRUTH.sum(), rtol=1e-6, atol=0.0)  # the sum of the guess
    torch.testing.assert_close(guess.weights, torch.ones(5, dtype=DOUBLE))


def test_demonstrations_without_noise_end_the_search_for_any_parameters():
    class Squares(nn.Module):
        def __init__(self):
            super().__init__()
            self.logs = nn.Parameter(torch.zeros(2, dtype=DOUBLE))

        def forward(self, x, u, t):
            w = self.logs.exp()
            return 0.5 * w[0] * x.square().sum(-1) + 0.5 * w[1] * u.square().sum(-1)

    problem = linear_problem(3)
    expert = replace(problem, cost=problem.cost.with_weights(torch.tensor([2.0] * 3 + [0.5] * 2, dtype=DOUBLE)))
    demonstrations = trajectories(*sampled(expert, 2, temperature=1e-30)[1:])
    result = LaplaceIRL(noise_floor=1e-4).learn(problem, FunctionCost(Squares()), demonstrations)
    assert result.report.scale_unbounded
    (logs,) = result.cost.parameters()
    assert float((logs[0] - logs[1]).detach()) == pytest.approx(math.log(4.0), abs=1e-2)


def test_a_known_part_sets_the_scale():
    known = QuadraticCost(torch.eye(3, dtype=DOUBLE), torch.zeros(2, 2, dtype=DOUBLE))
    problem = linear_problem(6)
    truth = DiagonalQuadraticCost(TRUTH[:3], TRUTH[3:], known=known)
    expert = linear_problem(6).cost.with_weights(TRUTH + torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))
    _, xs, us = sampled(Problem(problem.dynamics, expert, 6), 50, temperature=0.05)
    result = LaplaceIRL(temperature=0.05).learn(
        problem, DiagonalQuadraticCost([1.0] * 3, [1.0] * 2, known=known), trajectories(xs, us)
    )
    errors = (result.weights.log() - truth.weights.detach().log()).abs() / result.report.standard_errors
    assert bool((errors < 3.0).all())
    assert [p.shape for p in result.cost.parameters() if p.requires_grad] == [(5,)]


def test_parameters_of_any_cost_are_learned():
    """The goal of a pendulum, with its weights, from a cost that is no sum of features."""

    class Goal(nn.Module):
        def __init__(self, goal):
            super().__init__()
            self.goal = nn.Parameter(torch.tensor(goal, dtype=DOUBLE))

        def forward(self, x, u, t):
            return 2.0 - 2.0 * (x[..., 0] - self.goal).cos() + 0.1 * x[..., 1] ** 2 + 0.1 * u[..., 0] ** 2

    x0 = 0.3 * draw(6, 2)
    expert = Problem(Pendulum(), FunctionCost(Goal(0.4)), 10)
    plan = solve(expert, DDP(), x0)
    us = plan.us + 0.05 * draw(6, 10, 1, seed=3)
    demonstrations = trajectories(Pendulum().rollout(x0, us), us, Pendulum().dt)
    result = LaplaceIRL(temperature=0.01).learn(expert, FunctionCost(Goal(0.0)), demonstrations)
    assert result.converged
    assert result.weights is None
    (goal,) = result.cost.parameters()
    assert abs(float(goal.detach()) - 0.4) < 4.0 * float(result.report.standard_errors)
    assert float(result.report.standard_errors) < 0.1


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 3, bias=False)).double()

    def forward(self, x, u, t):
        return 0.5 * self.layers(x).square().sum(-1) + 0.05 * u.square().sum(-1)


def test_parameters_that_a_cost_does_not_use_are_refused():
    problem, demonstrations = ready()
    weight = nn.Parameter(torch.ones((), dtype=DOUBLE))
    cost = FunctionCost(lambda x, u, t: weight * x.square().sum(-1) + u.square().sum(-1))
    cost.weight = weight
    with pytest.raises(ValueError, match="does not depend on its parameters weight: a function that closes over"):
        LaplaceIRL().learn(problem, cost, demonstrations)


def test_a_network_as_a_cost_raises_the_likelihood():
    torch.manual_seed(0)
    cost = FunctionCost(Network())
    x0 = 0.3 * draw(2, 2)
    us = solve(pendulum_problem(4), DDP(), x0).us + 0.1 * draw(2, 4, 1, seed=3)
    demonstrations = trajectories(Pendulum().rollout(x0, us), us, Pendulum().dt)
    result = LaplaceIRL(temperature=0.1, l2=0.01, max_iterations=3).learn(pendulum_problem(4), cost, demonstrations)
    assert result.report.standard_errors is None
    assert len(result.history["log_likelihood"]) == 3
    before = laplace_log_likelihood(Problem(Pendulum(), cost, 4), Pendulum().rollout(x0, us), us, temperature=0.1)
    assert result.report.log_likelihood > float(before.detach().sum()) + 0.1


# --- what does not fit -----------------------------------------------------------------------------------------------


def ready(horizon=6, number=2):
    problem = linear_problem(horizon)
    return problem, trajectories(*sampled(problem, number, temperature=0.1)[1:])


def test_demonstrations_of_several_lengths_name_the_fix():
    problem, (first, second) = ready()
    with pytest.raises(ValueError, match=r"got 4 to 6.*Cut all to the shortest: \[d.slice\(0, 4\)"):
        LaplaceIRL().learn(problem, first_guess(), [first, second.slice(0, 4)])


def test_demonstrations_that_do_not_fit_say_so():
    problem, demonstrations = ready()
    learner = LaplaceIRL()
    with pytest.raises(ValueError, match="set horizon=4"):
        learner.learn(problem, first_guess(), [d.slice(0, 4) for d in demonstrations])
    with pytest.raises(ValueError, match="must have states"):
        learner.learn(problem, first_guess(), [d.replace(states=None) for d in demonstrations])
    with pytest.raises(ValueError, match="at least one trajectory"):
        learner.learn(problem, first_guess(), [])
    with pytest.raises(TypeError, match=r"put it in a list"):
        learner.learn(problem, first_guess(), demonstrations[0])
    with pytest.raises(TypeError, match="sequence of Trajectory"):
        learner.learn(problem, first_guess(), [1.0])
    with pytest.raises(ValueError, match="2 states and 1 controls"):
        learner.learn(problem, first_guess(), trajectories(torch.zeros(2, 7, 2), torch.zeros(2, 6, 1)))
    with pytest.raises(TypeError, match="Problem or a Task"):
        learner.learn(None, first_guess(), demonstrations)
    with pytest.raises(TypeError, match="must be a Cost"):
        learner.learn(problem, nn.Linear(1, 1), demonstrations)
    with pytest.raises(ValueError, match="no parameter to learn"):
        learner.learn(problem, GoalCost(0.0, 1.0, 1.0), demonstrations)


def test_what_the_likelihood_cannot_take_account_of_is_refused():
    _, demonstrations = ready()
    constrained = linear_problem(6, constraints=[StateLimits(-1e3, 1e3)])
    with pytest.raises(ValueError, match=r"cannot take account of constraints; MPCInverse"):
        LaplaceIRL().learn(constrained, first_guess(), demonstrations)
    largest = max(float(abs(d.controls).max()) for d in demonstrations)
    with pytest.raises(ValueError, match=r"1 of 24 demonstrated controls are at their limits"):
        LaplaceIRL().learn(linear_problem(6, control_limits=(-largest, largest)), first_guess(), demonstrations)
    LaplaceIRL(max_iterations=1).learn(
        linear_problem(6, control_limits=(-2 * largest, 2 * largest)), first_guess(), demonstrations
    )


def test_a_first_guess_without_a_likelihood_is_refused():
    problem, demonstrations = ready()
    cost = LinearFeatureCost(
        lambda x, u, t: torch.stack([x.square().sum(-1), u.square().sum(-1)], -1), [1.0, -1.0], positive=False
    )
    with pytest.raises(ValueError, match="2 of 2 demonstrations are not near a minimum"):
        LaplaceIRL().learn(problem, cost, demonstrations)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"l2": -1.0}, {"tolerance": 0.0}, {"noise_floor": 0.0}, {"max_iterations": 0}]
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LaplaceIRL(**settings)
