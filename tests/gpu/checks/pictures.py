"""A folder of small pictures."""

from pathlib import Path


def write_pictures(folder: Path) -> None:
    """Two classes, as ``--dataset=folder:FOLDER`` reads them."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 16), ("test", 16)):
        for label in range(2):
            place = folder / split / f"c{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 99, (40, 40, 3), dtype=np.uint8)
                pixels[::2] += np.uint8(99 * label)
                Image.fromarray(pixels).save(place / f"{number}.png")
