"""The browser view: what it would show, compared with MuJoCo and with what was recorded, and the page itself."""

import base64
import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mujoco
import numpy as np
import pytest
import torch
from instances import ALL_PLANNERS, ALL_TASKS

import mbrl
from dynamics import Acrobot, CartPole, LinearDynamics, MujocoDynamics, Pendulum, Trajectory
from mbrl import viewer
from mbrl.viewer.curves import curves, held, left_out, thinned, with_cursor
from mbrl.viewer.form import Form
from mbrl.viewer.loop import advance, begin, pushed, velocities
from mbrl.viewer.playback import Playback
from mbrl.viewer.scene import body_poses, drawn_model, shapes, traces, viewpoint
from mbrl.viewer.surfaces import surface
from mbrl.viewer.widgets import Choice, Flag, as_code, widgets, with_value
from planners import ICEM, LQR, MPC

ZOO = """
<mujoco>
  <asset>
    <mesh name="tetrahedron" vertex="0 0 0  .3 0 0  0 .3 0  0 0 .3"/>
    <hfield name="hills" nrow="3" ncol="4" size="1 2 .5 .1" elevation="0 0 0 0  0 1 .5 0  0 0 0 0"/>
    <material name="red" rgba=".8 .1 .1 1"/>
  </asset>
  <worldbody>
    <geom name="ground" type="plane" size="0 0 1" material="red"/>
    <geom name="hills" type="hfield" hfield="hills" pos="-2 0 0"/>
    <geom name="collides" type="box" size=".1 .1 .1" group="3"/>
    <geom name="clear" type="box" size=".1 .1 .1" rgba="1 1 1 0"/>
    <body name="base" pos="0 0 1" quat=".7 .1 .5 -.4">
      <freejoint/>
      <geom name="sphere" type="sphere" size=".2" pos=".1 .2 .3"/>
      <geom name="capsule" type="capsule" size=".1 .3" quat=".5 .5 -.1 .2" rgba="0 .4 .7 .5"/>
      <body pos=".3 0 .2">
        <joint type="ball"/>
        <geom name="cylinder" type="cylinder" size=".2 .1"/>
        <geom name="box" type="box" size=".1 .2 .3" pos="0 .1 0" quat="1 .2 .3 .4"/>
        <body pos="0 0 .4" quat=".1 .2 .3 .4">
          <joint name="hinge" type="hinge" axis="1 1 0"/>
          <geom name="ellipsoid" type="ellipsoid" size=".1 .2 .3"/>
          <geom name="mesh" type="mesh" mesh="tetrahedron" quat=".9 .1 0 .3"/>
        </body>
      </body>
    </body>
  </worldbody>
</mujoco>"""


@pytest.fixture(scope="module")
def zoo() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(ZOO)


def states_of(model, *batch):
    """Random positions with unit quaternions, and velocities."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(*batch, model.nq + model.nv + model.na))
    for joint in range(model.njnt):
        start = model.jnt_qposadr[joint] + {0: 3, 1: 0}.get(int(model.jnt_type[joint]), -1)
        if int(model.jnt_type[joint]) in (0, 1):
            x[..., start : start + 4] /= np.linalg.norm(x[..., start : start + 4], axis=-1, keepdims=True)
    return x


def rotated(quaternion, vector):
    result = np.empty(3)
    mujoco.mju_rotVecQuat(result, vector, quaternion)
    return result


# Scenes


def check_poses(model):
    """Each shape, carried by its body's frame, is where MuJoCo has the geom."""
    states, data = states_of(model, 2, 3), mujoco.MjData(model)
    positions, quaternions = body_poses(model, states)
    assert positions.shape == (2, 3, model.nbody, 3)
    for row in np.ndindex(2, 3):
        data.qpos[:] = states[row][: model.nq]
        mujoco.mj_kinematics(model, data)
        for shape in shapes(model):
            carrier = quaternions[row][shape.body]
            position = positions[row][shape.body] + rotated(carrier, shape.position)
            axes = np.stack([rotated(carrier, rotated(shape.quaternion, axis)) for axis in np.eye(3)], axis=1)
            np.testing.assert_allclose(position, data.geom_xpos[shape.geom], atol=1e-12)
            np.testing.assert_allclose(axes.ravel(), data.geom_xmat[shape.geom], atol=1e-12)


def test_shapes_are_where_mujoco_has_them_for_every_kind_of_geom_and_joint(zoo):
    check_poses(zoo)


