"""What can be said of a learned reward in a gymnasium environment, which tells what it pays for the steps that it makes.

It pays for no state, control and next state that one might think of, as the EPIC distance needs. So rewards are compared where
they were paid: along demonstrations that have them and along episodes of random controls. Potential shaping shows in that, but
hardly in sums along whole episodes, whose correlation is the episode return distance of Gleave et al. 2021 (section 4). What a
reward with an absorbing state pays after the end of an episode is part of the sum.
"""

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from dynamics import Trajectory
from mbrl.envs.making import EnvFactory, checked_id, made_env, vector_env
from mbrl.irl.module_reward import module_rewards
from mbrl.irl.reward_findings import Asked, FeatureGap, RewardReport, number
from mbrl.irl.reward_metrics import reward_correlation
from mbrl.irl.reward_network import RewardModel
from mbrl.irl.reward_task import reward_env
from mbrl.policies.action_space import ActionSpace, DiscreteActions
from mbrl.policies.actor import Actor
from mbrl.training.algorithm import Algorithm
from planners import Cost, Planner

if TYPE_CHECKING:
    import gymnasium

Environment = str | EnvFactory
"""An id, or what makes an environment."""


def in_an_environment(environment: Environment, reward: Any, asked: Asked) -> RewardReport:
    """Examine a reward of what an environment shows.

    Raises:
        ValueError: something does not fit, or would be ignored.
        TypeError: the reward is none of observations, or cannot be paid in an environment.
    """
    from mbrl.training.train import task_name

    _check(reward, asked)
    name = task_name(environment)
    shown = [d for d in asked.demonstrations or () if d.num_steps]
    actors: dict[str, Actor | None] = {"random": None}
    if asked.policy is not None:
        actors["learned policy"] = asked.policy
    lived = {who: _episodes(environment, actor, asked) for who, actor in actors.items()}
    _check_columns(name, shown, lived["random"][0])
    if shown:
        lived = {"expert": shown, **lived}
    cut_off = any(not d.terminated for d in shown)  # (an episode that ended by itself says how long one has to be)
    most = max(d.num_steps for d in shown) if cut_off else None
    lived = {who: [_cut(e, most) for e in episodes] for who, episodes in lived.items()}
    notes = [f"no EPIC distance: {name} says what it pays only for steps that it makes"]
    paid = {who: rewarded for who, episodes in lived.items() if (rewarded := _paid(episodes))}
    if shown and "expert" not in paid:
        notes.append("the demonstrations have no rewards, so that the expert's return is not known")
    learned, truth = _at_transitions(reward, paid, asked)
    correlation = number(notes, lambda: reward_correlation(learned, truth))
    of_returns = number(notes, lambda: _correlation_of_sums(reward, [e for part in paid.values() for e in part], asked))
    returns = {who: _mean_return(episodes) for who, episodes in paid.items()}
    returns |= _retrained(environment, reward, most, asked, notes)
    there: dict[str, float] = {}
    if asked.elsewhere is not None:
        there = {"random": _mean_return(_episodes(asked.elsewhere, None, asked))}
        there |= _retrained(asked.elsewhere, reward, None, asked, notes)
        if asked.algorithm is None:
            notes.append("nothing was trained under other dynamics; pass algorithm=...")
    return RewardReport(
        name,
        None,
        _gap(environment, lived) if len(lived) == 3 else None,
        None,
        correlation,
        returns,
        there,
        tuple(notes),
        learned,
        truth,
        return_correlation=of_returns,
    )


def _check(reward: Any, asked: Asked) -> None:
    if isinstance(reward, Cost) or not isinstance(reward, nn.Module):
        raise TypeError(
            "in an environment a reward is a module of observations, controls and next observations, such as a mbrl.RewardModel, "
            f"got {type(reward).__name__}"
        )
    if isinstance(asked.algorithm, Planner):
        raise ValueError(
            "algorithm must be a training algorithm such as mbrl.PPO() in an environment, which planners know no model of, got "
            f"{type(asked.algorithm).__name__}"
        )
    if asked.algorithm is not None and not isinstance(reward, RewardModel):
        raise TypeError(
            f"an environment is paid by a mbrl.RewardModel, got {type(reward).__name__}; leave algorithm out"
        )


def _check_columns(name: str, shown: list[Trajectory], own: Trajectory) -> None:
    for given in shown:
        for what in ("observations", "controls"):
            came, expected = (getattr(t, what).shape[1] for t in (given, own))
            if came != expected:
                raise ValueError(f"the demonstrations have {came} columns of {what}, {name} has {expected}")


def _episodes(environment: Environment, actor: Actor | None, asked: Asked) -> list[Trajectory]:
    """Episodes of an actor, or of random actions."""
    from mbrl.envs.recording import record_env, step_duration

    with contextlib.closing(vector_env(environment, asked.episodes)) as env:
        dt = step_duration(env) or 1.0
        return record_env(env, actor, asked.episodes, dt=dt, seed=asked.seed, generator=asked.generator())


