"""Rewards that are modules of any kind, which know nothing of the dtype of trajectories."""

from itertools import chain

from torch import Tensor, nn


def module_rewards(reward: nn.Module, *transitions: Tensor) -> Tensor:
    """Rewards ``(*b,)`` in the dtype of the transitions, computed in that of the module's weights and where these are.

    Args:
        reward: ``reward(observations, controls, next_observations)``.
        transitions: observations, controls and next observations, ``(*b, ny)``, ``(*b, m)`` and ``(*b, ny)``.
    """
    numbers = chain(reward.parameters(), reward.buffers())
    own = next((values for values in numbers if values.is_floating_point()), None)
    if own is None:
        return reward(*transitions)
    return reward(*(given.to(own) for given in transitions)).to(transitions[0])
