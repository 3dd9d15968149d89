"""Tables and figures, made from what the files of run folders say, never from live models."""
