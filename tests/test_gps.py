"""Guided policy search: closed forms on a linear plant, and what all generations have in common."""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from guided import GAIN, LIMIT, LINEAR, optimal_cost, pendulum, regulator
from instances import ALL_GPS
from meeting import Meeting

import mbrl
from dynamics import CountedDynamics, Training
from mbrl import (
    BADMM,
    ISGPS,
    MDGPS,
    ConstrainedGPS,
    Distillation,
    FittedTeacher,
    GuidedPolicySearch,
    LocalTeacher,
    ModelTeacher,
    NetworkSettings,
    SupervisedStep,
)
from mbrl.gps.linearized_policy import linearized
from mbrl.gps.memory import log_probs
from mbrl.gps.rollouts import actions_of_task, controller_actions, policy_actions, policy_log_probs, roll_out
from mbrl.gps.supervised import Targets, divergence, targets
from planners import DDP, FunctionCost, PredictiveSampling, kl_constrained_step, solve

FAST = {
    "teacher": ModelTeacher(planner=DDP(max_iterations=1), temperature=1e-2, min_std=0.005),
    "network": LINEAR,
    "conditions": 4,
    "samples": 5,
    "supervised": SupervisedStep(steps=300, learning_rate=3e-2),
}


@dataclasses.dataclass(frozen=True)
class Constant:
    """Acts the same everywhere."""

    value: float
    acts_on = "state"

    def init(self, batch, *, generator=None):
        return ()

    def act(self, y, memory, *, deterministic=True):
        return torch.full_like(y[..., :1], self.value), memory


@dataclasses.dataclass(frozen=True)
class Recorded(DDP):
    """Gives its first guess back."""

    def plan(self, problem, x0, request):
        found = super().plan(problem, x0, request)
        us = torch.zeros_like(found.us) if request.init is None else request.init.us
        return dataclasses.replace(found, us=us)


def trained(algorithm, task, **options):
    rows = []
    options = {"steps": 10**9, "progress": False, "evaluation_episodes": 0, "on_iteration": rows.append, **options}
    return mbrl.train(algorithm, task, **options), rows


def excess(result, task) -> torch.Tensor:
    """Cost of the policy without noise over the least cost, of each initial state."""
    learner = result.learner
    choose = policy_actions(learner.policy, task, deterministic=True)
    rollouts = roll_out(task, choose, learner.x0.unsqueeze(0))
    return rollouts.total_costs[0] / optimal_cost(learner.x0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "ratio"),
    [
        (MDGPS(**FAST, iterations=10), 1.001),
        (MDGPS(**FAST, iterations=10, kl_limit=0.2, adapt=False), 1.001),
        (MDGPS(**FAST, iterations=10, per_step=True), 1.001),
        (ConstrainedGPS(**FAST, iterations=10), 1.001),
        (BADMM(**FAST, iterations=4), 1.001),
        (Distillation(**FAST, iterations=2), 1.001),
        (ISGPS(**FAST, iterations=10), 1.02),  # its gradients are estimates
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else "",
)
def test_a_linear_policy_of_a_linear_plant_becomes_the_regulator(algorithm, ratio):
    task = regulator()
    result, _ = trained(algorithm, task)
    assert bool((excess(result, task) <= ratio).all())
    if ratio == 1.001:
        weight = result.policy.head.layer.weight.detach() * LIMIT
        np.testing.assert_allclose(weight, GAIN, rtol=0.02)


@pytest.mark.slow
def test_each_step_of_mdgps_is_within_its_bound_or_at_the_floor():
    task = regulator()
    _, rows = trained(MDGPS(**FAST, iterations=8, kl_limit=0.05, adapt=False), task)
    steps = [(row["train/kl"], row["train/kl_limit"], row["train/dual"]) for row in rows[1:]]
    assert all(kl <= 1.1 * limit for kl, limit, _ in steps)
    assert all(kl >= 0.9 * limit or dual < 1e-3 for kl, limit, dual in steps)
    assert any(kl >= 0.9 * limit for kl, limit, _ in steps)  # the bound counted at all


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MDGPS, ConstrainedGPS])
def test_thirty_iterations_past_convergence_stay_finite(kind):
    settings = {**FAST, "supervised": SupervisedStep(steps=50, learning_rate=3e-2), "samples": 3}
    result, rows = trained(kind(**settings, iterations=32), regulator(8))
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert bool(result.learner.controllers.covariance.isfinite().all())
    assert float(result.learner.controllers.covariance.min()) >= 0.99 * (0.005 * LIMIT) ** 2


