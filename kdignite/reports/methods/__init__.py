"""A table of methods as text, CSV, JSON and one picture."""

from kdignite.reports.methods.figure import methods_figure
from kdignite.reports.methods.serialize import methods_csv, methods_from_json, methods_json
from kdignite.reports.methods.tables import methods_headline, methods_text
