"""Errors by hand, persistence in theory, and intervals of a model that is exactly right."""

import json
import math

import numpy as np
import pytest
import torch

from dynamics import (
    Dynamics,
    Ensemble,
    LinearModel,
    Prediction,
    StochasticDynamics,
    Trajectory,
    evaluate_predictions,
    evaluation_windows,
)
from dynamics import evaluation as evaluation_module
from dynamics.evaluation import persistence_errors
from dynamics.learned.base import TransitionData


class Known(StochasticDynamics):
    """x' = a x + u + noise, an exactly known autoregressive process."""

    def __init__(self, a=0.9, sigma=0.3, claimed=None, dim=1):
        super().__init__(dim, dim, 0.1)
        self.a, self.sigma, self.claimed = a, sigma, sigma if claimed is None else claimed

    def predict(self, x, u, t=None):
        std = torch.full_like(x, self.claimed)
        return Prediction(self.a * x + u, std, torch.zeros_like(x))


class Constant(Dynamics):
    """Goes to one value at once."""

    def __init__(self, value, dim=1):
        super().__init__(dim, 1, 0.1)
        self.value = value

    def forward(self, x, u, t=None):
        return torch.full_like(x, self.value)


def recorded(model, generator, num=10, steps=40):
    """Trajectories of a process, with its noise."""
    n = model.state_dim
    x0 = torch.randn(num, n, generator=generator, dtype=torch.float64)
    us = torch.randn(num, steps, n, generator=generator, dtype=torch.float64)
    noisy = Known(model.a, model.sigma, dim=n)
    xs = noisy.sample_rollout(x0, us, particles=1, generator=generator)[:, 0]
    return [Trajectory(x.numpy(), u.numpy(), dt=0.1) for x, u in zip(xs, us, strict=True)]


