"""Stopping a run that falls behind others."""

from collections.abc import Callable, Sequence

from ignite.engine import Engine, Events

from kdignite.errors import RunFailed
from kdignite.handlers.state import Row


class Pruned(RunFailed):
    """The run was stopped after an epoch, since others were ahead of it there."""


def attach_pruning(engine: Engine, rows: Sequence[Row], *, is_behind: Callable[[Row], bool]) -> None:
    """Judge a run by the last epoch's row before the next one begins, when everything of that epoch is saved."""

    def judge() -> None:
        if rows and is_behind(rows[-1]):
            raise Pruned(f"stopped after epoch {rows[-1]['epoch']}, below the median of the other trials there")

    engine.add_event_handler(Events.EPOCH_STARTED, judge)
