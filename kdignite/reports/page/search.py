"""The outcome of a search as a page: what was chosen, and its trials as charts and a table."""

import math
from pathlib import Path

from kdignite.comparison.search import SearchSummary
from kdignite.config import Range, setting_text
from kdignite.errors import counted
from kdignite.reports.page.blocks import Block, Cell, Code, Mark, Page, Scatter, Section, Table, Text, Tick
from kdignite.reports.page.charts import FRAME, LINES_HEIGHT, limits, scale, ticks
from kdignite.reports.page.render import page_of
from kdignite.reports.page.tables import number_cell, setting_cell, share_cell
from kdignite.reports.search import BELOW, CHOSEN, COMPLETE, STOPPED, chosen_text, drawn_trials
from kdignite.reports.style import log_ticks
from kdignite.reports.text import per_cent
from kdignite.trials import TrialRow

KINDS = {COMPLETE: "complete", STOPPED: "stopped", BELOW: "below", CHOSEN: "chosen"}


def search_page(summary: SearchSummary, folder: Path) -> Page:
    """The outcome of a search whose page lies in ``folder``, beside its trials."""
    use: list[Block] = [Text("Train with what was chosen:"), Code([summary.line])]
    charts: list[Block] = [scatter(summary, name) for name in summary.ranges]
    return Page(
        name=f"{folder.name} - kdignite",
        about=f"{folder.name}: settings of {summary.method}",
        headline=f"{chosen_text(summary)}.",
        lead=[],
        tiles=[],
        notes=summary.notes,
        sections=[
            Section("Use it", use),
            Section("Accuracy over each setting", charts),
            Section("Trials", [_trials(summary, folder)]),
        ],
    )


def scatter(summary: SearchSummary, name: str) -> Scatter:
    """The validation accuracy over a setting of every trial that ended with one."""
    span, drawn = summary.ranges[name], drawn_trials(summary)
    across = scale(_place(span.low, span), _place(span.high, span), FRAME.left + 8, FRAME.right - 8)
    shares = [100 * (one.accuracy or 0.0) for group in drawn.values() for one in group]
    low, high = limits(min(shares), max(shares))
    up = scale(low, high, LINES_HEIGHT - FRAME.below, FRAME.top)
    marks = [
        Mark(KINDS[label], across(_place(one.values[name], span)), up(100 * (one.accuracy or 0.0)))
        for label, group in drawn.items()
        for one in group
    ]
    best, value = per_cent(summary.chosen.accuracy, digits=2), setting_text(summary.chosen.values[name])
    trials = counted(len(marks) - len(drawn[CHOSEN]), "trial")  # the chosen one has two marks
    return Scatter(
        title=f"Validation accuracy (%) over {name}",
        alt=f"Validation accuracy of {trials} over {name}; the best is {best} %, at {value}.",
        marks=marks,
        x_name=f"{name} (logarithmic)" if span.log else name,
        x_ticks=[Tick(across(_place(x, span)), text) for x, text in _ticks(span)],
        y_ticks=[Tick(up(y), f"{y:g}") for y in ticks(low, high)],
        legend=[(KINDS[label], label) for label, group in drawn.items() if group],
        height=LINES_HEIGHT,
    )


def _place(value: float, span: Range) -> float:
    return math.log(value) if span.log else float(value)


def _ticks(span: Range) -> list[tuple[float, str]]:
    if span.is_flag:
        return [(float(one), setting_text(one)) for one in (False, True)]
    return [(x, f"{x:g}") for x in (log_ticks if span.log else ticks)(span.low, span.high)]


def _trials(summary: SearchSummary, folder: Path) -> Table:
    columns = ("trial", "state", *summary.ranges, "epochs", "validation %")
    caption = "Every trial; accuracy of its best epoch on the validation images"
    return Table(caption, columns, [_cells(one, summary, folder) for one in summary.ranked], num_names=2)


def _cells(one: TrialRow, summary: SearchSummary, folder: Path) -> list[Cell]:
    is_chosen = one.number == summary.chosen.number
    return [
        Cell(f"trial {one.number}", one.number, page_of(folder / f"trial-{one.number}", folder)),
        Cell(CHOSEN if is_chosen else one.state),
        *(setting_cell(one.values[name]) for name in summary.ranges),
        number_cell(one.epochs),
        share_cell(one.accuracy, digits=2),
    ]
