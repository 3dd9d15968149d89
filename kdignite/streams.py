"""Random numbers as a function of a key, never of what was drawn before.

Every random choice of a run (order, views, dropout, initial weights, split) has a key: ``("order", seed, epoch)``, say.
The same key gives the same numbers in any process, whatever else has drawn numbers: so runs are repeatable, resumable
at any iteration, and comparable with one another.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

Key = str | int
CPU = torch.device("cpu")


def seed_of(*key: Key) -> int:
    """A 63-bit seed for a key.

    ``seed = blake2b(repr(key))`` cut to 63 bits. Python's own ``hash`` would not do: it differs between processes for
    text, and ``hash(-1) == hash(-2)``.

    Args:
        key: words and integers; their order and their types matter (``1`` and ``"1"`` are different keys).

    Returns:
        An integer in [0, 2**63), which is what ``torch.Generator.manual_seed`` takes on every device.
    """
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def stream(*key: Key) -> torch.Generator:
    """A new generator with the seed of a key; on the CPU, so that draws are the same whatever device trains."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_device(device: torch.device, *key: Key) -> None:
    """Seed the generators from which modules on a device draw, such as ``Dropout``: torch's, NumPy's and ``random``'s.

    Not ``torch.manual_seed``, which also reaches for every GPU and takes about 0.3 ms, too long for each iteration.
    """
    seed = seed_of(*key)
    for generator in default_generators(device):
        generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def host_state(device: torch.device) -> tuple[object, ...]:
    """The state of each generator of the host; with a GPU the CPU's own, from which its modules do not draw."""
    _, keys, *position = np.random.get_state()
    own = () if device.type != "cuda" else (torch.default_generator.get_state().numpy().tobytes(),)
    return (random.getstate(), np.asarray(keys).tobytes(), *position, *own)


def default_generators(device: torch.device) -> list[torch.Generator]:
    """The default generator of the CPU, and that of a device that is a GPU."""
    if device.type != "cuda":
        return [torch.default_generator]
    torch.cuda.init()  # before it there are no generators
    number = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[number]]


@contextmanager
def unchanged_generators(device: torch.device = CPU) -> Iterator[None]:
    """Within the block anything may be drawn: afterwards torch's, NumPy's and ``random``'s generators are as before."""
    generators = default_generators(device)
    before = [one.get_state() for one in generators], np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        for one, state in zip(generators, before[0], strict=True):
            one.set_state(state)
        np.random.set_state(before[1])
        random.setstate(before[2])


@contextmanager
def seeded(*key: Key, device: torch.device = CPU) -> Iterator[None]:
    """Within the block the generators of `seed_device` start at the key's seed; afterwards they are as they were.

    For code that draws from them, such as the initialisers of ``torch.nn``, and dropout.
    """
    with unchanged_generators(device):
        seed_device(device, *key)
        yield
