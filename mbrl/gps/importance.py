r"""Importance sampling of trajectories whose dynamics nobody needs to know (Levine and Koltun 2013, section 4).

Rollouts :math:`\zeta_i` are drawn from distributions :math:`q_j`, :math:`n_j` from each. In the ratio of two distributions over
trajectories from one initial state the dynamics cancel, and what happens up to step t depends on the actions up to step t:

.. math::
    \ell_{i,t} = \sum_{s \le t} \log \pi_\theta(a_{i,s} \mid x_{i,s})
        - \log \sum_j \frac{n_j}{n} \prod_{s \le t} q_j(a_{i,s} \mid x_{i,s}), \qquad
    Z_t = \frac1n \sum_i e^{\ell_{i,t}}, \qquad
    \hat{\mathrm E}[c_t] = \frac{1}{n Z_t} \sum_i e^{\ell_{i,t}} c_{i,t}

The weights are normalized by themselves. All sums over samples are taken in log space: with hundreds of steps every product
underflows. The objective that a policy minimizes is

.. math:: F(\theta) = \sum_t \Bigl( \hat{\mathrm E}[c_t] - w_r \log Z_t(\theta) \Bigr)

whose second term, a soft maximum of the log-weights, keeps the policy where there are samples. Its gradient is

.. math::
    \nabla F = \sum_i \sum_t \nabla \log \pi_\theta(a_{i,t} \mid x_{i,t})
        \sum_{t' \ge t} \frac{e^{\ell_{i,t'}}}{n Z_{t'}} \bigl(c_{i,t'} - \hat{\mathrm E}[c_{t'}] - w_r\bigr),

for samples of the policy itself and w_r = 0 that of REINFORCE with reward-to-go and the mean over the samples as baseline. With
several initial states everything is done for each of them, and F is the mean.
"""

import torch
from torch import Tensor


def prefix_log_weights(log_pi: Tensor, log_q: Tensor, counts: Tensor) -> Tensor:
    """Log-weights of prefixes.

    Args:
        log_pi: log-densities of each step under the policy, ``(S, *batch, T)``.
        log_q: the same under each of J distributions, ``(J, S, *batch, T)``.
        counts: how many of the S samples came from each distribution, ``(J,)``.

    Returns:
        The logarithms l, ``(S, *batch, T)``.

    Raises:
        ValueError: the shapes do not fit together, or a sample came from none of the distributions.
    """
    if log_q.shape[1:] != log_pi.shape or counts.shape != log_q.shape[:1] or int(counts.sum()) != len(log_pi):
        raise ValueError(
            f"need log_q (J, *{tuple(log_pi.shape)}) and counts (J,) of {len(log_pi)} samples in all, got "
            f"{tuple(log_q.shape)} and {counts.tolist()}"
        )
    shares = (counts / counts.sum()).to(log_q).log().reshape(-1, *[1] * log_pi.ndim)
    return log_pi.cumsum(-1) - torch.logsumexp(log_q.cumsum(-1) + shares, dim=0)


def log_normalizers(log_weights: Tensor) -> Tensor:
    """Log Z_t of log-weights ``(S, *batch, T)``: ``(*batch, T)``."""
    return torch.logsumexp(log_weights, dim=0) - torch.log(torch.tensor(float(len(log_weights))).to(log_weights))


def expected_costs(log_weights: Tensor, costs: Tensor) -> Tensor:
    """Estimated expectation of the cost of each step, ``(*batch, T)``, of log-weights and costs ``(S, *batch, T)``."""
    return (torch.softmax(log_weights, dim=0) * costs).sum(0)


def objective(log_weights: Tensor, costs: Tensor, regularization: float | Tensor) -> Tensor:
    """F for each initial state, ``(*batch,)``.

    Args:
        log_weights: ``(S, *batch, T)``.
        costs: ``(S, *batch, T)``.
        regularization: w_r.
    """
    return (expected_costs(log_weights, costs) - regularization * log_normalizers(log_weights)).sum(-1)


def effective_samples(log_weights: Tensor) -> Tensor:
    """Effective number of samples (Kish 1965) of log-weights ``(S, *batch, T)``: ``(*batch, T)``, from 1 to S."""
    return torch.exp(2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0))
