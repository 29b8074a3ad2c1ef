"""Dataset aggregation: who acts, who labels, with which memory, and that it finds what cloning cannot."""

import itertools
import json
from dataclasses import dataclass
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch

import mbrl
from dynamics import LinearDynamics, TorchDynamics
from mbrl import BC, ContinuousActions, DAgger, NetworkSettings
from mbrl.imitation.dagger import _difference
from mbrl.imitation.labels import Labels
from planners import LQR, MPC, Problem, QuadraticCost

K = torch.tensor([[13.0, 6.0]]).double()  # closed loop with eigenvalues 0.8 and 0.6
LINE = torch.tensor([1.0, -2.0]).double()  # eigenvector of 0.8
LINEAR = BC(network=NetworkSettings(hidden=(), initial_std=0.1), learning_rate=0.02, validation_share=0.0)
SMALL = BC(network=NetworkSettings(hidden=(8,)), steps_per_iteration=5)


@dataclass(frozen=True)
class Feedback:
    """u = -K x, of the state."""

    acts_on: ClassVar[str] = "state"

    def init(self, batch=1, *, generator=None):
        return None

    def act(self, x, memory, *, deterministic=True):
        return -x @ K.to(x).T, memory


@dataclass(frozen=True)
class Counter:
    """Remembers the first observation of each episode, and how often it was asked."""

    acts_on: ClassVar[str] = "observation"

    def init(self, batch=1, *, generator=None):
        return 0, None

    def act(self, y, memory, *, deterministic=True):
        count, first = memory
        first = y[:, :1] if first is None else first
        return first + 0.01 * count, (count + 1, first)


def balancing(episode_steps=30, termination=None):
    """An unstable pole near upright, which begins on a line along which the expert brings it to rest."""
    return mbrl.Task(
        "Balancing",
        LinearDynamics(torch.tensor([[1.0, 0.1], [0.5, 1.0]]).double(), torch.tensor([[0.0], [0.1]]).double(), dt=0.1),
        QuadraticCost(torch.eye(2).double(), 0.1 * torch.eye(1).double()),
        (-20.0, 20.0),
        lambda batch, generator: (2 * torch.rand(batch, 1, generator=generator).double() - 1) * LINE,
        horizon=10,
        episode_steps=episode_steps,
        termination=termination,
    )


def dagger(algorithm, task, *, steps, **options):
    return mbrl.train(algorithm, task, steps=steps, **{"evaluation_episodes": 0, **options})


def captured(monkeypatch):
    """The actions that are given to worlds."""
    given, step = [], mbrl.Worlds.step

    def record(self, actions):
        given.append(actions)
        return step(self, actions)

    monkeypatch.setattr(mbrl.Worlds, "step", record)
    return given


@pytest.mark.slow
def test_it_finds_what_cloning_cannot():
    """All that the expert visits lies on a line, on which gains that differ by multiples of (2, 1) do the same.

    Cloning cannot tell them apart. Those next to the zeros it begins with leave an eigenvalue of about 1.2, by which errors,
    if only those of rounding, grow at each of 80 steps. DAgger sees where they lead to and asks.
    """
    task, expert = balancing(80), Feedback()
    demonstrations = mbrl.record(task, expert, 12)
    cloned = mbrl.train(LINEAR, task, demonstrations=demonstrations, steps=150, evaluation_episodes=0).policy
    result = dagger(DAgger(expert, episodes=2, cloning=LINEAR, gradient_steps=150), task, steps=12 * 80)
    assert result.steps == sum(t.num_steps for t in demonstrations) == result.learner.labels.steps
    best, without, with_questions = (-mbrl.evaluate(actor, task).iqm for actor in (expert, cloned, result.policy))
    assert without > 10 * best
    assert with_questions < 1.1 * best
    assert spectral_radius(task, cloned) > 1.1
    assert spectral_radius(task, result.policy) < 1.05  # what little is left does not show within 80 steps


def spectral_radius(task, policy):
    """Of the closed loop near the origin, under a linear policy."""
    center, columns = torch.zeros(1, 2).double(), torch.eye(2).double()
    mode = [policy.act(x, policy.init(len(x)))[0] for x in (center, 0.1 * columns)]
    gain = ((mode[1] - mode[0]) / 0.1).T
    return float(torch.linalg.eigvals(task.dynamics.A + task.dynamics.B @ gain).abs().max())


