"""``report.html``: a run, a comparison or a study as one file that is read in a browser and loads nothing."""
