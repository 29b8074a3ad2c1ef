"""A task's plant that lives in the time of a clock, for control loops to be tried on."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from dynamics import Dynamics
from mbrl.tasks.base import Task


class SimulatedPlant:
    """The plant of a task, which goes on by itself as a clock does: what is late, is late.

    Its state changes at multiples of the dynamics' dt after the first reading; a control that is written in between counts
    from the next multiple on. Dynamics of a dt well below the period of the loop come closer to a real plant.

    Args:
        task: what is simulated.
        dynamics: simulates it, with the same states and controls; the task's by default. A copy is used, so that a planner
            that simulates on the same one does not make it wait.
        x0: state at the first reading ``(n,)``; a draw from the task by default.
        generator: source of that draw; seeded with 0 by default.
        measures: what a reading gives, ``"state"`` or the task's ``"observation"``.
        clock: returns the present time [s].

    Raises:
        ValueError: the dynamics or the state do not fit the task, or there is no such kind of measurement.
    """

    def __init__(
        self,
        task: Task,
        *,
        dynamics: Dynamics | None = None,
        x0: Tensor | Sequence[float] | None = None,
        generator: torch.Generator | None = None,
        measures: Literal["state", "observation"] = "state",
        clock: Callable[[], float] = time.perf_counter,
    ):
        if measures not in ("state", "observation"):
            raise ValueError(f"measures must be 'state' or 'observation', got {measures!r}")
        self.task, self.measures, self.clock = task, measures, clock
        self.dynamics = copy.deepcopy(task.dynamics if dynamics is None else dynamics)
        n, m = task.dynamics.state_dim, task.dynamics.control_dim
        if (self.dynamics.state_dim, self.dynamics.control_dim) != (n, m):
            raise ValueError(
                f"dynamics must have the task's {n} states and {m} controls, got {self.dynamics.state_dim} and "
                f"{self.dynamics.control_dim}"
            )
        if x0 is None:
            x0 = task.initial_state(1, generator or torch.Generator().manual_seed(0))[0]
        self.x = torch.as_tensor(x0, dtype=torch.float64).clone()
        if self.x.shape != (n,):
            raise ValueError(f"x0 must have shape ({n},), got {tuple(self.x.shape)}")
        self.u = torch.zeros(m, dtype=torch.float64)
        self._start: float | None = None
        self._steps = 0

    @property
    def names(self) -> Mapping[str, Sequence[str]]:
        """Names of the columns of a log."""
        return self._labels(self.task.names)

    @property
    def units(self) -> Mapping[str, Sequence[str]]:
        """Units of the columns of a log."""
        return self._labels(self.task.units)

    def _labels(self, labels: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        observed = labels.get("states" if self.measures == "state" else "observations", ())
        return {"observations": observed, "controls": labels.get("controls", ())}

    def read(self) -> Tensor:
        """The present state or observation."""
        self._go_on()
        return self.x.clone() if self.measures == "state" else self.task.observe(self.x)

    def write(self, u: Tensor) -> None:
        """Apply controls ``(m,)`` from now on, within the task's limits.

        Raises:
            ValueError: the shape is wrong or a value is not finite.
        """
        self._go_on()
        u = torch.as_tensor(u, dtype=torch.float64)
        if u.shape != self.u.shape or not bool(u.isfinite().all()):
            raise ValueError(f"a control must be finite and of shape {tuple(self.u.shape)}, got {u.tolist()}")
        lower, upper = self.task.limits()
        self.u = torch.minimum(torch.maximum(u, lower), upper)

    @torch.no_grad()
    def _go_on(self) -> None:
        """Simulate what has passed since the last time."""
        now = self.clock()
        if self._start is None:
            self._start = now
        steps = math.floor((now - self._start) / self.dynamics.dt + 1e-6) - self._steps
        if steps > 0:
            self.x = self.dynamics.rollout(self.x, self.u.expand(steps, -1), self._steps)[-1]
            self._steps += steps
