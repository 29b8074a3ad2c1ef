"""Heads: what they begin with, and that their distributions fit the features."""

import inspect
import math

import pytest
import torch
from instances import ALL_HEADS

import mbrl
from mbrl import BetaHead, Categorical, CategoricalHead, GaussianHead, Head, MixtureHead, SquashedGaussianHead
from mbrl.policies.heads import MAX_LOG_STD, MIN_LOG_STD

HEADS = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in ALL_HEADS.items()])
FEATURES = 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def features(*batch, scale=1.0, dtype=torch.float32):
    return scale * torch.randn(*batch, FEATURES, generator=seeded(), dtype=torch.float64).to(dtype)


def spread_out(head, scale=1.0):
    """Weights as after learning."""
    with torch.no_grad():
        head.layer.weight.normal_(std=scale, generator=seeded(1))
    return head


def test_the_list_is_complete():
    exported = {
        value
        for value in vars(mbrl).values()
        if inspect.isclass(value) and issubclass(value, Head) and not inspect.isabstract(value)
    }
    missing = exported - {type(make(FEATURES)) for make in ALL_HEADS.values()}
    assert not missing, f"add to tests/instances.py: {', '.join(sorted(cls.__name__ for cls in missing))}"


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@HEADS
def test_distributions_have_the_batch_and_dtype_of_the_features(make, dtype, batch):
    head = make(FEATURES).to(dtype)
    distribution = head(features(*batch, dtype=dtype))
    actions = distribution.sample(seeded())
    log_prob = distribution.log_prob(actions)
    assert distribution.batch_shape == log_prob.shape == batch
    assert log_prob.dtype == dtype
    assert (
        actions.shape == distribution.mode().shape == (batch if isinstance(distribution, Categorical) else (*batch, 2))
    )


@HEADS
def test_a_batch_is_its_elements_and_can_be_indexed(make):
    head = spread_out(make(FEATURES)).double()
    f = features(2, 3, dtype=torch.float64)
    actions = head(f).sample(seeded())
    log_prob = head(f).log_prob(actions)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(head(f[i, j]).log_prob(actions[i, j]), log_prob[i, j], rtol=1e-12, atol=1e-12)
    chosen = torch.tensor([4, 0, 5])
    flat = head(f.flatten(0, 1))[chosen]
    torch.testing.assert_close(flat.log_prob(actions.flatten(0, 1)[chosen]), log_prob.flatten()[chosen])


@HEADS
def test_gradients_reach_every_parameter(make):
    head = make(FEATURES)
    distribution = head(features(50))
    distribution.log_prob(distribution.sample(seeded())).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@HEADS
def test_weights_begin_small_and_orthogonal_without_a_preference(make):
    head = make(50)
    W = head.layer.weight.double()
    small = W @ W.T if len(W) <= 50 else W.T @ W
    torch.testing.assert_close(small, 1e-4 * torch.eye(len(small)).double(), atol=1e-9, rtol=0)
    distribution = head(torch.randn(500, 50, generator=seeded()))
    if isinstance(distribution, Categorical):
        torch.testing.assert_close(distribution.logits.softmax(-1), torch.full((500, 4), 0.25), atol=0.02, rtol=0)
    else:  # the gain times the largest of a thousand normal numbers; of betas times their slope, about 2
        assert distribution.mode().abs().max() < 0.1


