"""Evaluation: interquartile means, intervals and success rates against hand computation and scipy."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, trim_mean

from dynamics import LinearDynamics, TorchDynamics
from mbrl import (
    Evaluation,
    SplineNoise,
    Task,
    cart_pole_swing_up,
    evaluate,
    interquartile_mean,
    make_env,
    pendulum_swing_up,
    record,
    record_env,
)
from planners import ICEM, MPC, FunctionCost


class Still:
    """Does nothing."""

    acts_on = "observation"

    def init(self, batch, *, generator=None):
        return None

    def act(self, y, memory, *, deterministic=True):
        if not deterministic:
            raise AssertionError("an evaluation is deterministic")
        return torch.zeros(len(y), 1).to(y), memory


def standing(*values, **fields):
    """A state that stays where it begins and costs its value: the return is minus twice the value."""
    dynamics = LinearDynamics(torch.eye(1).double(), torch.zeros(1, 1).double(), dt=0.1)
    cost = FunctionCost(lambda x, u, t: x[..., 0])
    initial = torch.tensor(values, dtype=torch.float64)[:, None]
    options = {"horizon": 2, "episode_steps": 2, **fields}
    return Task("Standing", dynamics, cost, (-1.0, 1.0), lambda batch, generator: initial[:batch], **options)


def bursting(*values, **fields):
    """Infinite after two steps where it begins above 10."""
    dynamics = TorchDynamics(lambda x, u: torch.where(x > 15, torch.inf, torch.where(x > 10, x + 5, x)), 1, 1, 0.1)
    return replace(standing(*values, episode_steps=4, **fields), dynamics=dynamics)


def test_the_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([5.0])) == 5.0
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, -50.0])) == 1.5
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0  # a quarter of three is no whole episode
    values = np.random.default_rng(0).normal(size=40)
    assert interquartile_mean(values) == pytest.approx(np.sort(values)[10:30].mean(), rel=1e-14)


def test_returns_are_sums_of_rewards_and_outliers_do_not_move_the_iqm():
    result = evaluate(Still(), standing(1.0, 2.0, 3.0, 1000.0), episodes=4)
    np.testing.assert_array_equal(result.returns, [-2.0, -4.0, -6.0, -2000.0])
    assert result.iqm == -5.0
    assert [t.rewards.sum() for t in result.trajectories] == result.returns.tolist()


@pytest.mark.parametrize("episodes", [5, 10, 37])
def test_the_interval_is_scipys(episodes):
    values = np.random.default_rng(episodes).normal(size=episodes)
    result = evaluate(Still(), standing(*values), episodes=episodes)
    low, high = result.interval
    assert low <= result.iqm <= high
    expected = bootstrap(
        (result.returns,), lambda x, axis: trim_mean(x, 0.25, axis=axis), n_resamples=20_000, method="percentile"
    ).confidence_interval
    # quantiles of 2000 resamples: ten percent of the width is more than three of their standard errors
    assert low == pytest.approx(expected.low, abs=0.1 * (expected.high - expected.low))
    assert high == pytest.approx(expected.high, abs=0.1 * (expected.high - expected.low))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """The interquartile mean of a normal distribution is its mean; percentile intervals of 30 samples are a bit short."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = evaluate(Still(), standing(*rng.normal(size=30), episode_steps=1), episodes=30).interval
        hits += low <= 0.0 <= high
    assert 0.87 <= hits / 200 <= 0.99


def test_equal_returns_and_a_single_episode_are_points():
    result = evaluate(Still(), standing(*[0.1] * 7), episodes=7)
    assert result.interval == (result.iqm, result.iqm)
    assert result.iqm == pytest.approx(-0.2)
    result = evaluate(Still(), standing(3.0), episodes=1)
    assert (result.iqm, result.interval) == (-6.0, (-6.0, -6.0))


