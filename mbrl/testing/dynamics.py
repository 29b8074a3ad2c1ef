"""The contract of dynamics."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dynamics import Dynamics, PhysicalParameter, StochasticDynamics
from mbrl.testing.contract import ContractError, require, require_close, require_value_error

_POINTS, _STEPS, _WORLDS = 6, 3, 3


def check_dynamics(
    dynamics: Dynamics,
    *,
    x: Tensor | None = None,
    u: Tensor | None = None,
    t: int | None = None,
    precision: torch.dtype = torch.float64,
    exact: bool = False,
) -> None:
    """Check everything that :class:`dynamics.Dynamics` and :class:`dynamics.StochasticDynamics` promise.

    Shapes and dtypes on several batch shapes; purity; batched equals single; rollouts; derivatives against independent
    finite differences; the tangent space; parameters, also per world and with gradients; diverged worlds; the errors on
    wrong shapes; and, for stochastic dynamics, predictions and sampled rollouts.

    Args:
        dynamics: the object to check, with shared parameter values.
        x: test states ``(K, n)``, standard normal by default; give them where the state lies on a manifold.
        u: test controls ``(K, m)``, standard normal by default.
        t: step at which to check, needed by dynamics that vary with time; they must be defined for three steps from t.
        precision: the dtype in which the dynamics computes, whatever dtype it is called in; sets the tolerances and the
            steps of the finite differences.
        exact: batched evaluation must equal single evaluation bit for bit, as a simulator's does.

    Raises:
        ContractError: the contract is violated.
        ValueError: x or u do not fit the dynamics, or parameters have one value per world.
    """
    case = _make_case(dynamics, x, u, t, precision, exact)
    checks = _DYNAMICS_CHECKS + (_STOCHASTIC_CHECKS if isinstance(dynamics, StochasticDynamics) else ())
    for check in checks:
        try:
            check(case)
        except ContractError:
            raise
        except Exception as error:
            what = check.__name__.removeprefix("_check_").replace("_", " ")
            raise ContractError(f"checking {what}: {type(error).__name__}: {error}") from error


# Test points and what is evaluated at them


@dataclass(frozen=True, eq=False)
class _Points:
    """States ``(*batch, n)``, controls ``(*batch, m)``, control sequences ``(*batch, T, m)``, costates ``(*batch, k)``."""

    x: Tensor
    u: Tensor
    us: Tensor
    costate: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> "_Points":
        return _Points(**{field.name: f(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True, eq=False)
class _Case:
    dynamics: Dynamics
    points: _Points
    t: int | None
    precision: torch.dtype
    exact: bool
    generator: torch.Generator

    @property
    def t0(self) -> int:
        return self.t or 0

    @property
    def eps(self) -> float:
        return torch.finfo(self.precision).eps

    @property
    def round_off(self) -> float:
        """Allowed relative difference between two ways of computing the same number, 1e-12 in float64."""
        return 0.0 if self.exact else 4096 * self.eps

    def tolerance(self, quantity: str) -> float:
        """Like ``round_off``, which finite differences amplify."""
        if self.exact or self.dynamics.derivatives == "autograd":
            return self.round_off
        if quantity.startswith("curvature"):
            return 256 * self.eps**0.5
        return 256 * self.eps ** (2 / 3) if quantity.startswith("linearize") else self.round_off

    def randn(self, *shape: int) -> Tensor:
        x = self.points.x
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(x.device)


def _make_case(
    dynamics: Dynamics, x: Tensor | None, u: Tensor | None, t: int | None, precision: torch.dtype, exact: bool
) -> _Case:
    per_world = [name for name, p in dynamics.physical_parameters.items() if getattr(dynamics, name).shape != p.shape]
    if per_world:
        raise ValueError(
            f"check the dynamics with shared values of {', '.join(per_world)}: worlds are part of the check"
        )
    generator = torch.Generator().manual_seed(0)

    def points(name: str, given: Tensor | None, dim: int) -> Tensor:
        if given is None:
            return torch.randn(_POINTS, dim, generator=generator, dtype=torch.float64)
        if given.ndim != 2 or given.shape[0] < 1 or given.shape[1] != dim:
            raise ValueError(f"{name} must have shape (K, {dim}), got {tuple(given.shape)}")
        return given.detach().to(torch.float64)[torch.arange(_POINTS) % given.shape[0]]

    x = points("x", x, dynamics.state_dim)
    u = points("u", u, dynamics.control_dim).to(x.device)
    us = torch.stack([u.roll(k, dims=0) for k in range(_STEPS)], dim=-2)
    costate = torch.randn(_POINTS, dynamics.tangent_dim, generator=generator, dtype=torch.float64).to(x.device)
    return _Case(dynamics, _Points(x, u, us, costate), t, precision, exact, generator)


def _evaluations(dynamics: Dynamics, points: _Points, t: int | None) -> Iterator[tuple[str, Tensor]]:
    """Everything that a dynamics computes at some points, by name; what others build on comes first."""
    yield "forward", dynamics(points.x, points.u, t).detach()
    yield "observe", dynamics.observe(points.x).detach()
    yield "rollout", dynamics.rollout(points.x, points.us, t or 0).detach()
    linearization = dynamics.linearize(points.x, points.u, t)
    yield from ((f"linearize.{name}", getattr(linearization, name).detach()) for name in ("x_next", "fx", "fu", "hx"))
    curvature = dynamics.curvature(points.x, points.u, points.costate, t)
    yield from ((f"curvature.{name}", getattr(curvature, name).detach()) for name in ("xx", "ux", "uu"))


def _evaluate(dynamics: Dynamics, points: _Points, t: int | None) -> dict[str, Tensor]:
    return dict(_evaluations(dynamics, points, t))


# What every dynamics promises


def _check_shapes_and_dtypes(case: _Case) -> None:
    d = case.dynamics
    n, m, k, y = d.state_dim, d.control_dim, d.tangent_dim, d.observation_dim
    shapes = {
        "forward": (n,),
        "observe": (y,),
        "rollout": (_STEPS + 1, n),
        "linearize.x_next": (n,),
        "linearize.fx": (k, k),
        "linearize.fu": (k, m),
        "linearize.hx": (y, k),
        "curvature.xx": (k, k),
        "curvature.ux": (m, k),
        "curvature.uu": (m, m),
    }
    batches = {
        (): lambda a: a[0],
        (3,): lambda a: a[:3],
        (2, 3): lambda a: a.unflatten(0, (2, 3)),
        (0,): lambda a: a[:0],
    }
    for dtype in (torch.float64, torch.float32):
        for batch, select in batches.items():
            points = case.points.map(lambda a, f=select, dtype=dtype: f(a).to(dtype, copy=True))
            for name, value in _evaluations(d, points, case.t):
                expected = (*batch, *shapes[name])
                require(
                    value.shape == expected,
                    f"{name} must have shape {expected} for a batch of shape {batch}, got {tuple(value.shape)}",
                )
                require(value.dtype == dtype, f"{name} must have the dtype of x, {dtype}, got {value.dtype}")


def _check_purity(case: _Case) -> None:
    before = case.points.map(torch.clone)
    first = _evaluate(case.dynamics, case.points, case.t)
    _evaluate(case.dynamics, case.points.map(lambda a: 0.5 * a.flip(0)), case.t)
    again = _evaluate(case.dynamics, case.points, case.t)
    for name, value in first.items():
        require(torch.equal(value, again[name]), f"{name} must be pure, but two calls with equal inputs differ")
    for field in fields(before):
        same = torch.equal(getattr(before, field.name), getattr(case.points, field.name))
        require(same, f"inputs must not be modified, but {field.name} was")


def _check_batched_equals_single(case: _Case) -> None:
    batched = _evaluate(case.dynamics, case.points, case.t)
    singles = [_evaluate(case.dynamics, case.points.map(lambda a, i=i: a[i]), case.t) for i in range(_POINTS)]
    strided = case.points.map(lambda a: a.unflatten(0, (3, 2)).transpose(0, 1))
    for name, value in _evaluate(case.dynamics, strided, case.t).items():
        tolerance = case.tolerance(name)
        single = torch.stack([s[name] for s in singles])
        advice = "" if case.precision == torch.float32 else "; if it computes in float32, pass precision=torch.float32"
        require_close(batched[name], single, tolerance, f"{name} of a batch must equal {name} of each element{advice}")
        single = single.unflatten(0, (3, 2)).transpose(0, 1)
        require_close(value, single, tolerance, f"{name} must not depend on the memory layout or shape of the batch")


def _check_time(case: _Case) -> None:
    x, u = case.points.x, case.points.u
    step = 1 if case.t is None else case.t
    expected = case.dynamics(x, u, step)
    for t in (torch.tensor(step), torch.full((_POINTS,), step), torch.full((1,), step)):
        actual = case.dynamics(x, u, t.to(x.device))
        require_close(actual, expected, case.round_off, f"a step t of shape {tuple(t.shape)} must act like an integer")
    expected = case.dynamics.linearize(x, u, step).fx
    actual = case.dynamics.linearize(x, u, torch.full((_POINTS,), step, device=x.device)).fx
    require_close(actual, expected, case.tolerance("linearize"), "linearize must take one step t per batch element")


def _check_rollout(case: _Case) -> None:
    d, x, us = case.dynamics, case.points.x, case.points.us
    xs = [x]
    for k in range(_STEPS):
        xs.append(d(xs[-1], us[:, k], case.t0 + k))
    xs = torch.stack(xs, dim=-2)
    require_close(d.rollout(x, us, case.t0), xs, case.round_off, "rollout must equal repeated forward")
    actual = d.rollout(x, us[:, :0], case.t0)
    require_close(actual, x.unsqueeze(-2), 0.0, "rollout over no steps must return the initial state")
    actual = d.rollout(x[0], us, case.t0)
    expected = d.rollout(x[:1].expand_as(x), us, case.t0)
    require_close(actual, expected, case.round_off, "rollout must broadcast one initial state to many sequences")


def _check_divergence(case: _Case) -> None:
    d, points = case.dynamics, case.points
    x = points.x.clone()
    x[1] = float("nan")
    others = [i for i in range(_POINTS) if i != 1]
    for name, broken, sound in (
        ("forward", d(x, points.u, case.t), d(points.x, points.u, case.t)),
        ("rollout", d.rollout(x, points.us, case.t0), d.rollout(points.x, points.us, case.t0)),
    ):
        require(
            bool(sound.isfinite().all()),
            f"{name} is not finite at the test points; pass x and u where the system lives",
        )
        require(not bool(broken[1].isfinite().all()), f"{name} must stay NaN for a world that is NaN, got {broken[1]}")
        sentence = f"NaN in one batch element must not reach the others in {name}"
        require_close(broken[others], sound[others], case.round_off, sentence)
        require(name == "forward" or bool(broken[1].isnan().all()), "rollout must be all NaN from a NaN state on")


# Derivatives, compared with central differences that share no code with the library


def _central_differences(f: Callable[[Tensor], Tensor], k: int, step: float, device: torch.device) -> Tensor:
    """Jacobian of ``f: (k,) -> (*batch, p)`` at zero, ``(*batch, p, k)``, one column at a time."""
    columns = []
    for i in range(k):
        direction = torch.zeros(k, dtype=torch.float64, device=device)
        direction[i] = step
        columns.append((f(direction) - f(-direction)) / (2 * step))
    return torch.stack(columns, dim=-1)


def _step_in_tangent_space(case: _Case) -> Callable[[Tensor], Tensor]:
    """(dx, du) -> f(x [+] dx, u + du) [-] f(x, u) at all test points, for one displacement ``(k + m,)``."""
    d, x, u = case.dynamics, case.points.x, case.points.u
    x_next = d(x, u, case.t).detach()

    @torch.no_grad()
    def f(dz: Tensor) -> Tensor:
        dx, du = dz[: d.tangent_dim], dz[d.tangent_dim :]
        return d.difference(d(d.retract(x, dx.expand(_POINTS, -1)), u + du, case.t), x_next)

    return f


def _check_linearize(case: _Case) -> None:
    d, x, u = case.dynamics, case.points.x, case.points.u
    step, tolerance = case.eps ** (1 / 3), 256 * case.eps ** (2 / 3)
    result = d.linearize(x, u, case.t)
    require_close(result.x_next, d(x, u, case.t), case.round_off, "linearize.x_next must equal forward")
    expected = _central_differences(_step_in_tangent_space(case), d.tangent_dim + d.control_dim, step, x.device)
    fx, fu = expected[..., : d.tangent_dim], expected[..., d.tangent_dim :]
    require_close(result.fx, fx, tolerance, "linearize.fx must equal finite differences of forward by the state")
    require_close(result.fu, fu, tolerance, "linearize.fu must equal finite differences of forward by the control")

    @torch.no_grad()
    def observe(dx: Tensor) -> Tensor:
        return d.observe(d.retract(x, dx.expand(_POINTS, -1)))

    hx = _central_differences(observe, d.tangent_dim, step, x.device)
    require_close(result.hx, hx, tolerance, "linearize.hx must equal finite differences of observe")


def _check_curvature(case: _Case) -> None:
    """Random bilinear forms of the Hessian: ``a' H b = (s(a+b) - s(a-b) - s(b-a) + s(-a-b)) / 4``."""
    d, points = case.dynamics, case.points
    step, tolerance = case.eps**0.25, 256 * case.eps**0.5
    f = _step_in_tangent_space(case)

    def s(dz: Tensor) -> Tensor:
        return (points.costate * f(step * dz)).sum(-1)

    c = d.curvature(points.x, points.u, points.costate, case.t)
    require_close(c.xx, c.xx.mT, case.tolerance("curvature"), "curvature.xx must be symmetric")
    require_close(c.uu, c.uu.mT, case.tolerance("curvature"), "curvature.uu must be symmetric")
    hessian = torch.cat([torch.cat([c.xx, c.ux.mT], dim=-1), torch.cat([c.ux, c.uu], dim=-1)], dim=-2)
    for block, mask in _curvature_blocks(case):
        for _ in range(4):
            a, b = (case.randn(2, d.tangent_dim + d.control_dim) * mask).unbind()
            expected = (s(a + b) - s(a - b) - s(b - a) + s(-a - b)) / (4 * step**2)
            sentence = f"curvature{block} must equal second differences of forward weighted by the costate"
            require_close(a @ hessian @ b, expected, tolerance, sentence)


