"""What happens around the training steps: handlers attached to the events of an engine.

Each ``attach_*`` takes the engine first, registers what it does, and returns what others may want to read or save. They
run in the order in which they are attached, so a pipeline lists them in one visible place. This folder is the only
place that uses events.
"""

from kdignite.handlers.pruning import Pruned, attach_pruning
from kdignite.handlers.saving import (
    BestFile,
    Score,
    attach_best_checkpoint,
    attach_early_stopping,
    attach_iteration_rollback,
    attach_saving,
    attach_stop,
    close_epoch,
    reason,
)
from kdignite.handlers.showing import (
    BAR_EVERY,
    Remaining,
    attach_epoch_table,
    attach_metrics_csv,
    attach_progress_bar,
    attach_tensorboard,
    attach_time_estimate,
    duration,
    write_csv,
)
from kdignite.handlers.state import COLUMNS, Clock, EpochSums, History, Row
from kdignite.handlers.training import (
    GUARD_EVERY,
    LossNotFinite,
    attach_clock,
    attach_epoch_sums,
    attach_history,
    attach_learning_rate,
    attach_nan_guard,
    attach_step_seed,
    attach_validation,
)
