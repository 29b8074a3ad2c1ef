"""Quadrotors in the plane and in space against closed forms, conservation laws and MuJoCo."""

import math

import mujoco
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dynamics import LinearDynamics, MujocoDynamics, PlanarQuadrotor, Quadrotor


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def randn(*shape, generator, scale=1.0):
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def states(generator, count=20):
    """Attitudes all around, some meters, m/s and rad/s."""
    x = randn(count, 13, generator=generator, scale=2.0)
    x[:, 3:7] /= x[:, 3:7].norm(dim=-1, keepdim=True)
    return x


def random_quadrotor(generator):
    """Every parameter between half and one and a half times its nominal value, with moments of inertia that a body can have."""
    system = Quadrotor()
    factors = 0.5 + torch.rand(6, generator=generator, dtype=torch.float64)
    names = [name for name in system.physical_parameters if name != "inertia"]
    values = {name: f * getattr(system, name) for name, f in zip(names, factors, strict=False)}
    inertia = 0.003 + 0.002 * torch.rand(3, generator=generator, dtype=torch.float64)
    return system.with_parameters(inertia=inertia, **values)


def attitude(x):
    return Rotation.from_quat(x[..., 3:7].numpy(), scalar_first=True)


def wait(steps, controls=4):
    return torch.zeros(steps, controls, dtype=torch.float64)


# In the plane


def test_a_planar_quadrotor_hovers():
    system = PlanarQuadrotor().with_parameters(mass=0.7, gain=1.3, gravity=3.7)
    assert system.hover_control.tolist() == pytest.approx([0.7 * 3.7 / 1.3 / 2] * 2, rel=1e-15)
    x = tensor(0.3, 1.0, 0.0, 0.0, 0.0, 0.0)
    xs = system.rollout(x, system.hover_control.expand(100, 2))
    torch.testing.assert_close(xs, x.expand(101, 6), rtol=0, atol=1e-14)


def test_a_planar_quadrotor_falls_and_turns_freely():
    system, seconds = PlanarQuadrotor(dt=0.05), 1.0
    x = tensor(0.0, 2.0, 0.4, 1.0, 3.0, -2.0)
    expected = tensor(1.0, 2.0 + 3.0 - 0.5 * 9.81, 0.4 - 2.0, 1.0, 3.0 - 9.81, -2.0)
    torch.testing.assert_close(system.rollout(x, wait(round(seconds / 0.05), 2))[-1], expected, rtol=0, atol=1e-13)


def test_what_each_rotor_does():
    """Thrust acts along the tilted body; the left rotor turns towards positive x."""
    system, angle = PlanarQuadrotor().with_parameters(mass=2.0, inertia=0.5, arm_length=0.3, gain=1.5), 0.3
    x = tensor(0.0, 0.0, angle, 0.0, 0.0, 0.0)
    p = system.parameters_like(x)
    for u, turn in ((tensor(4.0, 0.0), 3.6), (tensor(0.0, 4.0), -3.6)):
        expected = tensor(3.0 * math.sin(angle), 3.0 * math.cos(angle) - 9.81, turn)
        torch.testing.assert_close(system.acceleration(x, u, p), expected, rtol=1e-14, atol=0)


def test_the_mirror_image_of_a_planar_quadrotor(generator):
    system = PlanarQuadrotor()
    x, u = randn(20, 6, generator=generator), randn(20, 2, generator=generator)
    mirror = tensor(-1.0, 1.0, -1.0, -1.0, 1.0, -1.0)
    torch.testing.assert_close(system(mirror * x, u.flip(-1)), mirror * system(x, u), rtol=0, atol=1e-15)


def test_the_power_of_the_rotors(generator):
    """dE/dt is thrust times the speed of each rotor along it."""
    system = PlanarQuadrotor().with_parameters(gain=1.2)
    x, u, h = randn(20, 6, generator=generator), randn(20, 2, generator=generator), 1e-6
    flow = torch.cat([x[:, 3:], system.acceleration(x, u, system.parameters_like(x))], dim=-1)
    rate = (system.energy(x + h * flow) - system.energy(x - h * flow)) / (2 * h)
    climb = x[:, 3] * x[:, 2].sin() + x[:, 4] * x[:, 2].cos()
    speeds = climb.unsqueeze(-1) + 0.17 * x[:, 5:] * tensor(1.0, -1.0)
    torch.testing.assert_close(rate, (1.2 * u * speeds).sum(-1), rtol=0, atol=1e-7)


# In space: statics and single rotors


