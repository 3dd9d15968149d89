"""From the words of the command line to an exit code."""

import errno
import importlib
import inspect
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from types import FrameType
from typing import Any, TextIO

import fire
from fire.core import FireExit

from kdignite import __version__, processes, stopping
from kdignite.cli.flags import flags_of, usage_of
from kdignite.cli.helptext import command_help, overview
from kdignite.cli.parse import Line, Text, check
from kdignite.cli.values import coerce
from kdignite.config import COMMANDS, PROGRAM, Config, Study, Sweep, TrainConfig, configure
from kdignite.errors import RunFailed, UserError

# command -> the function that runs it, called with its config; imported when everything typed is known to be valid
FUNCTIONS = {command: f"kdignite.commands.{command}:{command}" for command in COMMANDS}

OK, FAILED, MISUSED = 0, 1, 2
TELLING_SECONDS = 10.0  # that a process waits for the one that tells how all of them ended
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143  # 128 + the number of SIGINT, SIGPIPE, SIGTERM, as shells count


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt it is no Exception, so that no handler of errors takes it for one."""


class Plan:
    """A valid config that has not run yet.

    Fire goes on into whatever a command returns, by its attributes or by calling it: a plan shows it neither.
    """

    __slots__ = ("config",)

    def __init__(self, config: Config) -> None:
        """Keep the config."""
        self.config = config

    def __dir__(self) -> list[str]:
        """Nothing to go on with."""
        return []


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line."""
    _never_fail_to_print()
    try:
        code = _outcome(sys.argv[1:] if argv is None else argv)
        processes.end_threads()
        for stream in _outputs():
            stream.flush()
    except BrokenPipeError:
        if not _drop_closed_outputs():
            raise
        return PIPE_CLOSED
    return code


def _outcome(argv: Sequence[str]) -> int:
    try:
        with _signal_handlers():
            return _run(check(argv))
    except UserError as error:
        return _report_failure(f"error: {error}", MISUSED)
    except RunFailed as error:
        return _report_failure(f"failed: {error}", FAILED)
    except PermissionError as error:
        if error.filename is None:
            raise
        return _report_failure(f"error: {error}: allow that, or name another place", MISUSED)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return _report_failure(f"failed: {error}: make room, then type the same again", FAILED)
    except (stopping.Stopped, KeyboardInterrupt, Terminated) as stop:
        return _report_stop(stop)


def make_plan(line: Line) -> Plan:
    """Let Fire call the plan maker of a checked line."""
    # Fire reads values as Python literals: the literal of a text is that text, whatever it looks like
    words = [line.command, *(f"--{name}={text!r}" for name, text in line.texts.items())]
    makers = {command: plan_maker(kind) for command, kind in COMMANDS.items()}
    plan: Plan = fire.Fire(makers, command=words, name="kdignite", serialize=lambda _: None)
    return plan


def plan_maker(kind: type[Config]) -> Callable[..., Plan]:
    """The function that Fire calls for a command: the config's fields as texts -> plan."""
    known = {one.name: one for one in fields(kind)}
    positional = usage_of(kind.command).positional
    names = [*([positional] if positional else []), *flags_of(kind.command)]

    def make(**texts: Text) -> Plan:
        values: dict[str, Any] = {
            name: text if isinstance(text, tuple) else coerce(known[name], text) for name, text in texts.items()
        }
        return Plan(configure(kind, **values) if "preset" in known else kind(**values))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=None) for name in names]
    make.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return make


def _run(line: Line) -> int:
    if line.action == "version":
        print(f"kdignite {__version__}")
        return OK
    if line.action == "help":
        print(command_help(line.command) if line.command else overview())
        return OK
    os.environ["PAGER"] = "cat"  # Fire runs $PAGER in a shell
    try:
        plan = make_plan(line)
    except FireExit as error:
        return int(error.code or OK)
    if processes.launch().world > 1 and not isinstance(plan.config, TrainConfig | Study | Sweep):
        raise UserError(f"{line.command} is done by one process: {PROGRAM} {line.command} ..., without torchrun")
    _pipeline(line.command)(plan.config)
    return OK


def _pipeline(command: str) -> Callable[[Any], object]:
    module, _, function = FUNCTIONS[command].partition(":")
    found: Callable[[Any], object] = getattr(importlib.import_module(module), function)
    return found


@contextmanager
def _signal_handlers() -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM stop a training after its iteration, and anything else at once.

    Afterwards they do what they did before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread install a handler
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if number == signal.SIGTERM or handler is not signal.SIG_IGN:  # a shell's & makes Ctrl-C not ours
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    if not stopping.ask(number):
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated
    if number == signal.SIGINT and processes.is_rank0():
        os.write(2, b"\nkdignite: stopping after this step; Ctrl-C again stops at once\n")  # print is not reentrant


def _report_failure(message: str, code: int) -> int:
    if not processes.is_reporter():
        _wait_for_reporter()
    return _report(message, code)


def _report_stop(stop: BaseException) -> int:
    number = stop.number if isinstance(stop, stopping.Stopped) else None
    if number == signal.SIGINT or isinstance(stop, KeyboardInterrupt):
        return _report("interrupted", INTERRUPTED)
    return _report("terminated", TERMINATED)


def _outputs() -> list[TextIO]:
    # either is None when it was closed before the program started
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _never_fail_to_print() -> None:
    """Print what the terminal's encoding lacks as a question mark."""
    for stream in _outputs():
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_closed_outputs() -> bool:
    """Whether an output has no reader any more; such a one is pointed at nothing, since Python flushes it at exit."""
    closed = [stream for stream in _outputs() if _is_closed(stream)]
    for stream in closed:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    return bool(closed)


def _is_closed(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)  # no event asked for: errors and hang-ups are always told
    return bool(poll.poll(0))


def _report(message: str, code: int) -> int:
    """Print one line to stderr: line breaks become blanks, other control characters are spelled out."""
    if not processes.is_reporter():
        return code
    line = " ".join(message.splitlines())
    visible = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    print(f"kdignite: {visible}", file=sys.stderr)
    return code


def _wait_for_reporter() -> None:
    """Let another process tell how all of them ended: as soon as one is gone, torchrun sends SIGTERM to the others."""
    arrived: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    deadline = time.monotonic() + TELLING_SECONDS
    while not arrived and time.monotonic() < deadline:
        time.sleep(0.05)
