"""Asynchronous MPC, in simulated time and with plans that are ready when the test says so."""

import math
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace

import pytest
import torch

import mbrl
from dynamics import DoubleIntegrator, LinearDynamics, Pendulum
from planners import (
    ICEM,
    LQR,
    MPC,
    AsynchronousMPC,
    ControlSpline,
    GoalCost,
    Planner,
    PredictiveSampling,
    Problem,
    QuadraticCost,
    SimulatedTime,
    Solution,
    Status,
    solve,
)
from planners.asynchronous import SWITCH_INTERVAL
from planners.plans_in_force import PlansInForce

DT = 0.1


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def problem(horizon=10, limits=(-100.0, 100.0), **fields):
    return Problem(DoubleIntegrator(dt=DT), GoalCost(), horizon, control_limits=limits, **fields)


def swing_up(horizon=10):
    return Problem(Pendulum(), GoalCost(0.0, [1.0, 0.1], [0.01], angles=[0]), horizon, control_limits=(-2.0, 2.0))


@dataclass(frozen=True)
class Reads(Planner):
    """Plans ``u(τ) = scale x_0 + τ`` through knots; from a state beyond 50 it has no plan, from one beyond 90 it fails."""

    supports = frozenset({"control_limits", "control_values", "rate_limits"})

    scale: float = 0.0
    spline: bool = True

    def plan(self, problem, x0, request):
        if bool((x0[..., 0] > 90).any()):
            raise ArithmeticError("the state is beyond 90")
        T = int(problem.horizon)
        knots = request.time + DT * torch.arange(T, dtype=x0.dtype)
        us = (self.scale * x0[..., :1, None] + knots.unsqueeze(-1)).expand(*x0.shape[:-1], T, 1)
        status = torch.where(x0[..., 0] > 50, int(Status.NO_FINITE_PLAN), int(Status.CONVERGED))
        status = torch.where(x0.isfinite().all(-1), status, int(Status.NO_FINITE_PLAN))
        xs = x0.unsqueeze(-2).expand(*x0.shape[:-1], T + 1, 2)
        spline = ControlSpline(us, request.time, DT, 1) if self.spline else None
        return Solution(
            problem, xs, us, torch.zeros(x0.shape[:-1]), status, {}, request.t0, spline=spline, warm_start=request
        )


class ByHand:
    """An executor whose work is done when the test calls ``finish``."""

    def __init__(self):
        self.waiting = []

    def submit(self, work, *arguments):
        future = Future()
        self.waiting.append((work, arguments, future))
        return future

    @property
    def states(self):
        """The states from which plans are being made."""
        return [arguments[0].x for _, arguments, _ in self.waiting]

    def finish(self):
        work, arguments, future = self.waiting.pop(0)
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)


@pytest.fixture
def clock():
    return SimulatedTime()


@pytest.fixture
def hand():
    return ByHand()


# What is planned, and what is read of it


def test_without_latency_it_is_the_synchronous_mpc():
    """Bit for bit, also through recording: the same plans from the same states with the same random numbers."""
    task = mbrl.pendulum_swing_up(backend="torch")
    for planner in (ICEM(num_samples=20, max_iterations=2), PredictiveSampling(num_samples=20)):
        waiting = mbrl.record(task, MPC(task.problem(horizon=15), planner), 2, steps=12)
        with AsynchronousMPC(task.problem(horizon=15), planner, latency=0.0) as mpc:
            prompt = mbrl.record(task, mpc, 2, steps=12)
        for one, other in zip(waiting, prompt, strict=True):
            assert (one.controls == other.controls).all()
            assert (one.states == other.states).all()


