"""Ranges of a search: what is searched by default, what is fixed, and what cannot be."""

from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdignite import files
from kdignite.commands.stages import open_study
from kdignite.comparison.search import SearchSummary, summarize_search
from kdignite.config import Range, Search, SearchConfig, configure, defaults, search_identity, search_line, trial_config
from kdignite.errors import UserError
from kdignite.methods.registry import METHODS
from kdignite.reports.search import chosen_text, drawn_trials, search_figure, search_json, search_text
from kdignite.reports.style import log_ticks
from kdignite.trials import DATABASE, OpenTrial, TrialRow, Trials, close_trial, next_trial, open_trials, rows_of, typed


def looking(**values: object) -> Search:
    return configure(SearchConfig, **values)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_those_of_the_row_and_around_the_learning_rate_of_the_model(method: str) -> None:
    rows = METHODS[method].parameters
    found = looking(method=method, arch="fastresnet").ranges
    assert found.pop("lr") == pytest.approx((0.025, 0.5, False))
    assert found == {name: Range(min(one.grid), max(one.grid)) for name, one in rows.items() if one.grid}
    assert found


def test_one_value_is_fixed_and_two_are_a_range() -> None:
    config = looking(method="dkd", beta=(1.5,), lr=(0.05,), ce_weight=(0.0, 1.0), standardize=(False, True))
    assert config.ranges == {"T": (1, 4, False), "ce_weight": (0, 1, False), "standardize": (False, True, True)}
    one = trial_config(config, {"T": 2.0, "ce_weight": 0.5, "standardize": True}, name="trial-3")
    settings = (one.beta, one.lr, one.T, one.ce_weight, one.standardize, one.name)  # type: ignore[attr-defined]
    assert settings == (1.5, 0.05, 2.0, 0.5, True, "trial-3")
    assert "--beta=1.5" in search_line(config, {"T": 2.0})


def test_the_baseline_has_its_learning_rate_and_what_is_given() -> None:
    assert set(looking(method="baseline").ranges) == {"lr"}
    assert set(looking(method="baseline", label_smoothing=(0.0, 0.3)).ranges) == {"lr", "label_smoothing"}


def test_the_defaults_are_moved_into_the_ranges() -> None:
    assert defaults(looking(alpha=(0.95, 1.0), T=(1.0, 2.0))) == {"alpha": 0.95, "T": 2.0, "lr": 0.1}


def test_the_defaults_are_those_of_the_preset_and_of_the_model() -> None:
    assert defaults(looking(preset="reference")) == {"alpha": 1.0, "T": 8.0, "lr": 0.1}
    assert defaults(looking(arch="fastresnet", alpha=(0.9,), T=(4.0,))) == {"lr": 0.25}


def hinge(student: object, teacher: object, labels: object, *, gap: float, scale: float = 2.0) -> None:
    """A method whose gap has no default."""


def test_a_parameter_without_a_default_begins_at_the_lower_end() -> None:
    search = looking(method=hinge, gap=(0.25, 1.0), scale=(1.0, 3.0), lr=(0.1,))
    assert defaults(search) == {"gap": 0.25, "scale": 2.0}
    with pytest.raises(UserError, match="needs --gap=NUMBER"):
        looking(method=hinge)


def test_the_number_of_trials_and_the_database_do_not_make_another_search() -> None:
    assert search_identity(looking(trials=3, storage="sqlite:///x.db")) == search_identity(looking())
    assert search_identity(looking(lr=(0.01, 0.1))) != search_identity(looking())
    assert search_identity(looking(epochs=3)) != search_identity(looking())
    assert search_identity(looking(seed=1)) != search_identity(looking())


