"""A teacher that is a model."""

import torch
from torch import Tensor

from kdignite.data.batches import Batch
from kdignite.data.preprocess import Prepare
from kdignite.methods.taps import FeatureExtractor
from kdignite.methods.terms import Outputs, OutputsOf
from kdignite.precision import tf32
from kdignite.steps import Teacher, forward
from kdignite.teachers.outputs import log_of


def live_teacher(outputs_of: OutputsOf) -> Teacher:
    """A teacher that is computed for every batch, on the view that the student sees."""

    def run(batch: Batch) -> Outputs:
        logits, features = outputs_of(batch.images)
        return Outputs(logits.clone(), features)  # a loss cannot multiply with a tensor of inference mode

    return run


def outputs_with_features(
    extractor: FeatureExtractor,
    *,
    prepare: Prepare,
    order: Tensor | None = None,
    amp: str = "off",
    probabilities: bool = False,
) -> OutputsOf:
    """From uint8 images to logits and features in eval mode, float32 without gradient; see `predictor` for the rest."""

    def outputs_of(images: Tensor) -> Outputs:
        extractor.eval()
        with torch.no_grad(), tf32(amp):  # not inference_mode, whose tensors a loss cannot multiply with
            logits, features = forward(extractor, prepare(images), amp=amp)
        logits = log_of(logits) if probabilities else logits
        return Outputs(logits if order is None else logits.index_select(1, order), features)

    return outputs_of
