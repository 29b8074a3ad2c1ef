r"""What a learned reward is worth: what could be known of it, how it compares with the truth, and what acting on it leads to.

Demonstrations never tell a positive factor of a reward, nor potential shaping, nor what its features cannot show; so rewards
are compared by the EPIC distance, which sees none of the first two, and above all by what is done for them. A reward is worth its
name if a policy that knows nothing else does well where the truth is paid, in the world it was learned in and, what no imitation
does, in one with other dynamics (Fu, Luo and Levine 2018). An adversarial method may do well although its reward says nothing,
because a reward that is always positive or negative prefers long or short episodes (Kostrikov et al. 2019): a control that has
seen no demonstration tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynamics import Trajectory
from mbrl.irl.base import FeatureReward, by_action, demonstrated_features, of_demonstrated_steps
from mbrl.irl.cost_learner import IdentifiableWeights
from mbrl.irl.identifiability import Identifiability, identifiability
from mbrl.irl.kkt_inverse import control_gradients
from mbrl.irl.reward_learner import in_tables
from mbrl.irl.reward_metrics import Transitions, epic_distance, reward_correlation, sampled_epic_distance
from mbrl.policies.actor import Actor
from mbrl.policies.tabular_policy import TabularPolicy
from mbrl.policies.uniform_noise import UniformNoise
from mbrl.recording import record
from mbrl.tasks.base import Task
from mbrl.tasks.task_cost import TaskCost
from mbrl.tasks.worlds import GridWorld, TabularWorld, process, world_name
from mbrl.training.algorithm import Algorithm
from planners import (
    MPC,
    Cost,
    FunctionCost,
    Planner,
    TabularMDP,
    TransitionCost,
    WeightedCost,
    occupancies,
    policy_evaluation,
    solve_mdp,
)

MOST_FEATURES, MOST_STATES = 300, 1500  # up to which identifiability and the EPIC distance in tables take a second


ALIKE = 1e-9
"""Relative difference of features below which they are the same but for rounding."""
TIED = 0.01
"""Relative difference of the returns of expert and random actions below which no share of it is told."""


@dataclass(frozen=True, eq=False)
class FeatureGap:
    """Features of the expert and of the learned policy, from the same starts and over as many steps.

    Attributes:
        names: of the features.
        expert: sums of features along demonstrations, discounted in tables, on average ``(k,)``.
        learned: those of the policy ``(k,)``.
        random: those of random actions ``(k,)``.
    """

    names: tuple[str, ...]
    expert: Tensor
    learned: Tensor
    random: Tensor

    @property
    def gap(self) -> float:
        """Distance of the learned from the expert's features, over that of random actions; infinite where these have the same."""
        sizes = torch.maximum(self.expert.abs(), self.random.abs()).clamp_min(1e-12)
        far = float(((self.random - self.expert) / sizes).norm())
        return float(((self.learned - self.expert) / sizes).norm()) / far if far > ALIKE else torch.inf

    def __str__(self) -> str:
        if self.gap == torch.inf:
            return "random actions have the features of the expert, so that these tell nothing"
        return f"features of the learned policy differ from the expert's by {_share(self.gap)} of what random actions differ by"


