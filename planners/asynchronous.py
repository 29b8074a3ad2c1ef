r"""Receding-horizon control that does not wait for its planner.

Plans are made one after the other in a thread of their own, each from the newest state :math:`x(s_i)` that was measured before
the planner begins, and are functions of absolute time (:meth:`planners.Solution.controls_at`). The control loop reads the
newest plan at the present time. A plan can be used from :math:`s_i + L_i` on, and until then the plant follows the plan before,
so it starts from where that leads,

.. math:: \hat x(s_i + \hat L) = f(\dots f(x(s_i), u_{i-1}) \dots, u_{i-1}), \qquad u(t) = u_i(t), \; t \ge s_i + L_i,

with the latency :math:`\hat L` that the last plans had.

Unlike everything else that plans, it has a state, and is therefore a context manager.
"""

import math
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from planners.mpc import on_device
from planners.plans_in_force import Given, PlansInForce, step_at
from planners.problem import Problem
from planners.simulated_time import SimulatedTime
from planners.solution import Solution
from planners.solve import Planner, check_support, solve

# Compiled code of the planner (torch, MuJoCo) runs beside the loop, Python code does not: the loop waits until the interpreter
# makes the other thread let go of it, by default after 5 ms. While a planner thread is there, it does so earlier.
SWITCH_INTERVAL = 0.0005  # [s]

RECENT = 5
"""Plans whose median latency is what the next one is expected to take."""


class PlanExecutor(Protocol):
    """Where plans are made: the part of ``concurrent.futures.Executor`` that is needed."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Do some work, and say so through a future."""
        ...


@dataclass(frozen=True, eq=False)
class AsynchronousMemory:
    """What :meth:`AsynchronousMPC.act` passes on.

    Attributes:
        episode: the call of ``init`` that it comes from.
        solution: the newest plan; None before there is one.
        age: time since the state was measured from which the plan in force was made [s], ``(*batch,)``; infinite without plan.
    """

    episode: int
    solution: Solution | None
    age: Tensor


@dataclass(frozen=True)
class AsynchronousReport:
    """What has happened since ``init``.

    Attributes:
        controls: controls given.
        fallbacks: of these, given without a plan: zero, clamped (of a batch: for at least one element).
        stale: of these, given by a plan that was older than the staleness limit (likewise).
        plans: plans completed.
        unusable: of these, with no usable plan (of a batch: for at least one element).
        planning_mean: mean time a plan took [s].
        planning_max: longest time a plan took [s].
        age_mean: mean age of the plan in force over all controls that had one [s].
        age_max: greatest such age [s].
    """

    controls: int = 0
    fallbacks: int = 0
    stale: int = 0
    plans: int = 0
    unusable: int = 0
    planning_mean: float = 0.0
    planning_max: float = 0.0
    age_mean: float = 0.0
    age_max: float = 0.0

    def with_control(self, age: Tensor, staleness: float) -> "AsynchronousReport":
        """One control more, by plans of ages ``(*batch,)`` [s]."""
        known = age[age.isfinite()]
        mean, longest = (float(known.mean()), float(known.max())) if known.numel() else (self.age_mean, 0.0)
        planned = self.controls - self.fallbacks
        return replace(
            self,
            controls=self.controls + 1,
            fallbacks=self.fallbacks + bool(age.isinf().any()),
            stale=self.stale + bool((known > staleness).any()),
            age_mean=self.age_mean + (mean - self.age_mean) / (planned + 1),
            age_max=max(self.age_max, longest),
        )

    def with_plan(self, solution: Solution) -> "AsynchronousReport":
        """One plan more."""
        seconds, plans = solution.stats["seconds"], self.plans + 1
        return replace(
            self,
            plans=plans,
            unusable=self.unusable + (not bool(solution.usable.all())),
            planning_mean=self.planning_mean + (seconds - self.planning_mean) / plans,
            planning_max=max(self.planning_max, seconds),
        )

    def __str__(self) -> str:
        return (
            f"{self.plans} plans of {1e3 * self.planning_mean:.3g} ms (at most {1e3 * self.planning_max:.3g} ms, "
            f"{self.unusable} unusable) for {self.controls} controls; age of the plan {1e3 * self.age_mean:.3g} ms (at most "
            f"{1e3 * self.age_max:.3g} ms); {self.fallbacks} controls without a plan, {self.stale} by a stale one"
        )


