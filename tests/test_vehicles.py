"""Car and unicycle against transcriptions of their sources, geometry and the costs of published problems."""

import math

import numpy as np
import pytest
import torch

from dynamics import Car, Unicycle
from planners import Problem, QuadraticCost, SmoothAbsCost


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def tassa_step(x, u, d=2.0, h=0.03):
    """``car_dynamics`` of ``iLQG/demo_car.m``, one state at a time."""
    _, _, o, v = x
    w, a = u
    f = h * v
    b = d + f * np.cos(w) - np.sqrt(d**2 - (f * np.sin(w)) ** 2)
    do = np.arcsin(np.sin(w) * f / d)
    return x + np.array([b * np.cos(o), b * np.sin(o), do, h * a])


def tassa_cost(xs, us):
    """``car_cost`` of ``iLQG/demo_car.m``."""

    def sabs(x, p):
        return np.sqrt(x**2 + p**2) - p

    total = sum(0.01 * w**2 + 1e-4 * a**2 for w, a in us)
    total += sum(1e-3 * (sabs(x[0], 0.1) + sabs(x[1], 0.1)) for x in xs)  # the last one, too
    x, y, o, v = xs[-1]
    return total + 0.1 * sabs(x, 0.01) + 0.1 * sabs(y, 0.01) + sabs(o, 0.01) + 0.3 * sabs(v, 1.0)


def parking():
    """Tassa's problem, written with the library's costs; the heading is not wrapped."""
    nearby = [1e-3, 1e-3, 0.0, 0.0]
    running = SmoothAbsCost(0.0, nearby, [0.01, 1e-4], nearby, smoothing=0.1)
    pose = SmoothAbsCost(0.0, 0.0, 0.0, [0.1, 0.1, 1.0, 0.0], smoothing=0.01)
    speed = SmoothAbsCost(0.0, 0.0, 0.0, [0.0, 0.0, 0.0, 0.3], smoothing=1.0)
    return Problem(Car(), running + pose + speed, 500, control_limits=(tensor(-0.5, -2.0), tensor(0.5, 2.0)))


def car_points(generator, count=50):
    x = 3.0 * torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return x, torch.randn(count, 2, generator=generator, dtype=torch.float64)


# The car


@pytest.mark.parametrize(("wheelbase", "dt"), [(2.0, 0.03), (0.33, 0.02), (2.7, 0.2)])
def test_a_car_step_equals_its_source(wheelbase, dt, generator):
    x, u = car_points(generator)
    x[:, 3] *= 0.5  # within the domain for the short car
    x_next = Car(dt).with_parameters(wheelbase=wheelbase)(x, u)
    for ours, x_i, u_i in zip(x_next.numpy(), x.numpy(), u.numpy(), strict=True):
        np.testing.assert_allclose(ours, tassa_step(x_i, u_i, wheelbase, dt), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("seed", "cost"), [(0, 5.7086), (1, 5.9152)])
def test_the_initial_guess_of_the_parking_problem_costs_what_is_published(seed, cost):
    problem = parking()
    us = 0.1 * np.random.default_rng(seed).standard_normal((500, 2))
    x0 = np.array([1.0, 1.0, 1.5 * math.pi, 0.0])
    xs = problem.dynamics.rollout(torch.as_tensor(x0), torch.as_tensor(us))
    ours = float(problem.trajectory_cost(xs, torch.as_tensor(us)))
    assert ours == pytest.approx(cost, abs=5e-5)
    by_hand = [x0]
    for u in us:
        by_hand.append(tassa_step(by_hand[-1], u))
    np.testing.assert_allclose(xs.numpy(), np.array(by_hand), rtol=0, atol=1e-12)
    assert ours == pytest.approx(tassa_cost(by_hand, us), rel=1e-12)


def test_a_straight_car_goes_straight(generator):
    x, u = car_points(generator)
    u[:, 0] = 0.0
    heading, rolled = x[:, 2], 0.03 * x[:, 3]
    expected = torch.stack([rolled * heading.cos(), rolled * heading.sin(), 0 * heading, 0.03 * u[:, 1]], dim=-1)
    torch.testing.assert_close(Car()(x, u), x + expected, rtol=0, atol=1e-15)


def test_the_wheelbase_is_rigid(generator):
    """The front axle rolls f along the steered direction, and stays at the wheelbase from the back axle."""
    car, (x, u) = Car().with_parameters(wheelbase=1.3), car_points(generator)
    x_next = car(x, u)

    def front(x):
        return x[:, :2] + 1.3 * torch.stack([x[:, 2].cos(), x[:, 2].sin()], dim=-1)

    steered = x[:, 2] + u[:, 0]
    rolled = (0.03 * x[:, 3]).unsqueeze(-1) * torch.stack([steered.cos(), steered.sin()], dim=-1)
    torch.testing.assert_close(front(x_next), front(x) + rolled, rtol=0, atol=1e-13)