@dataclass(frozen=True, eq=False)
class RewardReport:
    """What was found; None where it is not known or was not asked for.

    Returns are those of the truth: values of the process with its discount in tables; on a task mean sums of rewards, from the
    starts of the demonstrations and over as many steps where there are any, otherwise of new episodes.

    Attributes:
        task: its name.
        identifiable: which directions of linear weights show, in behavior (tables) or in the demonstrations.
        gap: features of expert and learned policy.
        epic: distance of the learned from the true reward, 0 to 1; the two are equal for behavior at 0.
        correlation: of the two.
        returns: by what was done: ``"expert"`` or ``"optimal"``, ``"random"``, ``"learned policy"``, ``"retrained"``.
        elsewhere: the same under other dynamics.
        notes: why something is missing.
        learned: rewards, of states ``(S,)``, or at sampled transitions ``(N,)``.
        truth: likewise.
        world: in tables, where these can be drawn as a map.
        weights: of a cost, learned and true by name.
        compared: where rewards are: ``"state"``, ``"state and action"`` or ``"transition"``.
    """

    task: str
    identifiable: Identifiability | IdentifiableWeights | None
    gap: FeatureGap | None
    epic: float | None
    correlation: float | None
    returns: dict[str, float]
    elsewhere: dict[str, float]
    notes: tuple[str, ...]
    learned: Tensor
    truth: Tensor | None
    world: GridWorld | None = None
    weights: dict[str, tuple[float, float | None]] | None = None
    compared: Literal["state", "state and action", "transition"] = "transition"

    @property
    def lost(self) -> float | None:
        """Return that is lost by acting on the learned reward, over that of the best less that of random actions."""
        return _lost(self.returns)

    @property
    def lost_elsewhere(self) -> float | None:
        """The same under other dynamics."""
        return _lost(self.elsewhere)

    def __str__(self) -> str:
        return "\n".join([f"learned reward, {self.task}:", *(f"  {line}" for line in self.lines())])

    def lines(self) -> list[str]:
        """What there is to say, a sentence each."""
        said = [self._not_known()]
        if self.epic is not None:
            said.append(f"EPIC distance from the truth {self.epic:.3g} (0 the same for behavior, 1 the opposite)")
        if self.correlation is not None:
            said.append(f"correlation with the truth {self.correlation:.3g}")
        if self.gap is not None:
            said.append(str(self.gap))
        for where, returns, lost in (
            ("", self.returns, self.lost),
            ("under other dynamics, ", self.elsewhere, self.lost_elsewhere),
        ):
            if returns:
                numbers = ", ".join(f"{name} {value:.4g}" for name, value in returns.items())
                share = "nothing" if lost is not None and lost < 0 else _share(lost or 0.0)
                said.append(f"{where}true return: {numbers}" + ("" if lost is None else f"; {share} is lost"))
        return said + list(self.notes)

    def _not_known(self) -> str:
        words = "not known from behavior: a positive factor and potential shaping"
        if isinstance(self.identifiable, Identifiability):
            k, hidden = len(self.identifiable.visibility), self.identifiable.invisible
            return f"{words}; {hidden} of {k} directions of the weights show in no behavior"
        if isinstance(self.identifiable, IdentifiableWeights):
            k, hidden = len(self.identifiable.visibility), self.identifiable.invisible
            return f"{words}; {hidden} of {k} directions of the weights do not show in these demonstrations"
        return words


