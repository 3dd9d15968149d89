"""Files of a teacher's answers: whole and what they claim to be, or not used."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdignite.commands.cache import cache
from kdignite.config import CacheConfig
from kdignite.runs import cache_folder
from kdignite.teachers import StoredTable, make_room, remove, stored_tables, table_key
from kdignite.teachers.cache_files import (
    ABANDONED_S,
    HEADER_BYTES,
    METADATA_FILE,
    BlockHeader,
    block_path,
    read_block,
    write_block,
    write_metadata,
)
from kdignite.training import teacher_cache
from kdignite.training.data import data_folder

BLOCK = BlockHeader("key", view=3, block=0, rows=50, columns=7, dtype="float32")
LOGITS = np.random.default_rng(0).normal(size=(50, 7)).astype("float32")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as it should be."""
    path = block_path(tmp_path / "key", view=3, block=0)
    write_block(path, LOGITS, BLOCK)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_was_written_is_read(tmp_path: Path, dtype: str) -> None:
    block, logits = BLOCK._replace(dtype=dtype), LOGITS.astype(dtype)
    write_block(tmp_path / "new" / "file", logits, block)
    found = read_block(tmp_path / "new" / "file", block)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, logits)
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["file"]


def test_writing_into_what_was_read_leaves_the_file_as_it_is(path: Path) -> None:
    before = path.read_bytes()
    read_block(path, BLOCK)[:] = 0
    assert path.read_bytes() == before


def test_files_have_names_that_sort_by_view(tmp_path: Path) -> None:
    names = [block_path(tmp_path, view=v, block=b).name for v, b in ((2, 0), (2, 1), (10, 0))]
    assert names == ["view-00002.logits", "view-00002-1.logits", "view-00010.logits"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_block(tmp_path / "none", BLOCK)


@pytest.mark.parametrize(
    "other",
    [
        {"key": "another"},
        {"view": 4},
        {"block": 1},
        {"rows": 49},
        {"rows": 25, "columns": 14},
        {"dtype": "float16", "columns": 14},
    ],
)
def test_the_answers_to_something_else_are_refused(path: Path, other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="something else"):
        read_block(path, BLOCK._replace(**other))


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "header"),
    "cut in the header": (lambda content: content[:100], "header"),
    "cut in the numbers": (lambda content: content[:-8], "truncated"),
    "longer": (lambda content: content + b"\0", "truncated, or too long"),
    "header of zeros": (lambda content: bytes(HEADER_BYTES) + content[HEADER_BYTES:], "header"),
    "a header without end": (lambda content: b"[" * HEADER_BYTES + content[HEADER_BYTES:], "header"),
    "a header that is a list": (lambda content: b"[1]".ljust(HEADER_BYTES) + content[HEADER_BYTES:], "something else"),
    "a header without checksum": (
        lambda content: json.dumps(BLOCK._asdict()).encode().ljust(HEADER_BYTES) + content[HEADER_BYTES:],
        "checksum",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(path: Path, damage: str) -> None:
    spoil, told = DAMAGES[damage]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=told):
        read_block(path, BLOCK)


