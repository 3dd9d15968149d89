"""What the runs of the part ``digits`` have to have in common."""

import json
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from checks.alike import compare, result_of
from checks.report import Report
from checks.shell import Done, Shell

OF_TEACHER = ("kd", "accuracy_teacher")  # columns that a baseline leaves empty
# the same, to the last bit: what is told, and the two runs
EQUAL = (
    ("same command twice", "base-1", "base-2"),
    ("captured or not", "base-1", "eager"),
    ("stopped and resumed is the whole", "stopped", "whole"),
    ("warm table is the cold one", "warm", "cold"),
)
EQUAL_TOO = (
    ("captured or not, with a teacher", "cold", "cold-eager"),
    ("captured or not, AdamW in float32", "adamw", "adamw-eager"),
    ("fp16 with scaler and clipping, twice", "fp16-1", "fp16-2"),
    ("fastresnet, twice", "fast-1", "fast-2"),
    ("streamed by workers is in memory", "folder-streamed", "folder"),
)
CAPTURED = ("base-1", "alpha0", "cold", "warm", "whole", "stopped")
CAPTURED_TOO = ("adamw", "fast-1", "folder", "folder-streamed")
NOT_CAPTURED = ("eager", "fp16-1")  # --graph=off, and what has a scaler
LOADING = """
import sys, pathlib, torch
from kdignite import checkpoints
assert not torch.cuda.is_available()
for name in sys.argv[1:]:
    checkpoints.read(pathlib.Path(name))
"""


class Promises:
    """Looks at finished runs."""

    def __init__(self, shell: Shell, report: Report) -> None:
        self.shell, self.report = shell, report

    def say(self, what: str, result: object, ok: bool | None = None) -> None:
        """Add a line to the table."""
        self.report.row("digits", what, result, ok=ok)

    def check(self, done: Mapping[str, Done]) -> None:
        """Compare everything; a run that is missing costs no other comparison."""
        tiny = self.shell.tiny
        for what, one, other in (*EQUAL, *EQUAL_TOO[: 0 if tiny else None]):
            self._guarded(what, partial(self._alike, what, one, other))
        self._guarded("alpha=0", lambda: self._alike("alpha=0 is the baseline", "alpha0", "base-1", besides=OF_TEACHER))
        self._guarded("live teacher", self._live)
        captured = "captured" if self.shell.cuda else None
        self._guarded("graphs", lambda: self._captured((*CAPTURED, *CAPTURED_TOO[: 0 if tiny else None]), captured))
        self._guarded("no graphs", lambda: self._captured(NOT_CAPTURED[: 1 if tiny else None], None))
        self._guarded("without a GPU", self._loads_anywhere)
        self._guarded("doctor", self._doctor)
        for name in ("evaluate", "evaluate on a CPU"):
            if name in done:
                self._guarded(name, partial(self._evaluated, name, done[name]))

    def _guarded(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001
            self.report.fail("digits", what, traceback.format_exc())

    def _alike(self, what: str, one: str, other: str, besides: Sequence[str] = ()) -> None:
        likeness = compare(self.shell.runs / one, self.shell.runs / other, besides=besides)
        self.say(what, likeness.told, ok=likeness.same)

    def _live(self) -> None:
        """A batch of other images may change the last bit of an answer."""
        self.say("table and live teacher", compare(self.shell.runs / "cold", self.shell.runs / "live").told)

    def _captured(self, names: Sequence[str], expected: str | None) -> None:
        """What runs say of their graphs."""
        found = {name: result_of(self.shell.runs / name)["graph"] for name in names}
        wrong = {name: outcome for name, outcome in found.items() if outcome != expected}
        told = f"{json.dumps(expected)} in {', '.join(name for name in names if name not in wrong)}"
        self.say("graphs of runs", f"{told}; others {wrong}" if wrong else told, ok=not wrong)

    def _loads_anywhere(self) -> None:
        files = [
            str(self.shell.runs / name / file)
            for name in ("base-1", "cold")
            for file in ("best.safetensors", "last.safetensors")
        ]
        done = self.shell.run([sys.executable, "-c", LOADING, *files], limit=60, env={"CUDA_VISIBLE_DEVICES": ""})
        told = "yes" if not done.code else done.err.strip().splitlines()[-1][:120]
        self.say("best.safetensors and last.safetensors load where no GPU is", told, ok=not done.code)

    def _doctor(self) -> None:
        folders = (self.shell.runs / f"doctor-{number}" for number in (1, 2))
        one, other = (json.loads((folder / "doctor.json").read_text(encoding="utf-8")) for folder in folders)
        self.say("doctor twice: the same numbers", one == other, ok=one == other)

    def _evaluated(self, name: str, done: Done) -> None:
        """Other kernels may turn an answer that was on the fence."""
        recorded = result_of(self.shell.runs / "teacher")["test"]["num_correct"]
        found = re.search(r"^files +(\S+)/ ", done.out, re.MULTILINE)
        if found is None:
            raise AssertionError(f"no line of files in {done.out!r}")
        again = json.loads((self.shell.place / found[1] / "evaluation.json").read_text(encoding="utf-8"))["num_correct"]
        self.say(f"{name}: right now, and when trained", f"{again}, {recorded}", ok=abs(again - recorded) < 3)
