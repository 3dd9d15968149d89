"""What the README shows works as it stands there, and pages link to what there is."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
PAGES = (README, *sorted((README.parent / "docs").glob("*.md")))


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_python_examples_run_one_after_another(blocks: list[str], tmp_path: Path) -> None:
    """As one script, whose module is ``__main__`` as in a notebook."""
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "One short seed proves nothing about distillation" in done.stdout
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        ".teacher_cache",
        *("teacher", "distill-a0.7-T3", "baseline", "compare-distill-a0.7-T3"),
        *("distill-logit_matching-a0.5-T2", "distill-a0.9-T4", "baseline-2", "baseline-seed1"),
    }
    methods = {
        name: json.loads((tmp_path / "runs" / name / "result.json").read_text())["method"]
        for name in ("distill-a0.7-T3", "distill-logit_matching-a0.5-T2", "baseline")
    }
    assert methods == {
        "distill-a0.7-T3": "kd",
        "distill-logit_matching-a0.5-T2": "__main__:logit_matching",
        "baseline": None,
    }


def test_the_python_examples_are_short(blocks: list[str]) -> None:
    lines = [
        [line for line in block.splitlines() if line and not line.startswith(("import", "from"))] for block in blocks
    ]
    whole, *own = map(len, lines)
    assert whole <= 20
    assert len(own) == 5
    assert max(own) <= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_open(page: Path) -> None:
    assert "@@" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_section_that_is_linked_is_there(page: Path) -> None:
    for name, section in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", page.read_text(encoding="utf-8")):
        target = page.parent / name if name else page
        assert target.is_file(), name
        assert not section or section in anchors(target), section


def anchors(page: Path) -> set[str]:
    """Of the sections of a page, as code hosts form them."""
    titles = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_command_of_the_table_exists() -> None:
    from kdignite.config import COMMANDS

    named = re.findall(r"^\| `(\w+)[^|]*` \|", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(COMMANDS) <= set(named)
