"""Memory is kept by the process, and told where it does not suffice."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from kdignite.data.batches import Batch
from kdignite.errors import RunFailed
from kdignite.evaluation import evaluate
from kdignite.memory import oom_as_failure

# page faults of a step that takes 100 MB in large and in small blocks, and gives all of it back
FAULTS = """
import resource
import torch
from kdignite.training.device import set_up_device

{before}
def step():
    blocks = [torch.ones(10**6 * millions) for millions in (1, 2, 4, 8, 10)]
    return sum(map(len, blocks))

counts = []
for _ in range(9):
    step()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(max(b - a for a, b in zip(counts[4:], counts[5:])))  # by then the heap has found its size
"""
TOO_MANY = 2**45  # numbers; no machine has as much memory, and Linux refuses at once


def of_a_gpu() -> None:
    """As CUDA tells it."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB")


def of_a_gpu_that_says_little() -> None:
    raise torch.OutOfMemoryError("CUDA error: out of memory")


def inside_a_library_of_a_gpu(status: str) -> Callable[[], None]:
    """Which torch passes on as an error like any other."""

    def take() -> None:
        raise RuntimeError(f"cuDNN error: {status}")

    return take


def of_the_driver_of_a_gpu() -> None:
    """Where other programs hold the memory, torch has none to tell of."""
    raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")


def of_the_processor() -> None:
    torch.empty(TOO_MANY)


def of_numpy() -> None:
    np.empty(TOO_MANY)


def of_python() -> None:
    bytearray(8 * TOO_MANY)


@pytest.mark.parametrize(
    ("take", "told"),
    [
        (of_a_gpu, "out of memory (20.00 GiB more were needed): do with less"),
        (of_a_gpu_that_says_little, "out of memory: do with less"),
        (inside_a_library_of_a_gpu("CUDNN_STATUS_ALLOC_FAILED"), "out of memory: do with less"),
        (inside_a_library_of_a_gpu("CUBLAS_STATUS_ALLOC_FAILED when creating"), "out of memory: do with less"),
        (of_the_driver_of_a_gpu, "out of memory: do with less"),
        (of_numpy, "out of memory: do with less"),
        (of_python, "out of memory: do with less"),
        (of_the_processor, f"out of memory ({4 * TOO_MANY} bytes more were needed): do with less"),
    ],
)
def test_a_shortage_is_one_line_that_says_what_to_do(take: Callable[[], None], told: str) -> None:
    with pytest.raises(RunFailed) as caught, oom_as_failure("do with less"):
        take()
    assert str(caught.value) == told


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), RunFailed("the loss"), ValueError("memory")])
def test_other_errors_come_out_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, oom_as_failure("do with less"):
        raise error
    assert caught.value is error


def test_an_evaluation_tells_it() -> None:
    def hungry(images: Tensor) -> Tensor:
        return torch.empty(TOO_MANY)

    batch = Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), torch.arange(2), 0)
    with pytest.raises(RunFailed, match=r"^out of memory \(.*\): end other programs"):
        evaluate(hungry, [batch], num_classes=2)


def faults(before: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(before=before)], capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_training_on_the_processor_asks_for_its_memory_once() -> None:
    assert faults("set_up_device('cpu', threads=1)") < 100
    assert faults("") > 1000
