"""Dynamics given by a formula: any torch function, mechanical systems, linear systems."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from dynamics import integrators
from dynamics.base import Dynamics, TimeStep, is_own, rolled_out
from dynamics.parameters import ParameterView, PhysicalParameter

Integrator = Literal["euler", "rk4", "semi_implicit_euler"]


class TorchDynamics(Dynamics):
    """Dynamics from a torch function ``f(x, u)``, or ``f(x, u, p)`` when parameters are named.

    Args:
        f: a function of states ``(*batch, n)`` and controls ``(*batch, m)``, written for any batch of at least one axis. With
            ``integrator=None`` it returns the next state; with ``"euler"`` or ``"rk4"`` the time derivative of the state;
            with ``"semi_implicit_euler"`` the acceleration ``(*batch, n/2)`` of ``x = (q, v)``. A scalar parameter with
            one value per world has the axes of batch, like ``x[..., 0]``.
        state_dim: n.
        control_dim: m.
        dt: duration of one step [s].
        parameters: named parameters; f then receives their values as attributes of its third argument.
        integrator: what f returns, see there.
        state_names: one name per state.
        control_names: one name per control.
        angles: indices of the states that are angles [rad].

    Raises:
        ValueError: the integrator is unknown, or needs an even state_dim; f returns another shape when it is called, or
            does not take batches.

    Example:
        >>> import torch
        >>> from dynamics import TorchDynamics
        >>> def acceleration(x, u, p):
        ...     return (u[..., 0] - p.stiffness * x[..., 0]).unsqueeze(-1)
        >>> spring = TorchDynamics(acceleration, 2, 1, dt=0.01, parameters={"stiffness": 4.0},
        ...                        integrator="semi_implicit_euler")
        >>> spring(torch.tensor([1.0, 0.0]), torch.tensor([0.0])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        f: Callable[..., Tensor],
        state_dim: int,
        control_dim: int,
        dt: float,
        *,
        parameters: Mapping[str, PhysicalParameter | float | Tensor] | None = None,
        integrator: Integrator | None = None,
        state_names: Sequence[str] | None = None,
        control_names: Sequence[str] | None = None,
        angles: Sequence[int] = (),
    ):
        super().__init__(
            state_dim,
            control_dim,
            dt,
            parameters=parameters,
            state_names=state_names,
            control_names=control_names,
            angles=angles,
        )
        if integrator not in (None, "euler", "rk4", "semi_implicit_euler"):
            raise ValueError(f"integrator must be None, 'euler', 'rk4' or 'semi_implicit_euler', got {integrator!r}")
        if integrator == "semi_implicit_euler" and state_dim % 2:
            raise ValueError(f"'semi_implicit_euler' needs x = (q, v) of even dimension, got state_dim={state_dim}")
        self.f = f
        self.integrator = integrator

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The next state, ``(*batch, n)``."""
        self.check_step(x, u)
        return self._step_like(x)(x.unsqueeze(0), u.unsqueeze(0), t).squeeze(0)

    def rollout(self, x0: Tensor, us: Tensor, t0: int = 0) -> Tensor:
        """States ``(*batch, T+1, n)`` under a control sequence."""
        if not is_own(self.forward, TorchDynamics.forward):
            return super().rollout(x0, us, t0)
        batch = self.check_sequence(x0, us)
        x, us = x0.expand(*batch, self.state_dim), us.expand(*batch, *us.shape[-2:])
        return rolled_out(self._step_like(x), x.unsqueeze(0), us.unsqueeze(0), t0).squeeze(0)

    def _step_like(self, x: Tensor) -> Callable[[Tensor, Tensor, TimeStep], Tensor]:
        """The step of states like x, with one axis more in front.

        Without a batch axis x[1] would be a state, and in a batch of n states silently another number.
        """
        p = (self.parameters_like(x),) if self.physical_parameters else ()
        n = self.state_dim // 2 if self.integrator == "semi_implicit_euler" else self.state_dim
        shape = (1, *x.shape[:-1], n)

        def f(x: Tensor, u: Tensor) -> Tensor:
            try:
                y = self.f(x, u, *p)
            except IndexError as error:
                raise ValueError(
                    f"f cannot index x {tuple(x.shape)} or u {tuple(u.shape)}: {error}; axes of batch come first, so write "
                    "x[..., 1], not x[1]"
                ) from error
            if y.shape != shape:  # most would broadcast into a wrong result
                raise ValueError(
                    f"f must return shape {shape} for x {tuple(x.shape)} and u {tuple(u.shape)}, got {tuple(y.shape)}; "
                    "a scalar parameter multiplies x[..., 0], or x[..., :1] after .unsqueeze(-1)"
                )
            return y

        if self.integrator is None:
            return lambda x, u, t: f(x, u)
        integrate = getattr(integrators, self.integrator)
        return lambda x, u, t: integrate(f, x, u, self.dt)


class MechanicalSystem(Dynamics):
    """A system with state ``x = (q, v)`` and an acceleration written once, integrated over one step.

    Subclasses implement :meth:`acceleration`, :meth:`energy` and :meth:`mjcf`.

    Args:
        control_dim: m.
        coordinates: names of the generalized coordinates; velocities are called ``<name>_velocity``.
        dt: duration of one step [s].
        integrator: ``"rk4"`` (order 4) or ``"semi_implicit_euler"`` (order 1; bounded energy error without damping where
            the mass matrix is constant).
        parameters: named physical parameters.
        control_names: one name per control.
        angles: indices of the coordinates that are angles [rad].
    """

    def __init__(
        self,
        control_dim: int,
        coordinates: Sequence[str],
        dt: float,
        *,
        integrator: Literal["rk4", "semi_implicit_euler"],
        parameters: Mapping[str, PhysicalParameter | float | Tensor],
        control_names: Sequence[str],
        angles: Sequence[int] = (),
    ):
        super().__init__(
            2 * len(coordinates),
            control_dim,
            dt,
            parameters=parameters,
            state_names=[*coordinates, *(f"{name}_velocity" for name in coordinates)],
            control_names=control_names,
            angles=angles,
        )
        if integrator not in ("rk4", "semi_implicit_euler"):
            raise ValueError(f"integrator must be 'rk4' or 'semi_implicit_euler', got {integrator!r}")
        self.integrator: Literal["rk4", "semi_implicit_euler"] = integrator

    @abc.abstractmethod
    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Generalized acceleration ``(*batch, n/2)`` at states ``(*batch, n)`` and controls ``(*batch, m)``."""

    @abc.abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """Kinetic plus potential energy [J] of states ``(*batch, n)``: ``(*batch,)``."""

    @abc.abstractmethod
    def mjcf(self) -> str:
        """The same system with the present (shared) parameter values as a MuJoCo model, an MJCF string.

        Raises:
            ValueError: parameters have one value per world; a MuJoCo model has one.
        """

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The next state, ``(*batch, n)``."""
        self.check_step(x, u)
        return self._step_like(x)(x, u, t)

    def rollout(self, x0: Tensor, us: Tensor, t0: int = 0) -> Tensor:
        """States ``(*batch, T+1, n)`` under a control sequence."""
        if not is_own(self.forward, MechanicalSystem.forward):
            return super().rollout(x0, us, t0)
        batch = self.check_sequence(x0, us)
        x = x0.expand(*batch, self.state_dim)
        return rolled_out(self._step_like(x), x, us.expand(*batch, *us.shape[-2:]), t0)

    def _step_like(self, x: Tensor) -> Callable[[Tensor, Tensor, TimeStep], Tensor]:
        """The step of states like x; parameters are looked up once."""
        p = self.parameters_like(x)

        def acceleration(x: Tensor, u: Tensor) -> Tensor:
            return self.acceleration(x, u, p)

        if self.integrator == "rk4":
            derivative = integrators.first_order(acceleration)
            return lambda x, u, t: integrators.rk4(derivative, x, u, self.dt)
        return lambda x, u, t: integrators.semi_implicit_euler(acceleration, x, u, self.dt)

    def shared_values(self) -> dict[str, float]:
        """Present parameter values as numbers, for :meth:`mjcf`; ValueError if they are per world."""
        values = {name: getattr(self, name) for name in self.physical_parameters}
        per_world = [name for name, value in values.items() if value.ndim > 0]
        if per_world:
            raise ValueError(
                f"an MJCF model has one value per parameter, got one per world for: {', '.join(per_world)}"
            )
        return {name: float(value) for name, value in values.items()}


class LinearDynamics(Dynamics):
    r"""Linear (affine) dynamics :math:`x_{t+1} = A_t x_t + B_t u_t + b_t`.

    Args:
        A: ``(n, n)``, or ``(T, n, n)`` for one matrix per step.
        B: ``(n, m)`` or ``(T, n, m)``.
        b: ``(n,)``, ``(T, n)`` or None for zero.
        dt: duration of one step [s].

    The matrices are the parameters ``A``, ``B`` and ``b``: ``with_parameters(A=...)`` replaces one, also per world.

    Raises:
        ValueError: shapes do not fit, or a step outside the T given ones is asked for.
    """

    def __init__(self, A: Tensor, B: Tensor, b: Tensor | None = None, *, dt: float = 1.0):
        A, B = _tensor(A), _tensor(B)
        if A.ndim < 2 or B.ndim < 2:
            raise ValueError(f"A and B must be matrices, got shapes {tuple(A.shape)} and {tuple(B.shape)}")
        n, m = A.shape[-1], B.shape[-1]
        b = torch.zeros(n, dtype=A.dtype) if b is None else _tensor(b)
        steps = {
            name: value.shape[0] for name, value, ndim in (("A", A, 3), ("B", B, 3), ("b", b, 2)) if value.ndim == ndim
        }
        shapes_fit = A.shape[-2:] == (n, n) and B.shape[-2:] == (n, m) and b.shape[-1:] == (n,)
        if not shapes_fit or A.ndim > 3 or B.ndim > 3 or b.ndim > 2 or len(set(steps.values())) > 1:
            raise ValueError(
                "need A (n, n) or (T, n, n), B (n, m) or (T, n, m), b (n,) or (T, n), got "
                f"A {tuple(A.shape)}, B {tuple(B.shape)}, b {tuple(b.shape)}"
            )
        super().__init__(n, m, dt, parameters={"A": A, "B": B, "b": b})
        self.num_steps = next(iter(steps.values()), 0)
        self.time_varying = frozenset(steps)

    def coefficients(self, x: Tensor, t: TimeStep = None) -> tuple[Tensor, Tensor, Tensor]:
        """A ``(..., n, n)``, B ``(..., n, m)`` and b ``(..., n)`` at step t, broadcastable against states x."""
        p = self.parameters_like(x)
        A, B, b = (self._at(name, getattr(p, name), t) for name in ("A", "B", "b"))
        return A, B, b

    def _at(self, name: str, value: Tensor, t: TimeStep) -> Tensor:
        if name not in self.time_varying:
            return value
        if t is None:
            raise ValueError(f"{name} has one matrix per step, so the step t must be given")
        index = torch.as_tensor(t, device=value.device)
        if bool(((index < 0) | (index >= self.num_steps)).any()):
            raise ValueError(f"{name} is given for steps 0..{self.num_steps - 1}, got t={t}")
        axis = value.ndim - (2 if name == "b" else 3)
        if index.ndim == 0:
            return value.select(axis, int(index))
        if axis > 0:
            raise ValueError(f"{name} is per world and per step: call it with one step t at a time, got t={t}")
        return value[index]

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The next state, ``(*batch, n)``."""
        self.check_step(x, u)
        A, B, b = self.coefficients(x, t)
        return (A @ x.unsqueeze(-1) + B @ u.unsqueeze(-1)).squeeze(-1) + b


def _tensor(value: Tensor) -> Tensor:
    """Tensors as they are; arrays and lists in double precision, which torch would round to its default."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
