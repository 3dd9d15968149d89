"""What must hold for every checkpoint, and for every damage to one."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdignite import checkpoints
from kdignite.checkpoints import Architecture, Description, Origin, Validation
from kdignite.data.specs import INTERPOLATION, Preprocessing
from kdignite.errors import UserError

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
COUNTS = st.integers(0, 2**53)
NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
WORDS = NAMES | st.just("")
PIXELS = st.floats(allow_nan=False, allow_infinity=False)
STDS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
SETTINGS = st.integers(-(2**31), 2**31)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any shape (also empty and 0-dimensional) and any bits, NaN among them."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    size = torch.Size(shape).numel() * dtype.itemsize
    if dtype == torch.bool:
        return torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=dtype).reshape(shape)
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    return torch.frombuffer(raw, dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


OPTIONS = st.dictionaries(
    WORDS, st.one_of(SETTINGS, WORDS, st.booleans(), st.none(), st.lists(SETTINGS, max_size=5).map(tuple))
)
DESCRIPTIONS = st.builds(
    Description,
    architecture=st.builds(Architecture, name=NAMES, options=OPTIONS),
    classes=st.lists(NAMES, min_size=1, max_size=12, unique=True).map(tuple),
    preprocessing=st.builds(
        Preprocessing,
        size=st.integers(8, 1024),
        mean=st.tuples(PIXELS, PIXELS, PIXELS),
        std=st.tuples(STDS, STDS, STDS),
        interpolation=st.just(INTERPOLATION),
    ),
    origin=st.builds(
        Origin,
        command=WORDS,
        dataset=WORDS,
        fingerprint=WORDS,
        split=WORDS,
        val_size=st.none() | STDS | COUNTS.filter(bool),
        image_size=st.integers(1, 8192),
        augment=WORDS,
        label_smoothing=st.floats(0, 1, exclude_max=True),
        partial=st.booleans(),
    ),
    validation=st.lists(COUNTS, min_size=2, max_size=2).flatmap(
        lambda pair: st.builds(
            Validation, num_correct=st.just(min(pair)), num_images=st.just(max(*pair, 1)), epoch=COUNTS
        )
    ),
)


def same(one: Any, other: Any) -> bool:
    """Equality of type, shape and every bit, at any depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        bits = [value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)]
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(*bits)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@settings(deadline=None)
@given(description=DESCRIPTIONS, weights=st.dictionaries(NAMES, tensors(), min_size=1, max_size=5))
def test_reading_undoes_writing(description: Description, weights: dict[str, Tensor]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "best.safetensors"
        checkpoints.write(path, checkpoints.to_payload(description, weights))
        found = checkpoints.load_checkpoint(path)
    assert same(found.description, description)
    assert same(found.weights, weights)


def network(inputs: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


@settings(deadline=None, max_examples=40)
@given(sizes=st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8)), seed=st.integers(0, 2**32 - 1))
def test_a_loaded_model_answers_as_the_saved_one(sizes: tuple[int, int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = network(*sizes).eval()
    for value in model.state_dict().values():
        value.copy_(torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else value + 3)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "best.safetensors"
        checkpoints.write(path, {"weights": model.state_dict()})
        found = checkpoints.read(path)["weights"]
    again = network(*sizes).eval()
    checkpoints.load_weights(again, found, source="x")
    images = torch.randn(3, sizes[0], generator=generator)
    assert torch.equal(again(images), model(images))


def stored() -> bytes:
    """A small checkpoint as bytes."""
    description = Description(
        Architecture("cnn5", {"widths": (8, 8, 8, 8, 8)}),
        ("cat", "dog"),
        Preprocessing(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        Origin("teacher", "digits", "f", "s", 200, 32, "crop", 0.0, False),
        Validation(150, 200, 3),
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "best.safetensors"
        weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "c": torch.linspace(0, 1, 11)}
        checkpoints.write(path, checkpoints.to_payload(description, weights))
        return path.read_bytes()


def load(content: bytes) -> checkpoints.Checkpoint | None:
    """The checkpoint in these bytes; None if it is refused. Any other error comes out."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "best.safetensors"
        path.write_bytes(content)
        try:
            return checkpoints.load_checkpoint(path)
        except UserError:
            return None


WHOLE = stored()
BITS = 8 * len(WHOLE)
HEADER = 8 * (8 + int.from_bytes(WHOLE[:8], "little"))


@settings(deadline=None, max_examples=300)
@given(bit=st.integers(0, BITS - 1) | st.integers(HEADER, BITS - 1))
def test_one_flipped_bit_is_refused(bit: int) -> None:
    content = bytearray(WHOLE)
    content[bit // 8] ^= 1 << (bit % 8)
    assert load(bytes(content)) is None


@settings(deadline=None, max_examples=100)
@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    assert load(WHOLE[:length]) is None


@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=80) | st.binary(max_size=80).map(lambda rest: WHOLE[:60] + rest))
def test_any_other_bytes_are_refused(content: bytes) -> None:
    assert load(content) is None


@settings(deadline=None)
@given(
    keys=st.lists(st.text("abc.", min_size=1, max_size=6), min_size=1, max_size=5, unique=True),
    prefix=st.text("abm.", max_size=5),
)
def test_a_prefix_is_found_and_taken_off(keys: list[str], prefix: str) -> None:
    weights = {key: torch.ones(index + 1) for index, key in enumerate(keys)}
    prefixed = {f"{prefix}.{key}": value for key, value in weights.items()}
    found = checkpoints.fit_state_dict(weights, prefixed, source="x")
    assert {key: id(value) for key, value in found.weights.items()} == {key: id(weights[key]) for key in weights}
    assert found.notes == [f"without the prefix '{prefix}.', which every key has"]