def _curvature_blocks(case: _Case) -> tuple[tuple[str, Tensor], ...]:
    """Which directions to test, so that the error says where the fault is."""
    state = torch.arange(case.dynamics.tangent_dim + case.dynamics.control_dim) < case.dynamics.tangent_dim
    state = state.to(case.points.x)
    return ((".xx", state), (".uu", 1 - state), ("", torch.ones_like(state)))


def _check_gradient(case: _Case) -> None:
    d = case.dynamics
    if d.tangent_dim != d.state_dim:
        return  # off the manifold forward may be anything
    x, u = (a.clone().requires_grad_() for a in (case.points.x, case.points.u))
    x_next = d(x, u, case.t)
    require(x_next.requires_grad, "forward must be differentiable by autograd, but its result carries no graph")
    weight = case.points.costate
    gx, gu = torch.autograd.grad((weight * x_next).sum(), (x, u), materialize_grads=True)
    step, tolerance = case.eps ** (1 / 3), 256 * case.eps ** (2 / 3)
    jacobian = _central_differences(_step_in_tangent_space(case), d.state_dim + d.control_dim, step, x.device)
    expected = (weight.unsqueeze(-2) @ jacobian).squeeze(-2)
    sentence = "gradients through forward must equal finite differences"
    require_close(torch.cat([gx, gu], dim=-1), expected, tolerance, sentence)


