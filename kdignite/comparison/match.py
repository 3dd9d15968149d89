"""Which runs may be compared: their roles, and every reason why a comparison would not be fair."""

from collections.abc import Sequence
from dataclasses import fields
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from kdignite import files, runs
from kdignite.comparison.runs import MACHINE, RunFiles
from kdignite.config import (
    MISSING,
    PROGRAM,
    BaselineConfig,
    DistillConfig,
    differences,
    is_own,
    parameter_names,
    setting_text,
    with_role,
)
from kdignite.errors import UserError, listed

# What a distillation can be told and a baseline cannot: its loss and its teacher.
LOSS_FLAGS = {one.name for one in fields(DistillConfig)} - {one.name for one in fields(BaselineConfig)}
_SETTINGS = {"command", *(one.name for one in fields(DistillConfig))}
# What tells nothing of a recipe: names and leftovers; what is known by its content, which is compared; the machine, of
# which a note tells; the seed, by which runs are paired.
NOT_COMPARED = with_role(DistillConfig, "display", "place", "content", "machine") | {"command", "seed"}
NOT_ALWAYS_TOLD = ("processor", "processes", "cuda")  # by every system, and by older runs

_IDENTITY = with_role(DistillConfig, "identity")


class Matched(NamedTuple):
    """Runs that a fair comparison can be made of; students and baselines are pairs, in the order of their seeds."""

    teacher: RunFiles | None
    students: tuple[RunFiles, ...]
    baselines: tuple[RunFiles, ...]

    @property
    def all(self) -> tuple[RunFiles, ...]:
        """Every run, the teacher first."""
        return (*([self.teacher] if self.teacher else []), *self.students, *self.baselines)


def match(found: Sequence[RunFiles]) -> Matched:
    """Find out which run is what, and refuse a comparison that would not be fair."""
    matched = _by_role(found)
    _check_images(matched.all)
    _check_teacher(matched)
    for role, group in (("student", matched.students), ("baseline", matched.baselines)):
        _check_group(group, role=role)
    _check_seeds(matched)
    _check_pairs(matched)
    return matched


def check_students(found: Sequence[RunFiles], *, besides: Sequence[str]) -> None:
    """Refuse students that nobody could choose from: they had other data, another teacher or another recipe."""
    others = [run for run in found if run.role != "student"]
    if others:
        raise UserError(f"{others[0].folder} is a {others[0].role}, not a student")
    _check_images(found)
    _check_teacher(Matched(None, tuple(found), ()))
    _check_recipe(found, role="student", besides=besides)


def machine_notes(found: Sequence[RunFiles]) -> list[str]:
    """What the runs were computed with, where it differs: it may change the last bits, and with them the weights."""
    notes = []
    for name in MACHINE:
        labels: dict[Any, list[str]] = {}
        for run in found:
            for value in run.computed_with(name):
                if value is not None or name not in NOT_ALWAYS_TOLD:
                    shown = setting_text(value)[:12] if name == "commit" else setting_text(value)
                    labels.setdefault(shown, []).append(run.label)
        if len(labels) > 1:
            what = "commit of the code" if name == "commit" else name
            notes.append(f"different {what}: {', '.join(f'{v} ({listed(who)})' for v, who in labels.items())}")
    return notes


def same_processor(found: Sequence[RunFiles]) -> bool:
    """Whether latencies of the runs can be compared."""
    recorded = ([value for run in found for value in run.computed_with(part)] for part in ("processor", "cpu"))
    return all(len({setting_text(value) for value in values if value is not None}) <= 1 for values in recorded)


def _by_role(found: Sequence[RunFiles]) -> Matched:
    """Sorted by seed; the count of each role is checked."""
    teachers, students, baselines = (
        [run for run in found if run.role == role] for role in ("teacher", "student", "baseline")
    )
    if not students or not baselines:
        command = "baseline" if students else "distill"
        have = "; ".join(f"{run.role} {run.folder}" for run in found)
        missing = " and ".join(role for role, group in (("student", students), ("baseline", baselines)) if not group)
        raise UserError(
            f"compare needs a student and a baseline, and has no {missing} ({have}): name its run too, or make one "
            f"with {PROGRAM} {command}"
        )
    if len(teachers) > 1:
        raise UserError(
            f"compare takes one teacher, and has {_joined([run.folder for run in teachers])}: keep the one that taught "
            f"{students[0].folder}, which is called {_teacher_of(students[0])['name']!r}"
        )
    ordered = (tuple(sorted(group, key=lambda run: run.seed)) for group in (students, baselines))
    return Matched(teachers[0] if teachers else None, *ordered)


def _check_images(found: Sequence[RunFiles]) -> None:
    first, *others = found
    for run in others:
        both = f"{first.folder} and {run.folder}"
        if run.classes != first.classes:
            raise UserError(f"{both} know different classes: compare runs on the same data")
        for key, what in (("fingerprint", "different data"), ("split", "different training and validation images")):
            if run.result[key] != first.result[key]:
                which = " against ".join(f"{one.result['dataset']} {one.result[key][:12]}" for one in (first, run))
                raise UserError(
                    f"{both} were made with {what} ({which}): compare runs of the same --dataset and --val_size"
                )
        same = np.array_equal(run.indices, first.indices) and np.array_equal(run.labels, first.labels)
        if not same:
            raise UserError(
                f"{both} were tested on different images ({len(first.labels):,} and {len(run.labels):,}): compare runs "
                "that were tested on the same ones, all of them with --fast_dev_run or none"
            )


