"""What a run leaves behind at its end."""

import copy
import csv
import json
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, log_loss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from kdignite import files
from kdignite.config import BaselineConfig, DistillConfig, TrainConfig, to_json
from kdignite.evaluation import Outcome
from kdignite.metrics import recorded
from kdignite.metrics.cost import Cost
from kdignite.reports.page import worst_mistakes
from kdignite.training import results


def outcome(num_images: int, num_classes: int, *, seed: int) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % num_classes
    logits = torch.randn(num_images, num_classes, generator=generator) + 2 * torch.eye(num_classes)[labels]
    confusion = torch.from_numpy(confusion_matrix(labels, logits.argmax(1), labels=range(num_classes)))
    return Outcome(logits, labels, torch.arange(num_images) + 100 * seed, confusion, 0.0)


def named(num_classes: int) -> tuple[str, ...]:
    return tuple(f"c{index}" for index in range(num_classes))


def outcomes(num_classes: int) -> dict[str, Outcome]:
    return {"val": outcome(30, num_classes, seed=1), "test": outcome(50, num_classes, seed=2)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An evaluation with three classes: its folder, and what a result records of it."""
    folder = tmp_path_factory.mktemp("written")
    return folder, results.write_evaluation(folder, outcomes(3), classes=named(3), title="baseline")


@pytest.fixture
def made(tmp_path: Path, written: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    """The result of a run with three classes, whose files are in ``tmp_path``."""
    shutil.copytree(written[0], tmp_path, dirs_exist_ok=True)
    summaries = copy.deepcopy(written[1])
    about = {"name": "baseline", "best_epoch": 4, "epochs": 9, "train_seconds": 12.4, "teacher": None, "partial": False}
    cost = {**Cost(92_458, 4_087_156_736, 1.926, 2.5, 1, 908_272)._asdict(), "file_bytes": 3 * 2**20 // 4}
    return {**about, "cost": cost, **summaries}


def test_predictions_are_what_the_model_answered(written: tuple[Path, dict[str, Any]]) -> None:
    answers = outcomes(3)
    with np.load(written[0] / "predictions.npz", allow_pickle=False) as stored:
        assert len(stored.files) == 8
        for split, its in answers.items():
            for name in ("logits", "labels", "indices"):
                np.testing.assert_array_equal(stored[f"{split}_{name}"], getattr(its, name).numpy())
        assert stored["test_logits"].dtype == np.float32


def test_the_summary_of_each_split_agrees_with_scikit_learn(written: tuple[Path, dict[str, Any]]) -> None:
    answers, (folder, summaries) = outcomes(3), written
    assert list(summaries) == ["val", "test"]
    for split, its in answers.items():
        probabilities = torch.softmax(its.logits.double(), 1).numpy()
        assert summaries[split]["accuracy"] == pytest.approx(accuracy_score(its.labels, its.logits.argmax(1)))
        assert summaries[split]["loss"] == pytest.approx(log_loss(its.labels, probabilities), rel=1e-9)
        assert summaries[split]["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(its.labels, its.logits.argmax(1))
        )
        with np.load(folder / "predictions.npz") as stored:
            assert stored[f"{split}_confusion"].tolist() == its.confusion.tolist()
    assert "confusion" not in json.dumps(summaries, allow_nan=False).replace("confusions", "")


def test_predictions_are_whole_or_those_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results.write_evaluation(tmp_path, outcomes(3), classes=named(3), title="x")
    before = (tmp_path / "predictions.npz").read_bytes()

    def broken(file: Any, **arrays: Any) -> None:
        with file.open("wb") if isinstance(file, Path) else file as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError, match="No space left"):
        results.write_evaluation(tmp_path, outcomes(3), classes=named(3), title="x")
    assert (tmp_path / "predictions.npz").read_bytes() == before


def test_few_classes_leave_figures_and_many_tables_too(tmp_path: Path) -> None:
    figures = {"predictions.npz", "confusion_matrix.png", "classification_report.png"}
    for num_classes, tables in ((20, set()), (21, {"classes.csv", "confusions.csv"})):
        folder = tmp_path / str(num_classes)
        folder.mkdir()
        results.write_evaluation(folder, outcomes(num_classes), classes=named(num_classes), title="x")
        assert {file.name for file in folder.iterdir()} == figures | tables
        assert figures | tables <= {*results.LEFT}
        for name in figures - {"predictions.npz"}:
            with Image.open(folder / name) as image:
                image.verify()
    with (folder / "classes.csv").open(newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == list(named(21))


def test_the_figures_show_the_last_split_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(
        results, "confusion_figure", lambda summary, *, title: (titles.append(title), shown.append(summary))
    )
    monkeypatch.setattr(results, "classification_figure", lambda summary, *, title: titles.append(title))
    monkeypatch.setattr(results, "save_figure", lambda figure, path: None)
    summaries = results.write_evaluation(tmp_path, outcomes(3), classes=named(3), title="mine")
    results.write_evaluation(tmp_path, {"val": outcomes(3)["val"]}, classes=named(3), title="mine")
    assert titles == ["mine, test images"] * 2 + ["mine, validation images"] * 2
    assert list(map(recorded, shown)) == [summaries["test"], summaries["val"]]


# --- TensorBoard


def pictures(indices: Sequence[int]) -> list[np.ndarray]:
    return [np.full((3, 8, 8), index % 256, np.uint8) for index in indices]


def plotted(folder: Path, made: dict[str, Any], config: TrainConfig) -> EventAccumulator:
    logs = folder / "logs"
    with SummaryWriter(str(logs)) as writer:
        results.plot(writer, folder, made, config=config, epoch=9, pictures=pictures)
    assert len(list(logs.rglob("*"))) == 1  # one file and no folder of another run
    return EventAccumulator(str(next(logs.iterdir()))).Reload()


def settings_in(events: EventAccumulator) -> dict[str, str]:
    """The cells of the table of settings, as Markdown shows them."""
    (event,) = events.Tensors("config/text_summary")
    lines = event.tensor_proto.string_val[0].decode().splitlines()
    assert lines[:2] == ["| setting | value |", "| --- | --- |"]
    marked = (line.replace("\\|", "\0").split("|") for line in lines[2:])
    rows = [[cell.strip().replace("\0", "|") for cell in cells] for cells in marked]
    assert all(len(cells) == 4 and cells[0] == cells[3] == "" for cells in rows)
    return {cells[1]: cells[2] for cells in rows}


def test_test_scores_and_figures_are_plotted_at_the_last_epoch(tmp_path: Path, made: dict[str, Any]) -> None:
    events = plotted(tmp_path, made, BaselineConfig())
    scores = ("accuracy", "balanced_accuracy", "loss", "ece")
    assert set(events.Tags()["scalars"]) == {f"test/{name}" for name in scores}
    for name in scores:
        (event,) = events.Scalars(f"test/{name}")
        assert (event.step, event.value) == (9, pytest.approx(made["test"][name], rel=1e-6))
    assert set(events.Tags()["images"]) == {"confusion_matrix", "classification_report", "reliability", "mistakes"}
    (sheet,) = events.Images("mistakes")
    with Image.open(BytesIO(sheet.encoded_image_string)) as image, np.load(tmp_path / "predictions.npz") as stored:
        worst = worst_mistakes(stored["test_logits"], stored["test_labels"])[0]
        assert image.getpixel((48, 48)) == (int(stored["test_indices"][worst.row]) % 256,) * 3
    for name in ("confusion_matrix", "classification_report"):
        (shown,) = events.Images(name)
        with Image.open(tmp_path / f"{name}.png") as image:
            assert (shown.step, shown.width, shown.height) == (9, *image.size)


def test_every_setting_is_in_the_text(tmp_path: Path, made: dict[str, Any]) -> None:
    config = DistillConfig(alpha=0.3, T=2.0, widths=(1, 2, 3, 4, 5), dataset="digits")
    cells = settings_in(plotted(tmp_path, made, config))
    assert {key: json.loads(text) for key, text in cells.items()} == {"command": "distill", **to_json(config)}


def test_a_line_in_a_setting_does_not_break_the_table(tmp_path: Path, made: dict[str, Any]) -> None:
    config = BaselineConfig(dataset="folder:a|b\nc", data_root="|")
    cells = settings_in(plotted(tmp_path, made, config))
    assert json.loads(cells["dataset"]) == "folder:a|b\nc"
    assert json.loads(cells["data_root"]) == "|"


@pytest.mark.parametrize("config", [BaselineConfig(), DistillConfig(alpha=0.3, T=2.0)])
def test_runs_can_be_compared_by_their_settings(tmp_path: Path, made: dict[str, Any], config: TrainConfig) -> None:
    events = plotted(tmp_path, made, config)
    found = events.summary_metadata
    assert {tag for tag in found if "hparams" in tag} == {
        "_hparams_/experiment",
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    start = HParamsPluginData.FromString(found["_hparams_/session_start_info"].plugin_data.content)
    shown = start.session_start_info.hparams
    absent = {"control", "alpha", "T"} if isinstance(config, BaselineConfig) else {"control"}
    assert set(shown) == set(results.HPARAMS) - absent  # what a run does not have is left out
    assert shown["method"].string_value == getattr(config, "method", config.command)
    assert shown["seed"].number_value == config.seed
    assert len(shown) <= 5  # TensorBoard shows five unasked
    if isinstance(config, DistillConfig):
        assert (shown["alpha"].number_value, shown["T"].number_value) == (0.3, 2.0)
    about = HParamsPluginData.FromString(found["_hparams_/experiment"].plugin_data.content)
    assert {info.name.tag for info in about.experiment.metric_infos} == set(results.HPARAM_METRICS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside TensorBoard
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["alpha", "T"])
def test_tensorboard_sorts_runs_with_a_setting_and_runs_without(
    tmp_path: Path, made: dict[str, Any], name: str, first: int
) -> None:
    configs = [BaselineConfig(), DistillConfig(alpha=0.3, T=2.0), DistillConfig(alpha=1.0, T=1.0)]
    for place, config in enumerate(configs[first:] + configs[:first]):
        with SummaryWriter(str(tmp_path / f"{place}")) as writer:
            results.plot(writer, tmp_path, made, config=config, epoch=9, pictures=pictures)
    assert set(sorted_by(tmp_path, name)) == {"0", "1", "2"}


def sorted_by(folder: Path, name: str) -> list[str]:
    """The runs in a folder in the order in which TensorBoard's server gives them."""
    from tensorboard.backend import application
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.core.core_plugin import CorePluginLoader
    from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin
    from tensorboard.program import TensorBoard
    from werkzeug.test import Client

    flags = TensorBoard(plugins=[CorePluginLoader, HParamsPlugin])
    flags.configure(logdir=str(folder))
    read = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = MultiplexerDataProvider(read, str(folder))
    server = application.TensorBoardWSGIApp(flags.flags, flags.plugin_loaders, provider)
    every = [f"STATUS_{status}" for status in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    columns = [{"hparam": name, "order": "ORDER_ASC"}]
    asked = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": every, "colParams": columns}
    answer = Client(server).post("/data/plugin/hparams/session_groups", json=asked)
    assert answer.status_code == 200
    return [session["name"] for group in answer.json["sessionGroups"] for session in group["sessions"]]


def test_the_cost_of_a_model_and_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "best.safetensors"
    file.write_bytes(b"x" * 1234)
    monkeypatch.setattr(results, "load_placed", lambda checkpoint: torch.nn.Conv2d(3, 5, 3))
    description = SimpleNamespace(preprocessing=SimpleNamespace(size=8))
    found = results.cost_of(SimpleNamespace(description=description, path=file))  # type: ignore[arg-type]
    assert set(found) == {*Cost._fields, "file_bytes"}
    assert (found["num_parameters"], found["multiply_adds"]) == (5 * 3 * 9 + 5, 6 * 6 * 5 * 3 * 9)
    assert found["file_bytes"] == 1234
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_cost_that_cannot_be_measured_is_a_dash(made: dict[str, Any]) -> None:
    made["cost"] |= dict.fromkeys(("multiply_adds", "latency_median_ms", "latency_p95_ms", "peak_memory_bytes"))
    assert "cost        92,458 parameters, - M multiply-adds, a file of 0.75 MiB, - ms an image" in (
        results.closing_lines(Path("runs/baseline"), made)
    )


# --- the last words


def test_the_last_words_of_a_run(made: dict[str, Any]) -> None:
    text = results.closing_lines(Path("runs/baseline"), made)
    correct = made["test"]["num_correct"]
    assert "Test images, baseline" in text
    assert f"({correct} of 50 images)" in text
    assert f"validation  accuracy {100 * made['val']['accuracy']:.1f} %" in text
    assert "best epoch  4 of 9, chosen on validation; training took 12 s" in text
    cost, files = text.splitlines()[-3:-1]
    assert cost == (
        "cost        92,458 parameters, 4,087.2 M multiply-adds, a file of 0.75 MiB, 1.93 ms an image "
        "(batch 1, one thread)"
    )
    assert files == "files       runs/baseline/ (best.safetensors, result.json, report.html, figures)"
    assert "teacher" not in text
    assert "partial" not in text


@pytest.mark.parametrize(("lead", "told"), [(0.0321, "3.21 points ahead"), (-0.0321, "3.21 points behind")])
def test_the_last_words_name_the_teacher_and_its_lead_in_points(made: dict[str, Any], lead: float, told: str) -> None:
    made["teacher"] = {"name": "big", "sha256": "0", "accuracy": made["val"]["accuracy"] + lead}
    text = results.closing_lines(Path("runs/distill"), made)
    assert f"teacher     big, {told} on validation" in text


def test_the_last_words_of_a_partial_run_say_that_it_proves_nothing(made: dict[str, Any]) -> None:
    text = results.closing_lines(Path("runs/x"), {**made, "partial": True})
    assert "partial     this run saw only part of its images: its numbers are no result" in text


def test_files_do_not_grow_with_the_square_of_the_number_of_classes(tmp_path: Path) -> None:
    labels = torch.arange(3_000)
    logits = torch.eye(3_000)[labels.roll(1)]  # every image is another kind of mistake
    answered = Outcome(logits, labels, labels, torch.eye(3_000, dtype=torch.int64).roll(1, 0), 1.0)
    summaries = results.write_evaluation(tmp_path, {"test": answered}, classes=named(3_000), title="x")
    files.write_json(tmp_path / "result.json", summaries)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert max(sizes[name] for name in ("result.json", "classes.csv", "confusions.csv")) < 2**20
    assert sizes["predictions.npz"] < 2**20
    assert files.read_json(tmp_path / "result.json") == summaries
    with np.load(tmp_path / "predictions.npz") as stored:
        assert np.array_equal(stored["test_confusion"], answered.confusion.numpy())
