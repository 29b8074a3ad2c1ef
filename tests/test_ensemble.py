"""The ensemble against plain networks, its generic rollouts, and the geometry of angles and constants."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from dynamics import MLP, Ensemble, StochasticDynamics, Trajectory
from dynamics.learned.base import TransitionData
from dynamics.learned.settings import Training
from dynamics.learned.training import train_ensemble


def data(generator, size=300, *, spread=1.0):
    """A driven pendulum's angle and rate, with states in very different units from the controls."""
    x = spread * torch.randn(size, 2, generator=generator, dtype=torch.float64) * torch.tensor([2.0, 20.0])
    u = torch.randn(size, 1, generator=generator, dtype=torch.float64) + 3.0
    rate = x[:, 1:] - 4.0 * torch.sin(x[:, :1]) + u
    return TransitionData(x, u, torch.cat([x[:, :1] + 0.05 * rate, rate], dim=-1))


def train(model, rows, generator, steps=150, **options):
    train_ensemble(
        model,
        rows,
        rows,
        Training(steps=steps, batch_size=64, evaluate_every=50, **options),
        generator=generator,
        checkpoint=None,
        advance=lambda completed, text="": None,
    )
    return model


def ready(generator, **options):
    """With statistics of the data and random weights: enough where no accuracy is asked for."""
    model = Ensemble(2, 1, 0.05, angles=[0], **{"members": 3, "hidden": [16, 8], **options})
    model.set_statistics(data(generator))
    return model


def plain_network(model, member):
    """The same weights in torch's own layers."""
    layers = []
    for weight, bias in zip(model.weights, model.biases, strict=True):
        linear = nn.Linear(*weight.shape[1:]).to(weight.dtype)
        linear.load_state_dict({"weight": weight[member].detach().T, "bias": bias[member, 0].detach()})
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def softly_bounded(logvar):
    """-14 + log(1 + e^{l+14}) with l = 0.5 - log(1 + e^{0.5-logvar}), term by term."""
    logvar = 0.5 - torch.log1p(torch.exp(0.5 - logvar.double()))
    return -14.0 + torch.log1p(torch.exp(logvar + 14.0))


def test_members_are_plain_networks(generator):
    model = ready(generator)
    features = torch.randn(3, 50, 4, generator=generator)
    mean, logvar = model.outputs(features)
    for i in range(3):
        expected_mean, expected_logvar = plain_network(model, i)(features[i]).chunk(2, dim=-1)
        torch.testing.assert_close(mean[i], expected_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logvar[i].double(), softly_bounded(expected_logvar), rtol=1e-5, atol=1e-5)


def test_prediction_is_the_mixture_of_plain_networks(generator):
    """Features, normalization and units, written out for one member after the other."""
    model, rows = ready(generator).double(), data(generator)
    model.set_statistics(rows)
    x, u = rows.x[:7], rows.u[:7]
    delta = rows.x_next - rows.x
    delta[:, 0] = torch.atan2(delta[:, 0].sin(), delta[:, 0].cos())

    def features(x, u):
        return torch.stack([x[:, 1], x[:, 0].sin(), x[:, 0].cos(), u[:, 0]], dim=-1)

    phi = features(rows.x, rows.u)
    z = (features(x, u) - phi.mean(0)) / phi.std(0, correction=0)
    means, variances = [], []
    for i in range(3):
        mean, logvar = plain_network(model, i)(z).detach().chunk(2, dim=-1)
        means.append(x + delta.mean(0) + delta.std(0, correction=0) * mean)
        variances.append(delta.var(0, correction=0) * softly_bounded(logvar).exp())
    means, variances = torch.stack(means), torch.stack(variances)
    prediction = model.predict(x, u)
    torch.testing.assert_close(prediction.members, means)
    torch.testing.assert_close(prediction.members_std, variances.sqrt())
    torch.testing.assert_close(prediction.mean, means.mean(0))
    torch.testing.assert_close(prediction.aleatoric_std, variances.mean(0).sqrt())
    torch.testing.assert_close(prediction.epistemic_std, means.var(0, correction=0).sqrt())
    # the law of total variance
    second_moment = (variances + means.square()).mean(0)
    torch.testing.assert_close(prediction.std.square(), second_moment - means.mean(0).square())
    torch.testing.assert_close(model(x, u), means.mean(0))


