"""What every benchmark shares: interleaved timing, the machine's peak, the machine's description, peer libraries."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import textwrap
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch

HERE = Path(__file__).resolve().parent
VERSIONED = ("torch", "mujoco", "numpy", "scipy", "gymnasium", "warp-lang")


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat of one contestant, in the order they were run."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the repeats [s]: what ratios are made of."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The fastest repeat [s]: the least disturbed one."""
        return min(self.seconds)


def interleave(repeats: int, **contestants: Callable[[], object]) -> dict[str, Timing]:
    """Time the contestants in turn, A B A B ..., so that a machine that slows down slows all of them.

    Each runs once untimed first. A contestant that launches work on a GPU has to wait for it itself.

    Args:
        repeats: timed calls of each contestant.
        **contestants: functions without arguments; one call should last at least 10 ms.

    Returns:
        The timing of each contestant under its name.

    Raises:
        ValueError: repeats is not positive.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def matmul_gflops(
    dtype: torch.dtype = torch.float32, size: int = 2048, *, device: str = "cpu", repeats: int = 10
) -> float:
    """Rate of plain square matrix products, 2 size³ operations each, the median of the repeats [GFLOP/s].

    The denominator for achieved rates: what the same torch with the same threads does on this machine when nothing
    but arithmetic counts.
    """
    a, b = torch.randn(2, size, size, dtype=dtype, device=device).unbind()
    out = torch.empty_like(a)
    flops = 2 * size**3
    products = max(1, round(4e9 / flops))  # a call of a few ten milliseconds on two cores

    def multiply() -> None:
        for _ in range(products):
            torch.mm(a, b, out=out)
        if a.is_cuda:
            torch.cuda.synchronize(a.device)

    return 1e-9 * flops * products / interleave(repeats, multiply=multiply)["multiply"].median


def machine() -> dict[str, Any]:
    """The hardware, versions and commit that a result belongs to; nothing that names the host."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONED},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # parts of a benchmark may run where not everything is installed
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str | None:
    """The commit of the working tree, marked when tracked files differ from it; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"],
            cwd=HERE,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:  # no git
        return None
    return described.stdout.strip() or None


def peer_environment(name: str) -> Path:
    """The Python of ``.venv-peers/<name>``, created on first use from ``benchmarks/peers/<name>.txt`` (pip requirements).

    Peers have environments of their own because their requirements conflict with ours and with each other's.
    """
    requirements = HERE / "peers" / f"{name}.txt"
    folder = HERE.parent / ".venv-peers" / name
    python, installed = folder / "bin" / "python", folder / "requirements.txt"
    if not (installed.exists() and installed.read_text() == requirements.read_text()):
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        installed.write_text(requirements.read_text())
    return python


class Peer:
    """Another library at work in its own process: one JSON line in, one JSON line out, for as long as it is open.

    Args:
        script: reads one request per line of standard input and answers each with one flushed line on standard output.
        python: the interpreter that runs it, usually :func:`peer_environment`.
    """

    def __init__(self, script: Path, python: Path = Path(sys.executable)):
        self.script, self.python = script, python

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [self.python, self.script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.communicate()

    def ask(self, **request: Any) -> Any:
        """Send one request and wait for its answer.

        Raises:
            RuntimeError: the process ended instead of answering; its own message is on standard error.
        """
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            asked = textwrap.shorten(str(request), 200, placeholder=" ...")
            raise RuntimeError(
                f"{self.script.name} ended with status {self.process.wait()} instead of answering {asked}"
            )
        return json.loads(answer)
