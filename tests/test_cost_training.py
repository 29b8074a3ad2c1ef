"""Learners of costs as training: the same as the direct call, resumed to the bit, and a policy that plans with the cost."""

import copy
from dataclasses import replace

import pytest
import torch

import mbrl
from dynamics import LinearDynamics, Trajectory
from mbrl import KKTInverse, LaplaceIRL, MPCInverse, PathIntegralIRL, PlanningPolicy, TaskCost
from mbrl.irl.pieces import check_steps
from mbrl.irl.searching import searched
from mbrl.tasks import CONSTRUCTORS
from mbrl.tasks.base import uniform_initial_state
from planners import (
    DDP,
    LQR,
    MPPI,
    DiagonalQuadraticCost,
    FunctionCost,
    GoalCost,
    Inequality,
    LinearFeatureCost,
    QuadraticCost,
    ResidualCost,
    TransitionCost,
    solve,
)

DOUBLE = torch.float64
Q, R = torch.tensor([2.0, 0.5], dtype=DOUBLE), torch.tensor([0.3], dtype=DOUBLE)
STEPS = 8


def regulator(**fields):
    A = torch.tensor([[1.0, 0.3], [0.2, 0.9]], dtype=DOUBLE)
    plant = LinearDynamics(A, torch.tensor([[0.0], [0.5]], dtype=DOUBLE), dt=0.1)
    start = uniform_initial_state([-1.0, -1.0], [1.0, 1.0])
    task = mbrl.Task(
        "Regulator", plant, QuadraticCost(Q.diag(), R.diag()), (-50.0, 50.0), start, horizon=STEPS, episode_steps=STEPS
    )
    return replace(task, **fields)


def demonstrated(task, number=2, steps=STEPS, *, noise=0.0):
    x0 = task.initial_state(number, torch.Generator().manual_seed(0))
    plan = solve(task.problem(horizon=steps), DDP(tolerance=1e-10), x0)
    if not noise:
        return episodes(task, plan.xs, plan.us)
    generator, x = torch.Generator().manual_seed(1), x0
    xs, us = [x], []
    for t in range(steps):
        us.append(plan.us[:, t] + noise * torch.randn(number, 1, generator=generator, dtype=DOUBLE))
        x = task.dynamics(x, us[-1])
        xs.append(x)
    return episodes(task, torch.stack(xs, 1), torch.stack(us, 1))


