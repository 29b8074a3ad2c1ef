"""Trajectories of a process with finitely many states and actions, as indices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dynamics import Trajectory
from planners.tabular.exact import by_step
from planners.tabular.mdp import TabularMDP

ONE_LENGTH = (
    "all trajectories must have one length, since where some end early their length alone tells what is good; cut them to the "
    "shortest, or let them go on in an absorbing state of the process"
)


@dataclass(frozen=True, eq=False)
class TabularTrajectories:
    """N trajectories of T steps.

    Attributes:
        states: indices ``(N, T+1)``, int64.
        actions: indices ``(N, T)``, int64.

    Raises:
        ValueError: there is none, shapes do not belong together, or lengths differ.
        TypeError: an index is no integer.
    """

    states: Tensor
    actions: Tensor

    def __post_init__(self):
        for name in ("states", "actions"):
            object.__setattr__(self, name, _indices(name, getattr(self, name)))
        shapes = tuple(self.states.shape), tuple(self.actions.shape)
        if self.states.ndim != 2 or self.actions.ndim != 2 or not self.states.numel() or not self.actions.numel():
            raise ValueError(f"states must have the shape (N, T+1) and actions (N, T), with N, T >= 1, got {shapes}")
        if shapes[0] != (shapes[1][0], shapes[1][1] + 1):
            raise ValueError(
                f"{shapes[1][0]} trajectories of {shapes[1][1]} actions need one more state, got {shapes[0]}"
            )

    @property
    def number(self) -> int:
        """N."""
        return self.states.shape[0]

    @property
    def steps(self) -> int:
        """T."""
        return self.actions.shape[1]

    def check_fits(self, mdp: TabularMDP) -> None:
        """Raise ValueError where an index or a step is outside of a process, or a transition is impossible in it."""
        for name, indices, size in (("states", self.states, mdp.states), ("actions", self.actions, mdp.actions)):
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= size:
                raise ValueError(f"{name} must be indices from 0 to {size - 1} of the process, got {low} to {high}")
        if self.steps > mdp.horizon:
            raise ValueError(f"trajectories have {self.steps} steps, but the horizon of the process is {mdp.horizon}")
        now, after = self.states[:, :-1].to(mdp.transitions.device), self.states[:, 1:].to(mdp.transitions.device)
        impossible = mdp.transitions.detach()[now, self.actions.to(now.device), after] == 0
        if bool(impossible.any()):
            i, t = (int(k) for k in impossible.nonzero()[0])
            s, a, s2 = int(self.states[i, t]), int(self.actions[i, t]), int(self.states[i, t + 1])
            raise ValueError(
                f"trajectory {i} goes from state {s} by action {a} to state {s2} at step {t}, which has probability zero"
            )

    def counts(self, mdp: TabularMDP) -> Tensor:
        """How many trajectories are in a state and take an action at each step, ``(T, S, A)``."""
        dtype, device = mdp.transitions.dtype, mdp.transitions.device
        pair = (self.states[:, :-1] * mdp.actions + self.actions).T.to(device)
        found = torch.zeros(self.steps, mdp.states * mdp.actions, dtype=dtype, device=device)
        found.scatter_add_(1, pair, torch.ones(pair.shape, dtype=dtype, device=device))
        return found.unflatten(1, (mdp.states, mdp.actions))

    @classmethod
    def from_trajectories(cls, trajectories: Sequence[Trajectory]) -> Self:
        """From trajectories whose control is one column, the index of the action.

        The states are their column of states where they have one, or observations that are one column of indices or one-hot rows.

        Raises:
            ValueError: there are other columns, numbers that are no indices, or different lengths.
        """
        lengths = sorted({t.num_steps for t in trajectories})
        if len(lengths) > 1:
            raise ValueError(f"got lengths from {lengths[0]} to {lengths[-1]} steps; {ONE_LENGTH}")
        states = [t.observations if t.states is None or t.states.shape[1] != 1 else t.states for t in trajectories]
        if states and all(_are_one_hot(y) for y in states):
            states = [y.argmax(1)[:, None].astype(np.float64) for y in states]
        found = []
        for name, columns in (("observations", states), ("controls", [t.controls for t in trajectories])):
            if any(c.shape[1] != 1 for c in columns):
                raise ValueError(
                    f"{name} must be one column, the index of the {'state' if name == 'observations' else 'action'}, got "
                    f"{max(c.shape[1] for c in columns)}"
                )
            values = np.stack([c[:, 0] for c in columns]) if columns else np.zeros((0, 0))
            if (values != np.round(values)).any() or (values < 0).any():
                wrong = values[(values != np.round(values)) | (values < 0)][0]
                raise ValueError(f"{name} must be indices 0, 1, 2, ..., got {wrong:.6g}")
            found.append(torch.as_tensor(values.astype(np.int64)))
        return cls(*found)

    def to_trajectories(self) -> list[Trajectory]:
        """As trajectories with one column of observations and one of controls, for files and figures."""
        states, actions = self.states.cpu().double().numpy(), self.actions.cpu().double().numpy()
        return [
            Trajectory(observations=s[:, None], controls=a[:, None], dt=1.0, truncated=True)
            for s, a in zip(states, actions, strict=True)
        ]


def sample_trajectories(
    mdp: TabularMDP,
    policy: Tensor,
    number: int,
    *,
    steps: int | None = None,
    generator: torch.Generator | None = None,
) -> TabularTrajectories:
    """Draw trajectories of a policy.

    Args:
        mdp: the process.
        policy: stationary ``(S, A)``, or for a finite horizon of each step ``(T, S, A)``.
        number: of trajectories.
        steps: of each; by default the horizon, where it is finite.
        generator: source of random numbers.

    Raises:
        ValueError: a number is out of its range, the policy has another shape, or steps are missing.
    """
    policy = mdp.check_policy(policy).detach()
    if policy.ndim > 3 or (policy.ndim == 3 and not mdp.finite):
        raise ValueError(f"policy must be a single one, (S, A) or (T, S, A), got {tuple(policy.shape)}")
    if steps is None:
        if not mdp.finite:
            raise ValueError("pass steps=..., the horizon of the process is infinite")
        steps = mdp.steps
    if number < 1 or steps < 1 or steps > mdp.horizon:
        raise ValueError(f"need number >= 1 and 1 <= steps <= {mdp.horizon}, got {number} and {steps}")
    policy = by_step(mdp, policy) if mdp.finite else policy
    states, actions = [_drawn(mdp.start.expand(number, -1), generator)], []
    for t in range(steps):
        now = policy[t] if mdp.finite else policy
        actions.append(_drawn(now[states[-1]], generator))
        states.append(_drawn(mdp.transitions.detach()[states[-1], actions[-1]], generator))
    return TabularTrajectories(torch.stack(states, dim=1), torch.stack(actions, dim=1))


def _drawn(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """An index for each row ``(N, K)``."""
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)


def _are_one_hot(rows: np.ndarray) -> bool:
    """Whether rows are zero but for a single one; a single column is one of indices."""
    return rows.shape[1] > 1 and bool(((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all())


def _indices(name: str, given: Any) -> Tensor:
    """Checked indices as int64."""
    if isinstance(given, (list, tuple)) and len({len(row) for row in given if hasattr(row, "__len__")}) > 1:
        lengths = sorted({len(row) for row in given if hasattr(row, "__len__")})
        raise ValueError(f"{name} have lengths from {lengths[0]} to {lengths[-1]}; {ONE_LENGTH}")
    if isinstance(given, (list, tuple)) and given and isinstance(given[0], Tensor):
        given = torch.stack(list(given))
    tensor = torch.as_tensor(given)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, the indices of {name}, got {tensor.dtype}")
    return tensor.long()
