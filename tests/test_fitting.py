"""Training step by step, exact resume, honest splits, and what a report says."""

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from dynamics import MLP, Ensemble, FitError, LinearModel, Pendulum, Training, Trajectory, evaluation_windows, fit
from dynamics import fitting as fitting_module
from dynamics.learned import training as training_module
from dynamics.learned.base import TransitionData
from dynamics.learned.training import train_ensemble

QUICK = Training(steps=60, batch_size=32, evaluate_every=20)


def quiet(completed, text=""):
    """Nobody watches."""


def pendulum_logs(num=8, steps=30, noise=0.0, seed=0):
    pendulum, generator = Pendulum(), torch.Generator().manual_seed(seed)
    x0 = torch.randn(num, 2, generator=generator, dtype=torch.float64)
    us = torch.randn(num, steps, 1, generator=generator, dtype=torch.float64)
    xs = pendulum.rollout(x0, us)
    xs = xs + noise * torch.randn(xs.shape, generator=generator, dtype=torch.float64)
    return [Trajectory(x.numpy(), u.numpy(), dt=pendulum.dt) for x, u in zip(xs, us, strict=True)]


def rows(generator, size=200):
    x = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    u = torch.randn(size, 1, generator=generator, dtype=torch.float64)
    return TransitionData(x, u, x + 0.1 * torch.sin(x.flip(-1)) + 0.1 * u)


def small(**options):
    return Ensemble(2, 1, 0.05, **{"members": 3, "hidden": [16], **options})


def train(model, data, validation, training=QUICK, *, seed=0, checkpoint=None, advance=quiet):
    generator = torch.Generator().manual_seed(seed)
    return train_ensemble(
        model, data, validation, training, generator=generator, checkpoint=checkpoint, advance=advance
    )


