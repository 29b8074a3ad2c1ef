"""Run the cells of a benchmark, each in a process of its own that leaves a file behind, and compare their returns.

A cell is one training of one contestant from one seed. Cells that have run are not run again, so that a benchmark of many
hours can be stopped at any time, and parts of it can run elsewhere: a benchmark that is made of cells has a function
``cells(quick, peer_python)``, and

    python benchmarks/cells.py BENCHMARK [--only PATTERN ...] [--processes N] [--peer-python PYTHON] [--quick]

runs them without its table. ``make bench`` then finds their files in ``benchmarks/results/cells/<name>``, which are committed
with the results they make.
"""

import argparse
import fnmatch
import importlib
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import HERE, Peer, machine

RESAMPLES = 10_000  # of a bootstrap


@dataclass(frozen=True)
class Cell:
    """One run of one contestant.

    Attributes:
        name: of its file; no other cell of the benchmark has it.
        script: answers one JSON request, as the peers' scripts do, see :class:`harness.Peer` and :func:`serve`.
        request: what it is asked; a file with the answer to another request is not this cell's.
        python: the interpreter that runs the script.
    """

    name: str
    script: Path
    request: Mapping[str, Any]
    python: Path = Path(sys.executable)


def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer each request, one JSON object per line of standard input, with a line on standard output.

    What else is printed meanwhile goes to standard error.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            answers.write(json.dumps(answer(json.loads(line))) + "\n")
            answers.flush()


def folder(name: str, quick: bool) -> Path:
    """Where the cells of a benchmark are kept; those of a quick run are other cells."""
    return HERE / "results" / "local" / f"{name}_quick" if quick else HERE / "results" / "cells" / name


