"""The two ways in which kdignite stops on purpose, and what a line of theirs may repeat of a file."""

BRIEF = 100  # characters of a value that came from a file


class UserError(ValueError):
    """A mistake that the user can mend, told in one line: what was expected, what came, what to type next.

    The command line prints the line and exits with 2; from Python it is an ordinary ``ValueError``.
    """


class RunFailed(RuntimeError):
    """A run that was set up correctly and cannot go on (a loss that is no number any more, say).

    The command line prints the line and exits with 1.
    """


def brief(value: object, *, longest: int = BRIEF) -> str:
    """What a message repeats of a value that came from a file: one line, visible, and never long.

    Args:
        value: anything; of a container only its type is told, since it may be large.
        longest: characters that are shown at most.

    Returns:
        The text.
    """
    text = str(value) if isinstance(value, str | int | float | Exception | None) else f"a {type(value).__name__}"
    line = " ".join(text[: longest + 1].splitlines())
    visible = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    return visible if len(visible) <= longest else f"{visible[: longest - 3]}..."