@pytest.mark.parametrize("backend", ["mujoco", "torch"])
@pytest.mark.parametrize("name", ["CartPoleSwingUp", "PendulumSwingUp"])
def test_the_shapes_of_the_tasks_are_where_mujoco_has_them_on_both_backends(name, backend):
    model = drawn_model(ALL_TASKS[name](backend))
    assert len(shapes(model)) > 0
    check_poses(model)


@pytest.mark.parametrize("name", ALL_TASKS)
def test_the_scene_of_a_task_has_the_states_of_its_plant(name):
    task = ALL_TASKS[name]()
    model = drawn_model(task)
    if model is not None:
        assert model.nq + model.nv + model.na == task.dynamics.state_dim


def test_an_empty_batch_of_states_has_no_poses(zoo):
    positions, quaternions = body_poses(zoo, np.zeros((0, zoo.nq)))
    assert (positions.shape, quaternions.shape) == ((0, zoo.nbody, 3), (0, zoo.nbody, 4))


def test_states_of_another_model_are_refused(zoo):
    with pytest.raises(ValueError, match=r"12 positions, the states have shape \(5, 4\)"):
        body_poses(zoo, np.zeros((5, 4)))


def test_what_mujoco_does_not_draw_is_left_out_and_materials_give_color(zoo):
    seen = {shape.name: shape for shape in shapes(zoo)}
    assert "collides" not in seen
    assert "clear" not in seen
    np.testing.assert_allclose(seen["ground"].color, [0.8, 0.1, 0.1, 1.0], rtol=1e-6)
    np.testing.assert_allclose(seen["capsule"].color, [0.0, 0.4, 0.7, 0.5], rtol=1e-6)
    assert seen["ground"].is_plane
    assert surface(zoo, seen["ground"].geom) is None


def test_every_solid_is_closed_faces_outward_and_has_its_volume(zoo):
    pi = math.pi
    volumes = {
        "sphere": 4 / 3 * pi * 0.2**3,
        "capsule": 4 / 3 * pi * 0.1**3 + pi * 0.1**2 * 0.6,
        "cylinder": pi * 0.2**2 * 0.2,
        "box": 8 * 0.1 * 0.2 * 0.3,
        "ellipsoid": 4 / 3 * pi * 0.1 * 0.2 * 0.3,
        "mesh": 0.3**3 / 6,
    }
    for name, volume in volumes.items():
        vertices, faces = surface(zoo, zoo.geom(name).id)
        corners = vertices[faces]
        found = (
            np.linalg.det(corners).sum() / 6
        )  # of the tetrahedra with the origin: positive if faces are counterclockwise
        assert volume * 0.97 < found <= volume * (1 + 1e-6), name  # meshes are float32
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        np.testing.assert_allclose(normals.sum(0), 0.0, atol=1e-7, err_msg=name)  # no hole


def test_surfaces_reach_as_far_as_their_geom(zoo):
    extents = {
        "sphere": [0.2] * 3,
        "capsule": [0.1, 0.1, 0.4],
        "cylinder": [0.2, 0.2, 0.1],
        "ellipsoid": [0.1, 0.2, 0.3],
    }
    for name, extent in extents.items():
        vertices, _ = surface(zoo, zoo.geom(name).id)
        np.testing.assert_allclose(vertices.max(0), extent, rtol=1e-12)
        np.testing.assert_allclose(vertices.min(0), [-e for e in extent], rtol=1e-12)


def test_a_height_field_is_as_high_as_its_elevation(zoo):
    vertices, faces = surface(zoo, zoo.geom("hills").id)
    height = {(round(x, 9), round(y, 9)): z for x, y, z in vertices}
    assert height[(round(-1 / 3, 9), 0.0)] == pytest.approx(0.5)
    assert height[(round(1 / 3, 9), 0.0)] == pytest.approx(0.25)
    assert height[(-1.0, -2.0)] == 0.0
    corners = vertices[faces]
    assert (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 0).all()


def test_the_trace_of_a_pole_is_that_of_its_center_of_mass():
    model = drawn_model(CartPole())
    x = states_of(model, 20)
    (trace,) = traces(model, x)
    half = 0.3
    expected = np.stack([x[:, 0] + half * np.sin(x[:, 1]), 0 * x[:, 0], half * np.cos(x[:, 1])], axis=1)
    np.testing.assert_allclose(trace, expected, atol=1e-12)


