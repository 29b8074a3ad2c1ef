import copy
import pickle

import numpy as np
import pytest

from dynamics.trajectories import (
    Labels,
    RawLog,
    Trajectory,
    check_compatible,
    state_source,
    summarize,
    transitions,
    windows,
)


def make(num_steps=5, *, source="run", seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "observations": rng.normal(size=(num_steps + 1, 3)),
        "controls": rng.normal(size=(num_steps, 2)),
        "states": rng.normal(size=(num_steps + 1, 4)),
        "rewards": rng.normal(size=num_steps),
        "source": source,
        **changes,
    }
    if "times" not in fields:
        fields.setdefault("dt", 0.02)
    return Trajectory(**fields)


def test_arrays_are_read_only_float64_copies():
    observations = np.arange(6, dtype=np.int32).reshape(3, 2)
    trajectory = Trajectory(observations, np.zeros((2, 1)), dt=0.1)
    observations[0, 0] = 99
    assert trajectory.observations.dtype == np.float64
    assert trajectory.observations[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        trajectory.observations[0, 0] = 1.0
    with pytest.raises(AttributeError):
        trajectory.source = "other"


def test_labels_have_defaults_and_may_be_given_by_group():
    trajectory = make(names={"controls": ["left", "right"]}, units={"controls": ("N", "N")})
    assert trajectory.names == Labels(("y0", "y1", "y2"), ("left", "right"), ("x0", "x1", "x2", "x3"))
    assert trajectory.units == Labels(("", "", ""), ("N", "N"), ("", "", "", ""))
    renamed = trajectory.replace(names={"observations": ["a", "b", "c"]})
    assert renamed.names.controls == ("left", "right")
    assert renamed.names.observations == ("a", "b", "c")
    assert trajectory.replace(states=None).names.states == ()


@pytest.mark.parametrize("dt", [0.02, 0.05, 0.001, 1e-6, 0.1])
def test_dt_comes_back_as_given(dt):
    assert make(500, dt=dt).dt == dt


def test_times_with_a_large_offset_still_count_as_uniform():
    start = 1.7e9  # seconds since 1970, where float64 resolves 0.24 µs
    assert make(100, times=start + 1e-4 * np.arange(101)).dt == pytest.approx(1e-4, rel=1e-4)


def test_dt_of_an_uneven_grid_names_the_worst_step_and_the_fix():
    trajectory = make(3, times=[0.0, 0.1, 0.2, 0.35])
    assert not trajectory.is_uniform()
    assert trajectory.is_uniform(tolerance=0.5)
    with pytest.raises(ValueError, match=r"step 2 lasts 0\.15 s.*Resample it first: resample\(trajectory, dt=0\.1\)"):
        _ = trajectory.dt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((5, 3))}, r"controls must have 4 rows, got 5: there are 5 observations"),
        ({"states": np.zeros((5, 4))}, r"states must have 6 rows, got 5"),
        ({"rewards": np.zeros(6)}, r"rewards must have 5 rows, got 6"),
        ({"times": np.arange(5.0)}, r"times must have 6 rows, got 5"),
        ({"observations": np.zeros(6)}, r"observations must have shape \(rows, columns\), got \(6,\).*\[:, None\]"),
        ({"controls": np.zeros((5, 2, 1))}, r"controls must have shape \(rows, columns\), got \(5, 2, 1\)"),
        (
            {"observations": [[1.0], [1.0, 2.0]]},
            r"observations must be one rectangular array of real numbers, got list",
        ),
        ({"controls": [["a", "b"]] * 5}, r"controls must be one rectangular array of real numbers"),
        ({"observations": np.zeros((0, 3)), "controls": np.zeros((0, 2))}, r"at least one row and one column"),
        ({"times": [0, 0.1, 0.2, 0.2, 0.3, 0.4]}, r"times\[3\] = 0\.2 s comes after times\[2\].*1 such rows.*drop_dup"),
        ({"times": [0, 0.1, 0.2, 0.1, 0.3, 0.4]}, r"times\[3\] = 0\.1 s comes after times\[2\] = 0\.2 s"),
        ({"times": [0, 0.1, np.nan, 0.3, 0.4, 0.5]}, r"times, column 'times', row 2 is nan"),
        ({"dt": 0.0}, r"dt must be a positive number of seconds, got 0\.0"),
        ({"dt": None}, r"Give times or dt, one of the two; got neither"),
        ({"dt": 0.1, "times": np.arange(6.0)}, r"Give times or dt, one of the two; got both"),
        ({"rewards": [0, 1, np.inf, 0, 0]}, r"rewards, column 'rewards', row 2 is inf; 1 of 5"),
        ({"terminated": np.zeros(5, bool)}, r"terminated is one bool about the last step, got ndarray"),
        ({"names": {"observations": ["a", "b"]}}, r"names of observations has 2 entries .* for 3 columns"),
        ({"names": {"observations": ["a", "b", "a"]}}, r"names of observations must differ, but 'a' appears twice"),
        ({"names": {"actions": ["a", "b"]}}, r"names has the unknown key 'actions'; known are observations, controls"),
        ({"units": {"controls": "mm"}}, r"units of controls must be a sequence of str, got 'mm'"),
        ({"names": ["a", "b", "c"]}, r"names must be a mapping such as \{'observations': .* got \['a', 'b', 'c'\]"),
    ],
)
def test_malformed_input_is_refused_with_the_place_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_nan_is_refused_by_name_and_row_but_a_raw_log_takes_it():
    observations = np.zeros((6, 2))
    observations[3:5, 1] = np.nan
    fields = {"controls": np.zeros((5, 1)), "dt": 0.1, "names": {"observations": ("x", "theta")}}
    with pytest.raises(ValueError, match=r"column 'theta', row 3 is nan; 2 of 12 values.*repair=\[fill_gaps\]"):
        Trajectory(observations, **fields)
    log = RawLog(observations, **fields)
    with pytest.raises(ValueError, match="column 'theta', row 3 is nan"):
        log.trajectory()
    assert log.replace(observations=np.ones((6, 2))).trajectory().names.observations == ("x", "theta")


