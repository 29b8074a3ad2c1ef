r"""Telling the steps of an expert from those of a learner: logistic regression on rows of transitions.

.. math:: D = \sigma(l), \qquad l = f_\theta(y, u, y') - \log q, \qquad
    \min_\theta \; -\tfrac12 \mathbb E_E[\log D] - \tfrac12 \mathbb E_\pi[\log(1 - D)]
    + \lambda \, \mathbb E\bigl[|\nabla f_\theta|^2\bigr]

with :math:`q = 1` (Ho and Ermon 2016) or :math:`q = \pi(u | y)` (Fu, Luo and Levine 2018). As many rows of either are drawn, so
that the optimum is :math:`l = \log p_E - \log p_\pi`.

The penalty is taken between rows of expert and learner and is centered at zero (Thanh-Tung, Tran and Venkatesh 2019,
arXiv:1902.03984; on data alone Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406). That of Gulrajani et al. 2017, which
Kostrikov et al. 2019 took over, pulls the length of the gradient to 1. The critic of a Wasserstein distance has that slope, a
ratio of densities has not: it is flat where learner and expert are the same, and the pull makes a slope of it that leads away
from the expert. Where the expert's rows lie close together, the pull hides what tells them from others nearby.

With :math:`q = \pi(u | y)` the optimum is :math:`f = \log \pi_E`, as steep as the expert is sure of what it does, and any penalty
on :math:`\nabla f` keeps it from that: the learner then gains more by the entropy of its policy than by doing what the expert
does. So by default there is a penalty with :math:`q = 1`, and none with :math:`q = \pi`; there more steps are taken, too, as f
has to keep up with the entropy. With :math:`q = 1` that many may do harm where demonstrations are few.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from mbrl.irl.reward_network import RewardModel
from mbrl.policies.networks import ACTIVATIONS
from mbrl.training.checking import check_numbers
from mbrl.training.flat_parameters import FlatParameters
from mbrl.training.processes import Processes


@dataclass(frozen=True)
class DiscriminatorSettings:
    """What a discriminator looks like, and how it learns.

    Attributes:
        hidden: widths of the layers.
        activation: of the layers, as of a policy's network.
        normalize: whether observations are normalized by running statistics of expert and learner, half of either.
        spectral_norm: whether layers are divided by their largest singular value.
        updates: steps of Adam in each iteration; by default 16, and 64 where log-probabilities of a policy are in the logits.
        batch_size: rows of the expert in a step, and as many of the learner; of each process.
        learning_rate: of Adam.
        gradient_penalty: lambda, 0 for none; by default 0.1, and 0 where log-probabilities of a policy are in the logits.
        label_smoothing: s in [0, 0.5): targets are 1 - s for the expert and s for the learner.
        weight_decay: decoupled, of weight matrices alone.
        dtype: ``"float32"`` or ``"float64"``.

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    normalize: bool = True
    spectral_norm: bool = False
    updates: int | None = None
    batch_size: int = 256
    learning_rate: float = 1e-3
    gradient_penalty: float | None = None
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_numbers(
            self,
            counts=("batch_size",) if self.updates is None else ("updates", "batch_size"),
            rates=("learning_rate",),
            weights=("label_smoothing", "weight_decay"),
        )
        if self.gradient_penalty is not None:
            check_numbers(self, weights=("gradient_penalty",))
        if self.label_smoothing >= 0.5:
            raise ValueError(f"label_smoothing must be less than 0.5, got {self.label_smoothing}")
        if any(isinstance(width, bool) or not isinstance(width, int) or width < 1 for width in self.hidden):
            raise ValueError(f"hidden must be whole numbers of at least 1, got {self.hidden}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")

    def number_of_updates(self, compares_policies: bool) -> int:
        """Steps of Adam, for logits with or without the log-probabilities of a policy."""
        if self.updates is None:
            return 64 if compares_policies else 16
        return self.updates

    def penalty(self, compares_policies: bool) -> float:
        """Lambda, for logits with or without the log-probabilities of a policy."""
        if self.gradient_penalty is None:
            return 0.0 if compares_policies else 0.1
        return self.gradient_penalty


