r"""Maximum-entropy inverse reinforcement learning: the reward under which the demonstrated actions are most likely.

The demonstrator is a soft-optimal policy, :math:`\pi(a \mid s) = e^{(Q(s, a) - V(s)) / \tau}` (:mod:`planners.tabular`), of a
reward :math:`r_\theta = r_\theta(\phi(s, a))`, a linear function of features (Ziebart et al. 2008; Ziebart 2010 for stochastic
dynamics) or a network (Wulfmeier et al. 2015), and

.. math:: \max_\theta \; \frac1N \sum_{i, t} \log \pi_\theta(a_{i t} \mid s_{i t}) - \frac\lambda2 \|\theta\|^2 .

Since :math:`Q = r + \gamma P V` and V is the value of :math:`\pi` with its entropy, the derivative by rewards is that of
demonstrated minus expected visits,

.. math:: \tau \, \frac{\partial}{\partial r_{s a}} \sum_{i, t} \log \pi = \sum_t \bigl[ N_t(s, a) - D_t(s, a) \bigr], \qquad
    b_t(s') = N_t(s') - \gamma \sum_{s, a} P_{s a s'} N_{t-1}(s, a)

where N counts the demonstrations and D are the occupancies of :math:`\pi` of what enters by b. Where the dynamics are
deterministic, without discount, b is the demonstrations' first states alone and D what is expected from there, the familiar
difference of feature counts. Where they are not, b takes account of where chance led the demonstrator: this is the derivative
of the likelihood of actions given the states they were taken in, for demonstrations of any length, of which the familiar one is
a noisy estimate with a bias at the end of short demonstrations. A hard-optimal policy in place of the soft one, as in some
implementations, is no derivative of anything.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mbrl.irl.base import FeatureReward, LearnedReward, by_action, checked, rewards_of
from mbrl.irl.reward_learner import RewardLearner, RewardSearch
from mbrl.training.checking import check_numbers
from planners import TabularMDP, TabularSolution, TabularTrajectories, occupancies, solve_mdp


@dataclass(frozen=True)
class MaxEntIRL(RewardLearner):
    """Maximum-entropy inverse reinforcement learning with exact soft backups, linear or deep.

    Attributes:
        hidden: widths of hidden layers of the reward; none makes it linear in the features.
        l2: lambda, of the penalty on squared weights; without one the weights of demonstrations that are always optimal grow
            without end.
        temperature: tau, of the demonstrator; it sets the scale of the reward.
        optimizer: ``"lbfgs"``, or ``"adam"`` for networks whose minima L-BFGS finds too soon.
        learning_rate: of Adam.
        tolerance: largest derivative by a weight at which L-BFGS, and Adam, end.

    Raises:
        ValueError: a field is out of range.
    """

    word: ClassVar[str] = "maxent"
    shows: ClassVar[str] = "the penalized log-likelihood of the demonstrated actions"

    _: KW_ONLY
    hidden: tuple[int, ...] = ()
    l2: float = 0.01
    temperature: float = 1.0
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    learning_rate: float = 0.01
    tolerance: float = 1e-6

    def __post_init__(self):
        if any(not isinstance(width, int) or width < 1 for width in self.hidden):
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}")
        if self.optimizer not in ("lbfgs", "adam"):
            raise ValueError(f"optimizer must be 'lbfgs' or 'adam', got {self.optimizer!r}")
        check_numbers(
            self, counts=("max_iterations",), rates=("temperature", "learning_rate", "tolerance"), weights=("l2",)
        )

    def search(
        self, mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories, *, seed: int = 0
    ) -> "MaxEntSearch":
        """A search at its start; its ``history`` has the objective, to be maximized, after each iteration."""
        return MaxEntSearch(self, mdp, features, demonstrations, seed)


class MaxEntSearch(RewardSearch):
    """The state of maximum-entropy inverse reinforcement learning."""

    def __init__(
        self, settings: MaxEntIRL, mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories, seed: int
    ):
        super().__init__()
        phi = by_action(mdp, features)
        self.settings, self.mdp, self.features = settings, mdp, features
        self._reward = FeatureReward(phi.shape[-1], settings.hidden, seed=seed, dtype=phi.dtype).to(phi.device)
        self.objective = _Objective(settings, mdp, phi, demonstrations, self._reward)
        parameters = self.objective.parameters
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer == "adam":
            self.optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
        else:
            options = {"max_iter": 1, "max_eval": 10**6, "tolerance_grad": 0.0, "tolerance_change": 0.0}
            self.optimizer = torch.optim.LBFGS(parameters, history_size=10, line_search_fn="strong_wolfe", **options)

    @property
    def reward(self) -> FeatureReward:
        """The reward as it is now."""
        return self._reward

    def advance(self) -> None:
        """A step of the optimizer."""
        loss, tolerance = self.objective(), self.settings.tolerance
        if self.settings.optimizer == "adam":
            self.log(objective=-loss)
            if self.objective.slope() <= tolerance:
                self.end(converged=True)
            else:
                self.optimizer.step()
        else:
            self.optimizer.step(self.objective)  # type: ignore[arg-type]
            found = self.objective()
            self.log(objective=-found)
            rounding = max(1e-14, torch.finfo(self.objective.phi.dtype).eps) * max(abs(found), abs(loss), 1.0)
            if self.objective.slope() <= tolerance or loss - found <= rounding:
                self.end(converged=True)
        self.objective.forget()
        self.iterations += 1
        if self.iterations == self.settings.max_iterations:
            self.finished = True

    def learned(self) -> LearnedReward:
        """What there is now."""
        rewards = rewards_of(self._reward, self.mdp, self.features)
        policy = solve_mdp(self.mdp, self.mdp.expected_rewards(rewards), temperature=self.settings.temperature).policy
        return LearnedReward(self._reward, rewards, policy, self.converged, self.history)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        own = {"reward": self._reward.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**super().state_dict(), **own, "objective": self.objective.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self._reward.load_state_dict(state["reward"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])


def action_log_likelihood(
    mdp: TabularMDP, rewards: Tensor, demonstrations: TabularTrajectories, *, temperature: float = 1.0
) -> Tensor:
    """Log-probability of demonstrated actions under the soft-optimal policy, summed over demonstrations and steps.

    Its derivative by the rewards is exact, the difference of demonstrated and expected visits; there is no second one.

    Args:
        mdp: the process.
        rewards: ``(S, A)``.
        demonstrations: no longer than the horizon.
        temperature: of the policy.

    Raises:
        ValueError: shapes do not belong together, the temperature is not positive, or demonstrations do not fit the process.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; a hard-optimal policy has no likelihood")
    counts = checked(mdp, demonstrations).counts(mdp)
    return _likelihood(mdp, rewards, counts, temperature, None)[0]


