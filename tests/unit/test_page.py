"""``report.html``: complete in itself, accessible, escaped, and of the numbers in the files."""

import base64
import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdignite import files
from kdignite.commands.compare import compare
from kdignite.commands.pages import open_pictures, read_summary
from kdignite.commands.report import report
from kdignite.comparison.methods import BETTER, Budget, Contrast, MethodRow, MethodsSummary
from kdignite.comparison.pairing import pair_runs
from kdignite.comparison.recipes import SCORES, Recipe, RecipeRun
from kdignite.comparison.runs import read_run, read_runs
from kdignite.comparison.scores import ROLES, Difference
from kdignite.comparison.search import SearchSummary
from kdignite.comparison.summary import Summary, summarize
from kdignite.comparison.sweep import GridPoint, SweepSummary
from kdignite.config import CompareConfig, Range, ReportConfig
from kdignite.data.registry import load_source
from kdignite.errors import UserError
from kdignite.metrics import evaluation_summary, expected_calibration_error, recorded, softmax
from kdignite.metrics.statistics import Spread
from kdignite.reports.comparison import comparison_json, summary_from_json
from kdignite.reports.comparison.sentences import mcnemar_text
from kdignite.reports.methods import methods_json
from kdignite.reports.page import comparison_page, find_runs, methods_page, run_page, study_page, worst_mistakes
from kdignite.reports.page.blocks import Text
from kdignite.reports.page.mistakes import Pictures, data_uri
from kdignite.reports.page.render import page_text
from kdignite.reports.page.tables import changes
from kdignite.reports.search import search_from_json, search_json
from kdignite.reports.sweep import chosen_text, sweep_from_json, sweep_json, sweep_text
from kdignite.trials import TrialRow

VOID = {"meta", "link", "img", "br", "line", "rect", "circle", "polyline"}
NASTY = ("<script>alert(1)</script>", "a\"b'c & d", "\u202eevil", "100 % | $5$")
COST = {"num_parameters": 1234, "multiply_adds": 5_000_000, "file_bytes": 2**20, "latency_threads": 1}


class Tree(HTMLParser):
    """The elements of a page; an element that is closed by another one's end tag fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []  # the innermost element, and its text
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_in(self, *tags: str) -> str:
        return " ".join(text.strip() for tag, text in self.texts if tag in tags and text.strip())


def checked(text: str) -> Tree:
    """A page that loads nothing and that assistive technology can read."""
    tree = Tree(text)
    for _, attributes in tree.elements:
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert re.match(r"data:|#|(\.\./)*[\w./%-]+\.html$", attributes.get(name, "#")), attributes
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in text
    assert "url(" not in text
    assert "://" not in text
    assert all(one.get("alt") for one in tree.all("img"))
    assert all(one.get("aria-label") for one in tree.all("svg") if one.get("role") == "img")
    assert all(one.get("role") == "img" or one.get("height") == "8" for one in tree.all("svg"))
    assert all(one.get("scope") in ("col", "row") for one in tree.all("th"))
    assert len(tree.all("caption")) == len(tree.all("table"))
    ids = Counter(attributes["id"] for _, attributes in tree.elements if "id" in attributes)
    assert set(ids.values()) <= {1}
    assert {one["href"][1:] for one in tree.all("a") if one["href"].startswith("#")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in tree.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
    assert tree.all("html") == [{"lang": "en"}]
    (policy,) = [one["content"] for one in tree.all("meta") if "http-equiv" in one]
    script = re.search("<script>(.*?)</script>", text, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"'sha256-{digest}'" in policy
    return tree


def write_run(
    folder: Path,
    command: str,
    *,
    classes: Sequence[str] = ("cat", "dog", "eel"),
    seed: int = 0,
    skill: float = 1.5,
    **given: Any,
) -> np.ndarray:
    """The files of a finished run with three test images a class, and its logits."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, len(command)])
    labels = np.repeat(np.arange(len(classes)), 3)
    logits = (rng.normal(size=(len(labels), len(classes))) + skill * np.eye(len(classes))[labels]).astype(np.float32)
    test = {"test_logits": logits, "test_labels": labels, "test_indices": np.arange(len(labels))}
    np.savez(folder / "predictions.npz", val_logits=logits[::2], val_labels=labels[::2], **test)
    scores = recorded(evaluation_summary(logits, labels, classes=classes))
    (folder / "best.safetensors").write_bytes(folder.name.encode())
    result = {
        **{"command": command, "name": folder.name, "partial": False, "fingerprint": "f", "split": "s", "val_size": 10},
        **{"dataset": "digits", "arch": "cnn5", "seed": seed, "epochs": 2, "best_epoch": 2, "teacher": None},
        **{"cost": COST, "test": scores, "val": scores, **given},
    }
    config = {"command": command, "preset": "standard", "dataset": result["dataset"], "seed": seed, "epochs": 2}
    if result["teacher"]:
        config |= {"alpha": 0.5, "T": 4.0, "method": "kd", "teacher": "elsewhere/teacher/best.safetensors"}
    for name, values in (("result", result), ("config", config), ("environment", {"torch": "2", "threads": 1})):
        files.write_json(folder / f"{name}.json", values)
    parts = ("ce", "kd") if result["teacher"] else ()
    columns = ("epoch", "loss", *parts, "accuracy_train", "loss_val", "accuracy_val", "accuracy_teacher", "lr")
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([columns, *([epoch, *[1 / epoch] * (len(columns) - 2), 0.1] for epoch in (1, 2))])
    return logits


