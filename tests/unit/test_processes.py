"""One process: who it is, and that nothing is asked of others; several are in ``tests/integration``."""

import os
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from torch import nn
from torch.nn import parallel

from kdignite import processes
from kdignite.console import say
from kdignite.errors import UserError
from kdignite.processes import Launch, group, launch
from kdignite.processes.group import TIMEOUT, Group

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody launched these tests."""
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


def launched(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_torchrun_says_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, **TORCHRUN)
    assert launch() == Launch(rank=5, world_size=8, local_rank=1, local_world_size=4)


@pytest.mark.parametrize("missing", TORCHRUN)
@pytest.mark.parametrize("value", [None, "", "many", "-1"])
def test_what_is_said_in_part_is_not_said(monkeypatch: pytest.MonkeyPatch, missing: str, value: str | None) -> None:
    """Clusters set some of these variables for other purposes."""
    said = {name: text for name, text in TORCHRUN.items() if name != missing}
    launched(monkeypatch, **said, **({missing: value} if value is not None else {}))
    assert launch() == Launch(rank=0, world_size=1, local_rank=0, local_world_size=1)


def test_before_they_have_met_the_first_process_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.is_reporter()
    launched(monkeypatch, **TORCHRUN)
    assert not processes.is_reporter()
    launched(monkeypatch, RANK="0")
    assert processes.is_reporter()


def mistake() -> None:
    raise UserError("a mistake")


def test_one_process_does_everything_itself() -> None:
    with processes.process_group():
        assert (processes.rank(), processes.world_size(), processes.local_rank(), processes.is_rank0()) == (
            0,
            1,
            0,
            True,
        )
        for call in (processes.on_rank0, processes.on_all_ranks, processes.local_rank0_first):
            made = object()
            assert call(lambda made=made: made) is made
            with pytest.raises(UserError, match="a mistake"):
                call(mistake)
        assert processes.all_gather_object(3) == [3]
        assert processes.all_reduce_max(3) == 3
        agree = processes.ThrottledMax()
        assert [agree(wish) for wish in (0, 2, 0)] == [0, 2, 0]  # at every call
        values, rows, model = torch.ones(2), torch.ones(2, 3), nn.BatchNorm1d(2)
        assert processes.all_reduce_sum(values) is values
        assert processes.all_gather(rows) is rows
        assert processes.parallel(model, device=torch.device("cpu"), sync_bn=False) is model
        processes.broadcast_buffers(model)
    assert not torch.distributed.is_initialized()


def other(call: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "place", Launch(rank=1, world_size=2, local_rank=1, local_world_size=2))
    call()


def test_only_the_first_process_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    say("one line")
    other(lambda: say("another line"), monkeypatch)
    assert capsys.readouterr().out == "one line\n"


def test_gpus_exchange_gradients_in_one_group_that_waits_as_long_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study trains one model after another; each group of NCCL takes memory of every GPU until the process ends."""
    made: list[dict[str, Any]] = []
    wrapped: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.distributed, "new_group", lambda **given: made.append(given) or f"group {len(made)}")
    monkeypatch.setattr(parallel, "DistributedDataParallel", lambda model, **given: wrapped.append(given) or model)
    monkeypatch.setattr(Group, "place", Launch(rank=1, world_size=2, local_rank=1, local_world_size=2))
    monkeypatch.setattr(Group, "gradients", None)
    for _ in range(2):
        processes.parallel(nn.Linear(2, 2), device=torch.device("cuda", 1), sync_bn=False)
    assert made == [{"backend": "nccl", "timeout": TIMEOUT}]
    assert wrapped == [{"device_ids": [1], "process_group": "group 1"}] * 2


def test_beside_a_group_of_nccl_that_exists_processes_wait_as_long_as_in_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of them may download for hours, and gloo's own limit is half an hour."""
    made: list[dict[str, Any]] = []
    for name in ("get_rank", "get_world_size", "get_local_rank", "get_nproc_per_node"):
        monkeypatch.setattr(idist, name, lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(torch.distributed, "new_group", lambda **given: made.append(given))
    monkeypatch.setattr(Group, "place", Launch())
    group._join_existing()
    assert made == [{"backend": "gloo", "timeout": TIMEOUT}]


@pytest.mark.parametrize("gradients", [None, "a group of NCCL"])
def test_after_an_error_nobody_waits_for_the_end_of_nccl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gradients: str | None
) -> None:
    """It would wait for processes that may wait for this one."""
    closed: list[bool] = []
    ended: list[int] = []
    launched(monkeypatch, **TORCHRUN)
    monkeypatch.setattr(group, "_open", lambda: setattr(Group, "gradients", gradients))
    monkeypatch.setattr(group, "_close", lambda *, existing: closed.append(existing))
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(Group, "gradients", None)
    monkeypatch.setattr(Group, "is_left", False)
    monkeypatch.setattr(Group, "is_reporter", None)
    with pytest.raises(ValueError, match="out of memory"), processes.process_group():
        raise ValueError("out of memory")
    processes.end_left_group(1, ValueError("out of memory"))
    assert closed == [gradients is not None]
    assert ended == [1] * (gradients is not None)
    assert ("ValueError: out of memory" in capsys.readouterr().err) == (gradients is not None)
