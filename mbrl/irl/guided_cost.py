r"""Guided cost learning (Finn, Levine and Abbeel 2016): a cost from demonstrations while a policy search pursues it.

.. math::
    \mathcal L(\theta) = \frac1N \sum_i \Bigl[ \frac{J_\theta(\zeta_i)}{\tau} + \log \hat Z_\theta(x_{0,i}) \Bigr]
        + \frac{w_{\mathrm{lcr}}}{N + M} \sum_{\zeta} g_{\mathrm{lcr}}(\zeta)
        + \frac{w_{\mathrm{mono}}}{N} \sum_i g_{\mathrm{mono}}(\zeta_i)

is the negative log-likelihood of N demonstrations of maximum entropy and two regularizers. Each iteration

1. runs the controllers, or the policy, from the states in which demonstrations begin,
2. improves the cost by steps of Adam on :math:`\mathcal L`, whose log-partition (:mod:`mbrl.irl.partition`) is estimated with the
   samples of this iteration and of the latest ones before it, and with the demonstrations,
3. improves the controllers by a step of bounded divergence, on the teacher's model and the cost as it is now,

.. math:: p \leftarrow \arg\min_p \mathrm E_p [J_\theta] - \tau \mathcal H(p) \;\; \text{s.t.} \;\;
    \sum_t \mathrm E_p \, \mathrm{KL}(p(u_t | x_t) \,\|\, p_{\text{old}}(u_t | x_t)) \le \epsilon ,

4. and fits the policy to them, as guided policy search does. Without the bound the third step alone would end in
:math:`p \propto e^{-J/\tau}`, the distribution from which the partition function takes the fewest samples.

The regularizers act on the costs :math:`c_t` of states, controls being zero, in units of the temperature (section 5):

.. math::
    g_{\mathrm{lcr}} = \sum_t \bigl[ (c_{t+1} - c_t) - (c_t - c_{t-1}) \bigr]^2, \qquad
    g_{\mathrm{mono}} = \sum_t \max(0, c_t - c_{t-1} - 1)^2 ,

a locally constant rate of change on all trajectories, and costs that do not rise along demonstrations.

Where it differs from the paper: each initial state has a partition function of its own, as the demonstrator does not choose where
to begin, instead of one for all; the cost is not changed further than the samples can tell; regularizers are means over
trajectories, so that their weights do not depend on how many there are; demonstrations are samples only where there are enough
of them for a density. Controls are charged as they are drawn, before they are clamped to their limits: what lies beyond one is as
likely as its price says, and demonstrations at limits are taken for drawn there.
"""

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dynamics import Trajectory
from mbrl.envs.making import EnvFactory
from mbrl.gps.alternating import AlternatingGPS, AlternatingLearner, Situation
from mbrl.gps.memory import Memory, Source
from mbrl.gps.rollouts import Rollouts
from mbrl.irl.cost_learner import Demonstrated, copied
from mbrl.irl.demonstrated_controller import demonstrated_controller
from mbrl.irl.network_cost import NetworkCost
from mbrl.irl.partition import LogPartition, log_partition
from mbrl.irl.pieces import check_pieces
from mbrl.irl.reward_files import save_reward
from mbrl.runs.records import fingerprint, json_values
from mbrl.tasks import Task, TaskCost
from mbrl.training.algorithm import Assignment, Demonstrations
from mbrl.training.checking import check_numbers
from mbrl.training.errors import TrainingError
from planners import Cost, LinearGaussianController


