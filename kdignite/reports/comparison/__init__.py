"""A comparison of student, baseline and teacher as text, CSV and one picture; all of it from one mapping of values."""

from kdignite.reports.comparison.figure import comparison_figure
from kdignite.reports.comparison.sheets import class_csv, summary_csv
from kdignite.reports.comparison.tables import comparison_text
from kdignite.reports.comparison.words import verdict_text

__all__ = ["class_csv", "comparison_figure", "comparison_text", "summary_csv", "verdict_text"]