def test_the_eye_is_the_first_camera_or_mujocos_free_one(zoo):
    view = viewpoint(drawn_model(Pendulum()))
    np.testing.assert_allclose(view.position, [0.0, -3.5, 0.0], atol=1e-12)
    assert view.followed is None
    np.testing.assert_allclose(view.target[[0, 2]], 0.0, atol=1e-12)
    free = viewpoint(zoo)
    assert np.linalg.norm(free.position - free.target) == pytest.approx(1.5 * zoo.stat.extent)
    assert zoo.body(free.followed).name == "base"


def test_only_what_mujoco_knows_has_a_scene():
    assert drawn_model(LinearDynamics(torch.eye(2), torch.ones(2, 1))) is None
    assert drawn_model(Acrobot()).nq == 2
    with pytest.raises(TypeError, match="a Task or a Dynamics has a scene, got str"):
        drawn_model("CartPoleSwingUp")


# Playback


def test_a_playback_runs_at_its_speed_and_starts_again():
    clock = Playback(2.0, speed=0.5)
    assert clock.advanced(1.0).position == 0.5
    assert clock.advanced(5.0).position == pytest.approx(0.5)
    once = dataclasses.replace(clock, repeat=False).advanced(5.0)
    assert (once.position, once.playing) == (2.0, False)
    assert once.advanced(1.0) == once
    assert clock.at(7.0).position == 2.0
    assert clock.at(-1.0).position == 0.0
    assert Playback(0.0).advanced(1.0).position == 0.0


def test_a_playback_shows_the_last_row_that_it_has_reached():
    times = np.array([5.0, 5.1, 5.3, 5.6])
    rows = [Playback(0.6, position).row(times) for position in (0.0, 0.05, 0.1, 0.29, 0.3, 0.6)]
    assert rows == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize("values", [(-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, math.inf)])
def test_a_playback_refuses_what_is_no_clock(values):
    with pytest.raises(ValueError, match="need duration >= 0 and speed > 0"):
        Playback(values[0], speed=values[1])


# Curves


def log(steps=3, columns=2, **changes):
    y = np.arange(columns * (steps + 1), dtype=float).reshape(steps + 1, columns)
    fields = {
        "observations": y,
        "controls": np.arange(steps, dtype=float)[:, None],
        "dt": 0.5,
        "rewards": -np.ones(steps),
    }
    return Trajectory(**(fields | changes))


def test_a_trajectory_becomes_curves_with_held_controls():
    position, height, control, reward = curves(
        log(names={"observations": ["p", "h"]}, units={"observations": ["m", ""]})
    )
    assert [c.label for c in (position, height, control, reward)] == ["p [m]", "h", "u0", "reward"]
    np.testing.assert_array_equal(position.x, [0.0, 0.5, 1.0, 1.5])
    np.testing.assert_array_equal(position.y, [0.0, 2.0, 4.0, 6.0])
    np.testing.assert_array_equal(control.x, [0.0, 0.5, 0.5, 1.0, 1.0, 1.5])
    np.testing.assert_array_equal(control.y, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0])


def test_time_is_counted_from_the_first_stamp():
    stamped = log(dt=None, times=1.7e9 + np.array([0.0, 0.1, 0.4, 0.5]))
    np.testing.assert_allclose(curves(stamped)[0].x, [0.0, 0.1, 0.4, 0.5], atol=1e-6)


def test_a_single_observation_is_a_curve_too():
    shown = curves(log(steps=0))
    assert [len(curve.x) for curve in shown] == [1, 1, 1, 1]


def test_columns_are_chosen_by_name_and_limited_otherwise():
    many = log(columns=30)
    assert len([c for c in curves(many) if c.group == "observations"]) == 12
    assert left_out(many) == "Shown are the first 12 of 30 observations; others by name, with columns=."
    assert [c.label for c in curves(many, ["y29", "reward"])] == ["y29", "reward"]
    assert left_out(many, ["y29"]) == left_out(log()) == ""
    with pytest.raises(ValueError, match="has no column 'speed'; it has y0, y1, u0, reward"):
        curves(log(), ["speed"])
    both = log(states=np.zeros((4, 1)))
    assert [c.group for c in curves(both)] == ["states", "controls", "rewards"]
    assert [c.label for c in curves(both, ["y1", "x0"])] == ["x0", "y1"]


