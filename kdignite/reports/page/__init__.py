"""``report.html``: a run, a comparison or a study as one file that is read in a browser and loads nothing."""

from kdignite.reports.page.blocks import Page
from kdignite.reports.page.comparison import comparison_page
from kdignite.reports.page.methods import methods_page
from kdignite.reports.page.mistakes import Pictures, worst_mistakes
from kdignite.reports.page.render import REPORT, write_page
from kdignite.reports.page.run import finished_page, run_page
from kdignite.reports.page.search import search_page
from kdignite.reports.page.sources import FoundRuns, find_runs
from kdignite.reports.page.study import study_page
