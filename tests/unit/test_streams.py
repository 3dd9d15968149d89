"""Keyed streams: the same key gives the same numbers, in any process, whatever was drawn before."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from kdignite.streams import seed_device, seed_of, seeded, stream

KEYS = [("order", 0, 0), ("order", 0, 1), ("order", 1, 0), ("flip", 0), ("1",), (1,), (-1,), (-2,), (1, 1), (11,), ()]


def test_seed_is_the_hash_of_the_key() -> None:
    for key in KEYS:
        number = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), byteorder="big")
        assert seed_of(*key) == number // 2
        assert 0 <= seed_of(*key) < 2**63


def test_keys_do_not_collide() -> None:
    keys = [("order", seed, epoch) for seed in range(100) for epoch in range(100)] + KEYS
    assert len({seed_of(*key) for key in keys}) == len(set(keys))


def test_order_and_type_of_the_words_matter() -> None:
    assert len({seed_of(*key) for key in [("a", "b"), ("b", "a"), ("ab",), ("a, b",), ("1",), (1,)]}) == 6


def test_the_same_in_every_process() -> None:
    code = (
        "from kdignite.streams import *; print(seed_of('order', 3, 7), torch.rand(3, generator=stream('x')).tolist())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert told == f"{seed_of('order', 3, 7)} {torch.rand(3, generator=stream('x')).tolist()}\n"


def test_a_stream_starts_afresh() -> None:
    first = torch.rand(5, generator=stream("x", 1))
    torch.manual_seed(9)
    torch.rand(3)
    assert torch.equal(torch.rand(5, generator=stream("x", 1)), first)
    assert not torch.equal(torch.rand(5, generator=stream("x", 2)), first)


def test_a_stream_leaves_the_default_generator_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(5, generator=stream("x"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_is_on_the_cpu() -> None:
    assert stream("x").device == torch.device("cpu")


def test_seed_device_seeds_what_modules_draw_from() -> None:
    with torch.random.fork_rng(devices=[]):
        dropout = torch.nn.Dropout(0.5)
        seed_device(torch.device("cpu"), "dropout", 0, 5)
        first = dropout(torch.ones(100))
        seed_device(torch.device("cpu"), "dropout", 0, 6)
        other = dropout(torch.ones(100))
        torch.rand(3)
        seed_device(torch.device("cpu"), "dropout", 0, 5)
        assert torch.equal(dropout(torch.ones(100)), first)
        assert not torch.equal(other, first)
        torch.manual_seed(seed_of("dropout", 0, 5))
        assert torch.equal(dropout(torch.ones(100)), first)


def test_within_seeded_the_default_generator_starts_at_the_key() -> None:
    with seeded("weights", 3):
        first = torch.nn.Linear(4, 4).weight
        inside = torch.rand(2)
    torch.rand(7)
    with seeded("weights", 3):
        assert torch.equal(torch.nn.Linear(4, 4).weight, first)
        with seeded("weights", 4):
            assert not torch.equal(torch.nn.Linear(4, 4).weight, first)
        assert torch.equal(torch.rand(2), inside)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.Generator]:
    """The generators of two GPUs of which the second is the current one; there are none before CUDA is started."""
    generators: list[torch.Generator] = []

    def start() -> None:
        generators.extend(() if generators else (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)))

    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "init", start)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    return generators


@pytest.mark.parametrize(("name", "number"), [("cuda:0", 0), ("cuda:1", 1), ("cuda", 1)])
def test_a_gpu_is_seeded_also_before_anything_else_has_started_it(
    gpus: list[torch.Generator], name: str, number: int
) -> None:
    seed_device(torch.device(name), "step", 3)
    assert gpus[number].initial_seed() == seed_of("step", 3)
    assert gpus[1 - number].initial_seed() == 2 - number


def test_within_seeded_a_gpu_starts_at_the_key_too_and_is_as_it_was_afterwards(gpus: list[torch.Generator]) -> None:
    torch.cuda.init()
    before = [one.get_state() for one in (torch.default_generator, *gpus)]
    with seeded("dropout", 3, device=torch.device("cuda", 0)):
        first = [torch.rand(3, generator=one) for one in (torch.default_generator, gpus[0])]
        assert torch.equal(gpus[1].get_state(), before[2])
    assert all(
        torch.equal(one.get_state(), was) for one, was in zip((torch.default_generator, *gpus), before, strict=True)
    )
    torch.rand(7, generator=gpus[0])
    with seeded("dropout", 3, device=torch.device("cuda", 0)):
        assert torch.equal(torch.rand(3, generator=gpus[0]), first[1])
    with seeded("dropout", 3):
        assert torch.equal(torch.rand(3), first[0])


def test_after_seeded_all_is_as_it_was() -> None:
    before = torch.get_rng_state()
    with seeded("weights", 0):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_after_an_error_within_seeded_all_is_as_it_was() -> None:
    before = torch.get_rng_state()

    def fail() -> None:
        with seeded("weights", 0):
            torch.rand(5)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(torch.get_rng_state(), before)
