"""What the key of a table is made of, on a CPU and on a GPU."""

from typing import Any

import pytest
import torch

from kdignite import runs
from kdignite.config import DistillConfig, configure
from kdignite.teachers import CacheSpec, RowFormat, table_key
from kdignite.training import teacher_cache
from kdignite.training.data import open_training_data
from kdignite.training.spec import TeacherRecord

MACHINE = {
    **{"device": "card", "cpu": "AVX2", "processor": "Chip", "threads": 2, "packages": {"torch": "3.0"}},
    "cuda": "CUDA 13.0, cuDNN 91000, deterministic, no TF32",
}
OTHERS = {
    **{"cpu": "AVX512", "processor": "Other", "threads": 4, "device": "other", "packages": {"torch": "3.1"}},
    "cuda": "CUDA 13.0, cuDNN 92000, deterministic, no TF32",
}
ON_EACH = {"cuda": {"device", "cuda", "packages"}, "cpu": {"device", "cpu", "processor", "threads", "packages"}}


@pytest.fixture(scope="module")
def data() -> Any:
    return open_training_data(configure(DistillConfig, dataset="digits"), device=torch.device("cpu"))


def key(
    monkeypatch: pytest.MonkeyPatch, data: Any, machine: dict[str, Any], *, on: str, features: Any = (), **given: Any
) -> str:
    monkeypatch.setattr(runs, "environment", lambda device: machine)
    config = configure(DistillConfig, dataset="digits", **given)
    mixing = teacher_cache.mixing_of(config, data)
    about = teacher_cache._about(
        TeacherRecord("t", "f" * 64, 0.9), CacheSpec(data.splits.train, 0, "crop", mixing=mixing),
        RowFormat(10, config.cache_dtype, config.cache_top, config.parameters["T"], features), config, data,
        device=torch.device(on),
    )  # fmt: skip
    return table_key(about["determined_by"])


@pytest.mark.parametrize("on", ON_EACH)
@pytest.mark.parametrize("name", MACHINE)
def test_the_machine_is_known_by_what_the_last_bits_depend_on(
    monkeypatch: pytest.MonkeyPatch, data: Any, on: str, name: str
) -> None:
    """On a GPU its libraries, and not the processor beside it or its threads."""
    before, after = (key(monkeypatch, data, one, on=on) for one in (MACHINE, {**MACHINE, name: OTHERS[name]}))
    assert (before != after) is (name in ON_EACH[on])


def test_answers_in_another_precision_are_another_table(monkeypatch: pytest.MonkeyPatch, data: Any) -> None:
    keys = {key(monkeypatch, data, MACHINE, on="cuda", teacher_amp=amp) for amp in ("off", "bf16", "tf32")}
    assert len(keys) == 3
    training = ({"amp": "off"}, {"amp": "tf32"}, {"graph": "off"})
    assert len({key(monkeypatch, data, MACHINE, on="cuda", **given) for given in training}) == 1


def test_layers_that_are_compared_are_another_table(monkeypatch: pytest.MonkeyPatch, data: Any) -> None:
    one, other = ("relu2", (64, 16, 16)), ("relu3", (64, 8, 8))
    layers = ((), (one,), (other,), (one, other))
    assert len({key(monkeypatch, data, MACHINE, on="cpu", features=features) for features in layers}) == len(layers)


def test_other_mixes_and_other_rows_are_other_tables(monkeypatch: pytest.MonkeyPatch, data: Any) -> None:
    plain: tuple[dict[str, Any], ...] = ({}, {"T": 2.0}, {"cache_top": 10})  # which keeps all
    others: tuple[dict[str, Any], ...] = (
        *({"mix": "mixup"}, {"mix": "cutmix"}, {"mix": "mixup", "mix_alpha": 0.2}),
        *({"cache_top": 3}, {"cache_top": 3, "T": 2.0}, {"cache_top": 4}, {"cache_top": 3, "cache_dtype": "float16"}),
    )
    assert len({key(monkeypatch, data, MACHINE, on="cpu", **given) for given in plain}) == 1
    assert len({key(monkeypatch, data, MACHINE, on="cpu", **given) for given in (*plain, *others)}) == 1 + len(others)
