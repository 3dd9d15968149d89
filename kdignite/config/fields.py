"""Fields that know their flag: help, type and domain, checked when a config is built."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields, make_dataclass
from pathlib import PurePath
from types import GenericAlias, NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, get_args

from kdignite.errors import RunFailed, UserError

C = TypeVar("C", bound="Config")
Value = Any
# what a flag is to a run. identity: it changes the numbers; content: it names something that is known by what it holds;
# place: where things lie; machine: it may change the last bits; display: it changes no number
Role = Literal["identity", "content", "place", "machine", "display"]
LIMITS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "low": (operator.ge, "at least"),
    "high": (operator.le, "at most"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
}
# of the help, in this order
GROUPS = ("data", "model", "training", "teacher", "distillation", "your results", "comparison", "running")


def flag(
    default: Value,
    help: str,  # noqa: A002 - the word argparse and Fire users expect
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    alone: str = "",
    share: bool = False,
    group: str = "running",
    role: Role = "identity",
    code: bool = False,
    shown: bool = False,
    filled: bool = False,
    parameter: bool = False,
    check: Callable[[Value], None] | None = None,
) -> Any:
    """A dataclass field with what the command line needs to know of it; a share may also be typed as ``0.6%``.

    Where it is ``filled``, None means that a run finds a value, and records that.
    """
    domain = {
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": choices,
        "alone": alone,
        "share": share,
    }
    use = {"group": group, "role": role, "code": code, "shown": shown, "filled": filled}
    use |= {"parameter": parameter, "check": check}
    return field(default=default, metadata={"help": help, **domain, **use})


def left_open(
    name: str,
    one: Field[Value],
    *,
    help: str | None = None,  # noqa: A002
    group: str | None = None,
) -> tuple[str, Value, Value]:
    """A flag of one command as a flag of a study, which leaves its default to that command."""
    domain = {key: value for key, value in one.metadata.items() if key != "help"}
    domain |= {"group": group} if group else {}
    return name, one.type | None, flag(None, help or one.metadata["help"], **domain)  # type: ignore[operator]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all settings: checks the type and the domain of every field when built."""

    command: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse a value of the wrong type or outside its domain, naming the flag; paths become text, lists tuples."""
        for name, one in flag_fields(type(self)).items():
            object.__setattr__(self, name, _plain(getattr(self, name)))
            _check(one, getattr(self, name))
            if one.metadata["check"]:
                one.metadata["check"](getattr(self, name))


def extended(base: type[C], name: str, extra: Iterable[tuple[str, Value, Value]]) -> type[C]:
    """A config class with more flags."""
    made: type[C] = make_dataclass(name, extra, bases=(base,), frozen=True, kw_only=True)
    made.__doc__, made.__module__ = base.__doc__, base.__module__
    return made


def flag_fields(kind: type[Config]) -> dict[str, Field[Value]]:
    """The fields of a command that are flags, by name."""
    return {one.name: one for one in fields(kind) if "help" in one.metadata}


def given_values(config: Config, names: Iterable[str]) -> dict[str, Value]:
    """The flags of some names that are not left open."""
    return {name: getattr(config, name) for name in names if getattr(config, name) is not None}


def with_role(kind: type[Config], *roles: Role) -> set[str]:
    """The flags of a command that have one of some roles."""
    return {one.name for one in fields(kind) if one.metadata.get("role") in roles}


def with_use(kind: type[Config], use: str) -> set[str]:
    """The flags of a command that are marked for a use: ``code``, ``shown`` or ``filled``."""
    return {one.name for one in fields(kind) if one.metadata.get(use)}


def type_name(annotation: Value) -> str:
    """How a type is called in an error message or in help."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    bare = bare_type(annotation)
    if isinstance(bare, GenericAlias):  # tuple[X, ...]
        items = {int: "whole numbers", float: "numbers", bool: "true or false", str: "words"}
        return f"{items[get_args(bare)[0]]} separated by commas"
    return names[bare]


def bare_type(annotation: Value) -> Value:
    """The annotation without its ``| None``."""
    if isinstance(annotation, UnionType):
        return next(one for one in get_args(annotation) if one is not NoneType)
    return annotation


def _plain(value: Value) -> Value:
    """A path as text, a list as a tuple."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, PurePath) else value


def _check(one: Field[Value], value: Value) -> None:
    if value is None and NoneType in get_args(one.type):
        return
    if not _has_type(value, bare_type(one.type)):
        listed = "; from Python, a list of them" * isinstance(bare_type(one.type), GenericAlias)
        raise UserError(f"--{one.name} needs {type_name(one.type)}, not {value!r}{listed}")
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, int | float) and not isinstance(item, bool):
            check_number(one.name, item, one.metadata)
    choices = one.metadata["choices"]
    if choices and value not in choices:
        raise UserError(f"--{one.name} must be one of {', '.join(choices)}, not {value!r}")


def _has_type(value: Value, wanted: Value) -> bool:
    if isinstance(wanted, GenericAlias):  # tuple[X, ...]
        return isinstance(value, tuple) and bool(value) and all(_has_type(item, get_args(wanted)[0]) for item in value)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


@contextmanager
def renamed_errors(rename: Callable[[str], str]) -> Iterator[None]:
    """Within the block errors name flags of one command as those of another."""
    try:
        yield
    except (UserError, RunFailed) as error:
        raise type(error)(re.sub(r"--(\w+)", lambda found: f"--{rename(found[1])}", str(error))) from error


def check_number(name: str, value: Value, domain: Mapping[str, Value]) -> None:
    """Refuse a number that is not finite, or outside the domain of its flag."""
    if not math.isfinite(value):
        raise UserError(f"--{name} must be finite, not {value}")
    for key, (holds, words) in LIMITS.items():
        if domain[key] is not None and not holds(value, domain[key]):
            raise UserError(f"--{name} must be {words} {domain[key]:g}, not {value:g}")


def domain_text(domain: Mapping[str, Value]) -> str:
    """The limits of a number in words: ``at least 0 and at most 1``; empty where there are none."""
    return " and ".join(f"{words} {domain[key]:g}" for key, (_, words) in LIMITS.items() if domain[key] is not None)
