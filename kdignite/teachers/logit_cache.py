"""A teacher whose answers are kept: computed once for each view of an image, and read by every later run.

View v of image i is a function of (view_seed, v, i), so the teacher's logits for it are too, and a stored one is exact.
Answers are always computed in chunks of the same images, whatever batches a run trains on; how a batch is made up can
change the last bit of a convolution on some devices, and then a table differs from the live teacher by rounding.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kdignite import processes, stopping
from kdignite.data.batches import ALONE, EVALUATION_BATCH, Batch, Share, view_batches
from kdignite.data.splits import Part
from kdignite.devices import is_accelerator, to_device
from kdignite.errors import RunFailed
from kdignite.evaluation import Logits
from kdignite.methods.terms import Outputs
from kdignite.streams import stream
from kdignite.teachers.cache_files import Block, block_path, describe, read_block, write_block

BLOCK_BYTES = 256 * 2**20  # of logits in one file; a table of more rows goes in blocks
PLACED_BYTES = 2**30  # a view's logits up to this size lie on the accelerator that trains
SAMPLE = 8  # rows of each view that a run asks the teacher again
# share of the largest logit by which a stored answer may differ from a fresh one: rounding on another number of
# threads, or of the 11 bits of a float16
ROUNDING = {"float32": 1e-3, "float16": 2e-3}


class CacheSpec(NamedTuple):
    """What a teacher is asked."""

    part: Part
    view_seed: int
    augment: str


class CacheFolder(NamedTuple):
    """Where a table is kept, and what it is."""

    folder: Path
    about: Mapping[str, Any]  # everything that determines its numbers, and names for people
    dtype: str  # float32 or float16

    @property
    def key(self) -> str:
        """The hash that names the table."""
        return self.folder.name


class Placed(NamedTuple):
    """What a view's answers are looked up in, on the device that trains."""

    row_of: Tensor  # (N,) int64, for each image of the source its row
    logits: Tensor  # (n, C), the rows


