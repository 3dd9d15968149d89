"""Files of a run: JSON that is complete or absent, and what identifies any file."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdignite.checkpoints import replace
from kdignite.errors import UserError


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file that is complete or absent.

    Args:
        path: the file.
        values: plain values.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Args:
        path: the file.

    Returns:
        Plain values.

    Raises:
        UserError: if the file cannot be read, or holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): mend or remove it") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): mend or remove it")
    return values


def sha256(path: Path) -> str:
    """The SHA-256 of a file, which is how a run names the teacher that taught it.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """The time as UTC text that sorts by time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
