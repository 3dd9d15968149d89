"""A table of methods as text: what it shows in a few sentences, and aligned tables that are valid Markdown."""

from collections.abc import Sequence

from kdignite.comparison.methods import BETTER, NOT_TESTED, SIGNIFICANT, WORSE, Contrast, MethodsSummary
from kdignite.config import typed_flags
from kdignite.errors import counted, listed
from kdignite.metrics.statistics import Spread
from kdignite.reports.text import NO_SCORE, markdown_table, p_value_text, per_cent, points

SCORES = {
    "accuracy_val": "validation %",
    "loss": "cross-entropy",
    "ece": "ECE %",
    "agreement": "agrees with teacher %",
    "agreement_on_errors": "repeats its errors %",
    "kl": "KL from it (nats)",
    "divisor": "divisor (T)",
    "divided_loss": "cross-entropy at T",
    "divided_ece": "ECE % at T",
}
NATS = ("loss", "kl", "divided_loss")


BESIDE = (
    "Means over the seeds; of the seconds that the steps of an epoch took, the median over epochs and runs; T: the "
    "number that validation images choose to divide the logits by (temperature scaling), which changes no prediction"
)


def methods_text(summary: MethodsSummary) -> str:
    """The whole report but its picture."""
    parts = [
        methods_headline(summary),
        subject(summary),
        "\n".join(f"- note: {note}" for note in summary.notes),
        f"## Against the {summary.baseline}",
        how_tested(summary, "to_baseline"),
        markdown_table(_baseline_rows(summary), num_names=1),
        *_against(summary),
        "## Beside the accuracy",
        f"{BESIDE}.",
        markdown_table(_score_rows(summary), num_names=1),
        "## Settings",
        "What a row has of its own; everything else is alike.",
        markdown_table(_setting_rows(summary), num_names=2),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def methods_headline(summary: MethodsSummary) -> str:
    """What the table shows, in sentences that claim no more than the runs allow."""
    partial = " Only part of the images was used: not a result to quote." if summary.partial else ""
    gains = [(row.recipe, row.to_baseline) for row in summary.rows if row.to_baseline]
    if not gains:
        return f"Nothing is compared: no row shares a seed with the baseline.{partial}"
    recipe, gain = next((one for one in gains if not one[0].is_control), gains[0])  # ranked: the best comes first
    others = "" if recipe.is_control or recipe is summary.rows[0].recipe else " but for baseline and controls"
    first = f"First{others} is {recipe.name}: {contrast_text(gain)}.{partial}"
    if not num_tested(summary, "to_baseline"):
        return f"Too few seeds to tell methods apart. {first}"
    families = {"to_baseline": "the baseline"} | ({"to_against": summary.against} if summary.against else {})
    shown = [_shown(summary, family, other) for family, other in families.items() if num_tested(summary, family)]
    return " ".join([*shown, first])


def contrast_text(one: Contrast) -> str:
    """``+1.92 points (95 % interval +1.10 to +2.70, 5 seeds)``."""
    found, seeds = one.difference, counted(len(one.seeds), "seed")
    interval = "" if found.low is None else f"95 % interval {_interval(one)}, "
    return f"{points(found.mean, digits=2)} points ({interval}{seeds})"


def subject(summary: MethodsSummary) -> str:
    """What was compared, in one line."""
    low, high = summary.epochs
    accuracy = "" if summary.teacher_accuracy is None else f" ({per_cent(summary.teacher_accuracy, digits=2)} %)"
    parts = [
        f"{summary.dataset}, {summary.num_images:,} test images",
        summary.arch + (f" taught by {summary.teacher_name}{accuracy}" if summary.teacher_name else ""),
        f"{low} to {high} epochs" if low != high else counted(low, "epoch"),
        f"seed{'s' * (len(summary.seeds) > 1)} {', '.join(map(str, summary.seeds))}",
    ]
    return "; ".join(parts)


def num_tested(summary: MethodsSummary, family: str) -> int:
    """How many comparisons a family has, of which each is corrected for all."""
    found = [getattr(row, family) for row in summary.rows]
    return sum(one is not None and one.verdict != NOT_TESTED for one in found)


def _shown(summary: MethodsSummary, family: str, other: str) -> str:
    """``Better than kd: dkd, dist (2 of 14); worse: rkd.``"""
    pairs = [(row.recipe.name, getattr(row, family)) for row in summary.rows]
    better, worse = ([name for name, one in pairs if one and one.verdict == verdict] for verdict in (BETTER, WORSE))
    some = f"{listed(better)} ({len(better)} of {num_tested(summary, family)})"
    none = f"none of {num_tested(summary, family)}"
    return f"Better than {other}: {some if better else none}{f'; worse: {listed(worse)}' if worse else ''}."


def how_tested(summary: MethodsSummary, family: str) -> str:
    """How the columns of a family were computed."""
    tested = num_tested(summary, family)
    if not tested:
        return ""
    return (
        "Points of test accuracy, seed by seed: the mean difference and its paired t interval, each by itself; p of "
        f"the paired t test, as it is and corrected by Holm for {counted(tested, 'comparison')} of this table. "
        f"Better or worse is said where the corrected p is below {SIGNIFICANT:g}."
    )


def _baseline_rows(summary: MethodsSummary) -> list[list[str]]:
    rows = [["method", "seeds", "accuracy %", "std", "difference", "95 % interval", "p", "p (Holm)", "shown"]]
    for row in summary.rows:
        mean, std = (per_cent(share, digits=2) for share in row.recipe.accuracy)
        rows.append([row.recipe.name, str(len(row.recipe.seeds)), mean, std, *_contrast_cells(row.to_baseline)])
    return rows


def _against(summary: MethodsSummary) -> list[str]:
    found = [(row.recipe.name, row.to_against) for row in summary.rows if row.to_against]
    rows = [["method", "seeds", "difference", "95 % interval", "p", "p (Holm)", "shown"]]
    rows += [[name, str(len(one.seeds)), *_contrast_cells(one)] for name, one in found]
    how = how_tested(summary, "to_against")
    return [f"## Against {summary.against}", how, markdown_table(rows, num_names=1)] if found else []


def _contrast_cells(one: Contrast | None) -> list[str]:
    if one is None:
        return [NO_SCORE] * 5
    p_values = (p_value_text(one.p_value), p_value_text(one.adjusted))
    return [points(one.difference.mean, digits=2), _interval(one), *p_values, one.verdict]


def _interval(one: Contrast) -> str:
    low, high = (points(end, digits=2) for end in (one.difference.low, one.difference.high))
    return NO_SCORE if one.difference.low is None else f"{low} to {high}"


def _score_rows(summary: MethodsSummary) -> list[list[str]]:
    shown = [key for key in SCORES if any(row.recipe.scores[key] for row in summary.rows)]
    rows = [["method", *(SCORES[key] for key in shown), "s an epoch"]]
    for recipe in (row.recipe for row in summary.rows):
        seconds = NO_SCORE if recipe.epoch_seconds is None else f"{recipe.epoch_seconds:.1f}"
        rows.append([recipe.name, *(score_text(key, recipe.scores[key]) for key in shown), seconds])
    return rows


def score_text(key: str, spread: Spread | None) -> str:
    """The mean of a score over the seeds, in the unit of its column."""
    if spread is None:
        return NO_SCORE
    if key == "divisor":
        return f"{spread.mean:.2f}"
    return f"{spread.mean:.3f}" if key in NATS else per_cent(spread.mean, digits=2)


def _setting_rows(summary: MethodsSummary) -> list[Sequence[str]]:
    trials = summary.budget.trials
    header: Sequence[str] = ["method", "settings", "trials"]
    return [
        header,
        *(
            [
                row.recipe.name,
                typed_flags(**row.recipe.settings) or NO_SCORE,
                str(trials.get(row.recipe.name, NO_SCORE)),
            ]
            for row in summary.rows
        ),
    ]
