r"""Who shows what to do: trajectory optimizers as time-varying linear-Gaussian controllers.

.. math:: u_t \sim \mathcal N\bigl(\hat u_t + K_t (x_t \ominus \hat x_t), \; \tau Q_{uu,t}^{-1}\bigr)

is, for linear dynamics and quadratic cost, the distribution of least expected cost minus :math:`\tau` times its entropy (Levine
and Koltun 2013, section 3): what costs little to vary is explored.
"""

import abc
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dynamics import Dynamics
from mbrl.gps.rollouts import Choose, Rollouts, actions_of_task, actor_actions, roll_out
from mbrl.policies.actor import Actor
from mbrl.tasks import Task
from planners import DDP, MPC, Cost, LinearGaussianController, Planner, Problem, Solution, solve


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a teacher makes its model of.

    Attributes:
        task: what is to be done.
        plant: the task's plant, which counts its steps.
        generator: source of randomness.
        seen: the rollouts on the plant that :attr:`Teacher.memory` asks for, ``(N,)`` of them; None before there are any.
        latest: those of this iteration, ``(S, C)`` of them; None where planning comes first.
    """

    task: Task
    plant: Dynamics
    generator: torch.Generator
    seen: Rollouts | None = None
    latest: Rollouts | None = None


@dataclass(frozen=True)
class Teacher(abc.ABC):
    """Turns initial states into plans to the end of an episode, and plans into linear-Gaussian controllers.

    Attributes:
        planner: :class:`planners.DDP`, or a sampling planner, whose plan one backward pass gives its gains.
        scout: a planner such as :class:`planners.ICEM` that goes ahead in receding horizon and whose way the first plan begins
            with, where a descent from no control would end in a poor minimum; None for none.
        temperature: tau, in units of the cost.
        min_std: least standard deviation of a control in any direction, in half widths of the limits.
        max_std: largest one.

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    planner: Planner = field(default_factory=DDP)
    scout: Planner | None = None
    temperature: float = 1.0
    min_std: float = 0.02
    max_std: float = 0.2

    def __post_init__(self):
        if not (0 < self.temperature < torch.inf and 0 < self.min_std <= self.max_std < torch.inf):
            raise ValueError(
                "need temperature > 0 and 0 < min_std <= max_std, got "
                f"{self.temperature}, {self.min_std} and {self.max_std}"
            )

    @abc.abstractmethod
    def model(self, evidence: Evidence) -> Dynamics:
        """What is planned on.

        Raises:
            ValueError: the teacher needs rollouts that there are none of.
        """

    @property
    def words(self) -> str:
        """The teacher in words."""
        scout = "" if self.scout is None else f" after {type(self.scout).__name__}"
        return f"{type(self).__name__}, planning by {type(self.planner).__name__}{scout}"

    @property
    def knows_all(self) -> bool:
        """Whether its model holds from all initial states of the task, instead of near where rollouts were."""
        return True

    @property
    def memory(self) -> int | None:
        """How many of the latest samples of each initial state it learns from; None for all."""
        return 0

    def lesson(self, number: int, evidence: Evidence) -> tuple[Tensor, Choose] | None:
        """What shows the teacher the plant before its first plan; None where it knows enough.

        Args:
            number: of lessons before this one.
            evidence: what has been seen so far.

        Returns:
            States ``(E, n)`` to begin in, and what moves the plant from there.
        """
        return None

    def first_controller(self, task: Task, x0: Tensor) -> LinearGaussianController | None:
        """What is tried from initial states before anything is known of the plant; None where planning comes first."""
        return None

    def plan(
        self,
        task: Task,
        x0: Tensor,
        model: Dynamics,
        *,
        extra_cost: Cost | None = None,
        init: Solution | None = None,
        ahead: Actor | None = None,
        generator: torch.Generator | None = None,
    ) -> Solution:
        """Plans from initial states ``(C, n)``, all of them as one batch.

        Args:
            task: what is to be done.
            x0: initial states ``(C, n)``.
            model: from :meth:`model`.
            extra_cost: added to that of the task, for instance minus the log-density of a policy.
            init: earlier plans from the same states; by default those of what goes ahead.
            ahead: goes ahead in the model instead of the scout, for instance a policy that is good already.
            generator: source of randomness of sampling planners.

        Raises:
            planners.SolveError: from an initial state there is no usable plan.
        """
        problem = task.problem(model, task.episode_steps)
        if ahead is None and self.scout is not None:
            mpc: Any = MPC(task.with_dynamics(model).problem(), self.scout)
            ahead = mpc
        if init is None and ahead is not None:
            init = _gone_ahead(task.with_dynamics(model), ahead, x0, problem, generator)
        if extra_cost is not None:
            problem = replace(problem, cost=problem.cost + extra_cost)
        return solve(problem, self.planner, x0, init=init, generator=generator)

    def controller(self, task: Task, plans: Solution) -> LinearGaussianController:
        """The controllers of plans, with covariances between the bounds."""
        controller = plans.controller(temperature=self.temperature)
        _, half = actions_of_task(task).scale(plans.us)
        scale = half.unsqueeze(-1) * half
        factor = controller.covariance_factor()
        return replace(controller, covariance=scale * self._bounded(factor @ factor.mT / scale))

    def _bounded(self, covariance: Tensor) -> Tensor:
        """Covariances ``(*, m, m)`` with eigenvalues between the bounds; what is not finite varies as much as it may."""
        finite = covariance.isfinite().all(-1).all(-1)[..., None, None]
        most = self.max_std**2 * torch.eye(covariance.shape[-1]).to(covariance)
        values, vectors = torch.linalg.eigh(torch.where(finite, 0.5 * (covariance + covariance.mT), most))
        values = values.clamp(self.min_std**2, self.max_std**2)
        return (vectors * values.unsqueeze(-2)) @ vectors.mT


@dataclass(frozen=True)
class ModelTeacher(Teacher):
    """Plans on the plant itself; every step of it that a planner takes is counted."""

    def model(self, evidence: Evidence) -> Dynamics:
        """The plant."""
        return evidence.plant


def _gone_ahead(task: Task, actor: Actor, x0: Tensor, problem: Problem, generator: torch.Generator | None) -> Solution:
    """The way that an actor goes on a task, as a first guess of plans to the end of its episodes."""
    worlds = x0.unsqueeze(0)
    rollouts = roll_out(task, actor_actions(actor, task, worlds, generator), worlds)[0]
    return Solution.guess(problem, rollouts.states, actions_of_task(task).controls(rollouts.actions))
