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

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mbrl.irl.base import FeatureReward, LearnedReward, RewardLearner, by_action, checked, rewards_of
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
        max_iterations: of the optimizer.
        tolerance: largest derivative by a weight at which L-BFGS, and Adam, end.

    Raises:
        ValueError: a field is out of range.
    """

    hidden: tuple[int, ...] = ()
    l2: float = 0.01
    temperature: float = 1.0
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    learning_rate: float = 0.01
    max_iterations: int = 200
    tolerance: float = 1e-6

    def __post_init__(self):
        if any(not isinstance(width, int) or width < 1 for width in self.hidden):
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}")
        if self.optimizer not in ("lbfgs", "adam"):
            raise ValueError(f"optimizer must be 'lbfgs' or 'adam', got {self.optimizer!r}")
        check_numbers(
            self, counts=("max_iterations",), rates=("temperature", "learning_rate", "tolerance"), weights=("l2",)
        )

    def learn(
        self, mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories, *, seed: int = 0
    ) -> LearnedReward:
        """Learn; see :meth:`RewardLearner.learn`. ``history`` has the objective, to be maximized, at each evaluation."""
        phi, demonstrations = by_action(mdp, features), checked(mdp, demonstrations)
        reward = FeatureReward(phi.shape[-1], self.hidden, seed=seed, dtype=phi.dtype).to(phi.device)
        objective = _Objective(self, mdp, phi, demonstrations, reward)
        converged = (_minimized_by_lbfgs if self.optimizer == "lbfgs" else _minimized_by_adam)(self, objective)
        rewards = rewards_of(reward, mdp, features)
        policy = solve_mdp(mdp, mdp.expected_rewards(rewards), temperature=self.temperature).policy
        return LearnedReward(reward, rewards, policy, converged, {"objective": objective.history})


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
    """The negative penalized log-likelihood of a reward, per demonstration; remembers values as a first guess of the next."""

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
        self.history: list[float] = []

    def __call__(self) -> float:
        """Its value; derivatives are left in the parameters."""
        for p in self.parameters:
            p.grad = None
        likelihood, solution = _likelihood(
            self.mdp, self.reward(self.phi), self.counts, self.settings.temperature, self.values
        )
        if not self.mdp.finite:
            self.values = solution.values
        penalty = 0.5 * self.settings.l2 * sum(((p**2).sum() for p in self.parameters), start=likelihood.new_zeros(()))
        loss = penalty - likelihood / self.number
        loss.backward()
        self.history.append(-float(loss.detach()))
        return float(loss.detach())

    def gradient(self) -> np.ndarray:
        """All derivatives in a row."""
        return np.concatenate(
            [
                np.zeros(p.numel()) if p.grad is None else p.grad.double().flatten().cpu().numpy()
                for p in self.parameters
            ]
        )

    def place(self, numbers: np.ndarray) -> None:
        """Set all parameters."""
        parts = torch.as_tensor(numbers).split([p.numel() for p in self.parameters])
        with torch.no_grad():
            for p, part in zip(self.parameters, parts, strict=True):
                p.copy_(part.view_as(p))


def _minimized_by_lbfgs(settings: MaxEntIRL, objective: _Objective) -> bool:
    from scipy.optimize import minimize

    def evaluated(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        objective.place(numbers)
        return objective(), objective.gradient()

    start = np.concatenate([p.detach().double().flatten().cpu().numpy() for p in objective.parameters])
    options = {"maxiter": settings.max_iterations, "gtol": settings.tolerance, "ftol": 1e-14, "maxfun": 10**6}
    found = minimize(evaluated, start, jac=True, method="L-BFGS-B", options=options)
    objective.place(found.x)
    return bool(found.success)


def _minimized_by_adam(settings: MaxEntIRL, objective: _Objective) -> bool:
    optimizer = torch.optim.Adam(objective.parameters, lr=settings.learning_rate)
    for _ in range(settings.max_iterations):
        objective()
        if np.abs(objective.gradient()).max() <= settings.tolerance:
            return True
        optimizer.step()
    return False