@pytest.mark.slow
def test_local_models_are_enough_for_a_linear_plant():
    task = regulator(10)
    settings = {**FAST, "teacher": LocalTeacher(prior=False, regularization=1e-9, min_std=0.005), "samples": 8}
    result, rows = trained(MDGPS(**settings, iterations=8, kl_limit=2.0), task)
    assert bool((excess(result, task) <= 1.01).all())
    assert rows[-1]["step"] == 8 * 8 * 4 * 10  # rollouts alone


@pytest.mark.parametrize("kind", [MDGPS, ConstrainedGPS, BADMM])
def test_the_first_rollouts_already_improve_what_was_not_planned(kind):
    task = regulator(10)
    settings = {**FAST, "teacher": LocalTeacher(prior=False, regularization=1e-9), "samples": 8}
    settings["supervised"] = SupervisedStep(steps=50, learning_rate=3e-2)
    learner = trained(kind(**settings, iterations=1), task)[0].learner
    choose = controller_actions(learner.controllers, learner.space, torch.Generator(), deterministic=True)
    improved = roll_out(task, choose, learner.x0.unsqueeze(0)).total_costs[0]
    us = torch.zeros(4, 10, 1, dtype=torch.float64)
    nothing_done = task.problem().trajectory_cost(task.dynamics.rollout(learner.x0, us), us)
    assert bool((improved < 0.9 * nothing_done).all())
    assert learner.steps == 8 * 4 * 10


def prepared_to_improve(**settings):
    """A learner after its first iteration, on a plant that is not linear, and where it would improve the controllers."""
    learner = trained(MDGPS(**{**FAST, "supervised": SupervisedStep(steps=20)}, iterations=1, **settings), pendulum(8))[
        0
    ].learner
    return learner, learner._situation(learner._run())


def test_a_step_is_shortened_until_it_costs_no_more_in_the_model():
    learner, situation = prepared_to_improve()
    bounds = []

    def step(bound):
        bounds.append(bound)
        return kl_constrained_step(situation.lq, situation.policy, kl_limit=bound, about=(situation.xs, situation.us))

    def objective(
        controller, rollouts
    ):  # of the second condition, no step but the start is good enough; of the third, half of one
        moved = (controller.us - start.us).abs().amax((-1, -2)) > 0
        half = torch.tensor([False, False, len(bounds) < 3, False])
        return torch.where(torch.tensor([False, True, False, False]) | half, moved.double(), 0.0).expand(1, -1)

    start = kl_constrained_step(
        situation.lq, situation.policy, kl_limit=torch.zeros(4).double(), about=(situation.xs, situation.us)
    ).controller
    found, bound = learner.checked(situation, step, torch.full((4,), 2.0).double(), start, objective)
    assert bound.tolist() == [2.0, 0.0, 2.0 * 0.25**2, 2.0]
    torch.testing.assert_close(found.controller.us[1], start.us[1], rtol=0, atol=0)
    torch.testing.assert_close(found.kl.sum(-1)[[0, 2, 3]], bound[[0, 2, 3]], rtol=0.1, atol=0)


def test_the_objective_of_a_checked_step_is_the_mean_cost_in_the_model():
    learner, situation = prepared_to_improve(checks=2)
    calls, seen = learner.plant.calls, []

    def step(bound):
        return kl_constrained_step(situation.lq, situation.policy, kl_limit=bound, about=(situation.xs, situation.us))

    def objective(controller, rollouts):
        seen.append(rollouts)
        return rollouts.total_costs

    learner.checked(situation, step, torch.full((4,), 1e-3).double(), situation.policy, objective)
    start, moved = seen[:2]
    assert start.costs.shape == (2, 4, 8)
    assert learner.plant.calls - calls == len(seen) * 2 * 4 * 8  # a teacher with the plant as its model pays for it
    torch.testing.assert_close(start.actions, moved.actions, rtol=0, atol=0.1)  # the same noise
    assert float((start.actions[0] - start.actions[1]).abs().max()) > 1e-3


