"""Benchmarks made of cells: every cell runs once, and what is said of their returns is right."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

SCRIPT = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    with open(request["log"], "a") as log:
        log.write(request["seed"] * "." + "\\n")
    if os.path.exists(request["log"] + ".broken") and request["seed"] == 1:
        sys.exit(3)
    print(json.dumps({"returns": [request["seed"], 2.0], "processors": sorted(os.sched_getaffinity(0))}), flush=True)
"""


@pytest.fixture(scope="module")
def benchmarks():
    """The folder, which is no package, where imports are looked for."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(BENCHMARKS))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def cells(benchmarks):
    import cells

    return cells


@pytest.fixture
def some(cells, tmp_path):
    """Three cells, and how many requests have been answered."""
    script, log = tmp_path / "answer.py", tmp_path / "log"
    script.write_text(SCRIPT)

    def make(**more):
        return [cells.Cell(f"cell_{i}", script, {"seed": i, "log": str(log)} | more) for i in range(3)]

    return make, lambda: len(log.read_text().splitlines())


def test_cells_that_have_run_are_not_run_again(cells, some, tmp_path):
    make, count = some
    first = cells.run(make(), tmp_path / "kept", 2)
    assert [first[f"cell_{i}"]["answer"]["returns"] for i in range(3)] == [[0, 2.0], [1, 2.0], [2, 2.0]]
    assert first["cell_0"]["machine"]["processes"] == 2
    assert cells.run(make(), tmp_path / "kept", 2) == first
    assert count() == 3
    (tmp_path / "kept" / "cell_1.json").unlink()
    cells.run(make(), tmp_path / "kept", 2)
    assert count() == 4
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [f"cell_{i}.json" for i in range(3)]


def test_a_cell_asked_something_else_is_run_again(cells, some, tmp_path):
    make, count = some
    cells.run(make(steps=10), tmp_path / "kept", 2)
    assert cells.run(make(steps=20), tmp_path / "kept", 2)["cell_0"]["request"]["steps"] == 20
    assert count() == 6


def test_a_cell_that_fails_does_not_stop_the_others_and_is_run_again(cells, some, tmp_path, capfd):
    make, count = some
    broken = tmp_path / "log.broken"
    broken.touch()
    with pytest.raises(RuntimeError, match=r"1 of 3 cells failed \(cell_1\); run again .* status 3 instead"):
        cells.run(make(), tmp_path / "kept", 1)
    assert "cell_1: failed" in capfd.readouterr().err
    broken.unlink()
    assert len(cells.run(make(), tmp_path / "kept", 1)) == 3
    assert count() == 4


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_processes_side_by_side_have_processors_of_their_own(cells, some, tmp_path):
    everything = os.sched_getaffinity(0)
    make, _ = some
    alone = cells.run(make(), tmp_path / "alone", 1)
    assert {tuple(cell["answer"]["processors"]) for cell in alone.values()} == {tuple(sorted(everything))}
    shared = cells.run(make(), tmp_path / "shared", 2 * len(everything))
    assert {len(cell["answer"]["processors"]) for cell in shared.values()} == {1}
    halves = cells.run(make(), tmp_path / "halves", 2)
    sizes = {len(cell["answer"]["processors"]) for cell in halves.values()}
    assert sizes == {len(everything) // 2}
    assert os.sched_getaffinity(0) == everything


def test_cells_with_the_same_name_and_no_processes_are_refused(cells, some, tmp_path):
    make, _ = some
    with pytest.raises(ValueError, match="names of their own, got more than one of cell_0, cell_1, cell_2"):
        cells.run([*make(), *make()], tmp_path)
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        cells.run(make(), tmp_path, 0)


def test_an_answer_is_all_that_a_script_writes_to_standard_output(cells, capfd, monkeypatch):
    def answer(request):
        os.write(1, b"a library's noise")
        return {"returns": [request["x"]]}

    monkeypatch.setattr(sys, "stdin", io.StringIO('{"x": 1.5}\n{"x": 2.5}\n'))
    before = os.dup(1)
    try:
        cells.serve(answer)
    finally:
        os.dup2(before, 1)
        os.close(before)
    written = capfd.readouterr()
    assert [json.loads(line) for line in written.out.splitlines()] == [{"returns": [1.5]}, {"returns": [2.5]}]
    assert written.err == 2 * "a library's noise"


def test_the_interval_of_one_seed_is_the_bootstrap_of_its_episodes(cells):
    from scipy.stats import bootstrap, trim_mean

    returns = np.random.default_rng(3).normal(100.0, 20.0, (1, 40))
    expected = bootstrap(
        (returns[0],), lambda x, axis: trim_mean(x, 0.25, axis=axis), method="percentile", n_resamples=5_000, rng=4
    )
    mean, ends = cells.summarize(returns)
    assert mean == pytest.approx(np.sort(returns[0])[10:30].mean())
    assert ends == pytest.approx(tuple(expected.confidence_interval), abs=0.15 * expected.standard_error)


def test_the_interval_of_seeds_without_spread_is_that_of_all_their_resamples(cells):
    """Constant returns within each seed leave 3³ equally likely draws of seeds, whose means are a distribution to list."""
    from itertools import product

    from scipy.stats import trim_mean

    returns = np.repeat([[0.0], [6.0], [30.0]], 8, axis=1)
    listed = [trim_mean(returns[list(draw)].ravel(), 0.25) for draw in product(range(3), repeat=3)]
    found = cells.interquartile_means(returns)
    for value in set(listed):
        assert np.isclose(found, value).mean() == pytest.approx(listed.count(value) / 27, abs=0.02)
    assert cells.interval(found) == (0.0, 30.0)  # each end has a probability of 1/27, more than 2.5 %


def test_starts_that_seeds_have_in_common_are_drawn_together(cells):
    """The mean of a table of row and column effects varies by both: var(rows) / rows + var(columns) / columns."""
    rows, columns = np.array([[0.0], [1.0], [5.0]]), np.array([[0.0, 2.0, 3.0, 7.0]])
    table = rows + columns
    of_rows, of_columns = rows.var() / rows.size, columns.var() / columns.size
    together = cells.resampled(table, common=True)
    assert together.shape == (cells.RESAMPLES, 3, 4)
    assert (np.ptp(together - together[:, :, :1], axis=1) == 0).all()  # each seed of a sample has the same starts
    assert together.mean((-1, -2)).var() == pytest.approx(of_rows + of_columns, rel=0.05)
    apart = cells.resampled(table).mean((-1, -2)).var()
    assert apart == pytest.approx(of_rows + of_columns / rows.size, rel=0.05)


def test_intervals_cover_the_truth_about_as_often_as_they_say(cells):
    """20 seeds whose means vary; the interquartile mean of a symmetric distribution is its centre."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        returns = 5.0 + generator.normal(size=(20, 1)) + 0.5 * generator.normal(size=(20, 10))
        low, high = cells.interval(cells.interquartile_means(returns, resamples=200))
        covered += low <= 5.0 <= high
    assert 88 <= covered <= 99


