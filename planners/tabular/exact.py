r"""Dynamic programming: optimal values and policies, hard or with an entropy bonus, and values of a given policy.

.. math::
    Q(s, a) = r_{s a} + \gamma \sum_{s'} P_{s a s'} V(s'), \qquad
    V(s) = \max_{\pi(\cdot \mid s)} \sum_a \pi(a \mid s) \bigl[ Q(s, a) - \tau \log \pi(a \mid s) \bigr]
    = \tau \log \sum_a e^{Q(s, a) / \tau}

with the Boltzmann policy :math:`\pi(a \mid s) = e^{(Q(s, a) - V(s)) / \tau}`; the temperature :math:`\tau = 0` is the maximum and
a deterministic policy (of equal actions the first). Causal entropy is that of Ziebart (2010, equations 6.6 to 6.10), whose values
of stochastic dynamics take the expectation over s' outside of the exponential.

A finite horizon is solved backwards, an infinite one by value iteration, a contraction by gamma, or by policy iteration (Howard
1960), which is Newton's method on the equation above and converges quadratically, for every temperature (Puterman and Brumelle
1979). The optimal policy makes the derivative of V by the policy zero, so the derivatives of V by rewards are those of

.. math:: V = (I - \gamma P_\pi)^{-1} (r_\pi + \tau H_\pi)

at the policy held fixed: first derivatives of values and policies by rewards are exact and need no derivative of an iteration.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from planners.tabular.mdp import TabularMDP

SMALL = 128
"""States up to which the linear solves of policy iteration are cheaper than backups, in full tables."""


@dataclass(frozen=True, eq=False)
class TabularSolution:
    """Values and policy, stationary, or of each step where the horizon is finite.

    Attributes:
        values: V, ``(*batch, S)``, or ``(*batch, T+1, S)``, the last of which is zero.
        action_values: Q, ``(*batch, S, A)`` or ``(*batch, T, S, A)``.
        policy: probabilities of actions, in the shape of ``action_values``.
        value: expected value of the first state, ``(*batch,)``.
        iterations: that were needed; T where the horizon is finite.
        error: upper bound of the error of values that iteration leaves, rounding aside; zero for a finite horizon.
    """

    values: Tensor
    action_values: Tensor
    policy: Tensor
    value: Tensor
    iterations: int
    error: float


def solve_mdp(
    mdp: TabularMDP,
    rewards: Tensor | None = None,
    *,
    temperature: float = 0.0,
    initial_values: Tensor | None = None,
) -> TabularSolution:
    """Optimal values and policy, by the method that suits the horizon and the number of states.

    Args:
        mdp: the process.
        rewards: ``(*batch, S, A)``, in place of those of the process; all of a batch are solved at once.
        temperature: of the entropy bonus, tau; 0 for none.
        initial_values: of similar rewards, ``(*batch, S)``, to begin with where the horizon is infinite.

    Raises:
        ValueError: rewards are missing or have another shape, or the temperature is negative.
    """
    if mdp.finite:
        return backward_induction(mdp, rewards, temperature=temperature)
    single = rewards is None or rewards.ndim == 2
    solver = policy_iteration if mdp.states <= SMALL or (mdp.sparse and single) else value_iteration
    return solver(mdp, rewards, temperature=temperature, initial_values=initial_values)


def backward_induction(mdp: TabularMDP, rewards: Tensor | None = None, *, temperature: float = 0.0) -> TabularSolution:
    """Optimal values and policies of a finite horizon; differentiable in the rewards.

    Args:
        mdp: with a finite horizon.
        rewards: ``(*batch, S, A)``, the same at each step, in place of those of the process.
        temperature: of the entropy bonus, tau; 0 for none.

    Raises:
        ValueError: the horizon is infinite, rewards are missing or have another shape, or the temperature is negative.
    """
    r, T = _rewards(mdp, rewards, temperature), mdp.steps
    values, action_values = [r.new_zeros(r.shape[:-1])], []
    for _ in range(T):
        action_values.append(r + mdp.discount * mdp.next_values(values[-1]))
        values.append(_best(action_values[-1], temperature))
    V, Q = torch.stack(values[::-1], dim=-2), torch.stack(action_values[::-1], dim=-3)
    return TabularSolution(V, Q, _policy(Q, temperature), V[..., 0, :] @ mdp.start, T, 0.0)


def value_iteration(
    mdp: TabularMDP,
    rewards: Tensor | None = None,
    *,
    temperature: float = 0.0,
    tolerance: float = 1e-10,
    max_iterations: int = 100_000,
    initial_values: Tensor | None = None,
) -> TabularSolution:
    r"""Optimal values and policy of an infinite horizon, by repeated backups.

    Args:
        mdp: with an infinite horizon.
        rewards: ``(*batch, S, A)``, in place of those of the process.
        temperature: of the entropy bonus, tau; 0 for none.
        tolerance: error of the values at which iteration ends, relative to the largest one; it also ends where backups change
            nothing but the last digits. The error is at most :math:`\gamma / (1 - \gamma)` times the last change.
        max_iterations: backups.
        initial_values: to begin with, ``(*batch, S)``; zero by default.

    Raises:
        ValueError: the horizon is finite, rewards are missing or have another shape, or a number is out of its range.
        RuntimeError: the tolerance is not reached.
    """
    r = _infinite(mdp, rewards, temperature)
    _check_iteration(tolerance, max_iterations)
    V, iterations, error = _backups(mdp, r.detach(), temperature, tolerance, max_iterations, initial_values)
    return _stationary(mdp, r, V, temperature, iterations, error)


def policy_iteration(
    mdp: TabularMDP,
    rewards: Tensor | None = None,
    *,
    temperature: float = 0.0,
    max_iterations: int = 1000,
    initial_values: Tensor | None = None,
) -> TabularSolution:
    """Optimal values and policy of an infinite horizon, by exact evaluation of better and better policies.

    Args:
        mdp: with an infinite horizon.
        rewards: ``(*batch, S, A)``, in place of those of the process.
        temperature: of the entropy bonus, tau; 0 for none.
        max_iterations: policies.
        initial_values: the first policy is best for these ``(*batch, S)``; zero by default.

    Raises:
        ValueError: the horizon is finite, rewards are missing or have another shape, or a number is out of its range.
        RuntimeError: policies still change after ``max_iterations``.
    """
    r = _infinite(mdp, rewards, temperature)
    _check_iteration(1.0, max_iterations)
    V, iterations, error = _newton(mdp, r.detach(), temperature, max_iterations, initial_values)
    return _stationary(mdp, r, V, temperature, iterations, error)


def policy_evaluation(
    mdp: TabularMDP, policy: Tensor, rewards: Tensor | None = None, *, temperature: float = 0.0
) -> TabularSolution:
    """Values of a policy; differentiable in the rewards and the policy.

    Args:
        mdp: the process.
        policy: stationary ``(*batch, S, A)``, or for a finite horizon ``(S, A)`` or of each step ``(*batch, T, S, A)``.
        rewards: ``(*batch, S, A)``, in place of those of the process.
        temperature: of the entropy bonus, tau; 0 for none.

    Raises:
        ValueError: shapes do not belong together, a row of the policy is no distribution, or the temperature is negative.
    """
    r, policy = _rewards(mdp, rewards, temperature), mdp.check_policy(policy)
    if not mdp.finite:
        V = _evaluated(mdp, policy, r, temperature)
        Q = r + mdp.discount * mdp.next_values(V)
        return TabularSolution(V, Q, policy.expand(Q.shape), V @ mdp.start, 1, 0.0)
    policy = by_step(mdp, policy)
    batch = torch.broadcast_shapes(r.shape[:-2], policy.shape[:-3])
    values, action_values = [r.new_zeros(*batch, mdp.states)], []
    for t in reversed(range(mdp.steps)):
        action_values.append(r + mdp.discount * mdp.next_values(values[-1]))
        values.append(_average(policy[..., t, :, :], action_values[-1], temperature))
    V, Q = torch.stack(values[::-1], dim=-2), torch.stack(action_values[::-1], dim=-3)
    return TabularSolution(V, Q, policy.expand(Q.shape), V[..., 0, :] @ mdp.start, mdp.steps, 0.0)


def by_step(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """A policy of a finite horizon as one of each step, ``(*batch, T, S, A)``."""
    return policy.expand(mdp.steps, -1, -1) if policy.ndim == 2 else policy


def _rewards(mdp: TabularMDP, rewards: Tensor | None, temperature: float) -> Tensor:
    """Checked rewards, ``(*batch, S, A)``."""
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number of at least 0, got {temperature}")
    if rewards is None:
        return mdp.expected_rewards()
    r = torch.as_tensor(rewards).to(mdp.transitions)
    if r.shape[-2:] != (mdp.states, mdp.actions):
        raise ValueError(
            f"rewards must have the shape (*batch, S, A) with S = {mdp.states} and A = {mdp.actions}, got {tuple(r.shape)}; "
            "mdp.expected_rewards(rewards) makes it of (S,) and (S, A, S)"
        )
    if not bool(r.detach().isfinite().all()):
        raise ValueError("rewards must be finite; a large negative number stands for what must not happen")
    return r


def _infinite(mdp: TabularMDP, rewards: Tensor | None, temperature: float) -> Tensor:
    if mdp.finite:
        raise ValueError(
            f"this needs an infinite horizon, got {mdp.horizon}; use backward_induction, or "
            "dataclasses.replace(mdp, horizon=math.inf)"
        )
    return _rewards(mdp, rewards, temperature)


def _check_iteration(tolerance: float, max_iterations: int) -> None:
    if not tolerance > 0 or not (isinstance(max_iterations, int) and max_iterations >= 1):
        raise ValueError(
            f"need tolerance > 0 and an integer max_iterations of at least 1, got {tolerance} and {max_iterations!r}"
        )


def _backups(
    mdp: TabularMDP, r: Tensor, temperature: float, tolerance: float, max_iterations: int, initial: Tensor | None
) -> tuple[Tensor, int, float]:
    """Values, their number and the bound of their error, by value iteration."""
    V = r.new_zeros(r.shape[:-1]) if initial is None else initial.detach().to(r).expand(r.shape[:-1])
    tiny, rounding = torch.finfo(r.dtype).tiny, 4 * torch.finfo(r.dtype).eps
    factor, change = mdp.discount / (1 - mdp.discount), math.inf
    for iteration in range(1, max_iterations + 1):
        new = _best(r + mdp.discount * mdp.next_values(V), temperature)
        change, largest = float((new - V).abs().max()), max(float(new.abs().max()), tiny)
        V = new
        if factor * change <= tolerance * largest or change <= rounding * largest:
            return V, iteration, factor * change
    raise RuntimeError(
        f"value iteration changes values by {change:.3g} after {max_iterations} iterations; raise max_iterations, or use "
        "policy_iteration, which needs few at any discount"
    )


def _newton(
    mdp: TabularMDP, r: Tensor, temperature: float, max_iterations: int, initial: Tensor | None
) -> tuple[Tensor, int, float]:
    """Values, their number and the bound of their error, by policy iteration."""
    V = r.new_zeros(r.shape[:-1]) if initial is None else initial.detach().to(r).expand(r.shape[:-1])
    tiny, rounding = torch.finfo(r.dtype).tiny, 64 * torch.finfo(r.dtype).eps / (1 - mdp.discount)
    policy, before = _policy(r + mdp.discount * mdp.next_values(V), temperature), math.inf
    for iteration in range(1, max_iterations + 1):
        V = _evaluated(mdp, policy, r, temperature)
        Q = r + mdp.discount * mdp.next_values(V)
        gain, scale = _best(Q, temperature) - V, Q.abs().amax((-2, -1)).clamp_min(tiny)
        largest = float((gain.abs().amax(-1) / scale).max())
        if largest <= rounding and (temperature == 0 or largest >= 0.5 * before or largest == 0):
            return V, iteration, float(gain.abs().max()) / (1 - mdp.discount)
        before = largest
        better = (gain > rounding * scale.unsqueeze(-1)).unsqueeze(-1)  # equal actions may not take turns
        policy = torch.where(better, _policy(Q, 0.0), policy) if temperature == 0 else _policy(Q, temperature)
    raise RuntimeError(
        f"policies still gain {before:.3g} of the largest value after {max_iterations} iterations; raise max_iterations"
    )


def _best(Q: Tensor, temperature: float) -> Tensor:
    """The best average of action values and entropy, ``(*batch, S)``."""
    return Q.amax(-1) if temperature == 0 else temperature * torch.logsumexp(Q / temperature, dim=-1)


def _policy(Q: Tensor, temperature: float) -> Tensor:
    """The policy that has it."""
    if temperature > 0:
        return torch.softmax(Q / temperature, dim=-1)
    return torch.zeros_like(Q).scatter(-1, Q.argmax(-1, keepdim=True), 1.0)


def _average(policy: Tensor, Q: Tensor, temperature: float) -> Tensor:
    """Of action values under a policy, with its entropy, ``(*batch, S)``."""
    average = (policy * Q).sum(-1)
    return average if temperature == 0 else average + temperature * torch.special.entr(policy).sum(-1)


def _evaluated(mdp: TabularMDP, policy: Tensor, r: Tensor, temperature: float) -> Tensor:
    """Values of a stationary policy, by a linear solve."""
    return mdp.resolved(policy, _average(policy, r, temperature))


def _stationary(
    mdp: TabularMDP, r: Tensor, V: Tensor, temperature: float, iterations: int, error: float
) -> TabularSolution:
    """The solution at the values found, attached to the rewards where these require a gradient."""
    policy = _policy(r.detach() + mdp.discount * mdp.next_values(V), temperature)
    if r.requires_grad and torch.is_grad_enabled():
        V = _evaluated(mdp, policy, r, temperature)
    Q = r + mdp.discount * mdp.next_values(V)
    policy = policy if temperature == 0 else _policy(Q, temperature)
    return TabularSolution(V, Q, policy, V @ mdp.start, iterations, error)
