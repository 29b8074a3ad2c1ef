r"""An actor that sees measurements and acts on the estimated state.

.. math:: \hat x_t = \text{filter}(y_0, u_0, \dots, u_{t-1}, y_t), \qquad u_t = \pi(\hat x_t)

With a Kalman filter and a linear-quadratic regulator this is the optimal controller (LQG), and filter and regulator may be
designed apart (the separation principle, Wonham 1968). With nonlinear dynamics it is the customary approximation:
certainty equivalence, which plans as if the estimate were the state.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynamics import GaussianBelief, GaussianFilter
from mbrl.policies.actor import Actor, require_actor
from mbrl.policies.limits import ControlLimits, finite_limits


@dataclass(frozen=True, eq=False)
class EstimatedStateMemory:
    """Where an actor with an estimator stands.

    Attributes:
        belief: about the present state, the last measurement included.
        control: given last, ``(batch, m)``; None before the first.
        actor: memory of the actor that acts on the estimate.
    """

    belief: GaussianBelief
    control: Tensor | None
    actor: Any


@dataclass(frozen=True, eq=False)
class EstimatedStateActor:
    """Acts at the mean of what a filter believes.

    Attributes:
        actor: acts on the state: MPC, a linear-Gaussian controller, a policy.
        estimator: filter on a model of the plant, with what its ``observation`` says that the sensor sees.
        belief: about the state at the first measurement, before it, of ``estimator.init``; for one episode, or with a leading
            axis for each of a batch.
        control_limits: (lower, upper), numbers or ``(m,)``, of the plant; controls are clamped to them, so that the filter
            knows what was applied. None where the actor keeps to the limits itself.

    The filter counts on its control being applied for one step of the model and on being asked at every step; a measurement
    that is missing is NaN. A belief that has diverged gives the actor a state that is NaN.

    Raises:
        TypeError: the actor does not act on the state, or estimator or belief is none.
        ValueError: the belief is not about a state of the estimator's model, or the limits are not finite or inverted.
    """

    acts_on: ClassVar[str] = "observation"

    actor: Actor
    estimator: GaussianFilter
    belief: GaussianBelief
    control_limits: ControlLimits | None = None

    def __post_init__(self):
        require_actor(self.actor)
        if self.actor.acts_on != "state":
            raise TypeError(
                f"{type(self.actor).__name__} acts on the {self.actor.acts_on} and needs no estimate; the actor must act on the "
                "state"
            )
        if not isinstance(self.estimator, GaussianFilter):
            raise TypeError(
                f"estimator must be a Gaussian filter such as dynamics.ExtendedKalmanFilter, got {type(self.estimator).__name__}"
            )
        if not isinstance(self.belief, GaussianBelief):
            raise TypeError(f"belief must be a GaussianBelief, of estimator.init, got {type(self.belief).__name__}")
        n = self.estimator.dynamics.state_dim
        if self.belief.mean.ndim > 2 or self.belief.mean.shape[-1] != n:
            raise ValueError(
                f"belief must be about states ({n},) or (batch, {n}), got a mean of shape {tuple(self.belief.mean.shape)}"
            )
        if self.control_limits is not None:
            finite_limits(self.control_limits, self.estimator.dynamics.control_dim)

    def init(self, batch: int = 1, *, generator: torch.Generator | None = None) -> EstimatedStateMemory:
        """Memory before the first measurement of a batch of episodes.

        Raises:
            ValueError: the belief is about another number of episodes.
        """
        mean, P = self.belief.mean, self.belief.covariance
        if mean.ndim == 2 and len(mean) not in (1, batch):
            raise ValueError(
                f"belief is about {len(mean)} episodes, got batch={batch}; give it no batch axis for any number"
            )
        belief = GaussianBelief(mean.expand(batch, -1), P.expand(batch, *P.shape[-2:]), self.belief.step)
        return EstimatedStateMemory(belief, None, self.actor.init(batch, generator=generator))

    def act(
        self, y: Tensor, memory: EstimatedStateMemory, *, deterministic: bool = True
    ) -> tuple[Tensor, EstimatedStateMemory]:
        """Controls ``(batch, m)`` for measurements ``(batch, p)`` in their dtype, and the next memory."""
        belief = memory.belief
        if memory.control is not None:
            belief = self.estimator.predict(belief, memory.control)
        belief = self.estimator.update(belief, y.to(belief.mean))
        u, actor_memory = self.actor.act(belief.mean, memory.actor, deterministic=deterministic)
        if self.control_limits is not None:
            lower, upper = (limit.to(u) for limit in finite_limits(self.control_limits, u.shape[-1]))
            u = torch.minimum(torch.maximum(u, lower), upper)
        return u.to(y), EstimatedStateMemory(belief, u.to(belief.mean), actor_memory)
