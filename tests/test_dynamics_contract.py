"""The contract on every dynamics of the library, and every way to violate it."""

import inspect

import pytest
import torch
from instances import ALL_MODELS, ALL_SYSTEMS, Instance

import dynamics
from dynamics import Curvature, Dynamics, Linearization, PhysicalParameter, Prediction, StochasticDynamics
from mbrl.testing import ContractError, check_dynamics

ALL = ALL_SYSTEMS | ALL_MODELS


@pytest.mark.parametrize("instance", [pytest.param(instance, id=name) for name, instance in ALL.items()])
def test_contract(instance: Instance):
    check_dynamics(instance.make(), **instance.check)


def test_the_lists_are_complete():
    exported = {
        value
        for value in vars(dynamics).values()
        if inspect.isclass(value) and issubclass(value, Dynamics) and not inspect.isabstract(value)
    }
    missing = exported - {type(instance.make()) for instance in ALL.values()}
    assert not missing, f"add to tests/instances.py: {', '.join(sorted(cls.__name__ for cls in missing))}"


# A state on a manifold


def multiply(p, q):
    w, v, a, b = p[..., :1], p[..., 1:], q[..., :1], q[..., 1:]
    v, b = torch.broadcast_tensors(v, b)
    scalar = w * a - (v * b).sum(-1, keepdim=True)
    return torch.cat([scalar, w * b + a * v + torch.linalg.cross(v, b)], dim=-1)


def conjugate(q):
    return torch.cat([q[..., :1], -q[..., 1:]], dim=-1)


def small_rotation(d):
    """The rotation with vector part d / 2, for |d| < 2."""
    return torch.cat([(1 - 0.25 * d.square().sum(-1, keepdim=True)).sqrt(), 0.5 * d], dim=-1)


class Satellite(Dynamics):
    """Unit quaternion and body rates: seven numbers, six degrees of freedom."""

    inertia = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def __init__(self, derivatives="autograd", observation_dim=7):
        super().__init__(7, 3, 0.1, tangent_dim=6, observation_dim=observation_dim, parameters={"gain": 1.5})
        self.derivatives = derivatives

    def forward(self, x, u, t=None):
        self.check_step(x, u)
        q, rates, J = x[..., :4], x[..., 4:], self.inertia.to(x)
        torque = self.parameters_like(x).gain.unsqueeze(-1) * u - torch.linalg.cross(rates, J * rates)
        rates = rates + self.dt * torque / J
        return torch.cat([multiply(q, small_rotation(self.dt * rates)), rates], dim=-1)

    def difference(self, x1, x0):
        q = multiply(conjugate(x0[..., :4]), x1[..., :4])
        sign = torch.where(q[..., :1] < 0, -1.0, 1.0)
        return torch.cat([2 * sign * q[..., 1:], x1[..., 4:] - x0[..., 4:]], dim=-1)

    def retract(self, x, dx):
        return torch.cat([multiply(x[..., :4], small_rotation(dx[..., :3])), x[..., 4:] + dx[..., 3:]], dim=-1)


class StarTracker(Satellite):
    """Sees where one axis of the body points."""

    def __init__(self, derivatives):
        super().__init__(derivatives, observation_dim=3)

    def observe(self, x):
        axis = torch.tensor([0.0, 0.0, 0.0, 1.0]).to(x)
        return multiply(multiply(x[..., :4], axis), conjugate(x[..., :4]))[..., 1:]


@pytest.fixture
def attitudes(generator):
    x = torch.randn(6, 7, generator=generator, dtype=torch.float64)
    x[:, :4] /= x[:, :4].norm(dim=-1, keepdim=True)
    return x


@pytest.mark.parametrize("derivatives", ["autograd", "finite-difference"])
@pytest.mark.parametrize("cls", [Satellite, StarTracker])
def test_contract_on_a_manifold(cls, derivatives, attitudes):
    check_dynamics(cls(derivatives), x=attitudes)


