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
    mine = ("PYTHONUNBUFFERED", "KDIGNITE_DATA")
    fresh = {name: value for name, value in os.environ.items() if name not in mine}
    return {**fresh, "PYTHONWARNINGS": "error,ignore:Implicitly cleaning up:ResourceWarning", **more}


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
        ".teacher_cache",
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


def test_without_any_way_to_get_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No network, no npm: the ways are named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDIGNITE_DATA", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in ("https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert main(["baseline"]) == 2
    assert "--dataset=digits" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "lines", "folders"),
    [(("teacher", "--help"), 1, []), (("baseline", *DIGITS, "--epochs=99"), 20, ["baseline"])],
)
def test_whoever_reads_the_first_lines_alone_gets_no_traceback(
    tmp_path: Path, words: tuple[str, ...], lines: int, folders: list[str]
) -> None:
    """``| head``; each line is there at once, and what was saved of a run until then stays, without a lock."""
    line = f"{sys.executable} -m kdignite {' '.join(words)} | head -{lines}"
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(words[0])
    assert len(done.stdout.splitlines()) == lines
    assert done.stderr == ""
    assert [path.parent.name for path in tmp_path.glob("runs/*/last.safetensors")] == folders, done.stdout
    assert list(tmp_path.glob("runs/*/.lock")) == []


def test_neither_a_home_nor_a_terminal_that_knows_letters_is_needed(tmp_path: Path) -> None:
    env = environment(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = kdignite(
        "teacher", *DIGITS, "--fast_dev_run", cwd=tmp_path, env={k: v for k, v in env.items() if k != "HOME"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("command", ["teacher", "reproduce"])
def test_a_file_in_the_place_of_the_runs_is_told_before_any_training(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("mine")
    assert main([command, *DIGITS]) == 2
    told = capsys.readouterr()
    assert told.err == "kdignite: error: no run folder can be made in runs: File exists\n"
    assert "epoch" not in told.out.splitlines()[-1]
    assert (tmp_path / "runs").read_text() == "mine"