def run(cells: Sequence[Cell], kept_in: Path, processes: int | None = None) -> dict[str, dict[str, Any]]:
    """Run the cells that have not run yet, in the order given, and return what all of them have left.

    Processes that run side by side have processors of their own, so that a library that starts one thread per processor
    starts no more than its share. A cell that fails does not stop the others.

    Args:
        cells: what to run.
        kept_in: folder with one JSON file per cell.
        processes: number of cells at a time; None for one per processor.

    Returns:
        By name: ``{"request": ..., "answer": ..., "machine": ...}``.

    Raises:
        ValueError: two cells have the same name, or processes is not positive.
        RuntimeError: cells failed; those that did not are kept.
    """
    names = [cell.name for cell in cells]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"cells must have names of their own, got more than one of {', '.join(twice)}")
    processors = sorted(os.sched_getaffinity(0))
    count = len(processors) if processes is None else processes
    if count < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    kept_in.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if _kept(cell, kept_in) is None]
    described = machine() | {"processes": count, "processors_per_process": max(1, len(processors) // count)}
    worker = itertools.count()

    def settle() -> None:  # a process inherits the processors of the thread that starts it
        share, start = described["processors_per_process"], next(worker) * described["processors_per_process"]
        os.sched_setaffinity(0, {processors[(start + i) % len(processors)] for i in range(share)})

    failures: dict[str, Exception] = {}
    with ThreadPoolExecutor(count, initializer=settle) as pool:
        running = {pool.submit(_run, cell, kept_in, described): cell for cell in missing}
        try:
            for done, future in enumerate(as_completed(running), 1):
                name = running[future].name
                if (failure := future.exception()) is not None:
                    failures[name] = failure  # type: ignore[assignment]
                outcome = "failed" if failure is not None else f"{future.result():.0f} s"
                print(f"{done}/{len(running)} {name}: {outcome}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        first = next(iter(failures))
        raise RuntimeError(
            f"{len(failures)} of {len(cells)} cells failed ({', '.join(failures)}); run again to run only those. "
            f"{first}: {failures[first]}"
        ) from failures[first]
    return {cell.name: _kept(cell, kept_in) for cell in cells}  # type: ignore[misc]


def _run(cell: Cell, kept_in: Path, described: dict[str, Any]) -> float:
    """Run a cell, keep its answer, and return the seconds."""
    start = time.perf_counter()
    with Peer(cell.script, cell.python) as process:
        answer = process.ask(**cell.request)
    seconds = time.perf_counter() - start
    kept = {"request": dict(cell.request), "answer": answer, "wall_seconds": round(seconds, 1), "machine": described}
    path = kept_in / f"{cell.name}.json"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(kept) + "\n")
    unfinished.replace(path)
    return seconds


def _kept(cell: Cell, kept_in: Path) -> dict[str, Any] | None:
    path = kept_in / f"{cell.name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return kept if kept["request"] == json.loads(json.dumps(dict(cell.request))) else None


def resampled(returns: np.ndarray, *, common: bool = False, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap samples of returns ``(seeds, episodes)``: ``(resamples, seeds, episodes)``.

    Seeds are drawn with replacement, and then, within each seed that was drawn, episodes are: episodes of one policy
    resemble each other, and a plain resampling of all of them would call a lucky seed a certainty.

    Args:
        returns: of each seed.
        common: whether an episode is the same start for all seeds; starts are drawn for all of them together then.
        resamples: number of samples.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    seeds, episodes = returns.shape
    drawn = generator.integers(seeds, size=(resamples, seeds, 1))
    within = generator.integers(episodes, size=(resamples, 1 if common else seeds, episodes))
    return returns[drawn, within]


def interquartile_means(returns: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap distribution of the interquartile mean of returns ``(seeds, episodes)``: ``(resamples,)``."""
    from scipy.stats import trim_mean

    samples = resampled(returns, resamples=resamples, seed=seed)
    return trim_mean(samples.reshape(resamples, -1), 0.25, axis=1)


def interval(distribution: np.ndarray) -> tuple[float, float]:
    """The central 95 % of a bootstrap distribution ``(resamples,)``."""
    low, high = np.quantile(distribution, [0.025, 0.975])
    return float(low), float(high)


def summarize(returns: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Interquartile mean of returns ``(seeds, episodes)`` and its 95 % interval."""
    from scipy.stats import trim_mean

    return float(trim_mean(returns.ravel(), 0.25)), interval(interquartile_means(returns))


def compare(ours: np.ndarray, peer: np.ndarray) -> dict[str, Any]:
    """Columns of a table: interquartile means with 95 % intervals, their difference with its own, and a verdict.

    "higher" and "lower" say that the two intervals have no number in common.

    Args:
        ours: returns ``(seeds, episodes)``.
        peer: returns of the other contestant, perhaps of another number of seeds or episodes.

    Raises:
        ValueError: there are returns that are not finite.
    """
    for name, returns in (("ours", ours), ("peer", peer)):
        if not np.isfinite(returns).all():
            raise ValueError(f"returns must be finite, got {returns[~np.isfinite(returns)][0]} in {name}")
    (our_mean, our_interval), (peer_mean, peer_interval) = summarize(ours), summarize(peer)
    difference = interquartile_means(ours, seed=1) - interquartile_means(peer, seed=2)
    if our_interval[0] > peer_interval[1]:
        verdict = "higher"
    elif our_interval[1] < peer_interval[0]:
        verdict = "lower"
    else:
        verdict = "intervals overlap"
    return {
        "ours": our_mean,
        "ours 95 %": between(our_interval),
        "peer": peer_mean,
        "peer 95 %": between(peer_interval),
        "difference": our_mean - peer_mean,
        "difference 95 %": between(interval(difference)),
        "verdict": verdict,
    }


def between(ends: tuple[float, float]) -> str:
    """An interval in words."""
    return f"{ends[0]:.4g} to {ends[1]:.4g}"


def returns_of(results: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    """Returns ``(seeds, episodes)`` of the cells of one contestant, one cell per seed.

    Raises:
        ValueError: cells have different numbers of episodes.
    """
    rows = [results[name]["answer"]["returns"] for name in names]
    if len({len(row) for row in rows}) > 1:
        counts = ", ".join(f"{name}: {len(row)}" for name, row in zip(names, rows, strict=True))
        raise ValueError(f"the cells of a contestant must have the same number of episodes, got {counts}")
    return np.array(rows, dtype=np.float64)


def hardware_of(results: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
    """What the cells ran on, in words; more than one where they cannot be compared by time."""
    machines = (results[name]["machine"] for name in names)
    return ", ".join(sorted({f"{found['cpu']}, {found['processes']} at a time" for found in machines}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run the cells of a benchmark that have not run yet.")
    parser.add_argument("benchmark")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="run cells with such names")
    parser.add_argument("--processes", type=int, help="cells at a time; by default one per processor")
    parser.add_argument("--peer-python", help="interpreter that has the peer; by default it is installed first")
    parser.add_argument("--quick", action="store_true", help="the cells of the quick benchmark")
    parser.add_argument("--list", action="store_true", help="print the names of the cells instead of running them")
    arguments = parser.parse_args()
    peer = None if arguments.peer_python is None else shutil.which(arguments.peer_python)
    if arguments.peer_python is not None and peer is None:
        parser.error(f"there is no {arguments.peer_python}")
    found = importlib.import_module(arguments.benchmark).cells(arguments.quick, None if peer is None else Path(peer))
    chosen = [cell for cell in found if any(fnmatch.fnmatch(cell.name, pattern) for pattern in arguments.only)]
    if arguments.list:
        print("\n".join(cell.name for cell in chosen))
    else:
        run(chosen, folder(arguments.benchmark, arguments.quick), arguments.processes)


if __name__ == "__main__":
    main()
