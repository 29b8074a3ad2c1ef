"""Choices among classes with options of their own, read off the packages: a new planner, model or algorithm needs no touch here.

A choice is a tyro subcommand ``planner:mppi`` or, as people type it, ``--planner MPPI``; its fields are ``--planner.num-samples``
and so on. A field whose type is an abstract configuration, such as a planner's noise, is again a choice among the concrete ones.
A choice without a name is made by the first word of the command, and its fields have no prefix: ``ppo --discount 0.9``.
"""

import abc
import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, TypeVar, Union

import tyro
from torch import Tensor
from torch.nn import Module
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

import mbrl
import planners
from dynamics import Trajectory, learned
from dynamics.learned.base import LearnedDynamics, arguments_for
from mbrl.docstrings import described, first_sentence
from planners import ICEM, MPC, Planner

T = TypeVar("T")

NOTHING = type(None)
"""The kind of None, where a field need not hold anything."""

GIVEN = ("angles", "seed", "state_names", "control_names")
"""Arguments of models that have an option of their own, or follow from the logs."""


def option_name(name: str) -> str:
    """``predictive-sampling`` of ``PredictiveSampling``, ``kl-penalty`` of ``KLPenalty``, ``cvar`` of ``CVaR``, ``none``."""
    if name == NOTHING.__name__:
        return "none"
    borders = r"(?<=[a-z])(?=[A-Z][a-z])|(?<=[A-Z]{2})(?=[A-Z][a-z]{2})|(?<=[a-z]{2})(?=[A-Z]{2})"
    return re.sub(borders, "-", name).lower()


def word(kind: type) -> str:
    """What a choice is called: the word of an algorithm that has one, or its name."""
    return getattr(kind, "word", "") or option_name(kind.__name__)


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


def exported(package: ModuleType, kind: type[T]) -> list[type[T]]:
    """The concrete classes of a kind that a package exports, in the order of its ``__all__``."""
    ours = concrete(kind)
    return [one for name in package.__all__ if (one := getattr(package, name)) in ours]


def planner_kinds() -> list[type[Planner]]:
    """The concrete planners that the package exports."""
    return exported(planners, Planner)


def algorithm_kinds() -> list[type[mbrl.Algorithm]]:
    """The concrete training algorithms that the package exports."""
    return exported(mbrl, mbrl.Algorithm)


def choice(kinds: Sequence[type]) -> Any:
    """A type that tyro reads as a choice among dataclasses."""
    return Union[tuple(_named(kind) for kind in kinds)]  # noqa: UP007


def _named(kind: type) -> Any:
    if kind is NOTHING:
        return None
    return Annotated[kind, tyro.conf.subcommand(word(kind), description=first_sentence(kind))]


Choices = dict[str, dict[str, type]]
"""Kinds to choose from by name, for a field and for the fields below it, by dotted path."""


def choices_of(field: str, kinds: Sequence[type]) -> Choices:
    """What there is to choose from for a field of some kinds, and for the fields below it; ``""`` for the first word."""
    found: Choices = {field: {word(kind): kind for kind in kinds}}
    for kind in kinds:
        for name, hint in _configured(kind).items():
            for path, below in choices_of(f"{field}.{name}".lstrip("."), alternatives(hint)).items():
                if below:
                    found[path] = {**found.get(path, {}), **below}
    return found


def alternatives(hint: Any) -> list[type]:
    """What a field may hold that is a choice: the concrete ones of an abstract configuration, planners for what acts.

    Where it may be left empty, the kind of None is the last.
    """
    for part in typing.get_args(hint) or (hint,):
        if is_abstract(part):
            return [*concrete(part), *([NOTHING] if NOTHING in typing.get_args(hint) else [])]
    return planner_kinds() if _acts(hint) else []


def _acts(hint: Any) -> bool:
    """Whether a field holds something that acts, such as the expert of an imitation."""
    return hint is mbrl.Actor or mbrl.Actor in typing.get_args(hint)


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
    if "" in choices and not {"-h", "--help"} & set(args[:1]):
        found[""], position = _match("", args[0] if args else "", list(choices[""])), 1
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
    ordered = sorted(found, key=lambda path: (path != "", path.count(".")))
    alone = len(choices.get("", ())) == 1  # tyro sees no choice then
    return [f"{path}:{found[path]}".lstrip(":") for path in ordered if path or not alone], rest


def reachable(chosen_ones: Sequence[str], choices: Choices) -> Choices:
    """What there is to choose from below the first word that was chosen; everything where there is none."""
    first = choices.get("", {}).get(chosen_ones[0]) if chosen_ones else None
    return choices if first is None else {"": choices[""], **{p: c for p, c in choices_of("", [first]).items() if p}}


