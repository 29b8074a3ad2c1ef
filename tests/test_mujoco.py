"""MuJoCo dynamics against mj_step, mjd_transitionFD, MuJoCo's own quaternion functions and the same systems in torch."""

import copy
import io
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from dynamics import (
    Acrobot,
    CartPole,
    ModelField,
    MujocoDynamics,
    Pendulum,
    PlanarQuadrotor,
    Reacher,
    TwoLinkArm,
)
from dynamics.mujoco import stepping
from mbrl.testing import check_dynamics

# A hinged leg that pushes on the floor, with a filtered actuator: contacts, limits, activations.
LEG = """
<mujoco>
  <option timestep="0.005" integrator="{integrator}"/>
  <worldbody>
    <geom type="plane" size="5 5 0.1"/>
    <body name="torso" pos="0 0 0.6">
      <joint name="height" type="slide" axis="0 0 1"/>
      <joint name="pitch" type="hinge" axis="0 1 0"/>
      <geom type="capsule" size="0.05" fromto="-0.2 0 0 0.2 0 0" mass="2"/>
      <body name="leg" pos="0.1 0 0">
        <joint name="hip" type="hinge" axis="0 1 0" range="-60 60" damping="0.5"/>
        <geom type="capsule" size="0.04" fromto="0 0 0 0 0 -0.5" mass="1"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="hip" joint="hip" gear="20" ctrlrange="-1 1"/>
    <general name="lift" joint="height" gainprm="15" dyntype="filter" dynprm="0.05"/>
  </actuator>
</mujoco>"""

# A free body with a ball joint and a hinge: quaternions.
SATELLITE = """
<mujoco>
  <option timestep="0.01" integrator="{integrator}" gravity="0 0 -1"/>
  <worldbody>
    <body name="bus" pos="0 0 1">
      <freejoint name="bus"/>
      <geom type="box" size="0.1 0.2 0.3" mass="1" contype="0" conaffinity="0"/>
      <body name="antenna" pos="0 0 0.4">
        <joint name="neck" type="ball" damping="0.1"/>
        <geom type="capsule" size="0.03 0.2" mass="0.4" contype="0" conaffinity="0"/>
        <body pos="0 0.2 0.2">
          <joint name="boom" type="hinge" axis="1 0 0"/>
          <geom type="capsule" size="0.03 0.2" mass="0.3" contype="0" conaffinity="0"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="neck" gear="1 0 0"/>
    <motor name="arm" joint="boom"/>
  </actuator>
</mujoco>"""


def leg(integrator="Euler", **kwargs):
    return MujocoDynamics(LEG.format(integrator=integrator), **kwargs)


def satellite(integrator="Euler", **kwargs):
    return MujocoDynamics(SATELLITE.format(integrator=integrator), **kwargs)


def randn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def states(dynamics, *batch, seed=0, scale=0.3):
    """States around the model's default one, with unit quaternions."""
    x0 = torch.zeros(dynamics.state_dim, dtype=torch.float64)
    x0[: dynamics.model.nq] = torch.from_numpy(dynamics.model.qpos0.copy())
    return dynamics.retract(x0, randn(*batch, dynamics.tangent_dim, seed=seed, scale=scale))


def mj_steps(model, x, u, steps):
    """One control step of one world by mj_step, from a cold start."""
    data = mujoco.MjData(model)
    data.qpos, data.qvel, data.act = np.split(x.numpy(), [model.nq, model.nq + model.nv])
    data.ctrl = u.numpy()
    for _ in range(steps):
        mujoco.mj_step(model, data)
    return torch.from_numpy(np.concatenate([data.qpos, data.qvel, data.act]))


def mj_rollout(model, x, us, steps):
    xs = [x]
    for u in us:
        xs.append(mj_steps(model, xs[-1], u, steps))
    return torch.stack(xs)


# Values


@pytest.mark.parametrize("make", [leg, satellite])
@pytest.mark.parametrize("integrator", ["Euler", "RK4", "implicitfast"])
def test_steps_are_bit_identical_to_a_loop_over_mj_step(make, integrator):
    dynamics = make(integrator, frame_skip=3)
    x0, us = states(dynamics, 5), randn(5, 30, 2, seed=1)
    xs = dynamics.rollout(x0, us)
    expected = torch.stack([mj_rollout(dynamics.model, x, u, 3) for x, u in zip(x0, us, strict=True)])
    assert torch.equal(xs, expected)


