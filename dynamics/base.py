r"""The contract: everything that says what happens next.

.. math:: x_{t+1} = f(x_t, u_t, t; \theta), \qquad y_t = h(x_t)

Shapes are batch first: states ``(*batch, n)``, controls ``(*batch, m)``, control sequences ``(*batch, T, m)``, state
sequences ``(*batch, T+1, n)``. Times are integer steps of ``dt`` seconds.

A subclass implements :meth:`Dynamics.forward`; rollouts, derivatives, parameters and the tangent space have generic
implementations that a subclass overrides only to be faster or to state another geometry.
"""

import abc
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from dynamics import derivatives
from dynamics.parameters import ParameterView, PhysicalParameter, value_like

TimeStep = int | Tensor | None


@dataclass(frozen=True, eq=False)
class Linearization:
    """First derivatives at a point, in the tangent space of the state.

    Attributes:
        x_next: f(x, u, t), ``(*batch, n)``.
        fx: derivative of the next state by the state, ``(*batch, tangent_dim, tangent_dim)``.
        fu: derivative of the next state by the control, ``(*batch, tangent_dim, m)``.
        hx: derivative of the observation by the state, ``(*batch, observation_dim, tangent_dim)``.
    """

    x_next: Tensor
    fx: Tensor
    fu: Tensor
    hx: Tensor


@dataclass(frozen=True, eq=False)
class Curvature:
    r"""Second derivatives of :math:`\lambda^\top f` at a point, in the tangent space of the state.

    Attributes:
        xx: ``(*batch, tangent_dim, tangent_dim)``.
        ux: ``(*batch, m, tangent_dim)``.
        uu: ``(*batch, m, m)``.
    """

    xx: Tensor
    ux: Tensor
    uu: Tensor


