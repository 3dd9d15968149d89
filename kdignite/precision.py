"""Mixed precision: ``--amp`` and ``--teacher_amp``."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# resolved --amp -> dtype of autocast
AUTOCAST = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16, "tf32": None}


def autocast(device_type: str, amp: str) -> torch.autocast:
    """A context in which layers multiply in a lower precision; weights stay float32."""
    return torch.autocast(device_type, dtype=AUTOCAST[amp], enabled=AUTOCAST[amp] is not None)


@contextmanager
def tf32(amp: str) -> Iterator[None]:
    """Within the block, forward and backward pass, ``--amp=tf32`` multiplies float32 with 10 bits of mantissa."""
    if amp != "tf32":
        yield
        return
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
