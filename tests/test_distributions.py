"""Distributions of actions: against quadrature, torch.distributions, Monte Carlo and finite differences."""

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from torch import distributions as reference

import mbrl
from mbrl import (
    ActionDistribution,
    Beta,
    Categorical,
    DiagonalGaussian,
    GaussianMixture,
    NoClosedFormError,
    SquashedGaussian,
)

FAMILIES = [Categorical, DiagonalGaussian, SquashedGaussian, Beta, GaussianMixture]
CONTINUOUS = FAMILIES[1:]
EXACT = FAMILIES[:4]
BATCHES = [(), (3,), (2, 3)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(family, batch=(), a=2, k=4, seed=0, dtype=torch.float64):
    """Random parameters of no particular scale."""
    generator = seeded(seed)

    def normal(*shape):
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64).to(dtype)

    if family is Categorical:
        return Categorical(normal(k))
    if family is Beta:
        return Beta(1 + 2 * normal(a).exp(), 1 + 2 * normal(a).exp())
    if family is GaussianMixture:
        return GaussianMixture(normal(k), normal(k, a), -0.5 + 0.5 * normal(k, a))
    return family(0.7 * normal(a), -0.3 + 0.5 * normal(a))


def parameters(distribution):
    return tuple(getattr(distribution, field.name) for field in dataclasses.fields(distribution))


def repeated(distribution, count):
    """The distribution ``count`` times, for many actions."""
    return type(distribution)(*(value.expand(count, *value.shape) for value in parameters(distribution)))


def by_torch(distribution):
    """The same distribution of torch.distributions."""
    kind = type(distribution)
    if kind is Categorical:
        return reference.Categorical(logits=distribution.logits)
    if kind is GaussianMixture:
        components = reference.Independent(reference.Normal(distribution.means, distribution.log_stds.exp()), 1)
        return reference.MixtureSameFamily(reference.Categorical(logits=distribution.logits), components)
    if kind is Beta:
        stretch = reference.AffineTransform(-1.0, 2.0)
        base = reference.Beta(distribution.alpha, distribution.beta)
        return reference.Independent(reference.TransformedDistribution(base, stretch), 1)
    normal = reference.Normal(distribution.mean, distribution.log_std.exp())
    if kind is SquashedGaussian:
        normal = reference.TransformedDistribution(normal, reference.TanhTransform())
    return reference.Independent(normal, 1)


def test_the_list_is_complete():
    exported = {
        value
        for value in vars(mbrl).values()
        if inspect.isclass(value) and issubclass(value, ActionDistribution) and not inspect.isabstract(value)
    }
    assert exported == set(FAMILIES)


# log-probabilities


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", CONTINUOUS)
def test_the_density_integrates_to_one(family, seed):
    """In one dimension, by the trapezoidal rule over x, with a = tanh(x) where actions are bounded."""
    distribution = make(family, a=1, seed=seed)
    if family in (SquashedGaussian, Beta):
        x = torch.linspace(-18.0, 18.0, 20_001, dtype=torch.float64)
        actions, slope = x.tanh(), x.cosh() ** -2
    else:
        x = torch.linspace(-20.0, 20.0, 20_001, dtype=torch.float64)
        actions, slope = x, torch.ones_like(x)
    density = repeated(distribution, len(x)).log_prob(actions.unsqueeze(-1)).exp()
    assert torch.trapezoid(density * slope, x).item() == pytest.approx(1.0, abs=1e-9)


def test_probabilities_sum_to_one():
    distribution = repeated(make(Categorical), 4)
    assert distribution.log_prob(torch.arange(4)).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_prob_is_that_of_torch(family, dtype, batch):
    distribution = make(family, batch, dtype=dtype)
    actions = distribution.sample(seeded(1))
    log_prob = distribution.log_prob(actions)
    assert log_prob.shape == batch
    assert log_prob.dtype == dtype
    exact = type(distribution)(*(value.double() for value in parameters(distribution)))
    expected = by_torch(exact).log_prob(actions if family is Categorical else actions.double())
    torch.testing.assert_close(
        log_prob.double(), expected, **({"rtol": 3e-6, "atol": 3e-5} if dtype.itemsize == 4 else {})
    )


