"""Guided cost learning: closed forms and exact likelihoods on a linear plant, and a pendulum that is learned from an expert."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from guided import LINEAR, A, B
from meeting import Meeting
from torch import Tensor

import mbrl
from dynamics import LinearDynamics, Trajectory
from mbrl import GCL, LocalTeacher, ModelTeacher, NetworkCost, NetworkSettings, SupervisedStep, Task
from mbrl.irl.demonstrated_controller import demonstrated_controller
from mbrl.tasks.base import uniform_initial_state
from mbrl.training.processes import Processes
from planners import DDP, LQR, Cost, DiagonalQuadraticCost, LinearFeatureCost, QuadraticCost, solve

DOUBLE = torch.float64
TAU = 0.1
TRUTH = torch.tensor([1.0, 0.3, 0.2], dtype=DOUBLE)  # weights of two states and the control


def regulator(steps: int = 10) -> Task:
    def initial_state(batch: int, generator: torch.Generator) -> Tensor:
        return torch.randn(batch, 2, generator=generator, dtype=DOUBLE)

    cost = DiagonalQuadraticCost(TRUTH[:2], TRUTH[2:])
    plant = LinearDynamics(A, B, dt=0.1)
    return Task("Regulator", plant, cost, (-20.0, 20.0), initial_state, horizon=steps, episode_steps=steps)


def guess() -> DiagonalQuadraticCost:
    return DiagonalQuadraticCost([1.0, 1.0], [1.0])


def demonstrated(task: Task, number: int, *, seed: int = 0, from_one_state: bool = False) -> list[Trajectory]:
    """Episodes of the maximum-entropy controller, which LQR knows."""
    generator = torch.Generator().manual_seed(seed)
    x0 = task.initial_state(number, generator)
    x0 = x0[:1].expand(number, 2) if from_one_state else x0
    problem = replace(task.problem(horizon=task.episode_steps), control_limits=None)
    with torch.no_grad():
        controller = solve(problem, LQR(), x0).controller(temperature=TAU)
    return mbrl.record(task, controller, number, initial_states=x0, deterministic=False, generator=generator)


def stacked(demonstrations: list[Trajectory]) -> tuple[Tensor, Tensor]:
    xs = torch.stack([torch.as_tensor(d.states.copy()) for d in demonstrations])
    return xs, torch.stack([torch.as_tensor(d.controls.copy()) for d in demonstrations])


SHORT = {
    "teacher": ModelTeacher(temperature=TAU, min_std=0.002, max_std=0.1),
    "samples": 4,
    "iterations": 3,
    "conditions": 3,
    "cost_steps": 5,
    "cost_learning_rate": 0.02,
    "network": NetworkSettings(hidden=(8,)),
    "supervised": SupervisedStep(steps=5),
}


def trained(
    algorithm: GCL, task: Task, demonstrations: list[Trajectory], **options
) -> tuple[mbrl.TrainingResult, list]:
    rows: list = []
    options = {"progress": False, "evaluation_episodes": 0, "on_iteration": rows.append, **options}
    return mbrl.train(algorithm, task, demonstrations=demonstrations, **options), rows


def learner_after(iterations: int, demonstrations: list[Trajectory], **settings):
    learner = GCL(**{**SHORT, "cost": guess(), **settings}).learner(
        mbrl.Assignment(regulator(), None, demonstrations=demonstrations)
    )
    for _ in range(iterations):
        learner.iterate()
    return learner


# --- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weights_of_a_linear_plant_are_those_of_the_exact_likelihood():
    """LaplaceIRL maximizes the likelihood itself, which is exact here; what is left is the noise of sampling."""
    task = regulator()
    demonstrations = demonstrated(task, 10)
    problem = replace(task.problem(), control_limits=None)
    exact = mbrl.LaplaceIRL(temperature=TAU).learn(problem, guess(), demonstrations)
    algorithm = GCL(
        cost=guess(),
        teacher=ModelTeacher(temperature=TAU, min_std=0.002, max_std=0.5),
        samples=20,
        iterations=12,
        cost_steps=30,
        cost_learning_rate=0.05,
        network=LINEAR,
        supervised=SupervisedStep(steps=10),
    )
    result, rows = trained(algorithm, task, demonstrations)
    learned = result.reward.weights.detach()
    np.testing.assert_allclose(learned, exact.weights, rtol=0.1)
    within = 3 * exact.report.standard_errors * TRUTH
    assert bool(((learned - TRUTH).abs() < within).all())
    assert rows[-1]["train/effective_samples"] > 0.9  # controllers have become those of the cost
    with torch.no_grad():
        best, found = (
            mbrl.laplace_log_likelihood(replace(problem, cost=cost), *stacked(demonstrations), temperature=TAU)
            for cost in (exact.cost, result.reward)
        )
    assert 0 <= float((best - found).mean()) < 0.05
    assert rows[-1]["train/objective"] + 10 * math.log(20.0) == pytest.approx(
        -float(found.mean()), abs=0.1
    )  # of controls


def pendulum(steps: int = 30) -> Task:
    """A motor that is strong enough to lift the rod at once, from anywhere in the lower half."""
    task = mbrl.pendulum_swing_up("torch", torque_limit=8.0)
    start = uniform_initial_state([1.5, -1.0], [4.8, 1.0])
    return replace(task, horizon=steps, episode_steps=steps, initial_state=start)


def features(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
    """Not those of the task, whose cost is nearly linear in the angle."""
    return torch.stack([1.0 - x[..., 0].cos(), 0.1 * x[..., 1] ** 2, (u[..., 0] / 8.0) ** 2], -1)


@pytest.mark.slow
def test_plans_with_a_cost_learned_from_five_demonstrations_cost_what_those_of_the_expert_do():
    task, generator = pendulum(), torch.Generator().manual_seed(0)
    problem = task.problem()
    x0 = task.initial_state(5, generator)
    with torch.no_grad():
        expert = solve(problem, DDP(), x0).controller(temperature=0.3)
    demonstrations = mbrl.record(task, expert, 5, initial_states=x0, deterministic=False, generator=generator)
    algorithm = GCL(
        cost=LinearFeatureCost(features, [1.0, 1.0, 1.0]),
        teacher=ModelTeacher(max_std=0.3),
        conditions=1,
        iterations=8,
        cost_steps=10,
        cost_learning_rate=0.05,
        supervised=SupervisedStep(steps=10),
    )
    result, _ = trained(algorithm, task, demonstrations)
    new = task.initial_state(10, torch.Generator().manual_seed(1))
    with torch.no_grad():
        best = solve(problem, DDP(), new).cost.mean()
        plans = solve(replace(problem, cost=result.reward), DDP("gauss-newton", certify=False), new)
        found = problem.trajectory_cost(plans.xs, plans.us).mean()
        us = 16.0 * torch.rand(10, 30, 1, generator=generator, dtype=DOUBLE) - 8.0
        random = problem.trajectory_cost(task.dynamics.rollout(new, us), us).mean()
    assert float((random - found) / (random - best)) > 0.9


def test_the_objective_is_the_negative_log_likelihood_where_controllers_are_those_of_the_cost():
    demonstrations = demonstrated(regulator(), 6)
    learner = learner_after(0, demonstrations, cost=DiagonalQuadraticCost(TRUTH[:2], TRUTH[2:]), conditions=6)
    problem = replace(regulator().problem(), control_limits=None)
    with torch.no_grad():
        controller = solve(problem, LQR(), learner.x0).controller(temperature=TAU)
    learner.controllers = controller
    learner.memory.add(controller, learner._run())
    with torch.no_grad():
        found = learner.objective()
        likelihood = mbrl.laplace_log_likelihood(problem, *stacked(demonstrations), temperature=TAU)
    assert learner._counted
    assert float(found.value) + 10 * math.log(20.0) == pytest.approx(-float(likelihood.mean()), rel=0.1)
    alone = learner_after(0, demonstrations, cost=learner.reward, conditions=6, demonstrations_count=False)
    alone.memory.add(controller, learner.memory.rollouts[learner.memory.origins == 1])
    with torch.no_grad():
        found = alone.objective()
    assert float(found.value) + 10 * math.log(20.0) == pytest.approx(-float(likelihood.mean()), rel=1e-6)
    torch.testing.assert_close(found.partition.effective_samples, torch.full((6,), 4.0, dtype=DOUBLE))


@pytest.mark.parametrize("one_state", [False, True], ids=["a state each", "all from one state"])
def test_the_gradient_of_the_objective_is_that_of_finite_differences(one_state):
    settings = {"smoothness": 0.3, "monotonicity": 0.7, "cost_steps": 1}
    learner = learner_after(1, demonstrated(regulator(), 5, from_one_state=one_state), **settings)
    (parameter,) = learner._parameters
    (gradient,) = torch.autograd.grad(learner.objective().value, parameter)
    for i in range(3):
        values = []
        for h in (1e-6, -1e-6):
            with torch.no_grad():
                parameter[i] += h
                values.append(float(learner.objective().value))
                parameter[i] -= h
        assert float(gradient[i]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-5)


def test_regularizers_are_those_of_the_paper():
    learner = learner_after(0, demonstrated(regulator(), 5), smoothness=0.3, monotonicity=0.7)
    xs = torch.randn(7, 11, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    c = 0.5 * (xs[:, :10].square()).sum(-1) / TAU
    rate = mono = 0.0
    for i in range(7):
        for t in range(1, 9):
            rate += float((c[i, t + 1] - c[i, t]) - (c[i, t] - c[i, t - 1])) ** 2
    for i in range(3):
        for t in range(1, 10):
            mono += max(0.0, float(c[i, t] - c[i, t - 1]) - 1.0) ** 2
    found = float(learner._regularized(xs[:3], xs[3:]).detach())
    assert found == pytest.approx(0.3 * rate / 7 + 0.7 * mono / 3, rel=1e-9)


# --- the training -----------------------------------------------------------------------------------------------------


def test_rollouts_begin_where_demonstrations_do_and_their_samples_are_forgotten():
    demonstrations = demonstrated(regulator(), 5)
    learner = learner_after(4, demonstrations, conditions=8, recent=2)
    starts = {tuple(d.states[0]) for d in demonstrations}
    assert {tuple(x) for x in learner.x0[:5].tolist()} == starts
    assert len(learner.x0) == 8
    assert len(learner.memory.sources) == 1 + 2  # demonstrations and two iterations
    assert learner.plant.calls == learner.steps >= 4 * 8 * 4 * 10
    together = learner_after(1, demonstrated(regulator(), 5, from_one_state=True), conditions=1)
    assert len(together.x0) == 1
    assert int(together._shown.there.sum()) == 5


def test_pieces_of_demonstrations_are_episodes_of_their_length():
    """Cutting by the algorithm is cutting by hand; what is evaluated are the task's own episodes."""
    task, demonstrations = regulator(10), demonstrated(regulator(10), 2)
    pieces = [d.slice(t, t + 4) for d in demonstrations for t in (0, 3, 6)]
    settings = {**SHORT, "cost": guess(), "conditions": 6}
    by_hand, _ = trained(GCL(**settings), replace(task, episode_steps=4), pieces)
    cut, _ = trained(GCL(**settings, horizon=4, stride=3), task, demonstrations, evaluation_episodes=1)
    assert torch.equal(by_hand.reward.weights, cut.reward.weights)
    assert by_hand.steps == cut.steps
    assert cut.evaluation.trajectories[0].num_steps == 10


