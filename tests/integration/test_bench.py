"""What ``bench`` measures, on a job that takes seconds."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from torch import Tensor, nn

from kdignite.commands import bench as measured
from kdignite.commands.bench import BARE, COLD, DATA, LIVE, WARM, bench
from kdignite.config import BenchConfig
from kdignite.errors import UserError
from kdignite.runs import Finished
from kdignite.timing import paired_ratio


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = BenchConfig(
        dataset="digits", arch="cnn5", teacher_arch="resnet20", num_images=200, batch_size=50, repeats=2, threads=1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "LIVE_IMAGES", 100)
        return bench(config, root=tmp_path_factory.mktemp("runs"))


def test_every_way_is_measured_as_often(report: Finished) -> None:
    assert {name: len(values) for name, values in report.result["seconds"].items()} == dict.fromkeys(
        (BARE, WARM, COLD, LIVE, DATA), 2
    )
    assert report.result["num_images"] == {BARE: 200, WARM: 200, COLD: 100, LIVE: 100, DATA: 200}
    for name, rate in report.result["images_per_s"].items():
        values = sorted(report.result["num_images"][name] / seconds for seconds in report.result["seconds"][name])
        assert [rate["lowest"], rate["highest"]] == pytest.approx(values)
        assert rate["median"] == pytest.approx(sum(values) / 2)


def test_a_live_teacher_is_slower_and_the_data_are_never_waited_for(report: Finished) -> None:
    """With a wide margin, since the machine may be busy: resnet20 takes as long as the student's whole step."""
    medians = {name: rate["median"] for name, rate in report.result["images_per_s"].items()}
    assert medians[LIVE] < 0.9 * medians[BARE]
    assert medians[COLD] < 0.9 * medians[BARE]
    assert medians[DATA] > 3 * medians[BARE]


def test_the_parts_of_a_step_are_all_there(report: Finished) -> None:
    parts = report.result["step_seconds"]
    assert set(parts) == {
        *("data", "teacher, live", "teacher, cached", "student forward", "loss and backward", "optimiser", "handlers")
    }
    assert parts["teacher, cached"] < parts["teacher, live"]
    ceiling = report.result["speedup"]["ceiling"]
    share = report.result["seconds_per_image"]
    assert ceiling == pytest.approx((share["teacher"] + share["student"]) / share["student"])


def test_the_report_is_in_a_folder_of_its_own_and_names_no_place(report: Finished) -> None:
    assert {path.name for path in report.folder.iterdir()} == {"bench.json", "bench.md", "bench.png"}
    written: dict[str, Any] = json.loads((report.folder / "bench.json").read_text())
    assert written == report.result
    assert "/" not in json.dumps(written["job"])
    text = (report.folder / "bench.md").read_text()
    assert all(name in text for name in (BARE, WARM, COLD, LIVE, DATA, "loss and backward"))
    with Image.open(report.folder / "bench.png") as image:
        assert image.width > 1000


@pytest.mark.slow  # where nothing else runs on purpose
def test_the_loop_of_distill_keeps_up_with_a_bare_one(tmp_path: Path) -> None:
    """Loosely: what is measured on a quiet machine stands in the documentation; here others may be at work."""
    config = BenchConfig(dataset="digits", batch_size=100, num_images=1297, repeats=2, threads=1)
    job = measured._job(config, measured.set_up_device("cpu", threads=1))
    trials = {name: trial for name, trial in measured._trials(job, tmp_path).items() if name in (BARE, WARM)}
    seconds = measured.alternate(trials, repeats=3)
    assert paired_ratio(seconds[BARE], seconds[WARM]).highest > 0.9


def test_networks_of_ones_own_that_need_contiguous_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Viewing(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            maps = self[0](images)
            logits: Tensor = self[1](maps.view(len(maps), -1))
            return logits

    module = ModuleType("own_viewing")
    module.net = lambda num_classes: Viewing(nn.Conv2d(3, 4, 5, 4), nn.Linear(196, num_classes))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_viewing", module)
    both = {"arch": "own_viewing:net", "teacher_arch": "own_viewing:net"}
    config = BenchConfig(dataset="digits", num_images=100, batch_size=50, repeats=2, threads=1, **both)
    assert bench(config, root=tmp_path).result["job"]["student"] == "own_viewing:net"


def test_a_model_that_is_not_there_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resnet57"):
        bench(BenchConfig(dataset="digits", teacher_arch="resnet57"), root=tmp_path)
    assert list(tmp_path.iterdir()) == []
