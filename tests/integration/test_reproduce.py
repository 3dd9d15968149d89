"""The whole study on digits: stages in one folder, skipped when finished, refused when settings differ."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kdignite import checkpoints, stopping
from kdignite.commands import reproduce as module
from kdignite.commands.reproduce import reproduce
from kdignite.config import DistillConfig, ReproduceConfig, configure, parameter_names
from kdignite.config.study import Study
from kdignite.errors import RunFailed, UserError
from kdignite.runs import Finished
from kdignite.training import trainer as trainer_module

TINY = {
    "dataset": "digits",
    "threads": 1,
    "epochs": 1,
    "batch_size": 50,
    "widths": (8, 8, 8, 8, 8),
    "teacher_arch": "cnn5",
    "teacher_widths": (16, 16, 16, 16, 16),
    "teacher_epochs": 4,
    "teacher_batch_size": 50,
}


def tiny(**given: object) -> Study:
    return configure(ReproduceConfig, **{**TINY, **given})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return reproduce(tiny(seeds=2), root=tmp_path_factory.mktemp("studies"))


def manifest(folder: Path) -> dict[str, object]:
    return json.loads((folder / "manifest.json").read_text())


def test_everything_is_in_one_folder(study: Finished) -> None:
    assert study.folder.name == "reproduce-standard"
    runs = {"teacher", "distill-a0.9-T4", "baseline", "distill-a0.9-T4-seed1", "baseline-seed1"}
    found = {path.name for path in study.folder.iterdir() if path.is_dir()}
    assert found == {*runs, "compare-distill-a0.9-T4"}
    for name in runs:
        files = {path.name for path in (study.folder / name).iterdir()}
        assert files >= {"best.safetensors", "result.json", "predictions.npz", "confusion_matrix.png", "metrics.csv"}
        assert not any(path.name == "last.safetensors" for path in (study.folder / name).iterdir())


def test_the_students_differ_from_their_baselines_in_the_loss_alone(study: Finished) -> None:
    own = {
        "command",
        "method",
        *parameter_names(DistillConfig),
        "teacher",
        "teacher_arch",
        "allow_weak_teacher",
        "cache",
        "cache_dtype",
        "teacher_amp",
        "teacher_outputs",
        "teacher_shares",
        "control",
    }
    for seed in ("", "-seed1"):
        student, alone = (
            json.loads((study.folder / f"{name}{seed}" / "config.json").read_text())
            for name in ("distill-a0.9-T4", "baseline")
        )
        assert {key for key in {*student, *alone} if student.get(key) != alone.get(key)} <= own


def test_every_saved_model_was_evaluated_again(study: Finished) -> None:
    stages = manifest(study.folder)["stages"]
    assert isinstance(stages, dict)
    for name, stage in stages.items():
        if not name.startswith("compare"):
            result = json.loads((study.folder / name / "result.json").read_text())
            assert stage["evaluated"] == {key: result["test"][key] for key in ("num_correct", "num_images")}


def test_run_again_it_trains_nothing(
    study: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("teacher", "distill", "baseline", "compare", "evaluate_checkpoint"):
        monkeypatch.setattr(module, name, lambda *args, **given: pytest.fail("ran again"))
    before = manifest(study.folder)
    again = reproduce(tiny(seeds=2), root=study.folder.parent)
    assert again.folder == study.folder
    assert again.result == study.result
    assert manifest(study.folder) == before
    assert capsys.readouterr().out.count("finished  ") == 6


def test_it_goes_on_after_the_last_finished_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **given: object) -> Finished:
        raise RunFailed("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(module, "baseline", broken)
        with pytest.raises(RunFailed, match="stopped here"):
            reproduce(tiny(), root=tmp_path)
    for name in ("teacher", "distill"):
        monkeypatch.setattr(module, name, lambda *args, **given: pytest.fail("ran again"))
    done = reproduce(tiny(), root=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".teacher_cache", "reproduce-standard"}
    assert (done.folder / "baseline" / "result.json").is_file()


def test_other_settings_are_another_study(study: Finished, tmp_path: Path) -> None:
    root = study.folder.parent
    with pytest.raises(UserError) as caught:
        reproduce(tiny(seeds=2, alpha=0.5, name="reproduce-standard"), root=root)
    told = f"{study.folder} is a study with other settings: --alpha: 0.9 -> 0.5; choose another --name"
    assert str(caught.value) == told


def test_a_teacher_that_is_there_is_not_trained_again(
    study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "teacher", lambda *args, **given: pytest.fail("trained"))
    given = {key: value for key, value in TINY.items() if not key.startswith("teacher_") and key != "dataset"}
    config = configure(ReproduceConfig, **given, teacher=str(study.folder / "teacher"))
    done = reproduce(config, root=tmp_path)
    student = json.loads((done.folder / "distill-a0.9-T4" / "result.json").read_text())
    assert student["teacher"]["name"] == "teacher"
    assert not (done.folder / "teacher").exists()
    assert student["split"] == json.loads((study.folder / "teacher" / "result.json").read_text())["split"]


def test_a_saved_model_that_is_not_what_its_run_recorded_stops_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = module.teacher

    def tampered(*args: object, **given: object) -> Finished:
        done = trained(*args, **given)  # type: ignore[arg-type]
        path = done.folder / "best.safetensors"
        payload = checkpoints.read(path)
        payload["weights"]["linear.weight"] = torch.zeros_like(payload["weights"]["linear.weight"])
        checkpoints.write(path, payload)
        return done

    monkeypatch.setattr(module, "teacher", tampered)
    with pytest.raises(RunFailed, match=r"test images from .*best\.safetensors alone, but its run recorded"):
        reproduce(tiny(), root=tmp_path)


def test_a_model_that_cannot_be_built_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--teacher_weights must be none, pretrained or a file; there is no file no\.pt"
    ):
        reproduce(tiny(teacher_weights="no.pt"), root=tmp_path)
    with pytest.raises(UserError, match=r"--weights must be none, pretrained or a file; there is no file no\.pt"):
        reproduce(tiny(weights="no.pt"), root=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"--device=cuda:9 is not there: torch sees \d+ GPUs"):
        reproduce(tiny(device="cuda:9"), root=tmp_path)
    with pytest.raises(UserError, match="there is no run or checkpoint 'nosuch'"):
        reproduce(configure(ReproduceConfig, teacher="nosuch"), root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_published_figures_of_other_classes_are_refused_before_anything_is_trained(
    study: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "teacher", lambda *args, **given: pytest.fail("trained"))
    with pytest.raises(UserError, match="--reference=original has the ten classes of CIFAR-10"):
        reproduce(tiny(reference="original"), root=tmp_path)


def test_more_seeds_go_on_with_what_is_there(study: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []

    def stopped(config: DistillConfig, *, root: Path) -> Finished:
        trained.append(config.seed)
        raise RunFailed("stopped here")

    monkeypatch.setattr(module, "distill", stopped)
    with pytest.raises(RunFailed, match="stopped here"):
        reproduce(tiny(seeds=3), root=study.folder.parent)
    assert trained == [2]


def test_a_failed_teacher_is_told_the_flags_of_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverged(*args: object, **given: object) -> Finished:
        raise RunFailed("the loss is not a finite number any more: try a lower --lr")

    monkeypatch.setattr(module, "teacher", diverged)
    with pytest.raises(RunFailed, match="try a lower --teacher_lr"):
        reproduce(tiny(), root=tmp_path)


def test_a_dry_study(tmp_path: Path) -> None:
    done = reproduce(tiny(fast_dev_run=True), root=tmp_path)
    assert done.result["partial"]
    assert {path.name for path in done.folder.iterdir() if path.is_dir()} == {
        *("teacher-dev", "distill-a0.9-T4-dev", "baseline-dev", "compare-distill-a0.9-T4-dev"),
    }


def test_a_checkpoint_beside_another_run_is_compared_without_its_result(
    study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "teacher" / "older.pt"
    older.parent.mkdir()
    older.write_bytes((study.folder / "teacher" / "best.safetensors").read_bytes())
    older.with_name("result.json").write_text("{}")
    given = {key: value for key, value in TINY.items() if not key.startswith("teacher_")}
    done = reproduce(configure(ReproduceConfig, **given, teacher=str(older)), root=tmp_path / "runs")
    assert done.result["teacher"] is None


def test_a_stage_that_was_stopped_goes_on_where_it_was(
    study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the student's epoch: the same command resumes it by itself, to the same weights."""
    run_batches = trainer_module.run_batches
    started = 0

    def stopped(*args: Any, **sizes: int) -> Iterator[Any]:
        nonlocal started
        started += 1
        for number, batch in enumerate(run_batches(*args, **sizes)):
            if (started, number) == (2, 11):
                assert stopping.request_stop(signal.SIGINT)
            yield batch

    monkeypatch.setattr(trainer_module, "run_batches", stopped)
    with pytest.raises(stopping.Stopped):
        reproduce(tiny(), root=tmp_path)
    done = reproduce(tiny(), root=tmp_path)
    assert "resume    after iteration 12 of 26" in capsys.readouterr().out
    assert {path.name for path in done.folder.iterdir() if path.is_dir()} == {
        *("teacher", "distill-a0.9-T4", "baseline", "compare-distill-a0.9-T4")
    }
    for name in ("teacher", "distill-a0.9-T4", "baseline"):
        weights, unbroken = (
            checkpoints.load_checkpoint(folder / name / "best.safetensors").weights
            for folder in (done.folder, study.folder)
        )
        assert all(torch.equal(weights[key], unbroken[key]) for key in weights)


