"""Distilling from kept answers is distilling from the teacher."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kdignite import files, runs
from kdignite.commands.baseline import baseline
from kdignite.commands.cache import cache
from kdignite.commands.distill import distill
from kdignite.commands.teacher import teacher
from kdignite.config import CacheConfig
from kdignite.errors import UserError
from kdignite.runs import Finished
from kdignite.teachers import StoredTable, remove, stored_tables
from kdignite.teachers.logit_cache import VERIFIED_ROWS
from kdignite.training import teacher as teacher_module
from kdignite.training import teacher_cache

from .alike import curves, is_same_in_any_batch, weights
from .conftest import alone, learner, student

FEW = {"epochs": 1, "limit_train": 300}


def tables(root: Path) -> list[StoredTable]:
    """Those of training images; the answers to the 200 validation images are kept beside them."""
    return [table for table in stored_tables(root / ".teacher_cache") if table.about["num_images"] != 200]


def test_from_a_table_cold_or_warm_weights_are_those_of_the_live_teacher(root: Path, taught: Finished) -> None:
    live = distill(student(cache="off"), root=root)
    assert tables(root) == []
    cold, warm = (distill(student(), root=root) for _ in range(2))
    assert len(tables(root)) == 1
    assert all(torch.equal(one, weights(cold.folder)[name]) for name, one in weights(warm.folder).items())
    assert curves(cold.folder) == curves(warm.folder)
    if is_same_in_any_batch(taught.folder, batch_size=50):
        assert all(torch.equal(one, weights(cold.folder)[name]) for name, one in weights(live.folder).items())
        assert curves(cold.folder) == curves(live.folder)
    for name, one in weights(live.folder).items():
        torch.testing.assert_close(one, weights(cold.folder)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("method", "layer"), [("fitnet", "relu2"), ("pkt", "relu5")])  # a map, a vector
def test_features_too(method: str, layer: str, root: Path, taught: Finished) -> None:
    asked: dict[str, Any] = {**FEW, "method": method, "epochs": 2, "augment": "flip"}
    live, cold, warm = (distill(student(**asked, cache=cache), root=root) for cache in ("off", "auto", "auto"))
    assert [(table.num_views, table.about["features"]) for table in tables(root)] == [(2, layer)]
    assert all(torch.equal(one, weights(cold.folder)[name]) for name, one in weights(warm.folder).items())
    if is_same_in_any_batch(taught.folder, batch_size=50):
        assert curves(cold.folder) == curves(live.folder)
    for name, one in weights(live.folder).items():
        torch.testing.assert_close(one, weights(cold.folder)[name], rtol=1e-3, atol=1e-4)


def test_of_mixed_images_too_and_without_a_teacher_it_is_the_baseline(
    root: Path, taught: Finished, few_pixels: None
) -> None:
    mixed: dict[str, Any] = {"mix": "cutmix", "augment": "rrc+jitter", "label_smoothing": 0.1, "balance": "loss"}
    live, cold = (distill(student(**mixed, cache=cache, epochs=1), root=root) for cache in ("off", "auto"))
    if is_same_in_any_batch(taught.folder, batch_size=50):
        assert all(torch.equal(one, weights(cold.folder)[name]) for name, one in weights(live.folder).items())
    for name, one in weights(live.folder).items():
        torch.testing.assert_close(one, weights(cold.folder)[name], rtol=1e-3, atol=1e-4)
    without, base = (
        distill(student(**mixed, alpha=0.0, epochs=1), root=root),
        baseline(alone(**mixed, epochs=1), root=root),
    )
    assert all(torch.equal(one, weights(without.folder)[name]) for name, one in weights(base.folder).items())


def test_other_losses_students_and_seeds_read_the_same_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distill(student(**FEW), root=root)
    written = {path: path.stat().st_mtime_ns for path in root.glob(".teacher_cache/*/*.logits")}
    capsys.readouterr()
    for other in ({"alpha": 0.2, "T": 1.0}, {"seed": 5, "widths": (4,) * 5}, {"batch_size": 100, "lr": 0.01}):
        distill(student(**FEW, **other), root=root)
        assert "1 of 1 views have cached teacher logits" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.glob(".teacher_cache/*/*.logits")} == written


def test_other_images_or_other_answers_are_another_table(root: Path) -> None:
    others = (
        {},
        {"view_seed": 3},
        {"limit_train": 250},
        {"augment": "none"},
        {"teacher_amp": "bf16"},
        {"cache_top": 3},
    )
    for number, other in enumerate(others, 1):
        distill(student(**{**FEW, **other}), root=root)
        assert len(tables(root)) == number, other


def test_training_and_validation_images_that_are_numbered_alike_are_two_tables(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, labels = np.random.default_rng(0), np.arange(200) % 2
    dark = [rng.integers(128, size=(200, 3, 32, 32), dtype=np.uint8) for _ in range(3)]
    bright = (128 * labels.astype(np.uint8))[:, None, None, None]
    parts = {name: (images + bright, labels) for name, images in zip(("train", "val", "test"), dark, strict=True)}
    monkeypatch.setitem(sys.modules, "own_sets", SimpleNamespace(sets=lambda: parts))
    own = {"dataset": "own_sets:sets", "augment": "none", "epochs": 3}
    taught = teacher(learner(**own), root=root)
    asked = {
        cache: distill(student(**own, teacher=str(taught.folder), cache=cache), root=root) for cache in ("off", "auto")
    }
    assert len(stored_tables(root / ".teacher_cache")) == 2
    for name, one in weights(asked["off"].folder).items():
        torch.testing.assert_close(one, weights(asked["auto"].folder)[name], rtol=1e-3, atol=1e-4)


def test_views_that_come_round_are_asked_about_once_and_the_baseline_sees_them_too(root: Path) -> None:
    few = {"epochs": 5, "limit_train": 300}
    taught = distill(student(**few, views=2, alpha=0.0), root=root)
    untaught = baseline(alone(**few, views=2), root=root)
    assert [table.num_views for table in tables(root)] == [2]
    assert all(torch.equal(one, weights(untaught.folder)[name]) for name, one in weights(taught.folder).items())
    other = baseline(alone(**few), root=root)
    assert not all(torch.equal(one, weights(other.folder)[name]) for name, one in weights(untaught.folder).items())


def test_a_folder_that_was_named_holds_any_size(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "LIMIT_BYTES", 10)
    distill(student(epochs=1, cache=str(tmp_path / "mine"), cache_dtype="float16"), root=root)
    assert {table.about["num_images"]: table.num_bytes for table in stored_tables(tmp_path / "mine")} == {
        1297: 4096 + 1297 * 10 * 2,
        200: 4096 + 200 * 10 * 4,
    }
    assert tables(root) == []


def test_a_folder_that_cannot_be_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--cache=.*file must be auto, off or a folder: (File exists|Not a directory)"):
        distill(student(cache=str(tmp_path / "file")), root=root)


def test_what_would_be_too_large_is_not_kept_unasked(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(teacher_cache, "LIMIT_BYTES", 2 * 1297 * 10 * 4 - 1)
    distill(student(), root=root)
    assert "cache     none: the teacher's logits would take 0.0 GiB" in capsys.readouterr().out
    monkeypatch.setattr(teacher_cache, "LIMIT_BYTES", 2 * 1297 * 10 * 2 - 1)
    with pytest.raises(
        UserError, match=r"^--cache_dtype=float16 still takes 0\.0 GiB, .*; a live teacher needs --cache_dtype=float32"
    ):
        distill(student(cache_dtype="float16"), root=root)
    assert tables(root) == []


def test_room_is_made_for_a_new_table(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distill(student(**FEW), root=root)
    (old,) = tables(root)
    monkeypatch.setattr(teacher_cache, "LIMIT_BYTES", old.num_bytes + 10)
    distill(student(**FEW, view_seed=1), root=root)
    assert f"cache     {old.folder} is removed" in capsys.readouterr().out
    assert len(tables(root)) == 1
    assert not old.folder.exists()


def test_room_for_the_answers_on_validation_images_is_not_taken_from_the_table_that_is_read_next(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distill(student(**FEW), root=root)
    distill(student(**FEW, view_seed=1), root=root)
    newer, older = tables(root)
    monkeypatch.setattr(teacher_cache, "LIMIT_BYTES", newer.num_bytes + older.num_bytes + 10)
    capsys.readouterr()
    distill(student(**FEW, alpha=0.5), root=root)
    told = capsys.readouterr().out
    assert f"cache     {older.folder}: 1 of 1 views have cached teacher logits" in told
    assert f"cache     {newer.folder} is removed" in told


def test_a_dry_run_keeps_nothing(root: Path) -> None:
    distill(student(fast_dev_run=True), root=root)
    assert tables(root) == []


def test_runs_of_a_study_and_beside_it_share_their_tables(root: Path) -> None:
    study = root / "study"
    study.mkdir()
    files.write_json(study / runs.MANIFEST, {})
    distill(student(**FEW, teacher=str(root / "teacher")), root=study)
    assert not (study / ".teacher_cache").exists()
    assert len(tables(root)) == 1


def test_a_teacher_that_is_known_is_not_asked_about_every_validation_image_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, count = distill(student(**FEW), root=root), 0
    load_predictor = teacher_module.load_predictor

    def counted(*args: Any, **kwargs: Any) -> Any:
        logits_of = load_predictor(*args, **kwargs)

        def ask(images: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += len(images)
            return logits_of(images)

        return ask

    monkeypatch.setattr(teacher_module, "load_predictor", counted)
    again = distill(student(**FEW), root=root)
    assert count == 2 * VERIFIED_ROWS  # of the validation images, and of the one view
    assert again.result["teacher"] == first.result["teacher"]


def test_a_table_that_is_only_read_was_used_last(root: Path) -> None:
    distill(student(**FEW), root=root)
    (old,) = tables(root)
    distill(student(**FEW, view_seed=1), root=root)
    distill(student(**FEW, alpha=0.5), root=root)
    assert tables(root)[0].folder == old.folder


def test_another_name_for_the_teacher_reads_the_same_table(root: Path) -> None:
    distill(student(**FEW), root=root)
    distill(student(**FEW, teacher=str(root / "teacher"), teacher_arch="cnn5"), root=root)
    assert len(tables(root)) == 1


def test_the_command_lists_and_prunes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for view_seed in range(2):
        distill(student(**FEW, view_seed=view_seed), root=root)
    capsys.readouterr()
    for table in stored_tables(root / ".teacher_cache"):
        if table.about["num_images"] == 200:
            remove(table.folder)
    first, second = (table.folder.name for table in cache(CacheConfig(), root=root))
    told = capsys.readouterr().out
    assert first in told
    assert "| teacher | digits | -        |    300 |     1 | 0.0 MiB |" in told
    assert "2 tables in" in told
    with pytest.raises(UserError, match=r"--prune=nothing matches 0 tables"):
        cache(CacheConfig(prune=(first, "nothing")), root=root)
    assert len(tables(root)) == 2
    (left,) = cache(CacheConfig(prune=(first,)), root=root)
    assert left.folder.name == second
    assert cache(CacheConfig(prune=("all",)), root=root) == []
    assert "0 tables in" in capsys.readouterr().out
    assert cache(CacheConfig(cache=str(root / "nowhere")), root=root) == []