def test_a_long_curve_keeps_its_peaks_and_its_ends():
    x = np.linspace(0.0, 1.0, 100_001)
    y = np.sin(40 * x)
    y[54_321], y[77_777] = 9.0, -9.0
    fewer_x, fewer_y = thinned(x, y)
    assert len(fewer_x) <= 1000
    assert (fewer_y.max(), fewer_y.min()) == (9.0, -9.0)
    assert (fewer_x[0], fewer_x[-1]) == (0.0, 1.0)
    assert (np.diff(fewer_x) > 0).all()


def test_the_cursor_stands_on_the_curve_and_does_not_bend_it():
    x, y, line = with_cursor(np.array([0.0, 1.0, 2.0]), np.array([0.0, 10.0, 0.0]), 1.5)
    np.testing.assert_array_equal(x, [0.0, 1.0, 1.5, 1.5, 1.5, 2.0])
    np.testing.assert_array_equal(y, [0.0, 10.0, 5.0, 5.0, 5.0, 0.0])
    np.testing.assert_array_equal(line, [-1.0, -1.0, -1.0, 2.0, -1.0, -1.0])
    for position in (0.0, 2.0):
        x, _, line = with_cursor(np.array([0.0, 1.0, 2.0]), np.zeros(3), position)
        assert (np.diff(x) >= 0).all()
        assert x[line.argmax()] == position


def test_constants_are_seen_on_their_axis():
    (curve,) = curves(Trajectory(np.full((3, 1), 5.0), np.zeros((2, 0)), dt=1.0))
    low, high = curve.span
    assert low < 5.0 < high
    assert held(np.array([0.0]), np.zeros(0))[1].tolist() == [0.0]


# Widgets


def values_of(widget):
    """All values of a choice and a flag; the ends of a slider, a value in the middle, and None where it may be."""
    if isinstance(widget, Choice):
        return list(widget.options.values())
    if isinstance(widget, Flag):
        return [True, False]
    middle = widget.lower + round(0.5 * (widget.upper - widget.lower) / widget.step) * widget.step
    return [widget.lower, middle, widget.upper, widget.start, *([None] if widget.optional else [])]


@pytest.mark.parametrize("name", ALL_PLANNERS)
def test_every_value_that_a_control_offers_makes_a_valid_planner(name):
    planner = ALL_PLANNERS[name]
    for widget in widgets(planner):
        for value in values_of(widget):
            changed = with_value(planner, widget.path, value)
            assert type(changed) is type(planner)


@pytest.mark.parametrize("name", ALL_PLANNERS)
def test_every_number_flag_and_option_of_a_planner_has_a_control(name):
    planner = ALL_PLANNERS[name]
    offered = {widget.path[0] for widget in widgets(planner)}
    expected = {
        f.name for f in dataclasses.fields(planner) if isinstance(getattr(planner, f.name), bool | int | float | str)
    }
    assert expected <= offered
    assert all(widget.hint for widget in widgets(planner) if len(widget.path) == 1)  # each field is documented


def control(configuration, *path, initial=None):
    return next(widget for widget in widgets(configuration, initial) if widget.path == path)


def test_sliders_end_where_the_planner_refuses():
    assert control(ICEM(), "num_elites").upper == 50
    assert control(ICEM(num_samples=30), "num_elites").upper == 30
    assert control(ICEM(), "num_samples").lower == 10
    assert (control(ICEM(), "kept_elites").lower, control(ICEM(), "kept_elites").upper) == (0.0, 1.0)
    assert control(ICEM(), "momentum").upper == 0.999  # 1 is excluded
    assert control(ICEM(), "initial_std").lower == 0.001  # so is 0
    assert control(ICEM(), "sample_decay").lower == 1.0


def test_the_length_of_a_slider_is_that_of_the_first_value():
    before, after = ICEM(num_samples=100), ICEM(num_samples=400)
    assert control(after, "num_samples").upper == 2000
    assert control(after, "num_samples", initial=before).upper == 500
    assert control(ICEM(num_samples=900), "num_samples", initial=before).upper == 900  # but never less than the value


def test_texts_that_an_error_names_and_literals_are_options():
    execute = control(ICEM(), "execute")
    assert (execute.label, execute.options) == ("auto", {"auto": "auto", "best": "best", "mean": "mean"})


