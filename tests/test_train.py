"""The training loop: what is stopped goes on to the bit, what diverges is left out, and what an environment gets."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import mbrl
from dynamics import Ensemble, TorchDynamics
from mbrl import PPO, TRPO, CostConstraint, KLPenalty, NetworkSettings
from mbrl.envs.making import vector_env
from mbrl.runs.metrics import read as read_metrics
from mbrl.runs.records import fingerprint
from mbrl.training import Assignment, ResumeWarning, TrainingError, Worlds
from mbrl.training.train import training_config
from planners import QuadraticCost

SIZE = {"num_envs": 2, "steps_per_iteration": 32}
NETWORK = NetworkSettings(hidden=(8,))
CLIPPED = PPO(**SIZE, epochs=2, minibatch_size=16, network=NETWORK)
PENALIZED = replace(CLIPPED, objective=KLPenalty())
RECURRENT = replace(CLIPPED, network=replace(NETWORK, recurrent=4), sequence_length=8)
CONSTRAINED = replace(CLIPPED, constraint=CostConstraint(0.5, proportional=0.1, initial=0.3))


def pendulum(**fields):
    """Swings in episodes that end within an iteration, at a toll for speed."""
    settings = {"episode_steps": 7, "constraint_cost": lambda x, u: (x[..., 1].abs() > 0.1).double()}
    return replace(mbrl.pendulum_swing_up("torch"), **{**settings, **fields})


def cart_pole():
    return replace(mbrl.cart_pole_swing_up("mujoco"), episode_steps=7)


class Counter(gymnasium.Env):
    """Sees how many steps an episode has taken, is paid for them, and never ends; what it gets it writes down."""

    def __init__(self, actions=None, *, broken=None, at=3):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32) if actions is None else actions
        self.broken, self.at, self.received = broken, at, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.received.append(action)
        self.t += 1
        broken = self.broken if self.t == self.at else None
        y = np.array([np.nan if broken == "observation" else float(self.t)])
        info = {} if self.broken != "cost" else {"cost": np.inf if broken == "cost" else 0.0}
        return y, np.nan if broken == "reward" else 1.0, False, self.t == 20, info


# StoppedError and go on


class StoppedError(Exception):
    """Somebody has had enough."""


def stop_after(iterations):
    def stop(row):
        if row["step"] == 32 * iterations:
            raise StoppedError

    return stop


def stopping_worlds(step, of, stop):
    """A replacement of Worlds.step that stops at one call."""
    calls = 0

    def stepping(self, actions):
        nonlocal calls
        calls += 1
        if calls == of:
            stop()
        return step(self, actions)

    return stepping


def checkpoint(folder):
    return torch.load(folder / "trainer.pt", weights_only=True)["state"]["learners"][0]


def assert_same(a, b, place="state"):
    """Nested values are equal to the bit."""
    assert type(a) is type(b), place
    if isinstance(a, dict | OrderedDict):
        assert list(a) == list(b), place
        for key in a:
            assert_same(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{place}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), place
        assert a.numpy().tobytes() == b.numpy().tobytes(), place
    else:
        assert a == b or a != a, place


def assert_same_metrics(a, b):
    """Rows are equal to the bit, but for the time of day."""
    assert list(a) == list(b)
    for name in a:
        if not name.startswith("time/"):
            assert np.array_equal(a[name], b[name], equal_nan=True), name


def assert_same_runs(first, second):
    assert_same(checkpoint(first), checkpoint(second))
    assert_same_metrics(read_metrics(first / "metrics.csv"), read_metrics(second / "metrics.csv"))
    policies = [mbrl.load_policy(folder / "policy.safetensors") for folder in (first, second)]
    assert_same(*(policy.state_dict() for policy in policies))


RUNS = {
    "clipped": (CLIPPED, pendulum),
    "penalized": (PENALIZED, cart_pole),
    "recurrent": (RECURRENT, lambda: "Hopper-v5"),
    "constrained": (CONSTRAINED, pendulum),
    "trust region": (TRPO(**SIZE, network=NETWORK, value_epochs=2), lambda: "HalfCheetah-v5"),
    "discrete": (CLIPPED, lambda: mbrl.discretized(pendulum(), 3)),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_stopped_run_goes_on_to_the_bit(run, tmp_path):
    algorithm, task = RUNS[run]
    settings = {"steps": 128, "seed": 3, "evaluation_episodes": 0}
    if run != "trust region":  # a thousand steps each
        settings.update(evaluate_every=64, evaluation_episodes=1)
    whole = mbrl.train(algorithm, task(), run=tmp_path / "whole", **settings)
    with pytest.raises(StoppedError):
        mbrl.train(algorithm, task(), run=tmp_path / "parts", on_iteration=stop_after(2), **settings)
    assert checkpoint(tmp_path / "parts")["steps"] == 64
    parts = mbrl.train(algorithm, task(), run=tmp_path / "parts", resume="must", **settings)
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    assert_same_metrics(whole.metrics, parts.metrics)
    assert_same(whole.learner.state_dict(), parts.learner.state_dict())
    if whole.evaluation is not None:
        assert np.array_equal(whole.evaluation.returns, parts.evaluation.returns)


def test_ctrl_c_within_an_iteration_loses_this_iteration(tmp_path, monkeypatch):
    settings = {"steps": 128, "evaluation_episodes": 0}
    mbrl.train(CLIPPED, pendulum(), run=tmp_path / "whole", **settings)

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # 16 calls are an iteration
        patched.setattr(Worlds, "step", stopping_worlds(Worlds.step, 40, interrupt))
        with pytest.raises(KeyboardInterrupt):
            mbrl.train(CLIPPED, pendulum(), run=tmp_path / "parts", **settings)
    assert checkpoint(tmp_path / "parts")["steps"] == 64
    kept = torch.load(tmp_path / "parts" / "trainer.pt", weights_only=True)
    assert 0 < kept["state"]["seconds"] < 60
    kept["state"]["seconds"] += 1000.0  # the time of both starts counts
    torch.save(kept, tmp_path / "parts" / "trainer.pt")
    result = mbrl.train(CLIPPED, pendulum(), run=tmp_path / "parts", **settings)
    assert kept["state"]["seconds"] < result.seconds < 1060
    assert mbrl.read_run(tmp_path / "parts").summary["seconds"] == result.seconds
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def killed(folder):
    """A process that kills itself in the third iteration."""
    Worlds.step = stopping_worlds(Worlds.step, 40, lambda: os.kill(os.getpid(), signal.SIGKILL))
    mbrl.train(CLIPPED, pendulum(), run=folder, steps=128, evaluation_episodes=0)


@pytest.mark.slow
def test_a_killed_process_loses_one_iteration(tmp_path):
    mbrl.train(CLIPPED, pendulum(), run=tmp_path / "whole", steps=128, evaluation_episodes=0)
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import torch; torch.set_num_threads(1); "
    code += f"import test_train; test_train.killed({str(tmp_path / 'parts')!r})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert checkpoint(tmp_path / "parts")["steps"] == 64
    mbrl.train(CLIPPED, pendulum(), run=tmp_path / "parts", resume="must", steps=128, evaluation_episodes=0)
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_run_that_was_stopped_in_its_last_evaluation_is_evaluated_and_finished(tmp_path, monkeypatch):
    settings = {"steps": 64, "evaluation_episodes": 1}
    whole = mbrl.train(CLIPPED, pendulum(), run=tmp_path / "whole", **settings)
    with pytest.raises(StoppedError):
        mbrl.train(CLIPPED, pendulum(), run=tmp_path / "parts", on_iteration=stop_after(2), **settings)
    parts = mbrl.train(CLIPPED, pendulum(), run=tmp_path / "parts", **settings)
    assert parts.steps == 64
    assert_same_metrics(whole.metrics, parts.metrics)
    assert np.array_equal(whole.evaluation.returns, parts.evaluation.returns)
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["steps"] == 64


@pytest.mark.parametrize("algorithm", [CLIPPED, RECURRENT], ids=["feedforward", "recurrent"])
def test_worlds_that_cannot_be_kept_begin_anew_after_the_last_iteration(algorithm, tmp_path):
    settings = {"steps": 128, "evaluation_episodes": 0}
    with pytest.raises(StoppedError):
        mbrl.train(algorithm, "CartPole-v1", run=tmp_path / "first", on_iteration=stop_after(2), **settings)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    for name in ("first", "second"):
        with pytest.warns(ResumeWarning, match="cannot be kept"):
            found = mbrl.train(algorithm, "CartPole-v1", run=tmp_path / name, **settings)
        assert found.metrics["step"].tolist() == [32, 64, 96, 128]
    assert_same_runs(tmp_path / "first", tmp_path / "second")


def test_nothing_of_old_episodes_is_left_where_new_ones_begin():
    algorithm = replace(RECURRENT, constraint=CostConstraint(1.0))
    task = lambda: Counter(broken="cost", at=-1)  # noqa: E731
    first, second = (algorithm.learner(Assignment(task, 96)) for _ in range(2))
    first.iterate()
    assert bool((first.scale.running != 0).all())
    second.load_state_dict(first.state_dict())
    assert_same(second.policy.state_dict(), first.policy.state_dict())
    assert second.steps == 32
    assert bool(second.worlds.starts.all())
    for of_old_episodes in (second.scale.running, second._hidden, second._value_hidden, second.constraint._hidden):
        assert not bool(of_old_episodes.any())


class Tolls(Counter):
    """Names a cost at its fifth step alone."""

    def step(self, action):
        y, reward, terminated, truncated, _ = super().step(action)
        return y, reward, terminated, truncated, {"cost": 2.0} if self.t == 5 else {}


def test_costs_that_are_named_only_where_there_are_some():
    algorithm = replace(CLIPPED, steps_per_iteration=16, constraint=CostConstraint(1.0))
    learner = algorithm.learner(Assignment(Tolls, 96))  # of 20 steps, eight in an iteration
    rows = [learner.iterate() for _ in range(3)]
    assert [row.get("rollout/cost") for row in rows] == [None, None, 2.0]
    resumed = algorithm.learner(Assignment(Tolls, 96))
    resumed.load_state_dict(learner.state_dict())
    assert resumed.worlds.named_costs


# What is left


def test_a_learner_is_closed_at_the_end_and_on_errors(monkeypatch):
    closed = []
    monkeypatch.setattr(Counter, "close", lambda self: closed.append(self))
    result = mbrl.train(CLIPPED, Counter, steps=32, evaluation_episodes=0)
    assert len(closed) == 2
    y = torch.zeros(1, 1)
    assert result.value is result.learner.value
    assert result.value.step(y, result.value.initial_hidden(1))[0].shape == (1,)
    assert result.policy.distribution(y).mode().shape == (1, 1)
    assert (result.reward, result.model) == (None, None)
    with pytest.raises(StoppedError):
        mbrl.train(CLIPPED, Counter, steps=64, evaluation_episodes=0, on_iteration=stop_after(1))
    assert len(closed) == 4


# Seeds


def test_the_same_seed_is_the_same_run_and_another_one_another():
    runs = [mbrl.train(CLIPPED, pendulum(), steps=64, seed=seed, evaluation_episodes=1) for seed in (0, 0, 1)]
    assert_same(runs[0].learner.state_dict(), runs[1].learner.state_dict())
    assert np.array_equal(runs[0].evaluation.returns, runs[1].evaluation.returns)
    assert runs[0].metrics["rollout/return"][0] != runs[2].metrics["rollout/return"][0]
    starts = [next(CLIPPED.learner(Assignment(pendulum(), 64, seed)).policy.parameters()) for seed in (0, 1)]
    assert not torch.equal(*starts)


@pytest.mark.parametrize("task", [pendulum, lambda: "CartPole-v1"], ids=["native", "foreign"])
def test_global_random_numbers_are_left_alone(task):
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    mbrl.train(CLIPPED, task(), steps=32, evaluation_episodes=1)
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]


# What a run is


def heavy():
    task = pendulum()
    return replace(task, dynamics=task.dynamics.with_parameters(mass=2.0))


def made(broken=None):
    return Counter(broken=broken)


def learned(seed, shift=0.0):
    """The pendulum on a model, whose statistics of what it was fitted to are shifted."""
    model = Ensemble(2, 1, pendulum().dynamics.dt, members=2, hidden=(4,), seed=seed)
    model.num_transitions += 1  # as if it had been fitted
    model.input_mean += shift
    return pendulum().with_dynamics(model)


def fast(x):
    return x[..., 1].abs() > 9.0


@pytest.mark.parametrize("name", ["demonstrations", "init", "seed", "rules"])
def test_a_config_cannot_take_the_place_of_what_decides_a_run(name):
    with pytest.raises(ValueError, match=f"config has {name}, which the training itself records"):
        mbrl.train(CLIPPED, pendulum(), steps=32, config={"more": 1, name: "x"})


def test_functions_with_other_arguments_make_other_tasks():
    task = lambda function: training_config(CLIPPED, Assignment(function, 32), None, 0)["task"]  # noqa: E731
    first, same, other = (functools.partial(made, broken=b) for b in ("cost", "cost", "reward"))
    assert task(first) == task(same) == {"function": f"{__name__}:made", "args": [], "kwargs": {"broken": "cost"}}
    assert task(first) != task(other)
    assert task(made) == f"{__name__}:made"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 96}, "steps was 64, now 96"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"algorithm": replace(CLIPPED, discount=0.9)}, "algorithm.discount was 0.99, now 0.9"),
        ({"algorithm": PENALIZED}, "algorithm.objective.class was 'ClippedObjective', now 'KLPenalty'"),
        ({"task": "CartPole-v1"}, "task was 'PendulumSwingUp', now 'CartPole-v1'"),
        ({"task": heavy()}, "plant.parameters.mass was 1.0, now 2.0"),
        ({"task": pendulum(episode_steps=8)}, "plant.episode_steps was 7, now 8"),
        ({"task": pendulum(termination=fast)}, f"rules.termination was None, now '{__name__}:fast'"),
        ({"task": pendulum(constraint_cost=None)}, "now None"),
        ({"task": mbrl.shaped(pendulum(), slack=0.1)}, "rules.cost.costs.1.transition_function was missing"),
    ],
    ids=["steps", "seed", "setting", "objective", "task", "plant", "episodes", "termination", "constraint", "shaping"],
)
def test_a_run_does_not_go_on_as_another_one(change, named, tmp_path):
    given = {"algorithm": CLIPPED, "task": pendulum(), "steps": 64, "seed": 0, "evaluation_episodes": 0}
    with pytest.raises(StoppedError):
        mbrl.train(**given, run=tmp_path / "run", on_iteration=stop_after(1))
    with pytest.raises(mbrl.RunError, match="another config") as caught:
        mbrl.train(**{**given, **change}, run=tmp_path / "run")
    assert named in str(caught.value)


@pytest.mark.parametrize("other", [learned(1), learned(0, shift=0.5)], ids=["weights", "statistics"])
def test_a_run_does_not_go_on_under_another_learned_model(other, tmp_path):
    given = {"steps": 64, "evaluation_episodes": 0, "run": tmp_path / "run"}
    with pytest.raises(StoppedError):
        mbrl.train(CLIPPED, learned(0), on_iteration=stop_after(1), **given)
    with pytest.raises(
        mbrl.RunError, match=r"another config.*: plant\.weights was '[0-9a-f]{16}', now '[0-9a-f]{16}'$"
    ):
        mbrl.train(CLIPPED, other, **given)
    with pytest.raises(StoppedError):
        mbrl.train(CLIPPED, learned(0), on_iteration=stop_after(2), **given)


def test_plants_of_physical_parameters_alone_have_no_weights():
    plants = [training_config(CLIPPED, Assignment(task, 32), None, 0)["plant"] for task in (pendulum(), heavy())]
    assert ["weights" in plant for plant in plants] == [False, False]
    assert plants[0] != plants[1]


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_fingerprint_sees_every_tensor_of_a_model(shift):
    """Also those beside a part of it that is itself called weights."""
    assert "weights" in dict(learned(0).dynamics.named_children())
    same = fingerprint(learned(0).dynamics) == fingerprint(learned(0, shift).dynamics)
    assert same == (shift == 0.0)


@dataclass(frozen=True)
class Own(mbrl.Algorithm):
    """Says what it learns from, and stops there."""

    demonstrations: ClassVar[Any] = "required"

    def learner(self, assignment):
        raise StoppedError


class Unasked(Own):
    demonstrations = "none"


class Asking(Own):
    demonstrations = "optional"


class Unclear(Own):
    demonstrations = "sometimes"


@pytest.mark.parametrize(
    ("algorithm", "given", "message"),
    [
        (Own(), False, r"Own learns from demonstrations; pass demonstrations=\.\.\., for instance mbrl.record"),
        (Own(), True, None),
        (Unasked(), False, None),
        (Unasked(), True, "Unasked does not learn from demonstrations, they would be ignored; pass them to BC"),
        (Asking(), False, None),
        (Asking(), True, None),
        (Unclear(), True, "Unclear.demonstrations must be one of 'required', 'optional', 'none', got 'sometimes'"),
    ],
)
def test_what_an_algorithm_learns_from_is_asked_for_before_it_begins(algorithm, given, message):
    demonstrations = mbrl.record(pendulum(), mbrl.UniformNoise((-1.0, 1.0), 1), 1, steps=2) if given else None
    with pytest.raises(ValueError if message else StoppedError, match=message):
        mbrl.train(algorithm, pendulum(), steps=8, demonstrations=demonstrations)


def test_the_run_folder_says_how_its_numbers_are_to_be_read(tmp_path):
    mbrl.train(CLIPPED, pendulum(), steps=32, evaluation_episodes=0, run=tmp_path)
    expected = {"steps": "environment steps", "shows": "how the policy changed", "keeps_lowest": ""}
    assert mbrl.read_run(tmp_path).legend == expected


def test_evaluations_come_in_the_rows_that_pass_their_steps():
    metrics = mbrl.train(CLIPPED, pendulum(), steps=160, evaluate_every=48, evaluation_episodes=1).metrics
    assert metrics["step"].tolist() == [32, 64, 96, 128, 160]
    assert np.isfinite(metrics["eval/return"]).tolist() == [False, True, True, False, True]


def test_the_last_iteration_is_a_whole_one_and_each_row_is_told():
    rows = []
    result = mbrl.train(CLIPPED, pendulum(), steps=33, evaluation_episodes=0, on_iteration=rows.append)
    assert [row["step"] for row in rows] == [32, 64]
    assert result.steps == 64
    assert result.evaluation is None
    assert result.metrics["train/kl"].tolist() == [row["train/kl"] for row in rows]


def test_a_policy_to_begin_with_is_copied():
    given = mbrl.Policy.for_task(pendulum(), NETWORK, seed=9)
    given.normalizer.update(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() + 1.0)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    assert_same(CLIPPED.learner(Assignment(pendulum(), 64, init=given)).policy.state_dict(), given.state_dict())
    result = mbrl.train(CLIPPED, pendulum(), steps=32, init=given, evaluation_episodes=0)
    assert_same(dict(given.state_dict()), before)
    assert not torch.equal(next(result.policy.parameters()), next(given.parameters()))
    assert result.policy.normalizer.count == 50 + 32


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (mbrl.Policy.for_task(pendulum(), replace(NETWORK, hidden=(9,))), "init must be a policy of the same task"),
        (mbrl.Policy.for_task(mbrl.discretized(pendulum(), 3), NETWORK), "init must be a policy of the same task"),
        (mbrl.Policy.for_task(cart_pole(), NETWORK), "init is to begin shows 3 columns .*, the policy sees 5"),
    ],
    ids=["network", "actions", "task"],
)
def test_a_policy_of_another_kind_is_none_to_begin_with(other, message):
    with pytest.raises(ValueError, match=message):
        mbrl.train(CLIPPED, pendulum(), steps=32, init=other)


def test_numbers_of_an_environment_stand_for_the_controls_of_its_task():
    """Learned and evaluated alike, where gymnasium steps the environments of a task with finitely many controls."""
    task = mbrl.discretized(replace(pendulum(), episode_steps=4), 3)
    policy = mbrl.train(CLIPPED, lambda: mbrl.make_env(task), steps=32, evaluation_episodes=1).policy
    assert policy.actions.config() == mbrl.Policy.for_task(task).actions.config()


def test_a_head_by_default_is_the_same_as_one_by_name():
    given = mbrl.Policy.for_task(pendulum(), replace(NETWORK, head="gaussian"))
    assert NETWORK.head is None
    assert_same(CLIPPED.learner(Assignment(pendulum(), 64, init=given)).policy.state_dict(), given.state_dict())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"algorithm": PPO}, TypeError, "algorithm must be one such as"),
        ({"task": 3}, TypeError, "task must be a Task"),
        ({"task": Counter()}, TypeError, "a function without arguments"),
        ({"task": dict}, TypeError, "to make a gymnasium.Env, got {}"),
        ({"task": "CartPole-v99"}, ValueError, "did you mean"),
        ({"steps": 0}, ValueError, "steps >= 1"),
        ({"steps": 1e3}, TypeError, "steps must be an integer, got 1000.0"),
        ({"steps": True}, TypeError, "steps must be an integer"),
        ({"seed": 0.5}, TypeError, "seed must be an integer"),
        ({"evaluate_every": 0}, ValueError, "evaluate_every >= 1"),
        ({"evaluate_every": 10.0}, TypeError, "evaluate_every must be an integer"),
        ({"evaluation_episodes": -1}, ValueError, "evaluation_episodes >= 0"),
        ({"evaluate_every": 5, "evaluation_episodes": 0}, ValueError, "evaluate_every needs"),
        ({"demonstrations": []}, ValueError, "PPO does not learn from demonstrations, they would"),
    ],
)
def test_arguments_that_make_no_training_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        mbrl.train(**{"algorithm": CLIPPED, "task": pendulum(), "steps": 32, **change})


# What diverges


def learned_from(task, algorithm=CLIPPED, steps=64):
    result = mbrl.train(algorithm, task, steps=steps, evaluation_episodes=0)
    for network in result.learner.networks.values():
        assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
    assert all(np.isfinite(v).all() for name, v in result.metrics.items() if name.startswith(("train/kl", "train/v")))
    return result


@pytest.mark.parametrize("algorithm", [CLIPPED, RECURRENT, RUNS["trust region"][0]], ids=["ppo", "recurrent", "trpo"])
@pytest.mark.parametrize("what", ["observation", "reward", "cost"])
def test_a_step_that_is_not_finite_does_not_count(what, algorithm):
    result = learned_from(lambda: Counter(broken=what), algorithm)
    # every third step breaks and ends the episode: of 2 x 32 steps 2 x 10, five in each iteration and world
    assert result.metrics["rollout/diverged"].tolist() == [10.0, 10.0]
    assert result.metrics["rollout/episodes"].tolist() == [0.0, 0.0]  # what was broken off has no return
    assert result.policy.normalizer.count == 64 - 20
    assert result.learner.scale.statistics.count == 64 - 20
    assert float(result.policy.normalizer.mean) == pytest.approx(np.mean(([0, 1] * 11) * 2))


def test_an_unstable_world_of_mujoco_begins_anew():
    worlds = Worlds(vector_env("Hopper-v5", 2), 0)
    before, step, reset, masks = worlds.observations.clone(), worlds.env.step, worlds.env.reset, []

    def unstable(actions):
        y, rewards, terminated, truncated, info = step(actions)
        return y, rewards, terminated, truncated, {**info, "diverged": np.array([False, True])}

    def seen(**options):
        masks.append(options["options"]["reset_mask"].tolist())
        return reset(**options)

    worlds.env.step, worlds.env.reset = unstable, seen
    found = worlds.step(torch.zeros(2, 3))
    assert found.valid.tolist() == [True, False]
    assert found.ended.tolist() == [False, True]
    assert float(found.rewards[1]) == 0.0
    assert torch.equal(found.next_observations[1], before[1])
    assert masks == [[False, True]]
    assert worlds.finished == []


def test_steps_that_do_not_count_weigh_nothing():
    learner = CLIPPED.learner(Assignment(lambda: Counter(broken="reward"), 64))
    seen = []
    samples = learner.samples

    def watched(rollout):
        found = samples(rollout)
        seen.append((rollout, found[0]))
        return found

    learner.samples = watched
    learner.iterate()
    (rollout, found), t = seen[0], torch.arange(16)
    assert torch.equal(rollout.valid, (t % 3 != 2).unsqueeze(-1).expand(16, 2))
    assert torch.equal(found.weights.reshape(16, 2), rollout.valid.to(found.weights))


def test_a_training_in_which_no_step_counts_stays_what_it_was():
    result = learned_from(lambda: Counter(broken="reward", at=1))
    assert result.metrics["rollout/diverged"].tolist() == [32.0, 32.0]
    assert_same(result.policy.state_dict(), CLIPPED.learner(Assignment(Counter, 64)).policy.state_dict())


def test_a_task_that_diverges_is_learned_on():
    dynamics = TorchDynamics(lambda x, u: torch.where(x > 0.3, torch.inf, x + 0.2 * u), 1, 1, 0.1)
    cost = QuadraticCost(torch.eye(1).double(), torch.eye(1).double())
    start = mbrl.uniform_initial_state([-0.1], [0.1])
    task = mbrl.Task("Cliff", dynamics, cost, (-1.0, 1.0), start, horizon=5, episode_steps=15)
    result = learned_from(task, steps=128)
    assert result.metrics["rollout/diverged"].sum() > 0


def test_weights_that_are_not_finite_end_the_training():
    with pytest.raises(TrainingError, match="is not finite; lower the learning rate"):
        mbrl.train(replace(CLIPPED, learning_rate=1e38), pendulum(), steps=320, evaluation_episodes=0)


def test_a_value_function_that_is_not_finite_ends_the_training():
    algorithm = replace(RUNS["trust region"][0], value_learning_rate=1e38)
    with pytest.raises(TrainingError, match=r"value function's .* is not finite"):
        mbrl.train(algorithm, pendulum(), steps=320, evaluation_episodes=0)


# What an environment gets


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_worlds_that_reset_themselves_are_refused(mode):
    for task in (pendulum(), "CartPole-v1"):
        env = vector_env(task, 2, autoreset_mode=mode)
        with pytest.raises(ValueError, match="need a vector environment with autoreset mode DISABLED"):
            Worlds(env, 0)
        env.close()


def received(space, actions):
    """What an environment gets for one action in each of two worlds."""
    worlds = Worlds(vector_env(lambda: Counter(space), 2), 0)
    worlds.step(torch.as_tensor(actions))
    return np.array([env.received[0] for env in worlds.env.envs])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_controls_are_scaled_to_asymmetric_limits_and_clamped(dtype):
    space = gymnasium.spaces.Box(np.array([-3.0, -0.1], dtype), np.array([1.0, 0.3], dtype), dtype=dtype)
    for actions in (torch.tensor([[0.5, -1.0], [-7.0, 1.0]]), torch.tensor([[0.5, -1.0], [-7.0, 1.0]]).double()):
        got = received(space, actions)  # within the limits to the bit, or the environment complains
        assert got.dtype == dtype
        assert got == pytest.approx(np.array([[0.0, -0.1], [-3.0, 0.3]]), abs=1e-7)


def test_controls_without_limits_are_actions():
    space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    assert received(space, [[123.5], [-0.25]]).tolist() == [[123.5], [-0.25]]


def test_numbers_begin_where_a_space_does():
    assert received(gymnasium.spaces.Discrete(3, start=5), [0, 2]).tolist() == [5, 7]


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(3, start=5),
        gymnasium.spaces.Discrete(2, start=-1),
        gymnasium.spaces.Box(np.array([-3.0, 0.1]), np.array([1.0, 0.7]), dtype=np.float64),
        gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64),
    ],
    ids=["from 5", "from -1", "asymmetric", "unlimited"],
)
def test_every_space_is_trained_and_evaluated_on(space):
    result = mbrl.train(CLIPPED, lambda: Counter(space), steps=32, evaluation_episodes=1)
    assert result.evaluation.returns.tolist() == [20.0]
    assert result.metrics["rollout/diverged"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gymnasium.spaces.MultiDiscrete([2, 2]), "need a Discrete action space or a Box of one axis"),
        (gymnasium.spaces.Box(0.0, 1.0, (2, 2)), "need a Discrete action space or a Box of one axis"),
        (gymnasium.spaces.Box(0.0, np.inf, (1,)), "limited on both sides or on none"),
    ],
    ids=["several numbers", "matrix", "one side"],
)
def test_spaces_that_no_policy_acts_in_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        mbrl.train(CLIPPED, lambda: Counter(space), steps=32)


def test_observations_of_other_axes_are_refused():
    with pytest.raises(ValueError, match="need observations of one axis, got Discrete"):
        mbrl.train(CLIPPED, "FrozenLake-v1", steps=32)


def test_a_function_that_makes_an_environment_is_trained_on(tmp_path):
    settings = {"steps": 64, "evaluation_episodes": 2}
    with pytest.raises(StoppedError):
        mbrl.train(CLIPPED, Counter, run=tmp_path / "run", on_iteration=stop_after(1), **settings)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task"] == f"{__name__}:Counter"
    with pytest.warns(ResumeWarning):
        result = mbrl.train(CLIPPED, Counter, run=tmp_path / "run", **settings)
    assert result.evaluation.returns.tolist() == [20.0, 20.0]


def test_there_is_no_video_of_a_function():
    policy = mbrl.train(CLIPPED, Counter, steps=32, evaluation_episodes=0).policy
    with pytest.raises(ValueError, match=r"a video is drawn of tasks and of gymnasium ids"):
        mbrl.evaluate(policy, Counter, video="video.mp4")