def test_the_cost_of_the_task_is_only_reported():
    demonstrations = demonstrated(regulator(), 4)
    task = regulator()
    other = replace(task, cost=QuadraticCost(7.0 * torch.eye(2, dtype=DOUBLE), torch.eye(1, dtype=DOUBLE)))
    algorithm = GCL(**SHORT, cost=guess())
    one, rows = trained(algorithm, task, demonstrations)
    two, different = trained(algorithm, other, demonstrations)
    assert torch.equal(one.reward.weights, two.reward.weights)
    assert rows[-1]["rollout/cost"] != different[-1]["rollout/cost"]
    assert torch.equal(algorithm.cost.weights, guess().weights)  # that was handed in stays as it was


def test_the_network_is_the_cost_by_default_and_any_planner_takes_it():
    task = regulator(5)
    result, rows = trained(GCL(**{**SHORT, "teacher": LocalTeacher(temperature=TAU)}), task, demonstrated(task, 4))
    assert isinstance(result.reward, NetworkCost)
    assert all(math.isfinite(v) for row in rows for name, v in row.items())
    plan = solve(replace(task, cost=result.reward).problem(), DDP(max_iterations=3), result.learner.x0[:2])
    assert bool(plan.us.isfinite().all())
    assert {"train/log_partition", "train/demonstration_cost", "train/sample_cost", "rollout/cost"} <= rows[0].keys()