def test_small_numbers_are_chosen_by_decade():
    tolerance = control(LQR(), "tolerance")
    assert tolerance.label == "1e-08"
    assert [*tolerance.options.values()] == [1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5]


@dataclass(frozen=True)
class White:
    """Independent noise.

    Attributes:
        scale: standard deviation,
            in half widths.
    """

    scale: float = 0.5

    def __post_init__(self):
        if not 0 < self.scale < 2:
            raise ValueError(f"scale must be in (0, 2), got {self.scale}")


@dataclass(frozen=True)
class Colored:
    """Noise with a spectrum."""

    exponent: float = 1.0
    scale: float = 0.5


@dataclass(frozen=True)
class Quantile:
    """A risk that needs its argument."""

    share: float


@dataclass(frozen=True)
class Nested:
    """A configuration with everything in it."""

    noise: White | Colored = White()
    risk: Quantile | None = None
    kind: Literal["fast", "good"] = "fast"
    limit: int | None = None
    share: float | None = 0.25
    offset: float = 0.0
    careful: bool = False
    endless: float = math.inf
    callback: Callable | None = None
    weights: tuple[float, ...] = (1.0, 2.0)
    _hidden: int = 3
    derived: int = field(default=0, init=False)


def test_nested_optional_and_literal_fields():
    found = {widget.path: widget for widget in widgets(Nested())}
    assert found.keys() == {
        *[("noise",), ("noise", "scale"), ("kind",), ("limit",), ("share",), ("offset",), ("careful",)]
    }
    assert found["noise", "scale"].hint == "standard deviation, in half widths."
    assert (found["noise", "scale"].lower, found["noise", "scale"].upper) == (0.001, 1.999)
    assert found["noise",].options == {"White": White(), "Colored": Colored()}
    assert found["kind",].options == {"fast": "fast", "good": "good"}
    assert (found["limit",].value, found["limit",].optional) == (None, True)
    assert isinstance(found["limit",].start, int)
    assert (found["share",].value, found["share",].optional) == (0.25, True)
    assert found["offset",].lower == -found["offset",].upper == -1.0


def test_a_nested_configuration_is_exchanged_and_its_own_fields_follow():
    colored = with_value(Nested(), ("noise",), Colored(exponent=2.0))
    assert [w.path for w in widgets(colored) if w.path[0] == "noise"] == [
        ("noise",),
        ("noise", "exponent"),
        ("noise", "scale"),
    ]
    assert control(colored, "noise").options == {"White": White(), "Colored": Colored(exponent=2.0)}
    assert control(colored, "noise").label == "Colored"
    risky = with_value(Nested(), ("risk",), Quantile(0.1))
    assert control(risky, "risk").options == {"none": None, "Quantile": Quantile(0.1)}
    assert control(risky, "risk", "share").value == 0.1


def test_a_value_that_is_refused_says_why():
    with pytest.raises(ValueError, match=r"scale must be in \(0, 2\), got 3.0"):
        with_value(Nested(), ("noise", "scale"), 3.0)
    with pytest.raises(ValueError, match=r"num_elites must be an integer in 1..num_samples=100"):
        with_value(ICEM(), ("num_elites",), 200)
    with pytest.raises(ValueError, match="scale cannot be 'wide'"):
        with_value(Nested(), ("noise", "scale"), "wide")


def test_mpc_offers_its_planner_its_horizon_and_its_budget():
    mpc = MPC(mbrl.pendulum_swing_up("torch").problem(), ICEM())
    paths = [widget.path for widget in widgets(mpc)]
    assert {("problem", "horizon"), ("problem", "discount"), ("planner", "num_samples"), ("budget",)} <= {*paths}
    kinds = control(mpc, "planner").options if ("planner",) in paths else {"ICEM": mpc.planner}
    assert "LQR" not in kinds  # cannot plan for a pendulum
    assert with_value(mpc, ("problem", "horizon"), 7).problem.horizon == 7


def test_a_configuration_is_shown_as_the_call_that_makes_it():
    assert as_code(ICEM()) == "ICEM()"
    changed = Nested(noise=Colored(exponent=2.0), kind="good", limit=3)
    assert eval(as_code(changed)) == changed
    assert eval(as_code(ICEM(num_samples=50, initial_std=0.6))) == ICEM(num_samples=50, initial_std=0.6)
    assert as_code(changed).splitlines()[1:4] == ["    noise=Colored(", "        exponent=2.0,", "    ),"]


# The control loop


