"""A teacher that has to learn the plant before it can teach."""

from dataclasses import KW_ONLY, dataclass, field

import torch

from dynamics import Dynamics, Ensemble, Training, fit
from mbrl.gps.rollouts import Rollouts, trajectories
from mbrl.gps.teacher import Teacher
from mbrl.tasks import Task
from mbrl.training.checking import check_numbers
from planners import ICEM, Planner


@dataclass(frozen=True)
class FittedTeacher(Teacher):
    """Plans on an ensemble of networks that is fitted to everything seen of the plant: planning takes none of its steps.

    At first the plant is moved at random, then under the controllers of a few lessons, each on a model of all that was seen.

    Attributes:
        lessons: before the one that counts.
        members: networks of the ensemble.
        hidden: widths of their layers.
        training: how they are fitted.
    """

    _: KW_ONLY
    scout: Planner | None = field(default_factory=ICEM)
    lessons: int = 2
    members: int = 3
    hidden: tuple[int, ...] = (128, 128)
    training: Training = field(default_factory=lambda: Training(steps=2000))

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, counts=("lessons", "members"))

    @property
    def memory(self) -> int | None:
        """All rollouts."""
        return None

    @property
    def explores(self) -> bool:
        """Always."""
        return True

    @property
    def rounds(self) -> int:
        """The lessons, and the one that counts."""
        return self.lessons + 1

    def model(
        self,
        task: Task,
        plant: Dynamics,
        seen: Rollouts | None,
        latest: Rollouts | None,
        generator: torch.Generator,
    ) -> Dynamics:
        """An ensemble fitted to all rollouts."""
        if seen is None:
            raise ValueError("a model is fitted to rollouts, and there are none")
        logs = trajectories(task, seen)
        model = Ensemble.for_trajectories(logs, angles=list(plant.angles), members=self.members, hidden=self.hidden)
        seed = int(torch.randint(2**31, (), generator=generator))
        fit(model, logs, training=self.training, seed=seed, test_fraction=0.05, progress=False)
        return model
