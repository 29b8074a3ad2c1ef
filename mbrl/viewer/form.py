"""The fields of a configuration as controls on the page."""

import queue
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mbrl.viewer.server import escaped
from mbrl.viewer.widgets import Choice, Flag, Number, Path, Widget, as_code, is_configuration, widgets, with_value

if TYPE_CHECKING:
    import viser

Queue = queue.SimpleQueue[Callable[[], None]]


class Form:
    """Controls that replace a configuration by changed copies. A value that it refuses is said and put back.

    Args:
        server: the page; the form is added to the container that is open.
        configuration: a frozen dataclass, see :func:`~mbrl.viewer.widgets.widgets`; another object has no controls.
        todo: where changes by the user are put, to be made by the thread that owns the form.
        open_folder: name of the field whose folder is open at first; others are closed.

    Attributes:
        configuration: the present one.
    """

    def __init__(self, server: "viser.ViserServer", configuration: Any, todo: Queue, *, open_folder: str = "planner"):
        self.configuration, self._initial = configuration, configuration
        self._proven = configuration  # the last one that has worked
        self._server, self._todo, self._open = server, todo, open_folder
        self._handles: dict[Path, Any] = {}
        self._switches: dict[Path, Any] = {}
        self._structure: list[Any] = []
        self._message = server.gui.add_markdown("", visible=False)
        self._top = server.gui.add_folder(None)
        self._order = self._top.order  # its place on the page, also when it is made afresh
        self._update()

    def change(self, path: Sequence[str], value: Any) -> None:
        """Change one value, or say why not."""
        try:
            self.configuration = with_value(self.configuration, path, value)
            self._say("")
        except ValueError as error:
            self._say(f"{path[-1]} stays as it was: {error}")
        self._update()

    def confirm(self) -> None:
        """The present configuration has worked."""
        self._proven = self.configuration

    def undo(self, error: Exception) -> bool:
        """Go back to the configuration that has worked last, and say why; False if it is the present one."""
        if self.configuration is self._proven:
            return False
        self.configuration = self._proven
        self._say(f"The change is taken back: {error}")
        self._update()
        return True

    def _say(self, sentence: str) -> None:
        self._message.content, self._message.visible = f"**{escaped(sentence)}**" if sentence else "", bool(sentence)

    def __str__(self) -> str:
        """The part of the configuration that the open folder shows, as code to copy; empty where there is none."""
        shown = getattr(self.configuration, self._open, self.configuration)
        return as_code(shown) if is_configuration(shown) else ""

    # Controls

    def _update(self) -> None:
        """Make the controls show the configuration; they are made afresh where it has other fields than before."""
        described = widgets(self.configuration, self._initial) if is_configuration(self.configuration) else []
        structure = [(type(w), w.path, *([*w.options] if isinstance(w, Choice) else ())) for w in described]
        if structure != self._structure:
            self._structure = structure
            self._build(described)
        for widget in described:
            self._show(widget)

    def _build(self, described: list[Widget]) -> None:
        self._top.remove()
        self._top = self._server.gui.add_folder(None, order=self._order)
        self._handles, self._switches = {}, {}
        folders: dict[Path, Any] = {(): self._top}
        for widget in described:
            with self._folder(self._home(widget), folders):
                self._add(widget)

    def _home(self, widget: Widget) -> Path:
        """The field whose folder holds a control: the choice of what kind a nested configuration is belongs to its own."""
        value = self.configuration
        for name in widget.path:
            value = getattr(value, name)
        return widget.path if is_configuration(value) else widget.path[:-1]

    def _folder(self, path: Path, folders: dict[Path, Any]) -> Any:
        if path not in folders:
            with self._folder(path[:-1], folders):
                opened = path[0] == self._open
                folders[path] = self._server.gui.add_folder(path[-1], expand_by_default=opened)
        return folders[path]

    def _add(self, widget: Widget) -> None:
        gui, path, name = self._server.gui, widget.path, widget.path[-1]
        hint = widget.hint or None
        if isinstance(widget, Choice):
            handle: Any = gui.add_dropdown(name, list(widget.options), initial_value=widget.label, hint=hint)
            self._on_user(handle, lambda: self._choose(path, handle.value))
        elif isinstance(widget, Flag):
            handle = gui.add_checkbox(name, widget.value, hint=hint)
            self._on_user(handle, lambda: self.change(path, handle.value))
        else:
            if widget.optional:
                switch = gui.add_checkbox(f"set {name}", widget.value is not None, hint=hint)
                self._switches[path] = switch
                self._on_user(switch, lambda: self.change(path, handle.value if switch.value else None))
            handle = gui.add_slider(name, widget.lower, widget.upper, widget.step, widget.start, hint=hint)
            self._on_user(handle, lambda: self.change(path, handle.value))
        self._handles[path] = handle

    def _choose(self, path: Path, label: str) -> None:
        described = widgets(self.configuration, self._initial)
        options = next(widget.options for widget in described if isinstance(widget, Choice) and widget.path == path)
        self.change(path, options[label])

    def _on_user(self, handle: Any, do: Callable[[], None]) -> None:
        """Do something when somebody at a browser, not this program, has changed a control."""
        handle.on_update(lambda event: self._todo.put(do) if event.client is not None else None)

    def _show(self, widget: Widget) -> None:
        """The present value, and how far it can go now."""
        handle = self._handles[widget.path]
        if isinstance(widget, Choice):
            handle.value = widget.label
        elif isinstance(widget, Flag):
            handle.value = widget.value
        else:
            self._show_number(handle, widget)

    def _show_number(self, handle: Any, widget: Number) -> None:
        handle.min, handle.max = widget.lower, widget.upper
        if widget.value is not None:
            handle.value = widget.value
        if widget.path in self._switches:
            self._switches[widget.path].value = widget.value is not None
            handle.visible = widget.value is not None
