"""Ranges of a search: what is searched by default, what is fixed, and what cannot be."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdignite.comparison.search import summarize_search
from kdignite.config import Range, Search, SearchConfig, configure, defaults, search_identity, search_line, trial_config
from kdignite.errors import UserError
from kdignite.methods.registry import METHODS
from kdignite.trials import TrialRow, Trials, rows_of, typed


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


def test_a_trial_that_was_stopped_early_has_the_accuracy_of_its_best_epoch() -> None:
    optuna = pytest.importorskip("optuna")
    search, study = looking(alpha=(0.5,), T=(4.0,)), optuna.create_study(direction="maximize")
    spread = {"lr": optuna.distributions.FloatDistribution(0.01, 0.2, log=True)}
    for state, value in (("PRUNED", 0.4), ("COMPLETE", 0.9), ("RUNNING", None)):
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState[state],
            value=value,
            params={"lr": 0.1},
            distributions=spread,
            intermediate_values={1: 0.5, 2: 0.9, 3: 0.4},
        )
        study.add_trial(trial)
    rows = rows_of(Trials(study, search, Path(), ""))
    assert [(one.state, one.accuracy) for one in rows] == [("pruned", 0.9), ("complete", 0.9), ("running", 0.9)]


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
