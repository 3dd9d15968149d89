"""The page of a comparison: its numbers from the summary, curves, matrices and pictures from the runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kdignite.comparison.pairing import PairedRuns
from kdignite.comparison.runs import RunFiles
from kdignite.comparison.scores import ROLES, ModelScores
from kdignite.comparison.summary import Summary
from kdignite.comparison.teachers import teacher_logits
from kdignite.config import command_line
from kdignite.metrics import Logits, confusion_from_logits, expected_calibration_error
from kdignite.metrics.statistics import Spread
from kdignite.reports.comparison.sentences import (
    FIDELITY_SHARES,
    SCALING,
    compression_text,
    distance_text,
    mcnemar_text,
    published_rows,
    subject,
    times,
    verdict_text,
)
from kdignite.reports.page.blocks import Block, Cell, Code, Page, Section, Table, Text, Tile
from kdignite.reports.page.charts import Curve, curve, lines, reliability
from kdignite.reports.page.mistakes import Pictures, gallery
from kdignite.reports.page.render import page_of
from kdignite.reports.page.run import repeat_line, settings_blocks
from kdignite.reports.page.sources import FoundRuns, find_exports, read_history
from kdignite.reports.page.tables import (
    changes,
    confusions,
    cost_table,
    export_table,
    number_cell,
    points_cell,
    share_cell,
)
from kdignite.reports.published import SOURCE
from kdignite.reports.text import NO_SCORE, per_cent, points
from kdignite.runs import MANIFEST


def comparison_page(summary: Summary, found: FoundRuns, *, folder: Path, beside: Path, pictures: Pictures) -> Page:
    """Everything that a comparison and the runs it is of say; its page lies in ``folder``, the runs in ``beside``."""
    runs, answers = found.paired, {} if found.paired is None else _answers(found.paired)
    test = mcnemar_text(summary)
    sections = [
        Section("Accuracy", [_accuracies(summary), *([Text(test)] if test else [])]),
        Section("Curves", [] if runs is None else _curves(runs)),
        Section("Classes", _classes(summary)),
        Section("Difference matrix", [Text(found.missing)] if runs is None else _differences(runs)),
        Section("Confusion matrix", [] if runs is None else _confusions(runs)),
        Section("Calibration", [] if runs is None else _calibration(runs, answers)),
        Section("Most confident mistakes", [] if runs is None else _mistakes(runs, answers, pictures)),
        Section("Cost", _costs(summary, runs)),
        Section("Runs", [_runs(summary, folder, beside)]),
        Section("How to repeat", _repeat(summary, runs, beside)),
        Section("Settings", [] if runs is None else settings_blocks(runs.students[0]), is_folded=True),
    ]
    return Page(
        name=f"{folder.name} - kdignite",
        about=f"{folder.name}: student against baseline",
        headline=verdict_text(summary),
        lead=[one for one in (f"{subject(summary)}.", compression_text(summary), distance_text(summary)) if one],
        tiles=_tiles(summary),
        notes=summary.notes,
        sections=[one for one in sections if one.blocks],
    )


def _tiles(summary: Summary) -> list[Tile]:
    models, difference, seeds = summary.scores.models, summary.scores.difference, len(summary.seeds)
    over = {"images": "over test images", "seeds": f"over {seeds} seeds"}
    return [
        *(
            Tile(role, f"{per_cent(a.mean)} %", _interval(per_cent(a.low), per_cent(a.high), over[a.over]))
            for role, a in ((role, model.accuracy) for role, model in models.items())
        ),
        Tile(
            "student - baseline, points",
            points(difference.mean, digits=2),
            _interval(points(difference.low, digits=2), points(difference.high, digits=2), over["seeds"]),
        ),
    ]


def _interval(low: str, high: str, over: str) -> str:
    return "no interval" if low == NO_SCORE else f"{low} to {high} {over}"


def _accuracies(summary: Summary) -> Table:
    columns = ("accuracy %", "from", "to", "std", "ECE %", "cross-entropy", "T", "ECE % at T", "cross-entropy at T")
    rows = [[Cell(role), *_scores(model)] for role, model in summary.scores.models.items()]
    caption = f"Test images, with 95 % intervals. {SCALING}"
    return Table(caption, ("model", *columns, *FIDELITY_SHARES.values()), rows, sortable=False)


def _scores(model: ModelScores) -> list[Cell]:
    shares = (model.accuracy.mean, model.accuracy.low, model.accuracy.high, model.accuracy.std)
    fidelity = (_mean(getattr(model, score)) for score in FIDELITY_SHARES)
    return [
        *(share_cell(one, digits=2) for one in shares),
        share_cell(model.ece.mean),
        number_cell(model.loss.mean, digits=3),
        number_cell(_mean(model.divisor), digits=2),
        share_cell(_mean(model.divided_ece)),
        number_cell(_mean(model.divided_loss), digits=3),
        *(share_cell(one) for one in fidelity),
    ]


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean


def _curves(runs: PairedRuns) -> list[Block]:
    histories = {role: [read_history(run.folder) for run in group] for role, group in _groups(runs).items()}
    level = [curve(histories["student"][0], "accuracy_teacher", name="teacher", tone="teacher", scale=100)]
    accuracy = [*level, *_each(histories, "accuracy_val", scale=100)]
    return [
        *lines("Validation accuracy (%)", accuracy, unit=" %"),
        *lines("Validation cross-entropy (nats)", _each(histories, "loss_val")),
    ]


def _groups(runs: PairedRuns) -> dict[str, Sequence[RunFiles]]:
    return {"baseline": runs.baselines, "student": runs.students}


def _each(
    histories: Mapping[str, Sequence[list[dict[str, float | None]]]], column: str, *, scale: float = 1
) -> list[Curve]:
    """A curve for each run; only the first of a role has a name, so that the legend has each role once."""
    return [
        curve(rows, column, name="" if i else role, tone=role, scale=scale)
        for role, group in histories.items()
        for i, rows in enumerate(group)
    ]


def _classes(summary: Summary) -> list[Block]:
    scores = summary.scores
    roles, seeds = list(scores.models), len(summary.seeds)
    columns = [
        "class",
        *(f"{role} %" for role in roles),
        "student - baseline",
        *(["std"] if seeds > 1 else []),
        "images",
    ]
    rows = [
        [
            Cell(row.name),
            *(share_cell(row.recalls.get(role)) for role in roles),
            points_cell(row.difference),
            *([share_cell(row.difference_std)] if seeds > 1 else []),
            number_cell(row.support),
        ]
        for row in scores.per_class
    ]
    if summary.reference:
        columns += [f"published {role} %" for role in ROLES]
        rows = [[*row, *map(share_cell, found)] for row, found in zip(rows, published_rows(summary), strict=False)]
    caption = "Recall by class: the share of its test images that are classified correctly" + (
        f", means over {seeds} seeds" if seeds > 1 else ""
    )
    return [Table(caption, tuple(columns), rows), *([Text(f"{SOURCE}.")] if summary.reference else [])]


def _confusion(run: RunFiles) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return confusion_from_logits(run.logits, run.labels, num_classes=len(run.classes))


def _differences(runs: PairedRuns) -> list[Block]:
    each = [_confusion(one) - _confusion(other) for one, other in zip(runs.students, runs.baselines, strict=True)]
    text = "More images on the diagonal are right; more beside it are mistakes. Orange: more, blue: fewer."
    classes = runs.students[0].classes
    return [Text(text), *changes(np.mean(each, axis=0), classes, seeds=len(each))]


def _confusions(runs: PairedRuns) -> list[Block]:
    student = runs.students[0]
    return [Text(f"Of {student.label}."), *confusions(_confusion(student), student.classes)]


def _answers(runs: PairedRuns) -> dict[str, Logits]:
    """The logits of each role, of the first seed."""
    taught = teacher_logits(runs.teachers, runs.students[0])
    own = {"student": runs.students[0].logits, "baseline": runs.baselines[0].logits}
    return own if taught is None else {"teacher": taught, **own}


def _calibration(runs: PairedRuns, answers: Mapping[str, Logits]) -> list[Block]:
    labels = runs.students[0].labels
    each = {role: expected_calibration_error(logits, labels) for role, logits in answers.items()}
    about = "Bars: accuracy at each confidence; short lines: mean confidence; dashed: perfect. Of the first seed."
    return [
        Text(about),
        *(
            reliability(f"{role}, calibration error {per_cent(each[role])} %", logits, labels, tone=role)
            for role, logits in answers.items()
        ),
    ]


def _mistakes(runs: PairedRuns, answers: Mapping[str, Logits], pictures: Pictures) -> list[Block]:
    student = runs.students[0]
    about = f"The test images of whose wrong class {student.label} is the most certain; in brackets the probability."
    classes = student.classes
    return [
        Text(about),
        *gallery(answers, student.labels, student.indices, whose="student", classes=classes, pictures=pictures),
    ]


def _costs(summary: Summary, runs: PairedRuns | None) -> list[Block]:
    roles, costs = list(summary.scores.models), summary.costs
    saved = {key: times(ratio, key) for key, ratio in costs.saved.items()} if "teacher" in roles else {}
    exports = [] if runs is None else find_exports(runs.students[0])
    return [*cost_table({role: costs.models[role] for role in roles}, saved), *export_table(exports)]


def _runs(summary: Summary, folder: Path, beside: Path) -> Table:
    columns = ("run", "role", "model", "seed", "best epoch", "correct", "accuracy %")
    rows = [
        [
            Cell(run.run, href=page_of(beside / run.run, folder)),
            *(Cell(run.role), Cell(run.arch)),
            *(number_cell(one) for one in (run.seed, run.best_epoch, run.num_correct)),
            share_cell(run.accuracy, digits=2),
        ]
        for run in summary.runs
    ]
    return Table("The runs that were compared", columns, rows, num_names=3)


def _repeat(summary: Summary, runs: PairedRuns | None, beside: Path) -> list[Block]:
    """What to type; runs in a study are named with it."""
    study = f"{beside.resolve().name}/" if (beside / MANIFEST).is_file() else ""
    names = (f"{study if (beside / one.run).is_dir() else ''}{one.run}" for one in summary.runs)
    again = command_line("compare", *names, reference=summary.reference)
    made = [] if runs is None else [repeat_line(run) for run in (runs.students[0], runs.baselines[0])]
    return [Code([*made, again])]
