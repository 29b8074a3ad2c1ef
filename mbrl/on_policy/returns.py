r"""Returns and advantages of a segment of experience, many worlds at once.

Step t of a world goes from the observation :math:`s_t` with reward :math:`r_t` to :math:`s'_t`. Where the episode goes on,
:math:`s'_t = s_{t+1}`; where it ends, :math:`s'_t` is its true last observation and :math:`s_{t+1}` the first one after the
reset. The two ways of ending differ in what is worth anything afterwards (Pardo et al. 2018): nothing after a termination,
:math:`V(s'_t)` after a truncation and at the end of the segment. A step with both flags is terminated.

A transition in which the simulation diverged is not valid: nothing is known about it. It counts for nothing, whatever numbers
it carries, and the step before it ends as a truncated one does, with :math:`V(s'_{t-1}) = V(s_t)`. K(t) is the number of valid
steps from t to the end of the episode or segment or to the step before one that is not valid.

All of these are backward recurrences :math:`y_t = b_t + c_t y_{t+1}` with :math:`c_t = 0` where something ends. They are
computed by recursive doubling (Kogge and Stone 1973), in :math:`\lceil \log_2 T \rceil` operations on whole tensors rather
than T on single steps, and can be differentiated.

Every tensor is ``(T, *batch)``, time first; ``(T, N)`` for N worlds. Results have the common type of the numbers that come in.
"""

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    trace_decay: float,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Generalized advantage estimates (Schulman et al. 2016, eq. 16).

    .. math::
        A_t = \sum_{l=0}^{K(t)-1} (\gamma \lambda)^l \delta_{t+l}, \qquad
        \delta_t = r_t + \gamma (1 - \mathrm{terminated}_t) V(s'_t) - V(s_t)

    Args:
        rewards: ``(T, *batch)``.
        values: :math:`V(s_t)`, ``(T, *batch)``.
        next_values: :math:`V(s'_t)` of the true next observation, not of the one after a reset, ``(T, *batch)``; not read
            where terminated.
        terminated: whether the episode ended in a state after which nothing is worth anything, ``(T, *batch)`` of bool.
        ended: whether the episode ended, terminated or truncated, ``(T, *batch)`` of bool.
        discount: gamma in [0, 1].
        trace_decay: lambda in [0, 1]; 0 is the one-step error, 1 the whole return minus the value.
        valid: which transitions count, ``(T, *batch)`` of bool; all of them by default.

    Returns:
        ``(T, *batch)``, zero where not valid.

    Raises:
        ValueError: a tensor has another shape or type, or a factor is out of range.
    """
    _check_tensors(
        {"rewards": rewards, "values": values, "next_values": next_values},
        {"terminated": terminated, "ended": ended, "valid": valid},
    )
    _check_factors(discount=discount, trace_decay=trace_decay)
    stop = terminated | ended
    errors = rewards + discount * next_values.masked_fill(terminated, 0.0) - values
    if valid is not None:
        stop, errors = stop | ~valid, errors.masked_fill(~valid, 0.0)
    return _backward_sums(errors, discount * trace_decay, stop)


def rewards_to_go(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Monte Carlo returns from each step on (Sutton and Barto 2018, eq. 3.9; Pardo et al. 2018, section 3).

    .. math::
        G_t = \sum_{k=0}^{K-1} \gamma^k r_{t+k} + \gamma^K (1 - \mathrm{terminated}_{t+K-1}) V(s'_{t+K-1}), \qquad K = K(t)

    Args:
        rewards: ``(T, *batch)``.
        next_values: :math:`V(s'_t)` of the true next observation, ``(T, *batch)``; only read where an episode was truncated,
            before a step that is not valid, and at the end of the segment. Zeros sum what was collected.
        terminated: see :func:`generalized_advantages`.
        ended: see :func:`generalized_advantages`.
        discount: gamma in [0, 1].
        valid: see :func:`generalized_advantages`.

    Returns:
        ``(T, *batch)``, zero where not valid.

    Raises:
        ValueError: a tensor has another shape or type, or the discount is out of range.
    """
    _check_tensors(
        {"rewards": rewards, "next_values": next_values}, {"terminated": terminated, "ended": ended, "valid": valid}
    )
    _check_factors(discount=discount)
    last = _last_steps(terminated | ended, valid)
    terms = rewards + discount * next_values.masked_fill(terminated | ~last, 0.0)
    return _backward_sums(terms if valid is None else terms.masked_fill(~valid, 0.0), discount, last)


def n_step_returns(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    n: int,
    discount: float,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Returns of n steps and the value after them (Sutton and Barto 2018, eq. 7.1).

    .. math::
        G^{(n)}_t = \sum_{k=0}^{m-1} \gamma^k r_{t+k} + \gamma^m (1 - \mathrm{terminated}_{t+m-1}) V(s'_{t+m-1}), \qquad
        m = \min(n, K(t))

    Args:
        rewards: ``(T, *batch)``.
        next_values: :math:`V(s'_t)` of the true next observation, ``(T, *batch)``; not read where terminated.
        terminated: see :func:`generalized_advantages`.
        ended: see :func:`generalized_advantages`.
        n: number of steps, at least 1; T and more give :func:`rewards_to_go`.
        discount: gamma in [0, 1].
        valid: see :func:`generalized_advantages`.

    Returns:
        ``(T, *batch)``, zero where not valid.

    Raises:
        ValueError: a tensor has another shape or type, or n or the discount is out of range.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be an integer of at least 1, the number of steps, got {n!r}")
    _check_tensors(
        {"rewards": rewards, "next_values": next_values}, {"terminated": terminated, "ended": ended, "valid": valid}
    )
    _check_factors(discount=discount)
    if n >= len(rewards):
        return rewards_to_go(rewards, next_values, terminated, ended, discount=discount, valid=valid)
    last = _last_steps(terminated | ended, valid)[:-1]
    one_step = rewards + discount * next_values.masked_fill(terminated, 0.0)
    if valid is not None:
        one_step = one_step.masked_fill(~valid, 0.0)
    returns = one_step
    for _ in range(n - 1):
        longer = torch.where(last, one_step[:-1], rewards[:-1] + discount * returns[1:])
        returns = torch.cat([longer, one_step[-1:]])
    return returns


def _last_steps(ended: Tensor, valid: Tensor | None) -> Tensor:
    """The steps after which nothing is known but a value: K(t) = 1; those that are not valid count as well."""
    last = ended.clone()
    last[-1:] = True
    if valid is not None:
        last |= ~valid
        last[:-1] |= ~valid[1:]
    return last


def _backward_sums(terms: Tensor, factor: float, stop: Tensor) -> Tensor:
    """The solution of y[t] = terms[t] + factor (1 - stop[t]) y[t+1] with zero after the end.

    After the pass with the given distance, y[t] is the sum of the 2 x distance terms from t on, and factors[t] the product of
    as many factors.
    """
    sums = terms
    factors = torch.full_like(terms, factor).masked_fill(stop, 0.0)
    distance = 1
    while distance < len(terms):
        reached = sums[:-distance] + factors[:-distance] * sums[distance:]
        sums = torch.cat([reached, sums[-distance:]])
        factors = torch.cat([factors[:-distance] * factors[distance:], factors[-distance:]])
        distance *= 2
    return sums


def _check_tensors(numbers: dict[str, Tensor], flags: dict[str, Tensor | None]) -> None:
    """Raise ValueError unless all tensors have the shape of the rewards, ``(T, *batch)``, and the right types."""
    shape = numbers["rewards"].shape
    if not shape:
        raise ValueError("rewards must have shape (T, *batch), time first, got a scalar")
    for name, tensor in (numbers | flags).items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must have the shape of rewards, (T, *batch) = {tuple(shape)}, got {tuple(tensor.shape)}"
            )
        if name in flags and tensor.dtype != torch.bool:
            raise ValueError(f"{name} must be a tensor of bool, got {tensor.dtype}; {name} > 0 makes one of numbers")
        if name in numbers and not tensor.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor, got {tensor.dtype}; {name}.double() makes one")


def _check_factors(**factors: float) -> None:
    """Raise ValueError unless each lies in [0, 1]."""
    for name, factor in factors.items():
        if not 0.0 <= factor <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], got {factor}")
