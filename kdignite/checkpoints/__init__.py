"""Checkpoints: a crash leaves a usable file, and nothing in a file is used unchecked.

A checkpoint says everything needed to use it: the architecture and its arguments, class names, preprocessing, the split
it was selected on, and the accuracy it had there. Weights are loaded completely or not at all.
"""

from kdignite.checkpoints.arrays import read_arrays
from kdignite.checkpoints.description import (
    FORMAT,
    Architecture,
    Checkpoint,
    Description,
    Origin,
    Validation,
    from_payload,
    to_payload,
)
from kdignite.checkpoints.files import UNREADABLE, load_checkpoint, read, read_foreign, write
from kdignite.checkpoints.foreign import ForeignWeights, fit_state_dict, foreign_weights, state_dict_in
from kdignite.checkpoints.kinds import no_file
from kdignite.checkpoints.weights import check_fit, check_storable, is_plain, load_weights, not_finite
