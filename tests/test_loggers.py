"""Loggers: what arrives at TensorBoard and at Weights & Biases, and what a training tells them."""

import sys
import types

import pytest

import mbrl

TINY = {"num_envs": 2, "steps_per_iteration": 16, "epochs": 1, "network": mbrl.NetworkSettings(hidden=(4,))}


class Kept:
    """Keeps the rows that it is told."""

    def __init__(self):
        self.rows, self.closed = [], 0

    def log(self, step, row):
        self.rows.append((step, dict(row)))

    def close(self):
        self.closed += 1


def train(steps=48, **options):
    task = mbrl.pendulum_swing_up(backend="torch")
    return mbrl.train(mbrl.PPO(**TINY), task, steps=steps, evaluation_episodes=0, progress=False, **options)


def scalars(folder):
    """What tensorboard itself reads: (step, value) by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_training_tells_every_logger_every_row_and_closes_it():
    first, second = Kept(), Kept()
    result = train(loggers=[first, second])
    assert (first.closed, second.closed) == (1, 1)
    assert first.rows == second.rows
    assert [step for step, _ in first.rows] == [16, 32, 48]
    assert [row["train/kl"] for _, row in first.rows] == result.metrics["train/kl"].tolist()
    assert all("step" not in row for _, row in first.rows)


def test_a_training_that_is_interrupted_closes_its_loggers():
    def interrupted(row):
        raise KeyboardInterrupt

    logger = Kept()
    with pytest.raises(KeyboardInterrupt):
        train(loggers=[logger], on_iteration=interrupted)
    assert logger.closed == 1


def test_what_is_no_logger_is_said_before_anything_is_trained(tmp_path):
    with pytest.raises(
        TypeError, match=r"a logger has log\(step, row\) and close\(\), such as mbrl\.TensorBoardLogger"
    ):
        train(loggers=[print], run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    logger = mbrl.TensorBoardLogger(tmp_path / "events")
    assert not (tmp_path / "events").exists()  # a run folder has to be empty when a run starts
    logger.log(10, {"eval/return": 1.5, "train/kl": 0.25})
    logger.log(20, {"eval/return": 2.5})
    logger.close()
    logger.close()
    assert scalars(tmp_path / "events") == {"eval/return": [(10, 1.5), (20, 2.5)], "train/kl": [(10, 0.25)]}


def test_a_resumed_run_replaces_what_was_logged_after_its_checkpoint(tmp_path):
    """Two processes: the second one begins at a step that the first one has logged, too."""
    pytest.importorskip("tensorboard")
    for steps in ([10, 20, 30], [20, 30]):
        logger = mbrl.TensorBoardLogger(tmp_path)
        for step in steps:
            logger.log(step, {"x": float(step + len(steps))})
        logger.close()
    assert scalars(tmp_path)["x"] == [(10, 13.0), (20, 22.0), (30, 32.0)]


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the module: the calls in order."""
    module, calls = types.ModuleType("wandb"), []

    class Run:
        def log(self, row, step):
            calls.append(("log", step, row))

        def finish(self):
            calls.append(("finish",))

    def init(**given):
        calls.append(("init", given))
        return Run()

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_gets_the_rows_and_a_resumed_run_keeps_its_id(wandb, tmp_path):
    for step in (1, 2):
        logger = mbrl.WandbLogger(tmp_path / "run", project="mine", name="first", config={"rate": 0.1}, mode="offline")
        logger.log(step, {"eval/return": 0.5})
        logger.log(step + 1, {"eval/return": 0.7})
        logger.close()
        logger.close()
    first, *logged, second, _, _, _ = wandb
    assert logged == [("log", 1, {"eval/return": 0.5}), ("log", 2, {"eval/return": 0.7}), ("finish",)]
    assert first == second
    given = first[1]
    assert {"project": "mine", "name": "first", "config": {"rate": 0.1}, "mode": "offline"}.items() <= given.items()
    assert (given["dir"], given["resume"], len(given["id"])) == (str(tmp_path / "run"), "allow", 8)


def test_two_wandb_runs_have_different_ids(wandb, tmp_path):
    for name in ("a", "b"):
        logger = mbrl.WandbLogger(tmp_path / name)
        logger.log(1, {})
    first, second = (given["id"] for kind, given in (call for call in wandb if call[0] == "init"))
    assert first != second


def test_wandb_has_three_modes(wandb, tmp_path):
    for mode in (None, "online", "offline", "disabled"):
        mbrl.WandbLogger(tmp_path, mode=mode)
    with pytest.raises(ValueError, match="mode must be one of online, offline, disabled, or None, got 'of'"):
        mbrl.WandbLogger(tmp_path, mode="of")


@pytest.mark.parametrize(("missing", "logger"), [("tensorboard", mbrl.TensorBoardLogger), ("wandb", mbrl.WandbLogger)])
def test_a_logger_whose_library_is_missing_names_the_extra(missing, logger, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=rf'pip install "mbrl-control\[{missing}\]"'):
        logger(tmp_path)
