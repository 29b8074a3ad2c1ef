"""The contract on vector environments, of the library and of gymnasium, and every way to violate it."""

import functools
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation
from instances import ALL_TASK_VARIANTS, ALL_TASKS

from dynamics import LinearDynamics
from mbrl import Task, TaskVectorEnv, make_vec_env, uniform_initial_state
from mbrl.testing import ContractError, check_vector_env
from planners import QuadraticCost


def walk(**fields):
    """x' = x + u from [-1, 1], which ends beyond 1.5, at the latest after six steps."""
    dynamics = LinearDynamics(torch.eye(1).double(), torch.eye(1).double(), dt=0.1)
    cost = QuadraticCost(torch.eye(1).double(), torch.eye(1).double())
    task = Task("Walk", dynamics, cost, (-1.0, 1.0), uniform_initial_state([-1.0], [1.0]), horizon=5, episode_steps=6)
    return replace(task, **{"termination": lambda x: x[..., 0].abs() > 1.5, **fields})


def of_gymnasium(name, steps, wrap=lambda env: env):
    def make(num_envs, autoreset_mode):
        fns = [lambda: wrap(gymnasium.make(name, max_episode_steps=steps))] * num_envs
        return SyncVectorEnv(fns, autoreset_mode=autoreset_mode)

    return make


@pytest.mark.parametrize(("name", "options"), ALL_TASK_VARIANTS.values(), ids=ALL_TASK_VARIANTS)
def test_every_task_of_the_library(name, options):
    check_vector_env(functools.partial(make_vec_env, replace(ALL_TASKS[name](**options), episode_steps=8)))


def test_worlds_that_end_at_different_times():
    for num_envs in (2, 5):
        check_vector_env(functools.partial(make_vec_env, walk()), num_envs=num_envs)


def test_one_fixed_start():
    check_vector_env(functools.partial(make_vec_env, walk(initial_state=uniform_initial_state([0.3], [0.3]))))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("Pendulum-v1", 8),
        ("CartPole-v1", 500),
        ("FrozenLake-v1", 100),
        ("Blackjack-v1", 50),
        ("InvertedPendulum-v5", 50),
    ],
)
def test_vectors_of_gymnasium(name, steps):
    """Box, Discrete and Tuple spaces, float32 and float64."""
    check_vector_env(of_gymnasium(name, steps))


def test_vectors_of_gymnasium_with_infos_and_dictionaries():
    def with_info(env):
        env = gymnasium.wrappers.RecordEpisodeStatistics(env)
        return gymnasium.wrappers.AddRenderObservation(env, render_only=False) if env.render_mode else env

    def as_dictionary(env):
        space = gymnasium.spaces.Dict({"y": env.observation_space})
        return gymnasium.wrappers.TransformObservation(env, lambda y: {"y": y}, space)

    check_vector_env(of_gymnasium("Pendulum-v1", 8, as_dictionary))
    check_vector_env(of_gymnasium("Pendulum-v1", 8, lambda env: FlattenObservation(as_dictionary(env))))
    check_vector_env(of_gymnasium("MountainCarContinuous-v0", 8, with_info))


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="make must be a function of num_envs and autoreset_mode"):
        check_vector_env(make_vec_env(walk(), 3))
    with pytest.raises(ValueError, match="check at least 2 worlds, got num_envs=1"):
        check_vector_env(functools.partial(make_vec_env, walk()), num_envs=1)
    with pytest.raises(
        ValueError, match=r"no episode has ended within 5 steps of random actions; .* with a time limit"
    ):
        check_vector_env(functools.partial(make_vec_env, walk(episode_steps=50, termination=None)), max_steps=5)


# Environments that violate the contract. Each is the task's with one thing spoiled.


class SpoiledStep(TaskVectorEnv):
    def step(self, actions):
        y, reward, terminated, truncated, infos = super().step(actions)
        return self.spoil(y, reward, terminated, truncated, infos)

    def spoil(self, y, reward, terminated, truncated, infos):
        raise NotImplementedError

    def in_mode(self, name):
        return self.autoreset_mode.name == name


class OtherMode(TaskVectorEnv):
    def __init__(self, task, num_envs, *, autoreset_mode):
        super().__init__(task, num_envs)


