"""What commands that write run folders share."""

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any


def new_folder(command: str) -> Path:
    """A run folder by default, named after the command and the time."""
    return Path("runs") / f"{command}-{datetime.now():%Y%m%d-%H%M%S}"


def asked(command: str, options: Any) -> dict[str, Any]:
    """What goes into ``config.json``: everything but the place of the run, so that it can be moved and still go on."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {"command": command, **{name: value for name, value in fields.items() if name != "run"}}
