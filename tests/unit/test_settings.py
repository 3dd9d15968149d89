"""What flags are for, in one place; settings compared, and as text."""

import ast
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

import kdignite
from kdignite.config import (
    COMMANDS,
    GROUPS,
    MISSING,
    DistillConfig,
    TrainConfig,
    command_line,
    differences,
    setting_text,
    typed_flags,
    with_role,
    with_use,
)
from kdignite.config.fields import Role

PACKAGE = Path(kdignite.__file__).parent
FLAGS = {one.name for one in fields(DistillConfig) if "help" in one.metadata}  # of a run
# rows say which of their parameters belong together
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "config"]
FILES = [path for path in FILES if not path.name.endswith("_rows.py")]


def test_every_flag_says_what_it_is_for() -> None:
    for kind in COMMANDS.values():
        for one in fields(kind):
            if "help" in one.metadata:
                assert one.metadata["group"] in GROUPS, one.name
                assert one.metadata["role"] in get_args(Role), one.name
    names = {one.name for one in fields(DistillConfig) if "help" in one.metadata}
    assert set().union(*(with_role(DistillConfig, role) for role in get_args(Role))) == names


def test_a_flag_has_the_same_use_in_every_training_command() -> None:
    trainings = [kind for kind in COMMANDS.values() if issubclass(kind, TrainConfig)]
    uses: dict[str, set[Any]] = {}
    for kind in trainings:
        for one in fields(kind):
            if "help" in one.metadata:
                use = tuple(one.metadata[key] for key in ("group", "role", "code"))
                uses.setdefault(one.name, set()).add(use)
    assert [name for name, found in uses.items() if len(found) > 1] == []


def test_what_may_name_code_is_asked_for_again_and_so_is_known() -> None:
    assert with_use(DistillConfig, "code") == {"arch", "dataset", "method", "teacher_arch"}


def lists_of_flags(path: Path) -> list[str]:
    """Sequences and sets that are written down, of at least two words that are all names of flags."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            words = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            if len(words) == len(node.elts) >= 2 and all(word in FLAGS for word in words):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {words}")
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_no_list_of_flags_is_kept_outside_the_config(path: Path) -> None:
    """A flag that comes or goes would be forgotten there."""
    assert lists_of_flags(path) == []


def test_a_list_of_flags_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "x.py").write_text('ONE = {*("preset", "seed"), "other"}\nTWO = ["alpha", 3]\n', encoding="utf-8")
    assert lists_of_flags(tmp_path / "x.py") == ["x.py:1: ['preset', 'seed']"]


def test_differences_come_in_the_order_of_the_settings() -> None:
    before, now = {"a": 1, "b": [1, 2], "c": None, "d": 4}, {"e": 5, "a": 1.0, "b": [1, 3], "d": 5}
    assert differences(before, now) == [("b", [1, 2], [1, 3]), ("d", 4, 5), ("e", None, 5)]
    assert differences(before, now, besides={"d", "e"}) == [("b", [1, 2], [1, 3])]
    assert differences({"c": None}, {}, missing=MISSING) == [("c", None, MISSING)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "unset"), (MISSING, "not recorded"), (True, "true"), (False, "false"), (3, "3"), (0.1, "0.1")),
        *((60.0, "60"), (1e-5, "1e-05"), (0.12345678, "0.12345678"), ((8, 16), "8,16"), ([0.5, 1.0], "0.5,1")),
        *(("crop+flip", "crop+flip"), ("a\nb", "a b"), ("x" * 99, "x" * 77 + "...")),
    ],
)
def test_a_setting_is_written_as_it_is_typed(value: Any, text: str) -> None:
    assert setting_text(value) == text


def test_a_number_keeps_the_digits_that_tell_it_from_its_neighbour() -> None:
    assert setting_text(0.1234567) != setting_text(0.1234568)


def test_a_line_to_type_is_quoted_for_a_shell() -> None:
    line = command_line("distill", "one word", resume="runs/it's mine", arch=None, dataset="folder:my pictures")
    assert shlex.split(line) == [
        *("python", "-m", "kdignite", "distill", "one word"),
        *("--resume=runs/it's mine", "--dataset=folder:my pictures"),
    ]
    long = f"folder:/{'a' * 300}"
    line = command_line("data", dataset=long, mean=(0.5, 0.25), data_root=Path("my data"))
    assert shlex.split(line)[4:] == [f"--dataset={long}", "--mean=0.5,0.25", "--data_root=my data"]
    assert typed_flags(dataset=long, stem=None) == shlex.quote(f"--dataset={long}")  # what is pasted is never cut
    assert command_line("evaluate", "runs/teacher", arch="") == "python -m kdignite evaluate runs/teacher --arch="
