"""Preprocessing against torchvision, Pillow and NumPy."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from kdignite.data.preprocess import STATISTICS_IMAGES, measure_statistics, preparer, sample
from kdignite.data.specs import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, preprocessing_from

CPU = torch.device("cpu")
MEAN, STD = (0.1, 0.5, 0.7), (0.2, 0.3, 0.25)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (5, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def prepared(images: torch.Tensor, size: int) -> torch.Tensor:
    return preparer(Preprocessing(size, MEAN, STD), device=CPU)(images)


def normalized(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in 0..1, normalized by torchvision."""
    return transforms.normalize(pixels, list(MEAN), list(STD))


def test_normalisation_is_torchvisions(images: torch.Tensor) -> None:
    expected = normalized(transforms.to_dtype(images, torch.float32, scale=True))
    torch.testing.assert_close(prepared(images, 24), expected, rtol=1e-5, atol=1e-5)


def test_extremes_by_hand() -> None:
    """(255 / 255 - mean) / std, channel by channel."""
    white = prepared(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), 8)
    assert white[0, :, 0, 0].tolist() == pytest.approx([0.9 / 0.2, 0.5 / 0.3, 0.3 / 0.25], rel=1e-5)
    black = prepared(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 8)
    assert black[0, :, 0, 0].tolist() == pytest.approx([-0.1 / 0.2, -0.5 / 0.3, -0.7 / 0.25], rel=1e-5)


@pytest.mark.parametrize("size", [8, 17, 32, 56])
def test_resizing_is_bilinear_with_antialiasing(images: torch.Tensor, size: int) -> None:
    pixels = F.interpolate(images.double() / 255, size=(size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(prepared(images, size).double(), normalized(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [8, 17, 32])
def test_resizing_is_pillows(images: torch.Tensor, size: int) -> None:
    resized = [
        [np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BILINEAR)) for channel in image]
        for image in images.numpy().astype(np.float32)
    ]
    expected = normalized(torch.from_numpy(np.array(resized)) / 255)
    torch.testing.assert_close(prepared(images, size), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [24, 32])
def test_what_comes_out(images: torch.Tensor, size: int) -> None:
    before = images.clone()
    out = prepared(images, size)
    assert out.dtype == torch.float32
    assert out.shape == (5, 3, size, size)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_an_image_does_not_depend_on_its_batch(images: torch.Tensor) -> None:
    assert torch.equal(prepared(images, 24)[2:3], prepared(images[2:3], 24))


def test_imagenet_statistics_are_torchvisions() -> None:
    from torchvision.transforms._presets import ImageClassification

    preset = ImageClassification(crop_size=224)
    assert (list(IMAGENET_MEAN), list(IMAGENET_STD)) == (preset.mean, preset.std)


def test_preprocessing_travels_through_json() -> None:
    spec = Preprocessing(32, MEAN, STD)
    assert preprocessing_from(json.loads(json.dumps(spec._asdict()))) == spec


def test_statistics_are_those_of_numpy(images: torch.Tensor) -> None:
    pixels = images.numpy() / 255
    measured = measure_statistics(images.split(2))
    np.testing.assert_allclose(measured.mean, pixels.mean(axis=(0, 2, 3)), atol=5.1e-5)
    np.testing.assert_allclose(measured.std, pixels.std(axis=(0, 2, 3)), atol=5.1e-5)
    assert all(round(value, 4) == value for value in (*measured.mean, *measured.std))


def test_a_constant_channel_stays_finite(images: torch.Tensor) -> None:
    images[:, 1] = 51
    measured = measure_statistics([images])
    assert measured.mean[1] == 0.2
    assert measured.std[1] == round(1 / 255, 4)


def test_normalized_with_its_own_statistics_is_0_and_1(images: torch.Tensor) -> None:
    spec = Preprocessing(24, *measure_statistics([images]))
    out = preparer(spec, device=CPU)(images).double()
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=0, atol=1e-3)


def test_a_small_part_is_measured_whole() -> None:
    indices = torch.arange(5, STATISTICS_IMAGES + 5)
    assert torch.equal(sample(indices, STATISTICS_IMAGES), indices)


def test_a_large_part_is_measured_on_a_fixed_sample() -> None:
    indices = torch.arange(7, 3 * STATISTICS_IMAGES)
    chosen = sample(indices, STATISTICS_IMAGES)
    torch.rand(3)
    assert torch.equal(sample(indices, STATISTICS_IMAGES), chosen)
    assert len(set(chosen.tolist())) == len(chosen) == STATISTICS_IMAGES
    assert torch.equal(chosen, chosen.sort().values)
    assert set(chosen.tolist()) <= set(indices.tolist())
    # spread over the whole part: its middle is the part's middle, within 5 standard errors
    assert abs(chosen.double().mean() - indices.double().mean()) < 5 * len(indices) / (12 * STATISTICS_IMAGES) ** 0.5
