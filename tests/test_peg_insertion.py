"""The peg: where it is against MuJoCo, what is charged and counts, contacts that hold, and that planning inserts it."""

import math

import mujoco
import numpy as np
import pytest
import torch

from mbrl import make_env, peg_insertion, peg_insertion_starts
from mbrl.tasks.peg_insertion import ALONG, CONTROL_WEIGHT, DEPTH, HOLE
from mbrl.tasks.seven_joint_arm import JOINTS, PEG_LENGTH, PEG_RADIUS, peg_points
from planners import DDP, solve

INSERTED = (-0.0044, -0.3216, 0.0082, 1.5063, -0.0206, 0.3862, 0.0)
"""Angles at which the peg stands at the bottom of the hole without offset, to a tenth of a millimeter."""


@pytest.fixture(scope="module")
def task():
    return peg_insertion()


def at(angles, offset=(0.0, 0.0)):
    x = peg_insertion_starts(torch.tensor(offset, dtype=torch.float64))
    x[:7] = torch.tensor(angles, dtype=torch.float64)
    return x


def postures(count, generator):
    """Angles all over their ranges, and velocities, ``(count, 7)`` each."""
    low, high = torch.tensor([joint.range for joint in JOINTS], dtype=torch.float64).T
    q = low + (high - low) * torch.rand(count, 7, generator=generator, dtype=torch.float64)
    return q, torch.randn(count, 7, generator=generator, dtype=torch.float64)


def test_the_peg_is_where_mujoco_has_it(task, generator):
    """Ends of the peg's axis and their velocities by MuJoCo's own kinematics and Jacobians."""
    q, v = postures(20, generator)
    points, velocities = peg_points(q, v, ALONG)
    model, data = task.dynamics.model, mujoco.MjData(task.dynamics.model)
    hand, jacobian = model.body("wrist_roll").id, np.zeros((3, model.nv))
    for row in range(20):
        data.qpos[:7], data.qvel[:7] = q[row].numpy(), v[row].numpy()
        mujoco.mj_forward(model, data)
        for point, distance in enumerate(ALONG):
            expected = data.xpos[hand] + distance * data.xmat[hand].reshape(3, 3)[:, 0]
            np.testing.assert_allclose(points[row, point].numpy(), expected, rtol=0, atol=1e-12)
            mujoco.mj_jac(model, data, jacobian, None, expected, hand)
            np.testing.assert_allclose(velocities[row, point].numpy(), jacobian @ data.qvel, rtol=0, atol=1e-12)
        geom = model.geom("peg").id
        end = data.geom_xpos[geom] - data.geom_xmat[geom].reshape(3, 3)[:, 2] * model.geom_size[geom, :2].sum()
        np.testing.assert_allclose(points[row, 0].numpy(), end, rtol=0, atol=1e-12)  # the tip is the end of the capsule


