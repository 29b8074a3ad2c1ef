"""Control splines: against SciPy and closed forms, on absolute grids, as part of a solution."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

from dynamics import DoubleIntegrator
from planners import ControlSpline, GoalCost, Problem, Solution
from planners.splines import KnotGrid

VALUES = torch.tensor([[0.0], [2.0], [-1.0], [0.5], [3.0]], dtype=torch.float64)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_degree_0_holds_each_knot_until_the_next():
    spline = ControlSpline(VALUES, start=1.0, interval=0.5, degree=0)
    at = times(-3.0, 1.0, 1.49, 1.5, 2.0, 2.99, 3.0, 9.0)
    assert spline(at).flatten().tolist() == [0.0, 0.0, 0.0, 2.0, -1.0, 0.5, 3.0, 3.0]


def test_degree_1_is_linear_interpolation():
    spline = ControlSpline(VALUES, start=1.0, interval=0.5, degree=1)
    at = torch.linspace(0.0, 4.0, 57, dtype=torch.float64)
    expected = np.interp(at.numpy(), 1.0 + 0.5 * np.arange(5), VALUES[:, 0].numpy())
    np.testing.assert_allclose(spline(at)[:, 0].numpy(), expected, rtol=0, atol=1e-14)


def test_degree_3_is_the_hermite_spline_with_central_slopes():
    """Catmull-Rom: the slope at a knot is that of the chord between its neighbors, the ends counted twice."""
    spline = ControlSpline(VALUES, start=1.0, interval=0.5, degree=3)
    knots, y = 1.0 + 0.5 * np.arange(5), VALUES[:, 0].numpy()
    padded = np.concatenate([y[:1], y, y[-1:]])
    hermite = CubicHermiteSpline(knots, y, (padded[2:] - padded[:-2]) / 1.0)
    at = np.linspace(1.0, 3.0, 83)
    np.testing.assert_allclose(spline(torch.from_numpy(at))[:, 0].numpy(), hermite(at), rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("interval", [0.1, 1 / 3, 0.07])
def test_the_knots_themselves_come_back_exactly(degree, interval):
    spline = ControlSpline(VALUES, start=17 * interval, interval=interval, degree=degree)
    assert torch.equal(spline(spline.grid.times()), VALUES)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_weights_sum_to_one_everywhere(degree):
    grid = KnotGrid(-0.3, 0.2, 7, degree)
    weights = grid.weights(torch.linspace(-2.0, 3.0, 101, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(-1), torch.ones(101).double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("later", [0.0, 0.03, 0.2, 0.21, 0.5, 0.97])
def test_a_signal_moved_to_a_later_grid_is_the_same_function(degree, later):
    """Read at the knots of the grid that covers a later window, it agrees up to the last knot; what follows is held there."""
    first = KnotGrid.covering(0.0, 1.0, 0.2, degree)
    values = torch.randn(first.count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spline = ControlSpline(values, first.start, first.interval, degree)
    second = KnotGrid.covering(later, later + 1.0, 0.2, degree)
    moved = ControlSpline(spline(second.times()), second.start, second.interval, degree)
    at = torch.linspace(later, max(later, float(first.times()[-1])), 200, dtype=torch.float64)
    torch.testing.assert_close(moved(at), spline(at), rtol=0, atol=1e-14)
    assert torch.equal(moved(times(50.0)), spline(times(50.0)))


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_a_covering_grid_has_no_knot_that_does_not_count(degree):
    for first in np.arange(0.0, 1.0, 0.013):
        at = torch.linspace(first, first + 0.7, 50, dtype=torch.float64)
        weights = KnotGrid.covering(first, first + 0.7, 0.1, degree).weights(at)
        reach = weights.abs().amax(0)
        assert (reach[1 if degree == 3 else 0 :] > 0).all()


def test_times_that_are_knots_up_to_rounding():
    """0.1 * 3 is more than 0.3: neither side of a jump may depend on it."""
    grid = KnotGrid(0.0, 0.1, 10)
    assert grid.held(times(0.3, 0.1 * 3, 0.1 + 0.2, 0.7, 0.1 * 7)).tolist() == [3, 3, 3, 7, 7]
    assert KnotGrid.covering(0.1 * 3, 0.7, 0.1, 0) == KnotGrid.covering(0.3, 0.1 * 7, 0.1, 0)


def test_batches_and_dtypes():
    values = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0))
    spline = ControlSpline(values, 0.0, 0.1, 1)
    sampled = spline(times(0.05, 0.1))
    assert sampled.shape == (4, 3, 2, 2)
    assert sampled.dtype == torch.float32
    torch.testing.assert_close(sampled[..., 0, :], 0.5 * (values[..., 0, :] + values[..., 1, :]))
    assert spline(times()).shape == (4, 3, 0, 2)
    assert ControlSpline(values[:0], 0.0, 0.1, 3)(times(0.0)).shape == (0, 3, 1, 2)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"degree": 2}, r"degree must be 0 \(held\), 1 \(linear\) or 3 \(cubic\), got 2"),
        ({"interval": 0.0}, "interval > 0"),
        ({"start": float("nan")}, "finite start"),
        ({"values": torch.zeros(3)}, r"shape \(\*batch, K, m\) with K >= 1, got \(3,\)"),
        ({"values": torch.zeros(0, 1)}, r"K >= 1, got \(0, 1\)"),
        ({"values": [[0.0]]}, "got list"),
    ],
)
def test_wrong_fields(fields, text):
    with pytest.raises(ValueError, match=text):
        ControlSpline(**{"values": VALUES, "start": 0.0, "interval": 0.1, **fields})


# Plans as functions of time


def plan(spline=None, **fields):
    problem = Problem(DoubleIntegrator(dt=0.1), GoalCost(), 5, control_limits=(-1.0, 1.0))
    us = VALUES.clamp(-1, 1)
    zero = torch.zeros(())
    return Solution(problem, torch.zeros(6, 2).double(), us, zero, zero.long(), spline=spline, **fields)


def test_a_plan_without_knots_is_held_over_its_steps():
    solution = plan(time=2.0)
    at = times(1.0, 2.0, 2.099, 2.1, 2.4, 7.0)
    assert torch.equal(solution.controls_at(at), solution.us[[0, 0, 0, 1, 4, 4]])


def test_a_plan_with_knots_is_their_spline_within_the_limits():
    spline = ControlSpline(VALUES, start=2.0, interval=0.1, degree=1)
    at = torch.linspace(1.9, 2.6, 40, dtype=torch.float64)
    assert torch.equal(plan(spline, time=2.0).controls_at(at), spline(at).clamp(-1, 1))
