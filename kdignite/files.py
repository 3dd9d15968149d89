"""Atomic writes, JSON, SHA-256."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from kdignite.errors import UserError, brief

TEMPORARY = ".tmp-"  # prefix of a file until it is complete
LARGEST_JSON = 64 * 2**20  # bytes; the scores of 10,000 classes take a tenth of it


def typed_path(word: str) -> Path:
    """A path as it was typed; ~ is a home, and only a character where no user has that name."""
    return Path(os.path.expanduser(word))  # noqa: PTH111 - Path.expanduser raises


def write_atomically(path: Path, save: Callable[[IO[bytes]], Any], *, previous: Path | None = None) -> None:
    """Replace a file completely or not at all, whenever the process or the machine stops."""
    # containers that share a folder have the same process ids
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        with temporary.open("wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; a lone surrogate, which that lacks, is spelled as JSON spells it."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise UserError(f"{path} is no file: repair or remove it")
        if path.stat().st_size > LARGEST_JSON:
            raise UserError(f"{path} is larger than any that a run writes: repair or remove it")
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({brief(error)}): repair or remove it") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): repair or remove it")
    return values


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, by which a run identifies its teacher."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """The time as UTC text that sorts by time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