def test_the_expert_acts_alone_at_first_and_labels_what_it_would_do(monkeypatch):
    task, expert, given = balancing(), Feedback(), captured(monkeypatch)
    learner = DAgger(expert, episodes=3, cloning=SMALL, gradient_steps=5).learner(mbrl.Assignment(task, 1000))
    metrics = learner.iterate()
    assert metrics["rollout/beta"] == 1.0
    labels = learner.labels
    assert labels.lengths.tolist() == [30] * 3
    first = labels.observations[labels.lengths.cumsum(0) - labels.lengths]
    torch.testing.assert_close(first[:, 1], -2 * first[:, 0])
    own = mbrl.record(task, expert, 3, initial_states=first)
    np.testing.assert_allclose(labels.observations, np.concatenate([t.observations[:-1] for t in own]), atol=1e-12)
    assert metrics["rollout/return"] == pytest.approx(np.mean([t.rewards.sum() for t in own]))
    torch.testing.assert_close(torch.stack(given, dim=1).flatten(0, 1), labels.actions, rtol=0, atol=0)
    for _ in range(3):
        metrics = learner.iterate()
    assert metrics["rollout/beta"] == 0.125
    assert learner.steps == learner.labels.steps == 4 * 90
    would = (-learner.labels.observations @ K.T).clamp(-20, 20) / 20
    torch.testing.assert_close(learner.labels.actions, would, rtol=0, atol=1e-12)


@pytest.mark.parametrize("warm", [False, True])
def test_the_expert_acts_with_probability_beta_at_each_step(warm, monkeypatch):
    algorithm = DAgger(Feedback(), beta_decay=0.5, episodes=20, cloning=SMALL, gradient_steps=5, warm_start=warm)
    learner = algorithm.learner(mbrl.Assignment(balancing(), 1000))
    learner.iterate()
    given = captured(monkeypatch)
    learner.iterate()
    labels = learner.labels.actions[20 * 30 :].unflatten(0, (20, 30))
    by_expert = (torch.stack(given, dim=1) == labels).all(-1).double()
    assert float(by_expert.mean()) == pytest.approx(0.5, abs=4.5 * 0.5 / 600**0.5)
    assert float(by_expert.mean(0).std()) < 0.25  # not all worlds at the same steps,
    assert float(by_expert.mean(1).std()) < 0.25  # and not whole episodes: then 0.5 each


def test_an_expert_with_memory_runs_along():
    """Its label at step t is that of an expert that has been asked t times before, whoever acted."""
    algorithm = DAgger(Counter(), beta_decay=0.5, episodes=4, cloning=SMALL, gradient_steps=5)
    learner = algorithm.learner(mbrl.Assignment(balancing(12), 1000))
    for _ in range(3):
        learner.iterate()
    y, actions = (values.unflatten(0, (12, 12)) for values in (learner.labels.observations, learner.labels.actions))
    expected = y[:, :1, :1] + 0.01 * torch.arange(12).double().reshape(12, 1)
    torch.testing.assert_close(20 * actions, expected, rtol=0, atol=1e-12)


def test_mpc_is_an_expert_and_what_follows_the_end_of_an_episode_is_left_out():
    task = balancing(10, termination=lambda x: x[..., 0].abs() < 0.2)
    mpc = MPC(Problem(task.dynamics, task.cost, 10), LQR())
    learner = DAgger(mpc, episodes=6, cloning=SMALL, gradient_steps=5).learner(mbrl.Assignment(task, 1000))
    for _ in range(2):
        learner.iterate()
    labels = learner.labels
    assert len(labels) == 12
    assert len(set(labels.lengths.tolist())) > 1
    for rows in torch.arange(labels.steps).split(labels.lengths.tolist()):
        x, memory = labels.observations[rows], mpc.init(1)
        assert bool((x[1:, 0].abs() >= 0.2).all())  # the episode ends where it is terminated
        for row, action in zip(x, labels.actions[rows], strict=True):
            u, memory = mpc.step(memory, row.unsqueeze(0))
            torch.testing.assert_close(20 * action, u[0].clamp(-20, 20), rtol=0, atol=1e-9)


@pytest.mark.parametrize("recurrent", [0, 4])
def test_an_interrupted_run_gives_what_an_uninterrupted_one_does(recurrent, tmp_path):
    cloning = BC(network=NetworkSettings(hidden=(6,), recurrent=recurrent), batch_size=30, steps_per_iteration=4)
    algorithm = DAgger(Feedback(), episodes=3, cloning=cloning, gradient_steps=8, warm_start=bool(recurrent))
    demonstrations = mbrl.record(balancing(10), Feedback(), 3)
    arguments = {"steps": 100, "seed": 3, "demonstrations": demonstrations}
    whole = dagger(algorithm, balancing(10), **arguments)
    counts = itertools.count()

    def stop(row):
        if next(counts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dagger(algorithm, balancing(10), run=tmp_path / "run", on_iteration=stop, **arguments)
    resumed = dagger(algorithm, balancing(10), run=tmp_path / "run", **arguments)
    assert whole.metrics["step"].tolist() == resumed.metrics["step"].tolist() == [0, 30, 60, 90, 120]
    np.testing.assert_array_equal(whole.metrics["train/loss"], resumed.metrics["train/loss"])
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[name]), name
    for name, tensor in whole.learner.labels.state_dict().items():
        assert torch.equal(tensor, resumed.learner.labels.state_dict()[name]), name
    config = json.loads((tmp_path / "run" / "config.json").read_text())["algorithm"]
    assert (config["class"], config["expert"]) == ("DAgger", {"class": "Feedback"})
    assert config["cloning"]["network"]["hidden"] == [6]


