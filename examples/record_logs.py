"""Record the logs that the demo learns from: the MuJoCo cart-pole under random forces, from random angles, without an expert.

    python examples/record_logs.py            # writes examples/logs/cartpole/random-v0, 10,050 transitions, about 1 MB

The result is a Minari dataset; ``dynamics.read_trajectories`` and ``minari.load_dataset`` both read it.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import mbrl
from dynamics import summarize, write_trajectories


@dataclass(frozen=True)
class Config:
    """Settings of the recording."""

    path: Path = Path(__file__).parent / "logs" / "cartpole" / "random-v0"
    """Folder of the dataset; its name ends in -v and a number."""
    clips: int = 134
    """Number of clips."""
    seconds: float = 3.0
    """Length of a clip [s]."""
    seed: int = 0
    """Of the initial states and forces."""
    overwrite: bool = False
    """Replace an existing dataset."""


def main(config: Config) -> None:
    """Record, summarize, write."""
    task = mbrl.cart_pole_swing_up()
    generator = torch.Generator().manual_seed(config.seed)
    anywhere = mbrl.uniform_initial_state([-0.8, -math.pi, -0.3, -3.0], [0.8, math.pi, 0.3, 3.0])
    trajectories = mbrl.record(
        task,
        mbrl.SplineNoise(task.control_limits, interval=6, scale=0.6),
        config.clips,
        initial_states=anywhere(config.clips, generator),
        generator=generator,
        steps=round(config.seconds / task.dynamics.dt),
    )
    print(summarize(trajectories))
    write_trajectories(config.path, trajectories, overwrite=config.overwrite)
    size = sum(file.stat().st_size for file in config.path.rglob("*") if file.is_file())
    print(f"wrote {config.path} ({size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
