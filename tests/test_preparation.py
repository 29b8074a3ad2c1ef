import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.preparation import (
    convert_units,
    drop_duplicates,
    estimate_velocities,
    fill_gaps,
    resample,
    shift_latency,
)
from dynamics.trajectories import RawLog, Trajectory

uneven_steps = st.lists(st.floats(0.05, 0.15), min_size=8, max_size=30)


def integrator(steps, latency=0.0, seed=0):
    """The exact response of ẋ = u(t - latency) to a held random command u, on a grid with the given steps."""
    rng = np.random.default_rng(seed)
    t = np.concatenate([[0.0], np.cumsum(steps)])
    u = rng.normal(size=(len(steps), 2))
    integral = np.vstack([np.zeros(2), np.cumsum(u * np.diff(t)[:, None], axis=0)])
    x = np.column_stack([np.interp(t - latency, t, column) for column in integral.T])
    return Trajectory(x, u, states=x, rewards=rng.normal(size=len(u)), times=t, source="log")


def wheel(angle, t, **changes):
    names = {"observations": ["x", "heading"]}
    units = {"observations": ["m", "rad"]}
    observations = np.column_stack([0.5 * t, angle])
    return Trajectory(observations, np.zeros((len(t) - 1, 1)), times=t, names=names, units=units, **changes)


# ---------------------------------------------------------------------------------------------------------------------
# resample


@settings(derandomize=True, deadline=None)
@given(uneven_steps, st.floats(0.03, 0.4))
def test_resampling_keeps_the_impulse_of_the_controls(steps, dt):
    new = resample(integrator(steps), dt)
    assert new.dt == pytest.approx(dt, rel=1e-12)
    # The integral of the command over a new step, from the mean control, is what the uneven steps add up to.
    t = np.concatenate([[0.0], np.cumsum(steps)])
    integral = np.vstack([np.zeros(2), np.cumsum(integrator(steps).controls * np.diff(t)[:, None], axis=0)])
    expected = np.column_stack([np.interp(new.times, t, column) for column in integral.T])
    np.testing.assert_allclose(np.diff(expected, axis=0), dt * new.controls, atol=1e-9)
    np.testing.assert_allclose(new.observations, expected, atol=1e-12)
    assert new.times[-1] <= t[-1] + 1e-9 < new.times[-1] + dt + 2e-9


def test_controls_within_one_old_step_are_taken_over_exactly():
    old = integrator([0.1] * 10)
    new = resample(old, 0.025)
    np.testing.assert_array_equal(new.controls, np.repeat(old.controls, 4, axis=0))
    np.testing.assert_array_equal(resample(old, 0.1).controls, old.controls)
    np.testing.assert_allclose(resample(new, 0.1).observations, old.observations, atol=1e-14)


def test_rewards_are_shared_out_in_time():
    old = integrator([0.1] * 10)
    assert resample(old, 0.2).rewards == pytest.approx(old.rewards.reshape(5, 2).sum(axis=1))
    assert resample(old, 0.025).rewards.sum() == pytest.approx(old.rewards.sum())


def test_cubic_interpolation_is_exact_on_a_cubic_and_linear_is_not():
    t = np.linspace(0, 2, 21)
    trajectory = Trajectory((t**3)[:, None], np.zeros((20, 1)), times=t)
    cubic, linear = (resample(trajectory, 0.03, method=method) for method in ("cubic", "linear"))
    np.testing.assert_allclose(cubic.observations[:, 0], cubic.times**3, atol=1e-13)
    assert np.abs(linear.observations[:, 0] - linear.times**3).max() > 1e-3