def test_demonstrations_take_the_place_of_the_first_iteration():
    task = balancing(10)
    demonstrations = mbrl.record(task, Feedback(), 5)
    algorithm = DAgger(Feedback(), beta_decay=0.3, episodes=3, cloning=SMALL, gradient_steps=5)
    learner = algorithm.learner(mbrl.Assignment(task, 1000, demonstrations=demonstrations))
    assert learner.iterate()["train/labels"] == 50
    assert (learner.steps, learner.labels.steps) == (0, 50)
    metrics = learner.iterate()
    assert (metrics["rollout/beta"], metrics["train/labels"]) == (0.3, 80)
    assert (learner.steps, learner.labels.steps) == (30, 80)
    assert learner.labels.lengths.tolist() == [10] * 8


def test_what_is_recorded_of_an_expert():
    """The same expert gives the same config, one with other numbers or weights another: a resumed run must not swap it."""
    task = balancing()
    problem = Problem(task.dynamics, task.cost, 10)
    policies = [mbrl.Policy.for_task(task, seed=seed) for seed in (0, 0, 1)]
    experts = [MPC(problem, LQR()), MPC(problem, LQR()), MPC(problem, LQR(tolerance=1e-9)), *policies]
    texts = [json.dumps(DAgger(expert).config()) for expert in experts]
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4] != texts[5]
    assert '"tolerance": 1e-09' in texts[2]


def test_a_task_with_finitely_many_controls_and_an_expert_with_all():
    task = mbrl.discretized(balancing(10), 5)
    learner = DAgger(Feedback(), episodes=4, cloning=SMALL, gradient_steps=5).learner(mbrl.Assignment(task, 1000))
    metrics = [learner.iterate() for _ in range(2)][1]
    nearest = task.admissible(-learner.labels.observations @ K.T)
    torch.testing.assert_close(learner.policy.actions.controls(learner.labels.actions), nearest, rtol=0, atol=0)
    assert 0 <= metrics["rollout/difference"] <= 1


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "mbrl/PointNavigation-v0"])
def test_on_gymnasium_environments_that_give_their_state(name):
    @dataclass(frozen=True)
    class StateSum:
        acts_on = "state"

        def init(self, batch=1, *, generator=None):
            return None

        def act(self, x, memory, *, deterministic=True):
            m = 1 if name == "InvertedPendulum-v5" else 2
            seen.append(x)
            return 0.1 * x.sum(-1, keepdim=True).expand(-1, m), memory

    seen = []
    algorithm = DAgger(StateSum(), episodes=2, cloning=SMALL, gradient_steps=5)
    learner = algorithm.learner(mbrl.Assignment(name, 1000))
    for _ in range(2):
        learner.iterate()
    n = learner.worlds.env.state_dim
    assert all(x.shape == (2, n) and bool(x.isfinite().all()) for x in seen)
    assert bool((learner.labels.actions[:, 0].abs() > 0).any())
    assert learner.exact


def test_on_another_gymnasium_environment_with_an_expert_on_observations():
    """CartPole-v1, which gives no state: the well-known rule that pushes toward where the pole falls."""

    @dataclass(frozen=True)
    class Rule:
        acts_on = "observation"

        def init(self, batch=1, *, generator=None):
            return None

        def act(self, y, memory, *, deterministic=True):
            return ((y[:, 2:3] + y[:, 3:4]) > 0).to(y), memory

    result = dagger(DAgger(Rule(), episodes=2, cloning=SMALL, gradient_steps=5), "CartPole-v1", steps=60)
    y, actions = result.learner.labels.observations, result.learner.labels.actions
    assert torch.equal(actions, (y[:, 2] + y[:, 3] > 0).long())
    with pytest.raises(ValueError, match=r"acts on the state, and the environment gives no info\['state'\]"):
        dagger(DAgger(Feedback(), cloning=SMALL), "CartPole-v1", steps=10)


