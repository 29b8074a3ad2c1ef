"""Local linear-Gaussian dynamics against the systems that made the data and textbook formulas in numpy."""

import doctest
import math

import numpy as np
import pytest
import torch

from dynamics import (
    Dynamics,
    LinearDynamics,
    LocalLinearDynamics,
    NormalInverseWishart,
    Pendulum,
    fit_local_linear,
    linear_gaussian,
    transition_points,
)
from dynamics.learned import local_linear
from planners import DDP, ICEM, LQR, MPPI, GradientShooting, Problem, QuadraticCost, solve

C, T, n, m = 3, 6, 3, 2
D = 2 * n + m
ZERO_PRIOR = NormalInverseWishart(torch.zeros(D), torch.zeros(D, D), m=0.0, n0=0.0)


def randn(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def truth(generator):
    """A random linear time-varying system for each of three conditions, with correlated noise."""
    A = 0.5 * randn(generator, C, T, n, n)
    root = 0.3 * randn(generator, C, T, n, n)
    B, c = randn(generator, C, T, n, m), randn(generator, C, T, n)
    return LocalLinearDynamics(A, B, c, root @ root.mT, dt=0.1)


def sampled(model, generator, N, noise=True):
    """N rollouts of every condition from scattered states under random controls."""
    x0, us = randn(generator, C, N, n), randn(generator, C, N, T, m)
    xs = model.sample_rollout(x0, us, particles=1, generator=generator, noise=noise)
    return xs.squeeze(-3), us


def prior_of(generator):
    root = randn(generator, D, D)
    return NormalInverseWishart(randn(generator, D), root @ root.mT, m=1.7, n0=2.3)


def textbook(points, inputs, regularization, prior=None):
    """The formulas of the reference, for one set of points, with inverses and loops."""
    mu0, Phi, strength, n0 = prior or (np.zeros(points.shape[1]), 0.0, 0.0, 0.0)
    N, mean = len(points), points.mean(0)
    S = sum(np.outer(p - mean, p - mean) for p in points) / N
    d = mean - mu0
    sigma = (Phi + N * S + N * strength / (N + strength) * np.outer(d, d)) / (N + n0)
    sigma = sigma + regularization * np.eye(len(sigma))
    zz, zy, yy = sigma[:inputs, :inputs], sigma[:inputs, inputs:], sigma[inputs:, inputs:]
    F = zy.T @ np.linalg.inv(zz)
    return F, mean[inputs:] - F @ mean[:inputs], yy - F @ zy


def test_recovers_a_time_varying_system_without_noise(truth, generator):
    xs, us = sampled(truth, generator, 12, noise=False)
    model = fit_local_linear(xs, us, dt=0.1, regularization=0.0)
    for name in ("A", "B", "c"):
        torch.testing.assert_close(getattr(model, name), getattr(truth, name), rtol=0, atol=1e-8)
    assert float(model.covariance.abs().max()) < 1e-16
    assert (model.num_steps, model.conditions, model.dt) == (T, (C,), 0.1)


def test_recovers_the_noise_from_many_samples(truth, generator):
    xs, us = sampled(truth, generator, 20000)
    model = fit_local_linear(xs, us, dt=0.1)
    # standard errors: of a covariance, sqrt(s_ii s_jj + s_ij^2) / sqrt(N); five of them for 162 entries
    diagonal = truth.covariance.diagonal(dim1=-2, dim2=-1)
    error = (diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2) + truth.covariance.square()).sqrt() / math.sqrt(20000)
    assert bool(((model.covariance - truth.covariance).abs() < 5 * error + 2e-5).all())
    torch.testing.assert_close(model.A, truth.A, rtol=0, atol=0.05)


