"""``--arch_options``: what the function that builds a model is given beside its classes and its size, as typed."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kdignite.errors import UserError, brief

_NUMBER = re.compile(r"[+-]?(\d+|\d*\.\d+([eE][+-]?\d+)?|\d+\.\d*([eE][+-]?\d+)?|\d+[eE][+-]?\d+)")


def parse_options(items: Iterable[str] | None) -> dict[str, Any]:
    """The options in ``("drop_rate=0.1", "depths=2", "2", "6")``: ``{"drop_rate": 0.1, "depths": (2, 2, 6)}``.

    Whole numbers, numbers, ``true`` and ``false`` are such, the rest is text; several values with commas are a tuple.

    Raises:
        UserError: if an item has no name, or a name comes twice.
    """
    found: dict[str, list[Any]] = {}
    for item in items or ():
        name, equals, text = item.partition("=")
        if not equals and found:
            found[[*found][-1]].append(_value(item))
            continue
        if not (equals and name.isidentifier() and text):
            raise UserError(f"--arch_options needs NAME=VALUE, such as drop_rate=0.1,img_size=64, not {brief(item)!r}")
        if name in found:
            raise UserError(f"--arch_options has {name} twice: keep one of them")
        found[name] = [_value(text)]
    return {name: values[0] if len(values) == 1 else tuple(values) for name, values in found.items()}


def check_options(items: Iterable[str] | None) -> None:
    """Refuse what `parse_options` refuses."""
    parse_options(items)


def option_flags(arch: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that give a model its options."""
    from kdignite.models.registry import MODELS

    with_flag = MODELS[arch].options if arch in MODELS else ()
    own = {name: value for name, value in options.items() if name in with_flag}
    others = [f"{name}={_text(value)}" for name, value in options.items() if name not in with_flag]
    return own | ({"arch_options": others} if others else {})


def options_text(arch: str, options: Mapping[str, Any]) -> str:
    """The options as they are typed, for a message; empty where there are none."""
    return "".join(f" --{name}={_text(value)}" for name, value in option_flags(arch, options).items())


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    return text


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
