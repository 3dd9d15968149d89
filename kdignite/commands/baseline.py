"""``baseline``: train the student on the labels alone, which is what distillation has to beat."""

from collections.abc import Sequence
from pathlib import Path

from kdignite import processes, runs
from kdignite.config import BaselineConfig
from kdignite.training.extensions import Attach
from kdignite.training.model import check_and_fetch_model
from kdignite.training.resume import resumable
from kdignite.training.supervised import train_supervised
from kdignite.training.teacher import inherit_from_newest


@resumable
def baseline(config: BaselineConfig, *, root: Path = runs.ROOT, handlers: Sequence[Attach] = ()) -> runs.Finished:
    """Train the student without a teacher, on the same data, views, order and initial weights as ``distill``.

    Args:
        config: what to train, and how.
        root: the folder of all runs; data settings left open are those of its newest teacher for the data set.
        handlers: functions of your own ``(engine, view)``, called once each before the training, which attach what they
            like to the events of the engine.

    Returns:
        The run folder and its result.

    Raises:
        UserError: before anything is written, if something asked for cannot be had.
        RunFailed: if the loss stops being a number.
    """
    check_and_fetch_model(config)
    return train_supervised(
        processes.on_rank0(lambda: inherit_from_newest(config, root=root)), root=root, handlers=handlers
    )