def _check_teacher(matched: Matched) -> None:
    """All students had one teacher, and it is the one that was given."""
    taught = {_teacher_of(run)["sha256"]: run for run in matched.students}
    if len(taught) > 1:
        who = ", ".join(f"{_teacher_of(run)['name']!r} ({run.folder})" for run in taught.values())
        raise UserError(f"the students had different teachers, {who}: compare those of one teacher")
    if matched.teacher is None:
        return
    path = matched.teacher.folder / runs.BEST
    if not path.is_file():
        raise UserError(f"{matched.teacher.folder} has no {runs.BEST}, by which a teacher is known: leave it out")
    sha256 = files.sha256(path)
    if sha256 not in taught:
        student, other = matched.students[0], _teacher_of(matched.students[0])
        raise UserError(
            f"{matched.teacher.folder} did not teach {student.folder}: its {runs.BEST} (sha256 {sha256[:12]}) is not "
            f"the file of the teacher, {other['name']!r} (sha256 {other['sha256'][:12]}): name the run of that one, or "
            "leave the teacher out"
        )


def _check_group(group: Sequence[RunFiles], *, role: str) -> None:
    """Runs of a role are one recipe with different seeds."""
    _check_recipe(group, role=role)
    for one, other in combinations(group, 2):
        if one.seed == other.seed:
            raise UserError(
                f"{one.folder} and {other.folder} are both a {role} of seed {one.seed}: leave one of them out"
            )


def _check_recipe(group: Sequence[RunFiles], *, role: str, besides: Sequence[str] = ()) -> None:
    """Runs of a role differ in their seed alone, and in the settings that are named."""
    for run in group[1:]:
        differences = _differences(group[0], run, free=NOT_COMPARED | {*besides})
        if differences:
            raise UserError(
                f"the {role}s differ in more than {' and '.join((*besides, 'the seed'))}: {'; '.join(differences)}: "
                "compare one of them at a time"
            )


def _check_seeds(matched: Matched) -> None:
    students, baselines = ({run.seed for run in group} for group in (matched.students, matched.baselines))
    if students == baselines:
        return
    lacking = [
        f"{role} of seed {_joined(sorted(seeds))}"
        for role, seeds in (("no baseline", students - baselines), ("no student", baselines - students))
        if seeds
    ]
    command, seed = ("baseline", students - baselines) if students - baselines else ("distill", baselines - students)
    raise UserError(
        f"every seed needs a student and a baseline, there is {' and '.join(lacking)}: name those runs, make them with "
        f"{PROGRAM} {command} --seed={min(seed)}, or leave their partners out"
    )


def _check_pairs(matched: Matched) -> None:
    """Student and baseline of a seed share everything but the loss."""
    pairs = zip(matched.students, matched.baselines, strict=True)
    free = NOT_COMPARED | LOSS_FLAGS | own_parameters(matched.students[0])
    found = [line for pair in pairs for line in _differences(*pair, free=free)]
    if found:
        raise UserError(
            f"student and baseline differ in more than the loss, so nobody could say what distillation did: "
            f"{'; '.join(found)}: train one of them again with the flags of the other"
        )


def _differences(one: RunFiles, other: RunFiles, *, free: set[str]) -> list[str]:
    """A line for each setting that differs, as it is typed."""
    first, second = (run.config | {"weights": _initial_weights(run)} for run in (one, other))
    found = differences(first, second, besides=free - {"weights"}, missing=MISSING)
    return [
        f"--{name}: {setting_text(before)} ({one.folder}) against {setting_text(now)} ({other.folder})"
        for name, before, now in found
    ]


def _initial_weights(run: RunFiles) -> Any:
    """What identifies the initial weights: a word or the sha256 of a file; of older runs the flag as it was typed."""
    return run.environment.get("weights", run.config.get("weights", MISSING))


def method_settings(student: RunFiles) -> dict[str, Any]:
    """How a student was distilled: its method, the parameters of that, and what changes the teacher's logits."""
    names = {"method": None, **dict.fromkeys([*parameter_names(DistillConfig), *sorted(own_parameters(student))])}
    others = [one.name for one in fields(DistillConfig) if one.name in LOSS_FLAGS & _IDENTITY]
    return {name: student.config.get(name) for name in [*names, *(other for other in others if other not in names)]}


def own_parameters(student: RunFiles) -> set[str]:
    """The settings of a student that are parameters of a method of the user's own."""
    return {*student.config} - _SETTINGS if is_own(student.config.get("method")) else set()


def _teacher_of(student: RunFiles) -> dict[str, Any]:
    taught: dict[str, Any] = student.result["teacher"]
    return taught


def _joined(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
