"""How fast pictures are read beside torchvision's ImageFolder, with as many workers, to the same pixels."""

import statistics
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from kdignite.data import workers
from kdignite.data.batches import pixel_batches
from kdignite.data.decode import read_image
from kdignite.data.source import ImageSet, StreamedImages
from kdignite.timing import alternate

SIDE, SIZE, BATCH, NUM_WORKERS = 256, 224, 50, 2
NUM_IMAGES = 1_000
SPEEDUP = 1.2  # that is promised


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """JPEGs of 256 pixels and about 20 kB, as photographs of this size have."""
    folder = tmp_path_factory.mktemp("jpegs") / "one"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        coarse = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((SIDE, SIDE))) + draws.normal(0, 9, (SIDE, SIDE, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04}.jpg", quality=88)
    return sorted(folder.iterdir())


def seconds(batches: Iterable[Tensor]) -> float:
    start = time.perf_counter()
    assert sum(map(len, batches)) == NUM_IMAGES
    return time.perf_counter() - start


@pytest.mark.slow
def test_a_folder_is_read_faster_than_by_image_folder(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_num_cores", lambda: NUM_WORKERS)
    square = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE)]
    theirs = ImageFolder(files[0].parents[1], transforms.Compose([*square, transforms.ToTensor()]))
    order = torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(0)).split(BATCH)
    ours = ImageSet(StreamedImages(tuple(files), partial(read_image, size=SIZE)), torch.zeros(NUM_IMAGES))
    loader = DataLoader(theirs, batch_sampler=[one.tolist() for one in order], num_workers=NUM_WORKERS)
    assert torch.equal(theirs[7][0].mul(255).round().byte(), ours.images[7])
    trials = {
        "theirs": lambda: seconds(pixels for pixels, _ in loader),
        "ours": lambda: seconds(pixel_batches(ours, order)),
    }
    taken = alternate(trials, repeats=5)
    assert statistics.median(a / b for a, b in zip(taken["theirs"], taken["ours"], strict=True)) >= SPEEDUP
