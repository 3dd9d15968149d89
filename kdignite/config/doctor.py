"""The flags of ``doctor``."""

from dataclasses import dataclass
from typing import Any, ClassVar

from kdignite.config import shared
from kdignite.config.fields import Config, flag
from kdignite.errors import UserError
from kdignite.methods.registry import METHODS


def _of_kd(name: str, meaning: str) -> Any:
    one = METHODS["kd"].parameters[name]
    return flag(one.default, meaning, low=one.low, high=one.high, above=one.above, group="distillation")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Config):
    """Find out why a model scores less in your evaluation than it did in training."""

    command: ClassVar[str] = "doctor"

    run: str = flag("", "a run folder (runs/NAME or NAME) or a checkpoint file")
    observed: float | None = flag(
        None,
        "accuracy you got, as 0.6%; without the sign in per cent where it is above 1, else a share (0.5 is 50 %): "
        "lists the settings that fit it",
        low=0,
        high=100,
        share=True,
        group="your results",
    )
    observed_images: int | None = flag(
        None, "images you got it on; unset: the test images of the data set", low=1, group="your results"
    )
    predictions: str | None = flag(
        None,
        "your predictions, in the data set's order: labels or logits as .npy, .npz, .csv, .txt or .pt, or a run's "
        "predictions.npz; identifies the mistake",
        group="your results",
    )
    per_class: tuple[float, ...] | None = flag(
        None,
        "accuracies you got by class, in the data set's order: 90%,0.6%, or without the sign shares, or per cent where "
        "one is above 1",
        low=0,
        high=100,
        share=True,
        group="your results",
    )
    split: str | None = flag(
        None,
        "which images are evaluated, and --predictions are of: test or val; unset: by the number of predictions, "
        "else val",
        choices=("test", "val"),
        group="data",
    )
    weights: str | None = flag(
        None,
        "another file with a state dict: lists which keys fit RUN's model (without RUN: --arch's), and which do not",
        group="model",
    )
    key: str = shared.key()
    arch: str | None = flag(
        None,
        "package.module:function again, for a model of your own; without RUN: the model that --weights are for",
        group="model",
    )
    alpha: float = _of_kd("alpha", "weight of a teacher's term, for the statistics of a teacher's targets")
    T: float = _of_kd("T", "temperature, for the statistics of a teacher's targets")
    num_images: int = flag(2_000, "images evaluated at most, spread over the whole split", low=1, group="data")
    draws: int = flag(10, "repetitions of a random mistake, such as a new head", low=3)
    name: str | None = shared.run_name("name of the new folder in runs/; unset: doctor-RUN")
    dataset: str | None = shared.dataset_now()
    data_root: str | None = shared.data_root()
    skip_broken: bool = shared.skip_broken()
    device: str = shared.device()
    threads: int | None = shared.threads()

    def __post_init__(self) -> None:
        """Check each field; a run is required, or a file and its model."""
        super().__post_init__()
        if not self.run and not (self.weights and self.arch):
            raise UserError(
                "doctor needs a run folder or a checkpoint, python -m kdignite doctor runs/NAME --observed=10, or "
                "another file and its model, --weights=FILE --arch=NAME"
            )
        given = [key for key in ("observed", "predictions", "per_class") if getattr(self, key) is not None]
        if not self.run and given:
            raise UserError(f"--{given[0]} needs the model that it belongs to: python -m kdignite doctor runs/NAME")
