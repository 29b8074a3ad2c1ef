r"""What all forms of guided policy search share: initial states to train from, a teacher, a plant whose every step counts.

Levine and Koltun 2013, Levine and Abbeel 2014, Montgomery and Levine 2016: a trajectory optimizer knows what to do from single
states, supervised or importance-weighted learning makes one policy of it, for all states that are seen.
"""

import abc
import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynamics import CountedDynamics
from mbrl.envs.making import AnyTask
from mbrl.gps.policy_cost import PolicyCost
from mbrl.gps.rollouts import (
    Choose,
    Rollouts,
    actions_of_task,
    policy_actions,
    roll_out,
)
from mbrl.gps.supervised import SupervisedStep
from mbrl.gps.teacher import Evidence, ModelTeacher, Teacher
from mbrl.imitation.behavior_cloning import task_policy
from mbrl.policies.actor import Actor
from mbrl.policies.policy import NetworkSettings, Policy
from mbrl.tasks import Task
from mbrl.training.algorithm import Algorithm, Assignment, Learner
from mbrl.training.checking import check_numbers
from mbrl.training.errors import TrainingError
from planners import LinearGaussianController, Solution

PARTS: tuple[str, ...] = "plan", "rollouts", "fit"
"""Of an iteration, whose seconds are logged as ``time/...``: the teacher and its model, rollouts, what is learned from them."""


@dataclass(frozen=True)
class TaughtAlgorithm(Algorithm, abc.ABC):
    """What all that learn from a teacher's plans are told.

    Training ends after ``iterations`` or when the steps are spent, whatever comes first; ``steps=None`` sets no limit. Steps are
    those of the plant, of rollouts and of the teacher alike, a column of its derivatives being a step.

    Attributes:
        teacher: shows what to do.
        conditions: number C of initial states, drawn from the task, of each process.
        samples: rollouts of the teacher, and later of the policy, from each initial state.
        iterations: after which training ends.
        control_noise: standard deviation of disturbances during rollouts, in half widths of the control limits.

    Raises:
        ValueError: a number is out of its range.
    """

    step_unit: ClassVar[str] = "steps of the plant"

    _: KW_ONLY
    teacher: Teacher = field(default_factory=ModelTeacher)
    conditions: int = 8
    samples: int = 5
    iterations: int = 20
    control_noise: float = 0.0

    def __post_init__(self):
        check_numbers(self, counts=("conditions", "samples", "iterations"), weights=("control_noise",))

    @property
    def ends_after(self) -> int:
        """The iterations."""
        return self.iterations

    def announcement(self, task: AnyTask) -> str:
        """What an iteration takes: plans may take minutes."""
        if not isinstance(task, Task):
            return ""
        teacher, steps = self.teacher, task.episode_steps
        return (
            f"teacher: {teacher.words}; {self.iterations} iterations for {self.conditions} initial states, "
            f"in each of them at least {self.conditions * self.samples} rollouts of {steps} steps"
        )

    @abc.abstractmethod
    def learner(self, assignment: Assignment) -> "TaughtLearner":
        """A learner at its first step."""


@dataclass(frozen=True)
class GuidedPolicySearch(TaughtAlgorithm, abc.ABC):
    """What all forms of guided policy search are told.

    Attributes:
        network: of the policy.
        supervised: how the policy is fitted to what is shown.

    Raises:
        ValueError: a number is out of its range, or the network is recurrent or not Gaussian.
    """

    _: KW_ONLY
    network: NetworkSettings = field(default_factory=lambda: NetworkSettings(initial_std=0.2))
    supervised: SupervisedStep = field(default_factory=SupervisedStep)

    def __post_init__(self):
        super().__post_init__()
        if self.network.recurrent or self.network.head not in (None, "gaussian"):
            raise ValueError(
                "guided policy search trains Gaussian policies without memory, got head "
                f"{self.network.head!r} and {self.network.recurrent} recurrent units"
            )

    @abc.abstractmethod
    def learner(self, assignment: Assignment) -> "GuidedLearner":
        """A learner at its first step."""


