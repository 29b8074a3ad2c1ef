"""Moving drawings in matplotlib, for systems without a scene and machines without a graphics library."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from dynamics import Acrobot, Car, CartPole, Dynamics, Pendulum, Reacher, TwoLinkArm, Unicycle
from mbrl.plots.bodies import outlines
from mbrl.plots.paths import animate_paths
from mbrl.plots.style import BLUE, GRAY, GREEN, INK, ORANGE, RED, axis_label, grid_of_axes, in_house_style, new_figure
from mbrl.plots.video import states_at_frames

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CURVES = 12


@in_house_style
def animate(
    dynamics: Dynamics, states: np.ndarray | Tensor, *, fps: float = 25.0, width: int = 640, height: int = 360
) -> np.ndarray:
    """Frames of a motion in real time: rods and arms as mechanisms, vehicles from above, other systems as curves with a cursor.

    Args:
        dynamics: says what the states mean; of a mechanism also how long its rods are.
        states: ``(T+1, n)``.
        fps: frames per second.
        width: of the frames [pixel].
        height: of the frames [pixel].

    Returns:
        Frames ``(frames, height, width, 3)`` of uint8, for :func:`write_video`.

    Raises:
        ValueError: the states have another shape or are not finite.
    """
    states = states.detach().cpu().numpy() if isinstance(states, Tensor) else np.asarray(states)
    x = states_at_frames(states, dynamics.dt, fps)
    if x.shape[1] != dynamics.state_dim:
        raise ValueError(f"{type(dynamics).__name__} has {dynamics.state_dim} states, got columns {x.shape[1]}")
    if isinstance(dynamics, Car | Unicycle):
        drawn = {"dt": 1.0 / fps, "fps": fps, "paths": {"path": states[:, :2]}, "width": width, "height": height}
        return animate_paths(outlines(dynamics, x), **drawn)
    seconds = np.arange(len(x)) / fps
    if isinstance(dynamics, CartPole | Pendulum | Acrobot | TwoLinkArm):
        figure, move = _mechanism(_joints(dynamics, x), seconds, on_cart=isinstance(dynamics, CartPole))
    elif isinstance(dynamics, Reacher):
        figure, move = _mechanism(_joints(dynamics, x), seconds, goals=x[:, 2:4])
    else:
        figure, move = _curves(dynamics, states, seconds)
    figure.set_size_inches(width / figure.dpi, height / figure.dpi)
    frames = np.empty((len(x), height, width, 3), dtype=np.uint8)
    for i in range(len(x)):
        move(i)
        figure.canvas.draw()
        figure.set_layout_engine("none")  # laid out once, for the first frame
        frames[i] = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    return frames


def _joints(dynamics: CartPole | Pendulum | Acrobot | TwoLinkArm | Reacher, x: np.ndarray) -> np.ndarray:
    """Hinges and tip of a chain of rods in the plane [m], ``(frames, points, 2)``."""
    values = dynamics.shared_values()
    if isinstance(dynamics, CartPole):
        base, angles, lengths = x[:, 0], x[:, 1:2], [values["length"]]
    elif isinstance(dynamics, Pendulum):
        base, angles, lengths = np.zeros(len(x)), x[:, :1], [values["length"]]
    else:
        base, angles, lengths = np.zeros(len(x)), np.cumsum(x[:, :2], axis=1), [values["length_1"], values["length_2"]]
    sin_and_cos = [np.sin(angles), np.cos(angles)]  # from upright, but those of a reacher from the x axis
    rods = np.stack(sin_and_cos[::-1] if isinstance(dynamics, Reacher) else sin_and_cos, axis=-1)
    rods = rods * np.array(lengths)[:, None]
    start = np.stack([base, np.zeros(len(x))], axis=-1)[:, None]
    return np.concatenate([start, start + np.cumsum(rods, axis=1)], axis=1)


def _mechanism(
    points: np.ndarray, seconds: np.ndarray, *, on_cart: bool = False, goals: np.ndarray | None = None
) -> "tuple[Figure, Callable[[int], None]]":
    """Chains of rods ``(frames, points, 2)`` in a vertical plane, or with goals ``(frames, 2)`` in a horizontal one."""
    from matplotlib.patches import Rectangle

    reach = np.linalg.norm(np.diff(points[0], axis=0), axis=1).sum()
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    left, right = points[:, 0, 0].min() - 1.25 * reach, points[:, 0, 0].max() + 1.25 * reach
    axes.set_xlabel("position [m]" if goals is None else "x [m]")
    axes.set_ylabel("height [m]" if goals is None else "y [m]")
    axes.set_aspect("equal", adjustable="datalim")
    axes.update_datalim([(left, -1.25 * reach), (right, 1.25 * reach)])
    axes.axhline(0.0, color=GRAY, linewidth=1.0, zorder=1)
    cart = Rectangle((0, 0), 0.4 * reach, 0.16 * reach, color=BLUE, visible=on_cart, zorder=2)
    axes.add_patch(cart)
    (rods,) = axes.plot([], [], color=ORANGE, linewidth=6, solid_capstyle="round", zorder=3)
    (goal,) = axes.plot([], [], color=GREEN, marker="o", markersize=10, linestyle="", zorder=2)
    (hinges,) = axes.plot([], [], color=INK, marker="o", markersize=5, linestyle="", zorder=4)

    def move(i: int) -> None:
        rods.set_data(*points[i].T)
        hinges.set_data(*points[i, :-1].T)
        if goals is not None:
            goal.set_data(goals[i, :1], goals[i, 1:])
        cart.set_xy((points[i, 0, 0] - 0.2 * reach, -0.08 * reach))
        axes.set_title(f"{seconds[i]:.2f} s")

    return figure, move


def _curves(dynamics: Dynamics, states: np.ndarray, seconds: np.ndarray) -> "tuple[Figure, Callable[[int], None]]":
    shown = min(dynamics.state_dim, MOST_CURVES)
    figure, grid = grid_of_axes(shown)
    cursors = []
    for axes, name, values in zip(grid, dynamics.state_names, states.T, strict=False):
        axes.plot(dynamics.dt * np.arange(len(values)), values, color=BLUE)
        axes.set_ylabel(axis_label(name), rotation=0, ha="right", va="center")
        cursors.append(axes.axvline(0.0, color=RED))
    grid[-1].set_xlabel("time [s]")
    note = f", first {shown} of {dynamics.state_dim} states" if shown < dynamics.state_dim else ""

    def move(i: int) -> None:
        for cursor in cursors:
            cursor.set_xdata([seconds[i], seconds[i]])
        figure.suptitle(f"{seconds[i]:.2f} s{note}", fontsize=11)

    return figure, move
