"""Kalman filters against textbook recursions, dense joint Gaussians, the Riccati equation and the statistics they promise."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are
from scipy.stats import chi2, multivariate_normal
from torch import Tensor

from dynamics import (
    CartPole,
    Dynamics,
    Ensemble,
    ExtendedKalmanFilter,
    GaussianBelief,
    GaussianFilter,
    LinearDynamics,
    MujocoDynamics,
    Pendulum,
    RandomizedWorlds,
    TorchDynamics,
    UnscentedKalmanFilter,
)
from dynamics.learned.base import TransitionData

KINDS = {
    "extended": ExtendedKalmanFilter,
    "unscented": UnscentedKalmanFilter,
    "unscented, near": lambda *a, **k: UnscentedKalmanFilter(*a, alpha=0.3, beta=2.0, kappa=1.0, **k),
}
every_filter = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def f64(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype)


def randn(generator, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=generator, dtype=dtype)


def covariance(generator, d, *batch):
    root = randn(generator, *batch, d, d)
    return root @ root.mT + 0.1 * torch.eye(d, dtype=torch.float64)


class Linear:
    """A random stable time-varying linear system and what it was observed to do."""

    def __init__(self, generator, T=6, n=3, m=2, p=2):
        self.A = 0.5 * randn(generator, T, n, n)
        self.B, self.b, self.C = randn(generator, T, n, m), randn(generator, T, n), randn(generator, p, n)
        self.Q, self.R = covariance(generator, n), covariance(generator, p)
        self.mean, self.P = randn(generator, n), covariance(generator, n)
        self.us, self.ys = randn(generator, T, m), randn(generator, T + 1, p)
        self.dynamics = LinearDynamics(self.A, self.B, self.b)

    def filter(self, kind, **options):
        return kind(self.dynamics, self.Q, self.R, observation=lambda x: x @ self.C.mT, **options)

    def prior(self, kalman):
        return kalman.init(self.mean, self.P)


def textbook(s, ys=None):
    """Kalman (1960) in numpy with matrix inverses; an observation of None is skipped. Means, covariances, log densities."""
    A, B, b, C, Q, R = (v.numpy() for v in (s.A, s.B, s.b, s.C, s.Q, s.R))
    m, P, found = s.mean.numpy(), s.P.numpy(), []
    for k, y in enumerate(s.ys.numpy() if ys is None else ys):
        if k:
            m = A[k - 1] @ m + B[k - 1] @ s.us.numpy()[k - 1] + b[k - 1]
            P = A[k - 1] @ P @ A[k - 1].T + Q
        density = 0.0
        if y is not None:
            S = C @ P @ C.T + R
            density = multivariate_normal.logpdf(y, C @ m, S)
            K = P @ C.T @ np.linalg.inv(S)
            m, P = m + K @ (y - C @ m), (np.eye(len(m)) - K @ C) @ P
        found.append((m, P, density))
    return [np.array(values) for values in zip(*found, strict=True)]


def joint_gaussian(s):
    """Mean and covariance of all states and all observations of a linear system, stacked: no recursion over beliefs."""
    T, n = s.us.shape[0], s.A.shape[-1]
    mean, noise = [s.mean.numpy()], [s.P.numpy()]
    rows = [np.concatenate([np.eye(n)] + T * [np.zeros((n, n))], axis=1)]
    for k in range(T):
        A = s.A[k].numpy()
        mean.append(A @ mean[-1] + (s.B[k] @ s.us[k] + s.b[k]).numpy())
        row = A @ rows[-1]
        row[:, (k + 1) * n : (k + 2) * n] += np.eye(n)
        rows.append(row)
        noise.append(s.Q.numpy())
    M, W = np.concatenate(rows), np.zeros(((T + 1) * n, (T + 1) * n))
    for k, block in enumerate(noise):
        W[k * n : (k + 1) * n, k * n : (k + 1) * n] = block
    X, H = M @ W @ M.T, np.kron(np.eye(T + 1), s.C.numpy())
    return np.concatenate(mean), X, H, H @ X @ H.T + np.kron(np.eye(T + 1), s.R.numpy())


@every_filter
def test_on_a_linear_system_it_is_the_kalman_filter(kind, generator):
    s = Linear(generator)
    kalman = s.filter(kind)
    found = kalman.filter(s.prior(kalman), s.ys, s.us)
    means, covariances, densities = textbook(s)
    np.testing.assert_allclose(found.means, means, atol=1e-12, rtol=0)
    np.testing.assert_allclose(found.covariances, covariances, atol=1e-12, rtol=0)
    np.testing.assert_allclose(found.innovations.log_likelihood, densities, atol=1e-11, rtol=1e-11)
    assert found.belief(-1).step == 6


@every_filter
def test_likelihood_and_smoother_are_those_of_the_joint_gaussian(kind, generator):
    s = Linear(generator)
    kalman = s.filter(kind)
    filtered = kalman.filter(s.prior(kalman), s.ys, s.us)
    mean, X, H, S = joint_gaussian(s)
    y = s.ys.numpy().reshape(-1)
    error = y - H @ mean
    expected = -0.5 * (error @ np.linalg.solve(S, error) + np.linalg.slogdet(2 * math.pi * S)[1])
    assert float(filtered.log_likelihood) == pytest.approx(expected, rel=1e-11)
    gain = X @ H.T @ np.linalg.inv(S)
    posterior, P = mean + gain @ (y - H @ mean), X - gain @ H @ X
    smoothed = kalman.smooth(filtered)
    np.testing.assert_allclose(smoothed.means.reshape(-1), posterior, atol=1e-10, rtol=1e-11)
    for k in range(7):
        block = slice(3 * k, 3 * k + 3)
        np.testing.assert_allclose(smoothed.covariances[k], P[block, block], atol=1e-10, rtol=1e-11)
        if k < 6:
            cross = smoothed.gains[k] @ smoothed.covariances[k + 1]
            np.testing.assert_allclose(cross, P[block, 3 * k + 3 : 3 * k + 6], atol=1e-10, rtol=1e-11)
    torch.testing.assert_close(smoothed.stds**2, smoothed.covariances.diagonal(dim1=-2, dim2=-1))


@every_filter
def test_the_steady_state_solves_the_riccati_equation(kind, generator):
    A, C, Q, R = (
        0.6 * randn(generator, 3, 3),
        randn(generator, 2, 3),
        covariance(generator, 3),
        covariance(generator, 2),
    )
    kalman = kind(LinearDynamics(A, torch.zeros(3, 1).double()), Q, R, observation=lambda x: x @ C.mT)
    belief, u = kalman.init(torch.zeros(3).double(), torch.eye(3).double()), torch.zeros(1).double()
    for _ in range(200):
        predicted = kalman.predict(belief, u)
        belief = kalman.update(predicted, torch.zeros(2).double())
    P = solve_discrete_are(A.numpy().T, C.numpy().T, Q.numpy(), R.numpy())
    np.testing.assert_allclose(predicted.covariance, P, atol=1e-11, rtol=1e-10)
    gain = P @ C.numpy().T @ np.linalg.inv(C.numpy() @ P @ C.numpy().T + R.numpy())
    moved = kalman.update(predicted, torch.ones(2).double()).mean - predicted.mean
    innovation = torch.ones(2).double() - C @ predicted.mean
    np.testing.assert_allclose(moved, gain @ innovation.numpy(), atol=1e-10, rtol=1e-11)


@every_filter
def test_missing_observations_are_left_out(kind, generator):
    s = Linear(generator)
    kalman = s.filter(kind)
    ys = s.ys.clone()
    ys[2] = ys[5] = math.nan
    found = kalman.filter(s.prior(kalman), ys, s.us)
    means, covariances, densities = textbook(s, [None if k in (2, 5) else y for k, y in enumerate(s.ys.numpy())])
    np.testing.assert_allclose(found.means, means, atol=1e-12, rtol=0)
    np.testing.assert_allclose(found.covariances, covariances, atol=1e-12, rtol=0)
    np.testing.assert_allclose(found.innovations.log_likelihood, densities, atol=1e-11, rtol=1e-11)
    assert found.innovations.observed.tolist() == [2, 2, 0, 2, 2, 0, 2]
    assert found.innovations.value.isnan().any(-1).tolist() == [k in (2, 5) for k in range(7)]


@every_filter
def test_a_missing_component_is_as_if_it_did_not_exist(kind, generator):
    s = Linear(generator)
    kalman, first = s.filter(kind), kind(s.dynamics, s.Q, s.R[:1, :1], observation=lambda x: x @ s.C[:1].mT)
    y = torch.stack([f64([0.3, math.nan]), f64([0.3, -0.4])])
    belief = kalman.update(s.prior(kalman), y)  # one belief, two worlds
    alone = first.update(s.prior(first), y[:1, :1])
    torch.testing.assert_close(belief.mean[0], alone.mean[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(belief.covariance[0], alone.covariance[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(belief.innovation.log_likelihood[0], alone.innovation.log_likelihood[0])
    torch.testing.assert_close(belief.innovation.nis[0], alone.innovation.nis[0])
    torch.testing.assert_close(belief.mean[1], kalman.update(s.prior(kalman), y[1]).mean)


def pendulum_filter(kind, dtype=torch.float64, dynamics=None):
    Q, R = torch.diag(f64([1e-6, 1e-3], dtype=dtype)), f64([[0.02]], dtype=dtype)
    return kind(dynamics or Pendulum(), Q, R, observation=lambda x: x[..., :1], observation_angles=[0])


@every_filter
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_batch_equals_its_members(kind, dtype, generator):
    kalman = pendulum_filter(kind, dtype)
    mean, P = randn(generator, 2, 3, 2, dtype=dtype), covariance(generator, 2, 2, 3).to(dtype)
    us, ys = randn(generator, 2, 3, 5, 1, dtype=dtype), randn(generator, 2, 3, 6, 1, dtype=dtype)
    filtered = kalman.filter(kalman.init(mean, P), ys, us)
    smoothed = kalman.smooth(filtered)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-4
    for i in np.ndindex(2, 3):
        single = kalman.filter(kalman.init(mean[i], P[i]), ys[i], us[i])
        back = kalman.smooth(single)
        for ours, theirs in (
            (filtered.means[i], single.means),
            (filtered.covariances[i], single.covariances),
            (filtered.innovations.log_likelihood[i], single.innovations.log_likelihood),
            (smoothed.means[i], back.means),
            (smoothed.covariances[i], back.covariances),
        ):
            assert ours.dtype == dtype
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    empty = kalman.filter(kalman.init(mean[:0], P[:0]), ys[:0], us[:0])
    assert kalman.smooth(empty).covariances.shape == (0, 3, 6, 2, 2)
    still = kalman.filter(kalman.init(mean, P), ys[..., :1, :], us[..., :0, :])
    assert kalman.smooth(still).gains.shape == (2, 3, 0, 2, 2)


@every_filter
def test_covariances_are_symmetric_and_semidefinite(kind, generator):
    kalman = pendulum_filter(kind, torch.float32)
    us, ys = randn(generator, 8, 60, 1, dtype=torch.float32), randn(generator, 8, 61, 1, dtype=torch.float32)
    filtered = kalman.filter(kalman.init(torch.zeros(2), 100.0 * torch.eye(2)), ys, us)
    for P in (filtered.covariances, filtered.predicted_covariances, kalman.smooth(filtered).covariances):
        assert torch.equal(P, P.mT)
        assert (
            torch.linalg.eigvalsh(P.double())[..., 0] >= -1e-6 * P.double().diagonal(dim1=-2, dim2=-1).amax(-1)
        ).all()


@every_filter
def test_a_known_state_and_a_perfect_sensor(kind):
    """Zero covariances are covariances: a known start, no process noise, an exact measurement of one state."""
    zero, one = torch.zeros(2, 2).double(), torch.ones(1).double()
    kalman = kind(Pendulum(), zero, torch.zeros(1, 1).double(), observation=lambda x: x[..., 1:])
    known = kalman.predict(kalman.init(f64([0.1, 0.2]), zero), one)
    torch.testing.assert_close(known.mean, Pendulum()(f64([0.1, 0.2]), one), atol=1e-14, rtol=0)
    assert known.covariance.abs().max() < 1e-30
    measured = kalman.update(kalman.init(torch.zeros(2).double(), torch.ones(2, 2).double()), one)
    torch.testing.assert_close(measured.mean, torch.ones(2).double())  # the two states are one
    assert measured.covariance.abs().max() < 1e-15
    again = kalman.predict(measured, one)  # from a singular covariance
    assert again.covariance.isfinite().all()
    with pytest.raises(ValueError, match="innovation is singular: observation_noise must be positive definite"):
        kalman.update(kalman.init(torch.zeros(2).double(), zero), one)


# The unscented transform


def quadratic(Hs, c):
    def f(x, u):
        return torch.einsum("...i,kij,...j->...k", x, Hs, x) + c

    return TorchDynamics(f, len(c), 1, 1.0)


@pytest.mark.parametrize(
    ("alpha", "beta", "kappa"), [(1.0, 2.0, 0.0), (0.5, 2.0, 1.0), (1.0, 0.0, 1.0), (1e-2, 2.0, 0.0)]
)
def test_quadratic_maps_have_the_closed_form(alpha, beta, kappa, generator):
    """Of zero-mean x with P = LL': mean tr(HP), covariance s sum_i a_ii b_ii + (beta - alpha^2) tr a tr b with a = L'HL."""
    n = 2
    Hs, P = randn(generator, n, n, n), covariance(generator, n)
    Hs = Hs + Hs.mT
    zero = torch.zeros(n, n).double()
    ukf = UnscentedKalmanFilter(quadratic(Hs, torch.zeros(n).double()), zero, zero, alpha, beta, kappa)
    found = ukf.predict(ukf.init(torch.zeros(n).double(), P), torch.zeros(1).double())
    L = torch.linalg.cholesky(P)
    reduced = (L.mT @ Hs @ L).diagonal(dim1=-2, dim2=-1)  # (k, i)
    trace = reduced.sum(-1)
    s = alpha**2 * (n + kappa)
    expected = s * reduced @ reduced.mT + (beta - alpha**2) * torch.outer(trace, trace)
    tolerance = 1e-11 / min(1.0, alpha**2)
    torch.testing.assert_close(found.mean, torch.einsum("kij,ij->k", Hs, P), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found.covariance, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("alpha", "beta", "kappa"), [(1.0, 2.0, 0.0), (0.1, 2.0, 0.0), (1.0, 0.0, 2.0)])
def test_a_square_of_one_variable_has_its_true_moments(alpha, beta, kappa):
    """Of x ~ N(m, v): mean m^2 + v, variance 4 m^2 v + 2 v^2; of an affine map, whatever it is."""
    m, v = 0.7, 0.3
    zero = torch.zeros(1, 1).double()
    ukf = UnscentedKalmanFilter(
        quadratic(torch.ones(1, 1, 1).double(), torch.zeros(1).double()), zero, zero, alpha, beta, kappa
    )
    found = ukf.predict(ukf.init(f64([m]), f64([[v]])), torch.zeros(1).double())
    assert float(found.mean) == pytest.approx(m**2 + v, rel=1e-11)
    assert float(found.covariance) == pytest.approx(4 * m**2 * v + 2 * v**2, rel=1e-10)


def test_orders_of_accuracy(generator):
    """Mean of sin x over N(m, s^2) is sin m exp(-s^2/2): the unscented error falls with s^4, the extended one with s^2."""
    sine = TorchDynamics(lambda x, u: torch.sin(x), 1, 1, 1.0)
    zero = torch.zeros(1, 1).double()
    stds = f64([0.4, 0.2, 0.1, 0.05])
    for kind, order in ((ExtendedKalmanFilter, 2), (UnscentedKalmanFilter, 4)):
        kalman = kind(sine, zero, zero)
        prior = kalman.init(torch.full((4, 1), 0.8, dtype=torch.float64), (stds**2)[:, None, None])
        mean = kalman.predict(prior, torch.zeros(1).double()).mean[:, 0]
        error = (mean - math.sin(0.8) * torch.exp(-0.5 * stds**2)).abs()
        slope = np.polyfit(stds.log().numpy(), error.log().numpy(), 1)[0]
        assert slope == pytest.approx(order, abs=0.05)


# Angles and manifolds


@every_filter
def test_an_angle_is_measured_the_short_way_round(kind):
    kalman = pendulum_filter(kind)
    for turns in (-2, 0, 3):
        near = kalman.update(
            kalman.init(f64([math.pi - 0.1, 0.0]), 0.02 * torch.eye(2).double()),
            f64([-math.pi + 0.1 + 2 * math.pi * turns]),
        )
        torch.testing.assert_close(near.innovation.value, f64([0.2]))
        torch.testing.assert_close(near.mean, f64([math.pi, 0.0]))
    truth = f64([-math.pi, 0.0])
    assert float(kalman.nees(near, truth)) == pytest.approx(0.0, abs=1e-20)


class Circle(Dynamics):
    """An angle that wraps itself, and says so in its geometry; turned by the control."""

    def __init__(self):
        super().__init__(1, 1, 0.1, angles=[0])

    @staticmethod
    def wrap(a):
        return torch.atan2(torch.sin(a), torch.cos(a))

    def forward(self, x, u, t=None):
        return self.wrap(x + u)

    def difference(self, x1, x0):
        return self.wrap(x1 - x0)

    def retract(self, x, dx):
        return self.wrap(x + dx)


@every_filter
def test_on_a_circle_that_wraps_it_is_the_kalman_filter_of_the_line(kind, generator):
    """Started next to the seam and driven across it."""
    Q, R = f64([[0.01]]), f64([[0.04]])
    circle = kind(Circle(), Q, R, observation_angles=[0])
    line = kind(LinearDynamics(torch.eye(1).double(), torch.eye(1).double()), Q, R)
    us, x0, P = 0.3 * randn(generator, 20, 1), f64([math.pi - 0.05]), f64([[0.1]])
    ys = x0 + torch.cat([torch.zeros(1, 1), us.cumsum(0)]) + 0.2 * randn(generator, 21, 1)
    on_circle, on_line = circle.filter(circle.init(x0, P), Circle.wrap(ys), us), line.filter(line.init(x0, P), ys, us)
    torch.testing.assert_close(on_circle.means, Circle.wrap(on_line.means), atol=1e-11, rtol=0)
    torch.testing.assert_close(on_circle.covariances, on_line.covariances, atol=1e-11, rtol=0)
    back, straight = circle.smooth(on_circle), line.smooth(on_line)
    torch.testing.assert_close(back.means, Circle.wrap(straight.means), atol=1e-11, rtol=0)
    torch.testing.assert_close(back.covariances, straight.covariances, atol=1e-11, rtol=0)


class Rotation(Dynamics):
    """A unit quaternion (w, x, y, z), turned by the control, a rotation vector in the body's frame; sees two directions."""

    def __init__(self):
        super().__init__(4, 3, 0.1, tangent_dim=3, observation_dim=6)

    @staticmethod
    def product(a, b):
        w, v, s, r = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
        v, r = torch.broadcast_tensors(v, r)
        return torch.cat([w * s - (v * r).sum(-1, keepdim=True), w * r + s * v + torch.linalg.cross(v, r)], dim=-1)

    @staticmethod
    def exponential(v):
        half = 0.5 * torch.sqrt((v * v).sum(-1, keepdim=True) + 1e-30)
        return torch.cat([torch.cos(half), 0.5 * v * torch.sinc(half / math.pi)], dim=-1)

    @staticmethod
    def logarithm(q):
        q = torch.where(q[..., :1] < 0, -q, q)
        sine = torch.sqrt((q[..., 1:] ** 2).sum(-1, keepdim=True) + 1e-30)
        return q[..., 1:] * 2 * torch.atan2(sine, q[..., :1]) / sine

    def forward(self, x, u, t=None):
        return self.retract(x, u)

    def difference(self, x1, x0):
        return self.logarithm(self.product(x0 * x0.new_tensor([1, -1, -1, -1]), x1))

    def retract(self, x, dx):
        return self.product(x, self.exponential(dx))

    def observe(self, x):
        """Gravity and north in the body's frame."""
        w, v = x[..., :1], -x[..., 1:]
        seen = []
        for direction in ([0.0, 0.0, 1.0], [1.0, 0.0, 0.0]):
            r = x.new_tensor(direction).expand(v.shape)
            t = 2 * torch.linalg.cross(v, r)
            seen.append(r + w * t + torch.linalg.cross(v, t))
        return torch.cat(seen, dim=-1)


