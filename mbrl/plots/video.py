"""Pictures in time, as mp4 files that any browser plays."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write frames as H.264 in an mp4 file; the encoder comes with imageio-ffmpeg, nothing else needs to be installed.

    Args:
        path: the file, ``*.mp4``.
        frames: pictures ``(height, width, 3)`` of uint8, all of one size; an odd size is extended by one pixel, because the
            format has even ones only.
        fps: frames per second.

    Returns:
        The path.

    Raises:
        ValueError: there is no frame, a frame has another shape or type, or the path does not end in ``.mp4``.
    """
    import imageio.v2 as imageio

    path = Path(path)
    if path.suffix != ".mp4":
        raise ValueError(f"a video is written as .mp4, got {path.name!r}")
    checked = _checked(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("a video needs at least one frame, got none")
    path.parent.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"codec": "libx264", "quality": 7, "pixelformat": "yuv420p", "macro_block_size": 2}
    writer: Any = imageio.get_writer(path, fps=fps, output_params=["-movflags", "+faststart"], **settings)
    with writer:
        writer.append_data(first)
        for frame in checked:
            writer.append_data(frame)
    return path


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for number, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.shape != shape:
            raise ValueError(
                f"frame {number} is {frame.dtype} of shape {frame.shape}, expected uint8 of shape "
                f"{shape if number else '(height, width, 3)'}"
            )
        yield np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")


def states_at_frames(states: np.ndarray | Tensor, dt: float, fps: float) -> np.ndarray:
    """The state nearest in time to each frame of a video in real time, ``(frames, n)``.

    Args:
        states: ``(T+1, n)``.
        dt: duration of a step [s].
        fps: frames per second.

    Raises:
        ValueError: the states have another shape or are not finite, or dt or fps is not positive.
    """
    rows = np.asarray(states.detach().cpu() if isinstance(states, Tensor) else states, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"states must have shape (T+1, n), got {rows.shape}")
    if not np.isfinite(rows).all():
        row = int(np.argmax(~np.isfinite(rows).all(1)))
        raise ValueError(f"the state in row {row} of {len(rows)} is not finite; draw states[:{row}]")
    if not (dt > 0 and fps > 0):
        raise ValueError(f"dt and fps must be positive, got dt={dt}, fps={fps}")
    count = math.floor((len(rows) - 1) * dt * fps + 1e-9) + 1
    return rows[np.floor(np.arange(count) / (fps * dt) + 0.5 + 1e-9).astype(int)]  # halves go up, all of them
