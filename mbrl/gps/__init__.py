"""Guided policy search: trajectory optimizers as teachers of policies, one generation per file."""

from mbrl.gps.badmm import BADMM
from mbrl.gps.base import GuidedPolicySearch, TaughtAlgorithm
from mbrl.gps.constrained import ConstrainedGPS
from mbrl.gps.distillation import Distillation
from mbrl.gps.fitted_teacher import FittedTeacher
from mbrl.gps.isgps import ISGPS
from mbrl.gps.local_teacher import LocalTeacher
from mbrl.gps.mdgps import MDGPS
from mbrl.gps.supervised import SupervisedStep
from mbrl.gps.teacher import Evidence, ModelTeacher, Teacher
from mbrl.gps.trajectory_dp import TrajectoryDP

__all__ = [
    "BADMM",
    "ISGPS",
    "MDGPS",
    "ConstrainedGPS",
    "Distillation",
    "Evidence",
    "FittedTeacher",
    "GuidedPolicySearch",
    "LocalTeacher",
    "ModelTeacher",
    "SupervisedStep",
    "TaughtAlgorithm",
    "Teacher",
    "TrajectoryDP",
]