def test_verdicts(cells):
    spread = np.linspace(-1.0, 1.0, 20)[None] + np.array([[-0.2], [0.0], [0.2]])
    above = cells.compare(10.0 + spread, spread)
    assert above["verdict"] == "higher"
    assert above["difference"] == pytest.approx(10.0)
    low, high = map(float, above["difference 95 %"].split(" to "))
    assert 9.0 < low < 10.0 < high < 11.0
    assert cells.compare(spread, 10.0 + spread)["verdict"] == "lower"
    assert cells.compare(spread + 0.1, spread)["verdict"] == "intervals overlap"
    assert cells.compare(np.ones((2, 3)), np.ones((5, 4)))["verdict"] == "intervals overlap"


def test_returns_that_do_not_compare_are_refused(cells):
    with pytest.raises(ValueError, match="must be finite, got -inf in peer"):
        cells.compare(np.ones((2, 3)), np.array([[1.0, -np.inf, 2.0]]))
    results = {"a": {"answer": {"returns": [1.0]}}, "b": {"answer": {"returns": [1.0, 2.0]}}}
    with pytest.raises(ValueError, match="same number of episodes, got a: 1, b: 2"):
        cells.returns_of(results, ["a", "b"])


def test_the_on_policy_benchmark_makes_a_row_of_its_cells(cells, tmp_path, monkeypatch):
    import on_policy

    case = on_policy.Case(
        "Task-v0", 10, 2, (("ppo", "tuned"), ("ppo-kl", "tuned"), ("ppo", "generic")), (("ppo", 3.0),)
    )
    monkeypatch.setattr(on_policy, "CASES", (case,))
    monkeypatch.setattr(on_policy, "folder", lambda name, quick: tmp_path)
    monkeypatch.setattr(on_policy, "peer_environment", lambda name: Path(sys.executable))
    made = on_policy.cells(False, None)
    assert len(made) == 2 * (2 + 2)  # the peer is trained once for both forms of ours
    for cell in made:
        seed, is_ours = cell.request["seed"], "settings" not in cell.request
        answer = {"returns": [2.0 + 2.0 * seed if is_ours else 1.0] * 20, "seconds": 5.0 if is_ours else 7.0}
        machine = {"cpu": "a processor", "processes": 2}
        kept = {"request": dict(cell.request), "answer": answer, "machine": machine}
        (tmp_path / f"{cell.name}.json").write_text(json.dumps(kept))
    rows = on_policy.main(False)
    assert [(row["algorithm"], row["peer settings"]) for row in rows] == [
        ("ppo", "tuned"), ("ppo-kl", "tuned"), ("ppo", "generic")
    ]  # fmt: skip
    assert rows[0] == {
        "env": "Task-v0", "steps": 10, "seeds": 2, "algorithm": "ppo", "peer settings": "tuned",
        "ours": 3.0, "ours 95 %": "2 to 4", "peer": 1.0, "peer 95 %": "1 to 1",
        "difference": 2.0, "difference 95 %": "1 to 3", "verdict": "higher", "aim": 3.0, "reached": "1 of 2",
        "seconds": 5.0, "peer seconds": 7.0, "hardware": "a processor, 2 at a time",
    }  # fmt: skip
