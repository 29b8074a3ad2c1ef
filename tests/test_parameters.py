"""Named physical parameters: specification, transforms, shared and per-world values."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dynamics import Dynamics, Pendulum, PhysicalParameter, TorchDynamics

TRANSFORMS = [
    (PhysicalParameter(0.5, "m"), torch.tensor([-3.0, 0.0, 7.0])),
    (PhysicalParameter(0.5, "kg", (0, math.inf), "log"), torch.tensor([1e-6, 0.5, 1e6])),
    (PhysicalParameter(0.5, "1", (-1, 2), "logit"), torch.tensor([-0.999, 0.5, 1.999])),
]


@pytest.mark.parametrize(("parameter", "values"), TRANSFORMS, ids=["identity", "log", "logit"])
def test_transforms_are_inverse(parameter, values):
    values = values.double()
    torch.testing.assert_close(
        parameter.from_unconstrained(parameter.to_unconstrained(values)), values, rtol=1e-12, atol=0
    )
    coordinates = torch.linspace(-5, 5, 11, dtype=torch.float64)
    back = parameter.to_unconstrained(parameter.from_unconstrained(coordinates))
    torch.testing.assert_close(back, coordinates, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("parameter", "values"), TRANSFORMS, ids=["identity", "log", "logit"])
def test_every_coordinate_is_within_the_bounds(parameter, values):
    inside = parameter.from_unconstrained(torch.linspace(-300, 300, 61, dtype=torch.float64))
    parameter.check("value", inside)
    assert torch.autograd.gradcheck(parameter.from_unconstrained, [torch.zeros(3).double().requires_grad_()])


def test_closed_forms():
    positive = PhysicalParameter(1.0, bounds=(0, math.inf), transform="log")
    assert positive.to_unconstrained(torch.tensor(2.0).double()).item() == pytest.approx(math.log(2), rel=1e-15)
    bounded = PhysicalParameter(1.0, bounds=(-1, 3), transform="logit")
    assert bounded.to_unconstrained(torch.tensor(2.0).double()).item() == pytest.approx(math.log(3), rel=1e-15)
    assert bounded.from_unconstrained(torch.tensor(0.0)).item() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (2, 1)}, r"lower < upper, got \(2, 1\)"),
        ({"bounds": (1, 1)}, r"lower < upper, got \(1, 1\)"),
        ({"bounds": (math.nan, 1)}, "lower < upper"),
        ({"transform": "sqrt"}, "transform must be 'identity', 'log' or 'logit', got 'sqrt'"),
        ({"transform": "log"}, r"transform 'log' keeps values above 0, not within \(-inf, inf\)"),
        ({"transform": "logit", "bounds": (0, math.inf)}, r"transform 'logit' needs two finite bounds, got \(0, inf\)"),
        ({"nominal": 5.0, "bounds": (0, 2), "unit": "kg"}, r"nominal must be finite and within \[0, 2\] kg, got 5.0"),
        ({"nominal": math.nan}, "nominal must be finite"),
        ({"nominal": torch.tensor([1.0, math.inf])}, "nominal must be finite"),
        (
            {"nominal": 0.0, "bounds": (0, math.inf), "transform": "log"},
            "'log' sends the nominal value 0.0 to infinity",
        ),
        ({"nominal": 2.0, "bounds": (0, 2), "transform": "logit"}, "'logit' sends the nominal value 2.0 to infinity"),
    ],
)
def test_bad_specifications(options, message):
    with pytest.raises(ValueError, match=message):
        PhysicalParameter(**{"nominal": 1.0, **options})


def test_shapes_and_precision():
    assert PhysicalParameter(1).shape == ()
    assert PhysicalParameter(torch.ones(2, 3)).shape == (2, 3)
    assert PhysicalParameter(np.ones(4)).shape == (4,)  # pyright: ignore[reportArgumentType]
    assert PhysicalParameter(1).tensor().dtype == torch.float64


def test_loading_values_leaves_the_nominal_ones_alone():
    parameter = PhysicalParameter(torch.ones(2, dtype=torch.float64))
    first, second = Vector(parameter), Vector(parameter)
    first.load_state_dict(second.with_parameters(stiffness=torch.full((2,), 3.0)).state_dict())
    assert first.stiffness.tolist() == [3, 3]
    assert second.stiffness.tolist() == parameter.tensor().tolist() == [1, 1]


class Vector(Dynamics):
    """x' = x + stiffness, a parameter with one entry per state."""

    def __init__(self, stiffness):
        super().__init__(2, 1, 0.1, parameters={"stiffness": stiffness})

    def forward(self, x, u, t=None):
        self.check_step(x, u)
        return x + self.parameters_like(x).stiffness


