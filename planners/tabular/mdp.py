r"""A Markov decision process with S states and A actions, all of its numbers in tables.

.. math:: P_{s a s'} = p(s_{t+1} = s' \mid s_t = s, a_t = a), \qquad
    r_{s a} = \sum_{s'} P_{s a s'} \, r(s, a, s'), \qquad
    \max_\pi \; \mathbb E \sum_{t=0}^{T-1} \gamma^t \, r_{s_t a_t}, \qquad s_0 \sim \rho

with T finite, or infinite and :math:`\gamma < 1` (Puterman 1994, chapters 4 and 6). Rewards are maximized, as everywhere in the
literature of these processes; costs belong to :class:`planners.Problem`. No plan depends on more of a reward of transitions than
its expectation :math:`r_{s a}`.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

SPARSE = 4
"""Where no pair of state and action has more than S over this many successors, sums run over successors alone."""


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A Markov decision process in tables.

    Attributes:
        transitions: probabilities of the next state, ``transitions[s, a, s']``, ``(S, A, S)``. Everything is computed in its
            dtype and on its device; what is no floating-point tensor becomes float64.
        rewards: of a state ``(S,)``, of a state and an action ``(S, A)`` or of a transition ``(S, A, S)``; None where they are
            unknown, or handed to each solver. That of a state is paid when it is left, so that of the last state is not counted.
        discount: gamma, of each step.
        initial: probabilities of the first state ``(S,)``; uniform by default.
        horizon: number T of actions, or ``math.inf``.

    Raises:
        ValueError: shapes do not belong together, a row is no distribution, a number is not finite or out of its range.
    """

    transitions: Tensor
    rewards: Tensor | None = None
    discount: float = 1.0
    initial: Tensor | None = None
    horizon: int | float = math.inf

    def __post_init__(self):
        P = _floating(self.transitions)
        object.__setattr__(self, "transitions", P)
        if P.ndim != 3 or P.shape[0] != P.shape[2] or 0 in P.shape:
            flip = "; permute(1, 0, 2) makes it of (A, S, S)" if P.ndim == 3 and P.shape[1] == P.shape[2] else ""
            raise ValueError(f"transitions[s, a, s'] must have the shape (S, A, S), got {tuple(P.shape)}{flip}")
        _check_distributions("transitions", P)
        if self.rewards is not None:
            rewards = torch.as_tensor(self.rewards).to(P)
            object.__setattr__(self, "rewards", rewards)
            self._check_rewards(rewards)
        initial = self.initial
        initial = P.new_full((self.states,), 1.0 / self.states) if initial is None else torch.as_tensor(initial).to(P)
        if initial.shape != (self.states,):
            raise ValueError(f"initial must have the shape (S,) = ({self.states},), got {tuple(initial.shape)}")
        _check_distributions("initial", initial)
        object.__setattr__(self, "initial", initial)
        whole = isinstance(self.horizon, int) and not isinstance(self.horizon, bool) and self.horizon >= 1
        if not (whole or self.horizon == math.inf):
            raise ValueError(f"horizon must be an integer of at least 1, or math.inf, got {self.horizon!r}")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount must be in (0, 1], got {self.discount}")
        if self.horizon == math.inf and self.discount == 1:
            raise ValueError("an infinite horizon needs discount < 1, got 1; set discount=, or a finite horizon=")

    @property
    def states(self) -> int:
        """S."""
        return self.transitions.shape[0]

    @property
    def actions(self) -> int:
        """A."""
        return self.transitions.shape[1]

    @property
    def finite(self) -> bool:
        """Whether the horizon is."""
        return self.horizon != math.inf

    @property
    def sparse(self) -> bool:
        """Whether each state and action has so few successors that sums run over these alone."""
        return self._successors is not None

    @property
    def steps(self) -> int:
        """T, of a finite horizon.

        Raises:
            ValueError: the horizon is infinite.
        """
        if not self.finite:
            raise ValueError("this needs a finite horizon, got math.inf; use dataclasses.replace(mdp, horizon=...)")
        return int(self.horizon)

    @property
    def start(self) -> Tensor:
        """Probabilities of the first state, ``(S,)``."""
        if self.initial is None:  # pragma: no cover  (set when it was made)
            raise ValueError("there is no initial distribution")
        return self.initial

    def with_rewards(self, rewards: Tensor) -> Self:
        """The same process with other rewards, ``(S,)``, ``(S, A)`` or ``(S, A, S)``."""
        return replace(self, rewards=rewards)

    def expected_rewards(self, rewards: Tensor | None = None) -> Tensor:
        """The rewards of states and actions, ``(S, A)``; of others than those of the process, if they are given.

        Raises:
            ValueError: there are none, or they have another shape.
        """
        rewards = self.rewards if rewards is None else torch.as_tensor(rewards).to(self.transitions)
        if rewards is None:
            raise ValueError("this process has no rewards; hand them in, or use mdp.with_rewards(rewards)")
        self._check_rewards(rewards)
        if rewards.ndim == 1:
            return rewards[:, None].expand(-1, self.actions)
        return rewards if rewards.ndim == 2 else (self.transitions * rewards).sum(-1)

    def next_values(self, values: Tensor) -> Tensor:
        """Expected values of the next state, of values ``(*batch, S)``: ``(*batch, S, A)``."""
        if self._successors is None:
            return (values @ self.transitions.flatten(0, 1).mT).unflatten(-1, (self.states, self.actions))
        index, probabilities = self._successors
        found = values.index_select(-1, index.flatten()).unflatten(-1, index.shape)
        return (found * probabilities).sum(-1)

    def next_states(self, visits: Tensor) -> Tensor:
        """How often each state comes next, after visits of states and actions ``(*batch, S, A)``: ``(*batch, S)``."""
        if self._successors is None:
            return visits.flatten(-2) @ self.transitions.flatten(0, 1)
        index, probabilities = self._successors
        flow = (visits.unsqueeze(-1) * probabilities).flatten(-3)
        return flow.new_zeros(*flow.shape[:-1], self.states).index_add(-1, index.flatten(), flow)

    def chain(self, policy: Tensor) -> Tensor:
        """The transition matrix under a stationary policy ``(*batch, S, A)``: ``(*batch, S, S)``."""
        if self._successors is None:
            return torch.einsum("...sa,sap->...sp", policy, self.transitions)
        index, probabilities = self._successors
        flow = (policy.unsqueeze(-1) * probabilities).flatten(-2)
        columns = index.flatten(-2).expand(flow.shape)
        return flow.new_zeros(*flow.shape[:-1], self.states).scatter_add(-1, columns, flow)

    def resolved(self, policy: Tensor, b: Tensor, *, adjoint: bool = False) -> Tensor:
        r"""The solution of :math:`(I - \gamma P_\pi) x = b`, or of its transpose.

        Args:
            policy: stationary ``(*batch, S, A)``.
            b: ``(*batch, S)``.
            adjoint: solve with the transpose.
        """
        attached = torch.is_grad_enabled() and any(x.requires_grad for x in (self.transitions, policy, b))
        if (
            self._successors is not None
            and policy.ndim == 2
            and b.ndim == 1
            and b.device.type == "cpu"
            and not attached
        ):
            return self._resolved_sparsely(policy, b, adjoint)
        A = torch.eye(self.states, dtype=b.dtype, device=b.device) - self.discount * self.chain(policy)
        return torch.linalg.solve(A.mT if adjoint else A, b.unsqueeze(-1)).squeeze(-1)

    def check_policy(self, policy: Tensor) -> Tensor:
        """Probabilities of actions, stationary ``(*batch, S, A)`` or, for a finite horizon, of each step ``(*batch, T, S, A)``.

        A tensor of two axes is a stationary policy; with a finite horizon any other is one of each step.

        Raises:
            ValueError: the shape is another one, or a row is no distribution.
        """
        policy = torch.as_tensor(policy).to(self.transitions)
        stepwise = self.finite and policy.ndim > 2
        wanted = (self.steps, self.states, self.actions) if stepwise else (self.states, self.actions)
        if policy.shape[-len(wanted) :] != wanted:
            what = "(S, A) or (*batch, T, S, A)" if self.finite else "(*batch, S, A)"
            raise ValueError(
                f"policy must have the shape {what} with S = {self.states}, A = {self.actions}, T = {self.horizon}, got "
                f"{tuple(policy.shape)}"
            )
        _check_distributions("policy", policy)
        return policy

    @cached_property
    def _successors(self) -> tuple[Tensor, Tensor] | None:
        """Possible next states and their probabilities, ``(S, A, K)`` each; None where the table is dense."""
        K = int((self.transitions > 0).sum(-1).max())
        if self.states < K * SPARSE:
            return None
        probabilities, index = self.transitions.topk(K, dim=-1)
        return index, probabilities

    def _resolved_sparsely(self, policy: Tensor, b: Tensor, adjoint: bool) -> Tensor:
        from scipy.sparse import coo_matrix, eye_array
        from scipy.sparse.linalg import splu

        index, probabilities = (x.detach().numpy() for x in self._successors or ())
        flow = policy.detach().unsqueeze(-1).numpy() * probabilities
        rows = np.broadcast_to(np.arange(self.states)[:, None, None], flow.shape)
        P = coo_matrix((flow.ravel(), (rows.ravel(), index.ravel())), shape=(self.states, self.states))
        A = (eye_array(self.states).astype(flow.dtype) - self.discount * P).tocsc()
        return torch.as_tensor(splu(A).solve(b.detach().numpy(), trans="T" if adjoint else "N"))

    def _check_rewards(self, rewards: Tensor) -> None:
        S, A = self.states, self.actions
        if rewards.shape not in ((S,), (S, A), (S, A, S)):
            raise ValueError(
                f"rewards must have the shape (S,), (S, A) or (S, A, S) with S = {S} and A = {A}, got {tuple(rewards.shape)}"
            )
        if not bool(rewards.isfinite().all()):
            raise ValueError("rewards must be finite; a large negative number stands for what must not happen")


def _floating(given: Any) -> Tensor:
    tensor = torch.as_tensor(given)
    return tensor if tensor.is_floating_point() else tensor.double()


def _check_distributions(name: str, rows: Tensor) -> None:
    """Raise ValueError unless the last axis holds probabilities."""
    rows = rows.detach()
    if not bool((rows.isfinite() & (rows >= 0)).all()):
        bad = _first(~(rows.isfinite() & (rows >= 0)))
        raise ValueError(
            f"{name} must be probabilities, finite and not negative, got {rows[bad].item():.6g} at {list(bad)}"
        )
    sums = rows.sum(-1)
    wrong = (sums - 1).abs() > (1e-8 if rows.dtype == torch.float64 else 1e-4)
    if bool(wrong.any()):
        bad = _first(wrong)
        where = f"{name}{list(bad)}" if bad else name
        raise ValueError(f"{where} must sum to one, got {sums[bad].item():.9g}; divide by the sum if it is meant")


def _first(wrong: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in wrong.nonzero()[0])
