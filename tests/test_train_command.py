"""``mbrl train``, and the policies that it leaves in the other commands."""

import abc
import dataclasses
import importlib
import json
import re
import shlex
import shutil
import sys
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
import tyro

import mbrl
import mbrl.cli.train
from dynamics import read_trajectories, write_trajectories
from mbrl.cli import choices
from mbrl.cli.actors import film
from mbrl.cli.main import main, parse
from mbrl.plots.style import new_figure
from planners import CEM, ICEM, MPC, CVaR

ON_PENDULUM = ["ppo", "--task", "pendulumswingup", "--backend", "torch"]
TINY = ["--steps", 48, "--num-envs", 2, "--steps-per-iteration", 16, "--epochs", 1, "--network.hidden", 8]
QUICK = ["--no-video", "--evaluation-episodes", 1]


@pytest.fixture(autouse=True)
def one_line_of_terminal(monkeypatch):
    """Tyro wraps its help to the terminal."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with a policy of the pendulum in the run folder "ppo"."""
    folder = tmp_path_factory.mktemp("room")
    assert main([str(arg) for arg in ["train", *ON_PENDULUM, *TINY, *QUICK, "--run", folder / "ppo"]]) == 0
    return folder


@pytest.fixture
def plain_pages(monkeypatch):
    """Pages with an empty figure in the place of curves, whose labels take a second to lay out."""
    for name in ("mbrl.plots.train_sections", "mbrl.plots.run_comparison"):
        module = importlib.import_module(name)  # a function of the package has the same name
        monkeypatch.setattr(module, "plot_learning_curves", lambda *args: new_figure(1, 1))


@pytest.fixture
def mbrl_says(capsys):
    """Run a command: its status and what it said on either stream."""

    def say(*args):
        capsys.readouterr()
        status = main([str(arg) for arg in args])
        return status, *capsys.readouterr()

    return say


def same_policy(folder, other):
    first, second = (mbrl.load_policy(path).state_dict() for path in (folder, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# What the command does


def test_a_training_leaves_a_complete_run(room):
    run = mbrl.read_run(room / "ppo")
    assert (run.finished, run.problems) == (True, ())
    assert run.config is not None
    assert (run.config["command"], run.config["task"], run.config["backend"]) == ("train", "PendulumSwingUp", "torch")
    assert run.config["algorithm"]["network"]["hidden"] == [8]
    np.testing.assert_array_equal(run.metrics["step"], [16, 32, 48])
    assert {"train/kl", "train/entropy", "train/value_loss"} < set(run.metrics)
    page = (room / "ppo" / "report.html").read_text()
    assert (page.count("data:image/png"), page.count("data:video")) == (2, 0)
    assert "PPO on PendulumSwingUp" in page
    assert (room / "ppo" / "figures" / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    (episode,) = read_trajectories(room / "ppo" / "episode.npz")
    assert run.summary is not None
    assert episode.rewards.sum() == pytest.approx(run.summary["return"])  # the evaluation had one episode


def test_it_is_what_the_library_does(room):
    algorithm = mbrl.PPO(
        num_envs=2, steps_per_iteration=16, epochs=1, network=mbrl.NetworkSettings(hidden=(8,)), discount=0.99
    )
    result = mbrl.train(algorithm, mbrl.pendulum_swing_up(backend="torch"), steps=48, evaluation_episodes=0)
    saved = mbrl.load_policy(room / "ppo").state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in result.policy.state_dict().items())


def test_it_says_where_everything_is(tmp_path, mbrl_says):
    run = tmp_path / "run"
    wanted = [*ON_PENDULUM, *TINY, "--evaluate-every", 32, "--evaluation-episodes", 2, "--run", run]
    status, out, err = mbrl_says("train", *wanted)
    assert (status, err) == (0, "")
    first, result, policy, filming, report = out.splitlines()
    assert filming.startswith("filming an episode")
    assert first == f"run folder: {run}"
    number = r"-?[\d.]+"
    sentence = rf"return {number} \(95 % {number} to {number}, interquartile mean of 2 episodes\), success 0 % "
    assert re.fullmatch(sentence + r"after 48 environment steps in \d+ s", result)
    assert (policy, report) == (f"policy: {run}/policy.safetensors", f"report: {run}/report.html")
    page = (run / "report.html").read_text()
    assert (page.count("data:image/png"), page.count("data:video/mp4")) == (2, 1)
    assert f"<p>{result}</p>" in page
    assert "<p>PPO on PendulumSwingUp, seed 0; settings: " in page
    assert "network.hidden [8]" in page
    assert "num_envs 2" in page
    assert "learning_rate" not in page
    np.testing.assert_array_equal(np.isfinite(mbrl.read_run(run).metrics["eval/return"]), [False, True, False])


@pytest.mark.usefixtures("plain_pages")
def test_a_choice_below_an_algorithm(tmp_path, mbrl_says):
    chosen = ["--objective", "KLPenalty", "--objective.target", 0.02, "--advantages", "rewards-to-go"]
    status, _, err = mbrl_says("train", *ON_PENDULUM, *TINY, *QUICK, *chosen, "--run", tmp_path / "run")
    assert (status, err) == (0, "")
    config = json.loads((tmp_path / "run" / "config.json").read_text())["algorithm"]
    assert config["objective"] == {"class": "KLPenalty", "target": 0.02, "initial": 1.0}
    assert config["advantages"]["class"] == "RewardsToGo"


@pytest.mark.usefixtures("plain_pages")
def test_it_begins_with_a_policy(room, tmp_path, mbrl_says):
    still = ["--learning-rate", 1e-30, "--init", room / "ppo", "--run", tmp_path / "run"]
    assert mbrl_says("train", *ON_PENDULUM, *TINY, *QUICK, *still)[0] == 0
    first, second = (mbrl.load_policy(path) for path in (room / "ppo", tmp_path / "run"))
    for (name, before), after in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(before, after), name
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"] == str(room / "ppo")


@pytest.mark.usefixtures("plain_pages")
def test_tensorboard_files_are_written_on_demand(tmp_path, mbrl_says):
    pytest.importorskip("tensorboard")
    status, _, err = mbrl_says("train", *ON_PENDULUM, *TINY, *QUICK, "--tensorboard", "--run", tmp_path / "run")
    assert (status, err) == (0, "")
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))) == 1


