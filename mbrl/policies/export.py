r"""Policies as self-contained functions, for programs that do not have this library.

.. math:: u_t, h_t = f(y_t, h_{t-1}), \qquad u_t = \text{controls}(\operatorname{mode} \pi_\theta(\cdot \mid z_t, h_{t-1}))

Normalizer, scaling and clamping are inside; nothing is drawn.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mbrl.policies.policy import Policy
from mbrl.runs.files import replace_file

FORMAT = "mbrl-control policy function 1"


def export_policy(policy: Policy, path: str | Path, *, format: Literal["torch", "onnx"] = "torch") -> Path:
    """Write what a policy does deterministically as a function that needs this library no more.

    Its input ``observations`` ``(batch, ny)`` and output ``controls`` ``(batch, m)`` are of the networks' dtype, for any batch
    of at least one. A recurrent policy has the input ``hidden`` ``(batch, h)`` too, zero at the start of an episode, and the
    output ``next_hidden``. What is needed to use it lies in the file as JSON, named ``"mbrl"``: sizes, dtype, and names and
    units of the columns where they are known.

    Args:
        policy: the policy.
        path: the file, by convention ``.pt2`` or ``.onnx``; an existing file is replaced.
        format: ``"torch"`` for a program that ``torch.export.load(path).module()`` makes a function again, ``"onnx"`` for ONNX
            runtimes, which takes the extra ``onnx``.

    Returns:
        The path.

    Raises:
        TypeError: it is no policy.
        ValueError: there is no such format.
        ModuleNotFoundError: the extra ``onnx`` is not installed.
    """
    if not isinstance(policy, Policy):
        raise TypeError(f"export_policy takes a mbrl.Policy, got {type(policy).__name__}")
    if format not in ("torch", "onnx"):
        raise ValueError(f"format must be 'torch' or 'onnx', got {format!r}")
    program = _program(policy)
    description = json.dumps(_description(policy), sort_keys=True)
    content = _torch_file(program, description) if format == "torch" else _onnx_file(program, description)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda partial: partial.write_bytes(content))
    return path


class _ControlFunction(nn.Module):
    """Observations, and what is remembered, to controls, and what is remembered next."""

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = policy

    def forward(self, observations: Tensor, hidden: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        policy = self.policy
        before = observations.new_zeros(observations.shape[0], 0) if hidden is None else hidden
        distribution, following = policy.step(policy.inputs(observations), before)
        controls = policy.controls(distribution.mode(), observations)
        return controls if hidden is None else (controls, following)


@torch.no_grad()
def _program(policy: Policy) -> torch.export.ExportedProgram:
    """The function of a copy of the policy on the CPU, for any batch."""
    policy = copy.deepcopy(policy).cpu().requires_grad_(False)
    batch = 2  # torch makes a constant of a size that is 0 or 1
    inputs = [torch.zeros(batch, policy.observation_dim, dtype=policy.dtype)]
    if policy.body.hidden_dim:
        inputs.append(policy.initial_hidden(batch))
    size = torch.export.Dim("batch", min=1)
    shapes = tuple({0: size} for _ in inputs)
    with _quiet():
        return torch.export.export(_ControlFunction(policy).eval(), tuple(inputs), dynamic_shapes=shapes, strict=False)


def _description(policy: Policy) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "observation_dim": policy.observation_dim,
        "control_dim": policy.actions.control_dim,
        "hidden_dim": policy.body.hidden_dim,
        "dtype": str(policy.dtype).removeprefix("torch."),
        "names": policy.names,
        "units": policy.units,
    }


def _torch_file(program: torch.export.ExportedProgram, description: str) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={"mbrl": description})
    return buffer.getvalue()


def _onnx_file(program: torch.export.ExportedProgram, description: str) -> bytes:
    try:
        import onnx  # noqa: F401 (torch needs both)
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'export to ONNX takes the extra "onnx" ({error}): pip install "mbrl-control[onnx]"', name=error.name
        ) from error
    recurrent = len(program.graph_signature.user_inputs) > 1
    inputs, outputs = ["observations"], ["controls"]
    if recurrent:
        inputs, outputs = [*inputs, "hidden"], [*outputs, "next_hidden"]
    with _quiet():
        found = torch.onnx.export(
            program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False, external_data=False
        )
    if found is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = found.model_proto
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # shapes in between, which say the name that torch made up, and are found anew
    model.metadata_props.add(key="mbrl", value=description)
    return model.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about itself: a deprecated call of its own, and that torchvision is not there."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
