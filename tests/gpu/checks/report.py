"""What was found: a table, and everything that was measured, written whenever something is added."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from checks.shell import Done

SIGNS = {True: "ok  ", False: "BAD ", None: ""}


class Row(NamedTuple):
    """A line of the table."""

    part: str
    what: str
    result: str
    ok: bool | None  # None: a measurement

    def __str__(self) -> str:
        return f"{self.part:<8} {self.what:<58} {SIGNS[self.ok]}{self.result}"


class Failure(NamedTuple):
    """Something that did not come to its end."""

    part: str
    what: str
    text: str


class Report:
    """Rows and failures of all parts; ``raw`` is for whoever reads the file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.began = path, time.monotonic()
        self.rows: list[Row] = []
        self.failures: list[Failure] = []
        self.raw: dict[str, Any] = {}

    @property
    def is_fine(self) -> bool:
        """Whether no promise is broken and nothing failed."""
        return not self.failures and not any(row.ok is False for row in self.rows)

    def row(self, part: str, what: str, result: Any, ok: bool | None = None) -> None:
        """Add a line to the table."""
        self.rows.append(Row(part, what, str(result), ok))
        print(f"[{time.monotonic() - self.began:5.0f} s] {self.rows[-1]}", flush=True)
        self.save()

    def fail(self, part: str, what: str, text: str) -> None:
        """Add something that did not come to its end."""
        self.failures.append(Failure(part, what, _shortened(text)))
        self.row(part, what, "failed", ok=False)

    def record_resume(self, part: str, done: Done) -> None:
        """Add what a process told, and how it ended if that was badly."""
        self.raw.setdefault(part, []).extend(done.told)
        for one in done.told:
            if "error" in one:
                self.fail(part, one["what"], one["error"])
            else:
                self.row(part, one["what"], one["result"], one["ok"])
        if done.code:
            self.fail(part, "the whole part", done.problem)

    def save(self) -> None:
        """Write everything, completely or not at all."""
        content = {
            "rows": [row._asdict() for row in self.rows],
            "failures": [failure._asdict() for failure in self.failures],
            "raw": self.raw,
        }
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        temporary.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
        temporary.replace(self.path)

    def show(self) -> None:
        """Print the table, the end of every traceback, and the counts."""
        print("\n" + "\n".join(map(str, self.rows)))
        for part, what, text in self.failures:
            print(f"--- {part}: {what}\n{text}")
        good, bad = (sum(row.ok is ok for row in self.rows) for ok in (True, False))
        seconds = time.monotonic() - self.began
        print(f"\n{good} ok, {bad} bad, of these {len(self.failures)} failed; {seconds:.0f} s; everything: {self.path}")


def _shortened(text: str, *, lines: int = 8, width: int = 180) -> str:
    """The last lines, which name the error."""
    return _indented([line.rstrip()[:width] for line in text.splitlines() if line.strip()][-lines:])


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
