r"""Apprenticeship learning (Abbeel and Ng 2004): policies whose expected features are those of an expert.

With feature expectations :math:`\mu(\pi) = \sum_{s, a} D_\pi(s, a) \phi(s, a)` and those of the expert, :math:`\mu_E`, whatever
linear reward of bounded weights there is, a mixture with :math:`\|\mu - \mu_E\| \le \epsilon` is worth as much as the expert to
within :math:`\epsilon \|w\|`. From any policy on,

1. :math:`w = \mu_E - \bar\mu`, with margin :math:`t = \|w\|`;
2. the optimal policy of the reward :math:`w^\top \phi` is added, with expectations :math:`\mu`;
3. :math:`\bar\mu` is the point nearest to :math:`\mu_E`, on the line from the last one to :math:`\mu` ("projection", section
   3.1), or of all mixtures of policies so far ("max-margin", equation 10, whose dual this is).

If the expert's expectations are those of some policy, then :math:`w^\top (\mu - \mu_E) \ge 0` and each projection gives
:math:`t_{i+1}^{-2} \ge t_i^{-2} + R^{-2}`, where R bounds :math:`\|\mu - \mu_E\|`. So there are at most :math:`R^2 / \epsilon^2`
iterations, fewer than theorem 1 says. If they are not, as those of a few demonstrations in a random world, t ends at the distance
of the nearest mixture: learning ends, too, where the gap :math:`w^\top (\mu - \bar\mu)`, which bounds how far :math:`t^2` can
fall, shows that it has been found.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mbrl.irl.base import (
    LearnedReward,
    Mixture,
    RewardLearner,
    by_action,
    checked,
    demonstrated_features,
    linear_reward,
    of_demonstrated_steps,
    rewards_of,
)
from mbrl.training.checking import check_numbers
from planners import TabularMDP, TabularTrajectories, occupancies, occupancies_by_step, solve_mdp


@dataclass(frozen=True)
class Apprenticeship(RewardLearner):
    """Apprenticeship learning by projection or maximum margin.

    The reward is that of the last weights, of norm one: the direction in which the mixture lacks most. The mixture, not the
    reward's own policy, is what has a guarantee.

    Attributes:
        method: ``"max-margin"``, a quadratic program in each iteration, or ``"projection"``, which needs none and more
            iterations.
        epsilon: margin at which learning ends, in units of discounted sums of features.
        max_iterations: policies.

    Raises:
        ValueError: a field is out of range.
    """

    method: Literal["max-margin", "projection"] = "max-margin"
    epsilon: float = 0.01
    max_iterations: int = 200

    def __post_init__(self):
        if self.method not in ("max-margin", "projection"):
            raise ValueError(f"method must be 'max-margin' or 'projection', got {self.method!r}")
        check_numbers(self, counts=("max_iterations",), rates=("epsilon",))

    def learn(
        self, mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories, *, seed: int = 0
    ) -> LearnedReward:
        """Learn; see :meth:`RewardLearner.learn`. ``history`` has ``margin`` and ``gap`` at each iteration.

        Expectations are matched over the steps that were demonstrated, from the states in which demonstrations begin. Where these
        are all steps of the process, the policy is one with the occupancies of the mixture; otherwise it is the optimal one of
        the reward, and the mixture's policies are of the demonstrated steps.
        """
        phi, demonstrations = by_action(mdp, features), checked(mdp, demonstrations)
        part = of_demonstrated_steps(mdp, demonstrations)
        found = self.match(part, features, demonstrated_features(mdp, phi, demonstrations))
        if mdp.horizon == part.horizon:
            return found
        policy = solve_mdp(mdp, mdp.expected_rewards(found.rewards)).policy
        return LearnedReward(found.reward, found.rewards, policy, found.converged, found.history, found.mixture)

    def match(self, mdp: TabularMDP, features: Tensor, target: Tensor) -> LearnedReward:
        """Match feature expectations that are known, ``(k,)``, from the process's own initial distribution.

        Raises:
            ValueError: features or target have another shape.
        """
        phi = by_action(mdp, features)
        target = torch.as_tensor(target).to(phi)
        if target.shape != phi.shape[-1:]:
            raise ValueError(f"target must have the shape (k,) = {tuple(phi.shape[-1:])}, got {tuple(target.shape)}")
        visited, policies, points = [], [], []

        def add(policy: Tensor) -> None:
            policies.append(policy)
            visited.append((occupancies_by_step if mdp.finite else occupancies)(mdp, policy))
            points.append(torch.einsum("...sa,sak->k", visited[-1], phi))

        shape = (mdp.steps, mdp.states, mdp.actions) if mdp.finite else (mdp.states, mdp.actions)
        add(phi.new_full(shape, 1.0 / mdp.actions))
        shares = phi.new_ones(1)
        history: dict[str, list[float]] = {"margin": [], "gap": []}
        while True:
            mean = shares @ torch.stack(points)
            w = target - mean
            margin = float(w.norm())
            history["margin"].append(margin)
            if margin <= self.epsilon or len(points) > self.max_iterations:
                break
            add(solve_mdp(mdp, phi @ (w / margin)).policy)
            gap = float(w @ (points[-1] - mean))
            history["gap"].append(gap)
            if gap <= 1e-2 * self.epsilon * margin:  # no mixture is closer by more than a hundredth of epsilon
                for found in (policies, visited, points):
                    found.pop()
                break
            shares = self._nearest(shares, torch.stack(points), target)
        converged = margin <= self.epsilon or (len(history["gap"]) == len(history["margin"]))
        reward = linear_reward(w / margin if margin > 0 else w)
        mixture = Mixture(shares, torch.stack(policies), torch.stack(points))
        policy = _conditional(torch.einsum("n,n...->...", shares, torch.stack(visited)))
        return LearnedReward(reward, rewards_of(reward, mdp, features), policy, converged, history, mixture)

    def _nearest(self, shares: Tensor, points: Tensor, target: Tensor) -> Tensor:
        """Shares of the mixture nearest to a target, of those so far and one more point."""
        mean = shares @ points[:-1]
        if self.method == "projection":
            step = points[-1] - mean
            part = ((target - mean) @ step / (step @ step)).clamp(0, 1)
            return torch.cat([(1 - part) * shares, part.view(1)])
        import cvxpy as cp

        share = cp.Variable(len(points), nonneg=True)
        simplex: list[Any] = [cp.sum(share) == 1]
        gap = cp.sum_squares((points - target).T.double().cpu().numpy() @ share)
        cp.Problem(cp.Minimize(gap), simplex).solve(solver=cp.CLARABEL)
        found = torch.as_tensor(share.value).to(points).clamp_min(0)
        return found / found.sum()


def _conditional(visits: Tensor) -> Tensor:
    """The policy that visits states and actions so often (Puterman 1994, theorem 6.9.1); uniform where nothing is visited."""
    total = visits.sum(-1, keepdim=True)
    uniform = torch.full_like(visits, 1.0 / visits.shape[-1])
    return torch.where(total > 0, visits / total.clamp_min(torch.finfo(visits.dtype).tiny), uniform)
