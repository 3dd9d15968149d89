"""``compare``: what distillation bought, from the folders of finished runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdignite import files, runs
from kdignite.comparison.caveats import caveats, is_short
from kdignite.comparison.match import Matched, match, method_settings, same_processor
from kdignite.comparison.numbers import comparison_summary, cost_summary, verdict
from kdignite.comparison.runs import RunFiles, read_run
from kdignite.config import CompareConfig
from kdignite.console import say
from kdignite.data.registry import FOLDER
from kdignite.errors import UserError
from kdignite.reports.comparison import class_csv, comparison_figure, comparison_text, summary_csv, verdict_text
from kdignite.reports.figures import save_figure
from kdignite.reports.published import OVERALL, SOURCE, published


def compare(config: CompareConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Compare student and baseline, beside their teacher, on the test images that all of them have answered.

    Args:
        config: which runs.
        root: the folder of all runs, where a folder for the report is made.

    Returns:
        The new folder and what its ``compare.json`` holds: every number of the report.

    Raises:
        UserError: before anything is written, if a run cannot be read or the comparison would not be fair.
    """
    matched = match(_read(config.runs or (), root=root))
    summary = _summary(matched, reference=config.reference)
    figure, text = comparison_figure(summary), comparison_text(summary)
    default = f"compare-{matched.students[0].folder.resolve().name}"
    folder = runs.create(root, name=config.name, default=default)
    save_figure(figure, folder / "compare.png")
    picture = f"![{summary['verdict']['text']}](compare.png)"
    for name, content in (
        ("compare.md", f"# Student against baseline\n\n{picture}\n\n{text}"),
        ("classes.csv", class_csv(summary)),
        ("summary.csv", summary_csv(summary)),
    ):
        (folder / name).write_text(content, encoding="utf-8")
    files.write_json(folder / "compare.json", summary)
    say(text)
    say(f"files       {folder}/ (compare.md, compare.png, classes.csv, summary.csv, compare.json)")
    return runs.Finished(folder, summary)


def _read(words: Sequence[str], *, root: Path) -> list[RunFiles]:
    """The runs that were named, each once."""
    folders = [_find(word, root=root) for word in words]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"{folder} is named twice: name every run once")
        seen.add(folder.resolve())
    return [read_run(folder, label=_label(folder, root=root)) for folder in folders]


def _find(word: str, *, root: Path) -> Path:
    """The folder that a RUN means: a path, or a name in ``root``."""
    candidates = (Path(word), root / word)
    finished = [folder for folder in candidates if (folder / runs.RESULT).is_file()]
    folders = finished or [folder for folder in candidates if folder.is_dir()]
    if not folders:
        if any(path.exists() for path in candidates):
            raise UserError(f"{word} is a file: compare takes run folders, as runs/NAME or NAME")
        have = ", ".join(sorted(path.parent.name for path in root.glob(f"*/{runs.RESULT}"))) or "none"
        raise UserError(f"there is no run {word!r}; finished runs in {root}/: {have}")
    inside = sorted(path.parent.name for path in folders[0].glob(f"*/{runs.RESULT}"))
    if inside and not finished:
        raise UserError(f"{folders[0]} is a folder of runs: name those to compare, as {folders[0]}/{inside[0]}")
    return folders[0]


def _label(folder: Path, *, root: Path) -> str:
    """A name for reports: no path of this machine."""
    if folder.absolute().is_relative_to(root.absolute()):
        return folder.absolute().relative_to(root.absolute()).as_posix()
    return "/".join(folder.resolve().parts[-2:])


def _summary(matched: Matched, *, reference: str | None) -> dict[str, Any]:
    """Everything that the report says, as plain JSON values."""
    student, classes = matched.students[0], matched.students[0].classes
    by_class = published(classes) if reference else None
    summary = comparison_summary(
        [run.logits for run in matched.students],
        [run.logits for run in matched.baselines],
        student.labels,
        teacher=matched.teacher.logits if matched.teacher else None,
        classes=classes,
    )
    summary |= {
        "dataset": _dataset(student),
        "settings": method_settings(student),
        "seeds": [run.seed for run in matched.students],
        "runs": [_about(run) for run in matched.all],
        "taught_by": student.result["teacher"]["name"],
        "cost": cost_summary(
            {
                "teacher": [matched.teacher.result.get("cost")] if matched.teacher else [],
                "student": [run.result.get("cost") for run in matched.students],
                "baseline": [run.result.get("cost") for run in matched.baselines],
            },
            same_processor=same_processor(matched.all),
        ),
        "published": None,
        "partial": any(run.result["partial"] for run in matched.all),
        "short": is_short(matched),
    }
    if by_class is not None:
        rows = [{"class": name, **figures._asdict()} for name, figures in zip(classes, by_class, strict=True)]
        summary["published"] = {"source": SOURCE, **OVERALL._asdict(), "per_class": rows}
    summary["notes"] = caveats(matched, summary)
    kind = verdict(summary["difference"])
    return summary | {"verdict": {"kind": kind, "text": verdict_text(summary, kind=kind)}}


def _about(run: RunFiles) -> dict[str, Any]:
    result = run.result
    return {
        "role": run.role,
        "run": run.label,
        "arch": result["arch"],
        "seed": result.get("seed"),
        "epochs": result.get("epochs"),
        "best_epoch": result.get("best_epoch"),
        "num_correct": result["test"]["num_correct"],
        "accuracy": result["test"]["num_correct"] / len(run.labels),
        "partial": result["partial"],
    }


def _dataset(run: RunFiles) -> str:
    name = str(run.result["dataset"])
    return FOLDER + Path(name.removeprefix(FOLDER)).name if name.startswith(FOLDER) else name
