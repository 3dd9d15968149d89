"""An evaluation as text: aligned tables that read well in a terminal and are valid Markdown, and CSV."""

from collections.abc import Iterable, Mapping
from typing import Any

from kdignite.metrics import best_and_worst, top_confusions
from kdignite.reports.text import NO_SCORE, csv_text, markdown_table, per_cent

MAX_CLASSES = 20  # longer tables are not read
NUM_ENDS = 5
NUM_CONFUSIONS = 10
Row = Mapping[str, Any]


def evaluation_table(summary: Mapping[str, Any], *, title: str) -> str:
    """The evaluation of one split as text, in per cent; above 20 classes the 5 best, the 5 worst and 10 confusions."""
    many = len(summary["per_class"]) > MAX_CLASSES
    parts = [title, overall_line(summary), *(_extremes(summary) if many else _all_classes(summary))]
    return "\n\n".join(parts) + "\n"


def overall_line(summary: Mapping[str, Any]) -> str:
    """Accuracy with its count, balanced accuracy, loss and calibration error in one line."""
    correct, total = summary["num_correct"], summary["num_images"]
    return (
        f"accuracy {per_cent(summary['accuracy'])} % ({correct:,} of {total:,} images), "
        f"balanced {per_cent(summary['balanced_accuracy'])} %, "
        f"loss {summary['loss']:.4f}, ECE {per_cent(summary['ece'])} %"
    )


def classes_csv(summary: Mapping[str, Any]) -> str:
    """A row for each class, with unrounded scores in [0, 1]."""
    columns = ("class", "support", "precision", "recall", "f1")
    return csv_text([columns, *([row[column] for column in columns] for row in summary["per_class"])])


def confusions_csv(summary: Mapping[str, Any]) -> str:
    """A row for each kind of mistake, the most frequent first; its length does not grow with the number of classes."""
    names = [row["class"] for row in summary["per_class"]]
    pairs = top_confusions(summary["confusion"], limit=summary["num_images"])
    rows = ([names[pair.true], names[pair.predicted], pair.num_images, pair.share] for pair in pairs)
    return csv_text([["true", "predicted", "images", "share"], *rows])


def _all_classes(summary: Mapping[str, Any]) -> list[str]:
    rows = summary["per_class"]
    empty = sum(row["support"] == 0 for row in rows)
    note = f"Classes without images: {empty}; the macro average leaves them out."
    return [_class_table([*rows, _macro_row(summary)]), *([note] if empty else [])]


def _extremes(summary: Mapping[str, Any]) -> list[str]:
    rows = summary["per_class"]
    best, worst = best_and_worst([r["f1"] for r in rows], [r["support"] for r in rows], each=NUM_ENDS)
    empty = sum(row["support"] == 0 for row in rows)
    if worst:
        said = f"The {NUM_ENDS} best and the {NUM_ENDS} worst of {len(rows)} classes by F1:"
    else:
        said = f"The {len(best)} of {len(rows)} classes that have images, by F1:"
    note = f"Classes without images: {empty}, not ranked; the macro average leaves them out."
    return [
        said,
        _class_table([*(rows[c] for c in best + worst), _macro_row(summary)]),
        *([note] if empty else []),
        *_confusions(summary),
    ]


def _confusions(summary: Mapping[str, Any]) -> list[str]:
    names = [row["class"] for row in summary["per_class"]]
    pairs = summary["confusions"][:NUM_CONFUSIONS]
    if not pairs:
        return ["No image was misclassified."]
    rows = [(names[p["true"]], names[p["predicted"]], f"{p['num_images']:,}", per_cent(p["share"])) for p in pairs]
    which = f"The {NUM_CONFUSIONS} most frequent" if len(pairs) == NUM_CONFUSIONS else "All"
    return [
        f"{which} confusions:",
        markdown_table([("true class", "predicted as", "images", "% of true class"), *rows], num_names=2),
    ]


def _macro_row(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {"class": "macro average", "support": summary["num_images"], **summary["macro"]}


def _class_table(rows: Iterable[Row]) -> str:
    header = ("class", "recall %", "precision %", "F1 %", "images")
    return markdown_table([header, *(_class_cells(row) for row in rows)], num_names=1)


def _class_cells(row: Row) -> tuple[str, ...]:
    scores = [per_cent(row[name]) if row["support"] else NO_SCORE for name in ("recall", "precision", "f1")]
    return (row["class"], *scores, f"{row['support']:,}")
