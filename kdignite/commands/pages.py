"""The pages of finished runs, comparisons and studies, with the pictures of their data set where it is still there."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdignite import files, schema
from kdignite.commands.stages import read_manifest
from kdignite.comparison.runs import RunFiles, read_run
from kdignite.comparison.summary import Summary
from kdignite.comparison.sweep import SweepSummary
from kdignite.config import CompareConfig, ReportConfig
from kdignite.data.registry import load_source
from kdignite.errors import UserError
from kdignite.reports.comparison import summary_from_json
from kdignite.reports.methods import methods_from_json
from kdignite.reports.page import (
    FoundRuns,
    Page,
    Pictures,
    comparison_page,
    find_runs,
    methods_page,
    run_page,
    search_page,
    study_page,
    write_page,
)
from kdignite.reports.search import search_from_json
from kdignite.reports.sweep import sweep_from_json
from kdignite.training.data import data_folder, named_by, pictures_of

COMPARISON, GRID, METHODS, SEARCH = "compare.json", "sweep.json", "methods.json", "search.json"
REMADE = "make it again"
Settings = CompareConfig | ReportConfig  # which say where the data set is now


def write_run_page(folder: Path, settings: Settings) -> Path:
    run = read_run(folder, label=folder.name)
    return write_page(run_page(run, pictures=open_pictures(run, settings)), folder)


def write_comparison_page(folder: Path, summary: Summary, settings: Settings, *, found: FoundRuns) -> Path:
    return write_page(_comparison(summary, settings, folder=folder, beside=folder.parent, found=found), folder)


def write_study_page(folder: Path, settings: Settings, *, root: Path) -> Path:
    """The page of a study: with its last comparison or what else came out, if it got that far."""
    manifest = read_manifest(folder)
    results = [folder / record["folder"] / COMPARISON for record in manifest["stages"].values()]
    compared = [path for path in results if path.is_file()]
    outcome: Page | SweepSummary | None = None
    if compared:
        summary = read_summary(compared[-1])
        found = find_runs(summary.runs, folder, root)
        outcome = _comparison(summary, settings, folder=folder, beside=folder, found=found)
    else:
        outcome = _outcome(folder)
    return write_page(study_page(folder, manifest, outcome), folder)


def _outcome(folder: Path) -> Page | SweepSummary | None:
    """What a sweep, a search or a study of methods wrote."""
    for name, read in _OUTCOMES.items():
        if (folder / name).is_file():
            with schema.checked(folder / name, advice=REMADE):
                return read(files.read_json(folder / name), folder)
    return None


_OUTCOMES: dict[str, Callable[[Mapping[str, Any], Path], Page | SweepSummary]] = {
    GRID: lambda values, _: sweep_from_json(values),
    METHODS: lambda values, folder: methods_page(methods_from_json(values), folder),
    SEARCH: lambda values, folder: search_page(search_from_json(values), folder),
}


def read_summary(path: Path) -> Summary:
    with schema.checked(path, advice=REMADE):
        return summary_from_json(files.read_json(path))


def _comparison(summary: Summary, settings: Settings, *, folder: Path, beside: Path, found: FoundRuns) -> Page:
    pictures = open_pictures(found.paired.students[0], settings) if found.paired else ""
    return comparison_page(summary, found, folder=folder, beside=beside, pictures=pictures)


def open_pictures(run: RunFiles, settings: Settings) -> Pictures:
    """The test images of a run; nothing is downloaded for them."""
    recorded: Mapping[str, Any] = run.config
    side = recorded.get("image_size") or recorded.get("size")
    root = settings.data_root or recorded.get("data_root")
    try:
        source = load_source(
            named_by(run.label, run.result["dataset"], asked=settings.dataset),
            data_root=data_folder(root if isinstance(root, str) else None),
            image_size=side if isinstance(side, int) else 32,
            skip_broken=settings.skip_broken or recorded.get("skip_broken") is True,
            fetch=False,
        )
    except UserError as error:
        return f"Pictures need the data set, which cannot be opened: {error}."
    images = source.train if source.test is None else source.test
    if source.fingerprint != run.result["fingerprint"] or run.indices.max() >= len(images.labels):
        return f"Pictures need the data set of the run, and {run.result['dataset']} holds other images now."
    return pictures_of(images)
