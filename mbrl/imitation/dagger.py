r"""Dataset aggregation: the expert is asked about the states that the policy visits (Ross, Gordon, Bagnell 2011, algorithm 3.1).

.. math:: \pi_k = \beta_k \pi^* + (1 - \beta_k) \hat\pi_k, \qquad
    D \leftarrow D \cup \{(y, \pi^*(y)) : y \text{ visited by } \pi_k\}, \qquad
    \hat\pi_{k+1} = \arg\max_\pi \sum_D \log \pi(a \mid y)

with :math:`\beta_k = \text{decay}^k`: in the first iteration, k = 0, the expert acts alone, and that policy is cloned. With the
errors that the policy makes on the states it visits, the excess cost grows with the length of an episode and not with its square
(theorem 3.2).

Where it differs from the paper: the policy that is returned is the last one, not the best of all; it acts by the mode of its
distribution, as it is evaluated; and who acts is drawn at each step in each world.
"""

import copy
import dataclasses
import time
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl.envs.making import AnyTask
from mbrl.imitation.behavior_cloning import BC, Cloning
from mbrl.imitation.labels import Labels, actions_of, read_demonstrations
from mbrl.policies.action_space import ActionSpace, DiscreteActions
from mbrl.policies.actor import Actor, require_actor
from mbrl.policies.policy import Policy
from mbrl.runs.records import fingerprint, json_values
from mbrl.tasks import Task
from mbrl.training.algorithm import Algorithm, Assignment, Demonstrations, Learner
from mbrl.training.checking import check_numbers
from planners import MPC


@dataclass(frozen=True)
class DAgger(Algorithm):
    """Dataset aggregation from an expert that can be asked anywhere.

    The expert runs along in all worlds: it is shown every state that is visited, also where the policy acts, and its memory goes
    from step to step (the warm start of MPC, for instance). Labels are the controls that would have been applied, within the
    limits.

    Demonstrations given to :func:`mbrl.train` take the place of the first iteration, which then takes no environment steps. Of
    several processes each learns from all of them and from labels of its own, so that they weigh as much as if they had been
    given once for each process.

    Attributes:
        expert: anything that acts: MPC, a controller, a policy. One that acts on the state needs an environment that gives
            ``info["state"]``, as tasks do.
        beta_decay: the expert acts in iteration k with probability ``beta_decay**k`` at each step; 0 for the first alone.
        episodes: worlds side by side, one episode in each per iteration, of each process.
        cloning: how the policy is trained on all labels so far, and its network.
        gradient_steps: of the training in an iteration, at most.
        max_steps: after which an episode is cut off; a world that has no time limit may otherwise never end.
        warm_start: whether it goes on from the weights of the iteration before, and keeps the statistics of observations of the
            first one; otherwise it begins anew.

    Raises:
        TypeError: the expert is nothing that acts.
        ValueError: a number is out of its range, or the expert plans in real time.
    """

    demonstrations: ClassVar[Demonstrations] = "optional"
    shows: ClassVar[str] = "loss of the expert's actions, minus their log-likelihood"

    expert: Actor
    _: KW_ONLY
    beta_decay: float = 0.5
    episodes: int = 8
    cloning: BC = field(default_factory=BC)
    gradient_steps: int = 1000
    max_steps: int = 1000
    warm_start: bool = False

    def __post_init__(self):
        require_actor(self.expert)
        if getattr(self.expert, "real_time", False):
            raise ValueError(
                f"{type(self.expert).__name__} plans in real time, and training does not keep to it: give it latency=... [s]"
            )
        check_numbers(self, counts=("episodes", "gradient_steps", "max_steps"), shares=("beta_decay",))

    def learner(self, assignment: Assignment) -> "DAggerLearner":
        """A learner at its first step."""
        return DAggerLearner(self, assignment)

    def announcement(self, task: AnyTask) -> str:
        """What the expert is asked in an iteration: it may plan for minutes."""
        name, limit = type(self.expert).__name__, self.max_steps
        if isinstance(self.expert, MPC):
            planner, horizon = type(self.expert.planner).__name__, self.expert.problem.horizon
            name += f" with {planner}, planning {horizon} steps ahead"
        if isinstance(task, Task):
            limit = min(limit, task.episode_steps)
        return f"expert: {name}; it acts and labels in {self.episodes} episodes of up to {limit} steps an iteration"

    def config(self) -> dict[str, Any]:
        """The settings as JSON values; of the expert what has some, and a digest of its tensors."""
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "expert"}
        return {
            "class": type(self).__name__,
            **json_values("algorithm", settings),
            "expert": fingerprint(self.expert),
        }


