"""Evaluations of gymnasium ids: gymnasium's own environments, one at a time, are the truth."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mbrl import MujocoVectorEnv, TaskVectorEnv, evaluate, make_vec_env, pendulum_swing_up, record_env
from mbrl.envs.making import vector_env


class Acting:
    """A function of the observation."""

    acts_on = "observation"

    def __init__(self, function):
        self.function = function

    def init(self, batch, *, generator=None):
        return None

    def act(self, y, memory, *, deterministic=True):
        return self.function(y), memory


LEANING = Acting(lambda y: (y[:, 2:3] > 0).to(y))


class Lamp(gymnasium.Env):
    """Its brightness is random at first and changes by the action; after six steps it ends. It says no dt."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(0, 255, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-20, 20, (1,), np.float32)

    def __init__(self, render_mode=None, broken=False):
        self.render_mode, self.broken = render_mode, broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.y = 0, self.np_random.uniform(90, 110, 1)
        return self.y.copy(), {}

    def step(self, action):
        self.steps, self.y = self.steps + 1, self.y + action
        return self.y.copy(), float(self.y[0]), self.steps == 6, False, {"diverged": self.broken and self.y[0] > 140}

    def render(self):
        return np.full((32, 32, 3), round(self.y[0]), np.uint8)


class Dark(gymnasium.Env):
    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))


@pytest.fixture
def ids():
    gymnasium.register("test/Lamp-v0", entry_point=Lamp)
    gymnasium.register("test/Burning-v0", entry_point=Lamp, kwargs={"broken": True})
    gymnasium.register("test/Dark-v0", entry_point=Dark)
    yield
    for name in ("Lamp", "Burning", "Dark"):
        del gymnasium.registry[f"test/{name}-v0"]


def returns_of_singles(env_id, actor, seeds):
    """The first episode of an environment with each seed."""
    return [float(record_env(gymnasium.make(env_id), actor, 1, dt=1.0, seed=seed)[0].rewards.sum()) for seed in seeds]


def first_seed(generator_seed):
    return int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(generator_seed)))


# Making


def test_what_an_id_becomes():
    task = pendulum_swing_up("torch")
    made = {
        TaskVectorEnv: [(task, {}), ("mbrl/PendulumSwingUp-v0", {"backend": "torch"})],
        MujocoVectorEnv: [("Reacher-v5", {"max_episode_steps": 7})],
        SyncVectorEnv: [("CartPole-v1", {"max_episode_steps": 7})],
    }
    for kind, arguments in made.items():
        for what, options in arguments:
            for mode in ("Disabled", AutoresetMode.SAME_STEP):
                env = vector_env(what, 2, autoreset_mode=mode, **options)
                assert type(env) is kind
                assert (env.num_envs, env.metadata["autoreset_mode"]) == (2, AutoresetMode(mode))
                env.close()
            assert vector_env(what, 3, **options).metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_options_arrive():
    env = vector_env("mbrl/PendulumSwingUp-v0", 2, backend="torch")
    assert type(env.task.dynamics).__name__ == "Pendulum"
    env = vector_env("CartPole-v1", 2, max_episode_steps=3)
    env.reset(seed=0)
    assert [bool(env.step(np.ones(2, int))[3].all()) for _ in range(3)] == [False, False, True]
    assert vector_env("Reacher-v5", 2, max_episode_steps=7).max_episode_steps == 7


@pytest.mark.parametrize("call", [lambda name: vector_env(name, 2), lambda name: evaluate(LEANING, name)])
def test_names_that_are_none(call):
    with pytest.raises(ValueError, match=r"gymnasium knows no environment 'CartPole'; did you mean .*'CartPole-v1'"):
        call("CartPole")
    with pytest.raises(
        ValueError, match=r"no environment 'mbrl/PendulumSwingup-v0'; did you mean 'mbrl/PendulumSwingUp-v0'"
    ):
        call("mbrl/PendulumSwingup-v0")
    with pytest.raises(ValueError, match=r"no environment '\?'; gymnasium.pprint_registry\(\) lists all"):
        call("?")
    with pytest.raises(TypeError, match=r"expected a Task, a world, a gymnasium id, or a function .* got 3"):
        call(3)