@pytest.mark.parametrize("family", EXACT)
@pytest.mark.parametrize("batch", BATCHES)
def test_entropy_and_divergence_are_those_of_torch(family, batch):
    p, q = make(family, batch), make(family, batch, seed=1)
    if family is Beta:  # of the stretched beta torch knows neither
        plain = [reference.Independent(reference.Beta(*parameters(d)), 1) for d in (p, q)]
        entropy, divergence = plain[0].entropy() + 2 * math.log(2), reference.kl_divergence(*plain)
    elif family is SquashedGaussian:  # tanh is one to one; the entropy has tests of its own
        normal = [reference.Independent(reference.Normal(d.mean, d.log_std.exp()), 1) for d in (p, q)]
        entropy, divergence = p.entropy(), reference.kl_divergence(*normal)
    else:
        entropy, divergence = by_torch(p).entropy(), reference.kl_divergence(by_torch(p), by_torch(q))
    torch.testing.assert_close(p.entropy(), entropy)
    torch.testing.assert_close(p.kl(q), divergence)
    assert p.entropy().shape == p.kl(q).shape == batch


@pytest.mark.parametrize(
    ("std", "error"), [(0.01, 1e-10), (0.3, 1e-10), (1.0, 1e-10), (2.0, 1e-7), (3.0, 3e-5), (7.4, 1e-2)]
)
def test_the_entropy_of_the_squashed_gaussian_is_its_integral(std, error):
    """-int p log p da over a fine grid of x = atanh(a); the error bounds are those that the module states."""
    mean = torch.tensor([0.0, 0.3, -1.1, 3.0, 6.0], dtype=torch.float64).unsqueeze(-1)
    distribution = SquashedGaussian(mean, torch.full_like(mean, math.log(std)))
    z = torch.linspace(-12.0, 12.0, 200_001, dtype=torch.float64)
    x = mean + std * z
    log_normal = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - math.log(std)
    log_slope = 2 * (math.log(2) - x - torch.logaddexp(torch.zeros_like(x), -2 * x))
    expected = torch.trapezoid(-log_normal.exp() * (log_normal - log_slope), x, dim=-1)
    torch.testing.assert_close(distribution.entropy(), expected, atol=error, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", EXACT)
def test_entropy_and_divergence_are_means_over_samples(family, dtype):
    """Each within 4.5 standard errors of 100,000 samples."""
    count = 100_000
    p, q = make(family, dtype=dtype), make(family, seed=1, dtype=dtype)
    many = repeated(p, count)
    actions = many.sample(seeded(2))
    log_p, log_q = many.log_prob(actions), repeated(q, count).log_prob(actions)
    for exact, draws in ((p.entropy(), -log_p), (p.kl(q), log_p - log_q)):
        assert abs(draws.mean() - exact) < 4.5 * draws.std() / math.sqrt(count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", EXACT)
def test_divergences_are_positive_and_zero_at_equality(family, dtype):
    p, q = make(family, (500,), dtype=dtype), make(family, (500,), seed=1, dtype=dtype)
    assert (p.kl(q) > 0).all()
    zero = torch.zeros(500, dtype=dtype)
    torch.testing.assert_close(p.kl(p), zero, atol=4 * torch.finfo(dtype).eps, rtol=0)


def test_small_divergences_of_gaussians_keep_their_digits_in_single_precision():
    """About d^2 for log-stds that are d apart: 1e-8, less than the epsilon of float32."""
    zero, near = torch.zeros(1), torch.full((1,), 1e-4)
    assert DiagonalGaussian(zero, zero).kl(DiagonalGaussian(zero, near)).item() == pytest.approx(1e-8, rel=0.01)


# draws


@pytest.mark.parametrize("batch", [*BATCHES, (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_draws_come_from_the_generator(family, dtype, batch):
    distribution = make(family, batch, dtype=dtype)
    for value in parameters(distribution):
        value.requires_grad_()
    state = torch.get_rng_state()
    first, again = (distribution.sample(seeded(3)) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert first.shape == distribution.mode().shape == (batch if family is Categorical else (*batch, 2))
    assert first.dtype == distribution.mode().dtype == (torch.int64 if family is Categorical else dtype)
    assert not first.requires_grad
    generator = seeded(3)
    stream = torch.stack([distribution.sample(generator) for _ in range(20)])
    assert 0 in batch or len(stream.unique()) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_generator_draws_come_from_torch_s_own(family):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = make(family, (5,)).sample(torch.Generator().manual_seed(3))
        assert torch.equal(make(family, (5,)).sample(None), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", CONTINUOUS)
def test_draws_fill_the_distribution(family, dtype):
    """In one dimension: Kolmogorov's distance to the integrated density, of probability 1e-4 beyond 2.2 / sqrt(n)."""
    count = 40_000
    distribution = make(family, a=1, seed=4, dtype=dtype)
    draws = repeated(distribution, count).sample(seeded(5)).squeeze(-1).double().sort().values
    edge = 1 - 1e-9 if family in (SquashedGaussian, Beta) else 12.0
    grid = torch.linspace(-edge, edge, 40_001, dtype=torch.float64)
    exact = type(distribution)(*(value.double() for value in parameters(distribution)))
    density = repeated(exact, len(grid)).log_prob(grid.unsqueeze(-1)).exp()
    cumulative = torch.cumulative_trapezoid(density, grid)
    at_draws = np.interp(draws.numpy(), grid[1:].numpy(), cumulative.numpy())
    assert np.abs(at_draws - (np.arange(count) + 0.5) / count).max() < 2.2 / math.sqrt(count)


def test_frequencies_are_the_probabilities():
    count = 100_000
    logits = torch.tensor([0.0, -math.inf, 1.0, -3.0, -9.0])
    draws = repeated(Categorical(logits), count).sample(seeded(6))
    p = logits.softmax(-1)
    frequency = draws.bincount(minlength=5) / count
    assert ((frequency - p).abs() <= 4.5 * (p * (1 - p) / count).sqrt()).all()  # of the impossible one: none at all


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-53])
def test_not_even_the_rarest_uniform_number_draws_an_impossible_choice(extreme, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.full(shape, extreme, dtype=options["dtype"]))
    assert Categorical(torch.tensor([-math.inf, -50.0, -math.inf])).sample(None).item() == 1


def test_components_are_drawn_by_weight_and_coordinates_by_component():
    """Moments of two narrow components, within 4.5 standard errors."""
    count = 100_000
    means = torch.tensor([[-1.0, 2.0], [3.0, 0.0]]).double()
    mixture = GaussianMixture(torch.tensor([0.0, math.log(3)]).double(), means, torch.full((2, 2), -2.0).double())
    draws = repeated(mixture, count).sample(seeded(7))
    upper = draws[:, 0] > 1
    assert abs(upper.double().mean() - 0.75) < 4.5 * math.sqrt(0.75 * 0.25 / count)
    for component, chosen in enumerate((~upper, upper)):
        group, std = draws[chosen], math.exp(-2)
        assert (group.mean(0) - means[component]).abs().max() < 4.5 * std / math.sqrt(len(group))
        assert (group.std(0) / std - 1).abs().max() < 4.5 / math.sqrt(2 * len(group))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_of_bounded_families_stay_off_the_limits(dtype):
    far, none = torch.tensor([30.0, -30.0, 5.0], dtype=dtype), torch.zeros(3, dtype=dtype)
    beta = Beta(torch.tensor([1e6, 1.0, 0.05], dtype=dtype), torch.tensor([1.0, 1e6, 0.05], dtype=dtype))
    for distribution in (SquashedGaussian(far, none), beta):
        many = repeated(distribution, 1000)
        actions = many.sample(seeded(8))
        assert (actions.abs() < 1).all()
        assert many.log_prob(actions).isfinite().all()


# deterministic actions


@pytest.mark.parametrize("family", [DiagonalGaussian, Beta])
def test_the_mode_has_the_highest_density(family):
    distribution = make(family, (20,))
    at_mode = distribution.log_prob(distribution.mode())
    for seed in range(20):
        shift = 1e-2 * torch.randn(20, 2, generator=seeded(seed), dtype=torch.float64)
        assert (
            distribution.log_prob(
                (distribution.mode() + shift).clamp(-1, 1) if family is Beta else distribution.mode() + shift
            )
            < at_mode
        ).all()


def test_modes_of_betas_that_are_flat_or_peak_at_a_limit():
    alpha, beta = torch.tensor([1.0, 2.0, 1.0, 0.5, 0.5]), torch.tensor([1.0, 1.0, 2.0, 2.0, 0.5])
    alpha.requires_grad_()
    mode = Beta(alpha, beta).mode()
    torch.testing.assert_close(mode, torch.tensor([0.0, 1.0, -1.0, -1.0, 0.0]))
    assert torch.autograd.grad(mode.sum(), alpha)[0].isfinite().all()


def test_modes_of_the_other_families():
    assert Categorical(torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, -math.inf]])).mode().tolist() == [1, 0]
    squashed = make(SquashedGaussian, (4,))
    torch.testing.assert_close(squashed.mode(), squashed.mean.tanh())
    mixture = make(GaussianMixture, (2, 3))
    heaviest = mixture.logits.argmax(-1)
    for i in range(2):
        for j in range(3):
            assert torch.equal(mixture.mode()[i, j], mixture.means[i, j, heaviest[i, j]])


# derivatives


@pytest.mark.parametrize(
    ("family", "quantity"),
    [(family, "log_prob") for family in FAMILIES] + [(f, quantity) for f in EXACT for quantity in ("entropy", "kl")],
)
def test_first_and_second_derivatives(family, quantity):
    p, q = make(family, (2,)), make(family, (2,), seed=1)
    actions = p.sample(seeded(9))

    def value(*values):
        distribution = family(*values[: len(parameters(p))])
        if quantity == "log_prob":
            return distribution.log_prob(actions if family is Categorical else values[-1])
        return (
            distribution.entropy() if quantity == "entropy" else distribution.kl(family(*values[len(parameters(p)) :]))
        )

    inputs = [*parameters(p), *(parameters(q) if quantity == "kl" else ())]
    if quantity == "log_prob" and family is not Categorical:
        inputs.append(actions)
    inputs = [v.detach().requires_grad_() for v in inputs]
    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs)


def fisher(distribution):
    """Fisher information of the parameters, side by side, from textbooks."""
    if isinstance(distribution, Categorical):
        p = distribution.logits.softmax(-1)
        return torch.diag(p) - torch.outer(p, p)
    if isinstance(distribution, Beta):
        alpha, beta = distribution.alpha, distribution.beta
        shared = torch.special.polygamma(1, alpha + beta)
        own = torch.special.polygamma(1, torch.cat([alpha, beta])) - shared.repeat(2)
        swap = torch.diag(-shared)
        zero = torch.zeros_like(swap)
        return torch.diag(own) + torch.cat([torch.cat([zero, swap]), torch.cat([swap, zero])], dim=-1)
    precision = (-2 * distribution.log_std).exp()
    return torch.diag(torch.cat([precision, torch.full_like(precision, 2.0)]))


@pytest.mark.parametrize("family", EXACT)
def test_the_curvature_of_the_divergence_is_the_fisher_information(family):
    """As a product with a vector by double backward, which is how natural gradients use it."""
    p = make(family)
    sizes = [value.numel() for value in parameters(p)]
    flat = torch.cat([value.reshape(-1) for value in parameters(p)]).requires_grad_()
    q = family(*(part.view_as(v) for part, v in zip(flat.split(sizes), parameters(p), strict=True)))
    (slope,) = torch.autograd.grad(q.detach().kl(q), flat, create_graph=True)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    vectors = torch.eye(sum(sizes), dtype=torch.float64)
    products = torch.stack([torch.autograd.grad(slope @ v, flat, retain_graph=True)[0] for v in vectors])
    torch.testing.assert_close(products, fisher(p))


def test_impossible_choices_have_finite_entropy_divergence_and_derivatives():
    logits = torch.tensor([[0.0, -math.inf, 1.0]]).double().requires_grad_()
    other = torch.tensor([[1.0, -math.inf, 1.0]]).double()
    possible, p = [0, 2], Categorical(logits)
    torch.testing.assert_close(p.entropy(), Categorical(logits[:, possible]).entropy())
    expected = Categorical(logits[:, possible]).kl(Categorical(other[:, possible]))
    torch.testing.assert_close(p.kl(Categorical(other)), expected)
    for value in (p.entropy(), p.kl(Categorical(other)), p.detach().kl(p), p.log_prob(torch.tensor([2]))):
        (slope,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
        (curvature,) = torch.autograd.grad((slope[:, possible] * torch.tensor([1.0, 2.0])).sum(), logits)
        assert slope.isfinite().all()
        assert curvature.isfinite().all()
    assert p.log_prob(torch.tensor([1])).item() == -math.inf
    assert Categorical(torch.zeros(1, 3).double()).kl(p).item() == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", [SquashedGaussian, Beta])
def test_actions_at_the_limits_have_finite_log_probabilities_and_derivatives(family, dtype):
    distribution = make(family, (3,), a=1, dtype=dtype)
    actions = torch.tensor([[1.0], [-1.0], [1 - 1e-6]], dtype=dtype)
    values = [v.requires_grad_() for v in parameters(distribution)]
    log_prob = distribution.log_prob(actions)
    assert log_prob.isfinite().all()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(log_prob.sum(), values))


def test_wide_and_far_squashed_gaussians_have_finite_entropy_and_derivatives():
    mean = torch.tensor([[0.0, 50.0], [-300.0, 3.0]]).requires_grad_()
    log_std = torch.tensor([[2.0, 2.0], [-20.0, -20.0]]).requires_grad_()
    entropy = SquashedGaussian(mean, log_std).entropy()
    assert entropy.isfinite().all()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(entropy.sum(), (mean, log_std)))