@pytest.mark.parametrize("regularization", [1e-6, 0.1])
def test_equals_the_textbook(truth, generator, regularization):
    xs, us = sampled(truth, generator, 9)
    prior, points = prior_of(generator), transition_points(xs, us)
    given = (prior.mu0.numpy(), prior.Phi.numpy(), prior.m, prior.n0)
    for belief, numbers in ((None, None), (prior, given)):
        model = fit_local_linear(xs, us, dt=0.1, prior=belief, regularization=regularization)
        for i in range(C):
            for t in range(T):
                F, f, covariance = textbook(points[i, :, t].numpy(), n + m, regularization, numbers)
                np.testing.assert_allclose(torch.cat([model.A[i, t], model.B[i, t]], -1), F, rtol=0, atol=1e-9)
                np.testing.assert_allclose(model.c[i, t], f, rtol=0, atol=1e-9)
                np.testing.assert_allclose(model.covariance[i, t], covariance, rtol=0, atol=1e-9)


def test_maximum_likelihood_is_least_squares(truth, generator):
    xs, us = sampled(truth, generator, 9)
    model = fit_local_linear(xs, us, dt=0.1, regularization=0.0)
    rows = torch.cat([xs[1, :, 2], us[1, :, 2], torch.ones(9, 1, dtype=torch.float64)], dim=-1)
    solution, *_ = np.linalg.lstsq(rows.numpy(), xs[1, :, 3].numpy(), rcond=None)
    found = torch.cat([model.A[1, 2], model.B[1, 2], model.c[1, 2, :, None]], dim=-1)
    np.testing.assert_allclose(found, solution.T, rtol=0, atol=1e-10)
    residual = xs[1, :, 3].numpy() - rows.numpy() @ solution
    np.testing.assert_allclose(model.covariance[1, 2], residual.T @ residual / 9, rtol=0, atol=1e-12)


def test_a_prior_that_counts_for_nothing_is_maximum_likelihood(truth, generator):
    xs, us = sampled(truth, generator, 9)
    plain, other = (fit_local_linear(xs, us, dt=0.1, prior=prior) for prior in (None, ZERO_PRIOR))
    for name in ("A", "B", "c", "covariance"):
        torch.testing.assert_close(getattr(other, name), getattr(plain, name), rtol=0, atol=1e-12)


def test_a_strong_prior_wins(truth, generator):
    """Many more points in the prior than in the data: the slope is that of the prior."""
    xs, us = sampled(truth, generator, 1)
    prior = prior_of(generator)
    strong = NormalInverseWishart(prior.mu0, 1e9 * prior.Phi, m=1.0, n0=1e9)
    model = fit_local_linear(xs, us, dt=0.1, prior=strong, regularization=0.0)
    F = prior.Phi[n + m :, : n + m] @ torch.linalg.inv(prior.Phi[: n + m, : n + m])
    torch.testing.assert_close(torch.cat([model.A, model.B], -1), F.expand(C, T, n, n + m), rtol=0, atol=1e-4)


def test_one_rollout_with_a_prior_goes_through_it(truth, generator):
    xs, us = sampled(truth, generator, 1)
    model = fit_local_linear(xs, us, dt=0.1, prior=prior_of(generator))
    torch.testing.assert_close(model.rollout(xs[:, :, 0], us), xs, rtol=0, atol=1e-9)
    torch.linalg.cholesky(model.covariance)


@pytest.mark.parametrize("with_prior", [False, True])
def test_diverged_rollouts_do_not_count(truth, generator, with_prior):
    xs, us = sampled(truth, generator, 9)
    prior = prior_of(generator) if with_prior else None
    broken = torch.cat([xs, xs[:, :2]], dim=1)
    broken[:, 9, 4:], broken[:, 10, 2, 0] = float("nan"), float("inf")
    expected = fit_local_linear(xs, us, dt=0.1, prior=prior)
    actual = fit_local_linear(broken, torch.cat([us, us[:, :2]], dim=1), dt=0.1, prior=prior)
    for name in ("A", "B", "c", "covariance"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=0, atol=1e-11)


