"""The rows of a table of methods: which runs are one recipe, what it is called, and what each run scored."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from kdignite import runs, schema
from kdignite.comparison.pairing import OF_RECIPE, own_parameters
from kdignite.comparison.runs import AGAIN, RunFiles, epoch_seconds
from kdignite.comparison.scores import DIVIDED, FIDELITY, model_scores
from kdignite.config import DistillConfig, parameter_names, setting_text
from kdignite.errors import UserError, listed
from kdignite.metrics import Logits
from kdignite.metrics.statistics import Spread, spread

BASELINE = "baseline"
SCORES = ("accuracy_val", "loss", "ece", *FIDELITY, *DIVIDED)  # besides the test accuracy


class RecipeRun(NamedTuple):
    """A run of a recipe; shares in [0, 1], losses in nats, None where it is not known."""

    run: str
    seed: int
    epochs: int
    best_epoch: int
    num_correct: int
    accuracy: float
    accuracy_val: float
    loss: float
    ece: float
    agreement: float | None
    agreement_on_errors: float | None
    kl: float | None
    epoch_seconds: float | None  # median
    divisor: float | None = None
    divided_loss: float | None = None
    divided_ece: float | None = None


class Recipe(NamedTuple):
    """What the runs of a recipe scored, over their seeds."""

    name: str
    is_control: bool  # no knowledge of a teacher: a control of distillation, or a baseline with label smoothing
    settings: dict[str, Any]  # parameters of its method, and what was tuned
    runs: list[RecipeRun]
    accuracy: Spread
    scores: dict[str, Spread | None]  # by `SCORES`
    epoch_seconds: float | None  # median of the epochs of all runs

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


def recipe_name(config: Mapping[str, Any]) -> str:
    """What tables call the runs with the settings of ``config.json``.

    ``kd``, ``dkd (standardize)``, ``kd (shuffled)``, ``baseline``, ``label smoothing 0.1``: the method, and in brackets
    the switches that are on, label smoothing and control. Numbers are no part of it: those of a recipe are one choice.
    """
    smoothing = config.get("label_smoothing") or 0
    marks = [f"label smoothing {setting_text(smoothing)}"] if smoothing else []
    if config.get("method") is None:
        return marks[0] if marks else BASELINE
    marks = [*(name for name in _parameters(config) if config.get(name) is True), *marks]
    marks += [config["control"]] if config.get("control") else []
    return f"{config['method']} ({', '.join(marks)})" if marks else str(config["method"])


def by_recipe(found: Sequence[RunFiles]) -> dict[str, list[RunFiles]]:
    """The runs of each recipe, by name and seed."""
    groups: dict[str, list[RunFiles]] = defaultdict(list)
    for run in found:
        _check(run)
        groups[recipe_name(run.config)].append(run)
    if len(groups) < 2 or not any(run.role == BASELINE for run in found):
        raise UserError(f"a table of methods needs a baseline and another row, and has {listed(sorted(groups))}")
    return {name: sorted(groups[name], key=lambda run: (run.seed, run.label)) for name in sorted(groups)}


def recipe(name: str, group: Sequence[RunFiles], teacher: Logits | None, *, tuned: Sequence[str]) -> Recipe:
    """The scores of the runs of a recipe."""
    seconds = [epoch_seconds(run) for run in group]
    found = [_scored(run, teacher, one) for run, one in zip(group, seconds, strict=True)]
    mean, std = spread([run.num_correct for run in found])  # of counts, which are exact
    num_images, config = len(group[0].labels), group[0].config
    known = {key: [getattr(run, key) for run in found if getattr(run, key) is not None] for key in SCORES}
    return Recipe(
        name=name,
        is_control=group[0].role == BASELINE or config.get("control") is not None,
        settings=_settings(config, tuned),
        runs=found,
        accuracy=Spread(mean / num_images, None if std is None else std / num_images),
        scores={key: spread(values) if values else None for key, values in known.items()},
        epoch_seconds=_median([one for several in seconds for one in several]),
    )


def _check(run: RunFiles) -> None:
    if run.role not in ("student", BASELINE):
        raise UserError(f"{run.folder} is a {run.role}, not a student or a baseline: leave it out")
    with schema.checked(run.folder / runs.CONFIG, advice=AGAIN):
        schema.number(run.config, "label_smoothing")
        if run.role == "student":
            schema.name(run.config, "method")
            if run.config.get("control") is not None:
                schema.name(run.config, "control")


def _scored(run: RunFiles, teacher: Logits | None, seconds: Sequence[float]) -> RecipeRun:
    with schema.checked(run.folder / runs.RESULT, advice=AGAIN):
        validation = schema.number(schema.mapping(run.result, "val"), "accuracy")
    scores = model_scores([run.logits], run.labels, teacher=teacher, divisors=[run.divisor()])
    known = {key: getattr(scores, key) for key in (*FIDELITY, *DIVIDED)}
    return RecipeRun(
        run=run.label,
        seed=run.seed,
        epochs=run.result["epochs"],
        best_epoch=run.result["best_epoch"],
        num_correct=scores.num_correct[0],
        accuracy=scores.accuracy.mean,
        accuracy_val=validation,
        loss=scores.loss.mean,
        ece=scores.ece.mean,
        epoch_seconds=_median(seconds),
        **{key: one.mean if one else None for key, one in known.items()},
    )


def _settings(config: Mapping[str, Any], tuned: Sequence[str]) -> dict[str, Any]:
    """What a recipe has of its own; what is off or not given is left out."""
    names = [*_parameters(config), *sorted(OF_RECIPE - {"method"})]
    given = {name: value for name in names if (value := config.get(name)) is not None and value is not False}
    if not config["label_smoothing"]:
        given.pop("label_smoothing", None)
    return {name: config.get(name) for name in tuned} | given


def _parameters(config: Mapping[str, Any]) -> list[str]:
    return [*parameter_names(DistillConfig), *sorted(own_parameters(config))]


def _median(seconds: Sequence[float]) -> float | None:
    return median(seconds) if seconds else None
