"""Runs read as they are found, compared on one page, and the page as a browser shows it."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean

import mbrl
from mbrl import Evaluation, RunError, add_evaluation, find_runs, group_runs, open_run, read_run
from mbrl.plots import Picture, Table, Text, Video, html_report, plot_learning_curves, run_sections, write_video
from mbrl.plots.learning_curves import aggregated, curve
from mbrl.runs.evaluations import COLUMNS
from mbrl.runs.reading import differing

ROW = ",".join(COLUMNS) + "\ntime,task,actor,{},0,{},1.0,1.0,1.0,,{}\n"


def make_run(folder, *, seed=0, width=32, losses=(3.0, 2.0, 1.0), summary=None, steps=None):
    """A run as a training loop leaves it; unfinished without a summary."""
    run = open_run(folder, config={"model": {"class": "MLP", "width": width}, "seed": seed})
    for step, loss in zip(steps or range(10, 10 * len(losses) + 1, 10), losses, strict=True):
        run.log(step, **{"train/loss": loss})
    if summary is not None:
        run.finish(summary)
    return run


def evaluation(returns, success_rate=None):
    return Evaluation(
        np.array(returns), float(trim_mean(returns, 0.25)), (min(returns), max(returns)), success_rate, []
    )


def cells(sections, heading):
    """Rows of the tables from a heading to the next."""
    found, inside = [], False
    for section in sections:
        inside = section.heading == heading if section.heading else inside
        if inside and isinstance(section, Table):
            found.append([list(section.header), *map(list, section.rows)])
    return found


# Reading


def test_a_run_is_read_as_it_was_written(tmp_path):
    make_run(tmp_path / "a", losses=(0.1 + 0.2, math.inf, 1.0), summary={"cost": math.inf, "success": True})
    run = read_run(tmp_path / "a")
    assert (run.name, run.finished, run.problems, run.seed) == ("a", True, (), "0")
    assert run.config == {"model": {"class": "MLP", "width": 32}, "seed": 0}
    np.testing.assert_array_equal(run.metrics["train/loss"], [0.1 + 0.2, math.inf, 1.0])
    assert run.summary == {"cost": "inf", "success": True}
    assert run.starts[0]["versions"]["torch"] == torch.__version__
    assert (run.evaluations, run.folder) == ([], tmp_path / "a")


def test_columns_that_came_later_are_nan_before(tmp_path):
    run = open_run(tmp_path, config={})
    run.log(1, loss=1.0)
    run.log(2, gain=2.0)
    metrics = read_run(tmp_path).metrics
    np.testing.assert_array_equal(metrics["loss"], [1.0, np.nan])
    np.testing.assert_array_equal(metrics["gain"], [np.nan, 2.0])


def test_an_unfinished_run_is_read_as_far_as_it_came(tmp_path):
    make_run(tmp_path)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("40,0.1")  # killed in the middle of a write
    run = read_run(tmp_path)
    assert (run.finished, run.problems) == (False, ())
    np.testing.assert_array_equal(run.metrics["step"], [10, 20, 30])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("metrics.csv", "step,loss\n1,0.5\n2,abc\n", r"metrics.csv is left out \(line 3: 'abc' is not a number\)"),
        ("metrics.csv", "step,loss\n1,0.5,7\n", r"metrics.csv is left out \(line 2: 3 cells, expected 2\)"),
        (
            "metrics.csv",
            "loss\n1\n",
            r"metrics.csv is left out \(line 1: expected distinct columns with step among them",
        ),
        ("metrics.csv", b"step,loss\n\xff\xfe\n", r"metrics.csv is left out \(.*decode"),
        ("config.json", '{"a": ', r"config.json is left out \("),
        ("config.json", "[1]", r"config.json is left out \(it holds a list, expected an object\)"),
        ("summary.json", "", r"summary.json is left out \("),
        ("system.json", '{"starts": 3}', r"system.json is left out \(it holds no list of starts\)"),
        ("evaluations.csv", ROW.format("{}", "x", "1.0"), r"evaluations.csv is left out \(line 2: 1 returns of 'x' ep"),
        ("evaluations.csv", ROW.format("{}", "0", ""), r"evaluations.csv is left out \(line 2: 0 returns of '0' ep"),
        ("evaluations.csv", ROW.format("3", "1", "1.0"), r"evaluations.csv is left out \(line 2: the settings are no"),
        ("evaluations.csv", "a,b\n", r"evaluations.csv is left out \(line 1: expected the columns time, task"),
    ],
)
def test_a_damaged_file_is_left_out_and_named_in_one_line(tmp_path, name, content, problem):
    make_run(tmp_path / "run", summary={"cost": 1.0})
    path = tmp_path / "run" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    run = read_run(tmp_path / "run")
    (line,) = run.problems
    assert re.match(re.escape(str(tmp_path / "run")) + ": " + problem, line)
    assert "\n" not in line
    sections, problems = run_sections([run])
    assert problems == [line]
    assert Text(line, heading="Left out") in sections


@pytest.mark.parametrize("name", ["metrics.csv", "summary.json", "system.json"])
def test_a_missing_file_is_no_problem(tmp_path, name):
    make_run(tmp_path, summary={"cost": 1.0})
    (tmp_path / name).unlink()
    run = read_run(tmp_path)
    assert run.problems == ()
    assert run_sections([run])[1] == []


def test_where_runs_are(tmp_path):
    for name in ("b", "a", "deeper/c"):
        make_run(tmp_path / name)
    (tmp_path / "other").mkdir()
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert find_runs(str(tmp_path / "a")) == [tmp_path / "a"]
    with pytest.raises(RunError, match=r"other is no run folder: there is no config\.json in it or one level below"):
        find_runs(tmp_path / "other")
    with pytest.raises(RunError, match="nowhere is no run folder: there is no such folder"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(RunError, match="other is no run folder"):
        read_run(tmp_path / "other")


def test_evaluations_come_back(tmp_path):
    make_run(tmp_path, summary={})
    add_evaluation(tmp_path, evaluation([-1.5, -2.5, 0.1 + 0.2], 2 / 3), task="T", actor='ICEM, "mine"', seed=0)
    add_evaluation(tmp_path, evaluation([-math.inf]), task="T", actor="random", seed=1)
    first, second = read_run(tmp_path).evaluations
    assert (first["task"], first["actor"], first["seed"], first["episodes"]) == ("T", 'ICEM, "mine"', "0", "3")
    assert [float(cell) for cell in first["returns"].split()] == [-1.5, -2.5, 0.1 + 0.2]
    assert (float(first["iqm"]), float(first["success_rate"])) == (float(trim_mean([-1.5, -2.5, 0.3], 0.25)), 2 / 3)
    assert (second["returns"], second["success_rate"]) == ("-inf", "")
    with pytest.raises(FileNotFoundError, match="nowhere is no run"):
        add_evaluation(tmp_path / "nowhere", evaluation([1.0]), task="T", actor="a", seed=0)


# Groups


def test_runs_that_differ_in_their_seed_belong_together(tmp_path):
    wanted = [(32, 0), (64, 0), (32, 1), (64, 1), (32, 2)]
    for number, (width, seed) in enumerate(wanted):
        make_run(tmp_path / f"run{number}", width=width, seed=seed)
    groups = group_runs([read_run(path) for path in find_runs(tmp_path)])
    assert [[run.name for run in group.runs] for group in groups] == [["run0", "run2", "run4"], ["run1", "run3"]]
    assert [group.label for group in groups] == ["width 32", "width 64"]
    assert differing(groups) == ["model.width"]
    assert groups[0].settings == {"model.class": "'MLP'", "model.width": "32"}


def test_where_a_run_was_put_is_no_setting(tmp_path):
    for seed in (0, 1):
        open_run(
            tmp_path / f"demo{seed}", config={"run": f"runs/demo{seed}", "seed": seed, "planner": {"seed": 7 + seed}}
        )
    (group,) = group_runs([read_run(path) for path in find_runs(tmp_path)])
    assert ([run.seed for run in group.runs], group.label) == (["7, 0", "8, 1"], "demo")


def test_groups_that_differ_in_much_are_named_after_their_folders(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"mlp-{seed}", seed=seed)
    for number in range(2):
        open_run(tmp_path / f"other{number}", config=dict.fromkeys("abcd", number))
    for name in ("x", "y"):
        open_run(tmp_path / name, config={"alone": 1})
    labels = [group.label for group in group_runs([read_run(path) for path in find_runs(tmp_path)])]
    assert labels == ["mlp", "other0", "other1", "x and 1 more"]


def test_runs_whose_config_cannot_be_read_are_not_taken_for_seeds_of_each_other(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name)
        (tmp_path / name / "config.json").write_text("{")
    assert len(group_runs([read_run(tmp_path / name) for name in ("a", "b")])) == 2


# Curves


def test_two_seeds_are_averaged_where_both_are(tmp_path):
    steps, means, intervals = aggregated(
        [(np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 2.0])), (np.array([5.0, 15.0]), np.array([2.0, 4.0]))]
    )
    np.testing.assert_array_equal(steps, [5, 10, 15])
    np.testing.assert_allclose(means, [(0.5 + 2) / 2, (1 + 3) / 2, (1.5 + 4) / 2])
    np.testing.assert_allclose(
        intervals, [[0.5, 1, 1.5], [2, 3, 4]]
    )  # of two, the interval reaches from one to the other


def test_many_seeds_have_their_interquartile_mean(generator):
    values = torch.randn(8, 50, generator=generator, dtype=torch.float64).numpy()
    values[0] = 1e6  # which one seed does not move
    steps, means, intervals = aggregated([(np.arange(50.0), row) for row in values])
    np.testing.assert_array_equal(steps, np.arange(50))
    np.testing.assert_allclose(means, np.sort(values, axis=0)[2:6].mean(0))
    assert (intervals[0] <= means).all()
    assert (means <= intervals[1]).all()


def test_long_curves_are_thinned_and_keep_their_ends():
    long = np.arange(10_000.0)
    steps, means, _ = aggregated([(long, long), (long, long + 2)])
    assert len(steps) == 200
    np.testing.assert_allclose(means, steps + 1)
    assert (steps[0], steps[-1]) == (0, 9999)


def test_seeds_without_a_step_in_common_have_no_mean():
    steps, means, intervals = aggregated([(np.array([0.0, 1.0]), np.zeros(2)), (np.array([2.0, 3.0]), np.zeros(2))])
    assert (steps.shape, means.shape, intervals.shape) == ((0,), (0,), (2, 0))


def test_values_that_are_not_finite_are_no_part_of_a_curve(tmp_path):
    make_run(tmp_path, losses=(1.0, math.nan, math.inf, 4.0, 5.0), steps=(1, 2, 3, 4, 4))
    steps, values = curve(read_run(tmp_path), "train/loss")
    np.testing.assert_array_equal(steps, [1, 4])
    np.testing.assert_array_equal(values, [1, 5])  # the step that was logged twice: what came last
    assert len(curve(read_run(tmp_path), "eval/return")[0]) == 0


def test_the_figure_shows_each_seed_thin_and_the_group_thick(tmp_path):
    for seed in range(3):
        make_run(tmp_path / f"wide{seed}", seed=seed, losses=(3.0 + seed, 2.0, 1.0), width=64)
    make_run(tmp_path / "narrow", losses=(5.0,))
    groups = group_runs([read_run(path) for path in find_runs(tmp_path)])
    (axes,) = plot_learning_curves(groups).axes
    by_width = sorted(axes.lines, key=lambda line: line.get_linewidth())
    assert [len(line.get_xdata()) for line in by_width] == [3, 3, 3, 1, 3]
    np.testing.assert_allclose(by_width[-1].get_ydata(), [4.0, 2.0, 1.0])
    assert (by_width[-1].get_label(), by_width[-2].get_label()) == ("width 64", "width 32")
    assert by_width[-2].get_marker() == "o"  # a single value is a point, not an invisible line
    assert len({line.get_color() for line in axes.lines}) == 2
    assert axes.get_yscale() == "linear"
    with pytest.raises(ValueError, match="no run has logged reward; there is train/loss"):
        plot_learning_curves(groups, ["reward"])


def test_what_falls_over_decades_is_logarithmic(tmp_path):
    make_run(tmp_path, losses=(100.0, 1.0, 0.01))
    (axes,) = plot_learning_curves(group_runs([read_run(tmp_path)])).axes
    assert axes.get_yscale() == "log"


# The page


def test_what_the_page_says(tmp_path):
    losses = {0: (3.0, 1.0), 1: (5.0, 2.0)}
    for seed, values in losses.items():
        summary = {"success": seed == 0, "cost": 10.0 + seed, "fit": {"nll": 1.0}, "error_k10": 0.5, "error_k5": 0.25}
        run = make_run(tmp_path / f"wide{seed}", seed=seed, width=64, losses=values, summary=summary)
        returns = [-10.0, -12.0] if seed == 0 else [-20.0, -22.0]
        add_evaluation(run.folder, evaluation(returns, 0.5 * seed), task="Cart", actor="ICEM", seed=seed)
    make_run(tmp_path / "narrow", losses=(4.0, 3.0))
    sections, problems = run_sections([read_run(path) for path in find_runs(tmp_path)])
    assert problems == []
    assert isinstance(sections[0], Table)
    status = [["narrow", "width 32", "0", "not finished", "20"], ["wide0", "width 64", "0", "finished", "20"]]
    assert [list(row[:5]) for row in sections[0].rows[:2]] == status
    (last,) = cells(sections, "Learning curves")
    assert last[1] == ["train/loss", "3", "1.5 [1 to 2]"]
    runs, groups = cells(sections, "Results")
    assert runs[0] == ["run", "cost", "error_k5", "error_k10", "success"]
    assert runs[1:] == [["wide0", "10", "0.25", "0.5", "yes"], ["wide1", "11", "0.25", "0.5", "no"]]
    assert groups[0] == ["result", "width 32 (0)", "width 64 (2)"]
    assert groups[1] == ["cost", "", "10.5 [10 to 11]"]
    assert groups[-1] == ["success", "", "1 of 2"]
    (evaluations,) = cells(sections, "Evaluations")
    mean = trim_mean([-10, -12, -20, -22], 0.25)
    assert evaluations[1][:5] == ["width 64", "Cart", "ICEM", "4", f"{mean:.4g}"]
    assert evaluations[1][6] == "25 %"
    (settings,) = cells(sections, "Settings")
    assert settings == [["setting", "width 32", "width 64"], ["model.width", "32", "64"]]
    (systems,) = cells(sections, "System")
    assert [row[0] for row in systems[1:]] == ["narrow", "wide0", "wide1"]


def test_evaluations_of_different_settings_are_kept_apart_and_repeated_ones_count_once(tmp_path):
    for seed in (0, 1):
        run = make_run(tmp_path / f"fit{seed}", seed=seed)
        for horizon, value in ((5, -10.0), (50, -1.0), (50, -2.0)):  # the last is measured again
            add_evaluation(
                run.folder,
                evaluation([value - seed] * 2),
                task="Cart",
                actor="ICEM",
                seed=7,
                settings={"planner": Path("x"), "horizon": horizon},
            )
    (table,) = cells(run_sections([read_run(path) for path in find_runs(tmp_path)])[0], "Evaluations")
    assert [row[2:5] for row in table[1:]] == [["ICEM (horizon 5)", "4", "-10.5"], ["ICEM (horizon 50)", "4", "-2.5"]]


def test_a_success_rate_over_evaluations_counts_episodes(tmp_path):
    run = make_run(tmp_path / "a")
    for seed, rate, episodes in ((0, 1.0, 3), (1, 0.0, 1)):
        add_evaluation(run.folder, evaluation([0.0] * episodes, rate), task="Cart", actor="ICEM", seed=seed)
    (table,) = cells(run_sections([read_run(run.folder)])[0], "Evaluations")
    assert (table[1][3], table[1][6]) == ("4", "75 %")


def test_a_row_is_not_added_to_another_table(tmp_path):
    run = make_run(tmp_path / "a")
    (run.folder / "evaluations.csv").write_text("time,task\n1,2\n")
    with pytest.raises(ValueError, match=r"evaluations\.csv, line 1: expected the columns time, task, actor, settings"):
        add_evaluation(run.folder, evaluation([0.0]), task="Cart", actor="ICEM", seed=0)
    assert (run.folder / "evaluations.csv").read_text() == "time,task\n1,2\n"


def test_gpus_that_are_no_list_are_none(tmp_path):
    run = make_run(tmp_path / "a")
    (run.folder / "system.json").write_text('{"starts": [{"gpus": 5}]}')
    (table,) = cells(run_sections([read_run(run.folder)])[0], "System")
    assert table[1][5] == "none"


def test_one_run_shows_its_settings_and_nothing_is_compared(tmp_path):
    make_run(tmp_path / "a", summary={"cost": 1.0})
    sections, _ = run_sections([read_run(tmp_path / "a")])
    assert cells(sections, "Settings")[0][1:] == [["model.class", "'MLP'"], ["model.width", "32"]]
    assert len(cells(sections, "Results")) == 1


def test_settings_that_were_not_given_are_not_shown(tmp_path):
    wanted = {"class": "Options", "units": [], "names": {}, "dt": None, "text": "", "zero": 0, "off": False}
    run = open_run(tmp_path / "a", config=wanted)
    (table,) = cells(run_sections([read_run(run.folder)])[0], "Settings")
    assert table[1:] == [["off", "False"], ["zero", "0"]]
    other = open_run(tmp_path / "b", config={"dt": None, "zero": 1})
    (table,) = cells(run_sections([read_run(one.folder) for one in (run, other)])[0], "Settings")
    assert table[1:] == [["off", "False", ""], ["zero", "0", "1"]]


def test_words_are_aligned_left_and_numbers_right(tmp_path):
    page = html_report(tmp_path / "page.html", "T", [Table(["x", "y", "z"], [["a", "-1.5", "ICEM"], ["b", "nan", ""]])])
    text = page.read_text()
    assert '<td>-1.5</td><td class="words">ICEM</td>' in text
    assert '<th scope="col">y</th><th scope="col" class="words">z</th>' in text
    assert "<th" in html_report(tmp_path / "empty.html", "T", [Table(["x"], [])]).read_text()


def test_a_run_that_logged_nothing(tmp_path):
    open_run(tmp_path, config={})
    sections, problems = run_sections([read_run(tmp_path)])
    assert problems == []
    assert Text("Nothing has been logged in metrics.csv.", heading="Learning curves") in sections
    assert html_report(tmp_path / "page.html", "Nothing", sections).exists()
    with pytest.raises(ValueError, match="no runs to report on"):
        run_sections([])


def test_pictures_and_videos_come_along_unless_they_are_damaged_or_huge(tmp_path, monkeypatch):
    run = make_run(tmp_path / "a")
    figure = plot_learning_curves(group_runs([read_run(run.folder)]))
    mbrl.plots.save_figure(figure, run.path("figures/loss_curve.png"))
    write_video(run.path("episode.mp4"), [np.zeros((32, 32, 3), np.uint8)] * 3, 10.0)
    run.path("figures/torn.png").write_bytes(b"\x89PN")
    run.path("figures/half.png").write_bytes(run.path("figures/loss_curve.png").read_bytes()[:-20])
    run.path("empty.mp4").touch()
    run.path("notes.txt").touch()
    sections, problems = run_sections([read_run(run.folder)])
    media = {section.caption: section for section in sections if isinstance(section, Picture | Video)}
    assert isinstance(media["a: figures/loss curve"], Picture)
    assert isinstance(media["a: episode"], Video)
    assert problems == [
        f"{run.folder}: empty.mp4 is left out (it is not a whole mp4 file)",
        f"{run.folder}: figures/half.png is left out (it is not a whole png file)",
        f"{run.folder}: figures/torn.png is left out (it is not a whole png file)",
    ]
    monkeypatch.setattr(mbrl.plots.run_comparison, "LARGEST_FILE", 100)
    assert any(
        "loss_curve.png is left out (it has 0 MB)" in problem for problem in run_sections([read_run(run.folder)])[1]
    )


# The page in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>addEventListener("load", () => {
  const pictures = [...document.images].map(image => image.complete && image.naturalWidth > 0);
  const found = {
    pictures: pictures.length, shown: pictures.filter(Boolean).length, width: innerWidth,
    overflow: document.documentElement.scrollWidth - innerWidth,
    paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
    seconds: document.querySelector("video").duration,
    elsewhere: performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length,
  };
  document.title = JSON.stringify(found);
});</script></body>"""


