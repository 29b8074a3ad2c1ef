"""Put one run or many on one self-contained page: learning curves with seeds together, results, settings, pictures, videos.

    mbrl report runs/ensemble
    mbrl report runs/seed0 runs/seed1 runs/ridge --out three.html
    mbrl report runs

A folder of run folders stands for all of them. Runs that are not finished are shown as far as they came.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import mbrl


@dataclass(frozen=True)
class Options:
    """Options of ``mbrl report``."""

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ]
    """Run folders, or folders of them."""
    out: Path = Path("comparison.html")
    """The page."""
    title: str | None = None
    """Heading of the page."""


def run(options: Options) -> None:
    """Read the runs, write the page, and say what had to be left out."""
    from mbrl.plots import html_report, run_sections

    if options.out.name == "report.html" and (options.out.parent / "config.json").exists():
        raise FileExistsError(f"--out {options.out} is the page that the run itself leaves; choose another name")
    folders = dict.fromkeys(folder for path in options.runs for folder in mbrl.find_runs(path))
    records = [mbrl.read_run(folder) for folder in folders]
    sections, problems = run_sections(records)
    for problem in problems:
        sys.stderr.write(f"mbrl report: {problem}\n")
    title = options.title or (f"Run {records[0].name}" if len(records) == 1 else f"{len(records)} runs")
    html_report(options.out, title, sections)
    sys.stdout.write(f"report on {len(records)} run{'s' if len(records) > 1 else ''}: {options.out}\n")
