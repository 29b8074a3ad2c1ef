"""A control loop in the browser, while it runs."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import functools
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mbrl.policies.actor import Actor, require_actor
from mbrl.tasks.base import Task
from mbrl.viewer.charts import COLORS, add_chart, line
from mbrl.viewer.form import Form, Queue
from mbrl.viewer.loop import LoopState, advance, begin, pushed
from mbrl.viewer.scene import drawn_model
from mbrl.viewer.server import Viewer, escaped, open_server
from mbrl.viewer.stage import Stage

if TYPE_CHECKING:
    import mujoco
    import viser

WINDOW = 10.0  # of the curves [s]
SECONDS_PER_PICTURE = 1.0 / 30.0
SECONDS_PER_CURVE = 0.2
LONGEST_WAIT = 0.05  # after which the page is listened to [s]
MOST_LINES = 6  # of a chart
STEPS_OF_PACE = 50  # over which the pace is measured
WITH_SCENE, WITHOUT_SCENE = 420, 900  # width of the curves [pixel]


def view_control(
    task: Task,
    actor: Actor,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    speed: float = 1.0,
    initial_state: Tensor | None = None,
    generator: torch.Generator | None = None,
    block: bool = True,
) -> Viewer:
    """Run what acts on a task and watch it in the browser, with a control for each field of its configuration.

    The loop runs on the task's plant until the page is closed, at most at the given speed; planning that takes longer than a
    control step slows it down. The page shows the scene, the planned motion of an MPC, rewards, costs and planning times, and has
    buttons to stop, start again and push. Every number, flag, option and nested configuration among the fields of the actor (of
    MPC: its planner, problem and budget) gets a control; a change replaces the actor by a changed copy, and a value that it
    refuses is explained on the page and put back.

    Args:
        task: the plant, its rewards and its initial distribution.
        actor: anything that acts: MPC with any planner, a policy, a controller.
        host: address to serve at; ``"0.0.0.0"`` lets other machines look, and set what there is to be set.
        port: of the address; the next free one is taken where it is not free, 0 takes any.
        speed: simulated seconds per second, to begin with.
        initial_state: ``(n,)`` instead of draws from the task.
        generator: source of initial states, pushes and of the actor's randomness; seeded with 0 by default.
        block: return when Ctrl-C is pressed, or at once with the page open.

    Returns:
        The page, closed if ``block`` is set.

    Raises:
        ModuleNotFoundError: viser is not installed.
        TypeError: actor is nothing that acts, or task no task.
        ValueError: speed is not positive, or the initial state has another shape.
        OSError: nothing can be served at the address.
    """
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task, got {type(task).__name__}: view_control(task, actor)")
    require_actor(actor)
    if not (math.isfinite(speed) and speed > 0):
        raise ValueError(f"speed must be a positive number of simulated seconds per second, got {speed}")
    generator = generator or torch.Generator().manual_seed(0)
    model = drawn_model(task)
    begin(task, actor, generator.clone_state(), initial_state)  # refuses a bad state before a page is there
    page = _Page(open_server(host, port, task.name), task, actor, model, speed, initial_state, generator)
    viewer = Viewer(page.server, page.run)
    if block:
        viewer.wait()
    return viewer


class _Page:
    """The page of a running control loop. Callbacks only queue what to do; all of it is done by the thread in :meth:`run`."""

    def __init__(
        self,
        server: "viser.ViserServer",
        task: Task,
        actor: Actor,
        model: "mujoco.MjModel | None",
        speed: float,
        initial_state: Tensor | None,
        generator: torch.Generator,
    ):
        self.server, self._task = server, task
        self._initial_state, self._generator = initial_state, generator
        self._todo: Queue = queue.SimpleQueue()
        self._stage = None if model is None else Stage(server, model)
        self._speed, self._strength, self._paused, self._note = speed, 1.0, False, ""
        self._state = begin(task, actor, generator, initial_state)
        self._stamps: deque[float] = deque(maxlen=STEPS_OF_PACE)
        self._pictured, self._drawn, self._changed = (
            0.0,
            0.0,
            0.0,
        )  # when the scene, the curves and what they show last did
        self._add_controls()
        self._form = Form(server, actor, self._todo)
        self._code = server.gui.add_markdown("")
        panel = server.gui.add_panel()
        panel.dock_left()
        panel.set_width(WITH_SCENE if self._stage else WITHOUT_SCENE)
        with panel.add_tab("Curves"):
            self._history = History(server, task, planned=hasattr(self._state.memory, "solution"), states=model is None)

    def run(self, ending: threading.Event) -> None:
        """Control until the event is set."""
        due = time.perf_counter()
        while not ending.is_set():
            while not self._todo.empty():
                self._todo.get()()
                self._changed = time.perf_counter()
            if self._paused:
                due = time.perf_counter() + LONGEST_WAIT
            elif time.perf_counter() >= due:
                self._step()
                due = max(due + self._task.dynamics.dt / self._speed, time.perf_counter())
            self._show()
            ending.wait(min(max(due - time.perf_counter(), 0.0), LONGEST_WAIT))

    # What happens

    def _step(self) -> None:
        try:
            state = advance(self._task, self._form.configuration, self._state)
        except Exception as error:
            if self._form.undo(error):
                return
            self._text.content = f"**Stopped: {escaped(str(error))}**"
            raise
        self._form.confirm()
        self._stamps.append(time.perf_counter())
        self._state = state
        if state.ended != "diverged":
            self._history.add(state)
        if state.ended:
            self._reset(f"The last episode {state.ended} after {self._seconds:.2f} s, return {state.total:.4g}.")

    def _reset(self, note: str = "") -> None:
        self._state = begin(self._task, self._form.configuration, self._generator, self._initial_state)
        self._history.clear()
        self._note, self._pictured, self._drawn = note, 0.0, 0.0

    def _push(self) -> None:
        self._state = pushed(self._task.dynamics, self._state, self._strength, self._generator)
        self._pictured = 0.0

    def _toggle(self) -> None:
        self._paused = not self._paused
        self._play.label = "Go on" if self._paused else "Pause"
        self._stamps.clear()

    @property
    def _seconds(self) -> float:
        return self._state.step * self._task.dynamics.dt

    # What is on the page

    def _add_controls(self) -> None:
        gui, speed = self.server.gui, self._speed
        self._text = gui.add_markdown("")
        self._play = gui.add_button("Pause")
        reset, push = gui.add_button("Start again"), gui.add_button("Push")
        strength = gui.add_slider("Push strength", 0.0, 5.0, 0.1, self._strength, hint="Change of the velocities.")
        pace = gui.add_slider(
            "Speed", min(0.05, speed), max(2.0, speed), 0.05, speed, hint="At most; planning takes time."
        )
        follow = gui.add_checkbox("Follow", True, visible=self._stage is not None and self._stage.can_follow)
        for button, do in ((self._play, self._toggle), (reset, self._reset), (push, self._push)):
            button.on_click(functools.partial(self._queue, do))
        strength.on_update(lambda _: self._queue(lambda: setattr(self, "_strength", float(strength.value))))
        pace.on_update(lambda _: self._queue(lambda: setattr(self, "_speed", float(pace.value))))
        follow.on_update(lambda _: self._queue(lambda: setattr(self._stage, "follows", follow.value)))

    def _queue(self, do: Callable[[], None], event: Any = None) -> None:
        self._todo.put(do)

    def _show(self) -> None:
        """Bring the page up to date, unless it is, or was a moment ago."""
        now = time.perf_counter()
        if self._paused and self._drawn > self._changed + SECONDS_PER_CURVE:
            return
        if now - self._pictured >= SECONDS_PER_PICTURE:
            self._pictured = now
            self._show_scene()
        if now - self._drawn >= SECONDS_PER_CURVE:
            self._drawn = now
            self._history.draw()
            self._text.content = self._describe()
            self._code.content = f"```python\n{self._form}\n```" if str(self._form) else ""

    def _show_scene(self) -> None:
        if self._stage is None:
            return
        self._stage.show(self._state.x[0].numpy())
        solution = self._state.solution
        self._stage.show_plan(None if solution is None else solution.xs[0].detach().cpu().numpy())

    def _describe(self) -> str:
        """Where the loop stands, in Markdown."""
        dt, state, stamps = self._task.dynamics.dt, self._state, self._stamps
        lines = [f"{self._seconds:.2f} s, return {state.total:.4g}"]
        if len(stamps) > 1:
            pace = dt * (len(stamps) - 1) / (stamps[-1] - stamps[0])
            lines.append(f"{pace:.2g} x real time, control in {1e3 * state.seconds:.0f} ms of {1e3 * dt:.0f} ms")
        fallbacks = getattr(state.memory, "fallbacks", None)
        if fallbacks is not None and int(fallbacks.sum()):
            lines.append(f"{int(fallbacks.sum())} steps without a usable plan")
        return "  \n".join([*lines, self._note] if self._note else lines)


class History:
    """Curves of the last seconds of a control loop.

    Args:
        server: the page; the charts are added to the container that is open.
        task: gives names, units and the time step.
        planned: whether the actor plans, so that there is a cost of the plan.
        states: whether to draw the states, where there is no scene that shows them.
    """

    def __init__(self, server: "viser.ViserServer", task: Task, *, planned: bool, states: bool):
        self._dt = task.dynamics.dt
        length = max(round(WINDOW / self._dt), 2)
        self._rows: deque[tuple[float, ...]] = deque(maxlen=length)
        self._charts: list[tuple[Any, slice]] = []
        self._planned, self._states, self._width = planned, states, 1
        self._add(server, "", ["reward"])
        self._add(server, "", ["cost so far"])
        self._add(server, "", [f"time for a control [ms], a step has {1e3 * self._dt:.0f} ms"])
        if planned:
            self._add(server, "", ["cost of the plan"])
        self._add(server, "controls", _labels(task, "controls"))
        if states:
            self._add(server, "states", _labels(task, "states"))
        self._empty = np.zeros((1, self._width))

    def _add(self, server: "viser.ViserServer", title: str, labels: list[str]) -> None:
        shown = labels[:MOST_LINES]
        title = shown[0] if len(labels) == 1 else title
        columns = tuple(np.zeros((1 + len(shown), 1)))
        series = tuple(line(label, color) for label, color in zip(shown, COLORS, strict=False))
        where = slice(self._width, self._width + len(shown))
        self._charts.append((add_chart(server, title, columns, series), where))
        self._width += len(shown)

    def add(self, state: LoopState) -> None:
        """One more step."""
        row = [state.step * self._dt, state.reward, -state.total, 1e3 * state.seconds]
        if self._planned:
            row.append(float(state.solution.cost.mean()))
        row += state.control[:MOST_LINES].tolist()
        row += state.x[0, :MOST_LINES].tolist() if self._states else []
        self._rows.append(tuple(row))

    def clear(self) -> None:
        """Begin again."""
        self._rows.clear()

    def draw(self) -> None:
        """Bring the charts up to date."""
        table = np.array(self._rows) if self._rows else self._empty
        for handle, columns in self._charts:
            handle.data = (table[:, 0], *table[:, columns].T)


def _labels(task: Task, group: str) -> list[str]:
    names = getattr(task.dynamics, "control_names" if group == "controls" else "state_names")
    units = task.units.get(group, ("",) * len(names))
    return [name + (f" [{unit}]" if unit else "") for name, unit in zip(names, units, strict=True)]
