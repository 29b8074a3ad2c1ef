"""The ridge model against closed forms, refits and the coverage that it promises."""

import math

import numpy as np
import pytest
import torch

from dynamics import LinearModel
from dynamics.learned.base import TransitionData

A = torch.tensor([[0.9, 0.2, 0.0], [-0.1, 0.8, 0.1], [0.0, 0.3, 1.0]], dtype=torch.float64)
B = torch.tensor([[0.1, 0.0], [0.5, -0.3], [0.2, 0.4]], dtype=torch.float64)
OFFSET = torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64)


def linear_data(generator, size, noise=0.0):
    """Steps of x' = A x + B u + offset + noise from spread-out states of very different magnitudes."""
    x = torch.randn(size, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1]) + 5.0
    u = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    w = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    return TransitionData(x, u, x @ A.mT + u @ B.mT + OFFSET + noise * w)


def solved(data, **options):
    model = LinearModel(data.x.shape[1], data.u.shape[1], 0.1, **options)
    model.solve(data)
    return model


def test_equals_ridge_in_numpy(generator):
    data = linear_data(generator, 40, noise=0.5)
    z, y = np.hstack([data.x, data.u]), (data.x_next - data.x).numpy()
    z_mean, z_std, y_mean, y_std = z.mean(0), z.std(0), y.mean(0), y.std(0)
    phi = np.hstack([(z - z_mean) / z_std, np.ones((40, 1))])
    # ridge is least squares with sqrt(lambda) more rows of zeros
    rows = np.vstack([phi, math.sqrt(7.0) * np.eye(6)])
    W, *_ = np.linalg.lstsq(rows, np.vstack([(y - y_mean) / y_std, np.zeros((6, 3))]), rcond=None)
    residual = (y - y_mean) / y_std - phi @ W
    sigma = y_std * np.sqrt((residual**2).sum(0) / (40 - 6))

    test = linear_data(generator, 5)
    query = np.hstack([(np.hstack([test.x, test.u]) - z_mean) / z_std, np.ones((5, 1))])
    leverage = np.sqrt(np.einsum("ij,jk,ik->i", query, np.linalg.inv(rows.T @ rows), query))
    prediction = solved(data, regularization=7.0).predict(test.x, test.u)
    np.testing.assert_allclose(prediction.mean, test.x.numpy() + y_mean + y_std * (query @ W), rtol=1e-10)
    np.testing.assert_allclose(prediction.aleatoric_std, np.tile(sigma, (5, 1)), rtol=1e-10)
    np.testing.assert_allclose(prediction.epistemic_std, leverage[:, None] * sigma, rtol=1e-10)
    np.testing.assert_allclose(prediction.std**2, (1 + leverage[:, None] ** 2) * sigma**2, rtol=1e-10)


def test_recovers_a_linear_system_without_noise(generator):
    model = solved(linear_data(generator, 50), regularization=1e-9)
    test = linear_data(generator, 20)
    torch.testing.assert_close(model(test.x, test.u), test.x_next, rtol=0, atol=1e-8)
    linearization = model.linearize(test.x, test.u)
    torch.testing.assert_close(linearization.fx, A.expand(20, 3, 3), rtol=0, atol=1e-8)
    torch.testing.assert_close(linearization.fu, B.expand(20, 3, 2), rtol=0, atol=1e-8)
    torch.testing.assert_close(linearization.hx, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    assert float(model.predict(test.x, test.u).std.max()) < 1e-8


def test_epistemic_std_is_the_spread_of_refits(generator):
    """Over data sets with the same inputs and fresh noise, predictions vary by the epistemic part."""
    x, u = (torch.randn(30, k, generator=generator, dtype=torch.float64) for k in (3, 2))
    query_x, query_u = (torch.randn(4, k, generator=generator, dtype=torch.float64) for k in (3, 2))
    refits, claimed = [], []
    for _ in range(1000):
        w = torch.randn(30, 3, generator=generator, dtype=torch.float64)
        model = solved(TransitionData(x, u, x @ A.mT + u @ B.mT + 0.2 * w))
        prediction = model.predict(query_x, query_u)
        refits.append(prediction.mean)
        claimed.append(prediction.epistemic_std.square())
    spread, claimed = torch.stack(refits).std(0), torch.stack(claimed).mean(0).sqrt()
    # standard error of a standard deviation from 1000 samples: 1 / sqrt(2000) = 2.2 %
    torch.testing.assert_close(claimed, spread, rtol=4 / math.sqrt(2000), atol=0)


def test_aleatoric_std_is_unbiased_for_few_steps(generator):
    estimates = []
    for _ in range(1000):
        data = linear_data(generator, 12, noise=0.3)
        estimates.append(solved(data).predict(data.x[0], data.u[0]).aleatoric_std.square())
    mean = torch.stack(estimates).mean(0)
    error = 0.09 * math.sqrt(2 / 6 / 1000)  # chi square with 12 - 6 degrees of freedom
    torch.testing.assert_close(mean, torch.full_like(mean, 0.09), rtol=0, atol=4 * error)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_intervals_cover_as_promised(level, generator):
    model = solved(linear_data(generator, 2000, noise=0.3))
    test = linear_data(generator, 5000, noise=0.3)
    prediction = model.predict(test.x, test.u)
    z = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.5 + 0.5 * level, dtype=torch.float64))
    inside = ((test.x_next - prediction.mean).abs() <= z * prediction.std).double().mean()
    error = math.sqrt(level * (1 - level) / (3 * 5000))
    assert abs(float(inside) - level) < 3 * error + 1 / 2000  # noise level and weights are estimates