def _check_geometry(case: _Case) -> None:
    d, x = case.dynamics, case.points.x
    dx = 0.1 * case.randn(_POINTS, d.tangent_dim)
    tolerance = 4096 * case.eps
    actual = d.difference(d.retract(x, dx), x)
    require_close(actual, dx, tolerance, "difference must undo retract: difference(retract(x, dx), x) = dx")
    reached = d.retract(x, d.difference(x.roll(1, dims=0), x))
    missed = d.difference(reached, x.roll(1, dims=0))  # unlike x itself, blind to the two signs of a quaternion
    sentence = "retract must undo difference: retract(x, difference(y, x)) = y"
    require_close(missed, torch.zeros_like(missed), tolerance, sentence)


# Parameters


def _moved(parameter: PhysicalParameter, fraction: float) -> Tensor:
    """The nominal value, moved by a fraction of the way towards the bound that is farther away."""
    value = parameter.tensor().detach()
    lower, upper = parameter.bounds
    upwards = upper - value >= value - lower
    room = torch.minimum(torch.where(upwards, upper - value, value - lower), 1 + value.abs())
    return torch.where(upwards, value + fraction * room, value - fraction * room)


def _check_with_parameters(case: _Case) -> None:
    d = case.dynamics
    before = _evaluate(d, case.points, case.t)
    tensors = {**dict(d.named_buffers()), **dict(d.named_parameters())}
    for name, parameter in d.physical_parameters.items():
        value = _moved(parameter, 0.1)
        copy = d.with_parameters(**{name: value})
        require(type(copy) is type(d), f"with_parameters must return a {type(d).__name__}, got {type(copy).__name__}")
        require_close(getattr(copy, name), value, 0.0, f"with_parameters({name}=...) must set {name}")
        shared = {**dict(copy.named_buffers()), **dict(copy.named_parameters())}
        others = [key for key, tensor in tensors.items() if key != name and shared.get(key) is not tensor]
        require(not others, f"with_parameters({name}=...) must share everything else, but copied {', '.join(others)}")
        untouched = getattr(d, name) is tensors[name]
        require(untouched, f"with_parameters({name}=...) must not change the object it is called on")
        _evaluate(copy, case.points, case.t)
    for name, value in _evaluate(d, case.points, case.t).items():
        require(torch.equal(value, before[name]), f"with_parameters must not change {name} of the original")
    require_value_error(lambda: d.with_parameters(no_such_parameter=1.0), "an unknown parameter", "no_such_parameter")