def test_the_success_rate_is_the_share_of_successful_episodes():
    task = standing(1.0, 2.0, 3.0, 4.0, success=lambda xs: (xs[..., 0] < 3.5).all(-1))
    assert evaluate(Still(), task, episodes=4).success_rate == 0.75
    assert evaluate(Still(), standing(1.0), episodes=1).success_rate is None


def test_a_diverged_episode_is_neither_cheap_nor_a_success():
    """Cut short, it has the smallest sum of costs of all."""
    task = bursting(1.0, 1.0, 1.0, 11.0, success=lambda xs: (xs[..., 0] < 20).all(-1))
    cost = FunctionCost(lambda x, u, t: torch.full_like(x[..., 0], 5.0))
    result = evaluate(Still(), replace(task, cost=cost), episodes=4)
    assert result.returns.tolist() == [-20.0, -20.0, -20.0, -math.inf]
    assert result.iqm == -20.0  # one of four is trimmed
    assert result.interval[0] == -math.inf
    assert result.success_rate == 0.75
    assert result.trajectories[3].num_steps == 1
    everything = evaluate(Still(), bursting(11.0, 12.0), episodes=2)
    assert (everything.iqm, everything.interval) == (-math.inf, (-math.inf, -math.inf))


def test_termination_is_an_end_like_any_other():
    task = standing(1.0, 3.0, termination=lambda x: x[..., 0] > 2, success=lambda xs: xs[..., -1, 0] > 2)
    result = evaluate(Still(), task, episodes=2)
    assert result.returns.tolist() == [-2.0, -3.0]
    assert result.success_rate == 0.5


def test_the_same_generator_gives_the_same_evaluation():
    task = replace(cart_pole_swing_up("torch"), episode_steps=20)
    noise = SplineNoise(task.control_limits)
    first, again, other = (
        evaluate(noise, task, episodes=3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.returns, again.returns)
    assert (first.iqm, first.interval) == (again.iqm, again.interval)
    assert not np.array_equal(first.returns, other.returns)
    recorded = record(task, noise, 3, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(first.returns, [t.rewards.sum() for t in recorded])


def test_an_evaluation_prints_as_one_line():
    task = standing(1.0, 2.0, 3.0, 1000.0, success=lambda xs: (xs[..., 0] < 3.5).all(-1))
    text = str(evaluate(Still(), task, episodes=4))
    assert re.fullmatch(r"return -5 \(IQM of 4, 95 % interval -\d+(\.\d+)? to -\d+(\.\d+)?\), success 75 %", text), text
    evaluation = Evaluation(np.array([-1.23456]), -1.23456, (-1.23456, -1.23456), None, [])
    assert str(evaluation) == "return -1.235 (IQM of 1, 95 % interval -1.235 to -1.235)"


def test_an_evaluation_needs_an_episode():
    with pytest.raises(ValueError, match="episodes and steps must be at least 1, got 0"):
        evaluate(Still(), standing(1.0), episodes=0)


@pytest.mark.filterwarnings("ignore:MuJoCo cannot draw here")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # imageio's reader
def test_the_first_episode_as_a_video(tmp_path):
    """Drawn by MuJoCo where it can, else by matplotlib, which says so."""
    import imageio.v2 as imageio

    task = replace(cart_pole_swing_up("torch"), episode_steps=12)
    path = tmp_path / "videos" / "first.mp4"
    evaluate(SplineNoise(task.control_limits), task, episodes=2, video=path)
    with imageio.get_reader(path) as video:
        assert video.get_meta_data()["fps"] == 25
        frames = [np.array(frame) for frame in video]
    assert len(frames) == 13
    assert frames[0].shape == (360, 640, 3)


@pytest.mark.parametrize("actor", [ICEM(), lambda x: x, MPC])
def test_what_does_not_act_is_refused_with_the_fix(actor):
    task = pendulum_swing_up(backend="torch")
    for call in (lambda: evaluate(actor, task, episodes=1), lambda: record_env(make_env(task), actor, 1)):
        with pytest.raises(TypeError, match=r"an actor has acts_on, init and act .* a planner acts inside"):
            call()
