"""The command line: what each line does, or why it is refused; nothing runs before the whole line is valid."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kdignite import __version__, stopping
from kdignite.cli import helptext, main
from kdignite.cli.entry import FUNCTIONS
from kdignite.cli.flags import USAGES, flags_of, usage_of
from kdignite.cli.parse import parse_args
from kdignite.config import (
    COMMANDS,
    GROUPS,
    NEWEST,
    PRESETS,
    Config,
    TeacherConfig,
    bare_type,
)
from kdignite.errors import RunFailed, UserError
from kdignite.models.registry import MODELS

ROOT = Path(__file__).parents[2]
TRAINING = ("teacher", "distill", "baseline")
WORDS = {"evaluate": ["runs/teacher"], "doctor": ["runs/teacher"], "compare": ["runs/a", "runs/b"], "adopt": ["net.pt"]}
WORDS |= {"export": ["runs/student"], "report": ["runs/student"], "predict": ["a.jpg", "--model=runs/teacher"]}
ADOPT = ["adopt", "net.pt", "--arch=cnn5", "--size=32", "--mean=.5,.5,.5", "--std=.25,.25,.25"]


class Runs(list[Any]):
    """The configs that stand-in commands were called with; `then` is what they do next."""

    then: Callable[[], object] = staticmethod(lambda: None)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    ran = Runs()

    def pipeline(config: Config) -> None:
        ran.append(config)
        ran.then()

    for command in COMMANDS:
        module = ModuleType(f"kdignite.commands.{command}")
        setattr(module, command, pipeline)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    return ran


@pytest.fixture
def config_of(runs: Runs, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a line that must be accepted; the config that its pipeline got."""

    def run(*argv: str) -> Any:
        assert main(argv) == 0
        assert capsys.readouterr() == ("", "")
        (config,) = runs
        runs.clear()
        return config

    return run


