r"""Policies that are libraries of locally optimal trajectories.

.. math:: u(x) = \operatorname{clip}\bigl(u_i + K_i (x \ominus x_i)\bigr), \qquad
    i = \arg\min_{i \,:\, |t_i - t| \le w} \bigl\| S^{-1} (x \ominus x_i) \bigr\|

The nearest point of all trajectories says what to do (Atkeson and Morimoto 2003; Atkeson and Stephens 2008): with the window
:math:`w`, of those points alone that stand at nearly the same step of an episode. Differences of angles are taken the short way
round. The scale :math:`S` is diagonal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from dynamics.learned.base import wrap
from mbrl.policies.action_space import ContinuousActions, action_space
from mbrl.policies.learned_actor import LearnedActor, task_actions
from mbrl.tasks.base import Task
from planners import LinearGaussianController

CHUNK = 2**22
"""Largest number of distances at a time."""


@dataclass(frozen=True)
class LibraryMemory:
    """Where a library stands in a batch of episodes.

    Attributes:
        step: number of controls given so far.
    """

    step: int


class TrajectoryLibrary(LearnedActor):
    """The controls and gains of N points on trajectories, of which the nearest one acts; more points make another library.

    Args:
        states: of the points, ``(N, n)``.
        controls: ``(N, m)``.
        gains: ``(N, m, n)``.
        steps: of an episode, at which the points stand, integers ``(N,)``; needed by a window.
        actions: the control limits.
        angles: indices of the states that are angles [rad].
        scale: of each state in the metric, ``(n,)``; by default their spread over the points, 1 for those that do not vary.
        window: the nearest point is at most so many steps ahead or behind, or among the nearest in time where there is none; None
            to take it from all of them.

    Raises:
        ValueError: shapes do not fit, a number is not finite, a scale is not positive, or there is a window without steps.
    """

    actions: ContinuousActions
    states: Tensor
    controls: Tensor
    gains: Tensor
    steps: Tensor
    scale: Tensor

    def __init__(
        self,
        states: Tensor,
        controls: Tensor,
        gains: Tensor,
        steps: Tensor | None = None,
        *,
        actions: ContinuousActions,
        angles: tuple[int, ...] = (),
        scale: Tensor | None = None,
        window: int | None = None,
    ):
        super().__init__(actions)
        self.angles, self.window, self.own_scale = tuple(angles), window, scale is not None
        if window is not None and (steps is None or window < 0):
            raise ValueError(
                f"a window takes the steps of the points and is not negative, got {window} and steps={steps}"
            )
        steps = torch.zeros(len(states), dtype=torch.int64, device=states.device) if steps is None else steps
        _check_points(states, controls, gains, steps, actions.control_dim)
        n = states.shape[-1]
        if any(not 0 <= i < n for i in self.angles):
            raise ValueError(f"angles must be state indices in 0..{n - 1}, got {self.angles}")
        scale = _spread(states, self.angles) if scale is None else scale.to(states)
        if scale.shape != (n,) or not bool(((scale > 0) & scale.isfinite()).all()):
            raise ValueError(f"scale must be {n} positive numbers, one for each state, got {scale.tolist()}")
        points = {"states": states, "controls": controls, "gains": gains, "steps": steps, "scale": scale}
        for name, tensor in points.items():
            self.register_buffer(name, tensor.detach().clone())

    @classmethod
    def for_task(
        cls,
        task: Task,
        *controllers: LinearGaussianController,
        scale: Tensor | None = None,
        window: int | None = None,
    ) -> Self:
        """The points of controllers on a task, ``planners.solve(...).controller()``; without one, a library to add them to.

        Args:
            task: what they are for.
            controllers: of plans from one state or from a batch of them.
            scale: of each state in the metric, ``(n,)``.
            window: of steps.

        Raises:
            ValueError: the task lists its controls, or its states lie on a manifold that is no product of lines and circles.
        """
        plant, actions = task.dynamics, task_actions(task)
        n, m = plant.state_dim, plant.control_dim
        if plant.tangent_dim != n:
            raise ValueError(
                f"a library compares states that are numbers and angles; those of task {task.name} have a tangent space of "
                f"dimension {plant.tangent_dim}, not {n}, such as that of a quaternion"
            )
        if not isinstance(actions, ContinuousActions):
            raise ValueError(f"a library has continuous controls, task {task.name} lists its control_values")
        library = cls(
            torch.zeros(0, n, dtype=torch.float64),
            torch.zeros(0, m, dtype=torch.float64),
            torch.zeros(0, m, n, dtype=torch.float64),
            torch.zeros(0, dtype=torch.int64),
            actions=actions,
            angles=plant.angles,
            scale=scale,
            window=window,
        )
        library.describe(task)
        for controller in controllers:
            library = library.joined(*controller_points(controller))
        return library

    def with_points(self, states: Tensor, controls: Tensor, gains: Tensor, steps: Tensor) -> Self:
        """A library of other points with the same metric, limits and names."""
        scale = self.scale if self.own_scale else None
        library = type(self)(
            states,
            controls,
            gains,
            steps,
            actions=self.actions,
            angles=self.angles,
            scale=scale,
            window=self.window,
        )
        library.names, library.units = self.names, self.units
        return library

    def joined(self, states: Tensor, controls: Tensor, gains: Tensor, steps: Tensor) -> Self:
        """A library of these and more points."""
        more = (states, controls, gains, steps)
        return self.with_points(*(torch.cat([a, b.to(a)]) for a, b in zip(self.points, more, strict=True)))

    @property
    def points(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States, controls, gains and steps."""
        return self.states, self.controls, self.gains, self.steps

    def __len__(self) -> int:
        """Number of points."""
        return len(self.states)

    @property
    def acts_on(self) -> str:
        """``"state"``."""
        return "state"

    @property
    def seen_dim(self) -> int:
        """Number of states."""
        return self.states.shape[-1]

    def init(self, batch: int = 1, *, generator: torch.Generator | None = None) -> LibraryMemory:
        """Memory at the start of a batch of episodes; nothing is drawn."""
        return LibraryMemory(0)

    def act(self, y: Tensor, memory: LibraryMemory, *, deterministic: bool = True) -> tuple[Tensor, LibraryMemory]:
        """Controls ``(*batch, m)`` at states ``(*batch, n)`` in their dtype, and the next memory."""
        return self.controls_at(y, memory.step), LibraryMemory(memory.step + 1)

    @torch.no_grad()
    def controls_at(self, x: Tensor, step: int = 0) -> Tensor:
        """Controls ``(*batch, m)`` at states ``(*batch, n)`` and a step of the episode, in the states' dtype.

        Raises:
            ValueError: see :meth:`nearest`.
        """
        index, _ = self.nearest(x, step)
        dx = wrap(x.to(self.states) - self.states[index], self.angles)
        u = self.controls[index] + (self.gains[index] * dx.unsqueeze(-2)).sum(-1)
        lower, upper = (limit.to(x) for limit in self.actions.bounds())
        return torch.minimum(torch.maximum(u.to(x), lower), upper)

    @torch.no_grad()
    def nearest(self, x: Tensor, step: int = 0) -> tuple[Tensor, Tensor]:
        """Which points are nearest to states ``(*batch, n)``: indices ``(*batch,)`` and scaled distances ``(*batch,)``.

        Raises:
            ValueError: there are no points, or the states are of another dimension.
        """
        n = self.seen_dim
        if x.shape[-1:] != (n,):
            raise ValueError(f"the library has {n} states, got {tuple(x.shape)}")
        if not len(self):
            raise ValueError("the library is empty: it has to be given trajectories, for instance by mbrl.TrajectoryDP")
        eligible = torch.arange(len(self), device=self.states.device)
        if self.window is not None:
            away = (self.steps - step).abs()
            eligible = eligible[away <= max(self.window, int(away.min()))]
        states, rows = self.states[eligible], x.to(self.states).reshape(-1, n)
        found = [self._squares(part, states).min(-1) for part in rows.split(max(CHUNK // len(states), 1))]
        index = torch.cat([f.indices for f in found]) if found else eligible[:0]
        square = torch.cat([f.values for f in found]) if found else states.new_zeros(0)
        return eligible[index].reshape(x.shape[:-1]), square.sqrt().reshape(x.shape[:-1])

    def _squares(self, x: Tensor, states: Tensor) -> Tensor:
        """Squared distances ``(B, N)``, added up state by state, so that they do not depend on the batch."""
        total = x.new_zeros(len(x), len(states))
        for i in range(self.seen_dim):
            d = x[:, None, i] - states[:, i]
            if i in self.angles:
                d = wrap(d.unsqueeze(-1), (0,)).squeeze(-1)
            total += (d / self.scale[i]).square()
        return total

    def config(self) -> dict[str, Any]:
        """JSON values from which :func:`mbrl.load_policy` makes the library again, without its points."""
        return {
            "actions": self.actions.config(),
            "angles": list(self.angles),
            "window": self.window,
            "own_scale": self.own_scale,
        }

    @classmethod
    def restored(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The library of a :meth:`config` and points."""
        actions = action_space(config["actions"])
        if not isinstance(actions, ContinuousActions):
            raise ValueError(f"a library has continuous controls, got {config['actions']}")
        library = cls(
            *(tensors[name] for name in ("states", "controls", "gains", "steps")),
            actions=actions,
            angles=tuple(config["angles"]),
            scale=tensors["scale"],
            window=config["window"],
        )
        library.own_scale = config["own_scale"]
        return library


def controller_points(controller: LinearGaussianController) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The points of controllers, ``(N, ...)``: states, controls, gains and steps; those after the last control are left out."""
    us = controller.us
    steps = torch.arange(us.shape[-2], device=us.device) + controller.t0
    K = controller.K.expand(*us.shape, -1)
    return (
        controller.xs[..., :-1, :].flatten(0, -2),
        us.flatten(0, -2),
        K.flatten(0, -3),
        steps.expand(us.shape[:-1]).flatten(),
    )


def _check_points(states: Tensor, controls: Tensor, gains: Tensor, steps: Tensor, m: int) -> None:
    if states.ndim != 2:
        raise ValueError(f"states must be (N, n), got {tuple(states.shape)}")
    N, n = states.shape
    shapes = tuple(tuple(v.shape) for v in (controls, gains, steps))
    if shapes != ((N, m), (N, m, n), (N,)):
        raise ValueError(
            f"{N} points of {n} states take controls, gains and steps ({N}, {m}), ({N}, {m}, {n}) and ({N},), "
            f"got {', '.join(map(str, shapes))}"
        )
    if steps.is_floating_point():
        raise ValueError(f"steps must be integers, got {steps.dtype}")
    broken = [
        k for k, v in (("states", states), ("controls", controls), ("gains", gains)) if not bool(v.isfinite().all())
    ]
    if broken:
        raise ValueError(f"points of a library must be finite, and some {' and '.join(broken)} are not")


def _spread(states: Tensor, angles: tuple[int, ...]) -> Tensor:
    """Root mean square deviation of states ``(N, n)`` from their mean, that of angles on the circle; 1 where there is none."""
    if not len(states):
        return states.new_ones(states.shape[-1])
    center, columns = states.mean(0), list(angles)
    center[columns] = torch.atan2(states[:, columns].sin().mean(0), states[:, columns].cos().mean(0))
    spread = wrap(states - center, angles).square().mean(0).sqrt()
    return torch.where(spread > 1e-9 * states.abs().amax(0), spread, 1.0)
