"""The rules of the layout, read from the source: who may import whom, what is never written, and what needs torch."""

import ast
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdignite

ROOT = Path(kdignite.__file__).parent
PACKAGE = "kdignite"  # the package itself: its version and its place
LONGEST_BODY = 40  # lines of a function without its docstring
USUAL_BODY = 6  # median of them
LONGEST_FILE = 260  # lines
LARGEST_SHARE = 0.16  # of all lines in one folder

# module -> what it may import from the package, besides its own parts; a folder stands for all its modules
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "streams": set(),
    "devices": set(),
    "precision": set(),
    "outputs": set(),
    "processes": {"errors"},
    "stopping": {"processes"},
    "console": {"errors", "processes"},
    "network": set(),
    "timing": set(),
    "metrics": {"streams"},
    "files": {"errors"},
    "schema": {"errors"},
    "memory": {"errors"},
    "plugins": {"errors"},
    "losses": {"errors"},
    "schedules": {"devices", "errors"},
    "models": {"errors", "network", "outputs", "plugins", "streams"},
    "data": {"schema", "devices", "errors", "files", "network", "plugins", "processes.launch", "streams"},
    "methods": {"errors", "losses", "outputs", "plugins"},
    "config": {
        *(
            "errors",
            "files",
            "data.registry",
            "methods.registry",
            "methods.rows",
            "models.options",
            "models.registry",
            "plugins",
        ),
    },
    "steps": {"losses", "data", "methods", "outputs", "precision"},
    "checkpoints": {"config", "schema", "errors", "files", "data.specs", PACKAGE},
    "evaluation": {"losses", "data", "memory", "precision", "processes", "steps"},
    "handlers": {
        *("metrics", "checkpoints", "evaluation", "schedules", "stopping", "streams", "errors", "files", "processes"),
    },
    "teachers": {
        *("streams", "checkpoints", "devices", "evaluation", "data", "errors", "files", "processes", "steps"),
        *("losses", "methods", "precision", "stopping"),
    },
    "runs": {"checkpoints", "schema", "config", "console", "errors", "files", "methods.registry", "processes", PACKAGE},
    "trials": {"config", "errors", "runs", "streams"},
    "comparison": {
        *("checkpoints", "config", "data.registry", "errors", "files", "metrics", "runs", "schema", "teachers"),
        *("trials",),
    },
    "reports": {
        *("metrics", "data.registry", "methods.registry", "comparison", "config", "errors", "files", "runs", "timing"),
        *("trials", PACKAGE),
    },
    "export": {
        *("checkpoints", "comparison", "config", "data", "errors", "files", "metrics", "models", "outputs", "reports"),
        *("plugins", "runs", "timing", PACKAGE),
    },
    "doctor": {
        *(
            "checkpoints",
            "data",
            "evaluation",
            "losses",
            "metrics",
            "models",
            "errors",
            "outputs",
            "streams",
            "reports",
            "teachers",
        ),
    },
}
MAY_IMPORT["training"] = {one for one in MAY_IMPORT if one not in {"comparison", "doctor", "export"}} | {PACKAGE}
MAY_IMPORT["commands"] = {*MAY_IMPORT, PACKAGE}
MAY_IMPORT["__init__"] = {"checkpoints", "config", "losses", "methods", "commands", "reports", "training"}  # when used
MAY_IMPORT["cli"] = {"errors", "processes", "stopping", "config"} | {PACKAGE}
MAY_IMPORT["cli"] |= {"data.registry", "methods.registry", "models.registry"}
MAY_IMPORT["__main__"] = {"cli"}
FREE_OF_IGNITE = ("losses", "methods", "models", "data", "schedules", "steps")

FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
MODULES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES}
PATHS = {module: path for path, module in MODULES.items()}


