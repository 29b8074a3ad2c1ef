"""Recorded trajectories in the browser."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics import Trajectory
from dynamics.base import Dynamics
from dynamics.trajectories import origin
from mbrl.tasks.base import Task
from mbrl.viewer.charts import CurveChart
from mbrl.viewer.curves import curves, left_out
from mbrl.viewer.playback import Playback
from mbrl.viewer.scene import drawn_model
from mbrl.viewer.server import Viewer, open_server
from mbrl.viewer.stage import Stage

if TYPE_CHECKING:
    import mujoco
    import viser

PICTURES_PER_SECOND = 30.0
SECONDS_PER_CURSOR = 0.1  # the charts are redrawn this often
LONGEST_NAME = 32  # of an episode
WITH_SCENE, WITHOUT_SCENE = 420, 900  # width of the curves [pixel]


def view_trajectory(
    trajectories: Trajectory | Sequence[Trajectory],
    task: Task | Dynamics | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    columns: Sequence[str] | None = None,
    speed: float = 1.0,
    block: bool = True,
) -> Viewer:
    """Play trajectories in the browser: the scene, if the plant has one, and curves with a cursor.

    Args:
        trajectories: one or several; they need not go together. An episode is chosen on the page.
        task: the task or the system that the states (observations where there are none) belong to. Where its plant is a MuJoCo
            model, or has one as a twin, they move that; otherwise there are curves only.
        host: address to serve at; ``"0.0.0.0"`` lets other machines look.
        port: of the address; the next free one is taken where it is not free, 0 takes any.
        columns: names of the columns to draw; by default the first twelve of each kind.
        speed: seconds of the recording per second, to begin with.
        block: return when Ctrl-C is pressed, or at once with the page open.

    Returns:
        The page, closed if ``block`` is set.

    Raises:
        ModuleNotFoundError: viser is not installed.
        TypeError: an entry is no trajectory, or task is neither a task nor a system.
        ValueError: there is no trajectory, a column is missing, or the states do not fit the scene.
        OSError: nothing can be served at the address.
    """
    logs = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    model = None if task is None else drawn_model(task)
    _check(logs, model, columns)
    Playback(0.0, speed=speed)  # refuses a speed before a page is there
    player = _Player(open_server(host, port, "Trajectories"), logs, model, columns, speed)
    viewer = Viewer(player.server, player.run)
    if block:
        viewer.wait()
    return viewer


def _check(logs: list[Any], model: "mujoco.MjModel | None", columns: Sequence[str] | None) -> None:
    if not logs:
        raise ValueError("there is no trajectory to show; check the path or the filter they came from")
    for number, log in enumerate(logs):
        if not isinstance(log, Trajectory):
            raise TypeError(f"entry {number} must be a Trajectory, got {type(log).__name__}")
        curves(log, columns)
        rows = _rows(log)
        if model is not None and rows.shape[1] != model.nq + model.nv + model.na:
            kind = "observations, and no states," if log.states is None else "states"
            raise ValueError(
                f"the scene has {model.nq + model.nv + model.na} states, {log!r} has {rows.shape[1]} {kind} instead; leave the "
                "task out to see its curves"
            )


def _rows(log: Trajectory) -> np.ndarray:
    """What poses the scene: the states, or the observations where there are none, as for a fit."""
    return log.observations if log.states is None else log.states


class _Player:
    """The page of recorded trajectories. Callbacks only queue what to do; all of it is done by the thread in :meth:`run`."""

    def __init__(
        self,
        server: "viser.ViserServer",
        logs: list[Trajectory],
        model: "mujoco.MjModel | None",
        columns: Sequence[str] | None,
        speed: float,
    ):
        self.server, self._logs, self._columns = server, logs, columns
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stage = None if model is None else Stage(server, model)
        self._playback = Playback(0.0, speed=speed)
        self._names = [f"{number}: {_short(origin(log.source)) or 'trajectory'}" for number, log in enumerate(logs)]
        self._episode, self._charts, self._shown, self._redrawn = 0, [], None, 0.0
        self._add_controls()
        panel = server.gui.add_panel()
        panel.dock_left()
        panel.set_width(WITH_SCENE if self._stage else WITHOUT_SCENE)
        self._plots = panel.add_tab("Curves")
        self._choose()

    def run(self, ending: threading.Event) -> None:
        """Play until the event is set."""
        last = time.perf_counter()
        while not ending.wait(1.0 / PICTURES_PER_SECOND):
            while not self._todo.empty():
                self._todo.get()()
            now = time.perf_counter()
            self._playback, last = self._playback.advanced(now - last), now
            self._show(now)

    # What is on the page

    def _add_controls(self) -> None:
        gui, speed = self.server.gui, self._playback.speed
        self._choice = gui.add_dropdown("Episode", self._names, visible=len(self._logs) > 1)
        self._play = gui.add_button("Pause")
        self._time = gui.add_slider("Time [s]", 0.0, 1.0, 0.01, 0.0)
        self._speed = gui.add_slider("Speed", min(0.05, speed), max(5.0, speed), 0.05, speed)
        self._repeat = gui.add_checkbox("Repeat", True)
        self._follow = gui.add_checkbox("Follow", True, visible=self._stage is not None and self._stage.can_follow)
        self._text = gui.add_markdown("")
        self._play.on_click(lambda _: self._todo.put(self._toggle))
        self._on_user(self._choice, self._choose)
        self._on_user(self._time, self._scrub)
        self._on_user(self._speed, lambda: self._set(speed=float(self._speed.value)))
        self._on_user(self._repeat, lambda: self._set(repeat=self._repeat.value))
        self._on_user(self._follow, self._set_follow)

    def _on_user(self, handle: Any, do: Callable[[], None]) -> None:
        """Do something when somebody at a browser, not this program, has changed a control."""
        handle.on_update(lambda event: self._todo.put(do) if event.client is not None else None)

    def _choose(self) -> None:
        """Show the chosen episode from its beginning."""
        self._episode = self._names.index(self._choice.value)
        log = self._logs[self._episode]
        duration = float(log.times[-1] - log.times[0])
        self._set(duration=duration, position=0.0)
        self._time.max, self._time.step = max(duration, 1e-3), max(duration, 1e-3) / 1000
        for chart in self._charts:
            chart.remove()
        with self._plots:
            self._charts = [CurveChart(self.server, curve) for curve in curves(log, self._columns)]
        self._shown = None

    def _set(self, **changes: Any) -> None:
        self._playback = replace(self._playback, **changes)

    def _toggle(self) -> None:
        at_end = self._playback.position >= self._playback.duration
        if not self._playback.playing and at_end:
            self._set(position=0.0)
        self._set(playing=not self._playback.playing)

    def _scrub(self) -> None:
        """Stand still where somebody has put the slider."""
        self._playback = replace(self._playback.at(float(self._time.value)), playing=False)

    def _set_follow(self) -> None:
        if self._stage is not None:
            self._stage.follows = self._follow.value
            self._shown = None

    # What moves

    def _show(self, now: float) -> None:
        log, playback = self._logs[self._episode], self._playback
        self._play.label = "Pause" if playback.playing else "Play"
        row = playback.row(log.times)
        if self._stage is not None and row != self._shown:
            self._stage.show(_rows(log)[row])
        still = self._shown == row and not playback.playing
        if still or now - self._redrawn < SECONDS_PER_CURSOR:
            return
        self._shown, self._redrawn = row, now
        self._time.value = min(playback.position, self._time.max)
        self._text.content = describe(log, row)
        for chart in self._charts:
            chart.move_cursor(playback.position)


def _short(source: str) -> str:
    """The end of a long text, which is where paths differ."""
    return source if len(source) <= LONGEST_NAME else "..." + source[-LONGEST_NAME:]


def describe(log: Trajectory, row: int) -> str:
    """Where a playback stands in a log, in Markdown."""
    lines = [f"step {row} of {log.num_steps}, {log.times[row] - log.times[0]:.2f} s"]
    if log.rewards is not None:
        lines.append(f"return {log.rewards[:row].sum():.4g}")
    if row == log.num_steps:
        lines.append("terminated" if log.terminated else "truncated" if log.truncated else "end of the recording")
    return "  \n".join(line for line in [*lines, left_out(log)] if line)
