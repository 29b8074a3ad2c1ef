"""The systems against MuJoCo, energy, power and closed forms."""

import math

import mujoco
import numpy as np
import pytest
import torch

from dynamics import (
    Acrobot,
    CartPole,
    DoubleIntegrator,
    Pendulum,
    PlanarQuadrotor,
    Quadrotor,
    Reacher,
    TorchDynamics,
    TwoLinkArm,
    integrators,
)

MAKERS = {
    "pendulum": Pendulum,
    "cartpole": CartPole,
    "acrobot": Acrobot,
    "reacher": Reacher,
    "two-link arm": TwoLinkArm,
    "planar quadrotor": PlanarQuadrotor,
    "line": DoubleIntegrator,
    "plane": lambda **kwargs: DoubleIntegrator(2, **kwargs),
    "space": lambda **kwargs: DoubleIntegrator(3, **kwargs),
}
every_system = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in MAKERS.items()])
conservative = pytest.mark.parametrize(
    ("make", "start"), [(Pendulum, [2.5, 0.0]), (CartPole, [0.0, 2.0, 0.5, 0.0]), (Acrobot, [1.5, 0.5, 0.0, 0.0])]
)


def random_parameters(system, generator):
    """Every parameter between half and one and a half times its nominal value, dampings up to 0.5."""
    values = {}
    for name, parameter in system.physical_parameters.items():
        draw = float(torch.rand((), generator=generator, dtype=torch.float64))
        values[name] = parameter.nominal * (0.5 + draw) if parameter.nominal else 0.5 * draw
    return system.with_parameters(**values)


def random_points(system, generator, count=20):
    x = 3 * torch.randn(count, system.state_dim, generator=generator, dtype=torch.float64)
    return x, 5 * torch.randn(count, system.control_dim, generator=generator, dtype=torch.float64)


def accelerate(system, x, u):
    return system.acceleration(x, u, system.parameters_like(x))


def twin(system):
    model = mujoco.MjModel.from_xml_string(system.mjcf())
    return model, mujoco.MjData(model)


def put(data, x, u):
    data.qpos, data.qvel = np.split(x.numpy(), 2)
    data.ctrl = u.numpy()


# MuJoCo


@every_system
def test_acceleration_equals_mujoco(make, generator):
    for _ in range(5):
        system = random_parameters(make(), generator)
        model, data = twin(system)
        x, u = random_points(system, generator)
        for ours, x_i, u_i in zip(accelerate(system, x, u), x, u, strict=True):
            put(data, x_i, u_i)
            mujoco.mj_forward(model, data)
            assert np.linalg.norm(ours.numpy() - data.qacc) <= 1e-12 * np.linalg.norm(data.qacc)


@every_system
def test_energy_equals_mujoco(make, generator):
    for _ in range(5):
        system = random_parameters(make(), generator)
        model, data = twin(system)
        model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
        x, u = random_points(system, generator)
        for ours, x_i, u_i in zip(system.energy(x), x, u, strict=True):
            put(data, x_i, u_i)
            mujoco.mj_forward(model, data)
            assert ours.item() == pytest.approx(sum(data.energy), rel=1e-12)


@every_system
def test_rk4_step_equals_mujoco(make, generator):
    system = random_parameters(make(), generator)
    model, data = twin(system)
    assert model.opt.timestep == system.dt
    x, u = random_points(system, generator)
    for ours, x_i, u_i in zip(system(x, u), x, u, strict=True):
        put(data, x_i, u_i)
        mujoco.mj_step(model, data)
        np.testing.assert_allclose(ours.numpy(), np.concatenate([data.qpos, data.qvel]), rtol=1e-12, atol=1e-12)


@every_system
def test_names_equal_mujoco(make):
    system = make()
    model, _ = twin(system)
    joints = tuple(model.joint(i).name for i in range(model.njnt))
    assert system.state_names == joints + tuple(f"{name}_velocity" for name in joints)
    assert system.control_names == tuple(model.actuator(i).name for i in range(model.nu))
    hinges = tuple(i for i in range(model.njnt) if model.jnt_type[i] == mujoco.mjtJoint.mjJNT_HINGE)
    assert system.angles == hinges


