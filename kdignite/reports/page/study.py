"""The page of a study: its outcome, and the way to the page of each run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdignite.comparison.sweep import SweepSummary
from kdignite.config import command_line, setting_text
from kdignite.errors import counted
from kdignite.reports.page.blocks import Block, Cell, Code, Matrix, Page, Section, Shade, Table, Text
from kdignite.reports.page.render import page_of
from kdignite.reports.page.tables import number_cell, setting_cell, settings_table, share_cell, without_place
from kdignite.reports.sweep import axes_of, chosen_text, placed
from kdignite.reports.text import NO_SCORE, per_cent


def study_page(folder: Path, manifest: Mapping[str, Any], outcome: Page | SweepSummary | None) -> Page:
    """The page of an outcome with the stages of its study; without one the study goes on."""
    command, typed = manifest.get("command", ""), manifest.get("typed", {})
    about = f"{folder.name}: a study"
    stages = Section("Stages", _stages(folder, manifest["stages"]))
    repeat = Section("How to repeat", [_repeat(command, typed)] if command else [])
    settings = Section(
        "Settings of the study", [settings_table("What makes it this study", manifest["settings"])], is_folded=True
    )
    own = [one for one in (stages, repeat, settings) if one.blocks]
    if isinstance(outcome, Page):
        kept = [one for one in outcome.sections if one.title not in {section.title for section in own}]
        return outcome._replace(name=f"{folder.name} - kdignite", about=about, sections=[*kept, *own])
    page = Page(f"{folder.name} - kdignite", about, "", [], [], [], own)
    if outcome is None:
        done = counted(len(manifest["stages"]), "stage")
        return page._replace(headline=f"This study is not finished: {done} done, and nothing is compared yet.")
    grid = [Section("Grid", [_heat_map(outcome), Text(_among(outcome))]), Section("Points", [_points(outcome)])]
    return page._replace(headline=f"{chosen_text(outcome)}.", notes=outcome.notes, sections=[*grid, *own])


def _repeat(command: str, typed: Mapping[str, Any]) -> Block:
    return Code([command_line(command, **{name: without_place(value) for name, value in typed.items()})])


def _stages(folder: Path, stages: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    are_evaluated = any("evaluated" in record for record in stages.values())
    rows = [
        [
            Cell(name, href=page_of(folder / record["folder"], folder)),
            number_cell(record.get("seconds")),
            *([share_cell(_accuracy(record.get("evaluated")), digits=2)] if are_evaluated else []),
        ]
        for name, record in stages.items()
    ]
    columns = ("stage", "seconds", *(["test accuracy %"] if are_evaluated else []))
    return [Table("What was done, in this order", columns, rows)] if rows else []


def _accuracy(evaluated: Mapping[str, int] | None) -> float | None:
    return evaluated["num_correct"] / evaluated["num_images"] if evaluated else None


def _heat_map(summary: SweepSummary) -> Matrix:
    """Mean validation accuracies over two parameters, at the best value of any other."""
    y, x = axes_of(summary)
    means = {place: point.mean for place, point in placed(summary).items()}
    low, high = min(means.values()), max(means.values())

    def shade(place: tuple[int, int]) -> Shade:
        if place not in means:
            return Shade(NO_SCORE, 0.0)
        strength = (means[place] - low) / (high - low) if high > low else 0.0
        return Shade(per_cent(means[place], digits=2), strength)

    return Matrix(
        "Mean validation accuracy (%)",
        f"{y.name} \\ {x.name}" if y.name else x.name,
        [setting_text(value) if y.name else "mean" for value in y.values],
        [setting_text(value) for value in x.values],
        [[shade((i, j)) for j in range(len(x.values))] for i in range(len(y.values))],
    )


def _among(summary: SweepSummary) -> str:
    others = len(summary.names) > 2
    return (
        "Where other parameters have several values, the best is shown."
        if others
        else "The stronger the colour, the better."
    )


def _points(summary: SweepSummary) -> Table:
    rows = [
        [
            *(setting_cell(point.parameters[name]) for name in summary.names),
            number_cell(len(point.seeds)),
            *(
                share_cell(one, digits=2)
                for one in (point.mean, point.std, min(point.accuracies), max(point.accuracies))
            ),
        ]
        for point in summary.points
    ]
    columns = (*summary.names, "seeds", "mean %", "std", "lowest", "highest")
    return Table("Validation accuracy of every point of the grid", columns, rows, num_names=0)