def _check_worlds(case: _Case) -> None:
    """Values per world act like separate copies, also with a planner's axis after the world axis."""
    d = case.dynamics
    if not d.physical_parameters:
        return
    values = {
        name: torch.stack([_moved(parameter, 0.05 * (w + 1)) for w in range(_WORLDS)])
        for name, parameter in d.physical_parameters.items()
    }
    worlds = d.with_parameters(**values)
    copies = [d.with_parameters(**{name: value[w] for name, value in values.items()}) for w in range(_WORLDS)]
    for points in (
        case.points.map(lambda a: a[:_WORLDS]),
        case.points.map(lambda a: a.unflatten(0, (_WORLDS, 2))),
    ):
        separate = [_evaluate(copy, points.map(lambda a, w=w: a[w]), case.t) for w, copy in enumerate(copies)]
        for name, value in _evaluate(worlds, points, case.t).items():
            expected = torch.stack([s[name] for s in separate])
            batch = tuple(points.x.shape[:-1])
            sentence = f"parameters per world must align with the first batch axis: {name} on a batch {batch}"
            require_close(value, expected, case.tolerance(name), f"{sentence} must equal one copy per world")


def _check_parameter_gradients(case: _Case) -> None:
    d, points = case.dynamics, case.points
    if d.derivatives != "autograd":
        return
    weight = case.randn(_POINTS, d.state_dim + d.observation_dim)

    def objective(name: str, value: Tensor) -> Tensor:
        copy = d.with_parameters(**{name: value})
        return (weight * torch.cat([copy(points.x, points.u, case.t), copy.observe(points.x)], dim=-1)).sum()

    for name, parameter in d.physical_parameters.items():
        value = _moved(parameter, 0.1).to(points.x.device).requires_grad_()
        result = objective(name, value)
        gradient = torch.autograd.grad(result, value, allow_unused=True)[0] if result.requires_grad else None
        if gradient is None:
            raise ContractError(f"gradients must reach a tensor handed to with_parameters, but {name} gets none")
        direction = case.randn(*value.shape)
        step = case.eps ** (1 / 3) * direction
        with torch.no_grad():
            expected = (objective(name, value + step) - objective(name, value - step)) / (2 * case.eps ** (1 / 3))
        actual, sentence = (gradient * direction).sum(), f"the gradient by {name} must equal finite differences"
        require_close(actual, expected, 1024 * case.eps ** (2 / 3), sentence)