def test_limits_of_the_twins():
    model = mujoco.MjModel.from_xml_string(CartPole().mjcf(rail=1.8, force_limit=10.0))
    assert model.joint("position").range.tolist() == [-1.8, 1.8]
    assert model.jnt_limited.tolist() == [1, 0]
    assert model.actuator_ctrlrange.tolist() == [[-10.0, 10.0]]
    for system in (Pendulum(), Acrobot(), Reacher(), TwoLinkArm()):
        model = mujoco.MjModel.from_xml_string(system.mjcf(torque_limit=2.5))
        assert model.actuator_ctrlrange.tolist() == [[-2.5, 2.5]] * system.control_dim
        assert model.actuator_ctrllimited.tolist() == [1] * system.control_dim
        assert twin(system)[0].actuator_ctrllimited.tolist() == [0] * system.control_dim


@pytest.mark.parametrize("make", [PlanarQuadrotor, Quadrotor])
def test_limits_of_flying_twins(make):
    model = mujoco.MjModel.from_xml_string(make().mjcf(thrust_limit=3.0))
    assert model.actuator_ctrlrange.tolist() == [[0.0, 3.0]] * model.nu
    assert model.actuator_ctrllimited.tolist() == [1] * model.nu
    assert twin(make())[0].actuator_ctrllimited.tolist() == [0] * model.nu


@pytest.mark.parametrize("make", [CartPole, Acrobot])
def test_a_twin_may_take_finer_steps(make):
    assert mujoco.MjModel.from_xml_string(make(dt=0.04).mjcf(timestep=0.01)).opt.timestep == 0.01


def test_a_twin_has_one_value_per_parameter():
    with pytest.raises(ValueError, match="one value per parameter, got one per world for: mass, length"):
        Pendulum().with_parameters(mass=torch.ones(3), length=torch.ones(3)).mjcf()


# Energy and power


@conservative
def test_rk4_energy_drift_falls_with_the_step(make, start):
    """Ten seconds without damping; the error in the energy is of fourth order at least."""
    drifts = []
    for dt in (0.02, 0.01):
        system = make(dt=dt)
        xs = system.rollout(torch.tensor(start).double(), torch.zeros(round(10 / dt), 1).double())
        energy = system.energy(xs)
        drifts.append(float((energy - energy[0]).abs().max()))
    assert drifts[1] < 1e-4
    assert math.log2(drifts[0] / drifts[1]) > 3.8


def test_semi_implicit_energy_is_bounded():
    """The second ten seconds do not stray farther than the first; explicit Euler gains energy all the time."""
    pendulum = Pendulum(dt=0.005, integrator="semi_implicit_euler")
    p = pendulum.parameters_like(torch.zeros(2).double())
    field = integrators.first_order(lambda x, u: pendulum.acceleration(x, u, p))
    us, x0 = torch.zeros(4000, 1).double(), torch.tensor([2.5, 0.0]).double()
    error = (pendulum.energy(pendulum.rollout(x0, us)) - pendulum.energy(x0)).abs()
    assert error[2000:].max() < 1.01 * error[:2000].max() < 0.05 * pendulum.energy(x0).abs()
    explicit = TorchDynamics(field, 2, 1, 0.005, integrator="euler")
    error = pendulum.energy(explicit.rollout(x0, us)) - pendulum.energy(x0)
    assert error[2000:].mean() > 2 * error[:2000].mean() > 0


@conservative
def test_semi_implicit_energy_error_is_of_first_order(make, start):
    """Where the mass matrix varies the energy drifts, and only the step helps."""
    errors, steps = [], [0.005, 0.0025, 0.00125]
    for dt in steps:
        system = make(dt=dt, integrator="semi_implicit_euler")
        xs = system.rollout(torch.tensor(start).double(), torch.zeros(round(1 / dt), 1).double())
        errors.append(float((system.energy(xs) - system.energy(xs[0])).abs().max()))
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(1, abs=0.05)


