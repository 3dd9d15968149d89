"""A table of methods: its numbers against scipy and counting, what it refuses, what it says and how it is drawn."""

import csv
import io
import json
import random
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy import stats

from kdignite import files
from kdignite.comparison.methods import (
    BETTER,
    NOT_SHOWN,
    NOT_TESTED,
    WORSE,
    Budget,
    Contrast,
    MethodRow,
    MethodsSummary,
    summarize_methods,
)
from kdignite.comparison.recipes import recipe_name
from kdignite.comparison.runs import RunFiles
from kdignite.comparison.scores import Difference
from kdignite.config import BaselineConfig, DistillConfig, configure, parameter_names, to_json
from kdignite.errors import UserError
from kdignite.metrics.statistics import holm, paired_difference, paired_p_value
from kdignite.reports.methods import (
    methods_csv,
    methods_figure,
    methods_from_json,
    methods_headline,
    methods_json,
    methods_text,
)
from kdignite.reports.methods.tables import contrast_text, subject

CLASSES = ("cat", "dog", "frog", "owl")
LABELS = np.arange(400) % 4
OF_RANDOM = {"members": [{"name": "big", "sha256": "a" * 64, "weight": 1.0}], "control": "random"}
COUNTS = {
    "baseline": (300, 306, 295),
    "kd": (321, 325, 319),
    "dkd": (330, 333, 321),
    "dist": (302, 301, 299),
    "logit_mse": (281, 286, 275),
}


def run(method: str, seed: int, correct: int, *, folder: Path = Path("nowhere"), **settings: Any) -> RunFiles:
    """A finished run that got so many images right; settings of its config, or of its result or environment."""
    is_baseline = method == "baseline"
    own = {
        name: settings.pop(name) for name in ("fingerprint", "split", "partial", "val", "teacher") if name in settings
    }
    weights = settings.pop("recorded_weights", "none")
    kind, more = (BaselineConfig, {}) if is_baseline else (DistillConfig, {"method": method})
    config = to_json(configure(kind, dataset="digits", seed=seed, **more, **settings))
    answers = np.where(np.arange(len(LABELS)) < correct, LABELS, (LABELS + 1) % 4)
    noise = np.random.default_rng([seed, correct]).normal(size=(len(LABELS), 4))
    taught = {"name": "big", "sha256": "a" * 64, "accuracy": 0.9, "members": None, "control": config.get("control")}
    result = {
        **{"command": kind.command, "seed": seed, "epochs": config["epochs"], "best_epoch": 3, "arch": "cnn5"},
        **{"dataset": "digits", "fingerprint": "f", "split": "5", "partial": False, "val": {"accuracy": correct / 500}},
        **({} if is_baseline else {"teacher": taught}),
    }
    environment = {"device": "cpu", "threads": 1, "weights": weights}
    logits = (4 * np.eye(4)[answers] + 0.1 * noise).astype(np.float32)
    role, label = "baseline" if is_baseline else "student", f"{recipe_name(config)} {seed}"
    arrays = (CLASSES, logits, LABELS, np.arange(len(LABELS)))
    return RunFiles(folder / label, label, role, result | own, config, environment, *arrays)


def group(method: str, *counts: int, **settings: Any) -> list[RunFiles]:
    return [run(method, seed, correct, **settings) for seed, correct in enumerate(counts)]


FOUND = [one for method, counts in COUNTS.items() for one in group(method, *counts)]


def rows_of(summary: MethodsSummary) -> dict[str, MethodRow]:
    return {row.recipe.name: row for row in summary.rows}


def independent_holm(p_values: list[float]) -> list[float]:
    """The smallest level at which the step-down procedure rejects each."""
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    levels = dict.fromkeys(ranked, 0.0)
    for step, i in enumerate(ranked):
        needed = [(len(p_values) - earlier) * p_values[j] for earlier, j in enumerate(ranked[: step + 1])]
        levels[i] = min(1.0, max(needed))
    return [levels[i] for i in range(len(p_values))]