def browse(page, room, *, width, dark=False):
    """What a browser finds on a page; a script that was added to it for the purpose says so in the title."""
    probed = room / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={room / 'profile'}", "--dump-dom"]
    options += [f"--window-size={width},800", "--virtual-time-budget=5000"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run([CHROMIUM, *options, probed.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title, done.stderr
    return json.loads(title[1])


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the path")
def test_a_browser_shows_the_page_on_desktop_and_phone_in_light_and_dark(tmp_path):
    for seed in (0, 1):
        run = make_run(tmp_path / "runs" / f"wide{seed}", seed=seed, summary={f"a_long_name_{i}": i for i in range(20)})
    write_video(run.path("episode.mp4"), [np.full((32, 32, 3), 90, np.uint8)] * 10, 10.0)
    records = [read_run(path) for path in find_runs(tmp_path / "runs")]
    page = html_report(tmp_path / "report.html", "Two runs", run_sections(records)[0])
    assert not re.search(r"(?:src|href)=.https?:|url\(https?:|@import", page.read_text())
    light, dark = (browse(page, tmp_path, width=1200, dark=dark) for dark in (False, True))
    phone = browse(page, tmp_path, width=500)  # the narrowest window of chromium
    for found in (light, dark, phone):
        assert (found["pictures"], found["shown"], found["elsewhere"]) == (1, 1, 0)
        assert found["seconds"] == pytest.approx(1.0, abs=0.05)
        assert found["overflow"] <= 0
    assert phone["width"] < 640 < light["width"]
    assert light["paper"] == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", dark["paper"]))) < 100 < sum(map(int, re.findall(r"\d+", dark["ink"])))


def test_the_page_is_where_it_was_asked_for(tmp_path):
    make_run(tmp_path / "run")
    sections, _ = run_sections([read_run(tmp_path / "run")])
    assert html_report(tmp_path / "new" / "page.html", "One", sections) == Path(tmp_path / "new" / "page.html")
