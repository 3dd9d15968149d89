"""Which runs may be compared: their roles, their pairs, and every reason why a comparison would not be fair."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from kdignite.comparison.runs import MACHINE, RunFiles
from kdignite.comparison.teachers import in_order, taught_by, with_roles
from kdignite.config import (
    COMMANDS,
    FOLLOWING,
    MISSING,
    OF_RECIPE,
    BaselineConfig,
    DistillConfig,
    TrainConfig,
    command_line,
    configure,
    difference_text,
    differences,
    flag_fields,
    parameter_names,
    setting_text,
    to_json,
    with_role,
)
from kdignite.data.registry import is_code
from kdignite.errors import UserError, listed

# flags of the loss and of the teacher, which a baseline does not have
LOSS_FLAGS = {one.name for one in fields(DistillConfig)} - {one.name for one in fields(BaselineConfig)}
_SETTINGS = {"command", *(one.name for one in fields(DistillConfig))}
# Not part of a recipe: names and places; files, whose content is compared; the machine, which a note mentions; the
# seed, by which runs are paired.
NOT_COMPARED = with_role(DistillConfig, "display", "place", "content", "machine") | {"command", "seed"}
STANDARD = "standard"  # the preset where none is typed
NOT_TYPED = NOT_COMPARED - with_role(DistillConfig, "content") - {"seed"}  # for a partner of a run
OPTIONAL = ("processor", "processes", "cuda")  # not recorded by every system, nor by older runs


class PairedRuns(NamedTuple):
    """Runs that a fair comparison can be made of; students and baselines are pairs, in the order of their seeds."""

    teachers: tuple[RunFiles, ...]  # of one teacher or of an ensemble, in the order of its record; none: not shown
    students: tuple[RunFiles, ...]
    baselines: tuple[RunFiles, ...]

    @property
    def all(self) -> tuple[RunFiles, ...]:
        return (*self.teachers, *self.students, *self.baselines)


def pair_runs(found: Sequence[RunFiles]) -> PairedRuns:
    """Sort runs by role and seed, and refuse a comparison that would not be fair."""
    paired = _by_role(with_roles(found))
    _check_images(paired.all)
    _check_one_teacher(paired.students)
    paired = paired._replace(teachers=in_order(paired.teachers, paired.students[0]))
    _check_group(paired.students, who="students")
    _check_group(paired.baselines, who="baselines")
    _check_seeds(paired)
    _check_pairs(paired)
    return paired


def check_students(found: Sequence[RunFiles], *, besides: Sequence[str]) -> None:
    """Refuse students between which no choice is fair: their data, teachers or other settings differ."""
    others = [run for run in found if run.role != "student"]
    if others:
        raise UserError(f"{others[0].folder} is a {others[0].role}, not a student")
    _check_images(found)
    _check_one_teacher(found)
    _check_recipe(found, who="students", besides=besides)


def check_recipes(recipes: Mapping[str, Sequence[RunFiles]], *, tuned: Collection[str]) -> None:
    """Refuse recipes that differ in more than method and what was tuned for each; runs of one differ in the seed."""
    found = [run for group in recipes.values() for run in group]
    _check_images(found)
    _check_one_teacher([run for run in found if run.role == "student"])
    for name, group in recipes.items():
        _check_group(group, who=f"runs of {name!r}")
    first, *others = sorted((group[0] for group in recipes.values()), key=lambda run: run.role == "baseline")
    free = NOT_COMPARED | OF_RECIPE | {*parameter_names(DistillConfig), *tuned}
    for other in others:
        own = own_parameters(first.config) | own_parameters(other.config)
        lines = _differences(first, other, free=free | own | (LOSS_FLAGS if other.role == "baseline" else set()))
        if lines:
            raise UserError(
                f"methods are compared that differ in more than {' and '.join(('the loss', *tuned))}: "
                f"{'; '.join(lines)}: train one of them again with the flags of the other"
            )


def machine_notes(found: Sequence[RunFiles]) -> list[str]:
    """Parts of the machine that differ: they may change the last bits, and with them the weights."""
    notes = []
    for name in MACHINE:
        labels: dict[Any, list[str]] = {}
        for run in found:
            for value in run.computed_with(name):
                if value is not None or name not in OPTIONAL:
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


def _by_role(found: Sequence[RunFiles]) -> PairedRuns:
    teachers, students, baselines = (
        [run for run in found if run.role == role] for role in ("teacher", "student", "baseline")
    )
    if not students or not baselines:
        taught: dict[str, Any] = {"teacher": teachers[0].folder} if teachers and not students else {}
        one = [run.config for run in (*students, *baselines)[:1]]
        make = typed_line("baseline" if students else "distill", *one, **taught)
        have = "; ".join(f"{run.role} {run.folder}" for run in found)
        missing = " and ".join(role for role, group in (("student", students), ("baseline", baselines)) if not group)
        raise UserError(
            f"compare needs a student and a baseline, and has no {missing} ({have}): name its run too, or make one "
            f"with {make}"
        )
    members = taught_by(students[0]).members
    if len(teachers) > len(members):
        raise UserError(
            f"{listed([str(run.folder) for run in teachers])} are more teachers than {students[0].folder} had: keep "
            f"{listed([repr(name) for name, _ in members.values()])}"
        )
    ordered = (tuple(sorted(group, key=lambda run: run.seed)) for group in (students, baselines))
    return PairedRuns(tuple(teachers), *ordered)


def _check_images(found: Sequence[RunFiles]) -> None:
    first, *others = found
    for run in others:
        both = f"{first.folder} and {run.folder}"
        if run.classes != first.classes:
            raise UserError(f"{both} have different classes: compare runs on the same data")
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


def _check_one_teacher(students: Sequence[RunFiles]) -> None:
    """All students had one teacher, those of a control too."""
    recorded = {taught_by(run).files: run for run in students}
    if len(recorded) > 1:
        who = ", ".join(f"{taught_by(run).name!r} ({run.folder})" for run in recorded.values())
        raise UserError(f"the students had different teachers, {who}: compare those of one teacher")


def _check_group(group: Sequence[RunFiles], *, who: str) -> None:
    """Runs of a role, or of a row of a table, are one recipe with different seeds."""
    _check_recipe(group, who=who)
    for one, other in combinations(group, 2):
        if one.seed == other.seed:
            raise UserError(f"{one.folder} and {other.folder} are both {who} of seed {one.seed}: leave one of them out")


def _check_recipe(group: Sequence[RunFiles], *, who: str, besides: Sequence[str] = ()) -> None:
    """Runs of one recipe differ in their seed alone, and in the settings that are named."""
    for run in group[1:]:
        differences = _differences(group[0], run, free=NOT_COMPARED | {*besides})
        if differences:
            raise UserError(
                f"the {who} differ in more than {' and '.join((*besides, 'the seed'))}: {'; '.join(differences)}: "
                "compare one of them at a time"
            )


def _check_seeds(paired: PairedRuns) -> None:
    students, baselines = ({run.seed for run in group} for group in (paired.students, paired.baselines))
    if students == baselines:
        return
    lacking = [
        f"no {role} of seed {', '.join(map(str, sorted(seeds)))}"
        for role, seeds in (("baseline", students - baselines), ("student", baselines - students))
        if seeds
    ]
    command, seed = ("baseline", students - baselines) if students - baselines else ("distill", baselines - students)
    alone = [str(run.folder) for run in (*paired.students, *paired.baselines) if run.seed in students ^ baselines]
    raise UserError(
        f"every seed needs a student and a baseline, there is {' and '.join(lacking)}: name those runs, make them with "
        f"{typed_line(command, paired.students[0].config, seed=min(seed))}, or leave out {listed(alone)}"
    )


def typed_line(command: str, config: Mapping[str, Any] | None = None, **given: Any) -> str:
    """What to type for a run of a command with the data and the recipe that a run recorded: itself, or its partner."""
    recorded = config or {}
    preset = recorded.get("preset", STANDARD)
    usual = _usual(command, preset=preset)
    names = {*usual, *(own_parameters(recorded) if command == "distill" else ())} - NOT_TYPED
    # another method or model than the preset's brings settings of its own: they are typed whatever the preset says
    others = [name for name in FOLLOWING if name in usual and recorded.get(name, usual[name]) != usual[name]]
    apart = {follower for name in others for follower in FOLLOWING[name]}
    changed = {
        name: value for name, value in recorded.items() if name in names and (name in apart or value != usual.get(name))
    }
    words = [changed.pop("file")] if "file" in changed else []  # of adopt
    return command_line(command, *words, **{"preset": None if preset == STANDARD else preset, **changed, **given})


def _usual(command: str, *, preset: str) -> dict[str, Any]:
    """What a command does where nothing but a preset is typed; adopt has none."""
    kind = COMMANDS[command]
    if issubclass(kind, TrainConfig):
        return to_json(configure(kind, preset=preset))
    return {name: one.default for name, one in flag_fields(kind).items()}


def own_parameters(config: Mapping[str, Any]) -> set[str]:
    """The settings of a student that are parameters of a method of the user's own."""
    return {*config} - _SETTINGS if is_code(config.get("method")) else set()


