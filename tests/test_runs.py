import csv
import enum
import json
import math
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

import dynamics
from dynamics import DoubleIntegrator, LinearModel
from dynamics.learned.base import TransitionData
from mbrl.runs import RunError, open_run


@dataclass(frozen=True)
class Config:
    steps: int = 40
    learning_rate: float = 1e-2


def train(folder, kill_at=None):
    """The pattern of the module's docstring; ``kill_at`` pulls the plug in the middle of a step."""
    torch.manual_seed(0)
    config, generator = Config(), torch.Generator().manual_seed(1)
    model = torch.nn.Linear(3, 1, dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    run = open_run(folder, config=config)
    step = 0
    if state := run.load_state():
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
    loss = torch.tensor(math.nan)
    while step < config.steps:
        step += 1
        x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        loss = (model(x).squeeze(-1) - x.sum(-1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(step, loss=loss, **({"train/gradient": model.weight.grad.norm()} if step % 5 == 0 else {}))
        if step == kill_at:
            signal.raise_signal(signal.SIGKILL)
        if step % 10 == 0:
            run.save_state(
                {
                    "step": step,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                }
            )
    run.finish({"loss": loss})
    return model


def train_and_die(folder, kill_at):
    code = f"import torch; torch.set_num_threads(1); import test_runs; test_runs.train({str(folder)!r}, {kill_at})"
    process = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr


def rows(run):
    with (run.folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_killed_and_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole")
    train_and_die(tmp_path / "killed", kill_at=27)
    assert len((tmp_path / "killed" / "metrics.csv").read_text().splitlines()) == 28
    resumed = train(tmp_path / "killed")
    assert torch.equal(whole.weight, resumed.weight)
    for name in ("metrics.csv", "summary.json", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    left, right = (torch.load(tmp_path / name / "trainer.pt", weights_only=True) for name in ("killed", "whole"))
    torch.testing.assert_close(left, right, rtol=0, atol=0)
    assert len(json.loads((tmp_path / "killed" / "system.json").read_text())["starts"]) == 2


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    run = open_run(tmp_path / "run", config={})
    run.log(0, loss=1.0)
    run = open_run(tmp_path / "run", config={})
    assert run.load_state() is None
    assert not (run.folder / "metrics.csv").exists()


def test_a_torn_line_and_rows_after_the_checkpoint_are_cut(tmp_path):
    run = open_run(tmp_path, config={})
    run.log(1, loss=0.5)
    run.save_state({"step": 1})
    run.log(2, loss=0.25)
    path = run.folder / "metrics.csv"
    with path.open("a") as file:
        file.write("3,0.1")  # killed in the middle of a write
    open_run(tmp_path, config={})
    assert path.read_text() == "step,loss\n1,0.5\n"


def test_logged_rows_that_got_lost_are_reported(tmp_path):
    run = open_run(tmp_path, config={})
    run.log(1, loss=0.5)
    run.save_state({"step": 1})
    (run.folder / "metrics.csv").write_text("step,loss\n1,0.")
    with pytest.raises(RunError, match=r"metrics.csv has 0 rows, but had 1 at the checkpoint; delete the folder"):
        open_run(tmp_path, config={})


def test_columns_grow_and_numbers_read_back_exactly(tmp_path):
    run = open_run(tmp_path, config={})
    run.log(1, loss=0.1 + 0.2)
    run.log(2, loss=np.float32(0.1), **{"eval/return": torch.tensor([3])})
    run.log(torch.tensor(3), success=True, loss=math.inf)
    run.log(4, loss=np.float64(1e-300))
    assert rows(run) == [
        {"step": "1", "loss": "0.30000000000000004", "eval/return": "", "success": ""},
        {"step": "2", "loss": repr(float(np.float32(0.1))), "eval/return": "3", "success": ""},
        {"step": "3", "loss": "inf", "eval/return": "", "success": "1"},
        {"step": "4", "loss": "1e-300", "eval/return": "", "success": ""},
    ]
    assert not list(run.folder.glob("*.partial"))


@pytest.mark.parametrize("value", ["0.1", None, torch.zeros(2), 1j])
def test_only_numbers_are_logged(tmp_path, value):
    with pytest.raises(TypeError, match="loss must be a number, got"):
        open_run(tmp_path, config={}).log(1, loss=value)


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", ""])
def test_a_name_that_would_break_the_file_is_refused(tmp_path, name):
    run = open_run(tmp_path, config={})
    with pytest.raises(ValueError, match="cannot head a column; leave out commas, quotes and line breaks"):
        run.log(1, **{name: 1.0})
    assert not run.path("metrics.csv").exists()


def test_state_round_trip(tmp_path):
    run = open_run(tmp_path, config={})
    assert run.load_state() is None
    state = {
        "step": 7,
        "nested": {0: [torch.arange(3), (1.5, None, True)], "text": "ä"},
        "bfloat16": torch.ones(2, dtype=torch.bfloat16),
        "numpy": np.random.default_rng(3).bit_generator.state,  # 128-bit integers
    }
    run.save_state(state)
    loaded = run.load_state()
    assert loaded is not None
    assert torch.equal(loaded["nested"][0][0], torch.arange(3))
    assert loaded["nested"][0][1] == (1.5, None, True)
    assert loaded["bfloat16"].dtype == torch.bfloat16
    assert (loaded["step"], loaded["numpy"]) == (7, state["numpy"])


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.zeros(2), "numpy.ndarray"), (np.float64(1.0), "numpy.float64"), (Config(), "Config"), (enum, "module")],
)
def test_a_state_that_could_not_be_read_back_is_refused_when_it_is_saved(tmp_path, value, kind):
    run = open_run(tmp_path, config={})
    with pytest.raises(TypeError, match=rf"state\['a'\]\[1\] is a .*{kind}; the state is made of .* torch.from_numpy"):
        run.save_state({"a": [0, value]})
    with pytest.raises(TypeError, match=r"state\['a'\] has the key \(0, 1\); keys must be strings or integers"):
        run.save_state({"a": {(0, 1): 0}})
    assert not run.path("trainer.pt").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04cut"])
def test_an_unreadable_checkpoint_is_reported(tmp_path, content):
    run = open_run(tmp_path, config={})
    run.path("trainer.pt").write_bytes(content)
    with pytest.raises(RunError, match=r"trainer.pt is not a readable checkpoint; delete it to start over"):
        run.load_state()


def test_a_checkpoint_of_another_kind_is_reported(tmp_path):
    run = open_run(tmp_path, config={})
    torch.save({"weights": torch.zeros(2)}, run.path("trainer.pt"))
    with pytest.raises(RunError, match=r"trainer.pt was not written by Run.save_state; delete it to start over"):
        open_run(tmp_path, config={})


def test_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    run = open_run(tmp_path / "run", config={})
    torch.save({"rows": 0, "state": Evil()}, run.path("trainer.pt"))
    with pytest.raises(RunError, match="not a readable checkpoint"):
        run.load_state()
    assert not (tmp_path / "executed").exists()


class Color(enum.Enum):
    RED = 1


@dataclass(frozen=True, eq=False)
class Everything:
    config: Config = field(default_factory=Config)
    horizon: float = math.inf
    limits: tuple[float, ...] = (-1.0, 1.0)
    goal: torch.Tensor = field(default_factory=lambda: torch.tensor([[1.5], [math.nan]]))
    array: np.ndarray = field(default_factory=lambda: np.arange(2))
    logs: Path = Path("logs/a")
    color: Color = Color.RED
    dtype: torch.dtype = torch.float64
    nothing: None = None


def test_config_as_readable_json(tmp_path):
    run = open_run(tmp_path, config={"b": Everything(), "a": np.float32(0.5)})
    text = (run.folder / "config.json").read_text()
    assert text.startswith('{\n  "a": 0.5,\n  "b": {\n    "array": [\n')
    assert json.loads(text) == {
        "a": 0.5,
        "b": {
            "class": "Everything",
            "config": {"class": "Config", "steps": 40, "learning_rate": 0.01},
            "horizon": "inf",
            "limits": [-1.0, 1.0],
            "goal": [[1.5], ["nan"]],
            "array": [0, 1],
            "logs": "logs/a",
            "color": "RED",
            "dtype": "torch.float64",
            "nothing": None,
        },
    }
    open_run(tmp_path, config={"b": Everything(), "a": 0.5})  # equal, NaN included


def test_a_config_without_json_value_is_refused_by_place(tmp_path):
    with pytest.raises(
        TypeError, match=r"config.a\[1\].clock is a builtin_function_or_method, which has no JSON value"
    ):
        open_run(tmp_path / "run", config={"a": [0, {"clock": len}]})
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_must_have_the_same_config(tmp_path):
    open_run(tmp_path, config={"model": Config(), "seed": 0, "old": 1})
    with pytest.raises(RunError) as caught:
        open_run(tmp_path, config={"model": Config(steps=50), "seed": 0, "new": "x"})
    assert str(caught.value) == (
        f"the run at {tmp_path} was started with another config; resume it with the same one, or choose another path: "
        "model.steps was 40, now 50; new was missing, now 'x'; old was 1, now missing"
    )


def test_a_run_of_another_command_differs_in_nothing_else_worth_saying(tmp_path):
    open_run(tmp_path, config={"command": "plan", "horizon": 3})
    with pytest.raises(RunError, match=r"path: command was 'plan', now 'fit'$"):
        open_run(tmp_path, config={"command": "fit", "angles": []})


@pytest.mark.parametrize("content", ["{", "[]", '{"starts": 3}'])
def test_a_run_whose_starts_cannot_be_read_says_what_to_delete(tmp_path, content):
    open_run(tmp_path, config={})
    (tmp_path / "system.json").write_text(content)
    with pytest.raises(RunError, match=r"system\.json is no list of starts .* delete it to go on"):
        open_run(tmp_path, config={})


def test_what_resume_allows(tmp_path):
    with pytest.raises(RunError, match=r"there is no run at .* to go on with; start it with resume='auto'"):
        open_run(tmp_path / "run", config={}, resume="must")
    assert not (tmp_path / "run").exists()
    open_run(tmp_path / "run", config={}, resume="never")
    with pytest.raises(RunError, match=r"there is an unfinished run .* go on with resume='auto', choose another path"):
        open_run(tmp_path / "run", config={}, resume="never")
    open_run(tmp_path / "run", config={}, resume="must")
    with pytest.raises(ValueError, match="resume must be one of 'auto', 'never', 'must', got True"):
        open_run(tmp_path / "run", config={}, resume=True)


@pytest.mark.parametrize("resume", ["auto", "never", "must"])
def test_a_finished_run_is_left_alone(tmp_path, resume):
    run = open_run(tmp_path, config={})
    run.log(1, loss=1.0)
    run.finish({"success": np.bool_(True), "angle": torch.tensor(0.5), "cost": math.inf})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"success": True, "angle": 0.5, "cost": "inf"}
    with pytest.raises(RunError, match=r"is finished \(summary.json\); choose another path, or delete the folder"):
        open_run(tmp_path, config={}, resume=resume)
    assert rows(run) == [{"step": "1", "loss": "1.0"}]


def test_something_else_is_not_made_a_run(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name in ("folder", "file"):
        with pytest.raises(RunError, match=f"{name} exists and is not a run .* choose another path"):
            open_run(tmp_path / name, config={})
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["thesis.tex"]


def test_where_it_ran(tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repository)]
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    (repository / "tracked").touch()
    subprocess.run([*git, "add", "tracked"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.chdir(repository)
    open_run("runs/first", config={})
    (start,) = json.loads(Path("runs/first/system.json").read_text())["starts"]
    assert start["commit"] == head
    assert start["python"] == ".".join(map(str, sys.version_info[:3]))
    assert start["versions"]["torch"] == torch.__version__
    assert start["versions"]["numpy"] == np.__version__
    assert start["folder"] == str(repository)
    assert start["command"] == shlex.join(sys.orig_argv)
    (repository / "tracked").write_text("changed")
    open_run("runs/second", config={})
    assert json.loads(Path("runs/second/system.json").read_text())["starts"][0]["commit"] == head + "+"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    open_run("elsewhere", config={})
    assert json.loads(Path("elsewhere/system.json").read_text())["starts"][0]["commit"] is None


def test_the_model_is_saved_where_dynamics_loads_it(tmp_path):
    run = open_run(tmp_path, config={})
    system, generator = DoubleIntegrator(dt=0.1), torch.Generator().manual_seed(0)
    x, u = (torch.randn(50, n, generator=generator, dtype=torch.float64) for n in (2, 1))
    model = LinearModel(2, 1, 0.1)
    with pytest.raises(RuntimeError, match="has not been fitted"):
        run.save_model(model)
    model.solve(TransitionData(x, u, system(x, u)))
    path = run.save_model(model)
    assert path == tmp_path / "model.safetensors"
    assert torch.equal(dynamics.load(path)(x, u), model(x, u))


def test_paths_of_further_files(tmp_path):
    run = open_run(tmp_path, config={})
    assert run.path("figures/fit.png") == tmp_path / "figures" / "fit.png"
    assert (tmp_path / "figures").is_dir()


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    open_run(tmp_path / "run", config={"a": 1})
    (tmp_path / "run" / "config.json").write_text('{"a": ')
    with pytest.raises(
        RunError, match=r"config.json is not readable JSON .*; choose another path, or delete the folder"
    ):
        open_run(tmp_path / "run", config={"a": 1})