def test_a_quadrotor_hovers_wherever_it_points_level():
    system = Quadrotor().with_parameters(mass=0.7, gain=1.3)
    assert system.hover_control.tolist() == pytest.approx([0.7 * 9.81 / 1.3 / 4] * 4, rel=1e-15)
    x = system.hover_state(tensor([0.0, 0.0, 0.0], [1.0, -2.0, 3.0]))
    x[1, 3:7] = tensor(math.cos(0.4), 0.0, 0.0, math.sin(0.4))
    xs = system.rollout(x, system.hover_control.expand(2, 100, 4))
    torch.testing.assert_close(xs, x.unsqueeze(1).expand(2, 101, 13), rtol=0, atol=1e-13)


def test_hover_controls_of_several_worlds():
    system = Quadrotor().with_parameters(mass=tensor(0.4, 0.8))
    torch.testing.assert_close(system.hover_control, tensor([0.981] * 4, [1.962] * 4))
    planar = PlanarQuadrotor().with_parameters(gain=tensor(1.0, 2.0))
    torch.testing.assert_close(planar.hover_control, tensor([2.4525] * 2, [1.22625] * 2))
    with pytest.raises(ValueError, match="one value per parameter, got one per world for: mass"):
        system.mjcf()


@pytest.mark.parametrize(
    ("rotor", "torque"), [(0, [0, -0.3, 0.02]), (1, [0.3, 0, -0.02]), (2, [0, 0.3, 0.02]), (3, [-0.3, 0, -0.02])]
)
def test_what_each_rotor_of_four_does(rotor, torque):
    """Torque is arm cross thrust, and neighbors turn against each other."""
    values = {"mass": 2.0, "arm_length": 0.2, "torque_coefficient": 0.02 / 1.5, "gain": 1.5, "inertia": tensor(1, 2, 4)}
    system = Quadrotor().with_parameters(**values)
    x, u = system.hover_state(torch.zeros(3).double()), torch.zeros(4).double()
    u[rotor] = 1.0
    expected = tensor(0.0, 0.0, 0.75 - 9.81, torque[0] / 1.0, torque[1] / 2.0, torque[2] / 4.0)
    torch.testing.assert_close(system.acceleration(x, u, system.parameters_like(x)), expected, rtol=1e-14, atol=1e-15)


# MuJoCo


def test_acceleration_and_energy_equal_mujoco(generator):
    for _ in range(5):
        system = random_quadrotor(generator)
        model = mujoco.MjModel.from_xml_string(system.mjcf())
        model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
        data = mujoco.MjData(model)
        x, u = states(generator), randn(20, 4, generator=generator, scale=3.0)
        ours, energy = system.acceleration(x, u, system.parameters_like(x)), system.energy(x)
        for i in range(20):
            data.qpos, data.qvel, data.ctrl = x[i, :7].numpy(), x[i, 7:].numpy(), u[i].numpy()
            mujoco.mj_forward(model, data)
            np.testing.assert_allclose(ours[i].numpy(), data.qacc, rtol=1e-11, atol=1e-11)
            assert energy[i].item() == pytest.approx(sum(data.energy), rel=1e-12)


def test_a_flight_agrees_with_mujoco_in_fine_steps(generator):
    """MuJoCo's own errors of attitude vanish with its step, which is a thousandth of ours."""
    system = Quadrotor(dt=0.01)
    fine = MujocoDynamics(Quadrotor(dt=1e-5).mjcf(), frame_skip=1000)
    assert fine.state_dim == system.state_dim
    assert fine.tangent_dim == system.tangent_dim
    assert tuple(name.removeprefix("joint0_") for name in fine.state_names) == system.state_names
    assert fine.control_names == system.control_names
    x0 = states(generator, 3)
    us = system.hover_control + randn(3, 10, 4, generator=generator, scale=0.2)
    ours, theirs = system.rollout(x0, us), fine.rollout(x0, us)
    torch.testing.assert_close(system.difference(ours, theirs), torch.zeros(3, 11, 12).double(), rtol=0, atol=3e-7)


def test_difference_and_retract_are_those_of_mujoco(generator):
    system = Quadrotor()
    twin = MujocoDynamics(system.mjcf())
    x0, x1, dx = states(generator), states(generator), randn(20, 12, generator=generator)
    torch.testing.assert_close(system.difference(x1, x0), twin.difference(x1, x0), rtol=0, atol=1e-14)
    torch.testing.assert_close(system.retract(x0, dx), twin.retract(x0, dx), rtol=0, atol=1e-14)


# Free flight


def test_free_fall_without_rates():
    system = Quadrotor(dt=0.05)
    x = system.hover_state(tensor(1.0, 2.0, 3.0))
    x[3:7] = tensor(0.5, -0.5, 0.5, 0.5)
    x[7:10] = tensor(1.0, -1.0, 4.0)
    xs = system.rollout(x, wait(20))
    assert torch.equal(xs[:, 3:7], x[3:7].expand(21, 4))
    torch.testing.assert_close(xs[-1, :3], tensor(2.0, 1.0, 7.0 - 0.5 * 9.81), rtol=0, atol=1e-13)
    torch.testing.assert_close(xs[-1, 7:10], tensor(1.0, -1.0, 4.0 - 9.81), rtol=0, atol=1e-13)


