"""Models of libraries, ``timm:NAME`` and ``torchvision:NAME``: with a head of one's own, fed as they say.

Neither library is imported before a name of it is used.
"""

import difflib
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from kdignite.errors import UserError, brief, listed
from kdignite.models.options import options_text
from kdignite.plugins import TRACEBACK, own_error

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_SIMILAR = 5  # names that an error suggests
LARGEST_OPTION = 2**16  # no width or depth comes near it


class Input(NamedTuple):
    """What a model was made to be fed with: side in pixels, statistics of pixels in 0..1, interpolation."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str  # bilinear or bicubic


def check_name(name: str) -> None:
    """Refuse a model that its library does not have, with those of similar names."""
    library, _, bare = name.partition(":")
    names = _library(name).names()
    if bare.partition(".")[0] not in names or not _library(name).has_variant(bare):
        known = [*names, *_library(name).variants()]
        close = difflib.get_close_matches(bare, known, n=MOST_SIMILAR) or [one for one in known if bare in one]
        guess = f"did you mean {listed(close[:MOST_SIMILAR])}?" if close else f"it has {listed(names)}"
        raise UserError(f"{library} has no model {brief(bare)!r}; {guess}")


def create(name: str, *, num_classes: int, size: int, options: Mapping[str, Any]) -> "nn.Module":
    """A model with new weights and a head of ``num_classes`` outputs.

    Raises:
        UserError: if the name is unknown, or an option is none of the model's, saying which it has.
    """
    check_name(name)
    _check_options(name, options)
    with _own_errors(name, options), warnings.catch_warnings(action="ignore"):
        model: nn.Module = _library(name).create(
            name.partition(":")[2], num_classes=num_classes, size=size, options=options
        )
        return model


def keywords(name: str, *, size: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the function of the library is called with to build a model, but for the number of classes."""
    found: dict[str, Any] = _library(name).keywords(name.partition(":")[2], size=size, options=options)
    return found


def own_input(name: str, options: Mapping[str, Any]) -> Input:
    """How a model of a library wants to be fed; an option that says the side of its images counts."""
    check_name(name)
    library = _library(name)
    own: Input = library.own_input(name.partition(":")[2])
    size = next((options[key] for key in library.SIZE_OPTIONS if type(options.get(key)) is int), own.size)
    return own._replace(size=size)


def pretrained_weights(name: str, *, size: int, options: Mapping[str, Any]) -> "dict[str, Tensor]":
    """The published weights with the head that they were trained with, fetched where they are not here yet.

    Raises:
        UserError: if there are none, or they cannot be fetched, with what to do.
    """
    check_name(name)
    with warnings.catch_warnings(action="ignore"):
        found: dict[str, Tensor] = _library(name).pretrained_weights(name.partition(":")[2], size=size, options=options)
    return found


def converted(name: str, model: "nn.Module", weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Weights as the library itself converts those of older or other forms of a model."""
    found: dict[str, Tensor] = _library(name).converted(model, weights)
    return found


def cannot_be_fetched(name: str, why: str, *, file: str, where: str) -> UserError:
    """What to do without a network."""
    return UserError(
        f"the pretrained weights of {name} cannot be fetched ({why}); give --weights=FILE ({file}, from {where}) or "
        "--weights=none"
    )


def _library(name: str) -> Any:
    """The module of this package that knows the library."""
    library = name.partition(":")[0]
    try:
        return importlib.import_module(f"kdignite.models.{library}_models")
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise UserError(f"{name} needs {library}, which is not installed: pip install {library}") from None


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    if taken := [option for option in options if option in _library(name).RESERVED]:
        raise UserError(
            f"{taken[0]} is no option of {name} here: --weights, --size and the classes of the data decide such things"
        )
    for option, value in options.items():
        numbers = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, int | float)]
        if any(abs(one) > LARGEST_OPTION for one in numbers):
            raise UserError(f"option {brief(option)} of {name} must be at most {LARGEST_OPTION:,}, not {brief(value)}")


@contextmanager
def _own_errors(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Within the block an error of the library becomes one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and unknown and unknown[1] in options:
            raise _unknown_option(name, unknown[1]) from error
        raise UserError(
            f"{name}{options_text(name, options)} cannot be built: {own_error(error)} ({TRACEBACK})"
        ) from error


def _unknown_option(name: str, option: str) -> UserError:
    """The names of those that the class of the model takes and that can be typed."""
    model = create(name, num_classes=2, size=own_input(name, {}).size, options={})
    names = [
        key
        for key, one in inspect.signature(type(model)).parameters.items()
        if isinstance(one.default, bool | int | float | str | tuple | None) and key not in _library(name).RESERVED
    ]
    close = difflib.get_close_matches(option, names, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    if option in _library(name).SIZE_OPTIONS:
        guess = "--size is the side of its images, "
    return UserError(f"{name} takes no option {brief(option)}; {guess}it takes {', '.join(names)}")