class Dynamics(nn.Module, abc.ABC):
    """A discrete-time dynamical system, deterministic or the mean of a stochastic one.

    Args:
        state_dim: n.
        control_dim: m.
        dt: duration of one step [s].
        observation_dim: dimension of :meth:`observe`; n by default.
        tangent_dim: dimension of the tangent space; n unless the state lies on a manifold, and then
            :meth:`difference` and :meth:`retract` are overridden.
        parameters: named physical parameters; a bare number stands for ``PhysicalParameter(number)``.
        state_names: one name per state; ``x0, x1, ...`` by default.
        control_names: one name per control; ``u0, u1, ...`` by default.
        angles: indices of the states that are angles [rad], so that x and x + 2 pi are the same configuration.

    Attributes:
        derivatives: how derivatives come about, ``"autograd"`` or ``"finite-difference"``.
        physical_parameters: specification of each parameter by name; its present value is the buffer of that name.

    Raises:
        ValueError: a size is not positive, names do not fit the sizes, or a parameter is out of bounds.
    """

    derivatives: Literal["autograd", "finite-difference"] = "autograd"

    def __init__(
        self,
        state_dim: int,
        control_dim: int,
        dt: float,
        *,
        observation_dim: int | None = None,
        tangent_dim: int | None = None,
        parameters: Mapping[str, PhysicalParameter | float | Tensor] | None = None,
        state_names: Sequence[str] | None = None,
        control_names: Sequence[str] | None = None,
        angles: Sequence[int] = (),
    ):
        super().__init__()
        if state_dim < 1 or control_dim < 0:
            raise ValueError(f"need state_dim >= 1 and control_dim >= 0, got {state_dim} and {control_dim}")
        if not 0 < dt < float("inf"):
            raise ValueError(f"dt must be a positive number of seconds, got {dt}")
        self.state_dim = int(state_dim)
        self.control_dim = int(control_dim)
        self.dt = float(dt)
        self.observation_dim = int(observation_dim if observation_dim is not None else state_dim)
        self.tangent_dim = int(tangent_dim if tangent_dim is not None else state_dim)
        self.state_names = _names("state", state_names, self.state_dim, "x")
        self.control_names = _names("control", control_names, self.control_dim, "u")
        if any(isinstance(i, str) for i in angles):
            raise ValueError(
                f"angles must be indices of states, got {tuple(angles)} for the states {self.state_names}; names are for "
                "for_trajectories(trajectories, angles=...)"
            )
        self.angles = tuple(int(i) for i in angles)
        if any(not 0 <= i < self.state_dim for i in self.angles):
            raise ValueError(f"angles must be state indices in 0..{self.state_dim - 1}, got {self.angles}")
        self.physical_parameters = {
            name: p if isinstance(p, PhysicalParameter) else PhysicalParameter(p)
            for name, p in (parameters or {}).items()
        }
        for name, parameter in self.physical_parameters.items():
            if not name.isidentifier() or hasattr(self, name):
                raise ValueError(
                    f"parameter {name!r} must be an identifier that is no attribute of {type(self).__name__}"
                )
            value = parameter.tensor()
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)

    # What happens next

    @abc.abstractmethod
    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The next state. Pure: no hidden state, equal inputs give equal outputs.

        Args:
            x: states ``(*batch, n)``.
            u: controls ``(*batch, m)``, in the dtype of x.
            t: integer step, broadcastable to batch, or None for time-invariant use.

        Returns:
            ``(*batch, n)`` in the dtype of x; NaN where the world has diverged.

        Raises:
            ValueError: shapes or dtypes do not fit, see :meth:`check_step`.
        """

    def observe(self, x: Tensor) -> Tensor:
        """What a sensor sees of states ``(*batch, n)``: ``(*batch, observation_dim)``; the state itself by default."""
        return x

    def rollout(self, x0: Tensor, us: Tensor, t0: int = 0) -> Tensor:
        """States under a control sequence.

        Args:
            x0: initial states ``(*batch, n)``.
            us: controls ``(*batch, T, m)``; the batch axes of x0 and us broadcast.
            t0: step of the first control.

        Returns:
            ``(*batch, T+1, n)``; from the step where a state is not finite on, all NaN.

        Raises:
            ValueError: the trailing axes are not n and m.
        """
        batch = self.check_sequence(x0, us)
        x = x0.expand(*batch, self.state_dim)
        us = us.expand(*batch, *us.shape[-2:])
        return rolled_out(self.forward, x, us, t0)

    # Derivatives

    def linearize(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Linearization:
        """First derivatives at states ``(*batch, n)`` and controls ``(*batch, m)``.

        Differentiable by autograd when gradients are enabled and ``derivatives == "autograd"``; without a graph when
        nothing that the step depends on requires a gradient.
        """
        x, u = self._broadcast(x, u)
        f, x_next = self._displaced_step(x, u, t)
        z = x.new_zeros(*x.shape[:-1], self.tangent_dim + self.control_dim)
        if self.derivatives == "autograd":
            with graph_if_needed(x_next):
                jacobian = derivatives.jacobian(f, z, self.tangent_dim)
        else:
            jacobian = derivatives.finite_difference_jacobian(f, z)
        fx, fu = jacobian.split([self.tangent_dim, self.control_dim], dim=-1)
        return Linearization(x_next=x_next, fx=fx, fu=fu, hx=self._observation_jacobian(x))

    def curvature(self, x: Tensor, u: Tensor, costate: Tensor, t: TimeStep = None) -> Curvature:
        """Second derivatives of the next state weighted by a costate ``(*batch, tangent_dim)``."""
        x, u = self._broadcast(x, u)
        f, x_next = self._displaced_step(x, u, t)
        z = x.new_zeros(*x.shape[:-1], self.tangent_dim + self.control_dim)
        if costate.shape[-1:] != (self.tangent_dim,):
            raise ValueError(f"costate must have last axis {self.tangent_dim}, got shape {tuple(costate.shape)}")
        costate = costate.expand(*x.shape[:-1], self.tangent_dim)
        if self.derivatives == "autograd":
            with graph_if_needed(x_next, costate):
                hessian = derivatives.weighted_hessian(f, z, costate)
        else:
            hessian = derivatives.finite_difference_weighted_hessian(f, z, costate)
        n = self.tangent_dim
        return Curvature(xx=hessian[..., :n, :n], ux=hessian[..., n:, :n], uu=hessian[..., n:, n:])

    def _displaced_step(self, x: Tensor, u: Tensor, t: TimeStep):
        """The map (dx, du) -> f(x [+] dx, u + du) [-] f(x, u) over an extra axis of rows, and f(x, u)."""
        x_next = self.forward(x, u, t)
        rows_t = t.unsqueeze(-1) if isinstance(t, Tensor) and t.ndim > 0 else t

        def f(dz: Tensor) -> Tensor:
            dx, du = dz.split([self.tangent_dim, self.control_dim], dim=-1)
            moved = self.forward(self.retract(x.unsqueeze(-2), dx), u.unsqueeze(-2) + du, rows_t)
            return self.difference(moved, x_next.unsqueeze(-2))

        return f, x_next

    def _observation_jacobian(self, x: Tensor) -> Tensor:
        if type(self).observe is Dynamics.observe and self.tangent_dim == self.state_dim:
            return torch.eye(self.state_dim, dtype=x.dtype, device=x.device).expand(*x.shape, self.state_dim)

        def h(dx: Tensor) -> Tensor:
            return self.observe(self.retract(x.unsqueeze(-2), dx))

        z = x.new_zeros(*x.shape[:-1], self.tangent_dim)
        if self.derivatives == "autograd":
            with graph_if_needed(self.observe(x)):
                return derivatives.jacobian(h, z, self.observation_dim)
        return derivatives.finite_difference_jacobian(h, z)

    # Geometry

    def difference(self, x1: Tensor, x0: Tensor) -> Tensor:
        """The tangent vector at x0 that leads to x1, ``(*batch, tangent_dim)``; ``x1 - x0`` by default."""
        return x1 - x0

    def retract(self, x: Tensor, dx: Tensor) -> Tensor:
        """The state reached from x along the tangent vector dx, ``(*batch, n)``; ``x + dx`` by default."""
        return x + dx

    # Parameters

    def parameters_like(self, x: Tensor) -> ParameterView:
        """Present parameter values by attribute, shaped and cast to broadcast against states ``(*batch, n)``.

        The only way for :meth:`forward` to read physical parameters: it aligns values per world with the first batch
        axis, whatever axes planners add after it.
        """
        return ParameterView(
            **{
                name: value_like(name, getattr(self, name), len(parameter.shape), x)
                for name, parameter in self.physical_parameters.items()
            }
        )

    def with_parameters(self, **values: float | Tensor) -> Self:
        """A copy with other parameter values that shares everything else; this object is not changed.

        Args:
            **values: by name, each of the shape ``s`` of the nominal value or, one per world, ``(W, *s)``. A tensor is
                used as it is, so gradients reach it.

        Raises:
            ValueError: a name is unknown, a shape does not fit, or a value that needs no gradient is out of bounds.
        """
        new = copy.copy(self)
        new._buffers, new._parameters = dict(self._buffers), dict(self._parameters)
        for name, value in values.items():
            new._buffers[name] = self._checked_parameter(name, value)
            new._parameters.pop(name, None)
        return new

    def _checked_parameter(self, name: str, value: float | Tensor) -> Tensor:
        if name not in self.physical_parameters:
            known = ", ".join(self.physical_parameters) or "none"
            raise ValueError(f"{type(self).__name__} has no parameter {name!r}; its parameters are: {known}")
        parameter = self.physical_parameters[name]
        shape = parameter.shape
        value = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
        if value.shape != shape and value.shape[1:] != shape:
            raise ValueError(
                f"parameter {name!r} must have shape {tuple(shape)}, or ({', '.join(['W', *map(str, shape)])}) for one value "
                f"per world, got {tuple(value.shape)}"
            )
        if not value.requires_grad:  # whoever optimizes a value keeps it within bounds
            parameter.check(name, value)
        return value

    # Checks

    def check_step(self, x: Tensor, u: Tensor) -> None:
        """Raise ValueError unless x is ``(*batch, n)`` and u is ``(*batch, m)``, of one floating dtype."""
        self._check_operands("x", x, "u", u)
        if x.shape[:-1] != u.shape[:-1]:
            raise ValueError(
                f"x and u must have the same batch axes, got x {tuple(x.shape)} and u {tuple(u.shape)}; expand one of them"
            )

    def check_sequence(self, x0: Tensor, us: Tensor) -> torch.Size:
        """The common batch shape of x0 ``(*batch, n)`` and us ``(*batch, T, m)``, or a ValueError."""
        if us.ndim < 2:
            raise ValueError(f"us must have shape (*batch, T, {self.control_dim}), got {tuple(us.shape)}")
        self._check_operands("x0", x0, "us", us)
        return _common_batch("x0", x0.shape[:-1], "us", us.shape[:-2])

    def _check_operands(self, x_name: str, x: Tensor, u_name: str, u: Tensor) -> None:
        for name, value in ((x_name, x), (u_name, u)):
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name} must be a torch tensor, got {type(value).__name__}; use torch.as_tensor({name})"
                )
        if x.ndim < 1 or x.shape[-1] != self.state_dim:
            raise ValueError(f"{x_name} must have last axis n = {self.state_dim}, got shape {tuple(x.shape)}")
        if u.ndim < 1 or u.shape[-1] != self.control_dim:
            raise ValueError(f"{u_name} must have last axis m = {self.control_dim}, got shape {tuple(u.shape)}")
        if x.dtype != u.dtype or not x.is_floating_point():  # integers would truncate the parameters cast to them
            raise ValueError(
                f"{x_name} and {u_name} must have the same floating dtype, got {x.dtype} and {u.dtype}; cast with .to()"
            )

    def _broadcast(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        self._check_operands("x", x, "u", u)
        batch = _common_batch("x", x.shape[:-1], "u", u.shape[:-1])
        return x.expand(*batch, self.state_dim), u.expand(*batch, self.control_dim)

    def extra_repr(self) -> str:
        """The line that ``print(model)`` shows."""
        return f"state_dim={self.state_dim}, control_dim={self.control_dim}, dt={self.dt:g}"


def arguments_like(dynamics: Dynamics) -> dict[str, Any]:
    """What dynamics around others tell :class:`Dynamics`: the same dimensions, step, names and angles."""
    names = (
        "state_dim",
        "control_dim",
        "dt",
        "observation_dim",
        "tangent_dim",
        "state_names",
        "control_names",
        "angles",
    )
    return {name: getattr(dynamics, name) for name in names}


def rolled_out(step: Callable[[Tensor, Tensor, int], Tensor], x0: Tensor, us: Tensor, t0: int) -> Tensor:
    """States ``(*batch, T+1, n)`` from x0 ``(*batch, n)`` by a step function under us ``(*batch, T, m)``; see :meth:`rollout`."""

    def checked(x: Tensor, u: Tensor, t: int) -> Tensor:
        x_next = step(x, u, t)
        if x_next.shape != x.shape or x_next.dtype != x.dtype:
            raise ValueError(
                f"a step must keep shape and dtype of the state, {tuple(x.shape)} of {x.dtype}, got {tuple(x_next.shape)} of "
                f"{x_next.dtype}"
            )
        return x_next

    if us.shape[-2] == 0:
        return nan_after_divergence(x0.unsqueeze(-2))
    first, *others = us.unbind(-2)
    x = checked(x0, first, t0)
    if torch.is_grad_enabled():
        xs = [x0, x]
        for k, u in enumerate(others, start=1):
            xs.append(checked(xs[-1], u, t0 + k))
        return nan_after_divergence(time_first(xs))
    # Without a graph the states go where they belong at once, which spares memory that the system has to clear first.
    out = x.new_empty(us.shape[-2] + 1, *x.shape)
    out[0], out[1] = x0, x
    for k, u in enumerate(others, start=1):
        x = out[k + 1].copy_(checked(x, u, t0 + k))
    return nan_after_divergence(out.movedim(0, -2))


def is_own(method: Callable, function: Callable) -> bool:
    """Whether a bound method is that very function: a shortcut around it must not pass over what somebody put in its place."""
    return getattr(method, "__func__", None) is function


def time_first(xs: Sequence[Tensor]) -> Tensor:
    """States ``(*batch, n)`` of successive steps as a sequence ``(*batch, T+1, n)`` with time first in memory.

    Later computations step by step, or over all steps at once, then read neighboring numbers.
    """
    return torch.stack(tuple(xs)).movedim(0, -2)


def nan_after_divergence(xs: Tensor) -> Tensor:
    """State sequences ``(*batch, T+1, n)`` with all of a world's states NaN from its first non-finite one on.

    Later values of a diverged world can look finite again (tanh of infinity is one) and must not be mistaken for a state.
    """
    if surely_finite(xs):
        return xs
    diverged = (~xs.isfinite().all(-1)).to(torch.uint8).cummax(-1).values.bool()
    return xs.masked_fill(diverged.unsqueeze(-1), float("nan"))


def surely_finite(values: Tensor) -> bool:
    """Whether one pass over the numbers shows that all are finite.

    False where it does not, and where nobody may ask: in a graph, under ``torch.vmap``, and on a GPU, which would have to be
    waited for.
    """
    if torch.is_grad_enabled() or values.is_cuda:
        return False
    try:
        return math.isfinite(values.sum().item())
    except RuntimeError:  # vmap: there is no one answer
        return False


def graph_if_needed(*values: Tensor) -> torch.set_grad_enabled:
    """Derivatives keep no graph where the values that they belong to have none."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and any(value.requires_grad for value in values))


