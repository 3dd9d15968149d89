"""Static quantization to 8 bits, and whether it was worth it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdignite.export.check import Parity
from kdignite.export.programs import AT_ONCE, Feed
from kdignite.reports.text import per_cent, points
from kdignite.timing import alternate, median_range

CALIBRATION_IMAGES = 512  # of the training part; ranges of activations change little beyond a few hundred
MOST_CALLS, FEWEST_CALLS = 200, 20  # of each model, in turn
TIMED_SECONDS = 10.0  # of all of them, unless `FEWEST_CALLS` take longer
# operators with a kernel for 8 bits, or that pass them on; others compute in float32 in between
OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool")
WEIGHTED = ("Conv", "Gemm", "MatMul")


class Use(NamedTuple):
    """What a file costs to keep and to run."""

    num_bytes: int
    latency_ms: float | None = None  # median, one image, one thread; None: not measured


def gains(int8: Use, float32: Use) -> list[str]:
    """What a quantized model is better in: smaller, faster, both or nothing."""
    times = [use.latency_ms for use in (int8, float32) if use.latency_ms is not None]
    found = {"smaller": int8.num_bytes < float32.num_bytes, "faster": len(times) > 1 and times[0] < times[1]}
    return [word for word, holds in found.items() if holds]


def judged(uses: Mapping[str, Use], tests: Mapping[str, Any], names: Sequence[str], *, same: Parity) -> dict[str, Any]:
    """Whether the second of two files is kept, and the numbers of both in one line."""
    float32, int8 = (uses[name] for name in names)
    better = gains(int8, float32)
    one, other = (tests[name]["accuracy"] for name in names)
    lost = f"accuracy {per_cent(other, digits=2)} % ({points(other - one, digits=2)} points)"
    text = (
        f"{names[1]}: {kib(int8.num_bytes)} against {kib(float32.num_bytes)} KiB, {int8.latency_ms:.2f} against "
        f"{float32.latency_ms:.2f} ms, {lost}, "
        f"same class for {per_cent(same.num_same / same.num_images)} % of the test images"
    )
    verdict = f"kept, being {' and '.join(better)}" if better else "not better, so left out"
    return {**int8._asdict(), "accepted": bool(better), "num_same": same.num_same, "text": f"{verdict}: {text}"}


def kib(num_bytes: int) -> str:
    return f"{num_bytes / 2**10:,.1f}"


def quantize(path: Path, quantized: Path, images: Iterable[Tensor], *, feed: Feed, metadata: Mapping[str, str]) -> None:
    """Write an ONNX model with weights (each channel) and activations of 8 bits, as QuantizeLinear/DequantizeLinear.

    The range of an activation is the mean of its extremes in batches of 16 images: one that only a few images reach is
    clipped, and all the others get the finer steps. (The extremes of all 512 cost a mobilenetv3 a quarter of its
    answers, their means a tenth.) The preprocessing, the logits and the probabilities stay in float32.

    Args:
        path: the float32 model.
        quantized: the new file.
        images: batches of uint8 (B, 3, size, size) to calibrate with.
        feed: what the model takes.
        metadata: what the new file holds beside the graph.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            few = (chunk for batch in images for chunk in batch.split(AT_ONCE))
            self.inputs = ({feed.name: feed.of(chunk).numpy()} for chunk in few)

        def get_next(self) -> Any:
            return next(self.inputs, None)

    prepared = quantized.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared),
        str(quantized),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=list(OPERATORS),
        nodes_to_exclude=list(_before_weights(onnx.load(str(prepared)))),
        # a sum that is rounded to 8 bits would leave ties between classes
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"], "CalibMovingAverage": True},
    )
    prepared.unlink()
    model = onnx.load(str(quantized))
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(quantized))


def _before_weights(model: Any) -> Iterator[str]:
    """The names of the nodes before the first that has weights: those of the preprocessing."""
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            return
        yield node.name


def latencies(sessions: Mapping[str, Any], *, feed: Feed) -> dict[str, float]:
    """Median milliseconds of one image in each session, called in turn so that other load affects them alike."""
    size = feed.preprocessing.size
    image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = {feed.name: feed.of(image).numpy()}
    trials = {name: partial(_seconds, session, given) for name, session in sessions.items()}
    calls = int(TIMED_SECONDS / sum(median_range([trial() for _ in range(3)]).median for trial in trials.values()))
    measured = alternate(trials, repeats=max(FEWEST_CALLS, min(MOST_CALLS, calls)))
    return {name: 1e3 * median_range(seconds).median for name, seconds in measured.items()}


def _seconds(session: Any, given: Mapping[str, Any]) -> float:
    started = time.perf_counter()
    session.run(None, given)
    return time.perf_counter() - started
