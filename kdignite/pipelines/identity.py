"""What a run is, so that it can be gone on with: its settings, and what it starts from, by content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import kdignite
from kdignite import checkpoints, runs
from kdignite.config import to_json
from kdignite.errors import UserError
from kdignite.pipelines.preparing import Run

# settings that change no number of a run: names, places, leftovers; a teacher, data and initial weights are known by
# what they hold and not by where they lie
FREE = {
    *("preset", "name", "resume", "save_every_s", "keep_last", "graph"),
    *("dataset", "data_root", "weights", "teacher", "teacher_arch", "allow_weak_teacher"),
}
USERS_CODE = ("arch", "dataset", "teacher_arch")  # may name a function of the user's own
MACHINE = ("device", "threads")  # may change, but the numbers then do, in their last digits


class Difference(NamedTuple):
    """A setting that is not what it was."""

    name: str
    before: Any
    now: Any


def about(run: Run) -> dict[str, Any]:
    """What the complete state of a run says of where it belongs.

    Args:
        run: whose state it is.

    Returns:
        Plain values.
    """
    return {"format": checkpoints.FORMAT, "kdignite": kdignite.__version__, "run": identity_of(run)}


def check_about(run: Run, values: Mapping[str, Any], *, who: str) -> None:
    """Refuse a complete state of another run.

    Args:
        run: about to go on.
        values: what `about` wrote.
        who: the file, for the message.

    Raises:
        UserError: if it is of another format or other settings.
    """
    if values["format"] != checkpoints.FORMAT:
        raise UserError(
            f"{who} has format {values['format']}, written by kdignite {values['kdignite']}; this is kdignite "
            f"{kdignite.__version__}, which reads format {checkpoints.FORMAT}: go on with the other, or start a new run"
        )
    found = [one for one in differences(values["run"], identity_of(run)) if one.name != "epochs"]
    if found:
        raise UserError(f"{who} is the state of another run ({in_words(found)})")


def identity_of(run: Run) -> dict[str, Any]:
    """What a run and its resumption have to agree on.

    Args:
        run: about to start.

    Returns:
        Plain values by the names of their flags, and of what the run starts from.
    """
    return {name: value for name, value in to_json(run.config).items() if name not in FREE} | _flat(sources_of(run))


def recorded_identity(folder: Path) -> dict[str, Any]:
    """What `identity_of` said of the run in a folder.

    Args:
        folder: of the run.

    Returns:
        The same, from its files.

    Raises:
        UserError: if they cannot be read.
    """
    config, environment = (runs.read_json(folder / name) for name in (runs.CONFIG, runs.ENVIRONMENT))
    starts_from = {name: environment.get(name) for name in ("data", "split", "weights", "loss", "teacher")}
    return {name: value for name, value in config.items() if name not in {*FREE, "command"}} | _flat(starts_from)


def sources_of(run: Run) -> dict[str, Any]:
    """What a run starts from, by content: data, split, initial weights, loss, teacher.

    Args:
        run: about to start.

    Returns:
        Plain values.
    """
    weights = run.config.weights
    return {
        "data": run.data.source.fingerprint,
        "split": run.data.splits.hash,
        "weights": weights if weights in ("none", "imagenet") else runs.sha256(Path(weights)),
        "loss": run.loss,
        "teacher": run.taught._asdict() if run.taught else None,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The settings that are not what they were, besides those of the machine.

    Args:
        before: what `identity_of` said.
        now: what it says.

    Returns:
        The differences, in the order of the settings.
    """
    names = [name for name in {**before, **now} if name not in MACHINE]
    return [Difference(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]


def in_words(found: list[Difference]) -> str:
    """Differences in one line.

    Args:
        found: any number of them.

    Returns:
        ``name: before -> now; ...``.
    """
    return "; ".join(f"{one.name}: {_shown(one.before)} -> {_shown(one.now)}" for one in found)


def _flat(starts_from: Mapping[str, Any]) -> dict[str, Any]:
    teacher = starts_from["teacher"]
    return {**starts_from, "teacher": teacher["sha256"] if teacher else None}


def _shown(value: Any) -> str:
    return "unset" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)[:80]
