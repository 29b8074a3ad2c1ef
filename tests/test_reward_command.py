"""Rewards learned from the command line: demonstrations recorded, learned from, looked at and evaluated."""

import dataclasses
import functools
from typing import Any, Literal

import pytest

import mbrl
from mbrl.cli import main
from mbrl.cli.tasks import find_world
from mbrl.tasks import CONSTRUCTORS, WORLDS

WORLD = ("--task-options", "size=4", "objects=4", "seed=3")


@pytest.fixture
def says(capsys, monkeypatch, tmp_path):
    """Run a command in a folder of its own: its status and what it said on either stream."""
    monkeypatch.chdir(tmp_path)

    def say(*args):
        capsys.readouterr()
        status = main([str(arg) for arg in args])
        return status, *capsys.readouterr()

    return say


def collected(says, *more):
    return says("collect", "objectworld", *WORLD, "--episodes", 8, "--steps", 5, "--out", "demos.npz", *more)


@pytest.mark.parametrize("algorithm", ["maxent", "maxmargin", "apprenticeship"])
def test_a_reward_of_a_world(says, algorithm, tmp_path):
    status, out, _ = collected(says, "--actor", "optimal")
    assert (status, out) == (0, "8 episodes of 5 steps\nlogs: demos.npz\n")
    options = ("--task", "Objectworld", *WORLD, "--demos", "demos.npz", "--max-iterations", 5, "--run", "run")
    status, out, err = says("train", algorithm, *options)
    assert (status, err) == (0, "")
    assert "true return: optimal" in out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Learned reward" in page
    assert page.count("<img") == 2  # learning, and the maps
    assert isinstance(mbrl.load_policy("run"), mbrl.TabularPolicy)
    assert isinstance(mbrl.load_reward("run"), mbrl.FeatureReward)
    status, out, _ = says("eval", "Objectworld", *WORLD, "--policy", "run", "--episodes", 2)
    assert status == 0
    assert "trained policy, Objectworld: return" in out
    status, out, _ = says("train", algorithm, *options)
    assert out == "run is finished\n"
    (tmp_path / "run" / "report.html").unlink()
    status, out, _ = says("train", algorithm, *options)
    assert "finished but for its page" in out
    assert (tmp_path / "run" / "report.html").read_text() == page


def test_an_adversarial_reward_of_a_world(says, tmp_path):
    assert collected(says, "--actor", "optimal")[0] == 0
    small = ("--policy.num-envs", 2, "--policy.steps-per-iteration", 32, "--steps", 64, "--evaluation-episodes", 0)
    options = ("--task", "Objectworld", *WORLD, "--demos", "demos.npz", *small, "--run", "run")
    status, out, err = says("train", "gail", *options)
    assert (status, err) == (0, "")
    assert "true return: optimal" in out
    assert "Learned and true reward of each state and action" in (tmp_path / "run" / "report.html").read_text()


def test_who_acts_in_a_world(says):
    soft = ("--actor", "optimal", "--temperature", 0.5)
    assert collected(says)[0] == collected(says, "--overwrite", *soft)[0] == 0
    status, out, _ = says("eval", "Objectworld", *WORLD, "--policy", "optimal", "--episodes", 2)
    assert (status, out.split(":")[0]) == (0, "optimal, Objectworld")
    status, out, _ = says(
        "train",
        "ppo",
        "--task",
        "Gridworld",
        "--task-options",
        "size=2",
        "--steps",
        64,
        "--num-envs",
        2,
        "--steps-per-iteration",
        32,
        "--run",
        "run",
    )
    assert status == 0
    assert (
        says("collect", "Gridworld", "--task-options", "size=2", "--actor", "run", "--episodes", 2, "--out", "b.npz")[0]
        == 0
    )
    assert "Objectworld" in says("tasks")[1]


