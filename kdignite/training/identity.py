"""What a run and its resumption have to share: settings, and what it starts from, by content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdignite
from kdignite import checkpoints, files, runs
from kdignite.config import DistillConfig, differences, differences_text, to_json, with_role, with_use
from kdignite.errors import UserError
from kdignite.training.spec import RunSpec

# flags that change no number of a run; data, initial weights and teacher are known by what they hold
NOT_IDENTITY = with_role(DistillConfig, "display", "place", "content")
MACHINE = with_role(DistillConfig, "machine")  # may change, but the numbers then do, in their last digits
USERS_CODE = with_use(DistillConfig, "code")  # may name a function of the user's own


def header(run: RunSpec) -> dict[str, Any]:
    """What identifies the run in its complete state."""
    return {"format": checkpoints.FORMAT, "kdignite": kdignite.__version__, "run": identity_of(run)}


def check_header(run: RunSpec, values: Mapping[str, Any], *, who: str) -> None:
    """Refuse a complete state of another format, or of a run with other settings."""
    if values["format"] != checkpoints.FORMAT:
        raise UserError(
            f"{who} has format {values['format']}, written by kdignite {values['kdignite']}; this is kdignite "
            f"{kdignite.__version__}, which reads format {checkpoints.FORMAT}: "
            "resume with the other, or start a new run"
        )
    found = differences(values["run"], identity_of(run), besides={*MACHINE, "epochs"})
    if found:
        raise UserError(f"{who} is the state of another run ({differences_text(found)})")


def identity_of(run: RunSpec) -> dict[str, Any]:
    """Everything that a run and its resumption have to share."""
    return _identity(to_json(run.config)) | _flat(sources_of(run))


def recorded_identity(folder: Path) -> dict[str, Any]:
    """`identity_of` the run in a folder."""
    config, environment = (files.read_json(folder / name) for name in (runs.CONFIG, runs.ENVIRONMENT))
    starts_from = {name: environment.get(name) for name in ("data", "split", "weights", "teacher")}
    return _identity(config) | _flat(starts_from)


def recorded_epochs(folder: Path) -> int:
    return int(files.read_json(folder / runs.CONFIG)["epochs"])


def sources_of(run: RunSpec) -> dict[str, Any]:
    """What a run starts from, by content: data, split, initial weights, teacher."""
    return {
        "data": run.data.source.fingerprint,
        "split": run.data.splits.hash,
        "weights": run.weights,
        "teacher": run.teacher_record.to_json() if run.teacher_record else None,
    }


def _identity(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in NOT_IDENTITY and name != "command"}


def _flat(starts_from: Mapping[str, Any]) -> dict[str, Any]:
    teacher = starts_from["teacher"]
    return {**starts_from, "teacher": teacher["sha256"] if teacher else None}
