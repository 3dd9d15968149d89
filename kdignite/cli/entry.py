"""From the arguments of the command line to an exit code."""

import errno
import importlib
import io
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from types import FrameType
from typing import Any, TextIO

import fire
from fire.decorators import SetParseFns

from kdignite import __version__, processes, stopping
from kdignite.cli.flags import is_variadic, usage_of
from kdignite.cli.helptext import command_help, overview
from kdignite.cli.parse import TRACEBACK, ParsedArgs, parse_args
from kdignite.cli.values import SEPARATOR, coerce
from kdignite.config import COMMANDS, PROGRAM, AnyStudy, Config, TrainConfig, config_class, configure
from kdignite.errors import RunFailed, UserError, printable

# command -> the function that runs it with its config; imported when all arguments are known to be valid
FUNCTIONS = {command: f"kdignite.commands.{command}:{command}" for command in COMMANDS}

OK, FAILED, USAGE_ERROR = 0, 1, 2
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143  # 128 + the number of SIGINT, SIGPIPE, SIGTERM, as shells count
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PLACE_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
REPORT_TIMEOUT_S = 10.0  # within which the reporting process prints how all of them ended


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt no Exception, so that no error handler catches it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code. A bug keeps its traceback."""
    for stream in _outputs():
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the terminal's encoding lacks becomes a question mark
    try:
        code = _exit_code(sys.argv[1:] if argv is None else argv)
        processes.free_group_threads()
        for stream in _outputs():
            stream.flush()
    except BrokenPipeError:
        if not _drop_closed_outputs():
            raise
        return PIPE_CLOSED
    except Exception as error:
        processes.end_left_group(FAILED, error)
        raise
    processes.end_left_group(code)
    return code


def make_config(args: ParsedArgs) -> Config:
    """The config of a valid command line: Fire maps the command and its flags to the function that makes it."""
    words = [args.command, *(f"--{name}={value}" for name, value in args.values.items())]
    kind = config_class(args.command, args.values.get("method", ""))
    makers = {args.command: _config_maker(kind)}
    config: Config = fire.Fire(makers, command=words, name="kdignite", serialize=lambda _: None)
    return config


def _config_maker(kind: type[Config]) -> Callable[..., Config]:
    parsers: dict[str, Callable[[str], Any]] = {one.name: partial(coerce, one) for one in fields(kind)}
    if is_variadic(kind.command):
        parsers[usage_of(kind.command).positional] = lambda words: tuple(words.split(SEPARATOR))

    def make(**values: Any) -> Config:
        return configure(kind, **values) if "preset" in parsers else kind(**values)

    made: Callable[..., Config] = SetParseFns(**parsers)(make)
    return made


def _exit_code(argv: Sequence[str]) -> int:
    try:
        with _signal_handlers():
            _run(parse_args(argv))
        return OK
    except (UserError, RunFailed) as error:
        wrong = isinstance(error, UserError)
        message, code = f"{'error' if wrong else 'failed'}: {error}", USAGE_ERROR if wrong else FAILED
        if TRACEBACK in argv and processes.is_reporter():
            traceback.print_exception(error.__cause__ or error)
    except OSError as error:
        if error.errno in PLACE_REFUSED and error.filename is not None:
            message, code = f"error: {error}: allow access, or name another place", USAGE_ERROR
        elif error.errno in DISK_FULL:
            message, code = f"failed: {error}: free some disk space, then type the same command again", FAILED
        else:
            raise
    except (stopping.Stopped, KeyboardInterrupt, Terminated) as stop:
        interrupted = isinstance(stop, KeyboardInterrupt) or getattr(stop, "number", None) == signal.SIGINT
        return _report("interrupted", INTERRUPTED) if interrupted else _report("terminated", TERMINATED)
    if not processes.is_reporter():
        _wait_for_reporter()
    return _report(message, code)


def _run(args: ParsedArgs) -> None:
    if args.action == "version":
        print(f"kdignite {__version__}")
    elif args.action == "help":
        print(command_help(args.command) if args.command else overview())
    else:
        config = make_config(args)
        if processes.launch().world_size > 1 and not isinstance(config, TrainConfig | AnyStudy):
            raise UserError(f"{args.command} runs in one process: {PROGRAM} {args.command} ..., without torchrun")
        module, _, function = FUNCTIONS[args.command].partition(":")
        getattr(importlib.import_module(module), function)(config)


@contextmanager
def _signal_handlers() -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM stop a training after its iteration, and anything else at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread install a handler
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if (
            number == signal.SIGTERM or handler is not signal.SIG_IGN
        ):  # a job that a shell started with & ignores Ctrl-C
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    if not stopping.request_stop(number):
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated
    if number == signal.SIGINT and processes.is_rank0():
        os.write(2, b"\nkdignite: stopping after this step; Ctrl-C again stops at once\n")  # print is not reentrant


def _report(message: str, code: int) -> int:
    if processes.is_reporter():
        print(f"kdignite: {printable(message)}", file=sys.stderr)
    return code


def _wait_for_reporter() -> None:
    """Leave the other processes time to report: torchrun sends SIGTERM to all of them as soon as one has ended."""
    arrived: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    deadline = time.monotonic() + REPORT_TIMEOUT_S
    while not arrived and time.monotonic() < deadline:
        time.sleep(0.05)


def _outputs() -> list[TextIO]:
    # either is None when it was closed before the program started
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _drop_closed_outputs() -> bool:
    """Whether an output has lost its reader; it then goes to the null device, since Python flushes it at exit."""
    poll = select.poll()
    for stream in _outputs():
        poll.register(stream.fileno(), 0)  # errors and hang-ups are reported whatever the events
    closed = poll.poll(0)
    for descriptor, _ in closed:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)
    return bool(closed)
