"""Flags that several commands have, each written once."""

from typing import Any

from kdignite.config.fields import flag
from kdignite.data.registry import CHOICES


def dataset() -> Any:
    """Which images."""
    return flag("cifar10", CHOICES, group="data", role="content", code=True)


def dataset_now() -> Any:
    """Which images, for a model that names them itself."""
    return flag(None, "where the images are now, if not where the checkpoint says", group="data", role="content")


def data_root() -> Any:
    """Where data sets lie."""
    return flag(None, "folder of data sets; unset: $KDIGNITE_DATA, else data", group="data", role="place")


def device() -> Any:
    """What computes."""
    return flag("auto", "auto, cpu, cuda or cuda:N", role="machine")


def threads() -> Any:
    """How many threads a CPU has for one process."""
    return flag(None, "CPU threads; unset: one a core, under torchrun one a process", low=1, role="machine")


def amp() -> Any:
    """In which type a training multiplies."""
    return flag(
        "auto",
        "products in training: off (float32), bf16, fp16, tf32 (NVIDIA GPUs), or auto, which is bf16 where the device "
        "has instructions for it, else off",
        choices=("auto", "off", "bf16", "fp16", "tf32"),
    )


def graph() -> Any:
    """Whether a GPU captures its steps."""
    return flag(
        "auto",
        "on a GPU: capture the training step as a CUDA graph, which changes no number (auto), or not (off)",
        choices=("auto", "off"),
        role="display",
    )
