"""Every example runs at a tiny scale in the fast suite, and keeps its promise at full scale in the slow one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dynamics import load, read_trajectories

EXAMPLES = Path(__file__).parent.parent / "examples"

TINY = {
    "demo.py": [
        "--training.steps",
        "40",
        "--seconds",
        "1.2",
        "--planner.num-samples",
        "12",
        "--planner.max-iterations",
        "1",
    ],
    "estimate_and_control.py": ["--seconds", "1.5", "--planner.num-samples", "10", "--planner.max-iterations", "1"],
    "guided_policy_search.py": ["--tiny"],
    "imitate_controller.py": ["--trajectories", "6", "--steps", "2", "--horizon", "8", "--iterations", "10"],
    "fit_your_logs.py": ["--training.steps", "40"],
    "learned_cost_map.py": [
        "--scenes",
        "1",
        "--paths",
        "2",
        "--learner.max-iterations",
        "3",
        "--seconds",
        "1.0",
        "--planner.num-samples",
        "10",
    ],
    "quickstart.py": ["--clips", "8", "--training.steps", "40", "--steps", "20"],
    "realtime_mpc.py": ["--seconds", "1.5", "--planner.num-samples", "12", "--planner.max-iterations", "1"],
    "record_logs.py": ["--clips", "3"],
    "view.py": ["--check", "--planner.num-samples", "20", "--planner.max-iterations", "1"],
    "trajectory_optimization.py": ["--tiny"],
    "train_policy.py": [
        "--steps",
        "64",
        "--episodes",
        "2",
        "--algorithm.steps-per-iteration",
        "32",
        "--algorithm.epochs",
        "1",
    ],
    "train_with_sb3.py": ["--clips", "4", "--fit-steps", "20", "--steps", "250", "--episodes", "2"],
}


FAST = ("car_parking", "arm", "obstacles")
GALLERY = {  # figures and videos of each case
    "acrobot": {"acrobot.png", "acrobot.mp4"},
    "arm": {"arm.png", "arm.mp4"},
    "car_parking": {"car_parking.png", "car_parking.mp4"},
    "flip": {"flip.png", "flip.mp4"},
    "gap": {"gap.png", "gap.mp4"},
    "locomotion": {f"half_cheetah_{name}.{kind}" for name in ("iLQR", "iCEM") for kind in ("png", "mp4")},
    "obstacles": {"obstacles.png", "obstacles.mp4"},
}


def run(name, *arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-W", "error::UserWarning:mbrl", EXAMPLES / name, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == TINY.keys()
    cases = {path.stem for path in EXAMPLES.glob("gallery/*.py")} - {"__init__", "guesses"}
    assert cases == set(GALLERY)
    assert {path.parent.name for path in EXAMPLES.glob("**/*.py")} == {"examples", "gallery"}


def test_the_demo_leaves_a_complete_run_folder(tmp_path):
    done = run("demo.py", *TINY["demo.py"], "--run", "run", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr  # half trained, one second: the pole cannot stand
    assert "NOT upright" in done.stdout
    assert "25 steps ahead, the median error is" in done.stdout
    folder = tmp_path / "run"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["upright"] is False
    assert summary["fit"]["horizons"] == [1, 5, 10, 25, 50]
    assert {file.stem for file in folder.glob("figures/*.png")} == {"logs", "fit", "predictions", "episode", "planning"}
    assert (folder / "episode.mp4").stat().st_size > 1000
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == 5
    assert page.count("data:video/mp4") == 1
    assert load(folder / "model.safetensors").state_names == (
        "position",
        "angle",
        "position_velocity",
        "angle_velocity",
    )


def test_a_policy_is_compared_with_the_plans_that_taught_it(tmp_path):
    done = run("guided_policy_search.py", *TINY["guided_policy_search.py"], "--out", "gps", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "median cost with disturbances of 0.1: plan alone " in done.stdout
    assert (tmp_path / "gps" / "policy.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_distilled_policy_does_under_disturbances_what_plans_alone_do_not(tmp_path):
    done = run("guided_policy_search.py", "--out", "gps", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cost_map_is_learned_and_driven_on(tmp_path):
    done = run("learned_cost_map.py", *TINY["learned_cost_map.py"], "--out", "out", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr  # nobody arrives within a second
    assert "% more expensive than the driver's way" in done.stdout
    assert "m from the goal" in done.stdout
    assert (tmp_path / "out" / "learned_cost_map.png").stat().st_size > 50_000


@pytest.mark.slow
def test_a_learned_cost_map_leads_a_car_through_a_new_map(tmp_path):
    done = run("learned_cost_map.py", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_your_own_logs_are_prepared_and_fitted(tmp_path):
    done = run("fit_your_logs.py", *TINY["fit_your_logs.py"], "--out", "fit", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "jitter" in done.stdout  # the audit before preparation sees the clock
    assert "jitter" not in done.stdout.split("findings")[2]  # and not after it
    model = load(tmp_path / "fit" / "model.safetensors")
    assert (model.state_names, model.dt) == (("angle", "angle_velocity"), 0.05)
    assert {file.name for file in (tmp_path / "fit").glob("*.png")} == {"fit.png", "predictions.png"}


def test_csv_files_of_your_own_are_told_which_column_is_which(tmp_path):
    (tmp_path / "mine").mkdir()
    for k in range(4):
        t = 0.1 * np.arange(60)
        rows = np.stack([t, 170.0 + 30.0 * np.sin(t + k), np.cos(t + k), np.cos(2 * t)], axis=1)
        np.savetxt(
            tmp_path / "mine" / f"{k}.csv", rows, delimiter=",", header="clock,heading,speed,throttle", comments=""
        )
    columns = [
        "--time",
        "clock",
        "--observations",
        "heading",
        "speed",
        "--units",
        "deg",
        "m/s",
        "--controls",
        "throttle",
    ]
    options = [*columns, "--angles", "heading", "--velocities", "heading", "--dt", "0.1", *TINY["fit_your_logs.py"]]
    done = run("fit_your_logs.py", "--path", "mine", *options, "--out", "fit", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = load(tmp_path / "fit" / "model.safetensors")
    assert (model.state_names, model.control_names) == (("heading", "speed", "heading_velocity"), ("throttle",))
    assert model.angles == (0,)


def test_the_quickstart_runs(tmp_path):
    done = run("quickstart.py", *TINY["quickstart.py"], cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert "upright over the last second" in done.stdout


def test_the_logs_can_be_recorded_again(tmp_path):
    done = run("record_logs.py", *TINY["record_logs.py"], "--path", "logs/random-v0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 trajectories, 225 steps" in done.stdout
    again = run("record_logs.py", *TINY["record_logs.py"], "--path", "logs/random-v0", cwd=tmp_path)
    assert again.returncode != 0
    assert "overwrite" in again.stderr


@pytest.mark.parametrize("shown", ["control", "logs"])
def test_the_page_of_the_viewer_is_served(shown, tmp_path):
    pytest.importorskip("viser")
    done = run("view.py", *TINY["view.py"], "--show", shown, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:" in done.stdout


def test_a_policy_is_trained_and_filmed(tmp_path):
    done = run("train_policy.py", *TINY["train_policy.py"], "--run", "run", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr  # 64 steps teach nothing
    assert "after 64 steps in " in done.stdout
    assert "the goal is NOT reached" in done.stdout
    files = {str(file.relative_to(tmp_path / "run")) for file in (tmp_path / "run").rglob("*")}
    assert {"policy.safetensors", "figures/learning_curve.png", "episode.mp4", "episode.npz"} < files


@pytest.mark.slow
def test_a_trained_policy_finds_the_goal(tmp_path):
    done = run("train_policy.py", "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stable_baselines3_trains_on_a_learned_model(tmp_path):
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
    done = run("train_with_sb3.py", *TINY["train_with_sb3.py"], cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert "sac on the model: return" in done.stdout
    assert "of the way from the untrained policy to planning" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sac", "ddpg", "dqn"])
def test_stable_baselines3_learns_on_a_learned_model(algorithm, tmp_path):
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
    done = run("train_with_sb3.py", "--algorithm", algorithm, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_loop_runs_in_real_time(tmp_path):
    """Whatever the machine is busy with: the loop ends, the log is complete, and no control is beyond its limits."""
    done = run("realtime_mpc.py", *TINY["realtime_mpc.py"], "--out", "out", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr  # the pole cannot stand for the last of 1.5 s
    assert "ended: all cycles are done" in done.stdout
    assert "age of the plan" in done.stdout
    (log,) = read_trajectories(tmp_path / "out" / "log.npz")
    assert log.names.observations == ("position", "angle", "position_velocity", "angle_velocity")
    assert np.abs(log.controls).max() <= 10.0
    assert log.times[-1] >= 1.5
    assert (tmp_path / "out" / "log.png").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["extended", "unscented"])
def test_control_from_an_estimate_ends_with_a_picture(kind, tmp_path):
    options = [*TINY["estimate_and_control.py"], "--filter", kind, "--out", "out"]
    done = run("estimate_and_control.py", *options, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr  # the pendulum cannot stand for the last of 1.5 s
    assert "of the states within two standard deviations" in done.stdout
    assert "not upright over the last second" in done.stdout
    assert (tmp_path / "out" / "estimates.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in GALLERY]
)
def test_a_case_of_the_gallery_leaves_figures_and_videos(case, tmp_path):
    options = [*TINY["trajectory_optimization.py"], "--only", case, "--run", "run"]
    done = run("trajectory_optimization.py", *options, cwd=tmp_path)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "NOT kept its promise" in done.stdout  # a few iterations solve nothing
    files = {file.name: file.stat().st_size for file in (tmp_path / "run").iterdir()}
    assert files.keys() == GALLERY[case]
    assert min(files.values()) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("case", GALLERY)
def test_the_gallery_keeps_its_promises(case, tmp_path):
    done = run("trajectory_optimization.py", "--only", case, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["extended", "unscented"])
def test_the_pendulum_is_swung_up_from_noisy_angles(kind, tmp_path):
    done = run("estimate_and_control.py", "--filter", kind, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_controller_is_imitated(tmp_path):
    done = run("imitate_controller.py", *TINY["imitate_controller.py"], "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error of unseen controls" in done.stdout
    assert (tmp_path / "out" / "imitation.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("unknown", ["cost", "dynamics"])
@pytest.mark.parametrize("system", ["pendulum", "cart-pole"])
def test_cost_or_dynamics_of_a_controller_are_found(system, unknown, tmp_path):
    done = run("imitate_controller.py", "--system", system, "--unknown", unknown, "--seed", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_demo_swings_the_cart_pole_up(tmp_path):
    done = run("demo.py", "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ratio_to_ridge"] >= 5.0


@pytest.mark.slow
def test_the_quickstart_swings_the_pendulum_up(tmp_path):
    done = run("quickstart.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