@HEADS
def test_the_generator_decides_the_initial_weights(make):
    state = torch.get_rng_state()
    first, again, other = (make(FEATURES, generator=seeded(seed)).layer.weight for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("std", [1e-3, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("state_dependent", [False, True])
@pytest.mark.parametrize("kind", [GaussianHead, SquashedGaussianHead])
def test_standard_deviations_begin_as_asked(kind, state_dependent, std):
    head = kind(FEATURES, 2, initial_std=std, state_dependent_std=state_dependent).double()
    distribution = head(torch.zeros(3, FEATURES).double())
    torch.testing.assert_close(distribution.log_std.exp(), torch.full((3, 2), std).double(), rtol=1e-5, atol=0)
    mixture = MixtureHead(FEATURES, 2, initial_std=std).double()(torch.zeros(3, FEATURES).double())
    assert mixture.log_stds.shape == (3, 5, 2)
    torch.testing.assert_close(mixture.log_stds.exp(), torch.full((3, 5, 2), std).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [GaussianHead, SquashedGaussianHead])
def test_a_standard_deviation_of_its_own_is_the_same_in_all_states(kind):
    head = spread_out(kind(FEATURES, 2, initial_std=0.5))
    log_std = head(features(7)).log_std
    assert torch.equal(log_std, torch.full((7, 2), math.log(0.5)))
    dependent = spread_out(kind(FEATURES, 2, initial_std=0.5, state_dependent_std=True))
    assert dependent(features(7)).log_std.std(0).min() > 0.1
    assert "log_std" in dict(head.named_parameters())
    assert "log_std" not in dict(dependent.named_parameters())


@pytest.mark.parametrize("kind", [GaussianHead, SquashedGaussianHead, MixtureHead])
def test_standard_deviations_that_depend_on_the_state_are_bounded_with_gradients(kind):
    options = {} if kind is MixtureHead else {"state_dependent_std": True}
    head = spread_out(kind(FEATURES, 2, **options), scale=30.0)
    distribution = head(features(200))
    log_std = distribution.log_stds if kind is MixtureHead else distribution.log_std
    assert log_std.min() >= MIN_LOG_STD
    assert log_std.max() <= MAX_LOG_STD
    assert log_std.min() < MIN_LOG_STD + 1  # they do get there
    assert log_std.max() > MAX_LOG_STD - 0.1
    head.layer.bias.data[-2:] = 10.0
    at_bound = head(torch.zeros(1, FEATURES))
    (at_bound.log_stds if kind is MixtureHead else at_bound.log_std).sum().backward()
    assert (head.layer.bias.grad[-2:] > 1e-5).all()  # exp(-8) = 3e-4, where a hard bound would give 0


def test_betas_have_one_mode_and_begin_broad():
    head = BetaHead(FEATURES, 2)
    first = head(torch.zeros(1, FEATURES))
    torch.testing.assert_close(first.alpha, torch.full((1, 2), 1 + math.log(2)))
    torch.testing.assert_close(first.beta, first.alpha)
    draws = head(torch.zeros(20_000, FEATURES)).sample(seeded())
    # of a symmetric beta on (-1, 1): variance 1 / (2 alpha + 1); its sample deviation errs by less than 1 / sqrt(2 n)
    assert draws.std(0).sub((3 + 2 * math.log(2)) ** -0.5).abs().max() < 4.5 * 0.48 / math.sqrt(40_000)
    wild = spread_out(head, scale=30.0)(features(500))
    assert min(wild.alpha.min(), wild.beta.min()) >= 1
    assert wild.mode().isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_components_of_a_mixture_part_when_there_are_two_things_to_do(seed):
    """Demonstrations go left or right. The best single Gaussian has a loss of 1.4, its entropy, and a peak between them."""
    head = MixtureHead(FEATURES, 1, components=3, generator=seeded(seed))
    f = features(64)
    side = torch.arange(64).remainder(2).mul(2).sub(1).unsqueeze(-1)
    actions = side + 0.25 * torch.randn(64, 1, generator=seeded(2 + seed))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(100):
        loss = -head(f).log_prob(actions).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.0  # log 2 + log 0.25 + log(2 pi e) / 2 = 0.73 with one peak for each
    left, middle, right = (head(f).log_prob(torch.full((64, 1), a)).exp().mean() for a in (-1.0, 0.0, 1.0))
    assert min(left, right) > 1.5 * middle


@HEADS
def test_weights_are_loaded(make):
    head, other = spread_out(make(FEATURES)), make(FEATURES)
    other.load_state_dict(head.state_dict())
    actions = head(features(5)).sample(seeded())
    assert torch.equal(other(features(5)).log_prob(actions), head(features(5)).log_prob(actions))


@HEADS
def test_another_number_of_features_is_refused(make):
    head = make(FEATURES)
    for wrong in (torch.zeros(3, FEATURES + 1), torch.zeros(()), torch.zeros(FEATURES, 3)):
        with pytest.raises(ValueError, match=rf"{type(head).__name__} needs features \(\*batch, 6\), got \("):
            head(wrong)
    with pytest.raises(ValueError, match="features must be an integer of at least 1, got 0"):
        make(0)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "two"])
def test_sizes_are_checked(size):
    with pytest.raises(ValueError, match="choices must be an integer of at least 1"):
        CategoricalHead(FEATURES, size)
    for kind in (GaussianHead, SquashedGaussianHead, BetaHead, MixtureHead):
        with pytest.raises(ValueError, match="action_dim must be an integer of at least 1"):
            kind(FEATURES, size)
    with pytest.raises(ValueError, match="components must be an integer of at least 1"):
        MixtureHead(FEATURES, 2, size)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_initial_standard_deviations_are_checked(std):
    for kind in (GaussianHead, SquashedGaussianHead, MixtureHead):
        with pytest.raises(ValueError, match="initial_std must be positive, in half control ranges, got"):
            kind(FEATURES, 2, initial_std=std)


@pytest.mark.parametrize("std", [8.0, 1e-9])
def test_initial_standard_deviations_lie_within_their_bounds(std):
    GaussianHead(FEATURES, 2, initial_std=std)
    with pytest.raises(ValueError, match=r"between 2\.1e-09 and 7\.4, got"):
        GaussianHead(FEATURES, 2, initial_std=std, state_dependent_std=True)
    with pytest.raises(ValueError, match=r"between 2\.1e-09 and 7\.4, got"):
        MixtureHead(FEATURES, 2, initial_std=std)