def test_each_condition_counts_its_own_rollouts(truth, generator):
    xs, us = sampled(truth, generator, 9)
    xs[1, 6:] = float("nan")
    prior = prior_of(generator)
    model = fit_local_linear(xs, us, dt=0.1, prior=prior)
    single = fit_local_linear(xs[1, :6], us[1, :6], dt=0.1, prior=prior)
    torch.testing.assert_close(model.covariance[1], single.covariance, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prior", [None, ZERO_PRIOR])
def test_degenerate_samples_give_finite_models(generator, prior):
    """Identical rollouts, constant columns and copies of a column: no slope is invented, and noise is positive definite."""
    xs, us = randn(generator, 1, T + 1, n).expand(8, -1, -1), randn(generator, 1, T, m).expand(8, -1, -1)
    moved = torch.cat([randn(generator, 8, T + 1, 1), torch.full((8, T + 1, 1), 1e3)], dim=-1)
    moved = torch.cat([moved, moved[..., :1]], dim=-1)
    for states, controls in ((xs, us), (moved, torch.zeros(8, T, m)), (0 * moved, us)):
        model = fit_local_linear(states, controls, dt=0.1, prior=prior)
        for value in model.buffers():
            assert bool(value.isfinite().all())
        torch.linalg.cholesky(model.covariance)
        torch.linalg.cholesky(model.covariance.float())
        assert float(model.A.abs().max()) < 10
        assert float(model.B.abs().max()) < 1e-6


def test_batches_equal_singles_and_any_axes_will_do(truth, generator):
    xs, us = sampled(truth, generator, 9)
    prior = prior_of(generator)
    whole = fit_local_linear(xs, us, dt=0.1, prior=prior)
    nested = fit_local_linear(xs.unsqueeze(1), us.unsqueeze(1), dt=0.1, prior=prior)
    for name in ("A", "B", "c", "covariance"):
        singles = [getattr(fit_local_linear(xs[i], us[i], dt=0.1, prior=prior), name) for i in range(C)]
        torch.testing.assert_close(getattr(whole, name), torch.stack(singles), rtol=0, atol=1e-11)
        torch.testing.assert_close(getattr(nested, name), getattr(whole, name).unsqueeze(1), rtol=0, atol=1e-11)


def test_single_precision_samples(truth, generator):
    xs, us = sampled(truth, generator, 9)
    model, exact = fit_local_linear(xs.float(), us.float(), dt=0.1), fit_local_linear(xs, us, dt=0.1)
    torch.testing.assert_close(model.A, exact.A, rtol=0, atol=1e-4)
    prediction = model.predict(xs[:, 0, 1].float(), us[:, 0, 1].float(), 1)
    assert prediction.mean.dtype == prediction.aleatoric_std.dtype == prediction.std.dtype == torch.float32
    single = model.float()
    torch.testing.assert_close(
        single(xs[:, 0, 1], us[:, 0, 1], 1), exact(xs[:, 0, 1], us[:, 0, 1], 1), rtol=0, atol=1e-4
    )


# The model as dynamics


def test_conditions_are_the_first_axes(truth, generator):
    """States with further axes, steps as numbers and tensors: always the model of that condition and step."""
    x, u = randn(generator, C, 4, T, n), randn(generator, C, 4, T, m)
    expected = torch.empty(C, 4, T, n, dtype=torch.float64)
    for i in range(C):
        for j in range(4):
            for t in range(T):
                expected[i, j, t] = truth.A[i, t] @ x[i, j, t] + truth.B[i, t] @ u[i, j, t] + truth.c[i, t]
    steps = torch.arange(T)
    for t in (steps, steps.expand(4, T), steps.expand(C, 4, T)):
        torch.testing.assert_close(truth(x, u, t), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(truth(x[:, :, 2], u[:, :, 2], 2), expected[:, :, 2], rtol=0, atol=1e-12)
    torch.testing.assert_close(truth(x[:, 0, 2], u[:, 0, 2], torch.tensor(2)), expected[:, 0, 2], rtol=0, atol=1e-12)
    own = torch.tensor([4, 0, 2])  # one step for each condition
    picked = x[range(C), 0, own], u[range(C), 0, own]
    torch.testing.assert_close(truth(*picked, own), expected[range(C), 0, own], rtol=0, atol=1e-12)


def test_derivatives_equal_the_generic_ones(truth, generator):
    x, u, costate = randn(generator, C, T, n), randn(generator, C, T, m), randn(generator, C, T, n)
    steps = torch.arange(T)
    own, generic = truth.linearize(x, u, steps), Dynamics.linearize(truth, x, u, steps)
    for name in ("x_next", "fx", "fu", "hx"):
        torch.testing.assert_close(getattr(own, name), getattr(generic, name), rtol=0, atol=1e-12)
    own, generic = truth.curvature(x, u, costate, steps), Dynamics.curvature(truth, x, u, costate, steps)
    for name in ("xx", "ux", "uu"):
        assert torch.equal(getattr(own, name), getattr(generic, name))


def test_samples_have_mean_and_covariance_of_the_noise(truth, generator):
    x0, us = randn(generator, C, n), randn(generator, C, 1, m)
    xs = truth.sample_rollout(x0, us, particles=40000, generator=generator, t0=3)[:, :, 1]
    prediction = truth.predict(x0, us[:, 0], 3)
    covariance = truth.covariance[:, 3]
    torch.testing.assert_close(prediction.aleatoric_std.square(), covariance.diagonal(dim1=-2, dim2=-1))
    assert not bool(prediction.epistemic_std.any())
    largest = float(prediction.aleatoric_std.max())
    torch.testing.assert_close(xs.mean(1), prediction.mean, rtol=0, atol=5 * largest / 200)
    found = torch.stack([torch.cov(xs[i].mT) for i in range(C)])
    torch.testing.assert_close(found, covariance, rtol=0, atol=5 * math.sqrt(2) * largest**2 / 200)


def test_the_mean_as_linear_dynamics(truth, generator):
    x0, us = randn(generator, C, n), randn(generator, C, T, m)
    linear = truth.mean_dynamics()
    assert isinstance(linear, LinearDynamics)
    torch.testing.assert_close(linear.rollout(x0, us), truth.rollout(x0, us), rtol=0, atol=1e-12)
    single = LocalLinearDynamics(truth.A[0], truth.B[0], truth.c[0], truth.covariance[0], dt=0.1)
    torch.testing.assert_close(single.mean_dynamics().rollout(x0, us), single.rollout(x0, us), rtol=0, atol=1e-12)
    nested = LocalLinearDynamics(*(value.unsqueeze(0) for value in truth.buffers()), dt=0.1)
    with pytest.raises(ValueError, match=r"one axis of worlds, but the conditions are \(1, 3\); flatten"):
        nested.mean_dynamics()


def test_planners_take_it(truth, generator):
    """The optimal plan of linear-Gaussian dynamics is that of their mean, whoever finds it, in a batch of conditions."""
    cost = QuadraticCost(torch.eye(n).double(), 0.1 * torch.eye(m).double())
    x0 = randn(generator, C, n)
    exact = solve(Problem(truth.mean_dynamics(), cost, horizon=T), LQR(), x0)
    problem = Problem(truth, cost, horizon=T)
    for planner in (DDP(), GradientShooting(tolerance=1e-9)):
        solution = solve(problem, planner, x0)
        torch.testing.assert_close(solution.us, exact.us, rtol=0, atol=1e-6)
    problem = Problem(truth, cost, horizon=T, control_limits=(-3.0, 3.0))
    for planner in (ICEM(num_samples=30, max_iterations=2), MPPI(num_samples=30)):
        solution = solve(problem, planner, x0, generator=generator)
        assert bool((solution.cost >= exact.cost - 1e-9).all())
        torch.testing.assert_close(solution.xs, truth.rollout(x0, solution.us), rtol=0, atol=1e-9)


def test_a_model_of_a_pendulum_is_its_linearization(generator):
    """Samples that lie close together see the Jacobians along the trajectory."""
    pendulum = Pendulum()
    us = torch.sin(torch.arange(20.0).double()).view(20, 1) + 1e-4 * randn(generator, 30, 20, 1)
    x0 = torch.tensor([0.5, 0.0], dtype=torch.float64) + 1e-4 * randn(generator, 30, 2)
    xs = pendulum.rollout(x0, us)
    model = fit_local_linear(xs, us, dt=pendulum.dt, regularization=0.0, state_names=pendulum.state_names)
    expected = pendulum.linearize(xs[:, :-1].mean(0), us.mean(0))
    torch.testing.assert_close(model.A, expected.fx, rtol=0, atol=1e-3)
    torch.testing.assert_close(model.B, expected.fu, rtol=0, atol=1e-3)
    assert model.state_names == pendulum.state_names


def test_errors_of_the_fit(truth, generator):
    xs, us = sampled(truth, generator, 9)
    with pytest.raises(
        ValueError, match=r"only 5 finite samples .* on 5 inputs, which needs 6; sample more, or pass a prior"
    ):
        fit_local_linear(xs[:, :5], us[:, :5], dt=0.1)
    lost = xs.clone()
    lost[2, 4:] = float("nan")
    with pytest.raises(ValueError, match="only 4 finite samples"):
        fit_local_linear(lost, us, dt=0.1)
    lost[2] = float("nan")
    with pytest.raises(ValueError, match=r"only 0 finite samples .* a prior needs one"):
        fit_local_linear(lost, us, dt=0.1, prior=ZERO_PRIOR)
    with pytest.raises(ValueError, match=r"got \(3, 9, 7, 3\) and \(3, 9, 5, 2\)"):
        fit_local_linear(xs, us[:, :, :-1], dt=0.1)
    with pytest.raises(ValueError, match=r"N rollouts, got \(7, 3\) and \(6, 2\)"):
        fit_local_linear(xs[0, 0], us[0, 0], dt=0.1)
    with pytest.raises(ValueError, match=r"of at least one step, got \(3, 9, 1, 3\)"):
        fit_local_linear(xs[:, :, :1], us[:, :, :0], dt=0.1)
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="regularization must be a number of at least 0"):
            fit_local_linear(xs, us, dt=0.1, regularization=value)
    with pytest.raises(
        ValueError, match=r"the inputs of 18 of 18 regressions do not vary in every direction.*pass a prior"
    ):
        fit_local_linear(xs, 0 * us, dt=0.1, regularization=0.0)
    small = NormalInverseWishart(torch.zeros(4), torch.eye(4), m=1.0, n0=1.0)
    with pytest.raises(ValueError, match="the prior is of points with 4 numbers, got 8"):
        fit_local_linear(xs, us, dt=0.1, prior=small)
    with pytest.raises(ValueError, match=r"inputs must be from 1 to 7 of the 8 coordinates, got 8"):
        linear_gaussian(transition_points(xs, us), 8)


def test_errors_of_the_prior():
    with pytest.raises(ValueError, match=r"mu0 \(\*batch, D\) and Phi \(\*batch, D, D\), got \(3,\) and \(2, 2\)"):
        NormalInverseWishart(torch.zeros(3), torch.eye(2), m=1.0, n0=1.0)
    for strengths in ((-1.0, 1.0), (1.0, -0.1), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="numbers of points, at least 0"):
            NormalInverseWishart(torch.zeros(2), torch.eye(2), *strengths)


def test_errors_of_the_model(truth, generator):
    x, u = randn(generator, C, n), randn(generator, C, m)
    for call in (truth, truth.predict, truth.linearize):
        with pytest.raises(ValueError, match="another model at every step, so the step t must be given"):
            call(x, u)
        for t in (T, -1, torch.tensor([0, 1, T])):
            with pytest.raises(ValueError, match=r"given for steps 0\.\.5, got t="):
                call(x, u, t)
        with pytest.raises(ValueError, match=r"for each of \(3,\) conditions, .* begin with them, got x \(2, 3\)"):
            call(x[:2], u[:2], 0)
        with pytest.raises(ValueError, match=r"for each of \(3,\) conditions"):
            call(x[0], u[0], 0)
        with pytest.raises(ValueError, match=r"t \(1, 3\) must broadcast to the batch axes \(3,\) of x"):
            call(x, u, torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="costate must have last axis 3"):
        truth.curvature(x, u, u, 0)
    A, B, c, covariance = truth.buffers()
    for shapes in (
        (A[0, 0], B[0, 0], c[0, 0], covariance[0, 0]),
        (A, B[:1], c, covariance),
        (A, B, c, covariance[..., 0]),
    ):
        with pytest.raises(ValueError, match=r"need A \(\*batch, T, n, n\).*got A \("):
            LocalLinearDynamics(*shapes, dt=0.1)


def test_the_example():
    result = doctest.testmod(local_linear)
    assert result.attempted > 0
    assert result.failed == 0
