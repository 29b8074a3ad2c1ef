"""The control loop in simulated time: when it does what, what reaches the plant, and what is left however it ends."""

import gc
import math

import numpy as np
import pytest
import torch

from dynamics import DoubleIntegrator, MujocoDynamics, read_trajectories
from mbrl import (
    ControlLoopError,
    Safety,
    SimulatedPlant,
    SplineNoise,
    cart_pole_swing_up,
    pendulum_swing_up,
    record,
    run_control_loop,
)
from planners import MPC, AsynchronousMPC, PredictiveSampling, SimulatedTime

PERIOD = 0.1


class Bench:
    """A plant whose measurements are given in advance (an exception is raised) and that notes what is written when."""

    def __init__(self, clock, measurements=None, **attributes):
        self.clock, self.measurements, self.written, self.stopped = clock, measurements, [], 0
        self.reads = 0
        vars(self).update(attributes)

    def read(self):
        self.reads += 1
        y = [float(self.reads - 1), 0.0] if self.measurements is None else self.measurements[self.reads - 1]
        if isinstance(y, BaseException):
            raise y
        return y

    def write(self, u):
        self.written.append((round(self.clock(), 9), *u.tolist()))

    def stop(self):
        self.stopped += 1


class Gives:
    """An actor that gives ``value(k)`` in its k-th step and takes some simulated seconds for it."""

    acts_on = "observation"

    def __init__(self, value=lambda k: float(k + 1), clock=None, seconds=lambda k: 0.0):
        self.value, self.clock, self.seconds = value, clock, seconds

    def init(self, batch, *, generator=None):
        assert batch == 1
        return 0

    def act(self, y, memory, *, deterministic=True):
        assert y.shape == (1, 2)
        assert y.isfinite().all()
        if self.clock:
            self.clock.sleep(self.seconds(memory))
        value = self.value(memory)
        if isinstance(value, BaseException):
            raise value
        return torch.tensor([[value]], dtype=torch.float64), memory + 1


@pytest.fixture
def clock():
    return SimulatedTime()


def run(plant, actor, clock, steps=4, **options):
    options = {"clock": clock, "sleep": clock.sleep, **options}
    return run_control_loop(plant, actor, period=PERIOD, steps=steps, **options)


# Time


