"""What is learned on: many worlds, whose episodes end and begin again, and whose state can be kept."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from mbrl.envs.action_spaces import env_actions
from mbrl.envs.episodes import EpisodesVectorEnv


@dataclass(frozen=True, eq=False)
class WorldsStep:
    """What a step of N worlds led to.

    Attributes:
        rewards: ``(N,)``; zero where ``valid`` is false.
        next_observations: ``(N, ny)``, the true last ones of episodes that have ended, before the worlds are reset.
        terminated: ``(N,)`` of bool, ends that are part of the task.
        truncated: ``(N,)`` of bool, ends by a time limit; a step that is both is terminated.
        valid: ``(N,)`` of bool; false where a number was not finite or ``info["diverged"]`` says that the simulation was not
            stable: the step does not count, and the episode is over.
        costs: ``(N,)`` of ``info["cost"]``, or None where the environment names none.
    """

    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    costs: Tensor | None

    @property
    def ended(self) -> Tensor:
        """``(N,)`` of bool, worlds whose episode is over."""
        return self.terminated | self.truncated | ~self.valid


@dataclass(frozen=True)
class Episode:
    """A finished episode: sum of rewards and of costs, and its steps."""

    reward: float
    cost: float
    steps: int


class Worlds:
    """A gymnasium vector environment seen by a learner: tensors, actions of a policy, true last observations.

    Worlds begin again as soon as their episode has ended; :attr:`observations` are then the first of the next one.

    Args:
        env: with autoreset mode DISABLED, so that nothing is made up.
        seed: of the first episodes.

    Attributes:
        actions: what a policy chooses among.
        observations: the present ones ``(N, ny)``, float64.
        starts: ``(N,)`` of bool, worlds whose present observation is the first of an episode.
        finished: episodes that have ended since :meth:`take_finished`; without those that a step which is not valid broke off.
        named_costs: whether a step has named costs so far.
        exact: whether the state can be kept to the bit; other environments begin new episodes when a run is resumed.

    Raises:
        ValueError: the environment resets by itself, or its spaces are none that a policy can be made for.
    """

    def __init__(self, env: VectorEnv, seed: int):
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise ValueError(
                f"need a vector environment with autoreset mode DISABLED, got {mode}: the true last observations of episodes "
                'are learned from; make it with autoreset_mode="Disabled"'
            )
        self.env, self.number = env, env.num_envs
        self.actions = env_actions(env)
        space = env.single_observation_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"need observations of one axis, got {space}; flatten them with a gymnasium wrapper")
        self.observation_dim = space.shape[0]
        self.exact = isinstance(env, EpisodesVectorEnv)
        self.finished: list[Episode] = []
        self.named_costs = False
        self._left: dict[str, Any] | None = None
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """Begin new episodes in all worlds."""
        y, info = self.env.reset(seed=seed)
        self.observations = _tensor(y)
        self._infos = [info]  # of the last step, and of resets after it
        self.starts = torch.ones(self.number, dtype=torch.bool)
        self._sums = np.zeros((3, self.number))  # of rewards, costs and steps of the present episodes

    def step(self, actions: Tensor) -> WorldsStep:
        """Apply actions of a policy, ``(N, m)`` or numbers ``(N,)``."""
        y, rewards, terminated, truncated, info = self.env.step(self._env_actions(actions))
        y, rewards = np.asarray(y, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
        valid = np.isfinite(y).all(axis=1) & np.isfinite(rewards)
        costs = np.asarray(info["cost"], dtype=np.float64) if "cost" in info else None
        if costs is not None:
            self.named_costs = True
            valid &= np.isfinite(costs)
        if "diverged" in info:  # MuJoCo sets such worlds back to the default state, whose numbers are finite
            valid &= ~np.asarray(info["diverged"], dtype=bool)
        if not valid.all():
            y = np.where(valid[:, None], y, self.observations.numpy())
            rewards = np.where(valid, rewards, 0.0)
            costs = None if costs is None else np.where(valid, costs, 0.0)
        ended = terminated | truncated | ~valid
        self._count(rewards, costs, ended, valid)
        next_observations = torch.from_numpy(y)
        self.observations, self.starts = next_observations, torch.from_numpy(ended)
        self._infos = [info]
        if ended.any():
            y, info = self.env.reset(options={"reset_mask": ended})
            self.observations = _tensor(y)
            self._infos.append(info)
        return WorldsStep(
            torch.from_numpy(rewards),
            next_observations,
            torch.from_numpy(terminated & valid),
            torch.from_numpy(truncated & ~terminated & valid),
            torch.from_numpy(valid),
            None if costs is None else torch.from_numpy(costs),
        )

    @property
    def states(self) -> Tensor | None:
        """The present full states ``(N, n)``, of ``info["state"]``; None where the environment does not give them."""
        states = None
        for info in self._infos:
            if "state" not in info or np.ndim(info["state"]) != 2:
                continue
            new = _tensor(info["state"])
            about = torch.from_numpy(np.array(info.get("_state", np.ones(self.number, dtype=bool))))
            states = new if states is None else torch.where(about.unsqueeze(-1), new, states)
        return states

    def close(self) -> None:
        """Let go of the environment; there are no steps any more, but the state stays."""
        self._left = self.state_dict()
        self.env.close()

    def take_finished(self) -> list[Episode]:
        """The episodes that have ended since the last call."""
        finished, self.finished = self.finished, []
        return finished

    def state_dict(self) -> dict[str, Any]:
        """What decides future steps: all of it where the state is exact, otherwise nothing."""
        if self._left is not None:
            return self._left
        if not self.exact:
            return {}
        return {
            "env": self.env.state_dict(),  # type: ignore[attr-defined]
            "observations": self.observations.clone(),
            "starts": self.starts.clone(),
            "sums": torch.from_numpy(self._sums.copy()),
            "states": self.states,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.env.load_state_dict(state["env"])  # type: ignore[attr-defined]
        self.observations, self.starts = state["observations"].clone(), state["starts"].clone()
        self._sums = state["sums"].numpy().copy()
        self._infos = [] if state["states"] is None else [{"state": state["states"].numpy()}]

    def _env_actions(self, actions: Tensor) -> np.ndarray:
        space = self.env.single_action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            return (actions + int(space.start)).cpu().numpy()
        # in double precision: a limit that is rounded to float32 may lie outside of one that is not
        return self.actions.controls(actions.double()).cpu().numpy().astype(space.dtype)

    def _count(self, rewards: np.ndarray, costs: np.ndarray | None, ended: np.ndarray, valid: np.ndarray) -> None:
        self._sums[0] += rewards
        if costs is not None:
            self._sums[1] += costs
        self._sums[2] += 1
        if ended.any():
            self.finished += [Episode(float(r), float(c), int(n)) for r, c, n in self._sums[:, ended & valid].T]
            self._sums[:, ended] = 0


def _tensor(y: Any) -> Tensor:
    return torch.from_numpy(np.array(y, dtype=np.float64))