def test_angles_enter_as_sine_and_cosine(generator):
    """A frictionless pendulum's acceleration is linear in sin(theta); one turn teaches all turns."""
    theta = 2 * torch.pi * torch.rand(200, generator=generator, dtype=torch.float64)
    rate, u = torch.randn(2, 200, generator=generator, dtype=torch.float64)

    def step(theta, rate, u):
        return torch.stack([theta + 0.1 * rate, rate - torch.sin(theta) + 0.5 * torch.cos(theta) + u], dim=-1)

    data = TransitionData(torch.stack([theta, rate], -1), u[:, None], step(theta, rate, u))
    model = solved(data, angles=[0], regularization=1e-9)
    moved = theta + 40 * torch.pi
    actual = model(torch.stack([moved, rate], dim=-1), u[:, None])
    torch.testing.assert_close(actual, step(moved, rate, u), rtol=0, atol=1e-8)


def test_wrapped_logs_give_the_same_model(generator):
    x = torch.randn(100, 2, generator=generator, dtype=torch.float64) * torch.tensor([4.0, 1.0])
    u = torch.randn(100, 1, generator=generator, dtype=torch.float64)
    x_next = x + 0.3 * torch.randn(100, 2, generator=generator, dtype=torch.float64)

    def wrapped(x):
        return torch.stack([torch.remainder(x[:, 0] + torch.pi, 2 * torch.pi) - torch.pi, x[:, 1]], dim=-1)

    assert not torch.equal(wrapped(x_next) - wrapped(x), x_next - x)
    one = solved(TransitionData(x, u, x_next), angles=[0]).predict(x, u)
    other = solved(TransitionData(wrapped(x), u, wrapped(x_next)), angles=[0]).predict(x, u)
    torch.testing.assert_close(other.mean, one.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(other.std, one.std, rtol=0, atol=1e-12)


def test_constant_columns_survive(generator):
    data = linear_data(generator, 60)
    x = torch.cat([data.x, torch.full((60, 1), 1e6, dtype=torch.float64)], dim=-1)
    drift = torch.full((60, 1), 1e6 + 0.5, dtype=torch.float64)
    u = torch.cat([data.u, torch.zeros(60, 1, dtype=torch.float64)], dim=-1)
    model = solved(TransitionData(x, u, torch.cat([data.x_next, drift], dim=-1)), regularization=1e-9)
    prediction = model.predict(x, u)
    torch.testing.assert_close(prediction.mean[:, :3], data.x_next, rtol=0, atol=1e-7)
    assert torch.equal(prediction.mean[:, 3:], drift)
    assert float(prediction.std[:, 3].max()) == 0.0
    assert model.changes.tolist() == [True, True, True, False]
    unseen = model.predict(x, u + 1.0)
    assert bool((unseen.epistemic_std[:, :3] > 100 * prediction.epistemic_std[:, :3]).all())


def test_more_uncertain_away_from_the_data(generator):
    data = linear_data(generator, 100, noise=0.1)
    model = solved(data)
    center, far = data.x.mean(0), data.x.mean(0) + 10 * data.x.std(0)
    u = torch.zeros(2, dtype=torch.float64)
    near_std, far_std = model.predict(center, u).epistemic_std, model.predict(far, u).epistemic_std
    assert bool((far_std > 5 * near_std).all())


def test_single_precision_in_single_precision_out(generator):
    data = linear_data(generator, 200, noise=0.1)
    model = solved(data)
    prediction = model.predict(data.x.float(), data.u.float())
    assert prediction.mean.dtype == prediction.aleatoric_std.dtype == prediction.epistemic_std.dtype == torch.float32
    exact = model.predict(data.x, data.u)
    torch.testing.assert_close(prediction.mean.double(), exact.mean, rtol=0, atol=2e-4)
    torch.testing.assert_close(prediction.std.double(), exact.std, rtol=1e-4, atol=0)


def test_a_single_transition_is_repeated():
    x, u, x_next = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]), torch.tensor([[1.5, 1.0]])
    model = solved(TransitionData(x.double(), u.double(), x_next.double()))
    expected = torch.tensor([[10.5, 9.0]], dtype=torch.float64)
    torch.testing.assert_close(model(torch.full((1, 2), 10.0, dtype=torch.float64), u.double()), expected)


def test_sampled_rollouts_have_the_noise(generator):
    data = linear_data(generator, 4000, noise=0.3)
    model = solved(data)
    x, us = data.x[0], data.u[:1]
    sampled = model.sample_rollout(x, us, particles=20000, generator=generator)[:, 1]
    prediction = model.predict(x, us[0])
    torch.testing.assert_close(sampled.mean(0), prediction.mean, rtol=0, atol=4 * 0.3 / math.sqrt(20000))
    torch.testing.assert_close(sampled.std(0), prediction.std, rtol=4 / math.sqrt(40000), atol=0)


def test_errors():
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="regularization must be positive"):
            LinearModel(2, 1, 0.1, regularization=value)
    model = LinearModel(2, 1, 0.1)
    for call in (model, model.predict):
        with pytest.raises(
            RuntimeError, match=r"this LinearModel has not been fitted; call fit\(model, trajectories\)"
        ):
            call(torch.zeros(2), torch.zeros(1))
    huge = torch.tensor([[1e300, 0.0], [-1e300, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="not finite; look for outliers"):
        model.solve(TransitionData(huge, huge[:, :1], huge.flip(0)))
    assert not model.is_fitted
