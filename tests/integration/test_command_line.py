"""The command line in processes of its own, as a user meets it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kdignite.cli import main

DIGITS = ("--dataset=digits", "--arch=cnn5", "--widths=8,8,8,8,8", "--threads=1")


def environment(**more: str) -> dict[str, str]:
    """What a fresh shell would have, with warnings as errors, save one that torch 2.6 causes itself when it ends."""
    return {**os.environ, "PYTHONWARNINGS": "error,ignore:Implicitly cleaning up:ResourceWarning", **more}


def kdignite(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdignite", *words]
    return subprocess.run(command, cwd=cwd, env=env or environment(), capture_output=True, text=True, check=False)


def test_the_whole_story(tmp_path: Path) -> None:
    """Teacher, student, baseline, evaluation, in an empty folder."""
    for words in (
        ("teacher", *DIGITS, "--epochs=4"),
        ("distill", "--alpha=0.7", "--T=3", *DIGITS, "--epochs=1"),
        ("baseline", *DIGITS, "--epochs=1"),
        ("evaluate", "runs/distill-a0.7-T3"),
    ):
        done = kdignite(*words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "accuracy" in done.stdout
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "teacher",
        "distill-a0.7-T3",
        "baseline",
        "evaluate-distill-a0.7-T3-test",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("distill", "--alhpa=0.3"), "did you mean --alpha?"),
        (("distill", "--alpha=0,5"), "--alpha"),
        (("distill", "--alpha=1.5"), "--alpha must be at most 1, not 1.5"),
        (("distill", "--T=0"), "--T must be above 0, not 0"),
        (("distill", "--T=nan"), "--T"),
        (("teacher", "--epochs=2.5"), "--epochs"),
        (("teacher", "--name=../x"), "--name must be"),
        (("teacher", "extra"), "extra"),
        (("teacher", "--arch=resnet21"), "resnet20"),
        (("teacher", "--dataset=cifar11"), "cifar10"),
        (("teacher", "--dataset=digits", "--val_size=5000"), "--val_size"),
        (("evaluate", "runs/none"), "there is no run or checkpoint 'runs/none'; runs in runs/: none"),
        (("distill",), "make one, python -m kdignite teacher"),
        (("baseline", "--device=cuda:9"), "--device=cuda:9 is not there"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kdignite: error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_without_any_way_to_get_the_data(tmp_path: Path) -> None:
    """No network, no npm: the ways are named."""
    env = environment(PATH="/nonexistent", https_proxy="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    done = kdignite("baseline", cwd=tmp_path, env=env)
    assert done.returncode == 2, done
    assert "--dataset=digits" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_closed_pipe_and_an_ascii_terminal(tmp_path: Path) -> None:
    """``| head -1`` ends quietly; a locale without umlauts or dashes is no reason to fail."""
    line = f"{sys.executable} -m kdignite teacher --help | head -1"
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("teacher")
    assert done.stderr == ""
    env = environment(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert kdignite("teacher", *DIGITS, "--fast_dev_run", cwd=tmp_path, env=env).returncode == 0
