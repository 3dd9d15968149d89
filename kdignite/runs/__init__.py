"""The run folder: its name, its files, its lock, and how a run is found again. No result is ever overwritten."""

from kdignite.runs.environment import environment
from kdignite.runs.finding import Finished, find_checkpoint, finished_teachers, name_of
from kdignite.runs.folders import (
    BEST,
    CONFIG,
    ENVIRONMENT,
    LAST,
    MANIFEST,
    PREVIOUS,
    RESULT,
    ROOT,
    cache_folder,
    create,
    default_name,
)
from kdignite.runs.lock import locked

__all__ = [
    "BEST",
    "CONFIG",
    "ENVIRONMENT",
    "LAST",
    "MANIFEST",
    "PREVIOUS",
    "RESULT",
    "ROOT",
    "Finished",
    "cache_folder",
    "create",
    "default_name",
    "environment",
    "find_checkpoint",
    "finished_teachers",
    "locked",
    "name_of",
]
