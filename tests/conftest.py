import pytest
import torch

torch.set_num_threads(1)  # small tensors: threads only wait for each other, three times slower on a busy machine


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