def write_runs(root: Path, *, seeds: int = 1, **given: Any) -> list[str]:
    write_run(root / "teacher", "teacher", skill=3.0, **given)
    record = {"name": "teacher", "sha256": files.sha256(root / "teacher" / "best.safetensors"), "accuracy": 0.9}
    for seed in range(seeds):
        write_run(root / f"student{seed}", "distill", seed=seed, teacher=record, **given)
        write_run(root / f"baseline{seed}", "baseline", seed=seed, **given)
    return ["teacher", *(f"{role}{seed}" for seed in range(seeds) for role in ("student", "baseline"))]


def pictures(indices: Sequence[int]) -> list[np.ndarray]:
    return [np.full((3, 8, 8), index % 256, np.uint8) for index in indices]


def page_of(folder: Path, source: Pictures = pictures) -> str:
    return page_text(run_page(read_run(folder, label=folder.name), pictures=source))


def compared(root: Path, names: Sequence[str]) -> Summary:
    return summarize(pair_runs(read_runs(names, root=root)))


def comparison_text(root: Path, summary: Summary) -> str:
    found = find_runs(summary.runs, root)
    return page_text(comparison_page(summary, found, folder=root / "compare", beside=root, pictures=pictures))


def test_the_page_of_a_student_has_its_teachers_answers(tmp_path: Path) -> None:
    write_runs(tmp_path)
    tree = checked(page_of(tmp_path / "student0"))
    run, teacher = (read_run(tmp_path / name, label=name) for name in ("student0", "teacher"))
    right, taught = ((one.logits.argmax(1) == one.labels).mean() for one in (run, teacher))
    assert tree.text_in("bdi").count("points fewer than its teacher.") == 1
    assert f"gets {100 * right:.1f} % of 9 test images right, {100 * (taught - right):.1f} points" in tree.text_in(
        "bdi"
    )
    assert {"true", "teacher", "student"} <= {text for tag, text in tree.texts if tag == "dt"}
    titles = [text for tag, text in tree.texts if tag == "h2"]
    assert titles == [
        *("Curves", "Classes", "Confusion matrix", "Calibration", "Most confident mistakes"),
        *("Cost", "How to repeat", "Every epoch", "Settings"),
    ]
    assert len(tree.all("img")) == len(worst_mistakes(run.logits, run.labels)) > 0
    assert "distill" in tree.text_in("span")
    assert "--teacher=elsewhere/teacher/best.safetensors" in tree.text_in("span")


def test_a_run_without_a_teacher_and_one_whose_teacher_is_gone(tmp_path: Path) -> None:
    write_runs(tmp_path)
    assert "teacher's recall" not in page_of(tmp_path / "baseline0")
    (tmp_path / "teacher").rename(tmp_path / "moved")
    alone = checked(page_of(tmp_path / "student0"))
    assert "teacher's recall %" not in alone.text_in("th")
    assert "its teacher" not in alone.text_in("bdi")