def test_the_next_bound_is_scaled_from_that_of_the_step_that_was_taken(monkeypatch):
    """On a quadratic model of which a step of bound b keeps half its promise, the best bound is b, shortened or not."""
    learner, situation = prepared_to_improve()
    whole = torch.full((4,), 8.0).double()  # of 8 steps
    left = torch.tensor([1.0, 0.25, 0.0625, 0.0]).double()  # of four initial states
    steps = []

    def shortened(situation, step, bound, start):
        assert torch.equal(bound, learner.factor * whole)
        steps.append(step(left * bound))
        return steps[-1], left * bound

    monkeypatch.setattr(learner, "checked", shortened)
    learner.improved(situation)
    measured = situation.rollouts.total_costs.mean(0)
    promised = situation.cost + steps[-1].expected_cost
    assert all(map(torch.equal, learner._expected, (measured, promised)))  # the promise of the steps that were taken
    share = float(left.mean())
    for kept, change in ((0.5, 1.0), (1.0, 5.0), (0.0, 0.5)):  # of the promise
        learner.factor, learner._taken = 1.0, share
        learner._expected = torch.full((4,), 10.0).double(), torch.full((4,), 6.0).double()
        learner._adapt(torch.full((4,), 10.0 - 4.0 * kept).double())
        assert learner.factor == pytest.approx(share * change)
    other = learner.settings.learner(learner.assignment)
    other.load_state_dict(learner.state_dict())
    assert other._taken == share


def test_the_bound_falls_to_a_tenth_where_no_condition_took_a_step(monkeypatch):
    learner, situation = prepared_to_improve(factor_range=(0.005, 10.0))

    def refused(situation, step, bound, start):
        return step(0 * bound), 0 * bound

    monkeypatch.setattr(learner, "checked", refused)
    factors = []
    for _ in range(4):
        learner.improved(situation)
        assert learner._taken == 0.0
        factors.append(learner.factor)
    assert factors == pytest.approx([1.0, 0.1, 0.01, 0.005])  # no further than the range goes


@pytest.mark.parametrize("better", [False, True])
def test_a_policy_that_costs_more_in_the_model_is_not_taken(monkeypatch, better):
    learner = trained(MDGPS(**{**FAST, "supervised": SupervisedStep(steps=20)}, iterations=3), pendulum(8))[0].learner
    before, worths = copy.deepcopy(learner.policy.state_dict()), iter([1.0, 0.5 if better else 1.5])
    monkeypatch.setattr(learner, "_policy_worth", lambda situation: lambda: next(worths))
    assert learner.advance()["train/taken"] == float(better)
    same = all(torch.equal(value, before[name]) for name, value in learner.policy.state_dict().items())
    assert same != better


def test_rollouts_are_charged_as_plans_are():
    """With the discount of the task, without which improvements that plans promise would be measured in other units."""
    task = dataclasses.replace(regulator(6), discount=0.8)
    space, generator = actions_of_task(task), torch.Generator().manual_seed(0)
    policy = mbrl.Policy.for_task(task, LINEAR, seed=3)
    rollouts = roll_out(task, policy_actions(policy, task, generator), task.initial_state(5, generator)[None])
    expected = task.problem(horizon=6).trajectory_cost(rollouts.states, space.controls(rollouts.actions))
    torch.testing.assert_close(rollouts.total_costs, expected, rtol=1e-12, atol=1e-12)


def test_local_models_are_not_asked_beyond_their_bound():
    settings = {**FAST, "teacher": LocalTeacher(), "supervised": SupervisedStep(steps=20)}
    _, rows = trained(MDGPS(**settings, iterations=2), pendulum(8))
    assert "train/taken" not in rows[-1]
    assert rows[-1]["step"] == 2 * FAST["samples"] * 4 * 8


@pytest.mark.parametrize("on_policy", [False, True])
def test_the_problem_is_expanded_about_the_way_of_what_ran(on_policy):
    task = pendulum(8)
    settings = {**FAST, "teacher": LocalTeacher(), "supervised": SupervisedStep(steps=20)}
    learner = trained(MDGPS(**settings, iterations=1, on_policy=on_policy), task)[0].learner
    situation = learner._situation(learner._run())
    states = situation.xs[..., :-1, :]
    of_policy = learner.space.controls(learner.policy.distribution(task.observe(states)).mode().detach().double())
    of_controllers = task.admissible(learner.controllers.mean(states))
    ran, other = (of_policy, of_controllers) if on_policy else (of_controllers, of_policy)
    torch.testing.assert_close(situation.us, ran, rtol=0, atol=1e-5)
    assert float((situation.us - other).abs().max()) > 1e-3