@dataclass(frozen=True)
class GCL(AlternatingGPS):
    """Guided cost learning: a cost, and controllers and a policy of little cost, from demonstrations.

    ``mbrl.train(mbrl.GCL(), task, demonstrations=...)`` never looks at the task's own cost but to report what rollouts pay, as
    ``rollout/cost``. Rollouts begin where demonstrations do, and where these are fewer than ``conditions`` also in states that
    the task draws; the teacher's ``temperature`` is that of the demonstrator.

    Attributes:
        cost: what is learned, copied, with the parameters from which the search begins, such as a
            :class:`planners.LinearFeatureCost`; a :class:`mbrl.NetworkCost` by default.
        cost_hidden: widths of the layers of that network.
        cost_outputs: numbers whose squares it adds up.
        control_weight: its price of the squared controls, in half widths of their limits, which is known [cost].
        cost_steps: of Adam, in an iteration.
        cost_learning_rate: of Adam.
        recent: iterations whose samples estimate the partition function.
        least_effective: the cost is improved in an iteration as long as the estimate rests on so many samples, as a share of
            those of the iteration, and by one step at least: what was sampled for one cost says little of one far from it.
        from_demonstrations: whether the first controllers do what was demonstrated, with the teacher's ``max_std`` of noise, and
            not what the teacher shows.
        demonstrations_count: whether demonstrations are samples too, where there are enough for a density: two more than there
            are states.
        smoothness: weight of g_lcr.
        monotonicity: weight of g_mono.
        kl_limit: bound on the divergence of new controllers from the old ones per step of the plan, on average [nat].
        checks: as of :class:`mbrl.MDGPS`; none by default, as the next cost is another one.
        horizon: steps of the pieces that demonstrations are cut into; rollouts begin where pieces do, and are as long. By default
            whole demonstrations, which are as long as an episode. The fewer steps there are, the more samples count. A piece is
            learned as if it began at step 0: neither plant nor cost may depend on time.
        stride: steps from the beginning of a piece to that of the next; those of a piece by default.

    Raises:
        ValueError: a number is out of its range.
        TypeError: the cost is none.
    """

    demonstrations: ClassVar[Demonstrations] = "required"
    shows: ClassVar[str] = (
        "the cost of an episode of the controllers as the task counts it, what demonstrations and controllers cost as it was "
        "learned, the partition function between them, and the share of samples that it rests on (effective)"
    )

    _: KW_ONLY
    cost: Cost | None = None
    cost_hidden: tuple[int, ...] = (32, 32)
    cost_outputs: int = 16
    control_weight: float = 1.0
    cost_steps: int = 10
    cost_learning_rate: float = 1e-3
    recent: int = 5
    least_effective: float = 0.3
    from_demonstrations: bool = True
    demonstrations_count: bool = True
    smoothness: float = 0.0
    monotonicity: float = 0.0
    kl_limit: float = 1.0
    checks: int = 0
    horizon: int | None = None
    stride: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_pieces(self)
        if not (self.cost is None or isinstance(self.cost, Cost)):
            raise TypeError(f"cost must be a Cost or None, got {type(self.cost).__name__}")
        check_numbers(
            self,
            counts=("cost_outputs", "cost_steps", "recent"),
            rates=("control_weight", "cost_learning_rate", "kl_limit"),
            weights=("smoothness", "monotonicity", "least_effective"),
        )

    def announcement(self, task: Task | str | EnvFactory) -> str:
        """What an iteration takes."""
        if not isinstance(task, Task):
            return ""
        return (
            f"teacher: {self.teacher.words}; {self.iterations} iterations, in each of them {self.samples} rollouts of "
            f"{self.horizon or task.episode_steps} steps from each state in which a demonstration, or a piece of one, begins"
        )

    def learner(self, assignment: Assignment) -> "GCLLearner":
        """A learner at its first step."""
        return GCLLearner(self, assignment)

    def config(self) -> dict[str, Any]:
        """The settings as JSON values, with a digest of a cost's parameters."""
        return {**json_values("algorithm", replace(self, cost=None)), "cost": fingerprint(self.cost)}


@dataclass(frozen=True, eq=False)
class CostObjective:
    """What cost learning minimizes, at some parameters, and its parts.

    Attributes:
        value: L.
        partition: of each initial state in which demonstrations begin.
        log_partition: mean of log Z over demonstrations [nat].
        demonstration_cost: mean cost of a demonstration.
    """

    value: Tensor
    partition: LogPartition
    log_partition: Tensor
    demonstration_cost: Tensor