# batches


@pytest.mark.parametrize(
    "index",
    [0, -1, slice(1, None), (1, 2), (slice(None), 0), (..., 1), None, torch.tensor([1, 0, 1]), [True, False], ...],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_indexing_reaches_the_batch_axes_of_all_parameters(family, index):
    distribution = make(family, (2, 3))
    index = torch.tensor(index) if isinstance(index, list) else index
    actions = distribution.sample(seeded(10))
    element = torch.arange(6).view(2, 3)[index]
    part = distribution[index]
    assert part.batch_shape == element.shape
    flat = actions.flatten(0, 1)[element]
    torch.testing.assert_close(part.log_prob(flat), distribution.log_prob(actions).flatten()[element], rtol=0, atol=0)
    assert part.sample(seeded()).shape == flat.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_an_index_does_not_reach_beyond_the_batch(family):
    with pytest.raises(IndexError):
        make(family, (3,))[0, 0]
    with pytest.raises(IndexError):
        make(family)[0]


@pytest.mark.parametrize("batch", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_may_be_empty(family, batch):
    """torch.distributions has none to compare with."""
    p = make(family, batch)
    actions = p.sample(seeded())
    assert p.log_prob(actions).shape == batch
    assert p[:0].batch_shape == (0, *batch[1:])
    if family in EXACT:
        assert p.entropy().shape == p.kl(p).shape == batch


@pytest.mark.parametrize("family", EXACT)
def test_a_batch_is_its_elements(family):
    p, q = make(family, (2, 3)), make(family, (2, 3), seed=1)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(p[i, j].entropy(), p.entropy()[i, j], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(p[i, j].kl(q[i, j]), p.kl(q)[i, j], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_detached_distributions_have_no_gradient(family):
    distribution = make(family, (3,))
    for value in parameters(distribution):
        value.requires_grad_()
    assert distribution.log_prob(distribution.sample(seeded())).requires_grad
    held = distribution.detach()
    assert type(held) is family
    assert not held.log_prob(held.sample(seeded())).requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_distributions_are_values(family):
    distribution = make(family)
    name = dataclasses.fields(distribution)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(distribution, name, None)


# errors


@pytest.mark.parametrize("family", FAMILIES)
def test_actions_of_another_shape_are_refused(family):
    distribution = make(family, (3,))
    actions = distribution.sample(seeded())
    for wrong in (actions[:2], actions.unsqueeze(0), actions[0], actions.unsqueeze(-1)):
        with pytest.raises(ValueError, match=r"batch shape \(3,\) needs actions of shape \(3,.*got \("):
            distribution.log_prob(wrong)


def test_divergences_between_kinds_and_shapes_are_refused():
    for family in FAMILIES:
        for other in set(FAMILIES) - {family}:
            with pytest.raises(TypeError, match=f"of a {family.__name__} .*got {other.__name__}"):
                make(family, (3,)).kl(make(other, (3,)))
        for batch in ((), (1,), (2, 3)):
            with pytest.raises(TypeError, match="equal shapes"):
                make(family, (3,)).kl(make(family, batch))
        with pytest.raises(TypeError, match="got Tensor"):
            make(family, (3,)).kl(torch.zeros(3))


@pytest.mark.parametrize("what", ["entropy", "divergence"])
def test_what_mixtures_have_no_formula_for(what):
    mixture = make(GaussianMixture, (3,))
    with pytest.raises(NoClosedFormError, match=rf"the {what} .* PPO's clipped objective and entropy_weight=0"):
        mixture.entropy() if what == "entropy" else mixture.kl(mixture)
    assert issubclass(NoClosedFormError, RuntimeError)


@pytest.mark.parametrize("family", [SquashedGaussian, Beta])
@pytest.mark.parametrize("value", [1.5, -1.001, math.nan, math.inf])
def test_actions_out_of_bounds_are_refused(family, value):
    actions = torch.tensor([[0.0, value]]).double()
    with pytest.raises(ValueError, match=r"in \[-1, 1\], .*clamp them"):
        make(family, (1,)).log_prob(actions)


def test_actions_that_are_no_choice_are_refused():
    distribution = make(Categorical, (2,))
    for wrong in ([0, 4], [-1, 0]):
        with pytest.raises(ValueError, match=r"are 0 to 3, got"):
            distribution.log_prob(torch.tensor(wrong))
    for wrong in ([0.0, 1.0], [False, True]):
        with pytest.raises(ValueError, match="indices of an integer dtype, got torch"):
            distribution.log_prob(torch.tensor(wrong))
    expected = distribution.log_prob(torch.tensor([0, 3]))
    assert torch.equal(distribution.log_prob(torch.tensor([0, 3], dtype=torch.int32)), expected)


@pytest.mark.parametrize("logits", [[math.nan, 0.0], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_nothing_is_drawn_from_broken_logits(logits):
    logits = torch.tensor([[0.0, 0.0], logits])
    with pytest.raises(ValueError, match="cannot draw from logits"):
        Categorical(logits).sample(None)
    with pytest.raises(ValueError, match="cannot draw from logits"):
        GaussianMixture(logits, torch.zeros(2, 2, 1), torch.zeros(2, 2, 1)).sample(None)


@pytest.mark.parametrize(
    ("family", "shapes"),
    [
        (Categorical, [()]),
        (Categorical, [(3, 0)]),
        (DiagonalGaussian, [(3, 2), (2,)]),
        (SquashedGaussian, [(3, 2), (3, 1)]),
        (Beta, [(3, 2), (2, 2)]),
        (Beta, [(), ()]),
        (GaussianMixture, [(3, 4), (3, 4, 2), (4, 2)]),
        (GaussianMixture, [(3, 4), (3, 5, 2), (3, 5, 2)]),
        (GaussianMixture, [(3, 4), (3, 4), (3, 4)]),
        (GaussianMixture, [(2,), (2,), (2,)]),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(family, shapes):
    with pytest.raises(
        ValueError, match=rf"parameters of {family.__name__} have shapes that do not fit together: \w+ \("
    ):
        family(*(torch.ones(shape) for shape in shapes))


def test_parameters_have_one_floating_dtype():
    with pytest.raises(ValueError, match=r"one floating dtype, got torch\.float32, torch\.float64"):
        DiagonalGaussian(torch.zeros(2), torch.zeros(2).double())
    with pytest.raises(ValueError, match=r"one floating dtype, got torch\.int64"):
        Categorical(torch.tensor([0, 1]))
