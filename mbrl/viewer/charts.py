"""Curves in the browser, drawn by uPlot."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mbrl.viewer.curves import Curve, with_cursor

if TYPE_CHECKING:
    import viser

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")  # those of the figures
COLOR_OF = {"states": COLORS[0], "observations": COLORS[0], "controls": COLORS[2], "rewards": COLORS[5]}
HEIGHT = 105  # [pixel]
CURSOR = {"stroke": COLORS[3], "width": 1.5, "scale": "cursor", "points": {"show": False}}


def add_chart(
    server: "viser.ViserServer",
    title: str,
    columns: tuple[np.ndarray, ...],
    series: tuple[Any, ...],
    span: tuple[float, float] | None = None,
) -> Any:
    """A chart of columns over the first one, with a scale from 0 to 1 called cursor; the handle's ``data`` can be set.

    Args:
        server: the page; the chart is added to the container that is open.
        title: above the chart.
        columns: ``(points,)`` each, the horizontal one first.
        series: how the others are drawn, see :func:`line`.
        span: ends of the vertical axis; those of the data by default, also when they change.
    """
    scales: Any = {"x": {"time": False}, "y": {"range": span} if span else {}, "cursor": {"range": (0.0, 1.0)}}
    axes: Any = ({"size": 26, "ticks": {"show": False}}, {"size": 52, "ticks": {"show": False}})
    return server.gui.add_uplot(
        columns,
        ({"label": "time [s]"}, *series),
        title=title,
        scales=scales,
        axes=axes,
        legend={"show": sum("label" in looks for looks in series) > 1},
        height=HEIGHT,
        padding=(8, 16, 0, 0),
    )


def line(label: str, color: str) -> dict[str, Any]:
    """How uPlot draws one column."""
    return {"label": label, "stroke": color, "width": 1.5, "points": {"show": False}}


class CurveChart:
    """A curve with a cursor.

    Args:
        server: the page; the chart is added to the container that is open.
        curve: what is drawn.
    """

    def __init__(self, server: "viser.ViserServer", curve: Curve):
        self._curve, self._longer = curve, False
        looks = (line(curve.label, COLOR_OF[curve.group]), CURSOR)
        self._handle = add_chart(server, curve.label, self._columns(0.0), looks, curve.span)

    def move_cursor(self, position: float) -> None:
        """Put the cursor at a time [s]."""
        self._handle.data = self._columns(position)

    def _columns(self, position: float) -> tuple[np.ndarray, ...]:
        """The curve and the cursor, on a time axis whose length changes by an invisible amount every time.

        Data that arrive while a browser lays out the page make uPlot forget to draw the horizontal axis until its ends change.
        """
        x, y, cursor = with_cursor(self._curve.x, self._curve.y, position)
        self._longer = not self._longer
        x[-1] += 1e-6 * (x[-1] - x[0]) * self._longer
        return x, y, cursor

    def remove(self) -> None:
        """Take the chart off the page."""
        self._handle.remove()
