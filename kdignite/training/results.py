"""What a finished run or evaluation leaves behind: predictions, tables, figures, TensorBoard summaries."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from kdignite import files, runs
from kdignite.checkpoints import Checkpoint
from kdignite.config import DistillConfig, TrainConfig, to_json, with_use
from kdignite.console import say
from kdignite.errors import RunFailed, UserError, reason
from kdignite.evaluation import Outcome
from kdignite.metrics import evaluation_summary, recorded
from kdignite.metrics.cost import measure_cost
from kdignite.reports.answers import figure_pixels, mistakes_figure, reliability_figure
from kdignite.reports.figures import classification_figure, confusion_figure, save_figure
from kdignite.reports.page import REPORT, Pictures, finished_page, worst_mistakes, write_page
from kdignite.reports.style import letters_note
from kdignite.reports.tables import classes_csv, confusions_csv, evaluation_table, overall_line
from kdignite.training.model import load_placed

# what the end of a run leaves beside its result
LEFT = (runs.PREDICTIONS, "confusion_matrix.png", "classification_report.png", "classes.csv", "confusions.csv", REPORT)
MAX_FIGURE_CLASSES = 20  # above that the figures show a choice, and CSV files hold everything
SPLIT_NAMES = {"val": "validation", "test": "test"}
# TensorBoard shows the first five at first, by name; the text "config" has them all
HPARAMS = with_use(DistillConfig, "shown")
HPARAM_METRICS = ("accuracy/val", "loss/val", "test/accuracy")


def checked(outcome: Outcome, *, who: str) -> Outcome:
    """The outcome; refused if a logit in it is not finite."""
    if not outcome.is_finite:
        raise RunFailed(f"the logits of {who} are not finite numbers: its weights or its input are broken")
    return outcome


def write_evaluation(
    folder: Path, outcomes: Mapping[str, Outcome], *, classes: tuple[str, ...], title: str
) -> dict[str, dict[str, Any]]:
    """Write predictions, figures of the last split and, for many classes, tables; returns what a result records.

    Confusion matrices grow with the square of the number of classes: they go with the predictions.
    """
    if note := letters_note(classes):
        say(note)
    summaries = {
        split: evaluation_summary(outcome.logits.numpy(), outcome.labels.numpy(), classes=classes)
        for split, outcome in outcomes.items()
    }
    matrices = {f"{split}_confusion": compact(summary["confusion"]) for split, summary in summaries.items()}
    arrays: dict[str, Any] = _arrays(outcomes) | matrices
    files.write_atomically(folder / runs.PREDICTIONS, lambda file: np.savez_compressed(file, **arrays))
    split, summary = list(summaries.items())[-1]
    heading = f"{title}, {SPLIT_NAMES[split]} images"
    for name, figure in {"confusion_matrix": confusion_figure, "classification_report": classification_figure}.items():
        with reported(f"{name}.png"):
            save_figure(figure(summary, title=heading), folder / f"{name}.png")
    if len(classes) > MAX_FIGURE_CLASSES:
        (folder / "classes.csv").write_text(classes_csv(summary), encoding="utf-8")
        (folder / "confusions.csv").write_text(confusions_csv(summary), encoding="utf-8")
    return {split: recorded(summary) for split, summary in summaries.items()}


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Within the block an error costs what is only reported, not the run; a full disk still stops it."""
    try:
        yield
    except (OSError, UserError, RunFailed):
        raise
    except Exception as error:  # noqa: BLE001  # of a drawing library
        say(f"warning   {what} cannot be made ({type(error).__name__}: {reason(error)})")


def write_report(folder: Path, pictures: Pictures) -> None:
    """Write the page of a finished run, which is worth a warning but never the run."""
    try:
        with reported(REPORT):
            write_page(finished_page(folder, pictures=pictures), folder)
    except (OSError, UserError) as error:
        say(f"warning   {REPORT} cannot be made ({reason(error)})")


