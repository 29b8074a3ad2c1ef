"""The house style: one look for every figure, colors that survive color blindness, no global pyplot state.

Colors are those of Okabe and Ito (2008) and keep their meaning across figures; lines differ by dash or marker as well.
"""

import base64
import functools
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
INK, GRAY = "#1a1a1a", "#7f7f7f"
CYCLE = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE)

STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "savefig.dpi": 160,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {[*CYCLE]})",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": True,  # readable where it covers a line
    "legend.framealpha": 0.85,
    "legend.edgecolor": "white",
    "legend.fancybox": False,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "mbrl",
}

P = ParamSpec("P")
R = TypeVar("R")


def in_house_style(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function in the house style and leave the settings of matplotlib as they were."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure [inch] that no window manager knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def grid_of_axes(count: int, *, height: float = 1.5, share_x: bool = True) -> "tuple[Figure, list[Axes]]":
    """A figure with ``count`` small axes in as many columns as keep it on a page, filled column by column.

    With a shared x axis, only the last of each column has tick labels.
    """
    columns = 1 if count <= 6 else 2 if count <= 14 else 3
    rows = math.ceil(count / columns)
    figure = new_figure(8.0 if columns == 1 else 11.0, max(height * rows, 2.2) + 0.7)
    grid = figure.subplots(rows, columns, sharex=share_x, squeeze=False).T.flatten()
    for unused in grid[count:]:
        unused.remove()
    if share_x:
        last_in_column = [min(rows * (column + 1), count) - 1 for column in range(columns)]
        for index, axes in enumerate(grid[:count]):
            axes.tick_params(labelbottom=index in last_in_column)
    return figure, list(grid[:count])


def plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def axis_label(name: str, unit: str = "", *, separator: str = " ") -> str:
    """``name [unit]`` with underscores as spaces."""
    return plain(name.replace("_", " ") + (f"{separator}[{unit}]" if unit else ""))


def seconds_and_steps(axes: "Axes", horizons: Sequence[int], dt: float) -> None:
    """A logarithmic x axis [s] with a tick per horizon, at most eight, that also names its number of steps."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    shown = list(horizons)[:: math.ceil(len(horizons) / 8)]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator([k * dt for k in shown]))
    axes.set_xticklabels([f"{k * dt:.3g}\nk = {k}" for k in shown])
    axes.set_xlabel("prediction horizon [s]")


@in_house_style
def save_figure(figure: "Figure", path: str | Path) -> Path:
    """Write a figure to a file; the suffix (``.png``, ``.svg``, ``.pdf``) is the format. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


@in_house_style
def figure_to_data_uri(figure: "Figure") -> str:
    """A figure as a PNG in a ``data:`` address, for pages without further files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