@pytest.mark.parametrize(
    ("lower", "unit", "period"), [(-np.pi, "rad", 2 * np.pi), (0, "rad", 2 * np.pi), (-180, "deg", 360)]
)
@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_angles_are_interpolated_the_shorter_way_round_within_their_range(lower, unit, period, method):
    t = np.linspace(0, 4, 41)
    truth = period * 0.9 * t
    wrapped = (truth - lower) % period + lower
    trajectory = wheel(wrapped, t).replace(units={"observations": ["m", unit]})
    new = resample(trajectory, 0.03, method=method, angles=["heading"])
    error = new.observations[:, 1] - period * 0.9 * new.times
    np.testing.assert_allclose(error - period * np.round(error / period), 0, atol=1e-9 * period)
    assert new.observations[:, 1].min() >= lower
    assert new.observations[:, 1].max() <= lower + period
    naive = resample(trajectory, 0.03, method=method).observations[:, 1] - new.observations[:, 1]
    assert np.abs(naive).max() > 0.1 * period


def test_an_angle_that_counts_revolutions_stays_as_it_is():
    t = np.linspace(0, 4, 41)
    new = resample(wheel(5 * t, t), 0.03, angles=["heading"])
    np.testing.assert_allclose(new.observations[:, 1], 5 * new.times, atol=1e-12)


def test_a_terminated_end_survives_only_if_it_is_on_the_new_grid():
    old = integrator([0.1] * 10).replace(terminated=True)
    kept, cut = resample(old, 0.05), resample(old, 0.3)
    assert (kept.terminated, kept.truncated, kept.num_steps) == (True, False, 20)
    assert (cut.terminated, cut.truncated, cut.num_steps) == (False, True, 3)
    assert cut.source == "log | resample(dt=0.3, linear)"


def test_resample_refuses_gaps_short_logs_and_unknown_names():
    gap = integrator([0.1, 0.1, 0.1, 0.9, 0.1])
    with pytest.raises(ValueError, match=r"step 3 of .* lasts 0\.9 s; filling it would invent data.*max_gap=0\.9"):
        resample(gap, 0.05)
    assert resample(gap, 0.05, max_gap=1.0).num_steps == 26
    with pytest.raises(ValueError, match=r"lasts 1\.3 s, which is shorter than one step of 2 s"):
        resample(gap, 2.0)
    with pytest.raises(ValueError, match=r"no column 'yaw' in observations and states; there are y0, y1, x0, x1"):
        resample(gap, 0.1, angles=["yaw"], max_gap=1.0)
    with pytest.raises(ValueError, match="positive number of seconds, got -1"):
        resample(gap, -1)
    with pytest.raises(ValueError, match="'linear' or 'cubic', got 'nearest'"):
        resample(gap, 0.1, method="nearest")


# ---------------------------------------------------------------------------------------------------------------------
# estimate_velocities


def test_velocities_of_a_parabola_are_exact_and_labelled():
    t = np.linspace(0, 1, 51)
    heading = np.angle(np.exp(1j * (20 * t - 3 * t**2)))  # wraps three times
    new = estimate_velocities(wheel(heading, t), ["heading", "x"], angles=["heading"])
    assert new.names.observations == ("x", "heading", "heading_velocity", "x_velocity")
    assert new.units.observations == ("m", "rad", "rad/s", "m/s")
    np.testing.assert_allclose(new.observations[:, 2], 20 - 6 * t, atol=1e-10)
    np.testing.assert_allclose(new.observations[:, 3], 0.5, atol=1e-12)
    assert new.source == "estimate_velocities(heading, x; window=9)"


def test_the_stated_noise_of_the_estimate_is_right():
    rng = np.random.default_rng(0)
    t, sigma = 0.02 * np.arange(20_001), 0.01
    noisy = wheel(np.zeros_like(t), t).replace(observations=sigma * rng.normal(size=(len(t), 2)))
    for window_length in (5, 9, 15):
        velocity = estimate_velocities(noisy, ["x"], window_length=window_length).observations[:, 2]
        k = np.arange(window_length) - window_length // 2
        assert velocity.std() == pytest.approx(sigma / (0.02 * np.sqrt((k**2).sum())), rel=0.05)


