"""Plans in a plane: paths, obstacles, and the bodies that move among them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mbrl.plots.style import BLUE, CYCLE, GRAY, GREEN, INK, RED, in_house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = np.ndarray | Tensor
Region = tuple[Sequence[float], Sequence[float]]
Obstacles = Callable[[Tensor], Tensor]
RESOLUTION = 400  # cells along the longer side of a picture of obstacles
STYLES = ("-", "--", "-.", ":")


@in_house_style
def plot_paths(
    paths: Mapping[str, Points],
    *,
    obstacles: Obstacles | None = None,
    bodies: Sequence[Points] = (),
    snapshots: int = 12,
    goal: Sequence[float] | None = None,
    region: Region | None = None,
    labels: tuple[str, str] = ("x [m]", "y [m]"),
    title: str = "",
) -> "Figure":
    """Paths among obstacles in a plane.

    Args:
        paths: points ``(T+1, 2)`` [m] by name; the first one is drawn boldest.
        obstacles: rows ``fn(points) -> (..., k)`` of points ``(..., 2)``, as of a :class:`planners.StateInequality`; where one is
            positive is an obstacle.
        bodies: polygons ``(T+1, corners, 2)`` that belong to the first path, see :func:`outlines`.
        snapshots: how many of them are drawn, evenly in time.
        goal: a point that is marked.
        region: lower left and upper right corner of the picture; by default, what holds everything but the obstacles.
        labels: of the axes.
        title: above the picture.

    Raises:
        ValueError: there is no path, or one has another shape.
    """
    curves = _checked(paths)
    parts = [_array(part) for part in bodies]
    figure = new_figure(7.2, 5.4)
    axes = figure.subplots()
    _set_up(axes, [*curves.values(), *(part.reshape(-1, 2) for part in parts)], obstacles, goal, region, labels)
    if parts:
        count = len(parts[0])
        chosen = np.unique(np.round(np.linspace(0, count - 1, min(snapshots, count))).astype(int))
        for shade, index in zip(np.linspace(0.2, 0.6, len(chosen)), chosen, strict=True):
            _add_polygons(axes, [part[index] for part in parts], shade)
    for i, (name, curve) in enumerate(curves.items()):
        width = 2.2 if i == 0 else 1.5
        color, style = CYCLE[i % len(CYCLE)], STYLES[i % len(STYLES)]
        axes.plot(*curve.T, color=color, linestyle=style, linewidth=width, label=name, zorder=4 - 0.1 * i)
    first = next(iter(curves.values()))
    axes.plot(*first[0], color=INK, marker="o", linestyle="", markersize=6, label="start", zorder=5)
    _add_legend(figure, axes)
    axes.set_title(title)
    return figure


@in_house_style
def animate_paths(
    bodies: Sequence[Points],
    *,
    dt: float,
    paths: Mapping[str, Points] | None = None,
    obstacles: Obstacles | None = None,
    goal: Sequence[float] | None = None,
    region: Region | None = None,
    labels: tuple[str, str] = ("x [m]", "y [m]"),
    fps: float = 25.0,
    width: int = 640,
    height: int = 480,
) -> np.ndarray:
    """Frames of bodies that move in a plane, in real time; between two steps they move on straight lines.

    Args:
        bodies: polygons ``(T+1, corners, 2)`` [m] that move together, see :func:`outlines`.
        dt: duration of a step [s].
        paths: points ``(K, 2)`` by name, drawn in every frame.
        obstacles: as of :func:`plot_paths`.
        goal: a point that is marked.
        region: lower left and upper right corner of the picture; by default, what holds everything but the obstacles.
        labels: of the axes.
        fps: frames per second.
        width: of the frames [pixel].
        height: of the frames [pixel].

    Returns:
        Frames ``(frames, height, width, 3)`` of uint8, for :func:`write_video`.

    Raises:
        ValueError: a body or a path has another shape, or is not finite.
    """
    parts = [_array(part) for part in bodies]
    if not parts or any(part.ndim != 3 or part.shape[-1] != 2 or len(part) != len(parts[0]) for part in parts):
        raise ValueError(f"bodies must be polygons (T+1, corners, 2), got {[part.shape for part in parts]}")
    curves = _checked(paths) if paths else {}
    moving = [_between(part, dt, fps) for part in parts]
    figure = new_figure(width / 100, height / 100)
    axes = figure.subplots()
    _set_up(axes, [*curves.values(), *(part.reshape(-1, 2) for part in parts)], obstacles, goal, region, labels)
    for i, (name, curve) in enumerate(curves.items()):
        axes.plot(*curve.T, color=CYCLE[i % len(CYCLE)], linestyle=STYLES[i % len(STYLES)], label=name, zorder=3)
    _add_legend(figure, axes)
    patches = _add_polygons(axes, [part[0] for part in moving], 1.0)
    frames = np.empty((len(moving[0]), height, width, 3), dtype=np.uint8)
    for i in range(len(frames)):
        for patch, part in zip(patches, moving, strict=True):
            patch.set_xy(part[i])
        axes.set_title(f"{i / fps:.2f} s")
        figure.canvas.draw()
        figure.set_layout_engine("none")  # laid out once, for the first frame
        frames[i] = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    return frames


def _set_up(
    axes: "Axes",
    points: Sequence[np.ndarray],
    obstacles: Obstacles | None,
    goal: Sequence[float] | None,
    region: Region | None,
    labels: tuple[str, str],
) -> None:
    """The frame about all points, obstacles and goal."""
    if region is None:
        everything = np.concatenate([*points, np.atleast_2d(goal)] if goal is not None else points)
        lower, upper = everything.min(0), everything.max(0)
        margin = 0.06 * max(float((upper - lower).max()), 1e-3)
        lower, upper = lower - margin, upper + margin
    else:
        lower, upper = (np.asarray(corner, dtype=float) for corner in region)
    axes.set_aspect("equal", adjustable="box")
    axes.set(xlim=(lower[0], upper[0]), ylim=(lower[1], upper[1]), xlabel=labels[0], ylabel=labels[1])
    if obstacles is not None:
        cell = float((upper - lower).max()) / RESOLUTION
        grid = [np.arange(lo, hi + cell, cell) for lo, hi in zip(lower, upper, strict=True)]
        mesh = np.stack(np.meshgrid(*grid, indexing="xy"), axis=-1)
        inside = obstacles(torch.from_numpy(mesh)).amax(-1).detach().numpy()
        axes.contourf(*grid, inside, levels=[0.0, np.inf], colors=[GRAY], alpha=0.45, zorder=1)
        axes.contour(*grid, inside, levels=[0.0], colors=[INK], linewidths=1.0, zorder=1)
    if goal is not None:
        axes.plot(*goal, color=GREEN, marker="*", linestyle="", markersize=14, label="goal", zorder=5)


def _add_legend(figure: "Figure", axes: "Axes") -> None:
    """Below the picture, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=len(handles))