# All of them


@pytest.mark.parametrize("name", ALL_GPS)
def test_interrupted_and_resumed_is_as_at_a_stretch(name, tmp_path):
    task, algorithm = pendulum(8), dataclasses.replace(ALL_GPS[name], iterations=3)
    whole, rows = trained(algorithm, task)

    class StopError(Exception):
        pass

    def stop(row):
        if len(seen) == 1:
            raise StopError
        seen.append(row)

    seen = []
    with pytest.raises(StopError):
        trained(algorithm, task, run=tmp_path / "run", on_iteration=stop)
    again, _ = trained(algorithm, task, run=tmp_path / "run")
    assert again.steps == whole.steps
    for key, value in whole.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[key], value), key
    assert all(math.isfinite(value) for row in rows for value in row.values())
    costs = [row["rollout/cost"] for row in rows]
    np.testing.assert_array_equal(again.metrics["rollout/cost"], costs)


@pytest.mark.parametrize("name", ALL_GPS)
def test_steps_are_those_of_the_plant(name):
    result, rows = trained(dataclasses.replace(ALL_GPS[name], iterations=2), pendulum(8))
    assert rows[-1]["step"] == result.steps == result.learner.plant.calls
    learner = result.learner
    if learner.settings.teacher.memory is None:  # planning takes none of them
        assert result.steps == learner.seen.steps


@pytest.mark.parametrize("name", ALL_GPS)
def test_processes_learn_one_policy_from_initial_states_of_their_own(name):
    meeting, task = Meeting(2), pendulum(8)
    learners = [ALL_GPS[name].learner(mbrl.Assignment(task, 10**9, processes=p)) for p in meeting.processes()]
    for _ in range(2):
        first, second = meeting.run([learner.iterate for learner in learners])
        assert first["rollout/cost"] == second["rollout/cost"]
    one, other = learners
    assert not torch.equal(one.x0, other.x0)
    assert one.steps == other.steps == one.plant.calls + other.plant.calls
    assert all(torch.equal(a, b) for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True))


def test_the_list_is_complete():
    kinds = {kind for kind in vars(mbrl).values() if isinstance(kind, type) and issubclass(kind, GuidedPolicySearch)}
    learn_the_cost = {kind for kind in kinds if kind.demonstrations == "required"}
    assert kinds - {GuidedPolicySearch} - learn_the_cost == {type(algorithm) for algorithm in ALL_GPS.values()}


def test_what_it_cannot_learn_is_an_error():
    with pytest.raises(ValueError, match="plans on the model of a task"):
        trained(MDGPS(), "Pendulum-v1")
    with pytest.raises(ValueError, match="episodes of one length"):
        trained(MDGPS(), mbrl.hopper())
    with pytest.raises(ValueError, match="continuous controls"):
        trained(MDGPS(), mbrl.discretized(pendulum(), 3))
    with pytest.raises(ValueError, match="does not learn from demonstrations"):
        trained(MDGPS(), pendulum(), demonstrations=[])
    with pytest.raises(ValueError, match="without memory"):
        MDGPS(network=NetworkSettings(recurrent=8))
    with pytest.raises(ValueError, match="Gaussian policies"):
        MDGPS(network=NetworkSettings(head="beta"))
    with pytest.raises(ValueError, match="local models hold near rollouts alone"):
        trained(ISGPS(teacher=LocalTeacher()), pendulum())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MDGPS(kl_limit=0.0), "kl_limit"),
        (lambda: MDGPS(factor_range=(2.0, 3.0)), "factor_range"),
        (lambda: MDGPS(conditions=0), "conditions"),
        (lambda: MDGPS(remembered=0), "remembered"),
        (lambda: MDGPS(checks=-1), "checks"),
        (lambda: ISGPS(regularization=2.0), "regularization"),
        (lambda: ISGPS(regularization_factor=1.0), "regularization_factor"),
        (lambda: ISGPS(optimizer="sgd"), "optimizer"),
        (lambda: BADMM(inner_iterations=0), "inner_iterations"),
        (lambda: ConstrainedGPS(multiplier=-1.0), "multiplier"),
        (lambda: ModelTeacher(temperature=0.0), "temperature"),
        (lambda: ModelTeacher(min_std=0.5, max_std=0.1), "min_std"),
        (lambda: FittedTeacher(lessons=0), "lessons"),
        (lambda: LocalTeacher(window=0), "window"),
        (lambda: SupervisedStep(steps=0), "steps"),
    ],
)
def test_settings_out_of_range_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Importance-sampled policy search


