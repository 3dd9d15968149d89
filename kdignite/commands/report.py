"""``report``: the page of a finished run, a comparison or a study."""

from pathlib import Path

from kdignite import runs
from kdignite.commands.pages import COMPARISON, read_summary, write_comparison_page, write_run_page, write_study_page
from kdignite.config import ReportConfig
from kdignite.console import say
from kdignite.errors import UserError
from kdignite.reports.page import find_runs


def report(config: ReportConfig, *, root: Path = runs.ROOT) -> Path:
    """Write ``report.html`` into the folder of a run, a comparison or a study, from the files in it.

    It takes the place of the page that the run or comparison wrote at its end.

    Args:
        config: which folder, and where its data set is now.
        root: the folder of all runs.

    Returns:
        The page: one file, which loads nothing.

    Raises:
        UserError: if the folder is none of these, or its files are damaged.
    """
    folder = _find(config.run, root=root)
    if (folder / COMPARISON).is_file():
        summary = read_summary(folder / COMPARISON)
        found = find_runs(summary.runs, folder.parent, root)
        page = write_comparison_page(folder, summary, config, found=found)
    elif (folder / runs.MANIFEST).is_file():
        page = write_study_page(folder, config, root=root)
    elif (folder / runs.RESULT).is_file():
        page = write_run_page(folder, config)
    else:
        raise UserError(f"{folder} is no finished run, comparison or study: it has no {runs.RESULT}; let the run end")
    say(f"report    {page}")
    return page


def _find(word: str, *, root: Path) -> Path:
    """The folder that a word names; one of the current folder that is none of these does not hide a run."""
    folders = [path for path in (Path(word), root / word) if path.is_dir()]
    if not folders:
        raise UserError(f"there is no folder {word!r}: name a run, a comparison or a study, as runs/NAME or NAME")
    files = (COMPARISON, runs.MANIFEST, runs.RESULT)
    return next((one for one in folders if any((one / name).is_file() for name in files)), folders[0])
