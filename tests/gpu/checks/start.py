"""The part ``start``: from typing a command to its end, on CIFAR-shaped images, and what was said of the time."""

import csv
import math
import re
from typing import NamedTuple

from checks.alike import result_of
from checks.report import Report
from checks.shell import Shell

LONG_S = 10.0  # a shorter run is too short to judge what was said of it
MEANT_S = 18.0
FEWEST, MOST = 4, 200  # epochs


class Started(NamedTuple):
    """What a run took, in seconds."""

    epochs: int
    estimate: int | None  # of what was left when it was printed
    training: float
    run: float
    process: float
    rates: list[str]  # images/s of each epoch


def part(shell: Shell, report: Report) -> None:
    """Train a few epochs, then as many as take long enough to judge the estimate."""
    short = _baseline(shell, report, epochs=1 if shell.tiny else FEWEST)
    if short is None:
        return
    _tell(report, short)
    report.row("start", "images/s by epoch", ", ".join(short.rates))
    if shell.tiny or short.run > LONG_S:
        return
    an_epoch = max(short.training / short.epochs, 1e-3)
    long = _baseline(shell, report, epochs=min(MOST, math.ceil(MEANT_S / an_epoch)))
    if long is not None:
        _tell(report, long)


def _baseline(shell: Shell, report: Report, *, epochs: int) -> Started | None:
    data, name = "few" if shell.tiny else "images", f"start-{epochs}"
    words = [f"--dataset=checks.noise:{data}", f"--device={shell.device}", f"--epochs={epochs}", f"--name={name}"]
    done = shell.cli("baseline", *words, limit=120)
    about = re.search(r"time +about ([\d:]+) left", done.out)
    if done.code or (about is None and not shell.tiny):
        report.fail("start", f"{epochs} epochs", done.problem)
        return None
    result = result_of(shell.runs / name)
    with (shell.runs / name / "metrics.csv").open(encoding="utf-8") as file:
        rates = [row["images_per_s"] for row in csv.DictReader(file)]
    return Started(
        epochs,
        _seconds(about[1]) if about else None,
        float(result["train_seconds"]),
        float(result["wall_seconds"]),
        done.seconds,
        rates,
    )


def _tell(report: Report, one: Started) -> None:
    """What was printed after a few seconds may be twice or half of what the run took."""
    judged = one.estimate is not None and one.run > LONG_S
    ok = one.run / 2 - 5 <= one.estimate <= one.run * 2 if judged else None
    told = f"{one.estimate}; {one.run}; {one.training}; {one.process:.1f}"
    report.row("start", f"{one.epochs} epochs: estimate; run; training; process (s)", told, ok=ok)


def _seconds(told: str) -> int:
    """Of ``m:ss`` or ``h:mm:ss``."""
    total = 0
    for word in told.split(":"):
        total = 60 * total + int(word)
    return total
