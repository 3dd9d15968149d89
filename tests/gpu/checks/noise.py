"""Images of the shape of CIFAR-10, for ``--dataset=checks.noise:images``."""

from typing import Any

import numpy as np


def images(train: int = 50_000, test: int = 1_000) -> dict[str, Any]:
    """Noise over ten coarse patterns: a few epochs learn it, and it is not solved at once."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 90, (10, 3, 8, 8), dtype=np.uint8).repeat(4, 2).repeat(4, 3)

    def make(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 10
        pixels = np.frombuffer(generator.bytes(count * 3072), dtype=np.uint8).reshape(count, 3, 32, 32) >> 1
        return pixels + patterns[labels], labels

    classes = [f"c{number}" for number in range(10)]
    return {"train": make(train), "val": make(test), "test": make(test), "classes": classes}


def few() -> dict[str, Any]:
    """As few as show that something runs."""
    return images(600, 200)
