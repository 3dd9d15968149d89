"""The variables that torchrun sets: which of its processes this one is."""

import os
from typing import NamedTuple

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # in the order of `Launch`


class Launch(NamedTuple):
    """One of the processes that were started together; the defaults are those of a single process."""

    rank: int = 0
    world_size: int = 1  # on all machines
    local_rank: int = 0
    local_world_size: int = 1  # on this machine


def launch() -> Launch:
    numbers = [os.environ.get(name, "") for name in VARIABLES]
    return Launch(*map(int, numbers)) if all(number.isdecimal() for number in numbers) else Launch()