def test_an_episode_without_a_time_limit_is_cut_off():
    class Endless(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, dtype=np.float32), {}

        def step(self, action):
            return np.zeros(1, dtype=np.float32), 1.0, False, False, {}

    algorithm = DAgger(Counter(), episodes=2, cloning=SMALL, gradient_steps=5, max_steps=9)
    learner = algorithm.learner(mbrl.Assignment(Endless, 1000))
    metrics = [learner.iterate() for _ in range(2)]
    assert [(m["rollout/length"], m["rollout/return"]) for m in metrics] == [(9.0, 9.0)] * 2
    assert learner.labels.lengths.tolist() == [9] * 4


def test_the_difference_is_that_of_what_is_applied():
    """Beyond a limit more does not differ."""
    space = ContinuousActions(torch.tensor([-2.0]), torch.tensor([4.0]))
    own, labels = torch.tensor([[3.0], [-5.0], [0.5]]).double(), torch.tensor([[1.0], [-0.5], [0.0]]).double()
    assert _difference(space, own, labels).tolist() == [0.0, 0.25, 0.25]


def test_worlds_show_their_present_states():
    """After steps, in worlds that have begun again, and in others that go on from a saved state."""
    task = balancing(7, termination=lambda x: x[..., 0].abs() < 0.3)
    worlds, others = (mbrl.Worlds(mbrl.make_vec_env(task, 5, autoreset_mode="Disabled"), seed) for seed in (0, 1))
    again = 0
    for _ in range(20):
        worlds.step(0.1 * torch.ones(5, 1).double())
        again += int(worlds.starts.sum())
        np.testing.assert_array_equal(worlds.states, worlds.env.state)
        np.testing.assert_array_equal(worlds.states, worlds.observations)  # this task shows its state
    assert again > 5
    others.load_state_dict(worlds.state_dict())
    np.testing.assert_array_equal(others.states, worlds.states)


def test_episodes_one_after_the_other():
    one = Labels(torch.zeros(3, 2).double(), torch.zeros(3, 1).double(), torch.tensor([1, 2]))
    two = Labels(torch.ones(4, 2).double(), torch.ones(4, 1).double(), torch.tensor([4]))
    both = one.joined(two)
    assert (len(both), both.steps) == (3, 7)
    assert both.rows(torch.tensor([0, 2])).tolist() == [0, 3, 4, 5, 6]
    alone = two.split(0.5, torch.Generator().manual_seed(0))
    assert [part.tolist() for part in alone] == [[0], []]


def test_what_does_not_fit_is_refused():
    task, policy = balancing(), mbrl.Policy.for_task(balancing(), NetworkSettings(hidden=(8,)))
    with pytest.raises(TypeError, match="an actor has acts_on, init and act"):
        DAgger(LQR())
    for wrong in ({"beta_decay": 1.5}, {"episodes": 0}, {"gradient_steps": 0}, {"max_steps": 2.5}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be "):
            DAgger(Feedback(), **wrong)
    with pytest.raises(ValueError, match="init would be ignored; set warm_start=True"):
        dagger(DAgger(Feedback(), cloning=SMALL), task, steps=10, init=policy)

    def says(u):
        @dataclass(frozen=True)
        class Says:
            acts_on = "state"

            def init(self, batch=1, *, generator=None):
                return None

            def act(self, x, memory, *, deterministic=True):
                return u, memory

        return Says()

    with pytest.raises(ValueError, match=r"Says must give controls of shape \(8, 1\), got \(8, 2\)"):
        dagger(DAgger(says(torch.zeros(8, 2)), cloning=SMALL), task, steps=10)
    with pytest.raises(ValueError, match="Says gave a control that is not finite"):
        dagger(DAgger(says(torch.full((8, 1), torch.nan)), cloning=SMALL), task, steps=10)


@dataclass(frozen=True)
class Outwards:
    """Goes on in the direction of the state."""

    acts_on: ClassVar[str] = "state"

    def init(self, batch=1, *, generator=None):
        return None

    def act(self, x, memory, *, deterministic=True):
        return x.sign(), memory


def test_episodes_in_which_the_simulation_diverges_have_no_return():
    dynamics = TorchDynamics(lambda x, u: torch.where(x > 0.3, torch.inf, x + 0.2 * u), 1, 1, 0.1)
    cost = QuadraticCost(torch.zeros(1, 1).double(), 2 * torch.eye(1).double())  # one for each step
    start = mbrl.uniform_initial_state([-0.1], [0.1])
    task = mbrl.Task("Cliff", dynamics, cost, (-1.0, 1.0), start, horizon=5, episode_steps=15)
    learner = DAgger(Outwards(), episodes=16, cloning=SMALL, gradient_steps=2).learner(mbrl.Assignment(task, 1000))
    row = learner.iterate()
    assert row["rollout/diverged"] >= 1
    assert row["rollout/episodes"] + row["rollout/diverged"] == 16
    assert (row["rollout/length"], row["rollout/return"]) == (15.0, -15.0)
