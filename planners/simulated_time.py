"""Time that passes when it is told to, so that what depends on it can be tested and compared on any machine."""

import heapq
import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

ROUNDING = 1e-9
"""Sums of times [s] that differ by less than this are the same."""


class SimulatedTime:
    """A clock, a sleep and a place where plans are made, all in simulated time.

    Work that is submitted is done at once, in the caller's thread, but its result is handed over only when ``latency``
    seconds of simulated time have passed. One object takes the place of the wall clock everywhere::

        time = SimulatedTime(latency=0.05)
        with AsynchronousMPC(problem, planner, clock=time, executor=time) as mpc:
            mbrl.run_control_loop(mbrl.SimulatedPlant(task, clock=time), mpc, period=0.02, steps=500, clock=time,
                                  sleep=time.sleep)

    Args:
        latency: simulated seconds that a submitted piece of work takes [s].

    Raises:
        ValueError: the latency is negative or not finite.
    """

    def __init__(self, latency: float = 0.0):
        if not 0.0 <= latency < math.inf:
            raise ValueError(f"latency must be a finite number of seconds, at least 0, got {latency}")
        self.latency = latency
        self._now = 0.0
        self._due: list[tuple[float, int, Future[Any], Future[Any]]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        """The present simulated time [s]."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let some seconds pass, and hand over what is finished by then, in order and each at its own time.

        Raises:
            ValueError: seconds is negative or not a number.
        """
        if not seconds >= 0:
            raise ValueError(f"time cannot pass by {seconds} s")
        self.advance(self._now + seconds)

    def advance(self, now: float) -> None:
        """Let time pass until ``now`` [s]; nothing happens if it is over."""
        while self._due and self._due[0][0] <= now + ROUNDING:
            due, _, future, done = heapq.heappop(self._due)
            self._now = max(min(due, now), self._now)
            _hand_over(done, future)  # whoever waits for it may submit the next piece, from this moment on
        self._now = max(now, self._now)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """As of ``concurrent.futures.Executor``: the future of the work's result, or of its exception."""
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments))
        except Exception as error:
            done.set_exception(error)
        if self.latency == 0.0:
            return done
        future: Future[Any] = Future()
        heapq.heappush(self._due, (self._now + self.latency, next(self._order), future, done))
        return future


def _hand_over(done: Future[Any], future: Future[Any]) -> None:
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    else:
        future.set_exception(error)
