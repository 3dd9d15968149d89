"""The teacher of students, as their runs record it: which runs show it, and its logits for the test images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from kdignite import files, runs, schema
from kdignite.comparison.runs import AGAIN, RunFiles
from kdignite.comparison.scores import ROLES
from kdignite.config import averaged_at
from kdignite.errors import UserError, listed
from kdignite.metrics import Logits
from kdignite.teachers.controls import RANDOM, SHUFFLED
from kdignite.teachers.ensemble import mean_logits
from kdignite.teachers.outputs import log_of_probabilities

CONTROLS = {
    RANDOM: "a control: the students learnt from an untrained network of their teacher's kind; what they gain is no "
    "knowledge of the data",
    SHUFFLED: "a control: the students learnt from probabilities of the wrong classes that were permuted for each "
    "image; what they gain is no knowledge of which classes are alike",
}


class TaughtBy(NamedTuple):
    """What students record of their teacher."""

    name: str
    sha256: str
    control: str | None
    members: Mapping[str, tuple[str, float]]  # sha256 of the file -> name, and weight in the mean

    @property
    def files(self) -> frozenset[tuple[str, float]]:
        """The sha256 of each file and its weight: the same for a control as for the teacher itself."""
        return frozenset((sha256, weight) for sha256, (_, weight) in self.members.items())


def taught_by(student: RunFiles) -> TaughtBy:
    record = student.result["teacher"]
    members = record.get("members") or [{**record, "weight": 1.0}]
    of_files = {one["sha256"]: (one["name"], float(one["weight"])) for one in members}
    return TaughtBy(record["name"], record["sha256"], record.get("control"), of_files)


def with_roles(found: Sequence[RunFiles]) -> list[RunFiles]:
    """The runs; a student that taught another one of them is a teacher, and a baseline that no student needs."""
    taught = {sha256 for run in found if run.role == "student" for sha256 in taught_by(run).members}
    apart = {run.folder for run in found if run.role in ROLES[1:] and _sha256(run) in taught}
    seeds = {
        role: {run.seed for run in found if (run.role, run.folder in apart) == (role, False)} for role in ROLES[1:]
    }
    is_spare = seeds["student"] <= seeds["baseline"]
    teachers = {run.folder for run in found if run.folder in apart and (run.role == "student" or is_spare)}
    return [run._replace(role="teacher") if run.folder in teachers else run for run in found]


def in_order(teachers: Sequence[RunFiles], student: RunFiles) -> tuple[RunFiles, ...]:
    """The teachers of a student in the order of its record; refused unless they are all of them, and no others."""
    if not teachers:
        return ()
    record, by_file = taught_by(student), {}
    if record.control == RANDOM:
        raise UserError(
            f"{student.folder} learnt from an untrained network, not from {teachers[0].folder}: leave it out"
        )
    for teacher in teachers:
        sha256 = _sha256(teacher)
        if sha256 is None:
            raise UserError(f"{teacher.folder} has no {runs.BEST}, which identifies a teacher: leave it out")
        if sha256 not in record.members:
            others = listed([f"{name!r} (sha256 {own[:12]})" for own, (name, _) in record.members.items()])
            raise UserError(
                f"{teacher.folder} is not the teacher of {student.folder}: its {runs.BEST} (sha256 {sha256[:12]}) is "
                f"not the file of {others}: name the run of that one, or leave the teacher out"
            )
        by_file[sha256] = teacher
    missing = [name for sha256, (name, _) in record.members.items() if sha256 not in by_file]
    if missing:
        raise UserError(
            f"{student.folder} had {len(record.members)} teachers: name the run of {listed(missing)} too, or leave "
            "all of them out"
        )
    return tuple(by_file[sha256] for sha256 in record.members)


def as_taught(teachers: Sequence[RunFiles], student: RunFiles) -> list[RunFiles]:
    """The teachers with what their student took for logits: of probabilities the logarithms."""
    if student.config.get("teacher_outputs") != "probabilities":
        return [*teachers]

    def logarithms(outputs: Logits) -> Logits:
        return log_of_probabilities(torch.from_numpy(outputs)).numpy()

    return [
        run._replace(
            logits=logarithms(run.logits),
            validation=None if run.validation is None else (logarithms(run.validation[0]), run.validation[1]),
        )
        for run in teachers
    ]


def teacher_logits(teachers: Sequence[RunFiles], student: RunFiles) -> npt.NDArray[np.float32] | None:
    """(N, C) logits for the test images: of one teacher its own, of several those that the student learnt from."""
    each = [torch.from_numpy(run.logits) for run in as_taught(teachers, student)]
    if len(each) < 2:
        return each[0].numpy() if each else None
    weights = [weight for _, weight in taught_by(student).members.values()]
    with schema.checked(student.folder / runs.CONFIG, advice=AGAIN):
        flag = averaged_at(str(student.config.get("method")))
        T = 1.0 if student.config.get(flag) is None else schema.number(student.config, flag, above=0)
    logits: npt.NDArray[np.float32] = mean_logits(
        each, weights, T=T, standardize=bool(student.config.get("standardize"))
    ).numpy()
    return logits


def adopted_note(teachers: Sequence[RunFiles]) -> list[str]:
    """That a teacher may know the test images."""
    if not any(teacher.result["command"] == "adopt" for teacher in teachers):
        return []
    return ["the teacher was adopted: its run does not record whether it was trained on these test images"]


def control_note(student: RunFiles) -> list[str]:
    """What the students of a control are."""
    control = taught_by(student).control
    return [f"{CONTROLS[control]} (--control={control})"] if control in CONTROLS else []


def hidden_past(run: RunFiles | None, teacher: RunFiles | None) -> list[str]:
    """Why it is not known that the test images were never trained on, a note each.

    Args:
        run: of a model; None: only its file is at hand.
        teacher: of a student; None: not at hand, or it had none.
    """
    whys = [*_hidden(run, "the model"), *_hidden_teacher(run, teacher)] if run else ["only its file is at hand"]
    return [f"{why}: no run records whether these test images were trained on" for why in whys]


def _hidden(run: RunFiles, who: str) -> list[str]:
    if run.result["command"] == "adopt":
        return [f"{who} was adopted"]
    return [] if run.config.get("weights") in (None, "none") else [f"{who} began with weights made elsewhere"]


def _hidden_teacher(run: RunFiles, teacher: RunFiles | None) -> list[str]:
    if run.role != "student" or taught_by(run).control == RANDOM:
        return []
    if teacher is None:
        return ["the run of its teacher is not at hand"]
    return ["its teacher had a teacher"] if teacher.role == "student" else _hidden(teacher, "its teacher")


def _sha256(run: RunFiles) -> str | None:
    path = run.folder / runs.BEST
    return files.sha256(path) if path.is_file() else None
