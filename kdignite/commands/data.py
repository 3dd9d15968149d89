"""``data``: download and verify a data set."""

from kdignite.config import DataConfig
from kdignite.console import say
from kdignite.data.batches import image_side
from kdignite.data.registry import load_source
from kdignite.data.source import Source, describe_source
from kdignite.training.data import data_folder


def data(config: DataConfig) -> Source:
    """Load a data set, downloading it where it is missing, and print its contents."""
    source = load_source(config.dataset, data_root=data_folder(config.data_root), image_size=config.image_size or 32)
    say(describe_source(source))
    say(f"{'images':<12} kept at {image_side(source.train)} x {image_side(source.train)} pixels")
    return source