# --- statistics


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=2, max_size=9))
def test_the_paired_test_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = paired_p_value(first, second)
    if len({one - other for one, other in pairs}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(float(stats.ttest_rel(first, second).pvalue), abs=1e-12)
        _, _, low, high = paired_difference(first, second)
        assert (found < 0.05) == (low > 0 or high < 0)


def test_the_paired_test_needs_two_pairs() -> None:
    with pytest.raises(ValueError, match="at least two"):
        paired_p_value([1], [2])


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), max_size=20), st.randoms())
def test_holm_is_the_step_down_procedure(p_values: list[float], order: random.Random) -> None:
    found = holm(p_values)
    assert found == pytest.approx(independent_holm(p_values))
    assert all(p <= one <= 1 for p, one in zip(p_values, found, strict=True))
    # neither better than no correction nor worse than Bonferroni's
    assert all(one <= min(1, len(p_values) * p) + 1e-12 for p, one in zip(p_values, found, strict=True))
    shuffled = order.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in shuffled]) == [found[i] for i in shuffled]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == [0.2]


# --- the numbers


def test_every_row_is_compared_with_the_baseline_and_with_kd() -> None:
    rows = rows_of(summarize_methods(FOUND))
    families = {"baseline": ["kd", "dkd", "dist", "logit_mse"], "kd": ["dkd", "dist", "logit_mse"]}
    for other, names in families.items():
        tests = [stats.ttest_rel(COUNTS[name], COUNTS[other]) for name in names]
        expected = dict(zip(names, independent_holm([float(test.pvalue) for test in tests]), strict=True))
        for name, test in zip(names, tests, strict=True):
            found = rows[name].to_baseline if other == "baseline" else rows[name].to_against
            gains, interval = np.subtract(COUNTS[name], COUNTS[other]) / 400, test.confidence_interval(0.95)
            assert found.seeds == [0, 1, 2]
            assert found.values == pytest.approx(gains)
            ends = (interval.low / 400, interval.high / 400)
            assert found.difference == pytest.approx((gains.mean(), gains.std(ddof=1), *ends))
            assert (found.p_value, found.adjusted) == pytest.approx((test.pvalue, expected[name]))
    assert rows["baseline"].to_baseline is rows["baseline"].to_against is rows["kd"].to_against is None


def test_rows_are_ranked_by_their_difference_to_the_baseline() -> None:
    summary = summarize_methods(FOUND)
    assert [row.recipe.name for row in summary.rows] == ["dkd", "kd", "dist", "baseline", "logit_mse"]
    verdicts = {name: row.to_baseline.verdict for name, row in rows_of(summary).items() if row.to_baseline}
    assert verdicts == {"dkd": BETTER, "kd": BETTER, "dist": NOT_SHOWN, "logit_mse": WORSE}


def test_a_word_needs_the_corrected_p_value() -> None:
    gains = Difference(0.01, 0.005, 0.001, 0.019)
    assert Contrast([0, 1], [0.0, 0.02], gains, 0.03, 0.049).verdict == BETTER
    assert Contrast([0, 1], [0.0, 0.02], gains, 0.03, 0.05).verdict == NOT_SHOWN
    assert Contrast([0, 1], [0.0, 0.02], gains._replace(mean=-0.01), 0.03, 0.049).verdict == WORSE
    assert Contrast([0], [0.02], gains, None).verdict == NOT_TESTED


def test_the_order_of_the_runs_changes_nothing() -> None:
    found = [*FOUND, *group("kd", 310, 312, control="shuffled"), *group("dkd", 330, 333, 321, standardize=True)]
    expected = summarize_methods(found)
    for seed in range(4):
        assert summarize_methods(random.Random(seed).sample(found, len(found))) == expected


def test_what_stands_beside_the_accuracy() -> None:
    row = rows_of(summarize_methods(FOUND))["kd"].recipe
    logits = [one.logits.astype(float) for one in FOUND if one.config.get("method") == "kd"]
    shares = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in logits]
    losses = [-np.log(p[np.arange(400), LABELS]).mean() for p in shares]
    assert row.scores["loss"] == pytest.approx((np.mean(losses), np.std(losses, ddof=1)))
    right = np.array(COUNTS["kd"]) / 400
    assert row.accuracy == pytest.approx((right.mean(), right.std(ddof=1)))
    assert row.scores["accuracy_val"].mean == pytest.approx(np.mean(COUNTS["kd"]) / 500)
    assert row.scores["ece"].mean == pytest.approx(  # all confidences are in one bin
        np.mean([abs(share - p.max(1).mean()) for share, p in zip(right, shares, strict=True)]), abs=0.01
    )
    assert row.scores["agreement"] is row.epoch_seconds is None