def reward_report(
    task: Task | TabularWorld,
    reward: nn.Module | Tensor,
    *,
    policy: Actor | Tensor | None = None,
    demonstrations: Sequence[Trajectory] | None = None,
    algorithm: Algorithm | Planner | None = None,
    steps: int | None = None,
    elsewhere: Task | TabularWorld | None = None,
    control: float | Algorithm | None = None,
    episodes: int = 10,
    samples: int = 512,
    seed: int = 0,
) -> RewardReport:
    """Examine a learned reward.

    In tables everything is exact, and the policy that is best for the learned reward is solved for. On a task, rewards are
    compared at transitions of the demonstrations and of random controls.

    Args:
        task: a world or a process in tables, or a task; with its true reward, where that is known.
        reward: what was learned: a :class:`mbrl.FeatureReward` or rewards ``(S,)`` or ``(S, A)`` in tables; on a task a cost, or
            a module ``reward(observations, controls, next_observations)``.
        policy: what was learned beside the reward, an actor, or probabilities in tables.
        demonstrations: that it was learned from.
        algorithm: on a task, what finds a new policy for the learned reward alone: a training algorithm such as
            :class:`mbrl.PPO`, or a planner.
        steps: of the training.
        elsewhere: a world with features of the same kind, or a task with the same states, that has other dynamics.
        control: the true return of a control that has seen no demonstration, or the training algorithm that makes one with a
            reward of one for every step.
        episodes: of each evaluation on a task, where there are no demonstrations.
        samples: transitions at which rewards are compared on a task.
        seed: of what is drawn.

    Raises:
        ValueError: something does not fit, or would be ignored.
        TypeError: the reward is none.
    """
    if isinstance(task, TabularWorld):
        if algorithm is not None or steps is not None or control is not None:
            raise ValueError(
                "algorithm, steps and control are for tasks; in tables the policy of the learned reward is solved for exactly"
            )
        if elsewhere is not None and not isinstance(elsewhere, TabularWorld):
            raise ValueError(
                f"elsewhere must be a world or a process in tables as well, got {type(elsewhere).__name__}"
            )
        return _in_tables(task, reward, policy, demonstrations, elsewhere)
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task, a GridWorld or a TabularMDP, got {type(task).__name__}")
    if elsewhere is not None and not isinstance(elsewhere, Task):
        raise ValueError(f"elsewhere must be a task as well, got {type(elsewhere).__name__}")
    if steps is not None and not (isinstance(algorithm, Algorithm) or isinstance(control, Algorithm)):
        raise ValueError("steps would be ignored: there is no training algorithm that takes some")
    settings = _Asked(policy, demonstrations, algorithm, steps, elsewhere, control, episodes, samples, seed)
    return _on_task(task, reward, settings)


# In tables


def _in_tables(
    world: TabularWorld, reward: Any, policy: Any, demonstrations: Sequence[Trajectory] | None, elsewhere: Any
) -> RewardReport:
    mdp, notes = process(world), []
    rewards = _tabular_rewards(world, reward)
    features = world.features if isinstance(world, GridWorld) else torch.eye(mdp.states).to(mdp.transitions)
    found, linear = None, isinstance(reward, FeatureReward) and reward.weights is not None
    if linear and features.shape[-1] <= MOST_FEATURES:
        found = identifiability(mdp, features)
    elif linear:
        notes.append(
            f"which directions show was not computed for {features.shape[-1]} features; mbrl.identifiability does"
        )
    table = policy.probabilities if isinstance(policy, TabularPolicy) else policy
    if table is not None and not isinstance(table, Tensor):
        raise TypeError(f"policy must be a mbrl.TabularPolicy or probabilities, got {type(policy).__name__}")
    gap = None
    if demonstrations is not None and table is not None:
        gap = _tabular_gap(world, features, demonstrations, table)
    epic = correlation = truth = None
    returns: dict[str, float] = {}
    own = mdp.rewards
    if own is not None:
        truth = own if own.ndim == 1 and rewards.ndim == 1 else mdp.expected_rewards()
        alike = rewards if rewards.shape == truth.shape else mdp.expected_rewards(rewards)
        if mdp.states <= MOST_STATES:
            epic = _number(notes, lambda: epic_distance(mdp, rewards, own))
        correlation = _number(notes, lambda: reward_correlation(alike, truth))
        returns = _values(mdp, rewards, table)
        rewards = alike
    else:
        notes.append("the true reward is not known, so nothing is compared with it")
    there: dict[str, float] = {}
    if elsewhere is not None:
        other = process(elsewhere)
        if other.rewards is None:
            raise ValueError("elsewhere needs its true rewards")
        there = _values(other, _tabular_rewards(elsewhere, reward), None)
    drawn = world if isinstance(world, GridWorld) and rewards.ndim == 1 else None
    return RewardReport(
        world_name(world),
        found,
        gap,
        epic,
        correlation,
        returns,
        there,
        tuple(notes),
        rewards,
        truth,
        drawn,
        compared="state" if rewards.ndim == 1 else "state and action",
    )


