"""The measured logs of an F1tenth car (Kochdumper and Bak, 2022): 41 runs of 3 s at 40 Hz, on real hardware."""

import os
from pathlib import Path

import numpy as np
import pytest

from dynamics.audit import audit
from dynamics.formats import read_logs, read_trajectories, write_trajectories
from dynamics.preparation import convert_units, estimate_velocities, resample
from dynamics.trajectories import check_compatible, transitions, windows

FOLDER = os.environ.get("MBRL_F1TENTH_DIR")
pytestmark = pytest.mark.skipif(not FOLDER, reason="MBRL_F1TENTH_DIR does not name the folder of the F1tenth logs")

LAYOUT = {
    "format": "csv",
    "files": {"observations": "trajectory.csv", "controls": "input.csv", "times": "time.csv"},
    "names": {"observations": ["x", "y", "heading", "speed"], "controls": ["steering", "speed_command"]},
    "units": {"observations": ["m", "m", "rad", "m/s"], "controls": ["rad", "m/s"]},
}


@pytest.fixture(scope="module")
def runs():
    return read_trajectories(Path(str(FOLDER)) / "measurement_*", **LAYOUT)


def test_all_runs_are_read_in_order(runs):
    check_compatible(runs)
    assert [Path(run.source).name for run in runs] == [f"measurement_{index}" for index in range(1, 42)]
    assert sum(run.num_steps + 1 for run in runs) == 4961
    assert {run.dt for run in runs} == {0.025}
    assert transitions(runs).x.shape == (41 * 120, 4)
    assert windows(runs, 50, stride=10).us.shape == (41 * 8, 50, 2)
    commands = [np.median(run.controls[:, 1]) for run in runs]
    assert commands[0:33] == [0.4] * 11 + [0.3] * 11 + [0.35] * 11


def test_the_audit_finds_the_constant_commands_and_nothing_else():
    report = audit(read_logs(Path(str(FOLDER)) / "measurement_*", **LAYOUT))
    straight = [1, 12, 23, *range(34, 42)]
    one_speed = [*range(6, 12), *range(17, 23), *range(28, 34)]
    expected = {(run, "controls: steering") for run in straight} | {
        (run, "controls: speed_command") for run in one_speed
    }
    assert {(int(f.source.rpartition("_")[2]), f.column) for f in report.findings} == expected
    assert {(f.kind, f.count, f.first) for f in report.findings} == {("constant", 120, 0)}
    assert len(str(report).splitlines()) == 3 + 2  # a line for each column, over all logs


def test_velocities_from_positions_agree_with_the_logged_speed(runs):
    """Position noise of 3 mm and a 15-sample window leave about 0.007 m/s of noise in each component."""
    errors = []
    for run in runs:
        estimated = estimate_velocities(run, ["x", "y"], window_length=15).observations[:, 4:]
        errors.append((np.hypot(*estimated.T) - run.observations[:, 3])[20:-8])  # after the start, inside the window
    errors = np.concatenate(errors)
    assert np.abs(np.median(errors)) < 0.005
    assert np.sqrt(np.mean(errors**2)) < 0.015


def test_resampling_to_half_the_rate_keeps_every_second_sample(runs):
    for run in runs:
        slow = resample(run, 0.05, angles=["heading"])
        assert (slow.num_steps, slow.dt) == (60, 0.05)
        np.testing.assert_allclose(slow.observations, run.observations[::2], atol=1e-12)
        np.testing.assert_allclose(slow.controls, run.controls.reshape(60, 2, 2).mean(axis=1), atol=1e-12)


def test_preparation_leaves_a_trail_and_survives_a_file(runs, tmp_path):
    run = convert_units(resample(runs[4], 0.05, angles=["heading"]), {"heading": "deg"})
    assert run.source.endswith("measurement_5 | resample(dt=0.05, linear) | convert_units(heading in deg)")
    assert run.observations[:, 2].min() == pytest.approx(np.rad2deg(-0.64588), abs=0.5)
    write_trajectories(tmp_path / "car-v0", [run])
    (again,) = read_trajectories(tmp_path / "car-v0")
    np.testing.assert_array_equal(again.observations, run.observations)
    assert (again.source, again.units) == (run.source, run.units)
