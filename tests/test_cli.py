"""The command line, through its entry point: what each command does, what it says, and with which status it ends."""

import abc
import json
import os
import pkgutil
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro

import mbrl.cli
import mbrl.cli.runs
import mbrl.plots
from dynamics import Pendulum, Trajectory, fit, load, read_trajectories, write_trajectories
from dynamics.learned.ensemble import Ensemble
from mbrl import Run, read_run
from mbrl.cli import actors, choices
from mbrl.cli import fit as fit_command
from mbrl.cli.main import COMMANDS, command_module, is_for_the_user, main, overview, parse
from mbrl.tasks import CONSTRUCTORS
from planners import ICEM, MPC, Planner

TINY = ["--model.members", "2", "--model.hidden", "8", "--training.steps", "40", "--training.evaluate-every", "10"]
QUICK_PLANNER = ["--planner.num-samples", "12", "--planner.max-iterations", "1", "--backend", "torch"]


@pytest.fixture(autouse=True)
def one_line_of_terminal(monkeypatch):
    """Tyro wraps its help to the terminal."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with logs of the pendulum, and two finished fits to them."""
    folder = tmp_path_factory.mktemp("room")
    logs = ["PendulumSwingUp", "--backend", "torch", "--episodes", "8", "--steps", "40", "--scale", "1"]
    assert main(["collect", *logs, "--out", str(folder / "logs.npz")]) == 0
    wanted = ["fit", str(folder / "logs.npz"), "--angles", "angle"]
    assert main([*wanted, *TINY, "--run", str(folder / "ensemble")]) == 0
    assert main([*wanted, "--model", "Linear", "--run", str(folder / "ridge")]) == 0
    return folder


@pytest.fixture
def mbrl_says(capsys):
    """Run a command: its status and what it said on either stream."""

    def say(*args):
        capsys.readouterr()
        status = main([str(arg) for arg in args])
        return status, *capsys.readouterr()

    return say


# Help


def test_the_overview_lists_every_command(mbrl_says):
    for args in ([], ["--help"], ["-h"]):
        status, out, err = mbrl_says(*args)
        assert (status, out, err) == (0, overview(), "")
    assert all(f"  {name} " in out for name in COMMANDS)