class GCLLearner(AlternatingLearner):
    """The state of guided cost learning.

    Args:
        algorithm: its settings.
        assignment: what is to be learned, with demonstrations.

    Attributes:
        task: the task with the cost as it is now.
        reward: the learned cost, of which the reward is the negative; any planner takes it.
        memory: samples, and the distributions that they came from.

    Raises:
        ValueError: see :class:`mbrl.TaughtLearner`; or demonstrations do not fit the task.
    """

    settings: GCL

    def __init__(self, algorithm: GCL, assignment: Assignment):
        algorithm.check_demonstrations(assignment)
        task = assignment.task
        if algorithm.horizon is not None and isinstance(task, Task):  # what is no task is an error, elsewhere
            assignment = replace(assignment, task=replace(task, episode_steps=algorithm.horizon))
        super().__init__(algorithm, assignment)
        task = self.task
        self._truth = replace(task.problem(horizon=task.episode_steps), discount=1.0)
        demonstrations = cast(Sequence[Trajectory], assignment.demonstrations)
        given = Demonstrated.of(
            task,
            self._first_cost(),
            demonstrations,
            accepted=frozenset({"control_limits", "discount"}),
            learner="GCL",
            other="leave it out of the task",
            pieces=(algorithm.horizon, algorithm.stride),
        )
        if given.us.shape[-2] != task.episode_steps:
            raise ValueError(
                f"demonstrations have {given.us.shape[-2]} steps, episodes of task {task.name} {task.episode_steps}: "
                f"set horizon to learn from pieces of them, or dataclasses.replace(task, episode_steps={given.us.shape[-2]})"
            )
        self.reward: Cost = given.problem.cost
        if algorithm.cost is None:
            cast(NetworkCost, self.reward).normalize(given.xs)
        self.task = replace(task, cost=self.reward)
        self._shown = _Shown.of(given.xs, self.space.actions(given.us), self.processes.rank, self.processes.number)
        self.x0 = torch.cat([self._shown.x0, self.x0[len(self._shown.x0) :]])
        self.settings = replace(algorithm, conditions=len(self.x0))
        # of all demonstrations, beside an equal share of the processes: the mean over those weighs demonstrations alike
        self._weight = float(self._shown.there.sum()) * self.processes.number / len(given.us)
        self._parameters = [p for p in self.reward.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, lr=algorithm.cost_learning_rate)
        self.memory = Memory(self.task)
        self._steps_taken = 0  # of Adam, in the last iteration
        density = None
        if algorithm.demonstrations_count:
            density = demonstrated_controller(task.dynamics, given.xs, given.us, least_variance=self.least_variance)
        self._counted = density is not None
        if density is not None:
            self.memory.add(density, self._shown.rollouts(len(self.x0)))

    def _first_cost(self) -> Cost:
        """The cost to begin with: a copy of the one that was given, or a network."""
        settings = self.settings
        if settings.cost is not None:
            return copied(settings.cost)
        return NetworkCost.for_task(
            self.task,
            hidden=settings.cost_hidden,
            outputs=settings.cost_outputs,
            control_weight=settings.control_weight,
            seed=self.assignment.seed_for("cost"),
        )

    @property
    def temperature(self) -> float:
        """Tau [cost per nat]."""
        return self.settings.teacher.temperature

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Policy and cost."""
        return {**super().networks, "cost": self.reward}

    def beginning(self) -> tuple[LinearGaussianController, bool]:
        """What was demonstrated, with noise; the teacher's controllers where nothing was, or where these are wanted."""
        shown, C = self._shown, len(self._shown.x0)
        if not self.settings.from_demonstrations:
            return super().beginning()[0], False
        _, half = self.space.scale(self.x0)
        covariance = torch.diag((self.settings.teacher.max_std * half).square())
        us = self.space.unclamped(shown.actions[0])
        T, m = us.shape[-2:]
        K = us.new_zeros(C, T, m, self.task.dynamics.tangent_dim)
        if self._counted:
            K = K + cast(LinearGaussianController, self.memory.sources[0]).K
        first = LinearGaussianController(
            self.task.dynamics, shown.states[0], us, K, covariance.expand(C, T, m, m).clone()
        )
        if len(self.x0) > C:
            others, _ = super().beginning()
            rows = {name: getattr(others, name)[C:] for name in ("xs", "us", "K", "covariance")}
            first = replace(first, **{name: torch.cat([getattr(first, name), rows[name]]) for name in rows})
        else:
            self.take_lessons()
        return first, False

    def noticed(self, rollouts: Rollouts) -> dict[str, float]:
        """A better cost, with these rollouts among the samples."""
        source: Source = copy.deepcopy(self.policy) if self._policy_runs else self.previous
        first = int(self._counted)
        self.memory.add(source, rollouts)
        latest = list(range(first, len(self.memory.sources)))[-self.settings.recent :]
        self.memory.keep([*range(first), *latest])
        with self.timed("fit"):
            objective = self._descend()
        mean = self.processes.mean
        xs, us = rollouts.states, self.space.unclamped(rollouts.actions)
        with torch.no_grad():
            paid = self._truth.trajectory_cost(xs, self.space.controls(rollouts.actions))
            charged = self._charged(xs, us)
        finite = rollouts.valid & paid.isfinite() & charged.isfinite()
        share = objective.partition.effective_samples / len(objective.partition.log_weights)
        return {
            "rollout/cost": float(mean(paid[finite].mean())),
            "train/cost_steps": float(self._steps_taken),
            "train/objective": float(mean(self._weight * objective.value)),
            "train/log_partition": float(mean(self._weight * objective.log_partition)),
            "train/demonstration_cost": float(mean(self._weight * objective.demonstration_cost)),
            "train/sample_cost": float(mean(charged[finite].mean())),
            "train/effective_samples": float(mean(share.mean())),
        }

    def _descend(self) -> CostObjective:
        """Steps of Adam on the objective, and what it is after them."""
        least = self.settings.least_effective * self.settings.samples
        for step in range(self.settings.cost_steps):
            found = self.objective()
            effective = self.processes.mean(found.partition.effective_samples.detach().mean())
            if step and not float(effective) >= least:
                break
            gradients = torch.autograd.grad(found.value, self._parameters, materialize_grads=True)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                weighted = self._weight * gradient
                self.processes.sum_into(weighted)
                parameter.grad = weighted / self.processes.number
            self._optimizer.step()
            self._steps_taken = step + 1
        with torch.no_grad():
            found = self.objective()
        if not bool(found.value.isfinite()):
            raise TrainingError(
                f"the objective of the cost is not finite in iteration {self.iterations}: from some initial state no sample has "
                "a finite cost; lower cost_learning_rate, or the teacher's max_std"
            )
        return found

    def objective(self) -> CostObjective:
        """L with the samples and demonstrations that this process has, and a graph to the parameters of the cost."""
        shown, memory = self._shown, self.memory
        samples = memory.rollouts
        if samples is None:
            raise RuntimeError("there are no samples yet; call iterate() first")
        C = len(shown.x0)
        xs, valid = samples.states[:, :C], samples.valid[:, :C]
        actions = torch.where(
            valid[..., None, None], samples.actions[:, :C], 0.0
        )  # what is not finite has no derivative
        costs = torch.where(valid, self._charged(xs, self.space.unclamped(actions)), torch.inf)
        there = torch.ones_like(costs, dtype=torch.bool)
        counts = torch.stack([(memory.origins == j).sum() for j in range(len(memory.sources))])
        counts = counts.unsqueeze(-1).expand(-1, C).clone()
        if self._counted:
            there[memory.origins == 0] = shown.there
            counts[0] = shown.there.sum(0)
        log_q = memory.log_q[:, :, :C].sum(-1)
        partition = log_partition(costs, log_q, counts, temperature=self.temperature, valid=there)
        number = shown.there.sum(0).to(costs)
        share = number / number.sum()
        demonstrated = self._charged(shown.states, self.space.unclamped(shown.actions))[shown.there]
        log_z = (share * partition.value).sum()
        value = demonstrated.mean() / self.temperature + log_z
        of_samples = valid & (there if not self._counted else (memory.origins > 0).unsqueeze(-1))
        value = value + self._regularized(shown.states[shown.there], xs[of_samples])
        return CostObjective(value, partition, log_z, demonstrated.mean())

    def _regularized(self, demonstrated: Tensor, sampled: Tensor) -> Tensor:
        """The weighted regularizers, of states of demonstrations ``(N, T+1, n)`` and of samples ``(M, T+1, n)``."""
        settings, total = self.settings, demonstrated.new_zeros(())
        if settings.smoothness:
            c = self._state_costs(torch.cat([demonstrated, sampled]))
            total = total + settings.smoothness * c.diff(n=2).square().sum(-1).mean()
        if settings.monotonicity:
            c = self._state_costs(demonstrated)
            total = total + settings.monotonicity * (c.diff() - 1.0).clamp_min(0.0).square().sum(-1).mean()
        return total

    def _state_costs(self, xs: Tensor) -> Tensor:
        """Costs of the steps at zero control over temperature, ``(*batch, T)``."""
        T = xs.shape[-2] - 1
        u = xs.new_zeros(*xs.shape[:-2], T, self.task.dynamics.control_dim)
        cost = self.reward.window(0, T)
        return cost.transition(xs[..., :-1, :], u, xs[..., 1:, :], torch.arange(T)) / self.temperature

    def _charged(self, xs: Tensor, us: Tensor) -> Tensor:
        """The learned cost of trajectories ``(*batch, T+1, n)``, ``(*batch,)``."""
        return self.task.problem(horizon=self.task.episode_steps).trajectory_cost(xs, us)

    def improved(self, situation: Situation) -> tuple[LinearGaussianController, Tensor | None, dict[str, float]]:
        """The step of least cost and most entropy within the bound."""

        def free_energy(controller: LinearGaussianController, rollouts: Rollouts) -> Tensor:
            return rollouts.total_costs - self.temperature * controller.entropy().sum(-1)

        settings, tau = self.settings, self.temperature
        step = self.step_from(self.previous, situation, situation.lq, tau, settings.kl_limit, free_energy)
        metrics = {
            "train/kl": float(self.processes.mean(step.kl.sum(-1).mean())),
            "train/dual": float(self.processes.mean(step.dual.log().mean()).exp()),
        }
        return step.controller, None, metrics

    def leave(self, folder: Path) -> None:
        """The cost, as ``reward.safetensors``, if it is one that was made for a task; no file holds the form of others."""
        if isinstance(self.reward, NetworkCost | TaskCost) and self.reward.task is not None:
            save_reward(self.reward, folder / "reward.safetensors")

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            **super().state_dict(),
            "cost": self.reward.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "memory": self.memory.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called, with the same demonstrations."""
        super().load_state_dict(state)
        self.reward.load_state_dict(state["cost"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.memory.load_state_dict(state["memory"], self.policy)


@dataclass(frozen=True, eq=False)
class _Shown:
    """Demonstrations by the C states in which they begin, up to K in each.

    Attributes:
        x0: the states ``(C, n)``.
        states: ``(K, C, T+1, n)``; where there is none, one that is there.
        actions: ``(K, C, T, a)``.
        there: where there is one, ``(K, C)`` of bool.
    """

    x0: Tensor
    states: Tensor
    actions: Tensor
    there: Tensor

    @staticmethod
    def of(xs: Tensor, actions: Tensor, rank: int, number: int) -> "_Shown":
        """Demonstrations of states ``(N, T+1, n)``, of which each process takes those from some initial states."""
        x0, which = torch.unique(xs[:, 0], dim=0, return_inverse=True)
        if len(x0) < number:
            raise ValueError(f"{number} processes need demonstrations from as many initial states, got {len(x0)}")
        rows = [(which == c).nonzero().squeeze(-1) for c in range(rank, len(x0), number)]
        K = max(map(len, rows))
        index = torch.stack([torch.cat([r, r[:1].expand(K - len(r))]) for r in rows], 1)
        there = torch.arange(K).unsqueeze(-1) < torch.tensor([len(r) for r in rows])
        return _Shown(x0[rank::number], xs[index], actions[index], there)

    def rollouts(self, conditions: int) -> Rollouts:
        """As rollouts from so many initial states, of which the further ones have none."""
        more = conditions - len(self.x0)

        def padded(values: Tensor) -> Tensor:
            return torch.cat([values, values[:, :1].expand(-1, more, *values.shape[2:])], 1)

        states, actions = padded(self.states), padded(self.actions)
        costs = actions.new_zeros(actions.shape[:-1])
        return Rollouts(states, actions, costs, torch.ones(costs.shape[:2], dtype=torch.bool))