def test_a_single_observation_is_valid_and_has_no_dt():
    trajectory = Trajectory(np.zeros((1, 2)), np.zeros((0, 1)), dt=0.1)
    assert len(trajectory) == trajectory.num_steps == 0
    assert trajectory.is_uniform()
    assert [piece.num_steps for piece in trajectory.segments(3)] == [0]
    with pytest.raises(ValueError, match="single observation"):
        _ = trajectory.dt


def test_repr_is_one_line_that_says_what_is_inside():
    text = repr(make(200, truncated=True))
    assert text == (
        "Trajectory(T=200, t=0..4 s, observations=(y0, y1, y2), controls=(u0, u1), states=(x0, x1, x2, x3), rewards, "
        "truncated, source='run')"
    )


def test_copy_and_pickle_keep_everything():
    trajectory = make(terminated=True)
    for twin in (copy.deepcopy(trajectory), pickle.loads(pickle.dumps(trajectory)), trajectory.replace()):
        np.testing.assert_array_equal(twin.states, trajectory.states)
        assert (twin.names, twin.terminated, twin.dt) == (trajectory.names, True, trajectory.dt)


def test_segments_lose_no_step_and_only_the_last_one_ends_as_the_whole_did():
    trajectory = make(8, terminated=True)
    pieces = trajectory.segments(3)
    assert [len(piece) for piece in pieces] == [3, 3, 2]
    assert [(piece.terminated, piece.truncated) for piece in pieces] == [(False, True), (False, True), (True, False)]
    np.testing.assert_array_equal(np.concatenate([p.controls for p in pieces]), trajectory.controls)
    np.testing.assert_array_equal(np.concatenate([p.rewards for p in pieces]), trajectory.rewards)
    np.testing.assert_array_equal(pieces[0].observations[-1], pieces[1].observations[0])
    assert pieces[1].times[0] == trajectory.times[3]
    assert pieces[2].source == "run[6:8]"
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        trajectory.segments(0)
    with pytest.raises(ValueError, match=r"slice\(2, 9\) is outside the steps 0\.\.8"):
        trajectory.slice(2, 9)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make(source="b", observations=np.zeros((6, 2))), r"dimension of observations is 3 in the first and 2"),
        (make(source="b", names={"controls": ("a", "b")}), r"names of controls is \('u0', 'u1'\)"),
        (make(source="b", units={"states": ("m",) * 4}), r"units of states"),
        (make(source="b", dt=0.021), r"dt is 0\.02 in the first and 0\.021 in the second\. Resample both"),
    ],
)
def test_incompatible_trajectories_are_both_named(other, message):
    with pytest.raises(ValueError, match=r"trajectory 0 \(a\) and trajectory 1 \(b\) do not go together: " + message):
        check_compatible([make(source="a"), other])


