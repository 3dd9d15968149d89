"""Teachers as functions from a batch to logits, which are computed or cached."""

from kdignite.teachers.cache_files import StoredTable, make_room, remove, stored_tables, table_key
from kdignite.teachers.checks import chance_level, check_accuracy, tolerance
from kdignite.teachers.controls import RANDOM, SHUFFLED, ShuffledTeacher, shuffle_wrong_classes
from kdignite.teachers.ensemble import Ensemble, caches_of, mean_logits, shares
from kdignite.teachers.live import live_teacher, outputs_with_features
from kdignite.teachers.logit_cache import CacheFolder, CacheSpec, LogitCache, table_bytes
from kdignite.teachers.row_formats import RowFormat
