"""``compare``: what distillation bought, from the folders of finished runs."""

from pathlib import Path

from kdignite import files, runs
from kdignite.commands.pages import COMPARISON, write_comparison_page
from kdignite.comparison.pairing import pair_runs
from kdignite.comparison.runs import read_runs
from kdignite.comparison.summary import summarize
from kdignite.config import CompareConfig
from kdignite.console import say
from kdignite.reports.comparison import (
    class_csv,
    comparison_figure,
    comparison_json,
    comparison_text,
    summary_csv,
    verdict_text,
)
from kdignite.reports.figures import save_figure
from kdignite.reports.page import REPORT, FoundRuns
from kdignite.reports.style import letters_note


def compare(config: CompareConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Compare student and baseline, beside their teacher, by their recorded predictions of the test images.

    Args:
        config: which runs.
        root: the folder of all runs, where a folder for the report is made.

    Returns:
        The new folder and what its ``compare.json`` holds: every number of the report.

    Raises:
        UserError: before anything is written, if a run cannot be read or the comparison would not be fair.
    """
    paired = pair_runs(read_runs(config.runs or (), root=root))
    summary = summarize(paired, reference=config.reference)
    figure, text, values = comparison_figure(summary), comparison_text(summary), comparison_json(summary)
    default = f"compare-{paired.students[0].folder.resolve().name}"
    folder = runs.create(root, name=config.name, default=default)
    save_figure(figure, folder / "compare.png")
    picture = f"![{verdict_text(summary)}](compare.png)"
    for name, content in (
        ("compare.md", f"# Student against baseline\n\n{picture}\n\n{text}"),
        ("classes.csv", class_csv(summary)),
        ("summary.csv", summary_csv(summary)),
    ):
        (folder / name).write_text(content, encoding="utf-8")
    files.write_json(folder / COMPARISON, values)
    write_comparison_page(folder, summary, config, found=FoundRuns(paired, ""))
    if note := letters_note(paired.students[0].classes):
        say(note)
    say(text)
    say(f"files       {folder}/ ({REPORT}, compare.md, compare.png, classes.csv, summary.csv, {COMPARISON})")
    return runs.Finished(folder, values)
