"""Choices among classes with options of their own, read off the packages: a new planner or model needs no touch here.

A choice is a tyro subcommand ``planner:mppi`` or, as people type it, ``--planner MPPI``; its fields are ``--planner.num-samples``
and so on. A field whose type is an abstract configuration, such as a planner's noise, is again a choice among the concrete ones.
"""

import abc
import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union

import tyro
from torch import Tensor
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

import planners
from dynamics import Trajectory, learned
from dynamics.learned.base import LearnedDynamics, arguments_for
from mbrl.docstrings import described, first_sentence
from planners import Planner

GIVEN = ("angles", "seed", "state_names", "control_names")
"""Arguments of models that have an option of their own, or follow from the logs."""


def option_name(name: str) -> str:
    """``predictive-sampling`` of ``PredictiveSampling``, ``mppi`` of ``MPPI``, ``cvar`` of ``CVaR``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z]{2})", "-", name).lower()


def concrete(kind: type) -> list[type]:
    """A dataclass, if it is concrete, and its concrete subclasses in the same package, in order of their names."""
    package = kind.__module__.partition(".")[0]
    found, queue = set(), [kind]
    while queue:
        one = queue.pop()
        queue += one.__subclasses__()
        if not inspect.isabstract(one) and one.__module__.partition(".")[0] == package:
            found.add(one)
    return sorted(found, key=lambda one: one.__name__)


def planner_kinds() -> list[type[Planner]]:
    """The concrete planners that the package exports."""
    ours = concrete(Planner)
    return [kind for name in planners.__all__ if (kind := getattr(planners, name)) in ours]


def choice(kinds: Sequence[type]) -> Any:
    """A type that tyro reads as a choice among dataclasses."""
    return Union[tuple(_named(kind) for kind in kinds)]  # noqa: UP007


def _named(kind: type) -> Any:
    return Annotated[kind, tyro.conf.subcommand(option_name(kind.__name__), description=first_sentence(kind))]


Choices = dict[str, dict[str, type]]
"""Kinds to choose from by name, for a field and for the fields below it, by dotted path."""


def choices_of(field: str, kinds: Sequence[type]) -> Choices:
    """What there is to choose from for a field of some kinds, and for the fields below it."""
    found = {field: {option_name(kind.__name__): kind for kind in kinds}}
    for kind in kinds:
        for name, hint in _configured(kind).items():
            if is_abstract(hint):
                found.update(choices_of(f"{field}.{name}", concrete(hint)))
    return found


def is_abstract(hint: Any) -> bool:
    """Whether an annotation is an abstract configuration."""
    return (
        inspect.isclass(hint)
        and dataclasses.is_dataclass(hint)
        and issubclass(hint, abc.ABC)
        and inspect.isabstract(hint)
    )


def chosen(args: Sequence[str], choices: Choices) -> tuple[list[str], list[str]]:
    """Every ``--planner NAME`` written as the subcommand ``planner:name``, outer ones first, and the other arguments.

    Raises:
        ValueError: nothing is called NAME, or it is missing, given twice, or below a choice that has no such field.
    """
    rest, found, position = [], {}, 0
    while position < len(args):
        option, equals, value = args[position].partition("=")
        path = option.removeprefix("--").replace("_", "-")
        if option.startswith("--") and path in choices:
            if not equals:
                position += 1
                value = args[position] if position < len(args) else ""
            if path in found:
                raise ValueError(f"{option} is given twice")
            found[path] = _match(option, value, list(choices[path]))
        else:
            rest.append(args[position])
        position += 1
    _check_nesting(found, choices)
    return [f"{path}:{found[path]}" for path in sorted(found, key=lambda path: path.count("."))], rest


def _check_nesting(found: Mapping[str, str], choices: Choices) -> None:
    for path in found:
        above, _, name = path.rpartition(".")
        if above in found and name not in _configured(choices[above][found[above]]):
            able = [one for one, kind in choices[above].items() if name in _configured(kind)]
            raise ValueError(f"--{above} {found[above]} has no --{path}; it is an option of {', '.join(able)}")


def _match(option: str, name: str, names: Sequence[str]) -> str:
    if not name or name.startswith("--"):
        raise ValueError(f"{option} takes a name; there is {', '.join(names)}")
    plain = {re.sub(r"[-_]", "", one): one for one in names}
    wanted = re.sub(r"[-_]", "", name).lower()
    if wanted not in plain:
        near = difflib.get_close_matches(wanted, plain, n=1)
        hint = f"did you mean {plain[near[0]]}? " if near else ""
        raise ValueError(f"{option} knows no {name!r}; {hint}there is {', '.join(names)}")
    return plain[wanted]


def registry() -> ConstructorRegistry:
    """Tyro's rules and one more: a configuration of the planners with its abstract fields as choices."""
    rules = ConstructorRegistry()

    @rules.struct_rule
    def planner_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        kind = info.type
        if not (inspect.isclass(kind) and dataclasses.is_dataclass(kind) and issubclass(kind, Planner)):
            return None
        fields = []
        for field in dataclasses.fields(kind):
            hint = _configured(kind)[field.name]
            hint = choice(concrete(hint)) if is_abstract(hint) else as_typed(hint)
            value = getattr(info.default, field.name) if isinstance(info.default, kind) else _default(field)
            fields.append(StructFieldSpec(field.name, hint, value, described(kind).get(field.name)))
        return StructConstructorSpec(kind, tuple(fields))

    return rules


