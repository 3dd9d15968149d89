"""What comes with the project in ``runs/reference``, three finished runs and the comparisons that the documents quote:
complete, consistent, and nobody's home.
"""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdignite import checkpoints, files, runs
from kdignite.commands.evaluate import evaluate_checkpoint
from kdignite.config import EvaluateConfig

CHECKOUT = Path(__file__).parents[2]
SHIPPED = CHECKOUT / "runs" / "reference"
COMMANDS = {"teacher": "teacher", "student": "distill", "baseline": "baseline"}  # by the name of the run
RUNS = tuple(COMMANDS)
PATIENT = ("patient/teacher", "patient/student")  # of the preset
EVERY = (*RUNS, *PATIENT)
COMPARISONS = ("10-epochs", "alpha-0.5-T-1", "30-epochs", "another-teacher")
PATIENCE = (
    *("patient-10-epochs", "patient-first-teacher", "patient-30-epochs", "patient-100-epochs"),
    "resnet20-10-epochs",
)
COMPARED_RUNS = (*COMPARISONS, *PATIENCE)
TABLES = ("logits", "features")  # of methods
SMOOTHING = "label-smoothing"
SEARCHES = {  # of settings, in the order of the page
    "logits": ("kd", "dkd", "dist", "nkd", "wsld", "ttm", "wttm", "logit_mse", "baseline", SMOOTHING),
    "features": ("kd", "fitnet", "at", "sp", "pkt", "rkd", "vid", "reviewkd", "baseline"),
}
COMPARED = {"compare.json", "compare.md", "classes.csv", "summary.csv"}
SHOWN = ("10-epochs", "patient-100-epochs")  # as pictures, by a page
TABLE = {"methods.csv", "methods.json", "methods.md", "methods.png"}
DOCUMENTS = (CHECKOUT / "README.md", CHECKOUT / "docs" / "results.md")
METHODS_PAGE = CHECKOUT / "docs" / "methods.md"
FILES = {
    *(runs.BEST, runs.CONFIG, runs.ENVIRONMENT, runs.RESULT),
    *("metrics.csv", "predictions.npz"),
}
PICTURES = {"confusion_matrix.png", "classification_report.png"}
EVENTS = re.compile(r"events\.out\.tfevents\.\d+\.kdignite\.\d+")  # in the place of a host's name
PATH = re.compile(rb"[\"'\s(=]/(?:home|root|tmp|usr|var|mnt|opt|work|Users)/")


