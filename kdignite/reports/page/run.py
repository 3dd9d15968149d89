"""The page of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdignite import metrics
from kdignite.comparison.pairing import typed_line
from kdignite.comparison.runs import RunFiles, read_run
from kdignite.comparison.teachers import control_note, teacher_logits
from kdignite.config import COMMANDS, configure, to_json
from kdignite.errors import UserError, counted
from kdignite.metrics import Logits, class_scores, confusion_from_logits, evaluation_summary
from kdignite.metrics.statistics import wilson_interval
from kdignite.reports.page.blocks import Block, Code, Page, Section, Text, Tile
from kdignite.reports.page.charts import Curve, calibration_text, curve, lines, reliability
from kdignite.reports.page.mistakes import Pictures, gallery
from kdignite.reports.page.sources import Row, find_exports, find_teachers, parts_of, read_history
from kdignite.reports.page.tables import (
    class_table,
    confusions,
    cost_table,
    epoch_table,
    export_table,
    settings_table,
    without_place,
)
from kdignite.reports.text import per_cent

NOUNS = {
    "teacher": "This teacher",
    "adopt": "This adopted model",
    "distill": "This student",
    "baseline": "This student, trained without a teacher,",
}


def run_page(run: RunFiles, *, pictures: Pictures) -> Page:
    """Everything that the files of a finished run say, with its teacher's answers where the teacher's run is found."""
    summary = evaluation_summary(run.logits, run.labels, classes=run.classes)
    teachers, history = find_teachers(run), read_history(run.folder)
    taught = teacher_logits(teachers, run)
    answers = {run.role: run.logits} if taught is None else {"teacher": taught, run.role: run.logits}
    costs = {one.role: one.result.get("cost") or {} for one in (*teachers[:1], run)} if len(teachers) < 2 else {}
    costs = costs or {run.role: run.result.get("cost") or {}}
    sections = [
        Section("Curves", curve_charts(history)),
        Section("Classes", [class_table(summary["per_class"], _recalls(taught, run))]),
        Section("Confusion matrix", confusions(summary["confusion"], run.classes)),
        Section("Calibration", _calibration(run, summary)),
        Section("Most confident mistakes", _mistakes(run, answers, pictures)),
        Section("Cost", [*cost_table(costs, {}), *export_table(find_exports(run))]),
        Section("How to repeat", [Code([repeat_line(run)])]),
        Section("Every epoch", epoch_table(history), is_folded=True),
        Section("Settings", settings_blocks(run), is_folded=True),
    ]
    return Page(
        name=f"{run.result['name']} - kdignite",
        about=_about(run),
        headline=_headline(run, summary, taught),
        lead=_lead(run),
        tiles=_tiles(run, summary, taught),
        notes=_notes(run),
        sections=[one for one in sections if one.blocks],
    )


def finished_page(folder: Path, *, pictures: Pictures) -> Page:
    """The page of a run from its folder alone."""
    return run_page(read_run(folder, label=folder.name), pictures=pictures)


def curve_charts(history: Sequence[Row]) -> list[Block]:
    """Accuracy, cross-entropy and, where a method has parts, what is minimised."""
    parts = parts_of(history)
    accuracy = [
        curve(history, "accuracy_teacher", name="teacher", tone="teacher", scale=100),
        curve(history, "accuracy_train", name="training images", tone="train", scale=100),
        curve(history, "accuracy_val", name="validation images", tone="student", scale=100),
    ]
    ce = "ce" if "ce" in parts else "loss" if not parts else ""
    entropy = [
        curve(history, ce, name="training images", tone="train"),
        curve(history, "loss_val", name="validation images", tone="student"),
    ]
    tones = ("teacher", "other", "baseline", "train")
    others = [
        curve(history, one, name=one, tone=tones[i % 4]) for i, one in enumerate(one for one in parts if one != "ce")
    ]
    loss = [curve(history, "loss", name="what is minimised", tone="student"), *others] if parts else []
    return [
        *lines("Accuracy (%)", accuracy, unit=" %"),
        *lines("Cross-entropy (nats)", entropy),
        *lines("Loss and its parts", _distinct(loss)),
    ]


def _distinct(curves: Sequence[Curve]) -> list[Curve]:
    """Curves without those that another one covers: with alpha = 1 the loss is its only part."""
    return [one for i, one in enumerate(curves) if one.points not in [before.points for before in curves[:i]]]


def repeat_line(run: RunFiles) -> str:
    """What to type to make the run again; paths of this machine are cut."""
    return typed_line(run.result["command"], {name: without_place(value) for name, value in run.config.items()})


def settings_blocks(run: RunFiles) -> list[Block]:
    """The settings, beside those of the preset, and the machine."""
    return [
        settings_table("Settings of the run that are set", run.config, _usual(run.config)),
        settings_table("Software and machine", _machine(run.environment)),
    ]


def _usual(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the preset of a run sets; None: it had none."""
    try:
        return to_json(configure(COMMANDS[config["command"]], preset=config["preset"]))
    except (KeyError, TypeError, UserError):
        return None


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    flat = {**environment, **environment.get("packages", {})}
    return {name: value for name, value in flat.items() if isinstance(value, str | int | float)}


