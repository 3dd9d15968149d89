"""Arguments of the command line -> a command and its values, checked as a whole before anything is done."""

import difflib
import re
import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import Field
from typing import Any, Literal, NamedTuple

from kdignite.cli.flags import choices_of, flags_of, is_variadic, item_type, placeholder, usage_of
from kdignite.cli.values import BOOLEANS, SEPARATOR
from kdignite.config import COMMANDS, PROGRAM, bare_type
from kdignite.errors import UserError, brief, listed
from kdignite.models.registry import MODELS

HELP = ("-h", "--help")
TRACEBACK = "--traceback"  # anywhere: an error shows where it was raised
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # the first is that of flags; editors make others of it
_NEGATIVE = re.compile(r"-(\.?[0-9]|(inf|infinity|nan)$)", re.IGNORECASE)
_SHORT = re.compile(r"[A-Za-z]([0-9.+-].*)?")  # one letter, perhaps with its value: T, T4, T-4
Flags = Mapping[str, Field[Any]]


class ParsedArgs(NamedTuple):
    """A valid command line."""

    action: Literal["help", "version", "run"]
    command: str = ""  # empty: the help of the whole program
    values: Mapping[str, str] = {}  # by field, as typed


def parse_args(argv: Sequence[str]) -> ParsedArgs:
    """The command and the text of each flag, checked as a whole before anything runs."""
    args = [arg for arg in argv if arg != TRACEBACK]
    if not args:
        return ParsedArgs("help")
    first = args[0]
    if first == "--version":
        return ParsedArgs("version")
    if first in ("help", *HELP):
        topic = next((arg for arg in args[1:] if not arg.startswith("-")), "")
        return ParsedArgs("help", _command(topic) if topic else "")
    if first.startswith("-"):
        return _flag_before_command(args)
    command = _command(first)
    if any(arg in HELP for arg in args):
        return ParsedArgs("help", command)
    return ParsedArgs("run", command, _values(command, args[1:]))


def _command(word: str) -> str:
    if word in COMMANDS:
        return word
    close = _closest(word, COMMANDS)
    advice = f"did you mean {close}?" if close else f"the commands are {', '.join(COMMANDS)}"
    raise UserError(f"no command '{brief(word)}'; {advice}")


def _flag_before_command(args: list[str]) -> ParsedArgs:
    command = next((arg for arg in args if arg in COMMANDS), "")
    if any(arg in HELP for arg in args):
        return ParsedArgs("help", command)
    if not command:
        raise UserError(
            f"write a command before the flags: {PROGRAM} COMMAND ...; the commands are {', '.join(COMMANDS)}"
        )
    at = args.index(command)
    ordered = shlex.join([command, *(arg for arg in args[:at] + args[at + 1 :] if arg != "--")])
    raise UserError(f"the command comes first, then its flags: {PROGRAM} {brief(ordered, longest=300)}")


def _values(command: str, tokens: Sequence[str]) -> dict[str, str]:
    flags = flags_of(command, _method_in(tokens))
    values: dict[str, str] = {}
    rest = deque(tokens)
    last = ""
    while rest:
        token = rest.popleft()
        if _is_flag(token):
            last, value = _flag(command, flags, token, rest)
            if last in values:
                raise UserError(f"{command}: --{last} is given twice; keep one of them")
            values[last] = value
        else:
            name = _positional(command, flags, token, last=last, values=values)
            values[name] = f"{values[name]}{SEPARATOR}{token}" if name in values else token
    return values


def _method_in(tokens: Sequence[str]) -> str:
    """The method that is named, whose function says which flags there are besides."""
    pairs = zip(tokens, [*tokens[1:], ""], strict=False)  # there may be no token
    return next(
        (token.partition("=")[2] or value for token, value in pairs if token.partition("=")[0] == "--method"), ""
    )


def _flag(command: str, flags: Flags, token: str, rest: deque[str]) -> tuple[str, str]:
    """The name and the value of a flag; a value that is the next word is taken off the rest."""
    if token == "--":
        raise UserError(f"{command}: '--' has no meaning here; write flags as --flag=value")
    if not token.startswith("--"):
        raise _single_dash_error(command, flags, token, rest)
    typed, equals, text = token[2:].partition("=")
    name, negated = _flag_name(command, flags, typed, value=text)
    if negated:
        if equals:
            raise UserError(f"{command}: --{typed} takes no value; write --{name}=true or --{name}=false")
        return name, "false"
    if not equals and bare_type(flags[name].type) is bool:
        return name, "true"
    if not equals:
        text = rest.popleft() if rest and not _is_flag(rest[0]) else flags[name].metadata["alone"]
    if not text:
        raise UserError(f"{command}: --{name} needs a value; write --{name}=VALUE")
    return name, text


