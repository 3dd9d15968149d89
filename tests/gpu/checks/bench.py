"""The part ``bench``: the command of that name."""

import json
import re

from checks.report import Report
from checks.shell import Shell

JOBS = {
    "bench": (),
    "bench, --graph=off": ("--graph=off",),
    "bench, float32": ("--amp=off",),
    "bench, batches of 500": ("--batch_size=500",),
}


def part(shell: Shell, report: Report) -> None:
    """Images a second of each way to distil, and where the time of a step goes."""
    words = [f"--device={shell.device}", "--teacher_arch=resnet20"]
    if shell.tiny:
        words += ["--dataset=checks.noise:few", "--num_images=200", "--repeats=2"]
    else:
        words += ["--dataset=checks.noise:images", "--num_images=20000", "--repeats=3"]
    for title in list(JOBS)[:1] if shell.tiny else JOBS:
        _one(shell, report, title, [*words, *JOBS[title]])


def _one(shell: Shell, report: Report, title: str, words: list[str]) -> None:
    name = re.sub(r"\W+", "-", title)
    done = shell.cli("bench", *words, f"--name={name}", limit=100)
    if done.code:
        report.fail("bench", title, done.problem)
        return
    summary = json.loads((shell.runs / name / "bench.json").read_text(encoding="utf-8"))
    report.raw.setdefault("bench", {})[title] = summary
    rates = ", ".join(f"{name} {rate['median']:,.0f}" for name, rate in summary["images_per_s"].items())
    report.row("bench", f"{title}: images/s", rates)
    parts = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in summary["step_seconds"].items())
    report.row("bench", f"{title}: ms of a step", parts)
