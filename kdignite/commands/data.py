"""``data``: download and verify a data set."""

import torch

from kdignite.config import DataConfig
from kdignite.console import say, say_once
from kdignite.data.batches import image_side
from kdignite.data.checks import copies_notes, num_copies, shortage_notes
from kdignite.data.registry import load_source
from kdignite.data.source import ImageSet, Source, describe_source
from kdignite.data.splits import all_images
from kdignite.reports.text import markdown_table
from kdignite.training.data import data_folder

MAX_CLASSES = 20  # that the table shows
UNBALANCED = 3  # times as many images in the largest class as in the smallest, from which balancing is suggested


def data(config: DataConfig) -> Source:
    """Load a data set, downloading it where it is missing, and print its contents."""
    source = load_source(
        config.dataset,
        data_root=data_folder(config.data_root),
        image_size=config.image_size or 32,
        skip_broken=config.skip_broken,
    )
    for line in source.notes:
        say_once(line)
    side = image_side(source.train)
    said = [describe_source(source), f"{'images':<12} kept at {side} x {side} pixels", class_table(source)]
    say("\n".join([*said, *_doubts(source)]))
    return source


def class_table(source: Source) -> str:
    """Images of each class in each set; of many classes those with the most and the fewest training images."""
    counts = {key: _class_counts(source, key) for key in _sets(source)}
    rows = [(name, *(f"{count[i]:,}" for count in counts.values())) for i, name in enumerate(source.classes)]
    if len(rows) > MAX_CLASSES:
        order = sorted(range(len(rows)), key=lambda i: -counts["train"][i])
        most, fewest = order[: MAX_CLASSES // 2], order[-(MAX_CLASSES // 2) :]
        rows = [*(rows[i] for i in most), ("...", *[""] * len(counts)), *(rows[i] for i in fewest)]
    return markdown_table([("class", *counts), *rows], num_names=1)


def _sets(source: Source) -> dict[str, ImageSet]:
    return {key: one for key in ("train", "val", "test") if (one := getattr(source, key)) is not None}


def _class_counts(source: Source, key: str) -> list[int]:
    counts: list[int] = torch.bincount(_sets(source)[key].labels, minlength=len(source.classes)).tolist()
    return counts


def _doubts(source: Source) -> list[str]:
    sets = _sets(source)
    lines = copies_notes({key: all_images(one) for key, one in sets.items()})
    if copies := num_copies(source.train):
        lines.append(f"note      {copies:,} training images are copies of others (the same content)")
    lines += shortage_notes({key: one.labels for key, one in sets.items()}, source.classes)
    counts = _class_counts(source, "train")
    if UNBALANCED * min(counts) <= max(counts) and min(counts):
        told = f"{min(counts):,} to {max(counts):,} training images a class"
        lines.append(f"note      {told}: --balance=loss gives every class the same weight")
    return lines
