"""What the contract checks share."""

from collections.abc import Callable

from torch import Tensor


class ContractError(AssertionError):
    """A class does not do what its contract says."""


def require(condition: bool, sentence: str) -> None:
    """Raise ContractError with the sentence unless the condition holds."""
    if not condition:
        raise ContractError(sentence)


def require_close(actual: Tensor, expected: Tensor, tolerance: float, sentence: str) -> None:
    """The largest difference is at most ``tolerance`` times (1 + the largest expected magnitude)."""
    actual, expected = actual.detach(), expected.detach()
    require(actual.shape == expected.shape, f"{sentence}: shapes {tuple(actual.shape)} and {tuple(expected.shape)}")
    if actual.numel() == 0:
        return
    error = float((actual - expected).abs().max())
    allowed = tolerance * (1 + float(expected.abs().max()))
    require(error <= allowed, f"{sentence}: they differ by {error:.2g}, allowed is {allowed:.2g}")


def require_value_error(call: Callable[[], object], sentence: str, *words: str) -> None:
    """The call raises a ValueError whose text has all words."""
    try:
        call()
    except ValueError as error:
        missing = [word for word in words if word not in str(error)]
        if missing:
            raise ContractError(f"{sentence}: the error must name {', '.join(missing)}, it says: {error}") from error
    except Exception as error:
        raise ContractError(f"{sentence}: must raise ValueError, raised {type(error).__name__}: {error}") from error
    else:
        raise ContractError(f"{sentence}: must raise ValueError, returned")
