"""Memory: kept by the process instead of asked for at every step, and told in one line where it does not suffice."""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdignite.errors import RunFailed

# how errors of torch say that memory has run out, where they are no `torch.OutOfMemoryError`: on a CPU, and inside
# NVIDIA's libraries
NO_MEMORY = ("DefaultCPUAllocator", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt(3)
NEVER = -1
AMOUNT = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


def keep_freed() -> None:
    """Have the C library keep the memory that a step gives back, for the next step.

    Otherwise glibc returns activations to the system as soon as they are freed, and gets them back page by page, each
    of which the kernel fills with zeros: up to 30 % of the time of a training on a CPU. The process gives nothing back
    until it ends; it needs no more at once than before. C libraries without ``mallopt`` (macOS, musl) are left alone.

    Source: mallopt(3) of the Linux manual.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, NEVER)  # what is free at the top of the heap stays there
        mallopt(M_MMAP_MAX, 0)  # and large blocks are part of the heap


@contextmanager
def oom_as_failure(advice: str) -> Iterator[None]:
    """Within the block, running out of memory is a failed run."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(word in str(error) for word in NO_MEMORY):
            raise
        amount = AMOUNT.search(str(error))
        needed = f" ({amount[1]} more were needed)" if amount else ""
        raise RunFailed(f"out of memory{needed}: {advice}") from error
