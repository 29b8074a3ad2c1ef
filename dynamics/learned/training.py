"""Gradient descent for ensembles: bootstrap, per-member best snapshot, early stopping, exact resume.

The whole data set is one tensor; each member draws minibatches from its own bootstrap sample. Every ``evaluate_every`` steps
each member is measured on the validation data, its best weights are kept, and a checkpoint is written that resumes bit for bit.
The measure is the geometric mean over dimensions of the root mean squared error. Against the likelihood, it does not rise and
fall with the variance head; against the mean over dimensions, one that is mostly noise does not hide what is still being learned
about another. (It is the likelihood under the best constant variances.)
Data and minibatches are on the model's device; all random numbers are drawn on the CPU.
"""

import abc
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynamics.learned.base import LearnedDynamics, TransitionData
from dynamics.learned.settings import FitError, Training
from dynamics.progress import Advance, progress_bar

VALIDATION_ROWS = 5000
"""Transitions that a validation looks at; more would cost as much as the training between two of them."""


class TrainedDynamics(LearnedDynamics):
    """Base of models that learn by gradient descent: E members, each on minibatches of its own.

    Every parameter has the members as its first axis, so that each keeps its own best weights.
    """

    @abc.abstractmethod
    def outputs(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the normalized change for each member.

        Args:
            features: normalized features ``(E, N, num_features)``, a batch for each member.

        Returns:
            Two tensors ``(E, N, n)`` in the networks' dtype.
        """

    @abc.abstractmethod
    def losses(self, features: Tensor, targets: Tensor, *, beta: float = 0.5) -> Tensor:
        """Loss of each member on its own batch, ``(E,)``.

        Args:
            features: ``(E, N, num_features)``.
            targets: normalized changes ``(E, N, n)``.
            beta: exponent of the beta-NLL.
        """

    @abc.abstractmethod
    def decayed_parameters(self) -> list[nn.Parameter]:
        """The parameters that weight decay applies to."""

    def learn(
        self,
        data: TransitionData,
        validation: TransitionData,
        *,
        training: Training | None = None,
        generator: torch.Generator,
        checkpoint: Path | None = None,
        on_validation: Callable[[dict[str, float]], object] | None = None,
        progress: bool | None = None,
    ) -> list[dict[str, float]]:
        """Gradient training, see :class:`Training`; a model that has been fitted goes on from its weights."""
        training = Training() if training is None else training
        with progress_bar(f"fit {type(self).__name__}", training.steps, show=progress) as advance:
            return train_ensemble(
                self,
                data,
                validation,
                training,
                generator=generator,
                checkpoint=checkpoint,
                on_validation=on_validation,
                advance=advance,
            )


@dataclass
class _Run:
    """Everything that changes while training; what a checkpoint holds."""

    step: int
    stale: int
    best_error: Tensor  # (E,)
    gain_error: Tensor  # (E,), the error at the last gain of 1 %
    best_weights: dict[str, Tensor]
    history: list[dict[str, float]]


def train_ensemble(
    model: TrainedDynamics,
    data: TransitionData,
    validation: TransitionData,
    training: Training,
    *,
    generator: torch.Generator,
    checkpoint: Path | None,
    on_validation: Callable[[dict[str, float]], object] | None = None,
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
        on_validation: told of each record as it is made, of those in the checkpoint first.
        advance: shows how far training has come.

    Returns:
        One record per validation: ``step``, ``loss`` and ``error`` (:func:`validation_error`, mean over the members).

    Raises:
        FitError: the loss is not finite, or the checkpoint belongs to another fit.
    """
    model.set_statistics(data)
    model.num_transitions.zero_()  # not fitted until the end
    inputs, outputs = _normalized(model, data)
    rows = torch.linspace(0, len(validation) - 1, min(len(validation), VALIDATION_ROWS)).long()
    held_out = _normalized(model, TransitionData(validation.x[rows], validation.u[rows], validation.x_next[rows]))
    fingerprint = "" if checkpoint is None else _fingerprint(model, data, validation, training, generator)
    sample = _bootstrap(model.num_members, len(data), training.bootstrap, generator).to(inputs.device)
    optimizer = _optimizer(model, training)
    unknown = torch.full((model.num_members,), math.inf, device=inputs.device)
    run = _Run(0, 0, unknown, unknown, _snapshot(model), [])
    if checkpoint is not None and checkpoint.exists():
        run = _resume(checkpoint, fingerprint, model, optimizer, generator)
    tell = on_validation or (lambda record: None)
    for record in run.history:
        tell(record)
    while run.step < training.steps and run.stale < training.patience:
        loss = torch.zeros(())
        for index in _minibatches(sample, min(training.evaluate_every, training.steps - run.step), training, generator):
            _set_learning_rate(optimizer, training, run.step)
            loss = _descend(model, optimizer, inputs[index], outputs[index], training)
            run.step += 1
        _validate(model, *held_out, run, float(loss))
        tell(run.history[-1])
        advance(run.step, f"validation error {run.history[-1]['error']:.4f}")
        if checkpoint is not None:
            _write(checkpoint, fingerprint, run, model, optimizer, generator)
    _restore(model, run.best_weights)
    model.num_transitions.fill_(len(data))
    return run.history


def _normalized(model: TrainedDynamics, data: TransitionData) -> tuple[Tensor, Tensor]:
    """What the networks see, ``(N, num_features)``, and shall answer, ``(N, n)``, in their dtype."""
    dtype = next(model.parameters()).dtype
    return model.features(data.x, data.u).to(dtype), model.targets(data.x, data.x_next).to(dtype)


def _minibatches(sample: Tensor, steps: int, training: Training, generator: torch.Generator) -> Tensor:
    """Rows for each step, drawn from the sample ``(E, N)`` of each member, ``(steps, E, batch)``."""
    draw = torch.randint(sample.shape[1], (steps, len(sample), training.batch_size), generator=generator)
    return sample.expand(steps, -1, -1).gather(2, draw.to(sample.device))


def _descend(
    model: TrainedDynamics, optimizer: torch.optim.Optimizer, features: Tensor, targets: Tensor, training: Training
) -> Tensor:
    """One gradient step on a minibatch for each member, ``(E, batch, ...)``."""
    losses = model.losses(features, targets, beta=training.beta)
    optimizer.zero_grad()
    losses.sum().backward()  # of members that share no weight: each trains as if it were alone
    optimizer.step()
    return losses.detach().mean()


def _validate(model: TrainedDynamics, features: Tensor, targets: Tensor, run: _Run, loss: float) -> None:
    """Measure the members and keep the best weights of each."""
    error = validation_error(model, features, targets)
    if not math.isfinite(loss) or not bool(error.isfinite().all()):
        raise FitError(
            f"training diverged at step {run.step}: loss {loss}, validation errors {error.tolist()}; lower the learning_rate "
            "or look for outliers with dynamics.audit(trajectories)"
        )
    better = error < run.best_error
    gained = error < 0.99 * run.gain_error
    for name, best in run.best_weights.items():
        best[better] = model.get_parameter(name).detach()[better]
    run.best_error = torch.where(better, error, run.best_error)
    run.gain_error = torch.where(gained, error, run.gain_error)
    run.stale = 0 if bool(gained.any()) else run.stale + 1
    run.history.append({"step": float(run.step), "loss": loss, "error": float(error.mean())})


@torch.no_grad()
def validation_error(model: TrainedDynamics, features: Tensor, targets: Tensor) -> Tensor:
    """Geometric mean over dimensions of each member's root mean squared error, ``(E,)``; constant dimensions do not count.

    Args:
        model: the ensemble.
        features: normalized features ``(V, num_features)``.
        targets: normalized changes ``(V, n)``.
    """
    mean, _ = model.outputs(features.expand(model.num_members, -1, -1))
    log_error = 0.5 * (mean - targets).square().mean(1).clamp_min(1e-30).log()
    return torch.exp((log_error * model.changes).sum(-1) / model.changes.sum().clamp_min(1))


def _bootstrap(members: int, size: int, bootstrap: bool, generator: torch.Generator) -> Tensor:
    if bootstrap and members > 1:
        return torch.randint(size, (members, size), generator=generator)
    return torch.arange(size).expand(members, size)


def _optimizer(model: TrainedDynamics, training: Training) -> torch.optim.AdamW:
    decayed = model.decayed_parameters()
    others = [p for p in model.parameters() if not any(p is q for q in decayed)]
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)