@pytest.mark.parametrize("system", [Pendulum(), CartPole(), Acrobot(), Reacher(), TwoLinkArm(), PlanarQuadrotor()])
def test_agrees_with_the_same_system_in_torch(system):
    dynamics = MujocoDynamics(system.mjcf())
    assert dynamics.state_names == system.state_names
    assert dynamics.control_names == system.control_names
    assert dynamics.angles == system.angles
    assert dynamics.dt == system.dt
    x, us = randn(8, system.state_dim), randn(8, 25, system.control_dim, seed=1)
    torch.testing.assert_close(dynamics.rollout(x, us), system.rollout(x, us), rtol=1e-12, atol=1e-12)
    ours, exact = dynamics.linearize(x, us[:, 0]), system.linearize(x, us[:, 0])
    for name in ("x_next", "fx", "fu", "hx"):
        torch.testing.assert_close(getattr(ours, name), getattr(exact, name), rtol=0, atol=1e-8)
    costate = randn(8, system.state_dim, seed=2)
    ours, exact = dynamics.curvature(x, us[:, 0], costate), system.curvature(x, us[:, 0], costate)
    for name in ("xx", "ux", "uu"):
        torch.testing.assert_close(getattr(ours, name), getattr(exact, name), rtol=0, atol=2e-6)


def test_contract():
    pendulum = MujocoDynamics(
        Pendulum().mjcf(),
        parameters={"mass": ModelField("body_mass", "rod", unit="kg", bounds=(0, float("inf")), transform="log")},
    )
    check_dynamics(pendulum, exact=True)
    spacecraft = satellite(parameters={"inertia": ModelField("body_inertia", "bus", bounds=(0.01, 1))})
    check_dynamics(spacecraft, x=states(spacecraft, 6), u=randn(6, 2, scale=0.1), exact=True)


def test_describes_the_model():
    dynamics = satellite(frame_skip=4)
    positions = [
        "bus_x",
        "bus_y",
        "bus_z",
        "bus_qw",
        "bus_qx",
        "bus_qy",
        "bus_qz",
        "neck_qw",
        "neck_qx",
        "neck_qy",
        "neck_qz",
    ]
    velocities = ["bus_x", "bus_y", "bus_z", "bus_rx", "bus_ry", "bus_rz", "neck_rx", "neck_ry", "neck_rz", "boom"]
    assert dynamics.state_names == (*positions, "boom", *(f"{name}_velocity" for name in velocities))
    assert dynamics.control_names == ("actuator0", "arm")
    assert dynamics.angles == (11,)
    assert (dynamics.state_dim, dynamics.tangent_dim, dynamics.dt) == (22, 20, 0.04)
    dynamics = leg()
    assert dynamics.state_names[-2:] == ("hip_velocity", "lift_activation")
    assert dynamics.angles == (1,)  # the hip has limits