def test_a_module_with_options_is_a_command():
    modules = [info.name for info in pkgutil.iter_modules(mbrl.cli.__path__)]
    assert {name for name in modules if hasattr(command_module(name), "Options")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_they_parse(name, mbrl_says):
    status, out, err = mbrl_says(name, "--help")
    assert (status, err) == (0, "")
    command = command_module(name)
    examples = [line for line in (command.__doc__ or "").splitlines() if line.startswith("    mbrl ")]
    assert examples
    for example in examples:
        assert " ".join(example.split()) in " ".join(out.split())
        program, named, *args = shlex.split(example)
        assert (program, named) == ("mbrl", name)
        assert isinstance(parse(command, name, args), command.Options)


def test_the_help_of_a_choice_has_its_options(mbrl_says):
    _, out, _ = mbrl_says("plan", "--planner", "LQR", "--help")
    assert "--planner.tolerance" in out
    assert "--planner.num-samples" not in out.partition("usage: ")[2]
    assert "    mbrl plan PendulumSwingUp --mpc" in out  # what the command does and its examples stay


@pytest.mark.parametrize("name", ["fit", "plan"])
def test_the_help_has_no_markup(name, mbrl_says):
    _, out, _ = mbrl_says(name, "--help")
    assert not set(out) & set("\\`")


@pytest.mark.parametrize("name", ["audit", "fit", "report", "view"])
def test_what_is_required_has_no_default(name, mbrl_says):
    positional = mbrl_says(name, "--help")[1].partition("positional arguments")[2][:900]
    assert "(required)" in positional


@pytest.mark.parametrize("args", [["plan"], ["eval"], ["view"], ["plan", "--planner", "mppi"]])
def test_the_help_lists_the_choices_below_a_planner(args, mbrl_says):
    _, out, _ = mbrl_says(*args, "--help")
    assert "--planner.noise colored-noise|knot-noise|white-noise\n" in "\n".join(map(str.rstrip, out.splitlines()))
    assert "--planner.risk cvar|epistemic-penalty|expectation|worst-case" in out


# What the commands do


def test_tasks(mbrl_says):
    status, out, _ = mbrl_says("tasks")
    assert status == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    assert set(CONSTRUCTORS) < set(rows)
    assert rows["CartPoleSwingUp"][1:5] == ["4", "1", "0.04", "10"]
    assert "mujoco, torch" in out
    assert "n  m  dt [s]" in out


def test_collect(tmp_path, mbrl_says):
    wanted = ["collect", "mbrl/pendulumswingup-v0", "--backend", "torch", "--episodes", 3, "--steps", 5]
    bounds = ["--initial-lower", -1, 2, "--initial-upper", -1, 2]
    status, out, _ = mbrl_says(*wanted, "--actor", "random", *bounds, "--out", tmp_path / "a" / "mine-v0")
    assert status == 0
    assert "3 trajectories, 15 steps" in out
    logs = read_trajectories(tmp_path / "a" / "mine-v0")
    np.testing.assert_array_equal([log.states[0] for log in logs], [[-1.0, 2.0]] * 3)
    assert logs[0].names.states == ("angle", "angle_velocity")
    controls = []
    for seed, name in ((0, "x.npz"), (0, "y.npz"), (1, "z.npz")):
        assert mbrl_says(*wanted, "--seed", seed, "--out", tmp_path / name)[0] == 0
        controls.append(np.array([log.controls for log in read_trajectories(tmp_path / name)]))
    np.testing.assert_array_equal(controls[0], controls[1])
    assert not np.array_equal(controls[0], controls[2])
    status, _, err = mbrl_says(*wanted, "--out", tmp_path / "x.npz")
    assert (status, "exists" in err, "--overwrite" in err) == (2, True, True)
    assert mbrl_says(*wanted, "--overwrite", "--out", tmp_path / "x.npz")[0] == 0


def test_audit_sees_what_is_wrong(tmp_path, mbrl_says):
    rows = np.stack([[0.0, 0.1, 0.2, 0.5, 0.5], [1.0, 2.0, np.nan, 4.0, 5.0], [0.0, 9.0, 9.0, 0.0, 0.0]], axis=1)
    np.savetxt(tmp_path / "log.csv", rows, delimiter=",", header="t,angle,torque", comments="")
    columns = ["--time", "t", "--observations", "angle", "--controls", "2", "--control-lower", -1, "--control-upper", 1]
    status, out, _ = mbrl_says("audit", tmp_path / "log.csv", *columns, "--out", tmp_path / "audit.html")
    assert status == 0
    kinds = {line.split("  ")[0].strip() or line.strip().split("  ")[0] for line in out.splitlines()[3:-1]}
    assert kinds == {"missing", "duplicate time", "gap", "beyond limits"}
    page = (tmp_path / "audit.html").read_text()
    assert page.count("data:image/png") == 1
    assert "duplicate time" in page


def test_audit_of_logs_that_are_fine(room, mbrl_says):
    status, out, _ = mbrl_says("audit", room / "logs.npz", "--control-lower", -9, "--control-upper", 9)
    assert (status, out) == (0, "8 logs, 320 steps: no findings\n")


def test_fit_leaves_a_complete_run(room):
    run = read_run(room / "ensemble")
    assert (run.finished, run.problems) == (True, ())
    assert run.config is not None
    assert run.config["command"] == "fit"
    assert run.config["model"] == {"class": "Ensemble", "members": 2, "hidden": [8]}
    assert "run" not in run.config
    np.testing.assert_array_equal(run.metrics["step"], [10, 20, 30, 40])
    assert {"fit/loss", "fit/error"} < set(run.metrics)
    assert run.summary is not None
    assert run.summary["error_k1"] == run.summary["fit"]["errors"]["model"]["median"][0]
    model = load(room / "ensemble" / "model.safetensors")
    assert (model.state_names, model.angles, model.num_members) == (("angle", "angle_velocity"), (0,), 2)
    assert (room / "ensemble" / "report.html").read_text().count("data:image/png") == 2
    assert {file.name for file in (room / "ensemble" / "figures").iterdir()} == {"fit.png", "predictions.png"}
    ridge = read_run(room / "ridge")
    assert (ridge.finished, ridge.metrics) == (True, {})


def test_fit_is_what_the_library_does(room):
    """The same numbers as in Python: the command adds nothing of its own."""
    logs = read_trajectories(room / "logs.npz")
    model = Ensemble.for_trajectories(logs, angles=["angle"], members=2, hidden=(8,))
    report = fit(model, logs, training=fit_command.Training(steps=40, evaluate_every=10))
    saved = load(room / "ensemble" / "model.safetensors")
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())
    summary = json.loads((room / "ensemble" / "summary.json").read_text())
    assert {**summary["fit"], "seconds": 0} == {**json.loads(json.dumps(report.to_dict())), "seconds": 0}


def test_fit_prepares_what_is_not_ready(tmp_path, mbrl_says):
    """Degrees, a clock that jitters, a velocity that nobody measured, and one long recording."""
    t = 0.1 * np.arange(241) + 0.004 * np.sin(np.arange(241))
    rows = np.stack([t, 170 + 30 * np.sin(t), np.cos(t), np.cos(2 * t)], axis=1)
    np.savetxt(tmp_path / "run.csv", rows, delimiter=",", header="clock,heading,speed,throttle", comments="")
    columns = ["--time", "clock", "--observations", "heading", "speed", "--observation-units", "deg", "m/s"]
    columns += ["--controls", "throttle", "--angles", "heading", "--velocities", "heading"]
    prepared = ["--resample", 0.1, "--latency", 0.1, "--segments", 40, "--model", "linear", "--horizons", 1, 5]
    status, out, err = mbrl_says("fit", tmp_path / "run.csv", *columns, *prepared, "--run", tmp_path / "run")
    assert (status, err) == (0, "")
    assert "6 trajectories, 239 steps" in out
    model = load(tmp_path / "run" / "model.safetensors")
    assert (model.state_names, model.angles) == (("heading", "speed", "heading_velocity"), (0,))
    assert float(model.logged_upper[0]) == pytest.approx(np.radians(200), abs=0.01)


