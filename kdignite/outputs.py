"""What a network returns, as logits."""

from collections.abc import Mapping

from torch import Tensor


def logits_in(output: object) -> Tensor:
    """The logits in what a network returns: a tensor, its ``logits``, or the first item of a tuple or list.

    Args:
        output: logits (N, C) themselves; an object or a mapping with ``logits``, as transformers and torchvision's
            GoogLeNet return it; or a tuple or list whose first item they are.

    Returns:
        The logits; their shape is not checked.

    Raises:
        TypeError: if there is no tensor in such a place, or one of complex or whole numbers.
    """
    if isinstance(output, Tensor):
        return _real(output)
    found = getattr(output, "logits", None)
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif isinstance(output, tuple | list) and found is None:
        found = output[0] if output else None
    if not isinstance(found, Tensor):
        raise TypeError(
            "it must return logits (N, C), or a tuple, dict or object in which they are first or called 'logits', "
            f"not {type(output).__name__}"
        )
    return _real(found)


def _real(logits: Tensor) -> Tensor:
    if not logits.is_floating_point():
        raise TypeError(f"its logits must be floating-point numbers, not {str(logits.dtype).removeprefix('torch.')}")
    return logits
