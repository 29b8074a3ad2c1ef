"""What commands share: run folders, and no option that is ignored."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import mbrl


def new_folder(command: str, suffix: str = "") -> Path:
    """A new folder by default, named after the command and the time; commands that start together get one each."""
    name = f"{command}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, number = Path("runs") / f"{name}{suffix}", 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{name}-{number}{suffix}")
        else:
            return folder


def asked(command: str, options: Any) -> dict[str, Any]:
    """What goes into ``config.json``: everything but the place of the run, so that it can be moved and still go on."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {"command": command, **{name: value for name, value in fields.items() if name != "run"}}


def refuse(options: Any, names: Sequence[str], why: str) -> None:
    """Raise ValueError for options that are not at their defaults and would be ignored."""
    for field in dataclasses.fields(options):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in names and getattr(options, field.name) != default:
            raise ValueError(f"--{field.name.replace('_', '-')} would be ignored: {why}")


@contextmanager
def opened_run(command: str, options: Any) -> Iterator[mbrl.Run]:
    """The run folder of a command, new or to go on in; ``options.run`` is None for one with a name by default.

    Raises:
        KeyboardInterrupt: Ctrl-C, with the folder as its argument.
    """
    with kept_folder(command, options.run) as folder:
        yield mbrl.open_run(folder, config=asked(command, options))


@contextmanager
def kept_folder(command: str, folder: Path | None, suffix: str = "") -> Iterator[Path]:
    """A folder for a run, that one or one with a name by default, which ends with the suffix.

    Where the command fails before it has left anything there, a new folder is taken away again: what was asked for cannot be
    done, and must not stand in the way of what is asked for next.

    Raises:
        KeyboardInterrupt: Ctrl-C, with the folder as its argument.
    """
    new = folder is None or not folder.exists()
    above = Path("runs") if folder is None else folder.parent
    first = not above.exists()
    folder = new_folder(command, suffix) if folder is None else folder
    try:
        yield folder
    except KeyboardInterrupt:
        raise KeyboardInterrupt(folder) from None
    except Exception:
        records = [folder / name for name in ("config.json", "system.json", "legend.json")]
        if new and folder.exists() and set(folder.iterdir()) <= set(records):
            for record in records:
                record.unlink(missing_ok=True)
            folder.rmdir()
        if first and above.exists() and not any(above.iterdir()):
            above.rmdir()
        raise