def test_the_seconds_of_an_epoch_are_a_median(tmp_path: Path) -> None:
    found = [*group("baseline", 300, 301), *group("kd", 310, 312, folder=tmp_path)]
    for one, table in zip(found[2:], ("1,9.5\n2,2.0\n3,\n", "1,3.0\n2,4.0\n3,30\n"), strict=True):
        one.folder.mkdir()
        (one.folder / "metrics.csv").write_text(f"epoch,seconds\n{table}")
    kd = rows_of(summarize_methods(found))["kd"].recipe
    assert kd.epoch_seconds == np.median([9.5, 2, 3, 4, 30])
    assert [one.epoch_seconds for one in kd.runs] == [5.75, 4.0]
    (found[3].folder / "metrics.csv").write_text("epoch,seconds\n1,soon\n")
    with pytest.raises(UserError, match=r"metrics\.csv is damaged .*soon"):
        summarize_methods(found)


def test_agreement_is_with_the_teacher_that_taught_them(tmp_path: Path) -> None:
    teacher = run("baseline", 7, 340, folder=tmp_path)._replace(role="teacher")
    teacher.folder.mkdir()
    (teacher.folder / "best.safetensors").write_bytes(b"weights")
    taught = {"name": "big", "sha256": files.sha256(teacher.folder / "best.safetensors")}
    found = [*group("baseline", 300, 301), *group("dkd", 310, 312, teacher=taught)]
    of_control = {**taught, **OF_RANDOM, "members": [{**taught, "weight": 1.0}], "sha256": "c" * 64}
    summary = summarize_methods(
        [*found, *group("kd", 290, 291, control="random", teacher=of_control)], teachers=[teacher]
    )
    agreed = [(one.logits.argmax(1) == teacher.logits.argmax(1)).mean() for one in found[2:]]
    assert rows_of(summary)["dkd"].recipe.scores["agreement"].mean == pytest.approx(np.mean(agreed))
    assert summary.teacher_accuracy == 340 / 400
    assert "taught by big (85.00 %)" in subject(summary)
    assert not any("agreement" in note for note in summary.notes)
    adopted = teacher._replace(result=teacher.result | {"command": "adopt"})
    assert any(
        note.startswith("the teacher was adopted: ") for note in summarize_methods(found, teachers=[adopted]).notes
    )
    assert not any("adopted" in note for note in summary.notes)
    alone = summarize_methods(
        [*found[:2], *group("kd", 290, 291, control="random", teacher=of_control)], teachers=[teacher]
    )  # the others may be missing yet
    assert alone.teacher_accuracy is None
    with pytest.raises(UserError, match="is not the teacher of"):
        summarize_methods([*group("baseline", 300), *group("kd", 310)], teachers=[teacher])
    with pytest.raises(UserError, match="there is no student of it"):
        summarize_methods([*group("baseline", 300), *group("baseline", 3, label_smoothing=0.1)], teachers=[teacher])
    weak = summarize_methods([*found, *group("baseline", 345, label_smoothing=0.1)], teachers=[teacher])
    assert not any("no better than the baseline" in note for note in weak.notes)


# --- rows


@pytest.mark.parametrize(
    ("method", "settings", "name"),
    [
        ("baseline", {}, "baseline"),
        ("baseline", {"label_smoothing": 0.1}, "label smoothing 0.1"),
        ("kd", {"alpha": 0.3, "lr": 0.01}, "kd"),
        ("kd", {"control": "shuffled"}, "kd (shuffled)"),
        ("dkd", {"standardize": True}, "dkd (standardize)"),
        ("kd", {"standardize": True, "label_smoothing": 0.2, "control": "random"},
         "kd (standardize, label smoothing 0.2, random)"),
    ],
)  # fmt: skip
def test_what_a_row_is_called(method: str, settings: dict[str, Any], name: str) -> None:
    assert recipe_name(run(method, 0, 300, **settings).config) == name


