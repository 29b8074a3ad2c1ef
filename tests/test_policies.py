"""Spline noise: smooth, within the limits, pushing to and fro, and a function of its memory."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

from mbrl import SplineNoise

WIDE = (-100.0, 100.0)  # in half widths of which the noise is never clipped


def play(noise, steps, batch=1, seed=0):
    """Controls ``(steps, batch, m)`` as an array."""
    memory = noise.init(batch, generator=torch.Generator().manual_seed(seed))
    us = []
    for _ in range(steps):
        u, memory = noise.act(torch.zeros(batch, 3).double(), memory)
        us.append(u)
    return torch.stack(us).numpy()


@pytest.mark.parametrize("interval", [1, 2, 5, 20])
def test_it_is_the_catmull_rom_spline_through_its_knots(interval):
    u = play(SplineNoise(WIDE, interval=interval, scale=0.1), 30 * interval + 1, batch=3)
    knots = u[::interval]
    times = interval * np.arange(len(knots))
    spline = CubicHermiteSpline(times[1:-1], knots[1:-1], (knots[2:] - knots[:-2]) / (2 * interval))
    steps = np.arange(interval, 29 * interval + 1)
    np.testing.assert_allclose(u[steps], spline(steps), atol=1e-12)


def test_it_is_smooth_across_the_knots_too():
    """|p''| <= 6 |difference of knots| + 4 |slope| + 2 |slope| <= 18 max|knot| on every piece of such a spline."""
    u = play(SplineNoise(WIDE, interval=20, scale=0.1), 2000)
    bound = 18 * np.abs(u[::20]).max() / 20**2
    assert np.abs(np.diff(u, n=2, axis=0)).max() < bound
    rough = np.random.default_rng(0).normal(size=2000)
    assert np.abs(np.diff(rough, n=2)).max() > 18 * np.abs(rough).max() / 20**2


def test_knots_have_the_scale_in_half_widths_about_the_middle():
    knots = play(SplineNoise((1.0, 5.0), interval=5, scale=0.1), 1, batch=40_000)
    assert knots.mean() == pytest.approx(3.0, abs=4 * 0.2 / math.sqrt(40_000))
    assert knots.std() == pytest.approx(0.2, rel=4 / math.sqrt(2 * 40_000))


def test_the_mean_over_episodes_is_the_middle_at_every_step():
    u = play(SplineNoise((-2.0, 2.0)), 50, batch=10_000)
    standard_error = u.std(axis=1) / math.sqrt(10_000)
    assert (np.abs(u.mean(axis=1)) < 4.5 * standard_error).all()


def test_the_impulse_stays_bounded():
    """Each knot takes back what the one before pushed; independent knots of that variance would push ever further."""
    interval, scale = 5, 0.1
    u = play(SplineNoise((-1.0, 1.0), interval=interval, scale=scale), 101 * interval, batch=4000)[..., 0]
    assert np.abs(u).max() < 1.0  # nothing is clipped
    variance = u.cumsum(axis=0).var(axis=1)
    after_10, after_100 = variance[10 * interval], variance[100 * interval]
    assert after_100 == pytest.approx(after_10, rel=0.15)
    assert after_100 < 2 * (interval * scale) ** 2  # that of g_K - g_0 over root two, and the ends
    independent = 100 * (interval * scale) ** 2
    assert after_100 < 0.03 * independent


def test_clipping_hardly_changes_that():
    u = play(SplineNoise((-1.0, 1.0), interval=5, scale=0.5), 505, batch=2000)[..., 0]
    assert np.abs(u).max() == 1.0
    assert u.cumsum(axis=0).var(axis=1)[500] < 0.1 * 100 * (5 * 0.5) ** 2


def test_limits_are_kept_by_dimension():
    limits = (torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 3.0]))
    u = play(SplineNoise(limits, control_dim=2, scale=2.0), 300, batch=4)
    assert u.shape == (300, 4, 2)
    np.testing.assert_array_equal(u.min(axis=(0, 1)), [-1.0, 2.0])
    np.testing.assert_array_equal(u.max(axis=(0, 1)), [1.0, 3.0])


def test_dimensions_and_episodes_have_noise_of_their_own():
    u = play(SplineNoise(WIDE, control_dim=2, scale=0.1), 2000, batch=2).reshape(2000, 4)
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.2


def test_the_same_seed_gives_the_same_noise():
    noise = SplineNoise((-1.0, 1.0))
    np.testing.assert_array_equal(play(noise, 40, seed=3), play(noise, 40, seed=3))
    assert not np.array_equal(play(noise, 40, seed=3), play(noise, 40, seed=4))
    first, second = (noise.init(2) for _ in range(2))
    assert torch.equal(first.impulses, second.impulses)


def test_a_memory_is_a_value():
    noise, y = SplineNoise((-1.0, 1.0), interval=2), torch.zeros(3, 1).double()
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    memory = noise.init(3, generator=generator)
    assert torch.equal(generator.get_state(), before)
    for _ in range(5):  # across a knot too
        u, following = noise.act(y, memory)
        again, following_again = noise.act(y, memory)
        assert torch.equal(u, again)
        assert torch.equal(following.impulses, following_again.impulses)
        assert torch.equal(following.generator.get_state(), following_again.generator.get_state())
        memory = following


def test_it_looks_at_nothing_but_the_dtype():
    noise = SplineNoise((-1.0, 1.0))
    memory = noise.init(2)
    seen, unseen = (noise.act(y, memory)[0] for y in (torch.ones(2, 7).double(), torch.zeros(2, 1).double()))
    assert torch.equal(seen, unseen)
    assert seen.shape == (2, 1)
    assert noise.act(torch.ones(2, 7), memory)[0].dtype == torch.float32
    assert noise.acts_on == "observation"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "need interval >= 1 and scale > 0, got 0 and 0.5"),
        ({"scale": 0.0}, "got 5 and 0.0"),
        ({"scale": math.nan}, "got 5 and nan"),
        ({"control_limits": (1.0, -1.0)}, r"finite with lower <= upper for control_dim=1, got \(1.0, -1.0\)"),
        ({"control_limits": (-math.inf, 1.0)}, "must be finite"),
        ({"control_limits": (math.nan, 1.0)}, "must be finite"),
        ({"control_limits": (-torch.ones(3), 1.0), "control_dim": 2}, "for control_dim=2"),
        ({"control_limits": (-torch.ones(2), 1.0)}, "for control_dim=1"),
    ],
)
def test_settings_that_make_no_noise(options, message):
    with pytest.raises(ValueError, match=message):
        SplineNoise(**{"control_limits": (-1.0, 1.0), **options})
