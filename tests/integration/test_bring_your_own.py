"""``docs/bring-your-own.md`` works as it stands there: its code is one module, its commands are run in their order."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from kdignite.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own.md"


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


@pytest.mark.timeout(900)  # it trains eight networks, on a machine that may be busy
def test_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("mine", None)  # that of another test
    (tmp_path / "mine.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    commands = [line for block in blocks("") for line in block.splitlines()]
    assert len(commands) == 13
    for command in commands:
        python, flag, rest, *words = shlex.split(command)
        assert python == "python"
        if flag == "-c":
            exec(rest, {})
        else:
            assert (flag, rest) == ("-m", "kdignite")
            assert main(words if words[0] in ("data", "compare") else [*words, "--threads=1"]) == 0, command
    del sys.modules["mine"]
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    accuracy = {
        name: json.loads((tmp_path / "runs" / name / "result.json").read_text())["test"]["accuracy"]
        for name in ("alone", "theirs", "striped")
    }
    assert accuracy["alone"] > 0.8
    assert accuracy["theirs"] == pytest.approx(accuracy["alone"], abs=0.02)  # the statistics are rounded there
    assert accuracy["striped"] > 0.8
    assert next((tmp_path / "runs" / "stripes").glob("compare-*/compare.md")).is_file()
