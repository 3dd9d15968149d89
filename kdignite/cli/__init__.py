"""The command line: a line of words becomes a checked config, and only then does anything run."""

from kdignite.cli.entry import main
