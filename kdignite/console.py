"""Progress of a command on stdout."""

import functools

from kdignite import processes


def say(line: str) -> None:
    """Print a line at once in the first process; control characters, which names in files may hold, are spelled out."""
    if not processes.is_rank0():
        return
    visible = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in line)
    print(visible, flush=True)


@functools.cache
def say_once(line: str) -> None:
    """Print a line unless this process has printed it before."""
    say(line)
