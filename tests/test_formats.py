import json
import os
import shutil
from functools import partial

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynamics.formats import TrajectoryFormatError, read_logs, read_trajectories, write_trajectories
from dynamics.preparation import drop_duplicates, fill_gaps
from dynamics.trajectories import Trajectory, transitions

FIELDS = ("observations", "controls", "states", "rewards", "times")
LABELS = ("names", "units", "terminated", "truncated", "source")
finite = st.floats(-1e12, 1e12)


@st.composite
def collections(draw):
    """One to three compatible trajectories with everything optional switched on or off."""
    ny, m, n = (draw(st.integers(1, 3)) for _ in range(3))
    with_states, with_rewards = draw(st.booleans()), draw(st.booleans())
    dt = draw(st.sampled_from([0.02, 1 / 3, 1e-3]))
    units = draw(st.lists(st.sampled_from(["", "m", "rad/s", "°"]), min_size=m, max_size=m))
    trajectories = []
    for _ in range(draw(st.integers(1, 3))):
        T = draw(st.integers(1, 4))
        trajectory = Trajectory(
            draw(arrays(float, (T + 1, ny), elements=finite)),
            draw(arrays(float, (T, m), elements=finite)),
            states=draw(arrays(float, (T + 1, n), elements=finite)) if with_states else None,
            rewards=draw(arrays(float, T, elements=finite)) if with_rewards else None,
            times=draw(st.floats(0, 100)) + dt * np.arange(T + 1),
            terminated=draw(st.booleans()),
            truncated=draw(st.booleans()),
            names={"controls": [f"motor {i}" for i in range(m)]},
            units={"controls": units},
            source=draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)),
        )
        trajectories.append(trajectory)
    return trajectories


