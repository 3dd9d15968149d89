"""The part ``digits``: promises of the command line, on images that come with scikit-learn."""

import re
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from checks.pictures import write_pictures
from checks.promises import Promises
from checks.report import Report
from checks.shell import Done, Process, Shell

Work = Callable[[], Done]
INTERRUPTED = 130


class Digits:
    """Runs on digits, whose 1,297 training images make the last batch a smaller one."""

    def __init__(self, shell: Shell, report: Report) -> None:
        self.shell, self.report = shell, report
        tiny = shell.tiny
        small = ["--limit_train=160", "--widths=8,8,8,8,8"] * tiny
        self.common = ["--dataset=digits", f"--device={shell.device}", "--batch_size=64"]
        self.short = [*self.common, f"--epochs={1 if tiny else 4}", *small]
        self.long = [*self.common, f"--epochs={16 if tiny else 60}", *small]
        self.told_epochs = 3 if tiny else 10  # after which a run is interrupted
        self.weak = ["--teacher=runs/teacher", "--allow_weak_teacher"]
        self.teacher_record = [*self.weak, "--alpha=0.7", "--T=3"]

    def work(self, *words: str, limit: float = 100, streamed: bool = False) -> Work:
        """A command that has to succeed."""

        def run() -> Done:
            done = self.shell.cli(*words, limit=limit, streamed=streamed)
            if done.code:
                self.report.fail("digits", " ".join(words)[:56], done.problem)
            return done

        return run

    def kept(self, command: str, name: str, *words: str, limit: float = 100, streamed: bool = False) -> Work:
        """A run that keeps its complete state."""
        return self.work(command, *words, "--keep_last", f"--name={name}", limit=limit, streamed=streamed)

    def interrupted(self, name: str) -> Work:
        """A run that is stopped by Ctrl-C after some epochs, and resumed."""
        table = self.shell.runs / name / "metrics.csv"

        def poke(process: Process) -> bool:
            if table.is_file() and len(table.read_text(encoding="utf-8").splitlines()) > self.told_epochs:
                process.send_signal(signal.SIGINT)
                return True
            return False

        def run() -> Done:
            done = self.shell.cli("baseline", *self.long, "--keep_last", f"--name={name}", poke=poke)
            if done.code != INTERRUPTED:
                self.report.fail("digits", f"{name}: exit code {INTERRUPTED}", done.problem)
                return done
            return self.work("baseline", f"--resume=runs/{name}")()

        return run

    def together(self, works: Mapping[str, Work]) -> dict[str, Done]:
        """Run as many at once as the machine can."""
        with ThreadPoolExecutor(self.shell.jobs) as pool:
            found = dict(zip(works, pool.map(lambda work: work(), works.values()), strict=True))
        self.report.raw.setdefault("digits", {}).update({name: done.seconds for name, done in found.items()})
        return found

    def teach(self) -> bool:
        """Train the teacher of all others."""
        words = ["--arch=cnn5", "--lr=0.1", f"--epochs={2 if self.shell.tiny else 8}", "--name=teacher"]
        words += ["--limit_train=320"] * self.shell.tiny
        return not self.work("teacher", *self.common, *words, limit=120)().code


def part(shell: Shell, report: Report) -> None:
    """Train in many ways, and compare what has to be equal."""
    digits = Digits(shell, report)
    if not digits.teach():
        return
    works = _runs(digits)
    if not shell.tiny:
        works |= _more_runs(digits)
    digits.together(works)
    done = digits.together(_later(digits))
    Promises(shell, report).check(done)


def _runs(digits: Digits) -> dict[str, Work]:
    short, teacher_record = digits.short, digits.teacher_record
    return {
        "base-1": digits.kept("baseline", "base-1", *short),
        "base-2": digits.kept("baseline", "base-2", *short),
        "eager": digits.kept("baseline", "eager", *short, "--graph=off"),
        "alpha0": digits.kept("distill", "alpha0", *short, *digits.weak, "--alpha=0"),
        "whole": digits.kept("baseline", "whole", *digits.long),
        "stopped": digits.interrupted("stopped"),
        "cold": digits.kept("distill", "cold", *short, *teacher_record, "--cache=tables"),
        "live": digits.kept("distill", "live", *short, *teacher_record, "--cache=off"),
    }


def _more_runs(digits: Digits) -> dict[str, Work]:
    """What takes too long for a try of these files."""
    short, common = digits.short, digits.common
    half = [*short, "--amp=fp16", "--grad_clip=1"]
    write_pictures(digits.shell.place / "pictures")
    pictures = ["--dataset=folder:pictures", f"--device={digits.shell.device}", "--batch_size=32", "--epochs=2"]
    adamw = [*short, "--amp=off", "--optimizer=adamw", "--lr=0.002", "--label_smoothing=0.1"]
    found = {
        "cold-eager": digits.kept(
            "distill", "cold-eager", *short, *digits.teacher_record, "--cache=others", "--graph=off"
        ),
        "adamw": digits.kept("baseline", "adamw", *adamw),
        "adamw-eager": digits.kept("baseline", "adamw-eager", *adamw, "--graph=off"),
        "dry": digits.work("baseline", *short, "--fast_dev_run", "--name=dry"),
        "sweep": digits.work("sweep", *short, *digits.weak, "--alpha=0.5,1", "--T=1,4", "--name=sweep"),
        "folder": digits.kept("baseline", "folder", *pictures, limit=120),
        "folder-streamed": digits.kept("baseline", "folder-streamed", *pictures, limit=120, streamed=True),
    }
    for number in (1, 2):
        found[f"fp16-{number}"] = digits.kept("baseline", f"fp16-{number}", *half)
        found[f"fast-{number}"] = digits.kept("teacher", f"fast-{number}", *common, "--epochs=3", limit=120)
    return found


def _later(digits: Digits) -> dict[str, Work]:
    """What needs the runs before it."""
    device = f"--device={digits.shell.device}"
    tiny = digits.shell.tiny
    few = ["--observed=10", "--draws=3", f"--num_images={50 if tiny else 200}", device]
    found = {
        "warm": digits.kept("distill", "warm", *digits.short, *digits.teacher_record, "--cache=tables"),
        "doctor-1": digits.work("doctor", "runs/teacher", *few, "--name=doctor-1"),
        "doctor-2": digits.work("doctor", "runs/teacher", *few, "--name=doctor-2"),
        "compare": digits.work("compare", "runs/teacher", "runs/cold", "runs/base-1"),
        "evaluate": digits.work("evaluate", "runs/teacher", device),
    }
    if digits.shell.cuda:
        found["evaluate on a CPU"] = digits.work("evaluate", "runs/teacher", "--device=cpu")
    if not tiny:
        found["two processes"] = lambda: _two_processes(digits)
    return found


def _two_processes(digits: Digits) -> Done:
    """Told to use the CPU, nobody should touch a GPU that is there."""
    words = [word for word in digits.short if not word.startswith("--device")]
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "kdignite", "baseline"]
    done = digits.shell.run([*start, *words, "--device=cpu", "--threads=1", "--name=two"], limit=120)
    if done.code:
        digits.report.fail("digits", "two processes on the CPU", done.problem)
    noise = len(re.findall("Current device index", done.err))
    told = f"{done.seconds:.1f} s, {noise}"
    digits.report.row("digits", "two processes on the CPU: seconds, warnings of a GPU", told, ok=not noise)
    return done