@pytest.mark.usefixtures("plain_pages")
def test_several_seeds_have_a_folder_each_and_a_page_together(tmp_path, monkeypatch, mbrl_says):
    monkeypatch.chdir(tmp_path)
    wanted = ["train", *ON_PENDULUM, *TINY, *QUICK, "--seeds", 3, 5]
    status, out, err = mbrl_says(*wanted, "--run", "runs/ppo")
    assert (status, err) == (0, "")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["ppo-comparison.html", "ppo-seed3", "ppo-seed5"]
    assert out.endswith("comparison: runs/ppo-comparison.html\n")
    assert "2 runs. Runs of the same settings" in Path("runs/ppo-comparison.html").read_text()
    assert [mbrl.read_run(f"runs/ppo-seed{seed}").seed for seed in (3, 5)] == ["3", "5"]
    assert not same_policy("runs/ppo-seed3", "runs/ppo-seed5")
    # the same again trains what is missing only
    before = Path("runs/ppo-seed3/trainer.pt").stat().st_mtime_ns
    shutil.move("runs/ppo-seed5", "other")
    status, out, _ = mbrl_says(*wanted, "--run", "runs/ppo")
    assert (status, "runs/ppo-seed3 is finished\n" in out) == (0, True)
    assert Path("runs/ppo-seed3/trainer.pt").stat().st_mtime_ns == before
    assert same_policy("runs/ppo-seed5", "other")
    # but not where something else was asked for
    status, _, err = mbrl_says(*wanted, "--run", "runs/ppo", "--discount", 0.5)
    assert status == 2
    assert "runs/ppo-seed3 is finished and had another config" in err
    assert "algorithm.discount was 0.99, now 0.5" in err


# Gymnasium