def _tabular_rewards(world: TabularWorld, reward: Any) -> Tensor:
    """Rewards ``(S,)`` or ``(S, A)``."""
    mdp = process(world)
    if isinstance(reward, Tensor):
        mdp.expected_rewards(reward)  # raises
        return reward.detach().to(mdp.transitions)
    if not isinstance(reward, FeatureReward):
        raise TypeError(f"in tables a reward is a mbrl.FeatureReward or a tensor, got {type(reward).__name__}")
    features = world.features if isinstance(world, GridWorld) else torch.eye(mdp.states)
    wanted = next(reward.parameters()).shape[1]
    if features.shape[-1] != wanted:
        raise ValueError(f"the reward is one of {wanted} features, {world_name(world)} has {features.shape[-1]}")
    with torch.no_grad():
        return reward(features.to(next(reward.parameters()))).to(mdp.transitions)


def _tabular_gap(
    world: TabularWorld, features: Tensor, trajectories: Sequence[Trajectory], table: Tensor
) -> FeatureGap:
    mdp, demonstrations = process(world), in_tables(trajectories, world)
    phi, part = by_action(mdp, features), of_demonstrated_steps(mdp, demonstrations)
    table = table.to(phi)
    shown = table[: part.steps] if table.ndim == 3 else table
    uniform = torch.full_like(phi[..., 0], 1.0 / mdp.actions)
    names = world.names if isinstance(world, GridWorld) else tuple(f"state {i}" for i in range(mdp.states))
    learned, random = (torch.einsum("sa,sak->k", occupancies(part, p), phi) for p in (shown, uniform))
    return FeatureGap(names, demonstrated_features(mdp, phi, demonstrations), learned, random)


def _values(mdp: TabularMDP, rewards: Tensor, table: Tensor | None) -> dict[str, float]:
    """True values of policies from the initial distribution."""
    retrained = solve_mdp(mdp, mdp.expected_rewards(rewards)).policy
    uniform = mdp.transitions.new_full((mdp.states, mdp.actions), 1.0 / mdp.actions)
    policies = {"random": uniform, **({} if table is None else {"learned policy": table}), "retrained": retrained}
    values = {name: float(policy_evaluation(mdp, policy).value) for name, policy in policies.items()}
    return {"optimal": float(solve_mdp(mdp).value), **values}


# On a task


@dataclass(frozen=True, eq=False)
class _Asked:
    """What was asked for."""

    policy: Any
    demonstrations: Sequence[Trajectory] | None
    algorithm: Algorithm | Planner | None
    steps: int | None
    elsewhere: Task | None
    control: float | Algorithm | None
    episodes: int
    samples: int
    seed: int

    def generator(self) -> torch.Generator:
        """The same for everything, so that all face the same starts."""
        return torch.Generator().manual_seed(self.seed)


def _on_task(task: Task, reward: Any, asked: _Asked) -> RewardReport:
    cost, notes = _as_cost(task, reward), []
    demonstrations = list(asked.demonstrations or ())
    shown = [d for d in demonstrations if d.states is not None]
    rows = _transitions(task, shown, asked)

    def learned(x: Tensor, u: Tensor, after: Tensor) -> Tensor:
        return -cost.transition(x, u, after, 0)

    def true(x: Tensor, u: Tensor, after: Tensor) -> Tensor:
        return -task.cost.transition(x, u, after, 0)

    with torch.no_grad():
        here, truth = learned(*rows), true(*rows)
    epic = _number(notes, lambda: sampled_epic_distance(learned, true, rows, discount=task.discount))
    correlation = _number(notes, lambda: reward_correlation(here, truth))
    found: IdentifiableWeights | None = None
    weights: dict[str, tuple[float, float | None]] | None = None
    if isinstance(cost, WeightedCost):
        if shown and len({d.num_steps for d in shown}) == 1:
            found = _visible(task, cost, shown)
        if isinstance(cost, TaskCost):
            right = [None] * len(cost.names) if cost.true_weights is None else cost.true_weights.tolist()
            pairs = zip(cost.names, cost.weights.tolist(), right, strict=True)
            weights = {name: (weight, true_one) for name, weight, true_one in pairs}
    gap, returns = _lived(task, cost, shown, asked)
    returns |= _retrained(task, cost, shown, asked)
    there: dict[str, float] = {}
    if asked.elsewhere is not None:
        there = {"random": _mean_return(_random(asked.elsewhere), asked.elsewhere, [], asked)}
        there |= _retrained(asked.elsewhere, _as_cost(asked.elsewhere, reward), [], asked)
        if asked.algorithm is None:
            notes.append("nothing was planned or trained under other dynamics; pass algorithm=...")
    return RewardReport(
        task.name, found, gap, epic, correlation, returns, there, tuple(notes), here, truth, weights=weights
    )


