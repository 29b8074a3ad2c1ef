"""Look for gaps, jitter, missing and repeated values, constant columns and clipped controls in logs.

    mbrl audit my_logs-v0
    mbrl audit runs/*.csv --time t --observations angle speed --controls torque --control-lower -2 --control-upper 2
    mbrl audit "car/run_*" --files observations=states.csv controls=inputs.csv times=time.csv --out audit.html

Nothing is changed, and a finding is a reason to look, not always a fault.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from dynamics import audit
from mbrl.cli.logs import Reading


@dataclass(frozen=True)
class Options:
    """Options of ``mbrl audit``."""

    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH [PATH ...]", help_behavior_hint="(required)")
    ]
    """Logs: files, folders, Minari datasets or patterns in quotes."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    control_lower: tuple[float, ...] = ()
    """Lower limit of the controls, one for all or one each."""
    control_upper: tuple[float, ...] = ()
    """Upper limit of the controls."""
    out: Path | None = None
    """HTML page to write as well, with the findings and the logs over time."""


def run(options: Options) -> None:
    """Read, audit, print."""
    if bool(options.control_lower) != bool(options.control_upper):
        raise ValueError("control limits are two: give both --control-lower and --control-upper")
    logs = options.reading.raw(options.paths)
    limits = (options.control_lower, options.control_upper) if options.control_lower else None
    report = audit(logs, control_limits=limits)
    sys.stdout.write(f"{report}\n")
    if options.out is not None:
        from mbrl.plots import audit_sections, html_report

        html_report(options.out, f"Audit of {len(logs)} logs", audit_sections(logs, report))
        sys.stdout.write(f"report: {options.out}\n")