def _cut(episode: Trajectory, most: int | None) -> Trajectory:
    return episode if most is None or episode.num_steps <= most else episode.slice(0, most)


def _paid(episodes: list[Trajectory]) -> list[Trajectory]:
    """Those with rewards."""
    return [e for e in episodes if e.rewards is not None and e.num_steps]


def _mean_return(episodes: list[Trajectory]) -> float:
    return sum(float(e.rewards.sum()) for e in episodes) / len(episodes)  # type: ignore[union-attr]


@torch.no_grad()
def _learned(reward: nn.Module, episode: Trajectory) -> Tensor:
    """Learned rewards of the steps of an episode ``(T,)``."""
    y, u = torch.tensor(episode.observations), torch.tensor(episode.controls)
    if not isinstance(reward, RewardModel):
        return module_rewards(reward, y[:-1], u, y[1:])
    over = torch.zeros(len(u), dtype=torch.bool)
    over[-1] = episode.terminated
    return reward(y[:-1], u, y[1:], over)


def _correlation_of_sums(reward: nn.Module, episodes: list[Trajectory], asked: Asked) -> float:
    """Of learned and true rewards along episodes, with what the learned one pays after their end.

    Raises:
        ValueError: there are too few episodes, or the reward goes on after the end of some and no discount is known.
    """
    learned = torch.tensor([float(_learned(reward, e).sum()) for e in episodes], dtype=torch.float64)
    truth = torch.tensor([float(e.rewards.sum()) for e in episodes], dtype=torch.float64)  # type: ignore[union-attr]
    over = torch.tensor([e.terminated for e in episodes])
    if isinstance(reward, RewardModel) and bool(over.any()):
        learned[over] += reward.worth_of_the_end(asked.discount_of(asked.algorithm))
    return reward_correlation(learned, truth)


def _at_transitions(reward: nn.Module, paid: dict[str, list[Trajectory]], asked: Asked) -> tuple[Tensor, Tensor]:
    """Learned and true rewards, half of them at demonstrated steps where these have some, the others at random ones."""
    groups = [paid[who] for who in ("random", "expert") if who in paid]
    generator, found = asked.generator(), []
    for episodes in groups:
        learned = torch.cat([_learned(reward, e) for e in episodes])
        truth = torch.cat([torch.tensor(e.rewards) for e in episodes])
        chosen = torch.randperm(len(truth), generator=generator)[: asked.samples // len(groups)]
        found.append((learned[chosen], truth[chosen]))
    return torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])


def _gap(environment: Environment, lived: dict[str, list[Trajectory]]) -> FeatureGap:
    """First and second moments of what was observed and done, of numbered actions their shares."""
    from mbrl.envs.action_spaces import env_actions

    with contextlib.closing(vector_env(environment, 1)) as env:
        actions = env_actions(env)
    names = lived["random"][0].names
    done = names.controls if not isinstance(actions, DiscreteActions) else ()
    moments = [text for name in (*names.observations, *done) for text in (name, f"{name} squared")]
    numbered = [f"action {i}" for i in range(len(actions.values))] if isinstance(actions, DiscreteActions) else []
    expert, learned, random = (_moments(lived[who], actions) for who in ("expert", "learned policy", "random"))
    return FeatureGap((*moments, *numbered), expert, learned, random, counted="means")


def _moments(episodes: list[Trajectory], actions: ActionSpace) -> Tensor:
    """Means over all steps ``(k,)``."""
    y = torch.cat([torch.tensor(e.observations[:-1]) for e in episodes])
    u = torch.cat([torch.tensor(e.controls) for e in episodes])
    numbered = isinstance(actions, DiscreteActions)
    values = y if numbered else torch.cat([y, u], -1)
    found = torch.stack([values, values.square()], -1).flatten(-2)
    if isinstance(actions, DiscreteActions):
        found = torch.cat([found, one_hot(actions.actions(u), len(actions.values)).to(y)], -1)
    return found.mean(0)


def _retrained(
    environment: Environment, reward: Any, most: int | None, asked: Asked, notes: list[str]
) -> dict[str, float]:
    """True returns of what is trained for the learned reward alone, and of the control."""

    def score(actor: Actor) -> float:
        return _mean_return([_cut(e, most) for e in _episodes(environment, actor, asked)])

    found: dict[str, float] = {}
    if isinstance(asked.algorithm, Algorithm):
        learned = reward_env(environment, reward, discount=asked.discount_of(asked.algorithm))
        found["retrained"] = score(asked.trained(asked.algorithm, learned))
    return found | asked.controlled(environment, partial(_paying_one, environment), score, notes)


def _paying_one(environment: Environment) -> "gymnasium.Env":
    import gymnasium

    env = gymnasium.make(checked_id(environment)) if isinstance(environment, str) else made_env(environment)
    return gymnasium.wrappers.TransformReward(env, _one)


def _one(reward: Any) -> float:
    return 1.0