def test_cycles_are_due_at_multiples_of_the_period(clock):
    clock.advance(1000.0)
    plant = Bench(clock)
    result = run(plant, Gives(clock=clock, seconds=lambda k: 0.03), clock)
    assert plant.written == [(1000.03, 1.0), (1000.13, 2.0), (1000.23, 3.0), (1000.33, 4.0), (1000.4, 0.0)]
    log = result.trajectory
    np.testing.assert_allclose(log.times, [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-9)
    assert log.observations[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert log.controls.ravel().tolist() == [1.0, 2.0, 3.0, 4.0]
    assert (log.truncated, log.terminated) == (True, False)
    np.testing.assert_allclose(result.latency, 0.03)
    np.testing.assert_allclose(result.lateness, 0.0, atol=1e-9)
    assert (result.late, result.missed, result.limited, result.dropouts) == (0, 0, 0, 0)
    assert result.completed
    assert result.error is None
    assert plant.stopped == 1
    assert result.memory == 4
    assert run(Bench(clock), Gives(), clock, memory=7).trajectory.controls.ravel().tolist() == [8.0, 9.0, 10.0, 11.0]
    assert "4 cycles of 100 ms, 0 late, 0 left out; read to write 30 ms" in str(result)


def test_sleeping_too_long_does_not_add_up(clock):
    result = run(
        Bench(clock), Gives(), clock, steps=50, sleep=lambda seconds: clock.sleep(seconds + 0.02 if seconds > 0 else 0)
    )
    np.testing.assert_allclose(result.trajectory.times[1:], 0.1 * np.arange(1, 51) + 0.02)
    np.testing.assert_allclose(result.lateness[1:], 0.02)
    assert (result.late, result.missed) == (49, 0)  # by more than a tenth of a period


def test_a_cycle_that_takes_too_long_makes_one_late_and_leaves_others_out(clock):
    """The second cycle takes 2.3 periods: the third is left out, the fourth begins 0.3 periods late, the fifth in time."""
    plant = Bench(clock)
    result = run(plant, Gives(clock=clock, seconds=lambda k: 0.23 if k == 1 else 0.0), clock, steps=6)
    np.testing.assert_allclose(result.trajectory.times, [0.0, 0.1, 0.33, 0.4, 0.5, 0.6])
    np.testing.assert_allclose(result.lateness, [0.0, 0.0, 0.03, 0.0, 0.0], atol=1e-9)
    assert (result.late, result.missed) == (1, 1)
    assert [u for _, u in plant.written] == [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]


def test_a_last_cycle_that_takes_too_long_does_not_count_cycles_after_the_end(clock):
    result = run(Bench(clock), Gives(clock=clock, seconds=lambda k: 1.0), clock, steps=3)
    np.testing.assert_allclose(result.trajectory.times, [0.0, 1.0])
    assert result.missed == 2


def test_a_clock_that_stands_still_is_noticed():
    plant = Bench(SimulatedTime())
    with pytest.raises(ControlLoopError, match="the clock stands still or runs backwards"):
        run_control_loop(plant, Gives(), period=PERIOD, steps=3, clock=lambda: 0.0, sleep=lambda seconds: None)
    assert plant.written[-1] == (0.0, 0.0)


def test_the_garbage_collector_is_left_as_it_was(clock):
    seen = []
    run(Bench(clock), Gives(lambda k: float(seen.append(gc.get_freeze_count()) or 0)), clock)
    assert min(seen) > 0
    assert gc.get_freeze_count() == 0


# Safety


def test_controls_are_clamped(clock):
    plant = Bench(clock)
    result = run(plant, Gives(lambda k: [0.5, 3.0, -9.0, 1.0][k]), clock, safety=Safety(control_limits=(-2.0, [1.5])))
    assert [u for _, u in plant.written] == [0.5, 1.5, -2.0, 1.0, 0.0]
    assert result.trajectory.controls.ravel().tolist() == [0.5, 1.5, -2.0, 1.0]  # what was written, not what was wanted
    assert result.limited == 2


def test_rates_count_from_the_safe_control_and_per_second(clock):
    """Up at 10 per second, down at 20; the second cycle takes 1.5 periods, so that the third follows at once."""
    safety = Safety(control_limits=(0.0, 9.0), rate_limits=(-20.0, 10.0), safe_control=1.0)
    plant = Bench(clock)
    actor = Gives(lambda k: [9.0, 9.0, 9.0, 9.0, 0.0][k], clock, lambda k: 0.15 if k == 1 else 0.0)
    result = run(plant, actor, clock, steps=5, safety=safety)
    times, us = zip(*plant.written, strict=True)
    assert times == pytest.approx([0.0, 0.25, 0.25, 0.3, 0.4, 0.5])
    assert us == pytest.approx([2.0, 4.5, 4.5, 5.0, 3.0, 1.0])
    assert result.limited == 5


def test_outside_of_the_envelope_the_loop_ends_with_the_safe_control(clock):
    safety = Safety(envelope=([-1.0, -5.0], [1.5, 5.0]), safe_control=[0.25])
    plant = Bench(clock, names={"observations": ["position", "speed"]})
    with pytest.raises(ControlLoopError, match=r"position = 2 is outside of the envelope, -1 to 1.5") as caught:
        run(plant, Gives(), clock, safety=safety)
    result = caught.value.result
    assert plant.written == [(0.0, 1.0), (0.1, 2.0), (0.2, 0.25)]
    assert plant.stopped == 1
    assert result.trajectory.observations[:, 0].tolist() == [0.0, 1.0, 2.0]  # with what broke the rule
    assert result.trajectory.controls.ravel().tolist() == [1.0, 2.0]
    assert not result.completed
    assert run(Bench(clock), Gives(), clock, safety=safety, throw=False).ended.startswith(
        "measurement 0 = 2 is outside"
    )


def test_a_measurement_that_is_not_finite_ends_the_loop(clock):
    plant = Bench(clock, [[0.0, 0.0], [math.nan, 0.0]])
    with pytest.raises(ControlLoopError, match=r"measurement \[nan, 0.0\] of cycle 1 is not finite, 1 in a row"):
        run(plant, Gives(), clock)
    assert plant.written == [(0.0, 1.0), (0.1, 0.0)]


def test_dropouts_that_are_allowed_hold_the_control_and_leave_no_row(clock):
    nan = [math.nan, 1.0]
    plant = Bench(clock, [nan, [1.0, 0.0], nan, [math.inf, 0.0], [4.0, 0.0], [5.0, 0.0], nan])
    result = run(plant, Gives(), clock, steps=6, safety=Safety(max_dropouts=2, safe_control=-1.0))
    assert [u for _, u in plant.written] == [-1.0, 1.0, 1.0, 1.0, 2.0, 3.0, -1.0]
    np.testing.assert_allclose(result.trajectory.times, [0.1, 0.4, 0.5])
    assert result.trajectory.observations[:, 0].tolist() == [1.0, 4.0, 5.0]
    assert result.trajectory.controls.ravel().tolist() == [
        1.0,
        2.0,
    ]  # held over a longer step; the last one has no outcome
    assert result.dropouts == 3
    assert "3 dropouts" in str(result)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_control_that_is_not_finite_never_reaches_the_plant(clock, bad):
    plant = Bench(clock)
    with pytest.raises(ControlLoopError, match="Gives gave a control that is not finite in cycle 2"):
        run(plant, Gives(lambda k: bad if k == 2 else 1.0), clock)
    assert plant.written == [(0.0, 1.0), (0.1, 1.0), (0.2, 0.0)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"control_limits": (1.0, -1.0)}, "control_limits must satisfy lower <= upper"),
        ({"rate_limits": 3.0}, r"rate_limits must be \(lower, upper\)"),
        ({"envelope": ([0.0], [math.nan])}, "envelope must satisfy lower <= upper"),
        ({"envelope": ([0.0, 0.0], [1.0, 1.0, 1.0])}, r"envelope must be \(lower, upper\)"),
        (
            {"control_limits": (1.0, 2.0)},
            r"safe_control must be finite and within control_limits=\(1.0, 2.0\), got 0.0",
        ),
        ({"safe_control": math.nan}, "safe_control must be finite"),
        ({"max_dropouts": -1}, "max_dropouts must be at least 0"),
    ],
)
def test_rules_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        Safety(**fields)