class Drawing(gymnasium.Env):
    """One number to be kept small; it draws itself."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.uniform(-1, 1, 1), 0
        return self.x.copy(), {}

    def step(self, action):
        self.x, self.steps = self.x + 0.1 * action, self.steps + 1
        return self.x.copy(), -float(self.x[0] ** 2), False, self.steps == 5, {}

    def render(self):
        return np.full((16, 16, 3), int(50 * abs(self.x[0])) % 255, dtype=np.uint8)


@pytest.fixture
def drawing():
    gymnasium.register("Drawing-v0", entry_point=Drawing)
    yield "Drawing-v0"
    del gymnasium.registry["Drawing-v0"]


@pytest.mark.filterwarnings("ignore:.*:UserWarning:gymnasium")
@pytest.mark.usefixtures("plain_pages")
def test_a_gymnasium_environment_films_itself_and_is_evaluated(drawing, tmp_path, mbrl_says):
    wanted = ["train", "ppo", "--task", drawing, *TINY, "--evaluation-episodes", 2, "--run", tmp_path / "run"]
    status, out, err = mbrl_says(*wanted)
    assert (status, err) == (0, "")
    assert "no video" not in out
    assert (tmp_path / "run" / "report.html").read_text().count("data:video/mp4") == 1
    status, out, err = mbrl_says("eval", drawing, "--policy", tmp_path / "run", "--episodes", 3)
    assert (status, err) == (0, "")
    assert out.startswith(f"trained policy, {drawing}: return -")
    (row,) = mbrl.read_run(tmp_path / "run").evaluations
    assert (row["task"], row["actor"], row["episodes"]) == (drawing, "trained policy", "3")


@pytest.mark.usefixtures("plain_pages")
def test_an_environment_that_cannot_be_drawn_is_trained_on_all_the_same(tmp_path, monkeypatch, mbrl_says):
    def missing(*args):
        raise gymnasium.error.DependencyNotInstalled("pygame is not\n installed")

    monkeypatch.setattr(mbrl.cli.train, "film", missing)
    wanted = ["train", "ppo", "--task", "CartPole-v1", *TINY, "--evaluation-episodes", 1, "--run", tmp_path / "run"]
    status, out, err = mbrl_says(*wanted)
    assert (status, err) == (0, "")
    assert "no video: pygame is not installed\n" in out
    assert mbrl.read_run(tmp_path / "run").finished


# Trained policies in other commands


def test_eval_measures_a_trained_policy(room, tmp_path, mbrl_says):
    shutil.copytree(room / "ppo", tmp_path / "ppo")
    wanted = ["eval", "PendulumSwingUp", "--backend", "torch", "--policy", tmp_path / "ppo", "--episodes", 3]
    status, out, _ = mbrl_says(*wanted, "--seed", 4)
    assert (status, "added to" in out) == (0, True)
    generator = torch.Generator().manual_seed(4)
    task = mbrl.pendulum_swing_up(backend="torch")
    expected = mbrl.evaluate(mbrl.load_policy(room / "ppo"), task, episodes=3, generator=generator).returns
    (row,) = mbrl.read_run(tmp_path / "ppo").evaluations
    assert row["returns"].split() == [repr(float(value)) for value in expected]
    file = tmp_path / "ppo" / "policy.safetensors"
    status, out, _ = mbrl_says("eval", "PendulumSwingUp", "--policy", file, "--episodes", 1, "--run", tmp_path / "new")
    assert (status, f"policy of {file}" in out) == (0, True)
    assert mbrl.read_run(tmp_path / "new").finished


def test_plan_collect_and_view_take_a_trained_policy(room, tmp_path, monkeypatch, mbrl_says):
    policy, task = room / "ppo", ["PendulumSwingUp", "--backend", "torch"]
    acted = ["plan", *task, "--policy", policy, "--seconds", 0.5, "--no-video", "--run", tmp_path / "run"]
    status, out, err = mbrl_says(*acted)
    assert (status, err, "success: no" in out) == (0, "", True)
    (episode,) = read_trajectories(tmp_path / "run" / "episode.npz")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["return"] == pytest.approx(episode.rewards.sum())
    logs = ["collect", *task, "--actor", policy, "--episodes", 1, "--steps", len(episode), "--out", tmp_path / "a.npz"]
    assert mbrl_says(*logs)[0] == 0
    (recorded,) = read_trajectories(tmp_path / "a.npz")
    np.testing.assert_array_equal(recorded.controls, episode.controls)  # of the same seed
    viewer = pytest.importorskip("mbrl.viewer")
    shown: list[Any] = []
    monkeypatch.setattr(viewer, "view_control", lambda *args, **options: shown.append(args))
    monkeypatch.setattr(viewer, "view_trajectory", lambda *args, **options: shown.append(args))
    assert mbrl_says("view", *task, "--policy", policy)[0] == 0
    assert isinstance(shown[0][1], mbrl.Policy)
    assert mbrl_says("view", policy)[0] == 0
    assert shown[1][1].name == "PendulumSwingUp"


# What is wrong is said in one line


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["train"], "the first word takes a name; there is "),
        (["train", "--task", "PendulumSwingUp"], "the first word takes a name; there is "),
        (["train", "pop"], "the first word knows no 'pop'; did you mean ppo?"),
        (["train", "ppo", "--steps", "3"], "--task"),
        (["train", "ppo", "--task", "PendulumSwingUp"], "ppo ends when its environment steps are spent: --steps N"),
        (
            ["train", "ppo", "--objective", "clip"],
            "--objective knows no 'clip'; did you mean clipped-objective? there is",
        ),
        (["train", "ppo", "--objective", "kl-penlaty"], "--objective knows no 'kl-penlaty'; did you mean kl-penalty?"),
        (
            ["train", "ppo", "--taks", "X"],
            "Missing from mbrl train: --task; --taks is no option, did you mean --task?",
        ),
        (
            ["train", *ON_PENDULUM, "--steps", "3", "--objectiv", "x"],
            "; --objectiv is no option, did you mean --objective? (",
        ),
        (
            ["train", *ON_PENDULUM, "--steps", "3", "--lerning-rate", "1"],
            "--lerning-rate, 1; did you mean --learning-rate?",
        ),
        (["train", "ppo", "--task", "Pendulum", "--steps", "3"], "no task 'Pendulum'; nearest: PendulumSwingUp"),
        (["train", "ppo", "--task", "CartPole-v9", "--steps", "3"], "no environment 'CartPole-v9'; did you mean"),
        (["train", "ppo", "--task", "CartPole-v1", "--backend", "torch", "--steps", "3"], "--backend would be ignored"),
        (["train", *ON_PENDULUM, "--steps", "0", "--run", "new"], "need steps >= 1"),
        (["train", *ON_PENDULUM, "--steps", "0"], "need steps >= 1"),
        (["train", *ON_PENDULUM, "--steps", "3", "--num-envs", "0"], "num_envs must be an integer of at least 1"),
        (["train", *ON_PENDULUM, "--steps", "3", "--network.head", "beat"], "beat"),
        (["train", *ON_PENDULUM, "--steps", "3", "--demos", "LOGS", "--run", "new"], "mbrl train bc --demos ..., then"),
        (["train", *ON_PENDULUM, "--steps", "3", "--dt", "0.1"], "--dt would be ignored: without --demos"),
        (["train", *ON_PENDULUM, "--steps", "3", "--seed", "1", "--seeds", "2", "3"], "--seed would be ignored"),
        (["train", *ON_PENDULUM, "--steps", "3", "--seeds", "2", "2"], "--seeds takes distinct integers in 0.."),
        (["train", *ON_PENDULUM, "--steps", "3", "--seeds", "2", "-1"], "--seeds takes distinct integers in 0.."),
        (["train", *ON_PENDULUM, "--steps", "3", "--init", "RUN", "--run", "new"], "init must be a policy of the same"),
        (["train", "ppo", "--task", "Reacher", "--steps", "3", "--init", "RUN"], "the policy in"),
        (["train", *ON_PENDULUM, "--steps", "3", "--init", "nowhere"], "there is no policy 'nowhere'"),
        (["train", *ON_PENDULUM, "--steps", "3", "--run", "RUN"], "; to go on from its policy: --init "),
        (["train", "bc", *ON_PENDULUM[1:], "--steps", "3"], "--demos FILE, and mbrl collect records some"),
        (
            ["eval", "CartPoleSwingUp", "--policy", "RUN"],
            "does not fit: task CartPoleSwingUp shows 5 columns and takes 1 controls, the policy",
        ),
        (
            ["eval", "CartPole-v1", "--policy", "RUN"],
            "does not fit: CartPole-v1 shows 4 columns and takes 1 controls, the",
        ),
        (["eval", "CartPole-v1", "--policy", "random"], "random takes its limits from a task of this library"),
        (["eval", "CartPole-v1"], "there is no task 'CartPole-v1'; nearest: CartPoleSwingUp"),
        (["eval", "PendulumSwingUp", "--policy", "rnadom"], "there is no policy 'rnadom': it is one of spline-noise"),
        (["eval", "PendulumSwingUp", "--policy", "."], "there is no policy.safetensors in .: it is no run folder"),
        (["eval", "PendulumSwingUp", "--policy", "RUN/summary.json"], "is not a readable safetensors file"),
        (["eval", "PendulumSwingUp", "--policy", "RUN", "--horizon", "3"], "--horizon would be ignored"),
        (["plan", "PendulumSwingUp", "--policy", "RUN", "--mpc"], "--mpc would be ignored"),
        (["plan", "PendulumSwingUp", "--policy", "RUN", "--planner", "cem"], "--planner would be ignored"),
        (
            ["collect", "PendulumSwingUp", "--actor", "RUN", "--scale", "2", "--out", "a.npz"],
            "--scale would be ignored",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(args, sentence, room, tmp_path, monkeypatch, mbrl_says):
    monkeypatch.chdir(tmp_path)
    if "LOGS" in args:
        assert mbrl_says("collect", "PendulumSwingUp", "--episodes", 3, "--steps", 5, "--out", "logs.npz")[0] == 0
    args = [arg.replace("LOGS", "logs.npz").replace("RUN", str(room / "ppo")) for arg in args]
    status, out, err = mbrl_says(*args)
    assert status == 2
    assert sentence in err
    assert err.startswith(f"mbrl {args[0]}: ")
    assert err.count("\n") == 1
    assert "run folder" not in out
    assert not Path("new").exists()
    assert not Path("runs").exists()


def test_a_missing_extra_is_one_line_before_anything_is_trained(tmp_path, monkeypatch, mbrl_says):
    monkeypatch.setitem(sys.modules, "wandb", None)
    status, out, err = mbrl_says("train", *ON_PENDULUM, *TINY, "--wandb", "--run", tmp_path / "run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert 'pip install "mbrl-control[wandb]"' in err
    assert not (tmp_path / "run").exists()


# Stop and go on


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C when a step is logged for the first time, or the time that is said."""
    log = mbrl.Run.log

    def arm(step, times=1):
        left = [times]

        def logged(run, at, **scalars):
            left[0] -= at == step
            if at == step and left[0] == 0:
                raise KeyboardInterrupt
            log(run, at, **scalars)

        monkeypatch.setattr(mbrl.Run, "log", logged)

    return arm


