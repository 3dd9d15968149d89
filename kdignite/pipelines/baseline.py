"""``baseline``: train the student on the labels alone, which is what distillation has to beat."""

from functools import partial
from pathlib import Path

from kdignite import runs
from kdignite.config import BaselineConfig
from kdignite.pipelines.building import check_architecture
from kdignite.pipelines.preparing import prepare_run
from kdignite.pipelines.setup import choose_device, open_training_data, settle
from kdignite.pipelines.teaching import as_taught
from kdignite.pipelines.training import execute
from kdignite.steps import supervised_step


def baseline(config: BaselineConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Train the student without a teacher, on the same data, views, order and initial weights as ``distill``.

    Args:
        config: what to train, and how.
        root: the folder of all runs; data settings left open are those of its newest teacher for the data set.

    Returns:
        The run folder and its result.

    Raises:
        UserError: before anything is written, if something asked for cannot be had.
        RunFailed: if the loss stops being a number.
    """
    check_architecture(config)
    device = choose_device(config.device, threads=config.threads)
    config = as_taught(config, root=root)
    data = open_training_data(config, device=device)
    config = settle(config, data, device=device)
    make_step = partial(supervised_step, label_smoothing=config.label_smoothing, grad_clip=config.grad_clip)
    return execute(prepare_run(config, data, device=device, make_step=make_step), root=root)
