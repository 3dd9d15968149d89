"""Several methods against one baseline, and against one of them, over paired seeds."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from kdignite.comparison.caveats import training_notes
from kdignite.comparison.pairing import PairedRuns, check_recipes, machine_notes
from kdignite.comparison.recipes import BASELINE, Recipe, by_recipe, recipe, recipe_name
from kdignite.comparison.runs import RunFiles
from kdignite.comparison.scores import Difference, difference
from kdignite.comparison.summary import dataset_name
from kdignite.comparison.teachers import adopted_note, control_note, in_order, taught_by, teacher_logits
from kdignite.errors import UserError, counted, listed
from kdignite.metrics.statistics import holm, paired_p_value
from kdignite.teachers import RANDOM

BETTER, WORSE, NOT_SHOWN, NOT_TESTED = "better", "worse", "no difference shown", "not tested"
SIGNIFICANT = 0.05


class Budget(NamedTuple):
    """What the settings of the rows were chosen with, on validation images."""

    tuned: tuple[str, ...] = ()  # settings of which each row may have its own, besides the parameters of its method
    trials: Mapping[str, int] = {}  # of each row that was tuned, by the name of its recipe
    epochs: int | None = None  # of a trial
    seeds: tuple[int, ...] = ()  # of the trials


class Contrast(NamedTuple):
    """The accuracy of a row - that of another, over the seeds that both have."""

    seeds: list[int]
    values: list[float]  # of each seed
    difference: Difference
    p_value: float | None  # of the paired t test; None without a spread over seeds
    adjusted: float | None = None  # by Holm, for all rows that are compared with that other

    @property
    def verdict(self) -> str:
        """What may be said of one among so many comparisons."""
        if self.adjusted is None:
            return NOT_TESTED
        return NOT_SHOWN if self.adjusted >= SIGNIFICANT else BETTER if self.difference.mean > 0 else WORSE


class MethodRow(NamedTuple):
    """A row of the table."""

    recipe: Recipe
    to_baseline: Contrast | None  # None: of the baseline itself, and without a seed in common
    to_against: Contrast | None  # of neither the baseline nor that row itself


class MethodsSummary(NamedTuple):
    """The rows, the best difference to the baseline first, and what weakens the result."""

    dataset: str
    num_images: int
    arch: str
    teacher_name: str | None
    teacher_accuracy: float | None
    epochs: tuple[int, int]  # fewest and most
    seeds: list[int]
    baseline: str  # the name of its row
    against: str | None  # of the row that the others are compared with too; None: there is no such row
    rows: list[MethodRow]
    budget: Budget
    partial: bool
    notes: list[str]


def summarize_methods(
    found: Sequence[RunFiles], *, teachers: Sequence[RunFiles] = (), against: str = "kd", budget: Budget | None = None
) -> MethodsSummary:
    """Compare methods that share everything but their loss and what was tuned for each.

    Args:
        found: finished students and baselines, of each recipe a run for each seed; a recipe that lacks seeds is
            compared over those it has. The baseline is the one with the least label smoothing; another one is a row.
        teachers: the run of the teacher, or those of several; none: agreement is not measured.
        against: the recipe, by `recipe_name`, that the others are compared with besides the baseline.
        budget: how the settings were tuned.

    Returns:
        All rows, each family of comparisons corrected by Holm.

    Raises:
        UserError: if there is no baseline or nothing beside it, or the comparison would not be fair.
    """
    budget = budget or Budget()
    groups = by_recipe(found)
    check_recipes(groups, tuned=budget.tuned)
    paired = _by_role(groups, teachers, against=against)
    taught = teacher_logits(paired.teachers, paired.students[0]) if paired.teachers else None
    recipes = {name: recipe(name, group, taught, tuned=budget.tuned) for name, group in groups.items()}
    baseline = recipe_name(min((run.config for run in paired.baselines), key=lambda one: one["label_smoothing"]))
    rows, labels = _rows(recipes, baseline, against, num_images=len(found[0].labels)), found[0].labels
    epochs = [run.epochs for one in recipes.values() for run in one.runs]
    accuracy = None if taught is None else float((taught.argmax(axis=1) == labels).mean())
    return MethodsSummary(
        dataset=dataset_name(found[0]),
        num_images=len(labels),
        arch=found[0].result["arch"],
        teacher_name=taught_by(paired.students[0]).name if paired.students else None,
        teacher_accuracy=accuracy,
        epochs=(min(epochs), max(epochs)),
        seeds=sorted({seed for one in recipes.values() for seed in one.seeds}),
        baseline=baseline,
        against=against if against in recipes else None,
        rows=rows,
        budget=budget,
        partial=any(run.result["partial"] for run in paired.all),
        notes=[
            *training_notes(paired),
            *_budget_notes(recipes, budget),
            *_seed_notes(rows, baseline, against),
            *_teacher_notes(paired, accuracy, recipes[baseline]),
            *machine_notes(paired.all),
        ],
    )


def _by_role(groups: Mapping[str, Sequence[RunFiles]], teachers: Sequence[RunFiles], *, against: str) -> PairedRuns:
    """All runs; the first student is one that learnt from the teachers as they are, where there is one."""
    named = [(name, run) for name, group in groups.items() for run in group]
    students = sorted(
        ((name, run) for name, run in named if run.role != BASELINE),
        key=lambda one: (taught_by(one[1]).control is not None, one[0] != against),
    )
    ordered = tuple(run for _, run in students)
    if teachers and not ordered:
        raise UserError(f"{teachers[0].folder} is a teacher, and there is no student of it: leave it out")
    is_taught = teachers and taught_by(ordered[0]).control != RANDOM
    shown = in_order(teachers, ordered[0]) if is_taught else ()
    return PairedRuns(shown, ordered, tuple(run for _, run in named if run.role == BASELINE))


def _rows(recipes: Mapping[str, Recipe], baseline: str, against: str, *, num_images: int) -> list[MethodRow]:
    """The best difference to the baseline first; the baseline where its own is 0, what cannot be compared last."""
    to_baseline = _contrasts(recipes, baseline, besides=(baseline,), num_images=num_images)
    to_against = _contrasts(recipes, against, besides=(baseline, against), num_images=num_images)
    gains = {baseline: 0.0} | {name: one.difference.mean for name, one in to_baseline.items()}
    ranked = sorted(recipes, key=lambda name: (-gains.get(name, -math.inf), name))
    return [MethodRow(recipes[name], to_baseline.get(name), to_against.get(name)) for name in ranked]


def _contrasts(
    recipes: Mapping[str, Recipe], other: str, *, besides: Collection[str], num_images: int
) -> dict[str, Contrast]:
    """A family of comparisons with one row, corrected for their number."""
    found = {}
    for name in [one for one in recipes if one not in besides] if other in recipes else []:
        first, second = ({run.seed: run.num_correct for run in recipes[one].runs} for one in (name, other))
        if seeds := sorted(first.keys() & second.keys()):
            found[name] = _contrast(seeds, [first[s] for s in seeds], [second[s] for s in seeds], num_images)
    p_values = {name: one.p_value for name, one in found.items() if one.p_value is not None}
    adjusted = dict(zip(p_values, holm([*p_values.values()]), strict=True))
    return {name: one._replace(adjusted=adjusted.get(name)) for name, one in found.items()}


def _contrast(seeds: list[int], first: Sequence[int], second: Sequence[int], num_images: int) -> Contrast:
    """From counts, which are exact."""
    values = [(one - other) / num_images for one, other in zip(first, second, strict=True)]
    p_value = paired_p_value(first, second) if len(seeds) > 1 else None
    return Contrast(seeds, values, difference(first, second, num_images), p_value)


def _budget_notes(recipes: Mapping[str, Recipe], budget: Budget) -> list[str]:
    """What was spent on the choice of settings, and what that leaves open."""
    if not budget.trials:
        return ["no tuning is recorded: a row may be low because its settings are"]
    most, fewest = max(budget.trials.values()), min(budget.trials.values())
    epochs = f" of {counted(budget.epochs, 'epoch')}" if budget.epochs else ""
    each = ", ".join(f"{name} {number}" for name, number in sorted(budget.trials.items()))
    even = f"{counted(most, 'validation trial')}{epochs} for each tuned row"
    spent = even if most == fewest else f"unequal, validation trials{epochs}: {each}"
    seeds = f", seed {listed([*map(str, budget.seeds)])}" if budget.seeds else ""
    what = " and ".join(("parameters of the method", *budget.tuned))
    notes = [f"budget of the choice of settings ({what}): {spent}{seeds}; no test image was used"]
    untuned = sorted(recipes.keys() - budget.trials.keys())
    if untuned:
        notes.append(f"no trials of their own: {listed(untuned)}")
    shared = sorted({*budget.seeds} & {seed for one in recipes.values() for seed in one.seeds})
    if shared:
        notes.append(f"settings were chosen with seed {listed([*map(str, shared)])} too, which favours what was tuned")
    return notes


def _seed_notes(rows: Sequence[MethodRow], baseline: str, against: str) -> list[str]:
    names = [row.recipe.name for row in rows]
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for row in rows:
        by_seeds.setdefault(tuple(row.recipe.seeds), []).append(row.recipe.name)
    notes = []
    if len(by_seeds) > 1:
        have = "; ".join(
            f"seed {', '.join(map(str, seeds))}: {listed(some)}" for seeds, some in sorted(by_seeds.items())
        )
        notes.append(f"not every row has the same seeds, a difference is over those that both rows have: {have}")
    if against not in names:
        notes.append(f"there is no row {against!r}: the rows are compared with the baseline alone")
    contrasts = {row.recipe.name: row.to_baseline for row in rows if row.recipe.name != baseline}
    alone = [name for name, one in contrasts.items() if one is None]
    single = [name for name, one in contrasts.items() if one and len(one.seeds) == 1]
    equal = [name for name, one in contrasts.items() if one and one.difference.std == 0]
    for some, what in (
        (alone, "no seed in common with the baseline, so no difference"),
        (single, "one seed in common with the baseline, which proves nothing: repeat with more --seeds"),
        (equal, "the same difference for every seed, which gives no interval and no test"),
    ):
        notes += [f"{listed(some)}: {what}"] if some else []
    return notes


def _teacher_notes(paired: PairedRuns, accuracy: float | None, baseline: Recipe) -> list[str]:
    controls = [note for run in paired.students for note in control_note(run)]
    notes = [*dict.fromkeys(controls), *adopted_note(paired.teachers)]
    if paired.students and accuracy is None:
        notes.append("the teacher has no run here: agreement with it is not measured")
    if accuracy is not None and accuracy <= baseline.accuracy.mean:
        notes.append("the teacher is no better than the baseline: there was little to learn from it")
    return notes