# Errors


def _check_errors(case: _Case) -> None:
    d, t, t0, p = case.dynamics, case.t, case.t0, case.points
    n, m = str(d.state_dim), str(d.control_dim)
    wide_x, wide_u, wide_us = (torch.nn.functional.pad(a, (0, 1)) for a in (p.x, p.u, p.us))
    more_n, more_m = str(d.state_dim + 1), str(d.control_dim + 1)
    for name, call in (
        ("forward", lambda x, u: d(x, u, t)),
        ("linearize", lambda x, u: d.linearize(x, u, t)),
        ("curvature", lambda x, u: d.curvature(x, u, p.costate[: x.shape[0]], t)),
    ):
        require_value_error(lambda f=call: f(wide_x, p.u), f"{name} with x of size {more_n}, not {n}", n, more_n)
        require_value_error(lambda f=call: f(p.x, wide_u), f"{name} with u of size {more_m}, not {m}", m, more_m)
        sentence = f"{name} with batch axes (3,) and (2,)"
        require_value_error(lambda f=call: f(p.x[:3], p.u[:2]), sentence, "(3,", "(2,")
    require_value_error(lambda: d.rollout(wide_x, p.us, t0), f"rollout with x0 of size {more_n}, not {n}", n, more_n)
    require_value_error(lambda: d.rollout(p.x, wide_us, t0), f"rollout with us of size {more_m}, not {m}", m, more_m)
    require_value_error(lambda: d.rollout(p.x[:3], p.us[:2], t0), "rollout with batches (3,) and (2,)", "(3,", "(2,")
    require_value_error(lambda: d.rollout(p.x[0], p.us[0, 0], t0), "rollout with us of one axis", f"({m},)")