def attitude_run(kind, generator, seeds, T=25):
    rotation, q, r, spread = Rotation(), 0.05, 0.1, 0.5
    eye = torch.eye(3).double()
    kalman = kind(rotation, q**2 * eye, r**2 * torch.eye(6).double())
    prior = kalman.init(f64([1.0, 0.0, 0.0, 0.0]).expand(seeds, 4), spread**2 * eye)
    x = rotation.retract(prior.mean, spread * randn(generator, seeds, 3))
    us, xs, ys = 0.3 * randn(generator, seeds, T, 3), [x], [rotation.observe(x) + r * randn(generator, seeds, 6)]
    for k in range(T):
        x = rotation.retract(rotation(x, us[:, k]), q * randn(generator, seeds, 3))
        xs.append(x)
        ys.append(rotation.observe(x) + r * randn(generator, seeds, 6))
    return kalman, kalman.filter(prior, torch.stack(ys, 1), us), torch.stack(xs, 1)


@pytest.mark.parametrize("kind", [ExtendedKalmanFilter, UnscentedKalmanFilter])
def test_attitudes_are_estimated_consistently(kind, generator):
    """The mean of N chi-squared numbers with 3 degrees: within 4 standard errors of 3, filtered and smoothed."""
    seeds = 200
    kalman, filtered, xs = attitude_run(kind, generator, seeds)
    smoothed = kalman.smooth(filtered)
    assert ((filtered.means.norm(dim=-1) - 1).abs() < 1e-9).all()
    for k in (10, 18, 25):
        error = 4 * math.sqrt(2 * 3 / seeds)
        assert float(kalman.nees(filtered.belief(k), xs[:, k]).mean()) == pytest.approx(3.0, abs=error)
        late = GaussianBelief(smoothed.means[:, k], smoothed.covariances[:, k])
        assert float(kalman.nees(late, xs[:, k]).mean()) == pytest.approx(3.0, abs=error)
    filtered_error = Rotation().difference(xs, filtered.means).square().mean()
    assert Rotation().difference(xs, smoothed.means).square().mean() < 0.8 * filtered_error


