"""Deadlines shorter than one iteration, on a model of which each rollout takes a known time."""

import itertools

import pytest
import torch

from dynamics import DoubleIntegrator, Dynamics
from planners import CEM, ICEM, MPC, MPPI, GoalCost, PredictiveSampling, Problem, RandomShooting
from planners.deadline import Deadline
from planners.sampling.base import FEWEST

ALL = [CEM(), ICEM(), MPPI(), PredictiveSampling(num_samples=100), RandomShooting()]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Slow(Dynamics):
    """A double integrator; a rollout takes ``fixed`` seconds and ``each`` per world."""

    def __init__(self, clock, each=0.001, fixed=0.0):
        super().__init__(2, 1, 0.1)
        self.exact, self.clock, self.each, self.fixed, self.worlds = DoubleIntegrator(dt=0.1), clock, each, fixed, []

    def forward(self, x, u, t=None):
        return self.exact(x, u)

    def rollout(self, x0, us, t0=0):
        xs = super().rollout(x0, us, t0)
        self.worlds.append(xs[..., 0, 0].numel())
        self.clock.now += self.fixed + self.each * self.worlds[-1]
        return xs


def loop(planner, budget, steps=6, warm=True, **options):
    """Evaluations and overruns of the steps of a loop."""
    clock = Clock()
    model = Slow(clock, **options)
    problem = Problem(model, GoalCost([1.0, 0.0], 1.0, 0.01), 8, control_limits=(-1.0, 1.0))
    mpc, x = MPC(problem, planner, budget=budget, clock=clock), tensor([0.0, 0.0])
    state = mpc.warm_up(x) if warm else mpc.init(x)
    evaluations, seconds, costs = [], [], []
    for _ in range(steps):
        start = clock()
        u, state = mpc.step(state, x)
        seconds.append(clock() - start)
        evaluations.append(state.solution.stats["evaluations"])
        costs.append(float(state.solution.cost))
        x = model.exact(x, u)
    return evaluations, seconds, state, costs


@pytest.mark.parametrize("planner", ALL, ids=lambda planner: type(planner).__name__)
def test_where_an_iteration_takes_too_long_fewer_candidates_are_tried(planner):
    """A candidate takes 1 ms: of 20.5 ms, 16.4 are used to try some, and the rest is for the finish."""
    evaluations, seconds, state, _ = loop(planner, 0.0205)
    assert all(14 <= tried <= 18 for tried in evaluations), evaluations
    assert max(seconds) <= 0.0205
    assert state.overruns == 0
    assert state.fallbacks.sum() == 0


def test_time_that_every_iteration_takes_is_part_of_it():
    """With 5 ms for each rollout whatever its size, the share settles where the budget is used."""
    evaluations, seconds, state, _ = loop(ICEM(), 0.02, steps=12, fixed=0.005)
    assert evaluations[-1] == pytest.approx(11, abs=1)
    assert max(seconds[1:]) <= 0.02
    assert state.overruns <= 1


def test_without_warming_up_the_first_step_shows_how_long_an_iteration_takes():
    evaluations, seconds, state, _ = loop(ICEM(), 0.02, warm=False)
    assert seconds[0] > 0.1
    assert state.overruns == 1
    assert all(14 <= tried <= 18 for tried in evaluations[1:])


def test_a_few_candidates_are_tried_however_little_time_there_is():
    evaluations, _, state, _ = loop(ICEM(), 0.0001)
    assert evaluations == [FEWEST] * 6
    assert state.overruns == 6


def test_a_longer_budget_tries_whole_iterations():
    evaluations, _, state, _ = loop(ICEM(max_iterations=3), 10.0)
    assert evaluations[-1] > 200
    assert state.overruns == 0
    unbounded, *_ = loop(ICEM(max_iterations=3), None)
    assert evaluations == unbounded


def test_the_plan_that_goes_on_is_always_tried():
    """With four candidates of a hundred a plan is no worse than the one before: the cost-to-go falls from step to step."""
    *_, costs = loop(ICEM(), 0.0001, steps=15)
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(costs))


def test_warming_up_is_a_first_plan_that_counts_for_nothing():
    clock = Clock()
    problem = Problem(Slow(clock), GoalCost([1.0, 0.0], 1.0, 0.01), 8, control_limits=(-1.0, 1.0))
    mpc, x = MPC(problem, ICEM(), budget=0.02, clock=clock), tensor([0.0, 0.0], [float("nan"), 0.0])
    generator = torch.Generator().manual_seed(7)
    before = generator.get_state()
    state = mpc.warm_up(x, generator=generator)
    assert torch.equal(generator.get_state(), before)
    assert (state.time, state.overruns, state.previous_control, state.fallbacks.tolist()) == (0, 0, None, [0, 0])
    assert state.solution.usable.tolist() == [True, False]
    assert state.solution.stats["iterations"] == 5
    assert state.solution.stats["iteration_seconds"] == pytest.approx(0.2, rel=0.1)
    assert mpc.warm_up(x[0]).solution.us.shape == (8, 1)
    unbounded = MPC(problem, ICEM()).warm_up(x)
    assert unbounded.solution.us.shape == (2, 8, 1)


def test_a_deadline_by_hand():
    clock = Clock()
    deadline = Deadline(0.0, 1.0, clock, iteration=3.0)
    assert deadline.share() == pytest.approx(0.8 / 3.0)
    clock.now = 0.6
    assert deadline()
    assert deadline.iteration == pytest.approx(2.85)  # 2.25 s, and most of the 3 s is remembered
    clock.now = 1.01
    assert deadline.was_late()
    clock.now = 10.0
    deadline = Deadline(10.0, 1.0, clock)
    assert deadline.share() == 1.0  # nothing is known
    clock.now = 10.3
    assert not deadline()  # 0.3 + 2 * 0.3 <= 1
    assert deadline.share() == 1.0
    clock.now = 10.5
    assert deadline()
    assert deadline.iteration == pytest.approx(0.3)
