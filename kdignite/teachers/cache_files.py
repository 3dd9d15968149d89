"""Files of a teacher's answers: written completely or not at all, and used only if they are what they claim to be.

A table is a folder with a file for each view (for large data several, each a block of rows) and ``table.json``, which
says what the key in the folder's name was made of. A file is a header of 4,096 bytes, JSON padded with blanks, and then
the logits, row by row.
"""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdignite.files import TEMPORARY, write_atomically

ABOUT = "table.json"
HEADER_BYTES = 4096  # a page, so that the numbers start on one
BLOCKS = "view-*.logits"
KEY_DIGITS = 24  # of the hash, in the name of a folder
ABANDONED_S = 3600  # a temporary file that nobody has written to for so long is left over
Logits = npt.NDArray[np.floating[Any]]


class Block(NamedTuple):
    """What the header of a file says: whose answers it holds, and in which form."""

    key: str  # of the table
    view: int
    block: int
    rows: int
    classes: int
    dtype: str  # float32 or float16


class Stored(NamedTuple):
    """A table in a folder of tables."""

    folder: Path
    about: Mapping[str, Any]  # what its ``table.json`` says; empty where that cannot be read
    num_views: int
    num_bytes: int
    used_at: float  # seconds since 1970


def table_key(determines: Mapping[str, Any]) -> str:
    """The name of a table: a hash of everything that determines its numbers."""
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def block_path(folder: Path, *, view: int, block: int) -> Path:
    """The file of a block."""
    return folder / f"view-{view:05d}{f'-{block}' if block else ''}.logits"


def write_block(path: Path, logits: Logits, block: Block) -> None:
    """Write a file of answers, completely or not at all; two that write the same file leave one of them."""
    header = json.dumps({**block._asdict(), "sha256": _sha256(logits)}).encode().ljust(HEADER_BYTES - 1) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    write_atomically(path, lambda file: file.writelines([header, logits.data]))


def read_block(path: Path, block: Block) -> Logits:
    """Map a file of answers into memory, after checking all of it."""
    shape, dtype = (block.rows, block.classes), np.dtype(block.dtype)
    with path.open("rb") as file:  # once: another process may put a new file in its place at any moment
        try:
            schema = json.loads(file.read(HEADER_BYTES))
        except (ValueError, RecursionError) as error:
            raise ValueError("its header cannot be read") from error
        if not isinstance(schema, dict) or {**schema, "sha256": ""} != {**block._asdict(), "sha256": ""}:
            raise ValueError("it holds the answers to something else")
        if os.fstat(file.fileno()).st_size != HEADER_BYTES + math.prod(shape) * dtype.itemsize:
            raise ValueError("it is cut off, or too long")
        logits = np.memmap(file, dtype, mode="c", offset=HEADER_BYTES, shape=shape)
    if _sha256(logits) != schema.get("sha256"):
        raise ValueError("its checksum is wrong")
    return logits


def describe(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what a table is, where that is not known yet, and note that it is in use, also if it is only read."""
    path = folder / ABOUT
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(json.dumps(about, indent=2).encode() + b"\n"))
    os.utime(path)


def stored_tables(root: Path) -> list[Stored]:
    """The tables in a folder, the one used last first."""
    folders = (path for path in root.glob("*/") if not path.is_symlink() and _has_table(path))
    return sorted(map(_stored, folders), key=lambda table: table.used_at, reverse=True)


def make_room(root: Path, *, num_bytes: int, limit: int, keep: str) -> list[Stored]:
    """Remove tables, those that were used longest ago first, until another one has room."""
    others = [table for table in stored_tables(root) if table.folder.name != keep]
    removed = []
    while others and num_bytes + sum(table.num_bytes for table in others) > limit:
        removed.append(others.pop())
        remove(removed[-1].folder)
    return removed


def remove(folder: Path) -> None:
    """Remove a table: its own files by their names, then the folder, if nothing else is in it. Links are not followed.

    A process that reads from one of the files keeps what it has.
    """
    for pattern in (BLOCKS, f"{TEMPORARY}*", ABOUT):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:  # somebody else's files, or a table that is being written anew
        return


def _has_table(folder: Path) -> bool:
    """Whether a folder is one of ours: `cache` may be told to look among anything."""
    named = re.fullmatch(f"[0-9a-f]{{{KEY_DIGITS}}}", folder.name)
    return named is not None and ((folder / ABOUT).is_file() or any(folder.glob(BLOCKS)))


def _stored(folder: Path) -> Stored:
    files = _existing(folder.glob(BLOCKS))
    views = {path.stem.split("-")[1] for path in files}
    about = folder / ABOUT
    used_at = about.stat().st_mtime if about.is_file() else 0.0
    return Stored(folder, _about(about), len(views), sum(path.lstat().st_size for path in files), used_at)


def _about(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _existing(paths: Iterable[Path]) -> list[Path]:
    """Those that nobody has removed meanwhile."""
    return [path for path in paths if path.exists()]


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for path in _existing(folder.glob(f"{TEMPORARY}*")):
        if time.time() - path.lstat().st_mtime > ABANDONED_S:
            path.unlink(missing_ok=True)


def _sha256(logits: Logits) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits).data).hexdigest()
