"""The settings of every command: frozen, their one default each, and the presets.

A field is a flag of the command line: its default is the ``standard`` preset, its metadata the help text and the
domain. Building a config checks every value, so that a config that exists is valid. Nothing here imports torch.
"""

from kdignite.config.build import configure, from_json, to_json
from kdignite.config.checks import RUN_NAME
from kdignite.config.commands import (
    AdoptConfig,
    BenchConfig,
    CacheConfig,
    CompareConfig,
    DataConfig,
    EvaluateConfig,
    MethodsConfig,
    ReportConfig,
)
from kdignite.config.distillation import FOLLOWING, OF_RECIPE, DistillConfig
from kdignite.config.doctor import DoctorConfig
from kdignite.config.export import ExportConfig
from kdignite.config.fields import GROUPS, Config, bare_type, flag, flag_fields, type_name, with_role, with_use
from kdignite.config.listing import COMMANDS, config_class
from kdignite.config.methods import averaged_at, parameter_names
from kdignite.config.methods_study import (
    TRIAL_SEED,
    AnyStudy,
    Entry,
    MethodsStudy,
    MethodsStudyConfig,
    entries,
    final_config,
    search_of,
    study_settings,
)
from kdignite.config.prediction import PredictConfig
from kdignite.config.presets import PRESETS
from kdignite.config.search import (
    BASELINE,
    Range,
    Search,
    SearchConfig,
    defaults,
    search_identity,
    search_line,
    setting_limits,
    trial_config,
)
from kdignite.config.settings import (
    MISSING,
    PROGRAM,
    Difference,
    command_line,
    difference_text,
    differences,
    differences_text,
    setting_text,
    typed_flags,
)
from kdignite.config.study import (
    CommandFlag,
    ReproduceConfig,
    Stages,
    Study,
    prefixed_errors,
    stages,
    study_identity,
    target_flag,
)
from kdignite.config.sweep import Sweep, SweepConfig, sweep_configs, sweep_identity
from kdignite.config.training import (
    AUGMENTATIONS,
    INHERITED,
    NEWEST,
    BaselineConfig,
    TeacherConfig,
    TrainConfig,
)
