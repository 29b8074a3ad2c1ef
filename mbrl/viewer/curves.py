"""Columns of a trajectory as curves that a page can draw: steps of held controls, few enough points, a cursor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamics import Trajectory

MOST_CURVES = 12  # of a group, unless columns are named
MOST_POINTS = 1000


@dataclass(frozen=True, eq=False)
class Curve:
    """One column over time.

    Attributes:
        group: ``"states"``, ``"observations"``, ``"controls"`` or ``"rewards"``.
        label: name and unit.
        x: time since the first stamp [s], ``(points,)``, not decreasing.
        y: values, ``(points,)``.
    """

    group: str
    label: str
    x: np.ndarray
    y: np.ndarray

    @property
    def span(self) -> tuple[float, float]:
        """Ends of an axis on which the curve is seen, also if it is constant."""
        low, high = float(self.y.min()), float(self.y.max())
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return low - margin, high + margin


def curves(trajectory: Trajectory, columns: Sequence[str] | None = None) -> list[Curve]:
    """States (observations where there are none), controls and rewards of a trajectory.

    Args:
        trajectory: what was recorded.
        columns: names of those to show, also of observations beside states; by default the first twelve of each group.

    Raises:
        ValueError: there is no such column.
    """
    groups = ["observations" if trajectory.states is None else "states", "controls"]
    if columns is not None:
        names = {
            name: group for group in ("observations", "controls", "states") for name in getattr(trajectory.names, group)
        }
        names |= {} if trajectory.rewards is None else {"reward": "rewards"}
        missing = [name for name in columns if name not in names]
        if missing:
            raise ValueError(f"{trajectory!r} has no column {missing[0]!r}; it has {', '.join(names)}")
        groups = ["states", "observations", "controls"]
    found = []
    for group in groups:
        names = getattr(trajectory.names, group)
        shown = names[:MOST_CURVES] if columns is None else [name for name in names if name in columns]
        if group == "observations" and columns is not None:
            shown = [name for name in shown if name not in trajectory.names.states]
        found += [_column(trajectory, group, names.index(name)) for name in shown]
    if trajectory.rewards is not None and (columns is None or "reward" in columns):
        x, y = held(trajectory.times - trajectory.times[0], trajectory.rewards)
        found.append(Curve("rewards", "reward", *thinned(x, y)))
    return found


def left_out(trajectory: Trajectory, columns: Sequence[str] | None = None) -> str:
    """A sentence about the columns that :func:`curves` does not show by default; empty if it shows all."""
    group = "observations" if trajectory.states is None else "states"
    counts = {g: len(getattr(trajectory.names, g)) for g in (group, "controls")}
    many = [f"the first {MOST_CURVES} of {count} {g}" for g, count in counts.items() if count > MOST_CURVES]
    return f"Shown are {' and '.join(many)}; others by name, with columns=." if many and columns is None else ""


def _column(trajectory: Trajectory, group: str, index: int) -> Curve:
    name, unit = getattr(trajectory.names, group)[index], getattr(trajectory.units, group)[index]
    x, y = trajectory.times - trajectory.times[0], getattr(trajectory, group)[:, index]
    if group == "controls":
        x, y = held(x, y)
    label = name.replace("_", " ") + (f" [{unit}]" if unit else "")
    return Curve(group, label, *thinned(x, y))


def held(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values ``(T,)``, each held from its time to the next of ``(T+1,)``, as corners ``(2 T,)``; without steps, one zero."""
    if len(values) == 0:
        return times[:1], np.zeros(1)
    return np.repeat(times, 2)[1:-1], np.repeat(values, 2)


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most ``most`` points that looks the same: of each of equal pieces the lowest and the highest point."""
    if len(x) <= most:
        return x, y
    starts = np.linspace(0, len(x), most // 2, endpoint=False).astype(int)
    pieces = zip(starts, [*starts[1:], len(x)], strict=True)
    kept = np.unique([a + i for a, b in pieces for i in (np.argmin(y[a:b]), np.argmax(y[a:b]))])
    kept[0], kept[-1] = 0, len(x) - 1  # the whole time axis
    return x[kept], y[kept]


def with_cursor(x: np.ndarray, y: np.ndarray, position: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A curve and a vertical line at a position, on one time axis as uPlot wants it.

    Returns:
        x and y with three points added on the curve, and the line: 2 at the middle one of them and -1 elsewhere, which is above
        and below a scale from 0 to 1.
    """
    at = int(np.searchsorted(x, position, side="right"))
    value = np.interp(position, x, y)
    line = np.full(len(x) + 3, -1.0)
    line[at + 1] = 2.0
    return np.insert(x, at, [position] * 3), np.insert(y, at, [value] * 3), line
