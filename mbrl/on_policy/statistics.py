"""Weighted means over the samples of all processes."""

import math

import torch
from torch import Tensor

from mbrl.on_policy.rollout import Samples
from mbrl.training.processes import Processes


@torch.no_grad()
def mean_over(values: Tensor, weights: Tensor, processes: Processes) -> Tensor:
    """The weighted mean of values of the weights' shape over all processes, a number; 0 where none counts."""
    weighted = torch.where(weights > 0, values, 0.0) * weights
    total, weight = processes.sum(torch.stack([weighted.sum(), weights.sum()]))
    return total / weight.clamp_min(1.0)


@torch.no_grad()
def normalized(advantages: Tensor, weights: Tensor, processes: Processes) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the samples of all processes that count."""
    mean = mean_over(advantages, weights, processes)
    variance = mean_over((advantages - mean).square(), weights, processes)
    return (advantages - mean) / (variance.sqrt() + 1e-8)


@torch.no_grad()
def explained_variance(samples: Samples, processes: Processes) -> float:
    r"""The share of the variance of the returns that the values explain; NaN where the returns do not vary.

    .. math:: 1 - \operatorname{Var}(\hat R - V) / \operatorname{Var}(\hat R)
    """

    def variance(values: Tensor) -> Tensor:
        mean = mean_over(values, samples.weights, processes)
        return mean_over((values - mean).square(), samples.weights, processes)

    of_returns = variance(samples.returns)
    return float(1.0 - variance(samples.returns - samples.values) / of_returns) if of_returns > 0 else math.nan
