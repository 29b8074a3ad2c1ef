"""A task: what shall be achieved, on which plant, from where. It holds the truth; planners are handed a model of it."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Self

import torch
from torch import Tensor

from dynamics import Dynamics
from dynamics.base import is_numbered
from planners import Cost, Problem


@dataclass(frozen=True, eq=False)
class Task:
    """A control task.

    Attributes:
        name: as in the gymnasium id ``mbrl/<name>-v0``.
        dynamics: the plant.
        cost: what to minimize; its negative is the reward.
        control_limits: (lower, upper), numbers or ``(m,)``, finite.
        initial_state: ``fn(batch, generator) -> (batch, n)``, the initial distribution, float64.
        horizon: planning horizon by default [steps].
        episode_steps: steps after which an episode is truncated.
        observation: ``fn(x) -> y``, what a policy sees; ``dynamics.observe`` by default.
        termination: ``fn(x) -> (*batch,)`` of bool; ends an episode.
        termination_cost: charged once on termination.
        discount: of the planner's problem.
        success: ``fn(xs) -> (*batch,)`` of bool for state sequences ``(*batch, T+1, n)``.
        state_units: one unit per state.
        control_units: one unit per control.
        observation_names: one name per observed column; by default those of the state where it is what is observed.
        system: the plant as a formula, which can be drawn without MuJoCo; ``dynamics`` by default.
        control_values: the only controls there are, ``(k, m)`` within the limits, see :func:`mbrl.discretized`; all within the
            limits by default.
        constraint_cost: ``fn(x, u) -> (*batch,)``, not negative: what a step costs that a constrained policy keeps below a limit
            in expectation. Environments report it as ``info["cost"]``; it is no part of the reward, and planners do not see it.

    Raises:
        ValueError: limits are not finite, inverted, or not m each, values are not within them, or a number of steps is not
            positive.
    """

    name: str
    dynamics: Dynamics
    cost: Cost
    control_limits: tuple[float | Tensor, float | Tensor]
    initial_state: Callable[[int, torch.Generator], Tensor]
    _: KW_ONLY
    horizon: int
    episode_steps: int
    observation: Callable[[Tensor], Tensor] | None = None
    termination: Callable[[Tensor], Tensor] | None = None
    termination_cost: float = 0.0
    discount: float = 1.0
    success: Callable[[Tensor], Tensor] | None = None
    state_units: Sequence[str] | None = None
    control_units: Sequence[str] | None = None
    observation_names: Sequence[str] | None = None
    system: Dynamics | None = None
    control_values: Tensor | None = None
    constraint_cost: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self):
        lower, upper = self.limits()
        if not bool((lower.isfinite() & upper.isfinite() & (lower < upper)).all()):
            raise ValueError(f"control_limits must be finite with lower < upper, got {self.control_limits}")
        if self.episode_steps < 1 or self.horizon < 1:
            raise ValueError(f"need episode_steps >= 1 and horizon >= 1, got {self.episode_steps} and {self.horizon}")
        if self.control_values is not None:
            self._check_control_values(self.control_values)

    def _check_control_values(self, values: Tensor) -> None:
        m, (lower, upper) = self.dynamics.control_dim, self.limits()
        if not isinstance(values, Tensor) or values.ndim != 2 or values.shape[0] < 1 or values.shape[1] != m:
            came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"control_values must be a tensor of shape (k, {m}), one row for each control, got {came}")
        if not bool(((values >= lower) & (values <= upper)).all()):
            raise ValueError(
                f"control_values must lie within the control_limits {self.control_limits}, got {values.tolist()}"
            )

    def limits(self) -> tuple[Tensor, Tensor]:
        """Lower and upper control limits, ``(m,)`` each, float64."""
        m = self.dynamics.control_dim
        lower, upper = (torch.as_tensor(limit, dtype=torch.float64) for limit in self.control_limits)
        if not all(limit.shape in ((), (1,), (m,)) for limit in (lower, upper)):
            raise ValueError(
                f"control_limits must be numbers or one for each of {m} controls, got {self.control_limits}"
            )
        return lower.expand(m), upper.expand(m)

    def admissible(self, u: Tensor) -> Tensor:
        """The nearest controls ``(*batch, m)`` that there are: within the limits, and among ``control_values``."""
        if self.control_values is None:
            return self._clamped(u)
        return self.control_values.to(u)[self.control_numbers(u)]

    def control_numbers(self, u: Tensor) -> Tensor:
        """Which of ``control_values``, int64 ``(*batch,)``, is nearest to controls ``(*batch, m)``, in units of the limits.

        Raises:
            ValueError: the task lists no controls.
        """
        if self.control_values is None:
            raise ValueError(f"task {self.name} lists no control_values; discretize it with mbrl.discretized")
        lower, upper = (limit.to(u) for limit in self.limits())
        distance = ((self._clamped(u).unsqueeze(-2) - self.control_values.to(u)) / (upper - lower)).square().sum(-1)
        return distance.argmin(-1)

    def _clamped(self, u: Tensor) -> Tensor:
        lower, upper = (limit.to(u) for limit in self.limits())
        return torch.minimum(torch.maximum(u, lower), upper)

    def observe(self, x: Tensor) -> Tensor:
        """What a policy sees of states ``(*batch, n)``."""
        return self.dynamics.observe(x) if self.observation is None else self.observation(x)

    def reward(self, x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        """Minus the cost of a step, ``(*batch,)``, the termination cost included."""
        cost = self.cost.transition(x, u, x_next, t)
        if self.termination is not None and self.termination_cost:
            cost = cost + self.termination_cost * self.termination(x_next).to(cost)
        return -cost

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns of a trajectory, for :class:`dynamics.Trajectory`."""
        observed = self.dynamics.state_names if self._observes_state else None
        observed = observed if self.observation_names is None else self.observation_names
        return _given(states=self.dynamics.state_names, controls=self.dynamics.control_names, observations=observed)

    @property
    def units(self) -> dict[str, tuple[str, ...]]:
        """Units of the columns of a trajectory, for :class:`dynamics.Trajectory`."""
        observed = self.state_units if self._observes_state else None
        return _given(states=self.state_units, controls=self.control_units, observations=observed)

    @property
    def _observes_state(self) -> bool:
        return self.observation is None and type(self.dynamics).observe is Dynamics.observe

    def problem(self, dynamics: Dynamics | None = None, horizon: int | None = None) -> Problem:
        """What a planner sees of the task.

        Args:
            dynamics: a model of the plant, for instance a learned one; the plant itself by default.
            horizon: planning horizon [steps]; the task's by default.

        Raises:
            ValueError: the model's dimensions, dt or names differ from the plant's.
        """
        model = self.dynamics if dynamics is None else dynamics
        self._check_model(model)
        return Problem(
            model,
            self.cost,
            self.horizon if horizon is None else horizon,
            control_limits=self.control_limits,
            control_values=self.control_values,
            discount=self.discount,
            termination=self.termination,
            termination_cost=self.termination_cost,
        )

    def with_dynamics(self, model: Dynamics) -> Self:
        """This task on a model of its plant, for instance a learned one: what is observed, charged and drawn stays.

        Recordings and environments step with the model's ``forward``, for :class:`dynamics.StochasticDynamics` the mean of its
        prediction: equal seeds and actions give equal episodes, and noise and the disagreement of ensemble members are not seen.
        Planners are handed a model by :meth:`problem` and see both.

        Args:
            model: the model.

        Raises:
            ValueError: its dimensions, dt or names differ from the plant's.
        """
        self._check_model(model)
        plant = self.dynamics
        own_sensors = self.observation is None and not self._observes_state
        return replace(
            self,
            dynamics=model,
            observation=plant.observe if own_sensors else self.observation,
            system=plant if self.system is None else self.system,
        )

    def _check_model(self, model: Dynamics) -> None:
        plant = self.dynamics
        if (model.state_dim, model.control_dim) != (plant.state_dim, plant.control_dim):
            raise ValueError(
                f"task {self.name} has {plant.state_dim} states and {plant.control_dim} controls, the model "
                f"{model.state_dim} and {model.control_dim}; fit it to the task's full states"
            )
        if abs(model.dt - plant.dt) > 1e-6 * plant.dt:
            raise ValueError(f"task {self.name} has dt={plant.dt:g} s, the model {model.dt:g} s; resample its logs")
        for kind in ("state_names", "control_names"):
            expected, got = getattr(plant, kind), getattr(model, kind)
            if expected != got and not is_numbered(expected) and not is_numbered(got):
                raise ValueError(f"task {self.name} has {kind} {expected}, the model {got}; reorder the logs' columns")


def _given(**labels: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    return {group: tuple(texts) for group, texts in labels.items() if texts is not None}


def uniform_initial_state(lower: Sequence[float], upper: Sequence[float]) -> Callable[[int, torch.Generator], Tensor]:
    """An initial distribution that is uniform between two states.

    Args:
        lower: lower end of each state.
        upper: upper end of each state.

    Raises:
        ValueError: the ends are not finite, inverted or of different lengths.
    """
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in (lower, upper))
    if low.shape != high.shape or not bool((low.isfinite() & high.isfinite() & (low <= high)).all()):
        raise ValueError(f"need finite lower <= upper of equal length, got {list(lower)} and {list(upper)}")

    def sample(batch: int, generator: torch.Generator) -> Tensor:
        return low + (high - low) * torch.rand(batch, len(low), generator=generator, dtype=torch.float64)

    return sample