def as_typed(hint: Any) -> Any:
    """An annotation as what can be typed: numbers in a row in the place of tensors and sequences."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        kept = tuple(as_typed(part) for part in parts if part is not Tensor)
        return Union[kept]  # noqa: UP007 (built from a list)
    if origin is Sequence:
        return tuple[as_typed(parts[0]), ...]
    if origin is tuple:
        return tuple[tuple(part if part is ... else as_typed(part) for part in parts)]
    return tuple[float, ...] if hint is Tensor else hint


def _configured(kind: type) -> dict[str, Any]:
    """Annotations of the fields of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is dataclasses.MISSING else field.default


# Models, whose options are the keywords of their constructors


class ModelOptions(abc.ABC):
    """Options of a learned model, a field for each keyword of its constructor."""

    @abc.abstractmethod
    def build(self, logs: Sequence[Trajectory], *, angles: Sequence[str | int], seed: int) -> LearnedDynamics:
        """A model of these options with the dimensions, names and dt of logs."""


def model_kinds() -> list[type[ModelOptions]]:
    """Options of every learned model that the package exports, in order of their names."""
    exported = {name: getattr(learned, name) for name in sorted(learned.__all__)}
    return [_model_options(name, kind) for name, kind in exported.items() if not inspect.isabstract(kind)]


def _model_options(name: str, kind: Callable[..., LearnedDynamics]) -> type[ModelOptions]:
    parameters = inspect.signature(kind).parameters
    options = [p for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in GIVEN]

    def build(self: Any, logs: Sequence[Trajectory], *, angles: Sequence[str | int], seed: int) -> LearnedDynamics:
        seeded = {"seed": seed} if "seed" in parameters else {}
        return kind(**arguments_for(logs, angles), **seeded, **{p.name: getattr(self, p.name) for p in options})

    texts = described(kind)
    attributes = "".join(f"\n    {p.name}: {texts.get(p.name, '')}" for p in options)
    made = dataclasses.make_dataclass(
        name.removesuffix("Model"),
        [(p.name, p.annotation, dataclasses.field(default=p.default)) for p in options],
        bases=(ModelOptions,),
        frozen=True,
        namespace={
            "__doc__": f"{first_sentence(kind)}\n\nAttributes:{attributes}",
            "__module__": __name__,
            "build": build,
        },
    )
    return made
