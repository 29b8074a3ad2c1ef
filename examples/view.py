"""In the browser: the shipped logs of a cart-pole, or MPC on it while its planner is changed by sliders.

    pip install "mbrl-control[view]"
    python examples/view.py                   # MPC swings the pole up; http://127.0.0.1:8080
    python examples/view.py --show logs       # what was logged

Ctrl-C ends it. With --check the page is opened for a second and fetched once; exit status 1 if it is not there.
"""

import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro

import mbrl
from dynamics import read_trajectories
from mbrl.viewer import Viewer, view_control, view_trajectory
from planners import ICEM, MPC


@dataclass(frozen=True)
class Config:
    """What is shown, and where."""

    show: Literal["control", "logs"] = "control"
    """A running control loop, or logged trajectories."""
    planner: ICEM = field(default_factory=lambda: ICEM(num_samples=60, max_iterations=3, initial_std=0.6))
    """What the sliders begin with."""
    host: str = "127.0.0.1"
    """Address of the page; 0.0.0.0 is seen by other machines too."""
    port: int = 8080
    """Port of the page; the next free one where it is taken."""
    check: bool = False
    """Open the page for a second, fetch it, and end."""


def open_page(config: Config) -> Viewer:
    """The page that is asked for."""
    task = mbrl.cart_pole_swing_up()
    address = {"host": config.host, "port": 0 if config.check else config.port}
    if config.show == "logs":
        logs = read_trajectories(Path(__file__).parent / "logs" / "cartpole" / "random-v0")
        return view_trajectory(logs, task, block=False, **address)
    torch.set_num_threads(1)  # the planner's tensors are small
    return view_control(task, MPC(task.problem(), config.planner), block=False, **address)


def main(config: Config) -> bool:
    """Show the page until Ctrl-C; whether it was served."""
    with open_page(config) as page:
        if not config.check:
            page.wait()
            return True
        time.sleep(1.0)
        with urllib.request.urlopen(page.url, timeout=10) as answer:
            return answer.status == 200


if __name__ == "__main__":
    sys.exit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
