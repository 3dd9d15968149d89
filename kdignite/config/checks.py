"""Rules that several configs share."""

import re

from kdignite.config.presets import PRESETS
from kdignite.errors import UserError

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SWITCHES = {"auto", "off", "on", "no", "yes", "false", "true", "none", "0", "1"}  # no folder is meant by these


def check_preset(preset: str) -> None:
    if preset not in tuple(PRESETS):  # whatever its type
        raise UserError(f"--preset must be one of {', '.join(PRESETS)}, not {preset!r}")


def check_name(name: str | None) -> None:
    """Refuse a name that would not be a plain folder in runs/."""
    if name is not None and not RUN_NAME.fullmatch(name):
        raise UserError(
            f"--name must be letters, digits, '.', '_' or '-', starting with a letter or digit, not {name!r}"
        )


def check_val_size(val_size: float | None) -> None:
    """Refuse a number of validation images that is neither a count nor a fraction."""
    if val_size is not None and val_size >= 1 and val_size != int(val_size):
        raise UserError(f"--val_size must be a whole count or a fraction below 1, not {val_size:g}")


def check_cache(cache: str | None) -> None:
    """Refuse a switch that ``--cache`` does not have: it would become a folder of that name."""
    if cache is not None and cache.lower() in SWITCHES and cache not in ("auto", "off"):
        raise UserError(f"--cache must be auto, off or a folder, not {cache!r}: such a folder is --cache=./{cache}")
