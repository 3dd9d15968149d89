"""The teachers that a distillation names, and what they cannot be combined with."""

import os

from kdignite.errors import UserError

CONTROLS = ("random", "shuffled")


def teacher_names(teacher: str | None) -> tuple[str, ...]:
    """The names of ``--teacher``, split at commas unless one file or folder has the whole as its name."""
    if teacher is None or os.path.exists(teacher):  # noqa: PTH110  # Path.exists raises for a long list of names
        return () if teacher is None else (teacher,)
    return tuple(os.path.expanduser(name.strip()) for name in teacher.split(","))  # noqa: PTH111


def check_teachers(
    teacher: str | None, shares: tuple[float, ...] | None, control: str | None, *, method: str, uses_features: bool
) -> None:
    """Refuse an empty name, shares that do not fit the names, and a control of a method on features."""
    names = teacher_names(teacher)
    if not all(names):
        raise UserError(f"--teacher={teacher} names no teacher between two commas: write --teacher=A,B,C")
    if shares is not None and (len(names) < 2 or len(shares) != len(names)):
        raise UserError(
            f"--teacher_shares has {len(shares)} for {len(names)} named in --teacher: give one to each of several, "
            "--teacher=A,B --teacher_shares=2,1, or leave it out"
        )
    if uses_features and control:
        raise UserError(f"--method={method} needs the features of a trained teacher: leave out --control={control}")
