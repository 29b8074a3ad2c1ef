"""Models as files: bit for bit back, and a sentence about every file that is no model."""

import json
import os
import pathlib
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import dynamics
from dynamics import MLP, Ensemble, LinearModel, Pendulum
from dynamics.learned.base import TransitionData

NAMES = {"state_names": ["theta", "rate", "height"], "control_names": ["torque", "brake"]}


def fitted(kind):
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 60, 3, generator=generator, dtype=torch.float64)
    u = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    data = TransitionData(x, u, x + 0.1 * noise)
    if kind == "linear":
        model = LinearModel(3, 2, 0.025, angles=[2, 0], regularization=0.3, **NAMES)
        model.solve(data)
        return model
    make = MLP if kind == "network" else Ensemble
    options = {} if kind == "network" else {"members": 2}
    model = make(3, 2, 0.025, angles=[2, 0], hidden=[7, 5], seed=4, **NAMES, **options)
    model.set_statistics(data)
    return model.double() if kind == "double" else model


@pytest.mark.parametrize("kind", ["linear", "ensemble", "network", "double"])
def test_round_trip(kind, tmp_path, generator):
    model = fitted(kind)
    path = dynamics.save(model, tmp_path / "new" / "model.safetensors")
    assert path == tmp_path / "new" / "model.safetensors"
    loaded = dynamics.load(str(path))
    assert type(loaded) is type(model)
    assert loaded.config() == model.config()
    assert (loaded.angles, loaded.dt) == ((2, 0), 0.025)
    assert (loaded.state_names, loaded.control_names) == (("theta", "rate", "height"), ("torque", "brake"))
    for (name, value), (other, expected) in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
        assert name == other
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected)
    x, u = (torch.randn(20, k, generator=generator, dtype=torch.float64) for k in (3, 2))
    prediction, expected = loaded.predict(x, u), model.predict(x, u)
    for field in ("mean", "aleatoric_std", "epistemic_std"):
        assert torch.equal(getattr(prediction, field), getattr(expected, field))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.safetensors"]


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "model"
    dynamics.save(fitted("linear"), path)
    dynamics.save(fitted("ensemble"), path)
    assert type(dynamics.load(path)) is Ensemble


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = dynamics.save(fitted("linear"), tmp_path / "model")
    before = path.read_bytes()

    def full(partial, content):
        with partial.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        dynamics.save(fitted("ensemble"), path)
    assert path.read_bytes() == before


def test_equal_models_are_equal_files_that_others_may_read(tmp_path):
    paths = [dynamics.save(fitted("ensemble"), tmp_path / str(number)) for number in range(10)]
    assert len({path.read_bytes() for path in paths}) == 1  # without an order, one of six each time
    (tmp_path / "any").touch()
    assert paths[0].stat().st_mode == (tmp_path / "any").stat().st_mode


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="save takes a learned model, got Pendulum, which is its code and parameters"):
        dynamics.save(Pendulum(), tmp_path / "model")
    for model in (Ensemble(2, 1, 0.1), LinearModel(2, 1, 0.1)):
        with pytest.raises(RuntimeError, match="has not been fitted; call fit"):
            dynamics.save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_missing_file(tmp_path):
    for path in (tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"no model at .*; models are written by dynamics.save\(model, path\)"
        ):
            dynamics.load(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(share, tmp_path):
    path = dynamics.save(fitted("ensemble"), tmp_path / "model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ValueError, match=r"model\.safetensors is not a readable safetensors file .*; was it cut short\?"
    ):
        dynamics.load(path)


def test_foreign_file(tmp_path):
    path = tmp_path / "foreign.safetensors"
    for metadata, found in ((None, "None"), ({"format": "pt"}, "'pt'")):
        save_file({"weight": torch.zeros(2)}, path, metadata)
        with pytest.raises(ValueError, match=f"has format {found}, expected 'mbrl-control model 1'; write models with"):
            dynamics.load(path)


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


def test_loading_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    torch.save({"model": Exploit()}, path)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        dynamics.load(path)
    path.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        dynamics.load(path)
    for name in ("Pendulum", "os.mkdir", "__doc__", "training", "base"):
        rewritten(dynamics.save(fitted("linear"), path), **{"class": name, "config": '{"path": "exploited"}'})
        with pytest.raises(
            ValueError, match=f"holds a '{name}'; this version knows MLP, Ensemble, LearnedDynamics, Linear"
        ):
            dynamics.load(path)
    assert not (tmp_path / "exploited").exists()


def rewritten(path, **changes):
    """The same tensors under another header."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | changes
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {name: text for name, text in metadata.items() if text is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class": None}, "holds a None; this version knows"),
        ({"class": "Ensemble"}, "does not describe a Ensemble of this version"),
        ({"class": "LearnedDynamics"}, "does not describe a LearnedDynamics of this version: .*abstract"),
        ({"config": None}, "does not describe a LinearModel of this version: 'config'"),
        ({"config": "{"}, "does not describe a LinearModel of this version"),
        ({"config": "[1]"}, "does not describe a LinearModel of this version"),
        ({"config": json.dumps({"state_dim": 3})}, "does not describe a LinearModel .*control_dim"),
        (
            {"config": json.dumps({"state_dim": 5, "control_dim": 2, "dt": 0.1})},
            "(?s)does not .*size mismatch for target_mean",
        ),
        ({"config": json.dumps({"state_dim": 3, "control_dim": 2, "dt": 0.1, "depth": 2})}, "unexpected .*'depth'"),
    ],
)
def test_a_header_that_does_not_fit(changes, message, tmp_path):
    path = dynamics.save(fitted("linear"), tmp_path / "model.safetensors")
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=message):
        dynamics.load(path)
