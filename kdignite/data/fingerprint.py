"""Picture files known by what they hold: a hash of each, kept beside them so that it is computed once."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kdignite import files

KEPT = ".kdignite_hashes.json"  # path -> [size, mtime_ns, ctime_ns, hash]
# a file that was changed more recently may change again without another time: times have the resolution of a clock tick
SETTLED_S = 2.0


def content_hashes(listings: Mapping[str, Sequence[Path]], root: Path, *, progress: bool) -> dict[str, tuple[str, ...]]:
    """The SHA-256 of every file of every set, in hex.

    Hashes are kept in `KEPT` in the folder of the data set, where that can be written, and used again for files whose
    path, size and times of change are still the same.

    Args:
        listings: the files of each set.
        root: the folder of the data set.
        progress: show a bar while files are read.

    Returns:
        For each set, a hash for each file in the order of the files; empty where a file cannot be read, which decoding
        it will report.
    """
    kept, found = _read(root / KEPT), dict[str, list[Any]]()
    paths = {os.path.relpath(path, root): path for listing in listings.values() for path in listing}
    stamps = {name: stamp(path) for name, path in paths.items()}
    missing = [name for name in paths if name not in kept or kept[name][:-1] != stamps[name]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        computed = pool.map(_hash, [paths[name] for name in missing])
        bar = tqdm(
            computed, desc="hashing", total=len(missing), unit="file", leave=False, disable=None if progress else True
        )
        fresh = dict(zip(missing, bar, strict=True))
    for name, times in stamps.items():
        found[name] = [*times, fresh[name] if name in fresh else kept[name][-1]]
    if fresh:
        _keep(root / KEPT, found)
    return {
        key: tuple(str(found[os.path.relpath(path, root)][-1]) for path in listing) for key, listing in listings.items()
    }


def files_digest(hashes: Sequence[str], labels: Sequence[int]) -> str:
    """SHA-256 in hex of the content of files in their order, and of their labels: whatever their names and places."""
    return hashlib.sha256(json.dumps([list(hashes), list(labels)]).encode()).hexdigest()


def stamp(path: Path) -> list[int]:
    """The size of a file and its times of change; empty: it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _hash(path: Path) -> str:
    try:
        return files.sha256(path)
    except OSError:
        return ""


def _read(path: Path) -> dict[str, list[Any]]:
    """What was kept, as far as it is of the form; what is not is computed again."""
    try:
        kept = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    rows = kept.items() if isinstance(kept, dict) else ()
    return {name: row for name, row in rows if isinstance(row, list) and len(row) == 4 and isinstance(row[-1], str)}


def _keep(path: Path, found: Mapping[str, list[Any]]) -> None:
    latest = (time.time() - SETTLED_S) * 1e9
    settled = {name: row for name, row in found.items() if row[-1] and max(row[1:3]) < latest}
    with suppress(OSError):  # a data set may be read-only
        files.write_text(path, json.dumps(settled))
