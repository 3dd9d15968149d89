"""Memory of the process: reuse of freed memory on the CPU, and out-of-memory errors in one line."""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdignite.errors import RunFailed

# in the out-of-memory errors that are no `torch.OutOfMemoryError`: of a CPU, of NVIDIA's libraries, and of its driver
NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt(3)
NEVER = -1
AMOUNT = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


def keep_freed() -> None:
    """Have the C library keep the memory that a step frees, for the next step.

    Otherwise glibc returns activations to the system as soon as they are freed, and the kernel fills each new page
    with zeros: up to 30 % of the time of training on a CPU. The peak stays the same, but the process frees nothing
    until it ends. C libraries without ``mallopt`` (macOS, musl) are left alone.

    Source: mallopt(3) of the Linux manual.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, NEVER)  # free memory at the top of the heap stays
        mallopt(M_MMAP_MAX, 0)  # large blocks are part of the heap


@contextmanager
def oom_as_failure(advice: str) -> Iterator[None]:
    """Within the block, an out-of-memory error becomes `RunFailed`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_told = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_told and not any(word in str(error) for word in NO_MEMORY):
            raise
        amount = AMOUNT.search(str(error))
        needed = f" ({amount[1]} more were needed)" if amount else ""
        raise RunFailed(f"out of memory{needed}: {advice}") from error
