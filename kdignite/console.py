"""Progress of a command on stdout."""

from functools import cache

from kdignite import processes


def say(line: str) -> None:
    """Print a line at once in the first process; control characters, which names in files may hold, are spelled out."""
    if not processes.is_rank0():
        return
    visible = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in line)
    print(visible, flush=True)


@cache
def say_once(line: str) -> None:
    """Print a line the first time only: each stage of a study loads the same data."""
    say(line)