def _as_cost(task: Task, reward: Any) -> Cost:
    """Minus the reward."""
    if isinstance(reward, TaskCost) and reward.task is not task:
        return TaskCost(task, reward.weights.detach(), terms=reward.terms)
    if isinstance(reward, Cost):
        return reward
    if not isinstance(reward, nn.Module):
        raise TypeError(f"on a task a reward is a planners.Cost or a module, got {type(reward).__name__}")
    return TransitionCost(lambda x, u, after, t: -reward(task.observe(x), u, task.observe(after)))


def _random(task: Task) -> Any:  # (Any: the noise names what the protocol has as a property)
    return UniformNoise(task.control_limits, task.dynamics.control_dim)


def _transitions(task: Task, shown: list[Trajectory], asked: _Asked) -> Transitions:
    """States, controls and next states, half of them demonstrated where there are any, in an order by chance."""
    generator = asked.generator()
    wandering = record(task, _random(task), 8, generator=generator)
    halves = []
    for trajectories in (wandering, shown):
        parts = [(d.states[:-1], d.controls, d.states[1:]) for d in trajectories if d.states is not None]
        if parts:
            x, u, after = (torch.cat([torch.tensor(p[i]) for p in parts]) for i in range(3))
            number = asked.samples // (2 if shown else 1)
            chosen = torch.randperm(len(x), generator=generator)[:number]
            halves.append((x[chosen], u[chosen], after[chosen]))
    x, u, after = (torch.cat([half[i] for half in halves]) for i in range(3))
    return x, u, after


def _visible(task: Task, cost: WeightedCost, shown: list[Trajectory]) -> IdentifiableWeights:
    """Which directions of weights show in the gradients by the demonstrated controls that no limit holds."""
    xs, us = (
        torch.stack([torch.tensor(x) for x in part])
        for part in ([d.states for d in shown], [d.controls for d in shown])
    )
    with torch.no_grad():
        problem = replace(task.problem(horizon=us.shape[-2]), cost=cost)
        G, _ = control_gradients(problem, cost, xs, us)
    lower, upper = (limit.expand(us.shape) for limit in problem.limits_like(us))
    room = 1e-6 * (upper - lower)
    free = (us > lower + room) & (us < upper - room)
    G = (G * cost.weights.detach()).flatten(0, 2)[free.flatten()]
    return IdentifiableWeights.of(G / max(len(G), 1) ** 0.5, 1e-6)


def _lived(
    task: Task, cost: Cost, shown: list[Trajectory], asked: _Asked
) -> tuple[FeatureGap | None, dict[str, float]]:
    """Features and returns of the expert, of random controls and of the policy."""
    actors = {"random": _random(task), **({} if asked.policy is None else {"learned policy": asked.policy})}
    lived = {name: _episodes(actor, task, shown, asked) for name, actor in actors.items()}
    if shown:
        lived = {"expert": _cut(shown), **lived}
    returns = {name: _true_return(task, episodes) for name, episodes in lived.items()}
    if not (shown and isinstance(cost, WeightedCost) and asked.policy is not None):
        return None, returns
    names = cost.names if isinstance(cost, TaskCost) else tuple(f"feature {i}" for i in range(len(cost.weights)))
    expert, random, learned = (_features(cost, lived[name]) for name in ("expert", "random", "learned policy"))
    return FeatureGap(names, expert, learned, random), returns