def _likelihood(
    mdp: TabularMDP, rewards: Tensor, counts: Tensor, temperature: float, values: Tensor | None
) -> tuple[Tensor, TabularSolution]:
    """The log-likelihood of counts ``(T, S, A)``, attached to rewards ``(S, A)``, and the solution it is of."""
    with torch.no_grad():
        solution = solve_mdp(mdp, rewards, temperature=temperature, initial_values=values)
        steps = len(counts)
        Q, V = solution.action_values, solution.values
        if mdp.finite:
            Q, V = Q[:steps], V[:steps]
        log_policy = (Q - V.unsqueeze(-1)) / temperature
        visits = counts.sum(-1)
        visits[1:] -= mdp.discount * mdp.next_states(counts[:-1])  # what enters beyond what was expected
        after = -mdp.discount * mdp.next_states(counts[-1])  # and leaves after the last step
        if mdp.finite:
            entering = visits.new_zeros(mdp.steps, mdp.states)
            entering[:steps] = visits
            if steps < mdp.steps:
                entering[steps] = after
        else:
            entering = visits.sum(0) + after
        gradient = (counts.sum(0) - occupancies(mdp, solution.policy, entering=entering)) / temperature
        value = (counts * log_policy).sum()
    if not (rewards.requires_grad and torch.is_grad_enabled()):
        return value, solution
    return value + ((rewards - rewards.detach()) * gradient).sum(), solution


class _Objective:
    """The negative penalized log-likelihood of a reward, per demonstration; remembers values as a first guess of the next.

    What it was at the parameters that an optimizer tries in one step is remembered, too.
    """

    def __init__(
        self,
        settings: MaxEntIRL,
        mdp: TabularMDP,
        phi: Tensor,
        demonstrations: TabularTrajectories,
        reward: FeatureReward,
    ):
        self.settings, self.mdp, self.phi, self.reward = settings, mdp, phi, reward
        self.number, self.counts = demonstrations.number, demonstrations.counts(mdp)
        self.parameters = list(reward.parameters())
        self.values: Tensor | None = None
        self.known: list[tuple[Tensor, float, Tensor]] = []  # parameters, objective and derivatives

    def __call__(self) -> float:
        """Its value; derivatives are left in the parameters."""
        here = self._flat([p.detach() for p in self.parameters])
        for place, loss, gradient in self.known:
            if torch.equal(place, here):
                parts = gradient.split([p.numel() for p in self.parameters])
                for p, part in zip(self.parameters, parts, strict=True):
                    p.grad = part.view_as(p).clone()
                return loss
        for p in self.parameters:
            p.grad = None
        with torch.enable_grad():
            likelihood, solution = _likelihood(
                self.mdp, self.reward(self.phi), self.counts, self.settings.temperature, self.values
            )
            squares = sum(((p**2).sum() for p in self.parameters), start=likelihood.new_zeros(()))
            loss = 0.5 * self.settings.l2 * squares - likelihood / self.number
            loss.backward()
        if not self.mdp.finite:
            self.values = solution.values
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.known.append((here, float(loss.detach()), self._flat(found)))
        return self.known[-1][1]

    def slope(self) -> float:
        """Largest derivative at the parameters of the last call."""
        return max(float(p.grad.abs().max()) for p in self.parameters if p.grad is not None)

    def forget(self) -> None:
        """All but what it is at the present parameters, which comes first in the next step."""
        here = self._flat([p.detach() for p in self.parameters])
        self.known = [one for one in self.known if torch.equal(one[0], here)]

    def state_dict(self) -> dict[str, Any]:
        """What is remembered."""
        return {"values": self.values, "known": list(self.known)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember."""
        self.values, self.known = state["values"], [tuple(one) for one in state["known"]]

    @staticmethod
    def _flat(tensors: list[Tensor]) -> Tensor:
        return torch.cat([tensor.reshape(-1) for tensor in tensors])
