r"""What a learned reward is worth: what could be known of it, how it compares with the truth, and what acting on it leads to.

Demonstrations never tell a positive factor of a reward, nor potential shaping, nor what its features cannot show; so rewards
are compared by the EPIC distance, which sees none of the first two, and above all by what is done for them. A reward is worth its
name if a policy that knows nothing else does well where the truth is paid, in the world it was learned in and, what no imitation
does, in one with other dynamics (Fu, Luo and Levine 2018). An adversarial method may do well although its reward says nothing,
because a reward that is always positive or negative prefers long or short episodes (Kostrikov et al. 2019): a control that has
seen no demonstration tells.

A reward may depend on time: it is compared where demonstrations and samples are, each state at its own step.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dynamics import Trajectory
from mbrl.envs.making import AnyTask
from mbrl.irl.adversarial import Adversarial
from mbrl.irl.base import FeatureReward, by_action, demonstrated_features, of_demonstrated_steps
from mbrl.irl.cost_learner import IdentifiableWeights
from mbrl.irl.environment_report import in_an_environment
from mbrl.irl.identifiability import identifiability
from mbrl.irl.kkt_inverse import control_gradients
from mbrl.irl.module_reward import module_rewards
from mbrl.irl.reward_findings import Asked, FeatureGap, RewardReport, number
from mbrl.irl.reward_learner import in_tables
from mbrl.irl.reward_metrics import Reward, Transitions, epic_distance, reward_correlation, sampled_epic_distance
from mbrl.irl.reward_network import RewardModel
from mbrl.irl.reward_task import RewardCost, reward_task
from mbrl.policies.actor import Actor
from mbrl.policies.policy import Policy
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

ROWS = 4096  # of one-hot states at a time
MOST_FEATURES, MOST_STATES = 300, 1500  # up to which identifiability and the EPIC distance in tables take a second


def reward_report(
    task: AnyTask,
    reward: nn.Module | Tensor,
    *,
    policy: Actor | Tensor | None = None,
    demonstrations: Sequence[Trajectory] | None = None,
    algorithm: Algorithm | Planner | None = None,
    steps: int | None = None,
    elsewhere: AnyTask | None = None,
    control: float | Algorithm | None = None,
    episodes: int = 10,
    samples: int = 512,
    seed: int = 0,
    discount: float | None = None,
    device: str | torch.device | None = None,
) -> RewardReport:
    """Examine a learned reward.

    In tables everything is exact, and the policy that is best for the learned reward is solved for. On a task, rewards are
    compared at transitions of the demonstrations and of random controls, each at its own step: that of its time, where the times
    of a demonstration are steps of the task, otherwise counted from its start, which a note says if it matters. In a gymnasium
    environment they are compared where it pays: along its own episodes and demonstrations with rewards.

    Args:
        task: a world or a process in tables, or a task, with its true reward where that is known; or the id of a gymnasium
            environment, or a function without arguments that makes one.
        reward: what was learned: a :class:`mbrl.FeatureReward`, a :class:`mbrl.RewardModel` of one-hot states, or rewards
            ``(S,)`` or ``(S, A)`` in tables; on a task a cost, or a module ``reward(observations, controls, next_observations)``;
            in an environment such a module.
        policy: what was learned beside the reward, an actor, or probabilities in tables.
        demonstrations: that it was learned from.
        algorithm: on a task, what finds a new policy for the learned reward alone: a training algorithm such as
            :class:`mbrl.PPO`, or a planner; in an environment a training algorithm.
        steps: of each training.
        elsewhere: a world with features of the same kind, a task with the same states, or an environment with the same spaces,
            that has other dynamics.
        control: what tells whether the reward is the reason why a policy does well: an adversarial algorithm, such as the
            :class:`mbrl.GAIL` that learned it, is trained anew with ``demonstrations=[]``, and whatever its policy earns then it
            owes to the form of the reward and the ends of episodes; another training algorithm is trained for one in every step,
            and tells what surviving earns. Or the true return of a policy without demonstrations, as a number.
        episodes: of each evaluation on a task, where there are no demonstrations, or in an environment.
        samples: transitions at which rewards are compared on a task or in an environment.
        seed: of what is drawn.
        discount: gamma, of what a reward that knows an absorbing state pays after the end of episodes: that of the algorithm by
            default, on a task without one that of the task.
        device: where the networks of each training are trained, the processor by default.

    Raises:
        ValueError: something does not fit, or would be ignored.
        TypeError: the reward is none.
    """
    if isinstance(task, TabularWorld):
        if any(given is not None for given in (algorithm, steps, control, discount, device)):
            raise ValueError(
                "algorithm, steps, control, discount and device are for tasks; in tables the policy of the learned reward is "
                "solved for exactly"
            )
        if elsewhere is not None and not isinstance(elsewhere, TabularWorld):
            raise ValueError(
                f"elsewhere must be a world or a process in tables as well, got {type(elsewhere).__name__}"
            )
        return _in_tables(task, reward, policy, demonstrations, elsewhere)
    if not (isinstance(task, Task | str) or callable(task)):
        raise TypeError(
            "task must be a Task, a GridWorld, a TabularMDP, a gymnasium id, or a function that makes an environment, got "
            f"{type(task).__name__}"
        )
    if not (isinstance(algorithm, Algorithm) or isinstance(control, Algorithm)):
        if steps is not None:
            raise ValueError("steps would be ignored: there is no training algorithm that takes some")
        if device is not None:
            raise ValueError("device would be ignored: there is no training algorithm whose networks it is for")
    if isinstance(control, Algorithm) and control.demonstrations == "required" and not isinstance(control, Adversarial):
        raise ValueError(
            f"control must be an adversarial algorithm or one that takes no demonstrations, got {type(control).__name__}"
        )
    settings = Asked(
        policy, demonstrations, algorithm, steps, elsewhere, control, episodes, samples, seed, discount, device
    )
    if isinstance(task, Task):
        if elsewhere is not None and not isinstance(elsewhere, Task):
            raise ValueError(f"elsewhere must be a task as well, got {type(elsewhere).__name__}")
        return _on_task(task, reward, settings)
    if elsewhere is not None and not (isinstance(elsewhere, str) or callable(elsewhere)):
        raise ValueError(f"elsewhere must be a gymnasium environment as well, got {type(elsewhere).__name__}")
    return in_an_environment(task, reward, settings)


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
    table = _table(mdp, policy)
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
            epic = number(notes, lambda: epic_distance(mdp, rewards, own))
        correlation = number(notes, lambda: reward_correlation(alike, truth))
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
    if isinstance(reward, RewardModel):
        return _of_one_hot_states(mdp, world_name(world), reward)
    if not isinstance(reward, FeatureReward):
        raise TypeError(
            f"in tables a reward is a mbrl.FeatureReward, a mbrl.RewardModel or a tensor, got {type(reward).__name__}"
        )
    features = world.features if isinstance(world, GridWorld) else torch.eye(mdp.states)
    wanted = next(reward.parameters()).shape[1]
    if features.shape[-1] != wanted:
        raise ValueError(f"the reward is one of {wanted} features, {world_name(world)} has {features.shape[-1]}")
    with torch.no_grad():
        return reward(features.to(next(reward.parameters()))).to(mdp.transitions)


@torch.no_grad()
def _of_one_hot_states(mdp: TabularMDP, name: str, reward: RewardModel) -> Tensor:
    """Rewards ``(S,)`` or ``(S, A)`` of one-hot states; expected ones, where they are of the next state."""
    S, A = mdp.states, mdp.actions
    came, expected = (reward.observation_dim, reward.encoding.actions.control_dim), (S, 1)
    if came != expected:
        raise ValueError(
            f"the reward is of {came[0]} observations and {came[1]} controls, {name} has {S} states and one number"
        )
    states = torch.eye(S, dtype=torch.float64)
    if reward.inputs == "state":
        return reward(states).to(mdp.transitions)
    if not reward.needs_next:
        numbers = torch.arange(A, dtype=torch.float64)[:, None]
        return reward(states[:, None].expand(-1, A, -1), numbers.expand(S, -1, -1)).to(mdp.transitions)
    found = mdp.transitions.new_zeros(S * A)
    for s, a, after in zip(*(part.split(ROWS) for part in mdp.transitions.nonzero(as_tuple=True)), strict=True):
        paid = reward(states[s], a[:, None].to(states), states[after]).to(found)
        found.index_add_(0, s * A + a, mdp.transitions[s, a, after] * paid)
    return found.reshape(S, A)


@torch.no_grad()
def _table(mdp: TabularMDP, policy: Any) -> Tensor | None:
    """Probabilities of a policy, of a network those that it has for one-hot states."""
    table = policy.probabilities if isinstance(policy, TabularPolicy) else policy
    if isinstance(policy, Policy) and not policy.settings.recurrent and policy.seen_dim == mdp.states:
        distribution = policy.distribution(torch.eye(mdp.states, dtype=torch.float64))
        numbers = torch.arange(mdp.actions, device=policy.device)
        table = (
            torch.stack([distribution.log_prob(a.expand(mdp.states)) for a in numbers], -1).to(mdp.transitions).exp()
        )
        table = table / table.sum(-1, keepdim=True)
    if table is not None and not isinstance(table, Tensor):
        raise TypeError(
            "policy must be a mbrl.TabularPolicy, a mbrl.Policy of the states without memory, or probabilities, got "
            f"{type(policy).__name__}"
        )
    return None if table is None else table.to(mdp.transitions)


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


def _on_task(task: Task, reward: Any, asked: Asked) -> RewardReport:
    cost, notes = _as_cost(task, reward), []
    demonstrations = list(asked.demonstrations or ())
    shown = [d for d in demonstrations if d.states is not None]
    rows = _transitions(task, shown, asked)

    def rewarded(cost: Cost, at: Any = None) -> Reward:
        def of(x: Tensor, u: Tensor, after: Tensor) -> Tensor:
            return -cost.transition(x[..., :-1], u, after[..., :-1], x[..., -1].long() if at is None else at)

        return of

    learned, true = rewarded(cost), rewarded(task.cost)
    with torch.no_grad():
        here, truth = learned(*rows), true(*rows)
        alike = (here.equal(rewarded(cost, 0)(*rows)), truth.equal(rewarded(task.cost, 0)(*rows)))
    if not all(alike):
        notes += _untimed(task, shown)
    epic = number(notes, lambda: sampled_epic_distance(learned, true, rows, discount=task.discount))
    correlation = number(notes, lambda: reward_correlation(here, truth))
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
    returns |= _retrained(task, reward, shown, asked, notes)
    there: dict[str, float] = {}
    if asked.elsewhere is not None:
        there = {"random": _mean_return(_random(asked.elsewhere), asked.elsewhere, [], asked)}
        there |= _retrained(asked.elsewhere, reward, [], asked, notes)
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
    if isinstance(reward, RewardModel):
        return RewardCost(reward, task)
    if not isinstance(reward, nn.Module):
        raise TypeError(f"on a task a reward is a planners.Cost or a module, got {type(reward).__name__}")
    return TransitionCost(lambda x, u, after, t: -module_rewards(reward, task.observe(x), u, task.observe(after)))


def _as_task(task: Task, reward: Any, discount: float | None) -> Task:
    """The task with the learned reward in the place of the true one, of which nothing is left."""
    if isinstance(reward, RewardModel):
        return reward_task(task, reward, discount=discount)
    return replace(task, cost=_as_cost(task, reward), termination_cost=0.0)


def _random(task: Task) -> Any:  # (Any: the noise names what the protocol has as a property)
    return UniformNoise(task.control_limits, task.dynamics.control_dim)


def _transitions(task: Task, shown: list[Trajectory], asked: Asked) -> Transitions:
    """States, controls and next states, half of them demonstrated where there are any, in an order by chance.

    The last column of states is the step, so that what depends on time is a reward of such states. After the last step at which
    there is one, the step stays: nothing is paid there.
    """
    generator = asked.generator()
    wandering = record(task, _random(task), 8, generator=generator)
    halves = []
    for trajectories in (wandering, shown):
        parts = [(*_timed(task, d), torch.tensor(d.controls)) for d in trajectories if d.states is not None]
        if parts:
            x, after, u = (torch.cat([p[i] for p in parts]) for i in range(3))
            number = asked.samples // (2 if shown else 1)
            chosen = torch.randperm(len(x), generator=generator)[:number]
            halves.append((x[chosen], u[chosen], after[chosen]))
    x, u, after = (torch.cat([half[i] for half in halves]) for i in range(3))
    after[:, -1].clamp_(max=float(x[:, -1].max()))
    return x, u, after


def _timed(task: Task, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """States and next states, with their steps as the last column."""
    first, _ = _first_step(task, trajectory)
    x = torch.tensor(trajectory.states)
    steps = torch.arange(first, first + len(x)).to(x).unsqueeze(-1)
    rows = torch.cat([x, steps], -1)
    return rows[:-1], rows[1:].clone()


def _first_step(task: Task, trajectory: Trajectory) -> tuple[int, bool]:
    """The step of the task at which a trajectory begins, and whether its times say so; otherwise 0."""
    at = torch.tensor(trajectory.times) / task.dynamics.dt
    first = int(at[0].round())
    expected = torch.arange(first, first + len(at)).to(at)
    fits = bool(((at - expected).abs() < 1e-3).all()) and first >= 0
    inside = first == 0 or first + trajectory.num_steps <= task.episode_steps
    return (first, True) if fits and inside else (0, False)


def _untimed(task: Task, shown: list[Trajectory]) -> list[str]:
    """What there is to say of the steps of demonstrations where rewards depend on them."""
    begins = [_first_step(task, d) for d in shown]
    found, unknown = [], sum(not known for _, known in begins)
    if unknown:
        found.append(
            f"rewards depend on time, and the times of {unknown} of {len(shown)} demonstrations are no steps of the task: these "
            "are counted from their start"
        )
    if any(first for first, _ in begins):
        found.append("demonstrations begin at later steps, whereas features and returns are those of steps from 0 on")
    return found


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


def _lived(task: Task, cost: Cost, shown: list[Trajectory], asked: Asked) -> tuple[FeatureGap | None, dict[str, float]]:
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


def _episodes(actor: Any, task: Task, shown: list[Trajectory], asked: Asked) -> list[Trajectory]:
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


def _mean_return(actor: Any, task: Task, shown: list[Trajectory], asked: Asked) -> float:
    return _true_return(task, _episodes(actor, task, shown, asked))


def _retrained(task: Task, reward: Any, shown: list[Trajectory], asked: Asked, notes: list[str]) -> dict[str, float]:
    """True returns of what is found for the learned reward alone, and of the control."""

    def score(actor: Any) -> float:
        return _mean_return(actor, task, shown, asked)

    found: dict[str, float] = {}
    if isinstance(asked.algorithm, Planner):
        alone = _as_task(task, reward, asked.discount_of(task))
        found["retrained"] = score(MPC(alone.problem(), asked.algorithm))
    elif asked.algorithm is not None:
        alone = _as_task(task, reward, asked.discount_of(asked.algorithm, task.discount))
        found["retrained"] = score(asked.trained(asked.algorithm, alone))
    one = FunctionCost(lambda x, u, t: -torch.ones_like(x[..., 0]))
    return found | asked.controlled(task, replace(task, cost=one, termination_cost=0.0), score, notes)
