"""The help of the command line, in plain text: written from the config classes, the presets and the list of models."""

import textwrap
from collections.abc import Callable
from dataclasses import Field
from typing import Any

from kdignite import __version__
from kdignite.cli.flags import choices_of, flags_of, placeholder, usage_of
from kdignite.cli.parse import TRACEBACK
from kdignite.config import COMMANDS, GROUPS, PRESETS, PROGRAM, CommandFlag, setting_text, target_flag, type_name
from kdignite.config.build import method_of
from kdignite.config.fields import domain_text
from kdignite.data.registry import DATASETS
from kdignite.methods.registry import METHODS
from kdignite.models.registry import MODELS

WIDTH = 100  # columns
OF_DISTILL = ("sweep", "search", "study")  # whose flags are those of distill
TRIED: dict[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]] = {  # command -> what it tries of a grid
    "sweep": tuple,
    "search": lambda grid: (min(grid), max(grid)),
}


def overview() -> str:
    blocks = [
        f"kdignite {__version__}: train a teacher, distil it into a student, see what that bought.",
        f"usage: {PROGRAM} COMMAND [--flag=value ...]",
        "\n".join(["commands:", *(_command_entry(command) for command in COMMANDS)]),
        f"flags of a command: {PROGRAM} COMMAND --help\nversion: {PROGRAM} --version\n"
        f"where an error was raised: {TRACEBACK} beside the other flags",
    ]
    return "\n\n".join(blocks)


def command_help(command: str) -> str:
    """Usage, example, and every flag with its type, domain, default in each preset, and meaning."""
    flags = flags_of(command)
    blocks = [_wrapped(f"{command}: {_about(command)}", "", 0), _usage(command), *_notes(command)]
    blocks += [_group(command, title, members) for title, members in _grouped(flags).items() if members]
    if of_methods := next(iter({"method", "methods"} & {*flags}), ""):
        rows = (_row(name, f"{one.idea}; loss = {one.equation}") for name, one in METHODS.items())
        more = f"more of each, and what ce, KL and the sums are: {PROGRAM} methods NAME"
        blocks.append("\n".join([f"methods for --{of_methods}:", *rows, more]))
    if "dataset" in flags:
        blocks.append(
            "\n".join(["data sets for --dataset:", *(_row(name, one.about) for name, one in DATASETS.items())])
        )
    if "arch" in flags:
        rows = (_row(name, one.about) for name, one in MODELS.items())
        blocks.append("\n".join(["models for --arch:", *rows, *([_recipes()] if "lr" in flags else [])]))
    return "\n\n".join(blocks)


def _about(command: str) -> str:
    return (COMMANDS[command].__doc__ or "").partition("\n")[0]


def _example(command: str) -> str:
    return f"{PROGRAM} {command} {usage_of(command).example}".rstrip()


def _command_entry(command: str) -> str:
    return f"{_row(command, _about(command))}\n{'':14}{_example(command)}"


def _usage(command: str) -> str:
    usage = usage_of(command)
    words = [command, placeholder(command), *(f"--{name}=..." for name in usage.required), "[--flag=value ...]"]
    return f"usage:   {PROGRAM} {' '.join(word for word in words if word)}\nexample: {_example(command)}"


def _notes(command: str) -> list[str]:
    positional = usage_of(command).positional
    notes = []
    if positional:
        one = next(one for one in COMMANDS[command].__dataclass_fields__.values() if one.name == positional)
        notes.append(_row(placeholder(command), one.metadata["help"]))
    if "preset" in flags_of(command):
        notes.append("Where presets differ, a default is given for each: [preset] value; --FLAG=none unsets one.")
    return notes


def _grouped(flags: dict[str, Field[Any]]) -> dict[str, list[Field[Any]]]:
    first = sorted(flags.values(), key=lambda one: one.name != "method" and not one.metadata["parameter"])
    return {title: [one for one in first if one.metadata["group"] == title] for title in GROUPS}


def _group(command: str, title: str, members: list[Field[Any]]) -> str:
    return "\n".join([f"{title}:", *(_flag(command, one) for one in members)])


def _flag(command: str, one: Field[Any]) -> str:
    kind, default = _kind(one), _default(command, one)
    tail = [kind, default] if "[" in default else [f"{kind}; {default}"]
    meaning = _wrapped(one.metadata["help"], f"  --{one.name:<19} ", 24)
    return "\n".join([meaning, *(_wrapped(line, " " * 24, 24) for line in tail)])


def _kind(one: Field[Any]) -> str:
    """The type and the domain: ``a number above 0``."""
    if choices_of(one):
        return f"one of {', '.join(choices_of(one))}"
    return f"{type_name(one.type)} {domain_text(one.metadata)}".rstrip()


def _default(command: str, one: Field[Any]) -> str:
    if one.name in usage_of(command).required:
        return "required"
    if one.metadata["parameter"]:
        return _default_by_method(command, one)
    stage, name = _origin(command, one)
    default = flags_of(stage)[name].default if name in flags_of(stage) else one.default
    values = {preset: recipes.get(stage, {}).get(name, default) for preset, recipes in PRESETS.items()}
    if one.name == "preset" or len(set(values.values())) == 1:
        return f"default {setting_text(default) or 'empty'}"
    return "default " + ", ".join(f"[{preset}] {setting_text(value)}" for preset, value in values.items())


def _default_by_method(command: str, one: Field[Any]) -> str:
    """The default of a parameter in each method that takes it, and in each preset that has another for its method.

    What a sweep or a search tries goes before what a preset has.
    """
    rows = {name: method.parameters[one.name] for name, method in METHODS.items() if one.name in method.parameters}
    of_method = {name: setting_text(_tried(command, row.grid) or row.default) for name, row in rows.items()}
    texts = of_method.values() if len(set(of_method.values())) == 1 else (f"{v} for {k}" for k, v in of_method.items())
    recipes = {preset: recipe["distill"] for preset, recipe in PRESETS.items()}
    others = [
        f"[{preset}] {setting_text(recipe[one.name])}"
        for preset, recipe in recipes.items()
        if one.name in recipe and not _tried(command, rows[method_of(preset)].grid)
    ]
    return f"default {', '.join([*dict.fromkeys(texts), *others])}"


def _tried(command: str, grid: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a sweep or a search tries of a parameter's grid."""
    return TRIED[command](grid) if command in TRIED and grid else ()


def _recipes() -> str:
    by_recipe: dict[str, list[str]] = {}
    for name, one in MODELS.items():
        values = " ".join(f"--{flag}={setting_text(value)}" for flag, value in one.recipe._asdict().items())
        by_recipe.setdefault(values, []).append(name)
    texts = "; ".join(f"{', '.join(names)}: {values}" for values, names in by_recipe.items())
    return _wrapped(f"--arch brings its recipe, which flags and presets override. {texts}", "", 0)


def _origin(command: str, one: Field[Any]) -> CommandFlag:
    """The command and the flag that a flag's default belongs to: a study leaves most of them to its stages."""
    if one.default is None and command == "reproduce":
        return target_flag(one.name)
    is_own = one.default is not None or (command, one.name) == ("search", "lr")  # which is searched
    return CommandFlag("distill" if command in OF_DISTILL and not is_own else command, one.name)


def _row(name: str, text: str) -> str:
    return _wrapped(text, f"  {name:<11} ", 14)


def _wrapped(text: str, start: str, indent: int) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * indent)