def test_another_file_in_the_teachers_place_is_not_its_teacher(tmp_path: Path) -> None:
    write_runs(tmp_path)
    (tmp_path / "teacher" / "best.safetensors").write_bytes(b"other")
    assert "teacher's recall" not in page_of(tmp_path / "student0")


@pytest.mark.parametrize("num_classes", [2, 20, 21, 100])
def test_any_number_of_classes(tmp_path: Path, num_classes: int) -> None:
    classes = [f"c{index}" for index in range(num_classes)]
    names = write_runs(tmp_path, classes=classes)
    texts = [page_of(tmp_path / "student0"), comparison_text(tmp_path, compared(tmp_path, names))]
    for text in texts:
        tree = checked(text)
        assert len(text) < 2**20
        assert any("matrix" in one.get("class", "") for one in tree.all("table")) == (num_classes <= 20)
        assert sum(text == "c1" for tag, text in tree.texts if tag == "bdi") >= 1
    assert ("The 20 most frequent confusions of 100 classes" in texts[0]) == (num_classes == 100)


def test_equal_answers_of_many_classes_are_a_sentence() -> None:
    classes = [f"c{index}" for index in range(21)]
    assert changes(np.zeros((21, 21)), classes, seeds=2) == [
        Text("No cell of the confusion matrix differs, mean over 2 seeds.")
    ]


def test_calibration_after_temperature_scaling(tmp_path: Path) -> None:
    summary = compared(tmp_path, write_runs(tmp_path))
    student = summary.scores.models["student"]._replace(divisor=Spread(1.69, None), divided_loss=Spread(0.4961, None))
    for given, expected in ((student, {"1.69", "0.496"}), (student._replace(divisor=None, divided_loss=None), set())):
        models = summary.scores.models | {"student": given}
        tree = checked(comparison_text(tmp_path, summary._replace(scores=summary.scores._replace(models=models))))
        assert {text for tag, text in tree.texts if tag == "bdi"} & {"1.69", "0.496"} == expected


def test_tiles_show_intervals_as_finely_as_the_headline_does_and_none_where_there_is_none(tmp_path: Path) -> None:
    summary = compared(tmp_path, write_runs(tmp_path, seeds=2))
    models, difference = summary.scores.models, Difference(0.0041, 0.0001, 0.0004, 0.0078)
    equal = models["student"]._replace(accuracy=models["student"].accuracy._replace(low=None, high=None))
    scores = summary.scores._replace(models=models | {"student": equal}, difference=difference)
    tree = checked(comparison_text(tmp_path, summary._replace(scores=scores)))
    notes = [text for tag, text in tree.texts if tag == "small"]
    assert (notes[1], notes[3]) == ("no interval", "+0.04 to +0.78 over 2 seeds")


def test_what_comes_from_files_is_escaped(tmp_path: Path) -> None:
    place = "folder:/home/<b>me</b>/pets"
    names = write_runs(tmp_path, classes=NASTY, dataset=place, arch="<img src=x onerror=alert(1)>")
    for text in (page_of(tmp_path / "student0"), comparison_text(tmp_path, compared(tmp_path, names))):
        tree = checked(text)
        assert len(tree.all("script")) == 1
        assert tree.all("b") == []
        shown = {text for tag, text in tree.texts if tag == "bdi"}
        assert {NASTY[0], NASTY[1], "\\u202eevil"} <= shown
        assert "/home/" not in text
        assert "</b>/pets" not in text


def test_a_page_is_the_same_each_time_and_names_no_time(tmp_path: Path) -> None:
    write_runs(tmp_path)
    assert page_of(tmp_path / "student0") == page_of(tmp_path / "student0")


def test_a_reason_stands_where_pictures_would(tmp_path: Path) -> None:
    write_runs(tmp_path)
    tree = checked(page_of(tmp_path / "student0", "Pictures need <the> data set."))
    assert tree.all("img") == []
    assert "Pictures need <the> data set." in tree.text_in("p")


