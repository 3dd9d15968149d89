"""Files of cached teacher logits: written completely or not at all, and verified before use.

A table is a folder with a file for each view (for large data several, each a block of rows) and ``table.json``, which
holds what the key in the folder's name is the hash of. A file is a header of 4,096 bytes, JSON padded with blanks, and
then the logits, row by row.
"""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdignite.files import TEMPORARY, write_atomically, write_text

METADATA_FILE = "table.json"
HEADER_BYTES = 4096  # a page, so that the numbers start on one
BLOCK_FILES, UNFINISHED = "view-*.logits", f"{TEMPORARY}*"
KEY_LENGTH = 24  # of the hash, in the name of a folder
ABANDONED_S = 3600  # a temporary file not written to for so long is left over
Logits = npt.NDArray[Any]


class BlockHeader(NamedTuple):
    """The header of a file: which logits it holds, and in which form."""

    key: str  # of the table
    view: int
    block: int
    rows: int
    columns: int  # one a class, or the bytes of a row that holds the largest
    dtype: str  # float32, float16 or uint8


class StoredTable(NamedTuple):
    """A table in a folder of tables."""

    folder: Path
    about: Mapping[str, Any]  # the content of ``table.json``; empty where that cannot be read
    num_views: int
    num_bytes: int
    used_at: float  # seconds since 1970


def table_key(determines: Mapping[str, Any]) -> str:
    """The name of a table: a hash of everything that determines its numbers."""
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]


def block_path(folder: Path, *, view: int, block: int) -> Path:
    return folder / f"view-{view:05d}{f'-{block}' if block else ''}.logits"


def write_block(path: Path, logits: Logits, block: BlockHeader) -> None:
    """Write a file of logits, completely or not at all; of two concurrent writers one wins."""
    header = json.dumps({**block._asdict(), "sha256": _sha256(logits)}).encode().ljust(HEADER_BYTES - 1) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    write_atomically(path, lambda file: file.writelines([header, logits.data]))


def read_block(path: Path, block: BlockHeader) -> Logits:
    """Map a file of logits into memory, after checking all of it."""
    shape, dtype = (block.rows, block.columns), np.dtype(block.dtype)
    with path.open("rb") as file:  # once: another process may put a new file in its place at any moment
        try:
            found = json.loads(file.read(HEADER_BYTES))
        except (ValueError, RecursionError) as error:
            raise ValueError("its header cannot be read") from error
        if not isinstance(found, dict) or {**found, "sha256": ""} != {**block._asdict(), "sha256": ""}:
            raise ValueError("it holds the logits of something else")
        if os.fstat(file.fileno()).st_size != HEADER_BYTES + math.prod(shape) * dtype.itemsize:
            raise ValueError("it is truncated, or too long")
        logits = np.memmap(file, dtype, mode="c", offset=HEADER_BYTES, shape=shape)
    if _sha256(logits) != found.get("sha256"):
        raise ValueError("its checksum is wrong")
    return logits


def write_metadata(folder: Path, about: Mapping[str, Any]) -> None:
    """Write ``table.json`` if it is missing, and set its time, which is when the table was last used."""
    path = folder / METADATA_FILE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(about, indent=2) + "\n")
    os.utime(path)


def stored_tables(root: Path) -> list[StoredTable]:
    """The tables in a folder, the last used one first."""
    folders = (path for path in root.glob("*/") if not path.is_symlink() and _is_table(path))
    return sorted(map(_table_in, folders), key=lambda table: table.used_at, reverse=True)


def make_room(root: Path, needed: Mapping[str, int], *, limit: int) -> list[StoredTable]:
    """Remove tables, the least recently used first, until some have room; of these is given how large they get.

    What killed processes left is removed first.
    """
    for table in stored_tables(root):
        _remove_abandoned(table.folder)
    there = stored_tables(root)
    has = {table.folder.name: table.num_bytes for table in there}
    num_bytes = sum(max(size, needed.get(key, 0)) for key, size in (dict.fromkeys(needed, 0) | has).items())
    removed = []
    for table in reversed(there):
        if num_bytes > limit and table.folder.name not in needed:
            removed.append(table)
            remove(table.folder)
            num_bytes -= table.num_bytes
    return removed


def remove(folder: Path) -> None:
    """Remove a table's own files, then the folder if it is empty; links are not followed, open files stay readable."""
    for path in _existing(folder, BLOCK_FILES, UNFINISHED, METADATA_FILE):
        path.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:  # other files, or a table that is being written again
        return


def _is_table(folder: Path) -> bool:
    """Whether a folder is a table: ``--cache`` may name any folder."""
    named = re.fullmatch(f"[0-9a-f]{{{KEY_LENGTH}}}", folder.name)
    return named is not None and bool(_existing(folder, BLOCK_FILES, UNFINISHED, METADATA_FILE))


def _table_in(folder: Path) -> StoredTable:
    blocks, unfinished = _existing(folder, BLOCK_FILES), _existing(folder, UNFINISHED)
    views = {path.stem.split("-")[1] for path in blocks}
    num_bytes = sum(status.st_size for status in [*blocks.values(), *unfinished.values()])
    used_at = max((status.st_mtime for status in _existing(folder, METADATA_FILE).values()), default=0.0)
    return StoredTable(folder, _read_metadata(folder / METADATA_FILE), len(views), num_bytes, used_at)


def _read_metadata(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _existing(folder: Path, *patterns: str) -> dict[Path, os.stat_result]:
    """The files of a folder by some names, with their state; another process may remove them, and it, at any moment."""
    found = {}
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if any(map(path.match, patterns)):
                with suppress(FileNotFoundError):
                    found[path] = path.lstat()
    return found


def _remove_abandoned(folder: Path) -> None:
    """Remove incomplete files of killed processes."""
    for path, status in _existing(folder, UNFINISHED).items():
        if time.time() - status.st_mtime > ABANDONED_S:
            path.unlink(missing_ok=True)


def _sha256(logits: Logits) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits).data).hexdigest()
