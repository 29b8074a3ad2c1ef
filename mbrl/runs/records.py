"""What a run was asked to do and where it ran, as JSON values."""

import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

DISTRIBUTIONS = ("mbrl-control", "torch", "mujoco", "numpy", "gymnasium")


def json_values(place: str, value: Any) -> Any:
    """Nested JSON values of a config or result.

    Dataclasses become objects with their class's name under ``"class"``, which no field can be called; tensors and arrays
    become lists, and numbers that JSON does not have become the strings ``"inf"``, ``"-inf"`` and ``"nan"``.

    Args:
        place: what the value is called in errors.
        value: the value.

    Raises:
        TypeError: something has no JSON value.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **_object(place, fields)}
    if isinstance(value, Mapping):
        return _object(place, value)
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return json_values(place, value.tolist())
    if isinstance(value, list | tuple):
        return [json_values(f"{place}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Path | torch.dtype | torch.device):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{place} is a {type(value).__name__}, which has no JSON value; use numbers, strings, paths, tensors, and lists, "
        "mappings and dataclasses of them"
    )


def _object(place: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): json_values(f"{place}.{key}", item) for key, item in values.items()}


def fingerprint(value: Any) -> Any:
    """What can be said in JSON of anything, so that a run does not go on with another one.

    Dataclasses become their fields, modules a digest of their weights with the functions, fractions, tuples and modules that they
    hold, large arrays digests, functions their names, and :class:`functools.partial` the function and its arguments; of any other
    object only the class is said. Closures and lambdas of one place in the code have one name: what they hold cannot be told
    apart.
    """
    if isinstance(value, torch.nn.Module):
        attributes = {name: item for name, item in vars(value).items() if not name.startswith("_")}
        settings = functools.partial, float, tuple  # nothing that depends on the machine, such as a number of threads
        held = {n: v for n, v in attributes.items() if hasattr(v, "__qualname__") or isinstance(v, settings)}
        return {
            **{name: fingerprint(item) for name, item in (held | dict(value.named_children())).items()},
            "class": type(value).__name__,
            "weights": digest(t.cpu() for t in value.state_dict().values()),  # all, of a child called weights too
        }
    if isinstance(value, torch.Tensor | np.ndarray):
        if math.prod(value.shape) <= 64:
            return json_values("value", value)
        return digest([value.detach().cpu() if isinstance(value, torch.Tensor) else value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: fingerprint(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, functools.partial):
        function, args, kwargs = (fingerprint(part) for part in (value.func, value.args, value.keywords))
        return {"function": function, "args": args, "kwargs": kwargs}
    if isinstance(value, list | tuple):
        return [fingerprint(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): fingerprint(item) for key, item in value.items()}
    if callable(value) and hasattr(value, "__qualname__"):
        return qualified_name(value)
    try:
        return json_values("value", value)
    except TypeError:
        return {"class": type(value).__name__}


def qualified_name(value: Any) -> str:
    """Module and name of a function or class."""
    return f"{value.__module__}:{value.__qualname__}"


def digest(arrays: Iterable[Any]) -> str:
    """A short text that is another one for other arrays or tensors: what stands for data and weights in a config."""
    found = hashlib.sha256()
    for array in map(np.asarray, arrays):
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:16]


def differences(before: Any, now: Any) -> list[tuple[str, str, str]]:
    """Keys of two JSON values that differ, dotted, with the value on either side."""
    left, right = dict(leaves(before)), dict(leaves(now))
    return [
        (key, left.get(key, "missing"), right.get(key, "missing"))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def told_differences(before: Any, now: Any) -> str:
    """The differences of two configs in words, empty where there is none."""
    found = differences(before, now)
    commands = [one for one in found if one[0] == "command"]  # another one differs in everything else, too
    return "; ".join(f"{key} was {there}, now {now}" for key, there, now in commands or found)


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys of a JSON value and what is there, as Python writes it."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{place}.{key}" if place else key)
    else:
        yield place, repr(value)


def system_record() -> dict[str, Any]:
    """Machine, versions, commit, command line and time of this process."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "folder": os.getcwd(),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout that the process was started in, with "+" if it has changes; None outside of one."""
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() if git.returncode == 0 else None
