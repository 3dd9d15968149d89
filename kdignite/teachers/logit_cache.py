"""Cached teacher logits, and features: computed once for each view of an image, and read by every later run.

View v of image i is a function of (view_seed, v, i), so the teacher's logits for it are too, and cached ones are exact.
They are always computed in chunks of the same images, whatever the batches of a run; on some devices the images of a
batch change the last bit of a convolution, and then cached logits differ from those of a live teacher by rounding.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from kdignite import processes, stopping
from kdignite.data.batches import SINGLE_PROCESS, Batch, Share, evaluation_batch_size, view_batches
from kdignite.data.mixing import Mixing
from kdignite.data.splits import Part
from kdignite.devices import is_accelerator, to_device
from kdignite.errors import RunFailed
from kdignite.methods.terms import Outputs, OutputsOf
from kdignite.streams import stream
from kdignite.teachers.cache_files import BlockHeader, block_path, read_block, write_block, write_metadata
from kdignite.teachers.row_formats import RowFormat, loss_of_format

BLOCK_BYTES = 256 * 2**20  # of logits in one file; a table of more rows goes in blocks
DEVICE_BYTES = 2**30  # logits of a view up to this size are copied to the accelerator that trains
VERIFIED_ROWS = 8  # of each view, computed again by every run


class CacheSpec(NamedTuple):
    """The images and views that a teacher's logits are cached for."""

    part: Part
    view_seed: int
    augment: str
    size: int = 0  # side of the teacher's input in pixels, if larger than the images
    mixing: Mixing | None = None  # of the views

    @property
    def chunk(self) -> int:
        """How many images the teacher is given at once."""
        return evaluation_batch_size(self.part.images, self.size)


class CacheFolder(NamedTuple):
    """Where the logits are stored, and what they are."""

    folder: Path
    about: Mapping[str, Any]  # everything that determines its numbers, and names for people
    rows: RowFormat

    @property
    def key(self) -> str:
        """The hash that names the table."""
        return self.folder.name


class DeviceTable(NamedTuple):
    """The cached logits of a view on the device that trains."""

    row_of: Tensor  # (N,) int64, for each image of the source its row
    rows: Tensor  # (n, columns)


