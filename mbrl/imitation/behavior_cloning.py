r"""Behavioral cloning: the policy under which what the expert did is likeliest (Pomerleau 1991).

.. math:: \max_\theta \; \frac1N \sum_{t} \log \pi_\theta(a_t \mid y_t, h_{t-1})

over the N steps of demonstrations, by Adam on minibatches. Whole episodes are held out, and the weights are kept under which
their actions are likeliest.

A recurrent policy reads each episode from its start, so that what it remembers is what it would remember when acting;
gradients are cut every ``sequence_length`` steps. Its minibatches are whole episodes, the shorter ones filled up with steps of
weight zero.

Bounded heads: the density of a tanh or beta coordinate at a limit is zero or infinite, so that experts that push against the
limits, as controllers do, would be learned at the limits alone. Actions are therefore moved within 1 - ``margin`` there.

Cloning learns from the states that the expert visits. Where its policy errs it goes elsewhere, and over T steps the excess cost
may grow with T squared (Ross and Bagnell 2010, theorem 2.1); :class:`mbrl.DAgger` asks the expert there.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.imitation.labels import Batch, Labels, Material, log_likelihood, read_demonstrations
from mbrl.policies.normalizer import count_in
from mbrl.policies.policy import NetworkSettings, Policy
from mbrl.training.algorithm import Algorithm, Assignment, Demonstrations, Learner
from mbrl.training.checking import check_numbers
from mbrl.training.errors import TrainingError
from mbrl.training.flat_parameters import FlatParameters
from mbrl.training.processes import Processes


@dataclass(frozen=True)
class BC(Algorithm):
    """Behavioral cloning: maximum likelihood of demonstrated actions.

    ``mbrl.train(BC(), task, demonstrations=..., steps=...)`` counts gradient steps, and ends before where the held-out
    likelihood has stopped improving.

    Attributes:
        network: of the policy.
        batch_size: steps of a minibatch, about; of each process.
        learning_rate: of Adam.
        anneal: whether the learning rate falls linearly to zero over the training.
        weight_decay: decoupled (Loshchilov and Hutter 2019), of weight matrices alone.
        sequence_length: steps through which gradients of a recurrent network go back.
        validation_share: share of the episodes that is held out, at least one; 0 for none. A single episode is learned from.
        steps_per_iteration: gradient steps between two looks at the held-out episodes.
        patience: iterations in a row without improvement after which training ends; None for never.
        margin: squashed and beta heads learn actions at most 1 - margin from the middle, in half widths of the limits.

    Raises:
        ValueError: a number is out of its range.
    """

    demonstrations: ClassVar[Demonstrations] = "required"
    step_unit: ClassVar[str] = "gradient steps"
    shows: ClassVar[str] = "loss of the demonstrated actions, minus their log-likelihood"
    keeps_lowest: ClassVar[str] = "train/held_out_loss"

    _: KW_ONLY
    network: NetworkSettings = field(default_factory=NetworkSettings)
    batch_size: int = 256
    learning_rate: float = 1e-3
    anneal: bool = True
    weight_decay: float = 0.0
    sequence_length: int = 128
    validation_share: float = 0.1
    steps_per_iteration: int = 100
    patience: int | None = 10
    margin: float = 1e-3

    def __post_init__(self):
        check_numbers(
            self,
            counts=("batch_size", "sequence_length", "steps_per_iteration"),
            rates=("learning_rate", "margin"),
            weights=("weight_decay",),
            shares=("validation_share",),
        )
        if self.patience is not None:
            check_numbers(self, counts=("patience",))
        for name in ("validation_share", "margin"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be less than 1, got {getattr(self, name)}")

    def learner(self, assignment: Assignment) -> "BCLearner":
        """A learner at its first step."""
        return BCLearner(self, assignment)


class BCLearner(Learner):
    """The state of behavioral cloning.

    Args:
        algorithm: its settings.
        assignment: what is to be learned, with demonstrations.

    Attributes:
        policy: the best so far on the held-out episodes; the latest where none is held out.
        cloning: the descent.
        steps: gradient steps so far.

    Raises:
        ValueError: there are no demonstrations, or they do not fit the task.
    """

    policy: Policy

    def __init__(self, algorithm: BC, assignment: Assignment):
        algorithm.check_demonstrations(assignment)
        self.algorithm = algorithm
        policy = task_policy(assignment, algorithm.network)
        labels = read_demonstrations(cast(Sequence[Trajectory], assignment.demonstrations), policy, assignment.task)
        self.cloning = Cloning(algorithm, policy, labels, assignment.whole, assignment)
        self.policy = self.cloning.policy
        self.steps = 0

    @property
    def finished(self) -> bool:
        """Whether the held-out likelihood has stopped improving."""
        return self.cloning.finished

    def iterate(self) -> dict[str, float]:
        """Descend for some steps, and look at the held-out episodes."""
        begun = time.perf_counter()
        metrics = self.cloning.iterate()
        self.steps = self.cloning.steps
        return {**metrics, "time/update": time.perf_counter() - begun}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {"cloning": self.cloning.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called, with the same demonstrations."""
        self.cloning.load_state_dict(state["cloning"])
        self.steps = self.cloning.steps


