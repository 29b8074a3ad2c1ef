"""The training loop, once for all algorithms: iterate, evaluate, log, keep, resume, stop."""

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dynamics import Trajectory
from dynamics.progress import progress_bar
from mbrl.envs.making import AnyTask
from mbrl.evaluation import Evaluation, evaluate
from mbrl.policies.learned_actor import LearnedActor
from mbrl.policies.saving import save_policy
from mbrl.runs.files import write_json
from mbrl.runs.loggers import Logger
from mbrl.runs.metrics import read as read_metrics
from mbrl.runs.reading import read_run
from mbrl.runs.records import differences, digest, fingerprint, json_values, qualified_name
from mbrl.runs.run import Resume, Run, open_run
from mbrl.tasks import GridWorld, Task
from mbrl.tasks.worlds import TabularWorld, episode_steps, process, world_name
from mbrl.training.algorithm import Algorithm, Assignment, Learner, spread_seed
from mbrl.training.errors import ResumeWarning, TrainingError
from mbrl.training.processes import Processes, together

Metrics = dict[str, np.ndarray]

RULES = (  # of a task, whatever its plant: what is seen, paid for, forbidden and drawn, and when it is over
    "cost",
    "termination",
    "termination_cost",
    "constraint_cost",
    "observation",
    "initial_state",
    "discount",
    "success",
)


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a training left.

    Attributes:
        policy: the policy after the last iteration.
        learner: what learned it, for what else it holds; its environments are closed.
        metrics: what was logged: ``"step"`` and further columns, ``(iterations,)`` each, NaN where nothing was logged.
        evaluation: of the policy after the last iteration; None if there was to be none, and in other processes than the first.
        steps: taken, of the algorithm's ``step_unit``.
        seconds: time spent, of a resumed run in all its starts as far as they were kept.
    """

    policy: LearnedActor
    learner: Learner
    metrics: Metrics
    evaluation: Evaluation | None
    steps: int
    seconds: float

    @property
    def value(self) -> nn.Module | None:
        """The value function, where the learner has one."""
        return getattr(self.learner, "value", None)

    @property
    def reward(self) -> nn.Module | None:
        """The reward that was learned, where the learner has one."""
        return getattr(self.learner, "reward", None)

    @property
    def model(self) -> nn.Module | None:
        """The model of the environment that was learned, where the learner has one."""
        return getattr(self.learner, "model", None)

    def __str__(self) -> str:
        evaluated = "not evaluated" if self.evaluation is None else str(self.evaluation)
        return f"{self.steps} steps in {self.seconds:.0f} s: {evaluated}"


@together
def train(
    algorithm: Algorithm,
    task: AnyTask,
    *,
    steps: int | None = None,
    seed: int = 0,
    demonstrations: Sequence[Trajectory] | None = None,
    init: LearnedActor | None = None,
    run: str | Path | None = None,
    resume: Resume = "auto",
    evaluate_every: int | None = None,
    evaluation_episodes: int = 10,
    device: str | torch.device = "cpu",
    on_iteration: Callable[[Mapping[str, float]], object] | None = None,
    loggers: Sequence[Logger] = (),
    config: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> TrainingResult:
    """Train a policy.

    Equal arguments give equal policies on the same machine with the same number of threads. With ``run`` everything is kept
    after each iteration: after Ctrl-C or a kill the same call goes on where it was and gives what an uninterrupted one would
    have given, bit for bit, on tasks and on the MuJoCo environments that this library steps itself. Other gymnasium
    environments cannot be kept: their worlds begin new episodes then, and a :class:`ResumeWarning` says so.

    Under ``torchrun`` all its processes train one policy together, each in worlds of its own, as one process would with all their
    worlds and minibatches as large as theirs together. The first one evaluates, writes and calls ``on_iteration``; the others
    return the same policy. A run is resumed by as many processes.

    Args:
        algorithm: for instance ``mbrl.PPO()``.
        task: a task, a world or process in tables, the id of a gymnasium environment, or a function without arguments that makes
            a ``gymnasium.Env``.
        steps: in all, of the algorithm's ``step_unit``: environment steps, whose last iteration is a whole one, or gradient
            steps for one that takes none in an environment, such as :class:`mbrl.BC`. A training may end before, where its
            algorithm has a reason to; for one that says itself when it ends, such as :class:`mbrl.MDGPS` by its iterations, None
            sets no limit.
        seed: of everything that is drawn.
        demonstrations: episodes of an expert, where the algorithm learns from some.
        init: policy to begin with, copied; a new one by default.
        run: folder of the run; see :func:`mbrl.open_run` for what it holds, and at the end ``policy.safetensors`` and
            ``figures/learning_curve.png``.
        resume: ``"auto"``, ``"must"`` or ``"never"``, see :func:`mbrl.open_run`.
        evaluate_every: steps between evaluations on the way, logged as ``eval/return``; None for none.
        evaluation_episodes: episodes of an evaluation; 0 for none at the end either.
        device: where networks are trained.
        on_iteration: told of each row of the metrics as it is made.
        loggers: told of each row, too, and closed at the end, for instance :class:`mbrl.TensorBoardLogger`.
        config: what else decides the run, such as where a task was read from, for ``config.json``.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        The policy, and how it came about.

    Raises:
        TypeError: algorithm, task or a logger is none, or a number is no integer.
        ValueError: a number is out of its range, or the algorithm lacks what it needs.
        TrainingError: a number is not finite, or another process has ended, does not answer or was given something else.
        RunError: the folder cannot be used.
    """
    _check(algorithm, task, steps, seed, evaluate_every, evaluation_episodes)
    _check_loggers(loggers)
    processes = Processes()
    assignment = Assignment(task, steps, seed, demonstrations, init, processes.device(torch.device(device)), processes)
    algorithm.check_demonstrations(assignment)
    decided = training_config(algorithm, assignment, evaluate_every, evaluation_episodes, config)
    _check_alike(processes, decided, run is not None)
    title, shown = f"{type(algorithm).__name__} on {task_name(task)}", progress if processes.first else False
    with contextlib.ExitStack() as closing:
        learner = algorithm.learner(assignment)
        closing.callback(learner.close)
        if isinstance(task, Task):
            learner.policy.describe(task)
        keeper = _Keeper(processes, run, resume, decided, algorithm.legend())
        keeper.restore(learner)
        _check_together(processes, learner)
        start, rows = time.perf_counter() - keeper.seconds, keeper.rows
        for logger in loggers:
            closing.callback(logger.close)
        iterations = algorithm.ends_after
        most = math.inf if steps is None else steps
        advance = closing.enter_context(progress_bar(title, iterations or steps or 1, show=shown))
        while learner.steps < most and not learner.finished:
            row = _iteration(learner, assignment, evaluate_every, evaluation_episodes)
            rows.append(row)
            keeper.keep(learner, row, time.perf_counter() - start)
            if processes.first:
                _tell(row, on_iteration, loggers)
            done = min(learner.steps, most) if iterations is None else len(rows)
            advance(int(done), _headline(rows))
    evaluation = None
    if evaluation_episodes and processes.first:
        evaluation = _evaluated(learner, task, seed, evaluation_episodes)
    seconds = time.perf_counter() - start
    result = TrainingResult(learner.policy, learner, _columns(rows), evaluation, learner.steps, seconds)
    keeper.finish(result)
    processes.wait()  # until the folder is complete
    return result


def _iteration(
    learner: Learner, assignment: Assignment, evaluate_every: int | None, evaluation_episodes: int
) -> dict[str, float]:
    """Go one iteration further, and evaluate where that is due; the row of the metrics."""
    before, processes = learner.steps, assignment.processes
    row = learner.iterate()
    _check_finite(learner)
    _check_together(processes, learner)
    due = evaluate_every is not None and learner.steps // evaluate_every > before // evaluate_every
    if due and processes.first:
        row["eval/return"] = _evaluated(learner, assignment.task, assignment.seed, evaluation_episodes).iqm
    return {"step": learner.steps, **row}


def _tell(
    row: Mapping[str, float],
    on_iteration: Callable[[Mapping[str, float]], object] | None,
    loggers: Sequence[Logger],
) -> None:
    if on_iteration is not None:
        on_iteration(row)
    for logger in loggers:
        logger.log(int(row["step"]), {name: value for name, value in row.items() if name != "step"})


def _check(
    algorithm: Any, task: Any, steps: int | None, seed: int, evaluate_every: int | None, evaluation_episodes: int
) -> None:
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm must be one such as mbrl.PPO(), got {algorithm!r}")
    if not (isinstance(task, Task | TabularWorld | str) or callable(task)):
        raise TypeError(
            "task must be a Task, a world or process in tables, the id of a gymnasium environment, or a function without "
            f"arguments that makes one, got {task!r}"
        )
    for name, number in (
        ("steps", steps),
        ("seed", seed),
        ("evaluate_every", evaluate_every),
        ("evaluation_episodes", evaluation_episodes),
    ):
        optional = name in ("steps", "evaluate_every")
        if not (isinstance(number, int) or (optional and number is None)) or isinstance(number, bool):
            raise TypeError(f"{name} must be an integer, got {number!r}")
    if steps is None and algorithm.ends_after is None:
        raise ValueError(f"{type(algorithm).__name__} ends when its {algorithm.step_unit} are spent; pass steps=...")
    if (
        (steps is not None and steps < 1)
        or evaluation_episodes < 0
        or (evaluate_every is not None and evaluate_every < 1)
    ):
        raise ValueError(
            "need steps >= 1, evaluate_every >= 1 or None and evaluation_episodes >= 0, got "
            f"{steps}, {evaluate_every} and {evaluation_episodes}"
        )
    if evaluate_every is not None and evaluation_episodes < 1:
        raise ValueError("evaluate_every needs evaluation_episodes >= 1, got 0")


def task_name(task: AnyTask) -> str:
    """What a task is called, an id or a function as it is written."""
    if isinstance(task, Task):
        return task.name
    if isinstance(task, TabularWorld):
        return world_name(task)
    if isinstance(task, str):
        return task
    while isinstance(task, functools.partial):
        task = task.func
    return qualified_name(task if hasattr(task, "__qualname__") else type(task))


def _task_config(task: AnyTask) -> dict[str, Any]:
    """The name, and what may differ under the same one, as far as :func:`fingerprint` can tell."""
    if isinstance(task, str):
        return {"task": task}
    if isinstance(task, TabularWorld):
        return {
            "task": world_name(task),
            "process": fingerprint(process(task)),
            "features": fingerprint(task.features) if isinstance(task, GridWorld) else None,
            "episode_steps": episode_steps(task),
        }
    if not isinstance(task, Task):
        return {"task": fingerprint(task)}
    plant = task.dynamics
    physical = plant.physical_parameters
    learned = [tensor.cpu() for name, tensor in plant.state_dict().items() if name not in physical]
    return {
        "task": task.name,
        "plant": {
            "dynamics": type(plant).__name__,
            "dt": plant.dt,
            "parameters": {name: getattr(plant, name) for name in physical},
            **({"weights": digest(learned)} if learned else {}),
            "episode_steps": task.episode_steps,
            "control_limits": task.limits(),
            "control_values": task.control_values,
        },
        "rules": {name: fingerprint(getattr(task, name)) for name in RULES},
    }


def _check_loggers(loggers: Sequence[Any]) -> None:
    for logger in loggers:
        if not isinstance(logger, Logger):
            raise TypeError(f"a logger has log(step, row) and close(), such as mbrl.TensorBoardLogger, got {logger!r}")


def training_config(
    algorithm: Algorithm,
    assignment: Assignment,
    evaluate_every: int | None,
    evaluation_episodes: int,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What decides a run, as it goes into ``config.json``, of data and weights a digest; the arguments are those of train.

    Raises:
        ValueError: ``more`` has a name that stands for something else here.
    """
    given: dict[str, Iterable[Any]] = {}
    if assignment.demonstrations is not None:
        given["demonstrations"] = [array for t in assignment.demonstrations for array in (t.observations, t.controls)]
    if assignment.init is not None:
        given["init"] = [tensor.cpu() for tensor in assignment.init.state_dict().values()]
    own = {
        "algorithm": algorithm.config(),
        **_task_config(assignment.task),
        "steps": assignment.steps,
        "seed": assignment.seed,
        "evaluate_every": evaluate_every,
        "evaluation_episodes": evaluation_episodes,
        "processes": assignment.processes.number,
        **{name: digest(arrays) for name, arrays in given.items()},
    }
    more = more or {}
    taken = sorted(
        more.keys() & {*own, "demonstrations", "init", "plant", "rules", "process", "features", "episode_steps"}
    )
    if taken:
        raise ValueError(f"config has {', '.join(taken)}, which the training itself records; choose other names")
    return {**own, **more}


