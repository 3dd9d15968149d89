"""Teachers as functions: from a batch to logits, whatever computes or stores them."""

from kdignite.teachers.cache_files import Stored, make_room, remove, stored_tables, table_key
from kdignite.teachers.checks import chance_level, check_accuracy, tolerance
from kdignite.teachers.live import live_teacher
from kdignite.teachers.logit_cache import CacheFolder, CacheSpec, LogitCache, table_bytes

__all__ = [
    "CacheFolder",
    "CacheSpec",
    "LogitCache",
    "Stored",
    "chance_level",
    "check_accuracy",
    "live_teacher",
    "make_room",
    "remove",
    "stored_tables",
    "table_bytes",
    "table_key",
    "tolerance",
]
