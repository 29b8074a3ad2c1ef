r"""Constraints of a problem.

.. math:: g(x_t, u_t, t) \le 0 \quad \text{or} \quad h(x_t, u_t, t) = 0, \qquad t = 0 \dots T-1

and the same, as functions of the state alone, for the last state x_T. A soft constraint may be violated at a price: with the
slack s = max(g, 0), or s = abs(h), it costs

.. math:: \varphi(s) = v s + \tfrac{w}{2} s^2 .

The linear part makes the penalty exact: the constraint holds wherever its multiplier would be smaller than v.
"""

import abc
import math
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Slack:
    r"""The price of violating a soft constraint by s: :math:`v s + \tfrac{w}{2} s^2` for each row, at each step.

    Attributes:
        linear: v.
        quadratic: w.

    Raises:
        ValueError: a weight is negative or not finite, or both are zero.
    """

    linear: float = 0.0
    quadratic: float = 0.0

    def __post_init__(self):
        finite = math.isfinite(self.linear) and math.isfinite(self.quadratic)
        if not (finite and self.linear >= 0 and self.quadratic >= 0 and self.linear + self.quadratic > 0):
            raise ValueError(
                f"a slack needs weights that are finite, not negative and not both zero, got linear={self.linear} and "
                f"quadratic={self.quadratic}; leave soft=None for a hard constraint"
            )

    def __call__(self, violation: Tensor) -> Tensor:
        """The price of each violation, of any shape."""
        return self.linear * violation + 0.5 * self.quadratic * violation.square()


class Constraint(nn.Module, abc.ABC):
    """Rows that must not be positive (an inequality) or must be zero (an equality).

    Args:
        name: what messages and reports call it; the name of its class by default.
        soft: the price of violating it; None makes it hard.

    Attributes:
        of_state: whether the rows depend on the state alone. Such a constraint may be one on the last state too, and does not
            count at the first, which no plan changes.
        is_affine: whether the rows are affine in (x, u), so that the constraint is convex.
    """

    of_state: bool = False
    is_affine: bool = False

    def __init__(self, *, name: str | None = None, soft: Slack | None = None):
        super().__init__()
        if soft is not None and not isinstance(soft, Slack):
            raise TypeError(f"soft must be a Slack such as Slack(linear=10.0), or None, got {soft!r}")
        self.name = type(self).__name__ if name is None else name
        self.soft = soft

    @property
    @abc.abstractmethod
    def equality(self) -> bool:
        """Whether the rows must be zero, and not only not positive; a class says so by an attribute."""

    @abc.abstractmethod
    def value(self, x: Tensor, u: Tensor | None, t: int | Tensor | None) -> Tensor:
        """The rows at states ``(*batch, n)``, controls ``(*batch, m)`` and steps that broadcast to batch: ``(*batch, k)``.

        A constraint of the state alone ignores u and t, which may be None.
        """

    def violation(self, x: Tensor, u: Tensor | None = None, t: int | Tensor | None = None) -> Tensor:
        """By how much each row is violated, ``(*batch, k)``; zero where it holds."""
        value = self.value(x, u, t)
        return value.abs() if self.equality else value.clamp_min(0)

    def extra_repr(self) -> str:
        """The line that ``print(constraint)`` shows."""
        return f"name={self.name!r}" + ("" if self.soft is None else f", soft={self.soft}")
