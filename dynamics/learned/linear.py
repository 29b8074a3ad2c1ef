r"""Ridge regression with the uncertainty of Bayesian linear regression (Bishop 2006, section 3.3).

.. math::
    \Delta = W^\top \phi + \varepsilon, \quad \varepsilon \sim \mathcal N(0, \mathrm{diag}(\sigma^2)), \quad
    W = (\Phi^\top \Phi + \lambda I)^{-1} \Phi^\top \Delta

on normalized features with a constant. The epistemic variance at :math:`\phi` is
:math:`\sigma^2 \, \phi^\top (\Phi^\top \Phi + \lambda I)^{-1} \phi`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.base import TimeStep
from dynamics.learned.base import LearnedDynamics, TransitionData
from dynamics.learned.settings import Training
from dynamics.stochastic import Prediction


class LinearModel(LearnedDynamics):
    """Linear model of the change of state, in closed form.

    Args:
        state_dim: n.
        control_dim: m.
        dt: duration of one step [s].
        angles: indices of the states that are angles [rad].
        regularization: lambda, the prior precision of the weights on normalized features relative to the noise.
        state_names: one name per state.
        control_names: one name per control.

    Raises:
        ValueError: the regularization is not positive.
    """

    weights: Tensor
    covariance: Tensor
    noise_std: Tensor

    def __init__(
        self,
        state_dim: int,
        control_dim: int,
        dt: float,
        *,
        angles: Sequence[int] = (),
        regularization: float = 1e-3,
        state_names: Sequence[str] | None = None,
        control_names: Sequence[str] | None = None,
    ):
        super().__init__(
            state_dim, control_dim, dt, angles=angles, state_names=state_names, control_names=control_names
        )
        if not regularization > 0:
            raise ValueError(f"regularization must be positive, got {regularization}")
        self.regularization = float(regularization)
        size = self.num_features + 1
        self.register_buffer("weights", torch.zeros(size, self.state_dim, dtype=torch.float64))
        self.register_buffer("covariance", torch.zeros(size, size, dtype=torch.float64))
        self.register_buffer("noise_std", torch.zeros(self.state_dim, dtype=torch.float64))

    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        return {**self._shared_config(), "regularization": self.regularization}

    def learn(
        self,
        data: TransitionData,
        validation: TransitionData,
        *,
        training: Training | None = None,
        generator: torch.Generator | None = None,
        checkpoint: Path | None = None,
        on_validation: Callable[[dict[str, float]], object] | None = None,
        progress: bool | None = None,
    ) -> list[dict[str, float]]:
        """:meth:`solve`; a closed form needs no validation and takes neither settings nor a checkpoint."""
        if training is not None or checkpoint is not None:
            given = "training settings" if training is not None else "checkpoint"
            raise ValueError(f"LinearModel is fitted in closed form and takes no {given}; leave it out")
        self.solve(data)
        return []

    def solve(self, data: TransitionData) -> None:
        """Fit to data in closed form."""
        self.set_statistics(data)
        phi = self._phi(data.x, data.u)
        target = self.targets(data.x, data.x_next)
        precision = phi.mT @ phi + self.regularization * torch.eye(phi.shape[-1]).to(phi)
        factor = torch.linalg.cholesky(precision)
        # in the memory layout of a loaded model, because products round differently in another
        self.covariance = torch.cholesky_inverse(factor).contiguous()
        self.weights = torch.cholesky_solve(phi.mT @ target, factor).contiguous()
        residual = target - phi @ self.weights
        degrees_of_freedom = max(len(data) - phi.shape[-1], 1)
        self.noise_std = (residual.square().sum(0) / degrees_of_freedom).sqrt()

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The mean of :meth:`predict`, without the cost of its variance."""
        self.check_step(x, u)
        self.check_fitted()
        return self.next_state(x, self._phi(x, u) @ self.weights.to(x))

    def predict(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Prediction:
        """The predictive distribution at states ``(*batch, n)`` and controls ``(*batch, m)``."""
        mean = self(x, u)
        phi = self._phi(x, u)
        noise = (self.target_scale * self.noise_std).to(x)
        leverage = (phi * (phi @ self.covariance.to(x))).sum(-1, keepdim=True).clamp_min(0.0).sqrt()
        return Prediction(mean=mean, aleatoric_std=noise.expand(mean.shape), epistemic_std=leverage * noise)

    def _phi(self, x: Tensor, u: Tensor) -> Tensor:
        features = self.features(x, u)
        return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