def test_the_loop_does_what_record_does():
    task = mbrl.pendulum_swing_up("torch")
    mpc = MPC(task.problem(), ICEM(num_samples=20, num_elites=5, max_iterations=1))
    (expected,) = mbrl.record(task, mpc, 1, generator=torch.Generator().manual_seed(4), steps=8)
    state = begin(task, mpc, torch.Generator().manual_seed(4))
    for k in range(8):
        np.testing.assert_array_equal(state.x[0], expected.states[k])
        state = advance(task, mpc, state)
        np.testing.assert_array_equal(state.control, expected.controls[k])
        assert state.reward == pytest.approx(expected.rewards[k], abs=1e-12)
    assert state.total == pytest.approx(expected.rewards.sum())
    assert (state.step, state.ended) == (8, "")
    assert state.solution.xs.shape == (1, task.horizon + 1, 2)


class Constant:
    """An actor that always gives the same control."""

    acts_on = "state"

    def __init__(self, *control):
        self.control = control

    def init(self, batch, *, generator=None):
        return None

    def act(self, y, memory, *, deterministic=True):
        return torch.tensor([self.control], dtype=y.dtype), memory


def test_an_episode_ends_where_the_task_ends_it_and_where_it_diverges():
    task = dataclasses.replace(mbrl.pendulum_swing_up("torch"), termination=lambda x: x[..., 0].abs() < 100.0)
    generator = torch.Generator().manual_seed(0)
    assert advance(task, Constant(0.0), begin(task, Constant(0.0), generator)).ended == "terminated"
    start = begin(task, Constant(0.0), generator, torch.tensor([0.0, 1e308], dtype=torch.float64))
    ended = advance(task, Constant(0.0), start)
    assert (ended.ended, ended.step) == ("diverged", 0)


def test_controls_are_held_to_the_limits_and_checked():
    task = mbrl.pendulum_swing_up("torch")
    state = begin(task, Constant(9.0), torch.Generator().manual_seed(0))
    assert advance(task, Constant(9.0), state).control.tolist() == [2.0]
    for wrong in ((math.nan,), (0.0, 1.0)):
        with pytest.raises(ValueError, match=r"Constant must give finite controls of shape \(1, 1\)"):
            advance(task, Constant(*wrong), state)


