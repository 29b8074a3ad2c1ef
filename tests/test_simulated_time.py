"""Simulated time: what is submitted is handed over when its time has come, in order."""

import math

import pytest

from planners import SimulatedTime


def test_time_passes_when_it_is_told_to():
    time = SimulatedTime()
    assert time() == 0.0
    time.sleep(0.25)
    time.advance(1.0)
    time.advance(0.5)  # is over
    assert time() == 1.0


def test_without_latency_work_is_done_at_once():
    future = SimulatedTime().submit(divmod, 7, 3)
    assert future.result(timeout=0) == (2, 1)


def test_a_result_comes_when_its_latency_is_over():
    time = SimulatedTime(latency=0.5)
    time.sleep(1.0)
    future = time.submit(divmod, 7, 3)
    time.advance(1.499)
    assert not future.done()
    time.advance(1.5)
    assert future.result(timeout=0) == (2, 1)


def test_work_that_follows_work_begins_when_that_ended():
    """Whoever submits the next piece when one is done sees the time at which it was done, not the time of the caller."""
    time, times = SimulatedTime(latency=0.4), []

    def again(future):
        times.append(time())
        if len(times) < 3:
            time.submit(int).add_done_callback(again)

    time.submit(int).add_done_callback(again)
    time.advance(1.0)
    assert times == pytest.approx([0.4, 0.8])
    assert time() == 1.0
    time.advance(2.0)
    assert times == pytest.approx([0.4, 0.8, 1.2])


@pytest.mark.parametrize("latency", [0.0, 0.1])
def test_an_error_is_handed_over_like_a_result(latency):
    time = SimulatedTime(latency)
    future = time.submit(divmod, 1, 0)
    time.sleep(0.1)
    with pytest.raises(ZeroDivisionError):
        future.result(timeout=0)


@pytest.mark.parametrize("latency", [-1.0, math.nan, math.inf])
def test_a_latency_is_a_number_of_seconds(latency):
    with pytest.raises(ValueError, match="latency must be a finite number of seconds, at least 0"):
        SimulatedTime(latency)


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_time_does_not_run_backwards(seconds):
    with pytest.raises(ValueError, match="time cannot pass by"):
        SimulatedTime().sleep(seconds)
