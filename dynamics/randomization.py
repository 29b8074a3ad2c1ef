r"""Many worlds at once: dynamics whose physical parameters are uncertain.

.. math:: x_{t+1} = f(x_t, u_t, t; \theta_w), \qquad w = 1, \dots, W

A controller that is planned in all worlds, its costs reduced by a risk measure, works in each of them. The worlds are the members
of a :class:`~dynamics.StochasticDynamics` without noise: their disagreement is epistemic.
"""

import copy
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from dynamics.base import Dynamics, TimeStep, arguments_like, nan_after_divergence
from dynamics.stochastic import Prediction, Resample, StochasticDynamics, check_sampling


class RandomizedWorlds(StochasticDynamics):
    """Dynamics in several worlds, each with its own physical parameters.

    The mean over the worlds is taken in the tangent space of the first world's state.

    Args:
        dynamics: dynamics with named physical parameters.
        **values: values by name, one for each of W worlds, ``(W, *s)``; what is not named is shared.

    Attributes:
        num_members: W.

    Raises:
        ValueError: nothing is named, the numbers of worlds differ, or a value does not fit its parameter.

    Example:
        >>> import torch
        >>> from dynamics import Pendulum, RandomizedWorlds
        >>> worlds = RandomizedWorlds(Pendulum(), mass=torch.tensor([0.8, 1.0, 1.2], dtype=torch.float64))
        >>> x0, us = torch.zeros(2, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)
        >>> worlds.sample_rollout(x0, us, particles=3).shape
        torch.Size([3, 6, 2])
    """

    def __init__(self, dynamics: Dynamics, **values: Tensor):
        if not isinstance(dynamics, Dynamics):
            raise TypeError(f"dynamics must be a Dynamics, got {type(dynamics).__name__}")
        if isinstance(dynamics, StochasticDynamics):
            raise TypeError(f"{type(dynamics).__name__} has members of its own; worlds need deterministic dynamics")
        worlds = dynamics.with_parameters(**values)  # checks names, shapes and bounds
        counts = {name: self._count(dynamics, name, value) for name, value in values.items()}
        if not counts or len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(
                "need values of at least one physical parameter, each one for the same number of worlds, got "
                f"{counts or 'none'}"
            )
        super().__init__(**arguments_like(dynamics))
        self.derivatives = dynamics.derivatives
        self.num_members = next(iter(counts.values()))
        self.worlds = worlds

    @staticmethod
    def _count(dynamics: Dynamics, name: str, value: Tensor) -> int:
        shape = dynamics.physical_parameters[name].shape
        if not isinstance(value, Tensor) or value.ndim != len(shape) + 1:
            raise ValueError(
                f"{name} must be a tensor of one value for each world, {('W', *shape)}, got "
                f"{tuple(value.shape) if isinstance(value, Tensor) else value!r}"
            )
        return value.shape[0]

    @staticmethod
    def drawn(
        dynamics: Dynamics,
        ranges: Mapping[str, tuple[float, float]],
        *,
        worlds: int,
        generator: torch.Generator | None = None,
    ) -> "RandomizedWorlds":
        """Worlds whose parameters are drawn uniformly.

        Args:
            dynamics: dynamics with named physical parameters.
            ranges: (lowest, highest) value of each parameter that varies.
            worlds: W, their number.
            generator: source of randomness; seeded with 0 by default.

        Raises:
            ValueError: there is no such parameter, a range is inverted or out of its bounds, or worlds < 1.
        """
        if not isinstance(dynamics, Dynamics):
            raise TypeError(f"dynamics must be a Dynamics, got {type(dynamics).__name__}")
        if not isinstance(worlds, int) or worlds < 1:
            raise ValueError(f"worlds must be an integer of at least 1, got {worlds!r}")
        generator = generator or torch.Generator().manual_seed(0)
        values = {}
        for name, (low, high) in ranges.items():
            if name not in dynamics.physical_parameters:
                known = ", ".join(dynamics.physical_parameters) or "none"
                raise ValueError(f"{type(dynamics).__name__} has no parameter {name!r}; its parameters are: {known}")
            if not low <= high:
                raise ValueError(f"the range of {name} must be (lowest, highest), got ({low}, {high})")
            for end in (low, high):
                dynamics.physical_parameters[name].check(
                    f"the range of {name}", torch.as_tensor(end, dtype=torch.float64)
                )
            shape = (worlds, *dynamics.physical_parameters[name].shape)
            values[name] = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
        return RandomizedWorlds(dynamics, **values)

    def with_parameters(self, **values: float | Tensor) -> Self:
        """A copy with other values, shared or one for each world, of any parameter of the dynamics."""
        new = copy.copy(self)
        new._modules = dict(self._modules)
        new.worlds = self.worlds.with_parameters(**values)
        for name, value in values.items():
            shape = self.worlds.physical_parameters[name].shape
            if isinstance(value, Tensor) and value.ndim > len(shape) and value.shape[0] != self.num_members:
                raise ValueError(
                    f"{name} must have one value for each of {self.num_members} worlds, got {value.shape[0]}"
                )
        return new

    def predict(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Prediction:
        """The next states in all worlds; there is no noise."""
        self.check_step(x, u)
        W = self.num_members
        members = self.worlds(x.expand(W, *x.shape), u.expand(W, *u.shape), t)
        first = members[0]
        displacement = self.difference(members, first.expand_as(members))
        mean = self.retract(first, displacement.mean(0))
        spread = members - mean
        zero = torch.zeros_like(members)
        return Prediction(mean, zero[0], torch.linalg.vector_norm(spread, dim=0) / W**0.5, members, zero)

    def sample_rollout(
        self,
        x0: Tensor,
        us: Tensor,
        *,
        particles: int,
        generator: torch.Generator | None = None,
        resample: Resample = "trajectory",
        noise: bool = True,
        t0: int = 0,
    ) -> Tensor:
        """Sampled state sequences, see :meth:`StochasticDynamics.sample_rollout`; a particle stays in its world with TSinf."""
        if resample != "trajectory" or particles % self.num_members:
            return super().sample_rollout(
                x0, us, particles=particles, generator=generator, resample=resample, noise=noise, t0=t0
            )
        batch = self.check_sequence(x0, us)
        check_sampling(particles, resample)
        W = self.num_members
        x0, us = x0.expand(W, *batch, self.state_dim), us.expand(W, *batch, *us.shape[-2:])
        xs = self.worlds.rollout(x0, us, t0).movedim(0, -3)
        return nan_after_divergence(xs.repeat_interleave(particles // W, dim=-3) if particles > W else xs)

    def observe(self, x: Tensor) -> Tensor:
        """What a sensor sees; it must not depend on parameters that vary."""
        return self.worlds.observe(x)

    def difference(self, x1: Tensor, x0: Tensor) -> Tensor:
        """The tangent vector at x0 that leads to x1."""
        return self.worlds.difference(x1, x0)

    def retract(self, x: Tensor, dx: Tensor) -> Tensor:
        """The state reached from x along the tangent vector dx."""
        return self.worlds.retract(x, dx)