def imported(path: Path) -> Iterator[str]:
    """Every name that a file imports, wherever in it, as ``package.module`` or ``package.module.name``."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(path: Path) -> set[str]:
    """The modules of the package that a file imports, without ``kdignite.``; the package itself is `PACKAGE`."""
    own = [name for name in imported(path) if name.partition(".")[0] == PACKAGE]
    return {module_of(name.removeprefix("kdignite").removeprefix(".")) for name in own}


def module_of(name: str) -> str:
    """``data.batches`` of ``data.batches.Batch``."""
    if name in PATHS:
        return name
    return module_of(name.rpartition(".")[0]) if name else PACKAGE


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def where(path: Path, node: ast.stmt | ast.expr | ast.excepthandler) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def test_the_package_is_read() -> None:
    assert {"losses", "data.batches", "cli", "commands.distill", "__init__"} <= set(PATHS)
    assert own_modules(PATHS["steps"]) >= {"losses", "data.batches"}
    assert own_modules(PATHS["checkpoints.description"]) >= {"errors", "data.specs", PACKAGE}


@pytest.mark.parametrize("path", FILES, ids=[MODULES[path] for path in FILES])
def test_imports_point_up_the_table(path: Path) -> None:
    top = MODULES[path].partition(".")[0]
    assert top in MAY_IMPORT, f"{top} is not in the table: say what it may import"
    allowed = MAY_IMPORT[top] | {top}
    wrong = {one for one in own_modules(path) if one not in allowed and one.partition(".")[0] not in allowed}
    assert not wrong, f"{MODULES[path]} imports {', '.join(sorted(wrong))}; {top} may import {sorted(MAY_IMPORT[top])}"


def test_the_table_has_no_circle() -> None:
    """A module may import what stands before it in the table, never what stands after."""
    tops = list(MAY_IMPORT)
    for top, allowed in MAY_IMPORT.items():
        if top not in {"cli", "__main__"}:
            assert all(tops.index(one.partition(".")[0]) < tops.index(top) for one in allowed - {PACKAGE}), top


@pytest.mark.parametrize("top", FREE_OF_IGNITE)
def test_no_ignite_below_the_engine(top: str) -> None:
    reached, waiting = set(), [module for module in PATHS if module.partition(".")[0] == top]
    while waiting:
        module = waiting.pop()
        if module not in reached and module in PATHS:
            reached.add(module)
            waiting += own_modules(PATHS[module])
    users = [module for module in sorted(reached) if any(n.split(".")[0] == "ignite" for n in imported(PATHS[module]))]
    assert reached
    assert users == []


@pytest.mark.parametrize("module", ["kdignite", "kdignite.config", "kdignite.models.registry", "kdignite.cli"])
def test_importing_it_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'ignite' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_config_needs_the_standard_library_alone() -> None:
    parts = [module for module in PATHS if module.partition(".")[0] == "config"]
    for module in (*parts, "errors", "__init__"):
        roots = {name.partition(".")[0] for name in imported(PATHS[module])}
        assert roots <= sys.stdlib_module_names | {"kdignite"}


def test_one_place_reads_checkpoints_and_runs_no_code_from_them() -> None:
    loads = [(where(path, call), call) for path in FILES for name, call in calls(TREES[path]) if name == "torch.load"]
    assert len(loads) == 1, [place for place, _ in loads]
    place, call = loads[0]
    assert place.startswith("checkpoints/files.py:")
    assert {one.arg: ast.unparse(one.value) for one in call.keywords}["weights_only"] == "True"


def test_nothing_is_unpickled() -> None:
    unsafe = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.serialization.add_safe_globals", "dill.load"}
    found = [
        where(path, call)
        for path in FILES
        for name, call in calls(TREES[path])
        if name in unsafe
        or any(one.arg == "weights_only" and ast.unparse(one.value) != "True" for one in call.keywords)
        or any(one.arg == "allow_pickle" and ast.unparse(one.value) != "False" for one in call.keywords)
    ]
    found += [MODULES[path] for path in FILES if {"pickle.load", "pickle.loads", "torch.load"} & set(imported(path))]
    assert found == []


def test_no_weights_are_loaded_loosely() -> None:
    loose = [
        where(path, call)
        for path in FILES
        for _, call in calls(TREES[path])
        if any(one.arg == "strict" and ast.unparse(one.value) == "False" for one in call.keywords)
        and ast.unparse(call.func).endswith("load_state_dict")
    ]
    assert loose == []


def test_no_bare_except() -> None:
    bare = [
        where(path, node)
        for path in FILES
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert bare == []


def test_no_function_is_longer_than_it_should_be() -> None:
    long = {
        f"{where(path, node)} {node.name}": lines
        for path in FILES
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := body_lines(node)) > LONGEST_BODY
    }
    assert long == {}


def test_functions_files_and_folders_stay_small() -> None:
    functions = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert statistics.median(map(body_lines, functions)) <= USUAL_BODY
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {str(path.relative_to(ROOT)) for path, count in lines.items() if count > LONGEST_FILE} == set()
    folders = Counter({path.relative_to(ROOT).parts[0]: 0 for path in FILES})
    for path, count in lines.items():
        folders[path.relative_to(ROOT).parts[0]] += count
    assert {name for name, count in folders.items() if count > LARGEST_SHARE * sum(lines.values())} == set()


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_commands_never_end_the_process() -> None:
    """From a notebook the same mistakes raise; exit codes and signals are the command line's."""
    ending = {"sys.exit", "exit", "quit", "os._exit", "signal.signal"}
    found = [
        where(path, call)
        for path in FILES
        if MODULES[path].partition(".")[0] in ("commands", "training")
        for name, call in calls(TREES[path])
        if name in ending
    ]
    assert found == []
