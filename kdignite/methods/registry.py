"""Distillation methods by name. Nothing here imports torch: the help, the config and the reports read the rows.

A method is one pure function ``(student, teacher, labels, *, parameters) -> Terms`` and one row. A method of the user's
own is named ``package.module:function``; its row is read from the function.
"""

import difflib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from kdignite.errors import UserError, counted
from kdignite.methods.feature_rows import FEATURE_METHODS
from kdignite.methods.logit_rows import LOGIT_METHODS
from kdignite.methods.rows import REQUIRED, Constant, Method, Parameter, Softening
from kdignite.plugins import import_function

# settings of every training, which a method may take besides its parameters, and the flags that they come from
TRAINING = {"label_smoothing": "label_smoothing", "class_weights": "balance"}
METHODS: dict[str, Method] = {**LOGIT_METHODS, **FEATURE_METHODS}
DEFAULT = "kd"


def find_method(name: str) -> Method:
    """The row of a method.

    Args:
        name: a key of `METHODS`, or ``package.module:function``, whose row is read from the function: the first line of
            its docstring, and its keyword-only arguments as parameters.

    Returns:
        The row.

    Raises:
        UserError: if there is no such method, or the function's arguments are not those of a method.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return _own_method(name)
    close = difflib.get_close_matches(name.lower(), METHODS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"--method must be one of {', '.join(METHODS)}, or package.module:function, not {name!r}{hint}")


def check_method(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a method, its defaults where none is given.

    Args:
        name: of the method.
        given: parameters by name; None: its default.

    Returns:
        A value for each parameter of the method.

    Raises:
        UserError: if the method does not take a parameter that was given, or needs one that was not.
    """
    parameters = find_method(name).parameters
    strange = [key for key, value in given.items() if value is not None and key not in parameters]
    if strange:
        takes = " and ".join(f"--{key}" for key in parameters) or "no parameter"
        raise UserError(f"--method={name} takes {takes}, not --{strange[0]}: leave that out")
    values = {key: one.default if given.get(key) is None else given[key] for key, one in parameters.items()}
    missing = [key for key, value in values.items() if value is REQUIRED]
    if missing:
        raise UserError(f"--method={name} needs --{missing[0]}=NUMBER")
    return values


def temperature_of(name: str, parameters: Mapping[str, Any]) -> float:
    """At which temperature a method softens its teacher; 1 where it does not."""
    temperature = find_method(name).temperature(parameters)
    return temperature.T if temperature else 1.0


def constant_parts(
    name: str, parameters: Mapping[str, Any], parts: Collection[str], *, num_classes: int, num_images: int
) -> list[str]:
    """What of a method teaches nothing with so many classes and images, as its row says.

    Args:
        name: of the method.
        parameters: a value for each of them.
        parts: the names of its parts; ``ce`` is that of the labels.
        num_classes: C.
        num_images: of a batch, in each process.

    Returns:
        A sentence for each part that is constant.

    Raises:
        UserError: if no part of the teacher is left.
    """
    found = {
        one.part: _why_constant(one, num_classes=num_classes, num_images=num_images)
        for one in find_method(name).constant
        if (num_classes <= one.classes or num_images <= one.images) and parameters.get(one.when, True)
    }
    if found and found.keys() >= {*parts} - {"ce"}:
        raise UserError(
            f"--method={name} learns nothing from its teacher here: {'; '.join(found.values())}; choose another "
            "--method, or other settings"
        )
    return [f"--method={name}: {why}, so nothing is learnt from that part" for why in found.values()]


def _why_constant(one: Constant, *, num_classes: int, num_images: int) -> str:
    few = f"{num_classes} classes" if one.classes else f"{counted(num_images, 'image')} in a batch"
    return f"{one.part} is constant with {few}{f' and --{one.when}' if one.when else ''}"


def bind_method(name: str, parameters: Mapping[str, Any], **training: Any) -> Callable[..., Any]:
    """A method with its parameters bound: a function of student, teacher and labels.

    Args:
        name: of the method.
        parameters: a value for each of them, as `check_method` returns.
        training: of `TRAINING`; None or 0: not used, so that the method need not take it.

    Returns:
        A `kdignite.methods.terms.Loss`.

    Raises:
        UserError: if one of them is used, and the method does not take it.
    """
    function = _function(name)
    taken = inspect.signature(function).parameters
    for key, value in training.items():
        if key not in taken and value is not None and not (isinstance(value, int | float) and value == 0):
            raise UserError(f"--method={name} takes no {key}: leave out --{TRAINING[key]}")
    return partial(function, **parameters, **{key: value for key, value in training.items() if key in taken})


def name_of(function: Callable[..., Any]) -> str:
    """The name of a method that was given as a function.

    Raises:
        UserError: if the function has no name by which it can be imported again.
    """
    name = getattr(function, "__qualname__", "")
    if not name.isidentifier():
        what = name or f"{type(function).__module__}.{type(function).__qualname__}"
        raise UserError(f"the method {what} has no name of its own: write it as a def outside of other functions")
    return f"{function.__module__}:{name}"


def short_name(name: str) -> str:
    """How the names of runs call a method: a function without its module."""
    return name.rpartition(":")[2]


def _function(name: str) -> Callable[..., Any]:
    if name in METHODS:
        function: Callable[..., Any] = pkgutil.resolve_name(METHODS[name].function)
        return function
    return import_function(name, flag="method")


def _own_method(name: str) -> Method:
    function = _function(name)
    arguments = list(inspect.signature(function).parameters.values())
    own = [one for one in arguments if one.kind is one.KEYWORD_ONLY and one.name not in TRAINING]
    if sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in arguments) != 3:
        raise UserError(f"--method={name} must be a function of (student, teacher, labels, *, parameters)")
    idea = (inspect.getdoc(function) or "a method of your own").partition("\n")[0]
    parameters = {
        one.name: Parameter(
            one.default,
            f"parameter of {name}",
            minor=isinstance(one.default, bool),
            softens=Softening((one.name,)) if one.name == "T" else None,
        )
        for one in own
    }
    wrong = [key for key, one in parameters.items() if not isinstance(one.default, int | float | type)]
    if wrong:
        raise UserError(f"--method={name}: the default of {wrong[0]} must be a number, or there must be none")
    return Method(name, idea, "", parameters, source=name)