def test_bits_do_not_depend_on_history_batch_or_threads(monkeypatch):
    dynamics = leg(frame_skip=2)
    x, us = states(dynamics, 7), randn(7, 20, 2, seed=1)
    xs = dynamics.rollout(x, us)
    dynamics(states(dynamics, 40, seed=3), randn(40, 2, seed=4))  # a larger call, which makes the batch anew
    assert torch.equal(dynamics.rollout(x, us), xs)
    assert torch.equal(torch.stack([dynamics.rollout(x[i], us[i]) for i in range(7)]), xs)
    for threads in (1, 3):
        assert torch.equal(leg(frame_skip=2, threads=threads).rollout(x, us), xs)
    monkeypatch.setattr(stepping, "MAX_WORLDS", 3)
    assert torch.equal(leg(frame_skip=2).rollout(x, us), xs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_rollout_is_repeated_steps_with_and_without_gradients(dtype):
    dynamics = leg(frame_skip=2)
    x0, us = states(dynamics, 4).to(dtype), randn(4, 10, 2).to(dtype)
    xs = [x0]
    for k in range(10):
        xs.append(dynamics(xs[-1], us[:, k]))
    xs = torch.stack(xs, dim=1)
    assert xs.dtype == dtype
    assert torch.equal(dynamics.rollout(x0, us), xs)
    assert torch.equal(dynamics.rollout(x0, us.clone().requires_grad_()), xs)


def test_empty_batches_and_horizons():
    dynamics = leg()
    assert dynamics(torch.zeros(0, 7), torch.zeros(0, 2)).shape == (0, 7)
    assert dynamics.rollout(torch.zeros(3, 0, 7), torch.zeros(3, 0, 5, 2)).shape == (3, 0, 6, 7)
    x = states(dynamics, 2)
    assert torch.equal(dynamics.rollout(x, torch.zeros(2, 0, 2, dtype=x.dtype)), x.unsqueeze(1))


def test_a_model_without_actuators_is_passive():
    dynamics = MujocoDynamics(
        "<mujoco><worldbody><body><joint type='slide'/><geom size='1'/></body></worldbody></mujoco>"
    )
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert dynamics.state_names == ("joint0", "joint0_velocity")
    assert dynamics.linearize(x, x[:, :0]).fu.shape == (1, 2, 0)
    velocity = 1.0 - 9.81 * 0.002
    torch.testing.assert_close(dynamics(x, x[:, :0]), x.new_tensor([[0.002 * velocity, velocity]]))


# Derivatives


def transition_fd(model, x, u, eps):
    """Centered mjd_transitionFD from a cold start."""
    data = mujoco.MjData(model)
    data.qpos, data.qvel, data.act = np.split(x.numpy(), [model.nq, model.nq + model.nv])
    data.ctrl = u.numpy()
    n = 2 * model.nv + model.na
    fx, fu = np.zeros((n, n)), np.zeros((n, model.nu))
    mujoco.mjd_transitionFD(model, data, eps, 1, fx, fu, None, None)
    return torch.from_numpy(fx), torch.from_numpy(fu)


@pytest.mark.parametrize("make", [leg, satellite])
def test_jacobians_agree_with_transition_fd(make):
    dynamics = make()
    x = dynamics.rollout(states(dynamics, 4), randn(4, 60, 2, seed=1, scale=0.5))[:, 20::8].reshape(
        -1, dynamics.state_dim
    )
    u = randn(len(x), 2, seed=2, scale=0.3)
    if make is leg:
        u[::3, 0] = 1.0  # at the end of its range, where transitionFD goes one way only
        u[1::3, 0] = -1.0
        u[2::9, 0] = 1.7  # beyond, where it makes no difference
    result = dynamics.linearize(x, u)
    expected = [transition_fd(dynamics.model, *point, 3e-7) for point in zip(x, u, strict=True)]
    fx, fu = (torch.stack(parts) for parts in zip(*expected, strict=True))
    torch.testing.assert_close(result.fx, fx, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.fu, fu, rtol=1e-6, atol=1e-6)
    assert torch.equal(result.x_next, dynamics(x, u))


def test_derivatives_at_control_limits_come_from_within():
    free = MujocoDynamics(Pendulum().mjcf(), frame_skip=2)
    limited = MujocoDynamics(Pendulum().mjcf(torque_limit=2.0), frame_skip=2)
    x, costate = randn(4, 2), randn(4, 2, seed=1)
    u = torch.tensor([[2.0], [-2.0], [1.9999999], [2.5]], dtype=torch.float64)
    assert torch.equal(limited(x, u), free(x, u.clamp(-2, 2)))
    ours, exact = limited.linearize(x, u), free.linearize(x, u.clamp(-2, 2))
    torch.testing.assert_close(ours.fx, exact.fx, rtol=0, atol=1e-8)
    torch.testing.assert_close(ours.fu[:3], exact.fu[:3], rtol=0, atol=1e-6)
    assert torch.equal(ours.fu[3], torch.zeros(2, 1, dtype=torch.float64))
    ours, exact = limited.curvature(x, u, costate), free.curvature(x, u.clamp(-2, 2), costate)
    torch.testing.assert_close(ours.xx, exact.xx, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.ux[:3], exact.ux[:3], rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.uu[:3], exact.uu[:3], rtol=0, atol=1e-4)
    assert not ours.ux[3].any()
    assert not ours.uu[3].any()


@pytest.mark.parametrize(
    ("make", "integrator", "frame_skip"), [(leg, "Euler", 3), (leg, "RK4", 2), (satellite, "RK4", 3)]
)
def test_the_gradient_of_a_rollout_agrees_with_finite_differences(make, integrator, frame_skip):
    dynamics = make(integrator, frame_skip=frame_skip)
    x0, us = states(dynamics, 3, scale=0.1), randn(3, 12, 2, seed=1, scale=0.4)
    weight = randn(3, 13, dynamics.state_dim, seed=2)

    def losses(x0, us):
        return (weight * dynamics.rollout(x0, us)).sum((-1, -2))

    leaves = x0.clone().requires_grad_(), us.clone().requires_grad_()
    gx, gu = torch.autograd.grad(losses(*leaves).sum(), leaves)
    dx, du = randn(*x0.shape, seed=3), randn(*us.shape, seed=4)  # off the manifold, too
    h = 1e-6
    for gradient, expected in (
        ((gx * dx).sum(-1), losses(x0 + h * dx, us) - losses(x0 - h * dx, us)),
        ((gu * du).sum((-1, -2)), losses(x0, us + h * du) - losses(x0, us - h * du)),
    ):
        torch.testing.assert_close(gradient, expected / (2 * h), rtol=1e-6, atol=1e-6)


def test_a_step_is_one_node_and_cannot_be_differentiated_twice():
    dynamics = leg()
    x, u = states(dynamics, 2), randn(2, 2).requires_grad_()
    x_next = dynamics(x, u)
    assert type(x_next.grad_fn).__name__ == "_StepBackward"
    (gu,) = torch.autograd.grad(x_next.sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives of a MuJoCo step.*use curvature"):
        gu.sum().backward()


# The manifold


def test_difference_and_retract_agree_with_mujoco():
    dynamics = satellite()
    model, nq, nv = dynamics.model, dynamics.model.nq, dynamics.model.nv
    x0, x1 = states(dynamics, 50, scale=2.0), states(dynamics, 50, seed=1, scale=2.0)
    dx = randn(50, dynamics.tangent_dim, seed=2, scale=2.0)
    dx[0] = 0.0
    dx[1:10] *= 1e-4
    x1[0] = x0[0]
    x1[1:10] = dynamics.retract(x0[1:10], dx[1:10])
    difference, reached = dynamics.difference(x1, x0), dynamics.retract(x0, dx)
    for i in range(50):
        expected = np.zeros(nv)
        mujoco.mj_differentiatePos(model, expected, 1.0, x0[i, :nq].numpy(), x1[i, :nq].numpy())
        torch.testing.assert_close(difference[i, :nv], torch.from_numpy(expected), rtol=0, atol=1e-13)
        expected = x0[i, :nq].numpy().copy()
        mujoco.mj_integratePos(model, expected, dx[i, :nv].numpy(), 1.0)
        torch.testing.assert_close(reached[i, :nq], torch.from_numpy(expected), rtol=0, atol=1e-13)
    assert torch.equal(difference[:, nv:], (x1 - x0)[:, nq:])
    assert torch.equal(reached[:, nq:], x0[:, nq:] + dx[:, nv:])


def test_the_manifold_is_differentiable_at_zero_displacement():
    dynamics = satellite()
    x = states(dynamics, 1)[0]
    zero = torch.zeros(dynamics.tangent_dim, dtype=torch.float64)

    def round_trip(dx):
        return dynamics.difference(dynamics.retract(x, dx), x)

    torch.testing.assert_close(torch.autograd.functional.jacobian(round_trip, zero), torch.eye(20, dtype=torch.float64))
    hessian = torch.autograd.functional.hessian(lambda dx: round_trip(dx).sum(), zero)
    torch.testing.assert_close(hessian, torch.zeros(20, 20, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_gradient_by_a_quaternion_is_that_of_the_step_by_its_four_numbers():
    dynamics = satellite(frame_skip=2)
    x, u = states(dynamics, 1), randn(1, 2)
    x[:, 3:7] *= 1.3  # MuJoCo normalizes what it is given
    leaf, weight = x.clone().requires_grad_(), randn(22, seed=1)
    (gradient,) = torch.autograd.grad((weight * dynamics(leaf, u)).sum(), leaf)
    h = 1e-6 * torch.eye(22, dtype=torch.float64)
    moved = dynamics(torch.cat([x + h, x - h]), u.expand(44, 2)) @ weight
    torch.testing.assert_close(gradient[0], (moved[:22] - moved[22:]) / 2e-6, rtol=0, atol=1e-7)


# Divergence


def test_a_diverging_world_is_nan_and_leaves_the_others_and_the_folder_alone(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    dynamics = leg(frame_skip=4)
    x0, us = states(dynamics, 5), randn(5, 20, 2)
    sound = dynamics.rollout(x0, us)
    x0[1, 4] = 1e5  # rad/s
    us[2, 7, 0] = float("nan")
    us[3, 0, 1] = float("inf")
    us[4, 5, 1] = 1e11  # finite, but huge: MuJoCo would replace all controls by zero
    xs = dynamics.rollout(x0, us)
    assert torch.equal(xs[0], sound[0])
    lost = xs.isnan().all(-1)
    assert torch.equal(lost, xs.isnan().any(-1))
    assert [row.tolist().index(True) for row in lost[2:]] == [8, 1, 6]
    assert 1 < lost[1].tolist().index(True) < 20
    for row in lost[1:]:
        assert row[row.tolist().index(True) :].all()
    assert torch.equal(xs[4, :6], sound[4, :6])
    assert torch.equal(dynamics.rollout(x0, us.requires_grad_()).detach().isnan(), xs.isnan())
    broken = x0.clone()
    broken[0, 0] = float("nan")
    assert dynamics.rollout(broken, us.detach())[0].isnan().all()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("memory", ["16K", "64K"])  # MuJoCo drops contacts and warns; MuJoCo raises an error
def test_a_world_that_does_not_fit_into_memory_is_nan(memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    boxes = "".join(
        f"<body pos='0 0 {0.1 + 0.15 * i}'><freejoint/><geom type='box' size='.1 .1 .1'/></body>" for i in range(10)
    )
    dynamics = MujocoDynamics(
        f"<mujoco><size memory='{memory}'/><worldbody><geom type='plane' size='1 1 1'/>{boxes}</worldbody></mujoco>"
    )
    pile = states(dynamics, scale=0.0)
    apart = pile.clone()
    apart[2 : dynamics.model.nq : 7] += 10.0 * torch.arange(10)
    x_next = dynamics(torch.stack([pile, apart]), torch.zeros(2, 0, dtype=torch.float64))
    assert x_next[0].isnan().all()
    assert torch.equal(x_next[1], mj_steps(dynamics.model, apart, torch.zeros(0), 1))
    assert list(tmp_path.iterdir()) == []


def test_a_control_that_is_nan_is_divergence_even_where_it_does_nothing():
    dynamics = MujocoDynamics(
        Pendulum().mjcf().replace("<visual>", "<option><flag actuation='disable'/></option><visual>")
    )
    assert dynamics(randn(2), torch.full((1,), torch.nan, dtype=torch.float64)).isnan().all()


def test_mujoco_itself_would_hide_the_divergence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = mujoco.MjModel.from_xml_string(LEG.format(integrator="Euler"))
    flags = model.opt.disableflags
    dynamics = MujocoDynamics(model, frame_skip=50)
    x, u = states(dynamics), randn(2)
    x[4] = 1e5  # rad/s
    texts = []
    mujoco.set_mju_user_warning(texts.append)
    try:
        reset = mj_steps(model, x, u, 50)
    finally:
        mujoco.set_mju_user_warning(None)
    assert texts
    assert reset.isfinite().all()
    assert reset.abs().max() < 100
    assert dynamics(x, u).isnan().all()
    assert model.opt.disableflags == flags  # the caller's model is not changed


def test_a_diverged_world_that_the_loss_leaves_out_does_not_spoil_the_gradient():
    dynamics = leg()
    x0, us = states(dynamics, 2), randn(5, 2).requires_grad_()  # controls shared by both worlds
    x0[1, 3] = 1e12
    xs = dynamics.rollout(x0, us)
    alive = xs.isfinite().all(-1, keepdim=True).all(1, keepdim=True)
    (gradient,) = torch.autograd.grad(torch.where(alive, xs, 0.0).sum(), us)
    (expected,) = torch.autograd.grad(dynamics.rollout(x0[:1], us).sum(), us)
    assert expected.isfinite().all()
    torch.testing.assert_close(gradient, expected)


# Where models come from


def test_takes_files_strings_models_and_environments(tmp_path):
    mjcf = LEG.format(integrator="Euler")
    model = mujoco.MjModel.from_xml_string(mjcf)
    (tmp_path / "leg.xml").write_text(mjcf)
    mujoco.mj_saveModel(model, str(tmp_path / "leg.mjb"))
    dynamics = MujocoDynamics(mjcf)
    x, u = states(dynamics, 3), randn(3, 2)
    for source in (tmp_path / "leg.xml", str(tmp_path / "leg.xml"), tmp_path / "leg.mjb", model):
        assert torch.equal(MujocoDynamics(source)(x, u), dynamics(x, u))


def test_takes_a_gymnasium_environment_with_its_frame_skip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo logs that the environment uses a deprecated attribute
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the environment's own
        env = gymnasium.make("HalfCheetah-v5")
    dynamics = MujocoDynamics(env)
    assert (dynamics.frame_skip, dynamics.dt, dynamics.control_dim) == (5, env.unwrapped.dt, 6)
    x, u = states(dynamics, 3, scale=0.1), randn(3, 6)
    expected = torch.stack([mj_steps(env.unwrapped.model, *point, 5) for point in zip(x, u, strict=True)])
    assert torch.equal(dynamics(x, u), expected)
    assert MujocoDynamics(env, frame_skip=5).frame_skip == 5
    with pytest.raises(ValueError, match="repeats each control for 5 steps, got frame_skip=2"):
        MujocoDynamics(env, frame_skip=2)
    assert MujocoDynamics(env.unwrapped.model, frame_skip=2).dt == 0.02
    env.close()


def test_compiler_warnings_become_python_warnings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handler = mujoco.get_mju_user_warning()
    mjcf = LEG.format(integrator="Euler").replace("<option", "<compiler settotalmass='3'/><option")
    with pytest.warns(UserWarning, match="MuJoCo: .*settotalmass"):
        MujocoDynamics(mjcf)
    assert list(tmp_path.iterdir()) == []
    assert mujoco.get_mju_user_warning() is handler


def test_bad_models_are_refused(tmp_path):
    mjcf = LEG.format(integrator="Euler")
    with pytest.raises(FileNotFoundError, match=r"no MuJoCo model at 'nowhere\.xml'"):
        MujocoDynamics("nowhere.xml")
    with pytest.raises(ValueError, match="MuJoCo cannot load the MJCF string: XML Error"):
        MujocoDynamics(mjcf.replace("hinge", "knee"))
    (tmp_path / "broken.xml").write_text("<mujoco>")
    with pytest.raises(ValueError, match=r"MuJoCo cannot load '.*broken\.xml': "):
        MujocoDynamics(tmp_path / "broken.xml")
    with pytest.raises(TypeError, match="got Pendulum"):
        MujocoDynamics(Pendulum())
    for frame_skip in (0, 1.5, -1):
        with pytest.raises(ValueError, match=f"frame_skip must be a positive number of MuJoCo steps, got {frame_skip}"):
            MujocoDynamics(mjcf, frame_skip=frame_skip)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        MujocoDynamics(mjcf, threads=0)


def test_models_with_hidden_state_are_refused():
    mjcf = LEG.format(integrator="Euler")
    delayed = mjcf.replace('gear="20"', 'gear="20" delay="0.02" nsample="8"')
    with pytest.raises(ValueError, match="keeps more between steps: actuator or sensor delays"):
        MujocoDynamics(delayed)
    sleeping = mjcf.replace("<worldbody>", "<option><flag sleep='enable'/></option><worldbody>")
    with pytest.raises(ValueError, match=r"sleep \(set the flag sleep='disable'\)"):
        MujocoDynamics(sleeping)


# Copies and processes


def test_survives_copies_and_pickles():
    dynamics = leg(frame_skip=2, parameters={"mass": ModelField("body_mass", "leg")}).with_parameters(mass=1.5)
    x, us = states(dynamics, 4), randn(4, 5, 2)
    xs = dynamics.rollout(x, us)
    for other in (copy.deepcopy(dynamics), pickle.loads(pickle.dumps(dynamics)), copy.copy(dynamics)):
        assert torch.equal(other.rollout(x, us), xs)
        assert other.frame_skip == 2
    buffer = io.BytesIO()
    torch.save(dynamics, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False).rollout(x, us), xs)


def test_may_be_called_from_several_python_threads():
    dynamics = leg(frame_skip=2)
    x, us = states(dynamics, 8), randn(8, 30, 2)
    expected = dynamics.rollout(x, us)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(dynamics.rollout, x, us))
    assert torch.equal(torch.stack(results), expected)


FORK = """
import os, sys, time, warnings
import torch
from dynamics import Pendulum
from dynamics import MujocoDynamics
warnings.simplefilter("ignore", DeprecationWarning)
dynamics, unused = (MujocoDynamics(Pendulum().mjcf(), threads=4) for _ in range(2))
x, us = torch.rand(64, 2, dtype=torch.float64), torch.zeros(64, 5, 1, dtype=torch.float64)
xs = dynamics.rollout(x, us)
unused.rollout(x, us)
child = os.fork()
if child == 0:  # uses one, deletes the other, and ends like any program
    same = torch.equal(dynamics.rollout(x, us), xs)
    del unused
    sys.exit(7 if same else 1)
deadline = time.monotonic() + 20
while True:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        break
    if time.monotonic() > deadline:
        os.kill(child, 9)
        sys.exit("the child hangs")
    time.sleep(0.01)
assert torch.equal(dynamics.rollout(x, us), xs)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_survives_a_fork():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


# Parameters

FIELDS = {
    "leg_mass": ModelField("body_mass", "leg", unit="kg", bounds=(0, float("inf")), transform="log"),
    "gravity": ModelField("opt.gravity", index=2, unit="m/s^2"),
    "damping": ModelField("dof_damping", "hip", unit="N m s/rad"),
    "gear": ModelField("actuator_gear", "hip", 0),
    "inertia": ModelField("body_inertia", "torso", unit="kg m^2", bounds=(1e-4, 1.0)),
}


def compiled_with(leg_mass, gravity, damping, gear, inertia):
    """The leg compiled with other numbers."""
    spec = mujoco.MjSpec.from_string(LEG.format(integrator="Euler"))
    nominal = spec.compile()
    for name in ("torso", "leg"):  # numbers instead of shapes, so that the mass does not move the inertia
        body = spec.body(name)
        body.explicitinertial, body.mass = True, nominal.body(name).mass[0]
        body.ipos, body.iquat, body.inertia = (
            nominal.body(name).ipos,
            nominal.body(name).iquat,
            nominal.body(name).inertia,
        )
    spec.body("leg").mass = leg_mass
    spec.body("torso").inertia = inertia
    spec.option.gravity[2] = gravity
    spec.joint("hip").damping[0] = damping
    spec.actuator("hip").gear[0] = gear
    return spec.compile()


def test_parameters_per_world_equal_separately_compiled_models():
    dynamics = leg(frame_skip=2, parameters=FIELDS)
    assert dynamics.physical_parameters["gravity"].nominal == -9.81
    assert dynamics.physical_parameters["leg_mass"].unit == "kg"
    assert torch.equal(dynamics.inertia, torch.from_numpy(dynamics.model.body("torso").inertia))
    scale = torch.tensor([0.5, 1.0, 1.7], dtype=torch.float64)
    values = {name: torch.stack([s * getattr(dynamics, name) for s in scale]) for name in FIELDS}
    worlds = dynamics.with_parameters(**values)
    x0, us = states(dynamics, 3, 4), randn(3, 4, 15, 2)
    xs = worlds.rollout(x0, us)
    for w in range(3):
        model = compiled_with(**{name: value[w].numpy() for name, value in values.items()})
        expected = torch.stack([mj_rollout(model, x0[w, i], us[w, i], 2) for i in range(4)])
        torch.testing.assert_close(xs[w], expected, rtol=0, atol=1e-12)
        alone = dynamics.with_parameters(**{name: value[w] for name, value in values.items()})
        assert torch.equal(alone.rollout(x0[w], us[w]), xs[w])
    plain = leg(frame_skip=2).rollout(x0, us)
    assert torch.equal(dynamics.rollout(x0, us), plain)
    assert torch.equal(xs[1], plain[1])  # nominal numbers, set per world
    again = worlds.linearize(x0, us[..., 0, :])  # other rows of the same batch
    assert torch.equal(worlds.rollout(x0, us), xs)
    single = dynamics.with_parameters(**{name: value[2] for name, value in values.items()})
    assert torch.equal(again.fx[2], single.linearize(x0[2], us[2, :, 0]).fx)


def test_parameters_follow_the_buffers():
    dynamics = leg(parameters={"gravity": FIELDS["gravity"]})
    x, u = states(dynamics, 3), randn(3, 2)
    nominal, state = dynamics(x, u), dynamics.state_dict()
    moon = dynamics.with_parameters(gravity=-1.62)
    expected = moon(x, u)
    assert not torch.equal(expected, nominal)
    dynamics.load_state_dict(moon.state_dict())
    assert torch.equal(dynamics(x, u), expected)
    dynamics.load_state_dict({name: value.new_tensor(-9.81) for name, value in state.items()})
    assert torch.equal(dynamics(x, u), nominal)


def test_per_world_values_agree_with_the_same_system_in_torch():
    pendulum = Pendulum()
    dynamics = MujocoDynamics(
        pendulum.mjcf(),
        parameters={"gain": ModelField("actuator_gear", "torque", 0), "damping": ModelField("dof_damping", "angle")},
    )
    values = {"gain": torch.tensor([0.5, 2.0, 3.0]).double(), "damping": torch.tensor([0.0, 0.1, 0.5]).double()}
    x0, us = randn(3, 2), randn(3, 10, 1)
    expected = pendulum.with_parameters(**values).rollout(x0, us)
    torch.testing.assert_close(dynamics.with_parameters(**values).rollout(x0, us), expected, rtol=1e-12, atol=1e-12)


def test_gradients_by_parameters_are_refused():
    dynamics = leg(parameters={"gravity": FIELDS["gravity"]})
    value = torch.tensor(-9.0, dtype=torch.float64, requires_grad=True)
    message = (
        "gradients by the physical parameters of a MuJoCo model are not available, got gravity.*gradients reach x and u"
    )
    with pytest.raises(ValueError, match=message):
        dynamics.with_parameters(gravity=value)
    dynamics.gravity.requires_grad_()
    with pytest.raises(ValueError, match=message):
        dynamics(states(dynamics, 1), randn(1, 2))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (ModelField("body_weight", "leg"), "'body_weight' is not a floating-point field"),
        (ModelField("body_parentid", "leg"), "'body_parentid' is not a floating-point field"),
        (ModelField("opt.timestep"), "'opt.timestep' is part of the system's definition"),
        (ModelField("body_mass", "foot"), "'body_mass' has no element 'foot'"),
        (ModelField("body_mass", 12), "'body_mass' has no element 12"),
        (ModelField("opt.gravity", "leg"), "'opt.gravity' belongs to no element"),
        (ModelField("body_mass", "leg", 3), r"element 'leg', index 3 do not fit 'body_mass' of shape \(3,\)"),
    ],
)
def test_parameters_that_the_model_does_not_have(field, message):
    with pytest.raises(ValueError, match=f"parameter 'p': {message}"):
        leg(parameters={"p": field})


def test_a_missing_graphics_library_does_not_keep_a_model_from_stepping():
    """MuJoCo opens the library named by MUJOCO_GL when it is imported; hardly a machine has OSMesa."""
    script = (
        "import os, dynamics\n"
        "plant = dynamics.MujocoDynamics(dynamics.CartPole().mjcf(rail=5.0))\n"
        "print(plant.state_dim, os.environ['MUJOCO_GL'])"
    )
    environment = {**os.environ, "MUJOCO_GL": "osmesa"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "4 osmesa", done.stderr