def test_plan_once(room, tmp_path, mbrl_says):
    wanted = ["plan", "PendulumSwingUp", *QUICK_PLANNER, "--horizon", 10, "--no-video"]
    status, _, err = mbrl_says(*wanted, "--run", tmp_path / "truth")
    assert (status, err) == (0, "")
    summary = json.loads((tmp_path / "truth" / "summary.json").read_text())
    assert summary["planned_cost"] == pytest.approx(
        summary["executed_cost"], rel=1e-9
    )  # the plant is what was planned on
    (episode,) = read_trajectories(tmp_path / "truth" / "episode.npz")
    assert (len(episode), -episode.rewards.sum()) == (10, pytest.approx(summary["executed_cost"]))
    status, _, _ = mbrl_says(*wanted, "--model", room / "ensemble", "--run", tmp_path / "model")
    assert status == 0
    assert {f.stem for f in (tmp_path / "model" / "figures").iterdir()} == {"episode", "plan"}
    summary = json.loads((tmp_path / "model" / "summary.json").read_text())
    assert summary["planned_cost"] != pytest.approx(summary["executed_cost"], rel=1e-6)  # a model of 40 gradient steps


@pytest.mark.parametrize("name", ["DDP", "ddp"])
def test_a_plan_says_what_the_optimality_conditions_say_about_it(name, tmp_path, mbrl_says):
    wanted = ["plan", "PendulumSwingUp", "--backend", "torch", "--horizon", 10, "--no-video", "--planner", name]
    status, out, err = mbrl_says(*wanted, "--run", tmp_path / "run")
    assert (status, err) == (0, "")
    assert "status: converged" in out
    assert "certificate: Certificate(optimal 1 of 1" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "converged"


ENDING = ("Hopper", "PointNavigation")  # tasks with a termination


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONSTRUCTORS if name not in ENDING])
def test_ddp_plans_on_every_task_that_nothing_ends(name, tmp_path, mbrl_says):
    wanted = ["plan", name, "--horizon", 3, "--no-video", "--planner", "DDP", "--planner.max-iterations", 2]
    status, out, err = mbrl_says(*wanted, "--run", tmp_path / "run")
    assert (status, err) == (0, "")
    assert "certificate: " in out


@pytest.mark.parametrize("name", ENDING)
def test_ddp_says_what_can_plan_where_something_ends(name, tmp_path, mbrl_says):
    status, _, err = mbrl_says("plan", name, "--planner", "DDP", "--no-video", "--run", tmp_path / "run")
    assert status != 0
    assert "DDP cannot honor: termination" in err