@pytest.mark.usefixtures("plain_pages")
def test_an_interrupted_training_goes_on_bit_for_bit(room, tmp_path, monkeypatch, interrupted, mbrl_says):
    monkeypatch.chdir(tmp_path)
    wanted = ["train", *ON_PENDULUM, *TINY, *QUICK]
    interrupted(32)
    status, _, err = mbrl_says(*wanted)
    assert (status, err.count("\n")) == (130, 1)
    again = shlex.split(err.partition("mbrl train: interrupted; to go on: mbrl ")[2])
    (folder,) = Path("runs").iterdir()
    assert again == [*map(str, wanted), "--run", str(folder)]
    np.testing.assert_array_equal(mbrl.read_run(folder).metrics["step"], [16])
    assert mbrl_says(*again)[0] == 0
    assert same_policy(folder, room / "ppo")
    assert (folder / "config.json").read_bytes() == (room / "ppo" / "config.json").read_bytes()


@pytest.mark.usefixtures("plain_pages")
def test_interrupted_seeds_go_on_where_they_were(tmp_path, monkeypatch, interrupted, mbrl_says):
    monkeypatch.chdir(tmp_path)
    wanted = ["train", *ON_PENDULUM, *TINY, *QUICK, "--seeds", 0, 1]
    interrupted(32, times=2)
    status, _, err = mbrl_says(*wanted)
    again = shlex.split(err.partition("interrupted; to go on: mbrl ")[2])
    first, second = sorted(Path("runs").iterdir())
    assert (status, again) == (130, [*map(str, wanted), "--run", str(first).removesuffix("-seed0")])
    assert (mbrl.read_run(first).finished, mbrl.read_run(second).finished) == (True, False)
    status, out, _ = mbrl_says(*again)
    assert (status, f"{first} is finished\n" in out) == (0, True)
    assert mbrl.read_run(second).finished
    assert len(mbrl.read_run(second).starts) == 2
    assert Path("runs", first.name.replace("seed0", "comparison.html")).exists()