def test_the_first_policy_of_isgps_is_the_likeliest_and_later_ones_are_kept_if_better():
    task = regulator(10)
    result, rows = trained(ISGPS(**FAST, iterations=6, descents=20), task)
    learner = result.learner
    for before, after in itertools.pairwise(rows[1:]):
        change = 0.1 if before["train/accepted"] else 10.0
        assert after["train/regularization"] == pytest.approx(
            min(max(before["train/regularization"] * change, 1e-6), 1.0)
        )
        assert before["train/accepted"] == float(before["train/cost_new"] < before["train/cost_best"])
    assert all(torch.equal(a, b) for a, b in zip(learner.policy.parameters(), learner.best.parameters(), strict=True))


def test_samples_of_old_policies_are_forgotten():
    algorithm = ISGPS(**FAST, iterations=6, recent=1, descents=3)
    learner = trained(algorithm, regulator(6))[0].learner
    chosen = learner._choose()
    assert len(learner.memory.sources) <= 3  # the guides, the best policy and the latest one
    assert len(chosen.rollouts.valid) == len(learner.memory.origins) == 5 * len(learner.memory.sources)
    for j, source in enumerate(learner.memory.sources):
        torch.testing.assert_close(learner.memory.log_q[j], log_probs(source, learner.task, learner.memory.rollouts))


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_descent_of_isgps_lowers_its_objective(optimizer):
    task = regulator(10)
    settings = ISGPS(**FAST, iterations=1, optimizer=optimizer, descents=15, learning_rate=3e-3)
    learner = trained(settings, task)[0].learner
    chosen = learner._choose()
    before = float(learner.loss(learner.policy, chosen).detach())
    learner._optimize(chosen)
    assert float(learner.loss(learner.policy, chosen).detach()) < before


def test_the_value_of_the_sampled_policy_is_its_mean_cost():
    """With samples of one distribution alone every weight is one."""
    learner = trained(ISGPS(**FAST, iterations=1), regulator(10))[0].learner
    own = learner.memory.chosen([learner.best_source])
    assert learner.value(learner.best, own) == pytest.approx(learner.mean_cost(own.rollouts), rel=1e-6)


def test_adaptive_guides_do_what_the_policy_does_where_costs_are_nothing():
    task = regulator(6)
    costless = dataclasses.replace(task, cost=0.0 * task.cost)
    algorithm = ISGPS(**{**FAST, "teacher": ModelTeacher()}, iterations=1)
    learner = algorithm.learner(mbrl.Assignment(costless, 10**9))
    controller = learner.taught(near=learner.policy)
    expected = linearized(learner.policy, task, learner.space, task.dynamics, controller.xs)
    torch.testing.assert_close(controller.us, expected.us, atol=1e-5, rtol=0)
    torch.testing.assert_close(controller.K, expected.K, atol=1e-5, rtol=0)


# Parts


def test_rollouts_count_their_costs_and_clamp_their_controls():
    task = regulator(5)
    x0 = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plant = CountedDynamics(task.dynamics)
    found = roll_out(task, lambda x, t: torch.full((3, 2, 1), 1.5, dtype=torch.float64), x0, plant=plant)
    us = torch.full((3, 2, 5, 1), LIMIT, dtype=torch.float64)
    torch.testing.assert_close(found.states, task.dynamics.rollout(x0, us))
    torch.testing.assert_close(found.total_costs, task.problem().trajectory_cost(found.states, us))
    assert float(found.actions.min()) == 1.5
    assert plant.calls == found.steps == 30


