"""Randomized worlds: each is the dynamics with its own parameters."""

import pytest
import torch

from dynamics import CartPole, DoubleIntegrator, Ensemble, ModelField, MujocoDynamics, Pendulum, RandomizedWorlds
from mbrl.testing import check_dynamics

MASSES = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sequences(n, m, *batch, T=6):
    x0 = torch.randn(*batch, n, generator=seeded(), dtype=torch.float64)
    return x0, torch.randn(*batch, T, m, generator=seeded(1), dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
@pytest.mark.parametrize("share", [1, 2])
def test_a_world_is_the_dynamics_with_its_parameters(batch, share):
    worlds = RandomizedWorlds(CartPole(), pole_mass=MASSES)
    x0, us = sequences(4, 1, *batch)
    xs = worlds.sample_rollout(x0, us, particles=3 * share)
    assert xs.shape == (*batch, 3 * share, 7, 4)
    for w, mass in enumerate(MASSES):
        alone = CartPole().with_parameters(pole_mass=mass).rollout(x0, us)
        for p in range(w * share, (w + 1) * share):
            torch.testing.assert_close(xs[..., p, :, :], alone, rtol=1e-13, atol=1e-13)


def test_the_prediction_is_the_mixture_of_the_worlds():
    worlds = RandomizedWorlds(Pendulum(), mass=MASSES)
    x0, us = sequences(2, 1, 5)
    prediction = worlds.predict(x0, us[:, 0])
    members = torch.stack([Pendulum().with_parameters(mass=m)(x0, us[:, 0]) for m in MASSES])
    torch.testing.assert_close(prediction.members, members, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(prediction.mean, members.mean(0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(prediction.epistemic_std, members.std(0, correction=0), rtol=1e-12, atol=1e-13)
    assert (prediction.aleatoric_std == 0).all()


def test_particles_may_change_worlds_or_not_divide_evenly():
    worlds = RandomizedWorlds(DoubleIntegrator(), mass=MASSES)
    x0, us = sequences(2, 1)
    few = worlds.sample_rollout(x0, us, particles=2, generator=seeded())
    alone = torch.stack([DoubleIntegrator().with_parameters(mass=m).rollout(x0, us) for m in MASSES])
    for particle in few:
        assert any(torch.allclose(particle, world, rtol=1e-12, atol=1e-12) for world in alone)
    mixed = worlds.sample_rollout(x0, us, particles=50, resample="step", generator=seeded())
    assert len(mixed[:, -1, 0].unique()) > 20


def test_worlds_of_a_mujoco_model():
    field = ModelField("body_mass", "pole")
    model = MujocoDynamics(CartPole().mjcf(), parameters={"pole_mass": field})
    masses = torch.tensor([0.05, 0.4], dtype=torch.float64)
    worlds = RandomizedWorlds(model, pole_mass=masses)
    x0, us = sequences(4, 1, 3)
    xs = worlds.sample_rollout(x0, us, particles=2)
    for w, mass in enumerate(masses):
        assert torch.equal(xs[:, w], model.with_parameters(pole_mass=mass).rollout(x0, us))
    assert not torch.equal(xs[:, 0], xs[:, 1])


def test_other_parameters_can_still_be_set():
    worlds = RandomizedWorlds(Pendulum(), mass=MASSES).with_parameters(length=1.3)
    x0, us = sequences(2, 1)
    alone = Pendulum().with_parameters(mass=MASSES[1], length=1.3).rollout(x0, us)
    torch.testing.assert_close(worlds.sample_rollout(x0, us, particles=3)[1], alone, rtol=1e-13, atol=1e-13)
    assert float(RandomizedWorlds(Pendulum(), mass=MASSES).worlds.length) == float(Pendulum().length)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_worlds_meets_the_contract(count):
    masses = torch.linspace(0.5, 2.0, count, dtype=torch.float64)
    check_dynamics(RandomizedWorlds(Pendulum(), mass=masses))


def test_a_world_that_diverges_leaves_the_others_alone():
    worlds = RandomizedWorlds(DoubleIntegrator(), mass=torch.tensor([1.0, 5e-324], dtype=torch.float64))
    xs = worlds.sample_rollout(torch.zeros(2).double(), torch.ones(4, 1).double(), particles=2)
    assert xs[0].isfinite().all()
    assert xs[1, 1:].isnan().all()


def test_drawn_worlds_are_uniform_and_reproducible():
    ranges = {"mass": (0.5, 2.0), "damping": (0.0, 0.3)}
    worlds = RandomizedWorlds.drawn(Pendulum(), ranges, worlds=4000, generator=seeded(3))
    again = RandomizedWorlds.drawn(Pendulum(), ranges, worlds=4000, generator=seeded(3))
    assert worlds.num_members == 4000
    for name, (low, high) in ranges.items():
        value = getattr(worlds.worlds, name)
        assert torch.equal(value, getattr(again.worlds, name))
        assert low <= float(value.min()) < float(value.max()) <= high
        assert float(value.mean()) == pytest.approx((low + high) / 2, abs=0.02 * (high - low) * 2)
        assert float(value.std()) == pytest.approx((high - low) / 12**0.5, rel=0.05)


def test_float32_stays_float32():
    worlds = RandomizedWorlds(Pendulum(), mass=MASSES)
    x0, us = (v.float() for v in sequences(2, 1))
    assert worlds.sample_rollout(x0, us, particles=3).dtype == worlds(x0, us[0]).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: RandomizedWorlds(Pendulum()), ValueError, "need values of at least one physical parameter"),
        (
            lambda: RandomizedWorlds(Pendulum(), mass=1.0),
            ValueError,
            r"mass must be a tensor of one value for each world",
        ),
        (lambda: RandomizedWorlds(Pendulum(), weight=MASSES), ValueError, "Pendulum has no parameter 'weight'"),
        (lambda: RandomizedWorlds(Pendulum(), mass=-MASSES), ValueError, "mass must be finite and within"),
        (
            lambda: RandomizedWorlds(Pendulum(), mass=MASSES, length=MASSES[:2]),
            ValueError,
            r"same number of worlds, got {'mass': 3, 'length': 2}",
        ),
        (lambda: RandomizedWorlds("pendulum", mass=MASSES), TypeError, "dynamics must be a Dynamics, got str"),
        (lambda: RandomizedWorlds(Ensemble(2, 1, 0.1)), TypeError, "Ensemble has members of its own"),
        (
            lambda: RandomizedWorlds.drawn(Pendulum(), {"mass": (2.0, 1.0)}, worlds=3),
            ValueError,
            r"the range of mass must be \(lowest, highest\), got \(2.0, 1.0\)",
        ),
        (
            lambda: RandomizedWorlds.drawn(Pendulum(), {"mass": (1.0, 2.0)}, worlds=0),
            ValueError,
            "worlds must be an integer of at least 1, got 0",
        ),
        (
            lambda: RandomizedWorlds.drawn(Pendulum(), {"mass": (-1.0, 2.0)}, worlds=3),
            ValueError,
            "the range of mass must be finite and within",
        ),
        (lambda: RandomizedWorlds.drawn("pendulum", {}, worlds=3), TypeError, "dynamics must be a Dynamics, got str"),
        (lambda: RandomizedWorlds(Pendulum(), mass=MASSES[:0]), ValueError, "for the same number of worlds"),
        (
            lambda: RandomizedWorlds(Pendulum(), mass=MASSES).with_parameters(length=MASSES[:2]),
            ValueError,
            "length must have one value for each of 3 worlds, got 2",
        ),
        (lambda: RandomizedWorlds.drawn(Pendulum(), {"m": (1.0, 2.0)}, worlds=2), ValueError, "no parameter 'm'"),
    ],
)
def test_wrong_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()
