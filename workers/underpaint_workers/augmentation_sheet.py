"""Varied paintings to look at: ``python -m underpaint_workers.augmentation_sheet DATA OUT.png``.

Two rows for each painting: as it is and varied, then the same under the colours of its class map.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from underpaint_workers.augmentation import SCALES, Augmentation, shrink
from underpaint_workers.dataset import Dataset
from underpaint_workers.overlay import as_rgb, overlay


def sheet(
    data: Dataset, paintings: int, variations: int, size: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Some paintings of a data set and their variations, RGB uint8 (2·paintings·size, (1 + variations)·size, 3)."""
    names = generator.permutation(data.names)[:paintings].tolist()
    items = [shrink(data.load(name), round(SCALES[1] * size)) for name in names]
    tensors = [(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(ids)) for image, ids in items]
    columns: list[NDArray[np.uint8]] = []
    for vary in [Augmentation.off(size)] + [Augmentation(size)] * variations:
        images, class_maps = map(torch.stack, zip(*(vary(*item, generator) for item in tensors), strict=True))
        pictures = [as_rgb(image.permute(1, 2, 0).numpy()) for image in images]
        labelled = [overlay(*each, data.classes) for each in zip(pictures, class_maps.numpy(), strict=True)]
        columns.append(np.concatenate([row for pair in zip(pictures, labelled, strict=True) for row in pair]))
    return np.concatenate(columns, axis=1)


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(prog="underpaint_workers.augmentation_sheet", description="Paintings, varied.")
    parser.add_argument("data", type=Path, help="data set to vary paintings of")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--paintings", type=int, default=5)
    parser.add_argument("--variations", type=int, default=7)
    parser.add_argument("--size", type=int, default=256, help="of one varied painting, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pictures = sheet(
        Dataset.open(arguments.data),
        arguments.paintings,
        arguments.variations,
        arguments.size,
        np.random.default_rng(arguments.seed),
    )
    Image.fromarray(pictures).save(arguments.out)


if __name__ == "__main__":
    main()
