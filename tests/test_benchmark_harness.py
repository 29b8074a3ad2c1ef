"""The machinery that every benchmark relies on."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load(name):
    """A file of the benchmarks folder, which is no package, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def harness():
    return load("harness")


def test_contestants_take_turns_after_one_warm_up_each(harness):
    calls = []
    timing = harness.interleave(3, ours=lambda: calls.append("A"), peer=lambda: calls.append("B"))
    assert "".join(calls) == "AB" + "AB" * 3
    assert {name: len(t.seconds) for name, t in timing.items()} == {"ours": 3, "peer": 3}


def test_timing_reduces_to_median_and_best(harness):
    timing = harness.Timing((5.0, 1.0, 2.0))
    assert (timing.median, timing.best) == (2.0, 1.0)


def test_zero_repeats_are_refused(harness):
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        harness.interleave(0, ours=lambda: None)


def test_the_matrix_product_rate_counts_two_operations_per_multiplication(harness, monkeypatch):
    products = []
    monkeypatch.setattr(harness.torch, "mm", lambda a, b, out: products.append(a.shape))
    monkeypatch.setattr(
        harness, "interleave", lambda repeats, multiply: (multiply(), {"multiply": harness.Timing((0.5,))})[1]
    )
    rate = harness.matmul_gflops(size=100)
    assert rate == pytest.approx(len(products) * 2 * 100**3 / 0.5 * 1e-9)


def test_the_machine_is_described_without_its_name(harness):
    machine = harness.machine()
    assert machine["cores"] >= 1
    assert machine["versions"]["torch"] == harness.torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", machine["date"])
    assert harness.platform.node() not in json.dumps(machine).split('"')


def test_a_machine_without_some_library_and_git_is_described_too(harness, monkeypatch):
    monkeypatch.setattr(harness, "VERSIONED", ("torch", "no-such-library"))
    monkeypatch.setenv("PATH", "")  # nor git
    machine = harness.machine()
    assert machine["versions"] == {"torch": harness.torch.__version__, "no-such-library": None}
    assert machine["commit"] is None


def test_a_peer_answers_from_its_own_process(harness, tmp_path):
    script = tmp_path / "peer.py"
    script.write_text(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'pid': os.getpid(), 'double': 2 * json.loads(line)['x']}), flush=True)\n"
    )
    with harness.Peer(script) as peer:
        answers = [peer.ask(x=x) for x in (1, 2)]
        assert [a["double"] for a in answers] == [2, 4]
        assert {a["pid"] for a in answers} == {peer.process.pid}
    assert peer.process.returncode == 0


def test_a_peer_that_dies_is_reported_with_its_status(harness, tmp_path):
    script = tmp_path / "peer.py"
    script.write_text("import sys; sys.exit(3)")
    with (
        harness.Peer(script) as peer,
        pytest.raises(RuntimeError, match=r"peer\.py ended with status 3 instead of answering \{'x': 1\}"),
    ):
        peer.ask(x=1)


@pytest.mark.slow
def test_a_peer_environment_is_made_once_and_again_when_its_requirements_change(harness, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "HERE", tmp_path / "benchmarks")
    (tmp_path / "benchmarks" / "peers").mkdir(parents=True)
    requirements = tmp_path / "benchmarks" / "peers" / "empty.txt"
    requirements.write_text("# nothing\n")
    python = harness.peer_environment("empty")
    prefix = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    assert Path(prefix.stdout.strip()) == tmp_path / ".venv-peers" / "empty"
    marker = tmp_path / ".venv-peers" / "empty" / "marker"
    marker.touch()
    harness.peer_environment("empty")
    assert marker.exists()
    requirements.write_text("# still nothing\n")
    harness.peer_environment("empty")
    assert not marker.exists()


def test_the_runner_lists_the_benchmarks_and_refuses_an_unknown_one():
    def run(*arguments):
        return subprocess.run([sys.executable, BENCHMARKS / "run.py", *arguments], capture_output=True, text=True)

    assert "matmul_peak" in run().stdout
    unknown = run("no_such_benchmark")
    assert unknown.returncode == 2
    assert "no_such_benchmark" in unknown.stderr
    assert "matmul_peak" in unknown.stderr


def test_every_benchmark_says_what_it_measures_and_has_a_main():
    machinery = {"run", "harness", "cells", "planned_imitation"}
    names = [path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in machinery]
    assert "matmul_peak" in names
    for name in names:
        source = (BENCHMARKS / f"{name}.py").read_text()
        assert source.startswith('"""'), name
        assert "\ndef main(quick: bool)" in source, name