def test_rotation_about_a_principal_axis_is_exact():
    """Whatever the step: the displacement grows in proportion to time."""
    system = Quadrotor(dt=0.3)
    for axis in range(3):
        x = system.hover_state(torch.zeros(3).double())
        x[10 + axis] = 2.0
        angle = 2.0 * 0.3 * torch.arange(6).double()
        xs = system.rollout(x, wait(5))
        expected = torch.zeros(6, 4).double()
        expected[:, 0], expected[:, 1 + axis] = (angle / 2).cos(), (angle / 2).sin()
        torch.testing.assert_close(xs[:, 3:7], expected, rtol=0, atol=1e-14)
        assert torch.equal(xs[:, 10:], x[10:].expand(6, 3))


def symmetric_top(x, inertia, seconds):
    """Attitude and rates of a free body with J_x = J_y: precession about its angular momentum and spin about its axis."""
    across, along = inertia[0], inertia[2]
    q0, rates = attitude(x), x[10:].numpy()
    momentum = q0.apply(inertia * rates)
    spin = Rotation.from_rotvec([0.0, 0.0, (1.0 - along / across) * rates[2] * seconds])
    return Rotation.from_rotvec(momentum / across * seconds) * q0 * spin, spin.inv().apply(rates)


def test_the_error_of_a_free_top_is_of_fourth_order(generator):
    x, seconds = states(generator, 1)[0], 1.0
    x[10:] = tensor(2.0, -1.0, 3.0)
    expected, expected_rates = symmetric_top(x, Quadrotor().inertia.numpy(), seconds)
    steps, errors, rate_errors = [0.05, 0.025, 0.0125], [], []
    for dt in steps:
        last = Quadrotor(dt=dt).rollout(x, wait(round(seconds / dt)))[-1]
        errors.append((attitude(last).inv() * expected).magnitude())
        rate_errors.append(np.linalg.norm(last[10:].numpy() - expected_rates))
    assert errors[-1] < 1e-6
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(4, abs=0.15)
    assert np.polyfit(np.log(steps), np.log(rate_errors), 1)[0] == pytest.approx(4, abs=0.15)


def test_angular_momentum_and_energy_of_a_free_body_are_kept_to_fourth_order(generator):
    x = states(generator, 1)[0]
    x[10:] = tensor(2.0, -1.0, 3.0)
    steps, momentum_errors, energy_errors = [0.04, 0.02, 0.01], [], []
    for dt in steps:
        system = Quadrotor(dt=dt).with_parameters(inertia=tensor(0.002, 0.003, 0.0045), gravity=0.0)
        xs = system.rollout(x, wait(round(2.0 / dt)))
        momentum = attitude(xs).apply((system.inertia * xs[:, 10:]).numpy())
        momentum_errors.append(np.linalg.norm(momentum - momentum[0], axis=-1).max() / np.linalg.norm(momentum[0]))
        energy = system.energy(xs)
        energy_errors.append(float((energy / energy[0] - 1).abs().max()))
    assert momentum_errors[-1] < 1e-6
    assert math.log2(momentum_errors[0] / momentum_errors[2]) / 2 > 3.8
    assert math.log2(energy_errors[0] / energy_errors[2]) / 2 > 3.8


def test_the_quaternion_keeps_its_length(generator):
    system = Quadrotor()
    us = system.hover_control + randn(5, 500, 4, generator=generator, scale=0.05)
    xs = system.rollout(states(generator, 5), us)
    torch.testing.assert_close(xs[..., 3:7].norm(dim=-1), torch.ones(5, 501).double(), rtol=0, atol=4e-16)


# Attitudes that are the same, and directions that are


def test_neither_sign_nor_length_of_the_quaternion_matters(generator):
    system = Quadrotor()
    x, u = states(generator), randn(20, 4, generator=generator)
    x_next = system(x, u)
    for factor in (-1.0, 2.0):
        other = x.clone()
        other[:, 3:7] *= factor
        zero = system.difference(system(other, u), x_next)
        torch.testing.assert_close(zero, torch.zeros(20, 12).double(), rtol=0, atol=1e-13)
        difference = system.difference(other, x.roll(1, 0))
        torch.testing.assert_close(difference, system.difference(x, x.roll(1, 0)), rtol=0, atol=1e-13)
    assert float(system.difference(x, x.roll(1, 0))[:, 3:6].norm(dim=-1).max()) <= math.pi


