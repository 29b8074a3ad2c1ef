"""A teacher that has to learn the plant before it can teach."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynamics import Dynamics, Ensemble, Training, fit
from mbrl.gps.rollouts import Choose, actions_of_task, actor_actions, trajectories
from mbrl.gps.teacher import Evidence, Teacher
from mbrl.policies.spline_noise import SplineNoise
from mbrl.training.checking import check_numbers
from planners import DDP, ICEM, MPC, Planner


@dataclass(frozen=True)
class FittedTeacher(Teacher):
    """Plans on an ensemble of networks that is fitted to everything seen of the plant: planning takes none of its steps.

    At first the plant is moved at random. Then come a few lessons, in each of which the scout, or without one the planner, drives
    the plant in receding horizon on a model of all that was seen: errors that would carry a plan of a whole episode away are
    corrected step by step, and the model learns where good plans go (Chua et al. 2018, PETS).

    Attributes:
        planner: by default one that takes few and cheap iterations: the minimum of a model is not worth much more than that.
        lessons: before the first plan.
        episodes: of the random motion, and of each lesson.
        members: networks of the ensemble.
        hidden: widths of their layers.
        training: how they are fitted.
    """

    _: KW_ONLY
    planner: Planner = field(default_factory=lambda: DDP("gauss-newton", 60, tolerance=1e-3, certify=False))
    scout: Planner | None = field(default_factory=ICEM)
    lessons: int = 2
    episodes: int = 8
    members: int = 3
    hidden: tuple[int, ...] = (128, 128)
    training: Training = field(default_factory=lambda: Training(steps=2000))

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, counts=("lessons", "episodes", "members"))

    @property
    def memory(self) -> int | None:
        """All rollouts."""
        return None

    def lesson(self, number: int, evidence: Evidence) -> tuple[Tensor, Choose] | None:
        """First smooth random controls, then receding horizon on what is known."""
        task = evidence.task
        if number > self.lessons:
            return None
        if evidence.seen is None:
            actor: Any = SplineNoise(actions_of_task(task).bounds(), evidence.plant.control_dim)
        else:
            planner = self.planner if self.scout is None else self.scout
            actor = MPC(task.with_dynamics(self.model(evidence)).problem(), planner)
        x0 = task.initial_state(self.episodes, evidence.generator)
        return x0, actor_actions(actor, task, x0, evidence.generator)

    def model(self, evidence: Evidence) -> Dynamics:
        """An ensemble fitted to all rollouts."""
        if evidence.seen is None:
            raise ValueError("a model is fitted to rollouts, and there are none")
        logs, angles = trajectories(evidence.task, evidence.seen), list(evidence.plant.angles)
        model = Ensemble.for_trajectories(logs, angles=angles, members=self.members, hidden=self.hidden)
        seed = int(torch.randint(2**31, (), generator=evidence.generator))
        fit(model, logs, training=self.training, seed=seed, test_fraction=0.05, progress=False)
        return model
