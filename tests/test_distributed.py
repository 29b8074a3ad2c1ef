"""Several processes do what one would do with all the samples, and survive together or not at all."""

import os
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from meeting import Meeting
from torch import distributed

import mbrl
from mbrl.cli import main
from mbrl.on_policy import base
from mbrl.on_policy.rollout import Samples, collect
from mbrl.policies.normalizer import RunningNormalizer, count_in
from mbrl.training.processes import Processes, together

ROOT = Path(__file__).resolve().parent.parent
WORLDS, STEPS = 8, 32


def learners(algorithm, number):
    """One learner with all worlds, and one for each of several processes with its part of them."""
    task = mbrl.pendulum_swing_up(backend="torch")
    meeting = Meeting(number)
    split = replace(algorithm, num_envs=WORLDS // number, steps_per_iteration=WORLDS * STEPS // number)
    sizes = {f.name: getattr(split, f.name) // number for f in fields(split) if f.name.endswith("minibatch_size")}
    split = replace(split, **sizes)

    def learner(settings, processes):
        return settings.learner(mbrl.Assignment(task, steps=10 * WORLDS * STEPS, seed=0, processes=processes))

    return learner(algorithm, Processes()), [learner(split, p) for p in meeting.processes()], meeting


def iterate_alike(monkeypatch, joint, parts, meeting):
    """An iteration of each, on the same experience and minibatches: every part has its worlds of them."""
    rollout, _ = collect(joint.policy, joint.worlds, STEPS, joint._hidden, joint.generator)
    ended, valid = rollout.ended.clone(), rollout.valid.clone()
    ended[7, 2] = ended[20, 0] = ended[11, 5] = True
    valid[3, 1] = valid[4, 1] = valid[30, 0] = False  # all in the first part: the parts weigh differently
    rollout = replace(rollout, ended=ended | ~valid, valid=valid, terminated=ended & valid)
    width = WORLDS // len(parts)

    def part(k):
        worlds = slice(k * width, (k + 1) * width)
        tensors = {f.name: getattr(rollout, f.name) for f in fields(rollout) if f.name not in ("costs", "seconds")}
        return replace(rollout, **{name: values[:, worlds] for name, values in tensors.items()})

    experience = {id(joint.worlds): rollout} | {id(learner.worlds): part(k) for k, learner in enumerate(parts)}
    monkeypatch.setattr(base, "collect", lambda policy, worlds, steps, hidden, _: (experience[id(worlds)], hidden))

    def in_order(samples, size, generator):  # pieces go by time first: minibatches of the parts make up those of all
        number = len(samples) * len(samples.inputs) // size
        for k in range(number):
            yield samples.pieces(slice(k * len(samples) // number, (k + 1) * len(samples) // number))

    monkeypatch.setattr(Samples, "minibatches", in_order)
    return joint.iterate(), meeting.run([learner.iterate for learner in parts])


NETWORK = mbrl.NetworkSettings(hidden=(16, 16), dtype="float64")
RECURRENT = mbrl.NetworkSettings(hidden=(16,), recurrent=16, dtype="float64")
SHARED = {"num_envs": WORLDS, "steps_per_iteration": WORLDS * STEPS, "network": NETWORK}
ALGORITHMS = {
    "clip": mbrl.PPO(minibatch_size=64, epochs=3, entropy_weight=0.01, **SHARED),
    "kl": mbrl.PPO(objective=mbrl.KLPenalty(), minibatch_size=64, epochs=3, **SHARED),
    "recurrent": mbrl.PPO(minibatch_size=64, epochs=2, sequence_length=8, **(SHARED | {"network": RECURRENT})),
    # later iterations of conjugate gradients amplify rounding, and where they stop by the residual is a matter of it
    "trpo": mbrl.TRPO(cg_iterations=5, value_minibatch_size=64, value_epochs=3, **SHARED),
    "a2c": mbrl.A2C(entropy_weight=0.01, **SHARED),
    "reinforce": mbrl.REINFORCE(value_minibatch_size=64, value_epochs=3, entropy_weight=0.01, **SHARED),
}


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_iteration_of_several_processes_is_that_of_one_with_all_worlds(monkeypatch, name, number):
    joint, parts, meeting = learners(ALGORITHMS[name], number)
    before = [p.detach().clone() for p in joint.policy.parameters()]
    expected, found = iterate_alike(monkeypatch, joint, parts, meeting)
    assert any(bool((p != b).any()) for p, b in zip(joint.policy.parameters(), before, strict=True))
    assert joint.steps == WORLDS * STEPS == parts[0].steps
    for learner in parts:
        for network in ("policy", "value"):
            here, there = getattr(joint, network).state_dict(), getattr(learner, network).state_dict()
            for key, value in here.items():
                tolerance = 1e-12 if key.startswith("normalizer") else 1e-10
                torch.testing.assert_close(there[key], value, rtol=tolerance, atol=tolerance)
        for key, value in joint.scale.statistics.state_dict().items():
            torch.testing.assert_close(learner.scale.statistics.state_dict()[key], value, rtol=1e-12, atol=1e-12)
        assert learner.numbers == joint.numbers
    for metrics in found:
        same = {key: value for key, value in metrics.items() if not key.startswith("time/")}
        assert same == pytest.approx({key: expected[key] for key in same}, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_processes_have_the_same_weights_to_the_bit(monkeypatch, name):
    joint, parts, meeting = learners(ALGORITHMS[name], 4)
    iterate_alike(monkeypatch, joint, parts, meeting)
    for learner in parts[1:]:
        for network in ("policy", "value"):
            for here, there in zip(
                getattr(parts[0], network).parameters(), getattr(learner, network).parameters(), strict=True
            ):
                assert torch.equal(here, there)


def test_the_old_distributions_of_samples_are_constants():
    joint, _, _ = learners(ALGORITHMS["kl"], 2)
    samples, _ = joint.samples(collect(joint.policy, joint.worlds, STEPS, joint._hidden, joint.generator)[0])
    assert not any(
        p.requires_grad for p in (samples.distribution.mean, samples.distribution.log_std, samples.log_probs)
    )


def test_processes_draw_different_actions_in_different_worlds():
    _, parts, _ = learners(ALGORITHMS["clip"], 2)
    a, b = (collect(p.policy, p.worlds, 4, p._hidden, p.generator)[0] for p in parts)
    assert not bool((a.actions == b.actions).any())
    assert not bool((a.observations[0] == b.observations[0]).all(-1).any())


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_statistics_are_those_of_all_rows_even_far_from_zero_and_where_a_process_has_none(offset):
    generator = torch.Generator().manual_seed(0)
    rows = [
        offset + torch.randn(n, 3, dtype=torch.float64, generator=generator) * torch.tensor([1e-2, 1.0, 1e3])
        for n in (40, 0, 7)
    ]
    meeting, merged = Meeting(3), [RunningNormalizer(3) for _ in range(3)]
    for _ in range(2):
        meeting.run(
            [lambda s=s, r=r, p=p: count_in(s, r, p) for s, r, p in zip(merged, rows, meeting.processes(), strict=True)]
        )
    joint = torch.cat([*rows, *rows])
    for statistics in merged:
        assert float(statistics.count) == 94
        torch.testing.assert_close(statistics.mean, joint.mean(0), rtol=1e-12, atol=1e-12)
        exact = joint - joint.mean(0)
        spread = 1e-12 if not offset else 1e-7  # a mean of 1e6 is known to 1e-10, next to deviations of 1e-2
        torch.testing.assert_close(statistics.variance, exact.square().mean(0), rtol=spread, atol=0.0)
    meeting.run(
        [lambda s=s, p=p: count_in(s, torch.empty(0, 3), p) for s, p in zip(merged, meeting.processes(), strict=True)]
    )
    assert bool(merged[0].mean.isfinite().all())
    assert float(merged[0].count) == 94


@pytest.fixture
def of_torchrun(monkeypatch):
    """The environment of the only process that torchrun has started."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in given.items():
        monkeypatch.setenv(name, value)


def short(**given):
    return mbrl.train(
        mbrl.PPO(num_envs=2, steps_per_iteration=32, epochs=1),
        mbrl.pendulum_swing_up(backend="torch"),
        **({"steps": 64, "evaluation_episodes": 0} | given),
    )


def test_a_group_of_one_is_made_and_ended_and_gives_the_policy_of_no_group(of_torchrun, monkeypatch, tmp_path):
    seen = []
    grouped = short(run=tmp_path / "run", on_iteration=lambda row: seen.append(distributed.get_backend()))
    assert seen == ["gloo", "gloo"]
    assert not distributed.is_initialized()
    monkeypatch.delenv("RANK")
    for here, there in zip(short().policy.parameters(), grouped.policy.parameters(), strict=True):
        assert torch.equal(here, there)


def test_the_group_is_ended_after_an_error_and_one_that_was_there_is_left(of_torchrun):
    def fail(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        short(on_iteration=fail)
    assert not distributed.is_initialized()
    short()
    distributed.init_process_group("gloo")
    try:
        short()
        assert distributed.is_initialized()
    finally:
        distributed.destroy_process_group()


def test_without_torchrun_there_is_no_group():
    @together
    def run(*, device="cpu"):
        return distributed.is_initialized(), Processes().number

    assert run(device="cpu") == (False, 1)


def test_a_process_without_a_gpu_of_its_own_is_told_so(of_torchrun, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "64")
    with pytest.raises(ValueError, match=r'process 64 of this machine finds .*device="cpu"'):
        short(device="cuda")


def test_a_group_that_does_not_answer_is_a_training_error(of_torchrun, monkeypatch):
    def broken(values):
        raise RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:4242")

    monkeypatch.setattr(distributed, "all_reduce", broken)
    with pytest.raises(mbrl.TrainingError, match=r"another process of this training has ended .*Connection closed"):
        short()


SCRIPT = """
import hashlib, os, signal, sys, time
from pathlib import Path
import mbrl

folder, seed, rank = Path(sys.argv[1]), int(sys.argv[2]), int(os.environ.get("RANK", 0))

if rank == 0 and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
    time.sleep(3)  # the other one looks for this one before it is there, and must not find the one that has died

class Mortal(mbrl.PPO):
    def update(self, learner, samples):
        if learner.iterations == 3 and os.environ.get("DIES") == str(rank) and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().update(learner, samples)

result = mbrl.train(
    Mortal(num_envs=2, steps_per_iteration=64, epochs=2, minibatch_size=32), mbrl.pendulum_swing_up(backend="torch"),
    steps=640, seed=seed + (rank if "UNLIKE" in os.environ else 0), run=folder / "run", evaluation_episodes=0,
)
if "AGAIN" in os.environ:
    result = mbrl.train(
        Mortal(num_envs=2, steps_per_iteration=64, epochs=2, minibatch_size=32), mbrl.pendulum_swing_up(backend="torch"),
        steps=640, seed=seed, evaluation_episodes=0,
    )
parameters = b"".join(p.detach().numpy().tobytes() for p in result.policy.parameters())
sys.stdout.write(f"rank {rank} {hashlib.sha256(parameters).hexdigest()} {result.steps}\\n")
"""


def torchrun(folder, *options, seed=0, **environment):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return started(*options, script, folder, str(seed), **environment)


def started(*command, **environment):
    of_torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([*of_torchrun, *command], capture_output=True, text=True, env=given, timeout=300)


def digests(ended):
    assert ended.returncode == 0, ended.stderr
    return sorted(line for line in ended.stdout.splitlines() if line.startswith("rank"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder / "run", digests(torchrun(folder))


def learned(run):
    columns = mbrl.read_run(run).metrics
    return {name: list(values) for name, values in columns.items() if not name.startswith("time/")}


@pytest.mark.slow
def test_processes_of_torchrun_have_one_policy_and_its_first_one_writes(uninterrupted):
    run, lines = uninterrupted
    (first, here, steps), (second, there, _) = (line.split()[1:] for line in lines)
    assert (first, second, steps) == ("0", "1", "640")
    assert here == there
    assert mbrl.read_run(run).config["processes"] == 2


@pytest.mark.slow
def test_a_script_trains_twice_alike(tmp_path, uninterrupted):
    assert digests(torchrun(tmp_path, AGAIN="1")) == uninterrupted[1]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["1", "0"])
def test_a_dead_process_ends_the_training_which_goes_on_bit_for_bit(tmp_path, uninterrupted, victim):
    begun = time.perf_counter()
    ended = torchrun(tmp_path, "--monitor-interval=10", DIES=victim)  # what ends the other one is its own message
    assert time.perf_counter() - begun < 120  # of a patience of two hours
    assert ended.returncode != 0
    assert "another process of this training has ended" in ended.stderr
    assert len(mbrl.read_run(tmp_path / "run").metrics["step"]) == 3
    with pytest.raises(mbrl.RunError, match="processes was 2, now 1"):
        short(steps=640, run=tmp_path / "run")
    assert digests(torchrun(tmp_path)) == uninterrupted[1]
    assert learned(tmp_path / "run") == learned(uninterrupted[0])
    saved = [mbrl.load_policy(run).state_dict() for run in (tmp_path / "run", uninterrupted[0])]
    assert all(torch.equal(value, saved[1][name]) for name, value in saved[0].items())


@pytest.mark.slow
def test_torchrun_starts_the_training_again_by_itself(tmp_path, uninterrupted):
    assert digests(torchrun(tmp_path, "--max-restarts=1", DIES="1")) == uninterrupted[1]
    assert learned(tmp_path / "run") == learned(uninterrupted[0])


@pytest.mark.slow
def test_processes_that_were_given_different_things_are_told_so(tmp_path):
    ended = torchrun(tmp_path, UNLIKE="1")
    assert ended.returncode != 0
    assert "seed is 0 in process 0 and 1 in process 1" in ended.stderr


@pytest.mark.slow
def test_the_command_line_speaks_once_for_all_processes(tmp_path):
    folder = tmp_path / "run"
    options = "--task PendulumSwingUp --backend torch --steps 512 --steps-per-iteration 128 --no-video --evaluation-episodes 1"
    ended = started("-m", "--", "mbrl", "train", "ppo", *options.split(), "--run", folder)
    assert ended.returncode == 0, ended.stderr
    assert [line.partition(" ")[0] for line in ended.stdout.splitlines()] == ["run", "return", "policy:", "report:"]
    assert list(mbrl.read_run(folder).metrics["step"]) == [256, 512]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_several_seeds_are_no_training_of_several_processes(of_torchrun, capsys):
    command = ["train", "ppo", "--task", "PendulumSwingUp", "--backend", "torch", "--steps", "512", "--seeds", "0", "1"]
    assert main(command) != 0
    assert "start each with --seed" in capsys.readouterr().err
