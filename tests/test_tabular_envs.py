"""Worlds and processes in tables as environments: their tables, their episodes, and training on them."""

import dataclasses
import functools
import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from tabular_worlds import random_mdp

import mbrl
from mbrl.testing import check_vector_env
from planners import TabularMDP, TabularTrajectories, occupancies_by_step

PPO = mbrl.PPO(num_envs=4, steps_per_iteration=64, network=mbrl.NetworkSettings(hidden=(16,)))


class Uniform:
    """Takes actions at random."""

    acts_on = "state"

    def __init__(self, actions):
        self.actions = actions

    def init(self, batch, *, generator=None):
        return generator

    def act(self, y, memory, *, deterministic=True):
        return torch.randint(self.actions, (len(y), 1), generator=memory).double(), memory


def with_zeros(seed, *, horizon=5):
    """A process some of whose first states and transitions are impossible."""
    mdp = random_mdp(seed, S=5, A=2, horizon=horizon)
    P = torch.where(mdp.transitions > 0.15, mdp.transitions, 0.0)
    P[0, 0] = torch.eye(5, dtype=torch.float64)[3]
    initial = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0], dtype=torch.float64)
    return dataclasses.replace(mdp, transitions=P / P.sum(-1, keepdim=True), initial=initial)


def test_gymnasium_and_the_library_accept_them():
    world = mbrl.gridworld(3, discount=0.5)
    check_env(mbrl.make_env(world), skip_render_check=True)
    check_vector_env(functools.partial(mbrl.make_vec_env, world))
    check_vector_env(functools.partial(mbrl.make_vec_env, with_zeros(0)))
    env = gymnasium.make("mbrl/Objectworld-v0", size=4, objects=2)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.observation_space.shape == (16,)
    assert gymnasium.make_vec("mbrl/Gridworld-v0", num_envs=2, size=3).single_action_space.n == 5


def test_many_worlds_live_the_episodes_of_single_ones():
    mdp = with_zeros(1)
    many = mbrl.make_vec_env(mdp, 3, autoreset_mode="NextStep")
    single = SyncVectorEnv([lambda: mbrl.make_env(mdp)] * 3, autoreset_mode="NextStep")
    found, expected = many.reset(seed=4), single.reset(seed=4)
    for t in range(12):
        np.testing.assert_equal(found, expected)
        actions = np.random.default_rng(t).integers(2, size=3)
        found, expected = many.step(actions), single.step(actions)


@pytest.mark.parametrize("seed", [0, 1])
def test_frequencies_are_those_of_the_tables(seed):
    """To within 5 standard deviations, and what is impossible never happens."""
    mdp, N = with_zeros(seed), 4000
    env = mbrl.make_vec_env(mdp, N)

    def check(states, probabilities):
        frequencies = np.bincount(states[:, 0].astype(int), minlength=5) / N
        p = probabilities.numpy()
        assert (np.abs(frequencies - p) <= 5 * np.sqrt(p * (1 - p) / N)).all()

    y, info = env.reset(seed=seed)
    check(info["state"], mdp.start)
    for s in range(5):
        for a in range(2):
            env.reset(options={"state": [s]})
            y, rewards, *_, info = env.step(np.full(N, a))
            check(info["state"], mdp.transitions[s, a])
            assert (y.argmax(1) == info["state"][:, 0]).all()
            assert (y.sum(1) == 1).all()
            assert (rewards == float(mdp.rewards[s, a])).all()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rewards_of_states_actions_and_transitions(axes):
    mdp = with_zeros(2)
    rewards = torch.randn((5, 2, 5)[:axes], generator=torch.Generator().manual_seed(axes), dtype=torch.float64)
    (episode,) = mbrl.record(mdp.with_rewards(rewards), Uniform(2), 1)
    s, a = episode.states[:, 0].astype(int), episode.controls[:, 0].astype(int)
    index = (s[:-1], a, s[1:])[:axes]
    np.testing.assert_array_equal(episode.rewards, rewards.numpy()[index])


def test_mean_return_is_the_value_of_the_policy():
    """The sum of rewards without discount over T steps, of the random policy."""
    world = dataclasses.replace(mbrl.objectworld(4, 4, seed=2), episode_steps=6)
    found = mbrl.evaluate(Uniform(5), world, episodes=4000).returns
    whole = dataclasses.replace(world.mdp, discount=1.0, horizon=6)
    uniform = torch.full((16, 5), 0.2, dtype=torch.float64)
    expected = float((occupancies_by_step(whole, uniform) * whole.expected_rewards()).sum())
    assert abs(found.mean() - expected) <= 5 * found.std() / math.sqrt(4000)


