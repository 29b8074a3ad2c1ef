"""A teacher that knows the plant only near where the controllers have been."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from dynamics import Dynamics, fit_local_linear, fit_mixture_prior, transition_points
from mbrl.gps.rollouts import actions_of_task
from mbrl.gps.teacher import Evidence, Teacher
from mbrl.tasks import Task
from mbrl.training.checking import check_numbers
from planners import LinearGaussianController


@dataclass(frozen=True)
class LocalTeacher(Teacher):
    """Linear-Gaussian models of each step from a handful of rollouts (Levine and Abbeel 2014), with a mixture as their prior.

    For algorithms that improve controllers in steps of bounded divergence, as :class:`mbrl.MDGPS` does: such models hold nowhere
    else. The first controllers do nothing, with noise.

    Attributes:
        initial_std: of their controls, in half widths of the limits.
        prior: a mixture of Gaussians of all transitions so far as the prior; without it each condition needs more rollouts than
            there are states and controls.
        window: rollouts of each initial state, the latest ones, that the prior is fitted to.
        regularization: variance added to that of each state and control, see :func:`dynamics.fit_local_linear`.
    """

    _: KW_ONLY
    initial_std: float = 0.3
    prior: bool = True
    window: int = 20
    regularization: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, counts=("window",), rates=("initial_std",), weights=("regularization",))

    @property
    def words(self) -> str:
        """The teacher, which never plans."""
        return type(self).__name__

    @property
    def knows_all(self) -> bool:
        """Near the rollouts alone."""
        return False

    @property
    def memory(self) -> int | None:
        """Those of the window."""
        return self.window

    def first_controller(self, task: Task, x0: Tensor) -> LinearGaussianController:
        """Zero control (the middle of the limits), no feedback, and noise."""
        C, T, (n, m) = len(x0), task.episode_steps, (task.dynamics.state_dim, task.dynamics.control_dim)
        center, half = actions_of_task(task).scale(x0)
        us = center.expand(C, T, m).clone()
        K = x0.new_zeros(C, T, m, task.dynamics.tangent_dim)
        std = self.initial_std * half
        xs = x0.unsqueeze(-2).expand(C, T + 1, n).clone()
        return LinearGaussianController(task.dynamics, xs, us, K, torch.diag(std.square()).expand(C, T, m, m).clone())

    def model(self, evidence: Evidence) -> Dynamics:
        """Linear-Gaussian dynamics for each initial state and step, about the latest rollouts."""
        seen, latest = evidence.seen, evidence.latest
        if seen is None or latest is None:
            raise ValueError(
                "local models hold near rollouts alone, and this algorithm plans before there are any; use MDGPS, ConstrainedGPS "
                "or BADMM, or a teacher that knows the whole plant"
            )
        space = actions_of_task(evidence.task)
        prior = None
        if self.prior:
            points = transition_points(seen.states, space.controls(seen.actions))[seen.valid]
            prior = fit_mixture_prior(points.flatten(0, -2), generator=evidence.generator)
        xs, us = latest.states.transpose(0, 1).clone(), space.controls(latest.actions).transpose(0, 1)
        xs[~latest.valid.T] = torch.nan
        return fit_local_linear(
            xs, us, dt=evidence.plant.dt, prior=prior, regularization=self.regularization, angles=evidence.plant.angles
        )
