"""What commands that write run folders share."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import mbrl


def new_folder(command: str) -> Path:
    """A run folder by default, named after the command and the time."""
    return Path("runs") / f"{command}-{datetime.now():%Y%m%d-%H%M%S}"


def asked(command: str, options: Any) -> dict[str, Any]:
    """What goes into ``config.json``: everything but the place of the run, so that it can be moved and still go on."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {"command": command, **{name: value for name, value in fields.items() if name != "run"}}


@contextmanager
def opened_run(command: str, options: Any) -> Iterator[mbrl.Run]:
    """The run folder of a command, new or to go on in.

    Where the command fails before it has left anything there, a new folder is taken away again: what was asked for cannot be
    done, and must not stand in the way of what is asked for next.
    """
    new = not options.run.exists()
    run = mbrl.open_run(options.run, config=asked(command, options))
    try:
        yield run
    except Exception:
        records = [run.folder / name for name in ("config.json", "system.json")]
        if new and set(run.folder.iterdir()) <= set(records):
            for record in records:
                record.unlink(missing_ok=True)
            run.folder.rmdir()
        raise
