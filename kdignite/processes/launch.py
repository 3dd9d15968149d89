"""What torchrun says of this process, read from the environment: who it is among those that were started with it."""

import os
from typing import NamedTuple


class Launch(NamedTuple):
    """One process among those of a launch; alone where nobody launched it."""

    rank: int = 0  # among all
    world: int = 1  # all of them, on every machine
    local_rank: int = 0  # among those of this machine
    local_world: int = 1  # those of this machine


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # in the order of `Launch`


def launch() -> Launch:
    """Who this process is."""
    numbers = [os.environ.get(name, "") for name in VARIABLES]
    return Launch(*map(int, numbers)) if all(number.isdecimal() for number in numbers) else Launch()