def test_plan_at_every_step_with_a_video(tmp_path, mbrl_says):
    wanted = ["plan", "PendulumSwingUp", *QUICK_PLANNER, "--mpc", "--seconds", 0.5, "--seed", 1]
    status, out, _ = mbrl_says(*wanted, "--run", tmp_path / "run")
    assert status == 0
    assert "success: no" in out
    run = read_run(tmp_path / "run")
    assert run.summary is not None
    assert len(run.metrics["step"]) == 10
    assert run.metrics["rollout/reward"].sum() == pytest.approx(run.summary["return"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert (page.count("data:image/png"), page.count("data:video/mp4")) == (2, 1)


def test_eval_measures_and_keeps(room, tmp_path, mbrl_says):
    wanted = ["eval", "PendulumSwingUp", *QUICK_PLANNER, "--episodes", 2, "--horizon", 2]
    status, out, _ = mbrl_says(*wanted, "--seed", 3)
    assert status == 0
    assert "ICEM, PendulumSwingUp: return -" in out
    assert "IQM of 2" in out
    assert "added" not in out
    for seed in (0, 1):
        status, out, _ = mbrl_says(*wanted, "--model", room / "ensemble", "--seed", seed)
        assert status == 0
    rows = read_run(room / "ensemble").evaluations
    assert [(row["actor"], row["seed"], row["episodes"]) for row in rows] == [
        ("ICEM on the model", "0", "2"),
        ("ICEM on the model", "1", "2"),
    ]
    expected = same_evaluation(load(room / "ensemble" / "model.safetensors"), seed=1)
    assert rows[1]["returns"].split() == [repr(float(value)) for value in expected]
    assert json.loads(rows[1]["settings"])["planner"]["num_samples"] == 12
    assert (json.loads(rows[1]["settings"])["horizon"], json.loads(rows[1]["settings"])["backend"]) == (2, "torch")
    assert f"return {float(rows[1]['iqm']):.4g}" in out
    wanted = ["eval", "PendulumSwingUp", "--backend", "torch", "--policy", "random", "--episodes", 2]
    status, out, _ = mbrl_says(*wanted, "--run", tmp_path / "new")
    assert status == 0
    run = read_run(tmp_path / "new")
    assert run.summary == {"return": float(run.evaluations[0]["iqm"]), "success_rate": 0.0}
    assert mbrl_says(*wanted, "--run", tmp_path / "new", "--seed", 1)[0] == 0
    assert len(read_run(tmp_path / "new").evaluations) == 2


def same_evaluation(model, seed):
    """The returns that the library finds."""
    task = mbrl.tasks.pendulum_swing_up(backend="torch")
    actor: Any = MPC(task.problem(model, 2), ICEM(num_samples=12, max_iterations=1))
    return mbrl.evaluate(actor, task, episodes=2, generator=torch.Generator().manual_seed(seed)).returns


def test_eval_keeps_what_it_measured_where_filming_fails(tmp_path, monkeypatch, mbrl_says):
    def fails(*args):
        raise RuntimeError("no display")

    monkeypatch.setattr(mbrl.plots, "write_task_video", fails)
    wanted = ["eval", "PendulumSwingUp", "--backend", "torch", "--policy", "random", "--episodes", 1]
    with pytest.raises(RuntimeError, match="no display"):
        mbrl_says(*wanted, "--run", tmp_path / "new", "--video", tmp_path / "a.mp4")
    assert read_run(tmp_path / "new").finished
    assert len(read_run(tmp_path / "new").evaluations) == 1


def test_commands_that_start_in_the_same_second_have_a_folder_each(tmp_path, monkeypatch, mbrl_says):
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mbrl.cli.runs, "datetime", Frozen)
    wanted = ["plan", "PendulumSwingUp", *QUICK_PLANNER, "--horizon", 20, "--no-video"]
    assert [mbrl_says(*wanted, "--seed", seed)[0] for seed in (0, 1, 1)] == [0, 0, 0]
    names = ["plan-20260102-030405", "plan-20260102-030405-2", "plan-20260102-030405-3"]
    assert sorted(path.name for path in Path("runs").iterdir()) == names
    first, other, again = (read_trajectories(Path("runs") / name / "episode.npz")[0].controls for name in names)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(other, again)


def test_a_plan_at_every_step_depends_on_its_seed(tmp_path, mbrl_says):
    wanted = ["plan", "PendulumSwingUp", *QUICK_PLANNER, "--mpc", "--seconds", 0.1, "--horizon", 20, "--no-video"]
    for seed in (0, 1):
        assert mbrl_says(*wanted, "--seed", seed, "--run", tmp_path / str(seed))[0] == 0
    first, second = (read_trajectories(tmp_path / str(seed) / "episode.npz")[0] for seed in (0, 1))
    assert not np.array_equal(first.observations[0], second.observations[0])
    assert not np.array_equal(first.controls, second.controls)


def test_report_puts_runs_on_a_page(room, tmp_path, mbrl_says):
    status, out, err = mbrl_says("report", room, "--out", tmp_path / "page.html", "--title", "Two <models>")
    assert (status, err) == (0, "")
    assert out == f"report on 2 runs: {tmp_path / 'page.html'}\n"
    page = (tmp_path / "page.html").read_text()
    assert "Two &lt;models&gt;" in page
    assert page.count("data:image/png") == 1 + 4  # the curves, and two figures of each run
    status, _, err = mbrl_says("report", room / "ridge", tmp_path / "nowhere", "--out", tmp_path / "page.html")
    assert (status, err) == (2, f"mbrl report: {tmp_path / 'nowhere'} is no run folder: there is no such folder\n")


def test_a_report_from_within_a_run_leaves_the_page_of_the_run(room, tmp_path, monkeypatch, mbrl_says):
    folder = tmp_path / "ridge"
    shutil.copytree(room / "ridge", folder)
    before = (folder / "report.html").read_bytes()
    monkeypatch.chdir(folder)
    assert mbrl_says("report", ".") == (0, "report on 1 run: comparison.html\n", "")
    assert (folder / "report.html").read_bytes() == before


def test_commands_leave_torch_its_threads(mbrl_says):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert mbrl_says("eval", "PendulumSwingUp", "--policy", "random", "--episodes", "1")[0] == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def viewed(monkeypatch):
    """What mbrl view would show; the page itself is the viewer's business."""
    viewer = pytest.importorskip("mbrl.viewer")
    shown = []
    for name in ("view_control", "view_trajectory"):
        monkeypatch.setattr(viewer, name, lambda *args, **options: shown.append((*args, options)))
    return shown


def test_view_runs_a_planner_or_a_policy(room, viewed, mbrl_says):
    wanted = ["view", "PendulumSwingUp", "--model", room / "ensemble", *QUICK_PLANNER, "--port", 0, "--speed", 2]
    assert mbrl_says(*wanted) == (0, "closed\n", "")
    ((task, actor, options),) = viewed
    assert (task.name, actor.planner.num_samples) == ("PendulumSwingUp", 12)
    assert isinstance(actor.problem.dynamics, Ensemble)
    assert options.pop("generator").initial_seed() == 0
    assert options == {"host": "127.0.0.1", "port": 0, "speed": 2.0}
    assert mbrl_says("view", "PendulumSwingUp", "--policy", "random")[0] == 0
    assert isinstance(viewed[1][1], mbrl.UniformNoise)


def test_view_shows_logs_and_the_episode_of_a_run(room, viewed, tmp_path, mbrl_says):
    assert mbrl_says("view", room / "logs.npz", "--task", "PendulumSwingUp", "--backend", "torch")[0] == 0
    episodes, task, _ = viewed[0]
    assert (len(episodes), task.name) == (8, "PendulumSwingUp")
    wanted = ["plan", "PendulumSwingUp", *QUICK_PLANNER, "--horizon", 5, "--no-video", "--run", tmp_path / "run"]
    assert mbrl_says(*wanted)[0] == 0
    assert mbrl_says("view", tmp_path / "run")[0] == 0
    assert ([len(episode) for episode in viewed[1][0]], viewed[1][1].name) == ([5], "PendulumSwingUp")
    status, _, err = mbrl_says("view", room / "ridge")
    assert (status, "holds no episode.npz to show" in err) == (2, True)
    assert "There is no file" in mbrl_says("view", "nowhere")[2]


def test_view_without_viser_names_the_extra(monkeypatch, mbrl_says):
    monkeypatch.setitem(sys.modules, "viser", None)
    status, _, err = mbrl_says("view", "PendulumSwingUp", "--policy", "random")
    assert status == 2
    assert 'pip install "mbrl-control[view]"' in err
    assert err.count("\n") == 1


# What is wrong is said in one line


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["fitt"], "there is no command 'fitt'; did you mean fit?"),
        (["audit", "nowhere.npz"], "There is no file, folder or Minari dataset 'nowhere.npz'"),
        (["audit", "broken.npz"], "broken.npz: is not an .npz archive"),
        (["audit", "table.csv"], "Say which columns are which"),
        (["audit", "table.csv", "--observations", "x", "--controls", "u"], "has no columns named 'x'"),
        (["audit", "LOGS", "--observations", "x"], "Format 'npz' has no option 'observations'"),
        (["audit", "LOGS", "--dt", "0.1"], "dt=0.1 s was asked for, but the time stamps step by 0.05 s"),
        (["audit", "LOGS", "--control-lower", "-1", "0", "--control-upper", "1", "2"], "one per control"),
        (["audit", "LOGS", "--control-lower", "-1"], "give both --control-lower and --control-upper"),
        (["audit", "LOGS", "--keys", "observations"], "--keys takes NAME=VALUE"),
        (["fit", "LOGS", "--model", "forest"], "--model knows no 'forest'; there is ensemble, linear, mlp"),
        (["fit", "LOGS", "--angles", "angel", "--run", "new"], "no column is called 'angel'"),
        (["fit", "LOGS", "--model", "linear", "--training.steps", "7", "--run", "new"], "takes no training settings"),
        (["fit", "LOGS", "--horizons", "0", "--run", "new"], "horizons"),
        (["fit", "LOGS", "--test-fraction", "2", "--run", "new"], "test_fraction must be in (0, 1)"),
        (["fit", "short.npz", "--run", "new"], "need at least 3 trajectories"),
        (["fit", "LOGS", "--run", "RUN"], "is finished (summary.json)"),
        (["fit", "LOGS", "--run", "."], "exists and is not a run"),
        (["plan", "PendulumSwing"], "there is no task 'PendulumSwing'; nearest: PendulumSwingUp"),
        (["plan", "Chess"], "there is no task 'Chess'; nearest: "),
        (["plan", "PendulumSwingUp", "--backend", "warp"], "runs on mujoco or torch, got backend 'warp'"),
        (["plan", "CartPoleSwingUp", "--model", "RUN"], "has 4 states and 1 controls, the model 2 and 1"),
        (["plan", "PendulumSwingUp", "--model", "slow.safetensors"], "has dt=0.05 s, the model 0.1 s"),
        (["plan", "PendulumSwingUp", "--model", "broken.npz"], "is not a readable safetensors file"),
        (["plan", "PendulumSwingUp", "--model", "nowhere"], "no model at nowhere"),
        (["plan", "PendulumSwingUp", "--model", "."], "there is no model.safetensors in .: it is no run folder"),
        (["plan", "PendulumSwingUp", "--planner", "icme"], "--planner knows no 'icme'; did you mean icem?"),
        (["plan", "PendulumSwingUp", "--planner"], "--planner takes a name; there is cem, ddp, icem, lqr"),
        (
            ["plan", "PendulumSwingUp", "--planner", "--mpc"],
            "--planner takes a name; there is cem, ddp, icem, lqr",
        ),
        (["plan", "PendulumSwingUp", "--planner", "cem", "--planner=mppi"], "--planner is given twice"),
        (
            ["plan", "PendulumSwingUp", "--planner.noise", "white-noise", "--planner", "lqr"],
            "--planner lqr has no --planner.noise; it is an option of cem, icem, mppi",
        ),
        (["plan", "PendulumSwingUp", "--planner", "lqr"], "LQR cannot honor: control_limits"),
        (["plan", "PendulumSwingUp", "--run", "RUN", *QUICK_PLANNER], "another path: command was 'eval', now 'plan'"),
        (["eval", "Pendulum"], "there is no task 'Pendulum'; nearest: PendulumSwingUp"),
        (
            ["eval", "PendulumSwingUp", "--policy", "random", "--model", "RUN"],
            "--model would be ignored: --policy random",
        ),
        (["eval", "PendulumSwingUp", "--policy", "random", "--horizon", "3"], "--horizon would be ignored"),
        (["eval", "PendulumSwingUp", "--policy", "random", "--planner", "mppi"], "--planner would be ignored"),
        (["plan", "PendulumSwingUp", "--seconds", "3", "--run", "new"], "--seconds would be ignored: without --mpc"),
        (
            ["collect", "PendulumSwingUp", "--out", "a-v0", "--actor", "random", "--scale", "7"],
            "--scale would be ignored",
        ),
        (["view", "PendulumSwingUp", "--policy", "random", "--model", "RUN"], "--model would be ignored: --policy"),
        (
            ["view", "PendulumSwingUp", "--task", "CartPoleSwingUp"],
            "--task would be ignored: PendulumSwingUp is a task",
        ),
        (["view", "PendulumSwingUp", "--observations", "x"], "--observations would be ignored: PendulumSwingUp is a"),
        (["view", "LOGS", "--policy", "random"], "--policy would be ignored"),
        (["view", "LOGS", "--planner", "mppi"], "--planner would be ignored"),
        (["view", "LOGS", "--backend", "torch"], "--backend would be ignored: logs are shown in the scene of a task"),
        (["plan", "PendulumSwingUp", "--mpc", "--seconds", "nan", "--run", "new"], "--seconds takes a positive number"),
        (["plan", "PendulumSwingUp", "--mpc", "--seconds", "inf", "--run", "new"], "--seconds takes a positive number"),
        (["plan", "PendulumSwingUp", "--mpc", "--seconds", "-1", "--run", "new"], "--seconds takes a positive number"),
        (
            ["plan", "PendulumSwingUp", "--seed", "99999999999999999999999", "--run", "new"],
            "--seed takes an integer in",
        ),
        (["fit", "LOGS", "--seed", "-1", "--run", "new"], "--seed takes an integer in 0..9223372036854775807, got -1"),
        (["report", "RUN", "--out", "RUN/report.html"], "is the page that the run itself leaves; choose another name"),
        (["eval", "PendulumSwingUp", "--video", "a.avi"], "a video is written as .mp4"),
        (["eval", "PendulumSwingUp", "--episodes", "0"], "episodes and steps must be at least 1"),
        (["eval", "PendulumSwingUp", "--policy", "random", "--episodes", "0", "--run", "new"], "must be at least 1"),
        (["eval", "PendulumSwingUp", "--policy", "random", "--run", "new", "--video", "."], "--video . is"),
        (["eval", "PendulumSwingUp", "--policy", "random", "--run", "new", "--video", "table.csv/a.mp4"], "table.csv"),
        (["collect", "PendulumSwingUp", "--out", "a.csv"], "logs are written as .npz"),
        (["collect", "PendulumSwingUp", "--out", "logs"], "is called NAME-v0, with a version, got --out logs"),
        (["audit"], "No logs to audit"),
        (["fit"], "the collection is empty"),
        (["report"], "no runs to report on"),
        (["view"], "there is no trajectory to show"),
        (
            ["collect", "PendulumSwingUp", "--out", "a-v0", "--initial-lower", "0", "--initial-upper", "1"],
            "initial_states",
        ),
        (["view", "PendulumSwing"], "'PendulumSwing'. Nearest task: PendulumSwingUp"),
        (["audit", "nothere*"], "nothere*: holds nothing that matches"),
        (["report", "nowhere"], "nowhere is no run folder: there is no such folder"),
        (["report", "table.csv"], "is no run folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(args, sentence, room, tmp_path, monkeypatch, mbrl_says):
    monkeypatch.chdir(tmp_path)
    Path("broken.npz").write_bytes(b"PK, but not really")
    Path("table.csv").write_text("t,angle,torque\n0,1,0\n0.1,2,0\n")
    system = Pendulum(dt=0.1)
    us = torch.zeros(3, 20, 1, dtype=torch.float64)
    xs = system.rollout(torch.ones(3, 2, dtype=torch.float64), us)
    logs = [Trajectory(x.numpy(), u.numpy(), dt=0.1) for x, u in zip(xs, us, strict=True)]
    write_trajectories("short.npz", logs[:2])
    if "slow.safetensors" in args:
        assert mbrl_says("fit", _written(logs), "--model", "linear", "--run", "slow")[0] == 0
        Path("slow/model.safetensors").rename("slow.safetensors")
    if args[0] == "plan" and "--run" in args:  # that of something else, which is not finished
        assert mbrl_says("eval", "PendulumSwingUp", "--policy", "random", "--episodes", 1, "--run", "other")[0] == 0
        Path("other/summary.json").unlink()
        args = ["other" if arg == "RUN" else arg for arg in args]
    names = {"LOGS": str(room / "logs.npz"), "RUN": str(room / "ensemble")}
    status, out, err = mbrl_says(*(arg.replace("RUN", names["RUN"]).replace("LOGS", names["LOGS"]) for arg in args))
    assert status == 2
    assert sentence in err
    assert err.startswith("mbrl")
    assert err.count("\n") == 1
    assert "run folder" not in out  # which would not be there
    assert not Path("new").exists()  # the next try is a new run and not another config


def _written(logs):
    write_trajectories("slow.npz", logs)
    return "slow.npz"


def test_a_run_without_a_model_says_whether_it_has_ended(tmp_path, mbrl_says):
    mbrl.open_run(tmp_path / "half", config={})
    _, _, err = mbrl_says("plan", "PendulumSwingUp", "--model", tmp_path / "half")
    assert "the run has not ended" in err


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            ["--planner.num-smaples", "3"],
            "Unrecognized options: --planner.num-smaples, 3; did you mean --planner.num-samples",
        ),
        (
            ["--planner.num-samples", "5"],
            "Error parsing planner: num_elites must be an integer in 1..num_samples=5, got 10",
        ),
        (["--planner.num-samples", "2.5"], "--planner.num-samples: invalid literal for int() with base 10: '2.5'"),
        (
            ["--planner.noise.knots", "3"],
            "options: --planner.noise.knots 3; --planner.noise.knots is an option of another --planner.noise (",
        ),
        (["--seconds"], "--seconds"),
        (["more"], "more"),
    ],
)
def test_arguments_that_are_none_are_one_line_too(args, line, mbrl_says):
    status, out, err = mbrl_says("plan", "PendulumSwingUp", *args)
    assert (status, out) == (2, "")
    assert line in err
    assert err.startswith("mbrl plan: ")
    assert err.endswith("(mbrl plan --help lists all options)\n")
    assert err.count("\n") == 1
    assert not set(err) & set("\u2500\u2502\u256d\u2570")


