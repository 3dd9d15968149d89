"""Tables, CSV and the picture of a comparison say what its numbers say, and can be read."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from kdignite.comparison.costs import COSTS, cost_summary
from kdignite.comparison.scores import DIVIDED, FIDELITY, NO_SPREAD, ROLES, Difference, compare_logits
from kdignite.comparison.summary import RunSummary, Summary
from kdignite.errors import UserError
from kdignite.metrics.statistics import Spread
from kdignite.reports.comparison import (
    class_csv,
    comparison_figure,
    comparison_json,
    comparison_text,
    summary_csv,
    verdict_text,
)
from kdignite.reports.comparison.sentences import compression_text, distance_text, subject, times
from kdignite.reports.comparison.serialize import summary_from_json
from kdignite.reports.figures import save_figure
from kdignite.reports.published import BY_CLASS, OVERALL, SOURCE, Published, published
from kdignite.reports.text import amount, per_cent, points

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LONG = (
    "golden retriever puppy, asleep",
    "West Highland white terrier",
    "American Staffordshire terrier, Staffordshire terrier",
    "100 % wool | 50 # silk",
    "jack-o'-lantern for $5$ or $\\frac{1$",
)
BIG = {
    **{"num_parameters": 1_941_834, "multiply_adds": 245_000_000, "file_bytes": 7_864_320, "latency_median_ms": 11.3},
    **{"latency_p95_ms": 14.1, "peak_memory_bytes": 21_000_000, "latency_threads": 1},
}
SMALL = {
    **{"num_parameters": 92_458, "multiply_adds": 19_300_000, "file_bytes": 380_000, "latency_median_ms": 1.7},
    **{"latency_p95_ms": 2.2, "peak_memory_bytes": 2_600_000, "latency_threads": 1},
}


def logits(rng: np.random.Generator, labels: np.ndarray, num_classes: int, *, skill: float) -> np.ndarray:
    ease = skill * (1 + 0.3 * np.sin(1.7 * np.arange(num_classes)))
    return rng.normal(size=(len(labels), num_classes)) + ease[labels][:, None] * np.eye(num_classes)[labels]


def make(
    classes: Sequence[str],
    *,
    per_class: int = 40,
    seeds: int = 1,
    teacher: bool = True,
    gain: float = 0.0,
    costs: tuple[Any, Any] = (BIG, SMALL),
    reference: bool = False,
    empty: Sequence[int] = (),
    partial: bool = False,
    **given: Any,
) -> Summary:
    """A summary as ``compare`` collects it."""
    rng, num_classes = np.random.default_rng(3), len(classes)
    labels = np.repeat([c for c in range(num_classes) if c not in empty], per_class)
    groups = {
        "teacher": [logits(rng, labels, num_classes, skill=4.5)] if teacher else [],
        "student": [logits(rng, labels, num_classes, skill=3 + gain) for _ in range(seeds)],
        "baseline": [logits(rng, labels, num_classes, skill=3) for _ in range(seeds)],
    }
    taught = groups["teacher"][0] if teacher else None
    scores = compare_logits(groups["student"], groups["baseline"], labels, teacher=taught, classes=classes)
    paid = {role: [costs[role != "teacher"]] * len(group) for role, group in groups.items()}
    summary = Summary(
        scores=scores,
        costs=cost_summary(paid),
        dataset="cifar10",
        settings={"method": "kd", "alpha": 0.9, "T": 4.0, "cache_dtype": "float32", "teacher_amp": "off"},
        seeds=list(range(seeds)),
        runs=[
            RunSummary(role, f"{role}-{seed}", "cnn5", seed, 10, 9, right, right / len(labels), partial)
            for role, model in scores.models.items()
            for seed, right in enumerate(model.num_correct)
        ],
        teacher_name="teacher",
        reference="original" if reference else None,
        short=False,
        notes=["one thing", "another"],
    )
    return summary._replace(**given)


def with_scores(summary: Summary, **given: Any) -> Summary:
    """A summary with other scores."""
    return summary._replace(scores=summary.scores._replace(**given))


CASES: dict[str, Summary] = {
    "one seed": make(CIFAR10, per_class=100, reference=True),
    "gained": make(CIFAR10, per_class=200, seeds=3, gain=0.4),
    "cost": make(CIFAR10, per_class=200, seeds=3, gain=-0.4),
    "nothing": make(CIFAR10, seeds=2),
    "three": make(("cat", "dog", "owl"), per_class=10, seeds=2, gain=0.5),
    "two alone": make(("cat", "dog"), teacher=False),
    "one class": make(("cat",)),
    "no teacher": make(CIFAR10, seeds=3, teacher=False),
    "twenty": make([f"class {i}" for i in range(20)], seeds=3),
    "hundred": make([f"class number {i}" for i in range(100)], seeds=3, gain=0.3),
    "mostly empty": make([f"c{i}" for i in range(30)], empty=range(4, 30)),
    "long": make(LONG, seeds=2, empty=(1,)),
    "no cost": make(CIFAR10, costs=(None, None)),
    "equal cost": make(CIFAR10, costs=(SMALL, SMALL)),
    "dear student": make(CIFAR10, costs=(SMALL, BIG)),
    "a little cheaper": make(CIFAR10, costs=({**SMALL, "multiply_adds": 30e6}, SMALL)),
    "partial": make(CIFAR10, partial=True, short=True),
    "own loss": make(CIFAR10, settings={"loss": "package.module:some_loss", "alpha": 0.25, "T": 8.0, "margin": None}),
}


@cache
def figure_of(case: str) -> Figure:
    """The picture of a case, drawn once for all tests."""
    return comparison_figure(CASES[case])


def tables(text: str) -> dict[str, list[list[str]]]:
    """Heading -> cells of its table, header first, without the rule."""
    found = {}
    for part in text.split("\n## ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").replace("\\|", "\0").split("|")] for line in lines]
        found[part.partition("\n")[0]] = [rows[0], *rows[2:]] if rows else []
    return found


# --- text


@pytest.mark.parametrize("case", CASES)
def test_tables_are_aligned_and_in_their_order(case: str) -> None:
    text = comparison_text(CASES[case])
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        if lines[0].startswith("|"):
            assert len({len(line) for line in lines}) == 1
    wanted = ["Accuracy on the test images", "By class", "Fidelity to the teacher", "Calibration", "Cost", "Runs"]
    missing = {"no teacher": {wanted[2]}, "two alone": {wanted[2]}, "no cost": {"Cost"}}.get(case, set())
    assert list(tables(text)) == [title for title in wanted if title not in missing]
    assert text.isascii() or case == "long"
    assert text.endswith("|\n")


def test_the_text_starts_with_the_verdict_what_was_compared_and_what_speaks_against_it() -> None:
    summary = CASES["gained"]
    verdict, about, notes, *_ = comparison_text(summary).split("\n\n")
    assert verdict == verdict_text(summary)
    assert about == (
        "cifar10, 2,000 test images; student cnn5 distilled from cnn5 (alpha 0.9, T 4); 10 epochs; seeds 0, 1, 2"
    )
    assert notes == "- note: one thing\n- note: another"
    assert "note:" not in comparison_text(summary._replace(notes=[]))


def test_rounded_answers_of_the_teacher_are_told() -> None:
    summary = CASES["gained"]
    rounded = summary._replace(settings={**summary.settings, "cache_dtype": "float16"})
    assert "distilled from cnn5 (alpha 0.9, T 4, cache_dtype float16); 10 epochs" in subject(rounded)


def test_a_loss_of_ones_own_and_a_teacher_that_is_not_there_are_named() -> None:
    assert "distilled from cnn5 (loss package.module:some_loss, alpha 0.25, T 8); 10 epochs; seed 0" in subject(
        CASES["own loss"]
    )
    assert "student cnn5 distilled from teacher (" in subject(CASES["no teacher"])


@pytest.mark.parametrize(
    ("case", "start"),
    [
        ("one seed", "One seed proves nothing about distillation: student - baseline is {mean:+.2f} points."),
        ("gained", "Distillation gained {mean:.2f} points of accuracy "
         "(95 % interval {low:+.2f} to {high:+.2f}, 3 seeds)."),
        ("cost", "Distillation cost {minus:.2f} points of accuracy "
         "(95 % interval {low:+.2f} to {high:+.2f}, 3 seeds)."),
        ("nothing", "No difference shown: student - baseline is {mean:+.2f} points "
         "(95 % interval {low:+.2f} to {high:+.2f}, 2 seeds)."),
        ("partial", "One short seed proves nothing about distillation: student - baseline is {mean:+.2f} points. "
         "Only part of the images was used: not a result to quote."),
    ],
)  # fmt: skip
def test_verdicts(case: str, start: str) -> None:
    difference = CASES[case].scores.difference._asdict()
    found = {name: 100 * value for name, value in difference.items() if value is not None}
    assert verdict_text(CASES[case]) == start.format(**found, minus=-found["mean"])


@pytest.mark.parametrize(
    ("case", "start"),
    [
        ("one seed", "One seed proves nothing about distillation: control 'random' - baseline is "),
        ("gained", "The control 'random' gained "),
        ("cost", "The control 'random' cost "),
        ("nothing", "No difference shown: control 'random' - baseline is "),
    ],
)
def test_the_verdict_on_a_control_is_none_on_distillation(case: str, start: str) -> None:
    settings = CASES[case].settings | {"control": "random"}
    assert verdict_text(CASES[case]._replace(settings=settings)).startswith(start)


def test_no_difference_at_all_has_no_sign() -> None:
    nothing = Difference(-0.0, 1e-9, -1e-9, 0.0)
    said = "No difference shown: student - baseline is 0.00 points (95 % interval 0.00 to 0.00, 3 seeds)."
    assert verdict_text(with_scores(CASES["gained"], difference=nothing)) == said


def test_seeds_that_differ_by_the_same_claim_nothing() -> None:
    summary = with_scores(CASES["gained"], difference=Difference(0.0123, 0.0))
    said = "No interval can be given: student - baseline is +1.23 points in each of the 3 seeds."
    assert verdict_text(summary) == said
    assert comparison_json(summary)["verdict"] == {"kind": NO_SPREAD, "text": said}
    text = comparison_text(summary)
    row = tables(text)["Accuracy on the test images"][-1]
    assert row == ["student - baseline", "+1.23", "-", "0.00", "-"]
    assert "paired t" not in text
    assert "gained" not in text
    assert not [line for line in panel(comparison_figure(summary), "student").lines if line.get_marker() == "|"]


def test_seeds_of_one_accuracy_have_no_interval() -> None:
    models = CASES["gained"].scores.models
    equal = models["student"]._replace(accuracy=models["student"].accuracy._replace(std=0.0, low=None, high=None))
    summary = with_scores(CASES["gained"], models=models | {"student": equal})
    row = tables(comparison_text(summary))["Accuracy on the test images"][2]
    assert row == ["student", f"{100 * equal.accuracy.mean:.2f}", "-", "0.00", "-"]
    assert summary_from_json(json.loads(json.dumps(comparison_json(summary)))) == summary
    axes = panel(comparison_figure(summary), "accuracy (%), 95")
    assert [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2][1] == [
        100 * equal.accuracy.mean
    ] * 2


def test_the_interval_is_said_to_be_over_seeds_of_the_student() -> None:
    said = (
        "The paired t interval is of the mean of the differences seed by seed: over seeds of the student, with this "
        "one teacher, on these test images."
    )
    assert said in comparison_text(CASES["gained"])
    assert "paired t" not in comparison_text(CASES["one seed"])


def test_epochs_of_runs_that_stopped_early_are_a_range() -> None:
    summary = CASES["gained"]
    stopped = {"student-1": 7, "baseline-2": 12, "teacher-0": 30}
    runs = [run._replace(epochs=stopped.get(run.run, 9)) for run in summary.runs]
    assert "; 7 to 12 epochs; seeds 0, 1, 2" in subject(summary._replace(runs=runs))
    alike = [run._replace(epochs=30 if run.role == "teacher" else 1) for run in runs]
    assert "; 1 epoch; seeds 0, 1, 2" in subject(summary._replace(runs=alike))


def test_the_class_table_shows_the_spread_over_the_seeds() -> None:
    summary = CASES["gained"]
    text = comparison_text(summary)
    header, *rows = tables(text)["By class"]
    assert header[5:] == ["std"]
    stds = [row.difference_std for row in (*summary.scores.per_class, summary.scores.overall)]
    assert [row[5] for row in rows] == [f"{100 * std:.1f}" for std in stds]
    assert "means over 3 seeds, std: of the difference over the seeds." in text
    assert "are noise" not in text


def test_one_seed_says_what_is_noise_in_a_class() -> None:
    summary = CASES["one seed"]
    p, q = (summary.scores.models[role].accuracy.mean for role in ("student", "baseline"))
    noise = 200 * np.sqrt((p * (1 - p) + q * (1 - q)) / 100)
    said = f"about +-{noise:.1f} points (two standard errors of a difference of two proportions) are noise."
    assert f"classified correctly. With 100 images a class, {said}" in comparison_text(summary)
    uneven = with_scores(summary, class_noise=summary.scores.class_noise._replace(equal_classes=False))
    assert f"classified correctly. With 100 images in the median class, {said}" in comparison_text(uneven)
    sure = with_scores(summary, class_noise=summary.scores.class_noise._replace(two_errors=0.0))
    assert "are noise" not in comparison_text(sure)


def test_the_class_table_has_the_form_of_the_published_one() -> None:
    for case in ("one seed", "gained"):
        summary = CASES[case]
        header, *rows = tables(comparison_text(summary))["By class"]
        assert header[:5] == ["class", "teacher", "student", "baseline", "student - baseline"]
        assert [row[0] for row in rows] == [*CIFAR10, "overall"]
        for row, scores in zip(rows, summary.scores.per_class, strict=False):
            assert row[1:4] == [f"{100 * recall:.1f}" for recall in (scores.teacher, scores.student, scores.baseline)]
            assert float(row[4]) == pytest.approx(100 * scores.difference, abs=0.051)
        overall = [f"{100 * summary.scores.models[role].accuracy.mean:.1f}" for role in ROLES]
        assert rows[-1][1:4] == overall
        assert float(rows[-1][4]) == pytest.approx(100 * summary.scores.difference.mean, abs=0.051)


def test_published_columns_stand_beside() -> None:
    text = comparison_text(CASES["one seed"])
    header, *rows = tables(text)["By class"]
    assert header[5:] == ["publ. teacher", "publ. student", "publ. baseline", "publ. difference"]
    assert rows[0][5:] == ["96.8", "68.2", "78.1", "-9.9"]
    assert rows[1][5:] == ["97.1", "84.2", "75.9", "+8.3"]
    assert rows[-1][5:] == ["96.1", "67.7", "67.5", "+0.2"]
    assert SOURCE in text
    assert "publ." not in comparison_text(CASES["gained"])


def test_without_a_teacher_there_is_no_column_for_it() -> None:
    found = tables(comparison_text(CASES["no teacher"]))
    assert found["By class"][0] == ["class", "student", "baseline", "student - baseline", "std"]
    assert [row[0] for row in found["Accuracy on the test images"][1:]] == ["student", "baseline", "student - baseline"]
    assert found["Cost"][0] == ["", "student", "baseline"]
    assert found["Calibration"][0] == ["", "student", "baseline"]


def test_many_classes_show_the_largest_and_the_smallest_differences() -> None:
    summary = CASES["hundred"]
    text = comparison_text(summary)
    said = "The 5 classes with the largest and the 5 with the smallest difference of 100; all: classes.csv."
    assert said in text
    shown = [row[0] for row in tables(text)["By class"][1:]]
    ranked = [row.name for row in sorted(summary.scores.per_class, key=lambda row: -row.difference)]
    assert shown == [*ranked[:5], *ranked[-5:], "overall"]
    few = comparison_text(CASES["mostly empty"])
    assert "The 4 of 30 classes that have images; all: classes.csv." in few
    assert len(tables(few)["By class"]) == 1 + 4 + 1
    assert "means over" not in few


def test_the_accuracy_table_says_which_interval_it_is() -> None:
    for case, over, difference in (
        ("one seed", "test images (Wilson)", "-"),
        ("gained", "3 seeds (t)", "3 seeds (paired t)"),
    ):
        summary = CASES[case]
        rows = {row[0]: row[1:] for row in tables(comparison_text(summary))["Accuracy on the test images"][1:]}
        assert rows["teacher"][-1] == "test images (Wilson)"
        assert rows["student"][-1] == rows["baseline"][-1] == over
        assert rows["student - baseline"][-1] == difference
        found = summary.scores.models["student"].accuracy
        assert rows["student"][0] == f"{100 * found.mean:.2f}"
        assert rows["student"][1] == f"{100 * found.low:.2f} to {100 * found.high:.2f}"
        assert rows["student"][2] == ("-" if found.std is None else f"{100 * found.std:.2f}")


def test_mcnemar_is_said_to_be_of_this_pair() -> None:
    summary = CASES["one seed"]
    found = summary.scores.mcnemar
    said = (
        f"Exact McNemar test, p-value {found.p_value:.2g}: the student alone is right on {found.only_first} test "
        f"images, the baseline alone on {found.only_second}. The test is about this pair of models, not about "
        "distillation: another seed gives another pair."
    )
    assert said in comparison_text(summary)
    assert "McNemar" not in comparison_text(CASES["gained"])
    tiny = with_scores(summary, mcnemar=found._replace(p_value=3e-9))
    assert "p-value below 0.0001:" in comparison_text(tiny)


def test_fidelity_and_calibration_show_their_spread() -> None:
    summary = CASES["gained"]
    found = tables(comparison_text(summary))
    student, teacher = (summary.scores.models[role] for role in ("student", "teacher"))
    assert [row[1] for row in found["Fidelity to the teacher"][1:]] == [
        *(f"{100 * mean:.1f} (std {100 * std:.1f})" for mean, std in (student.agreement, student.agreement_on_errors)),
        f"{student.kl.mean:.3f} (std {student.kl.std:.3f})",
    ]
    assert [row[1] for row in found["Calibration"][1:]] == [
        f"{100 * teacher.ece.mean:.1f}",
        f"{teacher.loss.mean:.3f}",
    ]
    assert "temperature scaling" not in comparison_text(summary)
    one = tables(comparison_text(CASES["one class"]))["Fidelity to the teacher"]
    assert one[2][1:] == ["-", "-"]  # a teacher that never errs


def test_calibration_after_temperature_scaling() -> None:
    summary = CASES["gained"]
    student = summary.scores.models["student"]._replace(
        divisor=Spread(1.7, 0.02), divided_loss=Spread(0.49, 0.007), divided_ece=Spread(0.021, 0.004)
    )
    summary = with_scores(summary, models=summary.scores.models | {"student": student})
    rows = tables(comparison_text(summary))["Calibration"]
    assert [row[:3] for row in rows[-3:]] == [
        ["T, chosen on validation images", "-", "1.70 (std 0.02)"],
        ["expected calibration error at T (%)", "-", "2.1 (std 0.4)"],
        ["cross-entropy at T (nats)", "-", "0.490 (std 0.007)"],
    ]
    written = {row["measure"]: row["student"] for row in read(summary_csv(summary))}
    assert [written[name] for name in DIVIDED] == ["1.7", "0.49", "0.021"]
    assert summary_from_json(json.loads(json.dumps(comparison_json(summary)))).scores == summary.scores


def test_how_much_of_the_distance_is_covered() -> None:
    summary = CASES["gained"]
    models = summary.scores.models
    teacher, baseline = (models[role]._replace(accuracy=models[role].accuracy._replace(mean=mean, low=mean - 0.01))
                         for role, mean in (("teacher", 0.93), ("baseline", 0.82)))  # fmt: skip
    moved = with_scores(summary, models=models | {"teacher": teacher, "baseline": baseline},
                        difference=Difference(0.0143, 0.001, 0.01, 0.02))  # fmt: skip
    assert distance_text(moved) == "Student - baseline is 13.0 % of teacher - baseline, which is +11.00 points."
    assert distance_text(moved) in comparison_text(moved)
    level = with_scores(moved, models=models | {"teacher": baseline, "baseline": baseline})
    assert distance_text(level) == distance_text(CASES["no teacher"]) == ""
    no_gain = (Difference(0.01, 0.02, -0.02, 0.04), Difference(-0.02, 0.01, -0.03, -0.01), Difference(0.0, 0.0))
    one_seed_or_no_spread = (Difference(0.02), Difference(-0.01), Difference(0.02, 0.0))
    for found in (*no_gain, *one_seed_or_no_spread):
        assert distance_text(with_scores(moved, difference=found)) == ""
    unsure = teacher._replace(accuracy=teacher.accuracy._replace(low=0.82))
    assert distance_text(with_scores(moved, models=models | {"teacher": unsure, "baseline": baseline})) == ""


def test_costs_and_what_is_saved() -> None:
    text = comparison_text(CASES["one seed"])
    assert tables(text)["Cost"] == [
        ["", "teacher", "student", "baseline", "student against teacher"],
        ["parameters", "1,941,834", "92,458", "92,458", "21 x fewer"],
        ["multiply-adds of an image (million)", "245.0", "19.3", "19.3", "13 x fewer"],
        ["file (MiB)", "7.50", "0.36", "0.36", "21 x smaller"],
        ["CPU latency of an image, median (ms, 1 thread)", "11.3", "1.70", "1.70", "6.6 x faster"],
        ["CPU latency of an image, p95 (ms, 1 thread)", "14.1", "2.20", "2.20", "6.4 x faster"],
        ["peak memory of an image (MiB)", "20.0", "2.48", "2.48", "8.1 x smaller"],
    ]
    summary = CASES["one seed"]
    kept = 100 * summary.scores.models["student"].accuracy.mean / summary.scores.models["teacher"].accuracy.mean
    said = (
        f"The student keeps {kept:.1f} % of the teacher's accuracy: 21 x fewer parameters, 13 x fewer multiply-adds, "
    )
    assert f"{said}6.6 x faster on the CPU." in text


def test_what_is_kept_where_nothing_is_saved_or_known() -> None:
    assert compression_text(CASES["no cost"]).endswith("% of the teacher's accuracy.")
    assert compression_text(CASES["equal cost"]).endswith("% of the teacher's accuracy.")
    assert compression_text(CASES["dear student"]).endswith(
        ": 21 x more parameters, 13 x more multiply-adds, 6.6 x slower on the CPU."
    )
    assert compression_text(CASES["no teacher"]) == ""
    one = CASES["one seed"]
    models = one.scores.models | {"baseline": one.scores.models["teacher"]}
    weak = compression_text(one._replace(scores=one.scores._replace(models=models)))
    assert weak.startswith("The teacher is no better than the baseline; the student has ")


def test_a_teacher_whose_arithmetic_is_not_counted() -> None:
    summary = make(CIFAR10, costs=({**BIG, "multiply_adds": 0}, SMALL))
    row = next(row for row in tables(comparison_text(summary))["Cost"] if row[0].startswith("multiply-adds"))
    assert row[1:] == ["0.00", "19.3", "19.3", "-"]
    assert "multiply-adds" not in compression_text(summary)
    comparison_figure(summary)


@pytest.mark.parametrize(
    ("ratio", "cost", "said"),
    [
        (None, "num_parameters", "-"),
        (1.0, "num_parameters", "equal"),
        (1.04, "num_parameters", "equal"),
        (1 / 1.04, "latency_p95_ms", "equal"),
        (1.06, "num_parameters", "1.1 x fewer"),
        (9.94, "file_bytes", "9.9 x smaller"),
        (9.96, "file_bytes", "10 x smaller"),
        (0.5, "latency_median_ms", "2.0 x slower"),
        (0.01, "peak_memory_bytes", "100 x larger"),
    ],
)  # fmt: skip
def test_how_many_times(ratio: float | None, cost: str, said: str) -> None:
    assert times(ratio, cost) == said


def test_costs_of_a_tiny_network_are_not_rounded_to_nothing() -> None:
    assert [amount(value, 1e6) for value in (0, 640, 4_567, 99_000, 123_456)] == [
        "0.00",
        "0.00064",
        "0.0046",
        "0.099",
        "0.12",
    ]
    assert amount(0.034) == "0.034"


@pytest.mark.parametrize(
    ("value", "cent", "point"),
    [
        (None, "-", "-"),
        (0.0, "0.0", "0.0"),
        (0.0004, "0.0", "0.0"),
        (0.1234, "12.3", "+12.3"),
        (1.0, "100.0", "+100.0"),
    ],
)
def test_shares_as_text(value: float | None, cent: str, point: str) -> None:
    assert per_cent(value) == cent
    assert points(value) == point
    assert points(-value if value is not None else None) == point.replace("+", "-" if point[0] == "+" else "")


# --- CSV


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def same(text: str, value: float | None) -> bool:
    return text == "" if value is None else float(text) == value


@pytest.mark.parametrize("case", ["one seed", "gained", "no teacher", "hundred", "long"])
def test_the_csv_of_the_classes_has_all_of_them_unrounded(case: str) -> None:
    summary = CASES[case]
    *rows, overall = read(class_csv(summary))
    assert [row["class"] for row in rows] == [row.name for row in summary.scores.per_class]
    for row, scores in zip(rows, summary.scores.per_class, strict=True):
        assert all(same(row[name], value) for name, value in scores._asdict().items() if name != "name")
    assert (overall["class"], int(overall["support"])) == ("overall", summary.scores.num_images)
    assert same(overall["difference"], summary.scores.difference.mean)
    models = summary.scores.models
    assert same(overall["student_std"], models["student"].accuracy.std)
    assert same(overall["teacher"], models["teacher"].accuracy.mean if "teacher" in models else None)


def test_the_csv_of_the_classes_has_the_published_figures() -> None:
    rows = {row["class"]: row for row in read(class_csv(CASES["one seed"]))}
    assert rows["cat"]["published_student"] == "0.455"
    assert rows["cat"]["published_difference"] == "0.029"
    assert rows["overall"]["published_difference"] == "0.002"
    assert "published_teacher" not in read(class_csv(CASES["gained"]))[0]


@pytest.mark.parametrize("case", ["one seed", "gained", "no teacher", "no cost"])
def test_the_csv_of_the_measures(case: str) -> None:
    summary = CASES[case]
    rows = {row["measure"]: row for row in read(summary_csv(summary))}
    assert list(rows)[:4] == ["accuracy_low", "accuracy_high", "accuracy", "loss"]
    values = comparison_json(summary)
    for role in ROLES:
        model = values[role] or {}
        for name in ("accuracy", "loss", "ece", *FIDELITY, *DIVIDED):
            assert same(rows[name][role], (model.get(name) or {}).get("mean"))
            if role != "teacher":
                assert same(rows[name][f"{role}_std"], (model.get(name) or {}).get("std"))
        for name in COSTS:
            assert same(rows[name][role], summary.costs.models[role][name])
        assert same(rows["accuracy_low"][role], (model.get("accuracy") or {}).get("low"))
    assert {len(row) for row in csv.reader(io.StringIO(summary_csv(summary)))} == {6}


@pytest.mark.parametrize("case", CASES)
def test_everything_can_be_written_as_json(case: str) -> None:
    values = comparison_json(CASES[case])
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_the_json_of_a_comparison_has_every_value() -> None:
    summary = CASES["one seed"]
    values, scores = comparison_json(summary), summary.scores
    own = ["num_correct", "accuracy", "loss", "ece"]
    assert [list(values[role]) for role in ROLES] == [[*own, *DIVIDED], *[[*own, *FIDELITY, *DIVIDED]] * 2]
    for role, model in scores.models.items():
        assert values[role]["accuracy"] == model.accuracy._asdict()
        assert values["cost"][role] == summary.costs.models[role]
    assert values["cost"]["saved"] == summary.costs.saved
    assert values["difference"] == scores.difference._asdict()
    assert (values["mcnemar"], values["class_noise"]) == (scores.mcnemar._asdict(), scores.class_noise._asdict())
    assert [list(row.values()) for row in values["per_class"]] == [list(row) for row in scores.per_class]
    assert list(values["per_class"][0])[:3] == ["class", "support", "teacher"]
    assert values["runs"] == [run._asdict() for run in summary.runs]
    assert values["published"]["per_class"][3] == {"class": "cat", **BY_CLASS["cat"]._asdict()}
    assert {key: values["published"][key] for key in ROLES} == OVERALL._asdict()
    assert comparison_json(CASES["no teacher"])["teacher"] is comparison_json(CASES["gained"])["published"] is None


# --- the published experiment


def test_the_published_means_are_those_of_the_classes() -> None:
    """Each class has as many images, so the overall accuracy is the mean, as far as it was rounded."""
    assert len(BY_CLASS) == 10
    for role in Published._fields:
        mean = np.mean([getattr(its, role) for its in BY_CLASS.values()])
        assert mean == pytest.approx(getattr(OVERALL, role), abs=0.001)


def test_published_figures_follow_the_order_and_the_names_of_the_classes() -> None:
    assert published(CIFAR10)[:2] == [BY_CLASS["plane"], BY_CLASS["car"]]
    assert published(tuple(BY_CLASS)) == list(BY_CLASS.values())
    assert published(CIFAR10[::-1]) == published(CIFAR10)[::-1]
    for classes in (CIFAR10[:9], (*CIFAR10, "x"), (*CIFAR10[:9], "ship")):
        with pytest.raises(
            UserError, match=r"^--reference=original has the ten classes of CIFAR-10, these runs have \d+"
        ):
            published(classes)


# --- the picture


def texts(figure: Figure) -> list[Text]:
    """All visible texts that say something, after the figure was drawn."""
    figure.draw_without_rendering()
    found = figure.findobj(lambda one: isinstance(one, Text) and one.get_visible() and one.get_text().strip() != "")
    beyond = set()
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            outside = [tick for tick in axis.get_major_ticks() if not min(limits) <= tick.get_loc() <= max(limits)]
            beyond |= {tick.label1 for tick in outside}  # matplotlib draws none of them
    return [one for one in found if one not in beyond]


@pytest.mark.parametrize("case", CASES)
def test_no_text_is_cut_or_overlaps(case: str) -> None:
    figure = figure_of(case)
    boxes = [(one.get_text(), one.get_window_extent()) for one in texts(figure)]
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
    for i, (text, box) in enumerate(boxes):
        for other, other_box in boxes[:i]:
            assert not box.padded(-1).overlaps(other_box), (text, other)


@pytest.mark.parametrize("case", CASES)
def test_the_picture_suits_a_readme(case: str, tmp_path: Path) -> None:
    save_figure(figure_of(case), tmp_path / "compare.png")
    with Image.open(tmp_path / "compare.png") as image:
        assert 1200 <= image.width <= 1750
        assert 700 <= image.height <= 2000


def panel(figure: Figure, title: str) -> Any:
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith(title)]
    return axes


def test_the_headline_is_the_verdict() -> None:
    for case, summary in CASES.items():
        words = " ".join(text.get_text() for text in figure_of(case).texts)
        for said in (verdict_text(summary), subject(summary), compression_text(summary)):
            assert said in words
    ends = "Shown: the 10 with the largest and the 10 with the smallest difference, of 100 classes."
    assert ends in words_of("hundred")
    assert "Shown: the 4 with images, of 30 classes." in words_of("mostly empty")
    assert "Shown:" not in words_of("twenty")


def words_of(case: str) -> str:
    return " ".join(text.get_text() for text in figure_of(case).texts)


def markers(axes: Any) -> list[tuple[float, float]]:
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() in ("s", "o", "D")]


def test_accuracies_are_where_they_belong_with_their_intervals() -> None:
    for case in ("gained", "one seed"):
        summary, axes = CASES[case], panel(figure_of(case), "accuracy (%), 95 % intervals")
        found = [summary.scores.models[role].accuracy for role in ROLES]
        assert [label.get_text() for label in axes.get_yticklabels()] == list(ROLES)
        assert markers(axes) == [(100 * accuracy.mean, i) for i, accuracy in enumerate(found)]
        lines = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
        assert lines == [[100 * accuracy.low, min(100 * accuracy.high, 100)] for accuracy in found]
    assert panel(figure_of("one seed"), "accuracy (%), 95").get_xlabel() == "intervals over images"
    assert panel(figure_of("no teacher"), "accuracy (%), 95").get_xlabel() == "intervals over seeds"
    said = "teacher: over images; student, baseline: over seeds"
    assert panel(figure_of("gained"), "accuracy (%), 95").get_xlabel() == said


def test_cost_is_the_first_that_was_measured_for_all() -> None:
    for case, cost, label in (
        ("gained", "multiply_adds", "multiply-adds of an image (million)"),
        ("dear student", "multiply_adds", "multiply-adds of an image (million)"),
    ):
        axes, summary = panel(figure_of(case), "accuracy (%) against cost"), CASES[case]
        assert axes.get_xscale() == "log"
        assert axes.get_xlabel() == label
        assert markers(axes) == [
            (summary.costs.models[role][cost] / 1e6, 100 * summary.scores.models[role].accuracy.mean) for role in ROLES
        ]
    unknown: Mapping[str, Any] = {"multiply_adds": None, "latency_median_ms": None}
    figure = comparison_figure(make(CIFAR10, costs=({**BIG, **unknown}, {**SMALL, **unknown})))
    assert panel(figure, "accuracy (%) against cost").get_xlabel() == "parameters"
    unlike = ({**BIG, "multiply_adds": None, "latency_threads": 2}, {**SMALL, "multiply_adds": None})
    axes = panel(comparison_figure(make(CIFAR10, costs=unlike)), "accuracy (%) against cost")
    assert axes.get_xlabel() == "parameters"
    for case in ("no cost", "no teacher"):
        assert len(figure_of(case).axes) == 3


def test_every_class_has_its_marks_and_its_bar() -> None:
    summary = CASES["twenty"]
    recall, gain = (
        panel(figure_of("twenty"), title) for title in ("recall by class", "student \N{MINUS SIGN} baseline")
    )
    names = [label.get_text() for label in recall.get_yticklabels()]
    assert names == [*(row.name for row in summary.scores.per_class), "all images"]
    heights = dict(zip(names, recall.get_yticks(), strict=True))
    drawn = set(markers(recall))
    bars = {bar.get_y() + bar.get_height() / 2: bar.get_width() for bar in gain.patches}
    for row in summary.scores.per_class:
        assert {(100 * recall, heights[row.name]) for recall in (row.teacher, row.student, row.baseline)} <= drawn
        width = next(width for height, width in bars.items() if height == pytest.approx(heights[row.name]))
        assert width == pytest.approx(100 * row.difference)
    (interval,) = [line.get_xdata() for line in gain.lines if line.get_marker() == "|"]
    assert list(interval) == [100 * summary.scores.difference.low, 100 * summary.scores.difference.high]
    assert not [line for line in panel(figure_of("one seed"), "student").lines if line.get_marker() == "|"]


def test_a_class_without_images_is_marked() -> None:
    labels = [label.get_text() for label in panel(figure_of("long"), "recall by class").get_yticklabels()]
    assert labels[1] == "West Highland white terrier (no images)"


def test_the_picture_follows_nobodys_style(tmp_path: Path) -> None:
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 30}):
        save_figure(comparison_figure(CASES["three"]), tmp_path / "one.png")
    save_figure(figure_of("three"), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
