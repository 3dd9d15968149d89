"""Text goes through the command line unchanged or is refused, whatever it looks like."""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdignite.cli import main
from kdignite.cli.entry import make_config
from kdignite.cli.flags import flags_of
from kdignite.cli.parse import parse_args
from kdignite.config import COMMANDS, RUN_NAME, DistillConfig
from kdignite.errors import UserError

LITERALS = st.sampled_from(
    ["42", "None", "1e5", "12e999", "1j", "...", "{a}", "a,b", "run#1", "'", '"', "\\", "ﬁ", "-"]
)
TEXTS = st.text(st.characters(exclude_characters="\0"), min_size=1) | LITERALS


@pytest.fixture(scope="module", autouse=True)
def ran() -> Iterator[list[Any]]:
    configs: list[Any] = []
    module = ModuleType("kdignite.commands.distill")
    module.distill = configs.append  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {module.__name__: module}):
        yield configs


def config_of(*argv: str) -> Any:
    return make_config(parse_args(argv))


@settings(deadline=None)
@given(name=TEXTS)
def test_a_name_arrives_unchanged_or_is_refused(name, ran):
    ran.clear()
    code = main(["distill", f"--name={name}"])
    if RUN_NAME.fullmatch(name):
        assert (code, [config.name for config in ran]) == (0, [name])
    else:
        assert (code, ran) == (2, [])


@settings(deadline=None)
@given(name=st.from_regex(RUN_NAME, fullmatch=True))
def test_every_folder_name_arrives(name):
    assert config_of("distill", f"--name={name}").name == name
    assert config_of("distill", "--name", name).name == name


@settings(deadline=None)
@given(path=TEXTS)
def test_any_text_arrives_in_a_flag_without_a_rule(path):
    assume(not path.startswith("~"))
    assert config_of("distill", f"--data_root={path}").data_root == path


@settings(deadline=None)
@given(lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False))
def test_a_float_arrives_exactly(lr):
    assert config_of("distill", f"--lr={lr!r}").lr == lr
    assert config_of("distill", "--lr", repr(lr)).lr == lr


@settings(deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**63 - 1))
def test_a_whole_number_arrives_exactly(seed):
    assert config_of("distill", f"--seed={seed}").seed == seed


@settings(deadline=None)
@given(widths=st.lists(st.integers(1, 4096), min_size=1, max_size=6))
def test_a_list_arrives_exactly(widths):
    assert config_of("distill", f"--widths={','.join(map(str, widths))}").widths == tuple(widths)


@settings(deadline=None)
@given(runs=st.lists(TEXTS.filter(lambda text: text == "-" or not text.startswith("-")), min_size=1, max_size=5))
def test_any_words_arrive_as_runs_unchanged_and_in_order(runs):
    assert config_of("compare", *runs).runs == tuple(runs)
    assert config_of("compare", *runs[:1], "--name=x", *runs[1:]).runs == tuple(runs)


WORDS = st.one_of(
    TEXTS,
    st.sampled_from([*COMMANDS, "--help", "--", "-T4", "--keep_last", "--no-keep-last", "0.5", "-0.5", "--version"]),
    st.builds("--{}={}".format, st.sampled_from(list(flags_of("distill"))), TEXTS),
    st.sampled_from([f"--{name}" for name in flags_of("distill")]),
)


@settings(deadline=None)
@given(argv=st.lists(WORDS, max_size=4), command=st.sampled_from(["", "distill"]))
def test_any_line_is_a_valid_config_or_a_refusal(argv, command):
    with contextlib.suppress(UserError):
        args = parse_args([command, *argv] if command else argv)
        if args.action == "run" and args.command == "distill":
            assert type(make_config(args)) is DistillConfig