@pytest.mark.parametrize("derivatives", ["autograd", "finite-difference"])
def test_linearize_on_a_manifold(derivatives, attitudes):
    """Without rates the attitude error stays as it is, and a torque turns the body by dt^2 gain / J."""
    satellite, u = Satellite(derivatives), torch.zeros(6, 3, dtype=torch.float64)
    attitudes[:, 4:] = 0
    result = satellite.linearize(attitudes, u)
    eye = torch.eye(3, dtype=torch.float64)
    inverse = torch.diag(1 / satellite.inertia)
    fx = torch.cat([torch.cat([eye, 0.1 * eye], 1), torch.cat([0 * eye, eye], 1)])
    fu = 1.5 * torch.cat([0.01 * inverse, 0.1 * inverse])
    torch.testing.assert_close(result.fx, fx.expand(6, 6, 6), rtol=0, atol=1e-9)
    torch.testing.assert_close(result.fu, fu.expand(6, 6, 3), rtol=0, atol=1e-9)


def test_finite_differences_are_checked_too():
    class Differenced(type(ALL_SYSTEMS["acrobot"].make())):
        derivatives = "finite-difference"

    check_dynamics(Differenced())


def test_float32_computation_needs_a_coarser_precision():
    class Float32(Sound):
        def forward(self, x, u, t=None):
            return super().forward(x.float(), u.float(), t).to(x.dtype)

    check_dynamics(Float32(), precision=torch.float32)
    with pytest.raises(ContractError, match="finite differences"):
        check_dynamics(Float32())


# Every violation is found


class Sound(Dynamics):
    def __init__(self):
        parameters = {"gain": PhysicalParameter(1.5, bounds=(0, 5)), "damping": PhysicalParameter(0.2, bounds=(0, 1))}
        super().__init__(2, 1, 0.1, observation_dim=1, parameters=parameters)

    def forward(self, x, u, t=None):
        self.check_step(x, u)
        p = self.parameters_like(x)
        velocity = x[..., 1] + self.dt * (torch.sin(x[..., 0]) - p.damping * x[..., 1] + p.gain * torch.sin(u[..., 0]))
        return torch.stack([x[..., 0] + self.dt * velocity, velocity], dim=-1)

    def observe(self, x):
        return torch.cos(x[..., :1])


def test_the_sound_one_is_sound():
    check_dynamics(Sound())


class WrongShape(Sound):
    def forward(self, x, u, t=None):
        return super().forward(x, u, t)[..., :1]


class WrongObservation(Sound):
    def observe(self, x):
        return x


class AnotherDtype(Sound):
    def forward(self, x, u, t=None):
        return super().forward(x, u, t).double()


class Remembers(Sound):
    calls = 0

    def forward(self, x, u, t=None):
        self.calls += 1
        return super().forward(x, u, t) + 1e-9 * self.calls


class ClampsItsInput(Sound):
    def forward(self, x, u, t=None):
        if not u.requires_grad:
            u.clamp_(-0.5, 0.5)
        return super().forward(x, u, t)


class MixesTheBatch(Sound):
    def forward(self, x, u, t=None):
        return super().forward(x, u, t) + (1e-6 * x.mean() if x.numel() else 0)


class IgnoresTensorSteps(Sound):
    def forward(self, x, u, t=None):
        return super().forward(x, u, t) + (0.1 * t if isinstance(t, int) else 0)


class OwnRollout(Sound):
    def rollout(self, x0, us, t0=0):
        return super().rollout(x0, us.roll(1, dims=-2), t0)


class NoEmptyRollout(Sound):
    def rollout(self, x0, us, t0=0):
        xs = super().rollout(x0, us, t0)
        return xs if us.shape[-2] else xs + 1


class LaundersNan(Sound):
    def forward(self, x, u, t=None):
        return super().forward(x, u, t).nan_to_num()


class SpreadsNan(Sound):
    def forward(self, x, u, t=None):
        return super().forward(x, u, t) + 0 * x.sum()


