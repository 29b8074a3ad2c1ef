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

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mbrl.irl.base import (
    FeatureReward,
    LearnedReward,
    Mixture,
    by_action,
    demonstrated_features,
    linear_reward,
    of_demonstrated_steps,
    rewards_of,
)
from mbrl.irl.reward_learner import RewardLearner, RewardSearch
from mbrl.irl.searching import searched
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

    Raises:
        ValueError: a field is out of range.
    """

    shows: ClassVar[str] = (
        "how far the mixture's features are from the expert's, and by how much the last policy comes nearer"
    )

    _: KW_ONLY
    method: Literal["max-margin", "projection"] = "max-margin"
    epsilon: float = 0.01

    def __post_init__(self):
        if self.method not in ("max-margin", "projection"):
            raise ValueError(f"method must be 'max-margin' or 'projection', got {self.method!r}")
        check_numbers(self, counts=("max_iterations",), rates=("epsilon",))

    def search(
        self, mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories, *, seed: int = 0
    ) -> "ApprenticeshipSearch":
        """A search at its start; its ``history`` has ``margin`` and ``gap`` of each iteration.

        Expectations are matched over the steps that were demonstrated, from the states in which demonstrations begin. Where these
        are all steps of the process, the policy is one with the occupancies of the mixture; otherwise it is the optimal one of
        the reward, and the mixture's policies are of the demonstrated steps.
        """
        part = of_demonstrated_steps(mdp, demonstrations)
        target = demonstrated_features(mdp, by_action(mdp, features), demonstrations)
        return ApprenticeshipSearch(self, part, features, target, whole=None if mdp.horizon == part.horizon else mdp)

    def match(self, mdp: TabularMDP, features: Tensor, target: Tensor) -> LearnedReward:
        """Match feature expectations that are known, ``(k,)``, from the process's own initial distribution.

        Raises:
            ValueError: features or target have another shape.
        """
        phi = by_action(mdp, features)
        target = torch.as_tensor(target).to(phi)
        if target.shape != phi.shape[-1:]:
            raise ValueError(f"target must have the shape (k,) = {tuple(phi.shape[-1:])}, got {tuple(target.shape)}")
        return searched(ApprenticeshipSearch(self, mdp, features, target))

    def nearest(self, shares: Tensor, points: Tensor, target: Tensor) -> Tensor:
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


class ApprenticeshipSearch(RewardSearch):
    """The state of apprenticeship learning: the policies so far and their shares.

    Args:
        settings: of the learner.
        mdp: in which expectations are matched.
        features: as they were handed in.
        target: expectations ``(k,)``.
        whole: the process for which a policy is wanted, where it is another one.
    """

    def __init__(
        self,
        settings: Apprenticeship,
        mdp: TabularMDP,
        features: Tensor,
        target: Tensor,
        whole: TabularMDP | None = None,
    ):
        super().__init__()
        self.settings, self.mdp, self.features, self.target, self.whole = settings, mdp, features, target, whole
        self.phi = by_action(mdp, features)
        self.visited: list[Tensor] = []
        self.policies: list[Tensor] = []
        self.points: list[Tensor] = []
        shape = (mdp.steps, mdp.states, mdp.actions) if mdp.finite else (mdp.states, mdp.actions)
        self._add(self.phi.new_full(shape, 1.0 / mdp.actions))
        self.shares = self.phi.new_ones(1)

    def _add(self, policy: Tensor) -> None:
        self.policies.append(policy)
        self.visited.append((occupancies_by_step if self.mdp.finite else occupancies)(self.mdp, policy))
        self.points.append(torch.einsum("...sa,sak->k", self.visited[-1], self.phi))

    @property
    def _mean(self) -> Tensor:
        return self.shares @ torch.stack(self.points)

    @property
    def reward(self) -> FeatureReward:
        """The reward of the weights of norm one in whose direction the mixture lacks most."""
        w = self.target - self._mean
        margin = float(w.norm())
        return linear_reward(w / margin if margin > 0 else w)

    def advance(self) -> None:
        """Add the best policy in the direction in which the mixture lacks most."""
        settings, mean = self.settings, self._mean
        w = self.target - mean
        margin = float(w.norm())
        self.log(margin=margin)
        self.iterations += 1
        if margin <= settings.epsilon or len(self.points) > settings.max_iterations:
            self.end(converged=margin <= settings.epsilon)
            return
        self._add(solve_mdp(self.mdp, self.phi @ (w / margin)).policy)
        gap = float(w @ (self.points[-1] - mean))
        self.log(gap=gap)
        if gap <= 1e-2 * settings.epsilon * margin:  # no mixture is closer by more than a hundredth of epsilon
            for found in (self.policies, self.visited, self.points):
                found.pop()
            self.end(converged=True)
        else:
            self.shares = settings.nearest(self.shares, torch.stack(self.points), self.target)

    def learned(self) -> LearnedReward:
        """What there is now."""
        reward, mdp = self.reward, self.mdp if self.whole is None else self.whole
        mixture = Mixture(self.shares, torch.stack(self.policies), torch.stack(self.points))
        rewards = rewards_of(reward, mdp, self.features)
        if self.whole is None:
            policy = _conditional(torch.einsum("n,n...->...", self.shares, torch.stack(self.visited)))
        else:
            policy = solve_mdp(mdp, mdp.expected_rewards(rewards)).policy
        return LearnedReward(reward, rewards, policy, self.converged, self.history, mixture)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes; all policies but the first are deterministic, so that choices are enough."""
        choices = [policy.argmax(-1) for policy in self.policies[1:]]
        return {**super().state_dict(), "choices": choices, "shares": self.shares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        for found in (self.policies, self.visited, self.points):
            del found[1:]
        for choice in state["choices"]:
            self._add(torch.nn.functional.one_hot(choice, self.mdp.actions).to(self.phi))
        self.shares = state["shares"]


def _conditional(visits: Tensor) -> Tensor:
    """The policy that visits states and actions so often (Puterman 1994, theorem 6.9.1); uniform where nothing is visited."""
    total = visits.sum(-1, keepdim=True)
    uniform = torch.full_like(visits, 1.0 / visits.shape[-1])
    return torch.where(total > 0, visits / total.clamp_min(torch.finfo(visits.dtype).tiny), uniform)
