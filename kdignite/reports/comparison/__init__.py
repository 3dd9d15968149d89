"""The summary of a comparison as text, CSV, JSON and one picture."""

from kdignite.reports.comparison.figure import comparison_figure
from kdignite.reports.comparison.sentences import verdict_text
from kdignite.reports.comparison.serialize import class_csv, comparison_json, summary_csv, summary_from_json
from kdignite.reports.comparison.tables import comparison_text