def test_settings_of_a_row_are_those_that_are_its_own() -> None:
    found = [*group("baseline", 300, 301, lr=0.2), *group("kd", 310, 312, lr=0.05, alpha=0.0, control="shuffled")]
    found += group("at", 310, 312, student_layers=("layer2",), teacher_layers=("layer3",))
    rows = rows_of(summarize_methods(found, budget=Budget(("lr",))))
    assert rows["baseline"].recipe.settings == {"lr": 0.2}
    kd = {"lr": 0.05, "alpha": 0.0, "T": DistillConfig().T, "control": "shuffled"}
    assert rows["kd (shuffled)"].recipe.settings == kd
    assert rows["at"].recipe.settings["student_layers"] == ["layer2"]
    assert [name for name, row in rows.items() if row.recipe.is_control] == ["kd (shuffled)", "baseline"]


def test_a_baseline_with_label_smoothing_is_a_row() -> None:
    smooth = group("baseline", 305, 309, label_smoothing=0.1)
    summary = summarize_methods([*smooth, *group("baseline", 300, 301), *group("kd", 310, 312)])
    assert summary.baseline == "baseline"
    assert rows_of(summary)["label smoothing 0.1"].to_against.values == pytest.approx([-5 / 400, -3 / 400])
    alone = summarize_methods([*smooth, *group("kd", 310, 312)])
    assert alone.baseline == "label smoothing 0.1"


def test_rows_that_lack_seeds_are_compared_over_those_they_have() -> None:
    dist = [run("dist", seed, correct) for seed, correct in ((1, 309), (2, 300), (5, 399))]
    found = [*(one for one in FOUND if one.config.get("method") != "dist"), *dist, run("nkd", 9, 350)]
    summary = summarize_methods(found)
    contrast = rows_of(summary)["dist"].to_baseline
    assert contrast.seeds == [1, 2]
    test = stats.ttest_rel((309, 300), COUNTS["baseline"][1:])
    assert contrast.p_value == pytest.approx(test.pvalue)
    assert rows_of(summary)["dist"].recipe.seeds == [1, 2, 5]
    last = summary.rows[-1]
    assert (last.recipe.name, last.to_baseline, last.to_against) == ("nkd", None, None)
    assert (
        "not every row has the same seeds, a difference is over those that both rows have: seed 0, 1, 2: "
        "dkd, kd, baseline, logit_mse; seed 1, 2, 5: dist; seed 9: nkd"
    ) in summary.notes
    assert "nkd: no seed in common with the baseline, so no difference" in summary.notes


def test_one_seed_has_no_interval_and_no_verdict_and_is_not_counted() -> None:
    summary = summarize_methods([*FOUND, run("nkd", 0, 399)])
    found = rows_of(summary)["nkd"].to_baseline
    assert found == ([0], [99 / 400], (99 / 400, None, None, None), None, None)
    assert found.verdict == NOT_TESTED
    without = rows_of(summarize_methods(FOUND))
    assert {name: row for name, row in rows_of(summary).items() if name != "nkd"} == without
    told = "nkd: one seed in common with the baseline, which proves nothing: repeat with more --seeds"
    assert told in summary.notes


def test_equal_differences_are_not_tested() -> None:
    summary = summarize_methods([*group("baseline", 300, 301), *group("kd", 310, 311)])
    assert rows_of(summary)["kd"].to_baseline.verdict == NOT_TESTED
    assert "kd: the same difference for every seed, which gives no interval and no test" in summary.notes


# --- fairness


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 20}, "--epochs: 10 (nowhere/kd 0) -> 20 (nowhere/nkd 0)"),
        ({"batch_size": 50}, "--batch_size"),
        ({"arch": "fastresnet"}, "--arch: cnn5"),
        ({"views": 3}, "--views: unset"),
        ({"augment": "flip"}, "--augment"),
        ({"weight_decay": 0.1}, "--weight_decay"),
        ({"lr": 0.01}, "--lr"),
        ({"teacher_amp": "bf16"}, "--teacher_amp"),
        ({"cache_dtype": "float16"}, "--cache_dtype"),
        ({"recorded_weights": "d" * 64}, "--weights: none"),
        ({"fingerprint": "other"}, "different data"),
        ({"split": "other"}, "different training and validation images"),
        ({"teacher": {"name": "small", "sha256": "b" * 64}}, "different teachers, 'big' "),
    ],
)
def test_what_is_not_fair_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    found = [*group("baseline", 300, 301), *group("kd", 310, 311)]
    with pytest.raises(UserError) as caught:
        summarize_methods([*found, *group("nkd", 310, 312, **settings)])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_baseline_of_another_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="differ in more than the loss and lr: --momentum"):
        summarize_methods([*group("kd", 310), *group("baseline", 300, momentum=0.5, lr=0.01)], budget=Budget(("lr",)))


