"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {})
    assert -1 <= float(capsys.readouterr().out.splitlines()[-1]) <= 1
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"teacher", "distill-a0.7-T3", "baseline"}


def test_nothing_is_left_open() -> None:
    assert "@@" not in README.read_text(encoding="utf-8")


def test_every_command_of_the_table_exists() -> None:
    from kdignite.config import COMMANDS

    named = re.findall(r"^\| `(\w+)[^|]*` \|", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(COMMANDS) <= set(named)
