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
    """With ``--amp=tf32`` a GPU multiplies float32 in TF32 (8 bits of exponent, 10 of mantissa) within the block.

    Forward and backward pass both have to be inside.
    """
    if amp != "tf32":
        yield
        return
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
