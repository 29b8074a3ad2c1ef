"""What moves in a plane, as polygons [m]: cars, unicycles, a quadrotor from the side, an arm."""

import numpy as np
from torch import Tensor

from dynamics import Car, Dynamics, PlanarQuadrotor, TwoLinkArm, Unicycle

OVERHANG, WIDTH = 0.4, 0.9  # of a car: beyond each axle, and across it, in wheelbases
WHEEL = (0.28, 0.1)  # length and width of a wheel, in wheelbases
ROBOT = 0.16  # radius of a unicycle [m]


def outlines(
    dynamics: Dynamics, states: np.ndarray | Tensor, controls: np.ndarray | Tensor | None = None
) -> list[np.ndarray]:
    """The parts of a body in each state, for :func:`plot_paths` and :func:`animate_paths`.

    Args:
        dynamics: a ``Car``, ``Unicycle``, ``PlanarQuadrotor`` or ``TwoLinkArm``, with one value per parameter.
        states: ``(T+1, n)``.
        controls: ``(T, m)``; of a car, they turn its front wheels.

    Returns:
        Closed polygons, each ``(T+1, corners, 2)``.

    Raises:
        ValueError: the states have another shape, or dynamics of this kind have no picture.
    """
    x = np.asarray(states.detach().cpu() if isinstance(states, Tensor) else states, dtype=float)
    if x.ndim != 2 or x.shape[1] != dynamics.state_dim:
        raise ValueError(f"states must have shape (T+1, {dynamics.state_dim}), got {x.shape}")
    if isinstance(dynamics, Car):
        return _car(float(dynamics.wheelbase), x, controls)  # type: ignore[arg-type]
    if isinstance(dynamics, Unicycle):
        turn = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
        disc = ROBOT * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
        return [_placed(disc, x[:, :2], x[:, 2]), _placed(_box(0.0, ROBOT, 0.2 * ROBOT), x[:, :2], x[:, 2])]
    if isinstance(dynamics, PlanarQuadrotor):
        arm = float(dynamics.arm_length)  # type: ignore[arg-type]
        rotors = [_box(side * arm - 0.45 * arm, side * arm + 0.45 * arm, 0.06 * arm, 0.16 * arm) for side in (-1, 1)]
        return [_placed(part, x[:, :2], -x[:, 2]) for part in (_box(-arm, arm, 0.1 * arm), *rotors)]
    if isinstance(dynamics, TwoLinkArm):
        return _arm(dynamics.shared_values(), x)
    raise ValueError(
        f"no picture of {type(dynamics).__name__} in the plane; pass polygons (T+1, corners, 2) of your own, or use animate"
    )


def _car(wheelbase: float, x: np.ndarray, controls: np.ndarray | Tensor | None) -> list[np.ndarray]:
    """The body and four wheels; (x, y) is the middle of the back axle."""
    steering = np.zeros(len(x))
    if controls is not None:
        us = np.asarray(controls.detach().cpu() if isinstance(controls, Tensor) else controls, dtype=float)
        steering[: len(us)] = us[: len(x), 0]
        steering[len(us) :] = us[-1, 0] if len(us) else 0.0
    half, overhang = 0.5 * WIDTH * wheelbase, OVERHANG * wheelbase
    parts = [_placed(_box(-overhang, wheelbase + overhang, half), x[:, :2], x[:, 2])]
    wheel = _box(-0.5 * WHEEL[0] * wheelbase, 0.5 * WHEEL[0] * wheelbase, 0.5 * WHEEL[1] * wheelbase)
    for along, turned in ((0.0, 0.0 * steering), (wheelbase, steering)):
        for across in (-0.8 * half, 0.8 * half):
            hub = _placed(np.array([[along, across]]), x[:, :2], x[:, 2])[:, 0]
            parts.append(_placed(wheel, hub, x[:, 2] + turned))
    return parts


def _arm(values: dict[str, float], x: np.ndarray) -> list[np.ndarray]:
    """Two rods, whose angles count from upright."""
    parts, hinge, angle = [], np.zeros((len(x), 2)), np.zeros(len(x))
    for i, length in enumerate((values["length_1"], values["length_2"])):
        angle = angle + x[:, i]
        direction = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
        parts.append(_placed(_box(0.0, length, 0.03 * length), hinge, 0.5 * np.pi - angle))
        hinge = hinge + length * direction
    return parts


def _box(back: float, front: float, half_width: float, above: float = 0.0) -> np.ndarray:
    """Corners of a rectangle along the x axis, ``(4, 2)``."""
    low, high = above - half_width, above + half_width
    return np.array([[back, low], [front, low], [front, high], [back, high]])


def _placed(part: np.ndarray, position: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Corners ``(k, 2)`` turned by angles and moved to positions ``(T+1, 2)``: ``(T+1, k, 2)``."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    turned = np.stack([cos * part[:, 0] - sin * part[:, 1], sin * part[:, 0] + cos * part[:, 1]], axis=-1)
    return position[:, None] + turned
