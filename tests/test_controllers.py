"""Linear-Gaussian controllers: the right gains, the right covariance, and a memory that is a value."""

import math
from dataclasses import replace

import pytest
import torch

from dynamics import DoubleIntegrator, Dynamics, LinearDynamics, Pendulum, Quadrotor, TorchDynamics
from planners import (
    ICEM,
    LQR,
    FunctionCost,
    GoalCost,
    LinearGaussianController,
    Problem,
    QuadraticCost,
    Solution,
    Status,
    TransitionCost,
    expand_about,
    solve,
)
from planners.psd import project_psd

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def linear_problem(T=8, *, discount=1.0, horizon=None, cost=None):
    steps = () if horizon == math.inf else (T,)
    dynamics = LinearDynamics(torch.eye(3) + 0.3 * draw(*steps, 3, 3), draw(*steps, 3, 2, seed=1), draw(3, seed=2))
    root = draw(5, 5, seed=3)
    joint = root @ root.mT + 0.5 * torch.eye(5)
    quadratic = QuadraticCost(
        joint[:3, :3], joint[3:, 3:], joint[:3, 3:], draw(3, seed=4), Q_terminal=2 * torch.eye(3).double(), goal=draw(3)
    )
    return Problem(dynamics, cost or quadratic, horizon or T, discount=discount)


def without_gains(solution):
    return Solution(solution.problem, solution.xs, solution.us, solution.cost, solution.status, t0=solution.t0)


def drive(controller, dynamics, x, steps, t0=0):
    xs, us, memory = [x], [], controller.init()
    for t in range(steps):
        u, memory = controller.act(xs[-1], memory)
        us.append(u)
        xs.append(dynamics(xs[-1], u, t0 + t))
    return torch.stack(xs, -2), torch.stack(us, -2)


