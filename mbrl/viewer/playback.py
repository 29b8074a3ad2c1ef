"""Where a playback stands, as a value."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Playback:
    """A clock that runs along a recording.

    Attributes:
        duration: of the recording [s].
        position: within it [s].
        speed: seconds of the recording per second.
        playing: whether the position moves.
        repeat: whether it starts again at the end, or stops there.

    Raises:
        ValueError: the duration is negative, the speed is not positive, or one of them is not finite.
    """

    duration: float
    position: float = 0.0
    speed: float = 1.0
    playing: bool = True
    repeat: bool = True

    def __post_init__(self):
        if not (math.isfinite(self.duration) and self.duration >= 0 and math.isfinite(self.speed) and self.speed > 0):
            raise ValueError(f"need duration >= 0 and speed > 0, got {self.duration} and {self.speed}")

    def advanced(self, seconds: float) -> Self:
        """The clock after some seconds of real time."""
        if not self.playing or seconds <= 0:
            return self
        position = self.position + self.speed * seconds
        if position < self.duration:
            return replace(self, position=position)
        if self.repeat and self.duration > 0:
            return replace(self, position=position % self.duration)
        return replace(self, position=self.duration, playing=self.repeat)

    def at(self, position: float) -> Self:
        """The clock set to a position, held within the recording."""
        return replace(self, position=min(max(position, 0.0), self.duration))

    def row(self, times: np.ndarray) -> int:
        """The last of increasing times ``(T+1,)``, counted from the first, that has been reached."""
        return max(int(np.searchsorted(times - times[0], self.position + 1e-9, side="right")) - 1, 0)
