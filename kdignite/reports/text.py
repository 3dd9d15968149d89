"""How tables are written: aligned Markdown that reads well in a terminal, and CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

NO_SCORE = "-"
Rows = Sequence[Sequence[str]]


def markdown_table(rows: Rows, *, num_names: int) -> str:
    """Rows with columns of equal width: names to the left, numbers to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]

    def line(row: Sequence[str]) -> str:
        padded = (c.ljust(w) if i < num_names else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 2) if i < num_names else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return "\n".join([line(cells[0]), f"|{rule}|", *map(line, cells[1:])])


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def per_cent(share: float | None, *, digits: int = 1) -> str:
    """A share in per cent, without the sign."""
    return NO_SCORE if share is None else f"{100 * share:.{digits}f}"


def points(difference: float | None, *, digits: int = 1) -> str:
    """A difference of two shares in percentage points, with its sign."""
    if difference is None:
        return NO_SCORE
    text = f"{100 * difference:+.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"