def test_pictures_of_the_recorded_data_set_or_why_there_are_none(tmp_path: Path) -> None:
    source = load_source("digits", data_root=tmp_path, image_size=32)
    settings = ReportConfig(run="x")

    def open_for(**given: Any) -> Pictures:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        write_run(folder, "baseline", **given)
        return open_pictures(read_run(folder, label="mine"), settings)

    found = open_for(fingerprint=source.fingerprint)
    assert not isinstance(found, str)
    images = source.train if source.test is None else source.test
    assert np.array_equal(found([4])[0], images.images[4].numpy())
    other = open_for(fingerprint="another")
    assert other == "Pictures need the data set of the run, and digits holds other images now."
    for name, why in (
        ("folder:/nowhere/pets", "there is no /nowhere/pets"),
        ("mine:load", "a data set of your own"),
        ("cifar100", "cifar100 is not in"),  # and nothing is downloaded
    ):
        gone = open_for(dataset=name)
        assert isinstance(gone, str)
        assert why in gone


def test_mistakes_are_the_most_confident_ones() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 4, 60)
    found = worst_mistakes(logits, labels, limit=5)
    shares, predicted = softmax(logits), logits.argmax(1)
    expected = sorted((-shares[i, predicted[i]], i) for i in range(60) if predicted[i] != labels[i])[:5]
    assert [(one.row, one.confidence) for one in found] == [(i, -share) for share, i in expected]
    assert worst_mistakes(np.eye(3), np.arange(3)) == []


@pytest.mark.parametrize(
    ("side", "kind", "kept"), [(8, "PNG", 8), (64, "PNG", 64), (65, "JPEG", 65), (500, "JPEG", 192)]
)
def test_a_picture_inside_the_page(side: int, kind: str, kept: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, side, side), dtype=np.uint8)
    head, _, content = data_uri(pixels).partition(",")
    assert head == f"data:image/{kind.lower()};base64"
    with Image.open(BytesIO(base64.b64decode(content))) as image:
        assert (image.format, image.size) == (kind, (kept, kept))
        assert kind == "JPEG" or np.array_equal(np.asarray(image).transpose(2, 0, 1), pixels)


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_page_of_a_comparison_is_that_of_its_json(tmp_path: Path, seeds: int) -> None:
    summary = compared(tmp_path, write_runs(tmp_path, seeds=seeds))
    again = summary_from_json(json.loads(json.dumps(comparison_json(summary))))
    assert again == summary
    text = comparison_text(tmp_path, again)
    tree = checked(text)
    assert bool(mcnemar_text(summary)) == (seeds == 1)
    assert mcnemar_text(summary) in tree.text_in("p")
    assert len([one for one in tree.all("table") if "matrix" in one.get("class", "")]) == 2
    assert {"teacher", "student", "baseline", "true"} <= {text for tag, text in tree.texts if tag == "dt"}
    cells = [text for tag, text in tree.texts if tag == "td"]
    students, baselines = (
        [read_run(tmp_path / f"{r}{s}", label="x") for s in range(seeds)] for r in ("student", "baseline")
    )
    hits = [
        np.mean([((one.logits.argmax(1) == 0) & (one.labels == 0)).sum() for one in group])
        for group in (students, baselines)
    ]
    digits = 1 if seeds > 1 else 0
    assert (f"{hits[0] - hits[1]:+.{digits}f}" if hits[0] != hits[1] else "0") in cells


def test_the_calibration_error_is_that_of_the_diagram(tmp_path: Path) -> None:
    names = write_runs(tmp_path, seeds=2)
    text = comparison_text(tmp_path, compared(tmp_path, names))
    drawn = {role: read_run(tmp_path / f"{role}{'' if role == 'teacher' else 0}", label="x") for role in ROLES}
    for role, run in drawn.items():
        error = expected_calibration_error(run.logits, run.labels)
        assert f"{role}, calibration error {100 * error:.1f} %" in text


def test_a_comparison_whose_runs_are_gone_is_shown_from_its_json(tmp_path: Path) -> None:
    summary = compared(tmp_path, write_runs(tmp_path))
    tree = checked(comparison_text(tmp_path / "elsewhere", summary))
    assert "These runs are not here: teacher, student0, baseline0." in tree.text_in("p")
    assert tree.all("img") == []
    assert "cat" in tree.text_in("bdi")