def test_a_push_changes_velocities_alone():
    plant = MujocoDynamics(ZOO)
    task = mbrl.cart_pole_swing_up("torch")
    assert velocities(plant) == slice(plant.model.nq, plant.model.nq + plant.model.nv)
    assert velocities(LinearDynamics(torch.eye(3), torch.ones(3, 1))) == slice(0, 3)
    start = begin(task, Constant(0.0), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    pushes = torch.cat([pushed(task.dynamics, start, 2.0, generator).x - start.x for _ in range(400)])
    assert (pushes[:, :2] == 0).all()
    assert pushes[:, 2:].std() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("state", [torch.zeros(3), torch.tensor([0.0, math.nan])])
def test_a_bad_initial_state_is_refused(state):
    task = mbrl.pendulum_swing_up("torch")
    with pytest.raises(ValueError, match=r"initial_state must have shape \(2,\) and be finite"):
        begin(task, Constant(0.0), torch.Generator(), state)


# The page


def episodes():
    task = mbrl.pendulum_swing_up()
    return task, mbrl.record(task, mbrl.SplineNoise((-2.0, 2.0)), 2, steps=40)


def quick_mpc(task):
    return MPC(task.problem(horizon=10), ICEM(num_samples=20, num_elites=5, max_iterations=1))


def is_served(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status == 200 and b"<html" in answer.read(2000).lower()
    return False


def eventually(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


def test_without_viser_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    task, logs = episodes()
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mbrl-control\[view\]"'):
        viewer.view_trajectory(logs, task)
    with pytest.raises(ModuleNotFoundError, match="view"):
        viewer.view_control(task, quick_mpc(task))


def test_what_cannot_be_shown_is_refused_before_there_is_a_page():
    task, logs = episodes()
    with pytest.raises(ValueError, match="there is no trajectory to show"):
        viewer.view_trajectory([])
    with pytest.raises(TypeError, match="entry 1 must be a Trajectory, got int"):
        viewer.view_trajectory([logs[0], 3])
    with pytest.raises(ValueError, match=r"the scene has 4 states, .* has 2 states instead; leave the task out"):
        viewer.view_trajectory(logs, mbrl.cart_pole_swing_up())
    with pytest.raises(ValueError, match="speed > 0"):
        viewer.view_trajectory(logs, speed=0.0)
    with pytest.raises(TypeError, match="an actor has acts_on"):
        viewer.view_control(task, ICEM())
    with pytest.raises(TypeError, match="task must be a Task, got MPC"):
        viewer.view_control(quick_mpc(task), task)
    with pytest.raises(ValueError, match="speed must be a positive number"):
        viewer.view_control(task, quick_mpc(task), speed=-1.0)


@pytest.fixture
def threads():
    """Fails if a test leaves threads behind."""
    before = {*threading.enumerate()}
    yield
    eventually(lambda: not {t for t in threading.enumerate() if t not in before and t.is_alive()}, 15.0)


def test_an_address_that_is_not_this_machines_is_named():
    pytest.importorskip("viser")
    with pytest.raises(
        OSError, match=r"no page can be served at host '203.0.113.7': .*; 127.0.0.1 is seen on this machine"
    ):
        viewer.view_trajectory(episodes()[1], host="203.0.113.7")


@pytest.mark.parametrize("port", [-1, 70000, "http"])
def test_a_port_that_is_none_is_named(port):
    pytest.importorskip("viser")
    with pytest.raises(ValueError, match=r"port must be in 0..65535"):
        viewer.view_trajectory(episodes()[1], port=port)


def test_a_page_is_served_until_it_is_closed(threads):
    pytest.importorskip("viser")
    task, logs = episodes()
    with viewer.view_trajectory(logs, task, port=0, block=False) as page:
        assert is_served(page.url)
        assert repr(page) == f"Viewer({page.url})"
    assert page.closed
    assert not is_served(page.url)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(page.url.rpartition(":")[2])))  # the port is free again
    page.close()
    assert repr(page) == "Viewer(closed)"


@pytest.mark.parametrize("kind", ["trajectory", "control"])
def test_a_blocking_page_ends_with_ctrl_c(kind, threads, ctrl_c):
    pytest.importorskip("viser")
    task, logs = episodes()

    def press():
        eventually(lambda: "mbrl viewer" in {thread.name for thread in threading.enumerate()})
        time.sleep(0.5)  # from the page's own thread to waiting for it
        os.kill(os.getpid(), signal.SIGINT)

    interrupt = threading.Thread(target=press)
    interrupt.start()
    show = {"trajectory": lambda: viewer.view_trajectory(logs[0], port=0)}
    show["control"] = lambda: viewer.view_control(task, quick_mpc(task), port=0)
    page = show[kind]()
    interrupt.join()
    assert page.closed
    assert not is_served(page.url)


def test_the_error_of_an_actor_that_fails_is_raised(threads):
    pytest.importorskip("viser")
    task = mbrl.pendulum_swing_up("torch")
    page = viewer.view_control(task, Constant(math.nan), port=0, block=False)
    with pytest.raises(ValueError, match="Constant must give finite controls"):
        page.wait()
    assert page.closed


@pytest.fixture
def form_page(threads):
    pytest.importorskip("viser")
    import queue

    from mbrl.viewer.server import Viewer, open_server

    server = open_server("127.0.0.1", 0, "form")
    with Viewer(server, lambda ending: ending.wait() and None):
        yield lambda configuration: Form(server, configuration, queue.SimpleQueue())


def shown(form, *path):
    return form._handles[path].value


def test_a_form_changes_refuses_and_takes_back(form_page):
    form = form_page(MPC(mbrl.pendulum_swing_up("torch").problem(), ICEM()))
    form.change(("planner", "num_samples"), 300)
    assert form.configuration.planner == ICEM(num_samples=300)
    assert str(form) == "ICEM(\n    num_samples=300,\n)"
    assert shown(form, "planner", "num_samples") == 300
    form.change(("planner", "num_elites"), 400)
    assert form.configuration.planner.num_elites == shown(form, "planner", "num_elites") == 10
    assert "num\\_elites must be an integer in 1..num\\_samples=300" in form._message.content
    form.change(("planner", "num_samples"), 40)
    assert form._handles["planner", "num_elites"].max == 40
    assert not form._message.visible
    form.confirm()
    assert not form.undo(ValueError("nothing was changed"))
    form.change(("problem", "horizon"), 3)
    assert form.undo(ValueError("three steps are too few"))
    assert form.configuration.problem.horizon == shown(form, "problem", "horizon") == 40
    assert "three steps are too few" in form._message.content


def test_a_form_follows_a_nested_configuration_of_another_kind(form_page):
    form = form_page(Nested())
    assert ("noise", "exponent") not in form._handles
    form._choose(("noise",), "Colored")
    assert shown(form, "noise", "exponent") == 1.0
    form.change(("share",), None)
    assert form._switches["share",].value is False
    assert form._handles["share",].visible is False
    form.change(("limit",), 7)
    assert (form.configuration.limit, shown(form, "limit")) == (7, 7)


def test_what_has_no_fields_has_an_empty_form(form_page):
    form = form_page(Constant(0.0))
    assert form._handles == {}
    assert str(form) == ""


# In a browser


class Chromium:
    """A headless browser, driven through its DevTools."""

    def __init__(self, url, folder):
        from websockets.sync.client import connect

        graphics = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        quiet = [
            "--headless=new",
            "--no-sandbox",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--window-size=1300,800",
        ]
        command = ["chromium", *quiet, *graphics, f"--user-data-dir={folder}", "--remote-debugging-port=0", url]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = Path(folder, "DevToolsActivePort")
        eventually(lambda: address.exists() and len(address.read_text().split()) == 2, 60.0)
        self._port = address.read_text().split()[0]
        eventually(lambda: self._pages(), 30.0)
        self._socket = connect(self._pages()[0]["webSocketDebuggerUrl"], max_size=2**27)
        self._count = 0

    def _pages(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/json", timeout=10) as answer:
            return [page for page in json.load(answer) if page["type"] == "page"]

    def call(self, method, **parameters):
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._count:
                return message["result"]

    def run(self, script):
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self):
        return self.run("document.body.innerText")

    def type_number(self, label, number):
        """Put a number into the field of the slider that has the label."""
        script = f"""(() => {{
            const labels = [...document.querySelectorAll('label')].filter(e => e.innerText.trim() === {label!r});
            let row = labels[0];
            while (!row.querySelector('input[inputmode]')) row = row.parentElement;
            const input = row.querySelector('input[inputmode]');
            input.focus(); input.select();
            return input.value;
        }})()"""
        before = self.run(script)
        self.call("Input.insertText", text=str(number))
        self.run("document.activeElement.blur()")
        return before

    def click(self, label):
        self.run(f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {label!r}).click()")

    def picture(self):
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self):
        self._socket.close()
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def browser(tmp_path):
    pytest.importorskip("viser")
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not on the path")
    opened = []

    def open_at(url):
        opened.append(Chromium(url, tmp_path / f"profile{len(opened)}"))
        return opened[-1]

    yield open_at
    for window in opened:
        window.close()


