"""``reproduce``: one config with the flags of all its stages."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from kdignite.config import shared
from kdignite.config.build import configure, planned
from kdignite.config.distillation import LAYERS, DistillConfig
from kdignite.config.fields import (
    Config,
    Value,
    extended,
    flag,
    flag_fields,
    given_values,
    left_open,
    renamed_errors,
    with_role,
)
from kdignite.config.methods import parameter_names
from kdignite.config.training import BaselineConfig, TeacherConfig, TrainConfig
from kdignite.data.registry import is_code
from kdignite.errors import UserError
from kdignite.methods.registry import short_name
from kdignite.models.registry import Recipe

PREFIX = "teacher_"  # of the flags of the teacher's own stage
# what belongs to the student's model, not to that of an assistant, or comes with its name
_OF_MODEL = {"arch", "arch_options", "widths", "stem", "weights", "key", "freeze_epochs", "backbone_lr_mult"}
_OF_MODEL |= {*Recipe._fields}
_OF_FIRST = ("teacher", "teacher_shares", "teacher_outputs", f"{PREFIX}arch")  # not of a teacher that a study distilled
# flags that teacher, student and baseline share, in this order in the config
SHARED = (
    *(
        "dataset",
        "data_root",
        "skip_broken",
        "val_size",
        "image_size",
        "augment",
        "view_seed",
        "limit_train",
        "balance",
    ),
    *("device", "amp", "graph", "compile", "threads", "sync_bn", "fast_dev_run", "keep_last", "save_every_s"),
)
_FIELDS = flag_fields(TrainConfig) | flag_fields(DistillConfig)
# a study resumes its stages by itself
_OWN = tuple(name for name in flag_fields(TrainConfig) if name not in ("preset", "name", "resume", *SHARED))
# what a distillation has and a training without a teacher has not; a study names its teacher's function otherwise
_DISTILL = tuple(
    name
    for name in flag_fields(DistillConfig)
    if name not in {*_OWN, *SHARED, "preset", "name", "resume", f"{PREFIX}arch"}
)


class Stages(NamedTuple):
    """The configs of the trainings of a study."""

    teacher: TeacherConfig
    chain: tuple[DistillConfig, ...]  # teachers on the way to the students, each taught by the one before
    students: tuple[DistillConfig, ...]  # one a seed
    baselines: tuple[BaselineConfig, ...]  # the same seeds in the same order

    @property
    def first(self) -> DistillConfig:
        """The distillation from the teacher, which may have been named."""
        return (*self.chain, *self.students)[0]


@dataclass(frozen=True, kw_only=True)
class Study(Config):
    """Data, teacher, student, baseline, evaluation and comparison, in one folder."""

    command: ClassVar[str] = "reproduce"

    preset: str = shared.preset()
    name: str | None = shared.run_name("name of the study's folder in runs/; unset: reproduce-PRESET")
    seeds: int = flag(
        1, "how often student and baseline are trained, with the seeds from --seed on", low=1, role="display"
    )
    via: tuple[str, ...] | None = flag(
        None,
        "models of assistants between teacher and student, each taught by the one before, with the recipe of its name "
        "and the student's other flags",
        group="distillation",
        code=True,
    )
    generations: int = flag(
        1,
        "born-again students: each generation is taught by the one before, and the last one is compared; the others "
        "are trained once, with the first seed",
        low=1,
        high=20,
        group="distillation",
    )
    reference: str | None = flag(
        None, "published figures to compare with: original", choices=("original",), group="comparison", role="display"
    )

    def __post_init__(self) -> None:
        """Check each field, and with them the config of every stage."""
        super().__post_init__()
        stages(self)


def stages(study: Study) -> Stages:
    """The config of every training of a study: its preset for that stage, and what was given."""
    shared, own = given_values(study, SHARED), given_values(study, _OWN)
    first = own.pop("seed", 0)
    teacher = {name.removeprefix(PREFIX): value for name, value in given_values(study, _prefixed(_OWN)).items()}
    taught = given_values(study, {*_DISTILL, *parameter_names(study), f"{PREFIX}arch"})
    if "teacher" in taught and set(teacher) - {"arch"}:
        flags = ", ".join(f"--{PREFIX}{name}" for name in teacher if name != "arch")
        raise UserError(f"--teacher={taught['teacher']} names a trained teacher: leave out {flags}")
    preset, seeds = study.preset, range(first, first + study.seeds)
    with prefixed_errors():
        teacher_stage = configure(TeacherConfig, preset=preset, **({"seed": first} | shared | teacher))
    distil = partial(configure, DistillConfig, preset=preset, **shared)
    chain = _chain(study, {"seed": first, **own}, distil, taught)
    if chain:
        taught = _taught_by(chain[-1], taught)
    return Stages(
        teacher=teacher_stage,
        chain=chain,
        students=tuple(distil(seed=s, **own, **taught) for s in seeds),
        baselines=tuple(configure(BaselineConfig, preset=preset, seed=s, **shared, **own) for s in seeds),
    )


def _chain(
    study: Study, own: dict[str, Value], distil: Callable[..., DistillConfig], taught: dict[str, Value]
) -> tuple[DistillConfig, ...]:
    """The assistants, then all generations but the last."""
    chain: list[DistillConfig] = []
    links = [(f"assistant-{short_name(arch)}", arch) for arch in study.via or ()]
    links += [(f"generation-{number}", "") for number in range(1, study.generations)]
    if links and "control" in taught:
        raise UserError(f"--control={taught['control']} is for one teacher: leave out --via and --generations")
    if links and (named := [name for name in LAYERS if name in taught]):
        raise UserError(f"--{named[0]} is for one student of one teacher: leave it out, or --via and --generations")
    if len({name for name, _ in links}) < len(links):
        raise UserError(f"--via={','.join(study.via or ())} names a model twice")
    for name, arch in links:
        settings = {key: value for key, value in own.items() if key not in _OF_MODEL} | {"arch": arch} if arch else own
        chain.append(distil(name=name, **settings, **(_taught_by(chain[-1], taught) if chain else taught)))
    return tuple(chain)


def _taught_by(teacher: DistillConfig, taught: dict[str, Value]) -> dict[str, Value]:
    """The settings of a student of a teacher that the study distilled itself."""
    kept = {name: value for name, value in taught.items() if name not in _OF_FIRST}
    return kept | ({f"{PREFIX}arch": teacher.arch} if is_code(teacher.arch) else {})


def study_identity(study: Study) -> dict[str, Value]:
    """The settings that make two studies the same, given or from the preset."""
    plan, apart = stages(study), with_role(ReproduceConfig, "display", "place")
    of_teacher = planned(plan.teacher)
    settings = planned(plan.students[0]) | {f"{PREFIX}{name}": of_teacher[name] for name in _OWN}
    of_first = planned(plan.first)
    settings |= {name: of_first[name] for name in _OF_FIRST if name != f"{PREFIX}arch"}
    settings |= {"via": list(study.via or ()), "generations": study.generations}
    return {name: value for name, value in settings.items() if name not in apart}


class CommandFlag(NamedTuple):
    """A flag of a command."""

    command: str
    name: str


def target_flag(name: str) -> CommandFlag:
    """The flag of a stage that a flag of a study is passed on to."""
    own = name.removeprefix(PREFIX)
    return CommandFlag("teacher", own) if own != name and own in _OWN else CommandFlag("distill", name)


def prefixed_errors() -> AbstractContextManager[None]:
    """Rename the flags in errors of the teacher's stage to those of a study: --lr to --teacher_lr."""
    return renamed_errors(lambda name: f"{PREFIX * (name in _OWN)}{name}")


def _prefixed(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{PREFIX}{name}" for name in names)


def _of_teacher(name: str) -> str:
    return _HELP.get(f"{PREFIX}{name}", f"of the teacher: {_FIELDS[name].metadata['help']}")


# where a flag means something else than in its stage
_HELP = {
    "teacher": "run folder or checkpoint of a trained teacher; unset: the study trains its own",
    f"{PREFIX}seed": "of the teacher: seed of initial weights and order; unset: --seed",
    f"{PREFIX}arch": "the teacher's model: a name of the list below, or package.module:function",
}
ReproduceConfig: type[Study] = extended(
    Study,
    "ReproduceConfig",
    [
        *(left_open(name, _FIELDS[name], help=_HELP.get(name)) for name in (*SHARED, *_OWN, *_DISTILL)),
        *(left_open(f"{PREFIX}{name}", _FIELDS[name], help=_of_teacher(name), group="teacher") for name in _OWN),
    ],
)