def test_an_empty_collection_is_refused():
    for function in (check_compatible, summarize, transitions):
        with pytest.raises(ValueError, match="the collection is empty"):
            function([])
    with pytest.raises(ValueError, match="the collection is empty"):
        windows([], 2)


def test_what_is_no_collection_of_trajectories_is_refused():
    log = Trajectory(np.zeros((3, 1)), np.zeros((2, 1)), dt=0.1)
    raw = RawLog(np.zeros((3, 1)), np.zeros((2, 1)), dt=0.1)
    for function in (check_compatible, summarize, transitions):
        with pytest.raises(
            TypeError, match=r"a single Trajectory came where a sequence of them belongs; put it in a list"
        ):
            function(log)
        with pytest.raises(TypeError, match=r"Entry 1 must be a Trajectory, got RawLog; take \.trajectory\(\) of it"):
            function([log, raw])
        with pytest.raises(TypeError, match=r"Entry 0 must be a Trajectory, got ndarray; make one with Trajectory\("):
            function([np.zeros((3, 1))])


def test_trajectories_with_and_without_states_or_steps_are_compatible():
    lone = Trajectory(np.zeros((1, 3)), np.zeros((0, 2)), dt=1.0)
    check_compatible([lone, make(), make(states=None)])


def test_summary_counts():
    text = summarize([make(5), make(7)])
    assert text == "2 trajectories, 12 steps, 0.24 s; observations (y0, y1, y2), controls (u0, u1), 2 with states"


def test_auto_takes_states_only_where_all_have_them():
    with_states, without = make(), make(states=None)
    assert state_source([with_states]) == "states"
    assert state_source([without]) == "observations"
    assert state_source([with_states, without], use="observations") == "observations"
    for use in ("auto", "states"):
        with pytest.raises(ValueError, match=r"1 of 2 trajectories have no states.*use='observations'"):
            state_source([with_states, without], use=use)
    with pytest.raises(ValueError, match="use must be"):
        state_source([with_states], use="state")


def test_transitions_never_cross_a_border():
    trajectories = [make(4, seed=1), make(0, seed=2), make(3, seed=3)]
    batch = transitions(trajectories)
    rows = [(i, k) for i, trajectory in enumerate(trajectories) for k in range(trajectory.num_steps)]
    assert batch.x.shape == (7, 4)
    for row, (i, k) in enumerate(rows):
        np.testing.assert_array_equal(batch.x[row], trajectories[i].states[k])
        np.testing.assert_array_equal(batch.u[row], trajectories[i].controls[k])
        np.testing.assert_array_equal(batch.x_next[row], trajectories[i].states[k + 1])
        assert batch.trajectory[row] == i


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_windows_are_consecutive_steps_of_one_trajectory(stride):
    trajectories = [make(6, seed=1), make(2, seed=2), make(3, seed=3)]
    batch = windows(trajectories, 3, stride=stride, use="observations")
    starts = [(i, k) for i, t in enumerate(trajectories) for k in range(0, t.num_steps - 2, stride)]
    assert batch.xs.shape == (len(starts), 4, 3)
    for row, (i, k) in enumerate(starts):
        np.testing.assert_array_equal(batch.xs[row], trajectories[i].observations[k : k + 4])
        np.testing.assert_array_equal(batch.us[row], trajectories[i].controls[k : k + 3])
        assert batch.trajectory[row] == i


def test_windows_longer_than_every_trajectory_are_refused():
    with pytest.raises(ValueError, match=r"No window of 9 steps: the longest of 2 trajectories has 6"):
        windows([make(6), make(2)], 9)
    with pytest.raises(ValueError, match="at least 1, got length=0, stride=1"):
        windows([make(6)], 0)