class LogitCache:
    """A teacher as a function from a batch to logits that are looked up; a view's first batch computes what is missing.

    A file that is damaged, or differs from what the teacher answers now, is told and computed anew. What cannot be
    written stays in memory until the view is over.
    """

    def __init__(
        self,
        logits_of: Logits,
        cache_spec: CacheSpec,
        kept: CacheFolder,
        *,
        num_classes: int,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        """Nothing is read yet."""
        self.logits_of, self.cache_spec, self.kept = logits_of, cache_spec, kept
        self.num_classes, self.seed, self.say = num_classes, seed, say
        row_bytes = num_classes * np.dtype(kept.dtype).itemsize
        self._block_rows = max(1, BLOCK_BYTES // (row_bytes * EVALUATION_BATCH)) * EVALUATION_BATCH
        self._row_of = _positions(cache_spec.part)
        self._view, self._blocks = -1, list[Tensor]()
        self._placed: Placed | None = None
        self._checked, self._told = set[tuple[int, int]](), False
        self.spent_s, self._num_computed = 0.0, 0  # seconds in which so many images' logits were computed

    def __call__(self, batch: Batch) -> Outputs:
        """The logits (B, C) float32 of a batch, on its device."""
        self.open(batch.view)
        device = batch.images.device
        if is_accelerator(device) and sum(block.nbytes for block in self._blocks) <= PLACED_BYTES:
            return Outputs(self._looked_up(batch, device))
        rows = self._row_of[batch.indices]
        assert int(rows.min()) >= 0, "images that are not in the lesson"
        logits = self._rows(self._blocks, rows)
        return Outputs(to_device(logits, device).float())

    def _looked_up(self, batch: Batch, device: torch.device) -> Tensor:
        """The logits of a batch from where they were placed; a row that is none is refused by the device."""
        if self._placed is None:
            blocks = [to_device(block, device) for block in self._blocks]
            self._placed = Placed(to_device(self._row_of, device), blocks[0] if len(blocks) == 1 else torch.cat(blocks))
        indices = to_device(batch.indices, device) if batch.placed is None else batch.placed
        return self._placed.logits.index_select(0, self._placed.row_of.index_select(0, indices)).float()

    def open(self, view: int) -> None:
        """Have the answers to a view ready; several processes have to call this together."""
        if view != self._view:
            # the memory of one view is given back before another takes some
            self._view, self._blocks, self._placed = -1, [], None
            self._blocks = self._opened(view)
            self._view = view

    def num_missing(self, views: Iterable[int]) -> int:
        """How many logits of these views are in no file; the files are not read."""
        sizes = [len(rows) for rows in self._block_indices()]
        paths = ((block_path(self.kept.folder, view=v, block=b), n) for v in views for b, n in enumerate(sizes))
        return sum(size for path, size in paths if not path.is_file())

    def seconds_left(self, views: Iterable[int]) -> float:
        """How long the missing logits of these views will take, at the speed so far; 0 where none was computed yet."""
        return self.num_missing(views) * self.spent_s / self._num_computed if self._num_computed else 0.0

    def _block_indices(self) -> tuple[Tensor, ...]:
        blocks: tuple[Tensor, ...] = self.cache_spec.part.indices.split(self._block_rows)
        return blocks

    def _opened(self, view: int) -> list[Tensor]:
        """The blocks of a view: read, or computed where that cannot be in every process."""
        blocks = []
        for number, indices in enumerate(self._block_indices()):
            stored = self._stored(view, number, indices)
            whole = all(processes.all_gather_object(stored is not None))  # each machine may have a disk of its own
            blocks.append(stored if stored is not None and whole else self._computed(view, number, indices))
        return blocks

    def _stored(self, view: int, number: int, indices: Tensor) -> Tensor | None:
        """A block from its file, if it is whole and still what the teacher answers."""
        path = block_path(self.kept.folder, view=view, block=number)
        try:
            block = torch.from_numpy(read_block(path, self._block(view, number, len(indices))))
            self._check_answers(view, number, indices, block)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self.say(f"warning   {path} cannot be used ({error}): its answers are computed anew")
            return None
        if processes.is_rank0():
            with suppress(OSError):  # where the folder may be read only
                describe(self.kept.folder, self.kept.about)
        return block

    def _check_answers(self, view: int, number: int, indices: Tensor, block: Tensor) -> None:
        """Ask the teacher for a random sample of what was stored, once a run."""
        if (view, number) in self._checked:
            return
        order = torch.randperm(len(indices), generator=stream("table sample", self.seed, view, number))
        rows = order[:SAMPLE].sort().values
        fresh = torch.cat(list(self._asked(view, indices[rows])))
        difference = (block[rows].float() - fresh).abs().max()
        if not difference <= ROUNDING[self.kept.dtype] * fresh.abs().max().clamp_min(1):
            raise ValueError(f"the teacher now answers otherwise, by up to {float(difference):.2g}")
        self._checked.add((view, number))

    def _computed(self, view: int, number: int, indices: Tensor) -> Tensor:
        """Ask the teacher; each of several processes asks about its share, and all get everything."""
        started = time.perf_counter()
        share, num_chunks = Share(processes.rank(), processes.world_size()), math.ceil(len(indices) / EVALUATION_BATCH)
        own = torch.empty(
            sum(map(len, share.of(indices.split(EVALUATION_BATCH)))),
            self.num_classes,
            dtype=getattr(torch, self.kept.dtype),
        )
        checks = math.ceil(num_chunks / share.world)
        asked = stopping.interruptible(self._asked(view, indices, share=share), checks=checks)
        shown = tqdm(
            asked,
            total=checks,
            desc=f"teacher, view {view}",
            leave=False,
            disable=None if processes.is_rank0() else True,
        )
        rows = iter(own.split(EVALUATION_BATCH))
        for answers in shown:
            next(rows).copy_(answers)
        logits = processes.all_gather(own)
        if not torch.isfinite(logits).all():
            raise RunFailed(
                f"the teacher answers view {view} with values that are no finite numbers in {self.kept.dtype}"
                + (": --cache_dtype=float32 holds larger ones" if self.kept.dtype == "float16" else "")
            )
        self._checked.add((view, number))
        if processes.is_rank0():
            self._write(logits, self._block(view, number, len(indices)))
        self.spent_s, self._num_computed = (
            self.spent_s + time.perf_counter() - started,
            self._num_computed + len(logits),
        )
        return logits

    def _asked(self, view: int, indices: Tensor, *, share: Share = ALONE) -> Iterator[Tensor]:
        """What the teacher answers now, chunk by chunk, float32 on the CPU."""
        part, view_seed, augment = self.cache_spec
        part = part._replace(indices=indices)
        for batch in view_batches(part, view=view, view_seed=view_seed, augment=augment, share=share):
            yield self.logits_of(batch.images).float().cpu()

    def _write(self, logits: Tensor, block: Block) -> None:
        path = block_path(self.kept.folder, view=block.view, block=block.block)
        try:
            describe(self.kept.folder, self.kept.about)
            write_block(path, logits.numpy(), block)
        except OSError as error:
            if not self._told:
                why = error.strerror or str(error)
                self.say(f"warning   {path} cannot be written ({why}): the answers of the teacher are not kept")
            self._told = True

    def _block(self, view: int, number: int, num_rows: int) -> Block:
        return Block(self.kept.key, view, number, num_rows, self.num_classes, self.kept.dtype)

    def _rows(self, blocks: list[Tensor], rows: Tensor) -> Tensor:
        if len(blocks) == 1:
            return blocks[0][rows]
        logits = torch.empty(len(rows), self.num_classes, dtype=blocks[0].dtype)
        for number, block in enumerate(blocks):
            inside = rows.div(self._block_rows, rounding_mode="floor") == number
            logits[inside] = block[rows[inside] - number * self._block_rows]
        return logits


def table_bytes(cache_spec: CacheSpec, *, views: int, num_classes: int, dtype: str) -> int:
    """How large the answers to all views are."""
    return views * len(cache_spec.part.indices) * num_classes * np.dtype(dtype).itemsize


def _positions(part: Part) -> Tensor:
    """For each image of the source its row, -1 where it is not in the part."""
    positions = torch.full((len(part.images.labels),), -1)
    positions[part.indices] = torch.arange(len(part.indices))
    return positions