# Ends


def test_an_error_of_the_actor_leaves_the_plant_safe_and_the_log_saved(clock, tmp_path):
    plant, file = Bench(clock), tmp_path / "log.npz"
    error = ArithmeticError("no plan")
    with pytest.raises(ControlLoopError, match="broke off: ArithmeticError: no plan") as caught:
        run(plant, Gives(lambda k: error if k == 2 else 1.0), clock, save=file)
    assert caught.value.__cause__ is error
    assert plant.written[-1] == (0.2, 0.0)
    assert plant.stopped == 1
    (log,) = read_trajectories(file)
    np.testing.assert_array_equal(log.times, caught.value.result.trajectory.times)
    assert log.num_steps == 2


def test_errors_of_the_plant(clock):
    plant = Bench(clock, [[0.0, 0.0], [1.0, 0.0], OSError("cable")])
    result = run(plant, Gives(), clock, throw=False)
    assert result.ended == "OSError: cable"
    assert isinstance(result.error, OSError)
    assert result.trajectory.num_steps == 1  # the outcome of the second control is not known
    assert plant.written[-1] == (0.2, 0.0)

    class Broken(Bench):
        def write(self, u):
            raise OSError("no power")

    plant = Broken(clock)
    result = run(plant, Gives(), clock, throw=False)
    assert result.ended == "OSError: no power; the safe control could not be written: OSError('no power')"
    assert plant.stopped == 1
    nothing = run(Bench(clock, [OSError("cable")]), Gives(), clock, throw=False)
    assert nothing.trajectory is None
    assert "0 late" in str(nothing)


