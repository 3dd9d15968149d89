"""Which of many files cannot be read: found once, and kept beside the pictures until one of them changes."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import PIL

from kdignite import files
from kdignite.data.decode import Broken, find_broken
from kdignite.data.fingerprint import stamp
from kdignite.data.layout import utf8_text
from kdignite.errors import UserError

RECORD = ".kdignite-checked.json"  # in the folder of the data set


def find_broken_once(paths: Sequence[Path], root: Path, *, progress: bool) -> list[Broken]:
    """The files that cannot be read.

    Decoding all of a large set takes minutes, so the outcome is kept in ``root``, unless it may be another one next
    time, as where a file may not be opened.
    """
    record, key = root / RECORD, _key(paths)
    known = _read(record, key, paths)
    if known is not None:
        return known
    broken = find_broken(paths, progress=progress)
    if not any(one.may_pass for one in broken):
        _keep(record, key, paths, broken)
    return broken


def _keep(record: Path, key: str, paths: Sequence[Path], broken: Sequence[Broken]) -> None:
    place = {path: index for index, path in enumerate(paths)}
    with suppress(OSError):  # a folder that cannot be written is checked every time
        files.write_json(record, {"key": key, "broken": [[place[one.path], one.why] for one in broken]})


def _key(paths: Sequence[Path]) -> str:
    """A hash of names, sizes and times of change, and of what reads the files."""
    digest = hashlib.sha256(PIL.__version__.encode())
    for path in paths:
        name = utf8_text(str(path.absolute()), errors="surrogateescape")
        digest.update(json.dumps([name, *stamp(path)]).encode())
    return digest.hexdigest()


def _read(record: Path, key: str, paths: Sequence[Path]) -> list[Broken] | None:
    """What a record says of these files; None: nothing."""
    with suppress(UserError, KeyError, ValueError, TypeError, IndexError):  # missing, or written by something else
        values = files.read_json(record)
        if values["key"] == key:
            return [Broken(paths[int(index)], str(why)) for index, why in values["broken"]]
    return None
