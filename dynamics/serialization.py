"""Learned models as files: tensors in safetensors, the configuration as JSON in its header; nothing is executed on loading."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor

from dynamics import learned
from dynamics.learned.base import LearnedDynamics

FORMAT = "mbrl-control model 1"


def save(model: LearnedDynamics, path: str | Path) -> Path:
    """Write a model to one file, whole or not at all.

    Args:
        model: a fitted model.
        path: the file, by convention ``*.safetensors``; an existing file is replaced.

    Returns:
        The path.

    Raises:
        TypeError: the model is not a learned one.
        RuntimeError: it has not been fitted.
    """
    if not isinstance(model, LearnedDynamics):
        raise TypeError(f"save takes a learned model, got {type(model).__name__}, which is its code and parameters")
    model.check_fitted()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "class": type(model).__name__, "config": json.dumps(model.config())}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(path, tensors, metadata)
    return path


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file with texts in its header, whole or not at all; equal ones are equal files."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(_with_sorted_header(serialized(tensors, metadata)))  # with the permissions of any new file
    os.replace(partial, path)


def read_tensors(path: Path, expected: str, writer: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and texts of a file of :func:`write_tensors`.

    Args:
        path: the file.
        expected: what its ``"format"`` must say.
        writer: what writes such files, for the message.

    Raises:
        ValueError: it is no safetensors file, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); was it cut short?") from error
    if metadata.get("format") != expected:
        raise ValueError(f"{path} has format {metadata.get('format')!r}, expected {expected!r}; write {writer}")
    return tensors, metadata


def _with_sorted_header(content: bytes) -> bytes:
    """The same file with its header in order: safetensors shuffles the metadata, and equal models shall be equal files."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + content[end:]


def load(path: str | Path) -> LearnedDynamics:
    """Read a model written by :func:`save`; its predictions are those of the saved one, bit for bit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a model, or of a kind this version does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model at {path}; models are written by dynamics.save(model, path)")
    tensors, metadata = read_tensors(path, FORMAT, "models with dynamics.save")
    name = metadata.get("class")
    if name not in learned.__all__:
        raise ValueError(f"{path} holds a {name!r}; this version knows {', '.join(learned.__all__)}")
    try:
        model = getattr(learned, name)(**json.loads(metadata["config"]))
        model.load_state_dict(tensors, assign=True)  # as they are, whatever their dtype
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not describe a {name} of this version: {error}") from error
    return model
