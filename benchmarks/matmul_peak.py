"""Plain matrix products in torch: the peak that achieved rates are divided by [GFLOP/s]."""

from typing import Any

import torch
from harness import matmul_gflops


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per device, number type and size; ratio: over the fastest of the same device and number type."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    sizes, repeats = ((256, 1024), 5) if quick else ((256, 512, 1024, 2048, 4096), 15)
    return [
        row
        for device in devices
        for dtype in (torch.float32, torch.float64)
        for row in _rows(device, dtype, sizes, repeats)
    ]


def _rows(device: str, dtype: torch.dtype, sizes: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    rates = {size: matmul_gflops(dtype, size, device=device, repeats=repeats) for size in sizes}
    peak = max(rates.values())
    return [
        {
            "device": device,
            "dtype": str(dtype).removeprefix("torch."),
            "size": size,
            "GFLOP/s": rate,
            "ratio": rate / peak,
        }
        for size, rate in rates.items()
    ]
