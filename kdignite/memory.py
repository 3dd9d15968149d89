"""Memory that does not suffice: one line that says what takes less."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdignite.errors import RunFailed

CPU = "DefaultCPUAllocator"  # torch has an error of its own for a GPU, and for the processor this word
AMOUNT = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


@contextmanager
def shortage_told(advice: str) -> Iterator[None]:
    """Within the block, running out of memory is a failed run.

    Args:
        advice: what takes less memory.

    Raises:
        RunFailed: where torch gets no more of it, from a GPU or for the processor.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and CPU not in str(error):
            raise
        amount = AMOUNT.search(str(error))
        needed = f" ({amount[1]} more were needed)" if amount else ""
        raise RunFailed(f"out of memory{needed}: {advice}") from error