def test_controllers_can_be_checked_in_the_model_against_cost_and_entropy():
    learner = learner_after(0, demonstrated(regulator(), 4), checks=2)
    learner.iterate()
    problem = replace(regulator().problem(), cost=learner.reward, control_limits=None)
    with torch.no_grad():
        best = solve(problem, LQR(), learner.x0).controller(temperature=TAU)
    for _ in range(3):
        before = learner.controllers
        situation = learner._situation(learner._run())
        learner.controllers, _, metrics = learner.improved(situation)
        assert metrics["train/kl"] < 1.1 * 10
        gap = [(c.entropy() - best.entropy()).abs().sum() for c in (before, learner.controllers)]
        assert float(gap[1]) <= float(gap[0]) + 1e-9  # rounding, once converged


@pytest.mark.parametrize(
    "settings",
    [
        {"cost": guess()},
        {"teacher": LocalTeacher(temperature=TAU), "on_policy": True, "from_demonstrations": False, "recent": 2},
    ],
    ids=["weights", "network, local models, on the policy's samples"],
)
def test_interrupted_and_resumed_is_as_at_a_stretch(settings, tmp_path):
    task, algorithm = regulator(5), GCL(**{**SHORT, **settings})
    demonstrations = demonstrated(task, 4)
    whole, rows = trained(algorithm, task, demonstrations)

    class StopError(Exception):
        pass

    def stop(row):
        if row["step"] == rows[1]["step"]:
            raise StopError

    with pytest.raises(StopError):
        trained(algorithm, task, demonstrations, run=tmp_path / "run", on_iteration=stop)
    other = replace(algorithm, cost=DiagonalQuadraticCost([2.0, 1.0], [1.0]))
    with pytest.raises(mbrl.RunError, match=r"cost\.weights|algorithm\.cost"):
        trained(other, task, demonstrations, run=tmp_path / "run")
    again, _ = trained(algorithm, task, demonstrations, run=tmp_path / "run")
    for one, two in ((whole.policy, again.policy), (whole.reward, again.reward)):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    np.testing.assert_array_equal(again.metrics["train/objective"], [row["train/objective"] for row in rows])