def assert_same(read, written):
    assert len(read) == len(written)
    for one, other in zip(read, written, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
        for field in LABELS:
            assert getattr(one, field) == getattr(other, field)


@pytest.mark.parametrize("name", ["logs.npz", "logs-v0"])
@settings(derandomize=True, deadline=None, max_examples=40)
@given(collections())
def test_what_was_written_comes_back_exactly(tmp_path_factory, name, trajectories):
    path = tmp_path_factory.mktemp("round") / name
    write_trajectories(path, trajectories)
    assert_same(read_trajectories(path), trajectories)


def sample(num_steps=4, seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "observations": rng.normal(size=(num_steps + 1, 2)),
        "controls": rng.normal(size=(num_steps, 1)),
        "rewards": rng.normal(size=num_steps),
        "dt": 0.05,
        "truncated": True,
        "source": f"sample {seed}",
    }
    return Trajectory(**{**fields, **changes})


def error_of(path, **options):
    """The text of the one error, after checking that it names the file and leaves it unchanged."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    before = {file: file.read_bytes() for file in files}
    with pytest.raises(TrajectoryFormatError) as caught:
        read_trajectories(path, **options)
    assert {file: file.read_bytes() for file in files} == before
    assert str(caught.value).startswith(str(caught.value.file))
    assert str(path) in caught.value.file
    assert caught.value.fix
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Choosing a format.


def test_an_unknown_format_lists_what_was_tried(tmp_path):
    path = tmp_path / "log.bin"
    path.write_bytes(b"\x00\x01")
    message = error_of(path)
    assert "tried: a Minari dataset" in message
    assert "format= one of minari, npz, csv, d4rl" in message
    with pytest.raises(ValueError, match="no reader for format 'rosbag'; known are minari, npz, csv, d4rl"):
        read_trajectories(path, format="rosbag")
    with pytest.raises(ValueError, match="no writer for format 'd4rl'; known are minari"):
        write_trajectories(path, [sample()], format="d4rl")
    with pytest.raises(ValueError, match=r"no writer for format '\.csv'"):
        write_trajectories(tmp_path / "a.csv", [sample()])


def test_a_missing_path_and_an_unknown_option_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file, folder or Minari dataset .*absent\.csv"):
        read_trajectories(tmp_path / "absent.csv")
    write_trajectories(tmp_path / "a.npz", [sample()])
    with pytest.raises(TypeError, match=r"Format 'npz' has no option 'delimiter'; it has keys, dt"):
        read_trajectories(tmp_path / "a.npz", delimiter=";")


def test_several_paths_and_labels_from_the_caller(tmp_path):
    for seed in range(2):
        write_trajectories(tmp_path / f"{seed}.npz", [sample(seed=seed)])
    names = {"observations": ("angle", "rate")}
    read = read_trajectories([tmp_path / "0.npz", tmp_path / "1.npz"], names=names, units={"controls": ["V"]})
    assert [t.source for t in read] == ["sample 0", "sample 1"]
    assert read[1].names.observations == ("angle", "rate")
    assert read[1].units.controls == ("V",)
    assert "names of observations has 3 entries" in error_of(
        tmp_path / "0.npz", names={"observations": ["a", "b", "c"]}
    )


# ---------------------------------------------------------------------------------------------------------------------
# npz


def test_a_plain_archive_with_its_own_keys(tmp_path):
    expected, path = sample(), tmp_path / "plain.npz"
    content = {"obs": expected.observations, "act": expected.controls, "infos/mode": np.ones(3)}
    np.savez(path, **content, dt=0.05, truncated=True)
    (read,) = read_trajectories(path, keys={"observations": "obs", "controls": "act"})
    np.testing.assert_array_equal(read.controls, expected.controls)
    np.testing.assert_array_equal(read.times, expected.times)
    assert (read.rewards, read.truncated, read.source) == (None, True, str(path))


def test_many_trajectories_keep_their_order(tmp_path):
    trajectories = [sample(seed=seed) for seed in range(12)]
    write_trajectories(tmp_path / "many.npz", trajectories)
    assert [t.source for t in read_trajectories(tmp_path / "many.npz")] == [t.source for t in trajectories]


def test_npz_bytes_depend_on_the_content_only(tmp_path):
    for name in ("a.npz", "new/b.npz"):
        write_trajectories(tmp_path / name, [sample()])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "new" / "b.npz").read_bytes()
    with pytest.raises(ValueError, match="the collection is empty"):
        write_trajectories(tmp_path / "none.npz", [])
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        write_trajectories(tmp_path / "a.npz", [sample()])
    write_trajectories(tmp_path / "a.npz", [sample(seed=5)], overwrite=True)
    assert read_trajectories(tmp_path / "a.npz")[0].source == "sample 5"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"observations": np.zeros((5, 2))}, r"there is no array 'controls'. Say which one it is: keys="),
        ({"observations": np.zeros((5, 2)), "controls": np.zeros((4, 1))}, r"holds no time stamps. Pass dt="),
        (
            {"observations": np.zeros((5, 2)), "controls": np.zeros((5, 1)), "dt": 0.1},
            r"controls must have 4 rows, got 5",
        ),
        ({"observations": np.zeros((5, 2)), "controls": np.array([{}] * 4)}, r"not an .npz archive of plain arrays"),
        ({}, r"holds no arrays"),
    ],
)
def test_malformed_archives(tmp_path, content, message):
    np.savez(tmp_path / "bad.npz", **content)
    assert message in error_of(tmp_path / "bad.npz")


@pytest.mark.parametrize("size", [0, 10, 400])
def test_a_truncated_archive(tmp_path, size):
    write_trajectories(tmp_path / "a.npz", [sample(300)])
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:size])
    assert "it is truncated" in error_of(tmp_path / "a.npz")


def test_a_damaged_archive_and_an_array_that_is_none(tmp_path):
    path = tmp_path / "a.npz"
    write_trajectories(path, [sample(300)])
    content = bytearray(path.read_bytes())
    content[1000:1010] = bytes(10)
    path.write_bytes(content)
    assert "not an .npz archive of plain arrays, or it is truncated" in error_of(path)
    with open(path, "wb") as stream:
        np.save(stream, np.zeros(3))
    assert "not an .npz archive of plain arrays" in error_of(path)


# ---------------------------------------------------------------------------------------------------------------------
# CSV

HEADER = "t,x,v,force,reward\n"
ROWS = ["0.0,0.0,1.0,0.5,-1", "0.1,0.1,1.1,0.6,-2", "0.2,0.2,1.2,0.7,-3", "0.3,0.3,1.3,,"]
COLUMNS = {"time": "t", "observations": ["x", "v"], "controls": ["force"]}


def table(tmp_path, rows=ROWS, header=HEADER, name="run.csv"):
    path = tmp_path / name
    path.write_text(header + "\n".join(rows) + "\n")
    return path


def test_columns_by_name(tmp_path):
    (read,) = read_trajectories(table(tmp_path), rewards="reward", states=["v", "x"], **COLUMNS)
    np.testing.assert_array_equal(read.observations, [[0, 1], [0.1, 1.1], [0.2, 1.2], [0.3, 1.3]])
    np.testing.assert_array_equal(read.states, read.observations[:, ::-1])
    np.testing.assert_array_equal(read.controls, [[0.5], [0.6], [0.7]])
    np.testing.assert_array_equal(read.rewards, [-1, -2, -3])
    np.testing.assert_array_equal(read.times, [0.0, 0.1, 0.2, 0.3])
    assert read.names.observations == ("x", "v")
    assert (read.terminated, read.truncated) == (False, True)


def test_columns_by_index_without_a_header_and_stamps_in_milliseconds(tmp_path):
    rows = ["0;1;7", "20;2;8", "40;3;nan"]
    path = table(tmp_path, rows, header="", name="run.txt")
    (read,) = read_trajectories(path, time=0, time_unit="ms", observations=[1], controls=[2], delimiter=";")
    np.testing.assert_allclose(read.times, [0, 0.02, 0.04], rtol=1e-15)
    np.testing.assert_array_equal(read.controls, [[7], [8]])
    assert read.names.observations == ("y0",)


def test_one_file_may_hold_several_episodes(tmp_path):
    rows = ["a,0,1", "a,1,2", "b,5,3", "b,6,4", "b,7,5"]
    path = table(tmp_path, rows, header="run,x,u\n")
    read = read_trajectories(path, episode="run", observations=["x"], controls=["u"], dt=0.1)
    assert [len(trajectory) for trajectory in read] == [1, 2]
    assert read[1].source == f"{path}: episode b"
    np.testing.assert_array_equal(transitions(read).x_next[:, 0], [1, 6, 7])
    table(tmp_path, [*rows, "a,2,2"], header="run,x,u\n")
    message = error_of(path, episode="run", observations=["x"], controls=["u"], dt=0.1)
    assert "line 7: episode 'a' comes a second time; it began on line 2." in message


def test_a_folder_and_a_pattern_are_read_in_natural_order(tmp_path):
    for index in (10, 2, 1):
        table(tmp_path, name=f"run_{index}.csv")
    for path in (tmp_path, tmp_path / "run_*.csv"):
        sources = [trajectory.source for trajectory in read_trajectories(path, **COLUMNS)]
        assert sources == [str(tmp_path / f"run_{index}.csv") for index in (1, 2, 10)]
    with pytest.raises(TrajectoryFormatError, match="holds nothing that matches"):
        read_trajectories(tmp_path / "walk_*.csv", **COLUMNS)


def test_files_of_one_folder_make_one_trajectory(tmp_path):
    for name in ("log_1", "log_2"):
        (tmp_path / name).mkdir()
        table(tmp_path / name, ["1,2", "3,4", "5,6"], header="", name="y.csv")
        table(tmp_path / name, ["7", "8"], header="", name="u.csv")
        table(tmp_path / name, ["0", "0.5", "1"], header="", name="t.csv")
    files = {"observations": "y.csv", "controls": "u.csv", "times": "t.csv"}
    read = read_trajectories(tmp_path / "log_*", format="csv", files=files)
    assert [trajectory.source for trajectory in read] == [str(tmp_path / "log_1"), str(tmp_path / "log_2")]
    np.testing.assert_array_equal(read[0].observations, [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(read[0].controls, [[7], [8]])
    (chosen,) = read_trajectories(tmp_path / "log_1", files=files, observations=[1])
    np.testing.assert_array_equal(chosen.observations, [[2], [4], [6]])
    with pytest.raises(ValueError, match="files must name a file for 'states'"):
        read_trajectories(tmp_path / "log_*", files=files, states=[0])
    with pytest.raises(ValueError, match="files has the unknown key 'inputs'"):
        read_trajectories(tmp_path / "log_*", files={**files, "inputs": "u.csv"})
    assert "u.csv: is not there. With files=" in error_of(tmp_path / "log_1", files={**files, "controls": "no/u.csv"})
    with pytest.raises(TrajectoryFormatError, match=r"log_1: is a folder. Name its tables with files="):
        read_trajectories(tmp_path / "log_*", observations=[0], controls=[1])
    table(tmp_path / "log_2", ["7", "8", "9", "10"], header="", name="u.csv")
    assert "controls must have 2 rows, got 4" in error_of(tmp_path / "log_2", files=files)


@pytest.mark.parametrize(
    ("rows", "header", "options", "message"),
    [
        ([*ROWS[:2], "0.2,0.2,1.2"], HEADER, {}, "line 4: has 3 cells, line 1 has 5."),
        ([ROWS[0], "0.1,bad,1.1,0.6,-2", *ROWS[2:]], HEADER, {}, "line 3, column x: 'bad' is not a number."),
        (ROWS, HEADER, {"controls": ["thrust"]}, "has no columns named 'thrust'. Columns are t, x, v, force, reward."),
        (ROWS, HEADER, {"controls": [5]}, "has no column 5. Columns are t, x"),
        (ROWS, "", {}, "has no header, so there is no column 'x'. Give columns by index. It has columns 0 to 4."),
        (ROWS, HEADER.replace("v", "x"), {}, "has 2 columns named 'x'."),
        (ROWS, HEADER, {"time": None}, "holds no time stamps. Pass dt= with the seconds per step."),
        (ROWS, HEADER, {"dt": 0.05}, "dt=0.05 s was asked for, but the time stamps step by 0.1 s."),
        ([ROWS[0], ROWS[0], *ROWS[1:]], HEADER, {}, "times[1] = 0 s comes after times[0] = 0 s"),
        ([ROWS[0], "0.1,,1.1,0.6,-2", *ROWS[2:]], HEADER, {}, "column 'x', row 1 is nan; 1 of 8 values"),
        ([ROWS[0], ROWS[2], ROWS[1]], HEADER, {}, "cut the log there, or sort it."),
        (["0;1;2", "1;2;3"], "t;x;force", {}, "say what separates them: delimiter=."),
        ([], HEADER, {}, "holds no rows of numbers."),
        ([], "", {}, "holds no rows of numbers."),
    ],
)
def test_malformed_tables(tmp_path, rows, header, options, message):
    assert message in error_of(table(tmp_path, rows, header), **{**COLUMNS, **options})


def test_a_table_that_is_not_text(tmp_path):
    (tmp_path / "run.csv").write_bytes(b"t,x\n0,1\n\xff\xfe,1\n")
    assert "is not text" in error_of(tmp_path / "run.csv", observations=["x"], controls=["t"], dt=0.1)


def test_a_first_row_of_missing_values_is_no_header(tmp_path):
    path = table(tmp_path, [",", "1,2", "3,4"], header="")
    (log,) = read_logs(path, observations=[0], controls=[1], dt=0.1)
    np.testing.assert_array_equal(log.observations, [[np.nan], [1], [3]])


@pytest.mark.parametrize("pattern", ["", "run_*.csv"])
def test_of_many_files_the_error_names_one(tmp_path, pattern):
    table(tmp_path, name="run_0.csv")
    bad = table(tmp_path, [ROWS[0], "0.1,,1.1,0.6,-2", *ROWS[2:]], name="run_1.csv")
    with pytest.raises(TrajectoryFormatError, match="column 'x', row 1 is nan") as caught:
        read_trajectories(tmp_path / pattern, **COLUMNS)
    assert (caught.value.file, caught.value.place) == (str(bad), "")


def test_columns_must_be_said_and_options_be_known(tmp_path):
    with pytest.raises(ValueError, match="Say which columns are which"):
        read_trajectories(table(tmp_path))
    with pytest.raises(ValueError, match=r"got 'force'; write controls=\['force'\]"):
        read_trajectories(table(tmp_path), **{**COLUMNS, "controls": "force"})
    with pytest.raises(ValueError, match="time_unit must be one of s, ms, us, ns, got 'min'"):
        read_trajectories(table(tmp_path), time_unit="min", **COLUMNS)


def test_repairs_happen_when_asked_and_are_written_down(tmp_path):
    path = table(tmp_path, [ROWS[0], ROWS[0], "0.1,,1.1,,-2", *ROWS[2:]])
    content = path.read_bytes()
    (read,) = read_trajectories(path, repair=[drop_duplicates, partial(fill_gaps, max_gap=0.3)], **COLUMNS)
    np.testing.assert_allclose(read.observations[:, 0], [0, 0.1, 0.2, 0.3], rtol=1e-15)
    np.testing.assert_array_equal(read.controls[:, 0], [0.5, 0.5, 0.7])
    assert read.source == f"{path} | drop_duplicates(1 rows) | fill_gaps(1 in observations, 1 in controls)"
    assert path.read_bytes() == content


# ---------------------------------------------------------------------------------------------------------------------
# D4RL


def d4rl(path, drop=(), **changes):
    """Three episodes: 3 steps with a terminal state, 2 steps with a time-out, 1 step cut by the end of the file."""
    y = [np.arange(4.0), 10 + np.arange(3.0), 20 + np.arange(2.0)]
    content = {
        "observations": np.concatenate([part[:-1] for part in y])[:, None],
        "next_observations": np.concatenate([part[1:] for part in y])[:, None],
        "actions": np.arange(6, dtype=np.float32)[:, None],
        "rewards": -np.arange(6.0),
        "terminals": np.array([0, 0, 1, 0, 0, 0], bool),
        "timeouts": np.array([0, 0, 0, 0, 1, 0], bool),
        "infos/qpos": np.arange(6.0)[:, None],
        **changes,
    }
    with h5py.File(path, "w") as file:
        for key, array in content.items():
            if key not in drop:
                file[key] = array
    return path


def test_d4rl_with_successors_keeps_every_step(tmp_path):
    read = read_trajectories(d4rl(tmp_path / "a.hdf5"), dt=0.1)
    assert [len(trajectory) for trajectory in read] == [3, 2, 1]
    assert [(t.terminated, t.truncated) for t in read] == [(True, False), (False, True), (False, True)]
    np.testing.assert_array_equal(read[1].observations[:, 0], [10, 11, 12])
    np.testing.assert_array_equal(np.concatenate([t.controls for t in read])[:, 0], np.arange(6))
    np.testing.assert_array_equal(read[0].rewards, [0, -1, -2])


def test_d4rl_without_successors_drops_the_last_steps_only_when_told_to(tmp_path):
    path = d4rl(tmp_path / "a.h5", drop=["next_observations"])
    assert "the last step of each of 3 episodes is incomplete. Pass last_step='drop'" in error_of(path, dt=0.1)
    read = read_trajectories(path, dt=0.1, last_step="drop")
    assert [len(trajectory) for trajectory in read] == [2, 1, 0]
    assert [(t.terminated, t.truncated) for t in read] == [(False, True)] * 3
    assert read[0].source == f"{path}:0 (last step dropped)"
    np.testing.assert_array_equal(read[1].observations[:, 0], [10, 11])


def test_d4rl_states_have_no_successor(tmp_path):
    path = d4rl(tmp_path / "a.hdf5")
    assert "states have no successor" in error_of(path, dt=0.1, states=["infos/qpos"])
    read = read_trajectories(path, dt=0.1, states=["infos/qpos", "infos/qpos"], last_step="drop")
    np.testing.assert_array_equal(read[1].states, [[3, 3], [4, 4]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": ["actions"]}, "there is no array 'actions'."),
        ({"drop": ["rewards"]}, "there is no array 'rewards'."),
        ({"drop": ["timeouts", "next_observations"]}, "there is no array 'timeouts'."),
        ({"drop": ["timeouts"]}, "row 4: next_observations is not the observation of row 5 (1 such rows in all)."),
        ({"rewards": np.zeros(5)}, "rewards: 5 rows, but 'observations' has 6."),
        ({"rewards": np.float64(1.0)}, "rewards: holds float64 of shape ()."),
        ({"terminals": np.zeros((6, 2), bool)}, "terminals: has shape (6, 2). It needs one value per step."),
        ({"observations": np.array([[b"a"]] * 6)}, "observations: holds |S1 of shape (6, 1)."),
        (
            {"next_observations": np.zeros((6, 2))},
            "next_observations: has shape (6, 2), but 'observations' has (6, 1).",
        ),
        ({"actions": np.full((6, 1), np.nan)}, "controls, column 'u0', row 0 is nan"),
        ({"observations": np.zeros(6), "next_observations": np.zeros(6)}, "must have shape (rows, columns), got (4,)"),
        (
            {
                k: np.zeros((0, 1))
                for k in ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts")
            },
            "observations: holds no rows.",
        ),
    ],
)
def test_malformed_d4rl_files(tmp_path, options, message):
    assert message in error_of(d4rl(tmp_path / "a.hdf5", **options), dt=0.1)


def test_d4rl_needs_a_dt_and_a_whole_file(tmp_path):
    path = d4rl(tmp_path / "a.hdf5")
    assert "holds no time stamps. Pass dt=" in error_of(path)
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2):
        path.write_bytes(content[:size])
        assert "is not HDF5, or it is truncated" in error_of(path, dt=0.1)


# ---------------------------------------------------------------------------------------------------------------------
# Minari


def test_minari_itself_loads_what_was_written(tmp_path, monkeypatch):
    import minari

    trajectories = [
        sample(seed=1, states=np.arange(15.0).reshape(5, 3)),
        sample(3, seed=2, states=np.zeros((4, 3)), terminated=True, truncated=False),
    ]
    metadata = {"description": "two runs", "author": {"A. Author"}}
    path = tmp_path / "lab" / "cart-v3"
    write_trajectories(path, trajectories, dataset_id="lab/cart-v3", metadata=metadata)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = minari.load_dataset("lab/cart-v3")
    assert (dataset.total_episodes, dataset.total_steps) == (2, 7)
    assert dataset.storage.metadata["author"] == {"A. Author"}
    for episode, trajectory in zip(dataset, trajectories, strict=True):
        np.testing.assert_array_equal(episode.observations, trajectory.observations)
        np.testing.assert_array_equal(episode.actions, trajectory.controls)
        np.testing.assert_array_equal(episode.rewards, trajectory.rewards)
        np.testing.assert_array_equal(episode.infos["state"], trajectory.states)
        np.testing.assert_array_equal(episode.infos["time"], trajectory.times)
        assert episode.terminations.tolist() == [False] * (len(trajectory) - 1) + [trajectory.terminated]
        assert dataset.observation_space.contains(episode.observations[0])
    assert len(dataset.filter_episodes(lambda episode: episode.terminations[-1])) == 1
    assert list(minari.list_local_datasets()) == ["lab/cart-v3"]
    for name in ("lab/cart-v3", path, path / "data", path / "data" / "main_data.hdf5"):
        assert_same(read_trajectories(name), trajectories)


def test_writing_changes_no_environment_variable_and_nothing_else_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    before = dict(os.environ)
    write_trajectories(tmp_path / "a-v0", [sample()])
    read_trajectories(tmp_path / "a-v0")
    assert dict(os.environ) == before
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "a-v0",
        "a-v0/data",
        "a-v0/data/main_data.hdf5",
        "a-v0/data/metadata.json",
    ]


def test_names_of_states_survive_where_only_some_trajectories_have_them(tmp_path):
    mixed = [sample(), sample(seed=1, states=np.ones((5, 1)), names={"states": ["tilt"]})]
    write_trajectories(tmp_path / "a-v0", mixed)
    assert_same(read_trajectories(tmp_path / "a-v0"), mixed)


def test_minari_bytes_depend_on_the_content_only(tmp_path):
    files = []
    for folder in ("one", "two"):
        write_trajectories(tmp_path / folder / "a-v0", [sample(), sample(seed=1)])
        files.append([f.read_bytes() for f in sorted((tmp_path / folder / "a-v0" / "data").iterdir())])
    assert files[0] == files[1]


def test_nothing_is_replaced_unless_asked_and_never_what_is_not_a_dataset(tmp_path):
    path = tmp_path / "a-v0"
    write_trajectories(path, [sample()])
    with pytest.raises(FileExistsError, match="exists; pass overwrite=True to replace it"):
        write_trajectories(path, [sample(seed=1)])
    write_trajectories(path, [sample(seed=1)], overwrite=True)
    assert read_trajectories(path)[0].source == "sample 1"
    (tmp_path / "photos-v0").mkdir()
    with pytest.raises(FileExistsError, match="is no Minari dataset and is not replaced"):
        write_trajectories(tmp_path / "photos-v0", [sample()], overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-v0", "photos-v0"]


@pytest.mark.parametrize(
    ("name", "trajectories", "message"),
    [
        ("cartpole", [sample()], "'cartpole' is no Minari dataset id. It has the form name-v0"),
        ("a-v0", [], "the collection is empty"),
        ("a-v0", [sample(), sample(dt=0.1)], "do not go together: dt"),
        ("a-v0", [sample(0, rewards=None)], "Minari stores no episode without steps"),
        ("a-v0", [sample(times=[0, 1, 2, 3, 5], dt=None)], "has no single dt"),
    ],
)
def test_what_minari_cannot_store_is_refused_and_leaves_nothing_behind(tmp_path, name, trajectories, message):
    with pytest.raises(ValueError, match=message):
        write_trajectories(tmp_path / name, trajectories)
    assert not list(tmp_path.iterdir())


def test_ten_thousand_transitions_take_a_few_hundred_kilobytes(tmp_path):
    rng = np.random.default_rng(0)
    trajectories = []
    for seed in range(50):
        y = np.cumsum(rng.normal(size=(201, 4)), axis=0) * 0.02
        u = np.repeat(rng.normal(size=(20, 1)), 10, axis=0)
        trajectories.append(Trajectory(y, u, dt=0.02, source=str(seed)))
    write_trajectories(tmp_path / "a-v0", trajectories)
    assert (tmp_path / "a-v0" / "data" / "main_data.hdf5").stat().st_size < 600_000


def foreign(tmp_path, observation_space, action_space, data_format="hdf5", **fields):
    """A dataset written by minari alone, without any of our metadata."""
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    path = tmp_path / "other-v0"
    (path / "data").mkdir(parents=True)
    storage = MinariStorage.new(path / "data", observation_space, action_space, data_format=data_format)
    spec = {"id": "InvertedPendulum-v5", "entry_point": "x:y"}
    storage.update_metadata({"dataset_id": "other-v0", "minari_version": "0.5.3", "env_spec": json.dumps(spec)})
    episode = {
        "observations": np.arange(8.0).reshape(4, 2),
        "actions": np.arange(3.0)[:, None],
        "rewards": np.ones(3),
        "terminations": np.array([False, False, True]),
        "truncations": np.zeros(3, bool),
        "infos": {"qpos": np.arange(4.0)[:, None], "qvel": np.arange(4.0)[:, None] + 10},
    }
    storage.update_episodes([EpisodeBuffer(**{**episode, **fields})])
    return path


def box(*shape):
    from gymnasium.spaces import Box

    return Box(-np.inf, np.inf, shape, np.float64)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_datasets_of_others_need_a_dt(tmp_path, data_format):
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    path = foreign(tmp_path, box(2), box(1), data_format)
    message = error_of(path)
    assert "episode 0: there are no times (infos/time). Pass dt= with the seconds per step" in message
    assert "the environment 'InvertedPendulum-v5' has it as env.unwrapped.dt." in message
    (read,) = read_trajectories(path, dt=0.04, states=["qpos", "qvel"])
    np.testing.assert_array_equal(read.observations, np.arange(8.0).reshape(4, 2))
    np.testing.assert_array_equal(read.states, [[0, 10], [1, 11], [2, 12], [3, 13]])
    assert (read.terminated, read.truncated, read.dt, read.source) == (True, False, 0.04, "other-v0:0")
    assert "infos: there is no 'state'. Choose among qpos, qvel" in error_of(path, dt=0.04, states=["state"])


def test_dict_observations_are_flattened_and_other_spaces_refused(tmp_path):
    from gymnasium import spaces

    y = {"position": np.arange(8.0).reshape(4, 2), "goal": np.ones((4, 1))}
    space = spaces.Dict({"position": box(2), "goal": box(1)})
    path = foreign(tmp_path / "dict", space, box(1), observations=y)
    (read,) = read_trajectories(path, dt=0.1)
    columns = dict(zip(read.names.observations, read.observations.T, strict=True))
    np.testing.assert_array_equal(columns["position_1"], y["position"][:, 1])
    np.testing.assert_array_equal(columns["goal_0"], 1)
    discrete = foreign(tmp_path / "discrete", box(2), spaces.Discrete(3), actions=np.array([0, 1, 2]))
    assert "metadata.json, action_space: is Discrete(3). Only a Box of shape (columns,)" in error_of(discrete, dt=0.1)
    image = foreign(tmp_path / "image", box(2, 2), box(1), observations=np.zeros((4, 2, 2)))
    assert "observation_space: is Box" in error_of(image, dt=0.1)


def break_file(path, change):
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        change(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("episode_0/actions"), "episode 0: minari cannot read it (KeyError:"),
        (lambda file: file.__delitem__("episode_1"), "episode 1: minari cannot read it (KeyError:"),
        (lambda file: file["episode_0/observations"].resize(4, axis=0), "controls must have 3 rows, got 4"),
        (lambda file: file["episode_0/truncations"].write_direct(np.ones(4, bool)), "episode 0: ends at step 0 of 4."),
        (lambda file: file["episode_0/truncations"].resize(3, axis=0), "need one value per step"),
        (lambda file: file["episode_0/infos/time"].write_direct(np.zeros(5)), "times[1] = 0 s comes after times[0]"),
    ],
)
def test_malformed_minari_datasets(tmp_path, change, message):
    path = tmp_path / "a-v0"
    write_trajectories(path, [sample(), sample(seed=1)])
    break_file(path, change)
    assert message in error_of(path)


def test_truncated_minari_files(tmp_path):
    path = tmp_path / "a-v0"
    write_trajectories(path, [sample(), sample(seed=1)])
    shutil.copytree(path, tmp_path / "b-v0")
    shutil.copytree(path, tmp_path / "c-v0")
    file = path / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "episode 0: minari cannot read it (OSError:" in error_of(path)
    (tmp_path / "b-v0" / "data" / "main_data.hdf5").unlink()
    assert "metadata.json: minari cannot open it (ValueError: No data found" in error_of(tmp_path / "b-v0")
    metadata = tmp_path / "c-v0" / "data" / "metadata.json"
    entries = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**entries, "total_episodes": 1}))
    assert "announces 8 steps, but the 1 episodes hold 4." in error_of(tmp_path / "c-v0")
    metadata.write_text(json.dumps({**entries, "total_episodes": 0}))
    assert "holds no episodes" in error_of(tmp_path / "c-v0")
    metadata.write_text(metadata.read_text()[:40])
    assert "minari cannot open it (JSONDecodeError" in error_of(tmp_path / "c-v0")


def test_a_dt_that_contradicts_the_dataset(tmp_path):
    write_trajectories(tmp_path / "a-v0", [sample()])
    assert read_trajectories(tmp_path / "a-v0", dt=0.05)[0].dt == 0.05
    assert "dt=0.1 s was asked for, but the time stamps step by 0.05 s." in error_of(tmp_path / "a-v0", dt=0.1)


def test_minari_is_written_to_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = Trajectory([[0.0], [1.0]], [[0.5]], dt=0.1)
    write_trajectories("logs/line-v0", [log])
    (found,) = read_trajectories("logs/line-v0")
    assert found.observations.tolist() == log.observations.tolist()
