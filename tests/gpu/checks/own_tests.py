"""The part ``pytest``: the project's own tests, which compute on a GPU where there is one."""

import importlib.util
import sys

from checks.report import Report
from checks.shell import ROOT, Shell

FILES = ("training", "resume", "cache")
NEEDED = ("pytest", "pytest_timeout", "xdist", "hypothesis")


def part(shell: Shell, report: Report) -> None:
    """The integration tests of training, resuming and caching."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        report.row("pytest", "left out", f"{', '.join(missing)} missing")
        return
    tests = [f"{ROOT}/tests/integration/test_{name}.py" for name in FILES]
    command = [sys.executable, "-m", "pytest", "-c", f"{ROOT}/tox.ini", f"--rootdir={ROOT}", *tests]
    command += ["-m", "not slow and not cifar10", "-q", "--maxfail=8", "-n", "6", "-p", "no:cacheprovider"]
    done = shell.run(command, limit=150, env={"OMP_NUM_THREADS": "1"})
    lines = [line for line in done.out.splitlines() if line.strip()]
    if done.code:
        told = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
        report.fail("pytest", "integration tests", "\n".join([*told[-12:], *lines[-1:]]) or done.problem)
    else:
        report.row("pytest", "integration tests on this device", lines[-1][:120] if lines else "no output", ok=True)
