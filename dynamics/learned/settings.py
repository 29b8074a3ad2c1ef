"""Settings of gradient training, and what goes wrong in it."""

from dataclasses import dataclass


class FitError(RuntimeError):
    """Fitting could not go on; the message says why and what to do."""


@dataclass(frozen=True)
class Training:
    """How networks are trained.

    Attributes:
        steps: gradient steps at most; the learning rate falls to zero over them (cosine).
        batch_size: transitions per member and step.
        learning_rate: of AdamW.
        weight_decay: of AdamW, on the weights.
        beta: exponent of the beta-NLL.
        bootstrap: each member sees its own sample of the data, drawn with replacement; without it, all of the data.
        evaluate_every: steps between validations.
        patience: validations after which training ends unless some member's error has fallen by 1 % meanwhile.

    Raises:
        ValueError: a value is out of range.
    """

    steps: int = 4000
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    beta: float = 0.5
    bootstrap: bool = True
    evaluate_every: int = 100
    patience: int = 20

    def __post_init__(self):
        for name in ("steps", "batch_size", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and 0 <= self.beta <= 1):
            raise ValueError(
                "need learning_rate > 0, weight_decay >= 0 and beta in [0, 1], got "
                f"{self.learning_rate}, {self.weight_decay} and {self.beta}"
            )
