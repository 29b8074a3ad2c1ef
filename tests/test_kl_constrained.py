"""KL-constrained steps: against dense Gaussians of whole trajectories, Monte Carlo, SciPy, and what optimality implies."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.distributions import MultivariateNormal, kl_divergence

from dynamics import LinearDynamics, Pendulum, Quadrotor
from planners import (
    LQR,
    GoalCost,
    LinearGaussianController,
    LinearQuadratic,
    Problem,
    QuadraticCost,
    Status,
    expand_about,
    expected_cost,
    expected_kl,
    kl_constrained_step,
    maximum_entropy_controller,
    solve,
    state_marginals,
    with_kl_penalty,
)
from planners.riccati import backward_pass

F64 = torch.float64


class Draws:
    """Random problems of any size."""

    def __init__(self, batch=(), T=5, n=3, m=2, *, seed=0, indefinite=0.0):
        self.batch, self.T, self.n, self.m = batch, T, n, m
        self.generator = torch.Generator().manual_seed(seed)
        H = self.positive(batch, T, n + m) - indefinite * torch.eye(n + m, dtype=F64)
        slope = 3 * self(*batch, T, n + m)
        self.lq = LinearQuadratic(
            A=torch.eye(n, dtype=F64) + 0.2 * self(*batch, T, n, n),
            B=0.5 * self(*batch, T, n, m),
            b=0.1 * self(*batch, T, n),
            Q=H[..., :n, :n],
            N=H[..., :n, n:],
            R=H[..., n:, n:],
            q=slope[..., :n],
            r=slope[..., n:],
            P_T=self.positive(batch, 1, n).squeeze(-3),
            p_T=self(*batch, n),
        )
        self.previous = self.controller()
        self.about = (self.previous.xs, self.previous.us)
        self.noise = 0.1 * self.positive(batch, T, n)
        self.x0_covariance = 0.2 * self.positive(batch, 1, n).squeeze(-3)
        self.x0 = self.previous.xs[..., 0, :] + 0.3 * self(*batch, n)
        self.given = {"noise": self.noise, "x0": self.x0, "x0_covariance": self.x0_covariance}

    def __call__(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=F64)

    def positive(self, batch, T, k):
        root = self(*batch, T, k, k)
        return root @ root.mT / k + 0.1 * torch.eye(k, dtype=F64)

    def controller(self):
        batch, T, n, m = self.batch, self.T, self.n, self.m
        dynamics = LinearDynamics(torch.eye(n), torch.ones(n, m))
        us, K = self(*batch, T, m), 0.3 * self(*batch, T, m, n)
        return LinearGaussianController(dynamics, self(*batch, T + 1, n), us, K, self.positive(batch, T, m))


def joint(draws, controller):
    """Mean and covariance of (x_0, u_0, ..., x_T) as displacements, each variable a row over all sources of randomness."""
    n, m, T, lq = draws.n, draws.m, draws.T, draws.lq
    sources = n + T * (m + n)
    eye = torch.eye(sources, dtype=F64)
    xs_bar, us_bar = draws.about
    x_mean, x = draws.x0 - xs_bar[0], torch.linalg.cholesky(draws.x0_covariance) @ eye[:n]
    means, rows, at = [x_mean], [x], n
    for t in range(T):
        L = torch.linalg.cholesky(controller.covariance[t])
        u_mean = controller.us[t] - us_bar[t] + controller.K[t] @ (x_mean + xs_bar[t] - controller.xs[t])
        u = controller.K[t] @ x + L @ eye[at : at + m]
        x_mean, x = (
            lq.A[t] @ x_mean + lq.B[t] @ u_mean + lq.b[t],
            lq.A[t] @ x + lq.B[t] @ u + torch.linalg.cholesky(draws.noise[t]) @ eye[at + m : at + m + n],
        )
        means += [u_mean, x_mean]
        rows += [u, x]
        at += m + n
    row = torch.cat(rows)
    return MultivariateNormal(torch.cat(means), row @ row.mT)


def dense_cost(draws, gaussian):
    """Expectation of the quadratic cost from the Gaussian of the whole trajectory."""
    n, m, T, lq = draws.n, draws.m, draws.T, draws.lq
    H = torch.zeros_like(gaussian.covariance_matrix)
    g = torch.zeros_like(gaussian.mean)
    for t in range(T):
        at = slice(t * (n + m), (t + 1) * (n + m))
        H[at, at] = torch.cat([torch.cat([lq.Q[t], lq.N[t]], -1), torch.cat([lq.N[t].mT, lq.R[t]], -1)], -2)
        g[at] = torch.cat([lq.q[t], lq.r[t]])
    H[-n:, -n:], g[-n:] = lq.P_T, lq.p_T
    mean = gaussian.mean
    return 0.5 * (H * gaussian.covariance_matrix).sum() + 0.5 * mean @ H @ mean + g @ mean


def step_of(draws, **settings):
    return kl_constrained_step(draws.lq, draws.previous, about=draws.about, **draws.given, **settings)


# Marginals, costs and divergences


@pytest.mark.parametrize("seed", range(3))
def test_costs_and_divergences_are_those_of_the_dense_gaussian_of_the_trajectory(seed):
    draws = Draws(T=3, seed=seed)
    new = draws.controller()  # about another trajectory than the model
    p, q = joint(draws, new), joint(draws, draws.previous)
    marginals = state_marginals(draws.lq, new, about=draws.about, **draws.given)
    for t in range(4):
        at = slice(5 * t, 5 * t + 3)
        torch.testing.assert_close(marginals.mean[t], p.mean[at], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(marginals.covariance[t], p.covariance_matrix[at, at], rtol=1e-11, atol=1e-11)
    cost = expected_cost(draws.lq, new, marginals, about=draws.about)
    torch.testing.assert_close(cost, dense_cost(draws, p), rtol=1e-11, atol=1e-11)
    kl = expected_kl(new, draws.previous, marginals)
    torch.testing.assert_close(kl.sum(), kl_divergence(p, q), rtol=1e-9, atol=1e-9)


def test_the_divergence_of_one_step_from_a_known_state():
    draws = Draws(batch=(4,), T=1)
    new, old = draws.controller(), draws.previous
    x0 = new.xs[..., 0, :] + draws(4, 3)
    marginals = state_marginals(draws.lq, new, x0=x0)
    p, q = (MultivariateNormal(c.mean(x0.unsqueeze(-2)).squeeze(-2), c.covariance[:, 0]) for c in (new, old))
    torch.testing.assert_close(expected_kl(new, old, marginals)[:, 0], kl_divergence(p, q), rtol=1e-11, atol=1e-11)


def test_marginals_costs_and_divergences_agree_with_samples():
    draws, count = Draws(T=4, seed=5), 20_000
    new, (xs_bar, us_bar), lq = draws.controller(), draws.about, draws.lq
    marginals = state_marginals(lq, new, about=draws.about, **draws.given)
    x = draws.x0 + draws(count, 3) @ torch.linalg.cholesky(draws.x0_covariance).mT
    xs, us = [x], []
    for t in range(4):
        mean = new.us[t] + (x - new.xs[t]) @ new.K[t].mT
        us.append(mean + draws(count, 2) @ torch.linalg.cholesky(new.covariance[t]).mT)
        dx, du = x - xs_bar[t], us[-1] - us_bar[t]
        fresh = draws(count, 3) @ torch.linalg.cholesky(draws.noise[t]).mT
        x = xs_bar[t + 1] + dx @ lq.A[t].mT + du @ lq.B[t].mT + lq.b[t] + fresh
        xs.append(x)
    xs, us = torch.stack(xs, -2), torch.stack(us, -2)

    def agree(samples, expected):
        error = samples.std(0) / math.sqrt(count)
        assert bool(((samples.mean(0) - expected).abs() < 4 * error).all())  # 60 comparisons

    dx, du = xs - xs_bar, us - us_bar
    agree(dx, marginals.mean)
    deviation = dx - marginals.mean
    agree(deviation.unsqueeze(-1) * deviation.unsqueeze(-2), marginals.covariance)
    z = torch.cat([dx[:, :-1], du], -1)
    H = torch.cat([torch.cat([lq.Q, lq.N], -1), torch.cat([lq.N.mT, lq.R], -1)], -2)
    stage = 0.5 * torch.einsum("sti,tij,stj->s", z, H, z) + (z * torch.cat([lq.q, lq.r], -1)).sum((-1, -2))
    last = 0.5 * torch.einsum("si,ij,sj->s", dx[:, -1], lq.P_T, dx[:, -1]) + dx[:, -1] @ lq.p_T
    agree(stage + last, expected_cost(lq, new, marginals, about=draws.about))
    ratios = new.log_prob(xs[:, :-1], us) - draws.previous.log_prob(xs[:, :-1], us)
    agree(ratios, expected_kl(new, draws.previous, marginals))


def test_a_controller_diverges_from_itself_by_nothing():
    draws = Draws(batch=(3,))
    marginals = state_marginals(draws.lq, draws.previous, **draws.given)
    kl = expected_kl(draws.previous, draws.previous, marginals)
    assert kl.shape == (3, 5)
    assert bool((kl.abs() < 1e-13).all())


def test_states_of_a_deterministic_controller_without_noise_are_the_rollout():
    problem = Problem(LinearDynamics(torch.eye(2), torch.ones(2, 1)), QuadraticCost(torch.eye(2), torch.eye(1)), 6)
    plan = solve(problem, LQR(), torch.tensor([1.0, -2.0], dtype=F64))
    controller = plan.controller(temperature=0.0)
    lq = expand_about(problem, plan.xs, plan.us)
    x0 = torch.tensor([0.5, 1.0], dtype=F64)
    marginals = state_marginals(lq, controller, x0=x0)
    xs, memory = [x0], controller.init()
    for _ in range(6):
        u, memory = controller.act(xs[-1], memory)
        xs.append(problem.dynamics(xs[-1], u))
    torch.testing.assert_close(plan.xs + marginals.mean, torch.stack(xs), rtol=1e-12, atol=1e-12)
    assert not bool(marginals.covariance.any())


# The bound


@pytest.mark.parametrize("limit", [1e-4, 0.1, 3.0, 100.0, 1e4])
@pytest.mark.parametrize("indefinite", [0.0, 1.0])
def test_the_divergence_is_within_a_tenth_of_the_bound_or_the_multiplier_at_its_floor(limit, indefinite):
    draws = Draws(batch=(2, 16), seed=1, indefinite=indefinite)
    step = step_of(draws, kl_limit=limit)
    total = step.kl.sum(-1)
    assert bool((step.status == int(Status.CONVERGED)).all())
    assert bool(step.usable.all())
    floor = step.dual == 1e-8
    assert bool((((total / limit - 1).abs() <= 0.1) | (floor & (total < limit))).all())
    assert bool((floor == (limit == 1e4)).all()) or indefinite  # no bound is that far for a convex problem
    torch.testing.assert_close(
        expected_kl(step.controller, draws.previous, step.marginals), step.kl, rtol=1e-8, atol=1e-12
    )
    again = state_marginals(draws.lq, step.controller, about=draws.about, **draws.given)
    torch.testing.assert_close(again.covariance, step.marginals.covariance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        expected_cost(draws.lq, step.controller, again, about=draws.about), step.expected_cost, rtol=1e-9, atol=1e-9
    )
    assert int(step.iterations.max()) <= 50


@pytest.mark.parametrize("indefinite", [0.0, 1.0])
@pytest.mark.parametrize("limit", [0.001, 0.3, 20.0])
def test_each_step_has_a_bound_of_its_own(limit, indefinite):
    draws = Draws(batch=(24,), seed=2, indefinite=indefinite)
    limits = limit * torch.linspace(0.5, 2.0, 5, dtype=F64)
    step = step_of(draws, kl_limit=limits, per_step=True)
    assert bool((step.status == int(Status.CONVERGED)).all())
    near = (step.kl / limits - 1).abs() <= 0.1
    assert bool((near | ((step.dual == 1e-8) & (step.kl < limits))).all())
    assert float(near.double().mean()) > 0.5
    assert step.dual.shape == step.kl.shape


def test_a_bound_for_each_element():
    draws = Draws(seed=3)
    limits = torch.tensor([[0.01], [1.0], [30.0]], dtype=F64)
    step = step_of(draws, kl_limit=limits)
    assert bool(((step.kl.sum(-1) / limits - 1).abs() <= 0.1).all())
    assert step.controller.K.shape == (3, 1, 5, 2, 3)
    assert bool((step.expected_cost.diff(dim=0) < 0).all())


def test_without_a_bound_the_gains_are_those_of_the_regulator():
    draws = Draws(batch=(3,), seed=4)
    step = step_of(draws, kl_limit=math.inf, dual_range=(1e-13, 1e16), entropy_weight=0.7)
    best = backward_pass(draws.lq)
    torch.testing.assert_close(step.controller.K, best.K, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(step.controller.us - draws.previous.us, best.k, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(step.controller.covariance, 0.7 * torch.linalg.inv(best.Quu), rtol=1e-10, atol=1e-10)
    free = maximum_entropy_controller(draws.lq, draws.previous.dynamics, *draws.about, temperature=0.7)
    torch.testing.assert_close(step.controller.covariance, free.covariance, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(step.controller.K, free.K, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("limit", [0.0, 1e-12])
def test_without_room_the_controller_stays(limit, per_step):
    draws = Draws(batch=(3,), seed=5)
    step = step_of(draws, kl_limit=limit, per_step=per_step)
    assert bool((step.status == int(Status.CONVERGED)).all())
    near = {"rtol": 0, "atol": 10 * math.sqrt(limit + 3e-14)}  # a shift by s costs s^2 / 2, and rounding is not counted
    for name in ("us", "K", "covariance"):
        torch.testing.assert_close(getattr(step.controller, name), getattr(draws.previous, name), **near)


def test_the_discount_weighs_costs_and_not_divergences():
    draws = Draws(batch=(3,), seed=6)
    weight = 0.8 ** torch.arange(6, dtype=F64)
    lq, vector, matrix = draws.lq, weight[:5, None], weight[:5, None, None]
    explicit = replace(
        lq,
        Q=matrix * lq.Q,
        N=matrix * lq.N,
        R=matrix * lq.R,
        q=vector * lq.q,
        r=vector * lq.r,
        P_T=weight[5] * lq.P_T,
        p_T=weight[5] * lq.p_T,
    )
    settings = {"kl_limit": 1.0, "about": draws.about, **draws.given}
    found, expected = (
        kl_constrained_step(q, draws.previous, **settings) for q in (replace(lq, discount=0.8), explicit)
    )
    torch.testing.assert_close(found.controller.K, expected.controller.K, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.expected_cost, expected.expected_cost, rtol=1e-12, atol=1e-12)


# Optimality


def disturbed(controller, draws, count):
    """Controllers near one, at distances from 1e-4 to 1."""
    T, m = controller.us.shape
    size = torch.logspace(-4, 0, count, dtype=F64)[:, None, None]
    L = torch.linalg.cholesky(controller.covariance) @ torch.matrix_exp(size.unsqueeze(-1) * draws(count, T, m, m))
    return replace(
        controller,
        us=controller.us + size * draws(count, T, m),
        K=controller.K + size.unsqueeze(-1) * draws(count, *controller.K.shape),
        covariance=L @ L.mT,
    )


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_no_controller_nearby_is_cheaper_within_the_bound(seed, per_step):
    draws = Draws(T=4, seed=seed)
    limit = 0.5
    step = step_of(draws, kl_limit=limit, per_step=per_step, tolerance=1e-8, max_iterations=200)
    assert int(step.status) == int(Status.CONVERGED)
    others = disturbed(step.controller, draws, 4000)
    marginals = state_marginals(draws.lq, others, about=draws.about, **draws.given)
    cost = expected_cost(draws.lq, others, marginals, about=draws.about)
    kl = expected_kl(others, draws.previous, marginals)
    within = (kl <= limit).all(-1) if per_step else kl.sum(-1) <= limit
    assert int(within.sum()) > 100
    assert bool((cost[within] > step.expected_cost).all())
    # the multipliers prove it for all controllers: nothing lowers the Lagrangian
    lagrangian = cost + (step.dual * (kl - step.kl)).sum(-1)
    assert bool((lagrangian - step.expected_cost > -1e-9 * step.expected_cost.abs()).all())


@pytest.mark.parametrize("per_step", [False, True])
def test_the_step_is_the_one_that_a_general_solver_finds(per_step):
    draws = Draws(T=2, n=1, m=1, seed=7)
    limit = 0.4
    step = step_of(draws, kl_limit=limit, per_step=per_step, tolerance=1e-9, max_iterations=200)

    def controller_of(z):
        us, K, log_std = torch.as_tensor(z).reshape(3, 2, 1)
        covariance = (2 * log_std).exp().unsqueeze(-1)
        return replace(draws.previous, us=draws.previous.us + us, K=K.unsqueeze(-1), covariance=covariance)

    def cost(z):
        return float(dense_cost(draws, joint(draws, controller_of(z))))

    def room(z):
        controller = controller_of(z)
        marginals = state_marginals(draws.lq, controller, about=draws.about, **draws.given)
        kl = expected_kl(controller, draws.previous, marginals)
        return (limit - kl).numpy() if per_step else limit - float(kl.sum())

    start = np.concatenate(
        [np.zeros(2), draws.previous.K.flatten().numpy(), 0.5 * draws.previous.covariance.flatten().log().numpy()]
    )
    found = minimize(
        cost, start, method="SLSQP", constraints={"type": "ineq", "fun": room}, options={"ftol": 1e-12, "maxiter": 300}
    )
    assert float(step.expected_cost) == pytest.approx(found.fun, rel=1e-6)
    reached = controller_of(found.x)
    for name in ("us", "K", "covariance"):
        torch.testing.assert_close(getattr(step.controller, name), getattr(reached, name), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("per_step", [False, True])
def test_the_penalty_adds_the_log_density_and_with_the_multipliers_gives_the_step(per_step):
    draws = Draws(batch=(3,), seed=8)
    weights = draws(3, 5).abs()
    new = draws.controller()
    about = (new.xs, new.us)
    penalized = with_kl_penalty(draws.lq, draws.previous, weights, about=about)

    def added(dx, du):
        """Of each step: the quadratic form that was added."""
        d = {f.name: getattr(penalized, f.name) - getattr(draws.lq, f.name) for f in fields(penalized)}
        value = 0.5 * torch.einsum("bti,btij,btj->bt", dx, d["Q"], dx) + torch.einsum(
            "bti,btij,btj->bt", dx, d["N"], du
        )
        value = value + 0.5 * torch.einsum("bti,btij,btj->bt", du, d["R"], du)
        return value + (d["q"] * dx).sum(-1) + (d["r"] * du).sum(-1)

    def density(dx, du):
        return -weights * draws.previous.log_prob(about[0][:, :-1] + dx, about[1] + du)

    dx, du = draws(3, 5, 3), draws(3, 5, 2)
    expected = density(dx, du) - density(0 * dx, 0 * du)
    torch.testing.assert_close(added(dx, du), expected, rtol=1e-9, atol=1e-9)

    step = step_of(draws, kl_limit=0.7, per_step=per_step)
    dual = step.dual if per_step else step.dual.unsqueeze(-1)
    penalized = with_kl_penalty(draws.lq, draws.previous, dual, about=draws.about)
    same = maximum_entropy_controller(penalized, draws.previous.dynamics, *draws.about, temperature=dual)
    for name in ("us", "K", "covariance"):
        torch.testing.assert_close(getattr(same, name), getattr(step.controller, name), rtol=1e-9, atol=1e-9)


def test_ten_steps_solve_a_regulator_problem():
    """Each one about the rollout of the controller before, as guided policy search does it."""
    A = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=F64)
    cost = QuadraticCost(torch.eye(2), 0.1 * torch.eye(1), Q_terminal=10 * torch.eye(2), goal=torch.tensor([1.0, 0.0]))
    problem = Problem(LinearDynamics(A, torch.tensor([[0.0], [0.1]], dtype=F64)), cost, 12)
    x0 = torch.tensor([[0.0, 0.0], [2.0, -1.0], [-1.0, 1.0]], dtype=F64)
    optimum = solve(problem, LQR(), x0).cost
    us = torch.zeros(3, 12, 1, dtype=F64)
    controller = LinearGaussianController(
        problem.dynamics,
        problem.dynamics.rollout(x0, us),
        us,
        torch.zeros(3, 12, 1, 2, dtype=F64),
        torch.ones(3, 12, 1, 1, dtype=F64),
    )
    costs: list[torch.Tensor] = []
    for _ in range(10):
        xs, us, x, memory = [x0], [], x0, controller.init(3)
        for _ in range(12):
            u, memory = controller.act(x, memory)
            x = problem.dynamics(x, u)
            xs.append(x)
            us.append(u)
        about = torch.stack(xs, -2), torch.stack(us, -2)
        step = kl_constrained_step(expand_about(problem, *about), controller, kl_limit=2.0, about=about)
        controller = step.controller
        costs.append(problem.trajectory_cost(*about) + step.expected_cost)
    assert bool((torch.stack(costs).diff(dim=0) < 1e-9).all())
    assert bool((costs[0] > 1.05 * optimum).all())
    assert bool((costs[-1] <= 1.001 * optimum).all())


# Batches, precisions, faults


@pytest.mark.parametrize("per_step", [False, True])
def test_a_batch_is_its_elements(per_step):
    draws = Draws(batch=(2, 3), seed=9)
    limits = torch.tensor([[0.1], [2.0]], dtype=F64)
    step = step_of(draws, kl_limit=limits.unsqueeze(-1) if per_step else limits, per_step=per_step)
    for i in range(2):
        for j in range(3):
            lq = LinearQuadratic(**{f.name: getattr(draws.lq, f.name)[i, j] for f in fields(LinearQuadratic)[:-1]})
            one = replace(
                draws.previous, **{k: getattr(draws.previous, k)[i, j] for k in ("xs", "us", "K", "covariance")}
            )
            given = {name: value[i, j] for name, value in draws.given.items()}
            single = kl_constrained_step(lq, one, kl_limit=float(limits[i, 0]), per_step=per_step, **given)
            for name in ("us", "K", "covariance"):
                whole = getattr(step.controller, name)[i, j]
                torch.testing.assert_close(getattr(single.controller, name), whole, rtol=1e-12, atol=1e-12)
            for name in ("kl", "expected_cost", "dual"):
                torch.testing.assert_close(getattr(single, name), getattr(step, name)[i, j], rtol=1e-11, atol=1e-12)
            assert int(single.iterations) == int(step.iterations[i, j])


@pytest.mark.parametrize("per_step", [False, True])
def test_single_precision_goes_in_and_out(per_step):
    draws = Draws(batch=(4,), seed=10)
    low = replace(draws.previous, **{k: getattr(draws.previous, k).float() for k in ("xs", "us", "K", "covariance")})
    lq = replace(draws.lq, **{f.name: getattr(draws.lq, f.name).float() for f in fields(draws.lq)[:-1]})
    given = {name: value.float() for name, value in draws.given.items()}
    step = kl_constrained_step(lq, low, kl_limit=1.0, per_step=per_step, **given)
    exact = step_of(draws, kl_limit=1.0, per_step=per_step)
    for name in ("us", "K", "covariance", "xs"):
        value = getattr(step.controller, name)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), getattr(exact.controller, name), rtol=1e-4, atol=1e-4)
    assert {step.kl.dtype, step.expected_cost.dtype, step.marginals.mean.dtype, step.dual.dtype} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("floor", [0.0, 1e-3])
@pytest.mark.parametrize("per_step", [False, True])
def test_steps_go_on_past_convergence(dtype, floor, per_step):
    draws = Draws(batch=(2,), T=3, seed=11)
    controller = replace(
        draws.previous, **{k: getattr(draws.previous, k).to(dtype) for k in ("xs", "us", "K", "covariance")}
    )
    about = (controller.xs, controller.us)
    dual = 1.0
    for _ in range(30):
        step = kl_constrained_step(
            draws.lq,
            controller,
            kl_limit=5.0 if per_step else 15.0,
            per_step=per_step,
            about=about,
            covariance_floor=floor,
            dual=dual,
            **draws.given,
        )
        controller = step.controller
        dual = step.dual
        values = (controller.us, controller.K, controller.covariance, step.kl, step.expected_cost, step.dual)
        assert all(bool(value.isfinite().all()) for value in values)
        assert bool(step.usable.all())
    best = backward_pass(draws.lq)
    torch.testing.assert_close(controller.K.double(), best.K, rtol=1e-4, atol=1e-4)
    least = torch.linalg.eigvalsh(controller.covariance.double())[..., 0]
    assert bool((least >= 0.999 * floor).all())
    assert bool((least < 1e-3 + floor).all())
    assert bool(controller.log_prob(about[0][..., :-1, :], about[1]).isfinite().all())


def test_elements_that_fail_keep_their_controller_and_leave_the_others_alone():
    draws = Draws(batch=(3,), seed=12)
    whole = step_of(draws, kl_limit=1.0)
    q = draws.lq.q.clone()
    q[1, 2] = math.nan
    R = draws.lq.R.clone()
    R[2, 1] -= 1e20 * torch.eye(2, dtype=F64)
    broken = replace(draws.lq, q=q, R=R)
    step = kl_constrained_step(broken, draws.previous, kl_limit=1.0, **draws.given)
    assert step.status.tolist() == [int(Status.CONVERGED), int(Status.NO_FINITE_PLAN), int(Status.NOT_CONVEX)]
    assert step.usable.tolist() == [True, False, False]
    torch.testing.assert_close(step.controller.K[0], whole.controller.K[0], rtol=1e-12, atol=1e-12)
    for name in ("us", "K", "covariance"):
        kept, before = getattr(step.controller, name)[1:], getattr(draws.previous, name)[1:]
        torch.testing.assert_close(kept, before, rtol=1e-12, atol=1e-12)
    assert not bool(step.kl[1:].any())
    each = kl_constrained_step(broken, draws.previous, kl_limit=1.0, per_step=True, **draws.given)
    assert each.usable.tolist() == [True, False, False]
    assert bool(each.controller.K.isfinite().all())


@pytest.mark.parametrize("per_step", [False, True])
def test_degenerate_numbers_stay_finite(per_step):
    draws = Draws(batch=(2,), T=3, seed=13)
    nothing = replace(draws.lq, **{f.name: 0 * getattr(draws.lq, f.name) for f in fields(draws.lq)[3:-1]})
    still = kl_constrained_step(nothing, draws.previous, kl_limit=1.0, per_step=per_step, **draws.given)
    torch.testing.assert_close(still.controller.covariance, draws.previous.covariance, rtol=1e-9, atol=1e-9)
    assert bool((still.dual == 1e-8).all())
    rigid = replace(draws.previous, covariance=0 * draws.previous.covariance)
    flat = replace(draws.previous, covariance=torch.ones(2, 2, dtype=F64).expand(2, 3, 2, 2))
    for controller in (rigid, flat):
        step = kl_constrained_step(draws.lq, controller, kl_limit=1.0, per_step=per_step, **draws.given)
        assert all(
            bool(v.isfinite().all()) for v in (step.controller.us, step.controller.covariance, step.kl, step.dual)
        )


def test_too_few_trials_end_within_the_bound():
    draws = Draws(batch=(8,), seed=14)
    step = step_of(draws, kl_limit=1e-3, max_iterations=7)
    late = step.status == int(Status.ITERATION_LIMIT)
    assert bool((step.kl.sum(-1)[late] <= 1e-3).all())
    assert bool((step_of(draws, kl_limit=1e-3, max_iterations=1).status != int(Status.CONVERGED)).all())


def test_a_multiplier_that_is_known_is_found_at_once():
    draws = Draws(batch=(4,), seed=15)
    first = step_of(draws, kl_limit=1e-3)
    again = step_of(draws, kl_limit=1e-3, dual=first.dual)
    assert int(first.iterations.min()) > 3
    assert again.iterations.tolist() == [1] * 4
    torch.testing.assert_close(again.controller.K, first.controller.K, rtol=1e-12, atol=1e-12)


def test_models_of_nonlinear_systems_on_manifolds():
    """On unit quaternions states have one number more than their tangent space; the step lowers the true cost."""
    for problem, x0, us in (
        (Problem(Pendulum(), GoalCost([math.pi, 0.0], [1.0, 0.1], 0.01), 15), torch.zeros(2, dtype=F64), 1.0),
        (quadrotor_problem(), hovering(), 1.0),
    ):
        dynamics = problem.dynamics
        us = us * torch.full((15, dynamics.control_dim), 0.1, dtype=F64)
        xs = dynamics.rollout(x0, us)
        d, m = dynamics.tangent_dim, dynamics.control_dim
        old = LinearGaussianController(
            dynamics, xs, us, torch.zeros(15, m, d, dtype=F64), 1e-2 * torch.eye(m, dtype=F64).expand(15, m, m)
        )
        step = kl_constrained_step(expand_about(problem, xs, us), old, kl_limit=0.5)
        assert int(step.status) == int(Status.CONVERGED)
        assert step.marginals.mean.shape == (16, d)
        x, path, controls, memory = x0, [x0], [], step.controller.init()
        for t in range(15):
            u, memory = step.controller.act(x, memory)
            x = dynamics(x, u, t)
            path.append(x)
            controls.append(u)
        better = problem.trajectory_cost(torch.stack(path), torch.stack(controls))
        assert float(better) < float(problem.trajectory_cost(xs, us))
        moved = dynamics.difference(torch.stack(path), xs)
        torch.testing.assert_close(moved, step.marginals.mean, rtol=0.2, atol=0.02)


def hovering():
    x = torch.zeros(13, dtype=F64)
    x[3] = 1.0
    return x


def quadrotor_problem():
    goal = hovering()
    goal[0] = 0.3
    return Problem(Quadrotor(), GoalCost(goal, torch.ones(13), 0.01), 15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_limit": -1.0}, "kl_limit must not be negative, got -1.0"),
        ({"kl_limit": math.nan}, "kl_limit must not be negative, got nan"),
        ({"kl_limit": 1.0, "dual": 0.0}, "dual must be positive, got 0.0"),
        ({"kl_limit": 1.0, "entropy_weight": -1.0}, "entropy_weight must not be negative, got -1.0"),
        ({"kl_limit": 1.0, "covariance_floor": math.nan}, "covariance_floor must not be negative"),
        ({"kl_limit": 1.0, "dual_range": (1.0, 0.1)}, "dual_range must be two positive numbers, the smaller first"),
        ({"kl_limit": 1.0, "tolerance": 0.0}, "tolerance must be between 0 and 1"),
        ({"kl_limit": 1.0, "max_iterations": 0}, "max_iterations must be an integer of at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    draws = Draws()
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        kl_constrained_step(draws.lq, draws.previous, **settings)


def test_what_does_not_fit_together_is_refused():
    draws, longer = Draws(), Draws(T=6)
    with pytest.raises(ValueError, match="the model has 5 steps, so the controller needs 5 controls"):
        kl_constrained_step(draws.lq, longer.previous, kl_limit=1.0)
    with pytest.raises(ValueError, match="got 5, 7 and 6"):
        state_marginals(draws.lq, draws.previous, about=longer.about)
    rigid = replace(draws.previous, covariance=None)
    with pytest.raises(ValueError, match="a deterministic controller has no density"):
        kl_constrained_step(draws.lq, rigid, kl_limit=1.0)
    with pytest.raises(ValueError, match="a deterministic controller has no density"):
        with_kl_penalty(draws.lq, rigid, 1.0)
