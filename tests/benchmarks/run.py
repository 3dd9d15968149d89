"""The same job by kdignite and by its rivals, alternating on one machine: speed, time, accuracy."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from contenders import Bench, Flags, Record, Rival, kdignite_run, rival_run
from job import SIZE, add_recipe, load_images
from table import Speeds, fastest, report

from kdignite import checkpoints, files, runs
from kdignite.models.registry import build_model
from kdignite.streams import seeded

RECIPE = (
    *("dataset", "data_root", "limit_train", "arch", "epochs", "batch_size"),
    *("lr", "momentum", "alpha", "T", "threads"),
)
PROBE_EPOCHS = 2  # a number of workers is chosen by the faster of them: in the second all are running
PROBE_IMAGES = 5000


def parse() -> argparse.Namespace:
    """The command line.

    Returns:
        Its arguments.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe(parser)
    parser.add_argument(
        "--teacher", type=Path, required=True, help="kdignite checkpoint, such as runs/teacher/best.safetensors"
    )
    parser.add_argument(
        "--torchdistill_python", type=Path, help="interpreter that has torchdistill; unset: without that rival"
    )
    parser.add_argument(
        "--ours",
        type=_row,
        action="append",
        required=True,
        metavar="NAME=FLAGS",
        help="a row of kdignite and the flags it adds to the job; any number of times",
    )
    parser.add_argument("--prime", nargs="*", default=[], help="rows of kdignite with a run before those that count")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="of which each rival takes its best")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, help="new folder for results.json, table.md and logs")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    """Measure all contenders in turn, and write the results after every round.

    Args:
        arguments: as parsed.
    """
    torch.set_num_threads(arguments.threads)
    bench = prepare(arguments)
    rivals = [Rival("plain", "plain.py", sys.executable)]
    if arguments.torchdistill_python:
        # absolute, but not resolved: behind an environment's link there is an interpreter without its packages
        rivals.append(Rival("torchdistill", "torchdistill_job.py", str(arguments.torchdistill_python.absolute())))
    probed = {rival.name: probe(bench, rival, arguments.workers) for rival in rivals}
    contenders = {name: kdignite_run(bench, name=name, flags=flags) for name, flags in arguments.ours}
    contenders |= {one.name: rival_run(bench, one, workers=fastest(probed[one.name])) for one in rivals}
    # its seed is that of no repetition
    primed = {name: told(name, contenders[name](arguments.repetitions)) for name in arguments.prime}
    records: dict[str, list[Record]] = {name: [] for name in contenders}
    for repetition in range(arguments.repetitions):
        for name in rotated([*contenders], repetition):
            records[name].append(told(name, contenders[name](repetition)))
        write_results(bench, records, probed=probed, primed=primed)


def prepare(arguments: argparse.Namespace) -> Bench:
    """Make the folder, with the weights of teacher and initial student in plain files.

    Args:
        arguments: as parsed.

    Returns:
        What every measurement needs.
    """
    checkpoint = checkpoints.load_checkpoint(arguments.teacher.resolve())
    description = checkpoint.description
    images = load_images(
        arguments.dataset,
        data_root=arguments.data_root,
        limit_train=arguments.limit_train,
        mean=description.preprocessing.mean,
        std=description.preprocessing.std,
    )
    recipe = {name: getattr(arguments, name) for name in RECIPE}
    bench = Bench(recipe, checkpoint, len(images.train), images.test, arguments.output.resolve())
    (bench.folder / "logs").mkdir(parents=True)
    with seeded("init", 0):
        student = build_model(arguments.arch, num_classes=images.num_classes, size=SIZE, options={})
    torch.save(student.state_dict(), bench.student)
    torch.save(checkpoint.weights, bench.teacher)
    return bench


def probe(bench: Bench, rival: Rival, candidates: Sequence[int]) -> Speeds:
    """The speed of a rival with different numbers of workers, on a small part of the job.

    Args:
        bench: of all.
        rival: to be measured.
        candidates: numbers of worker processes.

    Returns:
        Images per second by number of workers, of the faster epoch.
    """
    limit_train = min(bench.num_train, PROBE_IMAGES)
    small = bench._replace(recipe={**bench.recipe, "epochs": PROBE_EPOCHS, "limit_train": limit_train})
    speeds = {}
    for workers in candidates:
        speeds[workers] = max(rival_run(small, rival, workers=workers)(0)["images_per_s"])
        print(f"{rival.name} with {workers} workers: {speeds[workers]:.0f} images/s", flush=True)
    return speeds


def rotated(names: list[str], by: int) -> list[str]:
    """The names beginning with another one in every round, so that none always follows the same.

    Args:
        names: of the contenders.
        by: number of the round.

    Returns:
        The names in the order of that round.
    """
    start = by % len(names)
    return names[start:] + names[:start]


def told(name: str, record: Record) -> Record:
    """Print what was measured.

    Args:
        name: of the contender.
        record: of one run.

    Returns:
        The record.
    """
    print(
        f"{name}: {record['median_images_per_s']:.0f} images/s, training {record['train_seconds']:.1f} s, "
        f"process {record['wall_seconds']:.1f} s, accuracy {record['accuracy']:.2%}",
        flush=True,
    )
    return record


def write_results(
    bench: Bench, records: Mapping[str, Sequence[Record]], *, probed: Mapping[str, Speeds], primed: Mapping[str, Record]
) -> None:
    """Write everything that was measured so far, and the table of it.

    Args:
        bench: of all.
        records: of each contender.
        probed: of each rival, its speeds by number of workers.
        primed: of each contender that had one, the run that does not count.
    """
    machine = runs.environment(torch.device("cpu"))
    job = {name: value for name, value in bench.recipe.items() if name != "data_root"}
    job |= {"num_train": bench.num_train, "teacher": bench.checkpoint.description.architecture.name}
    values = {"machine": machine, "job": job, "workers": probed, "primed": primed, "records": records}
    files.write_json(bench.folder / "results.json", values)
    text = report(records, probed, machine=machine, job=job)
    (bench.folder / "table.md").write_text(text, encoding="utf-8")
    print(text)


def _row(text: str) -> tuple[str, Flags]:
    """A row of kdignite as it is typed: ``warm=--cache=table --views=10``."""
    name, _, flags = text.partition("=")
    words = [word.removeprefix("--").partition("=") for word in shlex.split(flags)]
    return name, {key: value or "true" for key, _, value in words}


if __name__ == "__main__":
    main(parse())
