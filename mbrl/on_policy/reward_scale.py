"""Rewards of order one, whatever the task's units."""

import torch
from torch import Tensor, nn

from mbrl.policies.normalizer import RunningNormalizer, count_in
from mbrl.training.processes import Processes


class RewardScale(nn.Module):
    r"""Divides rewards by the standard deviation of the discounted return so far.

    .. math:: G_t = r_t + \gamma G_{t-1}, \qquad \tilde r_t = \operatorname{clip}(r_t / \sqrt{\operatorname{Var} G}, -c, c)

    The sum runs forward from the beginning of the episode, as in OpenAI's baselines, because what it is for is only the order
    of magnitude of values.

    Args:
        worlds: number of worlds.
        discount: gamma.
        clip: largest magnitude c of a scaled reward.
    """

    running: Tensor

    def __init__(self, worlds: int, discount: float, *, clip: float = 10.0):
        super().__init__()
        self.discount, self.clip = discount, clip
        self.statistics = RunningNormalizer(1)
        self.register_buffer("running", torch.zeros(worlds, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, rewards: Tensor, ended: Tensor, processes: Processes, *, valid: Tensor | None = None) -> Tensor:
        """Count in rewards ``(T, N)`` and scale them.

        Args:
            rewards: of T steps in N worlds.
            ended: last steps of episodes.
            processes: with rewards of their own.
            valid: steps that count; all of them by default.
        """
        found = torch.empty_like(rewards, dtype=torch.float64)
        for t, (r, end) in enumerate(zip(rewards, ended, strict=True)):
            self.running = self.discount * self.running + r
            found[t] = self.running
            self.running = torch.where(end, 0.0, self.running)
        count_in(self.statistics, (found if valid is None else found[valid]).unsqueeze(-1), processes)
        scaled = rewards * (self.statistics.variance + 1e-8).rsqrt()
        return scaled.clamp(-self.clip, self.clip)

    def begin(self) -> None:
        """New episodes in all worlds."""
        self.running.zero_()
