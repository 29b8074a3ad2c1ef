"""A gallery of optimal motions: parking, flying through a gap, a flip, a swing-up, reaching, a way among obstacles, running.

    python examples/trajectory_optimization.py                       # all of it
    python examples/trajectory_optimization.py --only gap flip       # some cases

Each case states its problem in a screenful (examples/gallery), solves it with DDP, prints certificate and costs, checks its own
result, and leaves figures and videos in the run folder. Exit status 1 if a case does not keep its promise.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch
import tyro
from gallery import acrobot, arm, car_parking, flip, gap, locomotion, obstacles

CASES = {
    "car_parking": car_parking,
    "gap": gap,
    "flip": flip,
    "acrobot": acrobot,
    "arm": arm,
    "obstacles": obstacles,
    "locomotion": locomotion,
}
Case = Literal["car_parking", "gap", "flip", "acrobot", "arm", "obstacles", "locomotion"]


@dataclass(frozen=True)
class Config:
    """Settings of the gallery."""

    only: tuple[Case, ...] = tuple(CASES)
    """The cases to run; all by default."""
    run: Path = Path("runs/gallery")
    """Folder for figures and videos."""
    tiny: bool = False
    """A few short iterations of each, to see that they run: nothing is solved, and no promise kept."""


def main(config: Config) -> bool:
    """Whether every case has kept its promise."""
    torch.set_num_threads(1)  # small tensors
    config.run.mkdir(parents=True, exist_ok=True)
    kept = {}
    for name in config.only:
        print(f"\n== {name}: {CASES[name].__doc__.strip()}")
        start = perf_counter()
        kept[name] = CASES[name].run(config.run, config.tiny)
        print(f"{'kept' if kept[name] else 'NOT kept'} its promise, {perf_counter() - start:.0f} s")
    print(f"\nfigures and videos: {config.run}")
    return all(kept.values())


if __name__ == "__main__":
    raise SystemExit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
