"""What was found about a learned reward, in numbers and in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.envs.making import AnyTask
from mbrl.irl.adversarial import Adversarial
from mbrl.irl.cost_learner import IdentifiableWeights
from mbrl.irl.identifiability import Identifiability
from mbrl.policies.actor import Actor
from mbrl.tasks.worlds import GridWorld
from mbrl.training.algorithm import Algorithm
from mbrl.training.errors import TrainingError
from planners import Planner

ALIKE = 1e-9
"""Relative difference of features below which they are the same but for rounding."""
NO_DEMONSTRATIONS, ONE_IN_EVERY_STEP = "no demonstrations", "one in every step"
"""Names of the returns of controls."""
TIED = 0.01
"""Relative difference of the returns of expert and random actions below which no share of it is told."""


@dataclass(frozen=True, eq=False)
class FeatureGap:
    """Features of the expert and of the learned policy.

    Attributes:
        names: of the features.
        expert: of demonstrations ``(k,)``: sums along an episode, on average and discounted in tables, or means of all steps.
        learned: those of the policy ``(k,)``; sums are from the same starts and over as many steps.
        random: those of random actions ``(k,)``.
        counted: which of the two.
    """

    names: tuple[str, ...]
    expert: Tensor
    learned: Tensor
    random: Tensor
    counted: Literal["sums", "means"] = "sums"

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
    starts of the demonstrations and over as many steps where there are any, otherwise of new episodes; in an environment those of
    episodes of its own, over at most as many steps as the longest demonstration has, unless all demonstrations terminated: to
    end soon may be what is asked.

    Attributes:
        task: its name.
        identifiable: which directions of linear weights show, in behavior (tables) or in the demonstrations.
        gap: features of expert and learned policy.
        epic: distance of the learned from the true reward, 0 to 1; the two are equal for behavior at 0. None in an environment,
            which says only what it pays for the steps that it makes.
        correlation: of the two.
        returns: by what was done: ``"expert"`` or ``"optimal"``, ``"random"``, ``"learned policy"``, ``"retrained"``, and the
            controls ``"no demonstrations"`` and ``"one in every step"``.
        elsewhere: the same under other dynamics.
        notes: why something is missing.
        learned: rewards, of states ``(S,)``, or at sampled transitions ``(N,)``.
        truth: likewise.
        world: in tables, where these can be drawn as a map.
        weights: of a cost, learned and true by name.
        compared: where rewards are: ``"state"``, ``"state and action"`` or ``"transition"``.
        return_correlation: in an environment, of the sums of both rewards along episodes, of which shaping changes no more than
            their ends show; with what a learned reward that knows an absorbing state pays after the end.
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
    return_correlation: float | None = None

    @property
    def lost(self) -> float | None:
        """Return that is lost by acting on the learned reward, over that of the best less that of random actions."""
        return _lost(self.returns)

    @property
    def lost_elsewhere(self) -> float | None:
        """The same under other dynamics."""
        return _lost(self.elsewhere)

    @property
    def shares(self) -> dict[str, float]:
        """How far each return is on the way from random actions, 0, to the expert or the optimum, 1; empty if there is none."""
        return _shares(self.returns)

    def __str__(self) -> str:
        return "\n".join([f"learned reward, {self.task}:", *(f"  {line}" for line in self.lines())])

    def lines(self) -> list[str]:
        """What there is to say, a sentence each."""
        said = [self._not_known()]
        if self.epic is not None:
            said.append(f"EPIC distance from the truth {self.epic:.3g} (0 the same for behavior, 1 the opposite)")
        if self.correlation is not None:
            said.append(f"correlation with the truth {self.correlation:.3g}")
        if self.return_correlation is not None:
            said.append(f"correlation of sums along episodes with the true ones {self.return_correlation:.3g}")
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
        if self.shares.keys() & {NO_DEMONSTRATIONS, ONE_IN_EVERY_STEP}:
            ways = ", ".join(f"{name} {_share(value)}" for name, value in self.shares.items())
            said.append(f"of the way from random actions to the expert: {ways}")
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


@dataclass(frozen=True, eq=False)
class Asked:
    """What was asked for."""

    policy: Any
    demonstrations: Sequence[Trajectory] | None
    algorithm: Algorithm | Planner | None
    steps: int | None
    elsewhere: Any
    control: float | Algorithm | None
    episodes: int
    samples: int
    seed: int
    discount: float | None = None
    device: str | torch.device | None = None

    def generator(self) -> torch.Generator:
        """The same for everything, so that all face the same starts."""
        return torch.Generator().manual_seed(self.seed)

    def discount_of(self, algorithm: Any, default: float | None = None) -> float | None:
        """Gamma of what comes after the end of episodes: what was asked for, or that of an algorithm."""
        return getattr(algorithm, "discount", default) if self.discount is None else self.discount

    def trained(self, algorithm: Algorithm, task: AnyTask, demonstrations: Sequence[Trajectory] | None = None) -> Actor:
        """The policy that an algorithm learns."""
        from mbrl.training.train import train

        result = train(
            algorithm,
            task,
            steps=self.steps,
            seed=self.seed,
            demonstrations=demonstrations,
            evaluation_episodes=0,
            device="cpu" if self.device is None else self.device,
        )
        return result.policy

    def controlled(
        self, task: AnyTask, paying_one: AnyTask, score: Callable[[Any], float], notes: list[str]
    ) -> dict[str, float]:
        """The return of the control, by its name, where one was asked for.

        Args:
            task: the task.
            paying_one: the task with a reward of one in every step.
            score: the true return of a policy.
            notes: told where the control found nothing.
        """
        if self.control is None:
            return {}
        if not isinstance(self.control, Algorithm):
            return {NO_DEMONSTRATIONS: float(self.control)}
        try:
            if isinstance(self.control, Adversarial):
                return {NO_DEMONSTRATIONS: score(self.trained(self.control, task, []))}
            return {ONE_IN_EVERY_STEP: score(self.trained(self.control, paying_one))}
        except TrainingError as error:
            notes.append(f"the control was not trained to its end: {error}")
            return {}


def _lost(returns: dict[str, float]) -> float | None:
    shares = _shares(returns)
    found = shares.get("retrained", shares.get("learned policy"))
    return None if found is None else 1.0 - found


def _shares(returns: dict[str, float]) -> dict[str, float]:
    best, random = returns.get("optimal", returns.get("expert")), returns.get("random")
    if best is None or random is None or best - random <= TIED * max(abs(best), abs(random)):
        return {}
    others = {name: value for name, value in returns.items() if name not in ("optimal", "expert", "random")}
    return {name: (value - random) / (best - random) for name, value in others.items()}


def number(notes: list[str], measure: Callable[[], float]) -> float | None:
    """A measure, or why there is none."""
    try:
        return float(measure())
    except ValueError as error:
        if str(error) not in notes:
            notes.append(str(error))
        return None


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"
