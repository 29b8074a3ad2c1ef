r"""A probabilistic ensemble of networks (Lakshminarayanan et al. 2017; Chua et al. 2018, PETS).

Each member maps normalized features to the mean and log-variance of the normalized change of state. The loss of a member is
the beta-NLL (Seitzer et al. 2022, equation 5)

.. math::
    L = \sum_d \lfloor \sigma_d^{2 \beta} \rfloor \left( \tfrac12 \log \sigma_d^2 + \frac{(y_d - \mu_d)^2}{2 \sigma_d^2} \right)

with the factor in floors held constant; beta = 0.5 keeps the noise head from starving the mean where it fits badly. The
log-variance is bounded softly as in PETS (appendix A.1), but between fixed bounds: a penalty that pulls learned ones together,
as there, lifts the lower one against the small gradients of the beta-NLL and makes intervals on noise-free logs too wide.

All members are one set of batched matrix products.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamics.base import TimeStep, nan_after_divergence
from dynamics.learned.training import TrainedDynamics
from dynamics.stochastic import Prediction, Resample, check_sampling

MIN_LOGVAR, MAX_LOGVAR = -14.0, 0.5
"""Bounds of the log-variance of the normalized change: standard deviations from 0.1 % to 130 % of the logged spread.

A higher upper bound lets rare large changes, impacts say, pass for noise: the mean then learns them late or not at all.
"""


class Ensemble(TrainedDynamics):
    """Probabilistic ensemble of multilayer perceptrons.

    Args:
        state_dim: n.
        control_dim: m.
        dt: duration of one step [s].
        angles: indices of the states that are angles [rad].
        members: number of networks E.
        hidden: widths of the hidden layers.
        seed: of the initial weights.
        state_names: one name per state.
        control_names: one name per control.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        state_dim: int,
        control_dim: int,
        dt: float,
        *,
        angles: Sequence[int] = (),
        members: int = 5,
        hidden: Sequence[int] = (128, 128, 128),
        seed: int = 0,
        state_names: Sequence[str] | None = None,
        control_names: Sequence[str] | None = None,
    ):
        super().__init__(
            state_dim, control_dim, dt, angles=angles, state_names=state_names, control_names=control_names
        )
        if members < 1 or any(width < 1 for width in hidden):
            raise ValueError(f"need at least one member and positive widths, got members={members}, hidden={hidden}")
        self.num_members = int(members)
        self.hidden = tuple(int(width) for width in hidden)
        self.seed = int(seed)
        sizes = [self.num_features, *self.hidden, 2 * self.state_dim]
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterList(
            _initial_weights(self.num_members, fan_in, fan_out, generator)
            for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(self.num_members, 1, fan_out) for fan_out in sizes[1:])

    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        return {
            **self._shared_config(),
            "members": self.num_members,
            "hidden": list(self.hidden),
            "seed": self.seed,
        }

    def decayed_parameters(self) -> list[nn.Parameter]:
        """The weights, without the biases."""
        return list(self.weights)

    # Networks

    def outputs(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the normalized change for each member.

        Args:
            features: normalized features ``(E, N, num_features)``, a batch for each member.

        Returns:
            Two tensors ``(E, N, n)`` in the networks' dtype.
        """
        mean, logvar = self._unbounded(features)
        return mean, _bound_logvar(logvar)

    def _unbounded(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The networks' two outputs as they come, see :meth:`outputs`."""
        h = features.to(self.weights[0].dtype)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if i < last:
                h = functional.silu(h)
        mean, logvar = h.chunk(2, dim=-1)
        return mean, logvar

    def losses(self, features: Tensor, targets: Tensor, *, beta: float = 0.5) -> Tensor:
        """Beta-NLL of each member on its own batch.

        Args:
            features: ``(E, N, num_features)``.
            targets: normalized changes ``(E, N, n)``.
            beta: exponent of the variance that weighs the terms; 0 is the plain NLL.

        Returns:
            ``(E,)``, in nats per sample without the constant.
        """
        mean, logvar = self.outputs(features)
        error = (targets.to(mean) - mean).square()
        nll = 0.5 * (logvar + error * torch.exp(-logvar))
        return (torch.exp(beta * logvar).detach() * nll).sum(-1).mean(-1)

    # Predictions

    def predict(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Prediction:
        """Mixture over the members at states ``(*batch, n)`` and controls ``(*batch, m)``."""
        members, logvar = self._next_states(x, u)
        stds = self._noise_std(x, _bound_logvar(logvar)).reshape(members.shape)
        mean, root = members.mean(0), math.sqrt(self.num_members)
        return Prediction(  # norms, because unlike square roots they have finite gradients where they are zero
            mean=mean,
            aleatoric_std=torch.linalg.vector_norm(stds, dim=0) / root,
            epistemic_std=torch.linalg.vector_norm(members - mean, dim=0) / root,
            members=members,
            members_std=stds,
        )

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The mean of :meth:`predict`, without its spread, which planners of means would wait for in vain."""
        return self._next_states(x, u)[0].mean(0)

    def _next_states(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Those of each member, ``(E, *batch, n)``, and the log-variance as it comes, ``(E, N, n)``."""
        self.check_step(x, u)
        self.check_fitted()
        features = self.features(x, u).reshape(1, -1, self.num_features)
        normalized, logvar = self._unbounded(features.expand(self.num_members, -1, -1))
        return self.next_state(x, normalized.reshape(self.num_members, *x.shape), bounded=True), logvar

    def _noise_std(self, x: Tensor, logvar: Tensor) -> Tensor:
        """Standard deviation of the change of state in the units of x; a constant dimension has no noise."""
        return (self.target_scale * self.changes).to(x) * torch.exp(0.5 * logvar).to(x.dtype)

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
        """Sampled state sequences, see :meth:`StochasticDynamics.sample_rollout`.

        With as many particles for each member and TSinf, each member rolls out its own particles and no others.
        """
        if resample != "trajectory" or particles % self.num_members:
            return super().sample_rollout(
                x0, us, particles=particles, generator=generator, resample=resample, noise=noise, t0=t0
            )
        batch = self.check_sequence(x0, us)
        check_sampling(particles, resample)
        self.check_fitted()
        E, T, share = self.num_members, us.shape[-2], particles // self.num_members
        size = math.prod(batch)
        x = x0.expand(*batch, self.state_dim).reshape(1, size, 1, self.state_dim).expand(E, size, share, -1)
        x = x.reshape(E, size * share, self.state_dim)
        us = us.expand(*batch, T, self.control_dim).reshape(1, size, 1, T, self.control_dim)
        us = us.expand(E, size, share, -1, -1).reshape(E, size * share, T, self.control_dim)
        xs = [x]
        for k in range(T):
            mean, logvar = self._unbounded(self.features(xs[-1], us[:, :, k]))
            x = self.next_state(xs[-1], mean, bounded=True)
            if noise:
                draw = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                x = x + self._noise_std(x, _bound_logvar(logvar)) * draw
            xs.append(x)
        sampled = torch.stack(xs, dim=-2).reshape(E, size, share, T + 1, self.state_dim)
        sampled = sampled.permute(1, 0, 2, 3, 4).reshape(*batch, particles, T + 1, self.state_dim)
        return nan_after_divergence(sampled)


def _bound_logvar(logvar: Tensor) -> Tensor:
    """A log-variance between MIN_LOGVAR and MAX_LOGVAR, softly (PETS, appendix A.1)."""
    logvar = MAX_LOGVAR - functional.softplus(MAX_LOGVAR - logvar)
    return MIN_LOGVAR + functional.softplus(logvar - MIN_LOGVAR)


def MLP(  # noqa: N802 (the smallest ensemble, under the name it is known by)
    state_dim: int,
    control_dim: int,
    dt: float,
    *,
    angles: Sequence[int] = (),
    hidden: Sequence[int] = (128, 128, 128),
    seed: int = 0,
    state_names: Sequence[str] | None = None,
    control_names: Sequence[str] | None = None,
) -> Ensemble:
    """One probabilistic network: an :class:`Ensemble` of one member, with the same arguments."""
    return Ensemble(
        state_dim,
        control_dim,
        dt,
        angles=angles,
        members=1,
        hidden=hidden,
        seed=seed,
        state_names=state_names,
        control_names=control_names,
    )


def _initial_weights(members: int, fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Parameter:
    """Normal of standard deviation 1 / (2 sqrt(fan_in)), truncated at two (PETS)."""
    std = 0.5 / math.sqrt(fan_in)
    weight = torch.empty(members, fan_in, fan_out)
    return nn.Parameter(nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator))