def test_what_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def method(student: Any, teacher: Any, labels: Any, *, gap: float, soft: bool = True) -> None: ...

    monkeypatch.setitem(sys.modules, "mine", ModuleType("mine"))
    monkeypatch.setattr(sys.modules["mine"], "method", method, raising=False)
    own = run("kd", 0, 311)
    none = dict.fromkeys(parameter_names(DistillConfig))
    own.config.update(none | {"method": "mine:method", "gap": 0.5, "soft": True, "lr": 0.3})
    found = [
        *group("baseline", 300, 301, lr=0.01),
        *group("kd", 310, 312, lr=0.2, weight_decay=0.1, alpha=0.1),
        *group("at", 310, 313, student_layers=("x",), label_smoothing=0.1),
        *group("kd", 310, 312, control="random", teacher={"name": "big, untrained", "sha256": "c" * 64, **OF_RANDOM}),
    ]
    rows = rows_of(summarize_methods([*found, own], budget=Budget(("lr", "weight_decay"))))
    assert {*rows} == {"baseline", "kd", "at (label smoothing 0.1)", "kd (random)", "mine:method (soft)"}
    assert rows["mine:method (soft)"].recipe.settings == {"lr": 0.3, "weight_decay": 0.0005, "gap": 0.5, "soft": True}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([run("kd", 0, 310), run("kd", 1, 310, T=2.0), run("baseline", 0, 300)],
         "the runs of 'kd' differ in more than the seed: --T: 4 (nowhere/kd 0) -> 2 (nowhere/kd 1)"),
        ([run("kd", 0, 310), run("kd", 1, 310, lr=0.2), run("baseline", 0, 300)], "more than the seed: --lr"),
        ([run("kd", 0, 310), run("kd", 0, 311), run("baseline", 0, 300)], "are both runs of 'kd' of seed 0"),
        ([run("kd", 0, 310), run("dkd", 0, 310)], "needs a baseline and another row, and has dkd, kd"),
        ([run("baseline", 0, 310)], "needs a baseline and another row, and has baseline"),
        ([run("baseline", 0, 310)._replace(role="teacher")], "baseline 0 is a teacher, not a student or a baseline"),
        ([run("kd", 0, 310, val={}), run("baseline", 0, 310)], "result.json is damaged (it has no accuracy)"),
    ],
)  # fmt: skip
def test_what_is_no_table(found: list[RunFiles], said: str) -> None:
    with pytest.raises(UserError) as caught:
        summarize_methods(found, budget=Budget(("lr",)))
    assert said in str(caught.value)


def test_a_config_with_no_method_is_damaged() -> None:
    broken = run("kd", 0, 310)
    broken.config["method"] = None
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        summarize_methods([broken, run("baseline", 0, 300)])


# --- what is said


def test_the_budget_is_stated() -> None:
    def notes(**budget: Any) -> str:
        return "; ".join(summarize_methods(FOUND, budget=Budget(("lr",), **budget)).notes)

    even = notes(trials=dict.fromkeys(COUNTS, 12), epochs=10, seeds=(100, 101))
    assert (
        "budget of the choice of settings (parameters of the method and lr): 12 validation trials of 10 epochs for "
        "each tuned row, seed 100, 101; no test image was used"
    ) in even
    assert "no trials of their own" not in even
    assert "favours" not in even
    uneven = notes(trials={"kd": 3, "dkd": 4}, seeds=(1,))
    assert "(parameters of the method and lr): unequal, validation trials: dkd 4, kd 3, seed 1;" in uneven
    assert "no trials of their own: baseline, dist, logit_mse" in uneven
    assert "settings were chosen with seed 1 too, which favours what was tuned" in uneven
    assert notes().startswith("no tuning is recorded: a row may be low because its settings are")