def test_a_latency_of_one_step_reads_the_second_control_of_the_plan_before():
    x = tensor([3.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    previous, expected = None, [torch.zeros(1, 1).double()]
    with AsynchronousMPC(swing_up(), ICEM(), latency=Pendulum().dt, predict=False) as mpc:
        memory = mpc.init(1)
        for k in range(6):
            u, memory = mpc.act(x, memory)
            torch.testing.assert_close(u, expected[k], rtol=0, atol=1e-12)
            given = expected[k - 1] if k else None
            previous = solve(
                swing_up(), ICEM(), x, t0=k, init=previous, previous_control=given, generator=generator, throw=False
            )
            expected.append(previous.us[:, 1])
            x = Pendulum()(x, u)
        assert mpc.report().plans == 5
        assert mpc.report().age_max == pytest.approx(Pendulum().dt)


def test_with_a_period_of_its_own_a_simulated_loop_reads_between_the_steps_of_a_plan():
    with AsynchronousMPC(problem(), Reads(), latency=0.04, period=0.03) as mpc:
        memory, us = mpc.init(1), []
        for _ in range(5):
            u, memory = mpc.act(tensor([0.0, 0.0]), memory)
            us.append(float(u))
        assert us == pytest.approx([0.0, 0.0, 0.06, 0.09, 0.12])  # the first plan is there at 0.04 s
        assert float(memory.age) == pytest.approx(0.06)  # of the third one, begun at 0.08 s from the state at 0.06 s


@pytest.mark.parametrize("spline", [True, False])
def test_a_plan_is_read_at_the_present_time(clock, hand, spline):
    """Knots at 0, 0.1, ... with the value of their time: along straight lines, or held."""
    with AsynchronousMPC(problem(), Reads(spline=spline), clock=clock, executor=hand) as mpc:
        memory = mpc.init(1)
        u, memory = mpc.act(tensor([0.0, 0.0]), memory)
        assert u.tolist() == [[0.0]]  # no plan yet
        assert math.isinf(memory.age)
        hand.finish()
        for now in (0.0, 0.05, 0.17, 0.31, 0.9):
            clock.advance(now)
            expected = now if spline else math.floor(now / DT + 1e-9) * DT
            assert float(mpc.control()) == pytest.approx(expected, abs=1e-12)
        clock.advance(0.93)  # later than the last knot: held
        assert float(mpc.control()) == pytest.approx(0.9)
        report = mpc.report()
    assert (report.controls, report.fallbacks, report.plans) == (7, 1, 1)
    assert report.age_max == pytest.approx(0.93)
    assert report.age_mean == pytest.approx((0.05 + 0.17 + 0.31 + 0.9 + 0.93) / 6)


def test_time_counts_from_init_whatever_the_clock_says(clock, hand):
    clock.advance(1234.5)
    with AsynchronousMPC(problem(), Reads(), clock=clock, executor=hand) as mpc:
        memory = mpc.init(1)
        clock.sleep(0.25)
        _, memory = mpc.act(tensor([0.0, 0.0]), memory)
        hand.finish()
        u, memory = mpc.act(tensor([0.0, 0.0]), memory)
        assert float(u) == pytest.approx(0.25)
        assert memory.solution.time == pytest.approx(0.25)
        assert memory.solution.t0 == 2


def test_the_newest_state_is_planned_from_and_others_are_skipped(clock, hand):
    with AsynchronousMPC(problem(), Reads(scale=1.0), predict=False, clock=clock, executor=hand) as mpc:
        memory = mpc.init(1)
        for k in range(4):
            clock.advance(0.02 * k)
            _, memory = mpc.act(tensor([float(k), 0.0]), memory)
        assert [float(x[0, 0]) for x in hand.states] == [0.0]
        hand.finish()  # begins the next one at once, from the newest state
        assert [float(x[0, 0]) for x in hand.states] == [3.0]
        u, _ = mpc.act(tensor([4.0, 0.0]), memory)
        assert float(u) == pytest.approx(0.06)  # of the first plan still
        hand.finish()
        assert float(mpc.control()) == pytest.approx(3.06)
        hand.finish()
        assert hand.waiting == []  # nothing new to plan from
        _, memory = mpc.act(tensor([5.0, 0.0]), memory)
        assert len(hand.waiting) == 1
        hand.finish()
        request = mpc.act(tensor([5.0, 0.0]), memory)[1].solution.warm_start
        assert request.init.time == pytest.approx(0.06)
        assert float(request.previous_control) == pytest.approx(3.06)  # given before the state was measured


def test_gains_correct_a_plan_where_the_state_is_another():
    """Between its steps a plan expects the state on a straight line."""
    A, B = tensor([1.0, DT], [0.0, 1.0]), tensor([0.005], [DT])
    linear = LinearDynamics(A, B, dt=DT)
    cost = QuadraticCost(torch.eye(2).double(), torch.eye(1).double(), Q_terminal=torch.eye(2).double())
    clock = SimulatedTime()
    with AsynchronousMPC(Problem(linear, cost, 8), LQR(), clock=clock, executor=clock) as mpc:
        memory = mpc.init(1)
        _, memory = mpc.act(tensor([1.0, 0.5]), memory)
        plan = memory.solution
        clock.advance(0.225)
        mpc._planning = True  # the plan stays the last one
        x = tensor([3.0, -1.0])
        u, _ = mpc.act(x, memory)
        expected_state = 0.75 * plan.xs[:, 2] + 0.25 * plan.xs[:, 3]
        expected = plan.us[:, 2] + (plan.K[0, 2] @ (x - expected_state).squeeze(0)).unsqueeze(0)
        torch.testing.assert_close(u, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(mpc.control(), plan.us[:, 2], rtol=0, atol=0)  # without a state
    with AsynchronousMPC(Problem(linear, cost, math.inf), LQR(), latency=5 * DT) as mpc:
        memory = mpc.init(2)
        K = solve(Problem(linear, cost, math.inf), LQR(), tensor(0.0, 0.0)).K
        x = tensor([1.0, 0.5], [-2.0, 0.0])
        for k in range(12):
            u, memory = mpc.act(x, memory)
            if k >= 5:
                torch.testing.assert_close(u, x @ K.mT, rtol=0, atol=1e-12)
            x = linear(x, u)


def test_an_episode_leaves_nothing_to_the_next_one():
    task = mbrl.pendulum_swing_up(backend="torch")
    with AsynchronousMPC(task.problem(horizon=10), PredictiveSampling(num_samples=10), latency=0.12) as mpc:
        first, again = (mbrl.record(task, mpc, 2, steps=12) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert (one.controls == other.controls).all()


@pytest.mark.parametrize("latency", [factor * Pendulum().dt for factor in (0.9, 1, 2.5, 3)])
def test_a_plan_starts_where_the_plant_will_be(latency):
    """On the true model, and ready at a step: exactly; a plan that is ready within a step is from a straight line."""
    x, states, starts = tensor([3.0, 0.0], [1.0, 2.0]), [], {}
    with AsynchronousMPC(swing_up(), ICEM(num_samples=20), latency=latency) as mpc:
        memory = mpc.init(2)
        for _ in range(16):
            states.append(x)
            u, memory = mpc.act(x, memory)
            x = Pendulum()(x, u)
            if memory.solution is not None:
                starts[memory.solution.time] = memory.solution.xs[:, 0]
        assert mpc.report().fallbacks == math.ceil(latency / Pendulum().dt - 1e-9)
    del starts[0.0]  # before the first plan, nobody knows how long one takes
    assert len(starts) >= 3
    for at, start in starts.items():
        k, rest = divmod(at / Pendulum().dt + 1e-9, 1.0)
        exact = rest < 1e-6
        expected = states[int(k)] if exact else (1 - rest) * states[int(k)] + rest * states[int(k) + 1]
        torch.testing.assert_close(start, expected, rtol=0, atol=1e-9)


def test_the_expected_state_by_hand():
    """Without a plan, the zero control carries a double integrator on; a state that cannot be predicted stays as it is."""
    plans = PlansInForce(problem(limits=(0.5, 1.0)), (2,), math.inf)
    x = tensor([0.0, 1.0], [math.nan, 0.0])
    after = DoubleIntegrator(dt=DT)(x, tensor([0.5], [0.5]))
    assert torch.equal(plans.expected_state(x, 2.0, 2.0)[0], x[0])
    torch.testing.assert_close(plans.expected_state(x, 2.0, 2.0 + DT)[0], after[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        plans.expected_state(x, 2.0, 2.025)[0], 0.75 * x[0] + 0.25 * after[0], rtol=0, atol=1e-12
    )
    assert plans.expected_state(x, 2.0, 2.3)[1].isnan().any()
    blows_up = replace(
        plans,
        problem=replace(
            plans.problem, dynamics=LinearDynamics(1e200 * torch.eye(2).double(), tensor([0.0], [0.0]), dt=DT)
        ),
    )
    assert torch.equal(blows_up.expected_state(x, 0.0, 2.0)[0], x[0])


# What goes wrong


def test_before_any_plan_the_control_is_zero_clamped(clock, hand):
    for limits, expected in (((-1.0, 1.0), 0.0), ((0.5, 1.0), 0.5), ((tensor([-3.0]).expand(10, 1), -2.0), -2.0)):
        with AsynchronousMPC(problem(limits=limits), Reads(), clock=clock, executor=hand) as mpc:
            assert mpc.init(2).solution is None
            assert mpc.control().tolist() == [[expected], [expected]]
            assert mpc.report().fallbacks == 1


def test_a_stale_plan_fades_to_zero_clamped(clock, hand):
    for limits, low in (((-1.0, 1.0), 0.0), ((0.2, 1.0), 0.2)):
        at = clock()
        with AsynchronousMPC(problem(limits=limits), Reads(5.0), staleness=0.4, clock=clock, executor=hand) as mpc:
            memory = mpc.init(1)
            _, memory = mpc.act(tensor([1.0, 0.0]), memory)
            hand.finish()
            for age, expected in (
                (0.39, 1.0),
                (0.3999, 1.0),
                (0.5, 0.75),
                (0.6, 0.5),
                (0.799, low),
                (0.8, low),
                (9.0, low),
            ):
                clock.advance(at + age)
                assert float(mpc.control()) == pytest.approx(max(expected, low), abs=0.003), age
            assert mpc.report().stale == 5
            _, memory = mpc.act(tensor([1.0, 0.0]), memory)
            hand.finish()
            assert float(mpc.control()) == 1.0  # a new plan, at once


def test_discrete_controls_stay_discrete(clock, hand):
    values = tensor([-1.0], [0.25], [1.0])
    discrete = problem(limits=None, control_values=values)
    with AsynchronousMPC(discrete, Reads(5.0, spline=False), staleness=0.4, clock=clock, executor=hand) as mpc:
        memory = mpc.init(1)
        u, memory = mpc.act(tensor([1.0, 0.0]), memory)
        assert float(u) == 0.25
        hand.finish()
        assert float(mpc.control()) == 1.0
        clock.sleep(0.79)
        assert float(mpc.control()) == 0.25


def test_an_element_without_a_new_plan_keeps_its_old_one(clock, hand):
    with AsynchronousMPC(problem(), Reads(1.0), predict=False, clock=clock, executor=hand) as mpc:
        memory = mpc.init(3)
        _, memory = mpc.act(tensor([1.0, 0.0], [2.0, 0.0], [60.0, 0.0]), memory)
        hand.finish()
        u, memory = mpc.act(tensor([1.0, 0.0], [2.0, 0.0], [60.0, 0.0]), memory)
        assert u.flatten().tolist() == [1.0, 2.0, 0.0]
        clock.advance(0.1)
        hand.finish()
        _, memory = mpc.act(tensor([5.0, 0.0], [60.0, 0.0], [7.0, 0.0]), memory)
        hand.finish()
        u, memory = mpc.act(tensor([5.0, 0.0], [math.nan, 0.0], [7.0, 0.0]), memory)
        torch.testing.assert_close(u.flatten(), tensor(5.1, 2.1, 7.1))
        torch.testing.assert_close(memory.age, tensor(0.0, 0.1, 0.0))
        assert mpc.report().unusable == 3
        assert len(mpc._plans.held) == 2  # no plan is kept that nobody needs


def test_a_state_that_is_not_finite_is_no_news(clock, hand):
    with AsynchronousMPC(problem(), Reads(1.0), clock=clock, executor=hand) as mpc:
        memory = mpc.init(1)
        u, memory = mpc.act(tensor([math.nan, 0.0]), memory)
        assert float(u) == 0.0
        assert hand.waiting == []
        _, memory = mpc.act(tensor([2.0, 0.0]), memory)
        hand.finish()
        clock.advance(0.05)
        u, memory = mpc.act(tensor([math.inf, 0.0]), memory)
        assert float(u) == pytest.approx(2.05)
        assert hand.waiting == []


def test_a_plan_that_is_not_finite_gives_zero(clock, hand):
    with AsynchronousMPC(problem(), Reads(math.inf), clock=clock, executor=hand) as mpc:
        memory = mpc.init(1)
        _, memory = mpc.act(tensor([1.0, 0.0]), memory)
        hand.finish()
        assert float(mpc.control()) == 0.0


def test_what_the_planner_raises_is_raised_by_the_next_call(clock, hand):
    with AsynchronousMPC(problem(), Reads(), clock=clock, executor=hand) as mpc:
        memory = mpc.init(1)
        _, memory = mpc.act(tensor([95.0, 0.0]), memory)
        hand.finish()
        for call in (lambda: mpc.act(tensor([1.0, 0.0]), memory), mpc.control, lambda: mpc.init(1)):
            with pytest.raises(ArithmeticError, match="the state is beyond 90") as caught:
                call()
            assert "in the planner of an AsynchronousMPC, from the state at 0.000 s" in caught.value.__notes__
        assert hand.waiting == []


def test_what_the_planner_raises_last_is_raised_at_the_end_of_the_block(clock, hand):
    def body(error=None):
        with AsynchronousMPC(problem(), Reads(), clock=clock, executor=hand) as mpc:
            mpc.act(tensor([95.0, 0.0]), mpc.init(1))
            hand.finish()
            if error:
                raise error

    with pytest.raises(ArithmeticError, match="the state is beyond 90"):
        body()
    with pytest.raises(OSError, match="cable") as caught:  # the error of the body goes first
        body(OSError("cable"))
    assert "the planner had failed: ArithmeticError('the state is beyond 90')" in caught.value.__notes__[0]


def test_a_plan_that_does_not_fit_is_an_error_too(clock, hand):
    @dataclass(frozen=True)
    class Wide(Reads):
        def plan(self, problem, x0, request):
            return super().plan(problem, x0.repeat(2, 1), request)

    with AsynchronousMPC(problem(), Wide(), clock=clock, executor=hand) as mpc:
        memory = mpc.init(3)
        _, memory = mpc.act(tensor([1.0, 0.0]).expand(3, 2), memory)
        hand.finish()
        with pytest.raises(RuntimeError, match="size"):
            mpc.control()


def test_a_plan_from_before_the_last_init_does_not_count(clock, hand):
    with AsynchronousMPC(problem(), Reads(1.0), clock=clock, executor=hand) as mpc:
        old = mpc.init(1)
        _, old = mpc.act(tensor([7.0, 0.0]), old)
        memory = mpc.init(1)
        _, memory = mpc.act(tensor([1.0, 0.0]), memory)
        hand.finish()
        assert float(mpc.control()) == 0.0
        hand.finish()
        assert float(mpc.control()) == 1.0
        with pytest.raises(ValueError, match="this memory is from before the last init"):
            mpc.act(tensor([1.0, 0.0]), old)
        assert mpc.report().plans == 1


def test_warming_up_gives_the_first_plan(clock, hand):
    with AsynchronousMPC(problem(), Reads(1.0), clock=clock, executor=hand) as mpc:
        mpc.warm_up(tensor([3.0, 0.0]))
        clock.advance(5.0)
        memory = mpc.init(1)
        u, memory = mpc.act(tensor([3.0, 0.0]), memory)
        assert float(u) == 3.0
        assert mpc.report().fallbacks == 0
        assert math.isinf(mpc.init(2).age[0])  # of another batch


def test_wrong_use(clock, hand):
    mpc = AsynchronousMPC(problem(), Reads(), clock=clock, executor=hand)
    for call in (lambda: mpc.init(1), mpc.control):
        with pytest.raises(RuntimeError, match=r"acts inside its block: with AsynchronousMPC"):
            call()
    with mpc:
        memory = mpc.init(2)
        with pytest.raises(ValueError, match=r"x must be a floating-point tensor of shape \(2, 2\).*got \(1, 2\)"):
            mpc.act(tensor([1.0, 2.0]), memory)
        with pytest.raises(
            TypeError, match=r"memory must come from init or the last act, got Tensor: act\(x, memory\)"
        ):
            mpc.act(memory, tensor([1.0, 2.0]))
        with pytest.raises(RuntimeError, match="already at work"), mpc:
            pass
        mpc.control()
    with pytest.raises(RuntimeError, match=r"acts inside its block"):
        mpc.act(tensor([1.0, 2.0], [1.0, 2.0]), memory)
    for options, message in (
        ({"latency": -1.0}, "latency must be a finite number of seconds, at least 0, got -1.0"),
        ({"latency": 0.1, "clock": clock}, "either latency, or clock and executor"),
        ({"latency": 0.1, "period": 0.0}, "period is a positive number of seconds that goes with latency, got 0.0"),
        ({"period": 0.1}, "period is a positive number of seconds that goes with latency, got 0.1 and None"),
        ({"staleness": 0.0}, "staleness must be a positive number of seconds, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            AsynchronousMPC(problem(), Reads(), **options)
    with pytest.raises(ValueError, match="LQR cannot honor: control_limits"):
        AsynchronousMPC(problem(), LQR())


def test_a_recording_does_not_keep_real_time():
    task = mbrl.pendulum_swing_up(backend="torch")
    with (
        AsynchronousMPC(task.problem(), ICEM()) as mpc,
        pytest.raises(ValueError, match=r"AsynchronousMPC plans in real time.*give it latency"),
    ):
        mbrl.evaluate(mpc, task, episodes=1)


def test_single_precision_and_a_batch_without_elements(clock):
    with AsynchronousMPC(problem(), Reads(1.0), clock=clock, executor=clock) as mpc:
        memory = mpc.init(1)
        u, memory = mpc.act(torch.tensor([[1.0, 0.0]]), memory)
        assert u.dtype == torch.float32
        assert not u.requires_grad
        memory = mpc.init(0)
        u, memory = mpc.act(torch.zeros(0, 2), memory)
        assert u.shape == (0, 1)


# In a real thread


def planner_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("planner")]


def test_a_thread_plans_while_the_loop_goes_on():
    """Until ten plans are there, however long that takes."""
    interval = sys.getswitchinterval()
    x, pendulum = tensor([3.0, 0.0]), Pendulum()
    with AsynchronousMPC(swing_up(), PredictiveSampling(num_samples=10)) as mpc:
        assert sys.getswitchinterval() == SWITCH_INTERVAL
        memory = mpc.init(1)
        while mpc.report().plans < 10:
            u, memory = mpc.act(x, memory)
            assert bool((u.abs() <= 2.0).all())
            x = pendulum(x, u)
        report = mpc.report()
    assert planner_threads() == []
    assert sys.getswitchinterval() == interval
    assert report.unusable == 0
    assert memory.solution is not None
    assert "plans of" in str(report)


def test_leaving_the_block_ends_a_solve_that_would_go_on():
    started = threading.Event()

    @dataclass(frozen=True)
    class Endless(Reads):
        def plan(self, problem, x0, request):
            started.set()
            while not request.out_of_time():
                time.sleep(0.001)
            return super().plan(problem, x0, request)

    with AsynchronousMPC(problem(), Endless()) as mpc:
        mpc.act(tensor([1.0, 0.0]), mpc.init(1))
        assert started.wait(60)
    assert planner_threads() == []


def test_an_error_in_the_thread_comes_out_with_its_message():
    def loop():
        with AsynchronousMPC(problem(), Reads()) as mpc:
            memory = mpc.init(1)
            while True:
                _, memory = mpc.act(tensor([95.0, 0.0]), memory)

    with pytest.raises(ArithmeticError, match="the state is beyond 90"):
        loop()
    assert planner_threads() == []


def test_a_plan_is_stale_when_it_has_ended_unless_said_otherwise():
    shared = problem()
    first, second = AsynchronousMPC(shared, Reads()), AsynchronousMPC(replace(shared, horizon=4), Reads())
    assert (first.staleness, second.staleness) == (pytest.approx(1.0), pytest.approx(0.4))
