"""The demo for seeds 0 to 4: does the pole stand, how far ahead the model predicts, compute [s], planning rate [Hz]."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo.py"


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per seed, each a process of its own as a user would start it, and a row with the totals."""
    rows = [_row(seed) for seed in range(1 if quick else 5)]
    rows.append(
        {
            "seed": "all",
            "upright": sum(row["upright"] for row in rows),
            "aim": 1 if quick else 4,
            "ratio to ridge, k=25": min(row["ratio to ridge, k=25"] for row in rows),
            "seconds": max(row["seconds"] for row in rows),
            "planning rate": min(row["planning rate"] for row in rows),
        }
    )
    return rows


def _row(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, DEMO, "--seed", str(seed), "--run", run], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if not (run / "summary.json").exists():
            raise RuntimeError(f"the demo failed for seed {seed}:\n{done.stderr}")
        summary = json.loads((run / "summary.json").read_text())
    fit = summary["fit"]
    row = fit["horizons"].index(25)
    return {
        "seed": seed,
        "upright": int(summary["upright"]),
        "aim": 1,
        "ratio to ridge, k=25": summary["ratio_to_ridge"],
        "error, k=25": fit["errors"]["model"]["median"][row],
        "90 % coverage, k=25": fit["errors"]["model"]["coverage"][1][row],
        "seconds": seconds,
        "planning rate": summary["rate_hz"],
    }