def test_what_weakens_the_table_is_said() -> None:
    found = [*group("baseline", 300, 301, epochs=2), *group("dkd", 310, 312, epochs=2, partial=True)]
    found += group("dist", 310, 314, epochs=2, control="shuffled")
    summary = summarize_methods(found)
    notes = "\n".join(summary.notes)
    for said in (
        "dkd 0, dkd 1 used only part of their images: not a result to quote",
        "trained for 2 epochs only",
        "there is no row 'kd': the rows are compared with the baseline alone",
        "(--control=shuffled)",
        "agreement with it is not measured",
    ):
        assert said in notes
    assert (summary.against, summary.partial) == (None, True)
    assert "## Against kd" not in methods_text(summary)
    assert methods_headline(summary).endswith("Only part of the images was used: not a result to quote.")
    assert "First but for baseline and controls is dkd: " in methods_headline(summary)  # a control is ahead


@pytest.mark.parametrize(
    ("found", "headline"),
    [
        (FOUND, "Better than the baseline: dkd, kd (2 of 4); worse: logit_mse. Better than kd: none of 3; worse: dist, "
         "logit_mse. First is dkd: "),
        ([*group("baseline", 300, 301), *group("kd", 310, 308)],
         "Better than the baseline: none of 1. First is kd: +2.12 points (95 % interval -2.64 to +6.89, 2 seeds)."),
        ([run("baseline", 0, 300), run("kd", 0, 310)], "Too few seeds to tell methods apart. First is kd: +2.50 points "
         "(1 seed)."),
        ([run("baseline", 0, 300), run("kd", 0, 290)], "Too few seeds to tell methods apart. First but for baseline "
         "and controls is kd: -2.50 points (1 seed)."),
        ([run("baseline", 0, 300), run("baseline", 0, 290, label_smoothing=0.1)], "Too few seeds to tell methods "
         "apart. First is label smoothing 0.1: -2.50 points (1 seed)."),
        ([run("baseline", 0, 300), run("kd", 1, 310)], "Nothing is compared: no row shares a seed with the baseline."),
    ],
)  # fmt: skip
def test_the_headline_claims_what_was_shown(found: list[RunFiles], headline: str) -> None:
    assert methods_headline(summarize_methods(found)).startswith(headline)


def test_the_text_has_each_number() -> None:
    summary = summarize_methods(FOUND, budget=Budget(("lr",), dict.fromkeys(COUNTS, 12)))
    text = methods_text(summary)
    assert text.startswith(f"{methods_headline(summary)}\n\n{subject(summary)}\n\n- note: ")
    assert "corrected by Holm for 4 comparisons of this table" in text
    assert "corrected by Holm for 3 comparisons of this table" in text
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    found = rows_of(summary)["kd"].to_baseline
    mean, low, high = (f"{100 * value:+.2f}" for value in (found.difference.mean, *found.difference[2:]))
    shown = ["kd", "3", "80.42", "0.76", mean, f"{low} to {high}", f"{found.p_value:.2g}", f"{found.adjusted:.2g}"]
    assert [*shown, "better"] in cells
    assert ["dkd", "--lr=0.1 --alpha=1 --T=4 --beta=2 --ce_weight=1", "12"] in cells
    assert contrast_text(found) == f"{mean} points (95 % interval {low} to {high}, 3 seeds)"


def test_the_csv_has_a_row_for_each_run() -> None:
    summary = summarize_methods([*FOUND, run("dkd", 9, 350)])
    found = list(csv.DictReader(io.StringIO(methods_csv(summary))))
    assert len(found) == len(FOUND) + 1
    for row in found:
        counts = {**dict(enumerate(COUNTS[row["method"]])), 9: 350}
        assert int(row["num_correct"]) == counts[int(row["seed"])]
        for other in ("baseline", "kd"):
            value = row["difference_to_baseline" if other == "baseline" else "difference_to_against"]
            if row["seed"] == "9" or row["method"] in ("baseline", other):
                assert value == ""
            else:
                assert float(value) == (int(row["num_correct"]) - COUNTS[other][int(row["seed"])]) / 400
    assert {row["beta"] for row in found if row["method"] == "dkd"} == {"2.0"}


def test_everything_can_be_written_as_json() -> None:
    summary = summarize_methods([*FOUND, run("nkd", 0, 350)])
    values = methods_json(summary)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["comparisons"] == {"to_baseline": 4, "to_against": 3}
    assert [row["name"] for row in values["rows"]] == [row.recipe.name for row in summary.rows]
    kd = next(row for row in values["rows"] if row["name"] == "kd")
    assert kd["to_baseline"]["verdict"] == BETTER
    assert kd["to_baseline"]["difference"]["low"] == rows_of(summary)["kd"].to_baseline.difference.low
    assert kd["runs"][1]["num_correct"] == COUNTS["kd"][1]


