"""Logged trajectories in, a fitted model, MPC out: swing a MuJoCo cart-pole up with a model learned from random logs.

    python examples/demo.py                    # about a minute on two cores; make demo does the installing too
    python examples/demo.py --seed 1 --run runs/mine

Reads the logs shipped beside this file, fits a probabilistic ensemble, shows how far ahead it predicts, controls the real MuJoCo
simulation by planning on the model, and writes a run folder with figures, a video and a self-contained report.html. An
interrupted fit goes on when the same run folder is given again. Exit status 1 if the pole is not upright at the end.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

import mbrl
from dynamics import Ensemble, FitReport, Training, Trajectory, audit, fit, read_trajectories, summarize
from mbrl import plots
from planners import ICEM, MPC


@dataclass(frozen=True)
class Config:
    """Settings of the demo."""

    logs: Path = Path(__file__).parent / "logs" / "cartpole" / "random-v0"
    """Logged trajectories of the plant, in any format that dynamics.read_trajectories knows."""
    run: Path | None = None
    """Run folder; runs/demo-seed<seed>-<time> by default."""
    seed: int = 0
    """Of everything random: split, weights, minibatches, initial state, planner."""
    seconds: float = 10.0
    """Length of the episode [s]."""
    training: Training = field(default_factory=Training)
    """How the ensemble is trained."""
    planner: ICEM = field(default_factory=lambda: ICEM(initial_std=0.6))
    """How every step is planned."""


@dataclass
class PlanningLog:
    """An actor that passes on what MPC does and notes how long each plan took and what it would cost."""

    mpc: MPC
    seconds: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    acts_on: str = "state"

    def init(self, batch: int, *, generator: torch.Generator | None = None) -> Any:
        """Memory of the MPC."""
        return self.mpc.init(batch, generator=generator)

    def act(self, y: torch.Tensor, memory: Any, *, deterministic: bool = True) -> tuple[torch.Tensor, Any]:
        """The MPC's control, noted."""
        control, memory = self.mpc.act(y, memory)
        self.seconds.append(memory.solution.stats["seconds"])
        self.costs.append(float(memory.solution.cost.mean()))
        return control, memory


def main(config: Config) -> bool:
    """Run the demo; whether the pole stood upright over the last second."""
    task = mbrl.cart_pole_swing_up()
    folder = config.run or Path("runs") / f"demo-seed{config.seed}-{datetime.now():%Y%m%d-%H%M%S}"
    run = mbrl.open_run(folder, config=config)
    start = time.perf_counter()

    logs = read_trajectories(config.logs)
    print(f"read {config.logs.name}: {summarize(logs)}")
    findings = audit(logs, control_limits=task.control_limits).findings
    print(f"audit: {len(findings)} findings ({', '.join(sorted({f.kind for f in findings})) or 'none'})\n")

    model = Ensemble.for_trajectories(logs, angles=["angle"], seed=config.seed)
    report = fit(model, logs, training=config.training, seed=config.seed, checkpoint=run.path("fit.pt"))
    run.save_model(model)
    for record in report.history:
        run.log(int(record["step"]), **{"fit/loss": record["loss"], "fit/error": record["error"]})
    print(report)
    print(f"\n{comparison(report)}\n")

    torch.set_num_threads(1)  # the planner's matrix products are small: a second thread costs more than it saves
    actor = PlanningLog(MPC(task.problem(model), config.planner))
    generator = torch.Generator().manual_seed(config.seed)
    steps = round(config.seconds / task.dynamics.dt)
    (episode,) = mbrl.record(task, actor, 1, generator=generator, steps=steps, progress=None)
    upright = bool(task.success(torch.from_numpy(np.array(episode.states)))) and len(episode) == steps
    rate = len(actor.seconds) / sum(actor.seconds)
    verdict = "upright over the last second" if upright else "NOT upright over the last second"
    print(f"MuJoCo cart-pole: {verdict}; planning at {rate:.0f} Hz, the plant runs at {1 / task.dynamics.dt:.0f} Hz")
    print(f"compute: {time.perf_counter() - start:.0f} s")

    write_report(run, task, logs, model, report, episode, actor, [comparison(report), f"The pole is {verdict}."])
    _, ensemble, ridge = errors_beside_ridge(report)
    run.finish({"upright": upright, "rate_hz": rate, "ratio_to_ridge": ridge / ensemble, "fit": report.to_dict()})
    print(f"report: {run.path('report.html')}")
    return upright


def errors_beside_ridge(report: FitReport) -> tuple[int, float, float]:
    """A horizon of 25 steps, or the longest below, and the median errors of the ensemble and of ridge regression there."""
    row = max(row for row, k in enumerate(report.horizons) if k <= 25)
    return report.horizons[row], float(report.errors["model"].median[row]), float(report.errors["ridge"].median[row])


def comparison(report: FitReport) -> str:
    """The two errors in words."""
    k, ensemble, ridge = errors_beside_ridge(report)
    return (
        f"{k} steps ahead, the median error is {ensemble:.4f} for the ensemble and {ridge:.4f} for ridge regression, "
        f"{ridge / ensemble:.1f} times as much."
    )


def write_report(
    run: mbrl.Run,
    task: mbrl.Task,
    logs: Sequence[Trajectory],
    model: Ensemble,
    report: FitReport,
    episode: Trajectory,
    actor: PlanningLog,
    findings: Sequence[str],
) -> None:
    """Figures, video and the page that holds them all."""
    figures = {
        "logs": (
            plots.plot_logged_states(logs, "angle", "angle_velocity", angles=["angle"]),
            "Where the logs have been.",
        ),
        "fit": (plots.plot_fit(report), "How the fit went, and how far ahead it predicts clips it has not seen."),
        "predictions": (
            plots.plot_predictions(model, [logs[i] for i in report.test[:2]]),
            "Open-loop predictions of clips held out.",
        ),
        "episode": (plots.plot_trajectory(episode, control_limits=task.control_limits), "The controlled episode."),
        "planning": (
            plots.plot_planning(actor.seconds, actor.costs, task.dynamics.dt),
            "Planning time and predicted cost.",
        ),
    }
    for name, (figure, _) in figures.items():
        plots.save_figure(figure, run.path(f"figures/{name}.png"))
    video = plots.write_task_video(run.path("episode.mp4"), task, episode)
    sections = [
        plots.Text("\n".join(findings), heading="Result"),
        plots.Video(video, "The MuJoCo cart-pole under MPC on the learned model."),
        plots.Table(
            report.header(),
            report.rows(),
            "Normalized errors and interval coverage, k steps ahead.",
            "Held-out predictions",
        ),
        *(plots.Picture(figure, caption) for figure, caption in figures.values()),
    ]
    plots.html_report(run.path("report.html"), "Cart-pole swing-up from random logs", sections)


if __name__ == "__main__":
    sys.exit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