@pytest.mark.parametrize(("now", "told"), [((0.01, 0.2), "0.01,0.2"), ((0.1,), "0.1")])
def test_another_range_is_told_as_it_is_typed(now: tuple[float, ...], told: str, tmp_path: Path) -> None:
    first, other = (looking(name="mine", lr=values) for values in ((0.01, 0.1), now))
    open_study(first, search_identity(first), root=tmp_path)
    with pytest.raises(UserError, match=rf"is a study with other settings: --lr: 0\.01,0\.1 -> {told}; choose"):
        open_study(other, search_identity(other), root=tmp_path)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lr": (0.1, 0.2, 0.3)}, "--lr takes one value, or the lowest and the highest that are tried, not 3"),
        ({"lr": (0.1, 0.1)}, "--lr=0.1,0.1 is one value: write --lr=0.1"),
        ({"lr": (0.2, 0.1)}, "--lr=0.2,0.1 has its ends the wrong way round: write --lr=0.1,0.2"),
        (
            {"standardize": (True, False)},
            "--standardize=true,false has its ends the wrong way round: write --standardize=false,true",
        ),
        ({"lr": (-0.1, 0.1)}, "--lr must be above 0, not -0.1"),
        ({"alpha": (0.5, 1.5)}, "--alpha must be at most 1, not 1.5"),
        ({"beta": (1.0, 2.0)}, "--method=kd takes --alpha and --T and --standardize, not --beta"),
        ({"alpha": (0.5,), "T": (1.0,), "lr": (0.1,)}, "nothing is left to search"),
        ({"method": "baseline", "teacher": "x"}, "--method=baseline has no teacher: leave out --teacher"),
        ({"method": "baseline", "alpha": (0.5, 1.0)}, "--method=baseline has no teacher: leave out --alpha"),
        ({"method": "kdd"}, "kdd"),
        ({"trials": 0}, "--trials must be at least 1, not 0"),
    ],
)
def test_a_mistake_is_told(values: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as caught:
        looking(**values)
    assert told in str(caught.value)


@given(low=st.floats(1e-6, 1e3), factor=st.floats(1.0, 1e3, exclude_min=True), share=st.floats(0, 1))
def test_what_is_tried_can_be_typed_and_lies_in_its_range(low: float, factor: float, share: float) -> None:
    one = Range(low, low * factor)
    drawn = one.low + share * (one.high - one.low)
    value = typed({"x": drawn}, {"x": one})["x"]
    assert one.low <= value <= one.high
    assert value == pytest.approx(drawn, rel=0.005)
    assert value in (one.low, one.high) or float(f"{value:g}") == value
    assert typed({"x": value}, {"x": one})["x"] == value


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / DATABASE).write_text("no database " * 100)
    with pytest.raises(UserError, match=rf"^{tmp_path / DATABASE} cannot be opened: .*file is not a database"):
        open_trials(looking(), tmp_path, {}, place="here")


def trials_of(*ended: tuple[str, float | None, dict[int, float]]) -> Trials:
    """Trials by their state, value and validation accuracies of the epochs."""
    optuna = pytest.importorskip("optuna")
    search, study = looking(alpha=(0.5,), T=(4.0,)), optuna.create_study(direction="maximize")
    spread = {"lr": optuna.distributions.FloatDistribution(0.01, 0.2, log=True)}
    for state, value, accuracies in ended:
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState[state],
            value=value,
            params={"lr": 0.1},
            distributions=spread,
            intermediate_values=accuracies,
        )
        study.add_trial(trial)
    return Trials(study, search, Path(), "")


def test_a_trial_that_was_stopped_early_has_the_accuracy_of_its_best_epoch() -> None:
    accuracies = {1: 0.5, 2: 0.9, 3: 0.4}
    rows = rows_of(trials_of(("PRUNED", 0.4, accuracies), ("COMPLETE", 0.9, accuracies), ("RUNNING", None, accuracies)))
    assert [(one.state, one.accuracy) for one in rows] == [("pruned", 0.9), ("complete", 0.9), ("running", 0.9)]


def second_trial(folder: Path, *, is_killed: bool) -> OpenTrial | None:
    """The trial after one that has failed; killed: a process began it and ended before its values were drawn."""
    folder.mkdir()
    opened = open_trials(looking(alpha=(0.5,)), folder, {}, place="here")
    with ExitStack() as held:
        next_trial(opened, held)
        close_trial(opened, 0, "fail")
        if is_killed:
            opened.study.ask()
        return next_trial(open_trials(looking(alpha=(0.5,)), folder, {}, place="here"), held)


