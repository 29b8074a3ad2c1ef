r"""Peg insertion: a torque-controlled arm puts a peg into a hole, which is elsewhere in every episode.

.. math::
    \ell(x, u) = \tfrac12 w_2 d^2 + \tfrac12 w_{\log} \log(1 + d^2 / \alpha) + w_u \sum_i (u_i / \bar u_i)^2, \qquad
    d^2 = \sum_{k=1}^2 |r_k - r_k^*|^2

with two points of the peg's axis, its tip and one 20 cm higher, and where they are when the peg stands at the bottom of the hole.
The square brings the peg near from afar, and the logarithm keeps pulling when it is near (Levine, Finn, Darrell and Abbeel 2016,
"End-to-end training of deep visuomotor policies"). There it is :math:`\log(d^2 + \alpha)`; less :math:`\log \alpha`, the cost is
zero where the peg belongs.

Sizes follow the simulated insertion of Montgomery and Levine 2016, "Guided policy search as approximate mirror descent", as their
code has it: seven joints, 100 steps of 50 ms, 26 numbers to observe. Arm, block and contacts are our own. Contacts have no
friction, and their force grows from zero over the first 5 mm, so that derivatives see it come; the hardest thrusts seen sink
in by 7 mm, half the peg's radius.
"""

import torch
from torch import Tensor

from dynamics import MujocoDynamics
from dynamics.systems.scene import SCENE
from mbrl.tasks.base import Task
from mbrl.tasks.seven_joint_arm import JOINTS, LOOKS, PEG_LENGTH, arm_mjcf, peg_points
from planners import FunctionCost

TIMESTEP, SUBSTEPS = 0.005, 10
HOLE = (0.6, 0.0, -0.3)  # middle of the opening of a hole without offset [m]
HALF_WIDTH = 0.025  # of the square hole [m], a centimeter more than the peg's radius
DEPTH = 0.12  # [m]
DEEP = 0.08  # depth of the tip that counts as inserted [m]
BLOCK = (0.25, 0.2)  # half width and height of the block [m]
SPREAD = 0.05  # of the hole's offset in x and y [m]
POINTS = ("tip", "top")
ALONG = (PEG_LENGTH, PEG_LENGTH - 0.2)  # tip and the point that says how the peg is tilted, from the wrist [m]
SQUARE_WEIGHT, LOG_WEIGHT, ALPHA = 10.0, 0.1, 1e-5  # [1/m^2], [1], [m^2]
CONTROL_WEIGHT = 0.1
START = (0.2, -0.9, 0.2, 1.5, 0.0, 0.7, 0.0)  # angles at which an episode starts [rad]
HOLE_MASS = 1e9  # what the peg pushes stays where it is [kg]


def peg_insertion() -> Task:
    """Put a peg, round and 3 cm thick, into a square hole, 5 cm wide and 12 cm deep, with an arm of seven motors.

    An episode starts with the arm at rest, always in the same posture, the tip about 20 cm above the block and beside the hole,
    which is up to 5 cm away from its place in x and in y. To choose the hole, choose ``hole_x`` and ``hole_y`` of the state:
    :func:`mbrl.peg_insertion_starts` has nine. What holds the block there is its mass. Peg and hand touch the block; other links
    do not. The arm carries its own weight.

    A policy sees the joints, two points of the peg relative to where they belong, and the points' velocities.

    Returns:
        A task of 5 s; success is a tip at least 8 cm deep in the hole at the end.
    """
    dynamics = MujocoDynamics(_mjcf(), frame_skip=SUBSTEPS)
    limits = torch.tensor([joint.torque for joint in JOINTS], dtype=torch.float64)

    def stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        errors, _ = _errors(x)
        squared = errors.square().sum(-1)
        effort = (u / limits.to(u)).square().sum(-1)
        return 0.5 * SQUARE_WEIGHT * squared + 0.5 * LOG_WEIGHT * torch.log1p(squared / ALPHA) + CONTROL_WEIGHT * effort

    return Task(
        "PegInsertion",
        dynamics,
        FunctionCost(stage),
        (-limits, limits),
        _initial_state,
        horizon=100,
        episode_steps=100,
        observation=lambda x: torch.cat([x[..., :7], x[..., 9:16], *_errors(x)], dim=-1),
        success=lambda xs: _inserted(xs[..., -1, :]),
        state_units=[*["rad"] * 7, "m", "m", *["rad/s"] * 7, "m/s", "m/s"],
        control_units=["N m"] * 7,
        observation_names=[
            *(joint.name for joint in JOINTS),
            *(f"{joint.name}_velocity" for joint in JOINTS),
            *(f"{point}_{axis}" for point in POINTS for axis in "xyz"),
            *(f"{point}_{axis}_velocity" for point in POINTS for axis in "xyz"),
        ],
    )


