"""What is learned in steps without an environment: one search behind the direct call and behind training."""

import abc
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from mbrl.irl.reward_files import save_reward
from mbrl.training.algorithm import Learner

Found = TypeVar("Found")


class Search(abc.ABC, Generic[Found]):
    """What changes while something is learned; what :meth:`state_dict` gives makes another search go on to the bit.

    Attributes:
        iterations: so far.
        finished: whether there is no use in going on.
        history: numbers of each iteration by name.
    """

    def __init__(self) -> None:
        self.iterations, self.finished = 0, False
        self.history: dict[str, list[float]] = {}

    @abc.abstractmethod
    def advance(self) -> None:
        """Go one iteration further."""

    @abc.abstractmethod
    def learned(self) -> Found:
        """What there is now."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""


def searched(search: Search[Found]) -> Found:
    """What a search finds."""
    while not search.finished:
        search.advance()
    return search.learned()


class SearchLearner(Learner, Generic[Found]):
    """A search as the state of a training, which leaves its reward in the run folder.

    Args:
        search: what learns.
    """

    def __init__(self, search: Search[Found]):
        self.search = search
        self._learned: Found | None = None

    @property
    @abc.abstractmethod
    def reward(self) -> nn.Module:
        """The reward, or the cost of which minus is the reward, as it is now."""

    @property
    def learned(self) -> Found:
        """What there is now, as the direct call gives it."""
        if self._learned is None:
            self._learned = self.search.learned()
        return self._learned

    @property
    def steps(self) -> int:
        """Iterations so far."""
        return self.search.iterations

    @property
    def finished(self) -> bool:
        """Whether the search has ended."""
        return self.search.finished

    def iterate(self) -> dict[str, float]:
        """Go one iteration further."""
        before = {name: len(numbers) for name, numbers in self.search.history.items()}
        self.search.advance()
        self._learned = None
        history = self.search.history.items()
        return {f"train/{name}": numbers[-1] for name, numbers in history if len(numbers) > before.get(name, 0)}

    def leave(self, folder: Path) -> None:
        """Write the reward."""
        save_reward(self.reward, folder / "reward.safetensors")

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return self.search.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.search.load_state_dict(state)
        self._learned = None
