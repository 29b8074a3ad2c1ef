r"""The value function's fit to returns, by itself.

.. math:: \phi_{k+1} \approx \arg\min_\phi \; \hat{\mathbb E}\bigl[\tfrac12 (V_\phi(y) - \hat R)^2\bigr]

by several passes of an optimizer over the samples in minibatches: of the rewards, where policy and value function are fitted one
after the other, and of the costs of a constraint.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mbrl.on_policy.policy_gradient import weighted_share
from mbrl.on_policy.rollout import Samples
from mbrl.on_policy.statistics import mean_over
from mbrl.policies.value_function import ValueFunction
from mbrl.training.flat_parameters import FlatParameters
from mbrl.training.processes import Processes


def fit_value(
    value: ValueFunction,
    parameters: FlatParameters,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    *,
    epochs: int,
    minibatch_size: int,
    generator: torch.Generator,
    processes: Processes,
) -> float:
    """Fit a value function to the returns of samples, and say how large the loss is over all of them afterwards.

    Args:
        value: is trained in place.
        parameters: in which its own are; those of other networks get no gradient.
        optimizer: of its own.
        samples: with the returns, and what the value function remembered before each piece.
        epochs: passes over the samples.
        minibatch_size: steps of one descent, of each process.
        generator: source of minibatches.
        processes: that train together.
    """

    def errors(samples: Samples) -> Tensor:
        values, _ = value.sequence(samples.inputs, samples.value_hidden, samples.starts)
        return (values - samples.returns).square()

    # what is not needed is slow to shuffle
    samples = replace(samples, distribution=None, log_probs=None, cost_returns=None, cost_hidden=None)
    for _ in range(epochs):
        for minibatch in samples.minibatches(minibatch_size, generator):
            loss = 0.5 * weighted_share(errors(minibatch), minibatch.weights, processes)
            parameters.zero_gradients()
            loss.backward()
            processes.sum_into(parameters.gradient)
            optimizer.step()
    with torch.no_grad():
        return float(mean_over(errors(samples), samples.weights, processes)) / 2