def test_velocities_need_an_even_grid_and_a_window_that_fits():
    trajectory = integrator([0.1] * 6)
    with pytest.raises(ValueError, match="window_length=9 is more than the 7 rows"):
        estimate_velocities(trajectory, ["y0"])
    with pytest.raises(ValueError, match="must be odd and above polyorder, got 4 and 2"):
        estimate_velocities(trajectory, ["y0"], window_length=4)
    with pytest.raises(ValueError, match="no column 'y7' in observations; there are y0, y1"):
        estimate_velocities(trajectory, ["y7"], window_length=5)
    with pytest.raises(ValueError, match="no column 'y1' in the columns to differentiate"):
        estimate_velocities(trajectory, ["y0"], window_length=5, angles=["y1"])
    with pytest.raises(ValueError, match="Resample it first"):
        estimate_velocities(integrator([0.1] * 5 + [0.2]), ["y0"], window_length=5)


# ---------------------------------------------------------------------------------------------------------------------
# shift_latency


@settings(derandomize=True, deadline=None)
@given(uneven_steps, st.floats(0, 0.3))
def test_after_the_shift_each_control_explains_its_own_step(steps, latency):
    new = shift_latency(integrator(steps, latency), latency)
    assert new.times[0] == pytest.approx(latency, abs=0.15 + 1e-9)
    np.testing.assert_allclose(np.diff(new.states, axis=0), np.diff(new.times)[:, None] * new.controls, atol=1e-9)


def test_a_latency_of_whole_steps_moves_the_rows():
    old = integrator([0.1] * 8)
    new = shift_latency(old, 0.3)
    np.testing.assert_array_equal(new.controls, old.controls[:-3])
    np.testing.assert_array_equal(new.observations, old.observations[3:])
    np.testing.assert_array_equal(new.rewards, old.rewards[3:])
    assert new.source == "log | shift_latency(0.3 s)"
    np.testing.assert_array_equal(shift_latency(old, 0.0).controls, old.controls)


def test_impossible_latencies():
    with pytest.raises(ValueError, match=r"A latency of 0\.8 s leaves no step"):
        shift_latency(integrator([0.1] * 8), 0.8)
    with pytest.raises(ValueError, match=r"must not be negative, got -0\.1 s"):
        shift_latency(integrator([0.1] * 8), -0.1)


# ---------------------------------------------------------------------------------------------------------------------
# convert_units


def test_units_are_converted_wherever_the_column_occurs():
    trajectory = Trajectory(
        [[180.0, 1.0], [90.0, 2.0]],
        [[60.0]],
        states=[[90.0], [45.0]],
        dt=0.1,
        names={"observations": ["heading", "x"], "controls": ["engine"], "states": ["heading"]},
        units={"observations": ["deg", "m"], "controls": ["rpm"], "states": ["deg"]},
    )
    new = convert_units(trajectory, {"heading": "rad", "engine": "rad/s", "x": "mm"})
    np.testing.assert_allclose(new.observations, [[np.pi, 1000], [np.pi / 2, 2000]], rtol=1e-15)
    np.testing.assert_allclose(new.controls, [[2 * np.pi]], rtol=1e-15)
    np.testing.assert_allclose(new.states, [[np.pi / 2], [np.pi / 4]], rtol=1e-15)
    assert (new.units.observations, new.units.controls, new.units.states) == (("rad", "mm"), ("rad/s",), ("rad",))
    back = convert_units(new, {"heading": "deg", "engine": "rpm", "x": "m"})
    np.testing.assert_allclose(back.observations, trajectory.observations, rtol=1e-15)


def test_no_columns_leave_the_log_as_it_is():
    log = wheel(np.zeros(5), 0.1 * np.arange(5))
    assert estimate_velocities(log, [], window_length=3) is log
    assert convert_units(log, {}) is log


def test_a_name_is_no_sequence_of_names():
    log = wheel(np.zeros(20), 0.1 * np.arange(20))
    with pytest.raises(ValueError, match=r"sequence of names, got 'heading'; write \['heading'\]"):
        resample(log, 0.1, angles="heading")
    with pytest.raises(ValueError, match=r"sequence of names, got 'heading'; write \['heading'\]"):
        estimate_velocities(log, "heading")