def test_an_argument_that_is_missing(mbrl_says):
    status, _, err = mbrl_says("plan")
    assert (status, err.count("\n"), "TASK" in err, "Missing from mbrl plan" in err) == (2, 1, True, True)


def test_a_bug_keeps_its_traceback(monkeypatch):
    command = command_module("tasks")
    monkeypatch.setattr(command, "run", lambda options: [][1])
    with pytest.raises(IndexError):
        main(["tasks"])


def test_what_is_a_sentence_to_the_user_and_what_a_bug():
    def caught(function, *args):
        with pytest.raises(Exception) as info:  # noqa: PT011 (the kind is not the question)
            function(*args)
        return info.value

    assert is_for_the_user(caught(load, "nowhere.safetensors"))
    assert is_for_the_user(caught(Trajectory, np.zeros(3), np.zeros(2)))
    assert is_for_the_user(caught(Path("nowhere").read_text))
    assert not is_for_the_user(caught(FutureSampling().plan, None, None, None))  # what is not implemented
    assert not is_for_the_user(caught(Trajectory))  # a call that does not fit, raised by Python
    assert not is_for_the_user(caught(torch.zeros(2).reshape, 3))  # raised by torch
    assert not is_for_the_user(caught(choices.option_name, 3))  # raised by re
    assert not is_for_the_user(caught(choices._default, None))  # an AttributeError in a line of the library


