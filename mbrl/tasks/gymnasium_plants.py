"""gymnasium's MuJoCo models as plants, and what its rewards for locomotion share."""

import warnings
from pathlib import Path

from torch import Tensor

from dynamics import MujocoDynamics


def gymnasium_plant(file: str, *, frame_skip: int) -> MujocoDynamics:
    """The unmodified model of a file among those that gymnasium installs, started cold in each control step."""
    import gymnasium

    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / file
    with warnings.catch_warnings():  # half_cheetah.xml is older than MuJoCo 4
        warnings.filterwarnings("ignore", message="MuJoCo: compiler attribute 'settotalmass' is deprecated")
        return MujocoDynamics(path, frame_skip=frame_skip)


def forward_velocity(x: Tensor, x_next: Tensor, dt: float) -> Tensor:
    """Mean velocity of the root along x over a step [m/s], ``(*batch,)``."""
    return (x_next[..., 0] - x[..., 0]) / dt
