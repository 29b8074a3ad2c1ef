"""Policies as files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_policy import HEADS, LIMITED, make, observations

import mbrl
from mbrl import NetworkSettings, Policy, load_policy, pendulum_swing_up, save_policy
from mbrl.policies import ContinuousActions
from mbrl.training.flat_parameters import FlatParameters


def require_same(policy, again):
    state, other = policy.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name
    assert again.config() == policy.config()
    memory, memory_again = (p.init(3, generator=torch.Generator().manual_seed(2)) for p in (policy, again))
    for t in range(3):
        y = observations(3, seed=t)
        u, memory = policy.act(y, memory, deterministic=False)
        u_again, memory_again = again.act(y, memory_again, deterministic=False)
        assert torch.equal(u, u_again)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("recurrent", [0, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back_to_the_bit(tmp_path, head, recurrent, dtype):
    policy = make(head, recurrent=recurrent, dtype=dtype)
    path = save_policy(policy, tmp_path / "deep" / "policy.safetensors")
    require_same(policy, load_policy(path))


@pytest.mark.parametrize(
    "policy",
    [
        make("gaussian", normalize=False),
        make("gaussian", hidden=(), activation="elu"),
        make("gaussian", state_dependent_std=True, initial_std=0.3),
        make("mixture", components=2, hidden=(3, 4)),
        make(None, actions=ContinuousActions(torch.tensor([-torch.inf, -0.1]), torch.tensor([torch.inf, 1 / 3]))),
        make("gaussian", dtype="float32").double(),
    ],
    ids=["no normalizer", "no layers", "std of the state", "mixture", "limits", "another dtype"],
)
def test_every_setting(tmp_path, policy):
    require_same(policy, load_policy(save_policy(policy, tmp_path / "policy.safetensors")))


def test_equal_policies_are_equal_files(tmp_path):
    files = [save_policy(make("gaussian"), tmp_path / f"{i}.safetensors").read_bytes() for i in range(4)]
    assert len(set(files)) == 1


def test_names_and_units_are_kept(tmp_path):
    task = pendulum_swing_up("torch")
    policy = Policy.for_task(task)
    again = load_policy(save_policy(policy, tmp_path / "policy.safetensors"))
    assert (again.names, again.units) == (policy.names, policy.units)
    assert again.names["controls"] == task.names["controls"]
    again.check_task(task)


def test_of_a_run_and_in_place_of_an_older_file(tmp_path):
    run = mbrl.open_run(tmp_path / "run", config={})
    save_policy(make("gaussian", seed=1), run.path("policy.safetensors"))
    policy = make("gaussian", seed=2)
    save_policy(policy, run.path("policy.safetensors"))
    require_same(policy, load_policy(tmp_path / "run"))
    assert [p.name for p in (tmp_path / "run").glob("policy*")] == ["policy.safetensors"]


def test_parameters_that_are_views_of_one_vector(tmp_path):
    """Safetensors refuses tensors that share memory."""
    policy = make("gaussian", recurrent=4)
    parameters = FlatParameters(policy)
    path = save_policy(policy, tmp_path / "policy.safetensors")
    require_same(policy, load_policy(path))
    assert path.stat().st_size < 8 * parameters.vector.numel() + 4000  # not the whole vector again and again


def test_loading_leaves_the_global_numbers_alone(tmp_path):
    path = save_policy(make("gaussian"), tmp_path / "policy.safetensors")
    before = torch.get_rng_state()
    load_policy(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path):
    policy = make("gaussian")
    path = save_policy(policy, tmp_path / "policy.safetensors")
    again = load_policy(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    require_same(policy, again)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no policy at .*policy.safetensors; policies are written by"):
        load_policy(tmp_path)
    with pytest.raises(FileNotFoundError, match="no policy at"):
        load_policy(tmp_path / "nothing")


def test_no_policy(tmp_path):
    with pytest.raises(
        TypeError, match=r"save_policy takes a mbrl\.Policy or a mbrl\.TrajectoryLibrary or .* got Linear"
    ):
        save_policy(torch.nn.Linear(2, 2), tmp_path / "policy.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100, b"\0" * 8])
def test_no_safetensors_file(tmp_path, content):
    path = tmp_path / "policy.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a readable safetensors file .* was it cut short\?"):
        load_policy(path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_cut_short(tmp_path, share):
    path = save_policy(make("gaussian"), tmp_path / "policy.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="was it cut short"):
        load_policy(path)


def test_another_format(tmp_path):
    model = tmp_path / "model.safetensors"
    save_file({"A": torch.eye(2)}, model, {"format": "mbrl-control model 1"})
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    for path in (model, tmp_path / "plain.safetensors"):
        with pytest.raises(ValueError, match="expected 'mbrl-control policy 1'; write policies with"):
            load_policy(path)


def rewritten(path, change):
    """The same file with other metadata and tensors."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    config = json.loads(metadata["config"])
    change(config, tensors, metadata)
    if "config" in metadata:
        metadata["config"] = json.dumps(config)
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda config, tensors, metadata: config["settings"].update(attention=True),
        lambda config, tensors, metadata: config["settings"].update(hidden=[9]),
        lambda config, tensors, metadata: config["settings"].update(head="flow"),
        lambda config, tensors, metadata: config.update(actions={"graph": []}),
        lambda config, tensors, metadata: config.update(observation_dim=5),
        lambda config, tensors, metadata: config.update(settings=[]),
        lambda config, tensors, metadata: config.pop("actions"),
        lambda config, tensors, metadata: tensors.pop("head.layer.bias"),
        lambda config, tensors, metadata: tensors.update(more=torch.zeros(1)),
        lambda config, tensors, metadata: metadata.pop("config"),
        lambda config, tensors, metadata: metadata.update(columns="[]"),
    ],
)
def test_of_another_version(tmp_path, change):
    path = save_policy(make("gaussian"), tmp_path / "policy.safetensors")
    with pytest.raises(ValueError, match="does not describe a policy of this version"):
        load_policy(rewritten(path, change))


def test_of_a_kind_that_is_not_known(tmp_path):
    path = save_policy(make("gaussian"), tmp_path / "policy.safetensors")
    rewritten(path, lambda config, tensors, metadata: metadata.update({"class": "Oracle"}))
    with pytest.raises(ValueError, match="holds a 'Oracle'; this version knows Policy, TrajectoryLibrary"):
        load_policy(path)


def test_of_before_there_were_kinds(tmp_path):
    policy = make("gaussian")
    path = save_policy(policy, tmp_path / "policy.safetensors")
    require_same(policy, load_policy(rewritten(path, lambda config, tensors, metadata: metadata.pop("class"))))


def test_settings_that_were_not_there_yet(tmp_path):
    """A file of before a setting existed has its default."""
    policy = Policy(4, LIMITED, NetworkSettings())
    path = save_policy(policy, tmp_path / "policy.safetensors")
    rewritten(path, lambda config, tensors, metadata: config["settings"].pop("components"))
    require_same(policy, load_policy(path))