def test_the_covariance_moves_with_the_mean():
    """After a turn by a the old displacement d is the new one J(a) d, J the right Jacobian of SO(3)."""
    rotation, generator = Rotation(), torch.Generator().manual_seed(1)
    kalman = ExtendedKalmanFilter(rotation, torch.eye(3).double(), torch.eye(6).double())
    x, a, P = f64([[0.5, 0.5, 0.5, 0.5]]), 0.7 * randn(generator, 1, 3), covariance(generator, 3, 1)
    moved = kalman.moved(P, x, a, rotation.retract(x, a))
    angle, (ax, ay, az) = a.norm(), a[0].tolist()
    K = f64([[0, -az, ay], [az, 0, -ax], [-ay, ax, 0]])
    J = torch.eye(3) - (1 - angle.cos()) / angle**2 * K + (angle - angle.sin()) / angle**3 * K @ K
    torch.testing.assert_close(moved, J @ P @ J.mT, atol=1e-12, rtol=0)


BALL = """<mujoco><option timestep="0.02" gravity="0 0 0"/><worldbody><body><freejoint/>
<geom type="box" size="0.1 0.2 0.3" mass="1" contype="0" conaffinity="0"/></body></worldbody></mujoco>"""


@pytest.mark.parametrize("kind", [ExtendedKalmanFilter, UnscentedKalmanFilter])
def test_a_free_body_of_mujoco(kind, generator):
    """13 numbers, 12 directions; its pose is measured in the tangent space of a fixed pose."""
    body = MujocoDynamics(BALL)
    home = f64([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    Q, R = 1e-6 * torch.eye(12).double(), 1e-2 * torch.eye(6).double()
    kalman = kind(body, Q, R, observation=lambda x: body.difference(x, home.expand_as(x))[..., :6])
    seeds, T = 30, 12
    P = torch.diag(f64(6 * [0.04] + 6 * [0.25]))
    prior = kalman.init(home.expand(seeds, 13), P)
    x = body.retract(prior.mean, P.diagonal().sqrt() * randn(generator, seeds, 12))
    us, ys, xs = torch.zeros(seeds, T, 0).double(), [], []
    for k in range(T + 1):
        if k:
            x = body.retract(body(x, us[:, 0]), 1e-3 * randn(generator, seeds, 12))
        xs.append(x)
        ys.append(kalman.h(x) + 0.1 * randn(generator, seeds, 6))
    filtered = kalman.filter(prior, torch.stack(ys, 1), us)
    nees = kalman.nees(filtered.belief(-1), xs[-1]).mean()
    assert float(nees) == pytest.approx(12.0, abs=4 * math.sqrt(2 * 12 / seeds))
    assert kalman.smooth(filtered).covariances.isfinite().all()


# Consistency on pendulums and cart-poles


def simulated(kalman, prior, T, generator, q, r, scale=1.0):
    """States and observations of the model that the filter has, from the prior."""
    d, x = kalman.dynamics, prior.mean + prior.std * randn(generator, *prior.mean.shape)
    us, xs, ys = scale * randn(generator, len(x), T, 1), [x], []
    for k in range(T + 1):
        if k:
            x = d(x, us[:, k - 1]) + q * randn(generator, *x.shape)
            xs.append(x)
        ys.append(kalman.h(x) + r * randn(generator, len(x), kalman.h(x).shape[-1]))
    return torch.stack(xs, 1), torch.stack(ys, 1), us


@pytest.mark.parametrize("kind", [ExtendedKalmanFilter, UnscentedKalmanFilter])
def test_errors_and_innovations_are_as_large_as_the_filter_says(kind, generator):
    """NEES and NIS of a swinging pendulum over many seeds, summed, within the 99.99 % interval of their chi-squared law."""
    q, r, seeds, T = f64([1e-3, 0.03]), 0.1, 400, 50
    kalman = kind(Pendulum(), torch.diag(q**2), f64([[r**2]]), observation=lambda x: x[..., :1])
    prior = kalman.init(f64([3.0, 0.0]).expand(seeds, 2), torch.diag(f64([0.04, 0.04])))
    xs, ys, us = simulated(kalman, prior, T, generator, q, r)
    filtered = kalman.filter(prior, ys, us)
    for k in (5, 20, 50):
        low, high = chi2.interval(0.9999, 2 * seeds)
        assert low < float(kalman.nees(filtered.belief(k), xs[:, k]).sum()) < high
    smoothed = kalman.smooth(filtered)
    middle = GaussianBelief(smoothed.means[:, 20], smoothed.covariances[:, 20])
    assert low < float(kalman.nees(middle, xs[:, 20]).sum()) < high
    low, high = chi2.interval(0.9999, seeds * (T + 1))  # innovations are white: all of them count
    assert low < float(filtered.innovations.nis.sum()) < high


@pytest.mark.parametrize("kind", [ExtendedKalmanFilter, UnscentedKalmanFilter])
def test_finite_difference_dynamics_give_the_estimates_of_their_torch_twin(kind, generator):
    torch_model = CartPole()
    mujoco_model = MujocoDynamics(torch_model.mjcf())
    Q, R = 1e-4 * torch.eye(4).double(), 0.01 * torch.eye(2).double()
    ys, us = 0.1 * randn(generator, 3, 21, 2), randn(generator, 3, 20, 1)
    found = []
    for model in (torch_model, mujoco_model):
        kalman = kind(model, Q, R, observation=lambda x: x[..., :2])
        found.append(kalman.filter(kalman.init(torch.zeros(4).double(), 0.1 * torch.eye(4).double()), ys, us))
    torch.testing.assert_close(found[0].means, found[1].means, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0].covariances, found[1].covariances, atol=1e-5, rtol=0)


@every_filter
def test_every_world_has_its_own_parameters(kind, generator):
    masses = f64([0.5, 1.0, 2.0, 3.0, 4.0])  # as many as sigma points of one pendulum
    worlds = pendulum_filter(kind, dynamics=Pendulum().with_parameters(mass=masses))
    us, ys = randn(generator, 5, 2, 4, 1), randn(generator, 5, 2, 5, 1)
    prior = worlds.init(torch.zeros(5, 2, 2).double(), torch.eye(2).double())
    found = worlds.filter(prior, ys, us)
    for w, mass in enumerate(masses):
        single = pendulum_filter(kind, dynamics=Pendulum().with_parameters(mass=mass))
        alone = single.filter(single.init(torch.zeros(2, 2).double(), torch.eye(2).double()), ys[w], us[w])
        torch.testing.assert_close(found.means[w], alone.means, atol=1e-12, rtol=0)
        torch.testing.assert_close(found.covariances[w], alone.covariances, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="has one value for each of 5 worlds"):
        worlds.predict(worlds.init(torch.zeros(2).double(), torch.eye(2).double()), torch.zeros(1).double())


def test_noise_may_depend_on_state_control_and_step():
    pendulum = Pendulum()
    kalman = ExtendedKalmanFilter(
        pendulum,
        lambda x, u, t: torch.diag_embed((u**2).expand(*u.shape[:-1], 2) + t),
        lambda x, t: 1.0 + x[..., :1, None] ** 2,
        observation=lambda x: x[..., :1],
    )
    plain = ExtendedKalmanFilter(pendulum, 7.0 * torch.eye(2).double(), f64([[2.0]]), observation=kalman.h)
    x, P, u = f64([1.0, 0.0]), torch.eye(2).double(), torch.full((1,), 2.0, dtype=torch.float64)
    torch.testing.assert_close(
        kalman.predict(kalman.init(x, P, step=3), u).covariance, plain.predict(plain.init(x, P), u).covariance
    )
    y = torch.zeros(1).double()
    torch.testing.assert_close(kalman.update(kalman.init(x, P), y).mean, plain.update(plain.init(x, P), y).mean)


@every_filter
def test_learned_and_randomized_models_are_dynamics(kind, generator):
    ensemble = Ensemble(2, 1, 0.05, members=2, hidden=(8,))
    ensemble.set_statistics(TransitionData(randn(generator, 9, 2), randn(generator, 9, 1), randn(generator, 9, 2)))
    worlds = RandomizedWorlds(Pendulum(), mass=f64([0.9, 1.1]))
    for model in (ensemble, worlds):
        kalman = kind(
            model, lambda x, u, t, m=model: torch.diag_embed(m.predict(x, u, t).std ** 2), torch.eye(2).double()
        )
        with torch.no_grad():
            found = kalman.filter(
                kalman.init(torch.zeros(2).double(), torch.eye(2).double()),
                randn(generator, 4, 2),
                randn(generator, 3, 1),
            )
        assert found.means.isfinite().all()


# Gradients


@every_filter
def test_gradients_of_the_likelihood(kind, generator):
    us, ys = randn(generator, 3, 1), randn(generator, 4, 1)
    ys[1] = math.nan

    def likelihood(mass, mean, root, q, r):
        kalman = kind(
            Pendulum().with_parameters(mass=mass), torch.diag(q**2), r[:, None] ** 2, observation=lambda x: x[..., :1]
        )
        return kalman.filter(kalman.init(mean, root @ root.mT), ys, us).log_likelihood

    inputs = [
        f64(1.2),
        f64([0.3, -0.2]),
        torch.eye(2) + 0.1,
        f64([0.1, 0.2]),
        f64([0.3]),
    ]
    assert torch.autograd.gradcheck(likelihood, [v.double().requires_grad_() for v in inputs])


def test_gradients_through_a_singular_covariance_are_finite():
    kalman = pendulum_filter(UnscentedKalmanFilter)
    mean = torch.zeros(2).double().requires_grad_()
    belief = kalman.init(mean, torch.zeros(2, 2).double())
    belief = kalman.step(belief, torch.ones(1).double(), torch.ones(1).double())
    (gradient,) = torch.autograd.grad(belief.innovation.log_likelihood, mean)
    assert gradient.isfinite().all()


def test_a_physical_parameter_is_found_by_maximum_likelihood(generator):
    q, r = f64([0.0, 0.01]), 0.02
    truth = ExtendedKalmanFilter(
        Pendulum().with_parameters(damping=0.3),
        torch.diag(q**2),
        f64([[r**2]]),
        observation=lambda x: x[..., :1],
    )
    prior = truth.init(f64([2.0, 0.0]).expand(20, 2), 1e-2 * torch.eye(2).double())
    _, ys, us = simulated(truth, prior, 40, generator, q, r)
    dampings = f64([0.2, 0.25, 0.3, 0.35, 0.4])
    likelihoods = []
    for damping in dampings:
        model = ExtendedKalmanFilter(
            Pendulum().with_parameters(damping=damping),
            truth.process_noise,
            truth.observation_noise,
            observation=truth.h,
        )
        likelihoods.append(float(model.filter(prior, ys, us).log_likelihood.sum()))
    assert int(np.argmax(likelihoods)) == 2


# What goes wrong


def test_a_world_that_diverges_is_lost_alone():
    bursting = TorchDynamics(lambda x, u: torch.where(x > 1.0, math.inf, x), 1, 1, 1.0)
    for kind in KINDS.values():
        kalman = kind(bursting, torch.eye(1).double(), torch.eye(1).double())
        belief = kalman.init(f64([[0.0], [9.0]]), 0.01 * torch.eye(1).double())
        for _ in range(2):
            belief = kalman.step(belief, torch.zeros(1).double(), torch.zeros(1).double())
        assert belief.mean.isnan().flatten().tolist() == [False, True]
        assert belief.covariance.isnan().flatten().tolist() == [False, True]
        assert belief.innovation.log_likelihood.isnan().tolist() == [False, True]


def test_filters_hold_no_state(generator):
    kalman = pendulum_filter(UnscentedKalmanFilter)
    belief = kalman.init(torch.zeros(2).double(), torch.eye(2).double())
    before = belief.mean.clone(), belief.covariance.clone()
    first, second = (kalman.step(belief, torch.ones(1).double(), torch.ones(1).double()) for _ in range(2))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(belief.mean, before[0])
    assert torch.equal(belief.covariance, before[1])
    assert (belief.step, first.step, belief.innovation) == (0, 1, None)
    assert isinstance(kalman, GaussianFilter)


GOOD = torch.eye(2).double()


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        (
            "process_noise",
            torch.eye(3).double(),
            ValueError,
            r"process_noise must be a covariance of shape \(\*batch, 2, 2\)",
        ),
        (
            "process_noise",
            torch.ones(2).double(),
            ValueError,
            r"got \(2,\); for standard deviations std give torch.diag",
        ),
        (
            "process_noise",
            f64([[1.0, 2.0], [2.0, 1.0]]),
            ValueError,
            "positive semidefinite, got an eigen",
        ),
        ("process_noise", f64([[1.0, 0.5], [0.0, 1.0]]), ValueError, "must be symmetric"),
        ("process_noise", torch.full((2, 2), math.nan, dtype=torch.float64), ValueError, "must be finite"),
        ("process_noise", torch.eye(2, dtype=torch.long), ValueError, "floating dtype"),
        ("process_noise", 0.1, TypeError, "process_noise must be a tensor, got float"),
        (
            "observation_noise",
            torch.eye(3).double(),
            ValueError,
            r"observation_noise must be a covariance of shape \(\*batch, 2",
        ),
        ("observation_noise", [[1.0]], TypeError, "observation_noise must be a tensor, got list"),
        ("observation_angles", [2], ValueError, "observation_angles must be indices of the 2 observations"),
        ("dynamics", "pendulum", TypeError, "dynamics must be a Dynamics, got str"),
    ],
)
def test_filters_that_cannot_be(name, value, error, message):
    options = {"dynamics": Pendulum(), "process_noise": GOOD, "observation_noise": GOOD, name: value}
    with pytest.raises(error, match=message):
        ExtendedKalmanFilter(**options)


