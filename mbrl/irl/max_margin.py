r"""Maximum margin planning (Ratliff, Bagnell and Zinkevich 2006): a reward that prefers what was demonstrated by a margin.

.. math:: \min_w J(w) = \frac\lambda2 \|w\|^2 + \max_\pi \bigl[ w^\top f_\pi + \ell_\pi \bigr] - w^\top f_E, \qquad
    f_\pi = \sum_{s, a} D_\pi(s, a) \phi(s, a), \quad \ell_\pi = \sum_{s, a} D_\pi(s, a) \, \ell(s, a)

with the occupancies D of a policy, the demonstrations' average features :math:`f_E`, and a loss :math:`\ell(s, a)` of one
wherever nothing like it was demonstrated: the more a policy disagrees, the larger the margin it is beaten by. The maximum is
planning with the reward :math:`w^\top \phi + \ell`, over as many steps as were demonstrated and from the same first states, so
that demonstrations that stop early are not held against those that go on. The paper has one such term for each of many maps;
here all demonstrations are of one process and make one.

J is strongly convex. Each plan is a cut, :math:`J(w) \ge \frac\lambda2 \|w\|^2 + w^\top (f_j - f_E) + \ell_j`:

- as a quadratic program, over all cuts so far, with the most violated one added until there is none;
- by sub-gradient steps :math:`w \leftarrow w - \frac{1}{\lambda t} g_t`, after which :math:`w = \frac{1}{\lambda t} \sum_j (f_E -
  f_j)`, so that t equal multipliers are a solution of the dual problem.

Both have a lower bound of the minimum from that dual,

.. math:: \max_{\alpha \ge 0, \; \mathbf 1^\top \alpha = 1} \; \alpha^\top \ell
    - \frac{1}{2 \lambda} \Bigl\| f_E - \sum_j \alpha_j f_j \Bigr\|^2,

and end where J is within the tolerance of it.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mbrl.irl.base import (
    FeatureReward,
    LearnedReward,
    by_action,
    demonstrated_features,
    linear_reward,
    of_demonstrated_steps,
    rewards_of,
)
from mbrl.irl.reward_learner import RewardLearner, RewardSearch
from mbrl.training.checking import check_numbers
from planners import TabularMDP, TabularTrajectories, backward_induction, occupancies, solve_mdp


@dataclass(frozen=True)
class MaxMargin(RewardLearner):
    """Maximum margin planning, a linear reward.

    Attributes:
        l2: lambda, of the squared norm of the weights.
        margin: the loss of a step of which nothing like it was demonstrated.
        solver: ``"qp"``, quadratic programs with constraint generation, or ``"subgradient"``.
        tolerance: distance of the objective from its lower bound at which learning ends, relative to the objective and 1.

    Raises:
        ValueError: a field is out of range.
    """

    word: ClassVar[str] = "maxmargin"
    shows: ClassVar[str] = "the objective of the margin and its lower bound"

    _: KW_ONLY
    l2: float = 0.01
    margin: float = 1.0
    solver: Literal["qp", "subgradient"] = "qp"
    tolerance: float = 1e-6

    def __post_init__(self):
        if self.solver not in ("qp", "subgradient"):
            raise ValueError(f"solver must be 'qp' or 'subgradient', got {self.solver!r}")
        check_numbers(self, counts=("max_iterations",), rates=("l2", "margin", "tolerance"))

    def search(
        self, mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories, *, seed: int = 0
    ) -> "MaxMarginSearch":
        """A search at its start; its ``history`` has ``objective`` and ``bound`` after each iteration."""
        return MaxMarginSearch(self, mdp, features, demonstrations)


class MaxMarginSearch(RewardSearch):
    """The state of maximum margin planning."""

    def __init__(self, settings: MaxMargin, mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories):
        super().__init__()
        phi = by_action(mdp, features)
        self.settings, self.mdp, self.features = settings, mdp, features
        self.cuts = _Cuts(settings, mdp, phi, demonstrations)
        self.tried = self.best = phi.new_zeros(phi.shape[-1])
        self.lowest, self.highest = float("inf"), -float("inf")

    @property
    def reward(self) -> FeatureReward:
        """The reward of the best weights."""
        return linear_reward(self.best)

    def advance(self) -> None:
        """Plan against the latest weights, and choose the next."""
        objective = self.cuts.add(self.tried)
        if objective < self.lowest:
            self.lowest, self.best = objective, self.tried
        solver = self.cuts.minimized if self.settings.solver == "qp" else self.cuts.averaged
        self.tried, bound = solver()
        self.highest = max(self.highest, bound)
        self.log(objective=self.lowest, bound=self.highest)
        self.iterations += 1
        if self.lowest - self.highest <= self.settings.tolerance * max(1.0, abs(self.lowest)):
            self.end(converged=True)
        elif self.iterations == self.settings.max_iterations:
            self.end(converged=False)

    def learned(self) -> LearnedReward:
        """What there is now."""
        rewards = rewards_of(self.reward, self.mdp, self.features)
        policy = solve_mdp(self.mdp, self.mdp.expected_rewards(rewards)).policy
        return LearnedReward(self.reward, rewards, policy, self.converged, self.history)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        own = {"tried": self.tried, "best": self.best, "lowest": self.lowest, "highest": self.highest}
        return {**super().state_dict(), **own, "cuts": self.cuts.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self.tried, self.best = state["tried"], state["best"]
        self.lowest, self.highest = state["lowest"], state["highest"]
        self.cuts.load_state_dict(state["cuts"])


class _Cuts:
    """The plans so far: their features less those of the demonstrations, and their losses."""

    def __init__(self, settings: MaxMargin, mdp: TabularMDP, phi: Tensor, demonstrations: TabularTrajectories):
        self.l2, self.phi = settings.l2, phi
        self.mdp = of_demonstrated_steps(mdp, demonstrations)
        self.expert = demonstrated_features(mdp, phi, demonstrations)
        self.loss = settings.margin * (demonstrations.counts(mdp).sum(0) == 0).to(phi)
        self.excess: list[Tensor] = []  # f_j - f_E, (k,)
        self.losses: list[Tensor] = []
        self.sum_of_excess, self.sum_of_losses = torch.zeros_like(self.expert), phi.new_zeros(())

    def add(self, w: Tensor) -> float:
        """Plan with the loss against weights; their objective."""
        D = occupancies(self.mdp, backward_induction(self.mdp, self.phi @ w + self.loss).policy)
        self.excess.append(torch.einsum("sa,sak->k", D, self.phi) - self.expert)
        self.losses.append((D * self.loss).sum())
        self.sum_of_excess, self.sum_of_losses = (
            self.sum_of_excess + self.excess[-1],
            self.sum_of_losses + self.losses[-1],
        )
        return float(0.5 * self.l2 * w @ w + w @ self.excess[-1] + self.losses[-1])

    def minimized(self) -> tuple[Tensor, float]:
        """The weights that are best for all cuts, and the bound."""
        import cvxpy as cp

        F, loss = torch.stack(self.excess), torch.stack(self.losses)
        scale = 1.0 / self.l2**0.5
        alpha = cp.Variable(len(F), nonneg=True)
        simplex: list[Any] = [cp.sum(alpha) == 1]
        gap = cp.sum_squares((scale * F.T.double().cpu().numpy()) @ alpha)
        program = cp.Problem(cp.Maximize(loss.double().cpu().numpy() @ alpha - 0.5 * gap), simplex)
        program.solve(solver=cp.CLARABEL)
        shares = torch.as_tensor(alpha.value).to(F).clamp_min(0)
        shares = shares / shares.sum()
        return self._dual(shares @ F, shares @ loss)

    def averaged(self) -> tuple[Tensor, float]:
        """The weights after a sub-gradient step, and the bound."""
        return self._dual(self.sum_of_excess / len(self.losses), self.sum_of_losses / len(self.losses))

    def state_dict(self) -> dict[str, Any]:
        """The plans."""
        sums = {"sum_of_excess": self.sum_of_excess, "sum_of_losses": self.sum_of_losses}
        return {"excess": list(self.excess), "losses": list(self.losses), **sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over plans."""
        self.excess, self.losses = list(state["excess"]), list(state["losses"])
        self.sum_of_excess, self.sum_of_losses = state["sum_of_excess"], state["sum_of_losses"]

    def _dual(self, excess: Tensor, loss: Tensor) -> tuple[Tensor, float]:
        """Weights and bound of an average of the cuts."""
        w = -excess / self.l2
        return w, float(loss - 0.5 * self.l2 * w @ w)
