"""A quadrotor in space turns over on its way to a place where it hovers: attitudes are unit quaternions."""

import math
from pathlib import Path

import torch
from torch import Tensor

from dynamics import MujocoDynamics, Quadrotor
from gallery.guesses import largest_violation, states_guess
from mbrl.plots import RenderingUnavailable, plot_paths, render_mujoco, save_figure, write_video
from planners import DDP, Inequality, Problem, ResidualCost, StateEquality, solve

THRUST_LIMIT = 3.0  # of each rotor [N]; hovering takes 1.2
UPSIDE_DOWN = -0.95  # the vertical component of its upward axis half way
START, GOAL = [0.0, 0.0, 1.0], [2.0, 0.0, 1.0]


def run(folder: Path, tiny: bool) -> bool:
    """Whether it is upside down half way and at rest at the end, in a strict local minimum within the rotors' limits."""
    quadrotor, T = Quadrotor(dt=0.04), 20 if tiny else 50
    hover = quadrotor.hover_control.double()
    start, goal = (quadrotor.hover_state(torch.tensor(place, dtype=torch.float64)) for place in (START, GOAL))

    def residual(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        return torch.cat([math.sqrt(0.2) * (u - hover.to(u)), 0.1 * x[..., 10:]], dim=-1)

    def at_rest(x: Tensor) -> Tensor:
        """Twelve rows: q and -q are the same attitude, and the vector part of both is zero when it is level."""
        return torch.cat([x[..., :3] - goal[:3].to(x), 2.0 * x[..., 4:7], x[..., 7:]], dim=-1)

    def half_way(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """One row, which asks for something at one step alone."""
        at_that_time = torch.as_tensor(t) == T // 2
        return torch.where(at_that_time, upward(x) - UPSIDE_DOWN, -1.0).unsqueeze(-1)

    problem = Problem(
        quadrotor,
        ResidualCost(residual),
        T,
        control_limits=(0.0, THRUST_LIMIT),
        constraints=(Inequality(half_way, name="upside down half way"),),
        terminal_constraints=(StateEquality(at_rest, name="hover at the goal"),),
    )
    guess = states_guess(problem, turning_over(quadrotor, T), hover.expand(T, 4))
    planner = DDP(shooting="multiple", max_iterations=4 if tiny else 200)
    plan = solve(problem, planner, start, init=guess, throw=False)
    lowest = float(upward(plan.xs).min())
    worst = largest_violation(plan)
    print(f"{plan}\n{plan.certificate}\nlargest violation {worst:.1e}")
    print(f"upward axis down to {lowest:.3f}; thrusts from {float(plan.us.min()):.2f} to {float(plan.us.max()):.2f} N")

    paths, labels = {"center": plan.xs[:, [0, 2]]}, ("x [m]", "height [m]")
    parts, title = seen_from_the_side(quadrotor, plan.xs), f"a flip in {T * quadrotor.dt:g} s, seen from the side"
    goal_point = [GOAL[0], GOAL[2]]
    figure = plot_paths(paths, bodies=parts, goal=goal_point, labels=labels, title=title, snapshots=17)
    save_figure(figure, folder / "flip.png")
    scene = MujocoDynamics(with_camera(quadrotor.mjcf(thrust_limit=THRUST_LIMIT)))
    try:
        write_video(folder / "flip.mp4", render_mujoco(scene, plan.xs, camera="flip", dt=quadrotor.dt), 25.0)
    except RenderingUnavailable as error:
        print(f"no video: {error}")
    return bool(plan.certificate.optimal) and worst <= 1e-6 and lowest <= UPSIDE_DOWN + 1e-6


def turning_over(quadrotor: Quadrotor, T: int) -> Tensor:
    """States ``(T+1, 13)`` that turn once about y on a low arc; they do not obey the dynamics."""
    share = torch.arange(T + 1, dtype=torch.float64) / T
    angle = 2.0 * math.pi * share.square() * (3.0 - 2.0 * share)
    xs = torch.zeros(T + 1, 13, dtype=torch.float64)
    xs[:, 0] = START[0] + (GOAL[0] - START[0]) * share
    xs[:, 2] = START[2] + 0.6 * torch.sin(math.pi * share)
    xs[:, 3], xs[:, 5] = torch.cos(0.5 * angle), torch.sin(0.5 * angle)
    xs[:-1, 7:10], xs[:-1, 11] = xs[:, :3].diff(dim=0) / quadrotor.dt, angle.diff() / quadrotor.dt
    return xs


def upward(x: Tensor) -> Tensor:
    """The vertical component of the body's upward axis, ``(*batch,)``: 1 level, -1 upside down."""
    return 1.0 - 2.0 * (x[..., 4].square() + x[..., 5].square())


def with_camera(mjcf: str) -> str:
    """The scene with a camera that sees the whole flight, a floor and a mark at the goal."""
    x, y, z = GOAL
    mark = f'<geom type="sphere" pos="{x} {y} {z}" size="0.04" rgba="0 0.62 0.45 0.5" contype="0" conaffinity="0"/>'
    floor = '<geom type="plane" size="0 0 0.1" rgba="0.9 0.92 0.95 1" contype="0" conaffinity="0"/>'
    light = '<light directional="true" pos="1 -2 5" dir="0 0.3 -1" diffuse="0.35 0.35 0.35"/>'
    camera = '<camera name="flip" pos="1 -3.2 1.7" xyaxes="1 0 0 0 0.02 1"/>'
    return mjcf.replace("<worldbody>", f"<worldbody>{camera}{light}{floor}{mark}")


def seen_from_the_side(quadrotor: Quadrotor, xs: Tensor) -> list[Tensor]:
    """The arms along the body's x axis and their upper sides, as polygons in (x, z)."""
    qw, qx, qy, qz = xs[:, 3:7].unbind(-1)
    ahead = torch.stack([1.0 - 2.0 * (qy**2 + qz**2), 2.0 * (qx * qz - qw * qy)], dim=-1)
    up = torch.stack([2.0 * (qx * qz + qw * qy), 1.0 - 2.0 * (qx**2 + qy**2)], dim=-1)
    arm, center = float(quadrotor.arm_length), xs[:, [0, 2]]

    def box(back: float, front: float, low: float, high: float) -> Tensor:
        corners = [(back, low), (front, low), (front, high), (back, high)]
        return torch.stack([center + arm * (a * ahead + b * up) for a, b in corners], dim=1)

    return [box(-1.0, 1.0, -0.1, 0.1), box(-1.3, -0.7, 0.1, 0.22), box(0.7, 1.3, 0.1, 0.22)]
