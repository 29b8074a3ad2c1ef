"""Sums over the processes of a training, each with worlds of its own; of one process, the numbers themselves.

A collective operation is entered by all processes or by none: whether one goes on, stops or takes another step must be decided
by numbers that are the same in all of them, such as sums over all. Sums are so to the last bit.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from mbrl.training.errors import TrainingError

PATIENCE = timedelta(hours=2)  # for others that collect, or for the first process, which evaluates

_GROUPS = itertools.count()  # made in this process, as many as in the others

P = ParamSpec("P")
R = TypeVar("R")


class Processes:
    """The processes that train together under ``torchrun``, or the only one.

    What is averaged over samples is a sum over all processes divided by a number that is summed too, so that any number of
    processes does what one would do with all the samples.

    Attributes:
        number: of processes.
        rank: number of this one; the first, 0, is the one that evaluates and writes.
    """

    def __init__(self) -> None:
        self.number, self.rank = 1, 0
        self._grouped = distributed.is_available() and distributed.is_initialized()
        if self._grouped:
            self.number, self.rank = distributed.get_world_size(), distributed.get_rank()
            backends = distributed.get_backend_config().split(",")  # such as "cpu:gloo,cuda:nccl"
            self._reachable = [backend.partition(":")[0] for backend in backends]

    @property
    def first(self) -> bool:
        """Whether this process is the one that evaluates and writes."""
        return self.rank == 0

    def device(self, wanted: torch.device) -> torch.device:
        """The wanted device; of several GPUs of one machine, the one that is this process's unless one is named."""
        if wanted.type != "cuda" or wanted.index is not None or not self._grouped:
            return wanted
        return torch.device("cuda", torch.cuda.current_device())

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes; not differentiable where there are several."""
        if not self._grouped:
            return values
        values = values.detach().clone()
        self.sum_into(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes; likewise."""
        return self.sum(values) / self.number

    def sum_into(self, values: Tensor) -> None:
        """Replace values, such as gradients, by their sum over the processes."""
        if not self._grouped:
            return
        sent = values if values.device.type in self._reachable else values.to(self._reachable[0])
        with _answering():
            distributed.all_reduce(sent)
        if sent is not values:
            values.copy_(sent)

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes in the first one, with tensors on the CPU; None in the others."""
        if not self._grouped:
            return [value]
        values = [None] * self.number if self.first else None
        with _answering():
            distributed.gather_object(_on_cpu(value), values)
        return values

    def scatter(self, values: list[Any] | None) -> Any:
        """One of the first process's values for each process; None where it has none."""
        if not self._grouped:
            return None if values is None else values[0]
        found = [None]
        if self.first and values is None:
            values = [None] * self.number
        with _answering():
            distributed.scatter_object_list(found, values)
        return found[0]

    def everywhere(self, value: Any) -> list[Any]:
        """The values of all processes, in all of them."""
        if not self._grouped:
            return [value]
        values = [None] * self.number
        with _answering():
            distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.sum(torch.zeros(()))


def together(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that takes a ``device`` run in all processes that ``torchrun`` has started, as one group.

    The group is made when the function is called and ended when it returns: gloo for tensors on the CPU, and NCCL for those on
    GPUs, where each process of a machine has one of its own. A group that is there already is used as it is; without torchrun
    there is none.
    """

    @functools.wraps(function)
    def grouped(*args: P.args, **kwargs: P.kwargs) -> R:
        with _group(torch.device(kwargs.get("device", "cpu"))):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return grouped


@contextmanager
def _group(device: torch.device) -> Iterator[None]:
    if not started_together(os.environ) or distributed.is_initialized():
        yield
        return
    cuda = device.type == "cuda"
    with torch.cuda.device(_own_gpu(device)) if cuda else nullcontext():
        with _answering():
            given = (os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
            store, rank, number = _store(*given)
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=PrefixStore(f"start {_start()} training {next(_GROUPS)}", store),
                rank=rank,
                world_size=number,
                timeout=PATIENCE,
            )
        try:
            yield
        finally:
            distributed.destroy_process_group()


def _start() -> str:
    """How often torchrun has started these processes again: it keeps its store, with the addresses of those that have died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


@functools.lru_cache
def _store(*given: str) -> tuple[Store, int, int]:
    """Where processes leave each other notes, rank and number; the same for all groups, each of which has a prefix of its own.

    Without it, the second training of a script would find the addresses of the first.
    """
    return next(iter(rendezvous("env://")))


def started_together(environment: Mapping[str, str]) -> bool:
    """Whether the environment is that of a process which torchrun, or something like it, has started as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys()


def is_first() -> bool:
    """Whether this process is the first of those that were started together, or the only one; known before they are a group."""
    return not started_together(os.environ) or os.environ["RANK"] == "0"


def _own_gpu(device: torch.device) -> int:
    if device.index is not None:
        return device.index
    own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= there:
        raise ValueError(
            f"every process needs a GPU of its own, and process {own} of this machine finds {there}; start no more processes "
            'than GPUs, or train with device="cpu"'
        )
    return own


@contextmanager
def _answering() -> Iterator[None]:
    """Say in plain words that another process does not answer."""
    try:
        yield
    except RuntimeError as error:  # gloo raises no class of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrainingError(
            "another process of this training has ended or does not answer, so this one ends, too; what went wrong is said "
            "there, if at all. A training with a run folder goes on after its last iteration when all its processes are started "
            f"again ({reason})"
        ) from error


def _on_cpu(value: Any) -> Any:
    """The value with its tensors on the CPU, each with a memory of its own, of which all would be sent.

    Those of a GPU would be put on the same one in the other process.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_on_cpu, value))
    return value