def test_processes_learn_one_cost_from_demonstrations_of_their_own():
    demonstrations = demonstrated(regulator(5), 4)
    meeting = Meeting(2)
    learners = [
        GCL(**SHORT, cost=guess()).learner(
            mbrl.Assignment(regulator(5), None, demonstrations=demonstrations, processes=p)
        )
        for p in meeting.processes()
    ]
    for _ in range(2):
        first, second = meeting.run([learner.iterate for learner in learners])
        assert first["train/objective"] == second["train/objective"]
    one, other = learners
    assert torch.equal(one.reward.weights, other.reward.weights)
    assert {tuple(x) for x in torch.cat([one.x0[:2], other.x0[:2]]).tolist()} == {
        tuple(d.states[0]) for d in demonstrations
    }
    with pytest.raises(ValueError, match="2 processes need demonstrations from as many initial states, got 1"):
        GCL(**SHORT).learner(
            mbrl.Assignment(regulator(5), None, demonstrations=demonstrations[:1], processes=meeting.processes()[0])
        )


def test_processes_weigh_all_demonstrations_alike():
    """Whichever has more of them: together their gradient is that of one process with all."""
    meeting = Meeting(2)
    demonstrations = [
        one
        for seed, number in enumerate((3, 2, 1))
        for one in demonstrated(regulator(5), number, seed=seed, from_one_state=True)
    ]

    def first(processes):
        settings = GCL(**{**SHORT, "cost": guess(), "cost_steps": 1})
        return settings.learner(mbrl.Assignment(regulator(5), None, demonstrations=demonstrations, processes=processes))

    alone, *together = (first(processes) for processes in (Processes(), *meeting.processes()))
    assert [len(learner._shown.x0) for learner in together] == [2, 1]
    alone._descend()  # with demonstrations as the only samples
    meeting.run([learner._descend for learner in together])
    (expected,) = alone._parameters
    assert float(expected.grad.abs().min()) > 1e-2
    for learner in together:
        torch.testing.assert_close(learner._parameters[0].grad, expected.grad, rtol=1e-10, atol=1e-12)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_what_it_cannot_learn_from_is_an_error():
    task, demonstrations = regulator(5), demonstrated(regulator(5), 2)
    with pytest.raises(ValueError, match="GCL learns from demonstrations"):
        mbrl.train(GCL(**SHORT), task)
    with pytest.raises(ValueError, match="at least one trajectory, got none"):
        trained(GCL(**SHORT), task, [])
    with pytest.raises(ValueError, match=r"have 5 steps, episodes of task Regulator 7: .*episode_steps=5"):
        trained(GCL(**SHORT), replace(task, episode_steps=7), demonstrations)
    with pytest.raises(ValueError, match="must have states"):
        trained(GCL(**SHORT), task, [d.replace(states=None) for d in demonstrations])
    with pytest.raises(ValueError, match="no parameter to learn"):
        trained(GCL(**SHORT, cost=task.cost.with_weights(TRUTH)), task, demonstrations)
    with pytest.raises(ValueError, match="plans on the model of a task"):
        trained(GCL(**SHORT), "Pendulum-v1", demonstrations)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"cost": 3.0}, TypeError),
        ({"cost_steps": 0}, ValueError),
        ({"control_weight": 0.0}, ValueError),
        ({"smoothness": -1.0}, ValueError),
        ({"recent": 0}, ValueError),
        ({"kl_limit": 0.0}, ValueError),
        ({"least_effective": -0.1}, ValueError),
        ({"horizon": 0}, ValueError),
        ({"stride": 2}, ValueError),
    ],
)
def test_settings_out_of_range_are_errors(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        GCL(**settings)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_controller_of_demonstrations_is_the_one_that_they_are_of():
    task = regulator(6)
    problem = replace(task.problem(horizon=6), control_limits=None)
    xs, us = stacked(demonstrated(task, 4000))
    found = demonstrated_controller(task.dynamics, xs, us, least_variance=1e-6)
    with torch.no_grad():
        truth = solve(problem, LQR(), xs[:1, 0]).controller(temperature=TAU)
    torch.testing.assert_close(found.covariance, truth.covariance[0], rtol=0.08, atol=0)
    mine, theirs = found.log_prob(xs[:, :-1], us), truth.log_prob(xs[:, None, :-1], us[:, None])[:, 0]
    assert float((mine - theirs).mean(0).abs().max()) < 3e-3
    assert demonstrated_controller(task.dynamics, xs[:3], us[:3], least_variance=1e-6) is None
    few = demonstrated_controller(task.dynamics, xs[:4], us[:4], least_variance=1e-6)
    assert bool(few.covariance.isfinite().all())
    same = demonstrated_controller(task.dynamics, xs[:1].expand(5, 7, 2), us[:1].expand(5, 6, 1), least_variance=0.01)
    torch.testing.assert_close(same.covariance, torch.full((6, 1, 1), 0.01, dtype=DOUBLE))
    torch.testing.assert_close(same.us, us[0])


def network_cost() -> tuple[Cost, Tensor, Tensor]:
    task = mbrl.pendulum_swing_up("torch")
    cost = NetworkCost.for_task(task, hidden=(8,), outputs=3, control_weight=0.7, seed=1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 2, generator=generator, dtype=DOUBLE)
    cost.normalize(x)
    return cost, x, torch.randn(4, 3, 1, generator=generator, dtype=DOUBLE)


def test_a_network_is_half_its_square_and_the_price_of_controls():
    cost, x, u = network_cost()
    r = cost.residual(x)
    torch.testing.assert_close(cost.stage(x, u, 0), 0.5 * r.square().sum(-1) + 0.7 * (u[..., 0] / 2.0) ** 2)
    torch.testing.assert_close(cost.terminal(x), 0.5 * r.square().sum(-1))
    seen = (cost.observe(x) - cost.mean) / cost.std
    torch.testing.assert_close(seen.flatten(0, 1).mean(0), torch.zeros(3, dtype=DOUBLE), atol=1e-12, rtol=0)
    J = torch.stack([torch.autograd.functional.jacobian(cost.residual, row) for row in x.flatten(0, 1)])
    expected = J.mT @ J
    H = cost.gauss_newton(x, u, 0).flatten(0, 1)
    torch.testing.assert_close(H[:, :2, :2], expected)
    torch.testing.assert_close(H[:, 2, 2], torch.full((12,), 2 * 0.7 / 4.0, dtype=DOUBLE))
    torch.testing.assert_close(cost.gauss_newton_terminal(x).flatten(0, 1), expected)
    assert cost.stage(x.float(), u.float(), 0).dtype == torch.float32
    torch.testing.assert_close(cost.stage(x[0, 0], u[0, 0], 0), cost.stage(x, u, 0)[0, 0])


def test_what_never_changes_is_not_divided_by_nothing():
    cost, x, _ = network_cost()
    cost.normalize(x[:1, :1].expand(1, 5, 2))
    assert bool(cost.residual(x).isfinite().all())
    torch.testing.assert_close(cost.std, torch.ones(3, dtype=DOUBLE))


def test_a_network_is_kept_in_a_file_with_the_task_that_it_was_made_for(tmp_path):
    task = mbrl.pendulum_swing_up("torch")
    cost = NetworkCost.for_task(task, hidden=(8,), outputs=3, control_weight=0.7, seed=1)
    x, u = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    cost.normalize(x)
    read = mbrl.load_reward(mbrl.save_reward(cost, tmp_path / "reward.safetensors"))
    assert isinstance(read, NetworkCost)
    assert torch.equal(read.stage(x, u, 0), cost.stage(x, u, 0))
    alone = NetworkCost(task.observe, 3, cost._actions)
    with pytest.raises(ValueError, match="for_task"):
        mbrl.save_reward(alone, tmp_path / "reward.safetensors")


def test_a_network_in_a_file_charges_controls_by_the_limits_that_it_was_made_with(tmp_path):
    task = replace(mbrl.pendulum_swing_up("torch", torque_limit=8.0), horizon=7, episode_steps=9, discount=0.9)
    cost = NetworkCost.for_task(task, hidden=(8,), outputs=3)
    x, u = torch.randn(5, 2, dtype=DOUBLE), torch.randn(5, 1, dtype=DOUBLE)
    read = mbrl.load_reward(mbrl.save_reward(cost, tmp_path / "reward.safetensors"))
    assert torch.equal(read.stage(x, u, 0), cost.stage(x, u, 0))
    assert (read.task.horizon, read.task.episode_steps, read.task.discount) == (7, 9, 0.9)
    other = NetworkCost.for_task(replace(task, observation=lambda x: torch.cat([x, x[..., :1]], -1)))
    with pytest.raises(ValueError, match="the observation of task PendulumSwingUp is another one"):
        mbrl.load_reward(mbrl.save_reward(other, tmp_path / "reward.safetensors"))


def test_a_run_leaves_costs_of_a_task_and_no_others(tmp_path):
    task = regulator(5)
    own_terms = {"cost": mbrl.TaskCost(task, terms="squares")}
    for name, settings in (
        ("network", {}),
        ("terms", own_terms),
        ("own", {"cost": DiagonalQuadraticCost([1.0, 1.0], [1.0])}),
    ):
        trained(GCL(**{**SHORT, **settings}), task, demonstrated(task, 4), run=tmp_path / name)
        assert (tmp_path / name / "reward.safetensors").exists() == (name != "own")