def compact(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Counts in the smallest unsigned type that holds them."""
    return counts.astype(np.min_scalar_type(counts.max()))


def cost_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the model of a checkpoint costs to use and to keep, by a model built from it."""
    cost = measure_cost(load_placed(checkpoint), size=checkpoint.description.preprocessing.size)
    return {**cost._asdict(), "file_bytes": checkpoint.path.stat().st_size}


def plot(
    writer: SummaryWriter,
    folder: Path,
    result: Mapping[str, Any],
    *,
    config: TrainConfig,
    epoch: int,
    pictures: Pictures,
) -> None:
    """Add test scores, settings and figures to TensorBoard; ``add_hparams`` would open a second run."""
    for name in ("accuracy", "balanced_accuracy", "loss", "ece"):
        writer.add_scalar(f"test/{name}", result["test"][name], epoch)
    for name in ("confusion_matrix", "classification_report"):
        with Image.open(folder / f"{name}.png") as image:
            writer.add_image(name, np.asarray(image.convert("RGB")), epoch, dataformats="HWC")
    for name, figure in _answer_figures(folder, result, pictures).items():
        writer.add_image(name, figure_pixels(figure), epoch, dataformats="HWC")
    values = {"command": config.command, "method": config.command, **to_json(config)}
    writer.add_text("config", _markdown(values), 0)
    own = [name for name, value in getattr(config, "parameters", {}).items() if value is not False]
    names = sorted({*HPARAMS, *own})
    # TensorBoard cannot sort a column in which some runs have a number and others an empty text
    shown = {name: values[name] for name in names if values.get(name) is not None}
    for summary in hparams(shown, dict.fromkeys(HPARAM_METRICS)):
        writer.file_writer.add_summary(summary)


def _answer_figures(folder: Path, result: Mapping[str, Any], pictures: Pictures) -> dict[str, Figure]:
    """The reliability diagram and, where there are any, the most confident mistakes."""
    with np.load(folder / runs.PREDICTIONS) as stored:
        logits, labels, indices = (stored[f"test_{name}"] for name in ("logits", "labels", "indices"))
    figures = {"reliability": reliability_figure(logits, labels)}
    rows = [one.row for one in worst_mistakes(logits, labels)]
    if rows and not isinstance(pictures, str):
        classes = [row["class"] for row in result["test"]["per_class"]]
        pixels = pictures(indices[rows].tolist())
        figures["mistakes"] = mistakes_figure(logits, labels, classes=classes, pixels=pixels)
    return figures


def closing_lines(folder: Path, result: Mapping[str, Any]) -> str:
    """What a run prints at its end: the test table, what the model costs, and where its files are."""
    table = evaluation_table(result["test"], title=f"Test images, {result['name']}")
    lines = [
        "",
        table,
        f"validation  {overall_line(result['val'])}",
        f"best epoch  {result['best_epoch']} of {result['epochs']}, chosen on validation; "
        f"training took {result['train_seconds']:.0f} s",
    ]
    if result["teacher"]:
        gap = 100 * (result["teacher"]["accuracy"] - result["val"]["accuracy"])
        side = "behind" if gap < 0 else "ahead"
        lines.append(f"teacher     {result['teacher']['name']}, {abs(gap):.2f} points {side} on validation")
    if result["partial"]:
        lines.append("partial     this run saw only part of its images: its numbers are no result")
    lines.append(f"cost        {_cost_line(result['cost'])}")
    lines += [
        f"files       {folder}/ ({runs.BEST}, {runs.RESULT}, {REPORT}, figures)",
        "curves      tensorboard --logdir runs",
    ]
    return "\n".join(lines)


def _cost_line(cost: Mapping[str, Any]) -> str:
    return (
        f"{_figure(cost['num_parameters'])} parameters, {_figure(cost['multiply_adds'], 1e6, 1)} M multiply-adds, "
        f"a file of {_figure(cost['file_bytes'], 2**20, 2)} MiB, "
        f"{_figure(cost['latency_median_ms'], 1, 2)} ms an image (batch 1, one thread)"
    )


def _figure(value: float | None, unit: float = 1, digits: int = 0) -> str:
    return "-" if value is None else f"{value / unit:,.{digits}f}"


def _arrays(outcomes: Mapping[str, Outcome]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        f"{split}_{name}": getattr(outcome, name).numpy()
        for split, outcome in outcomes.items()
        for name in ("logits", "labels", "indices")
    }


def _markdown(values: Mapping[str, Any]) -> str:
    cells = ((key, json.dumps(value).replace("|", "\\|")) for key, value in values.items())
    rows = [f"| {key} | {value} |" for key, value in cells]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])
