"""``cache``: list and remove cached teacher logits and features."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from kdignite import files, runs
from kdignite.config import CacheConfig
from kdignite.console import say
from kdignite.errors import UserError, brief, counted
from kdignite.reports.text import markdown_table
from kdignite.teachers import StoredTable, remove, stored_tables

ALL = "all"


def cache(config: CacheConfig, *, root: Path = runs.ROOT) -> list[StoredTable]:
    """Remove the tables of ``--prune``, then list the others."""
    folder = runs.cache_folder(root) if config.cache == "auto" else files.typed_path(config.cache)
    tables = stored_tables(folder)
    for table in _unwanted(tables, config.prune or (), folder=folder):
        remove(table.folder)
        say(f"removed   {table.folder} ({_size(table.num_bytes)})")
    left = stored_tables(folder)
    if left:
        say(_table(left))
    say(f"{counted(len(left), 'table')} in {folder}, {_size(sum(table.num_bytes for table in left))}")
    return left


def _unwanted(tables: Sequence[StoredTable], keys: Sequence[str], *, folder: Path) -> list[StoredTable]:
    if ALL in keys:
        return list(tables)
    unwanted = []
    for key in keys:
        found = [table for table in tables if table.folder.name.startswith(key)]
        if len(found) != 1:
            have = ", ".join(table.folder.name for table in found or tables) or "none"
            raise UserError(f"--prune={key} matches {len(found)} tables of {folder}: write more of a key of {have}")
        unwanted += [table for table in found if table not in unwanted]
    return unwanted


def _table(tables: Sequence[StoredTable]) -> str:
    header = ["key", "teacher", "data", "features", "images", "views", "size", "last used (UTC)"]
    return markdown_table([header, *map(_row, tables)], num_names=4)


def _row(table: StoredTable) -> list[str]:
    # the description is read from a file, which may hold anything
    described = [brief(table.about.get(name, "?")) for name in ("teacher", "dataset", "features", "num_images")]
    used_at = datetime.fromtimestamp(table.used_at, UTC).strftime("%Y-%m-%d %H:%M")
    return [table.folder.name, *described, str(table.num_views), _size(table.num_bytes), used_at]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