def test_the_kinematics_in_both_precisions_on_batches_and_alone(generator):
    q, v = postures(6, generator)
    points, velocities = peg_points(q.view(2, 3, 7), v.view(2, 3, 7), (PEG_LENGTH,))
    single = peg_points(q[4].float(), v[4].float(), (PEG_LENGTH,))
    assert single[0].dtype == single[1].dtype == torch.float32
    torch.testing.assert_close(points[1, 1], single[0].double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(velocities[1, 1], single[1].double(), rtol=0, atol=1e-5)


def test_the_cost_by_hand(task):
    """At the bottom nothing; with the hole elsewhere both points are off by its offset; a share of each motor's torque."""
    u = torch.tensor([joint.torque for joint in JOINTS], dtype=torch.float64)
    stage = task.cost.stage
    squared = 2 * (0.03**2 + 0.04**2)
    far = 5.0 * squared + 0.05 * math.log((squared + 1e-5) / 1e-5)
    assert float(stage(at(INSERTED), 0.0 * u, 0)) == pytest.approx(0.0, abs=1e-4)
    assert float(stage(at(INSERTED, (0.03, -0.04)), 0.0 * u, 0)) == pytest.approx(far, rel=1e-2)
    effort = stage(at(INSERTED), 0.5 * u, 0) - stage(at(INSERTED), 0.0 * u, 0)
    assert float(effort) == pytest.approx(CONTROL_WEIGHT * 7 / 4, rel=1e-12)


def test_what_is_seen(task, generator):
    """Joints, the points seen from where they belong in this episode's hole, and their velocities: 26 numbers."""
    q, v = postures(1, generator)
    x = peg_insertion_starts(torch.tensor([[0.02, -0.03]]))
    x[:, :7], x[:, 9:16] = q, v
    points, velocities = peg_points(q, v, ALONG)
    hole = torch.tensor([HOLE[0] + 0.02, HOLE[1] - 0.03, HOLE[2] - DEPTH], dtype=torch.float64)
    expected = [q, v, points[:, 0] - hole, points[:, 1] - hole - torch.tensor([0.0, 0.0, 0.2]), *velocities.unbind(1)]
    torch.testing.assert_close(task.observe(x), torch.cat(expected, dim=-1), rtol=0, atol=1e-7)
    assert len(task.names["observations"]) == 26
    assert task.names["observations"][14:20] == ("tip_x", "tip_y", "tip_z", "top_x", "top_y", "top_z")


def test_episodes_start_with_holes_all_over_the_square_and_nine_are_a_grid(task, generator):
    x = task.initial_state(2000, generator)
    assert bool((x[:, :7] == x[0, :7]).all())
    assert not bool(x[:, 9:].any())
    assert 0.0499 < float(x[:, 7:9].abs().max()) <= 0.05
    # mean and variance of a uniform distribution on [-5, 5] cm, within five standard errors
    offsets = x[:, 7:9] / 0.05
    torch.testing.assert_close(offsets.mean(0), torch.zeros(2).double(), rtol=0, atol=5 / math.sqrt(3 * 2000))
    torch.testing.assert_close(
        offsets.square().mean(0), torch.full((2,), 1 / 3).double(), rtol=0, atol=5 * math.sqrt(4 / 45 / 2000)
    )
    nine = peg_insertion_starts()
    assert nine.shape == (9, 18)
    assert {tuple(row) for row in nine[:, 7:9].tolist()} == {
        (a, b) for a in (-0.05, 0.0, 0.05) for b in (-0.05, 0.0, 0.05)
    }
    tip = peg_points(nine[:1, :7], nine[:1, 9:16], ALONG)[0][0, 0]
    assert 0.15 < float(tip[2]) - HOLE[2] < 0.25
    assert not bool(task.success(nine.unsqueeze(1)).any())


@pytest.mark.parametrize("offsets", [torch.zeros(3), torch.tensor([[math.nan, 0.0]])])
def test_offsets_that_are_none(offsets):
    with pytest.raises(ValueError, match=r"offsets must be finite, \(\*batch, 2\), got"):
        peg_insertion_starts(offsets)


def test_success_is_a_tip_eight_centimeters_deep_at_the_end(task):
    """The tip stays where it is; the hole is moved away, or the arm is lifted by its second joint."""
    x = at(INSERTED)
    beside = [at(INSERTED, offset) for offset in ((0.024, 0.0), (0.026, 0.0), (0.0, -0.024), (0.0, -0.026))]
    xs = torch.stack([x, *beside]).unsqueeze(1)
    assert task.success(xs).tolist() == [True, True, False, True, False]
    heights = []
    for lift in torch.linspace(0.0, 0.1, 41).tolist():
        lifted = x.clone()
        lifted[1] -= lift
        tip = peg_points(lifted[:7], lifted[9:16], ALONG)[0][0]
        heights.append(float(tip[2]) - HOLE[2])
        assert bool(task.success(lifted.unsqueeze(0))) == (heights[-1] <= -0.08 and float(tip[0]) < 0.625), heights[-1]
    assert heights[0] < -0.11 < -0.08 < heights[-1]
    assert not bool(task.success(torch.stack([x, torch.full_like(x, math.nan)])))
    assert bool(
        task.success(torch.stack([peg_insertion_starts(torch.zeros(2)), x]))
    )  # how it came there does not count


def test_the_arm_carries_its_own_weight(task):
    """Without torques it stays where it is, whatever its posture."""
    x = at((0.4, -0.7, 0.5, 1.2, -0.8, 0.9, 0.3))
    xs = task.dynamics.rollout(x, torch.zeros(100, 7, dtype=torch.float64))
    torch.testing.assert_close(xs[-1], x, rtol=0, atol=1e-9)


def test_contacts_hold(task, generator):
    """Arms that thrash about with all their strength, above the block and in the hole: the peg's axis never enters the block."""
    starts = torch.stack([peg_insertion_starts(torch.zeros(2)), at(INSERTED)]).repeat(8, 1)
    limits = torch.tensor([joint.torque for joint in JOINTS], dtype=torch.float64)
    us = limits * torch.randn(16, 5, 7, generator=generator, dtype=torch.float64).sign().repeat_interleave(8, dim=1)
    us[::2, :, 1] = limits[1]  # down to the block
    xs = task.dynamics.rollout(starts, us)
    model, data = task.dynamics.model, mujoco.MjData(task.dynamics.model)
    deepest, touching = 0.0, 0
    for x in xs.flatten(0, 1).numpy():
        data.qpos[:], data.qvel[:] = np.split(x, 2)
        mujoco.mj_forward(model, data)
        deepest, touching = min([deepest, *data.contact.dist]), touching + bool(data.ncon)
    assert touching > 50
    assert -PEG_RADIUS < deepest < 0.0
    assert float((xs[..., 7:9] - xs[:, :1, 7:9]).abs().max()) < 1e-6  # of the hole [m]


def test_an_episode_with_a_hole_of_ones_own(task):
    env = make_env(task)
    y, _ = env.reset(options={"state": peg_insertion_starts(torch.tensor([0.05, -0.05], dtype=torch.float64)).numpy()})
    middle, _ = env.reset(options={"state": peg_insertion_starts(torch.zeros(2)).numpy()})
    np.testing.assert_allclose(y[14:16] - middle[14:16], [-0.05, 0.05], rtol=0, atol=1e-12)
    assert y.shape == (26,)


@pytest.mark.slow
def test_ddp_inserts_the_peg(task):
    """From no torques, into the middle hole and one at a corner; holding still succeeds at neither."""
    x0 = peg_insertion_starts(torch.tensor([[0.0, 0.0], [0.05, -0.05]]))
    solution = solve(task.problem(), DDP(max_iterations=15, certify=False), x0)
    assert task.success(solution.xs).tolist() == [True, True]
