"""What every training algorithm is: settings that make a learner, and a learner that goes one iteration further."""

import abc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import nn

from dynamics import Trajectory
from mbrl.envs.making import AnyTask, vector_env
from mbrl.policies.action_space import ActionSpace
from mbrl.policies.learned_actor import LearnedActor
from mbrl.policies.policy import NetworkSettings, Policy, head_name
from mbrl.runs.records import json_values
from mbrl.training.processes import Processes
from mbrl.training.worlds import Worlds

Demonstrations = Literal["required", "optional", "none"]
"""Whether an algorithm learns from episodes of an expert."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """What is to be learned.

    Attributes:
        task: a task, the id of a gymnasium environment, or what makes one.
        steps: in all, of the algorithm's ``step_unit``; None where the algorithm says itself when it ends.
        seed: of everything that is drawn.
        demonstrations: episodes of an expert, where the algorithm learns from some.
        init: policy to begin with, copied; a new one by default.
        device: where networks are trained.
        processes: that train together.
    """

    task: AnyTask
    steps: int | None
    seed: int = 0
    demonstrations: Sequence[Trajectory] | None = None
    init: LearnedActor | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    processes: Processes = field(default_factory=Processes)

    @property
    def whole(self) -> int:
        """The steps, for a learner that goes by how many there will be.

        Raises:
            ValueError: there is no number of steps.
        """
        if self.steps is None:
            raise ValueError("this algorithm needs steps=..., as it goes by how many there will be")
        return self.steps

    def worlds(self, number: int) -> Worlds:
        """So many worlds of the task, of this process."""
        first = number * self.processes.rank
        return Worlds(vector_env(self.task, number), spread_seed(self.seed, "worlds") + first)

    def generator(self, purpose: str) -> torch.Generator:
        """A source of random numbers for a purpose, on the device; each process has its own."""
        seed = spread_seed(self.seed, purpose) + self.processes.rank
        return torch.Generator(self.device).manual_seed(seed)

    def seed_for(self, purpose: str) -> int:
        """A seed for a purpose, the same in all processes."""
        return spread_seed(self.seed, purpose)

    def first_policy(self, observation_dim: int, actions: ActionSpace, network: NetworkSettings) -> Policy:
        """The policy to begin with, on the device: a copy of ``init``, or a new one of a network.

        Raises:
            ValueError: ``init`` is no network, or a policy of another task or network.
        """
        policy = Policy(observation_dim, actions, network, seed=self.seed_for("weights"))
        if self.init is not None:
            if not isinstance(self.init, Policy):
                raise ValueError(f"init must be a mbrl.Policy, a network to train on, got {type(self.init).__name__}")
            self.init.check_fits(observation_dim, actions, task="the task on which init is to begin")
            if _network_of(self.init) != _network_of(policy):
                raise ValueError(
                    f"init must be a policy of the same task and network, {policy.config()}, got {self.init.config()}; give the "
                    "algorithm network=policy.settings"
                )
            policy.load_state_dict(self.init.state_dict())
        return policy.to(self.device)


def _network_of(policy: Policy) -> dict[str, Any]:
    """What decides the function that weights stand for; a head by default is the same as one by name."""
    config = policy.config()
    return {**config, "settings": {**config["settings"], "head": head_name(policy.actions, policy.settings)}}


class Learner(abc.ABC):
    """What changes while an algorithm learns.

    Everything that decides how it goes on is in :meth:`state_dict`: a learner that was loaded with it does what the one that it
    was taken from would have done, bit for bit.

    Attributes:
        policy: the policy as it is now, a :class:`mbrl.LearnedActor`; held, or a property that makes it when it is asked for.
        steps: an integer, taken so far, of the algorithm's ``step_unit``, over all processes; likewise.
    """

    if TYPE_CHECKING:  # not when it runs: nothing could be assigned to the name of a property of the base class

        @property
        def policy(self) -> LearnedActor:
            """The policy as it is now."""
            ...

    steps: Any  # an int; declared as one, it could not be a property of some learners and an attribute of others

    @abc.abstractmethod
    def iterate(self) -> dict[str, float]:
        """Go one iteration further and say how it went, by names such as ``"train/kl"``."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes: nested dicts, lists and tuples of tensors, numbers, strings and None."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""

    def leave(self, folder: Path) -> None:  # noqa: B027
        """Write what was learned beside the policy to the folder of a run that is finished."""

    def close(self) -> None:  # noqa: B027
        """Let go of environments; what was learned stays, and there are no iterations any more."""

    @property
    def finished(self) -> bool:
        """Whether there is no use in going on, although there are steps left."""
        return False

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is trained, by name; training ends with an error where one is not finite."""
        return {"policy": self.policy}

    @property
    def exact(self) -> bool:
        """Whether :meth:`state_dict` has all of it; worlds of other libraries begin new episodes when a run is resumed."""
        return True


@dataclass(frozen=True)
class Algorithm(abc.ABC):
    """The settings of a training algorithm; :func:`mbrl.train` runs it.

    What it says of itself is all that the training loop, the command line and the pages of runs know about it.

    Attributes:
        demonstrations: ``"required"``, ``"optional"`` or ``"none"``: whether it learns from episodes of an expert.
        step_unit: what its steps are.
        shows: what its metrics ``train/...`` show, in words that go on after "returns of episodes, and".
        word: what it is called on the command line; empty for its name.
        keeps_lowest: metric at whose lowest value the weights are kept; empty where the policy has the latest ones.
    """

    demonstrations: ClassVar[Demonstrations] = "none"
    step_unit: ClassVar[str] = "environment steps"
    shows: ClassVar[str] = "how the policy changed"
    word: ClassVar[str] = ""
    keeps_lowest: ClassVar[str] = ""

    @abc.abstractmethod
    def learner(self, assignment: Assignment) -> Learner:
        """A learner at its first step.

        Raises:
            ValueError: the assignment lacks what the algorithm needs, or has what it would ignore.
        """

    @property
    def ends_after(self) -> int | None:
        """Iterations after which training ends even where there are steps left; None where the steps decide."""
        return None

    def announcement(self, task: AnyTask) -> str:
        """What an iteration takes, where it may take minutes before it says anything; empty otherwise."""
        return ""

    def check_demonstrations(self, assignment: Assignment) -> None:
        """Raise ValueError where demonstrations are missing, or would be ignored."""
        name, given = type(self).__name__, assignment.demonstrations is not None
        if self.demonstrations not in get_args(Demonstrations):
            known = ", ".join(map(repr, get_args(Demonstrations)))
            raise ValueError(f"{name}.demonstrations must be one of {known}, got {self.demonstrations!r}")
        if self.demonstrations == "required" and not given:
            raise ValueError(
                f"{name} learns from demonstrations; pass demonstrations=..., for instance mbrl.record(task, expert, episodes) "
                "or dynamics.read_trajectories(path)"
            )
        if self.demonstrations == "none" and given:
            raise ValueError(
                f"{name} does not learn from demonstrations, they would be ignored; pass them to BC, and its policy as init="
            )

    def legend(self) -> dict[str, str]:
        """How the numbers of a run are to be read, for its folder."""
        return {"steps": self.step_unit, "shows": self.shows, "keeps_lowest": self.keeps_lowest}

    def config(self) -> dict[str, Any]:
        """The settings as JSON values, for the run folder: a resumed run must have the same."""
        return json_values("algorithm", self)


def spread_seed(seed: int, purpose: str) -> int:
    """A seed of its own for a purpose, below 2**62, so that equal seeds do not give equal numbers everywhere."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8], "big") >> 2
