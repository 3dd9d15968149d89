"""Whether kdignite keeps its promises on a GPU, and how fast it is there; see README.md beside this file.

    python tests/gpu/check.py                       # everything, in at most --budget seconds
    python tests/gpu/check.py --only=digits,speed   # some parts
    python tests/gpu/check.py --device=cpu --tiny   # the logic of these files, on a CPU

Every part is a process of its own with a time limit, or starts some. The exit code is 0 if all is well, 1 if a promise
is broken or something failed, 2 if nothing could be started.
"""

import argparse
import importlib
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from checks import bench, digits, own_tests, start
from checks.report import Report
from checks.shell import Shell

Part = Callable[[Shell, Report], None]
PACKAGES = ("torch", "torchvision", "ignite", "tensorboard", "fire", "sklearn", "scipy", "matplotlib", "PIL", "tqdm")
ON_GPU_ALONE = ("syncs", "pytest", "compile")
SHORTEST_S = 15.0  # a part that has less time is left out


def in_child(shell: Shell, report: Report, *, name: str, limit: float) -> None:
    """A part that is one process: ``check`` of a module in ``checks``."""
    report.record_resume(name, shell.child(name, limit=limit))


PARTS: dict[str, Part] = {
    "env": partial(in_child, name="env", limit=60),
    "logits": partial(in_child, name="logits", limit=90),
    "digits": digits.part,
    "repeat": partial(in_child, name="repeat", limit=60),
    "graph": partial(in_child, name="graph", limit=120),
    "speed": partial(in_child, name="speed", limit=150),
    "profile": partial(in_child, name="profile", limit=60),
    "syncs": partial(in_child, name="syncs", limit=60),
    "start": start.part,
    "pytest": own_tests.part,
    "bench": bench.part,
    "compile": partial(in_child, name="compile", limit=150),
}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", default="", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--budget", type=float, default=460.0, help="seconds for everything")
    parser.add_argument("--jobs", type=int, default=0, help="processes at once in the part digits")
    parser.add_argument("--out", type=Path, help="file for everything that was found, as JSON")
    parser.add_argument("--tiny", action="store_true", help="as little work as shows that these files run")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def refusal(options: argparse.Namespace) -> str | None:
    """Why nothing can be started; None: it can."""
    if unknown := sorted(set(filter(None, options.only.split(","))) - set(PARTS)):
        return f"there is no part {', '.join(unknown)}: there are {', '.join(PARTS)}"
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        return f"packages are missing ({', '.join(missing)}): install kdignite first, pip install -e ."
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "torch sees no GPU here: --device=cpu --tiny tries these files on a CPU"
    return None


def out_file(asked: Path | None) -> Path:
    """Where everything that was found is written."""
    name = "gpu_check.json"
    folder = os.environ.get("OUT")
    path = asked or (Path(folder) / name if folder else Path(tempfile.mkdtemp(prefix="kdignite-check-")) / name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def run_parts(shell: Shell, report: Report, wanted: list[str]) -> None:
    """Run parts in the order of their table; one that fails costs no other."""
    for name, part in PARTS.items():
        if name not in wanted:
            continue
        if name in ON_GPU_ALONE and not shell.cuda:
            report.row(name, "left out", "for machines with a GPU")
            continue
        if shell.left() < SHORTEST_S:
            report.row(name, "left out", "no time was left")
            continue
        try:
            part(shell, report)
        except Exception:  # noqa: BLE001
            report.fail(name, "the check itself", traceback.format_exc())


def run_child(options: argparse.Namespace) -> None:
    """The inside of a part that is one process."""
    from checks.context import Context

    importlib.import_module(f"checks.{options.child}").check(Context(options.device, tiny=options.tiny))


def main() -> int:
    """Check, and return the exit code."""
    options = parsed()
    if options.child:
        run_child(options)
        return 0
    if why := refusal(options):
        print(why, file=sys.stderr)
        return 2
    report = Report(out_file(options.out))
    shell = Shell(options.device, tiny=options.tiny, budget=options.budget, jobs=options.jobs)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: shell.stop())  # what is running ends, and what was found is shown
    try:
        run_parts(shell, report, options.only.split(",") if options.only else [*PARTS])
    finally:
        report.show()
        shutil.rmtree(shell.place, ignore_errors=True)
    return 0 if report.is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