POWER = {
    "pendulum": (Pendulum, lambda v, u, p: p.gain * u[..., 0] * v[..., 0] - p.damping * v[..., 0] ** 2),
    "cartpole": (
        CartPole,
        lambda v, u, p: (
            p.gain * u[..., 0] * v[..., 0] - p.cart_damping * v[..., 0] ** 2 - p.pole_damping * v[..., 1] ** 2
        ),
    ),
    "acrobot": (
        Acrobot,
        lambda v, u, p: p.gain * u[..., 0] * v[..., 1] - p.damping_1 * v[..., 0] ** 2 - p.damping_2 * v[..., 1] ** 2,
    ),
    "reacher": (
        Reacher,
        lambda v, u, p: p.gain * (u * v[..., :2]).sum(-1) - p.damping_1 * v[..., 0] ** 2 - p.damping_2 * v[..., 1] ** 2,
    ),
    "two-link arm": (
        TwoLinkArm,
        lambda v, u, p: p.gain * (u * v).sum(-1) - p.damping_1 * v[..., 0] ** 2 - p.damping_2 * v[..., 1] ** 2,
    ),
    "plane": (MAKERS["plane"], lambda v, u, p: p.gain * (u * v).sum(-1) - p.damping * (v * v).sum(-1)),
}


@pytest.mark.parametrize(("make", "power"), [pytest.param(*entry, id=name) for name, entry in POWER.items()])
def test_power_balance(make, power, generator):
    """dE/dt along the flow, by central differences, is what the motor puts in less what friction takes out."""
    for _ in range(5):
        system = random_parameters(make(), generator)
        x, u = random_points(system, generator)
        v = x[:, system.state_dim // 2 :]
        flow, h = torch.cat([v, accelerate(system, x, u)], dim=-1), 1e-6
        rate = (system.energy(x + h * flow) - system.energy(x - h * flow)) / (2 * h)
        expected = power(v, u, system.parameters_like(x))
        torch.testing.assert_close(rate, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


# Closed forms and symmetries


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_double_integrator_is_exact(axes, generator):
    """q + dt v + dt^2 k u / 2m without damping, whatever the step."""
    system = DoubleIntegrator(axes, dt=0.7).with_parameters(mass=2.0, gain=3.0)
    x, u = random_points(system, generator)
    q, v = x.chunk(2, dim=-1)
    expected = torch.cat([q + 0.7 * v + 0.7**2 * 3 * u / 4, v + 0.7 * 3 * u / 2], dim=-1)
    torch.testing.assert_close(system(x, u), expected, rtol=1e-14, atol=1e-14)


def test_damped_double_integrator():
    """v' = R(-d dt / m) v with the stability polynomial of RK4, R(z) = 1 + z + z^2/2 + z^3/6 + z^4/24."""
    system = DoubleIntegrator(1, dt=0.1).with_parameters(mass=2.0, damping=3.0)
    v = system.rollout(torch.tensor([0.0, 1.0]).double(), torch.zeros(10, 1).double())[-1, 1]
    z = -0.15
    assert v.item() == pytest.approx((1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24) ** 10, rel=1e-14)


def test_small_swing_of_the_hanging_pendulum():
    """Period 2 pi sqrt(2 l / 3 g)."""
    dt = 2 * math.pi * math.sqrt(2 / (3 * 9.81)) / 100
    x0 = torch.tensor([math.pi + 1e-5, 0.0], dtype=torch.float64)
    xs = Pendulum(dt=dt).rollout(x0, torch.zeros(100, 1).double())
    torch.testing.assert_close(xs[100], xs[0], rtol=0, atol=1e-10)
    assert xs[50, 0].item() == pytest.approx(math.pi - 1e-5, abs=1e-10)


def test_equilibria():
    for system, angles in ((Pendulum(), 1), (CartPole(), 1), (Acrobot(), 2), (TwoLinkArm(), 2)):
        for up_or_down in (0.0, math.pi):
            x = torch.zeros(system.state_dim).double()
            x[system.state_dim // 2 - angles] = up_or_down
            u = torch.zeros(system.control_dim).double()
            torch.testing.assert_close(system(x, u), x, rtol=0, atol=1e-15)


def test_a_pole_without_mass_leaves_the_cart_alone():
    """In the limit the cart is a double integrator."""
    cartpole = CartPole().with_parameters(pole_mass=1e-13, cart_mass=2.0, cart_damping=0.4)
    cart = DoubleIntegrator(dt=cartpole.dt).with_parameters(mass=2.0, damping=0.4)
    x, u = torch.tensor([0.3, 1.0, -0.7, 2.0]).double(), torch.tensor([5.0]).double()
    torch.testing.assert_close(cartpole(x, u)[[0, 2]], cart(x[[0, 2]], u), rtol=0, atol=1e-12)


def test_a_locked_elbow_makes_a_pendulum():
    """A massless second rod: the shoulder swings like a single pendulum."""
    acrobot = Acrobot().with_parameters(mass_2=1e-14, mass_1=2.0, length_1=0.7, damping_1=0.1)
    pendulum = Pendulum(dt=acrobot.dt).with_parameters(mass=2.0, length=0.7, damping=0.1)
    x = torch.tensor([1.0, 0.3, -2.0, 0.5]).double()
    u = torch.zeros(1).double()
    torch.testing.assert_close(acrobot(x, u)[[0, 2]], pendulum(x[[0, 2]], u), rtol=0, atol=1e-11)


def test_an_acrobot_without_gravity_is_an_arm_whose_shoulder_nobody_turns(generator):
    lengths = {"length_1": 0.4, "length_2": 0.9, "mass_2": 2.0, "damping_1": 0.3}
    acrobot, arm = Acrobot().with_parameters(gravity=0.0, **lengths), Reacher().with_parameters(**lengths)
    x, torque = random_points(acrobot, generator)
    on_arm = torch.cat([x[:, :2], torch.zeros(20, 2).double(), x[:, 2:], torch.zeros(20, 2).double()], dim=-1)
    x_next = arm(on_arm, torch.cat([torch.zeros_like(torque), torque], dim=-1))
    torch.testing.assert_close(x_next[:, [0, 1, 4, 5]], acrobot(x, torque), rtol=1e-13, atol=1e-13)


def test_an_arm_is_a_reacher_with_gravity_and_an_acrobot_with_a_shoulder(generator):
    values = {"length_1": 0.4, "length_2": 0.9, "mass_2": 2.0, "damping_1": 0.3, "gain": 1.2}
    arm, flat = TwoLinkArm(dt=0.05).with_parameters(**values), Reacher(dt=0.05).with_parameters(**values)
    x, u = random_points(arm, generator)
    on_table = torch.cat([x[:, :2], torch.zeros(20, 2).double(), x[:, 2:], torch.zeros(20, 2).double()], dim=-1)
    weightless = arm.with_parameters(gravity=0.0)(x, u)
    torch.testing.assert_close(weightless, flat(on_table, u)[:, [0, 1, 4, 5]], rtol=1e-13, atol=1e-13)
    acrobot = Acrobot(dt=0.05).with_parameters(mass_1=1.0, **values)
    u[:, 0] = 0.0
    torch.testing.assert_close(arm(x, u), acrobot(x, u[:, 1:]), rtol=1e-13, atol=1e-13)


def test_the_arm_obeys_the_manipulator_equation(generator):
    """Spong, Hutchinson and Vidyasagar 2006, section 7.3.2: D(q) q'' + C(q, q') q' + g(q) = tau, angles from the horizontal."""
    arm = random_parameters(TwoLinkArm(), generator)
    m1, m2, l1, l2, d1, d2, gravity, gain = (float(getattr(arm, name)) for name in arm.physical_parameters)
    c1, c2, I1, I2 = l1 / 2, l2 / 2, m1 * l1**2 / 12, m2 * l2**2 / 12
    x, u = random_points(arm, generator)
    for ours, (q1, q2, v1, v2), u_i in zip(accelerate(arm, x, u).numpy(), x.numpy(), u.numpy(), strict=True):
        a, b = np.pi / 2 - q1, -q2  # counterclockwise, where ours is clockwise
        w, tau = np.array([-v1, -v2]), -gain * u_i
        D11 = m1 * c1**2 + m2 * (l1**2 + c2**2 + 2 * l1 * c2 * np.cos(b)) + I1 + I2
        D12, D22 = m2 * (c2**2 + l1 * c2 * np.cos(b)) + I2, m2 * c2**2 + I2
        h = -m2 * l1 * c2 * np.sin(b)
        C = np.array([[h * w[1], h * w[1] + h * w[0]], [-h * w[0], 0.0]])
        far = m2 * c2 * gravity * np.cos(a + b)
        weight = np.array([(m1 * c1 + m2 * l1) * gravity * np.cos(a) + far, far])
        friction = np.array([d1, d2]) * w
        expected = np.linalg.solve([[D11, D12], [D12, D22]], tau - friction - C @ w - weight)
        np.testing.assert_allclose(-ours, expected, rtol=1e-11, atol=1e-11)


def test_the_goal_of_a_reacher_goes_its_own_way(generator):
    """It rests, or keeps its velocity, whatever the arm does, and each of a batch has its own."""
    system = Reacher(dt=0.01)
    x, u = random_points(system, generator)
    x[:10, 6:] = 0.0
    xs = system.rollout(x, u.unsqueeze(1).expand(-1, 30, -1))
    torch.testing.assert_close(xs[:, -1, 2:4], x[:, 2:4] + 0.3 * x[:, 6:], rtol=1e-12, atol=1e-12)
    assert torch.equal(xs[:10, -1, 2:4], x[:10, 2:4])
    moved = x.clone()
    moved[:, 2:4] += 1.0
    assert torch.equal(system(moved, u)[:, [0, 1, 4, 5]], system(x, u)[:, [0, 1, 4, 5]])


def test_the_fingertip_is_where_mujoco_has_it(generator):
    system = random_parameters(Reacher(), generator)
    model, data = twin(system)
    x, u = random_points(system, generator)
    tip_of_the_rod = [float(system.length_2), 0.0, 0.0]
    for ours, x_i, u_i in zip(system.fingertip(x), x, u, strict=True):
        put(data, x_i, u_i)
        mujoco.mj_forward(model, data)
        lower = data.body("lower")
        tip = lower.xpos + lower.xmat.reshape(3, 3) @ tip_of_the_rod
        np.testing.assert_allclose(np.append(ours.numpy(), 0.0), tip, rtol=0, atol=1e-13)
        np.testing.assert_allclose(data.body("goal").xpos[:2], x_i[2:4].numpy(), rtol=0, atol=1e-13)


def test_the_fingertip_of_an_arm_is_where_mujoco_has_it(generator):
    arm = random_parameters(TwoLinkArm(), generator)
    model, data = twin(arm)
    x, u = random_points(arm, generator)
    for ours, x_i, u_i in zip(arm.fingertip(x), x, u, strict=True):
        put(data, x_i, u_i)
        mujoco.mj_forward(model, data)
        lower = data.body("lower")
        tip = lower.xpos + lower.xmat.reshape(3, 3) @ [0.0, 0.0, float(arm.length_2)]
        np.testing.assert_allclose([ours[0], 0.0, ours[1]], tip, rtol=0, atol=1e-13)


def test_the_fingertip_of_a_straight_and_of_a_bent_arm():
    x = torch.zeros(2, 2, 8, dtype=torch.float64)
    x[:, 1, 0] = x[:, 1, 1] = math.pi / 2
    arms = Reacher().with_parameters(length_1=torch.tensor([0.5, 1.0]))  # one for each row
    expected = torch.tensor([[[1.0, 0.0], [-0.5, 0.5]], [[1.5, 0.0], [-0.5, 1.0]]]).double()
    torch.testing.assert_close(arms.fingertip(x), expected, rtol=0, atol=1e-15)


@every_system
@pytest.mark.parametrize("integrator", ["rk4", "semi_implicit_euler"])
def test_a_full_turn_changes_nothing(make, integrator, generator):
    system = make(integrator=integrator)
    x, u = random_points(system, generator)
    turn = torch.zeros_like(x)
    turn[:, list(system.angles)] = 2 * math.pi
    torch.testing.assert_close(system(x + turn, u), system(x, u) + turn, rtol=0, atol=1e-11)


@pytest.mark.parametrize("make", [make for make in MAKERS.values() if make is not PlanarQuadrotor])  # see its own tests
def test_mirror_symmetry(make, generator):
    system = make()
    x, u = random_points(system, generator)
    torch.testing.assert_close(system(-x, -u), -system(x, u), rtol=1e-14, atol=1e-14)


@every_system
def test_parameters_are_described(make):
    for parameter in make().physical_parameters.values():
        assert parameter.description
        assert parameter.unit


# Bad arguments


def test_bad_arguments():
    with pytest.raises(ValueError, match="axes must be 1, 2 or 3, got 4"):
        DoubleIntegrator(4)
    with pytest.raises(ValueError, match="integrator must be 'rk4' or 'semi_implicit_euler', got 'euler'"):
        Pendulum(integrator="euler")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="dt must be a positive number of seconds, got 0"):
        CartPole(dt=0)
    with pytest.raises(ValueError, match=r"mass must be finite and within \[0, inf\] kg, got -1.0"):
        Pendulum().with_parameters(mass=-1.0)
    with pytest.raises(ValueError, match="Pendulum has no parameter 'mas'; its parameters are: mass, length, gravity"):
        Pendulum().with_parameters(mas=1.0)
