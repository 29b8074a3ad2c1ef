import signal

import pytest
import torch

torch.set_num_threads(1)  # small tensors: threads only wait for each other, three times slower on a busy machine


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts, here and in processes started from here; a shell that runs tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