def observed(values):
    """A one-dimensional trajectory of given values, with controls of zero."""
    values = np.asarray(values, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    return Trajectory(values, np.zeros((len(values) - 1, 1)), dt=0.1)


def test_errors_by_hand(generator):
    model = Known(a=0.5, dim=2)
    logs = recorded(model, generator, num=3, steps=7)
    logs.append(recorded(model, generator, num=1, steps=3)[0])  # too short for a window, but part of the scale
    horizons = (1, 2, 5)
    errors = evaluate_predictions(model, evaluation_windows(logs, horizons))
    scale = np.concatenate([log.observations for log in logs]).std(0)
    found = {k: [] for k in horizons}
    for log in logs[:3]:
        for start in range(7 - 5 + 1):
            x = log.observations[start]
            for k in range(1, 6):
                x = 0.5 * x + log.controls[start + k - 1]
                if k in horizons:
                    found[k].append((x - log.observations[start + k]) / scale)
    for i, k in enumerate(horizons):
        squared = np.square(found[k])
        assert squared.shape == (9, 2)
        assert errors.rmse[i] == pytest.approx(math.sqrt(squared.mean()), rel=1e-12)
        assert errors.median[i] == pytest.approx(float(np.median(np.sqrt(squared.mean(1)))), rel=1e-12)
        np.testing.assert_allclose(errors.per_dimension[i], np.sqrt(squared.mean(0)), rtol=1e-12)
    assert errors.diverged.tolist() == [0.0, 0.0, 0.0]
    assert errors.outside is None


def test_persistence_of_decorrelated_states(generator):
    """The difference of two independent states has sqrt(2) times their standard deviation."""
    scale = torch.tensor([1e-3, 7.0], dtype=torch.float64)
    values = torch.randn(10_001, 2, generator=generator, dtype=torch.float64) * scale + 100.0
    held_out = evaluation_windows([observed(values.numpy())], [1, 3], most=100_000)
    assert len(held_out.xs) == 9_998
    errors = persistence_errors(held_out)
    standard_error = math.sqrt(2) / math.sqrt(2 * 9_998)
    np.testing.assert_allclose(errors.per_dimension, math.sqrt(2), rtol=0, atol=5 * standard_error)
    still = persistence_errors(evaluation_windows([observed(np.linspace(0, 5, 6))], [1, 2]))
    np.testing.assert_allclose(still.rmse, np.array([1.0, 2.0]) / np.linspace(0, 5, 6).std(), rtol=1e-12)
    assert still.coverage is still.outside is None


def test_angles_compare_on_the_circle():
    """Swinging by 0.1 about pi, logged wrapped, unwrapped or turns away: errors and scale are the same."""
    swing = math.pi + 0.1 * np.array([1.0, -1.0] * 10)
    for logged in (swing, np.remainder(swing + math.pi, 2 * math.pi) - math.pi, swing + 12 * math.pi):
        held_out = evaluation_windows([observed(logged)], [1, 2], angles=[0])
        assert float(held_out.scale) == pytest.approx(0.1, rel=1e-9)
        for value in (math.pi, -math.pi, 5 * math.pi):
            errors = evaluate_predictions(Constant(value), held_out)
            np.testing.assert_allclose(errors.rmse, [1.0, 1.0], rtol=1e-9)
        np.testing.assert_allclose(persistence_errors(held_out).rmse, [2.0, 0.0], rtol=1e-9, atol=1e-9)
    straight = evaluation_windows([observed(np.remainder(swing + math.pi, 2 * math.pi) - math.pi)], [1])
    assert float(straight.scale) == pytest.approx(math.pi - 0.1, rel=1e-9)


def test_a_constant_column_has_scale_one():
    values = np.stack([np.arange(5.0), np.full(5, 3.0)], axis=1)
    held_out = evaluation_windows([observed(values)], [1])
    np.testing.assert_allclose(held_out.scale, [np.arange(5.0).std(), 1.0])


def test_windows_are_bounded_and_spread():
    logs = [observed(100.0 * i + np.arange(6.0)) for i in range(40)]
    starts = evaluation_windows(logs, [5], most=10).xs[:, 0, 0]
    assert starts.tolist() == [100.0 * i for i in (0, 4, 8, 13, 17, 21, 26, 30, 34, 39)]
    long = evaluation_windows([observed(np.arange(1006.0))], [1, 5], most=100)
    assert len(long.xs) == 100
    assert torch.equal(long.xs[:, 0, 0], (long.xs[:, 0, 0] / 10).floor() * 10)
    assert float(long.xs[-1, 0, 0]) == 1000.0
    assert (long.horizons, long.truth.shape) == ((1, 5), (100, 2, 1))
    few = evaluation_windows([observed(np.arange(8.0))], [5, 1, 5, 50], most=100)
    assert few.horizons == (1, 5)
    assert few.xs[:, 0, 0].tolist() == [0.0, 1.0, 2.0]


def test_windows_that_cannot_be():
    with pytest.raises(ValueError, match=r"no horizon of \(5,\) fits a held-out trajectory, the longest has 4 steps"):
        evaluation_windows([observed(np.arange(5.0))], [5])
    with pytest.raises(ValueError, match=r"horizons are numbers of steps, at least 1, got \(-1, 2\)"):
        evaluation_windows([observed(np.arange(5.0))], [-1, 2])
    with pytest.raises(ValueError, match="the collection is empty"):
        evaluation_windows([], [1])


def test_states_or_observations():
    log = observed(np.arange(5.0)).replace(states=np.arange(10.0).reshape(5, 2) ** 2)
    assert evaluation_windows([log], [1]).xs.shape == (4, 2, 2)
    chosen = evaluation_windows([log], [1], use="observations")
    assert chosen.xs.shape == (4, 2, 1)
    assert float(chosen.scale) == pytest.approx(np.arange(5.0).std())


@pytest.mark.parametrize("particles", [100, 39])
def test_coverage_of_the_true_process(particles, generator):
    """Intervals of a model that is right contain as many values as they say, at every horizon."""
    model = Known()
    logs = recorded(model, generator, num=1500, steps=5)
    held_out = evaluation_windows(logs, [1, 5], most=10_000)
    assert len(held_out.xs) == 1500  # one of each trajectory: independent
    errors = evaluate_predictions(model, held_out, particles=particles, generator=generator)
    for i, level in enumerate((0.5, 0.9, 0.95)):
        np.testing.assert_allclose(errors.coverage[i], level, rtol=0, atol=3 * math.sqrt(level * (1 - level) / 1500))
    np.testing.assert_allclose(errors.coverage, errors.coverage_per_dimension.mean(-1))
    # the error of the mean is the standard deviation of the process over k steps
    variance = 0.09 * np.array([1.0, sum(0.81**k for k in range(5))])
    np.testing.assert_allclose(errors.rmse * float(held_out.scale), np.sqrt(variance), rtol=3 / math.sqrt(2 * 1500))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_coverage_of_a_wrong_noise_level(factor, generator):
    """A normal interval that is stretched by a factor covers erf(factor z / sqrt(2))."""
    logs = recorded(Known(), generator, num=1500, steps=1)
    model = Known(claimed=0.3 * factor)
    errors = evaluate_predictions(model, evaluation_windows(logs, [1], most=10_000), particles=1999, levels=(0.5, 0.9))
    for coverage, z in zip(errors.coverage[:, 0], (0.67449, 1.64485), strict=True):
        expected = math.erf(factor * z / math.sqrt(2))
        assert abs(coverage - expected) < 3 * math.sqrt(expected * (1 - expected) / 1500) + 0.005


def test_coverage_does_not_depend_on_chunks(generator, monkeypatch):
    """Without noise there is nothing random, and the chunks must fit together in order."""
    logs = recorded(Known(sigma=0.0), generator, num=3)
    held_out = evaluation_windows(logs, [1, 5])
    monkeypatch.setattr(evaluation_module, "CHUNK", 7)
    assert len(held_out.xs) > 14
    for model, expected in ((Known(sigma=0.0), 1.0), (Known(a=0.8, sigma=0.0), 0.0)):
        errors = evaluate_predictions(model, held_out, particles=4)
        np.testing.assert_array_equal(errors.coverage, np.full((3, 2), expected))


def test_intervals_of_angles_lie_on_the_circle():
    held_out = evaluation_windows([observed(math.pi - 0.01 + 0.02 * (np.arange(400) % 2))], [1], angles=[0])
    truth = held_out.truth
    held_out.xs[:, 1] -= 2 * math.pi  # the same angle
    samples = truth.expand(50, -1, -1, -1) + 0.1 * torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None, None, None]
    assert bool(evaluation_module._inside(held_out, samples, (0.5,)).all())