def test_units_that_cannot_be_converted():
    trajectory = wheel(np.zeros(5), np.arange(5.0))
    with pytest.raises(
        ValueError, match=r"'x' cannot be converted from 'm' to 's'. Known units, by dimension: rad, deg"
    ):
        convert_units(trajectory, {"x": "s"})
    with pytest.raises(ValueError, match=r"'u0' has no unit. State it first: trajectory.replace\(units="):
        convert_units(trajectory, {"u0": "N"})
    with pytest.raises(ValueError, match="no column 'y' in the log; there are x, heading, u0"):
        convert_units(trajectory, {"y": "m"})


# ---------------------------------------------------------------------------------------------------------------------
# Repairs


def test_of_rows_with_one_stamp_the_last_stays_with_the_control_that_then_acts():
    log = RawLog(np.arange(5.0)[:, None], [[10], [11], [12], [13]], rewards=[0, 1, 2, 3], times=[0, 1, 1, 2, 2])
    new = drop_duplicates(log).trajectory()
    np.testing.assert_array_equal(new.times, [0, 1, 2])
    np.testing.assert_array_equal(new.observations[:, 0], [0, 2, 4])
    np.testing.assert_array_equal(new.controls[:, 0], [10, 12])
    np.testing.assert_array_equal(new.rewards, [0, 2])
    assert new.source == "drop_duplicates(2 rows)"
    assert drop_duplicates(new) is new


def test_missing_values_are_interpolated_and_controls_held():
    y = np.column_stack([[0, 1, np.nan, np.nan, 4, 5.0], [3.0, np.nan, -3.0, -2.9, np.nan, -2.7]])
    log = RawLog(y, [[1], [np.nan], [3], [np.nan], [np.nan]], states=y[:, :1], dt=0.1, source="log")
    new = fill_gaps(log, angles=["y1"]).trajectory()
    np.testing.assert_allclose(new.observations[:, 0], np.arange(6), atol=1e-14)
    np.testing.assert_allclose(new.states[:, 0], np.arange(6), atol=1e-14)
    np.testing.assert_array_equal(new.controls[:, 0], [1, 1, 3, 3, 3])
    assert np.abs(new.observations[1, 1]) == pytest.approx(np.pi)  # half way from 3 to -3 round the circle
    assert new.observations[4, 1] == pytest.approx(-2.8)
    known = np.isfinite(y)
    np.testing.assert_array_equal(new.observations[known], y[known])
    assert new.source == "log | fill_gaps(4 in observations, 3 in controls, 2 in states)"
    assert fill_gaps(new) is new


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([np.nan, 1, 2, 3, 4, 5, 6, 7, 8], r"observations, column 'y0': values are missing at the start"),
        ([0, 1, 2, 3, 4, 5, 6, 7, np.nan], r"observations, column 'y0': values are missing at the end"),
        ([0, 1, *[np.nan] * 6, 8], r"nothing valid for 0\.7 s after row 1, more than 0\.5 s.*max_gap=0\.7"),
        ([np.nan] * 9, r"missing at the start"),
    ],
)
def test_gaps_that_cannot_be_filled(column, message):
    log = RawLog(np.array(column)[:, None], np.zeros((8, 1)), dt=0.1)
    with pytest.raises(ValueError, match=message):
        fill_gaps(log)


def test_gaps_in_controls_and_times():
    log = RawLog(np.zeros((9, 1)), [[1], *[[np.nan]] * 7], dt=0.1)
    with pytest.raises(ValueError, match=r"controls, column 'u0': nothing valid for 0\.7 s after row 0"):
        fill_gaps(log)
    np.testing.assert_array_equal(fill_gaps(log, max_gap=0.8).controls, np.ones((8, 1)))
    with pytest.raises(ValueError, match="time stamps are missing or run backwards"):
        fill_gaps(log.replace(times=[0, 1, 2, np.nan, 4, 5, 6, 7, 8]))
