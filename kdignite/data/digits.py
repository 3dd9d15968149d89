"""The handwritten digits that come with scikit-learn: small, real, and no download."""

import torch
from sklearn import datasets
from torch.nn import functional as F

from kdignite.data.source import ImageSet, Source, content_digest, fingerprint

SIZE = 32  # pixels, the side of CIFAR's images, so that the same models fit
BRIGHTEST = 16  # the scale of the data set's grey values


def load_digits(name: str, **_: object) -> Source:
    """The 1,797 digits, as 32 x 32 images of three equal channels.

    ``pixel = round(bilinear(grey * 255 / 16))``, enlarged from 8 x 8 (nothing to antialias when enlarging).

    Args:
        name: ``digits``.

    Returns:
        All images as the training set, in scikit-learn's order: test and validation images are split off it.

    Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, as in scikit-learn.
    """
    digits = datasets.load_digits()
    grey = torch.from_numpy(digits.images)[:, None] * (255 / BRIGHTEST)  # (N, 1, 8, 8) float64
    enlarged = F.interpolate(grey, size=(SIZE, SIZE), mode="bilinear", align_corners=False).round().to(torch.uint8)
    images, labels = enlarged.repeat(1, 3, 1, 1), torch.from_numpy(digits.target).to(torch.int64)
    classes = tuple(str(digit) for digit in digits.target_names)
    return Source(
        name=name,
        classes=classes,
        train=ImageSet(images, labels),
        val=None,
        test=None,
        fingerprint=fingerprint(classes, {"train": content_digest(images, labels)}),
        default_val_size=200,
        default_test_size=300,
        default_augment="crop",  # a mirrored digit is another digit, or none
    )