# Stop and go on


def test_an_interrupted_fit_goes_on_bit_for_bit(room, tmp_path, monkeypatch, mbrl_says):
    wanted = ["fit", room / "logs.npz", "--angles", "angle", *TINY]
    log = Run.log

    def interrupted(run, step, **scalars):
        if step == 30:
            raise KeyboardInterrupt
        log(run, step, **scalars)

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", interrupted)
        status, _, err = mbrl_says(*wanted)  # without --run: the line says where it was
    assert status == 130
    assert err.count("\n") == 1
    again = shlex.split(err.partition("to go on: mbrl ")[2])
    (folder,) = Path("runs").iterdir()
    assert again == [*map(str, wanted), "--run", str(folder)]
    assert not read_run(folder).finished
    np.testing.assert_array_equal(read_run(folder).metrics["step"], [10, 20])
    assert mbrl_says("report", folder)[0] == 0
    assert mbrl_says(*again)[0] == 0
    for name in ("metrics.csv", "config.json"):
        assert (folder / name).read_bytes() == (room / "ensemble" / name).read_bytes(), name
    resumed, whole = (load(path / "model.safetensors") for path in (folder, room / "ensemble"))
    assert resumed.config() == whole.config()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert len(read_run(folder).starts) == 2


def environment():
    """Of a process that finds this copy of the packages wherever it runs."""
    return {**os.environ, "PYTHONPATH": str(Path(mbrl.cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def test_as_a_process(tmp_path):
    wanted = [sys.executable, "-W", "error", "-m", "mbrl", "report", "nowhere"]
    done = subprocess.run(wanted, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    line = "mbrl report: nowhere is no run folder: there is no such folder\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize("args", [["plan", "--help"], ["--help"]])
def test_a_reader_that_has_seen_enough_is_no_bad_input(args, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    wanted = [sys.executable, "-W", "error", "-m", "mbrl", *args]
    done = subprocess.run(wanted, cwd=tmp_path, env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
def test_a_process_that_gets_ctrl_c(room, tmp_path, ctrl_c):
    wanted = [sys.executable, "-m", "mbrl", "fit", room / "logs.npz", *TINY[:4], "--run", "run"]
    wanted += ["--training.steps", "100000", "--training.evaluate-every", "20", "--training.patience", "100000"]
    process = subprocess.Popen(wanted, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        limit = time.monotonic() + 120
        while not (tmp_path / "run" / "fit.pt").exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err.decode()
    assert err.decode().startswith("mbrl fit: interrupted; to go on: mbrl fit ")
    assert err.decode().count("\n") == 1
    assert len(read_run(tmp_path / "run").metrics["step"]) >= 1


def test_ctrl_c_before_there_is_a_checkpoint(tmp_path, monkeypatch, mbrl_says):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mbrl, "evaluate", interrupted)
    status, _, err = mbrl_says("eval", "PendulumSwingUp", "--policy", "random", "--run", "new")
    again = "mbrl eval PendulumSwingUp --policy random --run new"
    assert (status, err) == (130, f"mbrl eval: interrupted; to start it again: {again}\n")


def test_ctrl_c_where_there_is_nothing_to_go_on_with(monkeypatch, mbrl_says):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_module("tasks"), "run", interrupted)
    assert mbrl_says("tasks") == (130, "", "mbrl tasks: interrupted\n")


# Choices are read off the packages


@dataclass(frozen=True)
class Wobble(abc.ABC):
    """What a planner may be configured with."""

    @abc.abstractmethod
    def draw(self):
        """Nothing."""


@dataclass(frozen=True)
class NoWobble(Wobble):
    """None at all."""

    def draw(self):
        return 0


@dataclass(frozen=True)
class KnotWobble(Wobble):
    """At knots.

    Attributes:
        knots: how many.
    """

    knots: int = 5

    def draw(self):
        return self.knots


@dataclass(frozen=True)
class FutureSampling(Planner):
    """A planner of the future.

    Attributes:
        wobble: a choice below a choice.
        proposal: a function, which no command line can give.
        level: how much.
    """

    wobble: Wobble = NoWobble()
    proposal: Callable[[torch.Tensor], torch.Tensor] | None = None
    level: float = 0.5

    def plan(self, problem, x0, request):
        raise NotImplementedError


FUTURE = choices.choice([ICEM, FutureSampling])


@dataclass(frozen=True)
class Options:
    """Options of a command of the future."""

    paths: tyro.conf.Positional[tuple[str, ...]]
    planner: FUTURE = field(default_factory=ICEM)  # type: ignore[valid-type]


class Future:
    """A command: what main looks at in a module."""

    Options = Options
    CHOICES = choices.choices_of("planner", [ICEM, FutureSampling])


def parsed(*args):
    return parse(Future, "future", args)  # type: ignore[arg-type]


def test_a_new_planner_appears_with_its_choices_and_without_its_functions(capsys):
    assert list(Future.CHOICES["planner"]) == ["icem", "future-sampling"]
    assert list(Future.CHOICES["planner.wobble"]) == ["knot-wobble", "no-wobble"]
    assert parsed("a", "b").planner == ICEM()
    assert parsed("a", "b", "--planner.num-samples", "30") == Options(("a", "b"), ICEM(num_samples=30))
    assert parsed("a", "--planner", "FutureSampling", "--planner.level", "0.25").planner == FutureSampling(level=0.25)
    deep = parsed(
        "--planner=future_sampling", "a", "b", "--planner.wobble", "KnotWobble", "--planner.wobble.knots", "7"
    )
    assert deep == Options(("a", "b"), FutureSampling(wobble=KnotWobble(7)))
    with pytest.raises(SystemExit):
        parsed("--planner", "future-sampling", "--help")
    text = capsys.readouterr().out
    assert "how much." in text
    assert "proposal" not in text


def test_choices_that_are_not_there():
    with pytest.raises(
        ValueError, match=r"--planner knows no 'future-samplin'; did you mean future-sampling\? there is icem, future"
    ):
        parsed("a", "--planner", "future-samplin")
    with pytest.raises(ValueError, match=r"--planner\.wobble knows no 'x'; there is knot-wobble, no-wobble"):
        parsed("a", "--planner.wobble", "x")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("ICEM", "icem"),
        ("MPPI", "mppi"),
        ("PredictiveSampling", "predictive-sampling"),
        ("CVaR", "cvar"),
        ("LQR", "lqr"),
    ],
)
def test_names_as_people_type_them(name, option):
    assert choices.option_name(name) == option


def test_every_planner_and_model_of_the_packages_can_be_chosen():
    import dynamics.learned
    import planners

    exported = {name for name in planners.__all__ if name.isupper() or name in ("RandomShooting", "PredictiveSampling")}
    assert {kind.__name__ for kind in choices.planner_kinds()} >= exported - {"MPC"}
    names = {choices.option_name(kind.__name__) for kind in choices.model_kinds()}
    assert names == {choices.option_name(name.removesuffix("Model")) for name in dynamics.learned.__all__} - {
        "learned-dynamics"
    }
    assert set(actors.CHOICES["planner"]) <= {choices.option_name(name) for name in planners.__all__}