@pytest.mark.slow
def test_a_browser_plays_trajectories(threads, browser):
    import io

    from PIL import Image

    task, logs = episodes()
    with viewer.view_trajectory(logs, task, port=0, block=False) as page:
        window = browser(page.url)
        for text in ("angle [rad]", "angle velocity [rad/s]", "torque [N m]", "reward", "Episode", "of 40"):
            eventually(lambda text=text: text in (window.text() or ""), 60.0)
        window.click("Pause")
        eventually(lambda: "Play" in window.text())
        still = window.text()
        time.sleep(0.5)
        assert window.text() == still

        def orange():
            pixels = np.asarray(Image.open(io.BytesIO(window.picture())).convert("RGB")).astype(int)[:, 450:]
            return ((pixels[..., 0] > 120) & (pixels[..., 0] > 2 * pixels[..., 2]) & (pixels[..., 1] < 160)).sum()

        eventually(lambda: orange() > 200, 60.0)  # the rod is drawn


@pytest.mark.slow
def test_a_browser_changes_the_planner_of_a_running_mpc(threads, browser):
    task = mbrl.pendulum_swing_up("torch")
    with viewer.view_control(task, quick_mpc(task), port=0, block=False) as page:
        window = browser(page.url)
        eventually(lambda: "max_iterations" in (window.text() or ""), 60.0)
        eventually(lambda: "return -" in window.text(), 60.0)
        window.type_number("num_samples", 33)
        eventually(lambda: "num_samples=33," in window.text())
        for label in ("Push", "Start again", "Pause"):
            window.click(label)
        eventually(lambda: "Go on" in window.text())
    assert page.closed
