r"""Fit a model to your own logs, whatever the format: read, audit, prepare, fit, look.

    python examples/fit_your_logs.py                                  # on CSV files that it writes itself first
    python examples/fit_your_logs.py --path my_logs-v0 --angles heading
    python examples/fit_your_logs.py --path my_csv_folder --time t --observations angle --units deg --controls torque \
        --angles angle --velocities angle

Without --path it writes what a small robot might have logged: CSV files of a pendulum whose angle is in degrees, whose clock
jitters and whose velocity nobody measured. Then it does what real logs need: units, a uniform grid, velocities.
"""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro

import mbrl
from dynamics import (
    Ensemble,
    FitReport,
    Pendulum,
    Training,
    Trajectory,
    audit,
    convert_units,
    estimate_velocities,
    fit,
    read_trajectories,
    resample,
    save,
)
from mbrl import plots


@dataclass(frozen=True)
class Config:
    """Settings of the fit."""

    path: Path | None = None
    """Logs: a file, a folder, a glob or a Minari dataset; simulated CSV files by default."""
    time: str | None = None
    """Column of the time stamps [s], in CSV files."""
    observations: tuple[str, ...] = ()
    """Columns that the sensors gave, in CSV files; other formats say it themselves."""
    controls: tuple[str, ...] = ()
    """Columns that were commanded, in CSV files."""
    units: tuple[str, ...] = ()
    """Units of the observations, where the files do not say them; what is in deg is converted to rad."""
    angles: tuple[str, ...] = ()
    """Columns that are angles."""
    velocities: tuple[str, ...] = ()
    """Columns whose velocity nobody measured, to be differentiated."""
    dt: float = 0.05
    """Uniform step to resample to [s]."""
    training: Training = field(default_factory=lambda: Training(steps=2000))
    """How the ensemble is trained."""
    out: Path = Path("runs/fit_your_logs")
    """Folder for the model and the figures."""


def main(config: Config) -> FitReport:
    """Read, audit, prepare, fit, save."""
    if config.path is not None:
        logs = read(config.path, config)
    else:
        angle = ("angle",)
        config = replace(config, time="t", observations=angle, controls=("torque",), units=("deg",))
        config = replace(config, angles=angle, velocities=angle)
        with tempfile.TemporaryDirectory() as folder:
            write_csv_logs(Path(folder))
            logs = read(Path(folder), config)
    print(audit(logs))
    prepared = [prepare(log, config) for log in logs]
    print(audit(prepared))

    model = Ensemble.for_trajectories(prepared, angles=config.angles)
    report = fit(model, prepared, training=config.training)
    print(report)
    save(model, config.out / "model.safetensors")
    plots.save_figure(plots.plot_fit(report), config.out / "fit.png")
    plots.save_figure(
        plots.plot_predictions(model, [prepared[i] for i in report.test[:2]], steps=40), config.out / "predictions.png"
    )
    print(f"model and figures in {config.out}")
    return report


def read(path: Path, config: Config) -> list[Trajectory]:
    """The logs; only CSV files have to be told which column is which."""
    columns = {"time": config.time, "observations": config.observations, "controls": config.controls}
    return read_trajectories(
        path,
        units={"observations": config.units} if config.units else None,
        **{group: wanted for group, wanted in columns.items() if wanted},
    )


def prepare(log: Trajectory, config: Config) -> Trajectory:
    """Radians, a uniform grid, and the velocities that nobody measured."""
    units = zip(log.names.observations, log.units.observations, strict=True)
    degrees = [name for name, unit in units if unit == "deg"]
    log = convert_units(log, dict.fromkeys(degrees, "rad"))
    log = resample(log, config.dt, method="cubic", angles=config.angles)
    angles = [name for name in config.velocities if name in config.angles]
    return estimate_velocities(log, config.velocities, window_length=5, polyorder=3, angles=angles)


def write_csv_logs(folder: Path, runs: int = 30) -> None:
    """What a logger might write: time with jitter, angle in degrees with encoder noise, torque."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    plant, noise = Pendulum(dt=0.01), mbrl.SplineNoise((-2.0, 2.0), interval=25, scale=1.0)
    memory = noise.init(runs, generator=generator)
    x = torch.tensor([[rng.uniform(-3.0, 3.0), 0.0] for _ in range(runs)], dtype=torch.float64)
    rows: list[list[tuple[float, float, float]]] = [[] for _ in range(runs)]
    for k in range(400):
        u, memory = noise.act(x, memory)
        for run in range(runs) if k % 4 == 0 else ():
            clock = plant.dt * k + 0.0005 * rng.standard_normal()
            angle = np.degrees(float(x[run, 0])) + 0.02 * rng.standard_normal()
            rows[run].append((clock, angle, float(u[run, 0])))
        x = plant(x, u)
    for run, table in enumerate(rows):
        np.savetxt(
            folder / f"run_{run:02d}.csv", table, delimiter=",", header="t,angle,torque", comments="", fmt="%.6f"
        )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
