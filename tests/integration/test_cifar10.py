"""On the real data: run where ``KDIGNITE_DATA`` has CIFAR-10 (``tox -e slow``)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.commands.teacher import teacher
from kdignite.config import BaselineConfig, DistillConfig, TeacherConfig, configure
from kdignite.data.preprocess import measure_statistics
from kdignite.data.registry import load_source
from kdignite.data.source import Source
from kdignite.data.splits import split_source

from .alike import is_same_in_any_batch, weights

pytestmark = pytest.mark.cifar10


@pytest.fixture(scope="module")
def source() -> Source:
    root = os.environ.get("KDIGNITE_DATA")
    if not root or not list(Path(root).glob("cifar-10-batches-*")):
        pytest.skip("KDIGNITE_DATA has no CIFAR-10")
    return load_source("cifar10", data_root=Path(root), image_size=32)


def test_it_is_the_published_data_set(source: Source) -> None:
    assert (len(source.train.labels), len(source.test.labels)) == (50_000, 10_000)
    assert source.classes[:3] == ("airplane", "automobile", "bird")
    assert torch.bincount(source.train.labels).tolist() == [5_000] * 10
    statistics = measure_statistics([source.train.images])
    assert statistics.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)  # as published everywhere
    assert statistics.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)


def test_the_split_holds_5000_images_out(source: Source) -> None:
    splits = split_source(source, val_size=None)
    assert [len(part.indices) for part in (splits.train, splits.val, splits.test)] == [45_000, 5_000, 10_000]
    assert torch.bincount(splits.val.labels).tolist() == [500] * 10


@pytest.mark.timeout(900)
def test_a_table_teaches_to_the_bit_what_its_teacher_does(source: Source, tmp_path: Path) -> None:
    """Where the processor computes the teacher's answers to the same bits in batches as in chunks."""
    torch.set_num_threads(os.cpu_count() or 1)
    part = {"limit_train": 2_000, "epochs": 1}
    taught = teacher(configure(TeacherConfig, **part), root=tmp_path)
    given = {**part, "epochs": 2, "teacher": str(taught.folder), "allow_weak_teacher": True}
    live, cold, warm = (
        weights(distill(configure(DistillConfig, **given, cache=kept), root=tmp_path).folder)
        for kept in ("off", "auto", "auto")
    )
    assert all(torch.equal(one, warm[name]) for name, one in cold.items())
    if is_same_in_any_batch(taught.folder, batch_size=100):
        assert all(torch.equal(one, cold[name]) for name, one in live.items())
    for name, one in live.items():
        torch.testing.assert_close(one, cold[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_baseline_passes_82_per_cent_in_10_epochs(source: Source, tmp_path: Path) -> None:
    """And scores the same when a fresh process evaluates its file."""
    torch.set_num_threads(os.cpu_count() or 1)
    run = baseline(configure(BaselineConfig), root=tmp_path / "runs")
    assert run.result["epochs"] == 10
    assert run.result["test"]["accuracy"] > 0.82
    command = [sys.executable, "-m", "kdignite", "evaluate", "runs/baseline", "--split=val"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    (evaluation,) = tmp_path.glob("runs/evaluate-baseline-val/evaluation.json")
    assert json.loads(evaluation.read_text())["num_correct"] == run.result["val"]["num_correct"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_epochs_pass_the_published_accuracy(source: Source, tmp_path: Path) -> None:
    """The published experiment reported 67.7 % for this architecture, taught, after ten epochs."""
    torch.set_num_threads(os.cpu_count() or 1)
    run = baseline(configure(BaselineConfig, epochs=3), root=tmp_path / "runs")
    assert run.result["test"]["accuracy"] > 0.677
