"""Fields of a configuration as descriptions of what sets them: sliders, check boxes, choices.

A configuration is a frozen dataclass: a planner, a policy, or :class:`~planners.MPC`, whose planner and problem are
configurations in turn. It states no ranges, but it refuses what it cannot use, so ranges are found by trying: about the present
value, as far as the configuration accepts them.
"""

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mbrl.docstrings import described

Path = tuple[str, ...]
C = TypeVar("C")

FINEST = 1e-3  # a smaller number is chosen by decade: no slider resolves it
DECADES = range(-3, 4)
NONE = "none"
UNKNOWN_TEXT = "?"  # what a configuration is asked in order to hear which texts it knows


@dataclass(frozen=True)
class Number:
    """A slider.

    Attributes:
        path: names of the fields that lead to the value.
        value: the present one; None where an optional field is not set.
        lower: end of the slider.
        upper: end of the slider.
        step: of the slider; an int where values are.
        start: value to begin with when an optional field gets set.
        optional: whether None is a value.
        hint: what the documentation of the class says of the field.
    """

    path: Path
    value: float | None
    lower: float
    upper: float
    step: float
    start: float
    optional: bool
    hint: str = ""


@dataclass(frozen=True)
class Flag:
    """A check box, for the field that ``path`` leads to."""

    path: Path
    value: bool
    hint: str = ""


@dataclass(frozen=True)
class Choice:
    """One of several values by label, for the field that ``path`` leads to; ``label`` is the present one's."""

    path: Path
    label: str
    options: dict[str, Any]
    hint: str = ""


Widget = Number | Flag | Choice


def is_configuration(value: Any) -> bool:
    """Whether a value is a frozen dataclass."""
    return not isinstance(value, type) and _is_frozen(type(value))