@pytest.fixture
def refusal(runs: Runs, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run a line that must be refused; the one line that says why."""

    def run(*argv: str) -> str:
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("kdignite: error: ")
        assert not runs
        assert not list(tmp_path.iterdir())
        return err.removeprefix("kdignite: error: ").rstrip("\n")

    return run


def in_process(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdignite", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options)


# --- what is accepted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reaches_its_own_pipeline_with_its_own_config(command, config_of):
    config = config_of(*(ADOPT if command == "adopt" else [command, *WORDS.get(command, [])]))
    assert type(config) is COMMANDS[command]
    assert FUNCTIONS[command] == f"kdignite.commands.{command}:{command}"


@pytest.mark.parametrize(
    ("typed", "field", "value"),
    [
        (["--alpha=0.3"], "alpha", 0.3),
        (["--alpha", "0.3"], "alpha", 0.3),
        (["--alpha=.3"], "alpha", 0.3),
        (["--alpha=0"], "alpha", 0.0),
        (["--lr=1e-3"], "lr", 0.001),
        (["--lr", "1_0"], "lr", 10.0),
        (["--T=3"], "T", 3.0),
        (["--epochs=010"], "epochs", 10),
        (["--limit_train=1_000"], "limit_train", 1000),
        (["--batch-size=7"], "batch_size", 7),
        (["--batch-size", "7"], "batch_size", 7),
        (["--name=42"], "name", "42"),
        (["--name=None"], "name", "None"),
        (["--name=True"], "name", "True"),
        (["--name=1e5"], "name", "1e5"),
        (["--name=2024-01-01"], "name", "2024-01-01"),
        (["--data_root=my dir/a,b#c"], "data_root", "my dir/a,b#c"),
        (["--data_root=a=b"], "data_root", "a=b"),
        (["--data_root='quoted'"], "data_root", "'quoted'"),
        (["--data_root=\udcff"], "data_root", "\udcff"),
        (["--data_root=ﬁ"], "data_root", "ﬁ"),
        (["--data_root=" + "-" * 5000 + "1"], "data_root", "-" * 5000 + "1"),
        (["--widths=64,64,24"], "widths", (64, 64, 24)),
        (["--widths=64, 64, 24"], "widths", (64, 64, 24)),
        (["--widths", "64"], "widths", (64,)),
        (["--keep_last"], "keep_last", True),
        (["--keep-last"], "keep_last", True),
        (["--no_keep_last"], "keep_last", False),
        (["--no-keep-last"], "keep_last", False),
        (["--nokeep_last"], "keep_last", False),
        (["--normalize=data"], "normalize", "data"),
        *(
            (["--allow_weak_teacher=" + word], "allow_weak_teacher", True)
            for word in ("true", "True", "yes", "on", "1")
        ),
        *((["--allow_weak_teacher=" + word], "allow_weak_teacher", False) for word in ("false", "NO", "off", "0")),
    ],
)
def test_a_value_arrives_with_the_type_of_its_field(typed, field, value, config_of):
    got = getattr(config_of("distill", *typed), field)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("command", TRAINING)
@pytest.mark.parametrize(
    ("typed", "run", "given"),
    [
        ([], None, set()),
        (["--resume"], NEWEST, {"resume"}),
        (["--resume=teacher-2"], "teacher-2", {"resume"}),
        (["--resume", "teacher-2"], "teacher-2", {"resume"}),
        (["--resume", "runs/my run/"], "runs/my run/", {"resume"}),
        (["--resume", "--seed=1"], NEWEST, {"resume", "seed"}),
        (["--resume", "--keep_last"], NEWEST, {"resume", "keep_last"}),
        (["--seed=1", "--resume"], NEWEST, {"resume", "seed"}),
        (["--seed", "1", "--resume", "2"], "2", {"resume", "seed"}),
    ],
)
def test_resume_means_the_newest_run_or_the_one_that_is_named(command, typed, run, given, config_of):
    config = config_of(command, *typed)
    assert config.resume == run
    assert set(config.given) == given
    assert config.seed == ("seed" in given)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_other_flag_means_something_without_a_value(command, refusal):
    alone = {name for name, one in flags_of(command).items() if one.metadata["alone"]}
    switches = {name for name, one in flags_of(command).items() if bare_type(one.type) == tuple[bool, ...]}
    assert alone == ({"resume"} if command in TRAINING else switches)
    for name, one in flags_of(command).items():
        if name not in alone and bare_type(one.type) is not bool:
            for typed in ([f"--{name}"], [f"--{name}", "--help-me-not=1"], [f"--{name}="], [f"--{name}", ""]):
                assert refusal(command, *typed) == f"{command}: --{name} needs a value; write --{name}=VALUE"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--observed=0.6%", 0.006),
        ("--observed=0.6 %", 0.006),
        ("--observed=1%", 0.01),
        ("--observed=100%", 1.0),
        ("--observed=0.6", 0.6),
        ("--observed=10", 10.0),
        ("--observed=1.0", 1.0),
        ("--per_class=90%,0.6%", (0.9, 0.006)),
        ("--per_class=1,0.5", (1.0, 0.5)),
        ("--per_class=90,0.5", (90.0, 0.5)),
    ],
)
def test_a_share_may_have_a_per_cent_sign(flag, value, config_of):
    config = config_of("doctor", "runs/x", flag)
    assert getattr(config, flag[2:].partition("=")[0]) == pytest.approx(value)


@pytest.mark.parametrize(
    ("flag", "advice"),
    [
        ("--observed=1", "write --observed=1% or --observed=100%"),
        ("--observed=101%", "write it like --observed=0.6%"),
        ("--observed=-1%", "write it like --observed=0.6%"),
        ("--observed=0,6%", "write it like --observed=0.6%"),
        ("--observed=nan%", "write it like --observed=0.6%"),
        ("--per_class=50,2%", "write it like --per_class=90%,0.6%"),
    ],
)
def test_a_share_that_could_mean_two_things_is_refused(flag, advice, refusal):
    assert refusal("doctor", "runs/x", flag).endswith(f"not '{flag.partition('=')[2]}'; {advice}")


def test_lists_of_numbers_and_of_words(config_of):
    config = config_of(*ADOPT, "--classes=cat,dog")
    assert (config.mean, config.std, config.classes) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), ("cat", "dog"))


def test_a_file_may_begin_with_a_dash_of_text(config_of):
    assert config_of("predict", "\u2013 1.png", "--model=m").paths == ("\u2013 1.png",)


def test_a_bool_flag_does_not_swallow_the_next_word(config_of):
    config = config_of("adopt", "--allow_weak_teacher", *ADOPT[1:])
    assert config.allow_weak_teacher is True
    assert config.file == "net.pt"


@pytest.mark.parametrize("argv", [["evaluate", "runs/a", "--split=val"], ["evaluate", "--split=val", "runs/a"]])
def test_evaluate_takes_its_run_before_or_after_the_flags(argv, config_of):
    config = config_of(*argv)
    assert (config.run, config.split) == ("runs/a", "val")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["a"], ("a",)),
        (["a", "b", "a"], ("a", "b", "a")),
        (["runs/a,b", "my runs/a b", "'a'", "(", "42", "None", "-", "-0.5"],
         ("runs/a,b", "my runs/a b", "'a'", "(", "42", "None", "-", "-0.5")),
        (["a", "--name=x", "b", "--reference", "original", "c"], ("a", "b", "c")),
        (["--reference=original", "a", "b", "--name", "x", "c"], ("a", "b", "c")),
        (["\udcff", "ﬁ", "run#1", "a=b", "true"], ("\udcff", "ﬁ", "run#1", "a=b", "true")),
    ],
)  # fmt: skip
def test_compare_takes_any_number_of_runs_between_its_flags(typed, words, config_of):
    config = config_of("compare", *typed)
    assert config.runs == words
    assert (config.reference, config.name) == (("original", "x") if "c" in typed else (None, None))


@pytest.mark.parametrize("command", TRAINING)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_its_values_and_a_flag_overrides_one(command, preset, config_of):
    config = config_of(command, f"--preset={preset}", "--lr=0.0625")
    expected = {**PRESETS[preset][command], "preset": preset, "lr": 0.0625}
    assert config == COMMANDS[command](**expected)


@pytest.mark.parametrize(
    ("typed", "field"), [("--mix=none", "mix"), ("--widths=none", "widths"), ("--views=none", "views")]
)
def test_none_takes_back_what_a_preset_sets(typed, field, config_of):
    (command,) = (name for name in ("teacher", "distill") if field in PRESETS["patient"][name])
    expected = {**PRESETS["patient"][command], "preset": "patient", field: None}
    assert config_of(command, "--preset=patient", typed) == COMMANDS[command](**expected)


def test_none_is_a_text_where_a_text_is_meant_and_no_number_that_is_needed(config_of, refusal):
    assert config_of("distill", "--name=none", "--teacher=none", "--augment=none").augment == "none"
    assert config_of("distill", "--name=none").name == "none"
    assert config_of("distill", "--weights=none").weights == "none"
    assert "--lr needs a number" in refusal("distill", "--lr=none")


def test_a_home_folder_is_found_where_the_shell_does_not_look(config_of, monkeypatch):
    """Shells expand ``~`` at the beginning of a word, not after ``=``."""
    monkeypatch.setenv("HOME", "/home/me")
    assert config_of("distill", "--data_root=~/sets", "--cache=~").data_root == "/home/me/sets"
    assert config_of("distill", "--teacher=a~b").teacher == "a~b"


def test_the_words_of_the_process_are_the_default(runs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kdignite", "teacher", "--epochs=3"])
    assert main() == 0
    assert runs == [TeacherConfig(epochs=3)]


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["distil"], "no command 'distil'; did you mean distill?"),
        (["Teacher", "--epochs=1"], "no command 'Teacher'; did you mean teacher?"),
        (["eval", "x"], "no command 'eval'; did you mean evaluate?"),
        (["sing"], f"no command 'sing'; the commands are {', '.join(COMMANDS)}"),
        (["help", "distil"], "no command 'distil'; did you mean distill?"),
        (["distill", "--alhpa=0.3"], "distill: no flag --alhpa; did you mean --alpha?"),
        (["distill", "--alhpa", "0.3"], "distill: no flag --alhpa; did you mean --alpha?"),
        (["distill", "---alpha=0.3"], "distill: no flag ---alpha; did you mean --alpha?"),
        (["distill", "--Alpha=1"], "distill: no flag --Alpha; did you mean --alpha?"),
        (["distill", "--t=3"], "distill: no flag --t; did you mean --T?"),
        (["distill", "--ep=3"], "distill: no flag --ep; did you mean --epochs?"),
        (["distill", "--max-epochs=3"], "distill: no flag --max-epochs; did you mean --epochs?"),
        (["distill", "--student=cnn5"], "distill: no flag --student; did you mean --arch?"),
        (["distill", "--hlep"], "distill: no flag --hlep; did you mean --help?"),
        (["distill", "--no-amp"], "distill: no flag --no-amp; see python -m kdignite distill --help"),
        (["distill", "--noalpha"], "distill: no flag --noalpha; did you mean --alpha?"),
        (["distill", "--="], "distill: no flag --; see python -m kdignite distill --help"),
        (["baseline", "--wd=0"], "baseline: no flag --wd; see python -m kdignite baseline --help"),
        (["evaluate", "--run=x"], "evaluate: the run is typed without --run: python -m kdignite evaluate RUN"),
        (["compare", "--runs=a,b"], "compare: the runs are typed without --runs: python -m kdignite compare RUN..."),
        (["distill", "--alpha=0.1", "--alpha=0.9"], "distill: --alpha is given twice; keep one of them"),
        (["distill", "--keep_last", "--no-keep-last"], "distill: --keep_last is given twice; keep one of them"),
        (["distill", "--"], "distill: '--' has no meaning here; write flags as --flag=value"),
        (["distill", "--", "--interactive"], "distill: '--' has no meaning here; write flags as --flag=value"),
        (["distill", "--no_keep_last=true"], "distill: --no_keep_last takes no value; "
         "write --keep_last=true or --keep_last=false"),
        (["distill", "--name"], "distill: --name needs a value; write --name=VALUE"),
        (["distill", "--name", "--T=4"], "distill: --name needs a value; write --name=VALUE"),
        (["distill", "--name="], "distill: --name needs a value; write --name=VALUE"),
        (["distill", "--name", ""], "distill: --name needs a value; write --name=VALUE"),
        (["distill", "--resume="], "distill: --resume needs a value; write --resume=VALUE"),
        (["distill", "--resume", ""], "distill: --resume needs a value; write --resume=VALUE"),
        (["distill", "--resume", "--resume"], "distill: --resume is given twice; keep one of them"),
        (["distill", "--no-resume"], "distill: no flag --no-resume; did you mean --resume?"),
        (["reproduce", "--resume"], "reproduce: no flag --resume; --resume is a flag of teacher, distill, baseline"),
        (["distill", "--seeds=3"], "distill: no flag --seeds; did you mean --seed? "
         "--seeds is a flag of reproduce, sweep, study"),
        (["teacher", "--alpha=1"], "teacher: no flag --alpha; did you mean --mix_alpha? "
         "--alpha is a flag of reproduce, distill, doctor, sweep, search"),
        (["--alpha=.3", "distill"], "the command comes first, then its flags: python -m kdignite distill --alpha=.3"),
        (["--name", "a b", "distill"], "the command comes first, then its flags: "
         "python -m kdignite distill --name 'a b'"),
        (["--", "distill"], "the command comes first, then its flags: python -m kdignite distill"),
        (["--alpha=.3"], "write a command before the flags: python -m kdignite COMMAND ...; "
         f"the commands are {', '.join(COMMANDS)}"),
    ],
)  # fmt: skip
def test_commands_and_flags_that_are_refused(typed, line, refusal):
    assert refusal(*typed) == line


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        (["-T4"], "not -T4; write --T=4"),
        (["-T", "3"], "not -T; write --T=3"),
        (["-T=3"], "not -T=3; write --T=3"),
        (["-T-3"], "not -T-3; write --T=-3"),
        (["-T"], "not -T; write --T=VALUE"),
        (["-e", "3"], "not -e; write --epochs=3"),
        (["-k"], "not -k; write one of --key, --keep_last"),
        (["-a", "3"], "not -a; write one of --augment, --arch, --arch_options, --amp, --allow_weak_teacher, --alpha"),
        (["-alpha=0.3"], "not -alpha=0.3; write --alpha=0.3"),
        (["-alhpa", "0.3"], "not -alhpa; write --alpha=0.3"),
        (["-x", "1"], "not -x; see python -m kdignite distill --help"),
        (["-hq"], "not -hq; see python -m kdignite distill --help"),
        (["-=1"], "not -=1; see python -m kdignite distill --help"),
    ],
)
def test_one_dash_is_refused_with_the_whole_name(typed, advice, refusal):
    assert refusal("distill", *typed) == f"distill: flags have two dashes and their whole name, {advice}"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["distill", "extra"], "distill: stray word 'extra'; "
         "write flags as --flag=value, see python -m kdignite distill --help"),
        (["distill", "--alpha=0.1", "0.5"], "distill: stray word '0.5'; "
         "write flags as --flag=value, see python -m kdignite distill --help"),
        (["distill", "help"], "distill: stray word 'help'; "
         "write flags as --flag=value, see python -m kdignite distill --help"),
        (["data", "cifar10"], "data: stray word 'cifar10'; "
         "write flags as --flag=value, see python -m kdignite data --help"),
        (["teacher", ""], "teacher: stray word ''; write flags as --flag=value, see python -m kdignite teacher --help"),
        (["distill", "-"], "distill: stray word '-'; "
         "write flags as --flag=value, see python -m kdignite distill --help"),
        (["distill", "-0.5"], "distill: stray word '-0.5'; "
         "write flags as --flag=value, see python -m kdignite distill --help"),
        (["distill", "quick"], "distill: stray word 'quick'; write --preset=quick"),
        (["distill", "alpha=0.5"], "distill: stray word 'alpha=0.5'; write --alpha=0.5"),
        (["distill", "alpha", "0.5"], "distill: stray word 'alpha'; write --alpha=VALUE"),
        (["distill", "\u2013T=4"], "distill: '\u2013T=4' begins with a dash of text, not with '-'; write --T=4"),
        (["predict", "a.png", "\u2014model=runs/x"],
         "predict: '\u2014model=runs/x' begins with a dash of text, not with '-'; write --model=runs/x"),
        (["teacher", "\u2212-help"], "teacher: '\u2212-help' begins with a dash of text, not with '-'; write --help"),
        (["distill", "--keep_last", "false"], "distill: write --keep_last=false, with '='"),
        (["adopt", "--allow_weak_teacher", "false"], "adopt: write --allow_weak_teacher=false, with '='"),
        (["distill", "--keep_last", "resnet20"], "distill: stray word 'resnet20'; "
         "write flags as --flag=value, see python -m kdignite distill --help"),
        (["distill", "--widths", "64", "64"], "distill: stray word '64'; "
         "write lists with commas and no blanks: --widths=A,B,C"),
        (["evaluate", "a", "b"], "evaluate takes one run, not also 'b'; see python -m kdignite evaluate --help"),
        (["adopt", "a", "b"], "adopt takes one file, not also 'b'; see python -m kdignite adopt --help"),
        (["evaluate"], "evaluate needs a run folder or a checkpoint: python -m kdignite evaluate runs/NAME"),
        (["compare"], "compare needs the folders of finished runs: "
         "python -m kdignite compare runs/TEACHER runs/STUDENT runs/BASELINE"),
        (["compare", "a", ""], "compare needs the folders of finished runs: "
         "python -m kdignite compare runs/TEACHER runs/STUDENT runs/BASELINE"),
        (["compare", "--reference=original"], "compare needs the folders of finished runs: "
         "python -m kdignite compare runs/TEACHER runs/STUDENT runs/BASELINE"),
        (["compare", "a", "--reference=mine"], "--reference must be one of original, not 'mine'"),
        (["compare", "a", "--name", "x", "--name", "y"], "compare: --name is given twice; keep one of them"),
        (["compare", "a", "--", "b"], "compare: '--' has no meaning here; write flags as --flag=value"),
    ],
)  # fmt: skip
def test_stray_words_are_refused(typed, line, refusal):
    assert refusal(*typed) == line


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["--alpha=0,5"], "--alpha needs a number, not '0,5'; write --alpha=0.5; "
         "for several values, sweep --alpha=0,5"),
        (["--alpha=0.1,0.5"], "--alpha needs a number, not '0.1,0.5'; write it like --alpha=0.5; "
         "for several values, sweep --alpha=0.1,0.5"),
        (["--alpha=1/2"], "--alpha needs a number, not '1/2'; write it like --alpha=0.5"),
        (["--alpha=[0.5]"], "--alpha needs a number, not '[0.5]'; write it like --alpha=0.5"),
        (["--alpha=٠"], "--alpha needs a number, not '٠'; write it like --alpha=0.5"),
        (["--alpha=1.5"], "--alpha must be at most 1, not 1.5"),
        (["--alpha", "-0.5"], "--alpha must be at least 0, not -0.5"),
        (["--alpha=-0.5"], "--alpha must be at least 0, not -0.5"),
        (["--alpha", "-.5"], "--alpha must be at least 0, not -0.5"),
        (["--T=0"], "--T must be above 0, not 0"),
        (["--T=nan"], "--T must be finite, not nan"),
        (["--T=inf"], "--T must be finite, not inf"),
        (["--T", "-inf"], "--T must be finite, not -inf"),
        (["--T=1e999"], "--T must be finite, not inf"),
        (["--T=1,4"], "--T needs a number, not '1,4'; write --T=1.4; for several values, sweep --T=1,4"),
        (["--T=1,4,8"], "--T needs a number, not '1,4,8'; write it like --T=0.5; for several values, sweep --T=1,4,8"),
        (["--epochs=2.5"], "--epochs needs a whole number, not '2.5'; write it like --epochs=10"),
        (["--epochs=2,5"], "--epochs needs a whole number, not '2,5'; write it like --epochs=10"),
        (["--epochs=2.0"], "--epochs needs a whole number, not '2.0'; write --epochs=2"),
        (["--epochs=1e1"], "--epochs needs a whole number, not '1e1'; write --epochs=10"),
        (["--epochs=1e99"], "--epochs needs a whole number, not '1e99'; write it like --epochs=10"),
        (["--epochs=nan"], "--epochs needs a whole number, not 'nan'; write it like --epochs=10"),
        (["--epochs=0x10"], "--epochs needs a whole number, not '0x10'; write it like --epochs=10"),
        (["--epochs=0"], "--epochs must be at least 1, not 0"),
        (["--seed=9223372036854775808"], "--seed needs a whole number, not '9223372036854775808'; "
         "the largest is 9223372036854775807"),
        (["--threads=3000000000"], "--threads must be at most 1024, not 3e+09"),
        (["--limit_train=1,000"], "--limit_train needs a whole number, not '1,000'; write --limit_train=1000"),
        (["--limit_train=all"], "--limit_train needs a whole number, not 'all'; write it like --limit_train=10"),
        (["--val_size=some"], "--val_size needs a number, not 'some'; write it like --val_size=0.5"),
        (["--keep_last=maybe"], "--keep_last needs true or false, not 'maybe'; "
         "write --keep_last=true or --keep_last=false"),
        (["--widths=[64, 64]"], "--widths needs whole numbers separated by commas, not '[64, 64]'; "
         "write --widths=64,64"),
        (["--widths=64,,24"], "--widths needs whole numbers separated by commas, not '64,,24'; write --widths=64,24"),
        (["--widths=wide"], "--widths needs whole numbers separated by commas, not 'wide'; "
         "write it like --widths=64,64,24"),
        (["--optimizer=adam"], "--optimizer must be one of nesterov, sgd, adamw, not 'adam'"),
        (["--preset=fast"], "--preset must be one of standard, quick, reference, patient, original, pictures, "
         "not 'fast'"),
    ],
)  # fmt: skip
def test_values_that_are_refused(typed, line, refusal):
    assert refusal("distill", *typed) == line


def test_lists_of_the_wrong_type_are_refused(refusal):
    wanted = "--mean needs numbers separated by commas, not"
    assert refusal("adopt", "x", "--mean=a,b") == f"{wanted} 'a,b'; write it like --mean=.5,.5,.5"
    assert refusal("adopt", "x", "--mean=(.5 .5 .5)") == f"{wanted} '(.5 .5 .5)'; write --mean=.5,.5,.5"
    assert refusal("adopt", "x", "--classes=,") == (
        "--classes needs words separated by commas, not ','; write it like --classes=cat,dog"
    )


@pytest.mark.parametrize("typed", [["sweep", "--alpha=0:1"], ["search", "--lr=.1-.2"], ["search", "--T=1..8"]])
def test_what_is_proposed_for_an_axis_is_accepted(typed, refusal, config_of):
    proposed = refusal(*typed).rpartition("write it like ")[2]
    assert proposed.partition("=")[0] == typed[1].partition("=")[0]
    config_of(typed[0], proposed)


@pytest.mark.parametrize("name", ["../x", "run#1", "ﬁ", "a b", "'x'", "\x1b[31m", "a\nb", "\udcff", "/tmp/x"])
def test_a_name_that_is_no_folder_name_is_refused_as_it_was_typed(name, refusal):
    rule = "--name must be letters, digits, '.', '_' or '-', starting with a letter or digit, not"
    assert refusal("distill", f"--name={name}") == f"{rule} {name!r}"


@pytest.mark.parametrize("typed", ["-" * 5000 + "1", "--epochs=" + "-" * 5000 + "1", "--epochs=" + "9" * 5000,
                                   "--T=" + "(" * 5000, "--" + "x" * 5000, "y" * 5000])  # fmt: skip
def test_deep_nonsense_is_refused_in_a_short_line(typed, refusal):
    assert len(refusal("distill", typed)) < 250
    assert len(refusal(typed, "distill")) < 500


# --- help and version ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ([], ""),
        (["--help"], ""),
        (["-h"], ""),
        (["help"], ""),
        (["--alpha=.3", "--help"], ""),
        (["help", "distill"], "distill"),
        (["--help", "distill"], "distill"),
        (["distill", "--help"], "distill"),
        (["distill", "-h"], "distill"),
        (["distill", "--alpha=0.3", "--help"], "distill"),
        (["distill", "--epochs=nonsense", "-h", "--lrr"], "distill"),
        (["distill", "--", "--help"], "distill"),
        (["--alpha=.3", "distill", "--help"], "distill"),
        (["evaluate", "runs/x", "--help"], "evaluate"),
    ],
)
def test_help_is_printed_and_nothing_runs(argv, command, runs, capsys):
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert out.rstrip("\n") == (helptext.command_help(command) if command else helptext.overview())
    assert err == ""
    assert not runs


def test_the_overview_lists_every_command_with_a_working_example(config_of):
    text = helptext.overview()
    for command, kind in COMMANDS.items():
        example = f"{command} {usage_of(command).example}"
        assert f"python -m kdignite {example}" in text
        assert kind.__doc__ in text
        assert type(config_of(*example.split())) is kind


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_flag_with_its_meaning_and_default(command):
    text = helptext.command_help(command)
    flat = " ".join(text.split())
    assert text.startswith(f"{command}: {COMMANDS[command].__doc__}")
    assert f"usage:   python -m kdignite {command}" in text
    for name, one in flags_of(command).items():
        assert f"\n  --{name} " in text
        assert " ".join(one.metadata["help"].split()) in flat
    assert text.count("\n  --") == len(flags_of(command))
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


def test_help_says_which_preset_gives_which_default():
    distill, teacher = helptext.command_help("distill"), helptext.command_help("teacher")
    epochs = "a whole number at least 1 default [standard] 30, [quick] 2, [reference] 30, [patient] 60, "
    epochs += "[original] 5, [pictures] 10 "
    assert epochs in " ".join(teacher.split())
    archs = "default [standard] fastresnet, [quick] fastresnet, [reference] fastresnet, [patient] fastresnet, "
    archs += "[original] resnet50, [pictures] torchvision:resnet50 "
    assert archs in " ".join(teacher.split())
    alphas = "default 0.9 for kd, 1 for dkd, 2.25 for wsld, 0.9 for logit_mse, 0 for fitnet, 0 for at, 0 for sp, "
    alphas += "0 for pkt, 0 for rkd, 0 for vid, 0 for reviewkd, [reference] 1, [patient] 0.9, [original] 0.5 "
    assert alphas in " ".join(distill.split())
    seeds = "[standard] 1, [quick] 1, [reference] 5, [patient] 3, [original] 1, [pictures] 1 "
    assert seeds in " ".join(helptext.command_help("reproduce").split())
    presets = "one of standard, quick, reference, patient, original, pictures; default standard "
    assert presets in " ".join(distill.split())
    assert "a number at least 0; default [" not in distill
    assert "true or false; default false\n" in distill
    assert "one of nesterov, sgd, adamw\n" in distill


def test_help_groups_the_flags():
    lines = helptext.command_help("distill").splitlines()
    titles = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == [
        "data",
        "model",
        "training",
        "distillation",
        "running",
        "methods for --method",
        "data sets for --dataset",
        "models for --arch",
    ]
    assert {one.metadata["group"] for command in COMMANDS for one in flags_of(command).values()} == set(GROUPS)
    lines = helptext.command_help("reproduce").splitlines()
    of_teacher = lines[lines.index("teacher:") + 1 : lines.index("distillation:")]
    named = [line.split()[0] for line in of_teacher if line.startswith("  --")]
    assert named
    assert all(name.startswith("--teacher_") for name in named)


def test_help_of_distill_states_what_alpha_weights():
    text = " ".join(helptext.command_help("distill").split())
    assert "loss = (1 - alpha) * ce + alpha * T^2 * KL(teacher/T || student/T) " in text
    assert "loss =" not in helptext.command_help("baseline")


@pytest.mark.parametrize("command", ["teacher", "distill", "baseline", "adopt"])
def test_help_lists_the_models(command):
    text = helptext.command_help(command)
    for name, one in MODELS.items():
        assert any(line.split()[:1] == [name] and one.about[:40] in line for line in text.splitlines())


def test_help_shows_the_plain_word_and_what_is_required():
    evaluate, adopt = helptext.command_help("evaluate"), helptext.command_help("adopt")
    assert "compare RUN... [--flag=value ...]\n" in helptext.command_help("compare")
    assert "\n  RUN...      run folders" in helptext.command_help("compare")
    assert "evaluate RUN [--flag=value ...]\n" in evaluate
    assert "--run" not in evaluate
    assert "adopt FILE --arch=... [--flag=value ...]\n" in adopt
    assert "--file" not in adopt
    assert adopt.count("; required\n") == 1
    assert "required, but for timm:NAME and torchvision:NAME a whole number " in " ".join(adopt.split())
    assert " ".join(adopt.split()).count("required as --size is") == 2


def test_the_required_flags_are_those_that_adopt_asks_for(refusal):
    assert refusal("adopt", "net.pt").startswith("adopt needs --arch, --size, --mean, --std:")
    required = ", ".join(f"--{name}" for name in USAGES["adopt"].required)
    assert refusal("adopt", "net.pt", "--size=32", "--mean=.5,.5,.5", "--std=.5,.5,.5").startswith(
        f"adopt needs {required}:"
    )


def test_help_of_searches_and_studies_has_the_defaults_of_distill():
    search, study = (" ".join(helptext.command_help(one).split()) for one in ("search", "study"))
    for text in (search, study):
        assert "the preset needs a whole number at least 1 default [standard] 10, [quick] 2, " in text
        assert "instead of refusing the data true or false; default false" in text
    assert "default 0.5,1 for kd, " in search
    assert "1,100 for fitnet" in search
    assert "0 for reviewkd, [patient] 0.9 --T " in search  # whose alpha is not searched; that of kd is
    assert " methods for --methods: kd match " in study
    assert (
        "unset: 0.1 to 2 times that of the model or preset numbers separated by commas above 0; default unset" in search
    )


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kdignite {__version__}\n"


def test_help_is_quick_and_does_not_import_torch():
    heavy = ("torch", "numpy", "ignite", "kdignite.commands")
    code = (
        "import sys; from kdignite.cli import main; code = main(['distill', '--help']);"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout.startswith("distill: ")
    # a machine with more work than cores says nothing about us
    assert seconds < 1 or os.getloadavg()[0] > (os.cpu_count() or 1)


# --- how it ends --------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[], None]:
    def then() -> None:
        raise error

    return then


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such file\n x.pt"), 2, "kdignite: error: no such file  x.pt\n"),
        (RunFailed("the loss is nan"), 1, "kdignite: failed: the loss is nan\n"),
        (
            PermissionError(13, "Permission denied", "/root/net.pt"),
            2,
            "kdignite: error: [Errno 13] Permission denied: '/root/net.pt': allow access, or name another place\n",
        ),
        (
            OSError(36, "File name too long", "a b"),
            2,
            "kdignite: error: [Errno 36] File name too long: 'a b': allow access, or name another place\n",
        ),
        (
            OSError(30, "Read-only file system", "runs/x"),
            2,
            "kdignite: error: [Errno 30] Read-only file system: 'runs/x': allow access, or name another place\n",
        ),
        (RunFailed("\x1b[31mred \u200b"), 1, "kdignite: failed: \\x1b[31mred \\u200b\n"),
        (KeyboardInterrupt(), 130, "kdignite: interrupted\n"),
        (stopping.Stopped(signal.SIGINT), 130, "kdignite: interrupted\n"),
        (stopping.Stopped(signal.SIGTERM), 143, "kdignite: terminated\n"),
    ],
)
def test_an_end_on_purpose_is_one_line(error, code, line, runs, capsys):
    runs.then = raising(error)
    assert main(["teacher"]) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    "error", [ValueError("bug"), BrokenPipeError("of a worker"), OSError("disk"), PermissionError("of a lock")]
)
def test_a_bug_keeps_its_traceback(error, runs, capfd, monkeypatch):
    runs.then = raising(error)
    with open(os.devnull, "w") as out, open(os.devnull, "w") as err:  # noqa: PTH123 - streams with a descriptor
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with pytest.raises(type(error), match=str(error)):
            main(["teacher"])


def test_sigterm_ends_the_run_with_143_and_the_handler_is_put_back(runs, capsys):
    ended = []

    def then() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Exception:
            ended.append("taken for an error")
            raise
        finally:
            ended.append("cleaned up")

    def before(*_: object) -> None:
        raise AssertionError

    runs.then = then
    old = signal.signal(signal.SIGTERM, before)
    try:
        assert main(["teacher"]) == 143
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, old)
    assert ended == ["cleaned up"]
    assert capsys.readouterr() == ("", "kdignite: terminated\n")


@pytest.mark.parametrize(
    ("number", "code", "last"),
    [(signal.SIGINT, 130, "kdignite: interrupted\n"), (signal.SIGTERM, 143, "kdignite: terminated\n")],
)
def test_a_signal_waits_for_the_step_and_a_second_one_does_not(number, code, last, runs, capfd):
    did: list[str] = []

    def wait_for_it() -> None:
        with stopping.graceful_stop():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            did.append("finished the step")
            stopping.raise_if_requested()
            did.append("went on")

    def get_a_second_signal() -> None:
        with stopping.graceful_stop():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            did.append("first")
            os.kill(os.getpid(), number)
            time.sleep(5)
            did.append("went on")

    told = "\nkdignite: stopping after this step; Ctrl-C again stops at once\n" if number == signal.SIGINT else ""
    for then, reached in ((wait_for_it, "finished the step"), (get_a_second_signal, "first")):
        runs.then = then
        did.clear()
        assert main(["teacher"]) == code
        assert did == [reached]
        assert capfd.readouterr() == ("", told + last)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_outside_a_training_a_signal_stops_at_once(number, runs, capfd):
    did: list[str] = []

    def then() -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)
        did.append("went on")

    runs.then = then
    assert main(["teacher"]) == (130 if number == signal.SIGINT else 143)
    assert did == []
    assert capfd.readouterr().err.count("\n") == 1


def test_what_signals_do_is_put_back_and_what_a_shell_ignores_stays_ignored(runs):
    within: list[Any] = []
    runs.then = lambda: within.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        assert main(["teacher"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert within[0] is signal.SIG_IGN  # of a job that a shell put into the background with &
    assert callable(within[1])
    runs.then = lambda: within.extend(map(signal.getsignal, before))
    assert main(["teacher"]) == 0
    assert within[2] is within[3] is within[1]
    assert {number: signal.getsignal(number) for number in before} == before


def test_main_runs_in_a_thread_too(runs):
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["teacher"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert len(runs) == 1


def test_a_stream_that_lacks_a_character_prints_a_question_mark(runs, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    runs.then = lambda: print("é")
    assert main(["teacher"]) == 0
    assert out.buffer.getvalue() == b"?\n"  # type: ignore[attr-defined]


def test_an_ascii_terminal_gets_the_error_line():
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = in_process("distill", "--name=é", env=env)
    assert done.returncode == 2
    assert done.stderr.endswith("not '?'\n")


@pytest.mark.parametrize("argv", [["distill", "--help"], ["distil"], ["--version"]])
def test_a_reader_that_has_gone_is_no_traceback(argv, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        err = writer if argv == ["distil"] else file
        command = [sys.executable, "-m", "kdignite", *argv]
        done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=err, timeout=60, check=False)
    os.close(writer)
    assert done.returncode == 141
    assert errors.read_text() == ""


def test_the_module_ends_with_the_code_of_main():
    assert in_process("--version").stdout == "kdignite 0.1.0\n"
    wrong = in_process("distil")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "kdignite: error: no command 'distil'; did you mean distill?\n"


# --- the flags ----------------------------------------------------------------------------------------------------

RECIPE = {
    *("preset", "name", "seed", "device", "amp", "compile", "threads", "sync_bn", "fast_dev_run", "keep_last"),
    *("graph", "save_every_s"),
}
DATA = {  # of a whole study
    *("dataset", "data_root", "skip_broken", "val_size", "image_size", "augment", "view_seed", "limit_train"),
    "balance",
}
MODEL = {"arch", "arch_options", "widths", "stem", "weights", "key", "size", "normalize"}
LEARNING = {
    *("views", "epochs", "batch_size", "lr", "momentum", "weight_decay", "optimizer", "schedule", "warmup_epochs"),
    *("mix", "mix_alpha", "freeze_epochs", "backbone_lr_mult"),
}
TRAIN = RECIPE | DATA | MODEL | LEARNING | {"grad_clip", "label_smoothing", "patience", "resume"}
DISTILL = {"method", "alpha", "T", "teacher", "teacher_amp", "teacher_outputs", "allow_weak_teacher"}
DISTILL |= {"cache", "cache_dtype", "beta", "gamma", "tau", "ce_weight", "standardize", "teacher_shares", "control"}
DISTILL |= {"cache_top"}
DISTILL |= {"student_layers", "teacher_layers", "weight", "weight_angle"}
OWN = MODEL | LEARNING | {"grad_clip", "label_smoothing", "patience", "seed"}  # of the teacher's stage of a study
FROZEN = {
    "reproduce": TRAIN - {"resume"} | DISTILL | {f"teacher_{name}" for name in OWN}
    | {"seeds", "reference", "via", "generations"},
    "data": {"dataset", "data_root", "skip_broken", "image_size"},
    "teacher": TRAIN,
    "distill": TRAIN | DISTILL | {"teacher_arch"},
    "baseline": TRAIN,
    "evaluate": {"split", "name", "dataset", "data_root", "skip_broken", "arch", "device", "threads"},
    "predict": {
        *("model", "arch", "top", "format", "out", "sheet", "sheet_images", "batch_size", "workers", "device"),
        "threads",
    },
    "doctor": {
        *("observed", "observed_images", "predictions", "per_class", "split", "weights", "arch", "alpha", "T"),
        *("num_images", "draws", "name", "dataset", "data_root", "skip_broken", "device", "threads", "key"),
    },
    "compare": {"reference", "name", "dataset", "data_root", "skip_broken"},
    "report": {"dataset", "data_root", "skip_broken"},
    "export": {
        *("format", "preprocessing", "int8", "name", "dataset", "data_root", "skip_broken", "arch", "threads"),
    },
    "sweep": TRAIN - {"resume"} | DISTILL | {"teacher_arch", "seeds"},
    "search": TRAIN - {"resume"} | DISTILL | {"teacher_arch", "trials", "prune", "storage"},
    "study": TRAIN - {"resume", "lr", "label_smoothing"}
    | {"methods", "controls", "trials", "search_epochs", "seeds", "teacher", "teacher_amp", "teacher_outputs"}
    | {"allow_weak_teacher", "cache", "cache_dtype", "cache_top", "teacher_shares", "teacher_arch"},
    "adopt": {
        *("arch", "size", "mean", "std", "strip_prefix", "classes", "widths", "stem", "name", "dataset", "data_root"),
        "arch_options",
        *("skip_broken", "val_size", "image_size", "allow_weak_teacher", "device", "threads", "key"),
    },
    "methods": set(),
    "cache": {"cache", "prune"},
    "bench": {
        *("dataset", "data_root", "arch", "teacher_arch", "batch_size", "num_images", "repeats", "device", "amp"),
        *("graph", "threads", "name", "skip_broken"),
    },
}  # fmt: skip


def test_no_flag_comes_or_goes_unsaid():
    assert {command: set(flags_of(command)) for command in COMMANDS} == FROZEN


def test_a_command_without_an_entry_takes_flags_only(monkeypatch):
    monkeypatch.delitem(USAGES, "evaluate")
    assert "run" in flags_of("evaluate")
    assert "example: python -m kdignite evaluate\n" in helptext.command_help("evaluate")
    with pytest.raises(UserError, match="stray word 'x'"):
        parse_args(["evaluate", "x"])
