"""The contract on everything that acts, and every way to violate it."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from dynamics import ExtendedKalmanFilter
from mbrl import (
    EstimatedStateActor,
    NetworkSettings,
    Policy,
    SplineNoise,
    UniformNoise,
    discretized,
    pendulum_swing_up,
    point_navigation,
)
from mbrl.testing import ContractError, check_actor
from planners import CEM, DDP, MPC, MPPI, solve

PENDULUM = pendulum_swing_up("torch")
LISTED = discretized(PENDULUM, 3)
HEADS = ("gaussian", "squashed-gaussian", "beta", "mixture", "categorical")


def policy(head, task, **options):
    made = Policy.for_task(task, NetworkSettings(head, hidden=(8,), **options))
    with torch.no_grad():
        made.head.layer.weight.mul_(100.0)
    return made


def controller():
    x0 = PENDULUM.initial_state(1, torch.Generator().manual_seed(0))[0]
    return solve(PENDULUM.problem(horizon=6), DDP(max_iterations=5), x0).controller()


def mpc(planner):
    return MPC(PENDULUM.problem(horizon=5), planner)


def estimating():
    noise = 0.01 * torch.eye(2, dtype=torch.float64)
    estimator = ExtendedKalmanFilter(PENDULUM.dynamics, noise, noise)
    belief = estimator.init(torch.tensor([3.0, 0.0], dtype=torch.float64), noise)
    actor = EstimatedStateActor(controller(), estimator, belief, (-2.0, 2.0))
    return actor, replace(PENDULUM, observation=PENDULUM.dynamics.observe)


ACTORS = {
    **{f"{head}": lambda head=head: (policy(head, task := task_of(head)), task) for head in HEADS},
    **{
        f"{head}, recurrent": lambda head=head: (
            policy(head, task := task_of(head), recurrent=6, dtype="float64"),
            task,
        )
        for head in HEADS
    },
    "two controls": lambda: (policy("beta", task := point_navigation("torch")), task),
    "linear-Gaussian controller": lambda: (controller(), PENDULUM),
    "MPC, DDP": lambda: (mpc(DDP(max_iterations=2)), PENDULUM),
    "MPC, CEM": lambda: (mpc(CEM(num_samples=16, max_iterations=1)), PENDULUM),
    "MPC, MPPI": lambda: (mpc(MPPI(num_samples=16)), PENDULUM),
    "estimated state": estimating,
    "uniform noise": lambda: (UniformNoise((-2.0, 2.0)), PENDULUM),
    "spline noise": lambda: (SplineNoise((-2.0, 2.0), interval=2), PENDULUM),
}


def task_of(head):
    return LISTED if head == "categorical" else PENDULUM


SLOW = ("MPC, DDP", "MPC, MPPI")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in ACTORS])
def test_contract(name):
    check_actor(*ACTORS[name]())


# Actors that violate the contract. Each is linear feedback with one thing spoiled.


@dataclass(frozen=True)
class Memory:
    step: int
    generator: torch.Generator


class Feedback:
    acts_on = "observation"

    def init(self, batch: int, *, generator: torch.Generator | None = None) -> Any:
        return Memory(0, generator.clone_state() if generator else torch.Generator().manual_seed(0))

    def act(self, y, memory, *, deterministic=True):
        generator = memory.generator.clone_state()
        u = -0.1 * y.sum(-1, keepdim=True) - 0.01 * memory.step
        if not deterministic:
            u = u + 0.1 * torch.randn(u.shape, generator=generator, dtype=torch.float64).to(u)
        return u, Memory(memory.step + 1, generator)


def test_feedback_keeps_it():
    check_actor(Feedback(), PENDULUM)


class NoMemory:
    acts_on = "state"
    act = Feedback.act


class ActsOnPixels(Feedback):
    acts_on = "pixels"


class Nothing(Feedback):
    def act(self, y, memory, *, deterministic=True):
        return None, memory


class Flat(Feedback):
    def act(self, y, memory, *, deterministic=True):
        u, memory = super().act(y, memory)
        return u.squeeze(-1), memory


class AlwaysDouble(Feedback):
    def act(self, y, memory, *, deterministic=True):
        u, memory = super().act(y, memory, deterministic=deterministic)
        return u.double(), memory


class NotFinite(Feedback):
    def act(self, y, memory, *, deterministic=True):
        u, following = super().act(y, memory)
        return u / (memory.step != 2), following


class WithGradient(Feedback):
    gain = torch.ones((), requires_grad=True)

    def act(self, y, memory, *, deterministic=True):
        u, memory = super().act(y, memory)
        return u * self.gain.to(u), memory


class Overwriting(Feedback):
    def act(self, y, memory, *, deterministic=True):
        u, memory = super().act(y, memory)
        y.clamp_(-0.01, 0.01)
        return u, memory


class Counting(Feedback):
    calls = 0

    def act(self, y, memory, *, deterministic=True):
        type(self).calls += 1
        u, memory = super().act(y, memory)
        return u + 1e-6 * self.calls, memory


class SharedGenerator(Feedback):
    """Draws from the generator in its memory without copying it."""

    def act(self, y, memory, *, deterministic=True):
        u, following = super().act(y, memory)
        if not deterministic:
            u = u + torch.randn(u.shape, generator=memory.generator, dtype=torch.float64).to(u)
        return u, Memory(following.step, memory.generator)


class ChangingMemory(Feedback):
    """Counts up in a list that all memories share."""

    def init(self, batch, *, generator=None):
        return [0]

    def act(self, y, memory, *, deterministic=True):
        memory[0] += 1
        return -0.1 * memory[0] * y.sum(-1, keepdim=True), memory


class GlobalNoise(Feedback):
    def act(self, y, memory, *, deterministic=True):
        u, memory = super().act(y, memory)
        torch.rand(1)
        return u, memory


class FreshNoise(Feedback):
    def init(self, batch, *, generator=None):
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        return Memory(0, generator.clone_state())

    def act(self, y, memory, *, deterministic=True):
        u, following = super().act(y, memory, deterministic=False)
        return u, following


class IgnoresTheGenerator(Feedback):
    def init(self, batch, *, generator=None):
        generator = torch.Generator()
        generator.seed()
        return Memory(0, generator)


class StochasticByDefault(Feedback):
    def act(self, y, memory, *, deterministic=False):
        return super().act(y, memory, deterministic=deterministic)


class MeanOfTheBatch(Feedback):
    def act(self, y, memory, *, deterministic=True):
        u, memory = super().act(y, memory, deterministic=deterministic)
        return u + u.mean(), memory


@pytest.mark.parametrize(
    ("actor", "sentence"),
    [
        (NoMemory, "NoMemory must have init"),
        (ActsOnPixels, "must act on one of observation, state, got 'pixels'"),
        (Nothing, "must give a tensor, got NoneType"),
        (Flat, r"must give controls of shape \(3, 1\), got \(3,\)"),
        (AlwaysDouble, "in the dtype of what it sees, torch.float32, got torch.float64"),
        (NotFinite, "must give finite controls"),
        (WithGradient, "without gradient"),
        (Overwriting, "must not modify what it sees"),
        (Counting, "Counting must hold no state"),
        (SharedGenerator, "SharedGenerator must hold no state"),
        (ChangingMemory, "ChangingMemory must hold no state"),
        (GlobalNoise, "not the global one"),
        (FreshNoise, "the same controls when no generator is given"),
        (IgnoresTheGenerator, "the same controls for equal generators"),
        (StochasticByDefault, "deterministic by default"),
        (MeanOfTheBatch, "must do in a batch what it does in each episode alone"),
    ],
)
def test_a_violation_is_found(actor, sentence):
    with pytest.raises(ContractError, match=sentence):
        check_actor(actor(), PENDULUM)


def test_what_is_no_actor():
    with pytest.raises(ContractError, match="must have acts_on"):
        check_actor(torch.sin, PENDULUM)
    with pytest.raises(ContractError, match="must have acts_on"):
        check_actor(Feedback, PENDULUM)


def test_the_tolerance_of_batches():
    class NearlyTheMean(Feedback):
        def act(self, y, memory, *, deterministic=True):
            u, memory = super().act(y, memory, deterministic=deterministic)
            return u + 1e-4 * u.mean(), memory

    check_actor(NearlyTheMean(), PENDULUM, tolerance=1e-2)
    with pytest.raises(ContractError, match="in a batch"):
        check_actor(NearlyTheMean(), PENDULUM)