@pytest.mark.parametrize("budget", [None, Budget(("lr",), {"kd": 3}, 2, (1000,))])
def test_the_json_holds_the_whole_summary(budget: Budget | None) -> None:
    summary = summarize_methods([*FOUND, run("nkd", 9, 350)], budget=budget)
    values = json.loads(json.dumps(methods_json(summary)))
    assert methods_from_json(values) == summary
    for damage in ({"rows": [{}]}, {"budget": None}, {"epochs": 3}, {"rows": 1}):
        with pytest.raises(ValueError, match="it is no table of methods"):
            methods_from_json(values | damage)


# --- the picture


MANY = [
    *FOUND,
    *group("kd", 303, 301, 299, control="shuffled"),
    *group("baseline", 306, 307, 299, label_smoothing=0.1),
    *group("dkd", 330, 250, standardize=True, label_smoothing=0.1, control="random"),
    *(one for i, name in enumerate(("nkd", "wttm", "wsld", "fitnet", "at", "sp", "pkt")) for one in
      group(name, 300 + i, 310 - i, 290 + 2 * i)),
    run("rkd", 0, 305),
]  # fmt: skip
CASES = {
    "two": [*group("baseline", 300, 306, 295), *group("kd", 321, 325, 319)],
    "none in common": [run("baseline", 0, 300), run("kd", 1, 310)],
    "nine": [*FOUND, *MANY[15:21], *group("nkd", 320, 280), run("at", 0, 305)],
    "many": MANY,
}


@cache
def drawn(case: str) -> tuple[MethodsSummary, Any]:
    summary = summarize_methods(CASES[case])
    return summary, methods_figure(summary)


@pytest.mark.parametrize("case", CASES)
def test_no_text_is_cut_or_overlaps(case: str) -> None:
    _, figure = drawn(case)
    figure.canvas.draw()
    found = figure.findobj(lambda one: isinstance(one, Text) and one.get_visible() and one.get_text().strip() != "")
    low, high = figure.axes[0].get_xlim()
    beyond = {t.label1 for t in figure.axes[0].xaxis.get_major_ticks() if not low <= t.get_loc() <= high}
    boxes = [(one.get_text(), one.get_window_extent()) for one in found if one not in beyond]
    for i, (text, box) in enumerate(boxes):
        assert min(box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1) >= 0, text
        for other, other_box in boxes[:i]:
            assert not box.padded(-1).overlaps(other_box), (text, other)


def test_points_intervals_and_seeds_are_where_they_belong() -> None:
    summary, figure = drawn("nine")
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [row.recipe.name for row in summary.rows]
    assert len(names) == 9
    lines = {}
    for line in axes.lines:
        if len(line.get_xdata()) != 2 or len({*line.get_ydata()}) == 1:  # else it is from top to bottom
            lines[line.get_marker(), float(line.get_ydata()[0])] = list(line.get_xdata())
    for height, row in enumerate(summary.rows):
        if row.to_baseline is None:
            assert lines["D", height] == [0]
            continue
        found = row.to_baseline
        assert lines["o", height] == [100 * found.difference.mean]
        assert (("None", height) in lines) == ((".", height + 0.3) in lines) == (len(found.seeds) > 1)
        if len(found.seeds) == 3:
            assert lines["None", height] == pytest.approx([100 * end for end in found.difference[2:]])
            assert lines[".", height + 0.3] == [100 * value for value in found.values]
    kd = rows_of(summary)["kd"].to_baseline.difference
    assert any(list(line.get_xdata()) == [100 * kd.mean] * 2 for line in axes.lines)


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    summary, figure = drawn("many")
    (axes,) = figure.axes
    wide = next(i for i, row in enumerate(summary.rows) if row.to_baseline and len(row.to_baseline.seeds) == 2)
    found = summary.rows[wide].to_baseline.difference
    low, high = axes.get_xlim()
    assert 100 * found.low < low
    assert 100 * found.high > high
    arrows = {line.get_marker(): list(line.get_xdata()) for line in axes.lines if line.get_marker() in ("<", ">")}
    assert arrows == {"<": [low], ">": [high]}
