"""The training loop, and what an algorithm brings to it."""

from mbrl.training.algorithm import Algorithm, Assignment, Learner
from mbrl.training.errors import ResumeWarning, TrainingError
from mbrl.training.train import TrainingResult, train
from mbrl.training.worlds import Worlds, WorldsStep

__all__ = [
    "Algorithm",
    "Assignment",
    "Learner",
    "ResumeWarning",
    "TrainingError",
    "TrainingResult",
    "Worlds",
    "WorldsStep",
    "train",
]
