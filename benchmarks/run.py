"""Run one benchmark: print its table and store its rows with a description of the machine.

python benchmarks/run.py [NAME] [--quick]
"""

import argparse
import ast
import importlib
import json
import time
from pathlib import Path
from typing import Any

from harness import machine
from rich.console import Console
from rich.markup import escape
from rich.table import Table

HERE = Path(__file__).resolve().parent
MACHINERY = {"run", "harness", "cells", "planned_imitation"}


def available() -> dict[str, str]:
    """The benchmarks in this folder: name, and the first line of the docstring."""
    files = sorted(path for path in HERE.glob("*.py") if path.stem not in MACHINERY)
    return {path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0] for path in files}


def show(title: str, rows: list[dict[str, Any]], console: Console) -> None:
    """Print rows as a table: one column per key, in the order in which keys first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if any(_is_number(row.get(column)) for row in rows) else "left")
    for row in rows:
        table.add_row(*(_text(row.get(column, "")) for column in columns))
    console.print(table)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def store(name: str, quick: bool, rows: list[dict[str, Any]], seconds: float) -> Path:
    """Write the result: full runs to ``results``, to be committed, quick ones to ``results/local``."""
    path = HERE / "results" / ("local" if quick else "") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": name, "quick": quick, "seconds": round(seconds, 1), "machine": machine(), "rows": rows}
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def main() -> None:
    """Command line."""
    benchmarks = available()
    parser = argparse.ArgumentParser(description="Run one benchmark; without a name, list them.")
    parser.add_argument("name", nargs="?", choices=benchmarks)
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer repeats, at most ten minutes")
    arguments = parser.parse_args()
    console = Console()
    if arguments.name is None:
        show("make bench BENCH=name", [{"name": name, "measures": line} for name, line in benchmarks.items()], console)
        return
    start = time.perf_counter()
    rows = importlib.import_module(arguments.name).main(arguments.quick)
    path = store(arguments.name, arguments.quick, rows, time.perf_counter() - start)
    show(benchmarks[arguments.name], rows, console)
    console.print(f"stored in {path.relative_to(HERE.parent)}", highlight=False)


if __name__ == "__main__":
    main()