def _common_batch(x_name: str, x_batch: torch.Size, u_name: str, u_batch: torch.Size) -> torch.Size:
    """What the batch axes broadcast to; torch.broadcast_shapes takes longer than a step of small systems."""
    if x_batch == u_batch:
        return x_batch
    axes = []
    for i in range(1, max(len(x_batch), len(u_batch)) + 1):
        x, u = (x_batch[-i] if i <= len(x_batch) else 1), (u_batch[-i] if i <= len(u_batch) else 1)
        if x != u and x != 1 and u != 1:
            raise ValueError(
                f"the batch axes of {x_name} {tuple(x_batch)} and {u_name} {tuple(u_batch)} do not broadcast"
            )
        axes.append(u if x == 1 else x)
    return torch.Size(reversed(axes))


def is_numbered(names: Sequence[str]) -> bool:
    """Whether names are a letter and a number each, as given by default, and say nothing about what the values are."""
    return all(name[1:] == str(i) for i, name in enumerate(names))


def _names(kind: str, names: Sequence[str] | None, dim: int, prefix: str) -> tuple[str, ...]:
    result = tuple(names) if names is not None else tuple(f"{prefix}{i}" for i in range(dim))
    if len(result) != dim or len(set(result)) != dim:
        raise ValueError(f"{kind}_names must be {dim} distinct names, got {result}")
    return result
