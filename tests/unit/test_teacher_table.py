"""A table answers what the teacher would, asks it as rarely as it can, and never believes a file blindly."""

import errno
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdignite import stopping
from kdignite.data.batches import Batch, training_batches
from kdignite.data.mixing import Mixing
from kdignite.data.source import ImageSet
from kdignite.data.splits import Part
from kdignite.errors import RunFailed
from kdignite.methods.terms import Outputs
from kdignite.teachers import (
    CacheFolder,
    CacheSpec,
    LogitCache,
    RowFormat,
    cache_files,
    live_teacher,
    logit_cache,
    table_bytes,
)
from kdignite.teachers.cache_files import HEADER_BYTES, block_path

NUM_CLASSES = 5


def drawn_part() -> Part:
    """Every third of 1,500 images: rows are other numbers than indices, and there is more than one chunk of some."""
    images = torch.randint(256, (1500, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Part(ImageSet(images, torch.arange(1500) % NUM_CLASSES), torch.arange(0, 1500, 3))


class CountingTeacher:
    """A linear teacher that counts the images it is asked about."""

    def __init__(self, *, scale: float = 1.0) -> None:
        self.weights = torch.randn(192, NUM_CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.scale, self.count = scale, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.count += len(images)
        # exact in float64 whatever the batch: the table has to agree to the last bit
        return (self.scale * (images.flatten(1).double() @ self.weights)).round(decimals=3).float()


def outputs_of(teacher: CountingTeacher) -> Callable[[Tensor], Outputs]:
    return lambda images: Outputs(teacher(images))


class Setting:
    """A lesson, its batches, and a folder for its tables."""

    def __init__(self, folder: Path) -> None:
        self.part, self.folder, self.said = drawn_part(), folder, list[str]()
        self.mixing: Mixing | None = None

    def table(
        self,
        teacher: CountingTeacher,
        *,
        seed: int = 0,
        dtype: str = "float32",
        top: int | None = None,
        about: str = "it",
    ) -> LogitCache:
        return LogitCache(
            outputs_of(teacher),
            CacheSpec(self.part, view_seed=2, augment="crop+flip", mixing=self.mixing),
            CacheFolder(self.folder, {"teacher": about}, RowFormat(NUM_CLASSES, dtype, top, T=2.0)),
            seed=seed,
            say=self.said.append,
        )

    def epoch(self, number: int, *, batch_size: int = 64, seed: int = 0) -> Iterator[Batch]:
        settings = {"view_seed": 2, "augment": "crop+flip", "views": 4, "mixing": self.mixing}
        return training_batches(self.part, seed=seed, batch_size=batch_size, **settings)(number, 0)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path / "table")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 100 rows, and blocks of two chunks: 500 rows are three blocks, the last half full."""
    monkeypatch.setattr("kdignite.data.batches.EVALUATION_BATCH", 100)
    monkeypatch.setattr(logit_cache, "BLOCK_BYTES", 2 * 100 * NUM_CLASSES * 4)


def assert_answers(setting: Setting, teach: LogitCache, *, epoch: int, batch_size: int = 64, seed: int = 0) -> None:
    live = live_teacher(outputs_of(CountingTeacher()))
    for batch in setting.epoch(epoch, batch_size=batch_size, seed=seed):
        assert torch.equal(teach(batch).logits, live(batch).logits)


@pytest.mark.parametrize("batch_size", [2, 64, 499])
def test_it_answers_what_the_teacher_does_to_the_last_bit(setting: Setting, batch_size: int) -> None:
    teach = setting.table(CountingTeacher())
    for epoch in (0, 3, 2, 5):
        assert_answers(setting, teach, epoch=epoch, batch_size=batch_size)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_of_mixed_images_too(setting: Setting, kind: str) -> None:
    setting.mixing = Mixing(kind, 1.0, setting.part.indices, NUM_CLASSES)
    teacher = CountingTeacher()
    for number in range(2):  # computed, then read and sampled
        teach = setting.table(teacher)
        for epoch in (0, 2):
            assert_answers(setting, teach, epoch=epoch, batch_size=50 - 7 * number)
    assert teacher.count == 2 * 500 + 2 * logit_cache.VERIFIED_ROWS
    assert setting.said == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_largest_logits_alone(setting: Setting, small_blocks: None, dtype: str) -> None:
    rows, teacher = RowFormat(NUM_CLASSES, dtype, 2, T=2.0), CountingTeacher()
    for _ in range(2):  # computed, then read and sampled
        teach = setting.table(teacher, dtype=dtype, top=2)
        for batch in setting.epoch(0):
            assert torch.equal(teach(batch).logits, rows.decode(rows.encode(CountingTeacher()(batch.images))))
    sizes = [path.stat().st_size - HEADER_BYTES for path in setting.folder.glob("*.logits")]
    assert sum(sizes) == 500 * rows.row_bytes == 500 * (3 * {"float32": 4, "float16": 2}[dtype] + 2 * 2)
    (line,) = setting.said
    assert line.startswith(f"cache     2 of 5 logits are kept, {rows.row_bytes} bytes an image")
    setting.table(CountingTeacher(scale=1.01), dtype=dtype, top=2)(next(setting.epoch(0)))
    assert "cannot be used (the teacher's logits differ" in setting.said[1]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_too(setting: Setting, small_blocks: None, dtype: str) -> None:
    """Computed, then read; where they are not those of the teacher any more the file is replaced."""

    def with_map(images: Tensor, *, scale: float = 1.0) -> Outputs:
        return Outputs(CountingTeacher()(images), {"pixels": scale * images.float() / 64})

    rows = RowFormat(NUM_CLASSES, dtype, features=(("pixels", (3, 8, 8)),))
    store = CacheFolder(setting.folder, {}, rows)
    spec = CacheSpec(setting.part, view_seed=2, augment="crop+flip")
    for scale in (1.0, 1.0, 1.1):
        teach = LogitCache(lambda images: with_map(images, scale=scale), spec, store, seed=0, say=setting.said.append)  # noqa: B023
        for batch in setting.epoch(0):
            logits, features = with_map(batch.images, scale=scale)
            found = teach(batch)
            assert torch.equal(found.logits, logits.to(getattr(torch, dtype)).float())
            assert torch.equal(found.features["pixels"], features["pixels"].to(getattr(torch, dtype)).float())
    assert len(setting.said) == len(list(setting.folder.glob("*.logits"))) > 2
    assert all(
        "the teacher's logits and features differ from the cached ones by up to 9.0" in one for one in setting.said
    )


def test_blocks_are_put_together(setting: Setting, small_blocks: None) -> None:
    for _ in range(2):  # computed, then read
        assert_answers(setting, setting.table(CountingTeacher()), epoch=1)
    assert sorted(path.name for path in setting.folder.glob("*.logits")) == [
        "view-00001-1.logits",
        "view-00001-2.logits",
        "view-00001.logits",
    ]


def test_every_view_is_asked_about_once_by_the_first_run_and_sampled_by_later_ones(setting: Setting) -> None:
    first, later = CountingTeacher(), CountingTeacher()
    teach = setting.table(first)
    assert teach.num_missing(range(4)) == 4 * 500
    for epoch in range(6):  # views 0, 1, 2, 3, 0, 1
        assert_answers(setting, teach, epoch=epoch)
    assert first.count == 4 * 500
    teach = setting.table(later, seed=9)
    assert teach.num_missing(range(4)) == 0
    for epoch in range(6):
        assert_answers(setting, teach, epoch=epoch, seed=9)
    assert later.count == 4 * logit_cache.VERIFIED_ROWS
    assert setting.said == []


def test_the_time_of_what_is_missing_is_told_from_what_was_computed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 8))
    monkeypatch.setattr(logit_cache, "time", type("Clock", (), {"perf_counter": lambda: next(now)}))
    cache = setting.table(CountingTeacher())
    assert (cache.spent_s, cache.seconds_left(range(4))) == (0, 0)  # nothing is known yet
    cache.open(0)
    assert (cache.spent_s, cache.seconds_left(range(4)), cache.seconds_left({0})) == (8, 24, 0)
    warm = setting.table(CountingTeacher())
    warm.open(0)
    assert (warm.spent_s, warm.seconds_left({0})) == (0, 0)


def test_a_block_that_is_missing_is_the_only_one_computed(setting: Setting, small_blocks: None) -> None:
    assert_answers(setting, setting.table(CountingTeacher()), epoch=0)
    block_path(setting.folder, view=0, block=1).unlink()
    teacher = CountingTeacher()
    teach = setting.table(teacher)
    assert teach.num_missing(range(1)) == 200
    assert_answers(setting, teach, epoch=0)
    assert teacher.count == 200 + 2 * logit_cache.VERIFIED_ROWS


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage"])
def test_a_damaged_file_is_told_and_computed_anew(setting: Setting, damage: str) -> None:
    assert_answers(setting, setting.table(CountingTeacher()), epoch=0)
    path = block_path(setting.folder, view=0, block=0)
    whole = path.read_bytes()
    spoilt = {"cut": whole[:-100], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "garbage": b"x" * len(whole)}
    path.write_bytes(spoilt[damage])
    assert_answers(setting, setting.table(CountingTeacher()), epoch=0)
    (line,) = setting.said
    assert line.startswith(f"warning   {path} cannot be used (")
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("amp", "scale", "believed"), [("off", 1.01, False), ("bf16", 1.01, True), ("bf16", 1.05, False)]
)
def test_rounding_of_a_teacher_in_fewer_bits_is_believed(
    setting: Setting, amp: str, scale: float, believed: bool
) -> None:
    rows = RowFormat(NUM_CLASSES, "float32", amp=amp)
    for one in (1.0, scale):
        teach = LogitCache(
            outputs_of(CountingTeacher(scale=one)),
            CacheSpec(setting.part, view_seed=2, augment="crop+flip"),
            CacheFolder(setting.folder, {}, rows),
            seed=0,
            say=setting.said.append,
        )
        teach(next(setting.epoch(0)))
    assert bool(setting.said) is not believed


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_answers_that_the_teacher_does_not_give_any_more_are_not_believed(setting: Setting, dtype: str) -> None:
    """Whatever the key says: the code of a teacher of one's own may have changed, say."""
    for batch in setting.epoch(0):
        setting.table(CountingTeacher(scale=1.01), dtype=dtype)(batch)
        break
    teach, live = setting.table(CountingTeacher(), dtype=dtype), live_teacher(outputs_of(CountingTeacher()))
    for batch in setting.epoch(0):
        assert torch.equal(teach(batch).logits, live(batch).logits.to(getattr(torch, dtype)).float())
    assert len(setting.said) == 1
    assert "the teacher's logits differ from the cached ones by up to" in setting.said[0]


def test_rounding_is_believed(setting: Setting) -> None:
    for batch in setting.epoch(0):
        setting.table(CountingTeacher(scale=1 + 1e-5))(batch)
        break
    teacher = CountingTeacher()
    teach = setting.table(teacher)
    for batch in setting.epoch(0):
        torch.testing.assert_close(teach(batch).logits, CountingTeacher()(batch.images), rtol=1e-4, atol=1e-2)
    assert teacher.count == logit_cache.VERIFIED_ROWS
    assert setting.said == []


def test_other_seeds_ask_about_other_rows(setting: Setting) -> None:
    for batch in setting.epoch(0):
        setting.table(CountingTeacher())(batch)
        break
    asked = []
    for seed in (1, 2):
        seen: list[Tensor] = []
        teach = setting.table(CountingTeacher(), seed=seed)
        teach.outputs_of = lambda images, seen=seen: seen.append(images) or Outputs(CountingTeacher()(images))
        teach(next(setting.epoch(0)))
        asked.append(seen[0])
    assert not torch.equal(*asked)


def test_half_precision_rounds_and_halves(setting: Setting) -> None:
    cache_spec = CacheSpec(setting.part, 2, "crop+flip")
    formats = [RowFormat(NUM_CLASSES, dtype) for dtype in ("float32", "float16")]
    sizes = [table_bytes(cache_spec, rows, views=3) for rows in formats]
    assert sizes == [3 * 500 * 5 * 4, 3 * 500 * 5 * 2]
    teach, batch = setting.table(CountingTeacher(), dtype="float16"), next(setting.epoch(0))
    expected = CountingTeacher()(batch.images)
    assert teach(batch).logits.dtype == torch.float32
    assert torch.equal(teach(batch).logits, expected.half().float())


@pytest.mark.parametrize(
    ("scale", "dtype", "told"),
    [(1e4, "float16", "--cache_dtype=float32 holds larger"), (math.inf, "float32", "view 0")],
)
def test_answers_that_are_no_numbers_are_never_kept(setting: Setting, scale: float, dtype: str, told: str) -> None:
    teach = setting.table(CountingTeacher(scale=scale), dtype=dtype)
    with pytest.raises(RunFailed, match=told):
        teach(next(setting.epoch(0)))
    assert list(setting.folder.parent.glob("**/*.logits")) == []


def test_a_file_that_is_not_believed_and_cannot_be_replaced_is_not_used(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.table(CountingTeacher(scale=1.01))(next(setting.epoch(0)))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(logit_cache, "write_block", full)
    teach = setting.table(CountingTeacher())
    for epoch in (0, 1, 0):
        assert_answers(setting, teach, epoch=epoch)


def test_where_nothing_can_be_written_it_teaches_all_the_same(setting: Setting) -> None:
    setting.folder.write_text("a file in the place of the folder")
    teacher = CountingTeacher()
    teach = setting.table(teacher)
    for epoch in range(4):
        assert_answers(setting, teach, epoch=epoch)
    assert teacher.count == 4 * 500
    (line,) = setting.said  # once, not for every view
    assert "cannot be written" in line


def test_asked_to_stop_it_stops_between_two_chunks_and_leaves_nothing_half_done(
    setting: Setting, small_blocks: None
) -> None:
    teacher = CountingTeacher()
    teach = setting.table(teacher)
    teach.outputs_of = lambda images: (stopping.request_stop(15), Outputs(teacher(images)))[1]
    with pytest.raises(stopping.Stopped), stopping.graceful_stop():
        teach(next(setting.epoch(0)))
    assert teacher.count == 100
    assert list(setting.folder.glob("*")) == []
    assert_answers(setting, setting.table(CountingTeacher()), epoch=0)


def test_a_file_that_is_removed_while_it_is_in_use_stays_in_use(setting: Setting) -> None:
    assert_answers(setting, setting.table(CountingTeacher()), epoch=0)
    teacher = CountingTeacher()
    teach, live = setting.table(teacher), live_teacher(outputs_of(CountingTeacher()))
    for batch in setting.epoch(0):
        assert torch.equal(teach(batch).logits, live(batch).logits)
        block_path(setting.folder, view=0, block=0).unlink(missing_ok=True)
    assert teacher.count == logit_cache.VERIFIED_ROWS


def test_the_rows_of_images_that_are_not_in_the_lesson_are_no_rows(setting: Setting) -> None:
    """Index -1 would read the last row: a batch of other images is a bug, and an assertion, not an answer."""
    teach = setting.table(CountingTeacher())
    batch = next(setting.epoch(0))
    with pytest.raises(AssertionError, match="not cached"):
        teach(batch._replace(indices=batch.indices + 1))
    assert np.all(teach(batch).logits.numpy() == CountingTeacher()(batch.images).numpy())


def test_what_was_computed_is_mapped_from_its_file_and_not_held_in_memory(
    setting: Setting, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped: list[int] = []

    def reading(*args: Any) -> Any:
        found = cache_files.read_block(*args)
        mapped.append(found.ctypes.data)
        return found

    monkeypatch.setattr(logit_cache, "read_block", reading)
    teach = setting.table(CountingTeacher())
    teach.open(0)
    assert [block.data_ptr() for block in teach._blocks] == mapped
    assert len(mapped) == 3