def test_a_safe_control_that_could_not_be_written_is_an_error(clock):
    class Fails(Bench):
        def write(self, u):
            super().write(u)
            if len(self.written) > 4:
                raise OSError("no power")

    with pytest.raises(ControlLoopError, match="all cycles are done; the safe control could not be written"):
        run(Fails(clock), Gives(), clock)


def test_control_c_ends_the_loop_without_an_error(clock, tmp_path):
    def sleep(seconds):
        if clock() > 0.15:
            raise KeyboardInterrupt
        clock.sleep(seconds)

    plant = Bench(clock)
    result = run(plant, Gives(), clock, steps=100, sleep=sleep, save=tmp_path / "log.npz")
    assert result.ended == "interrupted"
    assert not result.completed
    assert plant.written == [(0.0, 1.0), (0.1, 2.0), (0.2, 3.0), (0.2, 0.0)]
    assert result.trajectory.num_steps == 2
    assert (tmp_path / "log.npz").exists()


def test_leaving_the_program_leaves_the_plant_safe(clock):
    plant = Bench(clock)
    with pytest.raises(SystemExit):
        run(plant, Gives(lambda k: SystemExit(3)), clock)
    assert plant.written == [(0.0, 0.0)]
    assert plant.stopped == 1


def test_wrong_use(clock, tmp_path):
    for options in ({"steps": 0}, {"period": 0.0}, {"period": math.nan}, {"period": math.inf}):
        with pytest.raises(ValueError, match="need a period > 0"):
            run_control_loop(Bench(clock), Gives(), **{"period": PERIOD, "steps": 3, **options})
    with pytest.raises(TypeError, match="an actor has acts_on, init and act"):
        run(Bench(clock), PredictiveSampling(), clock)
    for plant in (pendulum_swing_up(backend="torch"), Bench):
        with pytest.raises(TypeError, match=r"a plant is an object with read\(\) and write\(u\), got \w+; a task's"):
            run(plant, Gives(), clock)
    (tmp_path / "log.npz").touch()
    with pytest.raises(FileExistsError, match="a log is not overwritten"):
        run(Bench(clock), Gives(), clock, save=tmp_path / "log.npz")
    for measurements, message in (
        ([[[0.0, 0.0]]], r"Bench.read must give an array of shape \(ny,\), got \(1, 2\)"),
        ([[0.0, 0.0], [0.0]], r"shape \(2,\) as before, got \(1,\)"),
    ):
        with pytest.raises(ControlLoopError, match=message):
            run(Bench(clock, measurements), Gives(), clock)

    class Flat(Gives):
        def act(self, y, memory, *, deterministic=True):
            return torch.zeros(1), memory

    with pytest.raises(ControlLoopError, match=r"Flat must give controls of shape \(1, m\), got \(1,\)"):
        run(Bench(clock), Flat(), clock)
    with pytest.raises(ControlLoopError, match="control_limits must be numbers or one for each of 1 columns"):
        run(Bench(clock), Gives(), clock, safety=Safety(control_limits=([-1.0] * 3, [1.0] * 3)))


# On a simulated plant


