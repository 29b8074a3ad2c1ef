"""Noise in time: spectra and covariances against closed forms, knots at absolute times."""

import numpy as np
import pytest
import torch

from planners import ColoredNoise, KnotNoise, WhiteNoise
from planners.splines import KnotGrid

LIKE = torch.zeros((), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize("length", [1, 2, 3, 8, 31])
def test_colored_noise_has_unit_variance_at_every_time(exponent, length):
    """The variance of N normal numbers has a relative standard deviation of sqrt(2 / N), here 0.5 %."""
    noise = ColoredNoise(exponent).draw((length, 80_000), seeded(), LIKE).T
    assert noise.shape == (80_000, length)
    torch.testing.assert_close(noise.var(0), torch.ones(length).double(), atol=0.025, rtol=0)
    torch.testing.assert_close(noise.mean(0), torch.zeros(length).double(), atol=0.018, rtol=0)


@pytest.mark.parametrize("exponent", [0.0, 0.25, 1.0, 2.0, 3.0])
def test_the_spectrum_of_colored_noise_is_a_power_of_frequency(exponent):
    noise = ColoredNoise(exponent).draw((128, 4000), seeded(), LIKE).T.numpy()
    power = np.square(np.abs(np.fft.rfft(noise))).mean(0)[1:-1]
    slope = np.polyfit(np.log(np.fft.rfftfreq(128)[1:-1]), np.log(power), 1)[0]
    # Each power has a relative error of 1 / sqrt(4000) = 1.6 %; over 63 frequencies the slope's is about 0.003.
    assert slope == pytest.approx(-exponent, abs=0.012)


def test_colored_noise_is_the_noise_of_timmer_and_koenig():
    """Its covariance is the transform of the spectrum: sum_k s_k cos(2 pi k d / T) / sum_k s_k over both signs of k."""
    T, exponent = 8, 2.0
    frequency = np.abs(np.fft.fftfreq(T))
    frequency[0] = frequency[1]
    spectrum = frequency**-exponent
    k = np.arange(T)
    expected = [(spectrum * np.cos(2 * np.pi * k * d / T)).sum() / spectrum.sum() for d in range(T)]
    noise = ColoredNoise(exponent).draw((T, 200_000), seeded(), LIKE).T
    covariance = (noise[:, :1] * noise).mean(0)
    torch.testing.assert_close(covariance, torch.tensor(expected), atol=0.012, rtol=0)  # 4 standard errors of 0.003


def test_white_noise_is_white():
    noise = WhiteNoise().draw((6, 50_000), seeded(), LIKE).T
    torch.testing.assert_close(noise.T @ noise / 50_000, torch.eye(6).double(), atol=0.03, rtol=0)


@pytest.mark.parametrize("noise", [WhiteNoise(), ColoredNoise(), KnotNoise()])
def test_noise_comes_from_the_generator_in_the_dtype_asked_for(noise):
    state = torch.get_rng_state()
    first, again, other = (noise.draw((7, 3, 2), seeded(seed), LIKE) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert noise.draw((7, 3), seeded(), LIKE.float()).dtype == torch.float32
    assert noise.draw((7, 0, 3), seeded(), LIKE).shape == (7, 0, 3)


def test_white_and_colored_noise_have_a_knot_at_each_step():
    for noise in (WhiteNoise(), ColoredNoise()):
        assert noise.is_stepwise
        assert noise.grid(2.0, 0.1, 7) == KnotGrid(2.0, 0.1, 7, 0)


def test_knots_lie_at_multiples_of_their_interval_whatever_the_steps():
    noise = KnotNoise(knots=4, degree=1)
    assert not noise.is_stepwise
    coarse, fine = noise.grid(0.0, 0.1, 20), noise.grid(0.0, 0.02, 100)
    assert coarse == fine == KnotGrid(0.0, 0.5, 5, 1)
    later = noise.grid(0.7, 0.1, 20)
    assert (later.start, later.interval) == (0.5, 0.5)
    assert later.times()[-1] >= 0.7 + 1.9


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ColoredNoise(-1.0), "exponent must be a number of at least 0, got -1"),
        (lambda: ColoredNoise(float("nan")), "exponent must be a number of at least 0"),
        (lambda: KnotNoise(0), "knots must be an integer of at least 1, got 0"),
        (lambda: KnotNoise(2.5), "knots must be an integer of at least 1, got 2.5"),
        (lambda: KnotNoise(degree=2), r"degree must be 0 \(held\), 1 \(linear\) or 3 \(cubic\), got 2"),
    ],
)
def test_wrong_fields(make, text):
    with pytest.raises(ValueError, match=text):
        make()
