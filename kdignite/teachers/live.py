"""A teacher that is a model."""

from kdignite.data.batches import Batch
from kdignite.evaluation import Logits
from kdignite.methods.terms import Outputs
from kdignite.steps import Teacher


def live_teacher(logits_of: Logits) -> Teacher:
    """A teacher that is computed for every batch, on the view that the student sees."""

    def teach(batch: Batch) -> Outputs:
        return Outputs(logits_of(batch.images).clone())  # no tensor of inference mode: no loss could multiply with it

    return teach
