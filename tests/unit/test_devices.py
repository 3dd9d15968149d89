"""Copies to a device; what comes back, and everything on the pretended device, is in ``tests/gpu``."""

import pytest
import torch
from torch import Tensor

from kdignite.devices import as_bytes, is_accelerator, to_device, to_host


@pytest.mark.parametrize(("name", "pinned"), [("cpu", False), ("cuda:0", True)])
def test_a_gpu_fetches_from_pinned_memory_and_nobody_waits(
    monkeypatch: pytest.MonkeyPatch, name: str, pinned: bool
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: asked.append("pinned") or self)
    monkeypatch.setattr(
        Tensor, "to", lambda self, device, *, non_blocking: asked.append((device, non_blocking)) or self
    )
    device = torch.device(name)
    values = torch.ones(3)
    assert to_device(values, device) is values
    assert asked == [*(["pinned"] if pinned else []), (device, True)]
    assert is_accelerator(device) is pinned


def test_on_a_cpu_nothing_is_copied() -> None:
    values = {"a": [torch.ones(3), 2.0], "b": None}
    assert to_device(values["a"][0], torch.device("cpu")) is values["a"][0]  # type: ignore[index]
    assert to_host(values)["a"][0] is values["a"][0]  # type: ignore[index]


@pytest.mark.parametrize(
    "value",
    [torch.tensor(3), torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last), torch.tensor([True, False])],
    ids=["scalar", "channels_last", "bool"],
)
def test_bytes_are_those_of_the_values_in_order(value: Tensor) -> None:
    assert as_bytes(value).numpy().tobytes() == value.contiguous().numpy().tobytes()
    assert not torch.equal(as_bytes(torch.tensor(0.0)), as_bytes(torch.tensor(-0.0)))
