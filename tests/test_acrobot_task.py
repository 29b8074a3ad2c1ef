"""The acrobot's cost against its definition and the regulator's cost-to-go, and that planning swings it up."""

import math

import pytest
import torch

import mbrl
from dynamics import Acrobot
from mbrl import acrobot_swing_up
from mbrl.tasks.acrobot import LARGEST_TERMINAL
from planners import ICEM, MPC


def small(generator, scale, count=20):
    return scale * torch.randn(count, 4, generator=generator, dtype=torch.float64)


def test_the_stage_cost_by_hand():
    """Both rods level: q1 = pi/2 and q1 + q2 = pi/2 cost sqrt(2 + 0.01) - 0.1 each."""
    task = acrobot_swing_up("torch", torque_limit=5.0)
    x = torch.tensor([math.pi / 2, 0.0, 3.0, -1.0], dtype=torch.float64)
    expected = 2 * (math.sqrt(2.01) - 0.1) + 0.01 * 10.0 + 0.01 * 0.25
    assert float(task.cost.stage(x, torch.tensor([2.5]).double(), 0)) == pytest.approx(expected, rel=1e-14)
    folded = torch.tensor([math.pi, math.pi, 0.0, 0.0], dtype=torch.float64)  # lower rod upright on a hanging upper one
    assert float(task.cost.stage(folded, torch.zeros(1).double(), 0)) == pytest.approx(math.sqrt(4.01) - 0.1, rel=1e-14)


def test_the_terminal_cost_is_what_holding_will_cost(generator):
    """Close to upright, the regulator's closed loop on the true acrobot accumulates the terminal cost it starts from."""
    task = acrobot_swing_up("torch")
    x = start = small(generator, 1e-6)
    total, z = torch.zeros(20).double(), torch.zeros(4).double()
    near = task.dynamics.linearize(z, z[:1])
    P = task.cost.expand_terminal(z).xx
    R = task.cost.expand(z, z[:1], 0).uu
    K = -torch.linalg.solve(R + near.fu.mT @ P @ near.fu, near.fu.mT @ P @ near.fx)
    for k in range(400):
        u = x @ K.mT
        total += task.cost.stage(x, u, k)
        x = task.dynamics(x, u)
    torch.testing.assert_close(total, task.cost.terminal(start), rtol=1e-4, atol=0)


def test_the_terminal_cost_levels_off(generator):
    task = acrobot_swing_up("torch")
    terminal = task.cost.terminal(small(generator, 3.0, 500))
    assert bool((terminal < LARGEST_TERMINAL).all())
    assert float(terminal.median()) > 0.9 * LARGEST_TERMINAL
    assert float(task.cost.terminal(torch.zeros(4).double())) == 0.0


def test_pushing_alone_does_not_lift_it():
    task = acrobot_swing_up("torch")
    for torque in (-10.0, 10.0):
        x = torch.tensor([math.pi, 0.0, 0.0, 0.0], dtype=torch.float64)
        with_friction = task.dynamics.with_parameters(damping_1=2.0, damping_2=2.0)  # until it rests
        last = with_friction.rollout(x, torch.full((800, 1), torque, dtype=torch.float64))[-1]
        assert float(torch.cos(last[0])) < 0.0


def test_the_default_acrobot_and_ones_own():
    task = acrobot_swing_up()
    assert (float(task.system.length_1), float(task.system.length_2), task.dynamics.frame_skip) == (0.5, 1.0, 2)
    own = Acrobot(dt=0.02)
    assert acrobot_swing_up("torch", system=own).dynamics is own
    assert acrobot_swing_up("mujoco", system=own).dynamics.dt == pytest.approx(0.02)


@pytest.mark.parametrize("backend", ["mujoco", "torch"])
def test_the_cost_belongs_to_one_acrobot(backend):
    worlds = Acrobot().with_parameters(mass_2=torch.tensor([0.5, 1.0]).double())
    with pytest.raises(ValueError, match=r"one value per world for: mass_2; .*task.problem\(system.with_parameters"):
        acrobot_swing_up(backend, system=worlds)
    task = acrobot_swing_up("torch", system=Acrobot())
    assert task.problem(worlds).dynamics is worlds


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mujoco", "torch"])
def test_planning_with_default_settings_swings_it_up_and_holds_it(backend):
    """Planned on the formula, which is ten times as fast as its MuJoCo twin."""
    task, formula = acrobot_swing_up(backend), acrobot_swing_up("torch").dynamics
    result = mbrl.evaluate(MPC(task.problem(formula), ICEM()), task, episodes=5)
    assert result.success_rate >= 0.8