class Recovers(Sound):
    def rollout(self, x0, us, t0=0):
        xs = super().rollout(x0, us, t0)
        return torch.cat([xs[..., :-1, :], xs[..., -1:, :].nan_to_num()], dim=-2)


class TransposedJacobian(Sound):
    def linearize(self, x, u, t=None):
        result = super().linearize(x, u, t)
        return Linearization(result.x_next, result.fx.mT, result.fu, result.hx)


class ScaledControlJacobian(Sound):
    def linearize(self, x, u, t=None):
        result = super().linearize(x, u, t)
        return Linearization(result.x_next, result.fx, 1.0001 * result.fu, result.hx)


class NoObservationJacobian(Sound):
    def linearize(self, x, u, t=None):
        result = super().linearize(x, u, t)
        return Linearization(result.x_next, result.fx, result.fu, torch.zeros_like(result.hx))


class HalfCurvature(Sound):
    def curvature(self, x, u, costate, t=None):
        result = super().curvature(x, u, costate, t)
        return Curvature(0.5 * result.xx, result.ux, result.uu)


class NoControlCurvature(Sound):
    def curvature(self, x, u, costate, t=None):
        result = super().curvature(x, u, costate, t)
        return Curvature(result.xx, result.ux, 0 * result.uu)


class WrongMixedCurvature(Sound):
    def curvature(self, x, u, costate, t=None):
        result = super().curvature(x, u, costate, t)
        return Curvature(result.xx, result.ux + 0.01, result.uu)


class SkewCurvature(Sound):
    def curvature(self, x, u, costate, t=None):
        result = super().curvature(x, u, costate, t)
        skew = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).to(x)
        return Curvature(result.xx + skew, result.ux, result.uu)


class CutsTheGraph(Sound):
    derivatives = "finite-difference"

    def forward(self, x, u, t=None):
        return super().forward(x, u, t).detach()


class WrongBackward(Sound):
    derivatives = "finite-difference"

    def forward(self, x, u, t=None):
        return super().forward(x, u.detach(), t)


class OneSidedRetract(Sound):
    def retract(self, x, dx):
        return x + 2 * dx


class ClippedDifference(Sound):
    def difference(self, x1, x0):
        return (x1 - x0).clamp(-0.5, 0.5)


class Mutates(Sound):
    def with_parameters(self, **values):
        for name, value in values.items():
            setattr(self, name, self._checked_parameter(name, value))
        return self


class CopiesEverything(Sound):
    def with_parameters(self, **values):
        copy = super().with_parameters(**values)
        for name in self.physical_parameters:
            setattr(copy, name, getattr(copy, name).clone())
        return copy


class IgnoresValues(Sound):
    def with_parameters(self, **values):
        super().with_parameters(**values)
        return super().with_parameters()


class AcceptsAnyName(Sound):
    def with_parameters(self, **values):
        return super().with_parameters(**{name: v for name, v in values.items() if name in self.physical_parameters})


class LastAxisWorlds(Sound):
    """Reads a parameter past the accessor, so that worlds align with the last batch axis."""

    def parameters_like(self, x):
        p = super().parameters_like(x)
        p.gain = self.gain.to(x)
        return p


class FirstWorldOnly(Sound):
    def parameters_like(self, x):
        p = super().parameters_like(x)
        p.gain = p.gain.flatten()[0] if p.gain.numel() else p.gain
        return p


class DetachedParameter(Sound):
    def parameters_like(self, x):
        p = super().parameters_like(x)
        p.gain = p.gain.detach()
        return p


class WrongParameterGradient(Sound):
    def parameters_like(self, x):
        p = super().parameters_like(x)
        p.gain = 0.5 * (p.gain + p.gain.detach())
        return p


class NoChecks(Sound):
    def check_step(self, x, u):
        pass