def test_a_steered_car_drives_a_circle():
    """Curvature tan(w) / d of the back axle, in the limit of short steps."""
    radius = 2.0 / math.tan(0.3)
    errors = []
    for dt in (0.02, 0.01):
        xs = Car(dt).rollout(tensor(0.0, 0.0, 0.0, 1.0), tensor(0.3, 0.0).expand(round(10 / dt), 2))
        errors.append(float((torch.hypot(xs[:, 0], xs[:, 1] - radius) - radius).abs().max()))
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05)


def test_a_car_that_rolls_farther_sideways_than_it_is_long_is_lost():
    x = tensor([0.0, 0.0, 0.0, 150.0], [0.0, 0.0, 0.0, 1.0])
    x_next = Car()(x, tensor([0.5, 0.0], [0.5, 0.0]))
    assert bool(x_next[0, :3].isnan().all())
    assert bool(x_next[1].isfinite().all())
    assert bool(Car().rollout(x[0], tensor([0.5, 0.0], [0.5, 0.0]))[1:].isnan().all())


def test_single_precision_keeps_its_digits(generator):
    """d - sqrt(d^2 - s^2) would lose them."""
    x, u = car_points(generator)
    x[:, :3] = 0.0
    exact = Car()(x, u)
    single = Car()(x.float(), u.float())
    torch.testing.assert_close(single.double()[:, 0], exact[:, 0], rtol=1e-6, atol=1e-10)


# The unicycle


def test_a_unicycle_step_equals_its_source(generator):
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    u = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    for ours, (px, py, th), (v, w) in zip(Unicycle()(x, u).numpy(), x.numpy(), u.numpy(), strict=True):
        expected = [px + 0.1 * v * math.cos(th), py + 0.1 * v * math.sin(th), th + 0.1 * w]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("steps", "x0", "cost"), [(20, (-1.0, -1.0, 1.0), 3150.0), (200, (1.0, 0.0, 0.0), 10050.0)])
def test_standing_still_in_the_unicycle_problem_costs_what_is_published(steps, x0, cost):
    eye = torch.eye(3).double()
    problem = Problem(Unicycle(), QuadraticCost(100 * eye, torch.eye(2).double(), Q_terminal=100 * eye), steps)
    us = torch.zeros(steps, 2).double()
    assert float(problem.trajectory_cost(problem.dynamics.rollout(tensor(*x0), us), us)) == pytest.approx(
        cost, rel=1e-14
    )


def test_a_unicycle_converges_to_its_circle():
    """Radius v / omega; Euler drives a polygon around it, with an error of first order."""
    errors = []
    for dt in (0.02, 0.01):
        xs = Unicycle(dt).rollout(tensor(0.0, 0.0, 0.0), tensor(1.5, 0.5).expand(round(5 / dt), 2))
        end = tensor(3.0 * math.sin(2.5), 3.0 * (1.0 - math.cos(2.5)), 2.5)
        errors.append(float((xs[-1] - end).norm()))
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05)


def test_gains_of_the_unicycle():
    unicycle = Unicycle().with_parameters(speed_gain=0.9, turn_gain=tensor(1.0, 1.2))
    x_next = unicycle(torch.zeros(2, 3).double(), torch.ones(2, 2).double())
    torch.testing.assert_close(x_next, tensor([0.09, 0.0, 0.1], [0.09, 0.0, 0.12]), rtol=0, atol=1e-16)


@pytest.mark.parametrize("make", [Car, Unicycle])
def test_a_full_turn_and_a_turned_map_change_nothing(make, generator):
    system = make()
    n = system.state_dim
    x = torch.randn(20, n, generator=generator, dtype=torch.float64)
    u = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    turn = torch.zeros(n).double()
    turn[2] = 2 * math.pi
    torch.testing.assert_close(system(x + turn, u), system(x, u) + turn, rtol=0, atol=1e-13)
    M = torch.eye(n).double()
    M[:2, :2] = tensor([math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)])
    turn[2] = 0.7
    torch.testing.assert_close(system(x @ M.T + turn, u), system(x, u) @ M.T + turn, rtol=0, atol=1e-13)


@pytest.mark.parametrize("make", [Car, Unicycle])
def test_vehicles_say_what_they_are(make):
    system = make()
    assert system.state_names[2] == "heading"
    assert system.angles == (2,)
    assert all(parameter.description for parameter in system.physical_parameters.values())
