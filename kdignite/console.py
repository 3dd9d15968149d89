"""Progress of a command on stdout."""

from functools import cache

from kdignite import processes
from kdignite.errors import spelled


def say(line: str) -> None:
    """Print a line at once in the first process; control characters, which names in files may hold, are spelled out."""
    if not processes.is_rank0():
        return
    print("\n".join(map(spelled, line.split("\n"))), flush=True)


@cache
def say_once(line: str) -> None:
    """Print a line the first time only: each stage of a study loads the same data."""
    say(line)