class CurtErrors(Sound):
    def check_step(self, x, u):
        if x.shape[-1] != 2 or u.shape[-1] != 1 or x.shape[:-1] != u.shape[:-1]:
            raise ValueError("bad input")


VIOLATIONS = [
    (WrongShape, r"forward must have shape \(2,\) for a batch of shape \(\), got \(1,\)"),
    (WrongObservation, r"observe must have shape \(1,\)"),
    (AnotherDtype, "forward must have the dtype of x, torch.float32, got torch.float64"),
    (Remembers, "must be pure"),
    (ClampsItsInput, "inputs must not be modified, but u was"),
    (MixesTheBatch, "forward of a batch must equal forward of each element"),
    (IgnoresTensorSteps, r"a step t of shape \(\) must act like an integer"),
    (OwnRollout, "rollout must equal repeated forward"),
    (NoEmptyRollout, "rollout over no steps must return the initial state"),
    (LaundersNan, "forward must stay NaN"),
    (SpreadsNan, "NaN in one batch element must not reach the others in forward"),
    (Recovers, "rollout must be all NaN"),
    (TransposedJacobian, "linearize.fx must equal finite differences"),
    (ScaledControlJacobian, "linearize.fu must equal finite differences"),
    (NoObservationJacobian, "linearize.hx must equal finite differences"),
    (HalfCurvature, "curvature.xx must equal second differences"),
    (NoControlCurvature, "curvature.uu must equal second differences"),
    (WrongMixedCurvature, "curvature must equal second differences"),
    (SkewCurvature, "curvature.xx must be symmetric"),
    (CutsTheGraph, "carries no graph"),
    (WrongBackward, "gradients through forward must equal finite differences"),
    (OneSidedRetract, "difference must undo retract"),
    (ClippedDifference, "retract must undo difference"),
    (Mutates, r"with_parameters\(gain=...\) must not change the object"),
    (CopiesEverything, r"with_parameters\(gain=...\) must share everything else, but copied damping"),
    (IgnoresValues, r"with_parameters\(gain=...\) must set gain"),
    (AcceptsAnyName, "an unknown parameter: must raise ValueError"),
    (LastAxisWorlds, "checking worlds: .*size of tensor"),
    (FirstWorldOnly, "parameters per world must align with the first batch axis"),
    (DetachedParameter, "gradients must reach a tensor handed to with_parameters, but gain gets none"),
    (WrongParameterGradient, "the gradient by gain must equal finite differences"),
    (NoChecks, "forward with x of size 3, not 2: must raise ValueError, returned"),
    (CurtErrors, "forward with x of size 3, not 2: the error must name 2, 3, it says: bad input"),
]