def read(name: str, file: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((SHIPPED / name / file).read_text(encoding="utf-8"))
    return values


def texts(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what a picture says of itself."""
    yield path.read_bytes()
    if path.suffix == ".png":
        with Image.open(path) as image:
            yield repr(image.info).encode()


def row_of(line: str) -> tuple[str, ...]:
    """The cells of a line of a table."""
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def tables(path: Path) -> list[list[tuple[str, ...]]]:
    """Tables of a Markdown file: a header and rows each."""
    found = re.findall(r"(?:^\|.*\n)+", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [[row_of(line) for i, line in enumerate(table.splitlines()) if i != 1] for table in found]


def test_the_set_is_complete_and_small() -> None:
    assert {path.name for path in SHIPPED.iterdir()} == {*RUNS, "comparisons", "methods", "patient"}
    assert {path.name for path in (SHIPPED / "comparisons").iterdir()} == set(COMPARED_RUNS)
    for name in COMPARED_RUNS:
        picture = {"compare.png"} if name in SHOWN else set()
        assert {path.name for path in (SHIPPED / "comparisons" / name).iterdir()} == COMPARED | picture
    assert {path.name for path in (SHIPPED / "methods").iterdir()} == set(SEARCHES)
    for name, rows in SEARCHES.items():
        searches = {f"search-{row}.csv" for row in rows}
        table = TABLE if name in TABLES else set()
        assert {path.name for path in (SHIPPED / "methods" / name).iterdir()} == searches | table
    for name in RUNS:
        here = {path.name for path in (SHIPPED / name).iterdir()}
        (events,) = here - FILES - PICTURES
        assert here - {events} == FILES | PICTURES
        assert EVENTS.fullmatch(events)
    assert {f"patient/{path.name}" for path in (SHIPPED / "patient").iterdir()} == set(PATIENT)
    for name in PATIENT:  # whose curves are those of metrics.csv
        assert {path.name for path in (SHIPPED / name).iterdir()} == FILES
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 25 * 2**20


@pytest.mark.parametrize(
    "name", [*EVERY, *(f"comparisons/{name}" for name in COMPARED_RUNS), *(f"methods/{name}" for name in SEARCHES)]
)
def test_no_file_names_a_place_or_a_host(name: str) -> None:
    host = os.uname().nodename.encode()
    for path in (SHIPPED / name).iterdir():
        for text in texts(path):
            assert not PATH.search(text), path
        if path.suffix in (".json", ".csv") and len(host) > 3:
            assert host not in path.read_bytes(), path


@pytest.mark.parametrize("name", EVERY)
def test_the_result_is_what_the_predictions_say(name: str) -> None:
    result = read(name, runs.RESULT)
    assert (result["command"], result["partial"]) == (COMMANDS[Path(name).name], False)
    with np.load(SHIPPED / name / "predictions.npz") as stored:
        for split, num_images in (("val", 5_000), ("test", 10_000)):
            called, labels = stored[f"{split}_logits"].argmax(1), stored[f"{split}_labels"]
            confusion = np.zeros((10, 10), int)
            np.add.at(confusion, (labels, called), 1)
            assert result[split]["num_images"] == len(labels) == num_images
            assert result[split]["num_correct"] == int((called == labels).sum())
            assert stored[f"{split}_confusion"].tolist() == confusion.tolist()
            assert result[split]["balanced_accuracy"] == pytest.approx(np.mean(confusion.diagonal() / confusion.sum(1)))


@pytest.mark.parametrize("name", EVERY)
def test_the_checkpoint_is_that_of_the_result(name: str) -> None:
    result, description = read(name, runs.RESULT), checkpoints.load_checkpoint(SHIPPED / name / runs.BEST).description
    assert description.validation.num_correct == pytest.approx(result["val"]["num_correct"], abs=2)
    assert description.validation.epoch == result["best_epoch"]
    assert description.origin.split == result["split"]


def test_student_and_baseline_had_the_shipped_teacher_or_none() -> None:
    for of in ("", "patient/"):
        taught_by = read(f"{of}student", runs.ENVIRONMENT)["teacher"]
        assert taught_by["sha256"] == files.sha256(SHIPPED / f"{of}teacher" / runs.BEST)
    assert read("baseline", runs.ENVIRONMENT)["teacher"] is None


@pytest.mark.parametrize(
    ("comparison", "shipped"), [("10-epochs", RUNS), ("patient-100-epochs", PATIENT)], ids=["reference", "patient"]
)
def test_the_shipped_runs_are_the_first_of_their_comparison(comparison: str, shipped: tuple[str, ...]) -> None:
    compared = {(run["role"], run["seed"]): run for run in read(f"comparisons/{comparison}", "compare.json")["runs"]}
    for name in shipped:
        run, result = compared[Path(name).name, 0], read(name, runs.RESULT)
        assert (run["num_correct"], run["epochs"]) == (result["test"]["num_correct"], result["epochs"])


def test_the_documents_quote_the_shipped_comparisons() -> None:
    """Tables are those of the ten epochs, whole rows; verdicts may be of any."""
    known = {header: set(rows) for header, *rows in tables(SHIPPED / "comparisons" / "10-epochs" / "compare.md")}
    quoted = [table for path in DOCUMENTS for table in tables(path) if table[0] in known]
    assert len(quoted) >= 5
    for header, *rows in quoted:
        assert set(rows) <= known[header]
    verdicts = {read(f"comparisons/{name}", "compare.json")["verdict"]["text"] for name in COMPARED_RUNS}
    said = {line for path in DOCUMENTS for line in path.read_text(encoding="utf-8").splitlines() if " seeds)." in line}
    assert said
    assert said <= verdicts


@pytest.mark.parametrize("name", COMPARED_RUNS)
def test_the_page_of_results_tells_the_gain_of_every_seed(name: str) -> None:
    compared = read(f"comparisons/{name}", "compare.json")
    student, baseline = (np.array(compared[role]["num_correct"]) for role in RUNS[1:])
    *gains, last = (f"{gain:+.2f}" for gain in 100 * (student - baseline) / compared["num_images"])
    assert f"{', '.join(gains)} and {last} points" in " ".join(DOCUMENTS[1].read_text(encoding="utf-8").split())


def figures(name: str) -> tuple[str, dict[str, Any], list[str], np.ndarray]:
    """Epochs, what was compared, cells of a table, and mean accuracies in % of teacher, student and baseline, computed
    from the counts of right answers and not by what wrote the reports.
    """
    compared = read(f"comparisons/{name}", "compare.json")
    num_images = compared["num_images"]
    student, baseline = (100 * np.array(compared[role]["num_correct"]) / num_images for role in RUNS[1:])
    gained = student - baseline
    half = stats.t.ppf(0.975, len(gained) - 1) * stats.sem(gained)
    (taught_by,) = 100 * np.array(compared["teacher"]["num_correct"]) / num_images
    (epochs,) = {str(run["epochs"]) for run in compared["runs"] if run["role"] != "teacher"}
    cells = [f"{taught_by:.2f}"]
    cells += [f"{column.mean():.2f} (std {column.std(ddof=1):.2f})" for column in (student, baseline)]
    cells += [f"{gained.mean():+.2f}", f"{gained.mean() - half:+.2f} to {gained.mean() + half:+.2f}"]
    return epochs, compared, [str(len(gained)), *cells], np.array([taught_by, student.mean(), baseline.mean()])


def test_the_page_of_results_begins_with_all_comparisons() -> None:
    expected = []
    for name in COMPARISONS:
        epochs, compared, cells, _ = figures(name)
        settings = [f"{compared['settings'][name]:g}" for name in ("alpha", "T")]
        expected.append((*settings, epochs, *cells))
    (_, *rows), *_ = tables(DOCUMENTS[1])
    assert rows == expected


def test_the_page_of_results_tells_what_patience_brings() -> None:
    """And how much of the distance from baseline to teacher the student covers."""
    expected = []
    for name in PATIENCE:
        epochs, compared, cells, (taught_by, student, baseline) = figures(name)
        (arch,) = {run["arch"] for run in compared["runs"] if run["role"] != "teacher"}
        expected.append((arch, epochs, *cells, f"{100 * (student - baseline) / (taught_by - baseline):.0f}"))
    ((_, *rows),) = (table for table in tables(DOCUMENTS[1]) if table[0][-1] == "of the distance %")
    assert rows == expected


def test_the_example_of_the_results_prints_what_stands_below_it() -> None:
    page = (CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8")
    ((example, printed),) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", page, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (printed, "")


def test_the_page_of_methods_quotes_the_shipped_tables() -> None:
    known: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for name in TABLES:
        for header, *rows in tables(SHIPPED / "methods" / name / "methods.md"):
            known.setdefault(header, set()).update(rows)
    quoted = [table for table in tables(METHODS_PAGE) if table[0] in known]
    assert len(quoted) >= 3
    for header, *rows in quoted:
        assert set(rows) <= known[header]


def test_the_page_of_methods_tells_what_the_trials_found() -> None:
    told = (table for table in tables(METHODS_PAGE) if "with its defaults" in table[0])
    for (study, searched), (_, *rows) in zip(SEARCHES.items(), told, strict=True):
        assert [name.replace(" ", "-") for name, *_ in rows] == list(searched)
        for name, (_, *told_of_it) in zip(searched, rows, strict=True):
            with (SHIPPED / "methods" / study / f"search-{name}.csv").open(newline="", encoding="utf-8") as file:
                complete = [one for one in csv.DictReader(file) if one["state"] == "complete"]
            best = max(complete, key=lambda one: float(one["accuracy_val"]))
            found = [f"{100 * float(one['accuracy_val']):.1f}" for one in (complete[0], best)]
            settings = [
                f"{key} {float(value):g}" for key, value in list(best.items())[2:-2]
            ]  # trial, state; epochs, ...
            assert told_of_it == [*found, ", ".join(settings)]


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_methods_follow_from_the_counts(name: str) -> None:
    """Differences, tests and Holm's correction, computed here from the right answers of each run."""
    with (SHIPPED / "methods" / name / "methods.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    counts = {row: {one["seed"]: int(one["num_correct"]) for one in lines if one["method"] == row} for row in
              dict.fromkeys(one["method"] for one in lines)}  # fmt: skip
    stored = read(f"methods/{name}", "methods.json")
    assert [row["name"] for row in stored["rows"]] == list(counts)
    assert set(counts) >= set(SEARCHES[name]) - {SMOOTHING}
    for family, other in (("to_baseline", "baseline"), ("to_against", "kd")):
        tested = {row["name"]: row[family] for row in stored["rows"] if row[family]}
        p_values = {}
        for row, one in tested.items():
            pairs = np.array([[counts[row][seed], counts[other][seed]] for seed in counts[row]]) / stored["num_images"]
            found = stats.ttest_rel(*pairs.T)
            ends = found.confidence_interval(0.95)
            assert one["difference"]["mean"] == pytest.approx(np.diff(pairs[:, ::-1]).mean())
            assert (one["difference"]["low"], one["difference"]["high"]) == pytest.approx((ends.low, ends.high))
            p_values[row] = float(found.pvalue)
        worst = 0.0
        for rank, row in enumerate(sorted(p_values, key=p_values.__getitem__)):
            worst = max(worst, min(1, (len(p_values) - rank) * p_values[row]))
            assert tested[row]["adjusted"] == pytest.approx(worst)


@pytest.mark.parametrize("name", RUNS)
def test_tensorboard_has_curves_to_show(name: str) -> None:
    events = EventAccumulator(str(SHIPPED / name))
    events.Reload()
    result = read(name, runs.RESULT)
    curve = [point.value for point in events.Scalars("accuracy/val")]
    assert len(curve) == result["epochs"]
    assert max(curve) == pytest.approx(result["val"]["accuracy"], abs=5e-4)


def test_a_fresh_clone_has_a_teacher() -> None:
    tracked = subprocess.run(
        ["git", "-C", str(CHECKOUT), "ls-files", "runs"], capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert {f"runs/reference/{name}/{runs.BEST}" for name in EVERY} <= set(tracked.stdout.split())
    assert runs.finished_teachers(CHECKOUT / "runs")


@pytest.mark.cifar10
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_weights_give_the_result_on_this_machine(name: str, split: str) -> None:
    """Within two images: another processor rounds otherwise."""
    recorded = read(name, runs.RESULT)[split]
    outcome = evaluate_checkpoint(EvaluateConfig(run=str(SHIPPED / name), split=split), root=CHECKOUT / "runs").outcome
    assert len(outcome.labels) == recorded["num_images"]
    assert abs(outcome.num_correct - recorded["num_correct"]) <= 2
    with np.load(SHIPPED / name / "predictions.npz") as stored:
        assert abs(outcome.confusion.numpy() - stored[f"{split}_confusion"].astype(int)).sum() <= 8