def _check_nesting(found: Mapping[str, str], choices: Choices) -> None:
    for path in filter(None, found):
        above, _, name = path.rpartition(".")
        if above in found and name not in _configured(choices[above][found[above]]):
            able = [one for one, kind in choices[above].items() if name in _configured(kind)]
            owner = f"--{above} {found[above]}" if above else found[above]
            raise ValueError(f"{owner} has no --{path}; it is an option of {', '.join(able)}")


def _match(option: str, name: str, names: Sequence[str]) -> str:
    """The name that is meant, for an option or, where that is empty, as the first word."""
    if not name or name.startswith("-"):
        raise ValueError(f"{option or 'the first word'} takes a name; there is {', '.join(names)}")
    plain = {re.sub(r"[-_]", "", one): one for one in names}
    wanted = re.sub(r"[-_]", "", name).lower()
    if wanted not in plain:
        near = [one for one in plain if one.startswith(wanted)] or difflib.get_close_matches(wanted, plain, n=1)
        hint = f"did you mean {plain[near[0]]}? " if near else ""
        raise ValueError(f"{option or 'the first word'} knows no {name!r}; {hint}there is {', '.join(names)}")
    return plain[wanted]


def registry(first: type | None = None) -> ConstructorRegistry:
    """Tyro's rules and one more: a configuration of planners and algorithms with its abstract fields as choices.

    Args:
        first: the algorithm that is the first word; the others, but for those that it has as parts, have no options then, among
            which tyro would search for seconds after a mistake.
    """
    rules = ConstructorRegistry()
    below = {kind for found in choices_of("", [first]).values() for kind in found.values()} if first else set()

    @rules.struct_rule
    def configuration_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        kind = info.type
        if not _is_configuration(kind):
            return None
        if first is not None and kind not in below and issubclass(kind, mbrl.Algorithm):
            return StructConstructorSpec(kind, ())
        fields, hints = [], _configured(kind)
        for field in dataclasses.fields(kind):
            hint = hints[field.name]
            value = getattr(info.default, field.name) if isinstance(info.default, kind) else _default(field)
            value = ICEM() if _acts(hint) else value
            hint = choice(found) if (found := alternatives(hint)) else as_typed(hint)
            fields.append(StructFieldSpec(field.name, hint, value, described(kind).get(field.name)))
        needs_task = any(map(_acts, hints.values()))
        made = (lambda **values: WithoutTask(kind, values)) if needs_task else kind
        return StructConstructorSpec(made, tuple(fields))

    return rules


def _is_configuration(kind: Any) -> bool:
    """Whether a class's docstring describes its fields: that of a planner, an algorithm, or of something below these."""
    if not (inspect.isclass(kind) and dataclasses.is_dataclass(kind)):
        return False
    below = kind.__module__.startswith("mbrl.") and not kind.__module__.startswith("mbrl.cli.")
    return below or issubclass(kind, Planner | mbrl.Algorithm)


@dataclass(frozen=True)
class WithoutTask:
    """An algorithm with something that acts by planning, until the task that it plans on is known.

    Attributes:
        kind: of the algorithm.
        fields: its fields, with planners in the place of what acts.
    """

    kind: type[mbrl.Algorithm]
    fields: Mapping[str, Any]

    @property
    def acting(self) -> list[str]:
        """Names of the fields that hold what acts."""
        return [name for name, value in self.fields.items() if isinstance(value, Planner)]

    def build(self, task: mbrl.Task) -> mbrl.Algorithm:
        """The algorithm, with MPC on the task's own problem as what acts."""
        acting = {name: MPC(task.problem(), self.fields[name]) for name in self.acting}
        return self.kind(**{**self.fields, **acting})


def as_typed(hint: Any) -> Any:
    """An annotation as what can be typed: numbers in a row in the place of tensors and sequences, and no modules.

    What may be a module or None is None, and nothing is said of it.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        kept = tuple(
            as_typed(part) for part in parts if not (inspect.isclass(part) and issubclass(part, Tensor | Module))
        )
        if kept == (type(None),):
            return Annotated[None, tyro.conf.Suppress]
        return Union[kept]  # noqa: UP007 (built from a list)
    if origin is Sequence:
        return tuple[as_typed(parts[0]), ...]
    if origin is tuple:
        return tuple[tuple(part if part is ... else as_typed(part) for part in parts)]
    return tuple[float, ...] if hint is Tensor else hint


def _configured(kind: type) -> dict[str, Any]:
    """Annotations of the fields of a dataclass; of None, none."""
    if kind is NOTHING:
        return {}
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
