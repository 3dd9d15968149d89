"""``data``: get a data set and verify it."""

from kdignite.config import DataConfig
from kdignite.data.sources import Source, describe_source, load_source
from kdignite.pipelines.setup import data_folder, say


def data(config: DataConfig) -> Source:
    """Load a data set, getting it first where it is missing, and say what it holds.

    Args:
        config: which one, and where.

    Returns:
        The source.

    Raises:
        UserError: if it cannot be had, or is damaged.
    """
    source = load_source(config.dataset, data_root=data_folder(config.data_root), image_size=config.image_size or 32)
    say(describe_source(source))
    return source
