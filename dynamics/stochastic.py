r"""Dynamics that know what they do not know.

.. math:: x_{t+1} \sim p(x_{t+1} \mid x_t, u_t)

The standard deviation splits into an aleatoric part, noise that no data removes, and an epistemic part, disagreement
between the members of an ensemble. Particles are propagated by trajectory sampling (Chua et al. 2018, PETS, section 5):
TSinf keeps one member per particle for the whole rollout (``resample="trajectory"``), TS1 draws a member at every step
(``resample="step"``).
"""

import abc
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dynamics.base import Dynamics, TimeStep, nan_after_divergence, time_first

Resample = Literal["trajectory", "step"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """A Gaussian (mixture) over the next state.

    Attributes:
        mean: ``(*batch, n)``.
        aleatoric_std: standard deviation of the noise, ``(*batch, n)``.
        epistemic_std: standard deviation between the members, ``(*batch, n)``; zero without members.
        members: mean of each member, ``(E, *batch, n)``, or None.
        members_std: noise of each member, ``(E, *batch, n)``, or None.
    """

    mean: Tensor
    aleatoric_std: Tensor
    epistemic_std: Tensor
    members: Tensor | None = None
    members_std: Tensor | None = None

    @property
    def std(self) -> Tensor:
        """Total standard deviation, ``(*batch, n)``."""
        # unlike the square root of a sum, this norm has a finite gradient where both parts are zero
        return torch.linalg.vector_norm(torch.stack([self.aleatoric_std, self.epistemic_std]), dim=0)


class StochasticDynamics(Dynamics):
    """Dynamics with a predictive distribution; :meth:`forward` is its mean.

    Attributes:
        num_members: E, the number of models that disagree; 1 without an ensemble.
    """

    num_members: int = 1

    @abc.abstractmethod
    def predict(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Prediction:
        """The distribution of the next state at states ``(*batch, n)`` and controls ``(*batch, m)``."""

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The mean of :meth:`predict`."""
        return self.predict(x, u, t).mean

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
        """Sampled state sequences.

        Args:
            x0: initial states ``(*batch, n)``.
            us: controls ``(*batch, T, m)``; the batch axes of x0 and us broadcast.
            particles: number of samples per batch element; members are dealt out evenly, so a multiple of E wastes none, and
                with TSinf the particles of one member then lie side by side, in the order of the members.
            generator: source of randomness, on the device of x0.
            resample: ``"trajectory"`` (TSinf) or ``"step"`` (TS1).
            noise: False propagates the members' means only, so that the spread is epistemic.
            t0: step of the first control.

        Returns:
            ``(*batch, particles, T+1, n)``; a diverged particle is NaN from there on.

        Raises:
            ValueError: shapes do not fit, particles < 1, or resample is unknown.
        """
        batch = self.check_sequence(x0, us)
        check_sampling(particles, resample)
        x = x0.unsqueeze(-2).expand(*batch, particles, self.state_dim)
        us = us.expand(*batch, *us.shape[-2:]).unsqueeze(-3)
        xs, members = [x], None
        for k in range(us.shape[-2]):
            prediction = self.predict(xs[-1], us[..., k, :].expand(*batch, particles, self.control_dim), t0 + k)
            if prediction.members is not None and (members is None or resample == "step"):
                members = deal_members(prediction.members.shape[0], batch, particles, generator, x.device, resample)
            mean, std = _member(prediction, members)
            if noise:
                mean = mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
            xs.append(mean)
        return nan_after_divergence(time_first(xs))


def check_sampling(particles: int, resample: str) -> None:
    """Raise ValueError unless the arguments of ``sample_rollout`` make sense."""
    if particles < 1:
        raise ValueError(f"particles must be at least 1, got {particles}")
    if resample not in ("trajectory", "step"):
        raise ValueError(f"resample must be 'trajectory' (TSinf) or 'step' (TS1), got {resample!r}")


def deal_members(
    members: int,
    batch: torch.Size,
    particles: int,
    generator: torch.Generator | None,
    device: torch.device,
    resample: Resample = "step",
) -> Tensor:
    """Member of each particle, ``(*batch, particles)``.

    Members receive equally many particles, up to one where the particles do not divide evenly; who receives one more is
    drawn too, otherwise a single particle would always follow the first member. The order is random, but for members that are
    kept and divide evenly: then it is theirs, as all that a draw would change is which particle is called the first.
    """
    if resample == "trajectory" and particles % members == 0:
        return torch.arange(members, device=device).repeat_interleave(particles // members).expand(*batch, -1)
    order = torch.rand(*batch, particles, generator=generator, device=device).argsort(dim=-1)
    first = torch.randint(members, (*batch, 1), generator=generator, device=device)
    return (order + first) % members


def _member(prediction: Prediction, members: Tensor | None) -> tuple[Tensor, Tensor]:
    if members is None or prediction.members is None or prediction.members_std is None:
        return prediction.mean, prediction.std
    index = members.unsqueeze(-1).expand(prediction.mean.shape).unsqueeze(0)
    return prediction.members.gather(0, index).squeeze(0), prediction.members_std.gather(0, index).squeeze(0)