@dataclass(frozen=True, eq=False)
class _Measurement:
    """A state ``(*batch, n)`` and the time since ``init`` at which it was handed in [s]."""

    x: Tensor
    time: float


class AsynchronousMPC:
    """Model predictive control whose planner runs beside the control loop; acts like a policy on the state.

    A context manager; its thread lives inside the ``with`` block::

        with AsynchronousMPC(problem, planner) as mpc:
            memory = mpc.init(1)
            while robot.is_on():
                u, memory = mpc.act(robot.state(), memory)  # returns at once, at whatever rate it is called
                robot.apply(u)

    What the planner raises is raised by the next call, unchanged, or else at the end of the block. A planner that works in
    compiled code (torch, MuJoCo) lets the loop run meanwhile; leave the loop a core of its own where there are several
    (``MujocoDynamics(..., threads=...)``).

    ``mbrl.record`` and ``mbrl.evaluate`` simulate at their own pace. For them, ``latency`` simulates the planner's, too.

    Args:
        problem: what is solved from each state.
        planner: how it is solved.
        latency: None plans in real time. A number [s] simulates: each control is one period later than the last, and a plan
            takes that long from when it is begun.
        period: time from control to control where latency simulates [s]; the model's dt by default.
        predict: start each plan from the state that the model expects when the plan will be ready, instead of the measured one.
        staleness: age beyond which a plan fades to zero, clamped, until twice that age [s]; the duration of a plan by default.
        clock: returns the present time [s].
        executor: makes the plans; a thread by default. With a :class:`SimulatedTime` as clock and executor, whoever lets it
            pass decides when plans are there.

    Raises:
        ValueError: an option is out of range or excludes another, or the planner cannot solve the problem.
        TypeError: problem is not a Problem, or planner not a planner.
    """

    acts_on: ClassVar[str] = "state"

    def __init__(
        self,
        problem: Problem,
        planner: Planner,
        *,
        latency: float | None = None,
        period: float | None = None,
        predict: bool = True,
        staleness: float | None = None,
        clock: Callable[[], float] | None = None,
        executor: PlanExecutor | None = None,
    ):
        check_support(problem, planner)
        if latency is not None and (clock is not None or executor is not None):
            raise ValueError("latency simulates clock and executor; give either latency, or clock and executor")
        if period is not None and (latency is None or not 0 < period < math.inf):
            raise ValueError(
                f"period is a positive number of seconds that goes with latency, got {period} and {latency}"
            )
        duration = problem.dynamics.dt * problem.horizon
        staleness = duration if staleness is None else staleness
        if not staleness > 0:
            raise ValueError(f"staleness must be a positive number of seconds, got {staleness}")
        self.problem, self.planner, self.predict, self.staleness = problem, planner, predict, staleness
        self.period = problem.dynamics.dt if period is None else period
        self._simulated = None if latency is None else SimulatedTime(latency)
        self._clock: Callable[[], float] = self._simulated or clock or time.perf_counter
        self._executor: PlanExecutor | None = self._simulated or executor
        self._thread: ThreadPoolExecutor | None = None
        self._lock = threading.RLock()  # a simulated executor calls back from within submit
        self._open = False
        self._episode = 0
        self._first: Solution | None = None
        self._warm_latency: float | None = None  # of a plan made while warming up [s]
        self._reset((), None)

    @property
    def real_time(self) -> bool:
        """Whether plans are made by a clock that a simulation has to keep pace with."""
        return self._simulated is None

    def __enter__(self) -> Self:
        if self._open:
            raise RuntimeError("this AsynchronousMPC is already at work; make another one for another loop")
        self._open = True
        if self._executor is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="planner")
            self._switch_interval = sys.getswitchinterval()
            sys.setswitchinterval(min(self._switch_interval, SWITCH_INTERVAL))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with self._lock:
            self._open = False  # ends a running solve after its iteration
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None
            sys.setswitchinterval(self._switch_interval)
        failure, surfaced = self._failure, self._surfaced
        self._failure, self._surfaced = None, False
        if failure is None or surfaced:
            return
        if error is None:
            raise failure
        error.add_note(f"Before, the planner had failed: {failure!r}")

    def warm_up(self, x: Tensor) -> None:
        """Plan from states ``(*batch, n)`` and wait for it: before a loop starts, not in it.

        What is slow the first time is over then, it is known how long a plan takes, and the next ``init`` for such a batch
        begins with this plan.
        """
        solve(self.problem, self.planner, x, throw=False)
        begun = self._clock()
        self._first = solve(self.problem, self.planner, x, throw=False)
        self._first.controls_at(torch.zeros(1, dtype=torch.float64))
        if self._executor is None:
            self._warm_latency = self._clock() - begun

    def init(
        self, batch: int | tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> AsynchronousMemory:
        """Start from time zero, for a batch of loops; plans, counts and measurements from before are dropped.

        Args:
            batch: the batch shape.
            generator: source of randomness; seeded with 0 by default.
        """
        self._check_open()
        shape = (batch,) if isinstance(batch, int) else tuple(batch)
        with self._lock:
            self._reset(shape, generator)
            first = self._first
            if first is not None and first.cost.shape == shape:
                self._newest, self._plans = first, self._plans.with_plan(first, 0.0)
            return AsynchronousMemory(self._episode, self._newest, torch.full(shape, math.inf))

    def act(
        self, x: Tensor, memory: AsynchronousMemory, *, deterministic: bool = True
    ) -> tuple[Tensor, AsynchronousMemory]:
        """Hand in measured states ``(*batch, n)`` and read the newest plan at the present time.

        Returns:
            Controls ``(*batch, m)``, always finite and within the limits, and the next memory.

        Raises:
            RuntimeError: outside the ``with`` block.
            TypeError: memory does not come from ``init``.
            ValueError: memory comes from an ``init`` before the last, or the states do not fit.
        """
        if not isinstance(memory, AsynchronousMemory):
            raise TypeError(f"memory must come from init or the last act, got {type(memory).__name__}: act(x, memory)")
        if memory.episode != self._episode:
            raise ValueError("this memory is from before the last init: one AsynchronousMPC acts in one loop at a time")
        if self._simulated is not None:
            self._simulated.advance(self._start + self._report.controls * self.period)
        self.measure(x)
        u, age = self._control(x)
        return u, AsynchronousMemory(self._episode, self._newest, age)

    def measure(self, x: Tensor) -> None:
        """Hand in measured states ``(*batch, n)``; the next plan starts from them. States that are not finite are no news."""
        self._check_open()
        shape = (*self._batch, self.problem.dynamics.state_dim)
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.shape != shape:
            came = f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must be a floating-point tensor of shape {shape}, the batch given to init, got {came}")
        if not bool(x.isfinite().all(-1).any()):
            return
        with self._lock:
            self._measured = _Measurement(x.detach().clone(), self._now())
            self._plan_next()

    def control(self) -> Tensor:
        """Read the newest plan at the present time, without news from the plant: ``(*batch, m)``."""
        return self._control(None)[0]

    def report(self) -> AsynchronousReport:
        """What has happened since ``init``."""
        with self._lock:
            return self._report

    # The side of the loop

    def _control(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Controls and the ages of the plans that they come from."""
        self._check_open()
        now, plans = self._now(), self._plans
        like = self._measured.x if self._measured else torch.zeros(0, dtype=torch.float64)
        u, age = plans.control(now, like, x), plans.age(now)
        with self._lock:
            self._report = self._report.with_control(age, self.staleness)
            period = 0.0 if self._given is None else now - self._given.at
            self._given = Given(u, now, period)
        return u, age

    def _now(self) -> float:
        return self._clock() - self._start

    def _check_open(self) -> None:
        """Raise what happened in the planner, or that nothing can."""
        if self._failure is not None:
            self._surfaced = True
            raise self._failure
        if not self._open:
            raise RuntimeError("an AsynchronousMPC acts inside its block: with AsynchronousMPC(...) as mpc: ...")

    # The side of the planner

    def _reset(self, batch: tuple[int, ...], generator: torch.Generator | None) -> None:
        self._episode += 1
        self._batch = batch
        self._generator = generator.clone_state() if generator else torch.Generator().manual_seed(0)
        if self._simulated is not None:  # from zero on, so that episodes agree to the last bit
            self._simulated = self._clock = self._executor = SimulatedTime(self._simulated.latency)
        self._start = self._clock()
        self._measured: _Measurement | None = None
        self._planned: _Measurement | None = None  # where the newest plan, or the one being made, starts
        self._planning = False
        self._newest: Solution | None = None
        self._plans = PlansInForce(self.problem, batch, self.staleness)  # replaced as a whole: read without the lock
        self._latencies = deque([] if self._warm_latency is None else [self._warm_latency], maxlen=RECENT)
        self._given: Given | None = None
        self._report = AsynchronousReport()
        self._failure: BaseException | None = None
        self._surfaced = False  # whether somebody has been told of the failure

    def _plan_next(self) -> None:
        """Start planning from the newest state, unless that is being done or has been done; the lock is held."""
        measured, episode, executor = self._measured, self._episode, self._thread or self._executor
        if not self._open or executor is None or self._planning or measured is None or measured is self._planned:
            return
        self._planning, self._planned = True, measured
        self._generator = on_device(self._generator, measured.x.device)
        begun = self._now()
        ready = measured.time
        if self.predict and self._latencies:
            ready = begun + statistics.median(self._latencies)
        future = executor.submit(
            self._solve, measured, ready, self._plans, self._newest, self._given, self._generator, episode
        )
        future.add_done_callback(lambda future: self._arrived(future, episode, measured, begun))

    def _solve(
        self,
        measured: _Measurement,
        ready: float,
        plans: PlansInForce,
        previous: Solution | None,
        given: Given | None,
        generator: torch.Generator,
        episode: int,
    ) -> Solution:
        """A plan from the time on at which it will be ready [s]."""
        x = plans.expected_state(measured.x, measured.time, ready, given)
        previous_control = None if given is None else given.u
        if ready > measured.time:
            previous_control = plans.control(ready, measured.x)
        return solve(
            self.problem,
            self.planner,
            x,
            t0=step_at(ready, self.problem.dynamics.dt),
            time=ready,
            previous_control=previous_control,
            init=previous,
            generator=generator,
            throw=False,
            out_of_time=lambda: not self._open or self._episode != episode,
        )

    def _arrived(self, future: Future[Solution], episode: int, measured: _Measurement, begun: float) -> None:
        """Take over a finished plan, and start the next one."""
        with self._lock:
            if episode != self._episode or future.cancelled():
                return
            self._planning = False
            try:
                self._take_over(future.result(), measured, begun)
                self._plan_next()
            except BaseException as failure:  # nobody else would hear of it
                failure.add_note(f"in the planner of an AsynchronousMPC, from the state at {measured.time:.3f} s")
                self._failure = failure

    def _take_over(self, solution: Solution, measured: _Measurement, begun: float) -> None:
        self._latencies.append(self._now() - begun)
        self._report = self._report.with_plan(solution)
        if bool(solution.usable.any()):
            self._plans, self._newest = self._plans.with_plan(solution, measured.time), solution