def test_log_variance_is_bounded(generator):
    model = ready(generator)
    with torch.no_grad():
        for bias, expected in ((1e6, 0.5), (-1e6, -14.0)):
            model.biases[-1][..., 2:] = bias
            _, logvar = model.outputs(torch.randn(3, 10, 4, generator=generator))
            torch.testing.assert_close(logvar, torch.full_like(logvar, expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_loss_is_the_beta_nll(beta, generator):
    """Value by hand, and gradients of the head that see the weight sigma^(2 beta) as a constant."""
    model = ready(generator).double()
    features = torch.randn(3, 20, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(3, 20, 2, generator=generator, dtype=torch.float64)
    losses = model.losses(features, targets, beta=beta)
    mean, logvar = (part.detach() for part in model.outputs(features))
    expected = [
        sum(
            math.exp(logvar[i, k, d]) ** beta
            * 0.5
            * (float(logvar[i, k, d]) + float(targets[i, k, d] - mean[i, k, d]) ** 2 / math.exp(logvar[i, k, d]))
            for k in range(20)
            for d in range(2)
        )
        / 20
        for i in range(3)
    ]
    torch.testing.assert_close(losses.detach(), torch.tensor(expected, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(losses[1], model.biases[-1])
    variance = logvar[1].exp()
    by_mean = (variance ** (beta - 1) * (mean[1] - targets[1])).mean(0)
    torch.testing.assert_close(gradient[1, 0, :2], by_mean)
    assert float(gradient[[0, 2]].abs().max()) == 0.0


def test_batch_equals_single(generator):
    model, rows = ready(generator), data(generator)
    x, u = rows.x[:12], rows.u[:12]
    batched = model.predict(x, u)
    for name in ("mean", "aleatoric_std", "epistemic_std"):
        whole = getattr(batched, name)
        single = torch.stack([getattr(model.predict(a, b), name) for a, b in zip(x, u, strict=True)])
        scale = rows.x.abs().amax(0)
        torch.testing.assert_close(whole / scale, single / scale, rtol=0, atol=1e-6)
        grid = getattr(model.predict(x.reshape(3, 4, 2), u.reshape(3, 4, 1)), name)
        torch.testing.assert_close(grid.reshape(12, 2) / scale, single / scale, rtol=0, atol=1e-6)


@torch.no_grad()
def test_dtypes_at_the_border(generator):
    """Float32 networks, results in the dtype of x, and a state whose float64 digits survive."""
    model, rows = ready(generator), data(generator)
    for dtype in (torch.float32, torch.float64):
        x, u = rows.x[:4].to(dtype), rows.u[:4].to(dtype)
        prediction = model.predict(x, u)
        values = [*vars(prediction).values(), model(x, u), model.rollout(x, u.unsqueeze(1))]
        values.append(model.sample_rollout(x, u.unsqueeze(1), particles=3, generator=generator))
        assert {value.dtype for value in values} == {dtype}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    x = rows.x[:1] + torch.tensor([[0.0, 1e-12]], dtype=torch.float64)
    moved, still = model(x, rows.u[:1]).detach(), model(rows.x[:1], rows.u[:1]).detach()
    digits = float((moved - still)[0, 1])  # the change of state is float32, not the state
    assert digits == pytest.approx(1e-12, rel=0.5)


def test_double_precision(generator):
    model = ready(generator)
    twice = copy.deepcopy(model).double()
    rows = data(generator)
    torch.testing.assert_close(twice(rows.x, rows.u), model(rows.x, rows.u), rtol=0, atol=1e-5)
    x, u, h = rows.x[:5], rows.u[:5], 1e-6
    linearization = twice.linearize(x, u)
    for k in range(2):
        e = h * torch.eye(2, dtype=torch.float64)[k]
        central = (twice(x + e, u) - twice(x - e, u)) / (2 * h)
        torch.testing.assert_close(linearization.fx[..., k], central, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        linearization.fu[..., 0], (twice(x, u + h) - twice(x, u - h)) / (2 * h), rtol=0, atol=1e-7
    )


def test_gradients_reach_the_weights(generator):
    model, rows = ready(generator), data(generator)
    model.rollout(rows.x[:3], rows.u[:12].reshape(3, 4, 1)).square().sum().backward()
    assert all(bool((p.grad.flatten(1) != 0).any(1).all()) for p in model.parameters())


def test_gradients_are_finite_where_members_agree(generator):
    """One member, or a constant dimension: uncertainty is zero there and a planner may still differentiate it."""
    rows = data(generator)
    still = TransitionData(rows.x, rows.u, torch.cat([rows.x_next[:, :1], rows.x[:, 1:]], dim=-1))
    for members in (1, 3):
        model = Ensemble(2, 1, 0.05, members=members, hidden=[8])
        model.set_statistics(still)
        x = rows.x[:4].clone().requires_grad_()
        prediction = model.predict(x, rows.u[:4])
        assert float(prediction.std.detach()[:, 1].abs().max()) == 0.0
        (prediction.std + prediction.epistemic_std).sum().backward()
        assert bool(x.grad.isfinite().all())


# Rollouts of particles


def test_particles_of_one_member_roll_out_that_member(generator):
    """Without noise each particle is its member's own rollout, in the order of the members."""
    model, rows = ready(generator), data(generator)
    x, us = rows.x[:4], rows.u[:40].reshape(4, 10, 1)
    sampled = model.sample_rollout(x, us, particles=6, generator=generator, noise=False)
    assert sampled.shape == (4, 6, 11, 2)
    for particle in range(6):
        alone = ready(generator, members=1)
        alone.load_state_dict(model.state_dict() | {k: v[[particle // 2]] for k, v in model.named_parameters()})
        torch.testing.assert_close(sampled[:, particle], alone.rollout(x, us), rtol=1e-5, atol=1e-4)


def test_fast_path_equals_the_generic_one_without_noise(generator):
    model, rows = ready(generator), data(generator)
    x, us = rows.x[0], rows.u[:24].reshape(2, 3, 4, 1)
    fast = model.sample_rollout(x, us, particles=3, generator=generator, noise=False)
    generic = StochasticDynamics.sample_rollout(model, x, us, particles=3, generator=generator, noise=False)
    assert fast.shape == generic.shape == (2, 3, 3, 5, 2)
    order = generic[..., -1, 0].argsort(dim=-1)[..., None, None].expand_as(generic)
    fast = fast.gather(2, fast[..., -1, 0].argsort(dim=-1)[..., None, None].expand_as(fast))
    torch.testing.assert_close(fast, generic.gather(2, order), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_fast_path_equals_the_generic_one_in_distribution(generator):
    model, rows = ready(generator), data(generator)
    x, us, particles = rows.x[:2], rows.u[:6].reshape(2, 3, 1), 9000
    fast = model.sample_rollout(x, us, particles=particles, generator=generator)
    generic = StochasticDynamics.sample_rollout(model, x, us, particles=particles, generator=generator)
    for k in range(1, 4):
        one, other = fast[:, :, k], generic[:, :, k]
        error = ((one.var(1) + other.var(1)) / particles).sqrt()
        assert bool(((one.mean(1) - other.mean(1)).abs() < 4 * error).all())
        for world in range(2):
            for d in range(2):
                # Kolmogorov-Smirnov distance, critical value at 1 in 10,000: 2.23 sqrt(2 / N)
                both = torch.cat([one[world, :, d], other[world, :, d]])
                steps = torch.cat([torch.ones(particles), -torch.ones(particles)])[both.argsort()].cumsum(0)
                assert float(steps.abs().max()) / particles < 2.23 * math.sqrt(2 / particles)


@torch.no_grad()
def test_first_step_has_the_predicted_moments(generator):
    model, rows = ready(generator), data(generator)
    x, us = rows.x[:1], rows.u[:1].unsqueeze(1)
    for resample in ("trajectory", "step"):
        sampled = model.sample_rollout(x, us, particles=30_000, generator=generator, resample=resample)[:, :, 1]
        prediction = model.predict(x, us[:, 0])
        assert bool(((sampled.mean(1) - prediction.mean).abs() < 4 * prediction.std / math.sqrt(30_000)).all())
        torch.testing.assert_close(sampled.std(1), prediction.std, rtol=4 / math.sqrt(60_000), atol=0)


@torch.no_grad()
def test_members_are_kept_or_drawn_anew(generator):
    """Members that move by -1 and +1: a kept member goes straight on, a new one at every step is a random walk."""
    model = Ensemble(1, 1, 0.1, members=2, hidden=[4])
    rows = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    model.set_statistics(TransitionData(torch.zeros_like(rows), torch.zeros_like(rows), rows))
    with torch.no_grad():
        for weight in model.weights:
            weight.zero_()
        model.biases[-1][:, 0, 0] = torch.tensor([-1.0, 1.0])
    x, us = torch.zeros(1, dtype=torch.float64), torch.zeros(16, 1, dtype=torch.float64)

    def end(resample, particles):
        sampled = model.sample_rollout(x, us, particles=particles, generator=generator, resample=resample, noise=False)
        return sampled[:, -1, 0]

    assert end("trajectory", 6).tolist() == [-16.0] * 3 + [16.0] * 3
    assert sorted(end("trajectory", 7).abs().tolist()) == [16.0] * 7
    walks = end("step", 4000)
    assert abs(float(walks.mean())) < 4 * 4 / math.sqrt(4000)
    assert float(walks.var()) == pytest.approx(16.0, rel=4 * math.sqrt(2 / 4000))


def test_sampling_errors(generator):
    model, rows = ready(generator), data(generator)
    with pytest.raises(ValueError, match="resample must be 'trajectory'"):
        model.sample_rollout(rows.x[0], rows.u[:2], particles=3, resample="never")
    with pytest.raises(ValueError, match="particles must be at least 1, got 0"):
        model.sample_rollout(rows.x[0], rows.u[:2], particles=0)
    with pytest.raises(ValueError, match="us must have last axis m = 1"):
        model.sample_rollout(rows.x[0], rows.x[:2], particles=3)


# What a fit learns


def test_epistemic_std_grows_away_from_the_data(generator):
    rows = data(generator)
    model = train(Ensemble(2, 1, 0.05, angles=[0], members=5, hidden=[32, 32]), rows, generator, steps=400)
    away = data(generator, spread=5.0)
    far = away.x[:, 1].abs() > 60.0  # of a rate with a standard deviation of 20
    on = model.predict(rows.x, rows.u).epistemic_std.median(0).values
    off = model.predict(away.x[far], away.u[far]).epistemic_std.median(0).values
    assert bool((off > 3 * on).all()), (on, off)
    error = (model(rows.x, rows.u).detach() - rows.x_next) / (rows.x_next - rows.x).std(0)
    assert float(error.square().mean().sqrt()) < 0.2


def test_a_turn_more_changes_nothing(generator):
    model, rows = ready(generator).double(), data(generator)
    turn = torch.tensor([6 * math.pi, 0.0], dtype=torch.float64)
    torch.testing.assert_close(model(rows.x + turn, rows.u) - turn, model(rows.x, rows.u), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        model.predict(rows.x + turn, rows.u).std, model.predict(rows.x, rows.u).std, rtol=1e-10, atol=0
    )


def test_wrapped_logs_give_the_same_fit(generator):
    rows = data(generator)

    def wrapped(x):
        return torch.stack([torch.atan2(x[:, 0].sin(), x[:, 0].cos()), x[:, 1]], dim=-1)

    jumps = (wrapped(rows.x_next) - wrapped(rows.x) - rows.x_next + rows.x)[:, 0].abs() > 1.0
    assert bool(jumps.any())
    folded = TransitionData(wrapped(rows.x), rows.u, wrapped(rows.x_next))
    models = [Ensemble(2, 1, 0.05, angles=[0], members=2, hidden=[16]).double() for _ in range(2)]
    for model, logged in zip(models, (rows, folded), strict=True):
        train(model, logged, torch.Generator().manual_seed(1), steps=100)
    one, other = (model.predict(rows.x, rows.u) for model in models)
    torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(one.std, other.std, rtol=1e-8, atol=0)


def test_constant_columns_survive(generator):
    rows = data(generator)
    column = torch.full((300, 1), 7.0, dtype=torch.float64)
    x, x_next = torch.cat([rows.x, column], -1), torch.cat([rows.x_next, column + 0.25], -1)
    u = torch.cat([rows.u, 0 * column], dim=-1)
    model = train(Ensemble(3, 2, 0.05, angles=[0], members=2, hidden=[32]), TransitionData(x, u, x_next), generator)
    prediction = model.predict(x, u)
    assert all(bool(value.isfinite().all()) for value in vars(prediction).values())
    assert torch.equal(prediction.mean[:, 2], x_next[:, 2])
    assert float(prediction.std.detach()[:, 2].max()) == 0.0
    sampled = model.sample_rollout(x[:5], u[:5, None].expand(5, 8, 2), particles=4, generator=generator)
    assert torch.equal(sampled[..., -1, 2], torch.full((5, 4), 9.0, dtype=torch.float64))
    assert float(sampled.detach()[..., 1].std()) > 0.0


def test_small_units_are_not_constant(generator):
    rows = data(generator)
    small = TransitionData(1e-11 * rows.x, 1e-11 * rows.u, 1e-11 * rows.x_next)
    one, other = (Ensemble(2, 1, 0.05, members=2, hidden=[16]).double() for _ in range(2))
    one.set_statistics(rows)
    other.set_statistics(small)
    torch.testing.assert_close(1e11 * other(small.x, small.u), one(rows.x, rows.u), rtol=1e-9, atol=1e-9)


def test_steps_are_bounded_by_the_logged_ones(generator):
    """The logged change of a dimension, widened by half of its range on both sides, and nothing beyond."""
    rows = TransitionData(
        torch.zeros(3, 2, dtype=torch.float64),
        torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64),
        torch.tensor([[-1.0, 0.0], [0.0, 10.0], [3.0, 20.0]], dtype=torch.float64),
    )
    model = Ensemble(2, 1, 0.1, members=2, hidden=[4])
    model.set_statistics(rows)
    with torch.no_grad():
        for bias, expected in ((1e6, [5.0, 30.0]), (-1e6, [-3.0, -10.0])):
            model.biases[-1][..., :2] = bias
            x, u = torch.full((5, 2), 100.0, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64)
            assert torch.equal(model(x, u) - x, torch.tensor(expected, dtype=torch.float64).expand(5, 2))
            rollout = model.rollout(x, u.unsqueeze(1).expand(5, 20, 1))
            assert torch.equal(rollout[:, -1] - x, 20 * torch.tensor(expected, dtype=torch.float64).expand(5, 2))


def test_outside_the_log(generator):
    model = ready(generator)
    rows = TransitionData(
        torch.tensor([[0.0, -1.0], [3.0, 1.0]], dtype=torch.float64),
        torch.tensor([[0.0], [10.0]], dtype=torch.float64),
        torch.zeros(2, 2, dtype=torch.float64),
    )
    model.set_statistics(rows)
    x = torch.tensor([[50.0, 0.0], [0.0, 1.19], [0.0, 1.21], [0.0, -1.21], [0.0, 0.0], [0.0, math.nan]])
    u = torch.tensor([[5.0], [10.9], [5.0], [5.0], [11.1], [5.0]])
    assert model.outside_log(x, u).tolist() == [False, False, True, True, True, True]
    assert model.outside_log(x, u, margin=0.2).tolist() == [False, False, False, False, False, True]


def test_statistics(generator):
    model, rows = Ensemble(2, 1, 0.05, angles=[1], hidden=[4]), data(generator, 50)
    assert not model.is_fitted
    model.set_statistics(rows)
    assert model.is_fitted
    assert int(model.num_transitions) == 50
    raw = torch.stack([rows.x[:, 0], rows.x[:, 1].sin(), rows.x[:, 1].cos(), rows.u[:, 0]], dim=-1)
    torch.testing.assert_close(model.input_mean, raw.mean(0))
    torch.testing.assert_close(model.input_scale, raw.std(0, correction=0))
    features, targets = model.features(rows.x, rows.u), model.targets(rows.x, rows.x_next)
    for values in (features, targets):
        torch.testing.assert_close(values.mean(0), torch.zeros_like(values[0]), rtol=0, atol=1e-12)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones_like(values[0]))
    assert bool((model.change(rows.x, rows.x_next)[:, 1].abs() <= math.pi).all())
    torch.testing.assert_close(
        torch.remainder(model.next_state(rows.x, targets) - rows.x_next, 2 * math.pi)[:, 1].sin(),
        torch.zeros(50, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


# Making one


@torch.no_grad()
def test_a_network_is_an_ensemble_of_one(generator):
    network, ensemble = MLP(2, 1, 0.05, hidden=[8], seed=3), Ensemble(2, 1, 0.05, members=1, hidden=[8], seed=3)
    assert type(network) is Ensemble
    assert network.config() == ensemble.config()
    rows = data(generator)
    for model in (network, ensemble):
        model.set_statistics(rows)
    prediction = network.predict(rows.x, rows.u)
    assert torch.equal(prediction.mean, ensemble(rows.x, rows.u))
    assert float(prediction.epistemic_std.abs().max()) == 0.0


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = Ensemble(2, 1, 0.05, seed=5)
    torch.manual_seed(2)
    same, other = Ensemble(2, 1, 0.05, seed=5), Ensemble(2, 1, 0.05, seed=6)
    for a, b, c in zip(one.weights, same.weights, other.weights, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert not torch.equal(a[0], a[1])
        limit = 1.0 / math.sqrt(a.shape[1])  # two standard deviations of 1 / (2 sqrt(fan_in))
        assert float(a.detach().abs().max()) <= limit
        assert float(a.detach().std()) == pytest.approx(0.88 * limit / 2, rel=0.15)  # of the truncated normal


def test_made_for_trajectories():
    names = {"observations": ["x", "theta", "speed"], "controls": ["force"]}
    trajectory = Trajectory([[0.0] * 3] * 4, [[0.0]] * 3, dt=0.02, names=names)
    empty = Trajectory([[0.0] * 3], np.zeros((0, 1)), dt=1.0, names=names)
    model = Ensemble.for_trajectories([empty, trajectory], angles=["theta"], members=2, hidden=[3])
    assert (model.state_dim, model.control_dim, model.dt, model.angles) == (3, 1, 0.02, (1,))
    assert (model.state_names, model.control_names) == (("x", "theta", "speed"), ("force",))
    assert (model.num_members, model.hidden) == (2, (3,))
    assert Ensemble.for_trajectories([trajectory], angles=[2, "x"]).angles == (2, 0)
    with pytest.raises(ValueError, match=r"sequence of columns, got 'theta'; write angles=\['theta'\]"):
        Ensemble.for_trajectories([trajectory], angles="theta")
    with pytest.raises(ValueError, match="no column is called 'phi'; the observations are x, theta, speed"):
        Ensemble.for_trajectories([trajectory], angles=["phi"])
    with pytest.raises(ValueError, match="none of the 2 trajectories has a step, so dt is unknown"):
        Ensemble.for_trajectories([empty, empty])
    full = trajectory.replace(states=[[0.0] * 2] * 4)
    assert Ensemble.for_trajectories([full]).state_names == ("x0", "x1")


def test_errors():
    with pytest.raises(ValueError, match="at least one member and positive widths, got members=0"):
        Ensemble(2, 1, 0.1, members=0)
    with pytest.raises(ValueError, match=r"positive widths, got members=5, hidden=\[8, 0\]"):
        Ensemble(2, 1, 0.1, hidden=[8, 0])
    model = Ensemble(2, 1, 0.1)
    x, u = torch.zeros(2), torch.zeros(1)
    for call in (
        lambda: model(x, u),
        lambda: model.rollout(x, u.unsqueeze(0)),
        lambda: model.sample_rollout(x, u.unsqueeze(0), particles=5),
        lambda: model.sample_rollout(x, u.unsqueeze(0), particles=4),
    ):
        with pytest.raises(
            RuntimeError, match=r"this Ensemble has not been fitted; call fit\(model, trajectories\) or"
        ):
            call()
