"""A pretended accelerator: tensors that say they are on ``gpu:0`` and compute on the CPU.

Every mixture of devices that CUDA would refuse raises, and what a GPU's time depends on is counted by the line of
kdignite that asked for it: launches (operations that are no views), copies to the device, waits of the host. What it
cannot tell: CUDA's own kernels and errors, autocast, the random numbers of a device, several processes.

`install` is for a process of its own: it changes torch for good.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "gpu"
CPU, DEVICE = torch.device("cpu"), (NAME, 0)
aten = torch.ops.aten
VIEWS = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "t", "transpose", "permute", "expand", "slice", "select"),
    *("unsqueeze", "squeeze", "detach", "alias", "as_strided", "split", "split_with_sizes", "unbind", "view_as"),
    *("chunk", "diagonal", "unfold", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty"),
    *("new_empty_strided", "is_same_size", "sym_size", "set_", "unsafe_split", "resolve_conj", "resolve_neg"),
}
MAY_MIX = {
    *("copy_", "_to_copy", "index", "index_put_", "_index_put_impl_", "is_same_size", "set_", "native_batch_norm"),
}
WAITING = {"nonzero", "masked_select", "bincount", "unique_dim", "_unique2"}  # for a size that only the device knows


class Counted(NamedTuple):
    """What was asked of the device, each by what it was and by the line that asked."""

    launches: Counter[str]
    copies: Counter[str]  # to the device
    waits: Counter[str]  # of the host

    def copy(self) -> "Counted":
        """As it is now."""
        return Counted(*(Counter(one) for one in self))

    def since(self, before: "Counted") -> "Counted":
        """What has come since then."""
        return Counted(*(now - then for now, then in zip(self, before, strict=True)))


COUNTED = Counted(Counter(), Counter(), Counter())


class Pretended(torch.Tensor):
    """A tensor on the pretended device; ``inner`` has its values on the CPU."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, requires_grad: bool = False) -> "Pretended":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(*DEVICE),
            requires_grad=requires_grad,
        )

    def __init__(self, inner: torch.Tensor, requires_grad: bool = False) -> None:
        self.inner = inner

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        COUNTED.waits[f"tolist {_line()}"] += 1
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with Mode():
            return func(*args, **(kwargs or {}))


class Mode(TorchDispatchMode):
    """Within it the device is there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        leaves = tree_leaves((args, kwargs))
        ours = [one for one in leaves if isinstance(one, Pretended)]
        others = [one for one in leaves if isinstance(one, torch.Tensor) and not isinstance(one, Pretended)]
        target = kwargs.get("device")
        to_us = target is not None and torch.device(target).type == NAME
        if not ours and not to_us:
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **kwargs)
        if ours and name not in MAY_MIX and any(one.dim() for one in others):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func}, {_line()}"
            )
        if name.startswith(("index", "_index")) and not name.startswith(("index_select", "index_add")):
            _check_indices(args)
        leaves_us = bool(ours) and target is not None and not to_us
        _count(name, args, kwargs, ours=bool(ours), to_us=to_us, leaves_us=leaves_us)
        out = _computed(func, name, args, kwargs | ({"device": CPU} if to_us else {}))
        if func._schema.name.endswith("_") and ours:
            return args[0] if isinstance(args[0], torch.Tensor) else out
        known = {id(one.inner): one for one in ours}

        def placed(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or isinstance(value, Pretended) or leaves_us:
                return value
            return known.get(id(value)) or Pretended(value)

        return tree_map(placed, out)


def _count(name: str, args: Any, kwargs: Any, *, ours: bool, to_us: bool, leaves_us: bool) -> None:
    comes = (name == "copy_" and not isinstance(args[1], Pretended)) or (name == "_to_copy" and not ours and to_us)
    goes = leaves_us or (name == "copy_" and not isinstance(args[0], Pretended))
    if comes:
        COUNTED.copies[f"{name} {_line()}"] += 1
    elif goes or name == "_local_scalar_dense" or name in WAITING:
        COUNTED.waits[f"{name} {_line()}"] += 1
    elif name not in VIEWS:
        COUNTED.launches[name] += 1


def _check_indices(args: Any) -> None:
    """What indexing by brackets refuses, copies and waits for."""
    where, indices = args[0], [one for one in tree_leaves(args[1]) if isinstance(one, torch.Tensor)]
    if not isinstance(where, Pretended):
        if any(isinstance(one, Pretended) for one in indices):
            raise RuntimeError(
                f"indices should be either on cpu or on the same device as the indexed tensor: {_line()}"
            )
        return
    for one in indices:
        if one.dtype in (torch.bool, torch.uint8):
            COUNTED.waits[f"index by bool {_line()}"] += 1
        if not isinstance(one, Pretended):
            COUNTED.copies[f"index by a tensor of the CPU {_line()}"] += 1


def _computed(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    args, kwargs = (
        tree_map(lambda one: one.inner if isinstance(one, Pretended) else one, some) for some in (args, kwargs)
    )
    kwargs.pop("pin_memory", None)
    if name == "cudnn_batch_norm":
        return (*aten.native_batch_norm(*args), torch.empty(0, dtype=torch.uint8))
    if name == "cudnn_batch_norm_backward":
        images, grad, weight, mean, var, saved_mean, saved_var, eps, _ = args
        wanted = [True, True, True]
        return aten.native_batch_norm_backward(
            grad, images, weight, mean, var, saved_mean, saved_var, True, eps, wanted
        )
    return func(*args, **kwargs)


def _line() -> str:
    """The line of kdignite that is being executed."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "kdignite" in path.parts and path.name != Path(__file__).name:
            return f"{path.parent.name}/{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def install() -> None:
    """Have torch know the device; in this process it stays."""
    _setup_privateuseone_for_python_backend(NAME)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.gpu.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]  # type: ignore[attr-defined]
    plain = torch.tensor

    def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        made = plain(data, *args, **kwargs)
        return made.to(device) if device is not None and torch.device(device).type == NAME else made

    torch.tensor = tensor


@contextmanager
def counting() -> Iterator[Counted]:
    """Within the block the device is there; yields what is asked of it, which goes on counting."""
    with Mode():
        yield COUNTED
