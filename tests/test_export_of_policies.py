"""Exported policies: the same controls, in programs without this library."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_policy import HEADS, UNLIMITED, make, observations

import mbrl.policies.export
from mbrl import Policy, export_policy, pendulum_swing_up

SLOW = pytest.mark.slow

EVERY = [(head, *kind) for head in HEADS for kind in ((6, "float32"), (0, "float64"))]  # each export takes seconds
FAST = [("gaussian", 6, "float32"), ("categorical", 0, "float64")]
in_torch = pytest.mark.parametrize(
    ("head", "recurrent", "dtype"), [pytest.param(*case, marks=[] if case in FAST else [SLOW]) for case in EVERY]
)
in_onnx = pytest.mark.parametrize(("head", "recurrent"), [(head, (0, 6)[i % 2]) for i, head in enumerate(HEADS)])


def require_same(policy, function):
    """The function and the policy along some episodes of several batches; a limit is reached by some."""
    h, dtype = policy.body.hidden_dim, policy.dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for batch in (1, 2, 7):
        memory = policy.init(batch)
        hidden = torch.zeros(batch, h, dtype=dtype)
        for t in range(3):
            y = observations(batch, seed=t, dtype=dtype)
            y[0, 0] = 1e6 if t == 1 else y[0, 0]  # clipped by the normalizer
            u, memory = policy.act(y, memory)
            found = function(y, hidden) if h else function(y)
            controls, hidden = found if h else (found, hidden)
            assert (controls.shape, controls.dtype) == (u.shape, u.dtype)
            torch.testing.assert_close(controls, u, rtol=0, atol=tolerance)
            torch.testing.assert_close(hidden, memory.hidden, rtol=0, atol=tolerance)


def in_runtime(path):
    """The function of an ONNX file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def function(*inputs):
        names = [i.name for i in session.get_inputs()]
        found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        return tuple(map(torch.from_numpy, found)) if len(found) > 1 else torch.from_numpy(found[0])

    return session, function


@in_torch
def test_torch(tmp_path, head, recurrent, dtype):
    policy = make(head, recurrent=recurrent, dtype=dtype)
    path = export_policy(policy, tmp_path / "policy.pt2")
    require_same(policy, load(path).module())


def load(path, **options):
    with mbrl.policies.export._quiet():
        return torch.export.load(path, **options)


@pytest.mark.slow
@in_onnx
def test_onnx(tmp_path, head, recurrent):
    policy = make(head, recurrent=recurrent, dtype="float32")
    _, function = in_runtime(export_policy(policy, tmp_path / "policy.onnx", format="onnx"))
    require_same(policy, function)


@pytest.mark.slow
def test_onnx_of_double_precision_with_names(tmp_path):
    policy = make("gaussian", recurrent=6, actions=UNLIMITED)
    policy.names = {"observations": ("a", "b", "c", "d")}
    session, function = in_runtime(export_policy(policy, tmp_path / "policy.onnx", format="onnx"))
    require_same(policy, function)
    described = [(v.name, v.shape) for v in (*session.get_inputs(), *session.get_outputs())]
    assert described == [
        ("observations", ["batch", 4]),
        ("hidden", ["batch", 6]),
        ("controls", ["batch", 2]),
        ("next_hidden", ["batch", 6]),
    ]
    description = json.loads(session.get_modelmeta().custom_metadata_map["mbrl"])
    assert description["names"] == {"observations": ["a", "b", "c", "d"]}
    assert [p.name for p in tmp_path.iterdir()] == ["policy.onnx"]  # nothing beside it


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"normalize": False}, {"hidden": ()}, {"activation": "elu"}, {"actions": UNLIMITED}]
)
def test_torch_of_other_settings(tmp_path, options):
    policy = make("gaussian", **options)
    require_same(policy, load(export_policy(policy, tmp_path / "policy.pt2")).module())


STRANGER = """
import json, sys
import torch
description = {"mbrl": ""}
function = torch.export.load(sys.argv[1], extra_files=description).module()
y = torch.tensor(json.loads(sys.argv[2]), dtype=torch.float32)
print(json.dumps([json.loads(description["mbrl"]), function(y).tolist()]))
missing = [name for name in sys.modules if name.split(".")[0] in ("mbrl", "dynamics", "planners")]
sys.exit(f"imported {missing}" if missing else 0)
"""


@pytest.mark.slow
def test_a_process_that_never_imports_this_library(tmp_path):
    task = pendulum_swing_up("torch")
    policy = Policy.for_task(task)
    path = export_policy(policy, tmp_path / "policy.pt2")
    y = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    command = [sys.executable, "-I", "-c", STRANGER, str(path), json.dumps(y.tolist())]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    description, controls = json.loads(result.stdout)
    expected, _ = policy.act(torch.from_numpy(y), policy.init(3))
    np.testing.assert_allclose(controls, expected, rtol=0, atol=1e-6)
    assert description == {
        "format": "mbrl-control policy function 1",
        "observation_dim": 3,
        "control_dim": 1,
        "hidden_dim": 0,
        "dtype": "float32",
        "names": {group: list(texts) for group, texts in policy.names.items()},
        "units": {group: list(texts) for group, texts in policy.units.items()},
    }


def test_what_is_exported_stays_as_it_is_and_the_policy_too(tmp_path):
    policy = make("squashed-gaussian")
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    path = export_policy(policy, tmp_path / "deep" / "policy.pt2")
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert all(p.requires_grad for p in policy.parameters())
    y = observations(2)
    expected, _ = policy.act(y, policy.init(2))
    with torch.no_grad():
        policy.head.layer.bias.add_(1.0)
    function = load(path).module()
    torch.testing.assert_close(function(y), expected, rtol=0, atol=1e-12)
    assert not function(y).requires_grad


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(TypeError, match=r"export_policy takes a mbrl\.Policy, got Linear"):
        export_policy(torch.nn.Linear(2, 2), tmp_path / "policy.pt2")
    with pytest.raises(ValueError, match="format must be 'torch' or 'onnx', got 'jit'"):
        export_policy(make("gaussian"), tmp_path / "policy.pt2", format="jit")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_the_extra(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=r'takes the extra "onnx" .*pip install "mbrl-control\[onnx\]"'):
        export_policy(make("gaussian"), tmp_path / "policy.onnx", format="onnx")
    assert not list(tmp_path.iterdir())