def _add_polygons(axes: "Axes", corners: Sequence[np.ndarray], alpha: float) -> list:
    """The first part is the body, the others stand out from it."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Polygon

    patches = []
    for i, part in enumerate(corners):
        fill, edge = (
            to_rgba(BLUE if i == 0 else RED, alpha**2),
            to_rgba(INK, alpha),
        )  # outlines stay where bodies overlap
        patch = Polygon(part, closed=True, facecolor=fill, edgecolor=edge, linewidth=0.8, zorder=2 + 0.01 * i)
        patches.append(axes.add_patch(patch))
    return patches


def _checked(paths: Mapping[str, Points]) -> dict[str, np.ndarray]:
    curves = {name: _array(points) for name, points in paths.items()}
    wrong = {name: curve.shape for name, curve in curves.items() if curve.ndim != 2 or curve.shape[1:] != (2,)}
    if wrong or not curves:
        raise ValueError(f"paths must be points (T+1, 2) by name, got {wrong or 'none'}")
    return curves


def _between(part: np.ndarray, dt: float, fps: float) -> np.ndarray:
    """Corners at each frame of a video in real time, on straight lines between the steps: ``(frames, corners, 2)``."""
    if not np.isfinite(part).all():
        raise ValueError("bodies must be finite; draw them up to the first state that is not")
    if not (dt > 0 and fps > 0):
        raise ValueError(f"dt and fps must be positive, got dt={dt}, fps={fps}")
    count = math.floor((len(part) - 1) * dt * fps + 1e-9) + 1
    at = np.arange(count) / (fps * dt)
    below = np.minimum(at.astype(int), len(part) - 1)
    above, share = np.minimum(below + 1, len(part) - 1), (at - below)[:, None, None]
    return (1.0 - share) * part[below] + share * part[above]


def _array(points: Points) -> np.ndarray:
    return np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, dtype=float)