class ModeAsText(TaskVectorEnv):
    def __init__(self, task, num_envs, *, autoreset_mode):
        super().__init__(task, num_envs, autoreset_mode=autoreset_mode)
        self.metadata["autoreset_mode"] = autoreset_mode.value


class OneMore(TaskVectorEnv):
    def __init__(self, task, num_envs, *, autoreset_mode):
        super().__init__(task, num_envs + 1, autoreset_mode=autoreset_mode)


class UnbatchedSpace(TaskVectorEnv):
    def __init__(self, task, num_envs, *, autoreset_mode):
        super().__init__(task, num_envs, autoreset_mode=autoreset_mode)
        self.action_space = self.single_action_space


class NoInfo(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0]


class OtherDtype(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        return y.astype(np.float32), reward, terminated, truncated, infos


class OutOfSpace(TaskVectorEnv):
    def __init__(self, task, num_envs, *, autoreset_mode):
        super().__init__(task, num_envs, autoreset_mode=autoreset_mode)
        self.single_observation_space = gymnasium.spaces.Box(-0.1, 0.1, (1,), np.float64)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)


class FourValues(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        return y, reward, terminated | truncated, infos


class RewardColumn(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        return y, reward[:, None], terminated, truncated, infos


class IntegerFlags(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        return y, reward, terminated.astype(int), truncated, infos


class NoMask(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        return y, reward, terminated, truncated, {"state": infos["state"]}


class InfoOfOneWorld(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        return y, reward, terminated, truncated, {"state": infos["state"][:1], "_state": infos["_state"]}


class ModifiesActions(TaskVectorEnv):
    def step(self, actions):
        np.clip(actions, -0.5, 0.5, out=actions)
        return super().step(actions)


class IgnoresSeed(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(options=options)


class EndsWithTheSeed(TaskVectorEnv):
    """The first episode is seeded, those after it are not."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        self._random = [None] * self.num_envs
        return result


class OneSeedForAll(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=[seed] * self.num_envs if isinstance(seed, int) else seed, options=options)


class SeedsFarApart(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        seeds = [seed + 100 * i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        return super().reset(seed=seeds, options=options)


class SeedDependsOnWorld(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        seeds = [value + i for i, value in enumerate(seed)] if isinstance(seed, list) else seed
        if isinstance(seed, int):
            seeds = [seed + 2 * i for i in range(self.num_envs)]
        elif isinstance(seed, list) and len(seed) == self.num_envs and len(set(seed)) > 1:
            seeds = [seed[0] + 2 * i for i in range(self.num_envs)]
        return super().reset(seed=seeds, options=options)


class AllWorldsAlike(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        if (options or {}).get("reset_mask") is None:
            super().reset(seed=seed)
            options = {**(options or {}), "state": self.state[0]}
        return super().reset(options=options)


class Repeats(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        self._last = seed if seed is not None else getattr(self, "_last", None)
        return super().reset(seed=self._last, options=options)


class TakesAnyNumberOfSeeds(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        if isinstance(seed, list):
            seed = (seed + seed)[: self.num_envs]
        return super().reset(seed=seed, options=options)


class StepsOn(TaskVectorEnv):
    """Past the end, where nobody resets."""

    def step(self, actions):
        if self.autoreset_mode is AutoresetMode.DISABLED:
            self._ended = np.zeros(self.num_envs, dtype=bool)
        return super().step(actions)


class IgnoresResetMask(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class MaskOfEveryone(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        y, infos = super().reset(seed=seed, options=options)
        return y, {key: np.ones_like(value) if key.startswith("_") else value for key, value in infos.items()}


class SharedNoise(TaskVectorEnv):
    """Where a world begins depends on how often others have begun."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._shared = np.random.default_rng(seed if isinstance(seed, int) else seed[0])
        options = dict(options or {})
        if "reset_mask" in options:
            options["state"] = self._shared.uniform(-1, 1, (self.num_envs, 1))
        return super().reset(seed=seed, options=options)


class CountsWorldsBySteps(TaskVectorEnv):
    """A reset of some worlds begins the time limit of all."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        self._elapsed = np.zeros_like(self._elapsed)
        return result


class TakesAnyMask(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        if options and "reset_mask" in options:
            options = {"reset_mask": np.asarray(options["reset_mask"], dtype=bool)}
        return super().reset(seed=seed, options=options)


class RewardsResets(SpoiledStep):
    def step(self, actions):
        self._begun = self._ended.copy()
        return super().step(actions)

    def spoil(self, y, reward, terminated, truncated, infos):
        return y, reward - 1.0 * self._begun, terminated, truncated, infos


class FlagsResets(RewardsResets):
    def spoil(self, y, reward, terminated, truncated, infos):
        return y, reward, terminated, truncated | self._begun, infos


class StepsAfterReset(TaskVectorEnv):
    """The call that resets a world applies the action too, and hides it."""

    def step(self, actions):
        begun = self._ended.copy()
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and begun.any():
            self._begin_in(np.flatnonzero(begun), {})
        y, reward, terminated, truncated, infos = super().step(actions)
        return y, np.where(begun, 0.0, reward), terminated & ~begun, truncated & ~begun, infos


class NoFinalObservation(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        infos = {key: value for key, value in infos.items() if "final_obs" not in key}
        return y, reward, terminated, truncated, infos


class FinalIsFirst(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        if "final_obs" in infos:
            for i in np.flatnonzero(terminated | truncated):
                infos["final_obs"][i] = y[i].copy()
        return y, reward, terminated, truncated, infos


class FinalForEveryone(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        if "final_obs" in infos:
            infos["_final_obs"][:] = True
        return y, reward, terminated, truncated, infos


class FinalAsArray(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        if "final_obs" in infos:
            infos["final_obs"] = y.copy()
        return y, reward, terminated, truncated, infos


class FinalOfOthers(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        if "final_obs" in infos:
            infos["final_obs"][:] = [y[i].copy() for i in range(len(y))]
        return y, reward, terminated, truncated, infos


class FinalInEveryMode(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        if not self.in_mode("SAME_STEP"):
            infos |= {"final_obs": y.copy(), "_final_obs": terminated | truncated}
        return y, reward, terminated, truncated, infos


class MergesFlags(SpoiledStep):
    """In one mode only."""

    def spoil(self, y, reward, terminated, truncated, infos):
        return y, reward, terminated, truncated | (terminated & self.in_mode("SAME_STEP")), infos


class ForgetsPendingResets(TaskVectorEnv):
    """A reset by the caller is followed by the one that was due."""

    def reset(self, *, seed=None, options=None):
        due = self._ended.copy()
        result = super().reset(seed=seed, options=options)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._ended = due
        return result


class OneBuffer(SpoiledStep):
    """Returns the same array at every step."""

    def spoil(self, y, reward, terminated, truncated, infos):
        if not hasattr(self, "_buffer"):
            self._buffer = np.zeros_like(y)
        self._buffer[:] = y
        return self._buffer, reward, terminated, truncated, infos


class HandsOutItsState(SpoiledStep):
    def spoil(self, y, reward, terminated, truncated, infos):
        return y, reward, terminated, truncated, {**infos, "state": self._x.numpy()}


class TakesAnyNumberOfActions(TaskVectorEnv):
    def step(self, actions):
        return super().step(np.resize(actions, (self.num_envs, 1)))


class ForgetsItsNumbers(TaskVectorEnv):
    """The state is complete but for the random numbers."""

    def state_dict(self):
        return {**super().state_dict(), "random": [None] * self.num_envs}


class ForgetsWhoHasEnded(TaskVectorEnv):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self._ended[:] = False


class SavesArrays(TaskVectorEnv):
    def state_dict(self):
        return {**super().state_dict(), "more": np.zeros(2)}


class StaysOpen(TaskVectorEnv):
    def close(self, **kwargs):
        pass


VIOLATIONS = {
    OtherMode: r"metadata\['autoreset_mode'\] must be AutoresetMode.SAME_STEP, got <?AutoresetMode.NEXT_STEP",
    ModeAsText: r"metadata\['autoreset_mode'\] must be AutoresetMode.NEXT_STEP, got 'NextStep'",
    OneMore: "num_envs must be 3, got 4",
    UnbatchedSpace: "action_space must be 3 times single_action_space",
    NoInfo: "reset must return observations and infos",
    OtherDtype: r"observations of step must be float64 \(3, 1\), got float32",
    OutOfSpace: "observations of reset must lie in the observation_space",
    FourValues: "step must return five values",
    RewardColumn: r"rewards must be one number for each of 3 worlds, floating point, got float64 \(3, 1\)",
    IntegerFlags: "terminated must be one number for each of 3 worlds, bool, got int64",
    NoMask: "state must have a mask _state",
    InfoOfOneWorld: "state must have one entry for each of 3 worlds",
    ModifiesActions: "step must not modify the actions",
    IgnoresSeed: "resets with equal seeds must give the same",
    EndsWithTheSeed: "a seed must decide a world's life, in a new environment too: world ., event .* first observation",
    OneSeedForAll: "seed=7 must mean one seed per world, 7, 8",
    SeedsFarApart: "seed=7 must mean one seed per world, 7, 8",
    SeedDependsOnWorld: "worlds with equal seeds must begin alike",
    AllWorldsAlike: "worlds with different seeds must begin differently",
    Repeats: "a reset without a seed must go on with other random numbers",
    TakesAnyNumberOfSeeds: "4 seeds for 3 worlds must be refused",
    StepsOn: "mode DISABLED: a step of a world that has ended must be refused",
    IgnoresResetMask: "must be false for all others",
    MaskOfEveryone: "the mask _state must be false for all others",
    SharedNoise: "a reset of world 2 must not change the lives of other worlds, nor their later episodes: world",
    CountsWorldsBySteps: "mode NEXT_STEP must give what mode DISABLED does: world 0, event 6, a step: truncated",
    TakesAnyMask: "a reset_mask that is a list must be refused",
    RewardsResets: "NEXT_STEP: the call that resets a world must reward it 0",
    FlagsResets: "NEXT_STEP: the call that resets a world must not flag it",
    StepsAfterReset: "mode NEXT_STEP must give what mode DISABLED does: world",
    NoFinalObservation: "mode SAME_STEP: infos must have final_obs",
    FinalIsFirst: "mode SAME_STEP must give what mode DISABLED does: world ., event ., a step: observation",
    FinalForEveryone: r"the mask _final_obs must be terminated \| truncated",
    FinalAsArray: "final_obs must be an array of objects, got float64",
    FinalOfOthers: r"final_obs\[.\] must be None, world . has not ended",
    FinalInEveryMode: "final_obs are for mode SAME_STEP",
    MergesFlags: "mode SAME_STEP must give what mode DISABLED does: world ., event ., a step: truncated must be False",
    ForgetsPendingResets: r"mode NEXT_STEP: reset\(seed=...\) must begin everything anew|must reward it 0",
    OneBuffer: "mode NEXT_STEP: what was returned must not change by later calls",
    HandsOutItsState: "what was returned must not be used again when the caller overwrites it",
    TakesAnyNumberOfActions: "2 actions for 3 worlds must be refused",
    ForgetsItsNumbers: "mode NEXT_STEP: loaded with the state before call 0, call .* must be what it was, to the bit",
    ForgetsWhoHasEnded: "mode NEXT_STEP: loaded with the state before call ., call . must be what it was, to the bit",
    SavesArrays: "checking saving: UnpicklingError: Weights only load failed",
    StaysOpen: "closed must be true after close",
}


@pytest.mark.parametrize("kind", VIOLATIONS, ids=lambda kind: kind.__name__)
def test_a_violation_is_found(kind):
    with pytest.raises(ContractError, match=VIOLATIONS[kind]):
        check_vector_env(functools.partial(kind, walk()))


def test_an_error_in_the_environment_is_a_violation_with_its_place():
    class Broken(TaskVectorEnv):
        def step(self, actions):
            raise KeyError("lost")

    with pytest.raises(ContractError, match="checking first results: KeyError: 'lost'"):
        check_vector_env(functools.partial(Broken, walk()))


def test_an_error_in_the_middle_of_an_episode_is_a_violation():
    class BreaksLater(TaskVectorEnv):
        def step(self, actions):
            if int(self._elapsed.max()) > 2:
                raise ValueError("too late")
            return super().step(actions)

    with pytest.raises(ContractError, match="checking one episode: ValueError: too late"):
        check_vector_env(functools.partial(BreaksLater, walk(termination=None)))
