"""How tables are written: aligned Markdown that reads well in a terminal, and CSV."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unicodedata import category, east_asian_width

from kdignite.errors import spelled

NO_SCORE = "-"
MARKUP = re.compile(r"[|<*`]")
JOINED = re.compile("\u200d[\u2600-\u27bf\U0001f000-\U0001ffff]")  # later parts of one emoji
Rows = Sequence[Sequence[str]]


def markdown_table(rows: Rows, *, num_names: int) -> str:
    """Rows with columns of equal width: names to the left, numbers to the right."""
    cells = [list(map(table_cell, row)) for row in rows]
    widths = [max(display_width(row[i]) for row in cells) for i in range(len(cells[0]))]
    right = [i >= num_names for i in range(len(widths))]
    lines = [table_line(row, widths, right) for row in cells]
    return "\n".join([lines[0], table_rule(widths, right), *lines[1:]])


def table_cell(text: str) -> str:
    """A text whose letters Markdown shows as they are: a class may be called ``<unk>`` or ``*``."""
    return MARKUP.sub(r"\\\g<0>", spelled(text))


def table_line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    """Cells that were made by `table_cell`, each with blanks to its left where it is to stand at the right."""
    blanks = [" " * (width - display_width(cell)) for cell, width in zip(cells, widths, strict=True)]
    padded = (b + c if r else c + b for c, b, r in zip(cells, blanks, right, strict=True))
    return f"| {' | '.join(padded)} |"


def table_rule(widths: Sequence[int], right: Sequence[bool]) -> str:
    """The line below the header."""
    return f"|{'|'.join('-' * (w + 1) + (':' if r else '-') for w, r in zip(widths, right, strict=True))}|"


def display_width(text: str) -> int:
    """The columns of a terminal that a text takes: two for letters of East Asia and emoji, none for what combines."""
    shown = (char for char in JOINED.sub("", text) if category(char) not in ("Mn", "Me", "Cf"))
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in shown)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def per_cent(share: float | None, *, digits: int = 1) -> str:
    """A share in per cent, without the sign."""
    return NO_SCORE if share is None else f"{100 * share:.{digits}f}"


def amount(value: float | None, divisor: float = 1) -> str:
    """A cost in its unit: a count in full, another number with the digits that matter."""
    if value is None:
        return NO_SCORE
    scaled = value / divisor
    if divisor == 1 and isinstance(value, int):
        return f"{scaled:,.0f}"
    return f"{scaled:.2g}" if 0 < scaled < 0.1 else f"{scaled:,.{1 if scaled >= 10 else 2}f}"


def p_value_text(p_value: float | None) -> str:
    if p_value is None:
        return NO_SCORE
    return f"{p_value:.2g}" if p_value >= 1e-4 else "below 0.0001"


def plain(value: Any) -> Any:
    """A value with named tuples as dicts, all the way down."""
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def points(difference: float | None, *, digits: int = 1) -> str:
    """A difference of two shares in percentage points, with its sign."""
    if difference is None:
        return NO_SCORE
    text = f"{100 * difference:+.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"
