r"""A point mass pushed by a force along each axis: :math:`m \ddot q = k u - d \dot q`."""

from typing import Literal

from torch import Tensor

from dynamics.analytic import MechanicalSystem
from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.scene import SCENE


class DoubleIntegrator(MechanicalSystem):
    """Point mass with state (positions [m], velocities [m/s]) and forces [N] as controls.

    Args:
        axes: number of axes, 1 to 3.
        dt: duration of one step [s].
        integrator: ``"rk4"`` (exact without damping) or ``"semi_implicit_euler"``.

    Raises:
        ValueError: axes is not 1, 2 or 3.
    """

    def __init__(self, axes: int = 1, dt: float = 0.05, *, integrator: Literal["rk4", "semi_implicit_euler"] = "rk4"):
        if axes not in (1, 2, 3):
            raise ValueError(f"axes must be 1, 2 or 3, got {axes}")
        names = ["x", "y", "z"][:axes]
        super().__init__(
            axes,
            names,
            dt,
            integrator=integrator,
            parameters={
                "mass": PhysicalParameter(1.0, "kg", (0, float("inf")), "log", "mass of the point"),
                "damping": PhysicalParameter(0.0, "N s/m", (0, float("inf")), description="viscous friction"),
                "gain": PhysicalParameter(1.0, "1", description="force per commanded force"),
            },
            control_names=[f"force_{name}" for name in names],
        )

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Acceleration [m/s^2], ``(*batch, axes)``."""
        velocity = x[..., self.control_dim :]
        mass, damping, gain = (v.unsqueeze(-1) for v in (p.mass, p.damping, p.gain))
        return (gain * u - damping * velocity) / mass

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic energy [J]."""
        p = self.parameters_like(x)
        return 0.5 * p.mass * x[..., self.control_dim :].square().sum(-1)

    def mjcf(self) -> str:
        """The same point mass as an MJCF string."""
        p = self.shared_values()
        axes = list(zip("xyz", ("1 0 0", "0 1 0", "0 0 1"), strict=True))[: self.control_dim]
        joints = "".join(
            f'<joint name="{name}" type="slide" axis="{axis}" damping="{p["damping"]!r}"/>' for name, axis in axes
        )
        motors = "".join(f'<motor name="force_{name}" joint="{name}" gear="{p["gain"]!r}"/>' for name, _ in axes)
        return f"""
<mujoco model="double integrator">
  <option timestep="{self.dt!r}" integrator="RK4" gravity="0 0 0"/>
  {SCENE}
  <worldbody>
    <camera name="side" pos="0 -6 0" xyaxes="1 0 0 0 0 1"/>
    <body name="point">
      {joints}
      <inertial pos="0 0 0" mass="{p["mass"]!r}" diaginertia="0.01 0.01 0.01"/>
      <geom type="sphere" size="0.1" rgba="0.85 0.45 0.1 1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""
