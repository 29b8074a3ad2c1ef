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
        span: ends of the horizontal axis; those of the data by default, also when they change.
    """
    scales = {"x": {"time": False} | ({"range": span} if span else {}), "y": {}, "cursor": {"range": (0.0, 1.0)}}
    axes: Any = ({"size": 26, "ticks": {"show": False}}, {"size": 52, "ticks": {"show": False}})
    return server.gui.add_uplot(
        columns,
        ({"label": "time [s]"}, *series),
        title=title,
        scales=scales,  # type: ignore[arg-type]
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
        self._curve = curve
        columns, looks = with_cursor(curve.x, curve.y, 0.0), (line(curve.label, COLOR_OF[curve.group]), CURSOR)
        # An axis left to uPlot stays empty in a browser that comes when the cursor has moved already.
        self._handle = add_chart(server, curve.label, columns, looks, (float(curve.x[0]), float(max(curve.x[-1], 1e-3))))

    def move_cursor(self, position: float) -> None:
        """Put the cursor at a time [s]."""
        self._handle.data = with_cursor(self._curve.x, self._curve.y, position)

    def remove(self) -> None:
        """Take the chart off the page."""
        self._handle.remove()