def _cut(shown: list[Trajectory]) -> list[Trajectory]:
    """Demonstrations as long as the shortest one."""
    steps = min(d.num_steps for d in shown)
    return [d.slice(0, steps) for d in shown]


def _episodes(actor: Any, task: Task, shown: list[Trajectory], asked: _Asked) -> list[Trajectory]:
    """Episodes from the starts of the demonstrations and as long, or new ones where there are none."""
    if not shown:
        return record(task, actor, asked.episodes, generator=asked.generator())
    starts = torch.stack([torch.tensor(d.states[0]) for d in shown])  # type: ignore[index]
    steps = min(d.num_steps for d in shown)
    return record(task, actor, len(shown), initial_states=starts, steps=steps, generator=asked.generator())


@torch.no_grad()
def _features(cost: WeightedCost, episodes: list[Trajectory]) -> Tensor:
    """Sums of features along episodes, on average ``(k,)``."""
    found = []
    for episode in episodes:
        x, u = torch.tensor(episode.states), torch.tensor(episode.controls)
        found.append(cost.features(x[:-1], u, torch.arange(len(u))).sum(0) + cost.terminal_features(x[-1]))
    return torch.stack(found).mean(0)


@torch.no_grad()
def _true_return(task: Task, episodes: list[Trajectory]) -> float:
    """Sum of true rewards, on average."""
    sums = []
    for episode in episodes:
        x, u = torch.tensor(episode.states), torch.tensor(episode.controls)
        sums.append(float(task.reward(x[:-1], u, x[1:], torch.arange(len(u))).sum()))
    return sum(sums) / len(sums)


def _mean_return(actor: Any, task: Task, shown: list[Trajectory], asked: _Asked) -> float:
    return _true_return(task, _episodes(actor, task, shown, asked))


def _retrained(task: Task, cost: Cost, shown: list[Trajectory], asked: _Asked) -> dict[str, float]:
    """True returns of what is found for the learned reward alone, and of the control."""
    from mbrl.training.train import train

    def trained(algorithm: Algorithm, cost: Cost) -> float:
        there = replace(task, cost=cost)
        result = train(algorithm, there, steps=asked.steps, seed=asked.seed, evaluation_episodes=0)
        return _mean_return(result.policy, task, shown, asked)

    found: dict[str, float] = {}
    if isinstance(asked.algorithm, Planner):
        planned = MPC(replace(task, cost=cost).problem(), asked.algorithm)
        found["retrained"] = _mean_return(planned, task, shown, asked)
    elif asked.algorithm is not None:
        found["retrained"] = trained(asked.algorithm, cost)
    if isinstance(asked.control, Algorithm):
        found["no demonstrations"] = trained(asked.control, FunctionCost(lambda x, u, t: -torch.ones_like(x[..., 0])))
    elif asked.control is not None:
        found["no demonstrations"] = float(asked.control)
    return found


def _lost(returns: dict[str, float]) -> float | None:
    best = returns.get("optimal", returns.get("expert"))
    random, found = returns.get("random"), returns.get("retrained", returns.get("learned policy"))
    if best is None or random is None or found is None or best - random <= TIED * max(abs(best), abs(random)):
        return None
    return (best - found) / (best - random)


def _number(notes: list[str], measure: Any) -> float | None:
    """A measure, or why there is none."""
    try:
        return float(measure())
    except ValueError as error:
        if str(error) not in notes:
            notes.append(str(error))
        return None


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"
