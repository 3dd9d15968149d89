"""The settings of ``export``."""

from dataclasses import dataclass
from typing import ClassVar

from kdignite.config import shared
from kdignite.config.fields import Config, flag
from kdignite.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Write a finished model for other programs, checked against the run, with a model card."""

    command: ClassVar[str] = "export"

    run: str = flag("", "a run folder (runs/NAME or NAME) or a checkpoint file")
    format: str = flag(
        "onnx",
        "onnx; torch, a program of torch.export (.pt2); or safetensors, the weights alone",
        choices=("onnx", "torch", "safetensors"),
        group="model",
    )
    preprocessing: str | None = flag(
        None,
        "inside: the graph takes uint8 pixels (N, H, W, 3); outside: it takes normalized float32 (N, 3, H, W); unset: "
        "inside, where there is a graph",
        choices=("inside", "outside"),
        group="model",
    )
    int8: bool = flag(
        False,
        "also write model_int8.onnx, quantized with training images, if it is smaller or faster",
        group="model",
    )
    name: str | None = shared.run_name("name of the new folder in runs/; unset: export-RUN-FORMAT")
    dataset: str | None = shared.dataset_now()
    data_root: str | None = shared.data_root()
    skip_broken: bool = shared.skip_broken()
    arch: str | None = shared.own_arch()
    threads: int | None = shared.threads()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.run:
            raise UserError("export needs a run folder or a checkpoint: python -m kdignite export runs/NAME")
        if self.int8 and self.format != "onnx":
            raise UserError(f"--int8 is for --format=onnx, not {self.format}: leave it out")
        if self.format == "safetensors" and self.preprocessing == "inside":
            raise UserError("safetensors hold weights without a graph: leave out --preprocessing=inside")

    @property
    def inside(self) -> bool:
        """Whether the preprocessing is part of the exported graph."""
        return self.format != "safetensors" and self.preprocessing != "outside"
