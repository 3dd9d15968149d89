"""The outcome of a study of methods as a page: a forest chart, and its tables to sort."""

from collections.abc import Sequence
from pathlib import Path

from kdignite.comparison.methods import BETTER, NOT_SHOWN, NOT_TESTED, WORSE, Contrast, MethodRow, MethodsSummary
from kdignite.comparison.recipes import Recipe
from kdignite.config import typed_flags
from kdignite.metrics.statistics import Spread
from kdignite.reports.methods import methods_headline
from kdignite.reports.methods.figure import MINUS, Ends, ends_of, of_against
from kdignite.reports.methods.tables import BESIDE, SCORES, contrast_text, how_tested, score_text, subject
from kdignite.reports.page.blocks import Block, Cell, Effect, Forest, Page, Section, Table, Text, Tick, Tile
from kdignite.reports.page.charts import FRAME, scale, ticks
from kdignite.reports.page.render import page_of
from kdignite.reports.page.tables import number_cell, points_cell, share_cell
from kdignite.reports.style import short
from kdignite.reports.text import NO_SCORE, p_value_text, per_cent, points

ROW, SIDE, ABOVE = 34.0, 12.0, 4.0  # units of the chart
TONES = {BETTER: "better", WORSE: "worse", NOT_SHOWN: "baseline", NOT_TESTED: "baseline"}


def methods_page(summary: MethodsSummary, folder: Path) -> Page:
    """The outcome of a study whose page lies in ``folder``, beside its runs."""
    sections = [
        Section("Differences", [forest(summary), *_how(summary, "to_baseline")]),
        Section(f"Against the {summary.baseline}", [_contrasts(summary)]),
        Section(f"Against {summary.against}", _to_against(summary)),
        Section("Beside the accuracy", [_scores(summary.rows)]),
        Section("Settings of the methods", [_settings(summary)]),
        Section("Runs", [_runs(summary.rows, folder)]),
    ]
    return Page(
        name=f"{folder.name} - kdignite",
        about=f"{folder.name}: methods compared",
        headline=methods_headline(summary),
        lead=[f"{subject(summary)}."],
        tiles=_tiles(summary),
        notes=summary.notes,
        sections=[one for one in sections if one.blocks],
    )


def forest(summary: MethodsSummary) -> Forest:
    """The difference of each row to the baseline, best first."""
    ends, height = ends_of(summary.rows), ABOVE + ROW * len(summary.rows) + FRAME.below
    across = scale(*ends, SIDE, FRAME.width - SIDE)
    effects = [
        _effect(row, ABOVE + ROW * i, ends, is_baseline=row.recipe.name == summary.baseline)
        for i, row in enumerate(summary.rows)
    ]
    other = of_against(summary)
    verdicts = {row.to_baseline.verdict: "" for row in summary.rows if row.to_baseline}
    title = f"Test accuracy {MINUS} that of the {summary.baseline} (points)"
    told = (
        f"{row.recipe.name}: {contrast_text(row.to_baseline)}, {row.to_baseline.verdict}."
        for row in summary.rows
        if row.to_baseline
    )
    return Forest(
        title=title,
        alt=f"{title}. {' '.join(told)}",
        effects=effects,
        zero=across(0),
        other=across(100 * other.difference.mean) if other else None,
        other_name=summary.against or "",
        x_ticks=[Tick(across(x), f"{x:+g}".replace("-", MINUS) if x else "0") for x in ticks(*ends)],
        legend=[(_mark(verdict), verdict) for verdict in TONES if verdict in verdicts],
        height=height,
    )


def _mark(verdict: str) -> str:
    return TONES[verdict] + (" shown" if verdict in (BETTER, WORSE) else "")


def _effect(row: MethodRow, y: float, ends: Ends, *, is_baseline: bool) -> Effect:
    across, name, one = scale(*ends, SIDE, FRAME.width - SIDE), short(row.recipe.name), row.to_baseline
    if one is None:
        x = across(0) if is_baseline else None
        return Effect(name, "0" if is_baseline else NO_SCORE, "baseline", False, y, x, None, None, (False, False), [])
    found, seeds = one.difference, [across(100 * value) for value in one.values] if len(one.seeds) > 1 else []
    low, high = (None if end is None else 100 * end for end in (found.low, found.high))
    return Effect(
        name=name,
        text=points(found.mean, digits=2).replace("-", MINUS),
        tone=TONES[one.verdict],
        is_shown=one.verdict in (BETTER, WORSE),
        y=y,
        x=across(100 * found.mean),
        low=None if low is None else across(max(low, ends.low)),
        high=None if high is None else across(min(high, ends.high)),
        is_cut=(low is not None and low < ends.low, high is not None and high > ends.high),
        seeds=seeds,
    )