# Gains


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_the_plan_is_reproduced_from_its_own_start(batch):
    problem = linear_problem()
    solution = solve(problem, LQR(), draw(*batch, 3))
    xs, us = drive(solution.controller(), problem.dynamics, solution.xs[..., 0, :], 8)
    torch.testing.assert_close(xs, solution.xs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(us, solution.us, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("planned", [True, False], ids=["own gains", "gains of a backward pass"])
def test_feedback_about_a_linear_quadratic_plan_is_optimal_everywhere(planned, discount):
    problem, x0 = linear_problem(discount=discount), draw(5, 3, seed=9)
    about = solve(problem, LQR(), torch.zeros(5, 3, dtype=F64))
    controller = (about if planned else without_gains(about)).controller()
    xs, us = drive(controller, problem.dynamics, x0, 8)
    optimum = solve(problem, LQR(), x0)
    torch.testing.assert_close(us, optimum.us, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(problem.trajectory_cost(xs, us), optimum.cost, rtol=1e-10, atol=0)


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_a_backward_pass_about_the_plan_finds_the_gains_of_the_planner(discount):
    solution = solve(linear_problem(discount=discount), LQR(), draw(4, 3))
    own, found = solution.controller(temperature=0.3), without_gains(solution).controller(temperature=0.3)
    torch.testing.assert_close(found.K, own.K, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.covariance, own.covariance, rtol=1e-6, atol=1e-6)


def test_any_plan_will_do():
    """The gains of a linear-quadratic problem do not depend on the plan, also where that plan is poor."""
    problem, us = linear_problem(), draw(4, 8, 2, seed=6)
    optimum = solve(problem, LQR(), draw(4, 3))
    xs = problem.dynamics.rollout(optimum.xs[:, 0], us)
    plan = Solution(problem, xs, us, problem.trajectory_cost(xs, us), optimum.status)
    torch.testing.assert_close(plan.controller().K, optimum.K, rtol=1e-6, atol=1e-6)


def newton_optimum(problem, x0, iterations=12):
    """Controls that minimize the cost from each x0, by damped Newton steps on all controls at once."""
    T, m = problem.horizon, problem.dynamics.control_dim

    def cost(us):
        return problem.trajectory_cost(
            problem.dynamics.rollout(x0, us.reshape(*x0.shape[:-1], T, m)), us.reshape(*x0.shape[:-1], T, m)
        )

    us = x0.new_zeros(*x0.shape[:-1], T * m)
    for _ in range(iterations):
        us = us.detach().requires_grad_()
        (g,) = torch.autograd.grad(cost(us).sum(), us, create_graph=True)
        H = torch.stack([torch.autograd.grad(g[..., i].sum(), us, retain_graph=True)[0] for i in range(T * m)], -2)
        values, vectors = torch.linalg.eigh(H)
        step = -(vectors / values.abs().clamp_min(1e-3).unsqueeze(-2)) @ (vectors.mT @ g.detach().unsqueeze(-1))
        scales = 0.5 ** torch.arange(12.0, dtype=F64)
        tries = torch.stack([cost((us + s * step.squeeze(-1)).detach()) for s in scales])
        us = us.detach() + scales[tries.argmin(0)].unsqueeze(-1) * step.squeeze(-1)
    assert float(g.detach().abs().max()) < 1e-9
    return us.detach().reshape(*x0.shape[:-1], T, m)


@pytest.mark.parametrize("kind", ["stage", "transition"])
def test_feedback_follows_the_optimum_to_second_order_in_the_displacement(kind):
    """With the exact curvature of the cost, the cost lost to feedback falls with the fourth power, open loop's with the second.

    The system is linear in the state and the control enters it linearly, so that the model about the plan is exact to second
    order; the cost is convex and not quadratic.
    """
    dynamics = TorchDynamics(
        lambda x, u: torch.stack([x[..., 0] + 0.2 * x[..., 1], x[..., 1] + 0.2 * (u[..., 0] + x[..., 0])], -1),
        2,
        1,
        0.2,
    )

    def of_state(x):
        return x[..., 0].cosh() + 0.1 * x[..., 1] ** 2

    stage = FunctionCost(lambda x, u, t: of_state(x) + 0.1 * u[..., 0].cosh(), of_state)
    transition = TransitionCost(lambda x, u, y, t: of_state(y) + 0.1 * u[..., 0].cosh(), lambda x: 0 * x[..., 0])
    problem = Problem(dynamics, {"stage": stage, "transition": transition}[kind], 10)
    start = torch.tensor([1.0, 0.0], dtype=F64)
    us = newton_optimum(problem, start)
    xs = dynamics.rollout(start, us)
    plan = Solution(problem, xs, us, problem.trajectory_cost(xs, us), torch.tensor(int(Status.CONVERGED)))
    sizes = torch.tensor([0.1, 0.2, 0.4], dtype=F64)
    x0 = start + sizes.unsqueeze(-1) * torch.tensor([0.6, -0.8], dtype=F64)
    optimum = newton_optimum(problem, x0)
    best = problem.trajectory_cost(dynamics.rollout(x0, optimum), optimum)
    closed = problem.trajectory_cost(*drive(plan.controller(), dynamics, x0, 10)) - best
    opened = problem.trajectory_cost(dynamics.rollout(x0, us), us) - best

    def order(loss):
        return ((loss[1:] / loss[:-1]).log() / math.log(2)).tolist()

    assert order(opened) == pytest.approx([2.0, 2.0], abs=0.15)
    assert order(closed) == pytest.approx([4.0, 4.0], abs=0.5)
    assert bool((closed < 0.02 * opened).all())


def test_feedback_on_a_sampled_plan_beats_the_plan_when_pushed():
    problem = Problem(
        Pendulum(),
        GoalCost([math.pi, 0.0], [1.0, 0.1], 0.001, [10.0, 1.0], angles=[0]),
        20,
        control_limits=(-20.0, 20.0),
    )
    x0 = torch.tensor([math.pi - 0.3, 0.0], dtype=F64)
    solution = solve(problem, ICEM(num_samples=40), x0)
    push = 0.2 * draw(6, 2)
    pushed = x0 + torch.cat([push, -push])  # both ways, so that only the second order remains in the mean
    xs, us = drive(solution.controller(), problem.dynamics, pushed, 20)
    open_loop = problem.trajectory_cost(problem.dynamics.rollout(pushed, solution.us), solution.us)
    closed_loop = problem.trajectory_cost(xs, us)
    unmoved = float(solution.cost)
    assert float(closed_loop.mean()) - unmoved < 0.5 * (float(open_loop.mean()) - unmoved)


def test_the_stationary_gain_acts_at_every_state_and_time():
    problem = linear_problem(horizon=math.inf, discount=0.9)
    solution = solve(problem, LQR(), draw(3))
    controller, x = solution.controller(), draw(4, 3, seed=5)
    xs, us = drive(controller, problem.dynamics, x, 5)
    torch.testing.assert_close(us, solve(problem, LQR(), xs[:, :-1]).us.squeeze(-2), rtol=1e-10, atol=1e-10)
    assert us.shape == (4, 5, 2)


def test_beyond_the_plan_its_last_gain_is_held():
    solution = solve(linear_problem(3), LQR(), draw(4, 3))
    controller, memory, x = solution.controller(), solution.controller().init(), draw(4, 3, seed=5)
    controls = []
    for _ in range(6):
        u, memory = controller.act(x, memory)
        controls.append(u)
    assert memory.step == 6
    last = solution.us[:, 2] + (solution.K[:, 2] @ (x - solution.xs[:, 2]).unsqueeze(-1)).squeeze(-1)
    for u in controls[2:]:
        torch.testing.assert_close(u, last, rtol=1e-13, atol=1e-13)
    assert not torch.allclose(controls[1], last)


# Covariance


@pytest.mark.parametrize("planned", [True, False], ids=["own curvature", "curvature of a backward pass"])
def test_exploration_has_the_covariance_of_the_control_hessian(planned):
    solution = solve(linear_problem(4), LQR(), draw(3))
    Quu = solution.Quu
    controller = (solution if planned else without_gains(solution)).controller(temperature=0.3)
    torch.testing.assert_close(controller.covariance, 0.3 * torch.linalg.inv(Quu), rtol=1e-6, atol=1e-9)
    x, memory = draw(3, seed=5).expand(40_000, 3), controller.init(generator=torch.Generator().manual_seed(3))
    for k in range(2):
        mean, _ = controller.act(x, memory)
        u, memory = controller.act(x, memory, deterministic=False)
        deviation = u - mean
        covariance = deviation.mT @ deviation / len(u)
        # five standard errors of a sample mean and of a sample covariance
        sigma = controller.covariance[k]
        d = sigma.diagonal()
        assert bool((deviation.mean(0).abs() < 5 * (d / len(u)).sqrt()).all())
        error = ((sigma.square() + d.unsqueeze(-1) * d) / len(u)).sqrt()
        assert bool(((covariance - sigma).abs() < 5 * error).all())


def exploring(*batch, dtype=F64):
    controller = solve(linear_problem(4), LQR(), draw(*batch, 3)).controller(temperature=0.3)
    return replace(controller, **{k: getattr(controller, k).to(dtype) for k in ("xs", "us", "K", "covariance")})


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
@pytest.mark.parametrize("samples", [(), (6,)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_log_densities_and_entropies_are_those_of_the_gaussian(batch, samples, dtype):
    controller = exploring(*batch, dtype=dtype)
    xs, us = draw(*samples, *batch, 4, 3, seed=1).to(dtype), draw(*samples, *batch, 4, 2, seed=2).to(dtype)
    near = {"rtol": 1e-11, "atol": 1e-11} if dtype == F64 else {"rtol": 1e-4, "atol": 1e-4}
    K, dx = controller.K.expand(*samples, *batch, 4, 2, 3), xs - controller.xs[..., :4, :]
    mean = controller.us + torch.einsum("...mn,...n->...m", K, dx)
    gaussian = torch.distributions.MultivariateNormal(mean, controller.covariance)
    torch.testing.assert_close(controller.mean(xs), mean, **near)
    torch.testing.assert_close(controller.log_prob(xs, us), gaussian.log_prob(us), **near)
    torch.testing.assert_close(
        controller.entropy(), gaussian.entropy().expand(*samples, *batch, 4)[(0,) * len(samples)]
    )
    assert controller.log_prob(xs, us).dtype == dtype


def test_controls_that_are_acted_have_the_density_that_is_told():
    controller, x = exploring(), draw(3, seed=5).expand(20_000, 3)
    memory, noises = controller.init(generator=torch.Generator().manual_seed(4)), []
    for _ in range(4):
        u, memory = controller.act(x, memory, deterministic=False)
        noises.append(u)
    density = controller.log_prob(x.unsqueeze(-2).expand(-1, 4, -1), torch.stack(noises, -2))
    error = density.std(0) / math.sqrt(len(x))
    assert bool(((density.mean(0) + controller.entropy()).abs() < 4 * error).all())


def test_densities_on_a_manifold_are_of_errors_in_its_tangent_space():
    dynamics = Quadrotor()
    x0 = torch.zeros(13, dtype=F64)
    x0[3] = 1.0
    us = 0.1 * draw(5, 4)
    xs = dynamics.rollout(x0, us)
    root = draw(5, 4, 4, seed=2)
    controller = LinearGaussianController(dynamics, xs, us, draw(5, 4, 12, seed=1), root @ root.mT)
    at = dynamics.retract(xs[:-1], 0.3 * draw(5, 12, seed=3))
    memory, means = controller.init(), []
    for x in at:
        u, memory = controller.act(x, memory)
        means.append(u)
    torch.testing.assert_close(controller.mean(at), torch.stack(means), rtol=1e-13, atol=1e-13)
    expected = torch.distributions.MultivariateNormal(torch.stack(means), controller.covariance).log_prob(us)
    torch.testing.assert_close(controller.log_prob(at, us), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_covariances_have_a_floor_and_never_an_error(dtype):
    controller = exploring(3, dtype=dtype)
    flat = torch.ones(2, 2, dtype=dtype).expand(3, 4, 2, 2).clone()
    flat[1] = 0.0
    flat[2] = math.nan
    collapsed = replace(controller, covariance=flat)
    xs, us = draw(3, 4, 3).to(dtype), draw(3, 4, 2).to(dtype)
    for value in (collapsed.log_prob(xs, us), collapsed.entropy()):
        assert value.isfinite().all(-1).tolist() == [True, True, False]
    u, _ = collapsed.act(xs[:, 0], collapsed.init(), deterministic=False)
    assert u.isfinite().all(-1).tolist() == [True, True, False]
    floored = collapsed.with_covariance_floor(0.01)
    values = torch.linalg.eigvalsh(floored.covariance[:2])
    torch.testing.assert_close(values[0], torch.tensor([0.01, 2.0], dtype=dtype).expand(4, 2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(values[1], torch.full((4, 2), 0.01, dtype=dtype), rtol=1e-4, atol=1e-6)
    assert torch.equal(controller.with_covariance_floor(1e-9).covariance, controller.covariance)
    rigid = replace(controller, covariance=None).with_covariance_floor(0.04)
    assert torch.equal(rigid.covariance, 0.04 * torch.eye(2, dtype=dtype).expand(3, 4, 2, 2))


def test_densities_that_there_are_none_of_are_refused():
    controller = exploring(3)
    xs, us = draw(3, 4, 3), draw(3, 4, 2)
    with pytest.raises(ValueError, match="a deterministic controller has no density of controls; make it with"):
        replace(controller, covariance=None).log_prob(xs, us)
    with pytest.raises(ValueError, match="a deterministic controller has no density"):
        replace(controller, covariance=None).entropy()
    with pytest.raises(
        ValueError, match=r"xs must be \(\*samples, \*batch, 4, 3\), a state for each control .* leave out"
    ):
        controller.mean(draw(3, 5, 3))
    with pytest.raises(ValueError, match=r"us must be \(\*samples, \*batch, 4, 2\), got \(3, 4, 1\)"):
        controller.log_prob(xs, us[..., :1])
    for floor in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="floor must be positive and finite, got"):
            controller.with_covariance_floor(floor)


def test_temperature_zero_is_deterministic():
    controller = solve(linear_problem(), LQR(), draw(3)).controller(temperature=0.0)
    assert controller.covariance is None
    x, memory = draw(3, seed=5), controller.init()
    assert torch.equal(controller.act(x, memory, deterministic=False)[0], controller.act(x, memory)[0])


@pytest.mark.parametrize("temperature", [-1.0, math.nan])
def test_negative_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature must not be negative, got"):
        solve(linear_problem(), LQR(), draw(3)).controller(temperature=temperature)


# The actor protocol


def test_acting_is_a_pure_function_of_state_and_memory():
    controller, x = solve(linear_problem(), LQR(), draw(4, 3)).controller(), draw(4, 3, seed=5)
    generator = torch.Generator().manual_seed(11)
    before, memory = generator.get_state(), controller.init(4, generator=generator)
    first, after = controller.act(x, memory, deterministic=False)
    again, _ = controller.act(x, memory, deterministic=False)
    assert torch.equal(first, again)
    assert torch.equal(generator.get_state(), before)
    assert (memory.step, after.step) == (0, 1)
    repeated, _ = controller.act(x, controller.init(4, generator=generator), deterministic=False)
    assert torch.equal(first, repeated)
    noises = []
    for _ in range(2):  # the noise of later steps is new
        mean, _ = controller.act(x, memory)
        u, memory = controller.act(x, memory, deterministic=False)
        noises.append(u - mean)
    assert not torch.allclose(noises[0], noises[1])


def test_without_a_generator_the_noise_is_the_same_in_every_run():
    controller, x = solve(linear_problem(), LQR(), draw(4, 3)).controller(), draw(4, 3, seed=5)
    torch.manual_seed(1)
    first, _ = controller.act(x, controller.init(), deterministic=False)
    torch.manual_seed(2)
    assert torch.equal(controller.act(x, controller.init(), deterministic=False)[0], first)
    assert controller.acts_on == "state"


def test_one_plan_serves_a_batch_of_states_in_their_dtype():
    controller = solve(linear_problem(), LQR(), draw(3)).controller()
    u, _ = controller.act(draw(7, 3).float(), controller.init(7))
    assert (u.shape, u.dtype) == ((7, 2), torch.float32)
    double, _ = controller.act(draw(7, 3), controller.init(7))
    torch.testing.assert_close(u.double(), double, rtol=1e-5, atol=1e-5)
    noisy, _ = controller.act(draw(7, 3).float(), controller.init(7), deterministic=False)
    assert noisy.dtype == torch.float32


def test_elements_without_a_plan_leave_the_others_alone():
    x0 = torch.stack([draw(3), draw(3) * math.nan])
    solution = solve(linear_problem(), LQR(), x0, throw=False)
    for s in (solution, without_gains(solution)):
        u, _ = s.controller().act(draw(2, 3, seed=5), s.controller().init(), deterministic=False)
        assert u.isfinite().all(-1).tolist() == [True, False]


# The model about a plan


def bent(x, u):
    return (x[..., 0] * u[..., 0]).sin() - x[..., 1] ** 2 + 0.1 * u[..., 0] ** 4


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_model_about_a_plan_is_convex(dtype):
    """Also for a cost that is concave in places, flat in others, and large elsewhere."""
    cost = FunctionCost(
        lambda x, u, t: torch.where(torch.as_tensor(t) < 5, 1e4, 0.0) * bent(x, u), lambda x: -bent(x, x)
    )
    problem = Problem(Pendulum(), cost, 12)
    us = 3 * draw(6, 12, 1).to(dtype)
    xs = problem.dynamics.rollout(2 * draw(6, 2, seed=1).to(dtype), us)
    lq = expand_about(problem, xs, us)
    joint = torch.cat([torch.cat([lq.Q, lq.N], -1), torch.cat([lq.N.mT, lq.R], -1)], -2)
    scale = joint.abs().amax((-1, -2)).clamp_min(1.0)
    assert bool((torch.linalg.eigvalsh(joint)[..., 0] >= -1e-12 * scale).all())
    assert bool((torch.linalg.eigvalsh(lq.P_T) >= -1e-12).all())
    solution = Solution(problem, xs, us, torch.zeros(6).to(dtype), torch.zeros(6, dtype=torch.long))
    controller = solution.controller()
    assert controller.K.dtype == dtype
    assert bool(controller.K.isfinite().all())
    assert controller.covariance is not None
    assert bool(controller.covariance.isfinite().all())


def test_the_nearest_positive_semidefinite_matrix():
    matrix = draw(5, 4, 4)
    matrix = matrix + matrix.mT
    nearest = project_psd(matrix)
    values = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(torch.linalg.eigvalsh(nearest), values.clamp_min(0.0), rtol=1e-10, atol=1e-10)
    negative_part = nearest - matrix  # orthogonal to the nearest point of a convex cone, and itself in the cone
    torch.testing.assert_close(nearest @ negative_part, torch.zeros_like(matrix), rtol=0, atol=1e-10)
    root = draw(4, 4, seed=1)
    torch.testing.assert_close(project_psd(root @ root.mT), root @ root.mT, rtol=1e-10, atol=1e-12)


def test_the_terminal_value_is_part_of_the_model():
    P = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=F64)
    eye = torch.eye(2, dtype=F64)
    control = torch.eye(1, dtype=F64)
    system = DoubleIntegrator()
    with_cost = Problem(system, QuadraticCost(eye, control, Q_terminal=P + eye), 6)
    with_value = Problem(
        system,
        QuadraticCost(eye, control, Q_terminal=eye),
        6,
        terminal_value=lambda x: 0.5 * (x * (x @ P)).sum(-1),
    )
    us = draw(3, 6, 1)
    xs = system.rollout(draw(3, 2, seed=1), us)
    one, other = (expand_about(p, xs, us) for p in (with_cost, with_value))
    torch.testing.assert_close(one.P_T, other.P_T)
    torch.testing.assert_close(one.p_T, other.p_T)


@pytest.mark.parametrize("t0", [0, 4])
def test_gradients_of_the_model_are_those_of_the_cost(t0):
    """dJ/du_0 through the adjoint of the model equals autograd through the rollout, for every kind of cost."""
    goal = GoalCost(draw(20, 2), 1.0, 0.1, 2.0, angles=[0])
    moving = TransitionCost(lambda x, u, y, t: (1 + t) * (y - x).cosh().sum(-1) + u[..., 0] ** 4, lambda x: x[..., 0])
    for cost in (goal, moving, goal + moving):
        problem = Problem(Pendulum(), cost.window(t0, 5), 5, discount=0.9)
        us = draw(3, 5, 1, seed=2).requires_grad_()
        xs = problem.dynamics.rollout(draw(3, 2, seed=3), us, t0)
        (expected,) = torch.autograd.grad(problem.trajectory_cost(xs, us, t0=t0).sum(), us)
        lq = expand_about(problem, xs.detach(), us.detach(), t0)
        p, found = lq.p_T, []
        for t in reversed(range(5)):
            found.append(lq.r[:, t] + 0.9 * (lq.B[:, t].mT @ p.unsqueeze(-1)).squeeze(-1))
            p = lq.q[:, t] + 0.9 * (lq.A[:, t].mT @ p.unsqueeze(-1)).squeeze(-1)
        weights = 0.9 ** torch.arange(5, dtype=F64).unsqueeze(-1)
        torch.testing.assert_close(weights * torch.stack(found[::-1], 1), expected, rtol=1e-10, atol=1e-10)


class Heading(Dynamics):
    """A vehicle's turn rate moves its heading, kept as a point (cos, sin) on the circle with one tangent direction."""

    def __init__(self):
        super().__init__(2, 1, 0.1, tangent_dim=1)

    def forward(self, x, u, t=None):
        return self.retract(x, 0.1 * u)

    def difference(self, x1, x0):
        cross = x0[..., 0] * x1[..., 1] - x0[..., 1] * x1[..., 0]
        return torch.atan2(cross, (x0 * x1).sum(-1)).unsqueeze(-1)

    def retract(self, x, dx):
        c, s = dx[..., :1].cos(), dx[..., :1].sin()
        return torch.cat([c * x[..., :1] - s * x[..., 1:], s * x[..., :1] + c * x[..., 1:]], dim=-1)


@pytest.mark.parametrize("kind", ["stage", "transition"])
def test_gains_live_in_the_tangent_space(kind):
    """On the circle as in the angle: with the goal direction g, |x - g|^2 is the squared angle for small errors."""

    def squared(x):
        return (x - torch.tensor([1.0, 0.0], dtype=F64)).square().sum(-1)

    on_circle = {
        "stage": FunctionCost(lambda x, u, t: squared(x) + u[..., 0] ** 2, squared),
        "transition": TransitionCost(lambda x, u, y, t: squared(y) + u[..., 0] ** 2),
    }[kind]
    angle = {
        "stage": FunctionCost(lambda x, u, t: x[..., 0] ** 2 + u[..., 0] ** 2, lambda x: x[..., 0] ** 2),
        "transition": TransitionCost(lambda x, u, y, t: y[..., 0] ** 2 + u[..., 0] ** 2),
    }[kind]
    us = torch.zeros(6, 1, dtype=F64)
    one = torch.ones(1, 1, dtype=F64)
    controllers = []
    for dynamics, cost, x0 in (
        (Heading(), on_circle, torch.tensor([1.0, 0.0], dtype=F64)),
        (LinearDynamics(one, 0.1 * one), angle, torch.zeros(1, dtype=F64)),
    ):
        problem = Problem(dynamics, cost, 6)
        plan = Solution(problem, dynamics.rollout(x0, us), us, torch.tensor(0.0), torch.tensor(0))
        controllers.append(plan.controller())
    circle, line = controllers
    torch.testing.assert_close(circle.K, line.K, rtol=1e-6, atol=1e-8)
    turned = torch.tensor([math.cos(0.3), math.sin(0.3)], dtype=F64)
    u, _ = circle.act(turned, circle.init())
    expected, _ = line.act(torch.tensor([0.3], dtype=F64), line.init())
    torch.testing.assert_close(u, expected, rtol=1e-6, atol=1e-8)
    assert isinstance(circle, LinearGaussianController)