def test_a_rollout_that_diverges_costs_the_worst_and_stays_where_it_was():
    task = regulator(6)

    def choose(x, t):
        a = torch.zeros(2, 1, 1, dtype=torch.float64)
        a[0] = torch.nan if t == 3 else 0.0
        return a

    found = roll_out(task, choose, torch.ones(2, 1, 2, dtype=torch.float64))
    assert found.valid.tolist() == [[False], [True]]
    assert bool(found.states.isfinite().all())
    assert bool((found.costs[0, 0, 3:] == found.costs[1].max().maximum(found.costs[0, 0, :3].max())).all())


def test_rollouts_that_all_diverge_are_an_error():
    task = dataclasses.replace(regulator(3), cost=FunctionCost(lambda x, u, t: torch.nan * x[..., 0]))
    with pytest.raises(mbrl.TrainingError, match="all 20 rollouts diverged"):
        Distillation(**FAST).learner(mbrl.Assignment(task, 10**9)).rolled_out(
            lambda x, t: torch.zeros(5, 4, 1).double()
        )


def test_a_fitted_teacher_moves_the_plant_until_it_has_taken_its_lessons():
    task = pendulum(steps=6)
    teacher = FittedTeacher(
        planner=DDP(max_iterations=1),
        scout=PredictiveSampling(num_samples=5),
        lessons=2,
        episodes=5,
        members=1,
        hidden=(8,),
        training=Training(steps=5),
    )
    algorithm = Distillation(teacher=teacher, conditions=2, samples=3, iterations=1, supervised=SupervisedStep(steps=2))
    learner = algorithm.learner(mbrl.Assignment(task, None))
    learner.iterate()
    assert learner.seen is not None
    assert len(learner.seen.valid) == 5 * (1 + 2) + 2 * 3  # at random and the lessons, the controllers
    assert learner.steps == learner.seen.steps == 21 * 6  # planning takes none
    us = learner.space.controls(learner.seen.actions)
    assert all(not torch.equal(us[i], us[j]) for i, j in itertools.combinations(range(21), 2))
    lesson = learner.settings.teacher.lesson(3, learner.evidence())
    assert lesson is None


@pytest.mark.parametrize(("remembered", "kept"), [(None, 3), (2, 2), (1, 1)])
def test_distillation_is_fitted_to_the_iterations_that_it_remembers(remembered, kept):
    task = regulator(steps=4)
    algorithm = Distillation(**{**FAST, "supervised": SupervisedStep(steps=1)}, iterations=3, remembered=remembered)
    learner = algorithm.learner(mbrl.Assignment(task, None))
    seen = []
    while not learner.finished:
        learner.iterate()
        seen.append(task.observe(learner.x0))
    targets = learner.state_dict()["targets"]
    assert len(targets) == kept
    first = [one["observations"].unflatten(0, (5, 4, 4))[0, :, 0] for one in targets]
    assert all(torch.equal(found, wanted) for found, wanted in zip(first, seen[-kept:], strict=True))
    with pytest.raises(ValueError, match="remembered"):
        Distillation(remembered=0)


def test_plans_begin_with_the_way_of_what_goes_ahead():
    task = regulator(steps=5)
    x0 = task.initial_state(3, torch.Generator().manual_seed(0))

    def plans(ahead):
        teacher = ModelTeacher(planner=Recorded(), scout=None)
        return teacher.plan(task, x0, task.dynamics, ahead=ahead, generator=torch.Generator()).us

    constant = plans(Constant(3.0))
    assert constant.shape == (3, 5, 1)
    assert bool((constant == 3.0).all())
    assert bool((plans(Constant(1e9)) == LIMIT).all())
    assert bool((plans(None) == 0.0).all())


def test_covariances_of_a_teacher_are_between_its_bounds():
    task = regulator(6)
    teacher = ModelTeacher(temperature=1e3, min_std=0.1, max_std=0.3)
    x0 = torch.ones(3, 2, dtype=torch.float64)
    stds = teacher.controller(task, solve(task.problem(), DDP(), x0)).covariance.squeeze(-1).squeeze(-1).sqrt() / LIMIT
    torch.testing.assert_close(stds, torch.full_like(stds, 0.3))
    cold = dataclasses.replace(teacher, temperature=1e-9)
    stds = cold.controller(task, solve(task.problem(), DDP(), x0)).covariance.squeeze(-1).squeeze(-1).sqrt() / LIMIT
    torch.testing.assert_close(stds, torch.full_like(stds, 0.1))