@pytest.mark.usefixtures("plain_pages")
def test_ctrl_c_after_the_end_does_not_ask_to_go_on(tmp_path, monkeypatch, mbrl_says):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(mbrl.cli.train, "film", stopped)
    wanted = ["train", *ON_PENDULUM, *TINY, "--evaluation-episodes", 1, "--run", tmp_path / "run"]
    status, _, err = mbrl_says(*wanted)
    again = err.partition(
        f"mbrl train: interrupted; the run at {tmp_path / 'run'} is finished but for its page: mbrl "
    )[2]
    assert (status, shlex.split(again)) == (130, [*map(str, wanted)])
    # the same makes the page, of the policy that is there, and then there is nothing left
    monkeypatch.setattr(mbrl.cli.train, "film", lambda path, *args: path.write_bytes(b"video"))
    before = (tmp_path / "run" / "policy.safetensors").stat().st_mtime_ns
    status, out, err = mbrl_says(*wanted)
    assert (status, err) == (0, "")
    assert "is finished but for its page\nfilming an episode" in out
    assert out.endswith(f"report: {tmp_path / 'run' / 'report.html'}\n")
    assert (tmp_path / "run" / "policy.safetensors").stat().st_mtime_ns == before
    assert mbrl_says(*wanted) == (0, f"{tmp_path / 'run'} is finished\n", "")
    assert mbrl_says(*wanted, "--discount", 0.5)[0] == 2