@pytest.mark.parametrize("option", [{"alpha": 0.0}, {"kappa": -2.0}, {"beta": math.inf}])
def test_points_that_cannot_be(option):
    with pytest.raises(ValueError, match="need alpha > 0, kappa > -2"):
        UnscentedKalmanFilter(Pendulum(), GOOD, GOOD, **option)


@pytest.mark.parametrize(
    ("mean", "P", "error", "message"),
    [
        ([0.0, 0.0], GOOD, TypeError, "mean must be a tensor, got list"),
        (torch.zeros(3).double(), GOOD, ValueError, r"of shape \(\*batch, 2\), got \(3,\)"),
        (torch.zeros(2, dtype=torch.long), GOOD, ValueError, "floating"),
        (torch.full((2,), math.inf, dtype=torch.float64), GOOD, ValueError, "mean must be finite"),
        (torch.zeros(2).double(), -GOOD, ValueError, "covariance must be positive semidefinite"),
        (
            torch.zeros(2, 2).double(),
            GOOD.expand(3, 2, 2),
            ValueError,
            r"batch axes of mean \(2,\) and covariance \(3,\)",
        ),
    ],
)
def test_beliefs_that_cannot_be(mean, P, error, message):
    with pytest.raises(error, match=message):
        ExtendedKalmanFilter(Pendulum(), GOOD, GOOD).init(mean, P)