@pytest.mark.parametrize("outside", [("teacher",), ("teacher", "student0", "baseline0")])
def test_a_comparison_shows_runs_that_lie_anywhere(tmp_path: Path, outside: Sequence[str]) -> None:
    names, root = write_runs(tmp_path / "runs"), tmp_path / "other" / "runs"
    root.mkdir(parents=True)
    for name in {*names} - {*outside}:
        (tmp_path / "runs" / name).rename(root / name)
    given = tuple(str(tmp_path / "runs" / name) if name in outside else name for name in names)
    tree = checked((compare(CompareConfig(runs=given), root=root).folder / "report.html").read_text())
    assert "These runs are not here" not in tree.text_in("p")
    titles = {text for tag, text in tree.texts if tag == "h2"}
    assert titles >= {"Curves", "Difference matrix", "Confusion matrix", "Calibration", "Most confident mistakes"}


def test_a_teacher_is_found_where_its_student_says_that_it_is(tmp_path: Path) -> None:
    names = write_runs(tmp_path / "runs")
    (tmp_path / "runs" / "teacher").rename(tmp_path / "teacher")
    path = tmp_path / "runs" / "student0" / "config.json"
    files.write_json(path, files.read_json(path) | {"teacher": str(tmp_path / "teacher" / "best.safetensors")})
    given = (str(tmp_path / "teacher"), *names[1:])
    folder = compare(CompareConfig(runs=given), root=tmp_path / "runs").folder
    label = f"{tmp_path.name}/teacher"
    recorded = read_summary(folder / "compare.json").runs
    assert recorded[0].run == label
    found = find_runs(recorded, tmp_path / "runs")
    assert found.paired
    assert [run.label for run in found.paired.all] == [label, "student0", "baseline0"]
    assert "teacher" in checked(report(ReportConfig(run=str(folder)), root=tmp_path / "runs").read_text()).text_in("dt")
    (tmp_path / "teacher" / "best.safetensors").write_bytes(b"other")
    assert find_runs(recorded, tmp_path / "runs").missing.startswith(f"These runs are not here: {label}.")


@pytest.mark.parametrize("damage", [{}, {"per_class": 3}, {"runs": [{}]}, {"cost": None}, {"difference": {"x": 1}}])
def test_a_damaged_comparison_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    values = comparison_json(compared(tmp_path, write_runs(tmp_path))) if damage else {}
    (tmp_path / "c").mkdir()
    files.write_json(tmp_path / "c" / "compare.json", values | damage)
    with pytest.raises(UserError, match=r"compare.json is damaged \(it is no comparison"):
        report(ReportConfig(run="c"), root=tmp_path)


def test_report_writes_the_page_of_each_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study"
    names = write_runs(study)
    manifest = {
        "command": "reproduce",
        "typed": {"preset": "quick", "dataset": "folder:/home/me/pets"},
        "settings": {"lr": 0.1},
    }
    stages = {name: {"folder": name, "seconds": 3.0} for name in names}
    files.write_json(study / "manifest.json", manifest | {"stages": stages})
    report(ReportConfig(run="study"), root=tmp_path)
    assert "This study is not finished: 3 stages done" in (study / "report.html").read_text()
    for name in names:
        report(ReportConfig(run=f"study/{name}"), root=tmp_path)
    (study / "compare").mkdir()
    files.write_json(study / "compare" / "compare.json", comparison_json(compared(study, names)))
    files.write_json(study / "manifest.json", manifest | {"stages": {**stages, "compare": {"folder": "compare"}}})
    for name in ("study/compare", "study"):
        page = report(ReportConfig(run=name), root=tmp_path)
        tree = checked(page.read_text())
        links = {one["href"] for one in tree.all("a") if not one["href"].startswith("#")}
        assert {(page.parent / link).resolve() for link in links} >= {
            (study / n / "report.html").resolve() for n in names
        }
        typed = "" if name == "study" else "kdignite compare study/teacher study/student0 study/baseline0"
        assert typed in tree.text_in("span")
    assert "kdignite reproduce --preset=quick --dataset=folder:PATH/pets" in tree.text_in("span")
    assert f"report    {study}/report.html" in capsys.readouterr().out


def test_a_folder_of_the_same_name_does_not_hide_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs" / "teacher", "teacher")
    (tmp_path / "teacher").mkdir()
    monkeypatch.chdir(tmp_path)
    assert report(ReportConfig(run="teacher"), root=Path("runs")) == Path("runs/teacher/report.html")


