r"""What all learned models share: normalized features of state and control in, normalized change of state out.

.. math::
    \phi(x, u) = \bigl(x_{\text{lin}}, \sin x_{\text{ang}}, \cos x_{\text{ang}}, u\bigr), \qquad
    x_{t+1} = x_t + \mu_\Delta + \sigma_\Delta \odot g\bigl((\phi - \mu_\phi) / \sigma_\phi\bigr)

Angles enter as sine and cosine, so a model learned over one turn holds for all. Their change is the short way round, so logs
may wrap. The statistics are buffers of the model, in float64; a constant dimension keeps scale 1 as an input and is predicted
to stay constant as a target.
"""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from dynamics.learned.settings import Training
from dynamics.stochastic import StochasticDynamics
from dynamics.trajectories import Trajectory, check_compatible, state_source

# A dimension whose spread is below this share of its magnitude is constant; what is left is round-off.
CONSTANT_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class TransitionData:
    """Steps to learn from: x ``(N, n)``, u ``(N, m)``, x_next ``(N, n)``, float64."""

    x: Tensor
    u: Tensor
    x_next: Tensor

    def __len__(self) -> int:
        return len(self.x)


class LearnedDynamics(StochasticDynamics):
    """Base of learned models.

    Args:
        state_dim: n.
        control_dim: m.
        dt: duration of one step [s].
        angles: indices of the states that are angles [rad].
        state_names: one name per state.
        control_names: one name per control.
    """

    _linear_index: Tensor
    _angle_index: Tensor
    input_mean: Tensor
    input_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor
    target_lower: Tensor
    target_upper: Tensor
    logged_lower: Tensor
    logged_upper: Tensor
    num_transitions: Tensor

    def __init__(
        self,
        state_dim: int,
        control_dim: int,
        dt: float,
        *,
        angles: Sequence[int] = (),
        state_names: Sequence[str] | None = None,
        control_names: Sequence[str] | None = None,
    ):
        super().__init__(
            state_dim, control_dim, dt, angles=angles, state_names=state_names, control_names=control_names
        )
        linear = [i for i in range(self.state_dim) if i not in self.angles]
        self.num_features = len(linear) + 2 * len(self.angles) + self.control_dim
        # Index tensors, because indexing by a list builds one at every call; they follow the model's device.
        self.register_buffer("_linear_index", torch.tensor(linear, dtype=torch.long), persistent=False)
        self.register_buffer("_angle_index", torch.tensor(self.angles, dtype=torch.long), persistent=False)
        statistics = {"input_mean": 0.0, "input_scale": 1.0}
        for name, value in statistics.items():
            self.register_buffer(name, torch.full((self.num_features,), value, dtype=torch.float64))
        targets = {"target_mean": 0.0, "target_scale": 1.0, "target_lower": 0.0, "target_upper": 0.0}
        for name, value in targets.items():
            self.register_buffer(name, torch.full((self.state_dim,), value, dtype=torch.float64))
        for name in ("logged_lower", "logged_upper"):
            self.register_buffer(name, torch.zeros(self.state_dim + self.control_dim, dtype=torch.float64))
        self.register_buffer("num_transitions", torch.zeros((), dtype=torch.long))

    @classmethod
    def for_trajectories(
        cls, trajectories: Sequence[Trajectory], *, angles: Sequence[str | int] = (), **options: Any
    ) -> Self:
        """A model with the dimensions, names and dt of logged trajectories.

        Args:
            trajectories: compatible trajectories; states are modelled where all have them, observations otherwise.
            angles: names or indices of the columns that are angles [rad].
            **options: further arguments of the class, such as ``members=7``.

        Raises:
            ValueError: the trajectories do not go together, none has a step, or a name in ``angles`` is unknown.
        """
        return cls(**arguments_for(trajectories, angles), **options)

    @abc.abstractmethod
    def learn(
        self,
        data: TransitionData,
        validation: TransitionData,
        *,
        training: Training | None,
        generator: torch.Generator,
        checkpoint: Path | None,
        on_validation: Callable[[dict[str, float]], object] | None,
        progress: bool | None,
    ) -> list[dict[str, float]]:
        """Fit in place, for :func:`dynamics.fit`, which splits the data and evaluates the result.

        Args:
            data: transitions to learn from.
            validation: transitions that may decide when to stop and what to keep.
            training: settings of gradient training, or None for the model's own.
            generator: source of randomness.
            checkpoint: file for exact resume, or None.
            on_validation: told of each record as it is made, of those in a checkpoint first; or None.
            progress: show a progress bar; None shows it on a terminal.

        Returns:
            One record per validation, with ``step``, ``loss`` and ``error``; none for a closed form.

        Raises:
            ValueError: settings or a checkpoint for a model that is fitted in closed form.
        """

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values, for :func:`dynamics.save`."""

    def _shared_config(self) -> dict[str, Any]:
        return {
            "state_dim": self.state_dim,
            "control_dim": self.control_dim,
            "dt": self.dt,
            "angles": list(self.angles),
            "state_names": list(self.state_names),
            "control_names": list(self.control_names),
        }

    @property
    def is_fitted(self) -> bool:
        """Whether the model has been fitted or loaded."""
        return int(self.num_transitions) > 0

    def check_fitted(self) -> None:
        """Raise RuntimeError if the model has not been fitted."""
        if not self.is_fitted:
            raise RuntimeError(
                f"this {type(self).__name__} has not been fitted; call fit(model, trajectories) or dynamics.load(path)"
            )

    # Features and targets

    def features(self, x: Tensor, u: Tensor) -> Tensor:
        """Normalized inputs ``(*batch, num_features)`` of states ``(*batch, n)`` and controls ``(*batch, m)``."""
        return (self._raw_features(x, u) - self.input_mean.to(x)) / self.input_scale.to(x)

    def targets(self, x: Tensor, x_next: Tensor) -> Tensor:
        """Normalized change of state, ``(*batch, n)``."""
        return (self.change(x, x_next) - self.target_mean.to(x)) / self.target_scale.to(x)

    def change(self, x: Tensor, x_next: Tensor) -> Tensor:
        """Change of state ``(*batch, n)``, angles the short way round."""
        return wrap(x_next - x, self.angles)

    def next_state(self, x: Tensor, normalized: Tensor, *, bounded: bool = False) -> Tensor:
        """X plus a predicted normalized change ``(..., n)``.

        Args:
            x: states ``(*batch, n)``.
            normalized: prediction in units of the logged changes.
            bounded: hold the change within the logged range widened by half of it on both sides. A network is free to predict
                anything far from its data and a rollout would run away with it; so its errors grow linearly at worst.
        """
        delta = self.target_mean.to(x) + self.target_scale.to(x) * normalized.to(x.dtype)
        if bounded:
            delta = torch.minimum(torch.maximum(delta, self.target_lower.to(x)), self.target_upper.to(x))
        return x + delta

    @property
    def changes(self) -> Tensor:
        """Which state dimensions changed at all in the data other than by a constant, ``(n,)``."""
        return self.target_upper > self.target_lower

    def outside_log(self, x: Tensor, u: Tensor, *, margin: float = 0.1) -> Tensor:
        """Whether states ``(*batch, n)`` and controls ``(*batch, m)`` leave the logged ranges, ``(*batch,)`` of bool.

        Args:
            x: states.
            u: controls.
            margin: tolerated excess, as a share of each range. Angles are not checked.
        """
        z = torch.cat([x, u], dim=-1)
        lower, upper = self.logged_lower.to(z), self.logged_upper.to(z)
        slack = margin * (upper - lower) + CONSTANT_TOLERANCE * (1.0 + torch.maximum(lower.abs(), upper.abs()))
        outside = (z < lower - slack) | (z > upper + slack) | z.isnan()
        outside[..., list(self.angles)] = False
        return outside.any(-1)

    def set_statistics(self, data: TransitionData) -> None:
        """Keep the statistics of the data a model is fitted to.

        Raises:
            ValueError: the numbers are so large that their statistics are not finite.
        """
        raw, delta = self._raw_features(data.x, data.u), self.change(data.x, data.x_next)
        if not bool(torch.cat([raw.var(0, correction=0), delta.var(0, correction=0)]).isfinite().all()):
            raise ValueError(
                "the data's mean or variance is not finite; look for outliers with dynamics.audit(trajectories)"
            )
        self.input_mean, self.input_scale = _mean_and_scale(raw, is_constant(raw))
        round_off = (
            1e-3 * CONSTANT_TOLERANCE * data.x.abs().amax(0)
        )  # what the difference of two equal numbers may have
        constant = is_constant(delta) | (delta.std(0, correction=0) <= round_off)
        self.target_mean, self.target_scale = _mean_and_scale(delta, constant)
        lower, upper = delta.amin(0), delta.amax(0)
        slack = 0.5 * (upper - lower)
        self.target_lower = torch.where(constant, self.target_mean, lower - slack)
        self.target_upper = torch.where(constant, self.target_mean, upper + slack)
        logged = torch.cat([data.x, data.u], dim=-1)
        self.logged_lower, self.logged_upper = logged.amin(0), logged.amax(0)
        self.num_transitions.fill_(len(data))

    def _raw_features(self, x: Tensor, u: Tensor) -> Tensor:
        if not self.angles:
            return torch.cat([x, u], dim=-1)
        angles = x.index_select(-1, self._angle_index)
        return torch.cat([x.index_select(-1, self._linear_index), torch.sin(angles), torch.cos(angles), u], dim=-1)


def arguments_for(trajectories: Sequence[Trajectory], angles: Sequence[str | int] = ()) -> dict[str, Any]:
    """The constructor arguments of a learned model that follow from logs, see :meth:`LearnedDynamics.for_trajectories`."""
    check_compatible(trajectories)
    group = state_source(trajectories)
    first = next((t for t in trajectories if len(t)), None)
    if first is None:
        raise ValueError(f"none of the {len(trajectories)} trajectories has a step, so dt is unknown")
    names = getattr(first.names, group)
    if isinstance(angles, str):  # its letters would be taken for names
        raise ValueError(f"angles must be a sequence of columns, got {angles!r}; write angles=[{angles!r}]")
    unknown = [name for name in angles if isinstance(name, str) and name not in names]
    if unknown:
        raise ValueError(f"no column is called {unknown[0]!r}; the {group} are {', '.join(names)}")
    return {
        "state_dim": len(names),
        "control_dim": first.controls.shape[1],
        "dt": first.dt,
        "angles": [names.index(name) if isinstance(name, str) else name for name in angles],
        "state_names": names,
        "control_names": first.names.controls,
    }


def wrap(difference: Tensor, angles: Sequence[int]) -> Tensor:
    """Differences ``(*batch, n)`` of states with the angles among them the short way round, in [-pi, pi)."""
    if not angles:
        return difference
    difference, columns = difference.clone(), list(angles)
    difference[..., columns] = torch.remainder(difference[..., columns] + torch.pi, 2 * torch.pi) - torch.pi
    return difference


def is_constant(values: Tensor) -> Tensor:
    """Whether the columns of ``(N, d)`` do not change but for round-off, ``(d,)``."""
    return values.std(0, correction=0) <= CONSTANT_TOLERANCE * values.abs().amax(0)


def _mean_and_scale(values: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    scale = values.std(0, correction=0)
    return values.mean(0), torch.where(constant, torch.ones_like(scale), scale)