def _about(run: RunFiles) -> str:
    result = run.result
    trained = [] if result["command"] == "adopt" else [counted(result["epochs"], "epoch"), f"seed {run.seed}"]
    dataset = without_place(result["dataset"])
    return ", ".join([f"{result['name']}: {result['arch']} on {dataset}", *trained])


def _headline(run: RunFiles, summary: Mapping[str, Any], taught: Logits | None) -> str:
    right = f"{NOUNS[run.result['command']]} gets {per_cent(summary['accuracy'])} % of "
    right += f"{counted(summary['num_images'], 'test image')} right"
    if taught is None:
        return f"{right}."
    gap = 100 * (_accuracy(taught, run) - summary["accuracy"])
    side = "fewer than" if gap > 0 else "more than"
    return (
        f"{right}, {abs(gap):.1f} points {side} its teacher."
        if abs(gap) >= 0.05
        else f"{right}, as many as its teacher."
    )


def _accuracy(logits: Logits, run: RunFiles) -> float:
    return float((logits.argmax(axis=1) == run.labels).mean())


def _lead(run: RunFiles) -> list[str]:
    lines_ = []
    if run.result.get("best_epoch"):
        lines_.append(
            f"The epoch with the best validation result was kept: {run.result['best_epoch']} of "
            f"{run.result['epochs']}. The test images decided nothing."
        )
    if run.result["command"] == "distill":
        lines_.append(
            "What distillation gained, this page cannot say: that takes the same training without a teacher "
            "(baseline) and a comparison of the two (compare), best over several seeds."
        )
    return lines_


def _tiles(run: RunFiles, summary: Mapping[str, Any], taught: Logits | None) -> list[Tile]:
    low, high = wilson_interval(summary["num_correct"], summary["num_images"])
    interval = (
        f"{summary['num_correct']:,} of {summary['num_images']:,}; 95 % interval {per_cent(low)} to {per_cent(high)}"
    )
    cost = run.result.get("cost") or {}
    teacher = [] if taught is None else [Tile("teacher", f"{per_cent(_accuracy(taught, run))} %", "on the same images")]
    size = [Tile("parameters", f"{cost['num_parameters']:,}", run.result["arch"])] if cost.get("num_parameters") else []
    return [
        Tile("test accuracy", f"{per_cent(summary['accuracy'])} %", interval),
        *teacher,
        Tile("balanced accuracy", f"{per_cent(summary['balanced_accuracy'])} %", "mean recall of the classes"),
        Tile("calibration error", f"{per_cent(summary['ece'])} %", "0 is perfect"),
        *size,
    ]


def _notes(run: RunFiles) -> list[str]:
    partial = (
        ["This run used only part of its images: its numbers are no result to quote."] if run.result["partial"] else []
    )
    return [*partial, *(control_note(run) if run.result["command"] == "distill" else [])]


def _recalls(taught: Logits | None, run: RunFiles) -> dict[str, float]:
    """Of the teacher, by class."""
    if taught is None:
        return {}
    counts = confusion_from_logits(taught, run.labels, num_classes=len(run.classes))
    return dict(zip(run.classes, class_scores(counts).recall.tolist(), strict=True))


def _calibration(run: RunFiles, summary: Mapping[str, Any]) -> list[Block]:
    text = calibration_text(metrics.calibration_bins(run.logits, run.labels))
    return [
        Text(f"{text} Bars: accuracy at each confidence; short lines: mean confidence; dashed: perfect."),
        reliability(
            f"Reliability diagram, calibration error {per_cent(summary['ece'])} %",
            run.logits,
            run.labels,
            tone=run.role,
        ),
    ]


def _mistakes(run: RunFiles, answers: Mapping[str, Logits], pictures: Pictures) -> list[Block]:
    about = "The test images of whose wrong class the model is the most certain; in brackets the probability."
    return [
        Text(about),
        *gallery(answers, run.labels, run.indices, whose=run.role, classes=run.classes, pictures=pictures),
    ]
