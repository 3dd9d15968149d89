"""The two ways in which kdignite stops on purpose."""


class UserError(ValueError):
    """A mistake that the user can mend, told in one line: what was expected, what came, what to type next.

    The command line prints the line and exits with 2; from Python it is an ordinary ``ValueError``.
    """


class RunFailed(RuntimeError):
    """A run that was set up correctly and cannot go on (a loss that is no number any more, say).

    The command line prints the line and exits with 1.
    """