def _evaluated(learner: Learner, task: AnyTask, seed: int, episodes: int) -> Evaluation:
    """The same episodes at every evaluation of a run."""
    generator = torch.Generator().manual_seed(spread_seed(seed, "evaluation"))
    return evaluate(learner.policy, task, episodes=episodes, generator=generator)


def _check_finite(learner: Learner) -> None:
    for what, network in learner.networks.items():
        broken = [name for name, p in network.named_parameters() if not bool(p.isfinite().all())]
        if broken:
            raise TrainingError(
                f"after {learner.steps} steps the {what}'s {broken[0]} is not finite; lower the learning rate, or look at the "
                "rewards of the task"
            )


def _check_alike(processes: Processes, config: Mapping[str, Any], kept: bool) -> None:
    """All processes are to do the same, or they would wait for each other in different places."""
    given = processes.everywhere({**json_values("config", config), "run folder": kept})
    for rank, other in enumerate(given):
        found = [
            f"{key} is {here} in process 0 and {there} in process {rank}"
            for key, here, there in differences(given[0], other)
        ]
        if found:
            raise TrainingError(
                "all processes must be given the same, even the seed, from which each draws numbers of its own: "
                + "; ".join(found)
            )


def _check_together(processes: Processes, learner: Learner) -> None:
    """All processes have the same policy, to the bit; they may not drift apart unnoticed."""
    if processes.number == 1:
        return
    found = processes.everywhere(digest(tensor.cpu() for tensor in learner.policy.state_dict().values()))
    if len(set(found)) > 1:
        raise TrainingError(
            f"after {learner.steps} steps the processes have different policies; they need equal versions of everything and "
            "processors of one kind"
        )