def test_one_value_per_world_of_a_vector():
    x, u = torch.zeros(3, 4, 2).double(), torch.zeros(3, 4, 1).double()
    values = torch.arange(6).double().reshape(3, 2)
    moved = Vector(torch.ones(2)).with_parameters(stiffness=values)(x, u)
    assert torch.equal(moved, values.unsqueeze(1).expand(3, 4, 2))
    with pytest.raises(ValueError, match=r"must have shape \(2,\), or \(W, 2\) for one value per world, got \(2, 3\)"):
        Vector(torch.ones(2)).with_parameters(stiffness=torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"must have shape \(\), or \(W\) for one value per world, got \(2, 3\)"):
        Pendulum().with_parameters(mass=torch.ones(2, 3))


@pytest.mark.parametrize("shape", [(2,), (1, 2), (4, 2), (2, 3, 2)])
def test_worlds_must_be_the_first_axis(shape):
    """A leading axis of 1 would broadcast a step but leave rollouts and Jacobians with the wrong batch."""
    pendulum = Pendulum().with_parameters(mass=torch.tensor([1.0, 2.0, 3.0]))
    x, u = torch.zeros(shape), torch.zeros(*shape[:-1], 1)
    message = rf"one value for each of 3 worlds, .* got x of shape \({', '.join(map(str, shape))},?\)"
    for call in (pendulum, pendulum.linearize):
        with pytest.raises(ValueError, match=message):
            call(x, u)


def test_dtype_follows_the_state():
    pendulum = Pendulum().with_parameters(mass=torch.tensor(2.0, dtype=torch.float64))
    assert pendulum(torch.zeros(2), torch.zeros(1)).dtype == torch.float32
    assert pendulum.mass.dtype == torch.float64


def test_values_are_used_as_they_are():
    mass = torch.tensor(2.0, requires_grad=True)
    pendulum = Pendulum().with_parameters(mass=mass)
    assert pendulum.mass is mass
    assert Pendulum().mass.item() == 1
    assert not list(Pendulum().parameters())


def test_a_trainable_nominal_value_is_a_parameter_and_can_be_replaced():
    gain = nn.Parameter(torch.tensor(2.0))
    dynamics = TorchDynamics(lambda x, u, p: p.gain * x, 1, 1, 1.0, parameters={"gain": gain})
    assert list(dynamics.parameters()) == [gain]
    fixed = dynamics.with_parameters(gain=3.0)
    assert not list(fixed.parameters())
    assert fixed(torch.ones(1), torch.zeros(1)).item() == 3
    assert list(dynamics.parameters()) == [gain]


def test_copies_of_copies():
    first = Pendulum().with_parameters(mass=2.0)
    second = first.with_parameters(length=3.0)
    assert (first.mass.item(), first.length.item()) == (2, 1)
    assert (second.mass.item(), second.length.item()) == (2, 3)


def test_bounds_of_values_without_a_gradient():
    for value in (-1.0, math.nan, math.inf, torch.tensor([1.0, -1.0])):
        with pytest.raises(ValueError, match=r"mass must be finite and within \[0, inf\] kg"):
            Pendulum().with_parameters(mass=value)
