"""Training an ensemble of 7 networks, 4 x 200, on 10,000 transitions of 17 + 6 dimensions, batch 256 (s per epoch)."""

from typing import Any

import torch
from harness import interleave, matmul_gflops

from dynamics import Ensemble, Training
from dynamics.learned.base import TransitionData
from dynamics.learned.training import train_ensemble

STATES, CONTROLS, TRANSITIONS, BATCH = 17, 6, 10_000, 256


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per number of threads; ratio: achieved rate over that of plain matrix products in the same run.

    An epoch is as many steps as it takes each member to see 10,000 transitions. Arithmetic is counted as
    2 x parameters x batch for the forward pass and twice that for the backward pass; optimizer and validation count as time
    only.
    """
    epochs, repeats = (1, 3) if quick else (2, 9)
    return [_row(threads, epochs, repeats) for threads in sorted({1, torch.get_num_threads()})]


def _row(threads: int, epochs: int, repeats: int) -> dict[str, Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        data, validation = _transitions(TRANSITIONS, seed=0), _transitions(TRANSITIONS // 10, seed=1)
        steps = epochs * round(TRANSITIONS / BATCH)
        training = Training(steps=steps, batch_size=BATCH, evaluate_every=steps // epochs)

        def train() -> None:
            model = Ensemble(STATES, CONTROLS, 0.05, members=7, hidden=(200,) * 4)
            generator = torch.Generator().manual_seed(0)
            train_ensemble(
                model, data, validation, training, generator=generator, checkpoint=None, advance=lambda *_, **__: None
            )

        seconds = interleave(repeats, train=train)["train"].median
        peak = matmul_gflops(size=1024, repeats=repeats)
    finally:
        torch.set_num_threads(before)
    parameters = sum(p.numel() for p in Ensemble(STATES, CONTROLS, 0.05, members=7, hidden=(200,) * 4).parameters())
    rate = 1e-9 * 3 * 2 * parameters * BATCH * steps / seconds
    return {
        "threads": threads,
        "s per epoch": seconds / epochs,
        "ms per step": 1e3 * seconds / steps,
        "GFLOP/s": rate,
        "peak GFLOP/s": peak,
        "ratio": rate / peak,
    }


def _transitions(size: int, seed: int) -> TransitionData:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, STATES, generator=generator, dtype=torch.float64)
    u = torch.randn(size, CONTROLS, generator=generator, dtype=torch.float64)
    return TransitionData(x, u, x + 0.1 * torch.tanh(x.roll(1, dims=-1) + u.mean(-1, keepdim=True)))
