"""The user's own functions, named on the command line as ``package.module:function``."""

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from kdignite.errors import UserError, brief

USER_FUNCTION = "package.module:function"
TRACEBACK = "--traceback shows where"
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


@contextmanager
def own_errors(flag: str, spec: str) -> Iterator[None]:
    """Within the block an error of a user's function becomes one line: what failed, its own error and line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"--{flag}={spec} fails: {own_error(error)} ({_own_line(error, spec)}{TRACEBACK})") from error


def own_error(error: BaseException) -> str:
    """The type of an error of the user's own code and the first line of what it says."""
    said = next(iter(str(error).strip().splitlines()), "")
    return brief(f"{type(error).__name__}: {said}" if said else type(error).__name__, longest=200)


def _own_line(error: BaseException, spec: str) -> str:
    """``mine.py, line 12; ``: the last line of the function's module that an error passed; empty: it passed none."""
    file = getattr(sys.modules.get(spec.partition(":")[0]), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{Path(str(file)).name}, line {lines[-1]}; " if lines else ""


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