class Cloning:
    """The descent on labels, from the first step to the last.

    Args:
        settings: of the descent.
        network: to begin with; it is trained in place. One that has seen no observations is given the statistics of those that
            are learned from.
        labels: what is taught.
        total: gradient steps in all.
        assignment: of what is random, and the processes that train together, each on labels of its own or all on the same.
        purpose: makes the random numbers those of one of many descents.

    Attributes:
        policy: the best so far.
        steps: gradient steps so far.
    """

    def __init__(
        self,
        settings: BC,
        network: Policy,
        labels: Labels,
        total: int,
        assignment: Assignment,
        purpose: str = "",
    ):
        self.settings, self.total, self.processes = settings, total, assignment.processes
        self.generator = assignment.generator(f"minibatches{purpose}")
        splitting = torch.Generator().manual_seed(
            assignment.seed_for(f"held out{purpose}")
        )  # the same in all processes
        learned, held_out = labels.split(settings.validation_share, splitting)
        if network.normalizer is not None and not float(network.normalizer.count):
            count_in(network.normalizer, labels.observations[labels.rows(learned)], self.processes)
        self.network, self.policy = network, copy.deepcopy(network)
        self._learned = Material(labels, network, settings.margin, learned)
        self._held_out = Material(labels, network, settings.margin, held_out) if len(held_out) else None
        self._flat = FlatParameters(network)
        decays = [torch.full_like(p, settings.weight_decay * (p.ndim > 1)).flatten() for p in network.parameters()]
        self._decay = torch.cat(decays)
        self._optimizer = torch.optim.Adam([self._flat.vector], lr=settings.learning_rate, fused=True)
        self._order = torch.zeros(0, dtype=torch.int64)  # of the units in this pass
        self._next = self._passes = 0  # minibatch of it, and passes begun
        self._best, self._since = -math.inf, 0
        self.steps = 0

    @property
    def finished(self) -> bool:
        """Whether the held-out likelihood has stopped improving."""
        return self.settings.patience is not None and self._since >= self.settings.patience

    def run(self) -> dict[str, float]:
        """All steps that are left; what the last iteration said."""
        metrics: dict[str, float] = {}
        while self.steps < self.total and not self.finished:
            metrics = self.iterate()
        return metrics

    def iterate(self) -> dict[str, float]:
        """Some steps, then a look at the held-out episodes.

        Raises:
            TrainingError: the likelihood is not finite.
        """
        number = min(self.settings.steps_per_iteration, self.total - self.steps)
        loss = self.processes.sum(sum((self._descend() for _ in range(number)), torch.zeros(())))
        if not bool(loss.isfinite()):
            raise TrainingError(
                f"the likelihood of the demonstrations is not finite after {self.steps} gradient steps; lower the learning rate, "
                "or look for outliers among the demonstrations"
            )
        metrics = {"train/loss": float(loss) / number, "train/passes": float(self._passes)}
        if self._held_out is None:
            self.policy.load_state_dict(self.network.state_dict())
            return metrics
        likelihood = mean_log_likelihood(self.network, self._held_out, self.settings, self.processes)
        self._since += 1
        if likelihood > self._best:
            self._best, self._since = likelihood, 0
            self.policy.load_state_dict(self.network.state_dict())
        return {**metrics, "train/held_out_loss": -likelihood}

    def _descend(self) -> Tensor:
        """One step of Adam; this process's part of the loss, -log pi per step, before it."""
        left = 1 - self.steps / self.total if self.settings.anneal else 1.0
        (group,) = self._optimizer.param_groups
        group["lr"] = self.settings.learning_rate * left
        batch = self._minibatch()
        weight = self.processes.sum(batch.weights.sum())
        self._flat.zero_gradients()
        hidden = self.network.initial_hidden(batch.weights.shape[1])
        total = torch.zeros((), device=hidden.device)
        for piece in pieces(batch, self.settings.sequence_length):
            log_probs, hidden = log_likelihood(self.network, piece, hidden.detach())
            loss = -log_probs.sum() / weight
            loss.backward()
            total = total + loss.detach()
        self.processes.sum_into(self._flat.gradient)
        if self.settings.weight_decay:
            self._flat.vector.detach().mul_(1 - group["lr"] * self._decay)
        self._optimizer.step()
        self.steps += 1
        return total.cpu()

    def _minibatch(self) -> Batch:
        """The next one of a pass over all units in random order, in parts as equal as can be."""
        number, units = self._learned.minibatches(self.settings.batch_size), self._learned.units
        if self._next % number == 0:
            self._order = torch.randperm(units, generator=self.generator, device=self.generator.device)
            self._next, self._passes = 0, self._passes + 1
        k = self._next
        self._next += 1
        return self._learned.batch(self._order[k * units // number : (k + 1) * units // number])

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            "network": self.network.state_dict(),
            "policy": self.policy.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "order": self._order,
            "next": self._next,
            "passes": self._passes,
            "best": self._best,
            "since": self._since,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called, on the same labels."""
        self.network.load_state_dict(state["network"])
        self.policy.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self._order = state["order"].to(self.generator.device)
        self._next, self._passes, self.steps = state["next"], state["passes"], state["steps"]
        self._best, self._since = state["best"], state["since"]


def pieces(batch: Batch, length: int) -> list[Batch]:
    """A batch cut along time."""
    cuts = [values.split(length) for values in (batch.inputs, batch.actions, batch.weights)]
    return [Batch(*parts) for parts in zip(*cuts, strict=True)]


@torch.no_grad()
def mean_log_likelihood(policy: Policy, material: Material, settings: BC, processes: Processes) -> float:
    """The log-probability of the actions, the mean over the steps of all processes."""
    total = torch.zeros(2, dtype=torch.float64, device=policy.device)
    number = material.minibatches(max(4 * settings.batch_size, 4096))
    for units in torch.arange(material.units, device=policy.device).tensor_split(number):
        batch = material.batch(units)
        log_probs, _ = log_likelihood(policy, batch, policy.initial_hidden(len(units)))
        total += torch.stack([log_probs.sum(dtype=torch.float64), batch.weights.sum(dtype=torch.float64)])
    likelihood, weight = processes.sum(total).tolist()
    return likelihood / weight


def task_policy(assignment: Assignment, network: NetworkSettings) -> Policy:
    """The policy to begin with on the assignment's task."""
    worlds = assignment.worlds(1)
    policy = assignment.first_policy(worlds.observation_dim, worlds.actions, network)
    worlds.env.close()
    return policy