def test_length_of_episodes():
    world = mbrl.gridworld(3, discount=0.9)
    assert mbrl.record(world, Uniform(5), 1)[0].num_steps == 44  # 0.9**44 < 0.01 < 0.9**43
    assert mbrl.record(world, Uniform(5), 1, steps=7)[0].num_steps == 7
    assert mbrl.record(dataclasses.replace(world, episode_steps=3), Uniform(5), 1)[0].num_steps == 3
    assert mbrl.record(with_zeros(0, horizon=4), Uniform(2), 1)[0].num_steps == 4


def test_episodes_are_trajectories_in_tables():
    world = mbrl.gridworld(3)
    recorded = mbrl.record(world, Uniform(5), 4, steps=6, initial_states=torch.tensor([[8], [0], [4], [4]]))
    from_states = TabularTrajectories.from_trajectories(recorded)
    from_observations = TabularTrajectories.from_trajectories([t.replace(states=None) for t in recorded])
    for found in (from_states, from_observations):
        found.check_fits(world.mdp)
        assert found.states[:, 0].tolist() == [8, 0, 4, 4]
        assert torch.equal(found.states, torch.tensor(np.stack([t.observations.argmax(1) for t in recorded])))
        assert found.actions.shape == (4, 6)
    again = mbrl.record_env(mbrl.make_env(world), Uniform(5), 2)
    assert TabularTrajectories.from_trajectories(again).number == 2


def test_a_policy_learns_the_way():
    """Three steps to the corner that pays: nearly the best return."""
    world = dataclasses.replace(mbrl.gridworld(2, wind=0.0, discount=0.5), episode_steps=5)
    algorithm = dataclasses.replace(PPO, discount=0.5, learning_rate=3e-3, num_envs=8, steps_per_iteration=160)
    result = mbrl.train(algorithm, world, steps=4000, evaluation_episodes=0)
    episodes = mbrl.record(world, result.policy, 4, initial_states=torch.arange(4)[:, None])
    assert [float(e.rewards.sum()) for e in episodes] == [3.0, 4.0, 4.0, 5.0]


def test_resumed_it_is_the_same(tmp_path):
    world = mbrl.objectworld(3, 2, discount=0.6)
    whole = mbrl.train(PPO, world, steps=192, evaluation_episodes=3)

    class KilledError(Exception):
        pass

    def kill(row):
        if row["step"] >= 128:
            raise KilledError

    with pytest.raises(KilledError):
        mbrl.train(PPO, world, steps=192, evaluation_episodes=3, run=tmp_path / "run", on_iteration=kill)
    other = mbrl.objectworld(3, 2, discount=0.6, seed=1)
    with pytest.raises(mbrl.RunError, match="process"):
        mbrl.train(PPO, other, steps=192, evaluation_episodes=3, run=tmp_path / "run")
    resumed = mbrl.train(PPO, world, steps=192, evaluation_episodes=3, run=tmp_path / "run", resume="must")
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[name]), name
    assert (whole.evaluation.returns == resumed.evaluation.returns).all()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: mbrl.TabularEnv("Gridworld"), TypeError, "TabularMDP or a mbrl.GridWorld, got str"),
        (lambda: mbrl.make_env(TabularMDP(torch.ones(1, 1, 1), discount=0.5)), ValueError, "no rewards"),
        (lambda: mbrl.make_env(mbrl.gridworld(2), render_mode="rgb_array"), ValueError, "draw no pictures"),
        (lambda: mbrl.make_env(mbrl.gridworld(2)).step(5), ValueError, "integer from 0 to 4, got 5"),
        (lambda: mbrl.make_env(mbrl.gridworld(2)).reset(options={"state": [4]}), ValueError, "states 0 to 3"),
        (lambda: mbrl.make_env(mbrl.gridworld(2)).reset(options={"state": [0.5]}), ValueError, "numbers of states"),
        (
            lambda: mbrl.record(mbrl.gridworld(2), Uniform(9), 99),
            ValueError,
            "Uniform gave a control that is no action",
        ),
        (lambda: mbrl.record(mbrl.gridworld(2), Uniform(5), 0), ValueError, "episodes and steps must be at least 1"),
        (lambda: mbrl.evaluate(Uniform(5), mbrl.gridworld(2), video="a.mp4"), ValueError, "no pictures"),
        (
            lambda: mbrl.record(mbrl.gridworld(2), Uniform(5), 2, initial_states=torch.zeros(2)),
            ValueError,
            r"\(2, 1\), got \(2,\)",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_policy_of_another_world_is_refused():
    policy = mbrl.train(PPO, mbrl.gridworld(2), steps=64, evaluation_episodes=0).policy
    with pytest.raises(ValueError, match="Gridworld shows 9 columns"):
        mbrl.record(mbrl.gridworld(3), policy, 1)
