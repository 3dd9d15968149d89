"""Values read from a file, with their type and domain checked."""

import math
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdignite.errors import UserError, brief

LONGEST_TEXT = 5_000  # characters; a path has up to 4,096
LONGEST_NAME = 255  # of a class or a model, as of a file
LARGEST_COUNT = 2**53  # up to here JSON and floating point agree on whole numbers
MOST_ITEMS = 2**16  # of a setting that is a list, such as the names of classes
INVISIBLE = ("Cc", "Cs")  # categories of control characters and of halves of characters


@contextmanager
def checked(path: Path, *, advice: str) -> Iterator[None]:
    """Turn a ``ValueError`` of the block into the error that says which file is damaged."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{path} is damaged ({brief(error)}): {advice}") from error


def mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = _value(values, key)
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} must be a dict, not {brief(value)}")
    return value


def sequence(values: Mapping[str, Any], key: str) -> list[Any]:
    value = _value(values, key)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key} must be a list, not {brief(value)}")
    return list(value)


def text(values: Mapping[str, Any], key: str, *, longest: int = LONGEST_TEXT) -> str:
    value = _value(values, key)
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f"{key} must be text of up to {longest:,} characters, not {brief(value)}")
    return value


def name(values: Mapping[str, Any], key: str) -> str:
    value = text(values, key, longest=LONGEST_NAME)
    if not is_name(value):
        raise ValueError(f"{key} must be a name without control characters, not {brief(repr(value))}")
    return value


def is_name(value: object) -> bool:
    """Whether a value is text of 1 to `LONGEST_NAME` characters, none of them a control character."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and not _has_control_characters(value)


def count(values: Mapping[str, Any], key: str, *, low: int = 0, high: int = LARGEST_COUNT) -> int:
    value = _value(values, key)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} must be a whole number from {low} to {high}, not {brief(value)}")
    return value


def number(values: Mapping[str, Any], key: str, *, above: float = -math.inf, below: float = math.inf) -> float:
    value = _value(values, key)
    if type(value) not in (int, float) or not is_finite(value) or not above < value < below:
        limits = "".join(f" {word} {end:g}" for word, end in (("above", above), ("below", below)) if math.isfinite(end))
        raise ValueError(f"{key} must be a finite number{limits}, not {brief(value)}")
    return value  # type: ignore[no-any-return]


def flag(values: Mapping[str, Any], key: str) -> bool:
    value = _value(values, key)
    if type(value) is not bool:
        raise ValueError(f"{key} must be true or false, not {brief(value)}")
    return value


def is_word(value: object) -> bool:
    """Whether a value is text of at most `LONGEST_TEXT` characters, none of them a control character."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and not _has_control_characters(value)


def is_setting(value: object) -> bool:
    """Whether a value can be that of a setting: nothing, a word, a finite number, or a list of them."""
    items = value if isinstance(value, list | tuple) else [value]
    return len(items) <= MOST_ITEMS and all(
        is_finite(item) if isinstance(item, int | float) else item is None or is_word(item) for item in items
    )


def _has_control_characters(value: str) -> bool:
    return any(unicodedata.category(char) in INVISIBLE for char in value)


def is_finite(value: float) -> bool:
    """Whether a number is finite, also as a float."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def _value(values: Mapping[str, Any], key: str) -> Any:
    if key not in values:
        raise ValueError(f"it has no {key}")
    return values[key]
