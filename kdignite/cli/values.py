"""Text from the command line -> value, by the annotation of the config field alone."""

import os
import re
from collections.abc import Callable
from dataclasses import Field
from types import NoneType
from typing import Any, get_args

from kdignite.cli.flags import item_type
from kdignite.config import COMMANDS, bare_type, flag_fields, type_name
from kdignite.errors import UserError, brief

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
UNSET = "none"  # takes back what a preset sets
SEPARATOR = "\0"  # between several words of one field, such as RUN...: no argument of a process can hold it
_WHOLE = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})+")
_LARGEST = 2**63 - 1  # what torch takes as a seed or a size


def coerce(one: Field[Any], text: str) -> Any:
    """The value of a flag: text as it is but for a ``~`` in front, decimal numbers, lists with commas."""
    if text == UNSET and _may_be_unset(one):
        return None
    try:
        if one.metadata["share"]:
            return _read_share(text, bare_type(one.type))
        return _read(text, bare_type(one.type))
    except ValueError as error:
        raise UserError(
            f"--{one.name} needs {type_name(one.type)}, not '{brief(text)}'; {_advice(one, text)}"
        ) from error


def _may_be_unset(one: Field[Any]) -> bool:
    """Whether a flag needs no value, and the word for that is no value of its own."""
    is_text = str in (wanted := bare_type(one.type), item_type(wanted))
    choices = one.metadata["choices"]
    return NoneType in get_args(one.type) and (UNSET not in choices if choices else not is_text)


def _read(text: str, wanted: Any) -> Any:
    item = item_type(wanted)
    if item is not None:
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise ValueError("an empty item")
        return tuple(_read(part, item) for part in parts)
    return _READERS[wanted](text)


def _read_share(text: str, wanted: Any) -> Any:
    """Numbers with a % sign are shares, whatever their size; a 1 without could be 1 % or 100 %."""
    if "%" not in text:
        if text.strip() == "1":
            raise ValueError("1 % or 100 %")
        return _read(text, wanted)
    parts = [part.strip() for part in text.split(",")] if item_type(wanted) else [text.strip()]
    shares = tuple(_read_float(part.removesuffix("%").rstrip()) / 100 for part in parts)
    if not all(part.endswith("%") and 0 <= share <= 1 for part, share in zip(parts, shares, strict=True)):
        raise ValueError(text)  # also a list in which only some have the sign
    return shares if item_type(wanted) else shares[0]


def _read_bool(text: str) -> bool:
    if text.lower() not in BOOLEANS:
        raise ValueError(text)
    return BOOLEANS[text.lower()]


def _read_int(text: str) -> int:
    # int() alone would also take blanks and the digits of other scripts
    if not _WHOLE.fullmatch(text) or abs(value := int(text)) > _LARGEST:
        raise ValueError(text)
    return value


def _read_float(text: str) -> float:
    if not text.isascii():
        raise ValueError(text)
    return float(text)


_READERS: dict[type, Callable[[str], Any]] = {
    str: os.path.expanduser,
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
}


def _advice(one: Field[Any], text: str) -> str:
    wanted = bare_type(one.type)
    if one.metadata["share"] and text.strip() == "1":
        return f"write --{one.name}=1% or --{one.name}=100%"
    if one.metadata["share"] and "%" in text:
        return f"write it like --{one.name}={'90%,0.6%' if item_type(wanted) else '0.6%'}"
    if wanted is bool:
        return f"write --{one.name}=true or --{one.name}=false"
    if wanted is int and _WHOLE.fullmatch(text):
        return f"the largest is {_LARGEST}"
    repaired = _repaired(text, wanted)
    advice = f"write --{one.name}={repaired}" if repaired else f"write it like --{one.name}={_sample(one)}"
    return advice + (f"; for several values, sweep --{one.name}={text}" if _is_swept(one, text) else "")


def _is_swept(one: Field[Any], text: str) -> bool:
    """Whether a flag of one value was given a list that ``sweep`` takes."""
    swept = flag_fields(COMMANDS["sweep"]).get(one.name)
    if swept is None or item_type(one.type) is not None or item_type(swept.type) is None:
        return False
    try:
        return len(_read(text, bare_type(swept.type))) > 1
    except ValueError:
        return False


def _repaired(text: str, wanted: Any) -> str:
    """The value that was probably meant, or an empty text."""
    try:
        if item_type(wanted) is not None:
            guess = re.sub(r"[\s,;]+", ",", text.strip(" ()[]{},;"))
        elif wanted is int:
            guess = text.replace(",", "") if _THOUSANDS.fullmatch(text) else f"{float(text):.15g}"
        else:
            guess = text.replace(",", ".")
        _read(guess, wanted)
    except ValueError:
        return ""
    return guess


def _sample(one: Field[Any]) -> str:
    samples = {
        "int": "10",
        "float": "0.5",
        "ints": "64,64,24",
        "floats": ".5,.5,.5" if one.metadata["group"] == "model" else ".25,.5",  # a mean of channels, or an axis
        "bools": "false,true",
        "strs": "cat,dog",
    }
    item = item_type(one.type)
    if item is not None:
        return ",".join(map(str, one.default)) if isinstance(one.default, tuple) else samples[f"{item.__name__}s"]
    return samples[bare_type(one.type).__name__] if one.default is None else f"{one.default:g}"
