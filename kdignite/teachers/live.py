"""A teacher that is a model."""

from kdignite.data.batches import Batch
from kdignite.evaluation import Predictor
from kdignite.methods.terms import Outputs
from kdignite.steps import Teacher


def live_teacher(logits_of: Predictor) -> Teacher:
    """A teacher that is computed for every batch, on the view that the student sees."""

    def run(batch: Batch) -> Outputs:
        return Outputs(logits_of(batch.images).clone())  # a loss cannot multiply with a tensor of inference mode

    return run