@dataclass(frozen=True, eq=False)
class Rows:
    """Steps of an expert or a learner, as a discriminator sees them.

    Attributes:
        rows: of the encoding, ``(N, dim)``.
        log_probs: log q of each, ``(N,)``.
        absorbed: so many more steps in the absorbing state, which are all the same.
    """

    rows: Tensor
    log_probs: Tensor
    absorbed: int = 0

    def draw(self, number: int, absorbing: Tensor | None, generator: torch.Generator) -> Self:
        """So many rows at random, each as often as the others.

        Args:
            number: of rows.
            absorbing: the row of a step in the absorbing state, where there is one.
            generator: source of randomness.
        """
        N = len(self.rows)
        which = torch.randint(N + self.absorbed, (number,), generator=generator, device=generator.device)
        real = which.clamp_max(N - 1)
        rows, log_probs = self.rows[real], self.log_probs[real]
        if self.absorbed and absorbing is not None:
            over = which >= N
            rows = torch.where(over.unsqueeze(-1), absorbing.to(rows), rows)
            log_probs = torch.where(over, 0.0, log_probs)  # nothing is chosen any more
        return type(self)(rows, log_probs)


class Discriminator:
    """A discriminator and its descent.

    Args:
        settings: of the descent.
        model: f, trained in place.
        generator: source of the rows of each step.
        processes: that train together, each on rows of its own.
        compares_policies: whether q is the probability of a policy, instead of 1.

    Attributes:
        model: f.
        penalty: lambda.
        updates: steps in each iteration.
        optimizer: Adam.
    """

    def __init__(
        self,
        settings: DiscriminatorSettings,
        model: RewardModel,
        generator: torch.Generator,
        processes: Processes,
        *,
        compares_policies: bool = False,
    ):
        self.settings, self.model, self.generator, self.processes = settings, model, generator, processes
        self.penalty = settings.penalty(compares_policies)
        self.updates = settings.number_of_updates(compares_policies)
        self._flat = FlatParameters(model)
        decays = [torch.full_like(p, settings.weight_decay * (p.ndim > 1)).flatten() for p in model.parameters()]
        self._decay = torch.cat(decays)
        self.optimizer = torch.optim.Adam([self._flat.vector], lr=settings.learning_rate, fused=True)
        encoding = model.encoding
        self._absorbing = encoding.absorbing_row().to(model.device, model.dtype) if encoding.absorbing else None

    def update(self, expert: Rows, learner: Rows) -> dict[str, float]:
        """The steps of an iteration; the numbers of each, on average."""
        size, found = self.settings.batch_size, []
        self.model.train()  # the singular values of a spectral norm are iterated
        for _ in range(self.updates):
            batches = (rows.draw(size, self._absorbing, self.generator) for rows in (expert, learner))
            found.append(self.descend(*batches))
        self.model.eval()
        mean = self.processes.sum(torch.stack(found).mean(0) / self.processes.number).tolist()
        names = ("discriminator_loss", "discriminator_entropy", "expert_accuracy", "learner_accuracy")
        return {f"train/{name}": value for name, value in zip(names, mean, strict=True)}

    def descend(self, expert: Rows, learner: Rows) -> Tensor:
        """One step of Adam on all of these rows.

        Returns:
            Loss, entropy of the discriminator's opinion [nats], and the shares of the expert's and of the learner's rows that it
            took for what they are, before the step: ``(4,)`` float64.
        """
        settings = self.settings
        of_expert, of_learner = (self.model.of_rows(rows.rows) - rows.log_probs for rows in (expert, learner))
        s = settings.label_smoothing
        loss = 0.5 * (
            cross_entropy(of_expert, torch.full_like(of_expert, 1 - s))
            + cross_entropy(of_learner, torch.full_like(of_learner, s))
        )
        objective = loss
        if self.penalty:
            objective = loss + self.penalty * self._squared_slope(expert.rows, learner.rows)
        self._flat.zero_gradients()
        (objective / self.processes.number).backward()
        self.processes.sum_into(self._flat.gradient)
        if settings.weight_decay:
            self._flat.vector.detach().mul_(1 - settings.learning_rate * self._decay)
        self.optimizer.step()
        with torch.no_grad():
            logits = torch.cat([of_expert, of_learner])
            entropy = cross_entropy(logits, logits.sigmoid())
            right = (of_expert > 0).double().mean(), (of_learner < 0).double().mean()
            return torch.stack([loss.detach().double(), entropy.double(), *right]).cpu()

    def _squared_slope(self, expert: Tensor, learner: Tensor) -> Tensor:
        number = min(len(expert), len(learner))
        share = torch.rand(number, 1, generator=self.generator, device=self.generator.device).to(expert)
        between = (share * expert[:number] + (1 - share) * learner[:number]).requires_grad_()
        (gradient,) = torch.autograd.grad(self.model.of_rows(between).sum(), between, create_graph=True)
        return gradient.square().sum(-1).mean()

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