def test_a_turned_world_changes_nothing_but_the_direction_of_gravity(generator):
    """Turning position, attitude and velocity about the vertical turns the next ones by the same angle."""
    system, turn = Quadrotor(), Rotation.from_rotvec([0.0, 0.0, 1.1])
    x, u = states(generator), randn(20, 4, generator=generator)

    def turned(x):
        q = (turn * attitude(x)).as_quat(scalar_first=True)
        parts = [turn.apply(x[:, :3]), q, turn.apply(x[:, 7:10]), x[:, 10:].numpy()]
        return torch.as_tensor(np.concatenate(parts, axis=-1))

    zero = system.difference(system(turned(x), u), turned(system(x, u)))
    torch.testing.assert_close(zero, torch.zeros(20, 12).double(), rtol=0, atol=1e-13)


def test_half_a_turn_of_the_body_renames_the_rotors(generator):
    """Rotors face those that turn the same way, so half a turn about the body's axis maps it onto itself."""
    system, half_turn = Quadrotor(), tensor(0.0, 0.0, 0.0, 1.0)
    x, u = states(generator), randn(20, 4, generator=generator)
    other = x.clone()
    qw, qx, qy, qz = x[:, 3:7].unbind(-1)
    other[:, 3:7] = torch.stack([-qz, qy, -qx, qw], dim=-1)  # q times the half turn about the body's z axis
    expected = (attitude(x) * Rotation.from_quat(half_turn.numpy(), scalar_first=True)).as_matrix()
    np.testing.assert_allclose(attitude(other).as_matrix(), expected, atol=1e-14)
    other[:, 10:12] *= -1.0
    moved, expected = system(other, u.roll(2, -1)), system(x, u)
    torch.testing.assert_close(moved[:, :3], expected[:, :3], rtol=0, atol=1e-13)
    torch.testing.assert_close(moved[:, 7:10], expected[:, 7:10], rtol=0, atol=1e-13)
    torch.testing.assert_close(moved[:, 10:], expected[:, 10:] * tensor(-1.0, -1.0, 1.0), rtol=0, atol=1e-12)


def test_quadrotors_in_plane_and_space_agree():
    """Flying along x with rotors 2 and 4 at hover thrust, rotors 3 and 1 are left and right."""
    space = Quadrotor(dt=0.002)
    plane = PlanarQuadrotor(dt=0.002).with_parameters(inertia=0.0023)
    both = tensor(0.9, 0.8).expand(200, 2)
    sides = torch.full((200,), 0.5).double()
    us = torch.stack([both[:, 1], sides, both[:, 0], sides], dim=-1)
    x = space.hover_state(tensor(0.0, 0.0, 1.0)).index_fill(0, torch.tensor([7]), 0.5)
    xs = space.with_parameters(torque_coefficient=0.0).rollout(x, us)
    planar = plane.rollout(
        tensor(0.0, 1.0, 0.0, 0.5, 0.0, 0.0), both + 0.5
    )  # the side rotors' lift, split between both
    angle = 2 * torch.atan2(xs[:, 5], xs[:, 3])
    flown = torch.stack([xs[:, 0], xs[:, 2], angle, xs[:, 7], xs[:, 9], xs[:, 11]], dim=-1)
    torch.testing.assert_close(flown, planar, rtol=0, atol=1e-9)
    assert float(planar[-1, 2].abs()) > 0.3


def test_the_linearization_at_hover_is_the_textbook_one():
    """Small tilts accelerate by g to the side, thrust lifts, torques turn; exact for a step of the linear system."""
    system = Quadrotor(dt=0.01)
    p = system.parameters_like(torch.zeros(13).double())
    A, B = torch.zeros(12, 12).double(), torch.zeros(12, 4).double()
    A[0:3, 6:9] = A[3:6, 9:12] = torch.eye(3).double()
    A[6, 4], A[7, 3] = p.gravity, -p.gravity
    B[8] = 1 / p.mass
    arm, yaw = p.arm_length, p.torque_coefficient
    B[9:] = (
        torch.stack([tensor(0, 1, 0, -1) * arm, tensor(-1, 0, 1, 0) * arm, tensor(1, -1, 1, -1) * yaw])
        / p.inertia[:, None]
    )
    both = torch.zeros(16, 16).double()
    both[:12] = torch.cat([A, B], dim=-1)
    exact = torch.linalg.matrix_exp(0.01 * both)
    x = system.hover_state(torch.zeros(3).double())
    result = system.linearize(x, system.hover_control)
    torch.testing.assert_close(result.fx, exact[:12, :12], rtol=0, atol=1e-13)
    torch.testing.assert_close(result.fu, exact[:12, 12:], rtol=0, atol=1e-13)
    assert LinearDynamics(result.fx, result.fu).state_dim == 12