class LogitCache:
    """A teacher that looks outputs up, computes missing ones, and replaces files that are damaged or wrong."""

    def __init__(
        self,
        outputs_of: OutputsOf,
        cache_spec: CacheSpec,
        store: CacheFolder,
        *,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.outputs_of, self.cache_spec, self.store = outputs_of, cache_spec, store
        self.rows, self.seed, self.say = store.rows, seed, say
        self._chunk = cache_spec.chunk
        self._block_rows = max(1, BLOCK_BYTES // (self.rows.row_bytes * self._chunk)) * self._chunk
        self._row_of = _positions(cache_spec.part)
        self._view, self._blocks = -1, list[Tensor]()
        self._device_table: DeviceTable | None = None
        self._verified, self._warned, self._measured = set[tuple[int, int]](), False, False
        self.spent_s, self._num_computed = 0.0, 0  # seconds in which so many images' logits were computed

    def __call__(self, batch: Batch) -> Outputs:
        """The logits (B, C) float32 of a batch, and its features, on its device."""
        self.open(batch.view)
        device = batch.images.device
        if is_accelerator(device) and sum(block.nbytes for block in self._blocks) <= DEVICE_BYTES:
            return self.rows.outputs(self._from_device(batch, device))
        rows = self._row_of[batch.indices]
        assert int(rows.min()) >= 0, "images that are not cached"
        return self.rows.outputs(self.rows.decode(to_device(self._stored(self._blocks, rows), device)))

    def _from_device(self, batch: Batch, device: torch.device) -> Tensor:
        """The values of a batch from the copy on the device, which refuses rows that do not exist."""
        if self._device_table is None:
            blocks = [to_device(block, device) for block in self._blocks]
            self._device_table = DeviceTable(
                to_device(self._row_of, device), blocks[0] if len(blocks) == 1 else torch.cat(blocks)
            )
        indices = to_device(batch.indices, device) if batch.device_indices is None else batch.device_indices
        rows = self._device_table.row_of.index_select(0, indices)
        return self.rows.decode(self._device_table.rows.index_select(0, rows))

    def open(self, view: int) -> None:
        """Load or compute the logits of a view; several processes have to call this together."""
        if view != self._view:
            # the memory of one view is freed before the next is loaded
            self._view, self._blocks, self._device_table = -1, [], None
            self._blocks = self._load_view(view)
            self._view = view

    def num_missing(self, views: Iterable[int]) -> int:
        """How many logits of these views are in no file; the files are not read."""
        sizes = [len(rows) for rows in self._block_indices()]
        paths = ((block_path(self.store.folder, view=v, block=b), n) for v in views for b, n in enumerate(sizes))
        return sum(size for path, size in paths if not path.is_file())

    def seconds_left(self, views: Iterable[int]) -> float:
        """How long the missing logits of these views will take, at the speed so far; 0 where none was computed yet."""
        return self.num_missing(views) * self.spent_s / self._num_computed if self._num_computed else 0.0

    def _block_indices(self) -> tuple[Tensor, ...]:
        blocks: tuple[Tensor, ...] = self.cache_spec.part.indices.split(self._block_rows)
        return blocks

    def _load_view(self, view: int) -> list[Tensor]:
        """The blocks of a view: read, or computed unless every process can read them."""
        blocks = []
        for number, indices in enumerate(self._block_indices()):
            block = self._read(view, number, indices)
            everywhere = all(processes.all_gather_object(block is not None))  # each machine may have its own disk
            if block is None or not everywhere:
                computed = self._compute(view, number, indices)
                block = self._read(view, number, indices)  # mapped from its file: a view may be larger than the memory
                block = computed if block is None else block
            blocks.append(block)
        return blocks

    def _read(self, view: int, number: int, indices: Tensor) -> Tensor | None:
        """A block from its file, if it is complete and still what the teacher computes."""
        path = block_path(self.store.folder, view=view, block=number)
        try:
            block = torch.from_numpy(read_block(path, self._header(view, number, len(indices))))
            self._verify(view, number, indices, block)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self.say(f"warning   {path} cannot be used ({error}): its {self.rows.content} are computed again")
            return None
        if processes.is_rank0():
            with suppress(OSError):  # where the folder may be read only
                write_metadata(self.store.folder, self.store.about)
        return block

    def _verify(self, view: int, number: int, indices: Tensor, block: Tensor) -> None:
        """Compare a random sample with what the teacher computes now, once a run."""
        if (view, number) in self._verified:
            return
        order = torch.randperm(len(indices), generator=stream("table sample", self.seed, view, number))
        rows = order[:VERIFIED_ROWS].sort().values
        fresh = torch.cat(list(self._run_teacher(view, indices[rows])))
        difference = self.rows.difference(block[rows], fresh)
        if not difference <= self.rows.rounding:
            found = f"differ from the cached ones by up to {float(difference):.2%} of the largest"
            raise ValueError(f"the teacher's {self.rows.content} {found}")
        self._verified.add((view, number))

    def _compute(self, view: int, number: int, indices: Tensor) -> Tensor:
        """Run the teacher; each of several processes computes its share, and all get all logits."""
        started = time.perf_counter()
        share, num_chunks = Share(processes.rank(), processes.world_size()), math.ceil(len(indices) / self._chunk)
        own = torch.empty(
            sum(map(len, share.of(indices.split(self._chunk)))),
            self.rows.columns,
            dtype=getattr(torch, self.rows.stored_dtype),
        )
        checks = math.ceil(num_chunks / share.world)
        chunks = stopping.interruptible(self._run_teacher(view, indices, share=share), checks=checks)
        hidden = None if processes.is_rank0() else True
        bar = tqdm(chunks, total=checks, desc=f"teacher, view {view}", leave=False, disable=hidden)
        rows = iter(own.split(self._chunk))
        for computed in bar:
            next(rows).copy_(self.rows.encode(computed))
            self._measure(computed)
        logits = processes.all_gather(own)
        if not all(torch.isfinite(self.rows.decode(some)).all() for some in logits.split(self._chunk)):
            raise RunFailed(
                f"the teacher's {self.rows.content} for view {view} are not finite in {self.rows.dtype}"
                + (": --cache_dtype=float32 holds larger ones" if self.rows.dtype == "float16" else "")
            )
        if processes.is_rank0() and self._write(logits, self._header(view, number, len(indices))):
            self._verified.add((view, number))
        self.spent_s += time.perf_counter() - started
        self._num_computed += len(logits)
        return logits

    def _measure(self, logits: Tensor) -> None:
        """Say once what the rows lose of logits (B, C)."""
        if not self._measured and (lost := loss_of_format(self.rows, logits)):
            self.say(f"cache     {lost}")
        self._measured = True

    def _run_teacher(self, view: int, indices: Tensor, *, share: Share = SINGLE_PROCESS) -> Iterator[Tensor]:
        """The teacher's outputs, chunk by chunk, flat, float32 on the CPU."""
        part, view_seed, augment, size, mixing = self.cache_spec
        part = part._replace(indices=indices)
        batches = view_batches(
            part, view=view, view_seed=view_seed, augment=augment, mixing=mixing, size=size, share=share
        )
        for batch in batches:
            yield self.rows.flatten(self.outputs_of(batch.images)).float().cpu()

    def _write(self, logits: Tensor, block: BlockHeader) -> bool:
        path = block_path(self.store.folder, view=block.view, block=block.block)
        try:
            write_metadata(self.store.folder, self.store.about)
            write_block(path, logits.numpy(), block)
        except OSError as error:
            if not self._warned:
                why, content = error.strerror or str(error), self.rows.content
                self.say(f"warning   {path} cannot be written ({why}): the teacher's {content} are not cached")
            self._warned = True
            return False
        return True

    def _header(self, view: int, number: int, num_rows: int) -> BlockHeader:
        return BlockHeader(self.store.key, view, number, num_rows, self.rows.columns, self.rows.stored_dtype)

    def _stored(self, blocks: list[Tensor], rows: Tensor) -> Tensor:
        if len(blocks) == 1:
            return blocks[0][rows]
        stored = torch.empty(len(rows), self.rows.columns, dtype=blocks[0].dtype)
        for number, block in enumerate(blocks):
            inside = rows.div(self._block_rows, rounding_mode="floor") == number
            stored[inside] = block[rows[inside] - number * self._block_rows]
        return stored


def table_bytes(cache_spec: CacheSpec, rows: RowFormat, *, views: int) -> int:
    return views * len(cache_spec.part.indices) * rows.row_bytes


def _positions(part: Part) -> Tensor:
    """For each image of the source its row, -1 where it is not in the part."""
    positions = torch.full((len(part.images.labels),), -1)
    positions[part.indices] = torch.arange(len(part.indices))
    return positions