def peg_insertion_starts(offsets: Tensor | None = None) -> Tensor:
    """Initial states of :func:`mbrl.peg_insertion` with chosen holes.

    Args:
        offsets: of the hole in x and y from its place [m], ``(*batch, 2)``; by default nine on a square grid, -5, 0 and 5 cm.

    Returns:
        States ``(*batch, 18)``, float64.

    Raises:
        ValueError: the offsets are not pairs of finite numbers.
    """
    if offsets is None:
        ends = torch.tensor([-SPREAD, 0.0, SPREAD], dtype=torch.float64)
        offsets = torch.cartesian_prod(ends, ends)
    if offsets.shape[-1:] != (2,) or not bool(offsets.isfinite().all()):
        raise ValueError(f"offsets must be finite, (*batch, 2), got {tuple(offsets.shape)}: {offsets.tolist()}")
    x = torch.zeros(*offsets.shape[:-1], 18, dtype=torch.float64)
    x[..., :7] = torch.tensor(START, dtype=torch.float64)
    x[..., 7:9] = offsets.to(x)
    return x


def _initial_state(batch: int, generator: torch.Generator) -> Tensor:
    return peg_insertion_starts(SPREAD * (2.0 * torch.rand(batch, 2, generator=generator, dtype=torch.float64) - 1.0))


def _errors(x: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the peg relative to where they belong [m], and their velocities [m/s], ``(*batch, 6)`` each."""
    points, velocities = peg_points(x[..., :7], x[..., 9:16], ALONG)
    bottom = x.new_tensor(HOLE) - x.new_tensor([0.0, 0.0, DEPTH])
    above = x.new_tensor([[0.0, 0.0, ALONG[0] - distance] for distance in ALONG])
    offset = torch.cat([x[..., 7:9], torch.zeros_like(x[..., :1])], dim=-1)
    return (points - above - (bottom + offset).unsqueeze(-2)).flatten(-2), velocities.flatten(-2)


def _inserted(x: Tensor) -> Tensor:
    tip = _errors(x)[0][..., :3]
    return (tip[..., :2].abs() <= HALF_WIDTH).all(-1) & (tip[..., 2] <= DEPTH - DEEP)


def _mjcf() -> str:
    arm, motors = arm_mjcf()
    half, height = BLOCK
    wall, middle = (half - HALF_WIDTH) / 2.0, (half + HALF_WIDTH) / 2.0

    def box(x: float, y: float, top: float, size: tuple[float, float, float], looks: str = "") -> str:
        numbers = " ".join(map(repr, size))
        return f'<geom class="block" type="box" pos="{x!r} {y!r} {top - size[2]!r}" size="{numbers}" {looks}/>'

    side, front = (wall, HALF_WIDTH, DEPTH / 2.0), (half, wall, DEPTH / 2.0)
    walls = box(-middle, 0.0, 0.0, side) + box(middle, 0.0, 0.0, side) + box(0.0, middle, 0.0, front)
    walls += box(0.0, -middle, 0.0, front, 'rgba="0.7 0.72 0.75 0.25"')  # one looks through it into the hole
    return f"""
<mujoco model="peg insertion">
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP!r}" integrator="implicitfast"/>
  <statistic center="0.4 0 -0.1" extent="1"/>
  {SCENE}
  <default>
    <geom condim="1" solref="0.01 1" solimp="0 0.95 0.005"/>
    <default class="block"><geom contype="0" conaffinity="1" rgba="0.7 0.72 0.75 1"/></default>
  </default>
  <worldbody>
    <light pos="0.3 -0.6 1.5" dir="0.1 0.3 -1" diffuse="0.5 0.5 0.5"/>
    <camera name="side" pos="0.4 -1.4 0.35" xyaxes="1 0 0 0 0.32 0.95"/>
    <geom type="cylinder" pos="0 0 -0.29" size="0.06 0.21" rgba="0.5 0.52 0.55 1" {LOOKS}/>
    {arm}
    <body name="block" pos="{" ".join(map(repr, HOLE))}">
      <joint name="hole_x" type="slide" axis="1 0 0"/>
      <joint name="hole_y" type="slide" axis="0 1 0"/>
      <inertial pos="0 0 0" mass="{HOLE_MASS!r}" diaginertia="{HOLE_MASS!r} {HOLE_MASS!r} {HOLE_MASS!r}"/>
      {walls}
      {box(0.0, 0.0, -DEPTH, (half, half, (height - DEPTH) / 2.0))}
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""
