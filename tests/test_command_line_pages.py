"""The commands that the README and the documentation show, as a reader would type them, at a smaller scale."""

import itertools
import os
import re
import shlex
from pathlib import Path

import pytest

from mbrl import read_run
from mbrl.cli.main import command_module, main, parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/command_line.md")
CARS = os.environ.get("MBRL_F1TENTH_DIR")
SMALLER = {
    "--training.steps": "20",
    "--model.hidden": "8",
    "--episodes": "4",
    "--steps": "30",
    "--horizon": "10",
    "--planner.num-samples": "10",
}
FASTER = {  # and what a page leaves at its default
    "fit": ["--training.steps", "20", "--horizons", "1", "5", "--model.members", "2"],
    "eval": ["--planner.num-samples", "10", "--planner.max-iterations", "1", "--horizon", "5"],
    "plan": ["--planner.num-samples", "10", "--planner.max-iterations", "1", "--no-video"],
    "train": ["--steps-per-iteration", "16", "--epochs", "1", "--evaluation-episodes", "1", "--no-video"],
}


def commands(page):
    """Lines of the shell blocks of a page that call mbrl, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("mbrl ")]


def smaller(args):
    """A command at the scale of a test; options are replaced where they are given, and added where they are not."""
    args = list(args)
    for option, value in SMALLER.items():
        if option in args:
            first = args.index(option) + 1
            last = next((i for i in range(first, len(args)) if args[i].startswith("--")), len(args))
            args[first:last] = [value]
    extra = FASTER.get(args[0], [])
    if "--policy" in args:
        extra = ["--no-video"] if args[0] == "plan" else []
    if args[:2] == ["train", "maxent"]:  # its steps are exact, and few
        extra = ["--evaluation-episodes", "1"]
    if args[0] == "fit" and "linear" in args:
        extra = ["--horizons", "1", "5"]
    starts = [i for i, word in enumerate(extra) if word.startswith("--")] + [len(extra)]
    for start, end in itertools.pairwise(starts):
        if extra[start] not in args:
            args += extra[start:end]
    if args[0] == "plan" and ("--mpc" in args or "--policy" in args):
        args += ["--seconds", "0.5"]
    return args


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_parses(page):
    found = commands(page)
    assert len(found) >= 3
    for name, *args in found:
        command = command_module(name)
        assert isinstance(parse(command, name, args), command.Options)


@pytest.mark.skipif(not CARS, reason="MBRL_F1TENTH_DIR does not name the folder of the F1tenth logs")
@pytest.mark.parametrize("page", PAGES)
def test_the_walk_through_on_the_car_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("f1tenth").symlink_to(Path(str(CARS)).resolve())
    shown = commands(page)
    last = next(i for i, args in enumerate(shown) if args[0] == "report")
    assert sum("f1tenth/measurement_*" in args for args in shown[:last]) >= 2
    for args in shown[: last + 1]:
        capsys.readouterr()
        assert main(smaller(args)) == 0, args
        out, err = capsys.readouterr()
        assert err == ""
        if args[0] == "audit":
            assert out.startswith("41 logs, 4920 steps: 29 findings\n")
        if args[0] == "fit":
            run = read_run(args[args.index("--run") + 1])
            assert run.finished
            assert "41 trajectories, 4920 steps" in out
    assert "report on" in out


def test_the_walk_through_on_a_task_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = [
        args for args in commands("docs/command_line.md") if "f1tenth/measurement_*" not in args and args[0] != "view"
    ]
    assert {args[0] for args in shown} == {"tasks", "collect", "fit", "train", "eval", "plan", "report"}
    for args in shown:
        if args[:2] != ["report", "runs"]:  # that one belongs to the car
            assert main(smaller(args)) == 0, (args, capsys.readouterr().err)
    fitted, trained = {"pendulum-0", "swing-up", "plan"}, {"ppo", "swing-up-ppo", "cart-pole-seed0", "cart-pole-seed1"}
    left = fitted | trained | {"maxent", "cart-pole-comparison.html"}
    assert {path.name for path in Path("runs").iterdir()} == left
    assert len(read_run("runs/pendulum-0").evaluations) == 1