def _how(summary: MethodsSummary, family: str) -> list[Block]:
    text = how_tested(summary, family)
    return [Text(text)] if text else []


def _tiles(summary: MethodsSummary) -> list[Tile]:
    taught = summary.teacher_accuracy
    teacher = [] if taught is None else [Tile("teacher", f"{per_cent(taught, digits=2)} %", summary.teacher_name or "")]
    named = {row.recipe.name: row.recipe for row in summary.rows}
    shown = [summary.baseline, *([summary.against] if summary.against else []), next(iter(named))]
    return [*teacher, *(_tile(named[name]) for name in dict.fromkeys(shown))]


def _tile(one: Recipe) -> Tile:
    seeds = ", ".join(map(str, one.seeds))
    over = f"mean over seeds {seeds}" if len(one.seeds) > 1 else f"seed {seeds}"
    return Tile(one.name, f"{per_cent(one.accuracy.mean, digits=2)} %", over)


def _contrasts(summary: MethodsSummary) -> Table:
    rows = [
        [
            Cell(row.recipe.name),
            *_contrast(row.to_baseline),
            number_cell(len(row.recipe.seeds)),
            *(share_cell(one, digits=2) for one in row.recipe.accuracy),
        ]
        for row in summary.rows
    ]
    columns = ("method", *_CONTRAST, "seeds", "accuracy %", "std")
    return Table(f"Test accuracy - that of the {summary.baseline}, in points", columns, rows, num_names=2)


def _to_against(summary: MethodsSummary) -> list[Block]:
    found = [(row.recipe.name, row.to_against) for row in summary.rows if row.to_against]
    rows = [[Cell(name), *_contrast(one), number_cell(len(one.seeds))] for name, one in found]
    caption = f"Test accuracy - that of {summary.against}, in points"
    table = Table(caption, ("method", *_CONTRAST, "seeds in common"), rows, num_names=2)
    return [*_how(summary, "to_against"), table] if found else []


_CONTRAST = ("shown", "difference", "95 % from", "to", "p", "p (Holm)")


def _contrast(one: Contrast | None) -> list[Cell]:
    if one is None:
        return [Cell(NO_SCORE)] * len(_CONTRAST)
    found = one.difference
    ends = (points_cell(value, digits=2) for value in (found.mean, found.low, found.high))
    return [Cell(one.verdict), *ends, *(Cell(p_value_text(p), p) for p in (one.p_value, one.adjusted))]


def _scores(rows: Sequence[MethodRow]) -> Table:
    shown = [key for key in SCORES if any(row.recipe.scores[key] for row in rows)]
    cells = [
        [
            Cell(one.name),
            *(_score(key, one.scores[key]) for key in shown),
            number_cell(one.epoch_seconds, digits=1),
        ]
        for one in (row.recipe for row in rows)
    ]
    return Table(BESIDE, ("method", *(SCORES[key] for key in shown), "s an epoch"), cells)


def _score(key: str, found: Spread | None) -> Cell:
    return Cell(score_text(key, found), None if found is None else found.mean)


def _settings(summary: MethodsSummary) -> Table:
    rows = [
        [
            Cell(one.name),
            Cell(typed_flags(**one.settings) or NO_SCORE),
            number_cell(summary.budget.trials.get(one.name)),
        ]
        for one in (row.recipe for row in summary.rows)
    ]
    caption = "What a row has of its own; everything else is alike"
    return Table(caption, ("method", "settings", "trials"), rows, num_names=2)


def _runs(rows: Sequence[MethodRow], folder: Path) -> Table:
    cells = [
        [
            Cell(run.run, href=page_of(folder / run.run, folder)),
            Cell(row.recipe.name),
            number_cell(run.seed),
            number_cell(run.best_epoch),
            number_cell(run.epochs),
            *(share_cell(share, digits=2) for share in (run.accuracy, run.accuracy_val)),
        ]
        for row in rows
        for run in row.recipe.runs
    ]
    columns = ("run", "method", "seed", "best epoch", "epochs", "accuracy %", "validation %")
    return Table("Every run, test and validation images", columns, cells, num_names=2)