def episodes(task, xs, us):
    return [
        Trajectory(x, u, states=x, dt=task.dynamics.dt, truncated=True)
        for x, u in zip(xs.numpy(), us.numpy(), strict=True)
    ]


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_terms_add_up_to_the_cost(name):
    task = CONSTRUCTORS[name]()
    cost = TaskCost(task)
    assert (cost.terms == "squares") == task.cost.needs_next_state
    generator = torch.Generator().manual_seed(0)
    x, u = (
        task.initial_state(3, generator),
        torch.randn(3, task.dynamics.control_dim, generator=generator, dtype=DOUBLE),
    )
    truth = task.cost
    if cost.true_weights is None:
        n, m = task.dynamics.state_dim, task.dynamics.control_dim
        truth = QuadraticCost(torch.eye(n, dtype=DOUBLE), torch.eye(m, dtype=DOUBLE))
    weighted = cost if cost.true_weights is None else cost.with_weights(cost.true_weights)
    torch.testing.assert_close(weighted.stage(x, u, 0), truth.stage(x, u, 0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weighted.terminal(x), truth.terminal(x), rtol=1e-10, atol=1e-12)
    assert len(cost.names) == cost.features(x, u, 0).shape[-1] == cost.terminal_features(x).shape[-1]


def test_terms_of_all_kinds_of_costs():
    def residual(x, u, t):
        return torch.cat([2.0 * x, u.sin()], dim=-1)

    def hill(x, u, t):
        return -x[..., 0].square()

    own = QuadraticCost(Q.diag(), R.diag(), Q_terminal=Q.diag()) + 3.0 * ResidualCost(residual, lambda x: x[..., :1])
    own = own + -2.0 * FunctionCost(hill) + QuadraticCost(torch.ones(2, 2, dtype=DOUBLE), R.diag())
    task = regulator(cost=own)
    cost = TaskCost(task)
    assert cost.names == (
        *("x0", "x1", "u0", "last x0", "last x1"),
        *("residual 0", "residual 1", "residual 2", "last residual 0"),
        *("hill", "QuadraticCost"),
    )
    x, u = torch.randn(5, 2, dtype=DOUBLE), torch.randn(5, 1, dtype=DOUBLE)
    true = cost.with_weights(cost.true_weights)
    torch.testing.assert_close(true.stage(x, u, 0), own.stage(x, u, 0))
    torch.testing.assert_close(true.terminal(x), own.terminal(x))
    shares = cost.with_equal_shares(x.unsqueeze(0), u[:4].unsqueeze(0))
    spent = shares.features(x[:4], u[:4], 0).sum(0) + shares.terminal_features(x[4])
    torch.testing.assert_close(spent.abs() * shares.weights.detach() / 4, torch.ones(11, dtype=DOUBLE))


def test_a_copy_learns_no_more_than_the_cost():
    cost = TaskCost(regulator())
    assert copy.deepcopy(cost).free.requires_grad
    assert not copy.deepcopy(cost.requires_grad_(False)).free.requires_grad


def test_terms_of_two_costs_alike_are_told_apart():
    quadratic = QuadraticCost(Q.diag(), R.diag())
    residual = ResidualCost(lambda x, u, t: x)
    cost = TaskCost(regulator(cost=quadratic + quadratic + residual + residual))
    assert cost.names[:6] == ("x0", "x1", "u0", "x0 (2)", "x1 (2)", "u0 (2)")
    assert cost.names[6:] == ("residual 0", "residual 1", "residual 0 (2)", "residual 1 (2)")


@pytest.mark.parametrize(
    ("learner", "noise"),
    [(MPCInverse(start="equal"), 0.0), (MPCInverse(), 0.05), (KKTInverse(), 0.0), (LaplaceIRL(), 0.3)],
)
def test_training_is_learning(learner, noise):
    task = regulator()
    demonstrations = demonstrated(task, noise=noise)
    result = mbrl.train(learner, task, demonstrations=demonstrations, evaluation_episodes=0)
    guess = learner.first_guess(task, TaskCost(task).with_equal_shares(*stacked(demonstrations)), demonstrations)
    direct = learner.learn(task, guess, demonstrations)
    assert torch.equal(result.reward.weights, direct.weights)
    for name, numbers in direct.history.items():
        column = result.metrics[f"train/{name}"]
        assert column[~torch.tensor(column).isnan().numpy()].tolist() == (
            numbers if isinstance(learner, MPCInverse) else numbers[-1:]
        )
    assert result.metrics["weight/x0"][-1] == float(result.reward.weights.detach()[0])
    if not noise:
        true, found = result.reward.true_weights, result.reward.weights.detach()
        torch.testing.assert_close(found / found[0], true / true[0], rtol=1e-4, atol=1e-5)


def stacked(demonstrations):
    return (torch.stack([torch.tensor(getattr(d, name)) for d in demonstrations]) for name in ("states", "controls"))


def test_a_choice_among_samples_is_a_training():
    """With limits in which controls are used, what is optimal is told from its noisy copies, and by the seed's noise."""
    task, learner = regulator(control_limits=(-1.0, 1.0)), PathIntegralIRL()
    demonstrations = demonstrated(task, 10)
    first, second = (
        mbrl.train(learner, task, demonstrations=demonstrations, evaluation_episodes=0, seed=seed) for seed in (0, 1)
    )
    guess = learner.first_guess(task, TaskCost(task).with_equal_shares(*stacked(demonstrations)), demonstrations)
    seed = mbrl.Assignment(task, 1, seed=1).seed_for("cost")
    direct = learner.learn(task, guess, demonstrations, seed=seed)
    assert torch.equal(second.reward.weights, direct.weights)
    assert not torch.equal(first.reward.weights, second.reward.weights)
    assert not direct.report.certain
    assert direct.report.scale_unbounded
    assert float(direct.weights.sum()) == pytest.approx(float(guess.weights.detach().sum()))
    assert 0.0 < second.metrics["train/objective"][-1] < 0.1
    for result in (first, second):
        true, found = result.reward.true_weights, result.reward.weights.detach()
        torch.testing.assert_close(found / found[0], true / true[0], rtol=0.05, atol=0.0)


def test_what_sampled_for_a_choice_acts_too():
    """With discrete controls, which the planner of other learners does not take."""
    task = regulator(control_limits=(-1.0, 1.0), control_values=torch.tensor([[-1.0], [0.0], [1.0]], dtype=DOUBLE))
    generator = torch.Generator().manual_seed(0)
    us = torch.randint(-1, 2, (2, STEPS, 1), generator=generator).double()
    demonstrations = episodes(task, task.dynamics.rollout(task.initial_state(2, generator), us), us)
    learner = PathIntegralIRL(num_samples=5, planner=MPPI(num_samples=20, max_iterations=9), rounds=1)
    policy = mbrl.train(learner, task, demonstrations=demonstrations, evaluation_episodes=0).policy
    assert policy.planner == MPPI(num_samples=20, max_iterations=5)
    assert KKTInverse().acting == DDP(max_iterations=5)


def test_a_choice_that_is_certain_at_first_says_so():
    task = regulator()  # with limits so wide that no noisy copy is nearly as good
    demonstrations = demonstrated(task)
    cost = TaskCost(task).with_equal_shares(*stacked(demonstrations))
    learned = PathIntegralIRL(scales=1).learn(task, cost, demonstrations)
    assert torch.equal(learned.weights, cost.weights)
    assert learned.report.certain
    assert not learned.converged
    assert "had a chance" in str(learned.report)
    trained = mbrl.train(PathIntegralIRL(), task, demonstrations=demonstrations, evaluation_episodes=0)
    assert trained.metrics["train/objective"][-1] > 0.0


def test_a_search_where_costs_overflow_goes_on_before_that():
    task = regulator()
    arguments = {"demonstrations": demonstrated(task, 10), "evaluation_episodes": 0}
    result = mbrl.train(PathIntegralIRL(std=0.01), task, **arguments)
    assert bool(result.reward.weights.isfinite().all())
    assert result.metrics["train/objective"][-1] < 0.1


def test_resumed_it_is_the_same(tmp_path):
    task, learner = regulator(), MPCInverse(start="equal", tolerance=1e-9)
    arguments = {"demonstrations": demonstrated(task, noise=0.02), "evaluation_episodes": 0}
    whole = mbrl.train(learner, task, **arguments)

    class KilledError(Exception):
        pass

    def kill(row):
        if row["step"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        mbrl.train(learner, task, run=tmp_path / "run", on_iteration=kill, **arguments)
    resumed = mbrl.train(learner, task, run=tmp_path / "run", resume="must", **arguments)
    assert resumed.steps == whole.steps > 3
    assert torch.equal(whole.reward.weights, resumed.reward.weights)
    assert whole.metrics["train/loss"].tolist() == resumed.metrics["train/loss"].tolist()


def test_invalid_plans_are_counted_at_the_weights_that_are_returned():
    """Whatever the last step tried, and after a resumption, too."""
    task, learner = regulator(), MPCInverse(start="equal", max_iterations=3)
    demonstrations = demonstrated(task, noise=0.05)
    cost = TaskCost(task).with_equal_shares(*stacked(demonstrations))
    search = learner.search(task, cost, demonstrations)
    while not search.finished:
        search.advance()
    assert search.jacobian is not None  # is known before the next plans
    search.plans.errors(search.theta + 50.0)
    assert search.learned().report.invalid_plans == 0


@pytest.mark.parametrize("learner", [MPCInverse, KKTInverse, LaplaceIRL, PathIntegralIRL])
def test_pieces_of_demonstrations_are_planned_as_they_are_long(learner):
    """Cutting in a training is cutting by hand, and the policy plans as many steps."""
    task = regulator()
    demonstrations = demonstrated(task, steps=3 * STEPS, noise=0.05)
    pieces = [d.slice(t, t + STEPS) for d in demonstrations for t in range(0, 2 * STEPS + 1, 3)]
    by_hand = mbrl.train(learner(), task, demonstrations=pieces, evaluation_episodes=0)
    settings = learner(horizon=STEPS, stride=3)
    cut = mbrl.train(settings, task, demonstrations=demonstrations, evaluation_episodes=0)
    assert cut.reward.weights.tolist() == by_hand.reward.weights.tolist()
    assert cut.policy.horizon == STEPS
    of_two_lengths = [demonstrations[0], demonstrations[1].slice(0, STEPS + 1)]
    assert trained(settings, task, demonstrations=of_two_lengths, evaluation_episodes=0).steps > 0


@pytest.mark.parametrize("learner", [MPCInverse, KKTInverse, LaplaceIRL, PathIntegralIRL])
def test_pieces_count_in_the_direct_call_too(learner):
    """Of a task and of a problem, whose horizon is that of the pieces."""
    task = regulator()
    demonstrations = demonstrated(task, steps=3 * STEPS, noise=0.05)
    pieces = [d.slice(t, t + STEPS) for d in demonstrations for t in range(0, 2 * STEPS + 1, 3)]
    cost = learner().first_guess(task, TaskCost(task).with_equal_shares(*stacked(pieces)), pieces)
    settings = learner(horizon=STEPS, stride=3)
    assert torch.equal(
        settings.first_guess(task, TaskCost(task).with_equal_shares(*stacked(pieces)), demonstrations).weights,
        cost.weights,
    )
    expected = learner().learn(task, cost, pieces).weights
    assert torch.equal(settings.learn(task, cost, demonstrations).weights, expected)
    assert torch.equal(settings.learn(task.problem(horizon=STEPS), cost, demonstrations).weights, expected)
    assert torch.equal(searched(settings.search(task, cost, demonstrations)).weights, expected)
    with pytest.raises(ValueError, match=r"pieces of horizon=8 steps, the horizon of the problem is 24"):
        settings.learn(task.problem(horizon=3 * STEPS), cost, demonstrations)
    with pytest.raises(TypeError, match="must be a sequence of Trajectory, got list"):
        settings.learn(task, cost, [1.0])


def stronger(steps=3 * STEPS):
    """The regulator's plant, whose controls do more and more."""
    task = regulator()
    grow = torch.linspace(1.0, 3.0, steps, dtype=DOUBLE)[:, None, None]
    return replace(task, dynamics=LinearDynamics(task.dynamics.A, grow * task.dynamics.B, dt=0.1))


def dear_later(known=None):
    """A cost of which a term, whose weight is zero, depends on time."""

    def features(x, u, t):
        later = torch.as_tensor(t).to(x).expand(x.shape[:-1])
        return torch.stack([x.square().sum(-1), u.square().sum(-1), later * u[..., 0]], -1)

    return LinearFeatureCost(features, [1.0, 1.0, 0.0], known=known, positive=False)


def moving_goal():
    steps = torch.linspace(0.0, 1.0, 3 * STEPS + 1, dtype=DOUBLE)
    return GoalCost(steps[:, None].expand(-1, 2), 1.0, 0.0)


@pytest.mark.parametrize(
    ("task", "cost", "what"),
    [
        (stronger(), TaskCost(regulator()), "dynamics are not"),
        (stronger(STEPS), TaskCost(regulator()), r"steps up to 23: B is given for steps 0\.\.7"),
        (regulator(), dear_later(), "cost are not"),
        (regulator(), DiagonalQuadraticCost([1.0, 1.0], [1.0], known=moving_goal()), "cost are not"),
    ],
)
def test_pieces_of_what_depends_on_time_are_refused(task, cost, what):
    """They would be learned from as if each had begun at step 0."""
    demonstrations = demonstrated(regulator(), steps=3 * STEPS)
    match = f"horizon= needs a plant and a cost that do not depend on time.*{what}"
    with pytest.raises(ValueError, match=match):
        KKTInverse(horizon=STEPS).learn(task, cost, demonstrations)
    first = [d.slice(0, STEPS) for d in demonstrations]
    KKTInverse(horizon=STEPS).learn(task, cost, first)  # begins at step 0


@pytest.mark.parametrize("last", [0.0, 1.0])
def test_networks_that_are_shown_the_time_have_no_pieces(last):
    """Also where they say nothing yet."""

    class Timed(torch.nn.Module):
        def __init__(self, rate):
            super().__init__()
            self.rate, self.factor = rate, torch.nn.Parameter(torch.tensor(last, dtype=DOUBLE))

        def forward(self, x, u, t):
            return u.square().sum(-1) + self.factor * (self.rate * torch.as_tensor(t).to(x)).cos() * x[..., 0].square()

    task, demonstrations = regulator(), demonstrated(regulator(), steps=3 * STEPS, noise=0.3)
    settings = LaplaceIRL(horizon=STEPS, max_iterations=2)
    with pytest.raises(ValueError, match=r"do not depend on time.*cost are not"):
        settings.learn(task, FunctionCost(Timed(0.1)), demonstrations)
    assert settings.learn(task, FunctionCost(Timed(0.0)), demonstrations).history["log_likelihood"]


def test_constraints_and_limits_that_depend_on_time_have_no_pieces():
    def later(x, u, t):
        return u - 50.0 - torch.as_tensor(t).to(u).expand(u.shape[:-1]).unsqueeze(-1)

    demonstrations, task = demonstrated(regulator(), steps=3 * STEPS), regulator()
    problem = replace(task.problem(horizon=STEPS), constraints=[Inequality(later)])
    with pytest.raises(ValueError, match=r"do not depend on time.*constraints are not"):
        MPCInverse(horizon=STEPS).learn(problem, TaskCost(task), demonstrations)
    limits = -10.0, torch.linspace(8.0, 9.0, STEPS, dtype=DOUBLE)[:, None]
    with pytest.raises(ValueError, match=r"do not depend on time.*control limits are not"):
        KKTInverse(horizon=STEPS).learn(
            replace(task.problem(horizon=STEPS), control_limits=limits), TaskCost(task), demonstrations
        )


def test_trainings_refuse_pieces_of_what_depends_on_time():
    task, demonstrations = stronger(), demonstrated(stronger(), steps=3 * STEPS)
    with pytest.raises(ValueError, match=r"do not depend on time.*dynamics are not the same"):
        trained(KKTInverse(horizon=STEPS, stride=2), task, demonstrations=demonstrations)
    whole = trained(KKTInverse(), task, demonstrations=demonstrations)
    true, found = whole.reward.true_weights, whole.reward.weights.detach()
    torch.testing.assert_close(found / found[0], true / true[0], rtol=1e-5, atol=0.0)
    with pytest.raises(ValueError, match=r"do not depend on time.*dynamics are not the same"):
        trained(mbrl.GCL(horizon=STEPS, conditions=1, iterations=1), task, demonstrations=demonstrations)


def test_a_simulator_with_contacts_is_the_same_at_all_steps():
    """To the bit, so that its pieces are not refused."""
    task = mbrl.half_cheetah()
    generator = torch.Generator().manual_seed(0)
    us = 2 * torch.rand(2, 60, 6, generator=generator, dtype=DOUBLE) - 1
    xs = task.dynamics.rollout(task.initial_state(2, generator), us)
    pieces = [slice(t, t + 20) for t in range(0, 41, 10)]
    problem = task.problem(horizon=20)
    x = torch.cat([torch.stack([row[piece.start : piece.stop + 1] for piece in pieces]) for row in xs])
    u = torch.cat([torch.stack([row[piece] for piece in pieces]) for row in us])
    check_steps(problem, x, u, 2 * [piece.start for piece in pieces])


def test_a_search_begins_with_equal_shares_where_the_stationary_weights_show_nowhere():
    """Demonstrations at their limits are stationary for any weights, such as those whose plans are at limits everywhere."""
    task = regulator(control_limits=(-0.05, 0.05))
    demonstrations = demonstrated(task, steps=3)
    assert all(
        (abs(d.controls[:-1]) == 0.05).all() for d in demonstrations
    )  # the last one changes nothing, and is zero
    guess = MPCInverse().first_guess(task, TaskCost(task), demonstrations)
    assert guess.weights.tolist() == TaskCost(task).weights.tolist()


def test_the_policy_plans_as_the_demonstrator_does():
    """In receding horizon, with the gain of the regulator of the true weights."""
    task = regulator()
    policy = mbrl.train(MPCInverse(), task, demonstrations=demonstrated(task), evaluation_episodes=0).policy
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    expected = solve(replace(task.problem(), control_limits=None), LQR(), x).us[:, 0]
    found, memory = policy.act(x, policy.init(6))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert memory.time == 1


def test_files_hold_weights_and_which_task(tmp_path):
    task = mbrl.pendulum_swing_up("torch")
    heavy = replace(task, dynamics=task.dynamics.with_parameters(mass=torch.tensor(1.3, dtype=DOUBLE)))
    cost = TaskCost(heavy, [1.0, 0.03, 0.02])
    policy = PlanningPolicy(heavy, cost, DDP(max_iterations=4), horizon=6)
    again = mbrl.load_policy(mbrl.save_policy(policy, tmp_path / "policy.safetensors"))
    assert again.planner == policy.planner
    assert torch.equal(again.cost.weights, cost.weights)
    assert float(again.task.dynamics.mass) == 1.3
    x = task.initial_state(2, torch.Generator().manual_seed(0))
    assert torch.equal(policy.act(x, policy.init(2))[0], again.act(x, again.init(2))[0])
    reward = mbrl.load_reward(mbrl.save_reward(cost, tmp_path / "reward.safetensors"))
    u = torch.zeros(2, 1, dtype=DOUBLE)
    assert torch.equal(reward.stage(x, u, 0), cost.stage(x, u, 0))
    other = regulator()
    mbrl.save_policy(PlanningPolicy(other, TaskCost(other), DDP()), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="Regulator is no task of this library"):
        mbrl.load_policy(tmp_path / "other.safetensors")


def trained(learner=MPCInverse(), task=None, **arguments):  # noqa: B008
    return mbrl.train(learner, task or regulator(), **{"evaluation_episodes": 0, **arguments})


def moving():
    return regulator(cost=TransitionCost(lambda x, u, after, t: after.square().sum(-1)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: trained(), "MPCInverse learns from demonstrations"),
        (
            lambda: trained(task="CartPole-v1", demonstrations=demonstrated(regulator())),
            "needs the plant and the cost of a mbrl.Task",
        ),
        (
            lambda: trained(task=mbrl.gridworld(2), demonstrations=demonstrated(regulator())),
            "of a mbrl.Task, got GridWorld",
        ),
        (
            lambda: trained(demonstrations=[*demonstrated(regulator()), *demonstrated(regulator(), steps=5)]),
            "demonstrations of one length, got 5 to 8 steps; set horizon=5",
        ),
        (
            lambda: trained(
                demonstrations=demonstrated(mbrl.pendulum_swing_up("torch"), 1),
                init=PlanningPolicy(regulator(), TaskCost(regulator()), DDP()),
            ),
            "init would be ignored",
        ),
        (
            lambda: trained(demonstrations=[d.replace(states=None) for d in demonstrated(regulator())]),
            "must have states",
        ),
        (
            lambda: trained(KKTInverse(terms="own"), moving(), demonstrations=demonstrated(regulator())),
            "choose 'squares'",
        ),
        (lambda: TaskCost(regulator(), terms="none"), "terms must be one of"),
        (lambda: TaskCost(regulator(), [1.0]), "task Regulator has 3 terms"),
        (lambda: MPCInverse(start="random"), "start must be"),
        (lambda: MPCInverse(imitated=0), "imitated must be an integer of at least 1"),
        (lambda: MPCInverse(horizon=0), "horizon must be an integer of at least 1"),
        (lambda: KKTInverse(stride=2), "set horizon, too"),
        (
            lambda: trained(KKTInverse(horizon=50), regulator(), demonstrations=demonstrated(regulator())),
            "has 8 steps, and cannot be cut into pieces of 50; choose horizon=8",
        ),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
