"""Plans in a plane: bodies where the state says they are, obstacles where the constraint says, frames in real time."""

import math

import numpy as np
import pytest
import torch

from dynamics import Car, PlanarQuadrotor, Quadrotor, TwoLinkArm, Unicycle
from mbrl.plots import animate, animate_paths, outlines, plot_paths


def disc(points):
    """Positive within a meter of the origin."""
    return (1.0 - points.square().sum(-1)).unsqueeze(-1)


def box_frame(polygon):
    """The middle of a rectangle and the direction of its first side."""
    side = polygon[1] - polygon[0]
    return polygon.mean(0), side / np.linalg.norm(side)


def test_a_car_stands_on_its_axles_and_steers_its_front_wheels():
    heading, steering = 0.7, 0.3
    states = torch.tensor([[1.0, -2.0, heading, 0.0]] * 2)
    body, back_left, back_right, front_left, front_right = outlines(Car(), states, torch.tensor([[steering, 0.0]]))
    ahead = np.array([math.cos(heading), math.sin(heading)])
    middle, direction = box_frame(body[0])
    assert direction == pytest.approx(ahead)
    assert middle == pytest.approx(np.array([1.0, -2.0]) + 1.0 * ahead)  # half a wheelbase ahead of the back axle
    wheels = [(back_left, back_right, [1.0, -2.0], heading)]
    wheels += [(front_left, front_right, np.array([1.0, -2.0]) + 2.0 * ahead, heading + steering)]
    for left, right, axle, angle in wheels:
        assert 0.5 * (left[0].mean(0) + right[0].mean(0)) == pytest.approx(np.asarray(axle))
        assert box_frame(left[0])[1] == pytest.approx([math.cos(angle), math.sin(angle)])


def test_the_bodies_of_other_systems_are_where_their_states_say():
    quadrotor = PlanarQuadrotor()
    frame, left, right = outlines(quadrotor, torch.tensor([[0.5, 1.0, 0.2, 0.0, 0.0, 0.0]]))
    assert frame[0].mean(0) == pytest.approx([0.5, 1.0])
    assert right[0].mean(0)[1] < left[0].mean(0)[1]  # positive angles lean towards positive x
    arm, x = TwoLinkArm(), torch.tensor([[0.4, 0.9, 0.0, 0.0]])
    lower = outlines(arm, x)[1][0]
    assert 0.5 * (lower[1] + lower[2]) == pytest.approx(arm.fingertip(x)[0].numpy(), abs=1e-6)
    rim, nose = outlines(Unicycle(), torch.tensor([[1.0, 2.0, math.pi / 2]]))
    assert rim[0].mean(0) == pytest.approx([1.0, 2.0])
    assert nose[0].mean(0)[1] > 2.0


def test_what_has_no_picture_in_the_plane_is_refused():
    with pytest.raises(ValueError, match="no picture of Quadrotor in the plane"):
        outlines(Quadrotor(), torch.zeros(1, 13))
    with pytest.raises(ValueError, match=r"states must have shape \(T\+1, 4\), got \(3,\)"):
        outlines(Car(), torch.zeros(3))


def test_paths_are_drawn_with_obstacles_bodies_and_goal():
    states = torch.stack([torch.linspace(-3.0, 3.0, 20), torch.full((20,), 1.5), torch.zeros(20)], dim=-1)
    paths = {"smooth": states[:, :2], "tree": states[:, :2] + 0.1}
    bodies = outlines(Unicycle(), states)
    figure = plot_paths(paths, obstacles=disc, bodies=bodies, snapshots=5, goal=[3.0, 1.5], title="a way")
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert {"smooth", "tree", "start", "goal"} <= lines.keys()
    assert lines["smooth"] == pytest.approx(states[:, :2].numpy())
    assert len(axes.patches) == 5 * len(bodies)
    edge = np.concatenate([path.vertices for path in axes.collections[-1].get_paths()])
    assert np.linalg.norm(edge, axis=-1) == pytest.approx(1.0, abs=0.01)
    assert axes.get_title(loc="left") == "a way"


@pytest.mark.parametrize("paths", [{}, {"flat": torch.zeros(5)}, {"wide": torch.zeros(5, 3)}])
def test_paths_of_another_shape_are_refused(paths):
    with pytest.raises(ValueError, match=r"paths must be points \(T\+1, 2\) by name"):
        plot_paths(paths)


def test_frames_are_in_real_time_and_between_the_steps():
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    body = square + torch.arange(3.0)[:, None, None] * torch.tensor([4.0, 0.0])  # three steps, 4 m apart
    frames = animate_paths([body], dt=0.5, fps=4.0, width=320, height=240)
    assert (frames.shape, frames.dtype) == ((5, 240, 320, 3), np.uint8)  # one second and the first frame
    blue = (np.abs(frames.astype(int) - [0, 114, 178]).sum(-1) < 30).any(1)  # columns with the body in them
    middle = [float(np.flatnonzero(row).mean()) for row in blue]
    assert np.diff(middle) == pytest.approx(np.diff(middle).mean(), abs=1.5)  # half a step per frame
    one = animate_paths([body[:1]], dt=0.5, fps=4.0, width=320, height=240)
    assert len(one) == 1


@pytest.mark.parametrize(
    ("bodies", "arguments", "message"),
    [
        ([], {"dt": 0.1}, "bodies must be polygons"),
        ([torch.zeros(3, 4)], {"dt": 0.1}, "bodies must be polygons"),
        ([torch.full((3, 4, 2), math.nan)], {"dt": 0.1}, "bodies must be finite"),
        ([torch.zeros(3, 4, 2)], {"dt": 0.0}, "dt and fps must be positive"),
    ],
)
def test_bodies_that_cannot_be_drawn_are_refused(bodies, arguments, message):
    with pytest.raises(ValueError, match=message):
        animate_paths(bodies, **arguments)


@pytest.mark.parametrize("system", [Car(dt=0.1), Unicycle(dt=0.1)], ids=["car", "unicycle"])
def test_vehicles_are_animated_from_above(system):
    us = torch.tensor([[0.2, 1.0]]).expand(10, 2).double()
    states = system.rollout(torch.zeros(system.state_dim, dtype=torch.float64), us)
    frames = animate(system, states, fps=10.0, width=320, height=240)
    assert frames.shape == (11, 240, 320, 3)
    assert not np.array_equal(frames[0], frames[-1])
