"""The two errors that kdignite raises on purpose, and how their messages repeat values."""

from collections.abc import Sequence

BRIEF = 100  # characters of a value that came from a file
LISTED = 6  # words of a list; the rest is counted
LONGEST_WORD = 300  # characters of each
JOINERS = "\u200c\u200d"  # between letters of Persian and parts of an emoji: no printable characters to Python


class UserError(ValueError):
    """A mistake that the user can correct, in one line: what was expected, what came, what to type next; exit 2."""


class RunFailed(RuntimeError):
    """A run that was set up correctly and cannot go on (its loss is NaN, say); exit 1."""


def spelled(text: str) -> str:
    """Text with its control characters spelled out."""
    return "".join(char if char.isprintable() or char in JOINERS else ascii(char)[1:-1] for char in text)


def printable(text: str) -> str:
    """One visible line: line breaks become blanks, other control characters are spelled out."""
    return spelled(" ".join(text.splitlines()))


def counted(number: int, word: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def brief(value: object, *, longest: int = BRIEF) -> str:
    """A value that came from a file or the user, as a message repeats it: one visible line, never long."""
    text = str(value) if isinstance(value, str | int | float | Exception | None) else f"a {type(value).__name__}"
    visible = printable(text[: longest + 1])
    return visible if len(visible) <= longest else f"{visible[: longest - 3]}..."


def reason(error: BaseException) -> str:
    """What an error of a library says, in one line; urllib wraps its reason in brackets."""
    return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__


def listed(words: Sequence[str]) -> str:
    """A few words and a count of the rest."""
    if not words:
        return "none"
    rest = len(words) - LISTED
    named = [brief(word, longest=LONGEST_WORD) for word in words[:LISTED]]
    return ", ".join(named) + (f" and {rest} more" if rest > 0 else "")
