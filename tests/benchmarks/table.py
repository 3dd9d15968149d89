"""What was measured as text: pure functions from records to a table and the sentences it needs."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdignite.reports.text import NO_SCORE, markdown_table, per_cent

HEADER = ("contender", "images/s", "range", "training s", "process s", "accuracy %", "std", "x faster rival")

Record = Mapping[str, Any]
Speeds = Mapping[int, float]  # number of workers -> images per second


def report(
    records: Mapping[str, Sequence[Record]],
    probed: Mapping[str, Speeds],
    *,
    machine: Mapping[str, Any],
    job: Mapping[str, Any],
) -> str:
    """The table, the job, the machine and the versions.

    Args:
        records: of each contender, at least one.
        probed: of each rival, its speeds by number of workers.
        machine: as `kdignite.runs.environment` describes it.
        job: the recipe, with ``teacher`` and ``num_train``.

    Returns:
        Markdown, ending in a newline.
    """
    repetitions = min(map(len, records.values()))
    lines = [
        markdown_table(table_rows(records, rivals=probed), num_names=1),
        f"Medians of {repetitions} alternating repetitions (images/s: of the median epoch of each), accuracy on the "
        "test images as mean and standard deviation over the seeds.",
        "Job: {teacher} teaches {arch} on {num_train:,} images of {dataset}, {epochs} epochs, batch {batch_size}, SGD "
        "with lr {lr} and momentum {momentum}, alpha {alpha}, T {T}.".format(**job),
        "Everything in float32, unless the flags of a row say otherwise.",
        "Machine: {processor}, {cores} cores, {threads} threads; Python {python}, kdignite {kdignite} at "
        "{commit}.".format(**machine),
        *(_rival_line(name, records[name][0], speeds) for name, speeds in probed.items()),
    ]
    return "\n\n".join(lines) + "\n"


def table_rows(records: Mapping[str, Sequence[Record]], *, rivals: Iterable[str]) -> list[tuple[str, ...]]:
    """A row for each contender.

    Args:
        records: of each contender, at least one.
        rivals: names of those that are not kdignite.

    Returns:
        Cells; the first row is the header.
    """
    faster_rival = max(_median(records[name], "median_images_per_s") for name in rivals)
    return [HEADER, *(_cells(name, ones, faster_rival=faster_rival) for name, ones in records.items())]


def fastest(speeds: Speeds) -> int:
    """The number of workers with the highest speed.

    Args:
        speeds: by number of workers.

    Returns:
        The number.
    """
    return max(speeds, key=lambda workers: speeds[workers])


def _cells(name: str, records: Sequence[Record], *, faster_rival: float) -> tuple[str, ...]:
    speeds, accuracies = ([one[key] for one in records] for key in ("median_images_per_s", "accuracy"))
    return (
        name,
        f"{statistics.median(speeds):,.0f}",
        f"{min(speeds):,.0f} to {max(speeds):,.0f}",
        f"{_median(records, 'train_seconds'):,.1f}",
        f"{_median(records, 'wall_seconds'):,.1f}",
        per_cent(statistics.mean(accuracies), digits=2),
        per_cent(statistics.stdev(accuracies), digits=2) if len(accuracies) > 1 else NO_SCORE,
        f"{statistics.median(speeds) / faster_rival:.2f}",
    )


def _median(records: Iterable[Record], key: str) -> float:
    return statistics.median(one[key] for one in records)


def _rival_line(name: str, record: Record, speeds: Speeds) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
    tried = ", ".join(f"{workers}: {speed:,.0f}" for workers, speed in speeds.items())
    return f"{name}: {versions}; {fastest(speeds)} workers (images/s of a small part by workers: {tried})."
