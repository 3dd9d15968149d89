"""What is printed while a command works."""

from kdignite import processes


def say(line: str) -> None:
    """Print a line at once, also into a pipe, if this is the first process; names from files command no terminal."""
    if not processes.is_rank0():
        return
    visible = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in line)
    print(visible, flush=True)
