"""A look at some steps in the middle of a real run."""

from collections.abc import Callable

from ignite.engine import Engine, Events

from checks.context import Context
from kdignite.training.spec import RunSpec
from kdignite.training.state import TrainerState


def watch(
    context: Context, run: RunSpec, *, first: int, last: int, begin: Callable[[], None], end: Callable[[], None]
) -> None:
    """Train; ``begin`` is called before the step ``first``, counted from 1, and ``end`` after the step ``last``."""

    def called(engine: Engine, what: Callable[[], None]) -> None:
        what()

    def attach(trainer_state: TrainerState) -> None:
        trainer_state.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=first - 1), called, begin)
        trainer_state.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=last), called, end)

    context.trained(run, attach)
