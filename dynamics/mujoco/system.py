r"""Any MuJoCo model as dynamics.

.. math:: x_{t+1} = f(x_t, u_t), \qquad x = (q, v, a), \quad u = \text{ctrl}

where f is ``frame_skip`` calls of ``mj_step``, with every integrator, contact and constraint of the model, started cold.
Derivatives are centered differences of this very f.
"""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from dynamics.base import Curvature, Dynamics, Linearization, TimeStep
from dynamics.mujoco.fields import ModelField
from dynamics.mujoco.loading import control_names, load_model, state_names, unlimited_hinges
from dynamics.mujoco.manifold import StateManifold
from dynamics.mujoco.stepping import BatchedStepper

if TYPE_CHECKING:
    import mujoco

STEP = 3e-7  # see MujocoDynamics.linearize
CURVATURE_STEP = torch.finfo(torch.float64).eps ** 0.25  # of finite_difference_weighted_hessian


class MujocoDynamics(Dynamics):
    """A MuJoCo model with state ``(qpos, qvel, act)`` and control ``ctrl``, batched over threads.

    One step is a pure function: MuJoCo's warm start begins at zero in each control step, and applied forces, mocap bodies
    and equality constraints stay at the model's defaults. Results do not depend on the batch size, the number of threads
    or what was computed before. The computation is in float64 on the CPU, whatever the type and device of x. MuJoCo
    clamps controls to their ``ctrlrange`` where it is limited.

    A world is NaN from the step on in which MuJoCo warns (a non-finite or huge state or control, contacts that do not fit
    into memory) or raises an error. Nothing is written to ``MUJOCO_LOG.TXT``.

    Gradients reach x and u, not physical parameters. Derivatives by controls at the end of their range are one-sided, from
    within, and zero outside. Where x holds quaternions (free and ball joints) it lies on a manifold:
    ``tangent_dim = 2 nv + na``.

    Args:
        model: path of an MJCF or MJB file, an MJCF string, a ``mujoco.MjModel`` (copied), or an object whose attribute
            ``model`` is one, such as a gymnasium MuJoCo environment, which also has a frame skip.
        frame_skip: MuJoCo steps per control step; by default the environment's, else 1.
        threads: number of threads; one per core by default.
        parameters: where physical parameters are found in the model, by name.

    Attributes:
        model: the private copy of the model; read only.
        frame_skip: MuJoCo steps per control step, ``dt = frame_skip * model.opt.timestep``.
        angles: the hinges without joint limits; others cannot turn round.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: ``model`` carries no MuJoCo model.
        ValueError: the model does not compile or keeps hidden state (delays, plugins, sleep), ``frame_skip`` contradicts the
            environment's, or a parameter is not found.

    Example:
        >>> from dynamics import MujocoDynamics, Pendulum
        >>> pendulum = MujocoDynamics(Pendulum().mjcf(), frame_skip=2)
        >>> pendulum.state_names, pendulum.dt
        (('angle', 'angle_velocity'), 0.1)
    """

    derivatives = "finite-difference"

    def __init__(
        self,
        model: "str | Path | mujoco.MjModel | Any",
        *,
        frame_skip: int | None = None,
        threads: int | None = None,
        parameters: Mapping[str, ModelField] | None = None,
    ):
        compiled, steps = load_model(model, frame_skip)
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, or None for one per core, got {threads}")
        manifold = StateManifold(compiled)
        names = state_names(compiled), control_names(compiled)
        super().__init__(
            compiled.nq + compiled.nv + compiled.na,
            compiled.nu,
            compiled.opt.timestep * steps,
            tangent_dim=manifold.tangent_dim,
            parameters={name: field.parameter(name, compiled) for name, field in (parameters or {}).items()},
            state_names=names[0] if len(set(names[0])) == len(names[0]) else None,
            control_names=names[1] if len(set(names[1])) == len(names[1]) else None,
            angles=unlimited_hinges(compiled),
        )
        self.model = compiled
        self.frame_skip = steps
        self._manifold = manifold
        self._control_range = _control_range(compiled)
        self._stepper = BatchedStepper(compiled, steps, threads, parameters)

    # What happens next

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The next state, ``(*batch, n)``; one autograd node in x and u."""
        self.check_step(x, u)
        if torch.is_grad_enabled() and (x.requires_grad or u.requires_grad):
            return _Step.apply(self, t, x, u)
        return self._step(x, u, t)

    def rollout(self, x0: Tensor, us: Tensor, t0: int = 0) -> Tensor:
        """States ``(*batch, T+1, n)``, the same bits as from repeated :meth:`forward`."""
        if torch.is_grad_enabled() and (x0.requires_grad or us.requires_grad):
            return super().rollout(x0, us, t0)
        batch = self.check_sequence(x0, us)
        steps = t0 + torch.arange(us.shape[-2])
        return self._simulate(x0.expand(*batch, self.state_dim), us.expand(*batch, *us.shape[-2:]), steps)

    def _step(self, x: Tensor, u: Tensor, t: TimeStep) -> Tensor:
        """The next state of x ``(*batch, n)`` under u ``(*batch, m)``, without a graph."""
        steps = torch.as_tensor(0 if t is None else t).unsqueeze(-1)
        return self._simulate(x, u.unsqueeze(-2), steps)[..., 1, :]

    def _simulate(self, x0: Tensor, us: Tensor, steps: Tensor) -> Tensor:
        """States ``(*batch, T+1, n)`` under us ``(*batch, T, m)`` at integer steps that broadcast to ``(*batch, T)``."""
        *batch, horizon, _ = us.shape
        x = x0.detach().to("cpu", x0.dtype if x0.dtype == torch.float32 else torch.float64)
        u = us.detach().to("cpu", torch.float64)
        times = (self.dt * steps.to("cpu", torch.float64)).expand(*batch, horizon)
        worlds = math.prod(batch)
        xs = self._stepper.rollout(
            x.reshape(worlds, self.state_dim).numpy(),
            u.reshape(worlds, horizon, self.control_dim).numpy(),
            times.reshape(worlds, horizon).numpy(),
            self._values(x),
        )
        return torch.from_numpy(xs).reshape(*batch, horizon + 1, self.state_dim).to(x0)

    # Derivatives

    def linearize(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Linearization:
        """First derivatives, all displaced steps in one batched call; without a graph.

        The displacement of the centered differences is 3e-7 (rad, m, ...). Measured on a half-cheetah in contact, five MuJoCo
        steps per control, against extrapolated differences: the median relative error is 4e-9 and 90 % are below 3e-7;
        1e-6, customary for ``mjd_transitionFD``, is ten times worse, because contacts are stiff and break. On smooth
        systems the error is 1e-9, from round-off.
        """
        x, u = (v.detach() for v in self._broadcast(x, u))
        fx, fu = self._jacobians(x, u, t)
        hx = self._observation_jacobian(x.double())
        return Linearization(x_next=self._step(x, u, t), fx=fx.to(x), fu=fu.to(x), hx=hx.to(x))

    def curvature(self, x: Tensor, u: Tensor, costate: Tensor, t: TimeStep = None) -> Curvature:
        """Second derivatives by second differences; without a graph."""
        x, u = self._broadcast(x, u)
        lower, upper = self._control_range
        controls = u.detach().to("cpu", torch.float64)
        outside = ((controls < lower) | (controls > upper)).unsqueeze(-1)
        reach = 2.0 * CURVATURE_STEP  # of the displaced controls, which must not cross the kink at a limit
        inner = controls.clamp(lower + reach, upper - reach)
        state, weight = (v.detach().to("cpu", torch.float64) for v in (x, costate))
        c = super().curvature(state, inner, weight, t)
        uu = c.uu.masked_fill(outside | outside.mT, 0.0)
        return Curvature(xx=c.xx.to(x), ux=c.ux.masked_fill(outside, 0.0).to(x), uu=uu.to(x))

    def _jacobians(self, x: Tensor, u: Tensor, t: TimeStep, *, by_x: bool = True) -> tuple[Tensor, Tensor]:
        """Float64 fx and fu on the CPU by centered differences; fx has no columns if it is not needed."""
        x, u = x.detach().to("cpu", torch.float64), u.detach().to("cpu", torch.float64)
        n, m = (self.tangent_dim if by_x else 0), self.control_dim
        lower, upper = self._control_range
        within = u.clamp(lower, upper).unsqueeze(-2)
        dx, du = STEP * torch.eye(self.tangent_dim, dtype=x.dtype)[:n], STEP * torch.eye(m, dtype=x.dtype)
        plus, minus = (within + du).minimum(upper), (within - du).maximum(lower)
        rest = x.unsqueeze(-2)
        states = [self.retract(rest, dx), self.retract(rest, -dx), rest.expand(*x.shape[:-1], 2 * m, -1)]
        controls = [within.expand(*u.shape[:-1], 2 * n, -1), plus, minus]
        rows_t = t.unsqueeze(-1) if isinstance(t, Tensor) and t.ndim > 0 else t
        x_next = self._step(torch.cat(states, dim=-2), torch.cat(controls, dim=-2), rows_t)
        x_plus, x_minus, u_plus, u_minus = x_next.split([n, n, m, m], dim=-2)
        fx = self.difference(x_plus, x_minus) / (2.0 * STEP)
        width = (plus - minus).diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        flat = (width == 0.0) | ((u < lower) | (u > upper)).unsqueeze(-1)
        fu = (self.difference(u_plus, u_minus) / width).masked_fill(flat, 0.0)
        return fx.mT, fu.mT

    # Geometry

    def difference(self, x1: Tensor, x0: Tensor) -> Tensor:
        """The tangent vector at x0 that leads to x1, ``(*batch, 2 nv + na)``, as ``mj_differentiatePos`` for qpos."""
        return self._manifold.difference(x1, x0)

    def retract(self, x: Tensor, dx: Tensor) -> Tensor:
        """The state reached from x along the tangent vector dx, as ``mj_integratePos`` for qpos."""
        return self._manifold.retract(x, dx)

    # Parameters

    def with_parameters(self, **values: float | Tensor) -> Self:
        """A copy with other values, shared or one per world; they must not require gradients."""
        new = super().with_parameters(**values)
        new._refuse_parameter_gradients()
        stepper = self._stepper
        new._stepper = BatchedStepper(stepper.model, stepper.substeps, stepper.threads, stepper.fields)
        return new

    def _refuse_parameter_gradients(self) -> None:
        names = [name for name in self.physical_parameters if getattr(self, name).requires_grad]
        if names:
            raise ValueError(
                f"gradients by the physical parameters of a MuJoCo model are not available, got {', '.join(names)} with "
                "requires_grad; gradients reach x and u. Detach the value, or use the same system written in torch"
            )

    def _values(self, x: Tensor) -> dict[str, np.ndarray]:
        """The value of each parameter in each world of x ``(*batch, n)``, ``(worlds, *s)``."""
        if not self.physical_parameters:
            return {}
        self._refuse_parameter_gradients()
        values = {}
        for name, value in vars(self.parameters_like(x.double())).items():
            shape = self.physical_parameters[name].shape
            values[name] = value.expand((*x.shape[:-1], *shape)).reshape(-1, *shape).numpy()
        return values


class _Step(torch.autograd.Function):
    """One control step; its Jacobians are computed when a gradient arrives."""

    @staticmethod
    def forward(ctx: Any, dynamics: MujocoDynamics, t: TimeStep, x: Tensor, u: Tensor) -> Tensor:
        x_next = dynamics._step(x, u, t)
        ctx.dynamics, ctx.t = dynamics, t
        ctx.save_for_backward(x, u, x_next)
        return x_next

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor | None, Tensor | None]:
        x, u, x_next = ctx.saved_tensors
        by_x, by_u = ctx.needs_input_grad[2:]
        with torch.no_grad():
            fx, fu = ctx.dynamics._jacobians(x, u, ctx.t, by_x=by_x)
            manifold = ctx.dynamics._manifold
            g = manifold.to_tangent(x_next, gradient).to(fu).unsqueeze(-2)
            # A world that a loss leaves out, because it diverged, must not spoil the gradients of the others.
            unused = (gradient == 0.0).all(-1, keepdim=True)
            gx = manifold.to_ambient(x, (g @ fx).squeeze(-2).to(x)).masked_fill(unused, 0.0) if by_x else None
            gu = (g @ fu).squeeze(-2).to(u).masked_fill(unused, 0.0) if by_u else None
        if torch.is_grad_enabled():  # create_graph: a second derivative must not come out as zero
            gx, gu = (_FirstDerivative.apply(v, x, u) if v is not None else None for v in (gx, gu))
        return None, None, gx, gu


class _FirstDerivative(torch.autograd.Function):
    """A first derivative of a step, as it is; to differentiate it is an error."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *variables: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise RuntimeError(
            "second derivatives of a MuJoCo step are not available by autograd; use curvature(x, u, costate), which takes "
            "second differences"
        )


def _control_range(model: "mujoco.MjModel") -> Tensor:
    """Lower and upper limits to which MuJoCo clamps controls, ``(2, m)``, infinite where there is none."""
    from mujoco import mjtDisableBit

    limited = model.actuator_ctrllimited.astype(bool)
    if model.opt.disableflags & mjtDisableBit.mjDSBL_CLAMPCTRL:
        limited = np.zeros_like(limited)
    lower, upper = model.actuator_ctrlrange.T
    return torch.from_numpy(np.stack([np.where(limited, lower, -np.inf), np.where(limited, upper, np.inf)]))
