"""The mixture against numpy, scipy and the data it was drawn from, and what it does for local models."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from dynamics import CartPole, MixturePrior, Pendulum, fit_local_linear, fit_mixture_prior, transition_points


def randn(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def scattered(generator, size, dim=4):
    """Correlated points of very different units."""
    return randn(generator, size, dim) @ randn(generator, dim, dim) * torch.tensor([1.0, 100.0, 1e-3, 1.0]) + 5.0


@pytest.fixture
def mixture(generator):
    root = randn(generator, 3, 4, 4)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    covariances = root @ root.mT + 0.1 * torch.eye(4, dtype=torch.float64)
    return MixturePrior(weights.log(), 2 * randn(generator, 3, 4), covariances, num_points=100, strength=1.5)


def test_one_component_is_mean_and_covariance(generator):
    points = scattered(generator, 50)
    prior = fit_mixture_prior(points, components=1)
    np.testing.assert_allclose(prior.means[0], points.mean(0), rtol=1e-12)
    np.testing.assert_allclose(prior.covariances[0], np.cov(points.T, bias=True), rtol=1e-9, atol=1e-12)
    assert float(prior.log_weights) == 0.0
    belief = prior.moments(points[:3])
    np.testing.assert_allclose(belief.mu0, points.mean(0), rtol=1e-12)
    np.testing.assert_allclose(belief.Phi, np.cov(points.T, bias=True), rtol=1e-9, atol=1e-12)
    assert (belief.m, belief.n0) == (1.0, (50 - 2 - 4) / 50)


def test_densities_equal_scipy(mixture, generator):
    points = 3 * randn(generator, 2, 5, 4)
    joint = np.stack(
        [
            float(mixture.log_weights[k]) + multivariate_normal(mixture.means[k], mixture.covariances[k]).logpdf(points)
            for k in range(3)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(mixture.log_prob(points), logsumexp(joint, axis=-1), rtol=1e-10)
    expected = np.exp(joint - logsumexp(joint, axis=-1, keepdims=True))
    np.testing.assert_allclose(mixture.responsibilities(points), expected, rtol=1e-8, atol=1e-12)
    far = mixture.responsibilities(torch.full((1, 4), 1e6, dtype=torch.float64))
    torch.testing.assert_close(far.sum(-1), torch.ones(1, dtype=torch.float64))


def test_moments_are_those_of_the_reweighted_mixture(mixture, generator):
    """Mean and covariance of draws from the components in the proportions of the mean responsibilities."""
    points = randn(generator, 5, 4)
    belief = mixture.moments(points)
    r = mixture.responsibilities(points).mean(0)
    mean = sum(r[k] * mixture.means[k] for k in range(3))
    second = sum(r[k] * (mixture.covariances[k] + torch.outer(mixture.means[k], mixture.means[k])) for k in range(3))
    torch.testing.assert_close(belief.mu0, mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(belief.Phi, 1.5 * (second - torch.outer(mean, mean)), rtol=0, atol=1e-11)
    assert (belief.m, belief.n0) == (1.5, 1.5 * 0.94)


def test_moments_of_batches_and_of_points_that_are_not_finite(mixture, generator):
    points = randn(generator, 2, 3, 6, 4)
    whole = mixture.moments(points)
    broken = points.clone()
    broken[1, 2, 4:] = float("nan")
    for i in range(2):
        for j in range(3):
            single = mixture.moments(points[i, j])
            torch.testing.assert_close(whole.mu0[i, j], single.mu0, rtol=0, atol=1e-12)
            torch.testing.assert_close(whole.Phi[i, j], single.Phi, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        mixture.moments(broken).Phi[1, 2], mixture.moments(points[1, 2, :4]).Phi, rtol=0, atol=1e-12
    )


def test_the_likelihood_never_falls(generator):
    """Also where the floor acts: points on a sheet, so that every component is flat."""
    x = scattered(generator, 150)
    sheet = torch.cat([x, torch.sin(x[:, :1]), x[:, 1:2]], dim=-1)
    for points in (x, sheet):
        likelihoods = []
        for iterations in range(1, 16):
            prior = fit_mixture_prior(points, components=5, max_iterations=iterations, tolerance=0.0)
            likelihoods.append(float(prior.log_prob(points).mean()))
        gains = np.diff(likelihoods)
        assert gains.min() > -1e-9
        assert gains.max() > 1e-3  # it does climb


def test_finds_the_components_that_made_the_points(generator):
    centers = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    roots = torch.eye(2, dtype=torch.float64) + 0.3 * randn(generator, 3, 2, 2)
    label = torch.multinomial(torch.tensor([0.2, 0.3, 0.5]), 6000, replacement=True, generator=generator)
    points = centers[label] + (roots[label] @ randn(generator, 6000, 2, 1)).squeeze(-1)
    prior = fit_mixture_prior(points, components=3, generator=generator)
    order = torch.cdist(centers, prior.means).argmin(-1)
    assert sorted(order.tolist()) == [0, 1, 2]
    torch.testing.assert_close(prior.means[order], centers, rtol=0, atol=0.2)
    torch.testing.assert_close(prior.covariances[order], roots @ roots.mT, rtol=0, atol=0.3)
    shares = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    torch.testing.assert_close(prior.log_weights[order].exp(), shares, rtol=0, atol=0.03)


def test_units_do_not_matter(generator):
    points = scattered(generator, 200)
    units = torch.tensor([1e3, 1e-4, 7.0, 1.0], dtype=torch.float64)
    one, other = (fit_mixture_prior(p, components=4) for p in (points, points * units))
    torch.testing.assert_close(other.means, one.means * units, rtol=1e-6, atol=0)
    torch.testing.assert_close(other.covariances, one.covariances * torch.outer(units, units), rtol=1e-4, atol=0)


def test_the_number_of_components(generator):
    for size, expected in ((1, 1), (50, 2), (130, 3), (2000, 20)):
        prior = fit_mixture_prior(randn(generator, size, 2), max_iterations=1)
        assert (len(prior.means), prior.num_points) == (expected, size)


def test_degenerate_points_give_positive_definite_components(generator):
    constant = torch.cat([randn(generator, 60, 2), torch.full((60, 1), 1e4, dtype=torch.float64)], dim=-1)
    for points in (torch.ones(30, 3), constant, torch.eye(3).repeat(10, 1), torch.zeros(1, 3)):
        K = min(5, len(points))
        prior = fit_mixture_prior(points, components=K)
        assert bool(prior.means.isfinite().all())
        torch.linalg.cholesky(prior.covariances)
        assert bool(prior.log_prob(points.double()).isfinite().all())
        torch.testing.assert_close(prior.log_weights.exp().sum(), torch.ones((), dtype=torch.float64))
        belief = prior.moments(points[:2])
        assert bool(belief.Phi.isfinite().all())
        assert belief.n0 >= 0


def test_points_that_are_not_finite_do_not_count(generator):
    points = scattered(generator, 60)
    broken = torch.cat([points[:30], torch.full((1, 4), math.nan), points[30:], torch.full((1, 4), math.inf)])
    one, other = (fit_mixture_prior(p, components=3) for p in (points, broken.view(2, 31, 4)))
    assert torch.equal(one.means, other.means)
    assert other.num_points == 60


def test_the_generator_decides(generator):
    points = scattered(generator, 100)

    def means(seed, points=points):
        return fit_mixture_prior(points, components=4, generator=torch.Generator().manual_seed(seed)).means

    before = torch.get_rng_state()
    assert torch.equal(means(1), means(1))
    assert not torch.equal(means(1), means(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert means(1, points.float()).dtype == torch.float64


def rollouts(system, generator, N):
    """N noisy rollouts each about four random motions, and 40 more of each."""
    base = 0.3 * randn(generator, 4, 1, 40, system.control_dim).cumsum(-2)
    center = 0.5 * randn(generator, 4, 1, system.state_dim)

    def draw(N):
        us = base + 0.3 * randn(generator, 4, N, 40, system.control_dim)
        xs = [center + 0.05 * randn(generator, 4, N, system.state_dim)]
        for t in range(40):
            x = system(xs[-1], us[..., t, :])
            xs.append(x + 0.01 * randn(generator, *x.shape))
        return torch.stack(xs, dim=-2), us

    return draw(N), draw(40)


def held_out(model, xs, us):
    """Median log-density of held-out steps, and the median error of their means in units of the states' spread.

    Means would say most about a few steps where a pendulum near upright falls to either side.
    """
    error = xs[..., 1:, :] - model(xs[..., :-1, :], us, torch.arange(us.shape[-2]))
    factor = torch.linalg.cholesky(model.covariance).unsqueeze(1)
    white = torch.linalg.solve_triangular(factor, error.unsqueeze(-1), upper=False).squeeze(-1)
    log_volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    density = -0.5 * white.square().sum(-1) - log_volume - 0.5 * xs.shape[-1] * math.log(2 * math.pi)
    return float(density.median()), float((error / xs.std((0, 1, 2))).square().mean(-1).sqrt().median())


@pytest.mark.parametrize(
    ("system", "N", "share"), [(Pendulum(), 5, 1.0), (CartPole(), 6, 0.6)], ids=["pendulum", "cart-pole"]
)
def test_few_rollouts_predict_better_with_a_prior(system, N, share):
    """With as many rollouts as least squares needs, or one more; in each of two draws."""
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        (xs, us), unseen = rollouts(system, generator, N)
        prior = fit_mixture_prior(transition_points(xs, us), generator=generator)
        with_prior, without = (
            held_out(fit_local_linear(xs, us, dt=system.dt, prior=p), *unseen) for p in (prior, None)
        )
        assert with_prior[0] > without[0] + 1.0
        assert with_prior[1] < share * without[1]


def test_errors(mixture, generator):
    points = randn(generator, 10, 4)
    for count in (0, 11):
        with pytest.raises(ValueError, match=f"as many as finite points, got {count} for 10 points"):
            fit_mixture_prior(points, components=count)
    with pytest.raises(ValueError, match="for 0 points"):
        fit_mixture_prior(points * math.nan)
    for wrong in ({"floor": 0.0}, {"max_iterations": 0}, {"tolerance": -1.0}, {"floor": math.nan}):
        with pytest.raises(ValueError, match="need floor > 0, max_iterations >= 1 and tolerance >= 0, got"):
            fit_mixture_prior(points, **wrong)
    with pytest.raises(ValueError, match=r"need points \(\*any, D\), got \(4,\)"):
        fit_mixture_prior(points[0])
    with pytest.raises(ValueError, match="strength must be a number of points"):
        fit_mixture_prior(points, strength=-1.0)
    with pytest.raises(ValueError, match=r"need points \(\*batch, N, 4\), got \(10, 3\)"):
        mixture.moments(points[:, :3])
    with pytest.raises(ValueError, match="has no finite one to place the prior by"):
        mixture.moments(points * math.nan)
    with pytest.raises(ValueError, match=r"got \(2,\), \(3, 4\) and \(3, 4, 4\)"):
        MixturePrior(mixture.log_weights[:2], mixture.means, mixture.covariances, num_points=5)