@pytest.mark.parametrize(("broken", "message"), VIOLATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_violation_is_found(broken, message):
    with pytest.raises(ContractError, match=message):
        check_dynamics(broken())


def test_exact_means_bit_for_bit():
    """A matrix product may round differently in a batch; a formula per element does not."""

    class RoundsInBatches(Sound):
        def forward(self, x, u, t=None):
            x_next = super().forward(x, u, t)
            return x_next * (1 + torch.finfo(x.dtype).eps) if x.ndim > 1 else x_next

    check_dynamics(Sound(), exact=True)
    check_dynamics(RoundsInBatches())
    with pytest.raises(ContractError, match="of a batch must equal"):
        check_dynamics(RoundsInBatches(), exact=True)


def test_points_that_do_not_fit():
    with pytest.raises(ValueError, match=r"x must have shape \(K, 2\), got \(6, 3\)"):
        check_dynamics(Sound(), x=torch.zeros(6, 3))
    with pytest.raises(ValueError, match=r"u must have shape \(K, 1\), got \(1,\)"):
        check_dynamics(Sound(), u=torch.zeros(1))
    with pytest.raises(ValueError, match="shared values of gain"):
        check_dynamics(Sound().with_parameters(gain=torch.ones(3)))


# Stochastic dynamics


class Noisy(StochasticDynamics):
    def __init__(self):
        super().__init__(2, 1, 0.1)

    def predict(self, x, u, t=None):
        self.check_step(x, u)
        members = torch.stack([x + 0.1 * u, torch.sin(x) - 0.1 * u])
        noise = 0.1 + 0.0 * x
        spread = 0.5 * (members[1] - members[0]).abs()
        return Prediction(members.mean(0), noise, spread, members, noise.expand_as(members))


def test_the_noisy_one_is_sound():
    check_dynamics(Noisy())


class Memberless(Noisy):
    def predict(self, x, u, t=None):
        p = super().predict(x, u, t)
        return Prediction(p.mean, p.aleatoric_std, 0 * p.epistemic_std)


def test_without_members():
    check_dynamics(Memberless())


class NegativeNoise(Noisy):
    def predict(self, x, u, t=None):
        p = super().predict(x, u, t)
        return Prediction(p.mean, -p.aleatoric_std, p.epistemic_std, p.members, p.members_std)


class NarrowNoise(Noisy):
    def predict(self, x, u, t=None):
        p = super().predict(x, u, t)
        return Prediction(p.mean, p.aleatoric_std[..., :1], p.epistemic_std, p.members, p.members_std)


class MembersLast(Noisy):
    def predict(self, x, u, t=None):
        p = super().predict(x, u, t)
        return Prediction(p.mean, p.aleatoric_std, p.epistemic_std, p.members.movedim(0, -1), p.members_std)


class ForwardIsAMember(Noisy):
    def forward(self, x, u, t=None):
        return self.predict(x, u, t).members[0]


class GlobalNoise(Noisy):
    def sample_rollout(self, x0, us, *, particles, generator=None, resample="trajectory", noise=True, t0=0):
        torch.manual_seed(generator.initial_seed())
        return super().sample_rollout(x0, us, particles=particles, resample=resample, noise=noise, t0=t0)


class IgnoresGenerator(Noisy):
    def sample_rollout(self, x0, us, *, particles, generator=None, resample="trajectory", noise=True, t0=0):
        generator = torch.Generator().manual_seed(5)
        return super().sample_rollout(
            x0, us, particles=particles, generator=generator, resample=resample, noise=noise, t0=t0
        )


class NotReproducible(Noisy):
    def sample_rollout(self, x0, us, *, particles, generator=None, resample="trajectory", noise=True, t0=0):
        return super().sample_rollout(x0, us, particles=particles, resample=resample, noise=noise, t0=t0)


class NoInitialState(Noisy):
    def sample_rollout(self, *args, **kwargs):
        return super().sample_rollout(*args, **kwargs)[..., 1:, :]


class AnyResample(Noisy):
    def sample_rollout(self, *args, resample="trajectory", **kwargs):
        resample = resample if resample == "step" else "trajectory"
        return super().sample_rollout(*args, resample=resample, **kwargs)


STOCHASTIC_VIOLATIONS = [
    (NegativeNoise, "predict.aleatoric_std must not be negative"),
    (NarrowNoise, r"predict.aleatoric_std must have shape \(2,\), got \(1,\)"),
    (MembersLast, r"predict.members must have shape \(E, 3, 2\)"),
    (ForwardIsAMember, "forward must be the mean of predict"),
    (GlobalNoise, "must draw from the generator"),
    (IgnoresGenerator, "ignores its generator"),
    (NotReproducible, "same samples for the same seed"),
    (NoInitialState, r"sample_rollout must have shape \(6, 4, 4, 2\), got \(6, 4, 3, 2\)"),
    (AnyResample, "resample='never': must raise ValueError, returned"),
]


@pytest.mark.parametrize(("broken", "message"), STOCHASTIC_VIOLATIONS, ids=lambda v: getattr(v, "__name__", ""))
def test_stochastic_violation_is_found(broken, message):
    with torch.random.fork_rng(), pytest.raises(ContractError, match=message):
        check_dynamics(broken())
