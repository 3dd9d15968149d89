"""``data``: download and verify a data set."""

from kdignite.config import DataConfig
from kdignite.console import say, say_once
from kdignite.data.batches import image_side
from kdignite.data.checks import absent_notes, copies_notes, num_copies
from kdignite.data.registry import load_source
from kdignite.data.source import Source, describe_source
from kdignite.data.splits import all_images
from kdignite.training.data import data_folder


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
    kept = f"{'images':<12} kept at {side} x {side} pixels"
    say("\n".join([describe_source(source), kept, *_doubts(source)]))
    return source


def _doubts(source: Source) -> list[str]:
    sets = {key: one for key in ("train", "val", "test") if (one := getattr(source, key)) is not None}
    lines = copies_notes({key: all_images(one) for key, one in sets.items()})
    if copies := num_copies(source.train):
        lines.append(f"note      {copies:,} training images are copies of others (the same content)")
    return lines + absent_notes({key: one.labels for key, one in sets.items()}, source.classes)
