"""What the models of a comparison cost, and how much cheaper the student is than its teacher."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple


class CostMeasure(NamedTuple):
    """How a cost is shown, and the word for a smaller one."""

    label: str
    unit: str
    divisor: float
    smaller: str


# of a run and, but for the first and the file, of one image
COSTS = {
    "num_parameters": CostMeasure("parameters", "", 1, "fewer"),
    "multiply_adds": CostMeasure("multiply-adds of an image", "million", 1e6, "fewer"),
    "file_bytes": CostMeasure("file", "MiB", 2**20, "smaller"),
    "latency_median_ms": CostMeasure("CPU latency of an image, median", "ms", 1, "faster"),
    "latency_p95_ms": CostMeasure("CPU latency of an image, p95", "ms", 1, "faster"),
    "peak_memory_bytes": CostMeasure("peak memory of an image", "MiB", 2**20, "smaller"),
}
LATENCIES = ("latency_median_ms", "latency_p95_ms")
SIZE = ("num_parameters", "multiply_adds")
THREADS = "latency_threads"
Costs = dict[str, float | None]  # by the keys of COSTS, and THREADS


class CostSummary(NamedTuple):
    """The median costs of each role, and teacher / student, where both were measured alike."""

    models: dict[str, Costs]
    saved: Costs


def cost_summary(
    measured: Mapping[str, Sequence[Mapping[str, Any] | None]], *, same_processor: bool = True
) -> CostSummary:
    """What the runs of each role cost; latencies have a ratio only of two networks on one processor and its threads."""
    models = {role: _median_costs(runs) for role, runs in measured.items()}
    teacher, student = models["teacher"], models["student"]
    is_same = None not in (size := [teacher[key] for key in SIZE]) and size == [student[key] for key in SIZE]
    alike = same_processor and teacher[THREADS] == student[THREADS] and not is_same  # what differs then is noise
    ratios = {key: _ratio(teacher[key], student[key]) if alike or key not in LATENCIES else None for key in COSTS}
    return CostSummary(models, ratios)


def together(measured: Sequence[Mapping[str, Any] | None]) -> list[Mapping[str, Any] | None]:
    """The cost of several teachers as one: the sum of theirs, where each was measured."""
    if len(measured) < 2:
        return [*measured]
    values = {key: [(one or {}).get(key) for one in measured] for key in (*COSTS, THREADS)}
    total: dict[str, Any] = {key: None if None in values[key] else sum(values[key]) for key in COSTS}
    return [total | {THREADS: values[THREADS][0] if len({*values[THREADS]}) == 1 else None}]


def _median_costs(runs: Sequence[Mapping[str, Any] | None]) -> Costs:
    costs: Costs = {}
    for key in COSTS:
        values = [value for run in runs if (value := (run or {}).get(key)) is not None]
        costs[key] = type(values[0])(median(values)) if values else None  # a count stays one
    threads = {run.get(THREADS) for run in runs if run}
    return {**costs, THREADS: threads.pop() if len(threads) == 1 else None}


def _ratio(teacher: float | None, student: float | None) -> float | None:
    return teacher / student if teacher and student else None
