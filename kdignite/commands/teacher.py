"""``teacher``: train a model on the labels, to teach others."""

from collections.abc import Sequence
from pathlib import Path

from kdignite import runs
from kdignite.config import TeacherConfig
from kdignite.training.extensions import Attach
from kdignite.training.model import check_and_fetch_model
from kdignite.training.resume import resumable
from kdignite.training.supervised import train_supervised


@resumable
def teacher(config: TeacherConfig, *, root: Path = runs.ROOT, handlers: Sequence[Attach] = ()) -> runs.Finished:
    """Train a teacher and evaluate it on the test images.

    Args:
        config: what to train, and how.
        root: the folder of all runs.
        handlers: functions of your own ``(engine, view)``, called once each before the training, which attach what they
            like to the events of the engine.

    Returns:
        The run folder and its result.

    Raises:
        UserError: before anything is written, if something asked for cannot be had.
        RunFailed: if the loss stops being a number.
    """
    check_and_fetch_model(config)
    return train_supervised(config, root=root, handlers=handlers)
