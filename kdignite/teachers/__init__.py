"""Teachers as functions: from a batch to logits, whatever computes or stores them."""

from kdignite.teachers.checks import chance_level, check_accuracy, tolerance
from kdignite.teachers.files import Stored, make_room, remove, stored_tables, table_key
from kdignite.teachers.live import live_teacher
from kdignite.teachers.table import Lesson, TableFolder, TeacherTable, table_bytes

__all__ = [
    "Lesson",
    "Stored",
    "TableFolder",
    "TeacherTable",
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