class DAggerLearner(Learner):
    """The state of dataset aggregation.

    Everything random is drawn from seeds of the iteration, and every iteration begins new episodes: a resumed run is exact in any
    environment that is so for equal seeds.

    Args:
        algorithm: its settings.
        assignment: what is to be learned.

    Attributes:
        policy: the policy after the last iteration.
        labels: all episodes so far, with what the expert would have done at each step.
        iterations: that are done.

    Raises:
        ValueError: demonstrations or the expert do not fit the task, or ``init`` would be ignored.
    """

    policy: Policy

    def __init__(self, algorithm: DAgger, assignment: Assignment):
        if assignment.init is not None and not algorithm.warm_start:
            raise ValueError("every iteration begins with a new policy, init would be ignored; set warm_start=True")
        algorithm.check_demonstrations(assignment)
        self.algorithm, self.assignment, self.processes = algorithm, assignment, assignment.processes
        self.worlds = assignment.worlds(algorithm.episodes)
        if algorithm.expert.acts_on == "state" and self.worlds.states is None:
            raise ValueError(
                f"{type(algorithm.expert).__name__} acts on the state, and the environment gives no info['state']; take an "
                "expert that acts on observations, or an environment that gives it"
            )
        self._begin = assignment.first_policy(
            self.worlds.observation_dim, self.worlds.actions, algorithm.cloning.network
        )
        self.policy = copy.deepcopy(self._begin)
        self.labels: Labels | None = None
        if assignment.demonstrations is not None:
            self.labels = read_demonstrations(assignment.demonstrations, self.policy, assignment.task)
        self._shared = 0 if self.labels is None else self.labels.steps  # the same in all processes
        self.steps = self.iterations = 0

    def iterate(self) -> dict[str, float]:
        """Visit, ask, and train on all labels."""
        begun = time.perf_counter()
        metrics: dict[str, float] = {}
        if self.iterations or self.labels is None:
            labels, metrics = self._visit()
            self.labels = labels if self.labels is None else self.labels.joined(labels)
            self.steps += int(self.processes.sum(torch.tensor(labels.steps)))
        visited = time.perf_counter()
        network = copy.deepcopy(self.policy if self.algorithm.warm_start else self._begin)
        cloning = Cloning(
            self.algorithm.cloning,
            network,
            self._aggregate(),
            self.algorithm.gradient_steps,
            self.assignment,
            purpose=f" of iteration {self.iterations}",
        )
        metrics |= cloning.run()
        self.policy.load_state_dict(cloning.policy.state_dict())
        self.iterations += 1
        own = self._aggregate().steps - self._shared
        return {
            **metrics,
            "train/labels": float(self._shared + self.processes.sum(torch.tensor(own))),
            "time/visits": visited - begun,
            "time/update": time.perf_counter() - visited,
        }

    def _aggregate(self) -> Labels:
        if self.labels is None:
            raise RuntimeError("no episode has been visited yet; call iterate() first")
        return self.labels

    @torch.no_grad()
    def _visit(self) -> tuple[Labels, dict[str, float]]:
        """One episode in each world under the mixture of expert and policy, labelled by the expert."""
        expert, policy, worlds, N = self.algorithm.expert, self.policy, self.worlds, self.worlds.number
        beta = self.algorithm.beta_decay**self.iterations
        seed = self.assignment.seed_for(f"worlds of iteration {self.iterations}")
        generator = self._generator("who acts")
        worlds.begin(seed + N * self.processes.rank)
        memory, hidden = expert.init(N, generator=self._generator("expert")), policy.initial_hidden(N)
        running, found, returns = torch.ones(N, dtype=torch.bool), [], torch.zeros(N, dtype=torch.float64)
        differing, diverged = 0.0, torch.zeros(N, dtype=torch.bool)
        for _ in range(self.algorithm.max_steps):
            if not bool(running.any()):
                break
            y = worlds.observations
            u, memory = expert.act(self._seen(), memory)
            labels = self._labels(u, running)
            distribution, hidden = policy.step(policy.inputs(y), hidden)
            own = distribution.mode().cpu().to(labels)
            by_expert = torch.rand(N, generator=generator, dtype=torch.float64) < beta
            acts = torch.where(by_expert.reshape(N, *[1] * (labels.ndim - 1)), labels, own)
            found.append((y, labels, running))
            differing += float(_difference(self.policy.actions, own, labels)[running].sum())
            step = worlds.step(acts)
            returns += torch.where(running, step.rewards, 0.0)
            diverged = diverged | (running & ~step.valid)
            running = running & ~step.ended
        labels = _episodes(found)
        whole = ~diverged
        sums = [whole.sum(), labels.lengths[whole].sum(), returns[whole].sum(), diverged.sum(), differing, labels.steps]
        sums = self.processes.sum(torch.tensor([float(number) for number in sums], dtype=torch.float64))
        episodes, length, reward, broken, differing, steps = sums.tolist()
        metrics = {"rollout/episodes": episodes, "rollout/diverged": broken, "rollout/beta": beta}
        if episodes:
            metrics = {"rollout/return": reward / episodes, "rollout/length": length / episodes, **metrics}
        return labels, metrics if beta == 1 else {**metrics, "rollout/difference": differing / steps}

    def _generator(self, purpose: str) -> torch.Generator:
        seed = self.assignment.seed_for(f"{purpose} in iteration {self.iterations}") + self.processes.rank
        return torch.Generator().manual_seed(seed)

    def _seen(self) -> Tensor:
        """What the expert acts on, ``(N, dim)``."""
        states = self.worlds.states
        return self.worlds.observations if self.algorithm.expert.acts_on != "state" or states is None else states

    def _labels(self, u: Tensor, running: Tensor) -> Tensor:
        """The actions that the expert's controls ``(N, m)`` come to; anything in worlds whose episode is over."""
        name, space, task = type(self.algorithm.expert).__name__, self.policy.actions, self.assignment.task
        if u.shape != (len(running), space.control_dim):
            raise ValueError(
                f"{name} must give controls of shape ({len(running)}, {space.control_dim}), got {tuple(u.shape)}"
            )
        u = u.detach().cpu().double()
        if not bool(u[running].isfinite().all()):
            raise ValueError(
                f"{name} gave a control that is not finite; an expert must know what to do wherever a policy goes"
            )
        u = u.nan_to_num()
        if isinstance(task, Task):
            u = task.admissible(u)
        elif not isinstance(space, DiscreteActions):
            u = space.controls(space.actions(u))
        return actions_of(u, self.policy)

    def close(self) -> None:
        """Let go of the worlds."""
        self.worlds.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            "policy": self.policy.state_dict(),
            "labels": None if self.labels is None else self.labels.state_dict(),
            "steps": self.steps,
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.policy.load_state_dict(state["policy"])
        self.labels = None if state["labels"] is None else Labels(**state["labels"])
        self.steps, self.iterations = state["steps"], state["iterations"]


def _difference(space: ActionSpace, own: Tensor, labels: Tensor) -> Tensor:
    """Of actions, ``(N,)``: the squared distance within the limits, or whether they are not the same one."""
    if labels.is_floating_point():
        own, labels = (space.actions(space.controls(actions)) for actions in (own, labels))
        return (own - labels).square().sum(-1)
    return (own != labels).double()


def _episodes(found: list[tuple[Tensor, Tensor, Tensor]]) -> Labels:
    """The labels of the running steps in T times N, episode after episode."""
    y, actions, running = (torch.stack(column).transpose(0, 1) for column in zip(*found, strict=True))
    return Labels(y[running], actions[running], running.sum(1))
