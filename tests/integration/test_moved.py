"""A folder of images that was moved after a run: what to type is said, and the data are known by their content."""

from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from kdignite import files
from kdignite.cli import main

SMALL = ("--threads=1", "--arch=cnn5", "--widths=4,4,4,4,4", "--epochs=1", "--batch_size=8")


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A teacher of 64 pixels whose images lie elsewhere now."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "my pictures" / "train" / name
        folder.mkdir(parents=True)
        for number in range(20):
            save_image(torch.rand(3, 64, 64, generator=generator), folder / f"{number}.png")
    assert main(["teacher", "--dataset=folder:my pictures", "--size=64", *SMALL]) == 0
    (tmp_path / "my pictures").rename(tmp_path / "new place")
    return tmp_path


def test_a_folder_that_was_moved_is_asked_for(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (moved / "runs" / "teacher" / "result.json").rename(moved / "result.json")
    for line in (["evaluate", "teacher"], ["doctor", "teacher"], ["teacher", "--resume=runs/teacher"]):
        before = sorted(moved.rglob("*"))
        assert main([*line, "--threads=1"]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"was made with folder:my pictures, and there is no {moved / 'my pictures'}: where is it now?" in told
        assert told.endswith("--dataset=folder:NEW\n")
        assert sorted(moved.rglob("*")) == before
    assert main(["evaluate", "teacher", "--dataset=folder:new place", "--threads=1", "--name=again"]) == 0
    assert (moved / "runs" / "again" / "evaluation.json").is_file()


def test_a_baseline_finds_the_teacher_of_the_same_images(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "--dataset=folder:new place", *SMALL]) == 0
    assert "data      settings as runs/teacher has them" in capsys.readouterr().out
    assert files.read_json(moved / "runs" / "baseline" / "config.json")["image_size"] == 64
    next((moved / "new place" / "train" / "cat").iterdir()).unlink()
    assert main(["baseline", "--dataset=folder:new place", *SMALL]) == 0
    assert "data      settings as" not in capsys.readouterr().out