def test_what_does_not_fit_a_belief():
    kalman = ExtendedKalmanFilter(Pendulum(), GOOD, GOOD)
    belief = kalman.init(torch.zeros(3, 2).double(), GOOD)
    u, y = torch.zeros(1).double(), torch.zeros(2).double()
    for u_wrong in (torch.zeros(2).double(), torch.zeros(1), None):
        with pytest.raises(ValueError, match=r"u must be of shape \(\*batch, 1\) and torch.float64 as the belief"):
            kalman.predict(belief, u_wrong)
    with pytest.raises(ValueError, match=r"y must be of shape .* torch.float64"):
        kalman.update(belief, y.float())
    with pytest.raises(ValueError, match="y must have last axis p = 2"):
        kalman.update(belief, y[:1])
    with pytest.raises(ValueError, match=r"y is infinite: .* missing is NaN"):
        kalman.update(belief, y + math.inf)
    with pytest.raises(ValueError, match=r"batch axes of belief \(3,\) and u \(2,\) do not broadcast"):
        kalman.predict(belief, u.expand(2, 1))
    with pytest.raises(TypeError, match=r"belief must be a GaussianBelief, got Tensor; begin with init"):
        kalman.update(y, y)
    with pytest.raises(ValueError, match="need one observation more than controls"):
        kalman.filter(belief, y.expand(3, 2), u.expand(3, 1))
    with pytest.raises(ValueError, match=r"ys must be a tensor of shape \(\*batch, time, dim\), got \(2,\)"):
        kalman.filter(belief, y, u)
    with pytest.raises(TypeError, match="need what filter"):
        kalman.smooth(belief)
    with pytest.raises(ValueError, match=r"process_noise must have shape \(2, 2\), or leading axes"):
        ExtendedKalmanFilter(Pendulum(), GOOD.expand(4, 2, 2), GOOD).predict(belief, u)
    broken = GaussianBelief(torch.zeros(2).double(), f64([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="the covariance of step 0 is not positive semidefinite any more"):
        UnscentedKalmanFilter(Pendulum(), GOOD, GOOD).predict(broken, u)


def test_a_tensor_annotation_is_all_that_observations_need():
    """A model with its own observation: the filter sees it without being told."""

    class Seen(LinearDynamics):
        def observe(self, x: Tensor) -> Tensor:
            return x[..., :1] ** 2

    model = Seen(torch.eye(2).double(), torch.zeros(2, 1).double())
    model.observation_dim = 1
    kalman = ExtendedKalmanFilter(model, GOOD, torch.eye(1).double())
    prior = kalman.init(f64([2.0, 0.0]), GOOD)
    posterior = kalman.update(prior, f64([5.0]))
    torch.testing.assert_close(posterior.mean, f64([2.0 + 4.0 / 17.0, 0.0]))  # H = 4, S = 16 + 1
