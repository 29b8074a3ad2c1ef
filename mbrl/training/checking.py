"""Settings that are numbers, checked in one way."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def check_numbers(
    settings: Any,
    *,
    counts: Iterable[str] = (),
    tallies: Iterable[str] = (),
    rates: Iterable[str] = (),
    bounds: Iterable[str] = (),
    weights: Iterable[str] = (),
    shares: Iterable[str] = (),
) -> None:
    """Raise ValueError unless settings are what they must be.

    Args:
        settings: what has them as attributes.
        counts: names of integers of at least 1.
        tallies: of integers of at least 0.
        rates: of finite positive numbers.
        bounds: of positive numbers, infinity for no bound.
        weights: of finite numbers that are not negative.
        shares: of numbers in [0, 1].

    Raises:
        ValueError: one is not.
    """
    kinds = (
        (counts, "an integer of at least 1", lambda v: isinstance(v, Integral) and int(v) >= 1),
        (tallies, "an integer of at least 0", lambda v: isinstance(v, Integral) and int(v) >= 0),
        (rates, "a finite positive number", lambda v: isinstance(v, Real) and 0 < float(v) < math.inf),
        (bounds, "a positive number", lambda v: isinstance(v, Real) and float(v) > 0),
        (weights, "a finite number and not negative", lambda v: isinstance(v, Real) and 0 <= float(v) < math.inf),
        (shares, "a number in [0, 1]", lambda v: isinstance(v, Real) and 0 <= float(v) <= 1),
    )
    for names, expected, fits in kinds:
        for name in names:
            value = getattr(settings, name)
            if isinstance(value, bool) or not fits(value):
                raise ValueError(f"{name} must be {expected}, got {value!r}")
