"""Files of a run: JSON that is complete or absent, and what identifies any file."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdignite.checkpoints import replace
from kdignite.errors import UserError, brief

LARGEST_JSON = 64 * 2**20  # bytes; the confusion matrix of 1,000 classes takes a tenth of it


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
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path} is no file: mend or remove it")
        if path.stat().st_size > LARGEST_JSON:
            raise UserError(f"{path} is larger than any that a run writes: mend or remove it")
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({brief(error)}): mend or remove it") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): mend or remove it")
    return values


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


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