def _headline(rows: Sequence[Mapping[str, float]]) -> str:
    """The latest return, of an evaluation or of training episodes, or what these cost."""
    for name in ("eval/return", "rollout/return", "rollout/cost"):
        found = [row[name] for row in rows if not math.isnan(row.get(name, math.nan))]
        if found:
            return f"{name} {found[-1]:.4g}"
    return ""


def _columns(rows: Sequence[Mapping[str, float]]) -> Metrics:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names}


class _Keeper:
    """The run folder of a training; without one, nothing is kept. With several processes the first one keeps for all."""

    def __init__(
        self,
        processes: Processes,
        folder: str | Path | None,
        resume: Resume,
        config: dict[str, Any],
        legend: dict[str, str],
    ):
        self.processes = processes
        self.kept = folder is not None
        self.run: Run | None = None
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0  # that earlier starts took
        if folder is not None and processes.first:
            self.run = open_run(folder, config=config, resume=resume)
            write_json(self.run.path("legend.json"), legend)
            self.rows = _logged(self.run)

    def restore(self, learner: Learner) -> None:
        """Go on where the run was left."""
        if not self.kept:
            return
        states = None
        if self.run is not None and (saved := self.run.load_state()) is not None:
            states, self.seconds = saved["learners"], saved.get("seconds", 0.0)
        state = self.processes.scatter(states)
        if state is None:
            return
        learner.load_state_dict(state)
        if not learner.exact and self.processes.first:
            warnings.warn(
                "the worlds of this environment cannot be kept: the run goes on from its networks after the last iteration, "
                "with new episodes",
                ResumeWarning,
                stacklevel=4,
            )

    def keep(self, learner: Learner, row: Mapping[str, float], seconds: float) -> None:
        """Log a row and write the state after it."""
        if not self.kept:
            return
        states = self.processes.gather(learner.state_dict())
        if self.run is not None:
            scalars = {name: value for name, value in row.items() if name != "step"}
            self.run.log(int(row["step"]), **scalars)
            self.run.save_state({"learners": states, "seconds": seconds})

    def finish(self, result: TrainingResult) -> None:
        """Leave the policy, a picture and the summary."""
        if self.run is None:
            return
        from mbrl.plots import plot_training, save_figure

        save_policy(result.policy, self.run.path("policy.safetensors"))
        result.learner.leave(self.run.folder)
        if len(result.metrics) > 1:
            save_figure(plot_training(read_run(self.run.folder)), self.run.path("figures/learning_curve.png"))
        summary: dict[str, Any] = {"steps": result.steps, "seconds": result.seconds}
        if result.evaluation is not None:
            low, high = result.evaluation.interval
            summary.update({"return": result.evaluation.iqm, "interval_low": low, "interval_high": high})
            if result.evaluation.success_rate is not None:
                summary["success_rate"] = result.evaluation.success_rate
        self.run.finish(summary)


def _logged(run: Run) -> list[dict[str, float]]:
    """The rows of a run so far."""
    path = run.folder / "metrics.csv"
    if not path.exists():
        return []
    columns = read_metrics(path)
    count = len(columns["step"]) if columns else 0
    return [{n: float(v[i]) for n, v in columns.items()} for i in range(count)]
