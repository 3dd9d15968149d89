"""What can be typed after each command, read from the config classes."""

from dataclasses import Field, fields
from typing import Any, NamedTuple, get_args

from kdignite.config import COMMANDS, PRESETS, bare_type, config_class, flag_fields


class Usage(NamedTuple):
    """What a config class does not say of its command: the positional field, required flags, an example."""

    positional: str = ""
    required: tuple[str, ...] = ()
    example: str = ""


USAGES: dict[str, Usage] = {
    "reproduce": Usage(example="--preset=quick"),
    "data": Usage(example="--dataset=cifar10"),
    "teacher": Usage(example="--epochs=10 --seed=1"),
    "distill": Usage(example="--alpha=0.7 --T=3 --seed=1"),
    "baseline": Usage(example="--seed=1"),
    "evaluate": Usage(positional="run", example="runs/teacher --split=val"),
    "predict": Usage(positional="paths", required=("model",), example="pictures/ --model=runs/teacher --top=3"),
    "doctor": Usage(positional="run", example="runs/teacher --observed=10"),
    "compare": Usage(positional="runs", example="runs/teacher runs/distill-a0.9-T4 runs/baseline"),
    "export": Usage(positional="run", example="runs/distill-a0.5-T1 --format=onnx --int8"),
    "report": Usage(positional="run", example="runs/teacher"),
    "sweep": Usage(example="--alpha=0.5,1 --T=1,4 --seeds=3"),
    "search": Usage(example="--method=dkd --trials=30"),
    "study": Usage(example="--methods=kd,dkd,dist --trials=10 --seeds=5"),
    "adopt": Usage(
        positional="file",
        required=("arch",),
        example="net.pt --arch=cnn5 --size=32 --mean=.5,.5,.5 --std=.5,.5,.5",
    ),
    "methods": Usage(positional="method", example="kd"),
    "cache": Usage(example="--prune=all"),
    "bench": Usage(example="--batch_size=500"),
}


def usage_of(command: str) -> Usage:
    return USAGES.get(command, Usage())


def flags_of(command: str, method: str = "") -> dict[str, Field[Any]]:
    """The flags of a command: the fields of its config that have a help text, without the positional one."""
    found = flag_fields(config_class(command, method))
    return {name: one for name, one in found.items() if name != usage_of(command).positional}


def is_variadic(command: str) -> bool:
    """Whether a command takes any number of positional words, the items of one field."""
    positional = usage_of(command).positional
    return any(one.name == positional and item_type(one.type) is not None for one in fields(COMMANDS[command]))


def placeholder(command: str) -> str:
    """How help writes the positional of a command: RUN or RUN..."""
    name = usage_of(command).positional.upper()
    return f"{name.removesuffix('S')}..." if is_variadic(command) else name


def choices_of(one: Field[Any]) -> tuple[str, ...]:
    return tuple(PRESETS) if one.name == "preset" else tuple(one.metadata["choices"])


def item_type(annotation: Any) -> type | None:
    """The type of the items of a list; None for other types."""
    items = get_args(bare_type(annotation))
    return items[0] if items else None