def _check_pairs(paired: PairedRuns) -> None:
    """Student and baseline of a seed share everything but the loss."""
    pairs = zip(paired.students, paired.baselines, strict=True)
    free = NOT_COMPARED | LOSS_FLAGS | own_parameters(paired.students[0].config)
    found = [line for pair in pairs for line in _differences(*pair, free=free)]
    if found:
        raise UserError(
            f"student and baseline differ in more than the loss, so the effect of distillation cannot be isolated: "
            f"{'; '.join(found)}: train one of them again with the flags of the other"
        )


def _differences(one: RunFiles, other: RunFiles, *, free: set[str]) -> list[str]:
    """A line for each setting that differs."""
    found = differences(_resolved_settings(one), _resolved_settings(other), besides=free - {"weights"}, missing=MISSING)
    return [f"--{difference_text(item, before=f' ({one.folder})', now=f' ({other.folder})')}" for item in found]


def _resolved_settings(run: RunFiles) -> dict[str, Any]:
    """Settings by what they came to: initial weights by their sha256 where it is recorded, views that never repeat."""
    weights, views = run.environment.get("weights", run.config.get("weights", MISSING)), run.config.get("views")
    repeats = views is not None and views < run.config["epochs"]
    return run.config | {"weights": weights} | ({} if views is None or repeats else {"views": None})
