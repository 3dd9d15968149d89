"""The run folder: name, files, lock, and finding it. No result is ever overwritten."""

from kdignite.runs.environment import environment
from kdignite.runs.finding import (
    Finished,
    checkpoint_name,
    find_checkpoint,
    finished_teachers,
    skipped,
    teachers_to_name,
    unfinished_run,
)
from kdignite.runs.folders import (
    BEST,
    CONFIG,
    ENVIRONMENT,
    EXPORT,
    LAST,
    MANIFEST,
    METRICS,
    PREDICTIONS,
    PREVIOUS,
    RESULT,
    ROOT,
    cache_folder,
    check_name,
    create,
    default_name,
    make_root,
    num_epochs,
)
from kdignite.runs.lock import locked