def test_diverged_windows_are_counted_and_left_out():
    class DivergesAboveTen(Dynamics):
        def __init__(self):
            super().__init__(1, 1, 0.1)

        def forward(self, x, u, t=None):
            return torch.where(x > 10, math.nan, x + 1)

    held_out = evaluation_windows([observed(np.arange(21.0))], [1, 2])
    errors = evaluate_predictions(DivergesAboveTen(), held_out)
    starts = held_out.xs[:, 0, 0]
    assert errors.diverged.tolist() == [float((starts > 10).double().mean()), float((starts > 9).double().mean())]
    np.testing.assert_allclose(errors.rmse, 0.0, atol=1e-12)
    json.dumps(errors.to_dict(), allow_nan=False)


def some_data():
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    return TransitionData(x, torch.cos(x), torch.sin(3 * x))


def nan_models():
    data = some_data()
    linear, ensemble = LinearModel(1, 1, 0.1), Ensemble(1, 1, 0.1, members=2, hidden=[4])
    linear.solve(data)
    linear.weights.fill_(math.nan)
    ensemble.set_statistics(data)
    with torch.no_grad():
        ensemble.biases[0].fill_(math.nan)
    return [linear, ensemble, Constant(math.nan), Constant(math.inf)]


@pytest.mark.parametrize("model", nan_models(), ids=lambda model: type(model).__name__)
def test_a_model_of_nan_has_diverged_everywhere(model):
    errors = evaluate_predictions(model, evaluation_windows([observed(np.arange(21.0))], [1, 3]))
    assert errors.diverged.tolist() == [1.0, 1.0]
    assert np.isnan(errors.rmse).all()
    assert np.isnan(errors.median).all()
    restored = json.loads(json.dumps(errors.to_dict(), allow_nan=False))
    assert restored["median"] == [None, None]
    assert restored["diverged"] == [1.0, 1.0]
    if errors.coverage is not None:
        assert (errors.coverage == 0.0).all()
        assert errors.outside.tolist() == [1.0, 1.0]


def test_share_outside_the_log():
    """A drift of 1 per step from 0..19 leaves the logged range 0..10, with its tolerance of 1, after a while for good."""
    x = torch.arange(11.0, dtype=torch.float64)[:, None]
    model = LinearModel(1, 1, 0.1)
    model.solve(TransitionData(x, 0 * x, x + 1))
    held_out = evaluation_windows([observed(np.arange(23.0))], [1, 3])
    starts = held_out.xs[:, 0, 0]
    errors = evaluate_predictions(model, held_out)
    assert errors.outside.tolist() == [float((starts + k > 11).double().mean()) for k in (1, 3)]
    assert errors.outside[0] < errors.outside[1] < 1.0
    held_out.us[0, 0] = (
        1.0  # the model has seen no control but zero: outside at the first step, and counted from there on
    )
    np.testing.assert_allclose(evaluate_predictions(model, held_out).outside, errors.outside + 1 / len(starts))


def test_particles_are_a_multiple_of_the_members():
    seen = []

    class Spy(Ensemble):
        def sample_rollout(self, *args, particles, **options):
            seen.append(particles)
            return super().sample_rollout(*args, particles=particles, **options)

    model = Spy(1, 1, 0.1, members=3, hidden=[4])
    model.set_statistics(some_data())
    evaluate_predictions(model, evaluation_windows([observed(np.arange(5.0))], [1]), particles=100)
    assert seen == [102]
