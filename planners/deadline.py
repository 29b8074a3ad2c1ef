"""When a solve has to end, from what its iterations have taken so far."""

from collections.abc import Callable


class Deadline:
    """Time to end, for iterative planners: asked after each iteration whether there is room for another one.

    Args:
        start: when the solve began [s].
        budget: seconds that the solve may take [s].
        clock: returns the present time [s].
        iteration: seconds that a whole iteration takes, as known from an earlier solve; None where nothing is known [s].
    """

    FINISH = 0.2
    """Share of the budget that is kept for what comes after a shortened iteration, and for what takes longer than it should."""
    MEMORY = 0.95
    """An earlier, slower iteration is forgotten by this factor per solve: durations scatter, and the slow ones count."""
    CAUTION = 1.3
    """And no more than this factor above the present one is remembered: a machine that was busy is not busy for ever."""

    def __init__(self, start: float, budget: float, clock: Callable[[], float], iteration: float | None = None):
        self.start, self.budget, self.clock, self._expected = start, budget, clock, iteration
        self.iteration: float | None = None
        self._last, self._longest, self._share = start, 0.0, 1.0

    def __call__(self) -> bool:
        """Whether to end now: true unless an iteration as long as the longest so far fits, and as much again for the finish.

        Also takes the time of the iteration that has ended.
        """
        now = self.clock()
        taken, self._last = now - self._last, now
        self._longest = max(self._longest, taken)
        whole = taken / self._share
        remembered = min(self.MEMORY * (self._expected or 0.0), self.CAUTION * whole)
        self.iteration = max(self.iteration or 0.0, whole, remembered)
        return now - self.start + 2.0 * self._longest > self.budget

    def share(self) -> float:
        """How much of an iteration fits into what is left, at most 1; 1 where it is not known how long one takes."""
        expected = self._expected if self.iteration is None else self.iteration
        self._share = 1.0
        if expected:
            left = (1.0 - self.FINISH) * self.budget - (self._last - self.start)
            self._share = min(max(left / expected, 0.01), 1.0)
        return self._share

    def was_late(self) -> bool:
        """Whether the budget is exceeded by now."""
        return self.clock() - self.start > self.budget