class TaughtLearner(Learner, abc.ABC):
    """The state that all that learn from a teacher's plans have.

    Args:
        algorithm: its settings.
        assignment: what is to be learned.

    Attributes:
        task: the task.
        plant: its plant, which counts steps.
        x0: the initial states ``(C, n)``.
        iterations: done so far.

    Raises:
        ValueError: the task is no :class:`mbrl.Task`, or none whose episodes have one length and whose controls are continuous.
    """

    def __init__(self, algorithm: TaughtAlgorithm, assignment: Assignment):
        if not isinstance(assignment.task, Task):
            raise ValueError(
                f"guided policy search plans on the model of a task of this library, got {assignment.task!r}; see mbrl tasks"
            )
        self.settings, self.assignment, self.task = algorithm, assignment, assignment.task
        self.space = actions_of_task(self.task)
        self.processes = assignment.processes
        self.plant = CountedDynamics(self.task.dynamics)
        self.x0 = self.task.initial_state(algorithm.conditions, self._cpu_generator("initial states"))
        self.generator = self._cpu_generator("rollouts")
        self.plans: Solution | None = None  # the teacher's last
        self.seen: Rollouts | None = None  # rollouts that the teacher learns from, (N,) of them
        self.iterations = self.steps = 0
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def _cpu_generator(self, purpose: str) -> torch.Generator:
        seed = self.assignment.seed_for(purpose) + self.processes.rank
        return torch.Generator().manual_seed(seed)

    @property
    def finished(self) -> bool:
        """Whether all iterations are done."""
        return self.iterations >= self.settings.iterations

    def iterate(self) -> dict[str, float]:
        """Go one iteration further; the steps of the plant are counted over all processes."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        before = self.plant.calls
        metrics = self.advance()
        self.steps += int(self.processes.sum(torch.tensor(float(self.plant.calls - before), dtype=torch.float64)))
        self.iterations += 1
        return {**metrics, **{f"time/{part}": seconds for part, seconds in self._seconds.items()}}

    @abc.abstractmethod
    def advance(self) -> dict[str, float]:
        """What an iteration does; the steps are those of :attr:`plant`."""

    # Parts of an iteration

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count seconds as those of a part of the iteration; those of parts within it are theirs."""
        begun, others = time.perf_counter(), sum(self._seconds.values())
        try:
            yield
        finally:
            within = sum(self._seconds.values()) - others
            self._seconds[part] += time.perf_counter() - begun - within

    def taught(self, near: Policy | None = None, ahead: Actor | None = None) -> LinearGaussianController:
        """The teacher's controllers from the initial states, planned from its last plans on.

        A teacher that has to learn the plant moves it first.

        Args:
            near: policy whose log-density counts as a reward, times the teacher's temperature.
            ahead: goes ahead of plans from new states, instead of the teacher's scout.
        """
        teacher = self.settings.teacher
        cost = None if near is None else PolicyCost(near, self.task, teacher.temperature)
        if self.iterations == 0 and self.plans is None:
            self.take_lessons()
        with self.timed("plan"):
            model = teacher.model(self.evidence())
            self.plans = teacher.plan(
                self.task, self.x0, model, extra_cost=cost, init=self.plans, ahead=ahead, generator=self.generator
            )
            return teacher.controller(self.task, self.plans)

    def evidence(self, latest: Rollouts | None = None) -> Evidence:
        """What the teacher makes its model of."""
        return Evidence(self.task, self.plant, self.generator, self.seen, latest)

    def take_lessons(self) -> None:
        """Let the teacher move the plant until it knows it."""
        for number in itertools.count():
            with self.timed("plan"):
                lesson = self.settings.teacher.lesson(number, self.evidence())
            if lesson is None:
                return
            x0, choose = lesson
            self.rolled_out(choose, x0)

    def rolled_out(self, choose: Choose, x0: Tensor | None = None) -> Rollouts:
        """Samples from each initial state, or from others.

        Raises:
            TrainingError: not one of them stayed finite.
        """
        noise = self.settings.control_noise
        with self.timed("rollouts"):
            worlds = self._worlds() if x0 is None else x0
            rollouts = roll_out(
                self.task, choose, worlds, plant=self.plant, control_noise=noise, generator=self.generator
            )
        if not bool(rollouts.valid.any()):
            raise TrainingError(
                f"all {rollouts.valid.numel()} rollouts diverged in iteration {self.iterations}; lower the teacher's max_std, or "
                "look at the task's first states"
            )
        memory = self.settings.teacher.memory
        if memory != 0:
            seen = rollouts.flattened if self.seen is None else self.seen.joined(rollouts.flattened)
            self.seen = seen if memory is None else seen[-memory * self.settings.conditions :]
        return rollouts

    def _worlds(self) -> Tensor:
        """So many worlds at each initial state, ``(S, C, n)``."""
        return self.x0.expand(self.settings.samples, *self.x0.shape).clone()

    def mean_cost(self, rollouts: Rollouts) -> float:
        """Mean cost of an episode, over the rollouts of all processes."""
        sums = torch.stack([rollouts.total_costs.sum(), torch.tensor(float(rollouts.total_costs.numel())).double()])
        total, number = self.processes.sum(sums).tolist()
        return total / number

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            "generator": self.generator.get_state(),
            "plans": None if self.plans is None else (self.plans.xs, self.plans.us),
            "seen": None if self.seen is None else self.seen.state_dict(),
            "calls": self.plant.calls,
            "steps": self.steps,
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.generator.set_state(state["generator"])
        problem = self.task.problem(horizon=self.task.episode_steps)
        self.plans = None if state["plans"] is None else Solution.guess(problem, *state["plans"])
        self.seen = None if state["seen"] is None else Rollouts(**state["seen"])
        self.plant.calls = state["calls"]
        self.steps, self.iterations = state["steps"], state["iterations"]


class GuidedLearner(TaughtLearner, abc.ABC):
    """The state that all forms of guided policy search have.

    Args:
        algorithm: its settings.
        assignment: what is to be learned.

    Attributes:
        policy: the policy.

    Raises:
        ValueError: see :class:`TaughtLearner`; the policy to begin with is of another task or network.
    """

    settings: GuidedPolicySearch
    policy: Policy

    def __init__(self, algorithm: GuidedPolicySearch, assignment: Assignment):
        super().__init__(algorithm, assignment)
        self.policy = task_policy(assignment, algorithm.network)

    def policy_rollouts(self) -> Rollouts:
        """Samples of the policy."""
        return self.rolled_out(policy_actions(self.policy, self.task, self.generator))

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {**super().state_dict(), "policy": self.policy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self.policy.load_state_dict(state["policy"])