# What stochastic dynamics promise besides


def _stochastic(case: _Case) -> StochasticDynamics:
    if not isinstance(case.dynamics, StochasticDynamics):
        raise TypeError(f"expected StochasticDynamics, got {type(case.dynamics).__name__}")
    return case.dynamics


def _check_predict(case: _Case) -> None:
    d = _stochastic(case)
    for batch, points in (
        ((), case.points.map(lambda a: a[0])),
        ((3,), case.points.map(lambda a: a[:3])),
        ((2, 3), case.points.map(lambda a: a.unflatten(0, (2, 3)))),
        ((0,), case.points.map(lambda a: a[:0])),
    ):
        prediction = d.predict(points.x, points.u, case.t)
        expected = (*batch, d.state_dim)
        for name in ("mean", "aleatoric_std", "epistemic_std"):
            shape = getattr(prediction, name).shape
            require(shape == expected, f"predict.{name} must have shape {expected}, got {tuple(shape)}")
        for name in ("members", "members_std"):
            value = getattr(prediction, name)
            fits = value is None or (value.ndim == len(expected) + 1 and value.shape[1:] == expected)
            require(fits, f"predict.{name} must have shape (E, {', '.join(map(str, expected))})")
        for name in ("aleatoric_std", "epistemic_std", "members_std"):
            value = getattr(prediction, name)
            require(value is None or bool((value >= 0).all()), f"predict.{name} must not be negative or NaN")
        mean = d(points.x, points.u, case.t)
        require_close(mean, prediction.mean, case.round_off, "forward must be the mean of predict")


def _check_sample_rollout(case: _Case) -> None:
    d, p = _stochastic(case), case.points

    def sample(seed: int, particles: int = 4, us: Tensor = p.us, resample: str = "trajectory") -> Tensor:
        generator = torch.Generator(device=p.x.device).manual_seed(seed)
        return d.sample_rollout(p.x, us, particles=particles, generator=generator, resample=resample, t0=case.t0)  # pyright: ignore[reportArgumentType]

    global_state = torch.get_rng_state()
    for resample in ("trajectory", "step"):
        xs = sample(0, resample=resample)
        expected = (_POINTS, 4, _STEPS + 1, d.state_dim)
        require(xs.shape == expected, f"sample_rollout must have shape {expected}, got {tuple(xs.shape)}")
        start = p.x.unsqueeze(1).expand(-1, 4, -1)
        require_close(xs[:, :, 0], start, 0.0, "every particle of sample_rollout must start at x0")
        same = torch.equal(xs, sample(0, resample=resample))
        require(same, "sample_rollout must give the same samples for the same seed of the generator")
        prediction = d.predict(p.x, p.u, case.t)
        dealt = resample == "trajectory" and prediction.members is not None and 4 % len(prediction.members) == 0
        spread = bool(((prediction.aleatoric_std if dealt else prediction.std) > 0).any())
        require(not spread or not torch.equal(xs, sample(1, resample=resample)), "sample_rollout ignores its generator")
    require(sample(0, us=p.us[:, :0]).shape[2] == 1, "sample_rollout over no steps must return the initial state")
    require(torch.equal(global_state, torch.get_rng_state()), "sample_rollout must draw from the generator it is given")
    require_value_error(lambda: sample(0, particles=0), "sample_rollout with particles=0", "0")
    require_value_error(lambda: sample(0, resample="never"), "sample_rollout with resample='never'", "never", "step")
    require_value_error(lambda: sample(0, us=p.us[:2]), "sample_rollout with batches (6,) and (2,)", "(6,", "(2,")


_DYNAMICS_CHECKS: tuple[Callable[[_Case], None], ...] = (
    _check_shapes_and_dtypes,
    _check_purity,
    _check_batched_equals_single,
    _check_time,
    _check_rollout,
    _check_divergence,
    _check_geometry,
    _check_linearize,
    _check_curvature,
    _check_gradient,
    _check_with_parameters,
    _check_worlds,
    _check_parameter_gradients,
    _check_errors,
)
_STOCHASTIC_CHECKS: tuple[Callable[[_Case], None], ...] = (_check_predict, _check_sample_rollout)
