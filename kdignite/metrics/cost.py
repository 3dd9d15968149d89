"""What a model costs at inference: size, arithmetic, latency and memory, for one image on one CPU thread.

Everything is measured on the CPU, whatever device trained the model, so that all runs can be compared.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from kdignite.streams import unchanged_generators

T = TypeVar("T")
NUM_THREADS = 1
WARM_UP_CALLS = 3  # the first ones allocate memory and choose kernels
MIN_CALLS = 20
TIMED_SECONDS = 0.5  # unless `MIN_CALLS` take longer


class Cost(NamedTuple):
    """What one image costs; None: it could not be measured."""

    num_parameters: int  # trainable or not; shared ones count once
    multiply_adds: int | None
    latency_median_ms: float | None
    latency_p95_ms: float | None
    latency_threads: int
    peak_memory_bytes: int | None


def measure_cost(model: nn.Module, *, size: int) -> Cost:
    """Measure a model on the CPU, in eval mode, in which it stays, fed with one image in channels_last memory.

    - ``multiply_adds = flops / 2`` over convolutions, linear layers and matrix products, those of attention included;
      positions in the padding count like all others. Not counted: biases, normalisation, activations, pooling,
      resizing, other element-wise work, recurrent layers.
    - Latency: the time of a call by the wall clock, over at least 20 calls and half a second after a warm-up, on one
      thread. It says how models compare on this machine; other programs that run meanwhile make it longer.
    - ``peak_memory_bytes = max_t sum_s bytes(s)`` over the storages s alive after operation t: parameters, buffers,
      the image, and everything a layer returns, such as the indices of max pooling. Views of a storage count once.
      Not counted: what a kernel allocates and frees inside itself, and what torch and Python need themselves.

    The random generators and torch's number of threads are left as they were.

    Args:
        model: on the CPU, from images (N, 3, size, size) to anything; its buffers may change.
        size: side of the image, in pixels.

    Returns:
        The `Cost`. All of it but the latency repeats exactly. What the model cannot be measured for, since it raises
        there, is None: no figure is worth the run that it belongs to.
    """
    model.eval()
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0), device="cpu")
    image = pixels.to(torch.float32, memory_format=torch.channels_last)
    # a model may draw numbers even in eval mode, and warn of the modes that watch it
    with unchanged_generators(), _one_thread(), warnings.catch_warnings(action="ignore"):
        multiply_adds, peak = _measured(_multiply_adds, model, image), _measured(_peak_memory, model, image)
        times = _measured(_call_times, model, image)
    median, p95 = (None, None) if times is None else (float(1e3 * ms) for ms in np.percentile(times, (50, 95)))
    return Cost(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=multiply_adds,
        latency_median_ms=median,
        latency_p95_ms=p95,
        latency_threads=NUM_THREADS,
        peak_memory_bytes=peak,
    )


def _measured(measure: Callable[[nn.Module, Tensor], T], model: nn.Module, image: Tensor) -> T | None:
    try:
        return measure(model, image)
    except Exception:  # noqa: BLE001  # whatever a user's network raises under a mode of torch that watches it
        return None


class _StorageTracker(TorchDispatchMode):
    """The storages that are alive, and the largest sum of their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = WeakIdKeyDictionary()  # storage -> bytes; forgets a storage when it is freed
        self.peak = 0

    def track(self, tensors: Iterator[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:  # others have no storage
                storage = tensor.untyped_storage()
                self.alive[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.alive.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        self.track(iter(tree_leaves(out)))
        return out


def _multiply_adds(model: nn.Module, image: Tensor) -> int:
    # Attention as plain matrix products, since torch counts nothing for its fused CPU kernel.
    with torch.no_grad(), _separate_layers(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(image)
    flops: int = counter.get_total_flops()
    return flops // 2


def _peak_memory(model: nn.Module, image: Tensor) -> int:
    # no_grad, not inference_mode: there a mode sees whole layers, and misses the tensors inside them.
    storages = _StorageTracker()
    with torch.no_grad(), _separate_layers(), storages:
        storages.track(chain(model.parameters(), model.buffers(), [image]))
        model(image)
    return storages.peak


def _call_times(model: nn.Module, image: Tensor) -> list[float]:
    """Seconds of each call."""
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(WARM_UP_CALLS):
            model(image)
        until = time.perf_counter() + TIMED_SECONDS
        while len(times) < MIN_CALLS or time.perf_counter() < until:
            started = time.perf_counter()
            model(image)
            times.append(time.perf_counter() - started)
    return times


@contextmanager
def _changed(get: Callable[[], Any], put: Callable[[Any], None], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def _one_thread() -> AbstractContextManager[None]:
    return _changed(torch.get_num_threads, torch.set_num_threads, NUM_THREADS)


def _separate_layers() -> AbstractContextManager[None]:
    """Without torch's shortcut that runs a whole attention layer as one operation, whose inside cannot be measured."""
    return _changed(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled, False)
