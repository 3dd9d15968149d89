"""What ``doctor`` can be told."""

from dataclasses import dataclass
from typing import ClassVar

from kdignite.config import shared
from kdignite.config.checks import check_name
from kdignite.config.fields import Config, flag
from kdignite.errors import UserError
from kdignite.methods.registry import METHODS

_KD = METHODS["kd"].parameters


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Config):
    """Find out why a model scores less in your evaluation than it did in training."""

    command: ClassVar[str] = "doctor"

    run: str = flag("", "a run folder (runs/NAME or NAME) or a checkpoint file")
    observed: float | None = flag(
        None,
        "accuracy you got: in per cent where it is above 1, else a share (0.5 is 50 %); the doctor lists what fits it",
        low=0,
        high=100,
        group="what you saw",
    )
    observed_images: int | None = flag(
        None, "images you got it on; unset: the test images of the data set", low=1, group="what you saw"
    )
    predictions: str | None = flag(
        None,
        "your answers, in the data set's order: labels or logits as .npy, .npz, .csv, .txt or .pt, or a run's "
        "predictions.npz; the doctor names the mistake",
        group="what you saw",
    )
    per_class: tuple[float, ...] | None = flag(
        None,
        "accuracies you got by class, in the data set's order: shares, or per cent where one is above 1",
        low=0,
        high=100,
        group="what you saw",
    )
    split: str | None = flag(
        None,
        "which images are evaluated, and --predictions are of: test or val; unset: told by the number of predictions, "
        "else val",
        choices=("test", "val"),
        group="data",
    )
    weights: str | None = flag(
        None,
        "somebody else's file with a state dict: which keys fit RUN's model (without RUN: --arch's), which do not",
        group="model",
    )
    arch: str | None = flag(
        None,
        "package.module:function again, for a model of your own; without RUN: the model that --weights are for",
        group="model",
    )
    alpha: float = flag(
        _KD["alpha"].default,
        "weight of a teacher's term, for what is said of a teacher",
        low=0,
        high=1,
        group="distillation",
    )
    T: float = flag(
        _KD["T"].default, "temperature, for what is said of a teacher", above=0, high=1000, group="distillation"
    )
    num_images: int = flag(2_000, "images evaluated at most, spread over the whole split", low=1, group="data")
    draws: int = flag(10, "times a random mistake is made, such as a new head", low=3)
    name: str | None = flag(None, "name of the new folder in runs/; unset: doctor-RUN")
    dataset: str | None = shared.dataset_now()
    data_root: str | None = shared.data_root()
    device: str = shared.device()
    threads: int | None = shared.threads()

    def __post_init__(self) -> None:
        """Check each field; a run is required, or a foreign file and its model."""
        super().__post_init__()
        check_name(self.name)
        if not self.run and not (self.weights and self.arch):
            raise UserError(
                "doctor needs a run folder or a checkpoint, python -m kdignite doctor runs/NAME --observed=10, or "
                "somebody else's file and its model, --weights=FILE --arch=NAME"
            )
        told = [key for key in ("observed", "predictions", "per_class") if getattr(self, key) is not None]
        if not self.run and told:
            raise UserError(f"--{told[0]} needs the model it was seen with: python -m kdignite doctor runs/NAME")
