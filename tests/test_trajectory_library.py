"""Libraries of trajectories as policies."""

import math
from dataclasses import replace

import pytest
import torch

import mbrl
from mbrl import TrajectoryLibrary, load_policy, pendulum_swing_up, save_policy
from mbrl.policies import ContinuousActions
from mbrl.testing import check_actor
from planners import LinearGaussianController

PENDULUM = pendulum_swing_up("torch")
LIMITS = ContinuousActions(torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 3.0]))


def numbers(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(N=40, n=3, *, angles=(1,), window=None, scale=None, seed=0):
    steps = torch.arange(N) % 10
    return TrajectoryLibrary(
        numbers(N, n, seed=seed, scale=2.0),
        numbers(N, 2, seed=seed + 1),
        numbers(N, 2, n, seed=seed + 2, scale=0.3),
        steps,
        actions=LIMITS,
        angles=angles,
        window=window,
        scale=scale,
    )


def by_hand(library, x, step):
    """The definition, with angles compared as points of a circle."""

    def differences(i):
        d = [float(x[j] - library.states[i, j]) for j in range(len(x))]
        for j in library.angles:
            d[j] = math.atan2(math.sin(d[j]), math.cos(d[j]))
        return d

    best, least = None, math.inf
    for i in range(len(library)):
        if library.window is not None and abs(int(library.steps[i]) - step) > library.window:
            continue
        distance = sum((d / float(s)) ** 2 for d, s in zip(differences(i), library.scale, strict=True))
        if distance < least:
            best, least = i, distance
    u = []
    for k, (low, high) in enumerate(((-2.0, 2.0), (-1.0, 3.0))):
        value = float(library.controls[best, k])
        value += sum(float(g) * d for g, d in zip(library.gains[best, k], differences(best), strict=True))
        u.append(min(max(value, low), high))
    return best, math.sqrt(least), torch.tensor(u, dtype=torch.float64)


@pytest.mark.parametrize("window", [None, 0, 2])
@pytest.mark.parametrize("scale", [None, torch.tensor([0.3, 2.0, 1.0])])
def test_the_nearest_point_is_that_of_a_loop(window, scale):
    library = make(window=window, scale=scale)
    memory = library.init(3)
    for step in range(3):
        x = numbers(3, 3, seed=20 + step, scale=4.0)
        indices, distances = library.nearest(x, step)
        u, memory = library.act(x, memory)
        for row in range(3):
            index, distance, control = by_hand(library, x[row], step)
            assert int(indices[row]) == index
            assert float(distances[row]) == pytest.approx(distance, rel=1e-12)
            torch.testing.assert_close(u[row], control, rtol=1e-12, atol=1e-12)


def test_in_pieces_it_is_the_same(monkeypatch):
    library, x = make(), numbers(3, 5, 3, seed=9)
    whole = library.nearest(x)
    monkeypatch.setattr("mbrl.policies.trajectory_library.CHUNK", 90)
    for a, b in zip(whole, library.nearest(x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("window", [None, 1])
def test_batched_is_single(window):
    library, x = make(window=window), numbers(7, 3, seed=5, scale=3.0)
    assert torch.equal(library.controls_at(x, 4), torch.stack([library.controls_at(row, 4) for row in x]))
    assert library.controls_at(x[:0]).shape == (0, 2)


def test_turns_make_no_difference():
    library, x = make(angles=(0, 1)), numbers(8, 3, seed=6)
    turned = x + 2 * math.pi * torch.tensor([2.0, -3.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(library.controls_at(turned), library.controls_at(x), rtol=1e-12, atol=1e-12)
    plain = make(angles=())
    assert not torch.allclose(plain.controls_at(turned), plain.controls_at(x))


def test_across_the_cut():
    """The states are 0.02 apart over pi, and 3 apart from the other point."""
    states = torch.tensor([[math.pi - 0.01], [0.0]], dtype=torch.float64)
    gains = torch.full((2, 1, 1), -1.0, dtype=torch.float64)
    library = TrajectoryLibrary(
        states, torch.zeros(2, 1).double(), gains, actions=ContinuousActions(-torch.ones(1), torch.ones(1)), angles=(0,)
    )
    x = torch.tensor([-math.pi + 0.01], dtype=torch.float64)
    assert int(library.nearest(x)[0]) == 0
    torch.testing.assert_close(library.controls_at(x), torch.tensor([-0.02], dtype=torch.float64))


def test_beyond_the_points_the_last_ones_act():
    library, x = make(window=1), numbers(4, 3, seed=7)
    late = library.nearest(x, 50)[0]
    assert set(library.steps[late].tolist()) == {9}


def test_the_scale_is_the_spread_on_the_circle():
    """Of angles at pi plus and minus 0.1 rad, 0.1 rad; and of a state that does not vary, 1."""
    states = torch.tensor([[math.pi - 0.1, 0.0, 5.0], [-math.pi + 0.1, 4.0, 5.0]], dtype=torch.float64)
    library = TrajectoryLibrary(states, torch.zeros(2, 2), torch.zeros(2, 2, 3), actions=LIMITS, angles=(0,))
    torch.testing.assert_close(library.scale, torch.tensor([0.1, 2.0, 1.0], dtype=torch.float64))


def controllers(seed=0):
    xs, us, K = numbers(2, 6, 2, seed=seed), numbers(2, 5, 1, seed=seed + 1), numbers(2, 5, 1, 2, seed=seed + 2)
    return LinearGaussianController(PENDULUM.dynamics, xs, us, K, t0=3)


def test_of_controllers():
    controller = controllers()
    library = TrajectoryLibrary.for_task(PENDULUM, controller, controllers(5), window=0)
    assert len(library) == 20
    assert library.steps.tolist() == [3, 4, 5, 6, 7] * 4
    for i in range(2):
        for t in range(5):
            u = library.controls_at(controller.xs[i, t], t + 3)
            torch.testing.assert_close(u, controller.us[i, t].clamp(*PENDULUM.control_limits))
    assert library.names["states"] == PENDULUM.names["states"]
    library.check_task(PENDULUM)
    check_actor(library, PENDULUM)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_precision_keeps_within_the_limits(dtype):
    library = TrajectoryLibrary.for_task(PENDULUM, controllers()).to(dtype)
    check_actor(library, PENDULUM)
    x = numbers(50, 2, seed=3, scale=10.0).float()
    u = library.controls_at(x)
    assert u.dtype == torch.float32
    assert bool((u.abs() <= 2.0).all())


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("scale", [None, torch.tensor([0.5, 3.0])])
def test_there_and_back_to_the_bit(tmp_path, window, scale):
    library = TrajectoryLibrary.for_task(PENDULUM, controllers(), window=window, scale=scale)
    again = load_policy(save_policy(library, tmp_path / "policy.safetensors"))
    assert isinstance(again, TrajectoryLibrary)
    assert again.config() == library.config()
    assert (again.names, again.units) == (library.names, library.units)
    x = numbers(20, 2, seed=8, scale=3.0)
    for step in range(10):
        assert torch.equal(again.controls_at(x, step), library.controls_at(x, step))
    more = (a.joined(*make_points()) for a in (library, again))
    assert len({tuple(one.scale.tolist()) for one in more}) == 1


def make_points():
    return numbers(4, 2, seed=30), numbers(4, 1, seed=31), numbers(4, 1, 2, seed=32), torch.arange(4)


def test_evaluated_recorded_and_in_an_environment():
    library = TrajectoryLibrary.for_task(PENDULUM, controllers())
    (episode,) = mbrl.record(PENDULUM, library, 1, steps=5)
    assert episode.controls.shape == (5, 1)
    env = mbrl.make_env(replace(PENDULUM, episode_steps=4))
    (other,) = mbrl.record_env(env, library, 1)
    env.close()
    u = library.controls_at(torch.tensor(other.states[0]))
    torch.testing.assert_close(torch.tensor(other.controls[0]), u)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"states": torch.zeros(4)}, r"states must be \(N, n\), got \(4,\)"),
        ({"controls": torch.zeros(4, 1)}, "4 points of 3 states take controls, gains and steps"),
        ({"gains": torch.zeros(4, 2, 2)}, "4 points of 3 states take controls, gains and steps"),
        ({"steps": torch.zeros(3)}, "4 points of 3 states take controls, gains and steps"),
        ({"steps": torch.zeros(4)}, "steps must be integers, got torch.float32"),
        ({"controls": torch.full((4, 2), torch.nan)}, "some controls are not"),
        ({"angles": (3,)}, r"angles must be state indices in 0\.\.2"),
        ({"scale": torch.tensor([1.0, 0.0, 1.0])}, "scale must be 3 positive numbers"),
        ({"scale": torch.ones(2)}, "scale must be 3 positive numbers"),
        ({"window": -1}, "not negative, got -1"),
        ({"window": 1, "steps": None}, "a window takes the steps of the points"),
    ],
)
def test_bad_points(change, sentence):
    given = {
        "states": torch.zeros(4, 3),
        "controls": torch.zeros(4, 2),
        "gains": torch.zeros(4, 2, 3),
        "steps": torch.zeros(4, dtype=torch.int64),
    }
    with pytest.raises(ValueError, match=sentence):
        TrajectoryLibrary(**{**given, **change}, actions=LIMITS)


def test_what_does_not_fit():
    library = make()
    with pytest.raises(ValueError, match=r"the library has 3 states, got \(5, 2\)"):
        library.controls_at(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="made for another task"):
        library.check_task(PENDULUM)
    with pytest.raises(ValueError, match="the library is empty"):
        TrajectoryLibrary.for_task(PENDULUM).controls_at(torch.zeros(2))
    with pytest.raises(ValueError, match="lists its control_values"):
        TrajectoryLibrary.for_task(mbrl.discretized(PENDULUM, 3))
    with pytest.raises(ValueError, match=r"init must be a mbrl\.Policy"):
        mbrl.train(mbrl.PPO(num_envs=2), PENDULUM, steps=1, init=library)


def test_states_with_a_quaternion():
    from dynamics import Quadrotor
    from planners import QuadraticCost

    plant = Quadrotor()
    rest = torch.zeros(1, 13, dtype=torch.float64)
    rest[:, 3] = 1.0
    task = mbrl.Task(
        "Hover",
        plant,
        QuadraticCost(torch.eye(13, dtype=torch.float64), torch.eye(4, dtype=torch.float64)),
        (0.0, 5.0),
        lambda batch, generator: rest.expand(batch, -1),
        horizon=2,
        episode_steps=2,
    )
    with pytest.raises(ValueError, match="tangent space of dimension 12, not 13"):
        TrajectoryLibrary.for_task(task)