def same(one, other):
    """Equal bit for bit, weights and statistics."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# Training


def test_one_step_is_adamw_with_a_cosine(generator):
    """Two steps on one transition, in torch's own unfused optimizer on the documented loss."""
    data = rows(generator, 1)
    model, twin = (small(members=1).double() for _ in range(2))
    training = Training(steps=2, batch_size=1, learning_rate=0.01, weight_decay=0.1, evaluate_every=2)
    train(model, data, data, training)
    twin.set_statistics(data)
    groups = [{"params": list(twin.weights), "weight_decay": 0.1}, {"params": list(twin.biases), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    features, targets = twin.features(data.x, data.u)[None], twin.targets(data.x, data.x_next)[None]
    for rate in (0.01, 0.005):  # half of 1 + cos(0), of 1 + cos(pi / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        twin.losses(features, targets, beta=0.5).sum().backward()
        optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_members_train_as_if_alone(generator):
    """A member's weights do not depend on its fellows: the same minibatches alone give the same weights."""
    data = rows(generator)
    model = small(members=2).double()
    alone = small(members=1).double()
    for name, value in alone.named_parameters():
        value.data.copy_(model.get_parameter(name).detach()[1:])
    model.set_statistics(data)
    alone.set_statistics(data)
    features, targets = model.features(data.x, data.u)[:40], model.targets(data.x, data.x_next)[:40]
    for one, copies in ((model, 2), (alone, 1)):
        optimizer = training_module._optimizer(one, QUICK)
        for _ in range(5):
            training_module._descend(
                one, optimizer, features.expand(copies, -1, -1), targets.expand(copies, -1, -1), QUICK
            )
    for name, value in alone.named_parameters():
        torch.testing.assert_close(value[0], model.get_parameter(name)[1], rtol=1e-9, atol=1e-12)


def test_each_member_keeps_its_best_weights(generator, monkeypatch):
    """Members that are made worse after different validations end with the weights they had at their best."""
    data, validation = rows(generator), rows(generator, 50)
    model = small()
    seen = []
    validate = training_module._validate

    def spoiling(model, features, targets, run, loss):
        validate(model, features, targets, run, loss)
        error = training_module.validation_error(model, features, targets)
        seen.append((error, {name: p.detach().clone() for name, p in model.named_parameters()}))
        with torch.no_grad():  # member i is good until validation i, then far off
            model.biases[-1][: len(seen)] += 10.0

    monkeypatch.setattr(training_module, "_validate", spoiling)
    history = train(model, data, validation, Training(steps=40, batch_size=32, evaluate_every=10))
    errors = torch.stack([error for error, _ in seen])
    best = errors.argmin(0)
    assert best.tolist() == [0, 1, 2]
    assert bool((errors[-1] > 2 * errors.amin(0)).all())
    for name, value in model.named_parameters():
        for member in range(3):
            assert torch.equal(value[member], seen[best[member]][1][name][member])
    assert [record["step"] for record in history] == [10, 20, 30, 40]
    torch.testing.assert_close(
        torch.tensor([record["error"] for record in history]), errors.mean(1).float(), rtol=1e-6, atol=0
    )


def test_validation_error_by_hand(generator):
    data = rows(generator)
    model = small()
    (record,) = train(model, data, data, Training(steps=5, batch_size=8, evaluate_every=100, bootstrap=False))
    predicted = model.predict(data.x, data.u).members.detach()
    scale = (data.x_next - data.x).std(0, correction=0)
    rmse = ((predicted - data.x_next) / scale).square().mean(1).sqrt()
    assert record["error"] == pytest.approx(float((rmse[:, 0] * rmse[:, 1]).sqrt().mean()), rel=1e-5)


def test_validation_does_not_mind_units_noise_and_constants(generator):
    """Halving the error of one of two dimensions counts the same whichever it is, and a third that stays constant not at all."""
    data = rows(generator)
    column = torch.ones(200, 1, dtype=torch.float64)
    data = TransitionData(torch.cat([data.x, column], 1), data.u, torch.cat([data.x_next, column], 1))
    model = Ensemble(3, 1, 0.05, members=2, hidden=[4]).double()
    model.set_statistics(data)
    features = model.features(data.x, data.u)
    mean = model.outputs(features.expand(2, -1, -1))[0][0].detach()
    noise = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    errors = [
        training_module.validation_error(model, features, mean + noise * torch.tensor(scale, dtype=torch.float64))[0]
        for scale in ([1.0, 1e-3, 5.0], [0.5, 1e-3, 5.0], [1.0, 5e-4, 1.0])
    ]
    assert float(errors[1] / errors[0]) == pytest.approx(0.5**0.5, rel=1e-6)
    assert float(errors[2] / errors[0]) == pytest.approx(0.5**0.5, rel=1e-6)


def test_validation_of_long_logs_looks_at_some_rows(generator, monkeypatch):
    monkeypatch.setattr(training_module, "VALIDATION_ROWS", 7)
    seen = []
    error = training_module.validation_error
    monkeypatch.setattr(
        training_module, "validation_error", lambda model, x, y: seen.append(len(x)) or error(model, x, y)
    )
    train(small(), rows(generator), rows(generator, 100))
    assert seen == [7, 7, 7]


def test_bootstrap_samples_differ_between_members(generator):
    sample = training_module._bootstrap(4, 1000, True, generator)
    assert sample.shape == (4, 1000)
    for i in range(4):
        share = len(sample[i].unique()) / 1000
        assert share == pytest.approx(1 - math.exp(-1), abs=4 * 0.0098)  # standard deviation of the distinct share
        assert all(not torch.equal(sample[i], sample[j]) for j in range(i))
    whole = torch.arange(1000)
    assert torch.equal(training_module._bootstrap(4, 1000, False, generator), whole.expand(4, -1))
    assert torch.equal(training_module._bootstrap(1, 1000, True, generator), whole[None])


def test_minibatches_come_from_each_members_sample(generator):
    sample = torch.tensor([[1, 2, 3, 4], [50, 60, 70, 80]])
    index = training_module._minibatches(sample, 200, Training(batch_size=5), generator)
    assert index.shape == (200, 2, 5)
    assert index[:, 0].unique().tolist() == [1, 2, 3, 4]
    assert index[:, 1].unique().tolist() == [50, 60, 70, 80]


def test_training_ends_when_nothing_is_gained(generator):
    data = rows(generator)
    unrelated = TransitionData(data.x, data.u, data.x + torch.randn(200, 2, generator=generator, dtype=torch.float64))
    training = Training(steps=5000, batch_size=32, evaluate_every=10, patience=3, learning_rate=1e-6)
    history = train(small(), unrelated, unrelated, training)
    assert len(history) == 4  # the first is a gain over nothing


def test_a_slow_but_steady_gain_goes_on(generator, monkeypatch):
    """Half a percent at every validation is 1 % at every other one, less than a patience of three apart."""
    level = iter(1.0 * 0.995**k for k in range(1000))
    monkeypatch.setattr(training_module, "validation_error", lambda *_: torch.full((3,), next(level)))
    history = train(small(), rows(generator), rows(generator), Training(steps=30, evaluate_every=1, patience=3))
    assert len(history) == 30


def test_same_seed_same_model(generator):
    data, validation = rows(generator), rows(generator, 50)
    models = []
    for seed in (0, 0, 1):
        models.append(small())
        train(models[-1], data, validation, seed=seed)
        torch.manual_seed(seed + 17)  # the global state has no say
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_diverging_training_says_so(generator):
    data = rows(generator)
    model = small()
    with pytest.raises(
        FitError, match=r"training diverged at step 20: loss .*nan.*lower the learning_rate or look for"
    ):
        train(model, data, data, dataclasses.replace(QUICK, learning_rate=1e30))
    assert not model.is_fitted


def test_huge_targets_are_outliers(generator):
    data = rows(generator)
    data.x_next[3] = 1e200
    with pytest.raises(ValueError, match="the data's mean or variance is not finite; look for outliers"):
        train(small(), data, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"evaluate_every": -1}, "evaluate_every must be at least 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"learning_rate": 0.0}, "need learning_rate > 0"),
        ({"learning_rate": math.nan}, "need learning_rate > 0"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
        ({"beta": 1.5}, r"beta in \[0, 1\]"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Training(**options)


# Stop and go on


def interrupt_at(step, error=KeyboardInterrupt):
    def advance(completed, text=""):
        if completed >= step:
            raise error

    return advance


@pytest.mark.parametrize("again", ["same object", "new object"])
def test_resume_is_exact(again, generator, tmp_path):
    data, validation = rows(generator), rows(generator, 50)
    whole = small()
    history = train(whole, data, validation)
    model, path = small(), tmp_path / "run" / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(model, data, validation, checkpoint=path, advance=interrupt_at(40))
    assert not model.is_fitted
    assert torch.load(path, weights_only=True)["run"]["step"] == 20
    model = model if again == "same object" else small()
    assert train(model, data, validation, checkpoint=path) == history
    assert same(model, whole)
    # and once more, when there is nothing left to do
    model = small()
    steps = []
    assert train(model, data, validation, checkpoint=path, advance=lambda k, text="": steps.append(k)) == history
    assert same(model, whole)
    assert steps == []


def test_fit_resumes(tmp_path, monkeypatch):
    logs = pendulum_logs()
    whole, model = (small(angles=[0]) for _ in range(2))
    told, told_again = [], []
    report = fit(whole, logs, training=QUICK, seed=3, on_validation=told.append)
    assert told == report.history
    path = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch:
        patch.setattr(
            training_module, "progress_bar", lambda *_, **__: contextlib.nullcontext(interrupt_at(60, RuntimeError))
        )
        with pytest.raises(RuntimeError):
            fit(model, logs, training=QUICK, seed=3, checkpoint=path)
    resumed = fit(model, logs, training=QUICK, seed=3, checkpoint=str(path), on_validation=told_again.append)
    assert told_again == told  # those before the interruption too
    assert same(model, whole)
    assert {**resumed.to_dict(), "seconds": 0.0} == {**report.to_dict(), "seconds": 0.0}


def test_checkpoint_of_another_fit(generator, tmp_path):
    data, validation, path = rows(generator), rows(generator, 50), tmp_path / "checkpoint.pt"
    train(small(), data, validation, checkpoint=path)
    other = TransitionData(data.x, data.u, data.x_next + 1e-12)
    for model, logged, training, seed in (
        (small(), other, QUICK, 0),
        (small(hidden=[17]), data, QUICK, 0),
        (small(seed=1), data, QUICK, 0),
        (small(), data, dataclasses.replace(QUICK, beta=0.4), 0),
        (small(), data, QUICK, 1),
    ):
        with pytest.raises(
            FitError, match="belongs to another fit: the model, the settings, the data or the seed differ"
        ):
            train(model, logged, validation, training, seed=seed, checkpoint=path)
    with pytest.raises(FitError, match="belongs to another fit"):
        train(small(), data, data, checkpoint=path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "half", "list"])
def test_corrupt_checkpoint(content, generator, tmp_path):
    data, path = rows(generator), tmp_path / "checkpoint.pt"
    if content == "list":
        torch.save([1, 2], path)
    elif content == "half":
        train(small(), data, data, checkpoint=path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(content)
    with pytest.raises(FitError, match=r"checkpoint\.pt is not a readable checkpoint; delete it to start over"):
        train(small(), data, data, checkpoint=path)


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


def test_a_checkpoint_executes_nothing(generator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"fingerprint": Exploit()}, "checkpoint.pt")
    data = rows(generator)
    with pytest.raises(FitError, match="not a readable checkpoint"):
        train(small(), data, data, checkpoint=tmp_path / "checkpoint.pt")
    assert not (tmp_path / "exploited").exists()


def train_forever(path):
    generator = torch.Generator().manual_seed(0)
    data = rows(generator)
    training = Training(steps=10**6, batch_size=4, evaluate_every=1, patience=10**6)
    train(small(), data, data, training, checkpoint=path)


@pytest.mark.slow
def test_a_killed_fit_leaves_a_whole_checkpoint(generator, tmp_path):
    """Kill without warning while a checkpoint is written after every step; each time the file is whole."""
    path, context, reached = tmp_path / "checkpoint.pt", multiprocessing.get_context("spawn"), 0
    for _ in range(3):
        process = context.Process(target=train_forever, args=(path,))
        process.start()
        while not path.exists() or torch.load(path, weights_only=True)["run"]["step"] < reached + 50:
            process.join(0.05)
            assert process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        reached = torch.load(path, weights_only=True)["run"]["step"]


def test_a_partial_checkpoint_is_ignored(generator, tmp_path):
    data, path = rows(generator), tmp_path / "checkpoint.pt"
    (tmp_path / "checkpoint.pt.partial").write_bytes(b"what a kill left behind")
    model, whole = small(), small()
    train(model, data, data, checkpoint=path)
    train(whole, data, data)
    assert same(model, whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pt"]


# Splits


def labelled(num, steps=4, dt=0.1):
    """Trajectories whose every number says where it comes from."""
    return [
        Trajectory(i + 0.01 * np.arange(steps + 1)[:, None], np.full((steps, 1), float(i)), dt=dt) for i in range(num)
    ]


def other_columns(trajectory, **arrays):
    return trajectory.replace(names=None, units=None, **arrays)


@pytest.mark.parametrize("given", [False, True])
def test_no_trajectory_is_on_both_sides(given, monkeypatch):
    found, transitions = [], fitting_module._transitions

    def spy(*arguments):
        found.append(transitions(*arguments))
        return found[-1]

    monkeypatch.setattr(fitting_module, "_transitions", spy)
    logs, test = labelled(20), labelled(23)[20:] if given else None
    report = fit(LinearModel(1, 1, 0.1), logs, test=test, horizons=[1, 4])
    seen = dict(zip(("train", "validation", "test"), found, strict=True))
    origin = {}
    for part, data in seen.items():
        label = data.x[:, 0].floor()
        assert torch.equal(label, data.u[:, 0])
        assert torch.equal(label, data.x_next[:, 0].floor())
        origin[part] = {int(i) for i in label}
        assert len(data) == 4 * len(origin[part]) == report.steps[part]
        assert report.trajectories[part] == len(origin[part])
    counts = {part: len(numbers) for part, numbers in origin.items()}
    assert counts == ({"train": 18, "validation": 2, "test": 3} if given else {"train": 15, "validation": 2, "test": 3})
    assert set.union(*origin.values()) == set(range(23 if given else 20))
    assert sum(counts.values()) == (23 if given else 20)
    if given:
        assert origin["test"] == {20, 21, 22}


def test_the_split_depends_on_the_seed():
    chosen = [fit(LinearModel(1, 1, 0.1), labelled(20), horizons=[1], seed=seed).test for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_states_are_preferred_over_observations():
    logs = [
        Trajectory(np.zeros((9, 3)), np.ones((8, 1)) * k, states=np.arange(18.0).reshape(9, 2) * k, dt=0.1)
        for k in range(1, 6)
    ]
    report = fit(LinearModel(2, 1, 0.1), logs)
    assert len(report.errors["model"].per_dimension[0]) == 2
    with pytest.raises(ValueError, match="the model has 3 states and 1 controls, the trajectories have 2 states and 1"):
        fit(LinearModel(3, 1, 0.1), logs)
    assert fit(LinearModel(3, 1, 0.1), [t.replace(states=None) for t in logs]).horizons == (1, 5)


# What cannot be fitted


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ([], "No trajectories: the collection is empty"),
        (
            labelled(1),
            r"need at least 3 trajectories to hold whole ones out, got 1; cut long ones with trajectory.segments",
        ),
        (labelled(2), r"need at least 3 trajectories .*got 2.*or pass test="),
        (labelled(4, steps=0), "none of the 4 trajectories has a step; a fit needs transitions"),
        (labelled(2) + labelled(4, steps=0), "need at least 3 trajectories .*got 2"),
        (
            labelled(3, dt=0.2),
            r"the model has dt=0.1 s, the trajectories 0.2 s; build the model with dt=0.2 or resample the trajectories",
        ),
        (labelled(3) + labelled(3, dt=0.2), "do not go together: dt is 0.1 in the first and 0.2 in the second"),
        (
            [other_columns(t, controls=np.zeros((4, 2))) for t in labelled(3)],
            r"trajectories have 1 observations and 2 controls; build the model with state_dim=1, control_dim=2",
        ),
        (
            [t.replace(names={"observations": ["speed"]}) for t in labelled(4)],
            r"the model's state_names are \('angle',\), the trajectories have \('speed',\); reorder the columns",
        ),
    ],
)
def test_unusable_logs(logs, message):
    for model in (LinearModel(1, 1, 0.1, state_names=["angle"]), MLP(1, 1, 0.1, state_names=["angle"])):
        with pytest.raises(ValueError, match=message):
            fit(model, logs)
        assert not model.is_fitted


def test_control_names_must_match():
    logs = [t.replace(names={"controls": ["force"]}) for t in labelled(4)]
    with pytest.raises(
        ValueError, match=r"the model's control_names are \('torque',\), the trajectories have \('force',\)"
    ):
        fit(LinearModel(1, 1, 0.1, control_names=["torque"]), logs)
    fit(LinearModel(1, 1, 0.1, control_names=["force"]), logs)
    fit(LinearModel(1, 1, 0.1), logs)  # numbered names claim nothing


def test_a_clock_that_is_a_little_off_is_the_same_dt():
    fit(LinearModel(1, 1, 0.1), labelled(4, dt=0.10004))
    with pytest.raises(ValueError, match=r"dt=0.1 s, the trajectories 0.1002 s"):
        fit(LinearModel(1, 1, 0.1), labelled(4, dt=0.1002))


def test_unusable_arguments():
    logs = labelled(4)
    with pytest.raises(TypeError, match="fit takes a learned model, such as Ensemble or LinearModel, got Pendulum"):
        fit(Pendulum(), logs)
    with pytest.raises(TypeError, match=r"a single Trajectory came where a sequence of them belongs"):
        fit(LinearModel(1, 1, 0.1), logs[0])
    with pytest.raises(ValueError, match="LinearModel is fitted in closed form and takes no checkpoint"):
        fit(LinearModel(1, 1, 0.1), logs, checkpoint="nowhere.pt")
    with pytest.raises(ValueError, match="LinearModel is fitted in closed form and takes no training settings"):
        fit(LinearModel(1, 1, 0.1), logs, training=QUICK)
    for name in ("test_fraction", "validation_fraction"):
        for value in (0.0, 1.0, math.nan):
            with pytest.raises(ValueError, match=rf"{name} must be in \(0, 1\)"):
                fit(LinearModel(1, 1, 0.1), logs, **{name: value})
    with pytest.raises(ValueError, match="leave none of 4 trajectories to learn from"):
        fit(LinearModel(1, 1, 0.1), logs, test_fraction=0.7)
    with pytest.raises(ValueError, match="test has no trajectory with a step; leave it out"):
        fit(LinearModel(1, 1, 0.1), logs, test=labelled(2, steps=0))
    with pytest.raises(ValueError, match="test has no trajectory with a step; leave it out"):
        fit(LinearModel(1, 1, 0.1), logs, test=[])
    with pytest.raises(ValueError, match="dimension of observations is 1 in the first and 2 in the second"):
        fit(LinearModel(1, 1, 0.1), logs, test=[other_columns(logs[0], observations=np.zeros((5, 2)))])
    with pytest.raises(ValueError, match=r"horizons are numbers of steps, at least 1, got \(0, 1\)"):
        fit(LinearModel(1, 1, 0.1), logs, horizons=(0, 1))
    with pytest.raises(
        ValueError, match=r"no horizon of \(5, 50\) fits a held-out trajectory, the longest has 4 steps"
    ):
        fit(LinearModel(1, 1, 0.1), logs, horizons=(5, 50))


# Reports


def test_report():
    logs = pendulum_logs()
    model = small(angles=[0], state_names=["theta", "rate"])
    report = fit(model, logs, training=QUICK)
    assert model.is_fitted
    assert report.horizons == (1, 5, 10, 25)  # 50 is longer than the trajectories
    assert report.trajectories == {"train": 6, "validation": 1, "test": 1}
    assert report.steps == {"train": 180, "validation": 30, "test": 30}
    assert (report.model, report.names, report.dt) == ("Ensemble", ("theta", "rate"), 0.05)
    assert list(report.errors) == ["model", "ridge", "persistence"]
    assert [record["step"] for record in report.history] == [20, 40, 60]
    for errors in report.errors.values():
        assert errors.per_dimension.shape == (4, 2)
    assert report.errors["model"].coverage.shape == (3, 4)
    assert report.errors["persistence"].coverage is None
    restored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert restored["errors"]["ridge"]["median"] == report.errors["ridge"].median.tolist()
    assert restored["horizons"] == [1, 5, 10, 25]
    head, nll, legend, header, _, *lines = str(report).splitlines()
    assert head.startswith("Ensemble fitted to 180 steps of 6 trajectories in ")
    assert head.endswith("; held out: 30 steps of 1 trajectories")
    assert nll == f"one-step NLL {report.nll:.3f} nats per dimension"
    assert "standard deviations" in legend
    for title in ("model (median)", "ridge (median)", "persistence (median)", "90 % interval", "outside log"):
        assert title in header
    assert [line.split()[:2] for line in lines] == [["1", "0.05"], ["5", "0.25"], ["10", "0.50"], ["25", "1.25"]]
    assert f"{report.errors['model'].median[2]:.4f}" in lines[2]
    assert f"{100 * report.errors['model'].coverage[1, 2]:.1f} %" in lines[2]


def test_the_ridge_beside_is_the_linear_model():
    logs = pendulum_logs()
    beside = fit(small(angles=[0]), logs, training=QUICK).errors["ridge"]
    alone = fit(LinearModel(2, 1, 0.05, angles=[0]), logs)
    np.testing.assert_array_equal(beside.rmse, alone.errors["model"].rmse)
    assert list(alone.errors) == ["model", "persistence"]
    assert alone.history == []


def test_nll_by_hand():
    logs = pendulum_logs(noise=0.1)
    model = LinearModel(2, 1, 0.05)
    report = fit(model, logs, test=logs[:2])
    total = []
    for log in logs[:2]:
        for x, u, x_next in zip(log.observations[:-1], log.controls, log.observations[1:], strict=True):
            prediction = model.predict(torch.tensor(x), torch.tensor(u))
            density = torch.distributions.Normal(prediction.mean, prediction.std).log_prob(torch.tensor(x_next))
            total.append(-(density + model.target_scale.log()).mean())
    assert report.nll == pytest.approx(float(torch.stack(total).mean()), rel=1e-9)


def test_a_constant_dimension_does_not_drown_the_nll():
    logs = pendulum_logs(noise=0.1)
    still = [other_columns(t, observations=np.hstack([t.observations, np.full((31, 1), 3.0)])) for t in logs]
    expected = fit(LinearModel(2, 1, 0.05), logs).nll
    assert fit(LinearModel(3, 1, 0.05), still).nll == pytest.approx(expected, rel=1e-3)


def test_logs_in_which_nothing_happens_have_no_nll():
    logs = [Trajectory(np.ones((11, 1)), np.ones((10, 1)), dt=0.1) for _ in range(4)]
    report = fit(LinearModel(1, 1, 0.1), logs, horizons=[1, 5])
    assert math.isnan(report.nll)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["nll"] is None
    np.testing.assert_array_equal(report.errors["model"].rmse, 0.0)


def test_one_dimension_without_control():
    logs = [
        Trajectory(
            np.exp(-0.1 * np.arange(21))[:, None] * k, np.zeros((20, 0)), dt=0.1, names={"observations": ["level"]}
        )
        for k in range(1, 6)
    ]
    report = fit(LinearModel(1, 0, 0.1), logs, horizons=[1, 10])
    assert float(report.errors["model"].rmse.max()) < 1e-4
    model = MLP(1, 0, 0.1, hidden=[8])
    report = fit(model, logs, training=QUICK, horizons=[1, 10])
    assert np.isfinite(report.errors["model"].rmse).all()
    windows = evaluation_windows(logs, [10])
    assert model.rollout(windows.xs[:, 0], windows.us).shape == (len(windows.xs), 11, 1)


def test_progress_reports_each_validation(capsys):
    logs = pendulum_logs()
    fit(small(), logs, training=QUICK, progress=False)
    assert capsys.readouterr() == ("", "")
    fit(small(), logs, training=QUICK, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "fit Ensemble" in err
    assert "validation error 0." in err


def test_noise_level_is_recovered():
    """A linear system driven by noise of known standard deviations: the aleatoric part is it, to 15 %."""
    generator = torch.Generator().manual_seed(0)
    A = torch.tensor([[0.9, 0.1], [-0.1, 0.8]], dtype=torch.float64)
    sigma = torch.tensor([0.05, 0.4], dtype=torch.float64)
    logs = []
    for _ in range(40):
        us = torch.randn(100, 1, generator=generator, dtype=torch.float64)
        xs = [torch.randn(2, generator=generator, dtype=torch.float64)]
        for u in us:
            xs.append(A @ xs[-1] + u * torch.tensor([0.5, 0.2]) + sigma * torch.randn(2, generator=generator))
        logs.append(Trajectory(torch.stack(xs).numpy(), us.numpy(), dt=0.1))
    model = Ensemble(2, 1, 0.1, members=3, hidden=[32, 32])
    report = fit(model, logs, training=Training(steps=1500, batch_size=128), horizons=[1, 5])
    x, us = torch.tensor(logs[0].observations[:-1]), torch.tensor(logs[0].controls)
    with torch.no_grad():
        prediction = model.predict(x, us)
    torch.testing.assert_close(prediction.aleatoric_std.mean(0), sigma, rtol=0.15, atol=0)
    assert bool((prediction.epistemic_std.mean(0) < 0.5 * sigma).all())
    held_out = report.steps["test"] * 2
    for coverage, level in zip(report.errors["model"].coverage[:, 0], report.levels, strict=True):
        assert abs(coverage - level) < 3 * math.sqrt(level * (1 - level) / min(held_out, 1000)) + 0.02


def test_the_report_names_the_trajectories_it_held_out():
    logs = [Trajectory([[0.0, 0.0]], np.zeros((0, 1)), dt=0.05), *pendulum_logs(9)]  # the first has no step to hold out
    report = fit(LinearModel(2, 1, 0.05), logs, horizons=[1], test_fraction=0.3)
    assert len(report.test) == report.trajectories["test"] == 3
    assert 0 not in report.test
    alone = fit(LinearModel(2, 1, 0.05), logs, test=[logs[i] for i in report.test], horizons=[1])
    assert alone.test == ()
    assert alone.steps["test"] == report.steps["test"]
    assert "test" in report.to_dict()
