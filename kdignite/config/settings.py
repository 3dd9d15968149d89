"""Settings of a run compared and written: which differ, as text, and as a line for a shell."""

import shlex
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdignite.errors import brief

PROGRAM = "python -m kdignite"
LONGEST = 80  # characters of a value
MISSING = object()  # a setting that was not recorded


class Difference(NamedTuple):
    """A setting that is not what it was."""

    name: str
    before: Any
    now: Any


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], *, besides: Collection[str] = (), missing: Any = None
) -> list[Difference]:
    pairs = [(name, before.get(name, missing), now.get(name, missing)) for name in {**before, **now}]
    return [Difference(*pair) for pair in pairs if pair[0] not in besides and pair[1] != pair[2]]


def differences_text(found: Iterable[Difference]) -> str:
    return "; ".join(map(difference_text, found))


def difference_text(one: Difference, *, before: str = "", now: str = "") -> str:
    """``lr: 0.1 -> 0.2``, each value with a remark of its own."""
    return f"{one.name}: {setting_text(one.before)}{before} -> {setting_text(one.now)}{now}"


def setting_text(value: Any, *, longest: int = LONGEST) -> str:
    """A value as it is typed for a flag, for a message."""
    if value is MISSING or value is None:
        return "unset" if value is None else "not recorded"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple):
        return ",".join(setting_text(one, longest=longest) for one in value)
    return brief(str(value) if isinstance(value, Path) else value, longest=longest)


def typed_flags(**flags: Any) -> str:
    """Flags as they are typed, whole, and quoted where a shell needs it; None: not given."""
    given = {name: value for name, value in flags.items() if value is not None}
    return shlex.join(f"--{name}={setting_text(value, longest=sys.maxsize)}" for name, value in given.items())


def command_line(command: str, *words: object, **flags: Any) -> str:
    """What to type, quoted where a shell needs it."""
    return f"{PROGRAM} {shlex.join([command, *map(str, words)])} {typed_flags(**flags)}".rstrip()