def test_in_simulated_time_a_loop_is_a_recording(clock):
    """Bit for bit, for an actor on the state and for one on the observation."""
    task = pendulum_swing_up(backend="torch")
    mpc = MPC(task.problem(horizon=15), PredictiveSampling(num_samples=20))
    noise = SplineNoise(task.control_limits)
    for actor, measures in ((mpc, "state"), (noise, "observation")):
        (expected,) = record(task, actor, 1, steps=20)
        generator = torch.Generator().manual_seed(0)
        plant = SimulatedPlant(task, generator=generator, measures=measures, clock=clock)
        result = run_control_loop(
            plant, actor, period=task.dynamics.dt, steps=20, generator=generator, clock=clock, sleep=clock.sleep
        )
        measured = expected.states if measures == "state" else expected.observations
        np.testing.assert_array_equal(result.trajectory.observations, measured)
        np.testing.assert_array_equal(result.trajectory.controls, expected.controls)
        group = "states" if measures == "state" else "observations"
        assert result.trajectory.names.observations == getattr(expected.names, group)
        assert result.trajectory.units.observations == getattr(expected.units, group)
        assert result.trajectory.names.controls == expected.names.controls
        assert result.trajectory.dt == task.dynamics.dt


def test_a_plant_of_mujoco_goes_on_between_the_cycles(clock):
    """A control is held from the writing on, in steps of the dynamics; a slow actor is felt."""
    task = cart_pole_swing_up()
    plant = SimulatedPlant(task, dynamics=MujocoDynamics(task.dynamics.model), x0=[0.0, 3.0, 0.0, 0.0], clock=clock)
    fine = MujocoDynamics(task.dynamics.model)
    assert fine.dt == 0.01
    x = plant.read()
    clock.advance(0.025)  # the force is written then, and counts from 0.02 s on
    plant.write(torch.tensor([4.0]))
    clock.advance(0.06)
    expected = fine.rollout(x, torch.tensor([0.0, 0.0, 4.0, 4.0, 4.0, 4.0], dtype=x.dtype).unsqueeze(-1))
    assert torch.equal(plant.read(), expected[-1])
    assert torch.equal(plant.read(), expected[-1])  # no time has passed
    plant.write(torch.tensor([99.0]))
    assert plant.u.tolist() == [10.0]  # the motor's limit
    for bad in (torch.tensor([math.nan]), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"a control must be finite and of shape \(1,\)"):
            plant.write(bad)


def test_a_simulated_latency_is_the_same_in_a_loop_and_in_a_recording():
    task = pendulum_swing_up(backend="torch")
    problem, planner, latency = task.problem(horizon=15), PredictiveSampling(num_samples=20), 0.12
    with AsynchronousMPC(problem, planner, latency=latency) as mpc:
        (expected,) = record(task, mpc, 1, steps=20)
    clock, generator = SimulatedTime(latency), torch.Generator().manual_seed(0)
    plant = SimulatedPlant(task, generator=generator, clock=clock)
    with AsynchronousMPC(problem, planner, clock=clock, executor=clock) as mpc:
        result = run_control_loop(
            plant, mpc, period=task.dynamics.dt, steps=20, generator=generator, clock=clock, sleep=clock.sleep
        )
        assert mpc.report().plans == 8  # one every 0.12 s in 1 s, from the states at 0, 0.1, 0.2, 0.35, ... s
    np.testing.assert_array_equal(result.trajectory.controls, expected.controls)
    np.testing.assert_array_equal(result.trajectory.observations, expected.states)


def test_a_simulated_plant_that_does_not_fit():
    task = pendulum_swing_up(backend="torch")
    with pytest.raises(ValueError, match="measures must be 'state' or 'observation', got 'both'"):
        SimulatedPlant(task, measures="both")
    with pytest.raises(ValueError, match=r"dynamics must have the task's 2 states and 1 controls, got 4 and 2"):
        SimulatedPlant(task, dynamics=DoubleIntegrator(2))
    with pytest.raises(ValueError, match=r"x0 must have shape \(2,\), got \(3,\)"):
        SimulatedPlant(task, x0=[0.0, 0.0, 0.0])