def test_a_film_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def cut_off(path, *args):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("mbrl.plots.write_task_video", cut_off)
    task = mbrl.pendulum_swing_up(backend="torch")
    (episode,) = mbrl.record(task, mbrl.UniformNoise(task.control_limits, 1), 1, steps=2)
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path / "episode.mp4", None, task, episode, 0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("mbrl.plots.write_task_video", lambda path, *args: path.write_bytes(b"whole"))
    film(tmp_path / "episode.mp4", None, task, episode, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["episode.mp4"]


def test_dagger_says_first_what_its_expert_is_asked(tmp_path, monkeypatch, mbrl_says):
    def asked(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(mbrl, "train", asked)
    wanted = ["--episodes", 3, "--max-steps", 20, "--run", tmp_path / "run"]
    status, out, _ = mbrl_says("train", "dagger", *ON_PENDULUM[1:], "--steps", 5, "--expert", "cem", *wanted)
    assert status == 130
    horizon = mbrl.pendulum_swing_up(backend="torch").problem().horizon
    assert f"expert: MPC with CEM, planning {horizon} steps ahead; " in out
    assert "3 episodes of up to 20 steps an iteration" in out


@dataclass(frozen=True)
class Dreaming(mbrl.Algorithm):
    """An algorithm of which the command line has never heard."""

    demonstrations: ClassVar[Any] = "required"

    def learner(self, assignment):
        raise KeyboardInterrupt

    def announcement(self, task):
        return f"dreams of {task.name} for an hour"


def test_an_algorithm_says_itself_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = mbrl.cli.train.Options("PendulumSwingUp", 5, Dreaming(), backend="torch", run=Path("run"))
    with pytest.raises(ValueError, match=r"^dreaming learns from demonstrations: --demos FILE, and mbrl collect"):
        mbrl.cli.train.run(given)
    assert capsys.readouterr().out == ""
    assert main(["collect", "PendulumSwingUp", "--episodes", "2", "--steps", "5", "--out", "logs.npz"]) == 0
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        mbrl.cli.train.run(dataclasses.replace(given, demos=("logs.npz",)))
    assert capsys.readouterr().out == "dreams of PendulumSwingUp for an hour\n"
    monkeypatch.setattr(Dreaming, "demonstrations", "none")
    with pytest.raises(
        ValueError, match=r"^dreaming would ignore --demos: mbrl train bc --demos \.\.\., then dreaming with"
    ):
        mbrl.cli.train.run(dataclasses.replace(given, demos=("logs.npz",)))


# Algorithms are read off the package


def test_every_exported_algorithm_can_be_chosen_and_its_options_are_its_own(mbrl_says):
    names = [name for name in mbrl.__all__ if isinstance(getattr(mbrl, name), type)]
    exported = {name for name in names if issubclass(getattr(mbrl, name), mbrl.Algorithm)}
    kinds = choices.algorithm_kinds()
    assert "PPO" in {kind.__name__ for kind in kinds} <= exported
    taken = {one.name for kind in (mbrl.cli.train.Options, mbrl.cli.train.Reading) for one in dataclasses.fields(kind)}
    for kind in kinds:
        assert not taken & {one.name for one in dataclasses.fields(kind)}, kind
        status, out, err = mbrl_says("train", choices.word(kind), "--help")
        assert (status, err) == (0, "")
        assert not set(out) & set("\\`")
        lists_planners = "--expert cem|" in out
        assert lists_planners == any(field.name == "expert" for field in dataclasses.fields(kind))


@dataclass(frozen=True)
class Patience(abc.ABC):
    """What an algorithm of the future may be configured with."""

    @abc.abstractmethod
    def wait(self):
        """Nothing."""


@dataclass(frozen=True)
class Short(Patience):
    """Not long."""

    def wait(self):
        return 0


@dataclass(frozen=True)
class Long(Patience):
    """Not short.

    Attributes:
        minutes: how long.
    """

    minutes: float = 5.0

    def wait(self):
        return self.minutes


@dataclass(frozen=True)
class Copying(mbrl.Algorithm):
    """Learns from an expert.

    Attributes:
        expert: what is copied.
        rounds: how often.
    """

    expert: mbrl.Actor
    _: KW_ONLY
    rounds: int = 3

    def learner(self, assignment):
        raise NotImplementedError


@dataclass(frozen=True)
class Waiting(mbrl.Algorithm):
    """Learns by waiting.

    Attributes:
        patience: a choice.
    """

    patience: Patience = field(default_factory=Short)

    def learner(self, assignment):
        raise NotImplementedError


FUTURE: Any = Annotated[choices.choice([Copying, Waiting]), tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Options:
    """Options of a command of the future."""

    steps: int
    algorithm: FUTURE


class Future:
    """A command: what main looks at in a module."""

    Options = Options
    CHOICES = choices.choices_of("", [Copying, Waiting])


def parsed(*args):
    return parse(Future, "future", args)  # type: ignore[arg-type]


def test_a_new_algorithm_appears_with_its_options_and_choices():
    assert list(Future.CHOICES[""]) == ["copying", "waiting"]
    assert list(Future.CHOICES["patience"]) == ["long", "short"]
    assert parsed("waiting", "--steps", "5") == Options(5, Waiting())
    assert parsed("Waiting", "--steps", "5", "--patience", "long", "--patience.minutes", "7") == Options(
        5, Waiting(Long(7.0))
    )
    with pytest.raises(ValueError, match="copying has no --patience; it is an option of waiting"):
        parsed("copying", "--steps", "5", "--patience", "long")


def test_an_expert_is_a_planner_with_its_options_that_plans_on_the_task():
    task = mbrl.pendulum_swing_up(backend="torch")
    default = parsed("copying", "--steps", "5").algorithm.build(task)
    assert isinstance(default, Copying)
    assert (default.expert.planner, default.rounds) == (ICEM(), 3)
    args = ["--expert", "cem", "--expert.num-samples", "40", "--rounds", "2"]
    algorithm = parsed("copying", "--steps", "5", *args).algorithm.build(task)
    assert isinstance(algorithm.expert, MPC)
    assert algorithm.expert.planner == CEM(num_samples=40)
    assert (algorithm.expert.problem.horizon, algorithm.rounds) == (task.problem().horizon, 2)


# Guided policy search


GUIDED = {
    "isgps": ("train/cost_best", "train/effective_samples", "train/accepted"),
    "mdgps": ("train/kl", "train/dual", "train/predicted_cost"),
    "distillation": ("train/loss",),
    "constrained-gps": ("train/kl", "train/multiplier"),
    "badmm": ("train/kl", "train/multiplier", "train/weight"),
}


@pytest.fixture
def short_episodes(monkeypatch):
    """Tasks whose episodes have ten steps: plans reach to the end."""
    find: Any = mbrl.cli.train.find_world
    monkeypatch.setattr(mbrl.cli.train, "find_world", lambda *args: dataclasses.replace(find(*args), episode_steps=10))


@pytest.mark.usefixtures("plain_pages", "short_episodes")
@pytest.mark.parametrize(("name", "metrics"), GUIDED.items(), ids=GUIDED)
def test_guided_policy_search_ends_by_its_iterations_and_goes_on_where_it_was(
    name, metrics, tmp_path, interrupted, mbrl_says
):
    few = ["--conditions", 2, "--samples", 2, "--iterations", 2, "--supervised.steps", 3, "--network.hidden", 4]
    taught = ["--teacher", "ModelTeacher", "--teacher.planner.max-iterations", 2]
    wanted = ["train", name, *ON_PENDULUM[1:], *few, *taught, *QUICK]
    status, out, err = mbrl_says(*wanted, "--run", tmp_path / "whole")
    assert (status, err) == (0, "")
    assert "teacher: ModelTeacher, planning by DDP; 2 iterations for 2 initial states" in out
    assert " steps of the plant in " in out
    whole = mbrl.read_run(tmp_path / "whole")
    interrupted(int(whole.metrics["step"][1]))
    assert mbrl_says(*wanted, "--run", tmp_path / "run")[0] == 130
    again = mbrl.read_run(tmp_path / "run")
    assert (again.finished, len(again.metrics["step"])) == (False, 1)
    assert mbrl_says(*wanted, "--run", tmp_path / "run")[0] == 0
    assert same_policy(tmp_path / "run", tmp_path / "whole")
    again = mbrl.read_run(tmp_path / "run").metrics
    for column in ("step", "rollout/cost", *metrics):
        np.testing.assert_array_equal(again[column], whole.metrics[column], err_msg=column)
        assert np.isfinite(again[column][-1])
    assert all((again[f"time/{part}"] >= 0).all() for part in ("plan", "rollouts", "fit"))


@pytest.mark.usefixtures("plain_pages", "short_episodes")
def test_a_cost_is_learned_from_demonstrations(tmp_path, mbrl_says):
    task = dataclasses.replace(mbrl.pendulum_swing_up(backend="torch"), episode_steps=10)
    expert = mbrl.record(task, MPC(task.problem(horizon=5), CEM(num_samples=20, max_iterations=1)), 3)
    write_trajectories(tmp_path / "expert.npz", expert)
    few = ["--samples", 2, "--conditions", 3, "--iterations", 2, "--supervised.steps", 3, "--cost-hidden", 4]
    wanted = ["train", "gcl", *ON_PENDULUM[1:], *few, *QUICK, "--demos", tmp_path / "expert.npz"]
    status, out, err = mbrl_says(*wanted, "--run", tmp_path / "run")
    assert (status, err) == (0, "")
    begin = "from each state in which a demonstration, or a piece of one, begins"
    assert f"2 iterations, in each of them 2 rollouts of 10 steps {begin}" in out
    assert "learned reward, PendulumSwingUp:" in out
    assert isinstance(mbrl.load_reward(tmp_path / "run"), mbrl.NetworkCost)
    metrics = mbrl.read_run(tmp_path / "run").metrics
    assert np.isfinite(metrics["train/log_partition"]).all()


def test_what_can_only_be_none_is_no_option(mbrl_says):
    status, out, _ = mbrl_says("train", "gcl", "--help")
    assert status == 0
    assert "--cost-hidden" in out
    assert "--cost " not in out
    status, _, err = mbrl_says("train", "gcl", *ON_PENDULUM[1:], "--cost", 1)
    assert status == 2
    assert "--cost-hidden" in err


def test_guided_policy_search_says_what_an_iteration_takes():
    task = mbrl.pendulum_swing_up(backend="torch")
    said = mbrl.MDGPS(teacher=mbrl.FittedTeacher(), conditions=3, samples=2, iterations=4).announcement(task)
    assert said == (
        "teacher: FittedTeacher, planning by DDP after ICEM; 4 iterations for 3 initial states, in each of them at least "
        f"6 rollouts of {task.episode_steps} steps"
    )


def test_a_choice_that_may_be_none():
    wanted = ["mdgps", "--task", "PendulumSwingUp", "--teacher", "fitted-teacher"]
    assert isinstance(parse(mbrl.cli.train, "train", wanted).algorithm.teacher.scout, ICEM)
    assert parse(mbrl.cli.train, "train", [*wanted, "--teacher.scout", "none"]).algorithm.teacher.scout is None
    scout = ["--teacher.scout", "CEM", "--teacher.scout.num-samples", "40", "--teacher.scout.risk", "cvar"]
    planned = parse(mbrl.cli.train, "train", [*wanted, *scout, "--teacher.planner", "DDP"]).algorithm.teacher
    assert planned == mbrl.FittedTeacher(scout=CEM(num_samples=40, risk=CVaR()))  # its own DDP
    with pytest.raises(
        ValueError, match=r"--teacher.scout none has no --teacher.scout.noise; it is an option of cem, "
    ):
        parse(mbrl.cli.train, "train", [*wanted, "--teacher.scout", "none", "--teacher.scout.noise", "white-noise"])