def test_a_cost_of_a_task(says, monkeypatch):
    whole = CONSTRUCTORS["PendulumSwingUp"]

    @functools.wraps(whole)
    def short(**options):
        return dataclasses.replace(whole(**options), horizon=6, episode_steps=8)

    monkeypatch.setitem(CONSTRUCTORS, "PendulumSwingUp", short)
    task = ("--backend", "torch")
    begins = ("--initial-lower", 0.3, -1, "--initial-upper", 0.6, 1)
    planner = ("--actor", "planner", "--planner", "ddp", "--planner.max-iterations", 3, "--horizon", 8)
    status, *_ = says(
        "collect", "PendulumSwingUp", *task, *planner, *begins, "--episodes", 2, "--steps", 6, "--out", "d.npz"
    )
    assert status == 0
    options = ("--task", "PendulumSwingUp", *task, "--demos", "d.npz", "--evaluation-episodes", 0, "--no-video")
    status, out, err = says(
        "train", "mpc-irl", *options, "--max-iterations", 2, "--planner.max-iterations", 30, "--run", "run"
    )
    assert (status, err) == (0, "")
    assert "EPIC distance from the truth" in out
    assert "imitation loss" in out  # what the learner says of its own answer
    policy = mbrl.load_policy("run")
    assert policy.planner.max_iterations == 5
    assert policy.cost.names == mbrl.load_reward("run").names == ("angle", "angle_velocity", "torque")


def test_options_of_a_world_are_numbers_and_words(monkeypatch):
    """Whatever the words are: they are those of the annotation."""

    def made(size: int = 4, wind: float = 0.3, kind: Literal["calm", "rough"] = "calm", rewards: Any = None):
        return size, wind, kind, rewards

    monkeypatch.setitem(WORLDS, "Gridworld", made)
    assert find_world("gridworld", options=("kind=rough", "size=5")) == (5, 0.3, "rough", None)
    assert find_world("gridworld", options=("wind=0",)) == (4, 0.0, "calm", None)
    with pytest.raises(ValueError, match="kind= takes calm or rough, got 'near'"):
        find_world("gridworld", options=("kind=near",))
    with pytest.raises(ValueError, match=r"of Gridworld size=4 wind=0\.3 kind=calm, got 'rewards=1'"):
        find_world("gridworld", options=("rewards=1",))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("train", "maxent", "--task", "Objectworld", "--run", "r"), "maxent learns from demonstrations: --demos FILE"),
        (
            ("train", "maxent", "--task", "Objectworld", "--demos", "demos.npz"),
            "show 16 columns, Objectworld has 1024 states",
        ),
        (
            ("train", "maxent", "--task", "PendulumSwingUp", "--demos", "demos.npz"),
            "plans exactly, in a mbrl.GridWorld",
        ),
        (
            ("train", "mpc-irl", "--task", "Objectworld", *WORLD, "--demos", "demos.npz"),
            "needs the plant and the cost of a mbrl.Task",
        ),
        (
            ("train", "maxent", "--task", "Objectworld", "--task-options", "size", "--demos", "demos.npz"),
            "takes NAME=VALUE",
        ),
        (
            ("train", "maxent", "--task", "Objectworld", "--task-options", "size=x", "--demos", "demos.npz"),
            "takes an integer, got 'x'",
        ),
        (
            ("train", "maxent", "--task", "Objectworld", "--task-options", "features=far", "--demos", "demos.npz"),
            "--task-options features= takes near or distance, got 'far'",
        ),
        (
            ("train", "maxent", "--task", "Objectworld", "--backend", "torch", "--demos", "demos.npz"),
            "--backend would be ignored",
        ),
        (("collect", "PendulumSwingUp", "--task-options", "size=3", "--out", "a.npz"), "--task-options are those of"),
        (
            ("collect", "Objectworld", *WORLD, "--actor", "planner", "--out", "a.npz"),
            "no controls are planned in Objectworld",
        ),
        (("collect", "Objectworld", *WORLD, "--temperature", "1", "--out", "a.npz"), "--temperature would be ignored"),
        (
            ("collect", "Objectworld", *WORLD, "--actor", "spline-noise", "--out", "a.npz"),
            "there is random and optimal",
        ),
        (("collect", "PendulumSwingUp", "--actor", "optimal", "--out", "a.npz"), "known in worlds in tables alone"),
        (("eval", "Objectworld"), "is a world in tables"),
        (("plan", "Objectworld"), "is a world in tables"),
        (
            ("eval", "Objectworld", *WORLD, "--policy", "optimal", "--video", "a.mp4"),
            "there is no --video of Objectworld",
        ),
    ],
)
def test_one_sentence_for_a_mistake(says, args, message):
    collected(says)
    status, _, err = says(*args)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
