"""Files that other programs run: written from a network, and opened again as functions of pixels."""

import importlib.util
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from kdignite.data.specs import Preprocessing
from kdignite.errors import UserError
from kdignite.outputs import logits_in
from kdignite.plugins import TRACEBACK, own_error

PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # of the extra ``export``
OPSET = 18  # the first with every operator that torch writes; read by onnxruntime 1.14 and later
BATCH = "batch"  # the name of the dimension that is free
OUTPUTS = ("logits", "probabilities")
FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}
OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'")  # in the error of torch's exporter
AT_ONCE = 16  # images: onnxruntime holds what all layers make of a batch (10 GiB for 55 of 224 pixels of one network)
METADATA = "metadata.json"  # in a file of torch.export
Logits = Callable[[Tensor], Tensor]  # uint8 images (N, 3, S, S) -> logits (N, C)


class Feed(NamedTuple):
    """What an exported graph is fed with."""

    preprocessing: Preprocessing
    inside: bool  # whether the graph normalizes, and takes pixels

    @property
    def name(self) -> str:
        """``images`` for pixels; ``pixel_values``, the word of the hub's models, for what is normalized."""
        return "images" if self.inside else "pixel_values"

    @property
    def shape(self) -> tuple[int | str, ...]:
        size = self.preprocessing.size
        return (BATCH, size, size, 3) if self.inside else (BATCH, 3, size, size)

    def of(self, images: Tensor) -> Tensor:
        """The input for uint8 images (N, 3, S, S)."""
        if self.inside:
            return images.permute(0, 2, 3, 1).contiguous()
        return normalized(images, *scale_and_shift(self.preprocessing))


class Deployed(nn.Module):
    """A network as it is exported: from its `Feed` to logits and probabilities, both (N, C)."""

    def __init__(self, network: nn.Module, feed: Feed) -> None:
        super().__init__()
        self.network = network
        self.inside = feed.inside
        self.scale, self.shift = (nn.Buffer(one) for one in scale_and_shift(feed.preprocessing))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``logits = network((images / 255 - mean) / std)``, ``probabilities = softmax(logits)``."""
        if self.inside:
            # contiguous: a network may have views that need it
            images = normalized(images.permute(0, 3, 1, 2), self.scale, self.shift).contiguous()
        logits = logits_in(self.network(images))
        return logits, logits.softmax(1)


def scale_and_shift(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) each, as `kdignite.data.preprocess.preparer` computes them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return 1 / (255 * std), -mean / std


def normalized(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return images.float() * scale + shift


def check_packages(name: str) -> None:
    """Refuse a format whose packages are not installed."""
    missing = [one for one in PACKAGES if name == "onnx" and importlib.util.find_spec(one) is None]
    if missing:
        raise UserError(f"--format=onnx needs {', '.join(missing)}: pip install {' '.join(PACKAGES)}")


def capture(network: nn.Module, feed: Feed, *, who: str) -> torch.export.ExportedProgram:
    """A network as a graph of any batch size, or a `UserError` with what it does that no graph can hold."""
    model = Deployed(network, feed).eval()
    size = feed.preprocessing.size
    example = feed.of(torch.zeros(2, 3, size, size, dtype=torch.uint8))
    try:
        with _quiet(), torch.no_grad():
            batch = torch.export.Dim(BATCH, min=1)
            return torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:
        raise UserError(
            f"{who} cannot be exported as a graph: {own_error(error)} ({TRACEBACK}); --format=safetensors writes its "
            "weights alone"
        ) from error


def write_onnx(program: torch.export.ExportedProgram, path: Path, *, feed: Feed, metadata: Mapping[str, str]) -> None:
    """Write a program as ONNX, with names for its inputs and outputs and nothing of this machine in it."""
    import onnx

    try:
        with _quiet():
            made: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=[feed.name],
                output_names=OUTPUTS,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise UserError(f"--format=onnx: {_cause(error)} ({TRACEBACK}); --format=torch has every operator") from error
    model = made.model_proto
    _strip(model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))


def _strip(model: Any) -> None:
    """Drop the notes of the exporter: the folders and lines of code of this machine."""
    graph = model.graph
    for one in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del one.metadata_props[:]
        one.doc_string = ""


def _cause(error: BaseException) -> str:
    """The operator that ONNX lacks, which the last of a chain of errors names; else what that says."""
    while error.__cause__ is not None:
        error = error.__cause__
    operator = OPERATOR.search(str(error))
    return f"ONNX has no operator for {operator[1]}" if operator else own_error(error)


def write_torch(program: torch.export.ExportedProgram, path: Path, *, metadata: Mapping[str, str]) -> None:
    torch.export.save(program, path, extra_files={METADATA: json.dumps(dict(metadata))})


def write_safetensors(network: nn.Module, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write the state dict as any reader of safetensors expects it; tied tensors are written twice."""
    weights = {name: one.detach().clone().contiguous() for name, one in network.state_dict().items()}
    safetensors.torch.save_file(weights, path, metadata={"format": "pt", **metadata})


def open_session(path: Path, *, threads: int) -> Any:
    """An onnxruntime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: warnings tell of optimizations that were not needed
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_logits(session: Any, feed: Feed) -> Logits:
    def logits_of(images: Tensor) -> Tensor:
        runs = (session.run(OUTPUTS, {feed.name: feed.of(some).numpy()}) for some in images.split(AT_ONCE))
        return torch.cat([torch.from_numpy(np.asarray(logits)) for logits, _ in runs])

    return logits_of


def torch_logits(path: Path, feed: Feed) -> Logits:
    program = torch.export.load(path).module()

    def logits_of(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = program(feed.of(images))[0]
        return logits

    return logits_of


def safetensors_logits(path: Path, network: nn.Module, feed: Feed) -> Logits:
    """The weights of a file in a new network."""
    network.load_state_dict(safetensors.torch.load_file(path))
    deployed = Deployed(network, feed).eval()

    def logits_of(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = deployed(feed.of(images))[0]
        return logits

    return logits_of


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters print and log beside the error that they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