def test_a_linearized_policy_is_that_of_finite_differences():
    task = pendulum(5)
    policy = mbrl.Policy.for_task(task, NetworkSettings(hidden=(16,), dtype="float64", normalize=False))
    xs = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    space = actions_of_task(task)
    found = linearized(policy, task, space, task.dynamics, xs)
    half = float(space.upper[0])
    with torch.no_grad():

        def mean(x):
            return half * policy.distribution(task.observe(x)).mode()

        for i in range(2):
            h = torch.zeros(2, dtype=torch.float64)
            h[i] = 1e-6
            numeric = (mean(xs[:, :-1] + h) - mean(xs[:, :-1] - h)) / 2e-6
            torch.testing.assert_close(found.K[..., 0, i], numeric[..., 0], atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(found.us, mean(xs[:, :-1]))
        samples = policy.distribution(task.observe(xs[:, :-1])).sample(torch.Generator().manual_seed(2))
    density = policy.distribution(task.observe(xs[:, :-1])).log_prob(samples) - math.log(half)
    torch.testing.assert_close(found.log_prob(xs[:, :-1], half * samples), density.detach())


def test_the_divergence_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    means, mu, log_std = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    factor = torch.eye(3).double() + 0.3 * torch.randn(5, 3, 3, generator=generator, dtype=torch.float64).tril()
    precision = factor @ factor.mT
    found = divergence(mbrl.DiagonalGaussian(mu, log_std), means, precision)
    normal = torch.distributions.MultivariateNormal
    own = normal(mu, covariance_matrix=torch.diag_embed((2 * log_std).exp()))
    expected = torch.distributions.kl_divergence(own, normal(means, precision_matrix=precision))
    torch.testing.assert_close(found, expected)


def test_densities_of_policies_and_controllers_are_of_the_same_variable():
    """A controller that is the policy, linearized about where it went, gives its actions the same density."""
    task = regulator(4)
    policy = mbrl.Policy.for_task(task, LINEAR, seed=3)
    space, generator = actions_of_task(task), torch.Generator().manual_seed(0)
    x0 = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    rollouts = roll_out(task, policy_actions(policy, task, generator), x0)
    controller = linearized(policy, task, space, task.dynamics, rollouts.states[0])
    torch.testing.assert_close(log_probs(controller, task, rollouts), policy_log_probs(policy, task, rollouts).detach())
    chosen = controller_actions(controller, space, generator, deterministic=True)(x0, 0)
    torch.testing.assert_close(chosen, policy.distribution(task.observe(x0)).mode().detach())


def test_a_fit_finds_the_gaussians_it_is_given_and_weights_count():
    task = regulator(4)
    policy = mbrl.Policy.for_task(task, LINEAR)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    weight = torch.tensor([[0.3], [-0.2]], dtype=torch.float64)
    precisions = torch.full((200, 1, 1), 0.2**-2, dtype=torch.float64)
    wrong = Targets(y, y @ -weight, precisions, torch.full((200,), 1e-9, dtype=torch.float64))
    wanted = Targets(y, y @ weight, precisions, torch.ones(200, dtype=torch.float64)).joined(wrong)
    step = SupervisedStep(steps=400, learning_rate=3e-2)
    loss = step.fit(policy, wanted, generator, mbrl.Assignment(task, 1).processes)
    assert loss < 1e-6
    torch.testing.assert_close(policy.head.layer.weight.detach(), weight.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(policy.head.log_std.detach().exp().item(), 0.2, atol=1e-4, rtol=0)


def test_targets_leave_out_what_diverged():
    task = regulator(3)
    learner = Distillation(**FAST).learner(mbrl.Assignment(task, 10**9))
    controller = learner.taught()
    rollouts = learner.rolled_out(controller_actions(controller, learner.space, learner.generator))
    rollouts.valid[0] = False
    found = targets(task, learner.space, controller, rollouts, torch.ones(4, 3).double())
    assert len(found.observations) == 4 * 4 * 3
    x = rollouts.states[1:, :, :-1].flatten(0, -2)
    torch.testing.assert_close(found.observations, x)
    torch.testing.assert_close(found.means, controller.mean(rollouts.states[1:, :, :-1]).flatten(0, -2) / LIMIT)