@pytest.mark.parametrize(("run", "why"), [("none", "there is no folder 'none'"), (".", "is no finished run")])
def test_report_of_something_else_is_refused(tmp_path: Path, run: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        report(ReportConfig(run=str(tmp_path / run) if run == "." else run), root=tmp_path)
    with pytest.raises(UserError, match="report needs a folder"):
        ReportConfig()


def test_the_page_of_a_sweep(tmp_path: Path) -> None:
    points = [
        GridPoint({"alpha": alpha, "T": T}, [0], [alpha / 2 + T / 100], alpha / 2 + T / 100, None)
        for alpha in (0.5, 1.0)
        for T in (1.0, 4.0)
    ]
    summary = SweepSummary("kd", ["alpha", "T"], points, points[-1], 4, ["a note"])
    assert sweep_from_json(json.loads(json.dumps(sweep_json(summary)))) == summary
    tree = checked(page_text(study_page(tmp_path, {"stages": {}, "settings": {}}, summary)))
    assert "Chosen on validation: --alpha=1 --T=4, 54.00 % (one seed; the best of 4 points)." in tree.text_in("bdi")
    assert [text for tag, text in tree.texts if tag == "td"][1:5] == ["26.00", "29.00", "51.00", "54.00"]


def test_a_flag_of_a_sweep_is_shown_as_it_is_typed(tmp_path: Path) -> None:
    points = [GridPoint({"T": 4.0, "standardize": one}, [0], [0.5 + one / 10], 0.5 + one / 10, None)
              for one in (False, True)]  # fmt: skip
    summary = SweepSummary("kd", ["T", "standardize"], points, points[-1], 2, [])
    assert chosen_text(summary).startswith("Chosen on validation: --T=4 --standardize=true, 60.00 %")
    assert "| T 4 | " in sweep_text(summary)
    assert "standardize true" in sweep_text(summary)
    tree = checked(page_text(study_page(tmp_path, {"stages": {}, "settings": {}}, summary)))
    assert {one.get("data-value") for one in tree.all("td")} >= {"0.0", "1.0"}
    assert "True" not in {one.get("data-value") for one in tree.all("td")}


def method_row(name: str, *correct: int, difference: Difference | None, adjusted: float | None = None) -> MethodRow:
    """A row of runs with so many of 100 images right; ten are those of the baseline."""
    runs = [
        RecipeRun(f"{name}-{seed}", seed, 2, 2, one, one / 100, one / 100, 1.0, 0.1, *[None] * 4)
        for seed, one in enumerate(correct)
    ]
    seeds, scores = list(range(len(correct))), dict.fromkeys(SCORES) | {"loss": Spread(1.0, None)}
    recipe = Recipe(name, False, {"lr": 0.1}, runs, Spread(sum(correct) / len(correct) / 100, 0.01), scores, None)
    values = [(one - 10) / 100 for one in correct]
    return MethodRow(recipe, difference and Contrast(seeds, values, difference, adjusted, adjusted), None)


def methods_summary() -> MethodsSummary:
    rows = [
        method_row("dkd", 13, 15, difference=Difference(0.04, 0.01, 0.01, 0.07), adjusted=0.01),
        method_row("kd", 12, 14, difference=Difference(0.03, 0.01, -0.9, 0.96), adjusted=0.3),
        method_row("baseline", 10, 10, difference=None),
        method_row("<b>&", 9, difference=Difference(-0.01)),
    ]
    known: dict[str, Any] = {"teacher_name": "big", "teacher_accuracy": 0.9, "partial": False, "notes": ["a <note>"]}
    made: dict[str, Any] = {"dataset": "digits", "num_images": 100, "arch": "cnn5", "epochs": (2, 2), "seeds": [0, 1]}
    return MethodsSummary(baseline="baseline", against="kd", rows=rows, budget=Budget(), **known, **made)


def test_the_page_of_a_study_of_methods(tmp_path: Path) -> None:
    summary, stages = methods_summary(), {}
    for name in ("search-kd", "dkd-0", "kd-1"):
        (tmp_path / "s" / name).mkdir(parents=True)
        (tmp_path / "s" / name / "report.html").touch()
        stages[name] = {"folder": name, "seconds": 3.0}
    manifest = {"command": "study", "typed": {"methods": ["kd", "dkd"]}, "settings": {"lr": 0.1}, "stages": stages}
    files.write_json(tmp_path / "s" / "manifest.json", manifest)
    files.write_json(tmp_path / "s" / "methods.json", methods_json(summary))
    tree = checked(report(ReportConfig(run="s"), root=tmp_path).read_text())
    assert "Better than the baseline: dkd (1 of 2). Better than kd" not in tree.text_in("bdi")  # nothing was tested
    assert "Better than the baseline: dkd (1 of 2). First is dkd: +4.00 points" in tree.text_in("bdi")
    assert "kdignite study --methods=kd,dkd" in tree.text_in("span")
    (chart,) = [one["aria-label"] for one in tree.all("svg") if one.get("role") == "img"]
    assert f"dkd: +4.00 points (95 % interval +1.00 to +7.00, 2 seeds), {BETTER}." in chart
    links = Counter(one["href"] for one in tree.all("a") if not one["href"].startswith("#"))
    assert links == {"search-kd/report.html": 1, "dkd-0/report.html": 2, "kd-1/report.html": 2}
    assert tree.all("b") == []
    centres = {one["class"]: [] for one in tree.all("circle")}
    for one in tree.all("circle"):
        centres[one["class"]].append(float(one["cx"]))
    dkd, kd, zero, worst = centres["mean"][:4]  # as far apart as the differences: 4, 3, 0 and -1 points
    assert [(x - zero) / (dkd - zero) for x in (kd, worst)] == pytest.approx([0.75, -0.25], abs=0.02)
    assert len(centres["seed"]) == 4 + 2  # a row with one seed has none; two are the legend
    assert len([one for one in tree.all("polyline") if one.get("class") == "end"]) == 2  # of kd, on both sides


def test_the_tile_of_a_row_names_the_seeds_that_it_has(tmp_path: Path) -> None:
    summary = methods_summary()
    *others, single = summary.rows
    tiles = methods_page(summary._replace(rows=[single, *others]), tmp_path).tiles
    both = "mean over seeds 0, 1"
    assert [(one.label, one.note) for one in tiles] == [
        *(("teacher", "big"), ("baseline", both), ("kd", both), ("<b>&", "seed 0")),
    ]


def searched() -> SearchSummary:
    ranges = {"beta": Range(0.5, 8.0), "T": Range(1.0, 4.0), "standardize": Range(0, 1, is_flag=True)}
    tried = [("complete", 2.0, 4.0, False, 0.9), ("complete", 0.5, 1.0, True, 0.95), ("pruned", 8.0, 2.5, True, 0.1)]
    tried += [("fail", 1.0, 2.0, False, None), ("pruned", 4.0, 3.0, False, 0.93)]
    trials = [
        TrialRow(i, state, dict(zip(ranges, values, strict=True)), accuracy, 3)
        for i, (state, *values, accuracy) in enumerate(tried)
    ]
    return SearchSummary("dkd", ranges, trials, trials[1], "kdignite distill --method=dkd --beta=0.5", ["a note"])


def test_the_page_of_a_search(tmp_path: Path) -> None:
    summary = searched()
    assert search_from_json(json.loads(json.dumps(search_json(summary)))) == summary
    (tmp_path / "s" / "trial-1").mkdir(parents=True)
    (tmp_path / "s" / "trial-1" / "report.html").touch()
    files.write_json(tmp_path / "s" / "manifest.json", {"settings": {}, "stages": {}})
    files.write_json(tmp_path / "s" / "search.json", search_json(summary))
    tree = checked(report(ReportConfig(run="s"), root=tmp_path).read_text())
    assert "beta 0.5, T 1, standardize true, 95.00 % (trial 1, the best of 5;" in tree.text_in("bdi")
    assert "distill --method=dkd --beta=0.5" in tree.text_in("span")
    assert [one["href"] for one in tree.all("a") if not one["href"].startswith("#")] == ["trial-1/report.html"]
    charts = [one["aria-label"] for one in tree.all("svg") if one.get("role") == "img"]
    assert charts[0] == "Validation accuracy of 4 trials over beta; the best is 95.00 %, at 0.5."
    assert len(charts) == 3
    marks = Counter(one.get("class") for one in tree.all("circle"))
    assert marks == {"complete": 2 * 3 + 3, "stopped": 3 + 3, "chosen": 3 + 3}  # and one each in three legends
    first, second = [float(one["cx"]) for one in tree.all("circle") if one["class"] == "complete"][:2]
    (stopped, *_) = [float(one["cx"]) for one in tree.all("circle") if one["class"] == "stopped"]
    assert first - second == pytest.approx(2 * (stopped - first), abs=0.2)  # 0.5, 2, 4: the axis is logarithmic


@pytest.mark.parametrize("name", ["methods.json", "search.json"])
@pytest.mark.parametrize("damage", [{}, {"rows": [{}], "ranges": 3}, {"budget": None, "trials": [{}]}])
def test_a_damaged_outcome_is_refused(tmp_path: Path, name: str, damage: dict[str, Any]) -> None:
    whole = methods_json(methods_summary()) if name == "methods.json" else search_json(searched())
    (tmp_path / "s").mkdir()
    files.write_json(tmp_path / "s" / "manifest.json", {"settings": {}, "stages": {}})
    files.write_json(tmp_path / "s" / name, whole | damage if damage else {})
    with pytest.raises(UserError, match=f"{name} is damaged"):
        report(ReportConfig(run="s"), root=tmp_path)


def test_exported_files_of_this_model_are_beside_its_cost(tmp_path: Path) -> None:
    names = write_runs(tmp_path)
    uses = {"model.onnx": {"num_bytes": 2**20, "latency_ms": 0.5}, "model.int8.onnx": {"num_bytes": 2**18}}
    record = {"run": {"sha256": files.sha256(tmp_path / "student0" / "best.safetensors")}, "files": uses}
    record |= {"test": {"accuracy": 0.75}, "int8": {"test": {"accuracy": 0.5}}}
    others = {"other": record | {"run": {"sha256": "x"}}, "damaged": {"run": 3}}
    others["no numbers"] = record | {"files": {"model.onnx": {"num_bytes": "many"}}}
    for name, content in {"mine": record, **others}.items():
        (tmp_path / name).mkdir()
        files.write_json(tmp_path / name / "export.json", content)
    for text in (page_of(tmp_path / "student0"), comparison_text(tmp_path, compared(tmp_path, names))):
        tree = checked(text)
        shown = [text for tag, text in tree.texts if tag == "bdi"]
        first = shown.index("mine/model.onnx")
        assert shown[first : first + 8] == [
            *("mine/model.onnx", "75.00", "1.00", "0.50"),
            *("mine/model.int8.onnx", "50.00", "0.25", "-"),
        ]
        assert "other/model.onnx" not in shown
    assert "mine/" not in page_of(tmp_path / "baseline0")


@pytest.mark.parametrize(
    "damage",
    [
        {"settings": 3},
        {"typed": ["a"]},
        {"command": 3},
        {"stages": {"a": {"folder": "a", "seconds": "long"}}},
        {"stages": {"a": {"folder": "a", "evaluated": 3}}},
        {"stages": {"a": {"folder": "a", "evaluated": {"num_correct": 0, "num_images": 0}}}},
        {"stages": {"a": {"folder": ".."}}},
    ],
)
def test_a_damaged_study_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    manifest = {"command": "reproduce", "typed": {}, "settings": {}, "stages": {}}
    (tmp_path / "s").mkdir()
    files.write_json(tmp_path / "s" / "manifest.json", manifest | damage)
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        report(ReportConfig(run="s"), root=tmp_path)


def test_a_history_without_epochs_has_no_curves(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "teacher")
    (tmp_path / "a" / "metrics.csv").write_text("loss,accuracy_val\n1,0.5\n")
    assert "Curves" not in checked(page_of(tmp_path / "a")).text_in("h2")


def test_a_run_without_a_history_or_mistakes(tmp_path: Path) -> None:
    logits = write_run(tmp_path / "a", "teacher", skill=100.0)
    assert expected_calibration_error(logits, np.repeat(np.arange(3), 3)) == pytest.approx(0, abs=1e-6)
    (tmp_path / "a" / "metrics.csv").write_text("epoch,loss\n1,what\n")
    tree = checked(page_of(tmp_path / "a"))
    assert "No test image was misclassified." in tree.text_in("p")
    assert "Curves" not in tree.text_in("h2")