def _is_flag(token: str) -> bool:
    return token.startswith("-") and token != "-" and not _NEGATIVE.match(token)


def _flag_name(command: str, flags: Flags, typed: str, *, value: str) -> tuple[str, bool]:
    """The flag that was typed, and whether it was typed as --no_flag."""
    name = typed.replace("-", "_")
    if name in flags:
        return name, False
    bare = re.sub("^no_?", "", name)
    if bare != name and bare in flags and bare_type(flags[bare].type) is bool:
        return bare, True
    if name and name == usage_of(command).positional:
        are = "are" if is_variadic(command) else "is"
        raise UserError(
            f"{command}: the {name} {are} typed without --{name}: {PROGRAM} {command} {placeholder(command)}"
        )
    close = _closest(name, [*flags, "help"])
    if value in MODELS and "arch" in flags and not close.endswith("arch"):  # --student=cnn5, --model=cnn5
        close = "arch"
    owners = [one for one in COMMANDS if name in flags_of(one)]
    hints = [f"did you mean --{close}?"] * bool(close) + [f"--{name} is a flag of {listed(owners)}"] * bool(owners)
    raise UserError(f"{command}: no flag --{brief(typed)}; {' '.join(hints) or f'see {PROGRAM} {command} --help'}")


def _single_dash_error(command: str, flags: Flags, token: str, rest: deque[str]) -> UserError:
    """The error for -T4, -T 4, -a 3 and -alpha=3."""
    typed, _, text = token[1:].partition("=")
    found = [typed.replace("-", "_")]
    if found[0] not in flags and _SHORT.fullmatch(typed):
        found = [typed[0]] if typed[0] in flags else [flag for flag in flags if flag.startswith(typed[0])]
        text = typed[1:] or text
    elif found[0] not in flags:
        found = [close] if (close := _closest(found[0], flags)) else []
    problem = f"{command}: flags have two dashes and their whole name, not {brief(token)}"
    if len(found) > 1:
        return UserError(f"{problem}; write one of {', '.join(f'--{flag}' for flag in found)}")
    if not found:
        return UserError(f"{problem}; see {PROGRAM} {command} --help")
    if bare_type(flags[found[0]].type) is bool and not text:
        return UserError(f"{problem}; write --{found[0]}")
    text = text or (rest[0] if rest and not _is_flag(rest[0]) else "VALUE")
    return UserError(f"{problem}; write --{found[0]}={brief(text)}")


def _positional(command: str, flags: Flags, word: str, *, last: str, values: Mapping[str, str]) -> str:
    """The field that a word without dashes belongs to."""
    meant = word.lstrip(_DASHES)
    if meant != word and meant.partition("=")[0].replace("-", "_") in {*flags, "help"}:
        raise UserError(f"{command}: '{brief(word)}' begins with a dash of text, not with '-'; write --{brief(meant)}")
    before = flags[last].type if last else str
    if bare_type(before) is bool and word.lower() in BOOLEANS:
        raise UserError(f"{command}: write --{last}={word}, with '='")
    positional = usage_of(command).positional
    if positional and (positional not in values or is_variadic(command)):
        return positional
    if item_type(before) is not None:
        raise UserError(f"{command}: stray word '{brief(word)}'; write lists with commas and no blanks: --{last}=A,B,C")
    if positional:
        raise UserError(f"{command} takes one {positional}, not also '{brief(word)}'; see {PROGRAM} {command} --help")
    raise UserError(f"{command}: stray word '{brief(word)}'; {_suggestion(command, flags, word)}")


def _suggestion(command: str, flags: Flags, word: str) -> str:
    name, equals, text = word.partition("=")
    if name.replace("-", "_") in flags:
        return f"write --{name}={brief(text) if equals and text else 'VALUE'}"
    owner = next((flag for flag, one in flags.items() if word in choices_of(one)), "")
    return f"write --{owner}={word}" if owner else f"write flags as --flag=value, see {PROGRAM} {command} --help"


def _closest(word: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    """The name that was probably meant: another case, a slip, or a beginning that only one name has."""
    lower = {name.lower(): name for name in names}
    begun = [name for name in lower if word and name.startswith(word.lower())]
    close = begun if len(begun) == 1 else difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.7)
    return lower[close[0]] if close else ""
