"""``data``: download and verify a data set."""

import torch

from kdignite.config import DataConfig
from kdignite.console import say, say_once
from kdignite.data.batches import image_side
from kdignite.data.registry import load_source
from kdignite.data.source import Source, describe_source
from kdignite.reports.text import markdown_table
from kdignite.training.data import data_folder

MOST_ROWS = 100  # classes of the table


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
    say(f"{describe_source(source)}\n{'images':<12} kept at {side} x {side} pixels\n{class_table(source)}")
    return source


def class_table(source: Source) -> str:
    """The number of images of each class in each part that the data set has itself."""
    sets = {"train": source.train, "val": source.val, "test": source.test}
    counts = {part: torch.bincount(one.labels, minlength=len(source.classes)) for part, one in sets.items() if one}
    rows = [(name, *(f"{int(count[i]):,}" for count in counts.values())) for i, name in enumerate(source.classes)]
    table = markdown_table([("class", *counts), *rows[:MOST_ROWS]], num_names=1)
    return table if len(rows) <= MOST_ROWS else f"{table}\nand {len(rows) - MOST_ROWS:,} more classes"
