"""The user's own functions, named on the command line as ``package.module:function``."""

import difflib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kdignite.errors import UserError

USER_FUNCTION = "package.module:function"
LIBRARIES = ("timm", "torchvision")  # whose models are named LIBRARY:NAME; no code of the user's own


def is_library(name: object) -> bool:
    """Whether a model is one of a library's, ``timm:NAME`` or ``torchvision:NAME``."""
    return isinstance(name, str) and name.startswith(tuple(f"{library}:" for library in LIBRARIES))


def import_function(spec: str, *, flag: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names; the current folder is importable, as under ``python -m``."""
    module_name, colon, name = spec.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise UserError(f"--{flag} needs package.module:function, such as mypackage.mymodule:make, not {spec!r}")
    module = _import_module(module_name, flag=flag)
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {module_name}:{close[0]}?" if close else ""
        raise UserError(f"--{flag}={spec}: {module_name} ({_place(module)}) has no {name}{hint}")
    function = getattr(module, name)
    if not callable(function):
        raise UserError(f"--{flag}={spec} needs a function, but {name} is of type {type(function).__name__}")
    return function  # type: ignore[no-any-return]


def _import_module(name: str, *, flag: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # only of the module itself or of its packages: an import that fails inside it is a bug there
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"--{flag}: there is no module {error.name}, neither in {here} nor installed") from None


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "built in"
