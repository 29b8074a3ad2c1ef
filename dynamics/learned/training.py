"""Gradient descent for ensembles: bootstrap, per-member best snapshot, early stopping, exact resume.

The whole data set is one tensor; each member draws minibatches from its own bootstrap sample. Every ``evaluate_every`` steps
each member is measured by its mean squared error on the validation data (the likelihood rises and falls with the variance head
and is a bad judge of the mean), its best weights are kept, and a checkpoint is written that resumes bit for bit.
"""

import dataclasses
import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.learned.base import TransitionData
from dynamics.learned.ensemble import Ensemble
from dynamics.progress import Advance


class FitError(RuntimeError):
    """Fitting could not go on; the message says why and what to do."""


@dataclass(frozen=True)
class Training:
    """How an ensemble is trained.

    Attributes:
        steps: gradient steps at most; the learning rate falls to zero over them (cosine).
        batch_size: transitions per member and step.
        learning_rate: of AdamW.
        weight_decay: of AdamW, on the weights.
        beta: exponent of the beta-NLL.
        bootstrap: whether each member sees its own sample of the data, drawn with replacement.
        evaluate_every: steps between validations.
        patience: validations without a gain of 1 % in any member's error after which training ends.

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


@dataclass
class _Run:
    """Everything that changes while training; what a checkpoint holds."""

    step: int
    stale: int
    best_error: Tensor  # (E,)
    best_weights: dict[str, Tensor]
    history: list[dict[str, float]]


def train_ensemble(
    model: Ensemble,
    data: TransitionData,
    validation: TransitionData,
    training: Training,
    *,
    generator: torch.Generator,
    checkpoint: Path | None,
    advance: Advance,
) -> list[dict[str, float]]:
    """Train in place and leave each member at its best snapshot.

    Args:
        model: the ensemble; its statistics are set from ``data``.
        data: transitions to learn from.
        validation: transitions that choose the snapshots and the end.
        training: settings.
        generator: source of randomness.
        checkpoint: file to resume from if it exists, and to write to.
        advance: told of each validation.

    Returns:
        One record per validation: ``step``, ``loss`` and ``error`` (validation RMSE of the normalized change).

    Raises:
        FitError: the loss is not finite, or the checkpoint belongs to another fit.
    """
    model.set_statistics(data)
    features, targets = model.features(data.x, data.u).float(), model.targets(data.x, data.x_next).float()
    sample = _bootstrap(model.num_members, len(data), training.bootstrap, generator)
    optimizer = _optimizer(model, training)
    run = _Run(0, 0, torch.full((model.num_members,), math.inf), _snapshot(model), [])
    fingerprint = _fingerprint(model, data, validation, training)
    if checkpoint is not None and checkpoint.exists():
        run = _resume(checkpoint, fingerprint, model, optimizer, generator)
    while run.step < training.steps and run.stale < training.patience:
        loss = torch.zeros(())
        for _ in range(min(training.evaluate_every, training.steps - run.step)):
            _set_learning_rate(optimizer, training, run.step)
            loss = _descend(model, optimizer, features, targets, sample, training, generator)
            run.step += 1
        _validate(model, validation, run, float(loss))
        advance(run.step, f"validation error {run.history[-1]['error']:.4f}")
        if checkpoint is not None:
            _write(checkpoint, fingerprint, run, model, optimizer, generator)
    _restore(model, run.best_weights)
    return run.history


def _descend(
    model: Ensemble,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    targets: Tensor,
    sample: Tensor,
    training: Training,
    generator: torch.Generator,
) -> Tensor:
    """One gradient step on a minibatch of each member's sample ``(E, N)``."""
    draw = torch.randint(sample.shape[1], (len(sample), training.batch_size), generator=generator)
    index = sample.gather(1, draw)
    losses = model.losses(features[index], targets[index], beta=training.beta)
    loss = losses.sum() + 0.01 * model.bounds_penalty()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return losses.detach().mean()


def _validate(model: Ensemble, validation: TransitionData, run: _Run, loss: float) -> None:
    """Measure the members and keep the best weights of each."""
    error = validation_error(model, validation)
    if not math.isfinite(loss) or not bool(error.isfinite().all()):
        raise FitError(
            f"training diverged at step {run.step}: loss {loss}, validation errors {error.tolist()}; lower the learning_rate "
            "or look for outliers with dynamics.audit(trajectories)"
        )
    gained = error < 0.99 * run.best_error
    better = error < run.best_error
    for name, best in run.best_weights.items():
        present = model.get_parameter(name).detach()
        if present.shape[0] == model.num_members and present.ndim == 3:
            best[better] = present[better]
        elif bool(better.any()):  # the shared log-variance bounds
            best.copy_(present)
    run.best_error = torch.where(better, error, run.best_error)
    run.stale = 0 if bool(gained.any()) else run.stale + 1
    run.history.append({"step": float(run.step), "loss": loss, "error": float(error.mean())})


@torch.no_grad()
def validation_error(model: Ensemble, validation: TransitionData) -> Tensor:
    """Root mean squared error of each member's normalized one-step change, ``(E,)``."""
    features = model.features(validation.x, validation.u).expand(model.num_members, -1, -1)
    mean, _ = model.outputs(features)
    return (mean - model.targets(validation.x, validation.x_next)).square().mean((-1, -2)).sqrt()


def _bootstrap(members: int, size: int, bootstrap: bool, generator: torch.Generator) -> Tensor:
    if bootstrap and members > 1:
        return torch.randint(size, (members, size), generator=generator)
    return torch.arange(size).expand(members, size)


def _optimizer(model: Ensemble, training: Training) -> torch.optim.AdamW:
    others = [*model.biases, model.max_logvar, model.min_logvar]
    groups = [
        {"params": list(model.weights), "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate)


def _set_learning_rate(optimizer: torch.optim.Optimizer, training: Training, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * training.learning_rate * (1.0 + math.cos(math.pi * step / training.steps))


def _snapshot(model: Ensemble) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _restore(model: Ensemble, weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        model.get_parameter(name).copy_(value)


# Checkpoints


def _fingerprint(model: Ensemble, data: TransitionData, validation: TransitionData, training: Training) -> str:
    """Identifies a fit: model, settings and data. A checkpoint of another fit must not be mixed in."""
    digest = hashlib.sha256(json.dumps([model.config(), dataclasses.asdict(training)], sort_keys=True).encode())
    for part in (data, validation):
        for tensor in (part.x, part.u, part.x_next):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write(
    path: Path,
    fingerprint: str,
    run: _Run,
    model: Ensemble,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    state = {
        "fingerprint": fingerprint,
        "run": dataclasses.asdict(run),
        "weights": _snapshot(model),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
    }
    partial = path.with_suffix(path.suffix + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, partial)
    os.replace(partial, path)  # a kill leaves the old checkpoint or the new one, never half of one


def _resume(
    path: Path, fingerprint: str, model: Ensemble, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> _Run:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:
        raise FitError(f"{path} is not a readable checkpoint ({error}); delete it to start over") from error
    if state.get("fingerprint") != fingerprint:
        raise FitError(
            f"{path} belongs to a fit of another model, with other settings or other data; delete it or choose another path"
        )
    _restore(model, state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    return _Run(**state["run"])