def test_what_a_trial_tries_depends_on_its_number_also_where_a_process_was_killed(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    found = [second_trial(tmp_path / str(is_killed), is_killed=is_killed) for is_killed in (False, True)]
    assert found[0] is not None
    assert found[0].number == 1
    assert found[0] == found[1]


def test_an_epoch_whose_validation_gave_no_number_is_in_no_report(tmp_path: Path) -> None:
    nan = float("nan")
    rows = rows_of(trials_of(("FAIL", None, {1: nan}), ("PRUNED", 0.4, {1: nan, 2: 0.4}), ("COMPLETE", 0.9, {1: 0.9})))
    assert [(one.accuracy, one.epochs) for one in rows] == [(None, 1), (0.4, 2), (0.9, 1)]
    summary = summarize_search(rows, looking(alpha=(0.5,), T=(4.0,)), partial=False)
    assert summary is not None
    files.write_json(tmp_path / "search.json", search_json(summary))


def test_the_summary_chooses_the_first_of_equals_and_tells_of_ends() -> None:
    search = looking(T=(1.0, 8.0), alpha=(0.9,))
    rows = [
        TrialRow(0, "complete", {"T": 4.0, "lr": 0.05}, 0.8, 3),
        TrialRow(1, "complete", {"T": 8.0, "lr": 0.05}, 0.9, 3),
        TrialRow(2, "complete", {"T": 2.0, "lr": 0.05}, 0.9, 3),
        TrialRow(3, "pruned", {"T": 2.0, "lr": 0.05}, 0.95, 1),
        TrialRow(4, "running", {"T": 2.0, "lr": 0.05}, None, 0),
    ]
    summary = summarize_search(rows, search, partial=False)
    assert summary is not None
    assert summary.chosen == rows[1]
    assert [note for note in summary.notes if "wider" in note] == [
        "The highest values of T were the best: a wider range may have better ones."
    ]
    assert summarize_search(rows[3:], search, partial=False) is None


def hints(search: Search, values: dict[str, float]) -> list[str]:
    """What is said of the ends of ranges where one trial chose some values."""
    summary = summarize_search([TrialRow(0, "complete", values, 0.9, 3)], search, partial=False)
    assert summary is not None
    return [note.split(" were")[0] for note in summary.notes if "wider" in note]


def test_no_wider_range_is_advised_where_a_setting_ends() -> None:
    search = looking(alpha=(0.5, 1.0), T=(1.0, 8.0), weight_decay=(0.0, 0.5))
    assert hints(search, {"alpha": 1.0, "T": 1.0, "lr": 0.05, "weight_decay": 0.0}) == ["The lowest values of T"]
    assert hints(search, {"alpha": 0.5, "T": 8.0, "lr": 0.01, "weight_decay": 0.5}) == [
        *("The lowest values of alpha", "The highest values of T", "The lowest values of lr"),
        "The highest values of weight_decay",
    ]
    own = looking(method=hinge, gap=(0.25, 1.0), lr=(0.1,))
    assert hints(own, {"gap": 1.0}) == ["The highest values of gap"]
    alone = looking(method="baseline", label_smoothing=(0.0, 0.3))
    assert hints(alone, {"lr": 0.05, "label_smoothing": 0.0}) == []


def summary_of(*trials: tuple[str, float | None], **ranges: Range) -> SearchSummary:
    """A search of trials that ended in some way."""
    rows = [
        TrialRow(i, state, {name: one.low for name, one in ranges.items()}, accuracy, 3)
        for i, (state, accuracy) in enumerate(trials)
    ]
    best = max((one for one in rows if one.state == "complete"), key=lambda one: one.accuracy or 0.0)
    return SearchSummary("kd", ranges, rows, best, "", [])


@pytest.mark.parametrize("state", ["pruned", "fail", "running"])
def test_only_a_complete_first_trial_is_quoted_as_the_defaults(state: str) -> None:
    beside = "Chosen on validation: T 1, 90.00 % (trial 1, the best of 2"
    assert chosen_text(summary_of((state, 0.4), ("complete", 0.9), T=Range(1, 8))) == f"{beside})"
    whole = summary_of(("complete", 0.4), ("complete", 0.9), T=Range(1, 8))
    assert chosen_text(whole) == f"{beside}; the first trial, of the defaults, 40.00 %)"
    assert chosen_text(whole._replace(trials=whole.trials[1:])) == f"{beside.replace('of 2', 'of 1')})"
    first = summary_of(("complete", 0.9), ("complete", 0.4), T=Range(1, 8))
    assert chosen_text(first) == "Chosen on validation: T 1, 90.00 % (the defaults; the best of 2 trials)"


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (["complete"], "1 trial: 1 complete, 0 stopped early"),
        (["complete", "pruned", "running"], "3 trials: 1 complete, 1 stopped early, 1 not over"),
        (["complete", "fail"], "2 trials: 1 complete, 0 stopped early, 1 whose loss was no number"),
    ],
)
def test_every_trial_is_counted(ended: list[str], told: str) -> None:
    text = search_text(summary_of(*((state, 0.5) for state in ended), T=Range(1, 8)))
    assert text.split("\n\n")[2] == told


def test_only_what_was_stopped_early_is_drawn_so() -> None:
    ended = [("complete", 0.8), ("pruned", 0.9), ("pruned", 0.5), ("running", 0.85), ("running", None), ("fail", 0.3)]
    drawn = drawn_trials(summary_of(*ended, T=Range(1, 8)))
    found = {name: [(one.number, one.accuracy) for one in group] for name, group in drawn.items()}
    assert found == {
        "complete": [(0, 0.8)],
        "stopped early": [(1, 0.9)],
        "stopped early, below": [(2, 0.8)],
        "chosen": [(0, 0.8)],
    }


@pytest.mark.parametrize("names", [1, 2, 4])
def test_labels_of_logarithmic_axes_stand_apart(names: int) -> None:
    spans = ((0.025, 0.5), (30.0, 3000.0), (0.00001, 1.0), (0.5, 8.0), (300.0, 30000.0))
    for first in spans:
        ranges = {f"x{i}": Range(*first) for i in range(names)}
        figure = search_figure(summary_of(("complete", 0.8), **ranges))
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [one.get_window_extent() for one in axes.get_xticklabels()]
            assert all(one.x1 + 4 < other.x0 for one, other in pairwise(boxes))


@given(low=st.floats(1e-6, 1e6), factor=st.floats(5, 1e9))
def test_a_logarithmic_axis_has_few_ticks_that_are_round(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert 2 <= len(ticks) <= 5
    assert ticks == sorted({*ticks})
    assert all(low <= one <= low * factor for one in ticks)
    assert all(f"{one:e}"[1:].startswith(".000000e") for one in ticks)