@pytest.mark.parametrize("place", [HEADER_BYTES, HEADER_BYTES + 50 * 7 * 2, HEADER_BYTES + 50 * 7 * 4 - 1])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_is_noticed(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        read_block(path, BLOCK)


def test_a_disk_that_is_full_leaves_what_was_there(path: Path) -> None:
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER_BYTES, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_block(path, LOGITS + 1, BLOCK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def _write_for_ever(path: Path, added: float) -> None:
    while True:
        write_block(path, LOGITS + np.float32(added), BLOCK)


def test_two_that_write_at_once_and_are_killed_leave_a_whole_file(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_for_ever, args=(path, added)) for added in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    allowed = [LOGITS, *(LOGITS + np.float32(added) for added in (1.0, 2.0))]
    reads, until = 0, time.monotonic() + 1.0
    while time.monotonic() < until or reads < 20:
        found = np.array(read_block(path, BLOCK))
        assert any(np.array_equal(found, one) for one in allowed)
        reads += 1
    for writer in writers:
        writer.kill()
        writer.join()
    assert any(np.array_equal(read_block(path, BLOCK), one) for one in allowed)


def test_what_a_killed_process_left_is_swept_once_it_is_old(path: Path) -> None:
    old, fresh = path.parent / ".tmp-1-old", path.parent / ".tmp-2-fresh"
    for left in (old, fresh):
        left.write_bytes(b"half")
    os.utime(old, (0, time.time() - ABANDONED_S - 1))
    write_block(path, LOGITS, BLOCK)
    assert not old.exists()
    assert fresh.exists()  # somebody may be writing it


def test_the_key_is_a_hash_of_every_value() -> None:
    one = {"teacher": "abc", "view_seed": 0, "classes": ["cat", "dog"]}
    keys = {table_key(one), *(table_key(one | other) for other in ({"teacher": "abd"}, {"view_seed": 1}, {"more": 1}))}
    keys.add(table_key(one | {"classes": ["dog", "cat"]}))
    assert len(keys) == 5
    assert table_key(one) == table_key(dict(reversed(one.items())))
    assert all(len(key) == 24 and int(key, 16) >= 0 for key in keys)


# --- folders of tables


def key(name: str) -> str:
    return table_key({"teacher": name})


def table(root: Path, name: str, *, files: int, used_at: float) -> Path:
    folder = root / key(name)
    for view in range(files):
        write_block(block_path(folder, view=view, block=0), LOGITS, BLOCK)
    write_metadata(folder, {"teacher": name})
    os.utime(folder / METADATA_FILE, (used_at, used_at))
    return folder


def teachers(found: list[StoredTable]) -> list[str]:
    return [one.about["teacher"] for one in found]


def test_tables_are_listed_with_the_last_used_first(tmp_path: Path) -> None:
    table(tmp_path, "old", files=2, used_at=1000)
    table(tmp_path, "new", files=1, used_at=2000)
    write_block(block_path(tmp_path / key("new"), view=0, block=1), LOGITS, BLOCK)
    (tmp_path / key("empty")).mkdir()
    (tmp_path / "somebody's").mkdir()
    (tmp_path / "somebody's" / METADATA_FILE).write_bytes(b"{}")
    (tmp_path / key("link")).symlink_to(tmp_path / key("old"))
    found = stored_tables(tmp_path)
    assert [(one.folder.name, one.about["teacher"], one.num_views, one.used_at) for one in found] == [
        (key("new"), "new", 1, 2000.0),
        (key("old"), "old", 2, 1000.0),
    ]
    assert [one.num_bytes for one in found] == [2 * (HEADER_BYTES + LOGITS.nbytes)] * 2
    assert stored_tables(tmp_path / "nowhere") == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_a_table_whose_description_is_damaged_is_listed_all_the_same(tmp_path: Path, content: bytes) -> None:
    (table(tmp_path, "old", files=1, used_at=1000) / METADATA_FILE).write_bytes(content)
    (found,) = stored_tables(tmp_path)
    assert found.about == {}
    assert found.num_views == 1


def test_use_is_noted_and_a_description_written_once(tmp_path: Path) -> None:
    folder = table(tmp_path, "old", files=1, used_at=1000)
    write_metadata(folder, {"teacher": "another"})
    (found,) = stored_tables(tmp_path)
    assert found.about == {"teacher": "old"}
    assert found.used_at > 1000


def test_room_is_made_by_giving_up_what_was_used_longest_ago(tmp_path: Path) -> None:
    one = HEADER_BYTES + LOGITS.nbytes
    for number, name in enumerate(["mine", "oldest", "older", "newest"]):
        table(tmp_path, name, files=1, used_at=1000 + number)
    assert make_room(tmp_path, {key("mine"): one}, limit=4 * one) == []
    removed = make_room(tmp_path, {key("mine"): 2 * one}, limit=3 * one)
    assert teachers(removed) == ["oldest", "older"]
    assert teachers(stored_tables(tmp_path)) == ["newest", "mine"]


def test_what_is_kept_takes_the_room_that_it_has(tmp_path: Path) -> None:
    """It may have more views than this run needs."""
    one = HEADER_BYTES + LOGITS.nbytes
    table(tmp_path, "mine", files=3, used_at=1000)
    table(tmp_path, "other", files=1, used_at=2000)
    assert make_room(tmp_path, {key("mine"): one, key("new"): one}, limit=5 * one) == []
    assert teachers(make_room(tmp_path, {key("mine"): one, key("new"): one}, limit=5 * one - 1)) == ["other"]


def test_what_killed_processes_left_takes_room_and_is_swept_first(tmp_path: Path) -> None:
    one = HEADER_BYTES + LOGITS.nbytes
    folder = table(tmp_path, "table", files=1, used_at=1000)
    left = folder / ".tmp-1-left"
    left.write_bytes(bytes(one))
    assert stored_tables(tmp_path)[0].num_bytes == 2 * one
    os.utime(left, (0, time.time() - ABANDONED_S - 1))
    assert make_room(tmp_path, {}, limit=one) == []
    assert not left.exists()
    left.write_bytes(bytes(one))  # somebody may be writing it
    assert teachers(make_room(tmp_path, {}, limit=one)) == ["table"]


@pytest.mark.parametrize("number", range(9))
def test_what_another_process_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whenever it does: before any of the files is looked at."""
    folder, looked_at, lstat = table(tmp_path, "table", files=2, used_at=1000), [], Path.lstat
    (folder / ".tmp-1-left").write_bytes(b"half")

    def late(path: Path) -> os.stat_result:
        looked_at.append(path)
        if len(looked_at) > number:
            shutil.rmtree(folder, ignore_errors=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", late)
    make_room(tmp_path, {}, limit=0)
    assert len(looked_at) > number
    assert not folder.exists()


def test_a_home_is_one_also_where_no_command_line_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KDIGNITE_DATA", "~/sets")
    assert data_folder(None) == tmp_path / "sets"
    assert data_folder("~/data") == tmp_path / "data"
    table(teacher_cache._named("~/big"), "table", files=1, used_at=1000)
    assert teachers(cache(CacheConfig(cache="~/big"))) == ["table"]
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


def test_auto_is_the_folder_that_a_training_takes(tmp_path: Path) -> None:
    table(cache_folder(tmp_path), "table", files=1, used_at=1000)
    assert teachers(cache(CacheConfig(cache="auto"), root=tmp_path)) == ["table"]
    assert CacheConfig() == CacheConfig(cache="auto")


def test_removing_follows_no_link_and_touches_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    folder = table(tmp_path, "table", files=2, used_at=1000)
    (folder / "view-00009.logits").symlink_to(outside)
    remove(folder)
    assert not folder.exists()
    assert outside.read_bytes() == b"precious"
    folder = table(tmp_path, "shared", files=2, used_at=1000)
    (folder / "notes.txt").write_text("mine")
    remove(folder)
    assert [one.name for one in folder.iterdir()] == ["notes.txt"]
    assert stored_tables(tmp_path) == []