def pictures(folder: Path) -> Path:
    for number in range(24):
        of_class = folder / "pictures" / "train" / ("dark", "light")[number % 2]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 50), (10 + 200 * (number % 2), number, 0)).save(of_class / f"{number}.png")
    return folder / "pictures"


def test_pictures_are_kept_as_large_as_the_larger_of_both_models_takes_them(tmp_path: Path) -> None:
    given = {"dataset": f"folder:{pictures(tmp_path)}", "size": 48, "fast_dev_run": True}
    done = reproduce(tiny(**given), root=tmp_path / "runs")
    configs = [json.loads(path.read_text()) for path in done.folder.glob("*/config.json")]
    assert {(one["command"], one["size"], one["image_size"]) for one in configs} == {
        ("teacher", 32, 48),
        ("distill", 48, 48),
        ("baseline", 48, 48),
    }


def test_a_broken_picture_is_left_out_of_every_stage(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    (folder / "train" / "dark" / "broken.png").write_bytes(b"no picture")
    given = {"dataset": f"folder:{folder}", "fast_dev_run": True, "skip_broken": True}
    done = reproduce(tiny(**given), root=tmp_path / "runs")
    evaluated = [stage["evaluated"] for stage in manifest(done.folder)["stages"].values() if "evaluated" in stage]
    assert len(evaluated) == 3


def test_a_dry_study_of_a_whole_teacher(study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdignite.data.batches.EVALUATION_BATCH", 100)
    given = {key: value for key, value in TINY.items() if not key.startswith("teacher_") and key != "dataset"}
    config = configure(ReproduceConfig, **given, teacher=str(study.folder / "teacher"), fast_dev_run=True)
    done = reproduce(config, root=tmp_path)
    assert (done.result["num_images"], done.result["teacher"]) == (200, None)


@pytest.mark.slow
def test_a_quick_study_of_the_digits_has_a_good_teacher(tmp_path: Path) -> None:
    done = reproduce(configure(ReproduceConfig, preset="quick", dataset="digits", threads=2), root=tmp_path)
    result = json.loads((done.folder / "teacher" / "result.json").read_text())
    assert result["val"]["accuracy"] > 0.9
    assert result["epochs"] == 17  # of six steps, for the 100 that the preset needs