def _is_frozen(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def with_value(configuration: C, path: Sequence[str], value: Any) -> C:
    """A copy with one value changed, through nested configurations.

    Raises:
        ValueError: a configuration on the way refuses it; its own sentence says why.
    """
    name, *rest = path
    if rest:
        value = with_value(getattr(configuration, name), rest, value)
    try:
        return dataclasses.replace(configuration, **{name: value})  # type: ignore[type-var]
    except ValueError:
        raise
    except Exception as error:  # a check that did not expect such a value
        raise ValueError(f"{name} cannot be {value!r}: {error}") from error


def as_code(configuration: Any, indent: str = "") -> str:
    """A configuration as the call that makes it, one line for each field that is not at its default."""
    if not is_configuration(configuration):
        return repr(configuration)
    lines = []
    for field in dataclasses.fields(configuration):
        value = getattr(configuration, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if field.init and not (type(value) is type(default) and value == default):
            lines.append(f"{indent}    {field.name}={as_code(value, indent + '    ')},\n")
    name = type(configuration).__name__
    return f"{name}(\n{''.join(lines)}{indent})" if lines else f"{name}()"


def widgets(configuration: Any, initial: Any = None) -> list[Widget]:
    """What sets the fields of a configuration, in their order; those of a nested one come after the field that holds it.

    Offered are numbers, flags, options (``Literal``, or a text whose error names the others) and nested configurations, each
    also where it is optional. A nested configuration can be exchanged for one of another kind that its annotation allows and
    that needs no arguments. Other fields are left out.

    Args:
        configuration: what is to be set.
        initial: gives the lengths of the sliders, so that they do not change with every value; the configuration by default.
    """
    return list(_widgets(configuration, configuration, configuration if initial is None else initial, ()))


def _widgets(root: Any, owner: Any, initial: Any, path: Path) -> Iterator[Widget]:
    hints, said = _type_hints(type(owner)), described(type(owner))
    for field in dataclasses.fields(owner):
        if not field.init or field.name.startswith("_"):
            continue
        value = getattr(owner, field.name)
        before = getattr(initial, field.name, value)
        kinds = _alternatives(hints.get(field.name, type(value)))
        here = _Field(root, (*path, field.name), value, before, kinds, said.get(field.name, ""))
        widget = here.widget()
        if widget is not None:
            yield widget
        if is_configuration(value):
            yield from _widgets(root, value, before, here.path)


@dataclass(frozen=True, eq=False)
class _Field:
    """A field of a configuration ``root``: its value now and before all changes, and the kinds of value it is annotated with."""

    root: Any
    path: Path
    value: Any
    initial: Any
    kinds: list[Any]
    hint: str

    def widget(self) -> Widget | None:
        kinds, value = self.kinds, self.value
        if isinstance(value, bool):
            return Flag(self.path, value, self.hint)
        listed = any(typing.get_origin(kind) is Literal for kind in kinds)
        if not listed and (isinstance(value, int | float) or (value is None and (int in kinds or float in kinds))):
            return self._number()
        options = self._options()
        return Choice(self.path, _label(value), options, self.hint) if len(options) > 1 else None

    def refusal(self, value: Any) -> str | None:
        """The sentence with which the configuration refuses a value; None if it accepts it."""
        try:
            with_value(self.root, self.path, value)
        except ValueError as error:
            return str(error)
        return None

    def accepts(self, value: Any) -> bool:
        return self.refusal(value) is None

    @property
    def optional(self) -> bool:
        return type(None) in self.kinds and self.accepts(None)

    # Numbers

    def _number(self) -> Widget | None:
        whole = int in self.kinds and not isinstance(self.value, float)
        start = self.value
        if start is None:
            start = next(filter(self.accepts, (5, 1) if whole else (1.0, 0.5, 0.1)), None)
        if start is None or not math.isfinite(start):
            return None
        center = self.initial if isinstance(self.initial, int | float) and math.isfinite(self.initial) else start
        if not whole and 0 < abs(center) < FINEST:
            return self._decades(center)
        step, reach = _step_and_reach(center, whole)
        furthest = math.ceil(max(reach, abs(start)) / step)
        nearest = 0 if center >= 0 and start >= 0 and (center > 0 or not self.accepts(-step)) else -furthest
        lower, upper = (self._last_accepted(start, k, step) for k in (nearest, furthest))
        if lower == upper:
            return None
        return Number(
            self.path, self.value, min(lower, start), max(upper, start), step, start, self.optional, self.hint
        )

    def _last_accepted(self, start: float, end: int, step: float) -> float:
        """The last of the multiples of step from start to end up to which the configuration accepts all, found by bisection."""
        good, bad = round(start / step), end
        if self.accepts(_multiple(end, step)):
            return _multiple(end, step)
        while abs(bad - good) > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if self.accepts(_multiple(middle, step)) else (good, middle)
        return _multiple(good, step) if self.accepts(_multiple(good, step)) else start

    def _decades(self, center: float) -> Widget:
        values = {float(f"{center * 10.0**k:.12g}") for k in DECADES}
        values = {value for value in values if self.accepts(value)} | (set() if self.value is None else {self.value})
        options: dict[str, Any] = {_label(value): value for value in sorted(values)}
        return Choice(self.path, _label(self.value), options | ({NONE: None} if self.optional else {}), self.hint)

    # Options

    def _options(self) -> dict[str, Any]:
        """Accepted values by label."""
        literals = [typing.get_args(kind) for kind in self.kinds if typing.get_origin(kind) is Literal]
        found = [option for options in literals for option in options]
        if isinstance(self.value, str) and not found:
            found = re.findall(r"'([^']+)'", self.refusal(UNKNOWN_TEXT) or "")  # "must be 'best' or 'mean', got '?'"
            found = [text for text in found if text != UNKNOWN_TEXT]
        found += [option for kind in self.kinds for option in _configurations(kind)]
        found += [None] if type(None) in self.kinds else []
        options = {_label(option): option for option in found if self.accepts(option)}
        known = self.value is None or isinstance(self.value, str) or is_configuration(self.value)
        return options | ({_label(self.value): self.value} if known else {})


def _multiple(k: int, step: float) -> float:
    return k * step if isinstance(step, int) else float(f"{k * step:.12g}")


def _step_and_reach(center: float, whole: bool) -> tuple[float, float]:
    """The grid of a slider about a value, and how far from zero it goes."""
    size = abs(center)
    if whole:
        reach = max(10, 5 * math.ceil(size))
        return max(1, 10 ** (math.floor(math.log10(reach)) - 3)), reach
    return (10.0 ** (math.floor(math.log10(size)) - 2) if size else 0.01), max(1.0, 5.0 * size)


def _label(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else type(value).__name__ if is_configuration(value) else repr(value)


def _alternatives(hint: Any) -> list[Any]:
    """The kinds of value that an annotation allows."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(hint) for kind in _alternatives(part)]
    if typing.get_origin(hint) is typing.Annotated:
        return _alternatives(typing.get_args(hint)[0])
    return [hint]


def _configurations(kind: Any) -> list[Any]:
    """Default instances of a configuration class and of its subclasses in the same package that need no arguments."""
    if not isinstance(kind, type) or not _is_frozen(kind):
        return []
    found = []
    for candidate in [kind, *_subclasses(kind)]:
        same_package = candidate.__module__.partition(".")[0] == kind.__module__.partition(".")[0]
        needed = [f for f in dataclasses.fields(candidate) if f.init and _has_no_default(f)]
        if same_package and _is_frozen(candidate) and not inspect.isabstract(candidate) and not needed:
            found.append(candidate())
    return found


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _subclasses(kind: type) -> list[type]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]


def _type_hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except NameError:  # an annotation that is only known to type checkers
        return {}