# Evaluating


def test_cart_pole_v1():
    generator = torch.Generator().manual_seed(5)
    result = evaluate(LEANING, "CartPole-v1", episodes=6, generator=generator)
    seed = first_seed(5)
    assert result.returns.tolist() == returns_of_singles("CartPole-v1", LEANING, range(seed, seed + 6))
    assert len(set(result.returns)) > 1
    assert result.success_rate is None
    assert {t.dt for t in result.trajectories} == {1.0}
    again, other = (evaluate(LEANING, "CartPole-v1", episodes=6, generator=g) for g in (None, generator))
    assert again.returns.tolist() == evaluate(LEANING, "CartPole-v1", episodes=6).returns.tolist()
    assert again.returns.tolist() != other.returns.tolist()


@pytest.mark.filterwarnings("ignore:MuJoCo. .* is deprecated")
def test_native_worlds_give_what_gymnasium_does():
    actor = Acting(lambda y: 0.5 * y[:, -1:] - y[:, 1:2])
    result = evaluate(actor, "InvertedPendulum-v5", episodes=3)
    seed = first_seed(0)
    expected = returns_of_singles("InvertedPendulum-v5", actor, range(seed, seed + 3))
    np.testing.assert_allclose(result.returns, expected, rtol=1e-12)
    assert result.trajectories[0].dt == 0.04


def test_a_task_by_its_id():
    actor = Acting(lambda y: -y[:, 2:3])
    result = evaluate(actor, "mbrl/PendulumSwingUp-v0", episodes=2)
    env = make_vec_env(pendulum_swing_up(), 2, autoreset_mode="Disabled")
    expected = record_env(env, actor, 2, seed=first_seed(0))
    np.testing.assert_array_equal(result.returns, [t.rewards.sum() for t in expected])
    assert result.success_rate == evaluate(actor, pendulum_swing_up(), episodes=2).success_rate == 0.0


def test_an_episode_that_diverges_counts_as_minus_infinity(ids):
    def brighter(y):
        return torch.full_like(y, 7.5)

    result = evaluate(Acting(brighter), "test/Burning-v0", episodes=8)
    starts = np.array([t.observations[0, 0] for t in result.trajectories])
    burnt = starts + 6 * 7.5 > 140
    assert 0 < burnt.sum() < 8
    np.testing.assert_array_equal(result.returns == -math.inf, burnt)
    np.testing.assert_allclose(result.returns[~burnt], 6 * starts[~burnt] + 21 * 7.5)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # imageio's reader
def test_the_first_episode_as_a_video(ids, tmp_path):
    import imageio.v2 as imageio

    path = tmp_path / "lamp.mp4"
    result = evaluate(Acting(lambda y: torch.full_like(y, 12.0)), "test/Lamp-v0", episodes=3, video=path)
    with imageio.get_reader(path) as video:
        assert video.get_meta_data()["fps"] == 10
        brightness = [float(np.mean(frame)) for frame in video]
    assert len(brightness) == 7
    np.testing.assert_allclose(
        brightness, result.trajectories[0].observations[:, 0], atol=4
    )  # as far as the format goes


def test_what_does_not_draw_says_so_before_the_episodes(ids, tmp_path):
    with pytest.raises(ValueError, match=r"test/Dark-v0 draws no pictures: its render modes are \[\]"):
        evaluate(LEANING, "test/Dark-v0", video=tmp_path / "dark.mp4")


def test_episodes_and_actors_are_checked():
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        evaluate(LEANING, "CartPole-v1", episodes=0)
    with pytest.raises(TypeError, match="an actor has acts_on, init and act"):
        evaluate(lambda y: y, "CartPole-v1")
    with pytest.raises(ValueError, match="is no action on CartPole-v1: expected an integer from 0 to 1"):
        evaluate(Acting(lambda y: y[:, :1]), "CartPole-v1", episodes=2)