def _set_learning_rate(optimizer: torch.optim.Optimizer, training: Training, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * training.learning_rate * (1.0 + math.cos(math.pi * step / training.steps))


def _snapshot(model: TrainedDynamics) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _restore(model: TrainedDynamics, weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        model.get_parameter(name).copy_(value)


# Checkpoints


def _fingerprint(
    model: TrainedDynamics,
    data: TransitionData,
    validation: TransitionData,
    training: Training,
    generator: torch.Generator,
) -> str:
    """Identifies a fit: model, settings, data and random numbers. A checkpoint of another fit must not be mixed in."""
    digest = hashlib.sha256(json.dumps([model.config(), dataclasses.asdict(training)], sort_keys=True).encode())
    digest.update(generator.get_state().numpy().tobytes())
    for part in (data, validation):
        for tensor in (part.x, part.u, part.x_next):
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _write(
    path: Path,
    fingerprint: str,
    run: _Run,
    model: TrainedDynamics,
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
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, partial)
    os.replace(partial, path)  # a kill leaves the old checkpoint or the new one, never half of one


def _resume(
    path: Path, fingerprint: str, model: TrainedDynamics, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> _Run:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=next(model.parameters()).device)
        found = state["fingerprint"]
    except Exception as error:  # whatever torch, pickle and zip raise on bytes that are not theirs
        raise FitError(f"{path} is not a readable checkpoint; delete it to start over") from error
    if found != fingerprint:
        raise FitError(
            f"{path} belongs to another fit: the model, the settings, the data or the seed differ; delete it or choose "
            "another path"
        )
    _restore(model, state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"].cpu())
    return _Run(**state["run"])
